"""Diverged and crashed data directories on a real PostgreSQL: what pg_rewind and single-user recovery save and leave."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.postgres_node import BASEBACKUP, BIN_DIR, Node, eventually, make, root
from pgcore.clock import Deadline
from pgcore.errors import CommandFailedError, ServerError, ServerUnavailableError
from pgcore.model.basics import Role
from pgcore.model.node import ControlState
from pgcore.postgres import postmaster, rewind
from pgcore.postgres.programs import os_user

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root"]

SWITCH = "SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()"
TABLES = "SELECT to_regclass('public.kept')::text, to_regclass('public.lost')::text"


def streams(node: Node) -> Any:
    return eventually(lambda: (receiver := node.look().receiver) and receiver.status == "streaming")


def promoted(node: Node) -> None:
    """A stopped standby becomes a primary of its own."""
    node.start(Role.REPLICA)
    node.server.promote(node.ctx, timeout_s=10)


def diverged(make: Callable[..., Node], *before: str, after: tuple[str, ...] = (), **changes: Any) -> tuple[Node, Node]:
    """An old primary that was killed with WAL which the new primary never got.

    ``before`` is run on the old one before the copy is made, ``after`` when the new one is not connected any more.
    """
    old = make("old", **changes).bootstrap()
    for statement in before:
        old.sql(statement)
    new = make("new").standby_of(old)
    streams(new)
    new.stop()
    for statement in ("CREATE TABLE public.lost AS SELECT generate_series(1, 1000) AS i", *after):
        old.sql(statement)
    old.server.terminate()
    promoted(new)
    new.server.checkpoint(new.ctx)
    new.sql("CREATE TABLE public.kept AS SELECT 1 AS i")
    return old, new


def follows(old: Node, new: Node) -> None:
    """The old primary streams from the new one and holds what that holds, no more."""
    old.start(Role.REPLICA, new.upstream)
    streams(old)
    assert eventually(lambda: old.sql(TABLES) == [("public.kept", None)])


def test_wal_marked_ready_is_archived_through_a_shell_before_it_is_lost(make: Callable[..., Node], root: Path) -> None:
    """(EC 113, 117) The archive was closed until the crash; the rewind user's statements may last a millisecond only."""
    archive, door = root / "archive", root / "open"
    archive.mkdir()
    archive.chmod(0o777)
    command = f"test -f {door} && test ! -f {archive}/%f && cp %p {archive}/%f"
    old, new = diverged(make, "ALTER ROLE rewinder SET statement_timeout = '1ms'", after=(SWITCH, SWITCH),
                        parameters={"archive_mode": "on", "archive_command": command})
    marks = Path(old.settings.data_dir, "pg_wal/archive_status").glob("*.ready")
    waiting = {path.stem for path in marks if "." not in path.stem}
    assert len(waiting) >= 2 and not list(archive.iterdir())
    door.touch()
    old.server.crash_recover(old.ctx)
    assert {path.name for path in archive.iterdir()} >= waiting
    new.server.ready_for_rewind(new.upstream, Deadline.after(5))
    old.server.rewind(old.ctx, new.upstream)
    follows(old, new)


@pytest.mark.parametrize("in_file", [True, False], ids=["restore_command in the file", "restore_command of a standby only"])
def test_a_segment_that_pg_rewind_misses_is_fetched(make: Callable[..., Node], root: Path, in_file: bool) -> None:
    """(EC 114) In the file pg_rewind finds restore_command itself; else it is run for it, and pg_rewind again."""
    archive = root / f"fetch-{in_file}"
    archive.mkdir()
    archive.chmod(0o777)
    restore = f"cp {archive}/%f %p"
    setting = (f"ALTER SYSTEM SET restore_command = '{restore}'",) if in_file else ()
    old, new = diverged(make, *setting, after=(SWITCH, SWITCH, "CHECKPOINT"), recovery_conf={"restore_command": restore},
                        rewind_options=["debug", "help"])
    old.server.crash_recover(old.ctx)
    wal = Path(old.settings.data_dir, "pg_wal")
    control = old.server.control_data()
    assert control is not None
    needed = f"{1:08X}{0:08X}{int(control.checkpoint) >> 24:08X}"
    gone = [path for path in sorted(wal.glob("0000000100000000*")) if path.name < needed]
    assert len(gone) >= 2
    for path in gone:
        path.rename(archive / path.name)
    old.server.rewind(old.ctx, new.upstream)
    follows(old, new)


