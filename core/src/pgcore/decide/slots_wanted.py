"""Which replication slots a node should have: for members, for members that left, and permanent ones. (HA rules 21.1)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pgcore.model.basics import Instant, Lsn, Tags, slot_name
from pgcore.model.changes import once
from pgcore.model.cluster import ClusterView, Member
from pgcore.model.settings import PermanentSlot
from pgcore.model.world import World

CAN_ADVANCE = 110000
"""The first server version that can move a slot without a client."""


class PhysicalSlot(NamedTuple):
    """A physical slot that should exist. ``used_here``: its user is expected at this node, so nobody else moves it."""

    used_here: bool
    position: Lsn | None = None
    """Where its member says it is, if that counts beside what the leader publishes."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The slots this node should have, by name."""

    physical: Mapping[str, PhysicalSlot]
    logical: Mapping[str, PermanentSlot]

    def __contains__(self, name: str) -> bool:
        return name in self.physical or name in self.logical


@once
def wanted(w: World) -> Wanted:
    """The slots this node should have. (HA rules 21.1)"""
    if not w.settings.use_slots:
        return Wanted({}, {})
    physical = {m.slot: PhysicalSlot(_streams_from_me(w, m), _position(w, m)) for m in _members(w)}
    if not _stands_aside(w):
        gone = [name for name in retained(w) if name not in physical]
        physical |= dict.fromkeys(gone, PhysicalSlot(used_here=w.is_holder))
        members = {m.slot for m in w.others}
        for slot in _permanent(w, physical=True):
            if slot.name not in physical and slot.name != slot_name(w.me):
                physical[slot.name] = PhysicalSlot(used_here=w.is_holder and slot.name not in members)
    return Wanted(physical, wanted_logical(w))


@once
def wanted_logical(w: World) -> Mapping[str, PermanentSlot]:
    """The logical slots among them."""
    if not (w.settings.use_slots and w.settings.permanent_slots and decodes(w, w.me)):
        return {}
    taken = {slot_name(w.me), *(m.slot for m in w.others)}
    return {slot.name: slot for slot in _permanent(w, physical=False) if slot.name not in taken}


def _stands_aside(w: World) -> bool:
    """It will never lead, so nobody will look for a slot here that is not in use here."""
    return not w.is_holder and w.settings.tags.nofailover


def _members(w: World) -> list[Member]:
    """Members for whom this node keeps a slot. (HA rules 21.1, EC 154, 166)"""
    streaming = _others(w.cluster, w.me).streaming
    if w.settings.member_slots_ttl > 0 and _can_advance(w):
        aside = _stands_aside(w)
        return [m for m in streaming if not aside or m.tags.replicatefrom == w.me]
    return [m for m in streaming if _streams_from_me(w, m)]


class _Others(NamedTuple):
    """The others by what they need of a slot."""

    streaming: tuple[Member, ...]
    """Those that stream at all, with a slot name of their own."""
    slots: tuple[str, ...]
    """Of those that stream."""
    elsewhere: frozenset[str]
    """Slots of those that follow the archive only."""


@once
def _others(cluster: ClusterView, me: str) -> _Others:
    mine, others = slot_name(me), cluster.besides(me)
    streaming = tuple(m for m in others if not m.tags.nostream and m.slot != mine)
    return _Others(streaming, tuple(m.slot for m in streaming), frozenset(m.slot for m in others if m.tags.nostream))


def _streams_from_me(w: World, member: Member) -> bool:
    """This node is where the member is expected to stream from."""
    above = member.tags.replicatefrom
    if w.is_holder:
        return above is None or above == w.me or w.cluster.member(above) is None
    return above == w.me and member.name != w.cluster.leader


def _position(w: World, member: Member) -> Lsn | None:
    """A member's own word counts if it cascades, or if the leader does not publish for it. (HA rules 21.2, EC 168)"""
    return member.xlog_location if member.tags.replicatefrom or _ancient_leader(w.cluster) else None


@once
def _ancient_leader(cluster: ClusterView) -> bool:
    """The leader is a Patroni older than 4.0: it publishes permanent slots only."""
    leader = cluster.leader_member
    major = (leader.version or "").partition(".")[0] if leader is not None and leader.is_patroni else ""
    return major.isdigit() and int(major) < 4


def _can_advance(w: World) -> bool:
    return w.node.server_version is None or w.node.server_version >= CAN_ADVANCE


