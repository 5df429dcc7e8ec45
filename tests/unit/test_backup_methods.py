"""The methods of pgBackRest and Barman: which command line and which recovery settings come of a section, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pgcore.builtin.backup import barman, pgbackrest, recovery
from pgcore.daemon.methods import replica_methods
from pgcore.plugin import ServerError, ServerSettings
from pgcore.registry import Registry
from pgcore.testing.methods import bootstrap_request, replica_request

SERVER = ServerSettings(name="a", scope="main", listen="127.0.0.1:5432", data_dir="/data")


@pytest.mark.parametrize(("options", "settings"), [
    ({}, {}),
    ({"target_time": "2026-11-24 02:00:00+00"},
     {"recovery_target_time": "2026-11-24 02:00:00+00", "recovery_target_inclusive": "on"}),
    ({"target_lsn": "0/3000148", "target_inclusive": False},
     {"recovery_target_lsn": "0/3000148", "recovery_target_inclusive": "off"}),
    ({"target_xid": 4711}, {"recovery_target_xid": "4711", "recovery_target_inclusive": "on"}),
    ({"target_name": "before"}, {"recovery_target_name": "before", "recovery_target_inclusive": "on"}),
    ({"target_immediate": True}, {"recovery_target": "immediate"}),
    ({"target_timeline": 3, "target_action": "pause"}, {"recovery_target_timeline": "3", "recovery_target_action": "pause"}),
])
def test_a_target_becomes_recovery_settings(options: dict[str, Any], settings: dict[str, Any]) -> None:
    default = {"recovery_target_timeline": "latest", "recovery_target_action": "promote"}
    assert recovery.target("bootstrap.x", options).settings() == default | settings


@pytest.mark.parametrize(("options", "why"), [
    ({"target_time": "now", "target_xid": "1"}, r"bootstrap\.x: target_time and target_xid exclude each other"),
    ({"target_time": "now", "target_immediate": True}, "target_time and target_immediate exclude each other"),
    ({"target_action": "shutdown"}, r"bootstrap\.x\.target_action is 'shutdown': write promote"),
    ({"target_time": True}, r"bootstrap\.x\.target_time is True: it must be text, put it into quotes"),
    ({"target_inclusive": "perhaps"}, r"bootstrap\.x\.target_inclusive is 'perhaps': it must be true or false"),
])
def test_a_target_that_means_nothing_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ServerError, match=why):
        recovery.target("bootstrap.x", options)


def test_words_of_a_restore_command_survive_the_shell_and_postgresql() -> None:
    assert recovery.command(["tool", "--config=/a b/100%.conf"], "%f %p") == "tool '--config=/a b/100%%.conf' %f %p"


@pytest.mark.parametrize(("method", "name", "options", "why"), [
    (pgbackrest, "pgbackrest", {}, "pgbackrest.stanza is missing"),
    (pgbackrest, "pgbackrest", None, "pgbackrest is None: it must be a map"),
    (pgbackrest, "pgbackrest", {"stanza": "demo", "procces": 2}, r"pgbackrest\.procces is not a key of this method"),
    (pgbackrest, "pgbackrest", {"stanza": "demo", "options": {"--delta": "y"}}, "names come without leading dashes"),
    (barman, "barman", {"backup_id": "latest"}, "barman.server is missing"),
    (barman, "barman", {"server": "main", "ssh_command": "ssh barman@b"}, r"barman\.remote_ssh_command is missing"),
    (barman, "barman", {"server": "main", "ssh_command": "ssh 'b"}, r"barman\.ssh_command cannot be split"),
])
@pytest.mark.parametrize("purpose", ["postgresql", "bootstrap"])
def test_a_section_that_cannot_work_is_refused_before_anything_runs(
        tmp_path: Path, method: Any, name: str, options: Any, why: str, purpose: str) -> None:
    run = method.make_replica if purpose == "postgresql" else method.make_cluster
    request = replica_request if purpose == "postgresql" else bootstrap_request
    with pytest.raises(ServerError, match=why) as caught:
        run(request(tmp_path / "data", options))
    assert str(caught.value).startswith(f"{purpose}.{name}") and list((tmp_path / "data").iterdir()) == []


def recorder(path: Path) -> Path:
    """A program that notes its arguments."""
    path.write_text(f"#!/bin/sh\nfor word; do echo \"$word\" >> {path}.words; done\n")
    path.chmod(0o755)
    return path


def test_a_replica_by_pgbackrest_leaves_its_recovery_to_the_agent(tmp_path: Path) -> None:
    tool = recorder(tmp_path / "tool")
    options = {"stanza": "demo", "program": str(tool), "keep_data": True, "config": "/b.conf", "options": {"process-max": "4"}}
    pgbackrest.make_replica(replica_request(tmp_path / "data", options))
    assert (tmp_path / "tool.words").read_text().split() == [
        "--stanza=demo", "--config=/b.conf", f"--pg1-path={tmp_path / 'data'}", "--type=none", "--delta", "--process-max=4",
        "restore"]


def test_a_cluster_by_pgbackrest_takes_a_backup_from_before_the_target(tmp_path: Path) -> None:
    tool = recorder(tmp_path / "tool")
    options = {"stanza": "demo", "program": str(tool), "target_lsn": "0/3000148", "target_inclusive": False}
    pgbackrest.make_cluster(bootstrap_request(tmp_path / "data", options))
    assert (tmp_path / "tool.words").read_text().split() == [
        "--stanza=demo", f"--pg1-path={tmp_path / 'data'}", "--type=lsn", "--target=0/3000148", "--target-exclusive", "restore"]
    assert pgbackrest.recovery_settings({"stanza": "demo"}, SERVER)["restore_command"] == (
        'pgbackrest --stanza=demo --pg1-path=/data archive-get %f "%p"')


def test_barman_behind_ssh_gets_one_command_line(tmp_path: Path) -> None:
    tool = recorder(tmp_path / "ssh")
    options = {"server": "main", "ssh_command": f"{tool} barman@b", "remote_ssh_command": "ssh postgres@a", "target_name": "it's"}
    barman.make_cluster(bootstrap_request(tmp_path / "data", options))
    assert (tmp_path / "ssh.words").read_text().splitlines() == [
        "barman@b", "barman recover --get-wal --remote-ssh-command 'ssh postgres@a' --target-name 'it'\"'\"'s' main latest "
        f"{tmp_path / 'data'}"]
    fetch = barman.recovery_settings({"server": "main", "ssh_command": "ssh barman@b"}, SERVER)["restore_command"]
    assert fetch == 'ssh barman@b barman get-wal main %f > "%p"'


@pytest.mark.parametrize("name", ["pgbackrest", "barman"])
def test_a_section_with_a_command_stays_the_operators_own(name: str) -> None:
    registry = Registry()
    registry.activate([name, "replica_command", "bootstrap_command"])
    (own, given), = replica_methods(registry, [(name, {"command": "restore.sh"})])
    assert given == {"command": "restore.sh"} and own.run is registry.replica_methods()["replica_command"].run
    (built_in, _), = replica_methods(registry, [(name, {"stanza": "demo"})])
    assert built_in.run is registry.replica_methods()[name].run


def test_a_tool_that_hangs_is_ended_when_its_time_is_over(tmp_path: Path) -> None:
    tool = tmp_path / "pgbackrest"
    tool.write_text("#!/bin/sh\necho restoring\nsleep 600\n")
    tool.chmod(0o755)
    began = time.monotonic()
    with pytest.raises(ServerError, match="pgbackrest did not end within 1 s and was ended: restoring"):
        pgbackrest.make_replica(replica_request(tmp_path / "data", {"stanza": "demo", "program": str(tool), "timeout": 1}))
    assert time.monotonic() - began < 60


def test_a_tool_that_fails_in_time_is_named_itself(tmp_path: Path) -> None:
    tool = tmp_path / "barman"
    tool.write_text("#!/bin/sh\necho no backup\nexit 4\n")
    tool.chmod(0o755)
    with pytest.raises(ServerError, match="barman exited with 4: no backup"):
        barman.make_replica(replica_request(tmp_path / "data", {"server": "main", "program": str(tool), "timeout": 60}))