def test_a_segment_that_is_nowhere_is_named(make: Callable[..., Node]) -> None:
    old, new = diverged(make, after=(SWITCH, SWITCH, "CHECKPOINT"), recovery_conf={"restore_command": "false"})
    old.server.crash_recover(old.ctx)
    wal = Path(old.settings.data_dir, "pg_wal")
    control = old.server.control_data()
    assert control is not None
    for path in wal.glob("0000000100000000*"):
        if int(path.name[16:], 16) < int(control.checkpoint) >> 24:
            path.unlink()
    with pytest.raises(CommandFailedError, match=r"pg_rewind exited with 1: .*0000000100000000"):
        old.server.rewind(old.ctx, new.upstream)


def test_a_killed_standby_that_has_diverged_is_recovered_alone_and_rewound(make: Callable[..., Node]) -> None:
    first = make("first").bootstrap()
    other, ahead = make("other").standby_of(first), make("ahead").standby_of(first)
    first.sql("CREATE TABLE public.common AS SELECT generate_series(1, 1000) AS i")
    first.sql("CHECKPOINT")
    for standby in (other, ahead):
        eventually(lambda each=standby: each.sql("SELECT to_regclass('public.common')::text") == [("public.common",)])
    other.stop()
    first.sql("CREATE TABLE public.lost AS SELECT generate_series(1, 1000) AS i")
    eventually(lambda: ahead.sql("SELECT to_regclass('public.lost')::text") == [("public.lost",)])
    ahead.server.terminate()
    first.stop()
    promoted(other)
    other.server.checkpoint(other.ctx)
    other.sql("CREATE TABLE public.kept AS SELECT 1 AS i")
    found = ahead.look().control
    assert found is not None and found.state is ControlState.IN_ARCHIVE_RECOVERY
    ahead.server.crash_recover(ahead.ctx)
    found = ahead.look().control
    assert found is not None and found.state is ControlState.SHUT_DOWN and not ahead.look().recovery_files
    ahead.server.rewind(ahead.ctx, other.upstream)
    follows(ahead, other)


def test_a_timeline_that_the_leader_left_after_its_first_record_is_no_twin(make: Callable[..., Node]) -> None:
    """The leader has nothing more of it to compare with: what follows in its segment was never WAL."""
    first = make("first").bootstrap()
    old, new = make("old").standby_of(first), make("new").standby_of(first)
    for standby in (old, new):
        streams(standby)
    first.stop()
    old.stop()
    promoted(old)
    old.sql("CREATE TABLE public.lost AS SELECT generate_series(1, 1000) AS i")
    switch = old.server.history(2)[-1][1]
    new.stop()
    theirs, mine = (Path(node.settings.data_dir, "pg_wal") for node in (old, new))
    segment, offset = f"{2:08X}{switch >> 32:08X}{(switch & 0xFFFFFFFF) >> 24:08X}", switch & 0xFFFFFF
    content = (theirs / segment).read_bytes()
    length = int.from_bytes(content[offset:offset + 4], sys.byteorder)
    for name, data in (("00000002.history", (theirs / "00000002.history").read_bytes()),
                       (segment, content[:offset + length].ljust(len(content), b"\0"))):
        (mine / name).write_bytes(data)
        shutil.chown(mine / name, mine.owner(), mine.group())
    new.start(Role.REPLICA)
    eventually(lambda: new.look().replayed > switch)
    new.server.promote(new.ctx, timeout_s=10)
    new.sql("CREATE TABLE public.kept AS SELECT 1 AS i")
    found = old.server.leader_timeline(new.upstream, Deadline.after(5))
    left = found.history[-1][1]
    assert found.timeline == 3 and switch < left < switch + 80
    assert old.server.begins_alike(found, 2) is True
    old.server.terminate()
    old.server.crash_recover(old.ctx)
    new.server.ready_for_rewind(new.upstream, Deadline.after(5))
    old.server.rewind(old.ctx, new.upstream)
    follows(old, new)


