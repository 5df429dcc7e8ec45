"""Asking the other members over REST: in parallel, bounded, on threads that exist before trouble begins. (HA rules 15.3)"""

from __future__ import annotations

import base64
import json
import queue
import ssl
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgcore.clock import Deadline
from pgcore.model.basics import Json, Lsn, State
from pgcore.model.cluster import Member
from pgcore.model.world import PeerView
from pgcore.net.http import Connector, HttpClient, HttpUnavailableError

THREADS = 4


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


class Peers:
    """Polls members. One caller at a time: the heartbeat."""

    def __init__(self, access: PeerAccess) -> None:
        self.access = access
        self._work: queue.SimpleQueue[tuple[Member, Deadline, Future[PeerView]]] = queue.SimpleQueue()
        for number in range(THREADS):
            threading.Thread(target=self._loop, name=f"peer-{number}", daemon=True).start()

    def poll(self, members: Sequence[Member], timeout_s: float) -> dict[str, PeerView]:
        """The answers by name; a member without one in time is there as unreachable."""
        deadline = Deadline.after(timeout_s)
        asked: dict[str, Future[PeerView]] = {}
        for member in members:
            asked[member.name] = Future()
            self._work.put((member, deadline, asked[member.name]))
        answers = {}
        for name, future in asked.items():
            try:
                answers[name] = future.result(deadline.left() + 0.05)
            except FutureTimeoutError:
                answers[name] = PeerView(name, False)
        return answers

    def _loop(self) -> None:
        while True:
            member, deadline, future = self._work.get()
            future.set_result(self._ask(member, deadline))

    def _ask(self, member: Member, deadline: Deadline) -> PeerView:
        parts = urlsplit(member.api_url or "")
        if not parts.hostname or deadline.expired:
            return PeerView(member.name, False)
        context = self.access.context() if parts.scheme == "https" else None
        client = HttpClient((f"{parts.scheme}://{parts.netloc}",), Connector(_context=context))
        try:
            path = parts.path or "/patroni"
            response = client.request("GET", f"{path}?fresh=1", headers=self.access.headers(), deadline=deadline, idempotent=True)
            return parse_status(member.name, json.loads(response.body))
        except (HttpUnavailableError, ValueError):
            return PeerView(member.name, False)
        finally:
            client.close()


def parse_status(name: str, document: Json) -> PeerView:
    """A member's status JSON as the race reads it; without WAL fields it counts as unreachable. (HA rules 1, rest-api 14)"""
    if not isinstance(document, Mapping):
        return PeerView(name, False)
    found = document.get("tags")
    tags: Mapping[str, Json] = found if isinstance(found, Mapping) else {}
    wal = document.get("xlog") or document.get("wal")
    if not isinstance(wal, Mapping):
        starting = document.get("state") in (State.STARTING, State.RESTARTING, State.CRASHED, State.STOPPED)
        return PeerView(name, False, nofailover=_nofailover(tags), starting=starting)
    primary = bool(wal.get("location")) or document.get("role") in ("primary", "master")
    position = max(_integer(wal.get("received_location")), _integer(wal.get("replayed_location")))
    priority = tags.get("failover_priority")
    return PeerView(
        name,
        True,
        is_primary=primary,
        position=Lsn(0 if primary else position),
        timeline=_integer(document.get("timeline")) or None,
        nofailover=_nofailover(tags),
        failover_priority=1 if priority is None else _integer(priority),
        watchdog_failed=document.get("watchdog_failed") is True,
    )


def _nofailover(tags: Mapping[str, Json]) -> bool:
    flag = tags.get("nofailover")
    if flag is not None:
        return bool(flag)
    return tags.get("failover_priority") is not None and _integer(tags.get("failover_priority")) <= 0


def _integer(value: Json) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0
