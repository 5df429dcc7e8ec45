"""Health decisions: the result table of the contract, freshness, lag, tags, probes (rest-api 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pgcore.clock import now
from pgcore.daemon.board import Status
from pgcore.model.basics import Instant, Lsn, Role, State
from pgcore.model.node import WalReceiver
from pgcore.rest import checks
from unit.rest_board import aged, leader_status, primary_node, replica_node, status, view

CONDITIONS: tuple[tuple[str, Callable[[], Status]], ...] = (
    ("primary with lock", leader_status),
    ("standby leader with lock", lambda: status("a", replica_node(role=Role.STANDBY_LEADER), leads=True, standby_cluster=True)),
    ("async replica", status),
    ("sync standby", lambda: status(cluster=view(sync=("B",)), synchronous="on")),
    ("quorum standby", lambda: status(cluster=view(sync=("b", "c")), synchronous="quorum")),
    ("replica with noloadbalance", lambda: status(tags={"noloadbalance": True})),
    ("not running", lambda: status(node=replica_node(state=State.STOPPED, running=False, answering=False, receiver=None))),
    ("primary without lock", lambda: status("a", primary_node(), cluster=view(leader=None), paused=True)),
)
# One line per endpoint, one digit per condition above: 1 is 200.
TABLE_TEXT = """
    / 10000000                 /primary 10000000          /master 10000000           /read-write 10000000
    /leader 11000000           /standby-leader 01000000   /standby_leader 01000000   /replica 00111000
    /read-only 11111000        /sync 00010000             /synchronous 00010000      /quorum 00001000
    /async 00100000            /asynchronous 00100000     /read-only-sync 11010000   /read-only-synchronous 11010000
    /read-only-quorum 11001000 /health 11111101           /nonsense 00000000         /Primary 00000000
    /x/leader 11000000         /replica/foo 00111000      /healthz 11111101          /syncx 00000000
