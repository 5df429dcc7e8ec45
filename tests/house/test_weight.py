"""Importing a plugin costs next to nothing: what is heavy is imported when it is used, and then where it is used."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from house.sources import ROOT

LIMIT_MS = 30.0
ROUNDS = 5
OUR_OWN = ("pgcore", "pgcore_")
MEASURE = """
import importlib, json, sys, time
import pgcore.plugin
before = set(sys.modules)
began = time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
took = (time.perf_counter() - began) * 1000
print(json.dumps([took, sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))


def modules(plugin: Path) -> list[str]:
    """The package, and what its entry points name."""
    with (plugin / "pyproject.toml").open("rb") as file:
        entries = tomllib.load(file)["project"]["entry-points"]["pgcore"]
    return sorted({name for target in entries.values() for name in (target.partition(".")[0], target)})


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_is_imported_in_no_time_and_brings_no_library_of_others(plugin: Path) -> None:
    """In a fresh interpreter, beyond ``pgcore.plugin``, the best of several: all modules that a registry imports."""
    environment = {"PYTHONPATH": str(plugin / "src"), "PATH": "/usr/bin:/bin"}
    measured = []
    for _ in range(ROUNDS):
        argv = [sys.executable, "-c", MEASURE, *modules(plugin)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        took, brought = json.loads(done.stdout)
        measured.append(took)
        foreign = [name for name in brought if name not in sys.stdlib_module_names and not name.startswith(OUR_OWN)]
        assert foreign == [], f"importing {plugin.name} imports {', '.join(foreign)}: do that inside open or run"
        if took < LIMIT_MS:
            break
    assert min(measured) < LIMIT_MS, f"importing {plugin.name} takes {min(measured):.0f} ms"
