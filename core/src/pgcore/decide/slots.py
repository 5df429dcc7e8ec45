"""What must change of this node's slots, and what the leader publishes about them. (HA rules 21.2, 21.3)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgcore.decide.slots_wanted import Wanted, seen, wanted
from pgcore.model.actions import ChangeSlots
from pgcore.model.basics import Lsn, slot_name
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterView
from pgcore.model.node import Slot
from pgcore.model.slots import SlotMemory
from pgcore.model.world import World

# -- what the leader says -------------------------------------------------------------------------------------------------


def published(w: World) -> dict[str, Lsn]:
    """Positions of the slots on the leader plus the leader itself, for ``/status``. (HA rules 21.2)"""
    want, mine = wanted(w), slot_name(w.me)
    permanent = {slot.name for slot in w.settings.permanent_slots}
    everything = w.settings.member_slots_ttl > 0
    positions = {}
    for slot in w.node.slots:
        position = slot.restart_lsn if slot.physical else slot.confirmed_flush
        if position and (everything or slot.name in permanent) and _fits(slot, want):
            positions[slot.name] = position
    if w.node.position is not None and (everything or mine in permanent):
        positions[mine] = w.node.position
    return positions


# -- what must change -----------------------------------------------------------------------------------------------------


def here(w: World) -> tuple[Slot, ...]:
    """The slots on this server, but not those of a standby that the server itself keeps in step with its primary. (v17)"""
    return tuple(slot for slot in w.node.slots if w.node.is_primary or not slot.synced)


def changes(w: World) -> ChangeSlots | None:
    """What to drop, create and advance now; None when all is as wanted. (HA rules 21.3)"""
    want = wanted(w)
    existing = {slot.name: slot for slot in here(w)}
    taken = {slot.name for slot in w.node.slots}
    useless = {name for name, slot in existing.items() if name in want.physical and _fits(slot, want) and _useless(w, slot, want)}
    drop = useless | {name for name, slot in existing.items() if not slot.active and _must_go(w, slot, want)}
    create = {name for name in want.physical if name not in taken} | useless
    advance = _advances(w, existing, want, drop)
    if not (create or drop or advance):
        return None
    return ChangeSlots(tuple(sorted(create)), tuple(sorted(drop)), advance)


def _fits(slot: Slot, want: Wanted) -> bool:
    """It is wanted, and of the wanted kind. (HA rules 21.3.4)"""
    if slot.physical:
        return slot.name in want.physical
    logical = want.logical.get(slot.name)
    return logical is not None and (slot.database, slot.plugin) == (logical.database, logical.plugin)


def _must_go(w: World, slot: Slot, want: Wanted) -> bool:
    """An unused slot that is in the way, of the wrong kind, lost, or nobody's. (HA rules 21.3.2 to 21.3.4)"""
    if protected(w, slot):
        return False
    if slot.failover and not slot.physical and not slot.synced and not w.node.is_primary:
        return not w.is_holder
    if slot.name in want and not _fits(slot, want):
        return True
    if w.paused or (slot.failover and not slot.physical):
        return False
    if slot.name in want:  # a lost physical one is made anew, a lost logical one of a standby is replaced by a copy
        return slot.wal_status == "lost" and not slot.physical and w.node.is_primary
    return slot.name in w.memory.slots.seen or _abandoned(w, slot)


def _abandoned(w: World, slot: Slot) -> bool:
    """Nobody knows it, and nobody has used it for as long as patience lasts."""
    if not w.settings.use_slots or not _configuration_read(w):
        return False
    since = w.memory.slots.idle.get(slot.name)
    return slot.wal_status == "lost" or (since is not None and w.now - since >= patience(w, slot.name))


def patience(w: World, name: str) -> float:
    """For how long an unknown slot may be unused: one that was here before this agent looked may hold somebody's place."""
    loop_wait = w.settings.timing.loop_wait
    return max(loop_wait, w.settings.member_slots_ttl) if name in (w.memory.slots.found or ()) else loop_wait


def _configuration_read(w: World) -> bool:
    """What is wanted was read from the store in this beat, not remembered from somewhere."""
    return w.cluster.config is not None and w.cluster.config.document is not None


def _useless(w: World, slot: Slot, want: Wanted) -> bool:
    """A wanted physical slot that keeps nothing, or the wrong thing: it is made anew. (HA rules 21.3.3, 21.3.5, EC 155 to 157)"""
    if slot.active or protected(w, slot):
        return False
    if slot.wal_status == "lost":
        return not w.paused
    if slot.xmin is not None or slot.catalog_xmin is not None:
        return not want.physical[slot.name].used_here and not w.cluster.unlocked and (not w.is_holder or w.node.is_primary)
    return slot.restart_lsn is None


