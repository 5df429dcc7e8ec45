"""Who is chosen as a synchronous standby, who is not, and what the names are when nobody expects them to change."""

from __future__ import annotations

import pytest

from pgcore.dcs.store import Key
from pgcore.model.basics import Json
from pgcore.model.orders import RestartOrder
from pgcore.testing.simulation.agent import config_text
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.server_files import DataFiles, Followed
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import UNFIT, Events, at_once, lose_power, order
from sim.scene import Diary, cast, cut_store
from sim.sync_story import SyncStory, names_of
from sim.told import files

SYNC = {"synchronous_mode": True}
QUORUM = {"synchronous_mode": "quorum"}


def listed(world: World) -> tuple[str, ...]:
    """Who may be promoted beside the leader."""
    return world.view().sync.standbys


def third(world: World) -> Machine:
    """Neither the leader nor its one synchronous standby."""
    return next(machine for machine in world if machine.name not in (world.leader, *listed(world)))


@pytest.mark.parametrize("mode", [SYNC, QUORUM], ids=["on", "quorum"])
def test_names_in_any_spelling_are_waited_for(simulate: Simulate, mode: dict[str, Json]) -> None:
    """Capitals, dashes and words of the syntax: commits are confirmed by such standbys, and one takes over. (EC 127)"""
    world = simulate(nodes=("Node-A", "first", "Any"), dynamic={**mode, "synchronous_node_count": 2})
    leader, *rest = cast(world)
    world.run(10)
    assert sorted(listed(world)) == sorted(each.name for each in rest)
    names = leader.server.waiting.names
    assert names.count == 2 and sorted(names.names) == sorted(each.name for each in rest)
    assert world.clients.last_at is not None and world.now - world.clients.last_at < 3
    lose_power(leader)
    assert world.run_until(lambda: world.writable() != [], 60) and world.leader in {each.name for each in rest}
    leader.power_on()
    world.settle()


def stranger(leader: Machine, name: str) -> Server:
    """Something that streams from the primary under this name and belongs to nobody here."""
    found, theirs = Server(leader.world.fleet, name, "10.9.9.9", machine="stranger"), files(leader)
    found.files = DataFiles(theirs.wal, theirs.control, theirs.wal.position, standby_signal=True,
                            followed=Followed(leader.host, 5432, None, False))
    found.launch()
    return found


def test_a_client_under_the_primarys_own_name_is_never_chosen(simulate: Simulate) -> None:
    """Something streams from the primary as the primary: nobody waits for it. (EC 128)"""
    world = simulate(dynamic={**SYNC, "synchronous_node_count": 3})
    leader, *rest = cast(world)
    story = SyncStory(world)
    stranger(leader, leader.name)
    story.watch(20, 0.02)
    assert leader.name in {stream.standby.name for stream in leader.server.senders if not stream.catching_up}
    assert story.lines == [] and sorted(listed(world)) == sorted(each.name for each in rest)


def test_a_standby_that_does_not_tell_its_position_is_not_chosen(simulate: Simulate) -> None:
    """It streams, but pg_stat_replication shows no position. (EC 129)"""
    world = simulate(nodes=("a", "b"), dynamic=SYNC)
    leader, standby = cast(world)
    new = world.add_machine("c", "10.0.0.9")
    new.server.pace.reports = False
    new.start_agent()
    lose_power(standby)
    assert world.run_until(lambda: len(leader.server.senders) == 1 and leader.server.senders[0].standby is new.server, 60)
    world.run(20)
    assert listed(world) == () and names_of(leader) == ""
    new.server.pace.reports = True
    assert world.run_until(lambda: listed(world) == ("c",), 30)


def test_the_standby_that_may_lead_is_preferred(simulate: Simulate) -> None:
    """Of two standbys one is tagged nofailover. (EC 130)"""
    world = simulate(dynamic=SYNC, own={"a": UNFIT})
    leader, *rest = cast(world)
    if leader.name == "a":
        world.ask_switchover("a", listed(world)[0])
        assert world.run_until(lambda: world.leader != "a", 30)
        world.settle()
        leader, *rest = cast(world)
    fit = next(each for each in rest if each.name != "a")
    story = SyncStory(world)
    lose_power(fit)
    story.until("sync a")
    fit.power_on()
    story.until(f"sync {fit.name}")
    assert world.view().sync.standbys == (fit.name,)


