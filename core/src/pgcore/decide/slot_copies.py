"""Logical slots: made on the primary, copied to standbys, moved along with it, and proven usable there. (HA rules 21.3, 21.4)"""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.decide.slots import here, limit, patience, protected, stuck, unknown
from pgcore.decide.slots_wanted import chain, feedback, mistakes, wanted_logical
from pgcore.decide.upstream import upstream
from pgcore.model.actions import ComplainAboutSlots, CopySlots, LeaderSlots, Outcome, RewindState, ServeSlots
from pgcore.model.basics import Lsn
from pgcore.model.changes import once, replace
from pgcore.model.cluster import Member
from pgcore.model.node import Slot, SlotReport
from pgcore.model.settings import PermanentSlot
from pgcore.model.slots import SlotMemory
from pgcore.model.world import World

COPY_ABSENT_S, COPY_BROKEN_S = 60.0, 600.0
"""Each copy restarts the standby: a slot that the leader did not have, or one that broke again, is not copied sooner."""
_XID_RANGE = 1 << 32


@once
def _mine(w: World) -> dict[str, tuple[PermanentSlot, Slot]]:
    """The configured logical slots that are here in their right form."""
    wanted = sorted(wanted_logical(w).items())
    existing = {slot.name: slot for slot in here(w)} if wanted else {}
    found = {}
    for name, permanent in wanted:
        slot = existing.get(name)
        if slot is not None and (slot.database, slot.plugin) == (permanent.database, permanent.plugin):
            found[name] = (permanent, slot)
    return found


def unproven(w: World) -> tuple[str, ...]:
    """Logical slots of this standby that a client could not be sure to get everything from after a promotion. (HA rules 21.4)"""
    if w.node.is_primary:
        return ()
    return tuple(name for name, (_, slot) in _mine(w).items() if name not in w.memory.slots.proven or _broken(w, slot))


def _broken(w: World, slot: Slot) -> bool:
    """It can never be read again."""
    return slot.wal_status == "lost" or slot.name in w.memory.slots.broken


def service(w: World) -> ServeSlots | None:
    """What there is to do for logical slots beside the heartbeat; None when there is nothing. (HA rules 21.3.6, EC 159)"""
    if w.node.is_primary:
        taken = {slot.name for slot in w.node.slots}
        create = tuple(slot for name, slot in sorted(wanted_logical(w).items()) if name not in taken)
        return ServeSlots(create=create) if create else None
    advance = tuple((permanent, to) for permanent, slot in _mine(w).values() if (to := _target(w, slot)) is not None)
    ask = _question(w)
    return ServeSlots(advance=advance, ask=ask) if advance or ask else None


def _target(w: World, slot: Slot) -> Lsn | None:
    """Where the slot goes: what the leader publishes, as far as it was replayed here. (EC 158)"""
    told = w.cluster.status.slots.get(slot.name)
    if told is None or slot.active or _broken(w, slot):
        return None
    target = Lsn(min(told, limit(w)))
    return target if target > (slot.confirmed_flush or Lsn(0)) else None


def _question(w: World) -> LeaderSlots | None:
    names = [name for name in unproven(w) if not _broken(w, _mine(w)[name][1])]
    source = w.leader_upstream if names else None
    return LeaderSlots(source, (slot_on_leader(w), *names)) if source is not None and names else None


def slot_on_leader(w: World) -> str:
    """The physical slot at the leader through which it learns what this node needs: mine, or that of the head of my chain."""
    path = chain(w, w.me) or ()
    return Member(path[-1] if path else w.me).slot


def reported(w: World, report: SlotReport) -> SlotMemory:
    """What is known of logical slots after the thread that serves them was heard. (HA rules 21.4)"""
    known = w.memory.slots
    memory = replace(known, broken=known.broken | report.broken, proven=known.proven - report.broken)
    answer = report.leader
    if answer is None or report.asked != w.cluster.leader:
        return memory
    kept = answer.get(slot_on_leader(w))
    if kept is None:
        return memory
    told = {name: xmin for name in unproven(w) if (xmin := answer.get(name)) is not None}
    floor = {**told, **memory.floor}
    proven = {
        name
        for name, (_, slot) in _mine(w).items()
        if name in floor
        and not _broken(w, slot)
        and slot.catalog_xmin is not None
        and _up_to(floor[name], kept)
        and _up_to(kept, slot.catalog_xmin)
        and (slot.confirmed_flush or Lsn(0)) <= limit(w)
    }
    return replace(memory, floor=floor, proven=memory.proven | proven)


def _up_to(earlier: int, later: int) -> bool:
    """The first transaction is not younger than the second; their numbers go round."""
    return (later - earlier) % _XID_RANGE < _XID_RANGE // 2


# -- copying --------------------------------------------------------------------------------------------------------------


def copying(w: World) -> CopySlots | None:
    """What to copy from the leader now; None when nothing is missing or this is no time for a restart. (HA rules 21.4, EC 160)"""
    if w.node.is_primary or not (wanted_logical(w) and _free_to_restart(w)):
        return None
    source, leader = w.leader_upstream, w.cluster.leader_member
    if source is None or leader is None or not leader.is_primary:
        return None
    present = _mine(w)
    taken = {slot.name for slot in w.node.slots}
    broken = {name for name, (_, slot) in present.items() if _broken(w, slot)}
    absent = {name for name in wanted_logical(w) if name not in taken and name in w.cluster.status.slots}
    due = [name for name in absent if _rested(w, name, COPY_ABSENT_S)]
    due += [name for name in broken if _rested(w, name, COPY_BROKEN_S)]
    slots = tuple(wanted_logical(w)[name] for name in sorted(due))
    return CopySlots(source, slots, upstream(w)) if slots else None


