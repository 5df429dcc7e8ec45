"""Leaving synchronous duty before the server stops, so that no commit of the primary waits for it. (HA rules 19.9)

While this is asked for, the card and REST say ``nosync``; the primary takes this node out of ``/sync`` and of its names.
"""

from __future__ import annotations

from pgcore.decide import slot_copies
from pgcore.decide.election import same_name, sync_in_force
from pgcore.model.actions import LeaveSync, ReturnToSync
from pgcore.model.basics import Tags
from pgcore.model.changes import replace
from pgcore.model.decision import Decision, act, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import World

AGAIN_S = 1.0


def effective_tags(w: World) -> Tags:
    """The tags as the others must see them."""
    tags = w.settings.tags
    if w.memory.leaving_sync is None:
        return tags
    return replace(tags, raw={**tags.raw, "nosync": True, "sync_priority": 0})


def leave_sync(w: World) -> Decision | None:
    """A synchronous standby about to stop asks to be released and waits for it, two loops at most. (HA rules 19.9, EC 133)"""
    sync, since, leader = sync_in_force(w), w.memory.leaving_sync, w.cluster.leader
    on_duty = sync is not None and any(same_name(name, w.me) for name in sync.standbys)
    if not on_duty or w.store_lost or leader in (None, w.me) or w.settings.tags.nosync or not w.node.running:
        return None
    if since is None:
        return act(LeaveSync(), because=f"{leader} waits for this node to confirm commits: asking to be released before the stop")
    left = since + 2 * w.settings.timing.loop_wait - w.now
    if left <= 0:
        return None
    waiting = f"waiting until {leader} has taken this node out of /sync, {left:.1f} s at most"
    return rest(because=waiting, wake_after=min(AGAIN_S, left))


def return_to_sync(w: World) -> Decision | None:
    """Nothing that this node left synchronous duty for is under way any more: it may be synchronous again. (HA rules 19.9)"""
    if w.memory.leaving_sync is None or w.memory.stopping or w.memory.order is not None:
        return None
    if w.task_is(TaskKind.RESTART, TaskKind.REINITIALIZE, TaskKind.COPY_SLOTS) or slot_copies.copying(w) is not None:
        return None
    return act(ReturnToSync(), because="nothing stops this server any more: this node may be synchronous again")
