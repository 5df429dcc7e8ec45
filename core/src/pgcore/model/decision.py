"""What a rule answers: its name, the reason in an operator's words, the actions in order, and how the stage goes on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pgcore.model.actions import Action


class Then(Enum):
    """What happens after the actions of a decision have succeeded."""

    AGAIN = "ask the same stage again"
    REST = "the stage is finished"
    END = "go straight to publish"


@dataclass(frozen=True, slots=True)
class Decision:
    """A rule's answer. ``wake_after`` asks for the next beat within so many seconds."""

    because: str
    actions: tuple[Action, ...] = ()
    then: Then = Then.REST
    wake_after: float | None = None
    rule: str = ""

    def named(self, rule: str) -> Decision:
        """The same decision under the name of its rule."""
        return Decision(self.because, self.actions, self.then, self.wake_after, rule)


def act(*actions: Action, because: str) -> Decision:
    """Do this, then ask the stage again."""
    return Decision(because, actions, Then.AGAIN)


def rest(*actions: Action, because: str, wake_after: float | None = None) -> Decision:
    """Do this, then the stage is finished."""
    return Decision(because, actions, Then.REST, wake_after)


def end(*actions: Action, because: str, wake_after: float | None = None) -> Decision:
    """Do this, then nothing more in this beat but publishing."""
    return Decision(because, actions, Then.END, wake_after)
