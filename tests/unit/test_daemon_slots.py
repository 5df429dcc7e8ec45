"""Replication slots on a real PostgreSQL: the thread that serves logical ones, copies on a standby, what a look reports."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from contract.postgres_node import BIN_DIR, Node, eventually, make, root  # noqa: F401 - fixtures
from pgcore.clock import Deadline
from pgcore.daemon.mpp import Mpp
from pgcore.model import actions as a
from pgcore.model.basics import Lsn, Role
from pgcore.model.node import NodeView, Slot, SlotReport
from pgcore.model.settings import PermanentSlot
from pgcore.mpp import MppHandler
from pgcore.postgres import local
from pgcore.postgres.connection import Session
from pgcore.postgres.programs import os_user
from pgcore.testing.processes import freeze
from unit.test_daemon_kit import Bench, result_of

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]

LOGICAL = {"wal_level": "logical", "hot_standby_feedback": "on", "wal_keep_size": "0", "max_slot_wal_keep_size": "16MB"}
CDC = PermanentSlot("cdc", "postgres", "test_decoding")


@pytest.fixture
def primary(make: Callable[..., Node]) -> Node:  # noqa: F811
    """A primary that can decode."""
    return make("decoding", parameters=LOGICAL).bootstrap()


def slots_of(node: Node) -> dict[str, Slot]:
    """What a look reports, by name."""
    return {slot.name: slot for slot in node.look().slots}


class Agent:
    """Performs actions on this server as its agent would."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.member, self.node = Bench(folder), node
        self.member.ports.postgres = node.server

    def __call__(self, action: a.Action) -> a.Outcome:
        return self.member.performer.perform(action, self.member.world(role=self.node.server.role))


def end_of_wal(node: Node) -> Lsn:
    """Where the primary's WAL ends."""
    return Lsn.parse(node.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])


def backend(node: Node) -> int | None:
    """The process that serves the thread of the slots."""
    rows = node.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgcore slots' AND state = 'active'")
    return int(rows[0][0]) if rows else None


def test_a_logical_slot_is_made_however_long_a_transaction_takes_while_the_heartbeat_goes_on(
    primary: Node, tmp_path: Path
) -> None:
    do = Agent(primary, tmp_path)
    session = Session(local.superuser(primary.settings, os_user(primary.settings)), Deadline.after(10))
    for statement in ("BEGIN", "SELECT pg_catalog.pg_current_xact_id()"):
        session.query(statement, deadline=Deadline.after(5))
    began = time.monotonic()
    assert do(a.ServeSlots(create=(CDC,))).ok
    assert time.monotonic() - began < 0.5
    eventually(lambda: backend(primary))
    time.sleep(2.5)  # longer than any statement of the heartbeat may take
    assert primary.look().answering and backend(primary)
    session.query("COMMIT", deadline=Deadline.after(5))
    session.close()
    slot = eventually(
        lambda: slots_of(primary).get("cdc") if "cdc" in slots_of(primary) and not slots_of(primary)["cdc"].active else None
    )
    assert (slot.physical, slot.plugin, slot.database) == (False, "test_decoding", "postgres")
    assert slot.confirmed_flush and slot.catalog_xmin
    eventually(lambda: "logical slots were created: cdc" in do.member.mailbox.woken)


def test_work_on_a_slot_is_given_up_when_the_server_gets_another_role(primary: Node, tmp_path: Path) -> None:
    """After a promotion a client must not wait for the slot: the server's process ends although the transaction is still open."""
    do = Agent(primary, tmp_path)
    session = Session(local.superuser(primary.settings, os_user(primary.settings)), Deadline.after(10))
    for statement in ("BEGIN", "SELECT pg_catalog.pg_current_xact_id()"):
        session.query(statement, deadline=Deadline.after(5))
    assert do(a.ServeSlots(create=(CDC,))).ok
    eventually(lambda: backend(primary))
    primary.server.role = Role.PROMOTED
    eventually(lambda: not backend(primary), 5)
    assert not slots_of(primary)
    session.close()


