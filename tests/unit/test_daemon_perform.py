"""Actions become effects: on a store in memory, real files and real plugins. A failure is an outcome. (architecture 7)"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgcore.clock import Deadline, now
from pgcore.daemon.perform import Performer
from pgcore.daemon.run import _enforced as enforced
from pgcore.dcs.retry import FIRST_PAUSE_S, retrying
from pgcore.dcs.store import ANYTHING, Expect, Key, Refused, Stored
from pgcore.decide.advance import ClusterReading, advance
from pgcore.errors import StoreRejectedError, StoreUnavailableError
from pgcore.hookspecs import TaskContext
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Lsn, Role, Timing
from pgcore.model.cluster import ClusterStatus, HistoryEntry, Member
from pgcore.model.node import NodeView, TaskKind
from pgcore.model.world import LeaseState, Memory
from pgcore.postgres.server import Postgres
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from unit.test_daemon_kit import SHORT, Bench, Plugins, eventually, plugins_on_path, result_of


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Bench]:
    member = Bench(tmp_path)
    yield member
    member.close()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        yield plugins


def do(member: Bench, action: a.Action, **facts: Any) -> a.Outcome:
    return member.performer.perform(action, member.world(**facts))


def waiting(go_on: threading.Event) -> Callable[[TaskContext], None]:
    """A long action that lasts until it is told."""

    def work(ctx: TaskContext) -> None:
        assert go_on.wait(5)

    return work


def stored(member: Bench, key: str) -> str | None:
    record = member.store.read(fresh=True, deadline=Deadline.after(1)).records.get(key)
    return record.value if record else None


def version(member: Bench, key: str) -> str:
    return member.store.read(fresh=True, deadline=Deadline.after(1)).records[key].version


# -- repeating inside one deadline -------------------------------------------------------------------------------------


class Verb:
    """A store operation that fails so often before it answers."""

    def __init__(self, failures: int, error: type[Exception] = StoreUnavailableError) -> None:
        self.failures, self.error, self.calls, self.lefts = failures, error, 0, [0.0]

    def __call__(self, deadline: Deadline) -> str:
        self.calls += 1
        self.lefts.append(deadline.left())
        if self.calls <= self.failures:
            raise self.error(f"attempt {self.calls}")
        return "answer"


def test_an_operation_is_repeated_until_it_answers() -> None:
    verb = Verb(2)
    assert retrying(verb, Deadline.after(5)) == "answer"
    assert verb.calls == 3
    assert verb.lefts[1:] == sorted(verb.lefts[1:], reverse=True)


def test_an_operation_is_not_repeated_beyond_its_deadline() -> None:
    verb, began = Verb(1000), time.monotonic()
    with pytest.raises(StoreUnavailableError):
        retrying(verb, Deadline.after(0.4))
    assert 0.1 < time.monotonic() - began < 0.6
    assert 2 <= verb.calls <= 4


def test_an_operation_is_tried_once_when_there_is_no_time_for_more() -> None:
    verb = Verb(1000)
    with pytest.raises(StoreUnavailableError, match="attempt 1"):
        retrying(verb, Deadline.after(FIRST_PAUSE_S / 2))
    assert verb.calls == 1


@pytest.mark.parametrize("error", [StoreRejectedError, ValueError])
def test_what_repeating_cannot_mend_is_raised_at_once(error: type[Exception]) -> None:
    verb = Verb(1, error)
    with pytest.raises(error):
        retrying(verb, Deadline.after(5))
    assert verb.calls == 1


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_the_lock_is_won_by_the_first_and_kept(member: Bench) -> None:
    assert do(member, a.AcquireLease()).value is True
    assert do(member, a.AcquireLease()).value is True
    other = MemoryStore(member.server, "b", SHORT)
    assert not other.acquire(force=False, deadline=Deadline.after(1))
    assert stored(member, Key.LEADER) == "a"


def test_a_lost_race_is_an_outcome_that_is_well(member: Bench) -> None:
    MemoryStore(member.server, "b", SHORT).acquire(force=False, deadline=Deadline.after(1))
    outcome = do(member, a.AcquireLease())
    assert (outcome.ok, outcome.value) == (True, False)
    assert do(member, a.AcquireLease(force=True)).value is True


@pytest.mark.parametrize(("holder", "value"), [("a", "held"), ("b", "taken"), (None, "gone")])
def test_a_renewal_says_what_became_of_the_lock(member: Bench, holder: str | None, value: str) -> None:
    if holder:
        MemoryStore(member.server, holder, SHORT).acquire(force=False, deadline=Deadline.after(1))
    outcome = do(member, a.RenewLease())
    assert (outcome.ok, outcome.value) == (True, value)
    assert LeaseState(str(outcome.value)) in LeaseState


def test_a_proven_lease_counts_from_before_the_question(member: Bench) -> None:
    do(member, a.AcquireLease())
    world = member.world()
    before = now()
    outcome = member.performer.perform(a.RenewLease(), world)
    assert outcome.began is not None and before <= outcome.began <= outcome.at <= now()
    assert advance(world, a.RenewLease(), outcome).memory.lease_until == outcome.began + SHORT.ttl


def test_the_lock_is_given_back_after_the_position_was_written(member: Bench) -> None:
    do(member, a.AcquireLease())
    assert do(member, a.ReleaseLease(ClusterStatus(Lsn(77)))).value is True
    assert stored(member, Key.LEADER) is None
    assert json.loads(stored(member, Key.STATUS) or "") == {"optime": 77}
    assert do(member, a.ReleaseLease()).value is False


ALL_STORE_ACTIONS = [
    a.ReadCluster(),
    a.AcquireLease(),
    a.RenewLease(),
    a.ReleaseLease(),
    a.ReleaseLease(ClusterStatus(Lsn(1))),
    a.ClaimInitialize(),
    a.WriteInitialize("7300000000000000001"),
    a.DropInitialize("1"),
    a.WriteConfig({"ttl": 30}),
    a.WriteStatus(ClusterStatus(Lsn(1))),
    a.WriteHistory(()),
    a.WriteFailover(),
    a.Announce({"state": "running"}),
]


@pytest.mark.parametrize("action", ALL_STORE_ACTIONS, ids=lambda action: type(action).__name__)
def test_in_an_outage_every_store_action_is_undecided_within_its_time(
    member: Bench, action: a.Action, caplog: pytest.LogCaptureFixture
) -> None:
    world = member.world(memory=Memory(lease_until=Instant(now() + 2)), is_primary=True)
    with member.server.outage():
        began = time.monotonic()
        outcome = member.performer.perform(action, replace(world, settings=replace(world.settings, timing=Timing(5, 1, 1))))
        took = time.monotonic() - began
    assert (outcome.ok, outcome.value, outcome.error) == (False, None, "the memory store is switched off")
    assert took < 0.6
    assert f"{type(action).__name__}: the memory store is switched off" in caplog.text


def test_a_short_outage_is_bridged(member: Bench) -> None:
    do(member, a.AcquireLease())
    with member.server.outage():
        over = threading.Timer(0.15, lambda: member.server._switch(reachable=True))
        over.start()
        assert do(member, a.RenewLease()).value == "held"
        over.join()


# -- conditional writes ------------------------------------------------------------------------------------------------


class Undecided(MemoryStore):
    """Every write happens, but its answer gets lost."""

    puts = 0

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Write, then say nothing of it."""
        self.puts += 1
        super().put(key, value, expect=expect, deadline=deadline)
        raise StoreUnavailableError("the answer got lost")


