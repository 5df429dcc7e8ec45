"""WAL as the simulated servers write it: branches that grow at their ends, and who has which part of them.

A ``Branch`` is what one promotion began. Two promotions may give the same timeline number to different branches, as real servers
do; a server that writes at a place where its branch already goes on elsewhere begins a branch of its own under the same number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pgcore.model.basics import Lsn
from pgcore.postgres.timeline import BEGINNING_BYTES, Beginning, Switch

FIRST = 0x3000000
"""Where the WAL of a new cluster begins."""
REASON = "no recovery target specified"


@dataclass(eq=False, slots=True)
class Branch:
    """WAL between ``start`` and ``end``, after that of ``parent``. ``number`` is unique in the world."""

    number: int
    timeline: int
    system_id: str
    parent: Branch | None
    start: int
    began: float
    end: int = field(init=False)
    checkpoints: list[int] = field(default_factory=list)
    """Where checkpoint records begin."""

    def __post_init__(self) -> None:
        self.end = self.start

    def __repr__(self) -> str:
        return f"timeline {self.timeline} (branch {self.number})"


class Commit(NamedTuple):
    """A place in the WAL: everything before ``position`` on this branch and before it on its parents."""

    branch: Branch
    position: int

    def __repr__(self) -> str:
        return f"{Lsn(self.position)} of {self.branch!r}"

    def contains(self, other: Commit) -> bool:
        """Who has WAL up to here has ``other`` too."""
        branch: Branch | None = self.branch
        end = self.position
        while branch is not None:
            if branch is other.branch:
                return other.position <= end
            end, branch = min(end, branch.start), branch.parent
        return other.position <= other.branch.start and other.branch.parent is not None and self.contains(
            Commit(other.branch.parent, other.position))

    def shared(self, other: Commit) -> int:
        """Up to where both have the same."""
        ends = dict(_parts(other))
        for branch, end in _parts(self):
            if branch in ends:
                return min(end, ends[branch])
        return 0

    def cut(self, position: int) -> Commit:
        """The part of it that ends at ``position``; at a switch already on the later branch, as a server names it."""
        branch = self.branch
        while branch.start > position and branch.parent is not None:
            branch = branch.parent
        return Commit(branch, min(position, self.position))

    def last_checkpoint(self, size: int) -> Commit | None:
        """Where the last checkpoint record before it begins, so many bytes long."""
        for branch, end in _parts(self):
            for position in reversed(branch.checkpoints):
                if position + size <= end:
                    return Commit(branch, position)
        return None

    def switch(self, timeline: int) -> int | None:
        """Where this timeline was left on the way here, by number; None if it was not passed."""
        return next((int(end) for number, end, _ in history(self.branch) if number == timeline), None)


def _parts(commit: Commit) -> list[tuple[Branch, int]]:
    found: list[tuple[Branch, int]] = []
    branch: Branch | None = commit.branch
    end = commit.position
    while branch is not None:
        found.append((branch, end))
        end, branch = min(end, branch.start), branch.parent
    return found


def timeline_root(branch: Branch) -> Branch:
    """The branch with which its timeline began."""
    while branch.parent is not None and branch.parent.timeline == branch.timeline:
        branch = branch.parent
    return branch


def passed(branch: Branch, timeline: int) -> Branch | None:
    """The branch of this timeline number on the way to ``branch``."""
    found: Branch | None = branch
    while found is not None and found.timeline != timeline:
        found = found.parent
    return found


def history(branch: Branch) -> tuple[Switch, ...]:
    """What its history file says: timelines it left, oldest first."""
    found: list[Switch] = []
    branch = timeline_root(branch)
    while branch.parent is not None:
        found.append((branch.parent.timeline, Lsn(branch.start), REASON))
        branch = timeline_root(branch.parent)
    return tuple(reversed(found))


def beginnings(commit: Commit) -> dict[int, Beginning]:
    """The first record of each timeline on the way here; not while it is not written, and not of the first timeline."""
    found: dict[int, Beginning] = {}
    root, end = timeline_root(commit.branch), commit.position
    while root.parent is not None:
        if end >= root.start + 8 + BEGINNING_BYTES:
            found[root.timeline] = Beginning(f"{root.timeline:08X}", root.start, str(root.number).encode())
        end, root = root.start, timeline_root(root.parent)
    return found


class Wal:
    """Where branches come from; one for the world, so that numbers are unique."""

    def __init__(self) -> None:
        self._branches = self._systems = 0
        self.nothing = Branch(0, 0, "", None, 0, 0.0)
        """What a data directory has that is still being filled."""

    def new_cluster(self, wall: float) -> Commit:
        """The WAL of a cluster that was just made."""
        self._systems += 1
        return Commit(self._branch(1, f"73000000000000{self._systems:05d}", None, FIRST, wall), FIRST)

    def existing(self, system_id: str, timeline: int, position: int) -> Commit:
        """The WAL of a cluster that was made elsewhere, from here on."""
        return Commit(self._branch(timeline, system_id, None, position, 0.0), position)

    def promoted(self, at: Commit, timeline: int, wall: float) -> Commit:
        """A new timeline begins here."""
        return Commit(self._branch(timeline, at.branch.system_id, at.branch, at.position, wall), at.position)

    def append(self, at: Commit, size: int, wall: float) -> Commit:
        """Somebody who has WAL up to here writes so much."""
        branch = at.branch
        if branch.end != at.position:
            branch = self._branch(branch.timeline, branch.system_id, branch, at.position, wall)
        branch.end += size
        return Commit(branch, branch.end)

    def _branch(self, timeline: int, system_id: str, parent: Branch | None, start: int, wall: float) -> Branch:
        self._branches += 1
        return Branch(self._branches, timeline, system_id, parent, start, wall)
