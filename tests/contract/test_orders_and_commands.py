"""Restart, new copy, and the methods that run an operator's command, against a real PostgreSQL."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from contract.postgres_node import BIN_DIR, Node, eventually, make, root, template
from pgcore.builtin import bootstrap_command, replica_command
from pgcore.errors import CancelledError, ServerError, ServerUnavailableError
from pgcore.hookspecs import BootstrapMethod, ReplicaMethod
from pgcore.model.basics import Role, State
from pgcore.model.node import DataDir
from pgcore.model.server import Credentials
from pgcore.postgres.programs import descendants

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root", "template"]

COMMAND = replica_command.pgcore_replica_methods()[0]  # type: ignore[index]
LEAVES_HALF = """for word in "$@"; do case $word in --datadir=*) touch "${word#--datadir=}/half";; esac; done; exit 3"""


def script(root: Path, name: str, text: str) -> str:
    path = root / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def copy_of(template: Node) -> str:
    """A shell line that fills the directory after ``--datadir=`` with a backup."""
    return (
        'for word in "$@"; do case $word in --datadir=*) to=${word#--datadir=};; esac; done\n'
        f'exec {BIN_DIR}/pg_basebackup -D "$to" -X stream --checkpoint=fast -h {os.path.dirname(template.settings.data_dir)} '
        f"-p {template.port} -U admin"
    )


# -- restart and new copy ---------------------------------------------------------------------------------------------------


def restart(node: Node, ready: Callable[[], None] = lambda: None) -> bool:
    return node.server.restart(node.ctx, role=Role.PRIMARY, upstream=None, stop_limit_s=20, start_limit_s=20, ready=ready)


def test_a_restart_puts_what_waited_for_it_in_force(make: Callable[..., Node]) -> None:
    """The flag is gone afterwards (EC 206)."""
    node = make("again").bootstrap()
    node.configure(parameters={**node.settings.parameters, "max_connections": 31})
    node.server.apply_settings()
    eventually(lambda: "max_connections" in node.look().pending_restart)
    assert restart(node)
    view = node.look()
    assert (view.state, view.role, view.is_primary, view.timeline) == (State.RUNNING, Role.PRIMARY, True, 1)
    assert node.sql("SHOW max_connections") == [("31",)]
    assert not view.pending_restart


def test_a_lock_lost_between_stop_and_start_keeps_the_server_down(make: Callable[..., Node]) -> None:
    """(EC 93)"""
    node = make("unproven").bootstrap()

    def refuse() -> None:
        raise ServerError("the lock is not proven")

    with pytest.raises(ServerError, match="not proven"):
        restart(node, refuse)
    assert not node.look().running


def test_a_lock_lost_right_after_the_launch_ends_the_fresh_postmaster(make: Callable[..., Node]) -> None:
    """Cancelled before it has written its pid file, it is ended by the handle of its process (EC 93)."""
    node = make("fresh").bootstrap()
    with pytest.raises(CancelledError):
        restart(node, node.ctx.cancelled.set)
    assert not node.look().running
    assert not os.path.exists(Path(node.settings.data_dir, "postmaster.pid"))
    node.ctx.cancelled.clear()


def test_a_restart_that_cannot_succeed_says_why(make: Callable[..., Node]) -> None:
    """(EC 209)"""
    node = make("hopeless").bootstrap()
    node.sql("ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")
    with pytest.raises(ServerError, match="no_such_library"):
        restart(node)
    assert node.look().state == State.RESTART_FAILED


def test_a_data_directory_is_emptied_for_a_new_copy(make: Callable[..., Node], template: Node) -> None:
    standby = make("worn").standby_of(template)
    standby.server.empty(standby.ctx, stop_limit_s=5, ready=lambda: None)
    assert not os.path.exists(standby.settings.data_dir)
    standby.standby_of(template)


@pytest.mark.parametrize("cancelled", [False, True], ids=["the source is gone", "cancelled"])
def test_what_stops_a_new_copy_before_the_removal_leaves_the_data(
    make: Callable[..., Node], template: Node, cancelled: bool
) -> None:
    """Never the only copy: the server is stopped by then, and can be started again."""
    standby = make("spared").standby_of(template)

    def gone() -> None:
        raise ServerError("no answer")

    if cancelled:
        standby.ctx.cancelled.set()
    with pytest.raises(CancelledError if cancelled else ServerError):
        standby.server.empty(standby.ctx, stop_limit_s=5, ready=gone)
    standby.ctx.cancelled.clear()
    if not standby.look().running:
        standby.start(Role.REPLICA, template.upstream)
    eventually(lambda: standby.look().replication_state == "streaming")


# -- commands that make replicas ----------------------------------------------------------------------------------------------


def method(name: str, **options: Any) -> tuple[ReplicaMethod, Any]:
    return ReplicaMethod(name, COMMAND.run, COMMAND.works_without_source, COMMAND.keeps_data), options


def test_when_a_command_fails_the_next_one_is_tried(make: Callable[..., Node], root: Path, template: Node) -> None:
    """(EC 180)"""
    failing = script(root, "failing.sh", LEAVES_HALF)
    good = script(root, "good.sh", f'echo "$@" > {root}/told\n{copy_of(template)}')
    standby = make("commanded")
    methods = [method("first", command=failing), method("second", command=f"{good} one 'two words'", envdir="/x")]
    standby.server.clone(standby.ctx, methods, template.upstream)
    assert not Path(standby.settings.data_dir, "half").exists()
    told = (root / "told").read_text()
    expected = f"one two words --envdir=/x --scope=demo --role=replica --datadir={standby.settings.data_dir} --connstring="
    assert told.startswith(expected)
    assert "re:p" not in told
    standby.start(Role.REPLICA, template.upstream)


def test_when_all_commands_fail_the_directory_is_removed_unless_it_is_kept(make: Callable[..., Node], root: Path) -> None:
    """The next attempt starts from the top (EC 180)."""
    failing = script(root, "leaves.sh", LEAVES_HALF)
    node = make("nothing")
    with pytest.raises(ServerError, match=r"first: .*leaves\.sh exited with 3"):
        node.server.clone(node.ctx, [method("first", command=failing, no_leader=1)], None)
    assert node.look().data_dir is DataDir.EMPTY
    with pytest.raises(ServerError):
        node.server.clone(node.ctx, [method("first", command=failing, no_leader=1, keep_data=True)], None)
    assert Path(node.settings.data_dir, "half").exists()


def test_a_cancelled_copy_leaves_neither_child_nor_directory(make: Callable[..., Node], root: Path) -> None:
    """(EC 181)"""
    endless = script(root, "endless.sh", "sleep 600")
    node = make("cancelled")
    before = set(descendants(os.getpid()))
    threading.Timer(0.5, node.ctx.cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        node.server.clone(node.ctx, [method("endless", command=endless, no_leader=True)], None)
    assert time.monotonic() - began < 5
    assert set(descendants(os.getpid())) <= before
    assert not os.path.exists(node.settings.data_dir)
    node.ctx.cancelled.clear()


# -- commands that make clusters ----------------------------------------------------------------------------------------------


def test_a_cluster_restored_by_a_command(make: Callable[..., Node], root: Path, template: Node) -> None:
    """A reload that arrives meanwhile is not pushed (EC 185), the backup's larger max_connections lets it start (EC 186)."""
    restore = script(root, "restore.sh", f'echo "$@" > {root}/restored\n{copy_of(template)}')
    node = make("restored")
    smaller = {**node.settings.parameters, "max_connections": 25}
    node.configure(parameters=smaller, superuser=Credentials("admin", "another password"))
    recovery = {"recovery_target": "immediate", "recovery_target_action": "promote", "restore_command": "false"}
    options = {"command": restore, "stanza": "demo", "recovery_conf": recovery}
    node.server.bootstrap(node.ctx, BootstrapMethod("restore", bootstrap_command.run), options)
    assert (root / "restored").read_text().strip() == f"--scope=demo --datadir={node.settings.data_dir} --stanza=demo"
    written = Path(node.settings.data_dir, "postgresql.conf").read_text()
    assert "hot_standby = 'off'" in written
    eventually(lambda: node.look().is_primary)
    assert node.sql("SHOW max_connections") == [("30",)]
    assert node.look().pending_restart["max_connections"] == {"old_value": "30", "new_value": "25"}
    node.configure(parameters={**smaller, "work_mem": "9MB"})
    assert not node.server.apply_settings()
    assert Path(node.settings.data_dir, "postgresql.conf").read_text() == written
    node.server.post_bootstrap(node.ctx, None)
    eventually(lambda: node.look().is_primary)
    assert node.sql("SHOW hot_standby") == [("on",)]
    assert node.sql("SHOW work_mem") == [("9MB",)]
    assert not node.look().pending_restart


