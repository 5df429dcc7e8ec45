"""Which physical slots this node keeps for the other members, and what must change. (HA rules 21)"""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.model.actions import ChangeSlots
from pgcore.model.basics import Instant, Lsn
from pgcore.model.cluster import Member
from pgcore.model.node import Slot
from pgcore.model.world import World


def wanted(w: World) -> frozenset[str]:
    """Names of the member slots this node should have. (HA rules 21.1)"""
    if not w.settings.use_slots:
        return frozenset()
    if w.settings.member_slots_ttl > 0 and not w.settings.tags.nofailover:
        members = [m for m in w.others if not m.tags.nostream]
    else:
        members = [m for m in w.others if not m.tags.nostream and _streams_from_me(w, m)]
    return frozenset(m.slot for m in members) - {Member(w.me).slot}


def _streams_from_me(w: World, member: Member) -> bool:
    above = member.tags.replicatefrom
    if above == w.me:
        return True
    return w.is_holder and (above is None or w.cluster.member(above) is None)


def seen(w: World) -> Mapping[str, Instant]:
    """When each member slot was last wanted; slots the former leader retained start a new period here. (HA rules 21.2)"""
    known = dict(w.memory.slots_seen)
    for name in w.cluster.status.retain_slots:
        known.setdefault(name, w.now)
    for name in wanted(w):
        known[name] = w.now
    return known


def retained(w: World) -> tuple[str, ...]:
    """Slots of members that were here within ``member_slots_ttl``, for ``/status``. (HA rules 21.2, EC 152)"""
    limit = w.settings.member_slots_ttl
    return tuple(sorted(name for name, at in seen(w).items() if limit > 0 and w.now - at <= limit))


def published(w: World) -> dict[str, Lsn]:
    """Positions of the slots on the leader plus the leader itself, for ``/status``. (HA rules 21.2)"""
    keep = set(retained(w)) | wanted(w)
    positions = {s.name: s.restart_lsn for s in w.node.slots if s.physical and s.restart_lsn and s.name in keep}
    if w.node.position is not None:
        positions[Member(w.me).slot] = w.node.position
    return positions


def changes(w: World) -> ChangeSlots | None:
    """What to create, advance and drop now; None when all is as wanted. (HA rules 21.3)

    Only slots that belonged to a member are ever dropped here: a slot of unknown origin may hold somebody's data.
    """
    existing: dict[str, Slot] = {s.name: s for s in w.node.slots}
    keep = wanted(w) | set(retained(w))
    create = tuple(sorted(name for name in wanted(w) if name not in existing))
    lost = [s.name for s in w.node.slots if s.physical and s.name in keep and s.wal_status == "lost" and not s.active]
    expired = [name for name in w.memory.slots_seen if name not in keep and name in existing and not existing[name].active]
    drop = () if w.paused else tuple(sorted({*lost, *expired}))
    advance = {} if w.node.is_primary else _advances(w, existing)
    if not (create or drop or advance):
        return None
    return ChangeSlots(create, drop, advance)


def _advances(w: World, existing: Mapping[str, Slot]) -> dict[str, Lsn]:
    """Inactive member slots on a standby follow the position the leader publishes, never beyond what is here. (EC 158)"""
    limit = w.node.replayed or Lsn(0)
    moved = {}
    for name in sorted(wanted(w)):
        slot, target = existing.get(name), w.cluster.status.slots.get(name)
        if slot is None or slot.active or slot.restart_lsn is None or target is None:
            continue
        target = Lsn(min(target, limit))
        if target > slot.restart_lsn:
            moved[name] = target
    return moved
