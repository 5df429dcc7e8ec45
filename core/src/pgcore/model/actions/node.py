"""Actions on this node, and those without an effect that ``decide.advance`` remembers."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.model.actions.words import BootstrapPhase, DemoteMode, Phase, RewindState
from pgcore.model.basics import Lsn

# -- node -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CancelTask:
    """Cancel the running task; it ends as cancelled soon."""


@dataclass(frozen=True, slots=True)
class RemoveDataDir:
    """Remove the data directory so that it is cloned anew. Only for a copy that exists elsewhere."""

    because: str


@dataclass(frozen=True, slots=True)
class SetAsideDataDir:
    """Rename the data directory of a failed bootstrap to ``<dir>.failed``."""


@dataclass(frozen=True, slots=True)
class Exit:
    """End the agent. ``leave_running`` keeps PostgreSQL as it is."""

    code: int
    message: str
    leave_running: bool = False


# -- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BeginDemotion:
    """Start giving up the primary role; the rules of ``decide.demotion`` carry it through."""

    mode: DemoteMode
    phase: Phase
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EnterPhase:
    """The demotion goes on with this phase.

    ``mark`` is the own position that shows a candidate alive, ``end`` the end of the shutdown checkpoint, each once known.
    """

    phase: Phase
    end: Lsn | None = None
    mark: Lsn | None = None


@dataclass(frozen=True, slots=True)
class EndProcedure:
    """The procedure is over; ``refused`` is the reason when a request was not carried out."""

    refused: str = ""


@dataclass(frozen=True, slots=True)
class EnterBootstrap:
    """The creation of a new cluster goes on with this phase."""

    phase: BootstrapPhase


@dataclass(frozen=True, slots=True)
class SetRewind:
    """Remember what is known about divergence."""

    state: RewindState


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take charge of the running server: the callbacks are told ``on_start`` once. (HA rules 4.14)"""


@dataclass(frozen=True, slots=True)
class TellChange:
    """Tell the callbacks what others did to the server: ``on_start``, or ``on_role_change`` if its role changed."""

    event: str


@dataclass(frozen=True, slots=True)
class MarkUndecided:
    """The comparison with the leader stays open; remembered since when."""


@dataclass(frozen=True, slots=True)
class RefuseOrder:
    """What the operator asked of this node is not begun; ``reason`` is the answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class TakeSchedule:
    """The scheduled restart is due: it becomes an order of this moment and is no longer scheduled."""


@dataclass(frozen=True, slots=True)
class DropSchedule:
    """The scheduled restart is not going to happen."""


@dataclass(frozen=True, slots=True)
class NoteRequest:
    """A switchover request was seen; remembered since when, by its version."""

    version: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Remember why a request was not carried out, for the one who asked."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaveSync:
    """Ask not to be synchronous, from now on; the tags that others see say so."""


@dataclass(frozen=True, slots=True)
class ReturnToSync:
    """The configured tags hold again."""
