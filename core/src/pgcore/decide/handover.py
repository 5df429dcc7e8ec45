"""The hand-over after an orderly stop: who has everything gets the lock; if nobody does, the node resumes. (HA rules 17.2)

That is why a switchover can never lose an acknowledged commit. (principles, safety 2)
"""

from __future__ import annotations

from pgcore.decide.candidates import caught_up, describe
from pgcore.decide.election import same_name, sync_in_force
from pgcore.decide.lease import lease_running_out
from pgcore.decide.phases import demotion_of, within
from pgcore.model.actions import (
    Action,
    BeginDemotion,
    CancelTask,
    DemoteMode,
    EndProcedure,
    EnterPhase,
    Phase,
    PollPeers,
    ReleaseLease,
    SetRole,
    StartServer,
    StopMode,
    StopServer,
    WriteFailover,
    WriteStatus,
    WriteSync,
)
from pgcore.model.basics import Role
from pgcore.model.cluster import ClusterStatus
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import World

GONE_LIMIT_S = 2.0
"""After the server is gone its standbys have what they have: how long a candidate may take to write it down."""
STREAMING_LIMIT_S = 5.0
"""While the stopping server still streams: how long a candidate may take to receive the rest."""


def lock_lost_stopped(w: World) -> Decision | None:
    """The lock went elsewhere while the server was stopping: nothing to hand over."""
    if within(w, Phase.HANDOVER) and not w.store_lost and (w.refused or not w.is_holder):
        return act(SetRole(Role.DEMOTED), EnterPhase(Phase.AWAIT_LEADER), because="the lock is not mine any more")
    return None


def store_away_stopped(w: World) -> Decision | None:
    """The store is away during the hand-over: the server is stopped, so waiting is safe, but bounded."""
    if not (within(w, Phase.HANDOVER) and w.store_lost):
        return None
    waited = w.memory.stopping and w.now - demotion_of(w).since > GONE_LIMIT_S
    if w.lease_left == 0 or waited:
        what = "the lease ended" if w.lease_left == 0 else "the agent was asked to end"
        return act(SetRole(Role.DEMOTED), EnterPhase(Phase.AWAIT_LEADER), because=f"{what} while the store was away")
    return rest(because="the store does not answer during the hand-over", wake_after=0.2)


def ask_candidates(w: World) -> Decision | None:
    """Ask the candidates what they have received."""
    if not within(w, Phase.HANDOVER) or w.peers is not None or demotion_of(w).end is None:
        return None
    asked = tuple(m for m in w.others if m.name in demotion_of(w).candidates and m.api_url)
    return act(PollPeers(asked, 1.0), because="asking who has everything") if asked else None


def vouch(w: World) -> Decision | None:
    """Who has everything need not be believed by votes, or by being in ``/sync`` before: the stopped leader writes who it is.

    So the winner may lead whatever the others answer, also a node that was not synchronous. (HA rules 16.5, EC 66, 67)
    """
    sync, end = sync_in_force(w), demotion_of(w).end
    if not within(w, Phase.HANDOVER) or sync is None or end is None or not w.holds or not same_name(sync.leader, w.me):
        return None
    ready = caught_up(w, demotion_of(w).candidates, end)
    if not ready or (sync.quorum == 0 and sync.covers(ready[0])):
        return None
    return act(
        WriteSync(w.me, tuple(sorted(ready)), 0, sync.version),
        because=f"no commit can follow {end}, which {', '.join(ready)} has: /sync lists nobody else",
    )


def give_away(w: World) -> Decision | None:
    """A candidate has everything: name it, release the lock; it acquires and promotes at once. (HA rules 17.2, 30.2)"""
    d = demotion_of(w)
    ready = caught_up(w, d.candidates, d.end) if within(w, Phase.HANDOVER) and d.end is not None else ()
    if not ready:
        return None
    winner, request = ready[0], w.cluster.failover
    named = request is not None and request.candidate == winner and request.leader == w.me and not request.scheduled_at
    naming: tuple[Action, ...] = () if named else (WriteFailover(leader=w.me, candidate=winner),)
    return act(
        *naming,
        SetRole(Role.DEMOTED),
        ReleaseLease(final_status(w)),
        EnterPhase(Phase.AWAIT_LEADER),
        because=f"{winner} has everything up to {d.end}: handing over to it",
    )


def final_status(w: World) -> ClusterStatus:
    """The end of the shutdown checkpoint as the last known position. (HA rules 17.4)"""
    return ClusterStatus(demotion_of(w).end, w.cluster.status.slots, w.cluster.status.retain_slots)


def handover_over(w: World) -> bool:
    """The candidates have had their time, there is none, or the end of the WAL is not known."""
    d, limit = demotion_of(w), STREAMING_LIMIT_S if w.busy else GONE_LIMIT_S
    return d.end is None or not d.candidates or w.now - d.since > limit


def nobody_caught_up(w: World) -> Decision | None:
    """No candidate has everything in time: resume as primary, or end and leave the lock to its lease. (principles, safety 2)

    Also if nobody else is known: whoever was cut off would be back first, and take a free lock without what it lacks.
    """
    if not (within(w, Phase.HANDOVER) and handover_over(w)) or demotion_of(w).mode is DemoteMode.CLUSTER:
        return None
    heard = describe(w, demotion_of(w).candidates)
    if demotion_of(w).mode is DemoteMode.GRACEFUL:
        return act(
            CancelTask(),
            EnterPhase(Phase.RESUME),
            because=f"no candidate has everything up to {demotion_of(w).end} ({heard}): resuming as primary",
        )
    if w.busy:
        return None
    end_known = (WriteStatus(final_status(w)),) if demotion_of(w).end is not None else ()
    return act(
        *end_known,
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
        because=f"no candidate has everything up to {demotion_of(w).end} ({heard}): the lock is left to its lease, so that "
        "nobody who lacks it is promoted in a hurry",
    )


