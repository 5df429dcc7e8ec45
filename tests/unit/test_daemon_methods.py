"""Which plugin makes a replica or a cluster: by name, else by a command, else nobody. (config 10)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pgcore.builtin import bootstrap_command, initdb, replica_command
from pgcore.config.plugins import named_methods
from pgcore.daemon.methods import chosen_bootstrap, replica_methods, works_without_leader
from pgcore.errors import ServerError
from pgcore.registry import Registry
from pgcore.testing.methods import bootstrap_request, replica_request
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


def section(page: str, number: int) -> dict[str, Any]:
    """One of the examples of a page of the documentation."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    found = yaml.safe_load(text.split("```yaml\n")[number].split("```")[0])
    assert isinstance(found, dict)
    return found


def test_the_commands_of_the_documentation(registry: Registry, tmp_path: Path) -> None:
    postgresql = section("replica-creation.md", 2)["postgresql"]
    chosen = replica_methods(registry, [(name, postgresql.get(name, {})) for name in postgresql["create_replica_methods"]])
    assert [(method.name, method.keeps_data(options), method.works_without_source(options)) for method, options in chosen] == [
        ("pgbackrest", True, False), ("snapshot", False, True), ("basebackup", False, False)]
    asked = [replica_command.arguments(replica_request(tmp_path / method.name, options)) for method, options in chosen[:2]]
    assert asked[0] == ["pgbackrest", "--stanza=demo", "--delta", "restore"]
    assert asked[1] == ["/usr/local/bin/restore-snapshot", "--no_leader=True", "--volume=fast", "--scope=main", "--role=replica",
                        f"--datadir={tmp_path / 'snapshot'}", "--connstring=host=127.0.0.1 user=replicator"]


def test_the_bootstraps_of_the_documentation(registry: Registry, tmp_path: Path) -> None:
    plain, custom = (local(tmp_path, section("bootstrap.md", number)) for number in (1, 2))
    method, options = chosen_bootstrap(registry, plain)
    assert method.name == "initdb"
    assert initdb.command_options(options) == ["--encoding=UTF8", "--data-checksums", "--locale=C"]
    assert plain.bootstrap is not None and plain.bootstrap.post_bootstrap == "/etc/pgcore/users.sh"
    method, options = chosen_bootstrap(registry, custom)
    assert method.name == "restore"
    assert bootstrap_command.arguments(bootstrap_request(tmp_path / "data", options)) == [
        "/usr/local/bin/restore-backup", "--stanza", "demo", "--scope=main", f"--datadir={tmp_path / 'data'}"]
