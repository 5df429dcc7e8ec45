"""Asking the other members over REST: in parallel, bounded, on threads that exist before trouble begins. (HA rules 15.3)"""

from __future__ import annotations

import base64
import json
import logging
import queue
import re
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

from pgcore import threads
from pgcore.clock import Deadline, now
from pgcore.errors import PgcoreError
from pgcore.model.basics import Instant, Json, Lsn
from pgcore.model.cluster import Member
from pgcore.model.failsafe import FailsafeAnswer
from pgcore.model.status import integer, parse_status
from pgcore.model.world import PeerView
from pgcore.net.http import Connector, HttpClient, Resolver, Response

logger = logging.getLogger(__name__)

THREADS, MOST_THREADS = 4, 32
_UNREADABLE = (PgcoreError, OSError, ValueError, OverflowError, RecursionError)
PROBE_S = 1.0
BRIEF_S = 0.3
"""How long a member that was silent a moment ago is waited for."""
SILENCE_COUNTS_S = 15.0
SERVERS_SHARE = 0.7
"""Of the time a member is waited for, this is what its server may take; then its agent answers without its positions."""
FAILSAFE_TRY_S = 2.0
CANDIDATE_S = 2.0
"""How long a candidate is waited for before an operator's switchover is written (REST 8.4)."""
_TAGS = re.compile(r"<[^>]*>|\s+")


@dataclass(frozen=True, slots=True)
class PeerAccess:
    """How members are addressed: login, own certificate, trusted authority (config 2.4)."""

    username: str | None = None
    password: str | None = None
    cacert: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    keyfile_password: str | None = None

    def context(self) -> ssl.SSLContext:
        """A chain is verified when an authority is configured; the host name is not, as members publish addresses."""
        context = ssl.create_default_context(cafile=self.cacert or None)
        context.check_hostname = False
        if not self.cacert:
            context.verify_mode = ssl.CERT_NONE
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile or None, self.keyfile_password)
        return context

    def headers(self) -> dict[str, str]:
        """Basic authentication, if there is a login."""
        if not self.username:
            return {}
        token = base64.b64encode(f"{self.username}:{self.password or ''}".encode()).decode()
        return {"Authorization": f"Basic {token}"}


class Transport(Protocol):
    """How a request reaches a member."""

    def request(
        self, access: PeerAccess, method: str, url: str, path: str, body: bytes | None, deadline: Deadline
    ) -> Response:
        """The answer. Raises PgcoreError when there is none in time."""


class Http:
    """Requests over the network, each on a connection of its own."""

    def __init__(self) -> None:
        self._resolver = Resolver()  # for all, so that a name that was looked up once is known while the name service is away

    def request(
        self, access: PeerAccess, method: str, url: str, path: str, body: bytes | None, deadline: Deadline
    ) -> Response:
        """Send it and wait for the answer."""
        parts = urlsplit(url)
        context = access.context() if parts.scheme == "https" else None
        client = HttpClient((f"{parts.scheme}://{parts.netloc}",), Connector(resolver=self._resolver, _context=context))
        headers = access.headers() | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            return client.request(method, path, body, headers=headers, deadline=deadline, idempotent=True)
        finally:
            client.close()


