"""The PostgreSQL port against a real server: what it promises, including frozen, killed and diverged servers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.postgres_node import (
    BASEBACKUP,
    BIN_DIR,
    HBA,
    INITDB,
    INITDB_OPTIONS,
    Node,
    eventually,
    free_port,
    make,
    root,
    template,
)
from pgcore.clock import Deadline, now
from pgcore.errors import CancelledError, ServerError, ServerUnavailableError
from pgcore.hookspecs import BootstrapMethod
from pgcore.model.basics import Lsn, Role, State
from pgcore.model.node import ControlData, ControlState, DataDir, Writes
from pgcore.model.server import Credentials, Upstream
from pgcore.postgres import controldata, local, postmaster
from pgcore.postgres.connection import Session
from pgcore.postgres.programs import ProgramRunner, os_user
from pgcore.postgres.server import Postgres
from pgcore.testing.processes import freeze

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root", "template"]


def test_a_new_cluster_has_its_users_and_their_passwords_are_nowhere(make: Callable[..., Node], root: Path) -> None:
    """One password holds a percent sign; none reaches a log (EC 187)."""
    node = make("boot", parameters={"log_statement": "all", "log_min_duration_statement": "0"})
    hook = root / "hook.sh"
    hook.write_text(f"""#!/bin/sh
