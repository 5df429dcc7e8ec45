"""Links lead somewhere, and nothing in the tree knows the machine it was written on."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from house.sources import ROOT, files, relative, script

LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
# Put together here, as this file is checked like every other one.
FOREIGN = ("/" + "work/", "/" + "root/", "/" + "home/", "pypi" + ".org", "python" + "hosted.org", "deb." + "debian.org",
           "registry." + "npmjs")


@pytest.mark.parametrize("path", [path for path in files() if path.suffix == ".md"], ids=relative)
def test_relative_links_exist(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (path.parent / target.partition("#")[0]).exists(), f"{relative(path)} links to {target}"


def test_every_page_that_tells_of_differences_is_named_where_people_who_move_look() -> None:
    """The table in docs/migrating-from-patroni.md is meant to be complete."""
    named = set(LINK.findall((ROOT / "docs" / "migrating-from-patroni.md").read_text()))
    told = [path.name for path in (ROOT / "docs").glob("*.md")
            if re.search(r"^#+ .*differs? from|^#+ .*[Dd]ifferences from|^\*\*Differences from", path.read_text(), re.MULTILINE)]
    assert len(told) >= 6
    assert [name for name in told if not any(target.startswith(name) for target in named)] == []


def test_the_systemd_unit_signals_the_agent_alone() -> None:
    """(EC 99) The service manager must not signal PostgreSQL together with the agent, and the documentation says so."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "examples" / "pgcore.service")
    service = unit["Service"]
    assert service["KillMode"] == "process"
    assert service["KillSignal"] == "SIGTERM" and service["Type"] == "notify"
    assert service["ExecStart"].split()[1] == "run"
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert "KillMode=process" in operations and "KillMode=mixed" not in operations


def test_no_file_names_a_machine_path_or_a_registry_host() -> None:
    found = []
    for path in files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found += [f"{relative(path)}:{number}: {word}" for word in FOREIGN if word in line]
    assert not found, "\n".join(found)


def test_the_page_of_all_keys_is_current() -> None:
    """If not: ``python scripts/configuration_page.py docs/configuration-keys.md``."""
    described = {name for path in ROOT.glob("plugins/*/pyproject.toml")
                 for name in tomllib.loads(path.read_text())["project"].get("entry-points", {}).get("pgcore", {})}
    if lacking := described - {entry.name for entry in entry_points(group="pgcore")}:
        pytest.skip(f"environment older than a plugin: {', '.join(sorted(lacking))} is not installed (make check does it)")
    assert (ROOT / "docs" / "configuration-keys.md").read_text() == script("configuration_page").page()


def test_the_reference_of_the_hooks_is_current() -> None:
    """If not: ``python scripts/hooks_page.py docs/plugins/hooks.md``."""
    assert (ROOT / "docs" / "plugins" / "hooks.md").read_text() == script("hooks_page").page()


def test_the_page_of_the_stores_fits_what_was_measured() -> None:
    """If not: ``python scripts/backends.py page``."""
    assert (ROOT / "docs" / "backends.md").read_text() == script("backends").page()


def test_every_case_of_the_kit_was_run_on_every_store() -> None:
    """If not: ``python scripts/backends.py measure kit``, ``--backends`` for some stores only; then ``... page``."""
    stores = script("backends")
    results = json.loads(stores.RESULTS.read_text())["kit"]
    lacking = [f"{backend.name}: {case}" for backend in stores.BACKENDS for found in stores.cases().values()
               for case, variants in found.items()
               if stores.cell(results.get(backend.name, {"cases": {}})["cases"].get(case), variants, []).startswith("**")]
    assert not lacking, "\n".join(lacking)


def test_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text()):
        assert target in targets, f"README.md speaks of make {target}"
