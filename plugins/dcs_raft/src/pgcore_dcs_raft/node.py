"""One node of the Raft cluster: pysyncobj, driven by a thread of ours, with the state machine on top. Imported by ``open`` only.

pysyncobj's own thread batches for a heartbeat period, which makes a write take 100 ms. Here ``appendEntriesUseBatch`` is off: a
command wakes the thread through a pipe, an entry is sent at once, and the commit index follows it at once, so that a write is
decided after a few messages. Between events the thread sleeps in ``poll`` for at most a heartbeat period.

The log on disk is ``journal``, the form of the messages ``wire``, when they may leave ``transport``. While the journal cannot be
written the node stands still: it ticks no more, neither votes nor leads nor acknowledges, and its verbs fail at once. To the
others it is a member that hung up; when the disk has room it writes what it knows and goes on.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, SyncObjException, replicated  # type: ignore[import-untyped]

from pgcore.plugin import ConfigError, Deadline, Instant, Json, StoreRejectedError, StoreUnavailableError, Timing, now
from pgcore_dcs_raft.channel import secret_of
from pgcore_dcs_raft.journal import Journal, open_journal
from pgcore_dcs_raft.library import adapt, follow_members
from pgcore_dcs_raft.lock import FilesLock
from pgcore_dcs_raft.machine import Lease, Machine
from pgcore_dcs_raft.membership import Membership
from pgcore_dcs_raft.plugin import RaftSection, members, plain
from pgcore_dcs_raft.transport import Transport

log = logging.getLogger(__name__)

ATTEMPT_S = 1.0
"""An attempt without an answer is repeated after this time; the machine applies a repeated command once."""
PAUSE_S = 0.02
"""Between an attempt that failed at once and the next."""
NEVER = Instant(float("-inf"))
PINGS_PER_TIMEOUT = 3
MAX_COMMAND_BYTES = 2**20
BATCH_BYTES = 2**22
"""Above MAX_COMMAND_BYTES, because pysyncobj loses data when it cuts an entry just above a multiple of this size."""
COMPACTED_BYTES = 2**22
"""A journal larger than this is replaced by a dump."""
COMPACTION_INTERVAL_S = 60.0
NEVER_BY_ITSELF = 2**31
STORAGE_RETRY_S = 1.0


class _Replicated(SyncObjConsumer):
    """The bridge between the log and the machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    @replicated
    def apply(self, text: str) -> dict[str, Json]:
        """One command, as JSON. The entry being applied is the one after the last applied one."""
        return self._machine.apply(text, self._syncObj.raftLastApplied + 1)

    def _serialize(self) -> dict[str, Json]:
        return self._machine.dump()

    def _deserialize(self, data: dict[str, Json]) -> None:
        self._machine.restore(data)


@dataclass(slots=True)
class _Attempt:
    """One submission of a command, filled in by the Raft thread."""

    ended: threading.Event
    result: dict[str, Json] | None = None

    def end(self, result: dict[str, Json] | None, error: int) -> None:
        """The library's callback."""
        if error == FAIL_REASON.SUCCESS:
            self.result = result
        self.ended.set()


