"""All simulated servers of a world and the streams between them: who follows whom, what arrives when, who notices an end when."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from pgcore.testing.simulation.scheduler import Scheduler
from pgcore.testing.simulation.server import Phase, Server
from pgcore.testing.simulation.server_files import Followed
from pgcore.testing.simulation.wal import Branch, Commit, Wal, passed, timeline_root

SEGMENT = 16 * 1024 * 1024
WATCH_S = 0.5
"""How often both ends of a stream look whether the other is still there."""

Observer = Callable[[str, Server, Mapping[str, object]], None]


class Stream:
    """A WAL sender and the receiver it serves. Each end closes by itself: ``up`` on the upstream, ``down`` on the standby."""

    __slots__ = ("catching_up", "down", "flushed", "followed", "number", "pending", "quiet", "standby", "up", "upstream")

    def __init__(self, number: int, upstream: Server, standby: Server, followed: Followed) -> None:
        self.number, self.upstream, self.standby, self.followed = number, upstream, standby, followed
        self.up = self.down = self.catching_up = True
        self.pending = False
        self.flushed = standby.at.position
        """How far the upstream knows that the standby has it."""
        self.quiet: list[float | None] = [None, None]
        """Since when the upstream, and the standby, hear nothing of the other."""

    @property
    def behind(self) -> bool:
        """The standby has not confirmed all of it."""
        return self.flushed < self.upstream.at.position


def permits(own: Commit, theirs: Commit) -> bool:
    """Whether PostgreSQL lets a standby with WAL up to ``own`` stream from a server at ``theirs``: it compares numbers."""
    mine, its = own.branch.timeline, theirs.branch.timeline
    if mine > its:
        return False
    if mine == its:
        return own.position // SEGMENT * SEGMENT <= theirs.position
    switch = theirs.switch(mine)
    return switch is not None and own.position <= switch


class Fleet:
    """Every server of the world. ``connected``: two machines can talk at this moment. ``observer`` is told what happens."""

    def __init__(
        self,
        scheduler: Scheduler,
        dice: random.Random,
        connected: Callable[[str, str], bool],
        observer: Observer = lambda kind, server, facts: None,
    ) -> None:
        self.scheduler, self.dice, self.connected, self.observer = scheduler, dice, connected, observer
        self.wal = Wal()
        self.starts = 0
        self.archiving = False
        """Promotions leave their history file in an archive that all servers of a cluster look into."""
        self.servers: dict[tuple[str, int], Server] = {}
        self.streams: list[Stream] = []
        self._archived: dict[str, list[int]] = {}
        self._count = 0
        self._watching = False

    def add(self, server: Server) -> None:
        """Another server."""
        self.servers[server.host, server.port] = server

    def archived(self, system_id: str) -> Iterable[int]:
        """Timelines that the cluster's archive knows."""
        return self._archived.get(system_id, ())

    def archive(self, branch: Branch) -> None:
        """A history file is archived."""
        if self.archiving:
            self._archived.setdefault(branch.system_id, []).append(branch.timeline)

    def linked(self, one: Server, other: Server) -> bool:
        """Packets between their machines arrive."""
        return one.machine == other.machine or self.connected(one.machine, other.machine)

    def named(self, host: str, port: int) -> list[Server]:
        """The servers at these addresses, separated by commas."""
        found = (self.servers.get((each.strip(), port)) for each in host.split(","))
        return [server for server in found if server is not None]

    def reached(self, client: Server, host: str, port: int, *, read_write: bool = False) -> Server | None:
        """The server that a connection from there gets to, if one answers."""
        for server in self.named(host, port):
            if server.answers and self.linked(client, server) and (server.writable or not read_write):
                return server
        return None

    # -- following ---------------------------------------------------------------------------------------------------------

    def seek(self, standby: Server) -> None:
        """Let it stream from whom it is told to follow; it looks again and again until that works."""
        if standby.phase is not Phase.UP or not standby.in_recovery or standby.files is None:
            return
        stream = standby.receiver
        if stream is not None and stream.followed == standby.followed:
            return
        idle = standby.files.replayed >= standby.files.wal.position
        if stream is not None and idle:
            self._close(stream, down=True)
            stream = None
        if stream is None and idle and standby.followed is not None and not standby.pace.disk_full:
            self._connect(standby, standby.followed)
        wants = standby.followed is not None or standby.receiver is not None
        right = standby.receiver is not None and standby.receiver.followed == standby.followed
        if wants and not right and not standby.seeking:
            standby.seeking = True
            self.scheduler.after(standby.takes(standby.pace.reconnect_s), lambda: self._again(standby), standby.life)

    def _again(self, standby: Server) -> None:
        standby.seeking = False
        self.seek(standby)

    def _connect(self, standby: Server, followed: Followed) -> None:
        upstream = self.reached(standby, followed.host, followed.port, read_write=followed.read_write)
        if upstream is None or upstream is standby or upstream.files is None or not self._slot_free(upstream, followed.slot):
            return
        own, theirs = standby.at, upstream.at
        if own.branch.system_id != theirs.branch.system_id:
            return
        self._fetch_histories(standby, upstream)
        if not permits(own, theirs) or self._misled(standby, theirs):
            return
        self._count += 1
        stream = Stream(self._count, upstream, standby, followed)
        self.streams.append(stream)
        upstream.senders.append(stream)
        standby.receiver = stream
        standby.received = True
        self._watch()
        self._send(stream)

    @staticmethod
    def _slot_free(upstream: Server, name: str | None) -> bool:
        if name is None:
            return True
        slot = upstream.files.slots.get(name) if upstream.files else None
        return slot is not None and slot.physical and not any(stream.followed.slot == name for stream in upstream.senders)

    @staticmethod
    def _fetch_histories(standby: Server, upstream: Server) -> None:
        """The history files of newer timelines come before anything else, also when they show that it cannot follow."""
        branch: Branch | None = upstream.at.branch
        while branch is not None and branch.timeline > standby.timeline:
            if standby.files is not None:
                standby.files.known.setdefault(branch.timeline, timeline_root(branch))
            branch = branch.parent
        if standby.files is not None and upstream.files is not None:
            for number, known in upstream.files.known.items():
                if standby.timeline < number < upstream.timeline:
                    standby.files.known.setdefault(number, known)

    @staticmethod
    def _misled(standby: Server, theirs: Commit) -> bool:
        """It goes by a history file that is not of this upstream, so it does not go on beyond its own timeline."""
        newest = standby.files.newest_history if standby.files is not None else None
        if newest is None or theirs.branch.timeline == standby.timeline:
            return False
        way = passed(theirs.branch, newest.timeline)
        return way is None or timeline_root(way) is not newest

    # -- sending -----------------------------------------------------------------------------------------------------------

    def push(self, upstream: Server) -> None:
        """It has more WAL than before."""
        for stream in tuple(upstream.senders):
            self._send(stream)

    def _send(self, stream: Stream) -> None:
        if stream.pending or not (stream.up and stream.down) or stream.upstream.hung or stream.upstream.files is None:
            return
        until = stream.upstream.at
        if until == stream.standby.at:
            stream.catching_up = False
            self.confirm(stream)
            return
        if not self.linked(stream.upstream, stream.standby):
            return  # lost, and sent again when the link is back
        stream.pending = True
        standby = stream.standby
        self.scheduler.after(standby.takes(standby.pace.receive_s), lambda: self._deliver(stream, until), standby.life)

    def _deliver(self, stream: Stream, until: Commit) -> None:
        stream.pending = False
        standby = stream.standby
        if not stream.down or standby.files is None or not self.linked(stream.upstream, standby):
            return
        own = standby.at
        if standby.pace.disk_full or not permits(own, until) or self._misled(standby, until):
            self._close(stream, down=True)
            self.seek(standby)
            return
        if until.contains(own):
            standby.receive(until)
        elif not own.contains(until):
            standby.files.spoiled = True
            standby.tell("mixed", had=own, got=until)
            standby.receive(until)
        stream.catching_up = False
        self.confirm(stream)
        self._send(stream)

    def confirm(self, stream: Stream) -> None:
        """The standby's answer."""
        upstream, standby = stream.upstream, stream.standby
        if not stream.up or upstream.life is None or upstream.files is None or not self.linked(upstream, standby):
            return
        if not standby.pace.reports:
            return
        stream.flushed = standby.at.position
        slot = upstream.files.slots.get(stream.followed.slot or "")
        if slot is not None:
            slot.restart = stream.flushed
        if not upstream.hung:  # else it judges when it goes on
            upstream.waiting.judge()

    # -- ending ------------------------------------------------------------------------------------------------------------

    def leave(self, standby: Server) -> None:
        """It stops receiving: it becomes a primary, or it stops."""
        if standby.receiver is not None:
            self._close(standby.receiver, down=True)

    def switched(self, upstream: Server) -> None:
        """It has left its timeline: a sender whose standby has more of that one ends at once."""
        for stream in tuple(upstream.senders):
            if not upstream.at.contains(stream.standby.at):
                self._close(stream, down=False)

    def ended(self, server: Server, *, silently: bool) -> None:
        """Its processes are gone; the other ends are told by its system, unless that is gone too."""
        for stream in [each for each in self.streams if server in (each.upstream, each.standby)]:
            self._close(stream, down=stream.standby is server, told=not silently)

    def _close(self, stream: Stream, *, down: bool, told: bool = True) -> None:
        """One end is closed; the other is at once if it can be told."""
        both = told and self.linked(stream.upstream, stream.standby)
        if down or both:
            self._close_down(stream)
        if both or not down:
            self._close_up(stream)
        if not stream.up and not stream.down and stream in self.streams:
            self.streams.remove(stream)

    def _close_down(self, stream: Stream) -> None:
        stream.down = False
        standby = stream.standby
        if standby.receiver is stream:
            standby.receiver = None
            if standby.life is not None and not standby.seeking:
                standby.seeking = True
                self.scheduler.after(standby.takes(standby.pace.reconnect_s), lambda: self._again(standby), standby.life)

    @staticmethod
    def _close_up(stream: Stream) -> None:
        stream.up = False
        if stream in stream.upstream.senders:
            stream.upstream.senders.remove(stream)

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self.scheduler.after(WATCH_S, self._look)

    def _look(self) -> None:
        self._watching = False
        for stream in tuple(self.streams):
            linked = self.linked(stream.upstream, stream.standby)
            if linked and stream.up != stream.down:  # a packet to an end that is gone is refused
                self._close(stream, down=stream.up is False)
                continue
            hears = (linked and not stream.standby.hung, linked and not stream.upstream.hung)
            for end, (heard, server) in enumerate(zip(hears, (stream.upstream, stream.standby), strict=True)):
                self._listen(stream, end, heard, server.pace.notice_s)
            if linked:
                self._send(stream)
        if self.streams:
            self._watch()

    def _listen(self, stream: Stream, end: int, heard: bool, patience: float) -> None:
        since = stream.quiet[end]
        if heard:
            stream.quiet[end] = None
        elif since is None:
            stream.quiet[end] = self.scheduler.now
        elif self.scheduler.now - since >= patience:
            self._close(stream, down=end == 1, told=False)