def frozen_while_advancing(node: Node, do: Agent) -> tuple[int, Lsn]:
    """Let the thread advance the slot over much WAL, freeze the server's process in the middle of it; its pid, the target."""
    for _ in range(5):
        node.sql("SELECT count(pg_logical_emit_message(false, 'x', repeat('y', 8000))) FROM generate_series(1, 20000)")
        target = end_of_wal(node)
        assert do(a.ServeSlots(advance=((CDC, target),))).value == SlotReport()
        pid = eventually(lambda: backend(node) or (slots_of(node)["cdc"].confirmed_flush or 0) >= target)  # noqa: B023
        if pid is not True:
            freeze(pid)
            if (slots_of(node)["cdc"].confirmed_flush or 0) < target:
                return pid, target
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("it was never caught in the middle")


def test_advancing_may_block_for_as_long_as_it_likes(make: Callable[..., Node], tmp_path: Path) -> None:  # noqa: F811
    """The process that advances the slot is frozen: beats go on, nothing times out, it gets there when thawed (EC 159)."""
    primary = make("blocked", parameters={"wal_level": "logical"}).bootstrap()
    do = Agent(primary, tmp_path)
    primary.server.create_logical_slot(CDC)
    frozen, target = frozen_while_advancing(primary, do)
    try:
        for _ in range(6):
            began = time.monotonic()
            assert do(a.ServeSlots(advance=((CDC, target),))).value == SlotReport()
            assert primary.look().answering and time.monotonic() - began < 0.5
            time.sleep(0.5)
        assert (slots_of(primary)["cdc"].confirmed_flush or 0) < target
    finally:
        os.kill(frozen, signal.SIGCONT)
    eventually(lambda: (slots_of(primary)["cdc"].confirmed_flush or 0) >= target, 30)
    assert not do(a.ServeSlots()).value.broken


def test_a_temporary_slot_is_nobodys_business(primary: Node) -> None:
    """pg_basebackup holds one while it runs (EC 162)."""
    session = Session(local.superuser(primary.settings, os_user(primary.settings)), Deadline.after(10))
    session.query("SELECT pg_catalog.pg_create_physical_replication_slot('passing', true, true)", deadline=Deadline.after(5))
    assert primary.sql("SELECT count(*) FROM pg_replication_slots")[0][0] == 1
    assert not primary.look().slots
    session.close()


def invalidate(node: Node, source: Node, name: str) -> None:
    """Let the WAL that a slot needs be removed."""
    for _ in range(20):
        source.sql("SELECT pg_logical_emit_message(false, 'x', 'y')")
        source.sql("SELECT pg_switch_wal()")
        source.sql("CHECKPOINT")
        if node is not source:
            position = end_of_wal(source)
            eventually(lambda: (node.look().replayed or 0) >= position)  # noqa: B023 - called at once
            node.sql("CHECKPOINT")
        if slots_of(node)[name].wal_status == "lost":
            return
    raise AssertionError(f"{name} did not lose its WAL")