def test_a_bootstrap_command_that_fails_is_quoted(make: Callable[..., Node], root: Path) -> None:
    """(EC 173)"""
    failing = script(root, "refuses.sh", "echo there is no backup; exit 1")
    node = make("refused")
    with pytest.raises(ServerError, match="there is no backup"):
        node.server.bootstrap(node.ctx, BootstrapMethod("restore", bootstrap_command.run), {"command": failing})
    assert node.server.state == State.CUSTOM_BOOTSTRAP_FAILED


def test_into_a_directory_that_is_not_mounted_nothing_is_written(make: Callable[..., Node]) -> None:
    """Without PG_VERSION it is not known for which version to write (EC 179)."""
    node = make("unmounted")
    os.mkdir(node.settings.data_dir)
    for write in (node.server.apply_settings, lambda: node.server.write_files(role=Role.PRIMARY, upstream=None, standby=False)):
        with pytest.raises(ServerError, match="is the file system mounted"):
            write()
    with pytest.raises(ServerError, match="is the file system mounted"):
        node.start()
    assert os.listdir(node.settings.data_dir) == []


# -- a standby whose leader changes -------------------------------------------------------------------------------------------


def test_a_changed_replication_password_reaches_a_running_standby(make: Callable[..., Node]) -> None:
    """(EC 212)"""
    primary = make("p").bootstrap()
    standby = make("s").standby_of(primary)
    eventually(lambda: standby.look().replication_state == "streaming")
    primary.sql("ALTER ROLE replicator PASSWORD 'changed %'")
    standby.configure(replication=Credentials("replicator", "changed %"))
    assert standby.server.recovery_change(primary.upstream, role=Role.REPLICA) == "reload"
    standby.server.follow_by_reload(primary.upstream, role=Role.REPLICA)
    assert "changed %" in Path(standby.settings.pgpass).read_text()
    primary.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    eventually(lambda: len(primary.look().senders) == 1 and standby.look().replication_state == "streaming")
    assert standby.server.recovery_change(primary.upstream, role=Role.REPLICA) == "none"