echo "$@" > {root}/hook.out
cat $PGPASSFILE >> {root}/hook.out
echo $PGOPTIONS >> {root}/hook.out
""")
    hook.chmod(0o755)
    node.server.bootstrap(node.ctx, INITDB, INITDB_OPTIONS)
    node.server.post_bootstrap(node.ctx, str(hook))

    view = node.look()
    assert (view.role, view.state, view.is_primary, view.answering) == (Role.PRIMARY, State.RUNNING, True, True)
    assert view.timeline == 1 and view.system_id == node.server.system_id() and view.rewind_possible
    assert node.sql("SELECT rolname, rolsuper, rolreplication FROM pg_roles WHERE rolname LIKE 're%' ORDER BY 1") == [
        ("replicator", False, True), ("rewinder", False, False)]
    assert node.sql("SELECT has_function_privilege('rewinder', 'pg_ls_dir(text,boolean,boolean)', 'execute')") == [(True,)]
    assert node.sql("SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'SCRAM-SHA-256%'") == [(3,)]
    told = (root / "hook.out").read_text()
    assert "user=admin" in told and "sup'er %s" not in told.splitlines()[0] and "synchronous_commit=local" in told
    log = Path(node.server._configuration.log.path).read_text()
    assert "ALTER ROLE" not in log and "CREATE ROLE" not in log and "re:p" not in log
    assert node.server.local_timeline(Deadline.after(3)) == 1


def test_a_look_reports_slots_senders_and_position(template: Node) -> None:
    server = template.server
    server.create_slot("keeper")
    server.create_slot("keeper")
    view = template.look()
    slot = next(slot for slot in view.slots if slot.name == "keeper")
    assert slot.physical and not slot.active and slot.restart_lsn
    template.sql("SELECT pg_logical_emit_message(false, 'x', 'y')")
    target = template.look().position
    assert target is not None and target > slot.restart_lsn
    server.advance_slot("keeper", target)
    assert next(slot for slot in template.look().slots if slot.name == "keeper").restart_lsn > slot.restart_lsn
    server.drop_slot("keeper")
    server.drop_slot("keeper")
    assert not template.look().slots
    with pytest.raises(ServerError):
        server.create_slot("Not A Slot")
    assert template.look().answering


def test_a_stopped_server_starts_again_and_every_look_tells(make: Callable[..., Node]) -> None:
    node = make("cycle").bootstrap()
    node.stop(checkpoint=True)
    view = node.look()
    assert (view.state, view.running, view.data_dir) == (State.STOPPED, False, DataDir.PRESENT)
    assert view.control is not None and view.control.state == ControlState.SHUT_DOWN and view.control.checkpoint_end
    assert view.control.parameters["max_connections"] == 30 and view.control.rewindable
    assert node.server.postmaster_fd() is None
    down = node.look().writes
    assert down.began is not None and down.ceased is not None and down.began < down.ceased and not down.accepted
    node.start()
    assert node.look().is_primary and node.server.postmaster_fd() is not None
    up = node.look().writes
    assert up.accepted and up.ceased == down.ceased and up.began is not None and up.began > down.ceased


def test_a_killed_postmaster_with_living_backends_is_seen_and_starts_again(make: Callable[..., Node]) -> None:
    node = make("killed").bootstrap()
    deadline = Deadline.after(10)
    session = Session(local.superuser(node.settings, os_user(node.settings), statement_timeout_s=0), deadline)
    pid = session.query("SELECT pg_backend_pid()", deadline=deadline)[0][0]
    freeze(pid)  # it can't notice that its postmaster dies and keeps the shared memory in use
    running = node.server.postmaster()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait(5)
    view = node.look()
    assert (view.state, view.running) == (State.CRASHED, False)
    assert view.writes.began is not None and not view.writes.accepted
    assert pid in postmaster.orphans(node.settings.data_dir)
    began = time.monotonic()
    node.start()
    assert time.monotonic() - began < 8
    assert node.look().is_primary
    assert pid not in postmaster.orphans(node.settings.data_dir)
    session.close()


def test_a_frozen_server_costs_no_more_than_the_deadline(make: Callable[..., Node]) -> None:
    node = make("frozen").bootstrap()
    assert node.look().answering and node.server.position(1.0) is not None
    running = node.server.postmaster()
    assert running is not None
    family = [running.pid, *running.children()]
    try:
        for pid in family:
            freeze(pid)
        for _ in range(2):  # the kept connection first, then a new one
            began = time.monotonic()
            view = node.look(0.5)
            assert time.monotonic() - began < 0.8
            assert (view.running, view.answering, view.accepting, view.is_primary) == (True, False, True, True)
        began = time.monotonic()
        assert node.server.position(0.3) is None
        assert time.monotonic() - began < 0.6
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: node.look().answering)


def test_a_clone_streams_follows_by_reload_and_is_promoted(make: Callable[..., Node]) -> None:
    primary = make("p").bootstrap()
    standby = make("s").standby_of(primary)
    cascade = make("c").standby_of(primary)
    assert any(fact.get("bytes_total") for fact in standby.reported)
    view = eventually(lambda: (seen := standby.look()).receiver and seen)
    assert (view.role, view.is_primary, view.timeline, view.replication_state) == (Role.REPLICA, False, 1, "streaming")
    assert view.receiver.host == "127.0.0.1" and view.receiver.port == primary.port
    assert {sender.application_name for sender in primary.look().senders} >= {standby.settings.name}
    assert stat_mode(standby.settings.pgpass) == 0o600
    assert standby.server.recovery_change(primary.upstream, role=Role.REPLICA) == "none"

    other = standby.upstream
    assert cascade.server.recovery_change(other, role=Role.REPLICA) == "reload"
    started = cascade.look().postmaster_start
    cascade.server.follow_by_reload(other, role=Role.REPLICA)
    eventually(lambda: (receiver := cascade.look().receiver) and receiver.port == standby.port and receiver.status == "streaming")
    assert cascade.server.recovery_change(other, role=Role.REPLICA) == "none"
    assert cascade.look().postmaster_start == started

    primary.stop()
    assert standby.look().writes == Writes()
    began, at = time.monotonic(), now()
    standby.server.promote(standby.ctx, timeout_s=10)
    assert time.monotonic() - began < 3
    promoted = now()
    view = standby.look()
    assert view.writes.accepted and view.writes.began is not None and at < view.writes.began <= promoted
    assert (view.role, view.is_primary, view.timeline, view.recovery_files) == (Role.PRIMARY, True, 2, False)
    assert [entry[0] for entry in standby.server.history(2)] == [1]
    leader = standby.server.leader_timeline(standby.upstream, Deadline.after(3))
    assert (leader.timeline, leader.in_recovery, leader.history) == (2, False, standby.server.history(2))
    eventually(lambda: cascade.look().timeline == 2)


def stat_mode(path: str | None) -> int:
    return os.stat(str(path)).st_mode & 0o777


def test_a_slot_wanted_at_the_upstream_is_used(make: Callable[..., Node], template: Node) -> None:
    template.server.create_slot("member")
    standby = make("slotted").standby_of(template)
    upstream = replace(template.upstream, slot="member")
    assert standby.server.recovery_change(upstream, role=Role.REPLICA) == "reload"
    standby.server.follow_by_reload(upstream, role=Role.REPLICA)
    eventually(lambda: any(slot.name == "member" and slot.active for slot in template.look().slots))
    assert standby.server.recovery_change(upstream, role=Role.REPLICA) == "none"
    standby.stop()
    eventually(lambda: not template.look().slots[0].active)
    template.server.drop_slot("member")


def test_the_end_of_the_shutdown_checkpoint_is_what_a_standby_received(make: Callable[..., Node]) -> None:
    """(EC 98) A planned stop is fast and sends everything, although a client is connected."""
    primary = make("p").bootstrap()
    standby = make("s").standby_of(primary)
    eventually(lambda: (receiver := standby.look().receiver) and receiver.status == "streaming")
    primary.sql("CREATE TABLE public.t AS SELECT generate_series(1, 1000) AS i")
    told: list[tuple[ControlData, bool]] = []
    running = primary.server.postmaster()
    assert running is not None
    deadline = Deadline.after(10)
    client = Session(local.superuser(primary.settings, os_user(primary.settings)), deadline)
    client.query("SELECT 1", deadline=deadline)
    primary.stop(checkpoint=True, on_shut_down=lambda control: told.append((control, running.alive)))
    assert len(told) == 1
    control = told[0][0]
    assert control.state == ControlState.SHUT_DOWN and control.checkpoint_end is not None
    assert control.checkpoint < control.checkpoint_end
    position = eventually(lambda: (found := standby.server.position(2.0)) and found[0] == control.checkpoint_end and found)
    assert position[2] is False
    client.close()


def test_the_computed_end_of_a_record_is_where_the_server_says_the_next_one_begins(template: Node) -> None:
    for size in (10, 100, 8000, 8150, 20000):
        start, end = template.sql("SELECT pg_current_wal_insert_lsn()::text, "
                                  f"pg_logical_emit_message(false, 'x', repeat('y', {size}))::text")[0]
        template.sql("SELECT pg_logical_emit_message(true, 'flush', '')")
        output = ProgramRunner(os_user(template.settings)).run(
            [f"{BIN_DIR}/pg_waldump", "-p", f"{template.settings.data_dir}/pg_wal", "-s", start, "-n", "1"])
        match = controldata._RECORD.search(output)
        assert match is not None
        assert controldata.record_end(Lsn.parse(match.group(2)), int(match.group(1))) == Lsn.parse(end)


def test_a_diverged_primary_is_rewound_and_follows(make: Callable[..., Node]) -> None:
    old = make("old").bootstrap()
    new = make("new").standby_of(old)
    eventually(lambda: (receiver := new.look().receiver) and receiver.status == "streaming")
    new.stop()
    old.sql("CREATE TABLE public.lost AS SELECT generate_series(1, 1000) AS i")  # WAL that the new primary never gets
    old.server.terminate()
    new.start(Role.REPLICA)
    new.server.promote(new.ctx, timeout_s=10)
    new.server.checkpoint(new.ctx)
    new.sql("CREATE TABLE public.kept AS SELECT 1 AS i")

    leader = old.server.leader_timeline(new.upstream, Deadline.after(3))
    assert leader.timeline == 2 and not leader.in_recovery
    old.server.crash_recover(old.ctx)
    control = old.server.control_data()
    assert control is not None and control.state == ControlState.SHUT_DOWN and control.checkpoint_timeline == 1
    assert control.checkpoint_end is not None and control.checkpoint_end > leader.history[-1][1]
    old.server.rewind(old.ctx, new.upstream)
    old.start(Role.REPLICA, new.upstream)
    eventually(lambda: (receiver := old.look().receiver) and receiver.status == "streaming")
    tables = "SELECT to_regclass('public.kept')::text, to_regclass('public.lost')::text"
    assert eventually(lambda: old.sql(tables) == [("public.kept", None)])
    assert old.look().timeline == 2


def test_a_pid_file_naming_a_stranger_is_neither_trusted_nor_in_the_way(make: Callable[..., Node]) -> None:
    """(EC 87) Nor is the file deleted: PostgreSQL replaces it itself."""
    node = make("stale").bootstrap()
    path = Path(node.settings.data_dir, "postmaster.pid")
    content = path.read_text()
    node.server.terminate()
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True, **({"user": "postgres"} if os.geteuid() == 0 else {}))
    try:
        lines = content.splitlines(keepends=True)
        path.write_text("".join([f"{stranger.pid}\n", lines[1], "1000000000\n", *lines[3:]]))
        assert not node.look().running
        assert path.read_text().startswith(f"{stranger.pid}\n")
        node.start()
        assert node.look().is_primary and stranger.poll() is None
        assert not path.read_text().startswith(f"{stranger.pid}\n")
    finally:
        stranger.kill()
        stranger.wait()


def test_a_running_server_is_adopted_without_a_restart(make: Callable[..., Node], template: Node) -> None:
    standby = make("adopted").standby_of(template)
    started = eventually(lambda: (seen := standby.look()).receiver and seen).postmaster_start
    again = Postgres(standby.settings)
    assert again.attach() and (again.role, again.state) == (Role.REPLICA, State.RUNNING)
    view = again.observe(Deadline.after(3))
    assert view.postmaster_start == started and view.receiver
    assert again.recovery_change(template.upstream, role=Role.REPLICA) == "none"
    assert not again.apply_settings()
    again.close()
    fresh = Postgres(replace(standby.settings, data_dir=standby.settings.data_dir + "-none"))
    assert not fresh.attach() and fresh.role == Role.UNINITIALIZED
    assert fresh.observe(Deadline.after(1)).data_dir == DataDir.EMPTY


def test_a_reloadable_setting_acts_at_once_and_one_that_needs_a_restart_is_reported(template: Node) -> None:
    """Set back, it needs no restart any more (EC 206)."""
    before = template.settings
    template.configure(parameters={**before.parameters, "work_mem": "7MB", "max_connections": "40", "shared_buffers": "16MB"})
    assert template.server.apply_settings()
    assert not template.server.apply_settings()
    eventually(lambda: template.sql("SHOW work_mem") == [("7MB",)])
    pending = eventually(lambda: len(template.look().pending_restart) == 2 and template.look().pending_restart)
    assert pending == {"max_connections": {"old_value": "30", "new_value": "40"},
                       "shared_buffers": {"old_value": "8MB", "new_value": "16MB"}}
    template.configure(parameters=before.parameters)
    assert template.server.apply_settings()
    eventually(lambda: not template.look().pending_restart)


def test_mistaken_parameters_do_not_keep_the_server_down(make: Callable[..., Node], caplog: pytest.LogCaptureFixture) -> None:
    node = make("wrong", parameters={"no_such_parameter": 1, "work_mem": "1kB", "enable_seqscan": "perhaps", "my.own": "x y",
                                     "zero_damaged_pages": "off"}).bootstrap()
    assert node.sql("SELECT current_setting('work_mem'), current_setting('enable_seqscan'), current_setting('my.own')") == [
        ("64kB", "on", "x y")]
    for name in ("no_such_parameter", "work_mem", "enable_seqscan"):
        assert f"parameter {name}" in caplog.text
    assert "zero_damaged_pages" in Path(node.settings.data_dir, "postgresql.conf").read_text()


def test_a_standby_starts_with_the_primarys_larger_settings_and_says_so(make: Callable[..., Node], template: Node) -> None:
    """A restored backup is such a copy (EC 186)."""
    standby = make("small")
    standby.configure(parameters={**standby.settings.parameters, "max_connections": 25})
    standby.standby_of(template)
    assert standby.sql("SHOW max_connections") == [("30",)]
    assert standby.look().pending_restart == {"max_connections": {"old_value": "30", "new_value": "25"}}


def test_a_server_that_ends_at_start_is_quoted_in_the_error(make: Callable[..., Node]) -> None:
    node = make("broken").bootstrap()
    node.stop()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.port))
        taken.listen()
        with pytest.raises(ServerError, match=r"(?i)address already in use|could not create any TCP"):
            node.server.start(node.ctx, role=Role.PRIMARY, upstream=None, timeout_s=10)
    assert node.server.state == State.START_FAILED and not node.look().running


def test_a_cancelled_start_leaves_nothing_running(make: Callable[..., Node]) -> None:
    node = make("cancel").bootstrap()
    node.stop()
    node.ctx.cancelled.set()
    with pytest.raises(CancelledError):
        node.server.start(node.ctx, role=Role.PRIMARY, upstream=None, timeout_s=10)
    node.ctx.cancelled.clear()
    assert not node.look().running
    node.start()


def test_removing_takes_tablespaces_and_a_separate_wal_directory_along(make: Callable[..., Node], root: Path) -> None:
    """(EC 184)"""
    space, wal = root / "space", root / "wal"
    space.mkdir()
    if os.geteuid() == 0:
        shutil.chown(space, "postgres")
    node = make("away")
    node.server.bootstrap(node.ctx, INITDB, [*INITDB_OPTIONS, {"waldir": str(wal)}])
    node.sql(f"CREATE TABLESPACE far LOCATION '{space}'")
    node.sql("CREATE TABLE public.there (i int) TABLESPACE far")
    with pytest.raises(ServerError, match="runs"):
        node.server.remove_data_dir()
    node.stop()
    node.server.remove_data_dir()
    assert not os.path.exists(node.settings.data_dir) and not os.listdir(space) and not os.listdir(wal)


def test_a_failed_bootstrap_is_put_aside_with_its_wal_directory(make: Callable[..., Node], root: Path) -> None:
    """(EC 173, 184)"""
    wal = root / "wal-failed"
    node = make("failed")
    node.server.bootstrap(node.ctx, INITDB, [*INITDB_OPTIONS, {"waldir": str(wal)}])
    node.stop(mode="immediate")
    aside = node.server.rename_failed_data_dir()
    assert aside == node.settings.data_dir + ".failed" and os.path.exists(f"{wal}.failed") and not os.path.exists(wal)
    assert os.path.realpath(f"{aside}/pg_wal") == f"{wal}.failed"
    assert node.look().data_dir == DataDir.EMPTY


def test_a_postmaster_whose_directory_vanished_is_still_known_and_stopped(make: Callable[..., Node]) -> None:
    """(EC 11) By its remembered handle; the role is told as uninitialized."""
    node = make("vanished").bootstrap()
    running = node.server.postmaster()
    assert running is not None
    os.rename(node.settings.data_dir, node.settings.data_dir + ".gone")
    view = node.look()
    assert (view.running, view.data_dir) == (True, DataDir.EMPTY)
    node.stop(mode="immediate", timeout_s=4.0)
    assert not running.alive and not node.look().running and node.look().role is Role.UNINITIALIZED


def test_an_unreadable_directory_is_told_from_an_empty_one(make: Callable[..., Node]) -> None:
    """(EC 12) No exception comes out of a look at it."""
    node = make("secret")
    os.symlink(node.settings.data_dir, node.settings.data_dir)  # a loop: an error even for root
    assert node.look().data_dir == DataDir.UNREADABLE


def test_an_unreachable_leader_is_undecided(template: Node) -> None:
    with pytest.raises(ServerUnavailableError):
        template.server.leader_timeline(Upstream("127.0.0.1", free_port(), "nobody"), Deadline.after(2))


def test_a_clone_that_fails_leaves_nothing_and_names_the_reason(make: Callable[..., Node]) -> None:
    node = make("noclone")
    methods = [(method, {"attempt-pause": 0.1}) for method, _ in BASEBACKUP]
    with pytest.raises(ServerError, match=r"basebackup: .*pg_basebackup exited with 1"):
        node.server.clone(node.ctx, methods, Upstream("127.0.0.1", free_port(), "nobody"))
    assert not os.path.exists(node.settings.data_dir) and node.look().data_dir == DataDir.EMPTY


def test_a_custom_bootstrap_method_is_opened_to_the_agent_only_until_it_ends(make: Callable[..., Node], template: Node) -> None:
    def restore(request: Any) -> None:
        request.task.run([request.binary("pg_basebackup"), "-D", request.server.data_dir, "-X", "stream", "--checkpoint=fast",
                          "-h", os.path.dirname(template.settings.data_dir), "-p", str(template.port), "-U", "admin"])

    node = make("restored")
    node.configure(superuser=Credentials("admin", "another password"))
    node.server.bootstrap(node.ctx, BootstrapMethod("restore", restore), {"recovery_conf": {
        "recovery_target": "immediate", "recovery_target_action": "promote", "restore_command": "false"}})
    assert "trust" in Path(node.settings.data_dir, "pg_hba.conf").read_text()
    eventually(lambda: node.look().is_primary)
    node.server.post_bootstrap(node.ctx, None)
    assert Path(node.settings.data_dir, "pg_hba.conf").read_text().splitlines()[-1] == HBA[-1]
    assert node.sql("SELECT 1") == [(1,)]
    assert node.look().timeline == 2 and "restore_command" not in Path(node.settings.data_dir, "postgresql.conf").read_text()


def test_the_agents_language_does_not_matter(make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert make("german").server._run_in_english(["/usr/bin/env"]).count("=C\n") == 2