@pytest.mark.parametrize("reason", ["lag", "priority"])
def test_a_standby_a_little_behind_stays_the_synchronous_one(simulate: Simulate, reason: str) -> None:
    """Another has always more: only a limit of the lag or a lower priority makes a change. (EC 131)"""
    world = simulate(dynamic=SYNC, write_s=0.1)
    slow, quick = world[listed(world)[0]], third(world)
    slow.server.pace.receive_s = 0.6
    story = SyncStory(world)
    behind = []
    for _ in range(40):
        story.watch(0.5, 0.02)
        behind.append(quick.server.at.position - slow.server.at.position)
    assert story.lines == [] and sorted(behind)[20] > 300 and min(behind) >= 0
    if reason == "lag":
        world.configure(maximum_lag_on_syncnode=150)
    else:
        quick.config = config_text("simulated", quick.name, quick.host, {"tags": {"sync_priority": 5}}, {})
        quick.kill_agent()
        quick.start_agent()
    story.until(f"sync {quick.name}")


@pytest.mark.parametrize("paused", [False, True])
def test_a_standby_that_does_not_replay_is_swapped_for_one_that_does(simulate: Simulate, paused: bool) -> None:
    """Commits wait for replay, which stands still on the synchronous standby; a limit of the lag is set. (EC 132)"""
    applied = {"parameters": {"synchronous_commit": "remote_apply"}, "use_pg_rewind": True}
    world = simulate(dynamic={**SYNC, "maximum_lag_on_syncnode": 1000, "postgresql": applied}, write_s=0.2)
    if paused:
        world.configure(pause=True)
        world.run(5)
    still, healthy = world[listed(world)[0]], third(world)
    if paused:
        still.server.replay_paused = True
    else:
        still.server.pace.replay_s = 1e6
    world.run(2)
    done = world.clients.acknowledged
    story = SyncStory(world)
    story.until(f"sync {healthy.name}")
    assert still.server.receiver is not None
    story.watch(5, 0.02)
    assert world.clients.acknowledged > done + 10 and listed(world) == (healthy.name,)


@pytest.mark.parametrize("how", ["restart", "end"])
def test_a_synchronous_standby_leaves_before_it_stops(simulate: Simulate, how: str) -> None:
    """It is to be restarted, or its agent to end: commits wait for another one first, none of them long. (EC 133)"""
    world = simulate(dynamic=SYNC, write_s=0.2)
    leaves, stays = world[listed(world)[0]], third(world)
    leaves.wanted = how == "restart"
    leaves.server.pace.start_s = 5.0
    events = Events(world)
    if how == "restart":
        order(leaves, RestartOrder())
    else:
        leaves.end_agent()
    at_once(world, lambda: leaves.server.followed is None or not leaves.server.answers, 30, 0.01)
    assert leaves.name not in listed(world)
    world.run(20)
    assert listed(world) == (stays.name,)
    assert events.of("stopped") == [leaves.name] and max(world.clients.gaps, default=0.0) < 2
    if how == "restart":
        world.settle()
        world.run(10)
        assert '"nosync"' not in world.key(f"members/{leaves.name}")


def test_a_synchronous_standby_stops_without_the_store(simulate: Simulate) -> None:
    """The store does not answer when its agent is to end: it does not wait to be released. (EC 133)"""
    world = simulate(dynamic=SYNC)
    leaves = world[listed(world)[0]]
    leaves.wanted = False
    cut_store(world, leaves)
    world.run(1)
    asked = world.now
    leaves.end_agent()
    assert world.run_until(lambda: not leaves.server.running, 30)
    assert world.now - asked < 10


def test_a_leader_renamed_in_maintenance_is_the_leader_of_sync(simulate: Simulate) -> None:
    """Its agent is started again with another name; ``/sync`` must not go on naming one that is not there. (EC 136)"""
    world = simulate(dynamic=SYNC)
    leader, *rest = cast(world)
    world.configure(pause=True)
    world.run(5)
    leader.wanted = False
    leader.end_agent()
    assert world.run_until(lambda: not leader.agent_runs, 20)
    leader.config = leader.config.replace(f'"name": "{leader.name}"', '"name": "renamed"')
    leader.start_agent()
    assert world.run_until(lambda: world.view().sync.leader == "renamed", 60)
    assert world.leader == "renamed" and leader.server.writable
    assert world.run_until(lambda: len(listed(world)) == 1, 30) and listed(world)[0] in {each.name for each in rest}