@pytest.mark.parametrize(
    "action", [a.ClaimInitialize(), a.WriteInitialize("7300000000000000001"), a.WriteConfig({}), a.WriteFailover()]
)
def test_a_conditional_write_whose_answer_got_lost_is_not_repeated(tmp_path: Path, action: a.Action) -> None:
    store = Undecided(MemoryServer(), "a", SHORT)
    member = Bench(tmp_path, store=store)
    outcome = do(member, action)
    assert (outcome.ok, store.puts) == (False, 1)
    member.close()


def test_only_one_claims_the_right_to_bootstrap(member: Bench) -> None:
    won = do(member, a.ClaimInitialize())
    assert won.ok and won.value == version(member, Key.INITIALIZE)
    lost = do(member, a.ClaimInitialize())
    assert (lost.ok, lost.value) == (True, None)
    assert not advance(member.world(), a.ClaimInitialize(), lost).last.ok  # type: ignore[union-attr]


def test_the_system_identifier_replaces_only_what_was_read(member: Bench) -> None:
    claimed = str(do(member, a.ClaimInitialize()).value)
    assert do(member, a.WriteInitialize("71", None)).value is False
    assert do(member, a.WriteInitialize("71", claimed)).value is True
    assert do(member, a.WriteInitialize("72", claimed)).value is False
    assert stored(member, Key.INITIALIZE) == "71"