def _advances(w: World, existing: Mapping[str, Slot], want: Wanted, dropped: set[str]) -> dict[str, Lsn]:
    """Unused physical slots follow the position that is published, never beyond what is here. (HA rules 21.3.5, EC 158, 168)"""
    moved = {}
    for name, physical in sorted(want.physical.items()):
        slot = existing.get(name)
        if slot is None or not slot.physical or slot.active or slot.restart_lsn is None or name in dropped or physical.used_here:
            continue
        told = (w.cluster.status.slots.get(name), physical.position)
        target = min(max((at for at in told if at is not None), default=Lsn(0)), limit(w))
        if target > slot.restart_lsn:
            moved[name] = Lsn(target)
    return moved


def limit(w: World) -> Lsn:
    """No slot is moved beyond this: what was replayed here, or on a primary what was written."""
    return (w.node.position if w.node.is_primary else w.node.replayed) or Lsn(0)


# -- slots of others ------------------------------------------------------------------------------------------------------


def protected(w: World, slot: Slot) -> bool:
    """An operator or an extension said that it is not ours to drop. (HA rules 21.5, 29, EC 163)"""
    return (slot.handled and w.node.is_primary) or any(_matches(slot, entry) for entry in w.settings.ignore_slots)


def _matches(slot: Slot, entry: Mapping[str, str]) -> bool:
    kind = "physical" if slot.physical else "logical"
    own = {"name": slot.name, "type": kind, "database": slot.database, "plugin": slot.plugin}
    return all(entry[key] == value for key, value in own.items() if key in entry)


def unknown(w: World) -> tuple[Slot, ...]:
    """Slots here that nothing wants, no member had and nobody protects; not those that follow the primary by themselves."""
    return tuple(
        slot
        for slot in here(w)
        if slot.name not in w.memory.slots.seen
        and slot.name not in wanted(w)
        and not protected(w, slot)
        and (slot.physical or not slot.failover)
    )


def stuck(w: World) -> tuple[Slot, ...]:
    """Slots that have a configured name and are of another kind, and cannot be dropped. (HA rules 21.3.4, EC 161)"""
    want = wanted(w)
    return tuple(slot for slot in here(w) if slot.name in want and not _fits(slot, want) and (slot.active or protected(w, slot)))


def noted(w: World) -> SlotMemory:
    """What is remembered after a look at the node and the store; after a pause patience begins anew. (HA rules 3.19)"""
    memory = w.memory.slots
    known = seen(w)
    if memory.found is None:
        known = {**dict.fromkeys(w.cluster.status.retain_slots, w.now), **known}
    if not w.node.answering:
        return replace(memory, seen=known)
    present, ttl, now = {slot.name for slot in w.node.slots}, w.settings.member_slots_ttl, w.now
    changes: dict[str, Any] = {"seen": {name: at for name, at in known.items() if name in present or now - at <= ttl}}
    leader = w.cluster.leader
    if leader is not None and leader != w.me and memory.life != f"{w.node.postmaster_start} {leader}":
        empty = SlotMemory()
        changes |= {"life": f"{w.node.postmaster_start} {leader}", "proven": empty.proven, "floor": empty.floor}
        changes["broken"] = empty.broken
    if not _configuration_read(w):
        return replace(memory, **changes)
    strangers: tuple[Slot, ...] = ()
    if not present <= changes["seen"].keys():
        strangers = unknown(replace(w, memory=replace(w.memory, slots=replace(memory, **changes))))
    names = frozenset(slot.name for slot in strangers)
    idle = {slot.name: memory.idle.get(slot.name, now) for slot in strangers if not (slot.active or w.paused)}
    return replace(memory, **changes, idle=idle, found=names if memory.found is None else memory.found & names)


def took_lock(w: World) -> SlotMemory:
    """Whoever takes the lock gives every member slot that is published a new period. (HA rules 21.2, EC 152)"""
    known = {**w.memory.slots.seen, **dict.fromkeys(w.cluster.status.retain_slots, w.now)}
    return replace(w.memory.slots, seen=known)


def after_changes(w: World, action: ChangeSlots) -> SlotMemory:
    """Dropped slots are nobody's any more."""
    gone = set(action.drop) - set(action.create)
    return replace(w.memory.slots, seen={name: at for name, at in seen(w).items() if name not in gone or name in wanted(w)})


def view_in_failsafe(view: ClusterView, leader: str, positions: Mapping[str, Lsn], answered: Mapping[str, Lsn]) -> ClusterView:
    """The last view of the cluster with what is known without a store: the leader's slots and what members answered it. (EC 34)

    The configuration counts as not read, so that nothing unknown is dropped.
    """
    members = tuple(
        replace(member, xlog_location=max(member.xlog_location or Lsn(0), answered.get(member.name, Lsn(0))))
        for member in view.members
    )
    status = replace(view.status, slots={**view.status.slots, **positions})
    return replace(view, leader=leader, members=members, config=None, status=status)