class Peers:
    """Polls and probes members. One caller at a time: the heartbeat."""

    def __init__(self, access: PeerAccess, threads_: int = THREADS, transport: Transport | None = None) -> None:
        self.access = access
        self._transport = transport if transport is not None else Http()
        self._work: threads.Queue = threads.Queue()
        self._silent: dict[str, Instant] = {}
        self._probing: Future[PeerView] | None = None
        self._threads = 0
        self._grow(max(threads_, THREADS))

    def poll(
        self, members: Sequence[Member], timeout_s: float, brief: Collection[str] = (), *, announced: bool = False
    ) -> dict[str, PeerView]:
        """The answers by name; a member without one in time is there as unreachable. Those in ``brief`` get BRIEF_S at most.

        ``announced``: the answers are votes, and each member that gives one is bound by it for a while.
        """
        self._grow(len(members) + 1)  # a probe may be under way
        asked: dict[str, tuple[Future[PeerView], Deadline]] = {}
        for member in members:
            deadline = Deadline.after(min(timeout_s, BRIEF_S) if member.name in brief else timeout_s)
            asked[member.name] = (self._submit(member, deadline, "fresh=1&race=1" if announced else "fresh=1"), deadline)
        answers = {}
        for name, (future, deadline) in asked.items():
            try:
                answers[name] = future.result(deadline.left() + 0.05)
            except FutureTimeoutError:
                answers[name] = PeerView(name, False)
        return answers

    def ask_failsafe(self, members: Mapping[str, str], document: Json, timeout_s: float) -> dict[str, FailsafeAnswer]:
        """``POST /failsafe`` to each of these REST URLs, tried twice; a member without an answer in time has not accepted."""
        self._grow(len(members) + 1)
        deadline, body = Deadline.after(timeout_s), json.dumps(document).encode()
        asked: dict[str, Future[FailsafeAnswer]] = {name: threads.future() for name in members}
        for name, url in members.items():
            self._work.put(partial(self._answer_failsafe, asked[name], name, url, body, deadline))
        answers = {}
        for name, future in asked.items():
            try:
                answers[name] = future.result(deadline.left() + 0.05)
            except FutureTimeoutError:
                answers[name] = FailsafeAnswer(False, problem=f"did not answer within {timeout_s:.1f} s")
        return answers

    def probe(self, members: Sequence[Member]) -> None:
        """Ask in the background whether these still answer; skipped while the last probe is under way."""
        self._grow(len(members) + 1)
        if self._probing is None or self._probing.done():
            for member in members:
                self._probing = self._submit(member, Deadline.after(PROBE_S))

    def silent(self) -> frozenset[str]:
        """Members that did not answer when they were last asked, within the last SILENCE_COUNTS_S seconds."""
        at = now()
        return frozenset(name for name, since in dict(self._silent).items() if at - since < SILENCE_COUNTS_S)

    def _grow(self, count: int) -> None:
        """One thread for each member that is asked at once, so that silent ones delay nobody."""
        while self._threads < min(count, MOST_THREADS):
            try:
                threads.start(f"peer-{self._threads}", self._loop)
            except RuntimeError as error:  # no more to be had: those there are will do
                logger.warning("members are asked by %d threads instead of %d: %s", self._threads, count, error)
                return
            self._threads += 1

    def _submit(self, member: Member, deadline: Deadline, query: str = "fresh=1") -> Future[PeerView]:
        future: Future[PeerView] = threads.future()
        self._work.put(partial(self._answer_poll, future, member, deadline, query))
        return future

    def _loop(self) -> None:
        while True:
            self._work.get()()

    def _answer_poll(self, future: Future[PeerView], member: Member, deadline: Deadline, query: str) -> None:
        try:
            view = _ask(self._transport, self.access, member, deadline, query)
        except _UNREADABLE as error:
            logger.debug("%s at %s: %s", member.name, member.api_url, error)
            view = PeerView(member.name, False)
        except Exception:  # whatever a peer sends, the thread must live on and the caller must get an answer
            logger.exception("asking %s at %s failed unexpectedly", member.name, member.api_url)
            view = PeerView(member.name, False)
        if view.reachable or view.starting or view.counts_on_lock or view.promoting:
            self._silent.pop(member.name, None)
        else:
            self._silent[member.name] = now()
        future.set_result(view)

    def _answer_failsafe(self, future: Future[FailsafeAnswer], name: str, url: str, body: bytes, deadline: Deadline) -> None:
        answer = FailsafeAnswer(False, problem="was not asked in time")
        for attempt in (1, 2):
            share = deadline.within(min(FAILSAFE_TRY_S, deadline.left() / (3 - attempt)))
            try:
                answer = parse_acceptance(self._transport.request(self.access, "POST", url, "/failsafe", body, share))
                break
            except _UNREADABLE as error:
                answer = FailsafeAnswer(False, problem=str(error) or type(error).__name__)
            except Exception:  # as above
                logger.exception("asking %s at %s failed unexpectedly", name, url)
        future.set_result(answer)



def ask_now(members: Sequence[Member], access: PeerAccess, timeout_s: float) -> Iterator[PeerView]:
    """Their answers as they come, those that are silent until then as unreachable. Any number of callers at once.

    For operators' requests: each member is asked by a thread that ends with its answer.
    """
    answers: queue.SimpleQueue[PeerView] = queue.SimpleQueue()
    deadline, transport = Deadline.after(timeout_s), Http()

    def ask(member: Member) -> None:
        try:
            answers.put(_ask(transport, access, member, deadline, "fresh=1"))
        except _UNREADABLE as error:
            logger.debug("%s at %s: %s", member.name, member.api_url, error)
            answers.put(PeerView(member.name, False))

    for number, member in enumerate(members):
        threads.start(f"ask-{number}", partial(ask, member))
    silent = {member.name for member in members}
    while silent:
        try:
            seen = answers.get(timeout=deadline.left() + 0.05)
        except queue.Empty:
            break
        silent.discard(seen.name)
        yield seen
    yield from (PeerView(name, False) for name in sorted(silent))


def _ask(transport: Transport, access: PeerAccess, member: Member, deadline: Deadline, query: str) -> PeerView:
    url = member.api_url or ""
    if not urlsplit(url).hostname or deadline.expired:
        return PeerView(member.name, False)
    path = urlsplit(url).path or "/patroni"
    asked = f"{path}?{query}&within={deadline.left() * SERVERS_SHARE:.3f}"
    response = transport.request(access, "GET", url, asked, None, deadline)
    return parse_status(member.name, json.loads(response.body))


def parse_acceptance(response: Response) -> FailsafeAnswer:
    """Only 200 with exactly ``Accepted`` is a yes; the header ``lsn`` says where the member stands. (HA rules 9)"""
    text = response.body.decode("utf-8", "replace")
    if response.status != 200 or text != "Accepted":
        return FailsafeAnswer(False, problem=f"answered {response.status} {_TAGS.sub(' ', text).strip()[:120]}", refused=True)
    lsn = integer(response.headers.get("lsn"))
    return FailsafeAnswer(True, Lsn(lsn) if lsn > 0 else None, binding=response.headers.get("x-pgcore-failsafe") == "binding")