def test_a_claim_is_dropped_only_while_it_is_ours(member: Bench) -> None:
    claimed = str(do(member, a.ClaimInitialize()).value)
    do(member, a.WriteInitialize("71", claimed))
    assert do(member, a.DropInitialize(claimed)).value is False
    assert stored(member, Key.INITIALIZE) == "71"
    assert do(member, a.DropInitialize(version(member, Key.INITIALIZE))).value is True
    assert stored(member, Key.INITIALIZE) is None


def test_configuration_and_request_are_replaced_only_as_read(member: Bench) -> None:
    assert do(member, a.WriteConfig({"ttl": 30})).value is True
    assert do(member, a.WriteConfig({"ttl": 40})).value is False
    assert do(member, a.WriteConfig({"ttl": 50}, version(member, Key.CONFIG))).value is True
    assert stored(member, Key.CONFIG) == '{"ttl":50}'
    do(member, a.WriteFailover("a", "b"))
    old = version(member, Key.FAILOVER)
    do(member, a.WriteFailover("a", "c"))
    assert do(member, a.WriteFailover(version=old)).value is False
    assert do(member, a.WriteFailover(version=version(member, Key.FAILOVER))).value is True
    assert stored(member, Key.FAILOVER) == "{}"


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_reading_brings_cluster_and_settings_together(member: Bench) -> None:
    do(member, a.AcquireLease())
    do(member, a.WriteConfig({"ttl": 50, "postgresql": {"parameters": {"max_connections": 66}}}))
    outcome = do(member, a.ReadCluster())
    assert isinstance(outcome.value, ClusterReading)
    assert (outcome.value.cluster.leader, outcome.value.settings.timing.ttl) == ("a", 50)
    assert member.performer.revision == outcome.value.cluster.revision != ""
    assert member.postgres.settings.parameters["max_connections"] == 66
    do(member, a.RenewLease())
    lease = member.server.entries[Key.LEADER].lease
    assert lease is not None and member.server.next_expiry_s() == pytest.approx(50, abs=1)


def test_a_plugin_whose_parameters_become_nonsense_is_no_lost_store(tmp_path: Path, plugins: Plugins) -> None:
    source = "WANTED = [{}, {}, ['nonsense']]\n@hookimpl\ndef pgcore_server_parameters(facts): return WANTED.pop(0)\n"
    member = Bench(tmp_path, registry=plugins.registry(fickle=source))
    member.configuration._enforced = lambda: enforced(member.registry, member.configuration.local)
    for ttl in (50, 60, 70):
        do(member, a.WriteConfig({"ttl": ttl}, version(member, Key.CONFIG) if ttl > 50 else None))
        outcome = do(member, a.ReadCluster())
        assert outcome.ok and isinstance(outcome.value, ClusterReading) and outcome.value.settings.timing.ttl == ttl
    member.close()


def test_the_local_history_becomes_the_stored_one(member: Bench, tmp_path: Path) -> None:
    wal = tmp_path / "data" / "pg_wal"
    wal.mkdir(parents=True)
    (wal / "00000003.history").write_text("1\t0/3000000\tno recovery target specified\n2\t0/5000000\tbefore 2000-01-01\n")
    found = do(member, a.ReadHistory(3)).value
    assert isinstance(found, tuple)
    assert [(entry.timeline, int(entry.lsn), entry.new_leader) for entry in found] == [(1, 0x3000000, None), (2, 0x5000000, "a")]
    do(member, a.WriteHistory(found))
    first, second = json.loads(stored(member, Key.HISTORY) or "")
    assert first == [1, 0x3000000, "no recovery target specified"]
    assert second[:3] == [2, 0x5000000, "before 2000-01-01"] and second[4] == "a" and second[3][:2] == "20"
    assert do(member, a.ReadHistory(1)).value == ()


