"""The replicated state alone: late and repeated commands, succession of processes, the end of leases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgcore.plugin import Instant
from pgcore_dcs_raft.machine import IDLE_SESSIONS_KEPT, Machine

LOCK = "/service/demo/leader"
CARD = "/service/demo/members/a"


class Log:
    """A log with one machine behind it, and a clock that moves by hand."""

    def __init__(self) -> None:
        self.moment, self.index, self.numbers = 100.0, 0, {}
        self.machine = Machine(lambda: Instant(self.moment))

    def command(self, op: str, session: str, path: str = LOCK, **words: Any) -> str:
        self.numbers[session] = self.numbers.get(session, 0) + 1
        return json.dumps({"op": op, "path": path, "session": session, "member": session[0], "number": self.numbers[session],
                           "time": 1.0, "ttl": 30, "force": False, "riders": {}} | words)

    def decide(self, text: str) -> dict[str, Any]:
        self.index += 1
        return self.machine.apply(text, self.index)

    def do(self, op: str, session: str, path: str = LOCK, **words: Any) -> dict[str, Any]:
        return self.decide(self.command(op, session, path, **words))

    def expire_due(self, leader_since: float = 0.0) -> int:
        leases = list(self.machine.due(Instant(leader_since)))
        for lease in leases:
            self.decide(json.dumps({"op": "expire", "session": lease.session, "extended": lease.extended}))
        return len(leases)

    def values(self, contact: float | None = None) -> dict[str, str]:
        records, _ = self.machine.records("/service/demo", Instant(self.moment if contact is None else contact))
        return {path: record.value for path, record in records.items()}


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_command_sent_twice_is_applied_once(log):
    put = log.command("put", "a1", "/service/demo/initialize", value="1", prevExist=False)
    first = log.decide(put)
    assert first["done"] is True
    assert log.decide(put) == first


def test_a_late_command_does_not_overwrite_what_its_process_wrote_after_it(log):
    late = log.command("put", "a1", "/service/demo/config", value="old")
    log.do("put", "a1", "/service/demo/config", value="new")
    assert log.decide(late) == {"stale": True}
    assert log.values()["config"] == "new"


def test_a_renewal_that_arrives_after_the_expiry_resurrects_nothing(log):
    log.do("acquire", "a1")
    late = log.command("renew", "a1")
    log.moment += 31
    assert log.expire_due() == 1
    assert log.decide(late) == {"renewal": "gone"}
    assert log.values() == {}


def test_a_renewal_that_arrives_after_anothers_acquisition_changes_nothing(log):
    log.do("acquire", "a1")
    late = log.command("renew", "a1")
    log.moment += 31
    log.expire_due()
    log.do("acquire", "b1")
    assert log.decide(late) == {"renewal": "taken"}
    assert log.values() == {"leader": "b"}


def test_a_late_acquisition_of_a_dead_process_ends_after_its_ttl(log):
    late = log.command("acquire", "a1")
    log.moment += 1000
    log.decide(late)
    log.moment += 31
    assert log.expire_due() == 1 and log.values() == {}


def test_a_dead_process_neither_renews_nor_releases_what_its_successor_took_over(log):
    log.do("acquire", "a1")
    log.do("announce", "a1", CARD, value="old")
    late = [log.command("renew", "a1"), log.command("release", "a1"), log.command("announce", "a1", CARD, value="old")]
    assert log.do("renew", "a2") == {"renewal": "held"}
    log.do("announce", "a2", CARD, value="new")
    assert [log.decide(text) for text in late] == [{"renewal": "taken"}, {"done": False}, {"done": False}]
    assert log.values() == {"leader": "a", "members/a": "new"}


def test_the_lock_of_a_predecessor_is_not_acquired_but_renewed(log):
    log.do("acquire", "a1")
    assert log.do("acquire", "a2") == {"done": False}
    assert log.do("renew", "a2") == {"renewal": "held"}
    assert log.do("acquire", "a2") == {"done": True}


def test_an_extension_that_is_decided_before_the_expiry_wins(log):
    log.do("acquire", "a1")
    log.moment += 31
    lease, = log.machine.due(Instant(0))
    log.do("renew", "a1")
    log.decide(json.dumps({"op": "expire", "session": lease.session, "extended": lease.extended}))
    assert log.values() == {"leader": "a"}


@pytest.mark.parametrize("clock", [0.0, 1e12], ids=["past", "future"])
def test_the_wall_clock_of_a_writer_has_no_say_in_the_end_of_its_lease(log, clock):
    log.do("acquire", "a1", time=clock)
    log.moment += 29
    assert log.expire_due() == 0
    log.moment += 2
    assert log.expire_due() == 1


def test_a_new_raft_leader_gives_every_lease_a_full_ttl(log):
    log.do("acquire", "a1")
    elected = log.moment = log.moment + 25
    log.moment += 29
    assert log.expire_due(elected) == 0
    log.moment += 2
    assert log.expire_due(elected) == 1


def test_announcing_extends_the_lock_and_renewing_extends_the_card(log):
    log.do("acquire", "a1")
    log.do("announce", "a1", CARD, value="card")
    announcement = {"path": CARD, "value": "card"}
    for op, words in (("announce", announcement), ("renew", {}), ("announce", announcement)):
        log.moment += 20
        log.do(op, "a1", **words)
        assert log.expire_due() == 0
    assert log.values() == {"leader": "a", "members/a": "card"}


def test_a_failed_acquisition_extends_nothing(log):
    log.do("acquire", "b1")
    log.do("announce", "a1", CARD, value="card")
    log.moment += 20
    log.do("renew", "b1")
    log.do("acquire", "a1")
    log.moment += 20
    log.expire_due()
    assert log.values() == {"leader": "b"}


def test_a_lease_that_ran_out_without_contact_is_not_shown_but_with_later_contact_is(log):
    log.do("acquire", "a1")
    log.moment += 31
    assert log.values(contact=log.moment - 5) == {}
    assert log.values(contact=log.moment) == {"leader": "a"}


def test_a_snapshot_carries_everything_and_gives_leases_a_full_ttl(log):
    log.do("acquire", "a1")
    log.do("put", "a1", "/service/demo/config", value="{}")
    revision = log.machine.records("/service/demo", Instant(0))[1]
    log.moment += 25
    log.machine.restore(json.loads(json.dumps(log.machine.dump())))
    assert log.machine.records("/service/demo", Instant(0))[1] != revision
    log.moment += 29
    assert log.expire_due() == 0 and log.values() == {"leader": "a", "config": "{}"}
    assert log.do("renew", "a1") == {"renewal": "held"}


def test_renewing_and_taking_over_are_no_events_but_losing_is(log):
    def revision() -> str:
        return log.machine.records("/service/demo", Instant(0))[1]

    log.do("acquire", "a1")
    seen = revision()
    log.do("renew", "a1")
    log.do("renew", "a2")
    assert revision() == seen
    log.do("release", "a2")
    assert revision() != seen


def test_riders_are_written_only_with_a_renewal_that_held(log):
    riders = {"/service/demo/status": "1"}
    assert log.do("renew", "a1", riders=riders) == {"renewal": "gone"}
    assert log.values() == {}
    log.do("acquire", "a1")
    log.do("renew", "a1", riders=riders)
    assert log.values()["status"] == "1"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"op":"format"}', '{"op":"put","session":"x"}', '{"op":["put"]}', "1"])
def test_a_command_nobody_understands_is_refused_and_does_not_raise(log, text):
    assert "refused" in log.decide(text)
    assert log.values() == {}


def test_sessions_without_a_lease_are_forgotten_and_those_with_one_are_kept(log):
    log.do("acquire", "a1")
    for number in range(3 * IDLE_SESSIONS_KEPT):
        log.do("put", f"observer{number}", "/service/demo/config", value=str(number))
    assert len(log.machine.dump()["sessions"]) == IDLE_SESSIONS_KEPT + 1
    assert log.do("renew", "a1") == {"renewal": "held"}


def test_the_layout_is_the_one_other_tools_know(log):
    log.do("acquire", "a1", time=50.0)
    log.do("put", "a1", "/service/demo/config", value="{}", time=51.0)
    log.do("renew", "a1", time=60.0)
    data = log.machine.dump()["data"]
    assert data["/service/demo/config"] == {"value": "{}", "created": 51.0, "updated": 51.0, "index": 2}
    lock = data["/service/demo/leader"]
    assert (lock["value"], lock["created"], lock["updated"], lock["expire"], lock["index"]) == ("a", 50.0, 60.0, 90.0, 1)
