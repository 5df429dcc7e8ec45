"""When clients of a simulated server are told that they have committed: ``synchronous_standby_names`` at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from pgcore.decide.sync_names import parse
from pgcore.model.basics import Lsn
from pgcore.model.node import WalSender
from pgcore.model.synchronous import Kind, Names
from pgcore.testing.simulation.wal import Commit

if TYPE_CHECKING:
    from pgcore.testing.simulation.replication import Stream
    from pgcore.testing.simulation.server import Server

_parsed = lru_cache(parse)


class Waiting:
    """Commits of one server that wait, and by which names. ``shown`` is what a session sees, ``in_force`` what counts."""

    __slots__ = ("_commits", "_server", "commit", "in_force", "shown")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._commits: deque[tuple[Commit, Callable[[Commit], None] | None]] = deque()
        self.shown = self.in_force = ""
        self.commit = "on"
        """``synchronous_commit``."""

    def __len__(self) -> int:
        return len(self._commits)

    def begin(self, names: str) -> None:
        """A server starts with what its files say."""
        self._commits.clear()
        self.shown = self.in_force = names

    def show(self, names: str) -> None:
        """Sessions see these names from now on."""
        self.shown = names

    def take_over(self, names: str) -> None:
        """Every process goes by these names; whoever waits is judged anew."""
        self.in_force = names
        self.judge()

    def add(self, commit: Commit, told: Callable[[Commit], None] | None) -> None:
        """A session waits for its commit."""
        self._commits.append((commit, told))

    def give_up(self) -> None:
        """The sessions end: nobody is told that it has committed, although it may have."""
        self._commits.clear()

    def judge(self) -> None:
        """Tell all whose commits are confirmed."""
        if not self._commits or self._server.hung:
            return
        confirmed = self.confirmed()
        while self._commits and self._commits[0][0].position <= confirmed:
            commit, told = self._commits.popleft()
            self._server.tell("acknowledged", commit=commit)
            if told is not None:
                told(commit)

    @property
    def names(self) -> Names:
        """The names in force."""
        return _parsed(self.in_force)

    def confirmed(self) -> int:
        """Up to where commits are confirmed."""
        names = self.names
        if names.kind is Kind.OFF:
            return self._server.at.position
        if names.placeholder:
            return 0
        positions = [self._reached(stream) for stream in self._candidates(names)]
        if len(positions) < names.count:
            return 0
        if names.kind is Kind.ANY:
            return sorted(positions, reverse=True)[names.count - 1]
        return min(positions[:names.count])

    def _reached(self, stream: Stream) -> int:
        files = stream.standby.files
        return min(stream.flushed, files.replayed) if self.commit == "remote_apply" and files is not None else stream.flushed

    def _candidates(self, names: Names) -> list[Stream]:
        """Listed standbys that stream, in the order of the list."""
        streaming = [stream for stream in self._server.senders if not stream.catching_up]
        if names.everybody:
            return streaming
        listed = {name.lower(): place for place, name in enumerate(names.names)}
        known = [stream for stream in streaming if stream.standby.name.lower() in listed]
        return sorted(known, key=lambda stream: listed[stream.standby.name.lower()])

    def states(self) -> dict[int, tuple[str, int]]:
        """``sync_state`` and ``sync_priority`` of listed standbys, by the number of the stream."""
        names = self.names
        if names.kind is Kind.OFF:
            return {}
        if names.kind is Kind.ANY:
            return {stream.number: ("quorum", 1) for stream in self._candidates(names)}
        return {stream.number: ("sync" if place < names.count else "potential", place + 1)
                for place, stream in enumerate(self._candidates(names))}

    def rows(self) -> tuple[WalSender, ...]:
        """pg_stat_replication."""
        states, rows = self.states(), []
        for stream in self._server.senders:
            standby, flushed = stream.standby, Lsn(stream.flushed)
            replayed = flushed if standby.files is None else Lsn(min(standby.files.replayed, flushed))
            known = (flushed, flushed, replayed) if standby.pace.reports else (None, None, None)
            state = "catchup" if stream.catching_up else "streaming"
            sync, priority = states.get(stream.number, ("async", 0))
            rows.append(WalSender(standby.name, state, "replicator", standby.host, sync, priority, *known))
        return tuple(rows)