def test_a_logical_slot_lives_on_a_standby(primary: Node, make: Callable[..., Node], tmp_path: Path) -> None:  # noqa: F811
    """Copied, moved along, told from one that is broken, and copied again (EC 160); a mismatch is not copied (EC 161)."""
    primary.server.create_slot("standby")
    standby = make("standby", parameters=LOGICAL)
    upstream = primary.upstream
    standby.standby_of(primary)
    do = Agent(standby, tmp_path)
    primary.server.create_logical_slot(CDC)

    def copy(slot: PermanentSlot) -> str:
        assert do(a.CopySlots(upstream, (slot,), upstream)).ok
        assert result_of(do.member.tasks, 30).ok
        return str(standby.look().postmaster_start)

    life = standby.look().postmaster_start
    assert copy(PermanentSlot("cdc", "postgres", "pgoutput")) == life, "nothing to copy, so no restart"
    assert copy(PermanentSlot("absent", "postgres", "pgoutput")) == life
    assert not slots_of(standby)

    assert copy(CDC) != life
    made, original = slots_of(standby)["cdc"], slots_of(primary)["cdc"]
    assert (made.confirmed_flush, made.plugin, made.database) == (original.confirmed_flush, "test_decoding", "postgres")
    state = Path(standby.settings.data_dir) / "pg_replslot" / "cdc" / "state"
    assert oct(state.stat().st_mode)[-3:] == "600" and state.stat().st_uid == Path(standby.settings.data_dir).stat().st_uid

    primary.sql("SELECT pg_logical_emit_message(false, 'x', 'y')")
    target = end_of_wal(primary)
    eventually(lambda: (standby.look().replayed or 0) >= target)
    assert do(a.ServeSlots(advance=((CDC, target),), ask=a.LeaderSlots(upstream, ("cdc", "standby", "absent")))).ok
    eventually(lambda: (slots_of(standby)["cdc"].confirmed_flush or 0) >= target)
    report = eventually(lambda: (lambda found: found if found.leader else None)(do(a.ServeSlots()).value))
    assert report.leader == {"cdc": slots_of(primary)["cdc"].catalog_xmin, "standby": None} and not report.broken

    invalidate(standby, primary, "cdc")
    assert do(a.ServeSlots(advance=((CDC, end_of_wal(primary)),))).ok
    assert eventually(lambda: do(a.ServeSlots()).value.broken) == {"cdc"}
    assert "logical slots are broken: cdc" in do.member.mailbox.woken
    primary.server.drop_slot("cdc")
    primary.server.create_logical_slot(CDC)
    copy(CDC)
    assert slots_of(standby)["cdc"].wal_status != "lost"
    assert standby.server.advance_logical_slot(CDC, standby.look().replayed or Lsn(0))

    refused_before_the_stop(standby, do, primary)


def refused_before_the_stop(standby: Node, do: Agent, primary: Node) -> None:
    """A copy with which the server would not start again is refused while it still runs."""
    other = replace(CDC, name="other")
    primary.server.create_logical_slot(other)
    life, configured = standby.look().postmaster_start, standby.settings.parameters
    for change, word in (({"max_replication_slots": 1}, "raise max_replication_slots"), ({"wal_level": "replica"}, "wal_level")):
        standby.configure(parameters={**configured, **change})
        assert do(a.CopySlots(primary.upstream, (other,), primary.upstream)).ok
        assert word in result_of(do.member.tasks, 30).error
    assert standby.look().postmaster_start == life


def test_failures_of_one_slot_leave_the_others_alone_and_are_said_once(
    primary: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    do = Agent(primary, tmp_path)
    bad = (PermanentSlot("bad", "nowhere", "test_decoding"), PermanentSlot("worse", "postgres", "no_such_plugin"))
    for name in ("one", "two", "three"):
        assert do(a.ServeSlots(create=(*bad, replace(CDC, name=name)))).ok
        eventually(lambda: f"logical slots were created: {name}" in do.member.mailbox.woken)  # noqa: B023
    assert set(slots_of(primary)) == {"one", "two", "three"}
    texts = [record.getMessage() for record in caplog.records]
    assert sum("slot bad" in text for text in texts) == 1 and sum("slot worse" in text for text in texts) == 1


class Handler:
    """An extension's handler that keeps one slot, and fails for another."""

    group, rest_path = 0, "extension"

    def keeps_slot(self, name: str, plugin: str | None, database: str | None) -> bool:
        """Only ``cdc``."""
        if name == "odd":
            raise ValueError(name)
        return name == "cdc"


def test_a_look_says_which_slots_are_an_extensions_own(primary: Node, tmp_path: Path) -> None:
    do = Agent(primary, tmp_path)
    for name in ("cdc", "odd", "other"):
        primary.server.create_logical_slot(replace(CDC, name=name))
    do.member.ports.mpp = Mpp(cast(MppHandler, Handler()))
    view = do(a.ObserveNode()).value
    assert isinstance(view, NodeView)
    assert {slot.name for slot in view.slots if slot.handled} == {"cdc", "odd"}, "in doubt it is kept"