class RaftNode:
    """A member of the consensus, or with ``observer`` a client that follows it without a vote.

    ``submit`` decides a command; ``in_touch`` waits until the local state is known to be recent. Any thread may call them.
    """

    def __init__(self, section: RaftSection, timing: Timing, *, observer: bool = False,
                 clock: Callable[[], Instant] = now) -> None:
        """Start the node. ``clock`` judges leases and contact.

        Raises ConfigError if the node cannot listen on its address or write to its directory.
        """
        adapt()
        self._section, self.clock = section, clock
        self.machine = Machine(clock)
        self._replicated = _Replicated(self.machine)
        self._state = threading.Condition()
        self._next_ping = Instant(0.0)
        self._open_attempts: dict[int, _Attempt] = {}
        self._closing = threading.Event()
        self._storage_trouble = ""
        self._next_compaction = Instant(0.0)
        self._leader: str | None = None
        self._leader_since: Instant | None = None
        self._commit_at_election = 0
        self._contact = NEVER
        self._heartbeat: tuple[Instant, int] | None = None
        self._responses: dict[str, Instant] = {}
        self._proposed: dict[Lease, Instant] = {}
        self.membership: Membership | None = None
        self._lock: FilesLock | None = None
        self.address = plain(section.self_addr) if section.self_addr and not observer else None
        others = [address for address in members(section) if address != self.address]
        self._conf = self._configured(timing)
        if self.address:
            self._check_port(self._conf.bindAddress)
            self._make_directory()
            self._lock = FilesLock(self._base)
        try:
            if self.address:
                self.membership = Membership(self, section, self.address, others)
            self._raft = self._opened(others)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="raft", daemon=True)
        self._thread.start()
        if self.membership:
            self.membership.start()

    # -- start ---------------------------------------------------------------------------------------------------------

    def _configured(self, timing: Timing) -> SyncObjConf:
        section = self._section
        files: dict[str, Any] = {}
        if self.address:  # compaction is ours to start: the library would try again and again on a full disk
            files = {"fullDumpFile": self._base + ".dump",
                     "logCompactionMinEntries": NEVER_BY_ITSELF, "logCompactionMinTime": NEVER_BY_ITSELF}
        return SyncObjConf(
            autoTick=False, appendEntriesUseBatch=False, commandsWaitLeader=False,
            dynamicMembershipChange=True, maxBindRetries=1,
            # Always given: without it the library listens on every interface, whatever self_addr says.
            bindAddress=plain(section.bind_addr or self.address) if self.address else None,
            raftMinTimeout=section.min_timeout, raftMaxTimeout=section.max_timeout, connectionTimeout=section.connection_timeout,
            appendEntriesPeriod=section.append_entries_period, connectionRetryTime=section.connection_retry_time,
            leaderFallbackTimeout=self._fallback_s(timing), appendEntriesBatchSizeBytes=BATCH_BYTES,
            useFork=False,  # the state is small, and a fork of a process with threads is a risk
            **files)

    @property
    def _base(self) -> str:
        """What the names of this member's files begin with."""
        return os.path.join(self._section.data_dir, str(self.address))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _fallback_s(self, timing: Timing) -> float:
        section = self._section
        if section.leader_fallback_timeout is not None:
            return section.leader_fallback_timeout
        return max(section.max_timeout, timing.ttl / 6)

    def _opened(self, others: list[str]) -> SyncObj:
        def transport(raft: SyncObj, self_node: Any, other_nodes: Any) -> Transport:
            self._transport = Transport(self, self._journal, secret_of(self._section.password), raft, self_node, other_nodes)
            return self._transport

        self._journal: Journal | None = None
        if self.address:
            self._journal = open_journal(self._base)
        self._conf.journalFile = self._journal
        try:
            raft = SyncObj(self.address, others, self._conf, consumers=[self._replicated], transportClass=transport)
        except SyncObjException as error:
            raise _cannot_listen(self._section, str(error)) from error
        if self.membership:  # later than the library, whose own answers to some of these are replaced
            for command in ("members", "add", "remove", "admit"):
                self._transport.setOnUtilityMessageCallback(command, getattr(self.membership, command))
        return raft

    def _check_port(self, address: str) -> None:
        """Bind once ourselves: the library hides the reason of a failure, and opens the journal before it tries."""
        host, _, port = address.rpartition(":")
        try:
            family, _, _, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(target)
                probe.listen(1)
        except OSError as error:
            raise _cannot_listen(self._section, str(error)) from error

    def _make_directory(self) -> None:
        directory = self._section.data_dir or "."
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError("raft.data_dir", f"{directory} cannot be created: {error}",
                              "name a directory that the user pgcore runs as can write to") from error

    # -- the Raft thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        trouble = ""
        self._raft.doTick(0.0)  # loads the dump
        if self._journal is not None:
            follow_members(self._raft, self._journal)
        while not self._closing.is_set() and not (self.membership and self.membership.ended):
            try:
                if self._is_written():
                    if self._transport.prevote is not None:
                        self._transport.prevote.before_tick()
                    self._raft.doTick(self._patience_s())
                    if self._is_written():
                        self._after_tick()
            except Exception as error:  # a bug or a hostile message must not end the thread silently: the lock hangs on it
                if trouble != repr(error):
                    trouble = repr(error)
                    log.exception("The Raft node %s failed in a tick and goes on; the same error is not repeated here",
                                  self.address or "(observer)")
                self._closing.wait(self._conf.appendEntriesPeriod)
        self._raft.destroy()
        _close_pipe(self._raft)
        self._release()

    def _is_written(self) -> bool:
        """Bring the journal to disk and send what waited for it. Waits a second if that fails."""
        try:
            self._transport.flush()
        except OSError as error:
            self._stand_still(error)
            self._closing.wait(STORAGE_RETRY_S)
            return False
        if self._storage_trouble:
            log.warning("The Raft member %s can write to %s again and takes part", self.address, self._directory)
            self._storage_trouble = ""
        return True

    def _stand_still(self, error: OSError) -> None:
        """Tell everybody who waits. What this node knew is no longer current: it may not have heard what the others decide."""
        trouble = f"cannot write to {self._directory} (raft.data_dir): {error.strerror or error}"
        self._transport.hang_up()
        if trouble != self._storage_trouble:
            log.error("The Raft member %s %s; it neither votes nor leads until it can", self.address, trouble)
        with self._state:
            self._storage_trouble, self._contact, self._heartbeat = trouble, NEVER, None
            self._responses.clear()
            self._state.notify_all()
        for attempt in list(self._open_attempts.values()):
            attempt.ended.set()

    @property
    def _directory(self) -> str:
        return os.path.abspath(self._section.data_dir)

    def _patience_s(self) -> float:
        """How long the next ``poll`` may sleep. A cluster of one commits in the tick after the append; nothing would wake it."""
        if self._open_attempts and not self._raft.otherNodes:
            return 0.0
        return float(self._conf.appendEntriesPeriod)

    def _after_tick(self) -> None:
        raft, moment = self._raft, self.clock()
        if not raft._isLeader():
            self._leader_since = None
        elif self._leader_since is None:
            self._leader_since, self._commit_at_election = moment, raft.raftCommitIndex
            self._responses.clear()
        if self._leader_since is not None:
            self._expire(moment, self._leader_since)
        if moment >= self._next_ping:
            self._next_ping = Instant(moment + self._conf.connectionTimeout / PINGS_PER_TIMEOUT)
            self._transport.ping(raft.otherNodes)
        if self._journal is not None and self._journal.size() > COMPACTED_BYTES and moment >= self._next_compaction:
            self._next_compaction = Instant(moment + COMPACTION_INTERVAL_S)
            raft.forceLogCompaction()
        contact = self._contact_after_tick(moment)
        if self.membership and contact > self._contact:  # on the way there, old words about this member may still be applied
            self.membership.examine()
        leader = raft._getLeader()
        self._note(None if leader is None else leader.id, contact)

    def _contact_after_tick(self, moment: Instant) -> Instant:
        """When this node last knew, and had applied, what a majority had decided."""
        if self._leader_since is None:
            if self._heartbeat is None or self._raft.raftLastApplied < self._heartbeat[1]:
                return self._contact
            heard_at, self._heartbeat = self._heartbeat[0], None
            return heard_at
        others = self._raft.otherNodes
        if not others:  # alone, whatever is committed was decided by all
            return moment if self._raft.raftLastApplied >= self._raft.raftCommitIndex else self._contact
        # A new leader knows what is decided only when the first entry of its own term is.
        if not self._commit_at_election < self._raft.raftCommitIndex <= self._raft.raftLastApplied:
            return self._contact
        answers = sorted((self._responses.get(node.id, NEVER) for node in others), reverse=True)
        needed = (len(others) + 1) // 2  # of the others, to be a majority with this node
        return answers[needed - 1]

    def _note(self, leader: str | None, contact: Instant) -> None:
        with self._state:
            if leader != self._leader or contact > self._contact:
                self._leader, self._contact = leader, max(contact, self._contact)
                self._state.notify_all()

    def heard(self, node: Any, message: Mapping[str, Any]) -> None:
        """A message has been handled (Raft thread). Kept is the oldest heartbeat whose commit index is not applied yet."""
        kind = message.get("type")
        if kind == "append_entries" and self._heartbeat is None and node == self._raft._getLeader():
            self._heartbeat = self.clock(), message["commit_index"]
        elif kind == "next_node_idx":
            self._responses[node.id] = self.clock()

    def _expire(self, moment: Instant, leader_since: Instant) -> None:
        """Propose the end of every lease that has run out, again after a second if nothing came of it."""
        self._proposed = {lease: at for lease, at in self._proposed.items() if moment < at + ATTEMPT_S}
        for lease in self.machine.due(leader_since):
            if lease not in self._proposed:
                self._proposed[lease] = moment
                self._replicated.apply(json.dumps({"op": "expire", "session": lease.session, "extended": lease.extended}),
                                       callback=_ignore)

    # -- members -------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether this node may not take part yet."""
        return self.membership is not None and self.membership.held

    @property
    def leader(self) -> str | None:
        """The address of the Raft leader as this node knows it."""
        return self._leader

    @property
    def closing(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing.is_set()

    def pause(self, seconds: float) -> None:
        """Wait that long, or until the node is closed."""
        self._closing.wait(seconds)

    def wake(self) -> None:
        """Let the verbs that wait look again."""
        with self._state:
            self._state.notify_all()

    def is_in_touch(self, within_s: float) -> bool:
        """Whether this node's state was known to be recent at most that long ago."""
        return self._contact >= self.clock() - within_s

    def described(self) -> dict[str, Any]:
        """This node for people (Raft thread)."""
        raft = self._raft
        nodes = [node.id for node in raft.otherNodes] + ([self.address] if self.address else [])
        return {"members": sorted(nodes), "leader": self._leader, "leads": bool(raft._isLeader()), "term": raft.raftCurrentTerm,
                "applied": raft.raftLastApplied, "commit": raft.raftCommitIndex}

    def propose(self, command: Mapping[str, Json], callback: Callable[[Any, int], None]) -> None:
        """Have a command decided, once; the callback gets its result and pysyncobj's reason if it failed."""
        self._replicated.apply(json.dumps(command), callback=callback)

    def change_members(self, change: str, address: str, callback: Callable[[Any, int], None]) -> None:
        """``add`` a voter or ``remove`` one. Denied while another change is under way, and for the Raft leader itself."""
        method = self._raft.addNodeToCluster if change == "add" else self._raft.removeNodeFromCluster
        method(address, callback=callback)

    # -- callers -------------------------------------------------------------------------------------------------------

    def submit(self, command: Mapping[str, Json], deadline: Deadline) -> dict[str, Json]:
        """Have the command decided and applied on this node, and return the machine's result.

        Sends it again while attempts fail. Raises StoreUnavailableError at the deadline, StoreRejectedError for a command that
        is too large.
        """
        text = json.dumps(command)
        if len(text) > MAX_COMMAND_BYTES:
            raise StoreRejectedError(f"the value of {command.get('path')} is too large for the Raft store: "
                                     f"{len(text)} bytes, at most {MAX_COMMAND_BYTES}")
        while True:
            self._await(lambda: self._leader is not None, deadline, "no Raft leader is known")
            result = self._attempted(text, min(deadline.left(), ATTEMPT_S))
            if result is not None:
                return result
            if self._closing.wait(min(deadline.left(), PAUSE_S)) or deadline.expired:
                raise self._undecided("not decided by a majority in time")

    def _attempted(self, text: str, patience_s: float) -> dict[str, Json] | None:
        attempt = _Attempt(threading.Event())
        self._open_attempts[id(attempt)] = attempt
        try:
            self._replicated.apply(text, callback=attempt.end)
            attempt.ended.wait(patience_s)
            return attempt.result
        finally:
            del self._open_attempts[id(attempt)]

    def in_touch(self, within_s: float, deadline: Deadline) -> Instant:
        """Wait until this node's state is known to be at most that old, and return when that was known.

        Raises StoreUnavailableError at the deadline.
        """
        self._await(lambda: self._contact >= self.clock() - within_s, deadline, "no contact to a Raft leader")
        return self._contact

    def _await(self, condition: Callable[[], bool], deadline: Deadline, problem: str) -> None:
        with self._state:
            met = self._state.wait_for(
                lambda: self._closing.is_set() or bool(self._refusal or self._storage_trouble) or condition(), deadline.left())
        if self._refusal is not None:
            raise StoreRejectedError(self._refusal)
        if self._closing.is_set():
            raise StoreUnavailableError(f"Raft node {self.address or '(observer)'} is closed")
        if self._storage_trouble:
            raise self._undecided(self._storage_trouble)
        if not met or deadline.expired:
            raise self._undecided(problem)

    @property
    def _refusal(self) -> str | None:
        return self.membership.refusal if self.membership else None

    def _undecided(self, problem: str) -> StoreUnavailableError:
        """An observer's user did not start the members, so he is told where they are looked for."""
        asked = "" if self.address else f"; asked: {', '.join(members(self._section))}"
        return StoreUnavailableError(f"Raft node {self.address or '(observer)'}: {problem}{asked}")

    def retime(self, timing: Timing) -> None:
        """The time after which a leader without a majority steps down follows the ttl."""
        self._conf.leaderFallbackTimeout = self._fallback_s(timing)

    def close(self) -> None:
        """End threads and sockets. Waits for the Raft thread, which takes at most about a heartbeat period."""
        self._closing.set()
        with self._state:
            self._state.notify_all()
        for attempt in list(self._open_attempts.values()):
            attempt.ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)


def _ignore(result: Any, error: int) -> None:
    """The callback of a proposal nobody waits for."""


def _cannot_listen(section: RaftSection, reason: str) -> ConfigError:
    key = "raft.bind_addr" if section.bind_addr else "raft.self_addr"
    return ConfigError(key, f"cannot listen on {section.bind_addr or section.self_addr}: {reason}",
                       "stop the program that uses the port, or choose another address")


def _close_pipe(raft: SyncObj) -> None:
    """``destroy`` leaves the two ends of the wake-up pipe open."""
    notifier = getattr(raft, "_SyncObj__pipeNotifier", None)
    for name in ("_PipeNotifier__pipeR", "_PipeNotifier__pipeW"):
        descriptor = getattr(notifier, name, None)
        if descriptor is not None:
            os.close(descriptor)
