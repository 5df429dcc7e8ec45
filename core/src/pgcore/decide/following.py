"""A running standby is pointed at its upstream: the replica of a leader, and the leader of a standby cluster. (HA rules 11.3)"""

from __future__ import annotations

from pgcore.decide.upstream import upstream
from pgcore.model.actions import CompareRecovery, FollowByReload, FollowByRestart, RewindState, SetRewind
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.world import World

AGAIN_S = 0.2


def _role(w: World) -> Role:
    return Role.STANDBY_LEADER if w.standby_cluster and w.is_holder else Role.REPLICA


def _whom(w: World) -> str:
    source = upstream(w)
    if source is not None:
        where = f"{source.host}:{source.port}"
        return f"following {source.name} at {where}" if source.name else f"following the remote {where}"
    return "following the archive" if _role(w) is Role.STANDBY_LEADER else "following nobody until a leader is known"


def compare_recovery(w: World) -> Decision | None:
    """Look whether the recovery settings fit the upstream. (HA rules 11.3, 22.2)"""
    if w.recovery_change is None and w.node.answering:
        return act(CompareRecovery(upstream(w), _role(w)), because="comparing the recovery settings")
    return None


def compare_before_following(w: World) -> Decision | None:
    """The upstream changed: before its WAL is asked for, the history is compared with the leader's. (HA rules 12.1)"""
    changes = w.recovery_change in ("reload", "restart") and w.rewind_source is not None
    if changes and not w.timeline_asked and w.memory.rewind not in (RewindState.CHECK, RewindState.NEED):
        return act(SetRewind(RewindState.CHECK), because=f"{_whom(w)}: its history is compared first")
    return None


def ahead_of_recovering(w: World) -> Decision | None:
    """A leader in recovery on an older timeline is about to begin one of its own, perhaps of the same number: compare first.

    Its WAL would be taken for that of the own timeline. (HA rules 12.1, EC 104, 112)
    """
    leader = w.leader_timeline
    own = leader.own.timeline if leader is not None and leader.own is not None else 0
    if w.recovery_change in ("reload", "restart") and leader is not None and leader.in_recovery and own > leader.timeline:
        return rest(
            because=f"{_whom(w)} once it is a primary: it is in recovery on timeline {leader.timeline}, this server is on {own}",
            wake_after=AGAIN_S,
        )
    return None


def follow_by_restart(w: World) -> Decision | None:
    """The upstream changed in a way only a restart can apply. (HA rules 11.2.7)"""
    if w.recovery_change == "restart" and not w.cooling_down:
        return end(SetRewind(RewindState.CHECK), FollowByRestart(upstream(w), _role(w)), because=_whom(w))
    return None


def follow_by_reload(w: World) -> Decision | None:
    """The upstream changed: point the WAL receiver, or the archive recovery, at it. (HA rules 11.2.7, 22.2)"""
    if w.recovery_change == "reload":
        return act(FollowByReload(upstream(w), _role(w)), because=_whom(w))
    return None


FOLLOWING_RULES = (compare_recovery, compare_before_following, follow_by_restart, follow_by_reload)
