"""``synchronous_standby_names`` on a real server: shown, in force, kept over a restart of the agent, cleared on a standby."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.postgres_node import BIN_DIR, Node, eventually, make, root
from pgcore.clock import Deadline
from pgcore.errors import ServerError
from pgcore.model.basics import Role
from pgcore.model.synchronous import PLACEHOLDER_NAME, StandbyNames
from pgcore.postgres.server import Postgres
from pgcore.testing.processes import freeze

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root"]

Make = Callable[..., Node]


@pytest.fixture
def node(make: Make) -> Node:
    return make("sync").bootstrap()


def name(node: Node, text: str | None, seconds: float = 3.0) -> bool:
    return node.server.set_standby_names(text, Deadline.after(seconds))


def names(node: Node) -> StandbyNames:
    return node.look().names


def checkpointer(node: Node) -> int:
    return int(node.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")[0][0])


def waits(node: Node) -> bool:
    """A commit of another session waits for a standby."""
    return bool(node.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")[0][0])


def test_without_names_a_look_tells_so(node: Node) -> None:
    assert names(node) == StandbyNames()


def test_new_names_are_in_force_at_once_and_the_probe_does_not_wait_for_them(node: Node) -> None:
    """(EC 134)"""
    before = node.look().position
    assert name(node, PLACEHOLDER_NAME)
    view = node.look()
    assert view.names == StandbyNames(PLACEHOLDER_NAME, ours=True)
    assert before is not None
    eventually(lambda: (node.look().position or 0) > before)  # the probe's own WAL
    writer = threading.Thread(target=node.sql, args=("CREATE TABLE public.held ()",))
    writer.start()
    eventually(lambda: waits(node))
    assert name(node, "")
    writer.join(5)
    assert not writer.is_alive()
    assert names(node) == StandbyNames(ours=True)


def test_users_are_made_though_commits_wait_for_nobody_there(make: Make) -> None:
    """(EC 135)"""
    node = make("strict", parameters={"synchronous_standby_names": PLACEHOLDER_NAME}).bootstrap()
    view = node.look()
    assert (view.is_primary, view.names.text, view.names.ours) == (True, PLACEHOLDER_NAME, False)


def test_names_that_are_shown_are_not_in_force_while_the_checkpointer_has_not_heard_of_them(node: Node) -> None:
    """Then the server shows the names and commits do not wait."""
    pid = checkpointer(node)
    freeze(pid)
    try:
        assert not name(node, PLACEHOLDER_NAME, 0.3)
        assert (names(node).text, names(node).in_force) == (PLACEHOLDER_NAME, False)
        node.sql("CREATE TABLE public.not_held ()")
        assert not names(node).in_force
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: names(node) == StandbyNames(PLACEHOLDER_NAME, ours=True))


def test_names_that_the_postmaster_has_not_read_are_not_settled(node: Node) -> None:
    assert name(node, "x")
    pid = node.look().postmaster_pid
    assert pid is not None
    freeze(pid)
    try:
        with pytest.raises(ServerError, match="the server shows 'x'"):
            name(node, PLACEHOLDER_NAME, 0.3)
        assert (names(node).text, names(node).settled) == ("x", False)
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: names(node) == StandbyNames(PLACEHOLDER_NAME, ours=True))


def test_an_agent_that_is_started_anew_keeps_what_commits_wait_for(node: Node) -> None:
    """(EC 139)"""
    assert name(node, '"Node-1"')
    node.server.close()
    node.server = Postgres(node.settings)
    assert node.server.attach()
    eventually(lambda: names(node) == StandbyNames('"Node-1"', ours=True))
    node.configure(parameters={**node.settings.parameters, "work_mem": "7MB"})
    assert node.server.apply_settings()
    eventually(lambda: node.sql("SHOW work_mem") == [("7MB",)])
    assert names(node).text == '"Node-1"'


def test_a_primary_is_started_with_its_names_and_a_standby_without(node: Node) -> None:
    """(HA rules 17.5)"""
    assert name(node, "x")
    node.stop()
    node.server.close()
    node.server = Postgres(node.settings)
    node.start()
    assert (names(node).text, names(node).settled) == ("x", True)
    node.stop()
    node.start(Role.REPLICA)
    assert names(node) == StandbyNames()


def test_a_standby_can_be_given_names_before_its_promotion(make: Make, node: Node) -> None:
    """(EC 125)"""
    other = make("other").standby_of(node)
    assert other.look().names == StandbyNames()
    assert name(other, PLACEHOLDER_NAME)
    assert names(other) == StandbyNames(PLACEHOLDER_NAME, ours=True)
    other.server.promote(other.ctx, timeout_s=20)
    assert names(other) == StandbyNames(PLACEHOLDER_NAME, ours=True)


def test_the_users_own_names_come_back(make: Make) -> None:
    """(EC 138)"""
    node = make("own", parameters={"synchronous_standby_names": "mine"}).bootstrap()
    assert (names(node).text, names(node).ours) == ("mine", False)
    assert name(node, "x")
    assert (names(node).text, names(node).ours) == ("x", True)
    name(node, None)
    eventually(lambda: (names(node).text, names(node).ours) == ("mine", False))


def test_a_file_that_says_something_else_is_noticed(node: Node, root: Path) -> None:
    assert name(node, "x")
    path = Path(node.settings.data_dir) / "postgresql.conf"
    path.write_text(path.read_text() + "synchronous_standby_names = 'y'\n")
    assert (names(node).text, names(node).settled) == ("x", False)
    assert name(node, "x")
    assert names(node).settled


def test_alter_system_is_named_as_the_culprit(node: Node) -> None:
    assert name(node, "x")
    node.sql("ALTER SYSTEM SET synchronous_standby_names = 'y'")
    assert not names(node).settled
    with pytest.raises(ServerError, match="ALTER SYSTEM RESET"):
        name(node, "z", 3)


def test_fewer_confirmations_wait_for_the_sender_to_take_notice(make: Make, node: Node) -> None:
    """A WAL sender that has not read the new names still counts confirmations by the old ones."""
    other: Any = make("b").standby_of(node)
    eventually(lambda: node.look().senders)
    assert name(node, "walreceiver")
    pid = int(node.sql("SELECT pid FROM pg_stat_replication")[0][0])
    freeze(pid)
    try:
        assert not name(node, "ANY 1 (walreceiver)", 0.3)
        assert not names(node).in_force
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: names(node).in_force)
    other.stop()