def test_a_standby_that_should_cascade_is_no_candidate(simulate: Simulate) -> None:
    """Its tag says that it streams from another standby; that it still streams from the primary does not count. (EC 137)"""
    world = simulate(dynamic={**SYNC, "synchronous_node_count": 2}, own={"a": {"tags": {"replicatefrom": "b"}}, "b": {}},
                     nodes=("a", "b", "c"), settled=False)
    assert world.run_until(lambda: world.leader is not None and len(world[world.leader].server.senders) > 0, 60)
    world.run(10)
    if world.leader != "c":
        world.ask_switchover(world.leader, "c")
        assert world.run_until(lambda: world.leader == "c", 30)
    world.run(20)
    assert listed(world) == ("b",)
    lose_power(world["b"])
    assert world.run_until(lambda: listed(world) == ("a",), 60)
    world["b"].power_on()
    at_once(world, lambda: "b" in {stream.standby.name for stream in world["c"].server.senders}, 60)
    world["a"].freeze_agent()
    assert world.run_until(lambda: listed(world) == ("b",), 60)
    world.run(5)
    assert {member.name for member in world.view().members} == {"a", "b", "c"}
    assert {stream.standby.name for stream in world["c"].server.senders} == {"a", "b"}
    assert listed(world) == ("b",) and names_of(world["c"]) == "b"


def test_without_the_mode_the_users_own_names_are_set(simulate: Simulate) -> None:
    """They are applied while it is off, put aside while it is on, and come back. (EC 138)"""
    world = simulate(dynamic={"postgresql": {"use_pg_rewind": True, "parameters": {"synchronous_standby_names": "elsewhere"}}})
    leader, *_ = cast(world)
    assert names_of(leader) == "elsewhere" and world.key(Key.SYNC) == ""
    world.configure(synchronous_mode=True)
    assert world.run_until(lambda: len(listed(world)) == 1 and names_of(leader) == listed(world)[0], 30)
    world.configure(synchronous_mode=None)
    assert world.run_until(lambda: names_of(leader) == "elsewhere", 30)
    assert world.view().sync.leader is None


def test_an_agent_restarted_in_maintenance_keeps_what_commits_wait_for(simulate: Simulate) -> None:
    """Killed or asked to end, the next one finds the names of the running server. (EC 139)"""
    world = simulate(dynamic=SYNC)
    leader, *_ = cast(world)
    world.configure(pause=True)
    world.run(5)
    story = SyncStory(world)
    before = names_of(leader)
    leader.end_agent()
    story.watch(10, 0.01)
    leader.kill_agent()
    story.watch(2, 0.01)
    leader.start_agent()
    story.watch(10, 0.01)
    assert story.lines == [] and names_of(leader) == before and leader.agent is not None


def test_names_of_the_server_are_compared_not_those_that_stream(simulate: Simulate) -> None:
    """The server waits for two, one of them is gone and not in ``/sync`` either: the names are corrected. (EC 140)"""
    world = simulate(dynamic=SYNC)
    leader, *_ = cast(world)
    standby, gone = listed(world)[0], third(world)
    lose_power(gone)
    world.run(12)
    story = SyncStory(world)
    files(leader).names = f"2 ({','.join(sorted((standby, gone.name)))})"
    leader.server.reload()
    story.until(f"names {standby}")
    assert story.lines == [f"names 2 ({','.join(sorted((standby, gone.name)))})", f"names {standby}"]


def test_a_refused_write_of_sync_postpones_the_promotion(simulate: Simulate) -> None:
    """Somebody writes ``/sync`` while the winner of the race sets its names: it has to prove itself again first. (EC 141)"""
    world = simulate(dynamic={**SYNC, "synchronous_mode_strict": True})
    old, new = cast(world)[0], world[listed(world)[0]]
    diary = Diary(world)
    lose_power(old)
    at_once(world, lambda: new.server.waiting.shown != "", 60)
    assert (world.leader, world.view().sync.leader, new.server.in_recovery) == (new.name, old.name, True)
    world.write(Key.SYNC, world.key(Key.SYNC))
    written = world.store.revision
    at_once(world, lambda: world.writable() == [new.name], 30)
    assert world.view().sync.leader == new.name and int(world.view().sync.version or 0) > written
    assert diary.count(new.name, "leader.sync_before_promotion") == 2
    assert diary.count(new.name, "leader.proven_again") == 1