def test_a_single_user_server_left_by_a_dead_agent_is_waited_for(make: Callable[..., Node]) -> None:
    """(HA rules 18.1) It is not a postmaster, it cannot be stopped, and nothing is started beside it."""
    node = make("alone").bootstrap()
    node.stop()
    user = os_user(node.settings)
    alone = subprocess.Popen([f"{BIN_DIR}/postgres", "--single", "-D", node.settings.data_dir, "template1"], cwd="/",
                             stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             **(user.popen_options() if user else {}))
    try:
        eventually(lambda: postmaster.single_user_pid(node.settings.data_dir) == alone.pid)
        assert not node.look().running
        with pytest.raises(ServerError, match="single-user mode"):
            node.start()
        with pytest.raises(ServerError, match="single-user mode"):
            node.server.crash_recover(node.ctx)
    finally:
        alone.communicate(b"")
    node.start()
    assert node.look().is_primary


def test_a_restored_backup_is_left_to_a_normal_start(make: Callable[..., Node], caplog: pytest.LogCaptureFixture) -> None:
    """(EC 95) Its backup_label must not be used up by a single-user run."""
    primary = make("source").bootstrap()
    copy = make("copy")
    copy.server.clone(copy.ctx, BASEBACKUP, primary.upstream)
    view = copy.look()
    assert view.restored_backup and view.control is not None and view.control.state is ControlState.IN_PRODUCTION
    caplog.set_level("INFO")
    copy.server.crash_recover(copy.ctx)
    assert "restored backup" in caplog.text and copy.look().restored_backup
    copy.start(Role.REPLICA, primary.upstream)
    streams(copy)
    copy.stop()
    assert not copy.look().restored_backup


def test_only_a_primary_of_this_cluster_that_has_written_its_checkpoint_is_a_source(make: Callable[..., Node]) -> None:
    """(EC 105) pg_control of a primary that has just been promoted shows the old timeline until its first checkpoint."""
    primary = make("old").bootstrap()
    standby = make("new").standby_of(primary)
    streams(standby)
    with pytest.raises(ServerUnavailableError, match="is in recovery"):
        primary.server.ready_for_rewind(standby.upstream, Deadline.after(5))
    primary.server.ready_for_rewind(primary.upstream, Deadline.after(5))
    primary.server.terminate()
    standby.sql("SELECT pg_promote(false)")
    eventually(lambda: standby.look().is_primary)
    behind = standby.server.control_data()
    assert behind is not None
    if behind.checkpoint_timeline == 1:
        with pytest.raises(ServerUnavailableError, match="has not written a checkpoint"):
            primary.server.ready_for_rewind(standby.upstream, Deadline.after(5))
    standby.server.checkpoint(standby.ctx)
    primary.server.ready_for_rewind(standby.upstream, Deadline.after(5))
    stranger = make("stranger").bootstrap()
    with pytest.raises(ServerUnavailableError, match="cannot be compared"):
        primary.server.leader_timeline(stranger.upstream, Deadline.after(5))


@pytest.mark.parametrize(("options", "expected"), [
    (["debug", {"sync-method": "fsync"}], ["--debug", "--sync-method=fsync"]),
    ({"no-sync": "", "debug": "yes"}, ["--debug=yes"]),
    (["dry-run", "version", {"source-server": "host=x"}, "no-ensure-shutdown"], []),
    ([{"a": "b", "c": "d"}, 5, {"jobs": 2}, "-n", None], []),
])
def test_options_for_pg_rewind_are_those_of_the_operator_but_for_the_dangerous_ones(options: Any, expected: list[str]) -> None:
    assert rewind.command_options(options) == expected


def test_the_configuration_outside_of_the_data_directory_is_named(make: Callable[..., Node], root: Path) -> None:
    node = make("argv", rewind_options=["debug"])
    archiving = rewind.Archiving("on", "true", "cp %f %p", restore_in_file=True)
    inside, outside = f"{node.settings.data_dir}/postgresql.conf", "/etc/elsewhere/postgresql.conf"
    for major, file, expected in ((15, inside, [True, False]), (15, outside, [True, True]), (13, inside, [True, False]),
                                  (13, outside, [False, False]), (12, inside, [False, False])):
        argv = rewind.RewindPlan(node.settings, major, file, "host=x", {}, archiving).argv()
        assert ["--restore-target-wal" in argv, f"--config-file={file}" in argv] == expected
        assert argv[-1] == "--debug"