# -- members that were here -----------------------------------------------------------------------------------------------


@once
def seen(w: World) -> Mapping[str, Instant]:
    """When each member slot was last wanted by a live member card. (HA rules 21.2)"""
    return {**w.memory.slots.seen, **dict.fromkeys(_others(w.cluster, w.me).slots, w.now)}


@once
def retained(w: World) -> tuple[str, ...]:
    """Slots of members that were here within ``member_slots_ttl``; a standby also believes its leader. (HA rules 21.2, EC 152)"""
    limit = w.settings.member_slots_ttl
    if limit <= 0 or not _can_advance(w):
        return ()
    now = w.now
    names = {name for name, at in seen(w).items() if now - at <= limit}
    if not w.is_holder:
        names.update(w.cluster.status.retain_slots)
    names -= _others(w.cluster, w.me).elsewhere
    names.difference_update(slot.name for slot in _permanent(w, physical=True))
    names.discard(slot_name(w.me))
    return tuple(sorted(names))


# -- permanent slots ------------------------------------------------------------------------------------------------------


def _permanent(w: World, *, physical: bool) -> Iterator[PermanentSlot]:
    """The configured slots that this kind of cluster and this version of the server can have. (HA rules 21.1, EC 165)"""
    kind = "primary" if w.settings.standby_cluster is None else "standby"
    for slot in w.settings.permanent_slots:
        if slot.physical is not physical or not (_can_advance(w) or (physical and w.node.is_primary)):
            continue
        if slot.cluster_type in (None, kind) if physical else kind == "primary":
            yield slot


def chain(w: World, name: str) -> tuple[str, ...] | None:
    """The members between this one and the leader, nearest first; None when it leads in a circle. (EC 167, 169)"""
    path: list[str] = []
    at = name
    while at != w.cluster.leader:
        above = tags_of(w, at).replicatefrom
        if above is None or above == at or above == w.cluster.leader or (above != w.me and w.cluster.member(above) is None):
            break
        if above == name or above in path:
            return None
        path.append(above)
        at = above
    return tuple(path)


def tags_of(w: World, name: str) -> Tags:
    """The tags of a node, my own as configured."""
    if name == w.me:
        return w.settings.tags
    member = w.cluster.member(name)
    return member.tags if member is not None else Tags()


def decodes(w: World, name: str) -> bool:
    """A node that can have logical slots: it leads, or streams through nodes that all stream. (HA rules 21.1, EC 166, 167)"""
    if name == w.cluster.leader:
        return True
    path = chain(w, name)
    streams = path is not None and not any(tags_of(w, each).nostream for each in (name, *path))
    return streams and not tags_of(w, name).nofailover


def feedback(w: World) -> bool:
    """This node, or one that streams through it, has logical slots: their catalog rows must be kept upstream. (HA rules 21.3)"""
    if not w.settings.use_slots or not any(_permanent(w, physical=False)):
        return False
    below = (m.name for m in w.others if w.me in (chain(w, m.name) or ()))
    return any(decodes(w, name) for name in (w.me, *below))


@once
def _owners(cluster: ClusterView, me: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Whose each member slot is, and what is wrong where two members have the same."""
    owners: dict[str, str] = {}
    twins = {}
    for name in sorted({me, *(m.name for m in cluster.members)}):
        slot = slot_name(name)
        if slot in owners:
            twins[f"twins {slot}"] = (
                f"the members {owners[slot]} and {name} share the slot name {slot}, so each lets WAL go that the other needs: "
                "rename one of them"
            )
        owners[slot] = name
    return owners, twins


def mistakes(w: World) -> dict[str, str]:
    """What is wrong with the names of members and permanent slots, each in a sentence. (HA rules 21.1, config 12)"""
    if not w.settings.use_slots:
        return {}
    owners, twins = _owners(w.cluster, w.me)
    found = dict(twins)
    for permanent in _permanent(w, physical=False):
        if permanent.name in owners:
            found[f"taken {permanent.name}"] = (
                f"the logical slot {permanent.name} of the configuration is not made: it is the name of the slot of "
                f"{owners[permanent.name]}; give it another one"
            )
    if not _can_advance(w) and any(not slot.physical for slot in w.settings.permanent_slots):
        found["old server"] = "logical slots of the configuration are not made: they need PostgreSQL 11 or later"
    return found
