"""A cluster that replicates a primary elsewhere, which has no agent in this world. (HA rules 22)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.dcs.store import MEMBERS, Key
from pgcore.model.basics import Role
from pgcore.testing.simulation.server_files import SlotState
from sim.conftest import Simulate
from sim.remote import HOST, SECTION, follow, follows, remote_primary, remote_standby
from sim.told import decided, files, forget, others, primary, rules_of, slots, starts, status, streams_from

SECOND = "10.9.9.8"
BOTH = {"host": f"{HOST},{SECOND}", "port": 5432, "primary_slot_name": "west"}


def test_synchronous_mode_means_nothing_in_a_standby_cluster(simulate: Simulate) -> None:
    """It is configured and ignored: no /sync, no names of synchronous standbys, no such role anywhere (EC 198)."""
    dynamic = {"standby_cluster": SECTION, "synchronous_mode": True, "synchronous_mode_strict": True}
    world = simulate(settled=False, dynamic=dynamic)
    follow(world, remote_primary(world))
    world.run(20)
    assert world.view().sync.leader is None
    for machine in world:
        assert status(machine).synchronous == "off" and files(machine).names == ""
        assert "sync_standby" not in world.key(MEMBERS + machine.name)
    assert world.clients.acknowledged > 10, "the remote's clients do not wait"


def test_replicas_of_a_holder_without_a_card_stay_where_they_are(simulate: Simulate) -> None:
    """The standby leader's member key is gone, its lock is not: replicas keep their upstream (EC 199)."""
    world = simulate(settled=False, dynamic={"standby_cluster": SECTION})
    follow(world, remote_primary(world))
    holder = primary(world)
    thaw = holder.freeze_agent()
    forget(world)
    with world.store.session() as server:
        server.remove(MEMBERS + holder.name)
    world.run(5)
    assert world.leader == holder.name and world.view().member(holder.name) is None
    for machine in others(world):
        assert decided(machine, "replica.keep_upstream") and streams_from(machine) == holder.name
        assert starts(world, machine) == 1
    thaw()
    world.run(10)
    assert world.leader == holder.name and follows(world, world.fleet.servers[HOST, 5432])


@pytest.mark.parametrize("ahead", [False, True], ids=["behind", "ahead"])
def test_the_remote_moves_to_another_timeline(simulate: Simulate, ahead: bool) -> None:
    """The remote fails over: the standby leader sees the history, rewinds if it is ahead, tells the timeline (EC 200)."""
    world = simulate(settled=False, dynamic={"standby_cluster": {**BOTH, "primary_slot_name": None}})
    remote = remote_primary(world)
    second = remote_standby(world, remote, SECOND, "second")
    follow(world, remote)
    assert world.run_until(lambda: second.receiver is not None, 10)
    if ahead:
        second.pace.receive_s = 1e9
        world.run(4)
    remote.power_off()
    world.run(0.5)
    world.checker.operator_acted()
    second.promote()
    assert world.run_until(lambda: follows(world, second), 120), [rules_of(machine)[-4:] for machine in world]
    world.run(12)
    assert second.timeline == 2
    for machine in world:
        assert machine.server.at == second.at or second.at.contains(machine.server.at)
        member = world.view().member(machine.name)
        assert member is not None and member.timeline == 2
    assert world.said(primary(world).name, "server: rewound") == int(ahead)
    assert all(machine.server.in_recovery for machine in world)