def test_history_lines_of_others_are_written_as_they_were_read(member: Bench) -> None:
    entry = HistoryEntry(1, Lsn(5), "x", raw=(1, 5, "x", "2020-01-01T00:00:00+00:00", "z"))
    do(member, a.WriteHistory((entry,)))
    assert stored(member, Key.HISTORY) == '[[1,5,"x","2020-01-01T00:00:00+00:00","z"]]'


def test_peers_are_polled_and_probed(member: Bench) -> None:
    nobody = Member("b", api_url="http://127.0.0.1:1/patroni")
    answers = do(member, a.PollPeers((nobody,), 0.5)).value
    assert isinstance(answers, dict) and not answers["b"].reachable
    assert do(member, a.ProbePeers((nobody,))).ok
    view = do(member, a.ObserveNode()).value
    assert isinstance(view, NodeView) and view.silent == {"b"}


# -- card --------------------------------------------------------------------------------------------------------------

FIELDS = """
@hookimpl
def pgcore_member_fields(facts):
    return {"rack": 7, "state": "theirs", "told": [facts.scope, facts.member, str(facts.role), facts.is_leader]}
"""


def card(member: Bench) -> Any:
    return json.loads(stored(member, "members/a") or "null")


def test_the_card_carries_fields_of_plugins_below_its_own(tmp_path: Path, plugins: Plugins) -> None:
    member = Bench(tmp_path, registry=plugins.registry(fields=FIELDS))
    assert do(member, a.Announce({"state": "running"})).ok
    assert card(member) == {"state": "running", "rack": 7, "told": ["demo", "a", "replica", False]}
    member.close()


def test_the_card_is_published_although_a_plugin_fails(tmp_path: Path, plugins: Plugins) -> None:
    broken = "@hookimpl\ndef pgcore_member_fields(facts): return {'x': 1 / 0}\n"
    member = Bench(tmp_path, registry=plugins.registry(broken=broken, fields=FIELDS))
    assert do(member, a.Announce({"state": "running"})).ok
    assert card(member)["rack"] == 7
    member.close()


@pytest.mark.parametrize("value", ["{'when': object()}", "['a list']", "{'x': float('nan'), 'y': {1}}", "7", "{('a', 'b'): 1}"])
def test_the_card_is_published_although_a_plugin_brings_nonsense(tmp_path: Path, plugins: Plugins, value: str) -> None:
    member = Bench(tmp_path, registry=plugins.registry(odd=f"@hookimpl\ndef pgcore_member_fields(facts): return {value}\n"))
    try:
        assert do(member, a.Announce({"state": "running"})).ok
        assert card(member) == {"state": "running"}
    finally:
        member.close()


# -- long actions ------------------------------------------------------------------------------------------------------


def test_a_second_long_action_is_refused_with_the_name_of_the_first(member: Bench) -> None:
    go_on = threading.Event()
    member.tasks.begin(TaskKind.CLONE, waiting(go_on))
    outcome = do(member, a.StopServer(a.StopMode.FAST))
    assert (outcome.ok, outcome.error) == (False, "stop cannot begin: clone is still running")
    go_on.set()
    result_of(member.tasks)


def test_an_observation_carries_task_and_result(member: Bench) -> None:
    go_on = threading.Event()
    member.tasks.begin(TaskKind.CLONE, waiting(go_on))
    view = do(member, a.ObserveNode()).value
    assert isinstance(view, NodeView) and view.task is not None and view.task.kind is TaskKind.CLONE and view.finished is None
    go_on.set()
    eventually(lambda: "clone ended" in member.mailbox.woken)
    view = do(member, a.ObserveNode()).value
    assert isinstance(view, NodeView) and view.task is None and view.finished is not None and view.finished.ok
    view = do(member, a.ObserveNode()).value
    assert isinstance(view, NodeView) and view.finished is None


class EndsMeanwhile(Postgres):
    """While the server is looked at, the long action ends."""

    go_on: threading.Event
    ended: threading.Event

    def observe(self, deadline: Deadline) -> NodeView:
        """Let the action end and wait until it has."""
        view = super().observe(deadline)
        self.go_on.set()
        assert self.ended.wait(5)
        return view