def test_a_server_that_cannot_be_asked_is_pointed_at_another_leader(make: Callable[..., Node]) -> None:
    """As while it is starting: what was written last is compared (EC 213)."""
    primary = make("p").bootstrap()
    other = make("o").standby_of(primary)
    deaf = make("s")
    deaf.configure(parameters={**deaf.settings.parameters, "hot_standby": "off"})
    deaf.standby_of(primary)
    assert deaf.look().state == State.STARTING
    assert deaf.server.recovery_change(primary.upstream, role=Role.REPLICA) == "none"
    assert deaf.server.recovery_change(other.upstream, role=Role.REPLICA) == "reload"
    deaf.server.follow_by_reload(other.upstream, role=Role.REPLICA)
    eventually(lambda: deaf.settings.name in {sender.application_name for sender in other.look().senders})


def test_replay_that_waits_for_a_larger_setting_goes_on(make: Callable[..., Node]) -> None:
    """The server ends and is started with the larger value; a pause by hand stays (EC 214)."""
    primary = make("p").bootstrap()
    standby = make("s").standby_of(primary)
    standby.sql("SELECT pg_wal_replay_pause()")
    eventually(lambda: standby.look().replay_paused)
    assert not standby.server.resume_replay()
    standby.sql("SELECT pg_wal_replay_resume()")
    primary.configure(parameters={**primary.settings.parameters, "max_connections": 40})
    assert restart(primary)
    eventually(lambda: standby.look().replay_paused)
    with suppress(ServerUnavailableError):  # it may end before it can answer
        assert standby.server.resume_replay()
    eventually(lambda: not standby.look().running)
    standby.start(Role.REPLICA, primary.upstream)
    assert standby.sql("SHOW max_connections") == [("40",)]