def test_a_cluster_becomes_a_standby_cluster_and_keeps_its_lock(simulate: Simulate) -> None:
    """The section is added, WAL is archived: an orderly stop, the end is archived, the holder leads on as a standby (EC 201)."""
    parameters = {"archive_mode": "on", "archive_command": "true"}
    world = simulate(dynamic={"postgresql": {"use_pg_rewind": True, "parameters": parameters}})
    holder = primary(world)
    remote = remote_standby(world, holder.server)
    assert world.run_until(lambda: remote.receiver is not None, 10)
    leaders: set[str | None] = set()
    world.on_beat.append(lambda name, beat: leaders.add(world.leader))
    world.configure(standby_cluster=SECTION)
    assert world.run_until(lambda: not holder.server.running, 30)
    end = holder.server.at
    assert world.run_until(lambda: decided(holder, "demotion.archive"), 10)
    assert world.run_until(lambda: remote.at.contains(end), 10)
    remote.promote()
    follow(world, remote)
    assert leaders == {holder.name} and status(holder).node.role is Role.STANDBY_LEADER
    assert world.said(holder.name, "server: stopped") == 1 and not world.said(holder.name, "server: crashed")
    assert remote.at.contains(end)


def test_the_section_is_removed_and_the_holder_is_promoted(simulate: Simulate) -> None:
    """Without the section the holder becomes a primary and the others follow it (EC 202)."""
    world = simulate(settled=False, dynamic={"standby_cluster": SECTION})
    remote = remote_primary(world)
    follow(world, remote)
    holder = primary(world)
    world.configure(standby_cluster=None)
    world.settle()
    assert world.leader == holder.name and world.writable() == [holder.name] and holder.server.timeline == 2
    assert remote.writable and remote.timeline == 1 and remote.receiver is None
    assert not remote.senders


def test_an_archive_alone_gives_no_connection(simulate: Simulate) -> None:
    """The section has nothing but a restore_command: the holder has no primary_conninfo, the others follow it (EC 203)."""
    section = {"restore_command": "cp %f %p", "create_replica_methods": ["restore"]}
    local: dict[str, Any] = {"postgresql": {"restore": {"no_leader": True}}}
    world = simulate(settled=False, dynamic={"standby_cluster": section}, local=local)
    remote = remote_primary(world)
    world.run(0.5)
    assert remote.files is not None
    for machine in world:
        machine.server.backup = replace(remote.files, slots={})
    assert world.run_until(lambda: all(streams_from(machine) == world.leader for machine in others(world)) and
                           world.leader is not None, 60)
    holder = primary(world)
    assert holder.server.running and files(holder).standby_signal and files(holder).followed is None
    assert status(holder).node.role is Role.STANDBY_LEADER and status(holder).node.has_restore_command
    assert decided(holder, "no_data.claim_standby_cluster", "a copy of the archive") and remote.senders == []


def test_a_cascading_replica_restores_from_the_section_too(simulate: Simulate) -> None:
    """A replica below another replica has the section's restore_command (EC 204)."""
    dynamic = {"standby_cluster": {**SECTION, "restore_command": "cp %f %p"}}
    world = simulate(settled=False, dynamic=dynamic, own={"c": {"tags": {"replicatefrom": "b"}}})
    remote = remote_primary(world)
    thaw = [world[name].freeze_agent() for name in "bc"]
    assert world.run_until(lambda: world.leader == "a", 30)
    for each in thaw:
        each()
    assert world.run_until(lambda: streams_from(world["c"]) == "b" and streams_from(world["b"]) == "a", 60)
    world.run(5)
    assert streams_from(world["a"]) == remote.name
    assert status(world["c"]).node.has_restore_command


@pytest.mark.parametrize("hosts", [1, 2])
def test_only_among_several_remote_hosts_the_primary_is_looked_for(simulate: Simulate, hosts: int) -> None:
    """With two hosts the connection is to whichever accepts writes; with one it is to that, whatever it is (EC 205)."""
    section = BOTH if hosts == 2 else {**SECTION, "primary_slot_name": "west"}
    world = simulate(settled=False, dynamic={"standby_cluster": section})
    remote = remote_primary(world, SECOND if hosts == 2 else HOST)
    if hosts == 2:
        remote_standby(world, remote, HOST, "second")
    slots(remote)["west"] = SlotState("west", True, remote.at.position)
    follow(world, remote)
    followed = files(primary(world)).followed
    assert followed is not None and followed.read_write is (hosts == 2) and followed.slot == "west"
    assert Key.LEADER in world.store.entries
