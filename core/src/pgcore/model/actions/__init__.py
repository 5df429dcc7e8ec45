"""Every effect as data. The set is closed: ``daemon.perform`` has one function for each, and nothing else has effects.

*Looks* read, *store* actions write keys, *quick* server actions end within their deadline, *slow* ones start the one task and
return at once, *memory* actions have no effect: ``decide.advance`` remembers them.
"""

from __future__ import annotations

from pgcore.model.actions.failsafe import AskFailsafe, WriteFailsafe
from pgcore.model.actions.looks import (
    CompareRecovery,
    CompareTimelines,
    ObserveNode,
    PollPeers,
    ProbePeers,
    ReadCluster,
    ReadHistory,
)
from pgcore.model.actions.node import (
    Adopt,
    BeginDemotion,
    CancelTask,
    DropSchedule,
    EndProcedure,
    EnterBootstrap,
    EnterPhase,
    Exit,
    LeaveSync,
    MarkUndecided,
    NoteRequest,
    Refuse,
    RefuseOrder,
    RemoveDataDir,
    ReturnToSync,
    SetAsideDataDir,
    SetRewind,
    TakeSchedule,
    TellChange,
)
from pgcore.model.actions.server import (
    ApplySettings,
    ArchiveShutdownWal,
    Bootstrap,
    Checkpoint,
    Clone,
    CrashRecover,
    FollowByReload,
    FollowByRestart,
    PostBootstrap,
    Promote,
    Reinitialize,
    Restart,
    ResumeReplay,
    Rewind,
    RunCheckpoint,
    SetHistoriesAside,
    SetRole,
    StartServer,
    StopServer,
)
from pgcore.model.actions.slots import (
    ChangeSlots,
    ComplainAboutSlots,
    CopySlots,
    ForceFeedback,
    LeaderSlots,
    ServeSlots,
)
from pgcore.model.actions.store import (
    AcquireLease,
    Announce,
    ClaimInitialize,
    DropInitialize,
    ReleaseLease,
    RenewLease,
    WriteConfig,
    WriteFailover,
    WriteHistory,
    WriteInitialize,
    WriteStatus,
)
from pgcore.model.actions.synchronous import DropSync, MarkBlocked, NoteProof, RestoreStandbyNames, SetStandbyNames, WriteSync
from pgcore.model.actions.watchdog import ActivateWatchdog, DisableWatchdog, FeedWatchdog
from pgcore.model.actions.words import (
    BootstrapPhase,
    DemoteMode,
    Outcome,
    Phase,
    RewindState,
    StopMode,
)

__all__ = [
    "AcquireLease",
    "Action",
    "ActivateWatchdog",
    "Adopt",
    "Announce",
    "ApplySettings",
    "ArchiveShutdownWal",
    "AskFailsafe",
    "BeginDemotion",
    "Bootstrap",
    "BootstrapPhase",
    "CancelTask",
    "ChangeSlots",
    "Checkpoint",
    "ClaimInitialize",
    "Clone",
    "CompareRecovery",
    "CompareTimelines",
    "ComplainAboutSlots",
    "CopySlots",
    "CrashRecover",
    "DemoteMode",
    "DisableWatchdog",
    "DropInitialize",
    "DropSchedule",
    "DropSync",
    "EndProcedure",
    "EnterBootstrap",
    "EnterPhase",
    "Exit",
    "FeedWatchdog",
    "FollowByReload",
    "FollowByRestart",
    "LeaveSync",
    "MarkBlocked",
    "ForceFeedback",
    "LeaderSlots",
    "MarkUndecided",
    "NoteProof",
    "NoteRequest",
    "ObserveNode",
    "Outcome",
    "Phase",
    "PollPeers",
    "PostBootstrap",
    "ProbePeers",
    "Promote",
    "ReadCluster",
    "ReadHistory",
    "Refuse",
    "RefuseOrder",
    "Reinitialize",
    "ReleaseLease",
    "RemoveDataDir",
    "RenewLease",
    "Restart",
    "ResumeReplay",
    "ReturnToSync",
    "RestoreStandbyNames",
    "Rewind",
    "RewindState",
    "RunCheckpoint",
    "ServeSlots",
    "SetAsideDataDir",
    "SetHistoriesAside",
    "SetRewind",
    "SetRole",
    "SetStandbyNames",
    "StartServer",
    "StopMode",
    "StopServer",
    "TakeSchedule",
    "TellChange",
    "WriteConfig",
    "WriteFailover",
    "WriteFailsafe",
    "WriteHistory",
    "WriteInitialize",
    "WriteStatus",
    "WriteSync",
]

Action = (
    ObserveNode
    | ReadCluster
    | PollPeers
    | ProbePeers
    | CompareTimelines
    | CompareRecovery
    | ReadHistory
    | AcquireLease
    | RenewLease
    | ReleaseLease
    | ClaimInitialize
    | WriteInitialize
    | DropInitialize
    | WriteConfig
    | WriteStatus
    | WriteHistory
    | WriteFailover
    | WriteFailsafe
    | AskFailsafe
    | WriteSync
    | DropSync
    | Announce
    | FollowByReload
    | ApplySettings
    | ChangeSlots
    | ServeSlots
    | CopySlots
    | ForceFeedback
    | ComplainAboutSlots
    | RunCheckpoint
    | ResumeReplay
    | SetStandbyNames
    | RestoreStandbyNames
    | SetRole
    | StartServer
    | StopServer
    | Checkpoint
    | Promote
    | FollowByRestart
    | CrashRecover
    | Rewind
    | SetHistoriesAside
    | ArchiveShutdownWal
    | Clone
    | Restart
    | Reinitialize
    | Bootstrap
    | PostBootstrap
    | ActivateWatchdog
    | FeedWatchdog
    | DisableWatchdog
    | CancelTask
    | RemoveDataDir
    | SetAsideDataDir
    | Exit
    | BeginDemotion
    | EnterPhase
    | EndProcedure
    | EnterBootstrap
    | SetRewind
    | Adopt
    | TellChange
    | MarkUndecided
    | MarkBlocked
    | NoteProof
    | NoteRequest
    | LeaveSync
    | ReturnToSync
    | Refuse
    | RefuseOrder
    | TakeSchedule
    | DropSchedule
)
