"""The rules that keep replication slots as they should be, the last of the repairs. (HA rules 21)"""

from __future__ import annotations

from pgcore.decide import slot_copies, slots
from pgcore.decide.sync_duty import leave_sync
from pgcore.model.actions import ForceFeedback
from pgcore.model.decision import Decision, act
from pgcore.model.world import World


def _in_charge(w: World) -> bool:
    """The server answers, nothing long is under way, and who leads is known and proven."""
    ready = w.node.running and w.node.answering and not w.busy and w.memory.procedure is None
    proven = w.holds if w.is_holder else not w.node.is_primary
    return ready and proven and not w.cluster.unlocked


def slot_feedback(w: World) -> Decision | None:
    """Where logical slots live or stream through, the standby tells upstream which catalog rows they need. (HA rules 21.3)"""
    change = slot_copies.feedback_change(w)
    if change is None or w.cluster.unlocked:
        return None
    why = "logical slots here or below need their catalog rows" if change else "no logical slots here or below any more"
    return act(ForceFeedback(change), because=f"hot_standby_feedback {'on' if change else 'as configured'}: {why}")


def change_slots(w: World) -> Decision | None:
    """Drop slots that are nobody's, of the wrong kind or of no use; create and advance physical ones. (HA rules 21.3)"""
    change = slots.changes(w) if _in_charge(w) and not w.slots_done else None
    if change is None:
        return None
    parts = {"drop": change.drop, "create": change.create, "advance": tuple(change.advance)}
    return act(change, because="; ".join(f"{verb} {', '.join(names)}" for verb, names in parts.items() if names))


def serve_slots(w: World) -> Decision | None:
    """Create logical slots on the primary, move them along on standbys and prove them, beside the heartbeat. (HA rules 21.3.6)"""
    service = slot_copies.service(w) if _in_charge(w) else None
    if service is None:
        return None
    told = [f"create {slot.name}" for slot in service.create]
    told += [f"advance {slot.name} to {target}" for slot, target in service.advance]
    told += [f"prove {', '.join(service.ask.names[1:])}"] if service.ask else []
    return act(service, because="; ".join(told))


def slot_complaints(w: World) -> Decision | None:
    """What is wrong with slots is said once, not in each beat. (HA rules 21.1, EC 170)"""
    said = slot_copies.complaint(w) if _in_charge(w) else None
    return act(said, because="; ".join(said.texts) or "an earlier complaint about slots is settled") if said is not None else None


def copy_slots(w: World) -> Decision | None:
    """A logical slot of the leader is missing or broken here: copy it, which restarts this standby. (HA rules 21.4, EC 160)"""
    copy = slot_copies.copying(w) if _in_charge(w) else None
    if copy is None:
        return None
    duty = leave_sync(w)
    if duty is not None:
        return duty
    return act(copy, because=f"restarting to copy {', '.join(slot.name for slot in copy.slots)} from {copy.source.name}")


def unproven_slots(w: World) -> Decision | None:
    """A promotion is not refused for logical slots that are absent or not proven whole, but they are named. (HA rules 21.4)"""
    promotable = w.holds and not w.node.is_primary and w.node.answering
    said = slot_copies.promotion_warning(w) if promotable else None
    return act(said, because="; ".join(said.texts)) if said is not None else None


RULES = (change_slots, serve_slots, slot_complaints)
