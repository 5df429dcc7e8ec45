"""Which plugin makes a replica or a cluster: by name, else by a command, else nobody. (config 10)"""

from __future__ import annotations

from pathlib import Path

import pytest

from pgcore.config.plugins import named_methods
from pgcore.daemon.methods import chosen_bootstrap, replica_methods, works_without_leader
from pgcore.errors import ServerError
from pgcore.registry import Registry
from unit.test_daemon_kit import local


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.activate(["basebackup", "replica_command", "initdb", "bootstrap_command"])
    return made


def test_a_name_that_no_plugin_brings_is_a_command(registry: Registry) -> None:
    chosen = replica_methods(
        registry, [("walg", {"no_leader": 1}), ("basebackup", ["verbose"]), ("pgbackrest", {"command": "x y"})]
    )
    assert [(method.name, options) for method, options in chosen] == [
        ("walg", {"command": "walg", "no_leader": 1}),
        ("basebackup", ["verbose"]),
        ("pgbackrest", {"command": "x y"}),
    ]


def test_without_the_plugin_for_commands_it_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(block=["replica_command"])
    registry.activate(["basebackup", "replica_command"])
    assert [method.name for method, _ in replica_methods(registry, [("walg", {}), ("basebackup", {})])] == ["basebackup"]
    assert "names walg, which no active plugin brings" in caplog.text


@pytest.mark.parametrize(("value", "works"), [(1, True), ("true", True), (True, True), (0, False), ("off", False), (None, False)])
def test_a_method_may_work_without_a_leader(registry: Registry, value: object, works: bool) -> None:
    """Only then an empty node makes a replica while nobody leads (EC 183)."""
    assert works_without_leader(registry, [("basebackup", {}), ("walg", {"no_leader": value})]) is works


def test_a_bootstrap_with_a_command(registry: Registry, tmp_path: Path) -> None:
    custom = local(tmp_path, {"bootstrap": {"method": "restore", "restore": {"command": "x", "stanza": "demo"}}})
    method, options = chosen_bootstrap(registry, custom)
    assert (method.name, options) == ("restore", {"command": "x", "stanza": "demo"})
    plain = local(tmp_path, {"bootstrap": {"method": "restore"}})
    assert chosen_bootstrap(registry, plain)[0].name == "initdb"


def test_a_bootstrap_that_nobody_can_make_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"bootstrap\.method is initdb"):
        chosen_bootstrap(Registry(), local(tmp_path, {"bootstrap": {}}))


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"postgresql": {"create_replica_methods": ["a", "b"]}, "bootstrap": {"method": "c"}}, ["a", "b", "c"]),
        ({"postgresql": {"create_replica_method": "a, b"}}, ["a", "b"]),
        ({"postgresql": [], "bootstrap": "x"}, []),
        ({}, []),
    ],
)
def test_the_names_in_a_file_that_may_be_wrong(tree: dict[str, object], names: list[str]) -> None:
    assert [name for name in named_methods(tree) if name] == names
