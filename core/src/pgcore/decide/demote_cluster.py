"""The end of a primary whose cluster becomes a standby cluster: its last WAL goes to a replica or to the archive. (HA rules 17)

Without that the cluster which takes over could lack the end of this timeline.
"""

from __future__ import annotations

from pgcore.decide.handover import final_status, handover_over
from pgcore.decide.phases import demotion_of, within
from pgcore.model.actions import (
    Action,
    ArchiveShutdownWal,
    CancelTask,
    DemoteMode,
    EndProcedure,
    EnterPhase,
    Phase,
    SetRole,
    WriteStatus,
)
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import World

ARCHIVE_LIMIT_S = 300.0
"""An archive_command that takes longer is ended: a standby cluster that stays down is worse than a file to be copied by hand."""


def _converting(w: World) -> bool:
    return demotion_of(w).mode is DemoteMode.CLUSTER


def stopped_for_remote(w: World) -> Decision | None:
    """The server is stopped and the lock was not to be given away: see to the archive. (HA rules 17, EC 201)"""
    if _converting(w) and within(w, Phase.STOP) and not w.busy and not w.node.running:
        return act(EnterPhase(Phase.ARCHIVE), because="stopped; the shutdown checkpoint belongs into the archive")
    return None


def keep_the_lock(w: World) -> Decision | None:
    """No replica has the shutdown checkpoint in time: the lock is kept, this node will be the standby leader. (HA rules 17)"""
    if not (_converting(w) and within(w, Phase.HANDOVER) and not w.busy and handover_over(w)):
        return None
    known: tuple[Action, ...] = (WriteStatus(final_status(w)),) if demotion_of(w).end is not None else ()
    return act(
        *known,
        EnterPhase(Phase.ARCHIVE),
        because=f"no replica has everything up to {demotion_of(w).end}: the lock is kept",
    )


def archive(w: World) -> Decision | None:
    """Archive the WAL file with the shutdown checkpoint: the stopped server will not. (HA rules 17, EC 201)"""
    if within(w, Phase.ARCHIVE) and not w.busy and not w.node.running and w.ended(TaskKind.ARCHIVE) is None:
        return end(ArchiveShutdownWal(), because="archiving the WAL file with the shutdown checkpoint")
    return None


def archive_too_long(w: World) -> Decision | None:
    """The archive_command does not end: cancel it."""
    if within(w, Phase.ARCHIVE) and w.task_is(TaskKind.ARCHIVE) and w.now - demotion_of(w).since > ARCHIVE_LIMIT_S:
        return rest(CancelTask(), because=f"archiving takes longer than {ARCHIVE_LIMIT_S:.0f} s", wake_after=0.5)
    return None


def archiving(w: World) -> Decision | None:
    """The archive_command runs."""
    return rest(because="archiving the shutdown checkpoint", wake_after=1.0) if within(w, Phase.ARCHIVE) and w.busy else None


def archived(w: World) -> Decision | None:
    """Nothing is left to save: go on as a standby. A file that could not be archived is named, for a hand that copies it."""
    if not within(w, Phase.ARCHIVE):
        return None
    result = w.ended(TaskKind.ARCHIVE)
    failed = f"; the last WAL file is not in the archive: {result.error or 'cancelled'}" if result and not result.ok else ""
    return act(SetRole(Role.DEMOTED), EndProcedure(), because=f"stopped in order; going on as a standby of the remote{failed}")


DEMOTE_CLUSTER_RULES = (stopped_for_remote, keep_the_lock, archive, archive_too_long, archiving, archived)