def wait_for_candidate(w: World) -> Decision | None:
    """The rest of the WAL is on its way."""
    if within(w, Phase.HANDOVER):
        d = demotion_of(w)
        return rest(
            because=f"waiting until a candidate has everything up to {d.end}: {describe(w, d.candidates)}",
            wake_after=0.02,
        )
    return None


# -- resume ------------------------------------------------------------------------------------------------


def lost_while_resuming(w: World) -> Decision | None:
    """The lock is lost, or cannot be proven much longer, while the old primary comes back: stop it. (HA rules 8.2, 9.3)"""
    becoming = w.task_is(TaskKind.START_PRIMARY) or w.node.is_primary
    if not (within(w, Phase.RESUME) and becoming):
        return None
    cancel = (CancelTask(),) if w.busy else ()
    if w.refused or (not w.store_lost and not w.is_holder):
        return act(
            *cancel,
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"the lock was lost to {w.cluster.leader or 'nobody'} while resuming as primary",
        )
    if w.store_lost and lease_running_out(w):
        return act(
            *cancel,
            BeginDemotion(DemoteMode.OFFLINE, Phase.STOP),
            because="the store does not answer and the lease runs out while resuming as primary",
        )
    return None


def lead_alone(w: World) -> Decision | None:
    """Before it serves again only this node may lead: commits to come need not reach whom ``/sync`` lists. (HA rules 19.1)

    That is also written over a write of unknown fate, which could else arrive later.
    """
    sync = sync_in_force(w)
    ready = within(w, Phase.RESUME) and not w.busy and w.holds and not w.node.running and w.ended(TaskKind.START_PRIMARY) is None
    if not ready or sync is None:
        return None
    if same_name(sync.leader, w.me) and not sync.standbys and not w.memory.sync.undecided:
        return None
    return act(WriteSync(w.me, (), 0, sync.version), because="about to serve again: nobody else may lead meanwhile")


def resume(w: World) -> Decision | None:
    """Start again as the primary, with the lock still proven."""
    if within(w, Phase.RESUME) and not w.busy and w.holds and not w.node.running and w.ended(TaskKind.START_PRIMARY) is None:
        return end(
            StartServer(Role.PRIMARY, timeout_s=float(w.settings.primary_start_timeout or 300), after_crash=True),
            because="starting again as the primary",
        )
    return None


def finish_stop(w: World) -> Decision | None:
    """The old postmaster still waits for its standbys: its data directory is shut down, so it may be ended at once."""
    if (
        within(w, Phase.RESUME)
        and not w.busy
        and w.node.running
        and not w.node.answering
        and w.ended(TaskKind.START_PRIMARY) is None
    ):
        return end(
            StopServer(StopMode.IMMEDIATE, float(w.settings.timing.retry_timeout)), because="ending the stopping postmaster"
        )
    return None


def resumed(w: World) -> Decision | None:
    """It serves again; the request is over, and its sender is told why."""
    if within(w, Phase.RESUME) and not w.busy and w.holds and w.node.is_primary and w.node.answering:
        reason = f"no candidate received everything in time; {w.me} resumed as primary"
        return act(SetRole(Role.PRIMARY), WriteFailover(), EndProcedure(reason), because=reason)
    return None


def resume_failed(w: World) -> Decision | None:
    """It could not be resumed: the lock is gone, or the start failed."""
    if not within(w, Phase.RESUME) or w.busy or w.node.running:
        return None
    result = w.ended(TaskKind.START_PRIMARY)
    gone = w.refused or (not w.store_lost and not w.is_holder) or (w.store_lost and w.lease_left == 0)
    if gone:
        return act(
            SetRole(Role.DEMOTED), EndProcedure("the old primary could not be resumed"), because="the lock is lost: not resuming"
        )
    if result is not None:  # the lock is given away by the rules for a server that is down
        return act(
            EndProcedure("the old primary could not be resumed"), because=f"could not resume: {result.error or 'it is down'}"
        )
    return None


def resume_stuck(w: World) -> Decision | None:
    """It runs but never answers: give way. (HA rules 14.1.2)"""
    limit = float(w.settings.primary_start_timeout or 300)
    if within(w, Phase.RESUME) and not w.busy and w.node.running and w.now - demotion_of(w).since > limit:
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP), because=f"the resumed server does not answer for {limit:.0f} s"
        )
    return None


def resuming(w: World) -> Decision | None:
    """The start goes on."""
    return rest(because="resuming as the primary", wake_after=0.2) if within(w, Phase.RESUME) else None


HANDOVER_RULES = (
    lock_lost_stopped,
    store_away_stopped,
    ask_candidates,
    vouch,
    give_away,
    nobody_caught_up,
    wait_for_candidate,
    lost_while_resuming,
    lead_alone,
    resume,
    finish_stop,
    resumed,
    resume_failed,
    resume_stuck,
    resuming,
)