"""
TABLE = TABLE_TEXT.split()
CASES = [
    (path, name, make, digit == "1")
    for path, digits in zip(TABLE[::2], TABLE[1::2], strict=True)
    for (name, make), digit in zip(CONDITIONS, digits, strict=True)
]


@pytest.mark.parametrize(("path", "make", "good"), [case[:1] + case[2:] for case in CASES], ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_result_by_endpoint_and_condition(path: str, make: Callable[[], Status], good: bool) -> None:
    assert checks.health(make(), path, {}, now()) == (200 if good else 503)


@pytest.mark.parametrize("path", ["/replica", "/read-only", "/health", "/async"])
def test_an_observation_older_than_a_lease_vouches_for_nothing(path: str) -> None:
    assert checks.health(aged(status(), 29), path, {}, now()) == 200
    assert checks.health(aged(status(), 31), path, {}, now()) == 503


@pytest.mark.parametrize("path", ["/primary", "/leader", "/read-only", "/read-write", "/"])
def test_the_primary_says_no_the_moment_its_lease_has_run_out(path: str) -> None:
    observed = leader_status()
    assert checks.health(replace(observed, lease_until=Instant(now() - 0.001)), path, {}, now()) == 503


def test_nothing_is_good_before_the_first_heartbeat() -> None:
    assert checks.health(None, "/replica", {}, now()) == 503
    assert checks.readiness(None, {}, now()) == 503
    assert checks.liveness(None, Instant(now() - 59), now()) == 200
    assert checks.liveness(None, Instant(now() - 61), now()) == 503


def test_in_a_pause_without_the_store_the_role_decides() -> None:
    """EC 40"""
    primary = status("a", primary_node(), cluster=None, paused=True)
    assert [checks.health(primary, path, {}, now()) for path in ("/primary", "/leader", "/standby-leader")] == [200, 200, 503]
    assert checks.health(aged(primary, 61), "/primary", {}, now()) == 503
    assert checks.health(replace(primary, paused=False), "/primary", {}, now()) == 503
    assert checks.health(status(cluster=None, paused=True), "/primary", {}, now()) == 503


def test_the_winner_of_a_race_is_primary_and_replica_until_promoted() -> None:
    observed = status("b", leads=True)
    assert [checks.health(observed, path, {}, now()) for path in ("/primary", "/replica")] == [200, 200]


@pytest.mark.parametrize("path", ["/sync", "/async", "/quorum", "/read-only-sync", "/read-only-quorum"])
def test_sync_checks_need_the_store(path: str) -> None:
    assert checks.health(status(cluster=None, synchronous="on"), path, {}, now()) == 503
    assert checks.health(leader_status(cluster=None), path, {}, now()) == 503


@pytest.mark.parametrize(
    ("lag", "code"),
    [
        ("100", 200),
        ("99", 503),
        ("1kB", 200),
        ("0x64", 200),
        ("0144", 200),
        ("1e2", 200),
        ("0", 503),
        ("nonsense", 200),
        ("1 KB", 200),
        ("0.05kB", 503),
    ],
)
def test_lag_limits_a_replica_that_is_100_bytes_behind(lag: str, code: int) -> None:
    assert checks.health(status(), "/replica", {"lag": lag}, now()) == code


def test_lag_counts_from_the_receiver_when_it_knows_more_and_passes_when_nobody_knows() -> None:
    ahead = status(node=replica_node(receiver=WalReceiver("streaming", latest_end=Lsn(5000))))
    assert checks.health(ahead, "/replica", {"lag": "1000"}, now()) == 503
    unknown = status(node=replica_node(receiver=None), cluster=None)
    assert checks.health(unknown, "/replica", {"lag": "0"}, now()) == 200


@pytest.mark.parametrize(
    ("tags", "query", "code"),
    [
        ({"zone": "a"}, {"tag_zone": "a"}, 200),
        ({"zone": "a"}, {"tag_zone": "A"}, 503),
        ({}, {"tag_zone": "a"}, 503),
        ({"clonefrom": True}, {"tag_clonefrom": "true"}, 200),
        ({"rack": 3}, {"tag_rack": "3"}, 200),
        ({"nofailover": False}, {"tag_nofailover": "false"}, 503),
        ({"zone": "a", "rack": 3}, {"tag_zone": "a", "tag_rack": "4"}, 503),
    ],
)
def test_tags_asked_for_must_all_match(tags: dict[str, object], query: dict[str, str], code: int) -> None:
    assert checks.health(status(tags=tags), "/replica", query, now()) == code
    assert checks.health(leader_status(tags=tags), "/primary", query, now()) == 200


def test_the_replication_state_may_be_asked_for() -> None:
    assert checks.health(status(), "/replica", {"replication_state": "streaming"}, now()) == 200
    assert checks.health(status(), "/replica", {"replication_state": "in archive recovery"}, now()) == 503


def test_a_server_that_should_run_but_does_not_answer_is_unknown_and_not_healthy() -> None:
    silent = status(node=replica_node(answering=False))
    assert checks.api_state(silent) == "unknown"
    assert [checks.health(silent, path, {}, now()) for path in ("/health", "/replica")] == [503, 503]


def test_liveness_follows_the_heartbeat_twice_as_long_on_a_standby() -> None:
    due = Instant(now() - 31)
    assert checks.liveness(leader_status(next_beat_due=due), Instant(0.0), now()) == 503
    assert checks.liveness(status(next_beat_due=due), Instant(0.0), now()) == 200
    assert checks.liveness(status(next_beat_due=Instant(now() - 61)), Instant(0.0), now()) == 503
    assert checks.liveness(status(next_beat_due=Instant(now() - 999), paused=True), Instant(0.0), now()) == 200


def test_readiness_of_a_streaming_replica_depends_on_its_lag() -> None:
    assert checks.readiness(leader_status(), {}, now()) == 200
    assert checks.readiness(status(), {}, now()) == 200
    assert checks.readiness(status(maximum_lag_on_failover=99), {}, now()) == 503
    assert checks.readiness(status(maximum_lag_on_failover=99), {"mode": "write"}, now()) == 200
    assert checks.readiness(status(), {"lag": "99"}, now()) == 503
    assert checks.readiness(aged(status(), 31), {}, now()) == 503


def test_archive_recovery_is_not_ready_and_failsafe_may_vouch_for_a_lost_store() -> None:
    archive = status(node=replica_node(receiver=None, has_restore_command=True))
    assert checks.readiness(archive, {}, now()) == 503
    blind = status(node=replica_node(receiver=WalReceiver("streaming")), cluster=None)
    assert checks.readiness(blind, {}, now()) == 503
    assert checks.readiness(replace(blind, failsafe_until=Instant(now() + 5)), {}, now()) == 200
