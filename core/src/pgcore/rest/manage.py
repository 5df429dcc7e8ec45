"""Management requests: cheap checks against the board, a letter to the heartbeat, and the wait for what comes of it (rest-api 8).

The heartbeat alone writes to the store; the rules of the leader and of the candidates decide whether a switchover happens.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dateutil import parser as dates  # type: ignore[import-untyped]

from pgcore.clock import Deadline, now
from pgcore.daemon.board import Board, Status
from pgcore.daemon.mailbox import Mailbox, ReloadConfig, WriteFailover
from pgcore.errors import PgcoreError
from pgcore.model.basics import Instant, Json
from pgcore.model.cluster import ClusterView, FailoverRequest, Member
from pgcore.model.world import PeerView

SLICE_S = 1.0
"""A waiting request looks this often whether the server is about to stop."""
SHOWN_S = 1.0
"""A change is answered when this node shows it, as whoever reads after a write wants to see it; or after so many seconds."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """Code and text of the answer. ``page``: only the code is contractual."""

    code: int
    text: str
    page: bool = False


@dataclass(frozen=True, slots=True)
class Reports:
    """Members of other groups (rest-api 10): where they report besides ``mpp`` and ``citus``, who is told, their hosts."""

    path: str = ""
    take: Callable[[Mapping[str, Json]], None] = lambda report: None
    """A cluster without groups is told in vain."""
    hosts: Callable[[], Collection[str]] = tuple


Look = Callable[[Sequence[Member]], Iterable[PeerView]]
"""Ask these members how they are: their answers as they come."""


def unasked(members: Sequence[Member]) -> Iterable[PeerView]:
    """Takes the members' cards for their answers."""
    return (PeerView(member.name, True) for member in members)


@dataclass(frozen=True, slots=True)
class Ask:
    """A switchover or failover as asked for. ``action`` is the word of the answers."""

    action: str
    leader: str | None
    candidate: str | None
    scheduled_at: str | None

    @classmethod
    def read(cls, action: str, body: dict[str, Json]) -> Ask:
        """From a request body."""
        leader, candidate = _text(body.get("leader")), _text(body.get("candidate") or body.get("member"))
        return cls(action, leader, candidate, _text(body.get("scheduled_at")))

    @property
    def carried_out(self) -> Ask:
        """A failover that names the leader is carried out as a switchover (rest-api 8.4)."""
        return replace(self, action="switchover") if self.leader else self


class Management:
    """Carries out unsafe requests. Any number of threads may call; each call takes at most ``_patience`` plus the write."""

    def __init__(self, board: Board, mailbox: Mailbox, stopping: threading.Event, look: Look) -> None:
        self._board = board
        self._mailbox = mailbox
        self._stopping = stopping
        self._look = look

    def reload(self) -> Reply:
        """``POST /reload``: read the local configuration again before the next heartbeat."""
        self._mailbox.ask(ReloadConfig())
        return Reply(202, "reload scheduled")

    def switchover(self, action: str, body: dict[str, Json]) -> Reply:
        """``POST /switchover`` and ``POST /failover``; unscheduled ones are answered when their outcome is known.

        (HA rules 16.1)
        """
        ask = Ask.read(action, body)
        status = self._board.status
        refusal = refused_request(ask, paused=bool(status and status.paused))
        if refusal is not None:
            return refusal
        ask = ask.carried_out
        if status is None or status.cluster is None:
            return Reply(503, f"{ask.action} is not possible: the store did not answer in the last heartbeat")
        if ask.scheduled_at:
            moment = moment_of(ask.scheduled_at, "switchover")
            if isinstance(moment, Reply):
                return moment
            letter = WriteFailover(ask.leader, ask.candidate, moment.isoformat())
            failed = self._write(ask, letter, status)
            if failed is None:
                self._board.until(lambda status: _scheduled_at(status) == letter.scheduled_at, SHOWN_S)
            return failed or Reply(202, f"{ask.action.title()} scheduled")
        refusal = refused_by_cluster(ask, status.synchronous, status.cluster, self._look)
        if refusal is not None:
            return refusal
        failed = self._write(ask, WriteFailover(ask.leader, ask.candidate), status)
        return failed or self._outcome(ask, status.cluster.leader, now(), Deadline.after(_patience(status)))

    def cancel_switchover(self) -> Reply:
        """``DELETE /switchover``: drop a scheduled one, if it is still the one that was seen."""
        status = self._board.status
        if status is None or status.cluster is None:
            return Reply(503, "the store did not answer in the last heartbeat", page=True)
        scheduled = _scheduled(status)
        if scheduled is None:
            return Reply(404, "no switchover is scheduled")
        written = self._ask(WriteFailover(version=scheduled.version), status)
        if written:
            self._board.until(lambda status: _scheduled(status) is None, SHOWN_S)
            return Reply(200, "scheduled switchover deleted")
        return Reply(409 if written is False else 503, "the request in the store has changed meanwhile" if written is False else
                     "the store did not answer: the scheduled switchover may or may not be deleted", page=True)

    def _write(self, ask: Ask, letter: WriteFailover, status: Status) -> Reply | None:
        """None when the request is in the store."""
        written = self._ask(letter, status)
        if written is None:
            # The heartbeat may still do it, so "failed" would be a lie.
            return Reply(503, f"{ask.action.title()} status unknown")
        return None if written else Reply(503, "failed to write failover key into DCS")

    def _ask(self, letter: WriteFailover, status: Status) -> bool | None:
        """True written, False refused by the store, None not known."""
        try:
            return self._mailbox.ask(letter).result(status.timing.retry_timeout + status.timing.loop_wait) is True
        except FutureTimeoutError:
            return None
        except PgcoreError as error:
            logger.warning("REST API: writing the failover key failed: %s", error)
            return False

    def _outcome(self, ask: Ask, old_leader: str | None, written_at: Instant, deadline: Deadline) -> Reply:
        """Wait for another leader, or for the request to vanish without one."""
        word, done = ask.action.title(), "switched over" if ask.action == "switchover" else "failed over"
        seen = None
        while not self._stopping.is_set():
            status = self._board.wait(seen, min(SLICE_S, deadline.left()))
            if status is not seen and status is not None and status.cluster is not None:
                view = status.cluster
                if view.leader and view.leader != old_leader:
                    if ask.candidate in (None, view.leader):
                        return Reply(200, f'Successfully {done} to "{view.leader}"')
                    return Reply(200, f'{done.capitalize()} to "{view.leader}" instead of "{ask.candidate}"')
                # Only an observation begun after the write can say that the request is gone; without a leader the race goes on.
                if status.at > written_at and view.failover is None and view.leader:
                    return Reply(503, f"{word} failed")
            seen = status
            if deadline.expired:
                break
        return Reply(503, f"{word} status unknown")


