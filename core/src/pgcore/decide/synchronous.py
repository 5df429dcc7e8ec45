"""Synchronous replication on the holder of the lock: one step in each beat, and the next beat soon. (HA rules 19, 20)"""

from __future__ import annotations

from pgcore.decide import sync_priority, sync_quorum
from pgcore.decide.sync_candidates import (
    Candidate,
    Picture,
    choose_any,
    choose_first,
    eligible,
    preferred,
    proven_any,
    proven_first,
)
from pgcore.decide.sync_names import DropSync, RestoreNames, SetNames, Step, Wait, WriteSync, parse
from pgcore.model import actions as a
from pgcore.model.decision import Decision, Then, act
from pgcore.model.synchronous import render
from pgcore.model.world import World

SOON_S, RETRY_S = 0.01, 1.0
"""When the next step follows: at once, or after a step that did not succeed."""
MOST_STEPS = 12
"""More of them within ``loop_wait`` than any change needs."""
LEAST_WAIT_S = 0.05
BLOCKED_S = 1.0
"""How often a returning standby is looked for while writes wait for one."""


def action_for(w: World, step: Step) -> a.Action:
    """The step as an action on what was read in this beat."""
    version = w.cluster.sync.version
    match step:
        case SetNames(names):
            return a.SetStandbyNames(render(names))
        case RestoreNames(own):
            return a.RestoreStandbyNames(own)
        case WriteSync(leader, standbys, quorum):
            return a.WriteSync(leader, standbys, quorum, version)
        case DropSync():
            return a.DropSync(version or "")
    raise AssertionError(f"{step} is not a write")


def picture(w: World) -> Picture | None:
    """What decides the next step of this primary; None while its position is not known."""
    s, memory = w.settings, w.memory.sync
    anchor, own = memory.anchor, w.node.position
    if own is None:
        return None
    names = parse(w.node.names.text)
    candidates = eligible(w.node.senders, w.cluster.members, w.me, w.node.names.commit)
    best = preferred(candidates, names, s.maximum_lag_on_syncnode, own)
    wanted = max(s.synchronous_node_count, int(s.synchronous_mode_strict))
    proven: frozenset[str] = frozenset()
    if anchor is not None and anchor.names.same(names):
        mine = s.synchronous_mode == "on"
        proven = proven_first(candidates, anchor, w.cluster.sync, w.me) if mine else proven_any(candidates, anchor)
    return Picture(
        w.me,
        w.cluster.sync,
        names,
        _chosen(w, best, wanted),
        proven,
        wanted,
        s.synchronous_mode_strict,
        memory.serving is not None and w.now - memory.serving[1] < s.timing.loop_wait,
        memory.undecided,
    )


def _chosen(w: World, best: tuple[Candidate, ...], wanted: int) -> tuple[str, ...]:
    return choose_first(best, wanted) if w.settings.synchronous_mode == "on" else choose_any(best, wanted)


def _in_charge(w: World) -> bool:
    free = not w.busy and w.demotion is None and w.bootstrapping is None
    return w.holds and w.node.answering and free


def _next(w: World) -> Step | None:
    """The step that is due; while a reload could still change the names nothing but the names is written."""
    if w.settings.synchronous_mode == "off":
        return sync_priority.switch_off(w.cluster.sync, w.node.names.ours and w.node.is_primary, w.settings.own_standby_names)
    seen = picture(w) if w.node.is_primary else None
    if seen is None:
        return None
    step = sync_priority.next_step(seen) if w.settings.synchronous_mode == "on" else sync_quorum.next_step(seen)
    if w.node.names.settled or isinstance(step, SetNames):
        return step
    return SetNames(seen.names, f"the files of the server name other synchronous standbys than the {seen.names} it shows")


def synchronous_step(w: World) -> Decision | None:
    """The next write of ``/sync`` or of the names, each safe on its own; the one after it follows soon. (HA rules 19.5, 20.3)"""
    due = _next(w) if _in_charge(w) else None
    if due is None:
        return None
    if not isinstance(due, Wait):
        return Decision(due.because, (action_for(w, due),), Then.AGAIN, _haste(w))
    return Decision(f"synchronous replication waits: {due.because}", (), Then.AGAIN, _patience(w, due))


def _haste(w: World) -> float | None:
    """At once, but not when it fails, and not on and on: standbys at the limit of their lag would be swapped without end."""
    if w.memory.sync.steps > MOST_STEPS:
        return None
    return RETRY_S if w.memory.sync.troubled else SOON_S


def _patience(w: World, due: Wait) -> float:
    """Often at first, as standbys catch up in milliseconds, then less and less often."""
    if due.seconds is None:
        return BLOCKED_S
    changed = w.memory.sync.changed_at
    return min(due.seconds, max(LEAST_WAIT_S, (w.now - changed) / 2)) if changed is not None else LEAST_WAIT_S


def writes_blocked(w: World) -> Decision | None:
    """Strict mode and no standby can confirm, so writes wait: said once when it begins and once when it ends. (HA rules 19.7)"""
    strict = w.settings.synchronous_mode != "off" and w.settings.synchronous_mode_strict
    concerned = (strict or w.memory.sync.blocked) and _in_charge(w) and w.node.is_primary
    seen = picture(w) if concerned else None
    if seen is None:
        return None
    nobody = strict and not seen.chosen
    if nobody == w.memory.sync.blocked:
        return None
    if nobody:
        because = "synchronous_mode_strict and no standby that can be synchronous: writes wait for one"
        return act(a.MarkBlocked(True), because=because)
    return act(a.MarkBlocked(False), because="writes do not wait for a missing standby any more")


UPKEEP_RULES = (writes_blocked, synchronous_step)