def test_an_action_that_ends_during_the_look_is_seen_as_running_or_as_ended(tmp_path: Path) -> None:
    member = Bench(tmp_path, postgres=EndsMeanwhile)
    go_on, ended = threading.Event(), threading.Event()
    assert isinstance(member.postgres, EndsMeanwhile)
    member.postgres.go_on, member.postgres.ended = go_on, ended

    def watch() -> None:
        eventually(lambda: "clone ended" in member.mailbox.woken)
        ended.set()

    member.tasks.begin(TaskKind.CLONE, waiting(go_on))
    threading.Thread(target=watch, daemon=True).start()
    view = do(member, a.ObserveNode()).value
    assert isinstance(view, NodeView)
    assert (view.task is not None) != (view.finished is not None)
    if view.finished is None:
        view = do(member, a.ObserveNode()).value
        assert isinstance(view, NodeView) and view.task is None and view.finished is not None
    member.close()


def test_a_clone_that_fails_leaves_no_half_made_directory(tmp_path: Path, plugins: Plugins) -> None:
    method = (
        "import os\n"
        "def run(request):\n"
        "    os.makedirs(request.server.data_dir, exist_ok=True)\n"
        "    open(os.path.join(request.server.data_dir, 'PG_VERSION'), 'w').write('15')\n"
        "    raise ServerError('the source went away')\n"
        "@hookimpl\n"
        "def pgcore_replica_methods(): return [ReplicaMethod('halfway', run)]\n"
    )
    methods = {"create_replica_methods": ["unknown", "halfway"]}
    member = Bench(tmp_path, registry=plugins.registry(halfway=method), changes={"postgresql": methods})
    assert do(member, a.Clone(None)).ok
    result = result_of(member.tasks)
    assert (result.kind, result.ok) == (TaskKind.CLONE, False)
    assert not (tmp_path / "data" / "PG_VERSION").exists()
    member.close()


def test_a_bootstrap_method_nobody_brings_is_refused_by_name(tmp_path: Path, plugins: Plugins) -> None:
    member = Bench(tmp_path, registry=plugins.registry(), changes={"bootstrap": {"method": "initdb"}})
    outcome = do(member, a.Bootstrap())
    assert not outcome.ok and "bootstrap.method is initdb, which no active plugin brings" in outcome.error
    member.close()


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_actions_of_memory_have_no_effect_and_an_exit_is_noted(member: Bench) -> None:
    assert do(member, a.MarkUndecided()).ok
    assert member.performer.exit is None
    do(member, a.Exit(3, "cannot go on"))
    assert member.performer.exit == a.Exit(3, "cannot go on")


def test_every_action_that_is_no_memory_has_a_performer(member: Bench) -> None:
    remembered = {
        a.BeginDemotion,
        a.EnterPhase,
        a.EndProcedure,
        a.EnterBootstrap,
        a.SetRewind,
        a.MarkUndecided,
        a.LeaveSync,
        a.ReturnToSync,
        a.MarkBlocked,
        a.NoteProof,
        a.NoteRequest,
        a.Refuse,
        a.RefuseOrder,
        a.LeaveSync,
        a.ReturnToSync,
        a.TakeSchedule,
        a.DropSchedule,
    }
    assert set(a.Action.__args__) - set(member.performer._handlers) == remembered


def test_a_write_another_thread_asked_for_is_answered_as_the_store_did(member: Bench) -> None:
    performer: Performer = member.performer
    assert isinstance(performer.write_key(Key.FAILOVER, "{}", ANYTHING, Deadline.after(1)), Stored)
    assert isinstance(performer.write_key(Key.FAILOVER, "{}", Expect(version="0"), Deadline.after(1)), Refused)
    with member.server.outage(), pytest.raises(StoreUnavailableError):
        performer.write_key(Key.FAILOVER, "{}", ANYTHING, Deadline.after(1))


def test_an_error_of_the_server_is_an_outcome(member: Bench) -> None:
    outcome = do(member, a.ChangeSlots(create=("no_server",)), role=Role.PRIMARY)
    assert (outcome.ok, outcome.value) == (False, None) and "Connection refused" in outcome.error