def _scheduled(status: Status) -> FailoverRequest | None:
    request = status.cluster.failover if status.cluster else None
    return request if request is not None and request.scheduled_at else None


def _scheduled_at(status: Status) -> str | None:
    request = _scheduled(status)
    return request.scheduled_at if request else None


def _patience(status: Status) -> float:
    """Seconds a caller is kept waiting for an outcome (rest-api 8.4)."""
    return 2.0 * max(10, status.timing.loop_wait)


def refused_request(ask: Ask, *, paused: bool) -> Reply | None:
    """What is wrong with the request itself (rest-api 8.4, code 400)."""
    if ask.action == "failover":
        if not ask.candidate:
            return Reply(400, "Failover could be performed only to a specific candidate")
        if ask.scheduled_at or not ask.leader:
            return Reply(400, "Failover can't be scheduled") if ask.scheduled_at else None
    if not ask.leader:
        return Reply(400, "Switchover could be performed only from a specific leader")
    if paused and ask.scheduled_at:
        return Reply(400, "Can't schedule switchover in the paused state")
    if paused and not ask.candidate:
        return Reply(400, "Switchover is possible only to a specific candidate in a paused state")
    return Reply(400, "Switchover target and source are the same") if ask.candidate == ask.leader else None


def moment_of(text: str, action: str) -> datetime | Reply:
    """The moment an action is scheduled for, or what is wrong with it (rest-api 8.1, 8.4)."""
    try:
        moment = dates.parse(text)
    except (ValueError, OverflowError):
        return Reply(422, f"Unable to parse scheduled timestamp. {text!r} is not an unambiguous time, e.g. ISO 8601")
    if moment.tzinfo is None:
        return Reply(400, f"Timezone information is mandatory for the scheduled {action}")
    return Reply(422, f"Cannot schedule {action} in the past") if moment < datetime.now(UTC) else moment


def refused_by_cluster(ask: Ask, mode: str, view: ClusterView, look: Look) -> Reply | None:
    """What the last view of the cluster and its members already rule out (rest-api 8.4, code 412). Rules check the rest.

    ``mode``: ``synchronous_mode``.
    """
    if ask.action == "switchover" and ask.leader != view.leader:
        return Reply(412, "leader name does not match")
    synchronous = mode == "on" and ask.action == "switchover"
    standbys = {name.lower() for name in view.sync.standbys}
    members = [member for member in view.members if member.name != view.leader]
    if ask.candidate:
        if synchronous and ask.candidate.lower() not in standbys:
            return Reply(412, "candidate name does not match with sync_standby")
        members = [member for member in members if member.name == ask.candidate]
        if not members and ask.candidate != view.leader:
            return Reply(412, "candidate does not exists")
    elif synchronous:
        members = [member for member in members if member.name.lower() in standbys]
        if not members:
            return Reply(412, f"{ask.action} is not possible: can not find sync_standby")
    if not members and not ask.candidate:
        return Reply(412, f"{ask.action} is not possible: cluster does not have members except leader")
    good = [member for member in members if member.api_url and not member.tags.nofailover]
    if members and not (good and any(_may_lead(seen) for seen in look(good))):
        return Reply(412, f"{ask.action} is not possible: no good candidates have been found")
    return None


def _may_lead(seen: PeerView) -> bool:
    return seen.reachable and not seen.nofailover and not seen.watchdog_failed


def _text(value: Json) -> str | None:
    return str(value) if value else None
