"""Performing the steps of synchronous replication against the reference store. (HA rules 19.1)"""

from __future__ import annotations

from pgcore.model import actions as a
from unit.test_daemon_kit import Bench
from unit.test_daemon_perform import do, member

__all__ = ["member"]


def test_sync_is_written_by_version_and_an_equal_write_gives_a_new_one(member: Bench) -> None:
    first = do(member, a.WriteSync("a", ("b",), 0, None))
    again = do(member, a.WriteSync("a", ("b",), 0, first.value))
    assert first.ok and again.ok and first.value != again.value
    assert do(member, a.WriteSync("a", (), 0, first.value)).value is None
    assert do(member, a.WriteSync("a", (), 0, None)).value is None
    assert do(member, a.DropSync(first.value)).value is False
    with member.server.outage():
        assert not do(member, a.WriteSync("a", (), 0, again.value)).ok
        assert not do(member, a.DropSync(again.value)).ok
    assert do(member, a.DropSync(again.value)).value is True
    assert do(member, a.WriteSync("a", (), 0, None)).ok


def test_names_cannot_be_set_without_a_server(member: Bench) -> None:
    outcome = do(member, a.SetStandbyNames("b"))
    assert not outcome.ok and "PostgreSQL is not running" in outcome.error
