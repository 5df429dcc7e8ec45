"""Every hook that plugin authors are promised is called somewhere and stands in the manual."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgcore
from pgcore import plugin as interface
from pgcore.config.load import LocalConfig
from pgcore.daemon.run import load
from pgcore.hookspecs import SPECS
from unit.test_daemon_kit import Plugins, plugins_on_path, write_node_file

SOURCE = Path(pgcore.__file__).parent
MANUAL = (Path(__file__).parents[2] / "docs" / "plugins" / "README.md").read_text()
HOOKS = sorted(name for family in SPECS for name in vars(family) if name.startswith("pgcore_"))


@functools.cache
def called() -> set[str]:
    """Hooks whose name is handed to a call, directly; naming one in a set or implementing it does not count."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        if path.name == "hookspecs.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                words = [*node.args, *(keyword.value for keyword in node.keywords)]
                found |= {word.value for word in words if isinstance(word, ast.Constant) and word.value in HOOKS}
    return found


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_called(hook: str) -> None:
    assert hook in called()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_in_the_table_of_the_manual(hook: str) -> None:
    assert f"`{hook}`" in MANUAL


def test_everything_a_hook_takes_or_answers_is_in_the_one_module_a_plugin_imports() -> None:
    known = {name for name in interface.__all__}
    for family in SPECS:
        for name, hook in vars(family).items():
            if name.startswith("pgcore_"):
                words = {word for text in inspect.get_annotations(hook).values() for word in _names(str(text))}
                assert words <= known | {"None", "Iterable", "Mapping", "object", "str"}, name


def _names(annotation: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}


# -- what the manual says about naming a plugin -----------------------------------------------------------------------------

STORE = """
from dataclasses import dataclass
from pgcore.plugin import option
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    size: int = option(1, doc="how many")
"""
TOY_STORE = STORE + "@hookimpl\ndef pgcore_stores(): return [StoreBackend('toy_store', Section, lambda request: None)]\n"
TOY = "@hookimpl\ndef pgcore_metrics(status): return [Sample('x', 1.0)]\n"
SECTIONED = STORE + "@hookimpl\ndef pgcore_config_sections(): return [ConfigSection('sectioned', Section)]\n"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        plugins.install("toy_store", TOY_STORE)
        plugins.install("toy", TOY)
        plugins.install("sectioned", SECTIONED)
        yield plugins


def loaded(folder: Path, **sections: object) -> LocalConfig:
    """What ``pgcore run`` makes of a node file with the store ``toy_store`` and these sections."""
    path = write_node_file(folder, {"etcd3": None, "toy_store": {}, **sections})
    registry, local, backend = load(str(path))
    assert backend.name == "toy_store"
    assert {row.name for row in registry.report() if row.state == "active"} >= {"toy_store", "basebackup", "initdb"}
    return local


def imported(name: str) -> bool:
    return f"pgcore_daemontest_{name}" in sys.modules


def test_a_section_selects_the_store_of_that_name_and_imports_nothing_else(tmp_path: Path, plugins: Plugins) -> None:
    assert loaded(tmp_path, toy_store={"size": 4}).plugin_sections["toy_store"].size == 4
    assert not imported("toy") and not imported("sectioned")


def test_a_plugin_named_under_plugins_use_is_active(tmp_path: Path, plugins: Plugins) -> None:
    assert "| `plugins.use` |" in MANUAL
    loaded(tmp_path, plugins={"use": ["toy"]})
    assert imported("toy")


def test_a_blocked_plugin_is_not_imported(tmp_path: Path, plugins: Plugins) -> None:
    loaded(tmp_path, plugins={"use": ["toy"], "block": ["toy"]})
    assert not imported("toy")


def test_the_section_plugins_is_no_unknown_key(tmp_path: Path, plugins: Plugins) -> None:
    local = loaded(tmp_path, plugins={"use": ["toy"]})
    assert not [warning for warning in local.warnings if "plugins" in str(warning)]


def test_the_agent_reads_the_section_of_a_plugin_that_is_no_store(tmp_path: Path, plugins: Plugins) -> None:
    local = loaded(tmp_path, sectioned={"size": 3})
    assert local.plugin_sections["sectioned"].size == 3 and not local.warnings


def test_the_section_of_a_plugin_may_have_another_name_than_the_plugin(tmp_path: Path, plugins: Plugins) -> None:
    plugins.install("moon", SECTIONED.replace("'sectioned'", "'moonshine'"))
    local = loaded(tmp_path, plugins={"use": ["moon"]}, moonshine={"size": 3})
    assert local.plugin_sections["moonshine"].size == 3 and not local.warnings


def test_the_section_of_a_plugin_nobody_uses_is_an_unknown_key(tmp_path: Path, plugins: Plugins) -> None:
    plugins.install("moon", SECTIONED.replace("'sectioned'", "'moonshine'"))
    local = loaded(tmp_path, moonshine={"size": 3})
    assert "moonshine" not in local.plugin_sections and [text for text in local.warnings if "moonshine" in str(text)]


@pytest.mark.parametrize(("section", "told"), [
    ({"size": "many"}, "sectioned.size: wants an integer, has 'many'"), (["size"], "sectioned: wants a mapping")])  # fmt: skip
def test_a_mistake_in_the_section_of_a_plugin_ends_the_start_with_file_and_key(
    tmp_path: Path, plugins: Plugins, section: object, told: str
) -> None:
    path = write_node_file(tmp_path, {"etcd3": None, "toy_store": {}, "sectioned": section})
    command, environment = [sys.executable, "-m", "pgcore", "run", str(path)], {"PATH": os.environ["PATH"]}
    environment["PYTHONPATH"] = os.pathsep.join([str(plugins.folder), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert str(path) in ended.stderr and told in ended.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("path", "told"), [
    ("/config", "plugin thief: pgcore_rest_routes brings GET /config, but /config is an endpoint of pgcore"),
    ("/my-leader", "plugin thief: pgcore_rest_routes brings GET /my-leader, but a GET of that path is a health check"),
])  # fmt: skip
def test_an_endpoint_that_is_taken_ends_the_start_and_names_the_plugin(
    tmp_path: Path, plugins: Plugins, path: str, told: str
) -> None:
    plugins.install("thief", f"@hookimpl\ndef pgcore_rest_routes(): return [Route('GET', {path!r}, None)]\n")
    node_file = write_node_file(tmp_path, {"etcd3": None, "toy_store": {}, "plugins": {"use": ["thief"]}})
    command, environment = [sys.executable, "-m", "pgcore", "run", str(node_file)], {"PATH": os.environ["PATH"]}
    environment["PYTHONPATH"] = os.pathsep.join([str(plugins.folder), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert told in ended.stderr
    assert not (tmp_path / "data").exists()
