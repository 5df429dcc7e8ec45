"""What ``pg_dist_node`` of the coordinator should say, and the steps that lead there. Pure. (HA rules 29)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pgcore.plugin import Group, GroupMember

DEMOTED = "-demoted"
"""Behind the host name of a worker whose primary is about to change: clients of the coordinator wait for the new one."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ``pg_dist_node``."""

    node_id: int
    group: int
    host: str
    port: int
    primary: bool


@dataclass(frozen=True, slots=True)
class AddPrimary:
    """A group is new."""

    group: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class MovePrimary:
    """The primary of a group is elsewhere; the row keeps its id, and so the shards keep their place."""

    node_id: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class AddSecondary:
    """A standby of a group serves reads."""

    host: str
    port: int
    primary_host: str
    primary_port: int


@dataclass(frozen=True, slots=True)
class Remove:
    """A secondary is gone, or becomes something else."""

    host: str
    port: int


Step = AddPrimary | MovePrimary | AddSecondary | Remove
Place = tuple[str, int]


def steps(rows: Iterable[Row], groups: Mapping[int, Group], *, changing: Iterable[int] = ()) -> tuple[Step, ...]:
    """The statements that make the rows fit the groups, in order. Groups in ``changing`` are left alone: their change is open.

    A group without a running primary keeps the row it has, whatever it says: the shards stay where they are, and only a
    leader that really runs as a primary replaces it. (EC 226)
    """
    known: dict[int, list[Row]] = {}
    for row in rows:
        known.setdefault(row.group, []).append(row)
    found: list[Step] = []
    for number, group in sorted(groups.items()):
        if number not in set(changing):
            found += _group_steps(number, group, known.get(number, []))
    return tuple(found)


def _group_steps(number: int, group: Group, rows: list[Row]) -> list[Step]:
    primary = next((row for row in rows if row.primary), None)
    secondaries = {(row.host, row.port) for row in rows if not row.primary}
    leader = group.leader_member
    place = (leader.host, leader.port) if leader is not None and leader.running and leader.primary else None
    found: list[Step] = []
    if place is not None and (primary is None or (primary.host, primary.port) != place):
        if place in secondaries:
            found.append(Remove(*place))
            secondaries.remove(place)
        found.append(AddPrimary(number, *place) if primary is None else MovePrimary(primary.node_id, *place))
    serving = place or ((primary.host, primary.port) if primary is not None else None)
    if serving is None or place is None:
        return found
    return found + _secondary_steps(group, secondaries, serving)


def _secondary_steps(group: Group, present: set[Place], primary: Place) -> list[Step]:
    wanted = {(m.host, m.port) for m in group.members if _reads(m) and (m.host, m.port) != primary}
    gone: list[Step] = [Remove(*place) for place in sorted(present - wanted)]
    return [*gone, *(AddSecondary(*place, *primary) for place in sorted(wanted - present))]


def _reads(member: GroupMember) -> bool:
    return member.running and not member.primary and not member.noloadbalance