def _rested(w: World, name: str, seconds: float) -> bool:
    at = w.memory.slots.copied.get(name)
    return at is None or w.now - at >= seconds


def _free_to_restart(w: World) -> bool:
    """A standby in good order of which nobody expects anything right now."""
    settled = w.memory.rewind not in (RewindState.CHECK, RewindState.NEED) and not w.cooling_down
    vouching = w.memory.failsafe is not None and w.memory.failsafe.valid(w.now)
    wanted_elsewhere = w.paused or w.memory.stopping or w.cluster.failover is not None or vouching
    return settled and not wanted_elsewhere and _is_my_turn(w)


def _is_my_turn(w: World) -> bool:
    """One standby after the other restarts, so that somebody can confirm commits and take over: each has its part of the time.

    By the wall clock, as it is the same for all; who has left synchronous duty for the copy does not wait again.
    """
    if w.memory.leaving_sync is not None:
        return True
    names = sorted({m.name for m in w.cluster.members if m.name != w.cluster.leader} | {w.me})
    loop_wait = w.settings.timing.loop_wait
    part, within = divmod(w.wall, 2 * loop_wait)
    return names[int(part) % len(names)] == w.me and within <= loop_wait


def began(w: World, action: CopySlots, outcome: Outcome) -> SlotMemory:
    """When each of these was last copied; whether it is broken must show anew."""
    names = {slot.name for slot in action.slots}
    copied = {**w.memory.slots.copied, **dict.fromkeys(names, outcome.at)}
    return replace(w.memory.slots, copied=copied, broken=w.memory.slots.broken - names)


# -- what an operator must know -------------------------------------------------------------------------------------------


def complaints(w: World) -> Mapping[str, str]:
    """Everything that is wrong with slots now, each said once. (EC 170)"""
    found = mistakes(w)
    if w.settings.use_slots:
        for slot in unknown(w):
            remedy = "name it in slots or ignore_slots to keep it"
            if slot.active:
                found[f"active {slot.name}"] = f"the slot {slot.name} is in use but not configured, so it cannot go: {remedy}"
            elif slot.name in (w.memory.slots.found or ()):
                found[f"found {slot.name}"] = (
                    f"the slot {slot.name} was here before this agent and is not configured: it is dropped when it has been "
                    f"unused for {patience(w, slot.name):.0f} s; {remedy}"
                )
        found |= {f"other {slot.name}": _described(w, slot) for slot in stuck(w)}
    forced = w.settings.feedback_forced and not w.settings.server_stale
    if unproven(w) and forced and not w.node.hot_standby_feedback:
        found["feedback"] = (
            "hot_standby_feedback is off although logical slots need it, so none of them can be relied on after a failover: "
            "look for it in postgresql.auto.conf"
        )
    return found


def _described(w: World, slot: Slot) -> str:
    """A slot that has a configured name and is something else. (EC 161)"""

    def kind(database: str | None, plugin: str | None) -> str:
        return f"of {plugin} in database {database}" if database else "physical"

    logical = wanted_logical(w).get(slot.name)
    want = kind(logical.database, logical.plugin) if logical is not None else kind(None, None)
    why = "is protected" if protected(w, slot) else "is in use"
    return (
        f"the slot {slot.name} is {kind(slot.database, slot.plugin)}, configured is one that is {want}, not made nor "
        f"copied as long as the other {why}: drop it, or configure the one that is there"
    )


def complaint(w: World) -> ComplainAboutSlots | None:
    """What has changed in the list of complaints; None when it is as it was."""
    now, before = complaints(w), w.memory.slots.complaints
    if now.keys() == before:
        return None
    return ComplainAboutSlots(tuple(now[key] for key in sorted(now.keys() - before)), frozenset(now))


def promotion_warning(w: World) -> ComplainAboutSlots | None:
    """What consumers of logical slots may miss by this promotion; None when they miss nothing. (HA rules 21.4)"""
    taken = {slot.name for slot in w.node.slots}
    absent = [name for name in sorted(wanted_logical(w)) if name not in taken and name in w.cluster.status.slots]
    found = {}
    if unproven(w):
        found[f"promoting {', '.join(unproven(w))}"] = (
            f"promoting with logical slots that are not proven whole: {', '.join(unproven(w))}; the old primary may have removed "
            "catalog rows they need: check their consumers, and copy the data anew if one of them fails"
        )
    if absent:
        found[f"promoting without {', '.join(absent)}"] = (
            f"promoting without logical slots that were not copied here yet: {', '.join(absent)}; they are made anew, and their "
            "consumers miss what they had not read: copy the data anew"
        )
    known = w.memory.slots.complaints
    if found.keys() <= known:
        return None
    return ComplainAboutSlots(tuple(found[key] for key in sorted(found.keys() - known)), known | found.keys())


def feedback_change(w: World) -> bool | None:
    """Whether hot_standby_feedback is to be forced from now on; None: as it is. (HA rules 21.3)"""
    want = feedback(w)
    return want if want is not w.settings.feedback_forced else None
