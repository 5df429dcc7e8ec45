"""The commands that move a cluster to pgcore, node by node, and back; as steps, in the order in which they are to be done."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pgcore.model.basics import Role
from pgcore.model.cluster import ClusterView, Member
from pgcore.rest.members import ClusterMode

ANYWHERE = "any machine with pgcore and the file"


@dataclass(frozen=True, slots=True)
class Units:
    """How the agents are started on the nodes, and where their configuration lies there."""

    patroni: str = "patroni"
    pgcore: str = "pgcore"
    file: str = "/etc/patroni/patroni.yml"


@dataclass(frozen=True, slots=True)
class Step:
    """Commands for one place with the reason for them. ``member``: whose agent they are about; empty for the whole cluster."""

    title: str
    where: str
    commands: tuple[str, ...]
    member: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for one direction: without steps nothing. ``done`` are the members that run the wanted agent already."""

    title: str
    steps: tuple[Step, ...]
    done: tuple[str, ...] = ()


def forth(scope: str, view: ClusterView, units: Units, *, switchover: bool = False) -> Plan:
    """From Patroni to pgcore: standbys first, the leader last. Members that run pgcore already are left out."""
    ahead = [member for member in in_order(view) if not runs_pgcore(member)]
    done = tuple(sorted(member.name for member in view.members if runs_pgcore(member)))
    steps: list[Step] = [look(scope, units), *(_before(member, units) for member in ahead)]
    for member in ahead:
        if switchover and member.name == view.leader:
            steps += _handed_over(scope, member, view, units)
        steps += _exchange(scope, member, units, stop=units.patroni, start=units.pgcore, paused=ClusterMode.of(view).paused)
    return Plan(f"{scope}: from Patroni to pgcore", (*steps, look(scope, units)) if ahead else (), done)


def back(scope: str, view: ClusterView, units: Units) -> Plan:
    """From pgcore to Patroni: the members that run pgcore; if none does, all, as after ``forth``. Standbys first."""
    members = in_order(view)
    ours = [member for member in members if runs_pgcore(member)] or members
    done = tuple(sorted(member.name for member in members if member not in ours))
    steps = [look(scope, units), *settings(scope, view, units)]
    for member in ours:
        steps += _exchange(scope, member, units, stop=units.pgcore, start=units.patroni, paused=ClusterMode.of(view).paused)
    return Plan(f"{scope}: back from pgcore to Patroni", (*steps, look(scope, units)), done)


def runs_pgcore(member: Member) -> bool:
    """Its card says so; one that cannot be read is taken for the other's."""
    return "pgcore_version" in member.data


def in_order(view: ClusterView) -> list[Member]:
    """Standbys that follow other standbys, the other standbys, the leader; by name within each."""
    sources = {member.tags.replicatefrom for member in view.members}

    def late(member: Member) -> tuple[bool, bool, str]:
        leads = member.name == view.leader or (view.leader is None and member.role in (Role.PRIMARY, Role.STANDBY_LEADER))
        return leads, member.name in sources, member.name

    return sorted(view.members, key=late)


def look(scope: str, units: Units) -> Step:
    """How the cluster is, before and after all else."""
    return Step("Look: one leader, everybody else streaming, no lag", ANYWHERE, (pgcore(units, "list", scope),))


def _before(member: Member, units: Units) -> Step:
    """Nothing of this touches the running agent."""
    return Step(f"{member.name}: install pgcore beside Patroni, with a unit that runs `pgcore run {units.file}`. The check finds "
                "nothing that must change, and both units have KillMode=process, as systemd stops PostgreSQL otherwise",
                f"{_host(member)}, as the agent's account",
                (f"pgcore migrate check {shlex.quote(units.file)}",
                 f"systemctl show --property KillMode {units.patroni} {units.pgcore}"), member.name)


def _exchange(scope: str, member: Member, units: Units, *, stop: str, start: str, paused: bool) -> Iterator[Step]:
    """One agent for the other while PostgreSQL runs on; nobody fails over meanwhile."""
    if not paused:
        yield Step(f"{member.name}: maintenance mode, so that nobody fails over", ANYWHERE,
                   (pgcore(units, "pause", "--wait", scope),),
                   member.name)
    yield Step(f"{member.name}: {start} takes the running PostgreSQL over from {stop}", f"{_host(member)}, as root",
               (f"systemctl disable --now {stop}", f"systemctl enable --now {start}"), member.name)
    yield Step(f"{member.name}: it answers, and PostgreSQL was not restarted", ANYWHERE,
               (f"until {pgcore(units, 'version', scope, member.name)}; do sleep 1; done",), member.name)
    if not paused:
        yield Step(f"{member.name}: end of maintenance mode", ANYWHERE, (pgcore(units, "resume", "--wait", scope),), member.name)


def _handed_over(scope: str, leader: Member, view: ClusterView, units: Units) -> Iterator[Step]:
    candidates = sorted(member.name for member in view.members if member.name != leader.name and not member.tags.nofailover)
    if candidates:
        yield Step(f"{leader.name}: hand the leadership to a member that runs pgcore", ANYWHERE,
                   (pgcore(units, "switchover", "--leader", leader.name, "--candidate", candidates[0], "--force", scope),),
                   leader.name)


def settings(scope: str, view: ClusterView, units: Units) -> Iterator[Step]:
    """What Patroni does not understand or allow has to leave the configuration of the cluster first."""
    document = (view.config.document if view.config else None) or {}
    changes = [f"-s {key}={value}" for key, value, least in (("ttl", 30, 20), ("retry_timeout", 10, 3))
               if isinstance(document.get(key), int) and document[key] < least]
    changes += [f"-s {key}=null" for key in ("failsafe_quorum",) if key in document]
    if changes:
        yield Step("Settings that only pgcore knows, or Patroni's limits forbid", ANYWHERE,
                   (pgcore(units, "edit-config", "--force", *" ".join(changes).split(), scope),))


def pgcore(units: Units, *words: str) -> str:
    """A command of pgcore's, as a shell takes it."""
    return shlex.join(["pgcore", "-c", units.file, *words])


def _host(member: Member) -> str:
    return f"on {member.address[0]}" if member.address else f"on the machine of {member.name}"
