"""python-consul for the words of Consul's API, our own HTTP client underneath.

python-consul's transport knows no deadline, and its client is led elsewhere by environment variables: both are replaced.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from consul import base

from pgcore.net.http import HttpClient, HttpUnavailableError
from pgcore.plugin import Deadline, Json, StoreRejectedError, StoreUnavailableError
from pgcore_dcs_consul.connection import connector
from pgcore_dcs_consul.section import ConsulSection, address

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
TOO_MANY_REQUESTS = 429
INDEX_HEADER = "X-Consul-Index"
LOCK_DELAY_PAUSE_S = 0.005


class AgentError(Exception):
    """The agent answered that it could not do it: no leader, a server lost on the way, too many requests."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"HTTP status {status}: {text.strip()[:300]}")


class TtlRefusedError(Exception):
    """Consul accepts no session of this length."""


class SessionLostError(Exception):
    """The session named in a transaction does not exist (any more)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction: the keys written, or None if a condition did not hold.

    ``repeated``: an earlier attempt got no clear answer and may have been carried out as well.
    """

    written: list[Json] | None
    repeated: bool

    @property
    def index(self) -> int:
        """The ModifyIndex of the last key written."""
        return int(self.written[-1]["KV"]["ModifyIndex"]) if self.written else 0


class _Transport(base.HTTPClient):
    """Requests of python-consul by ``HttpClient``; they end at ``deadline``, set before each."""

    def __init__(self, http: HttpClient, token: str | None) -> None:
        self._http = http
        self._headers = {"X-Consul-Token": token} if token else {}
        self.deadline = Deadline.after(0)

    def get(self, callback: Callable[[Any], T], path: str, params: Any = None) -> T:
        return self._send("GET", callback, path, params, None)

    def put(self, callback: Callable[[Any], T], path: str, params: Any = None, data: str = "") -> T:
        return self._send("PUT", callback, path, params, data)

    def post(self, callback: Callable[[Any], T], path: str, params: Any = None, data: str = "") -> T:
        return self._send("POST", callback, path, params, data)

    def delete(self, callback: Callable[[Any], T], path: str, params: Any = None) -> T:
        return self._send("DELETE", callback, path, params, None)

    def _send(self, method: str, callback: Callable[[Any], T], path: str, params: Any, data: str | None) -> T:
        """Send one request. Raises HttpUnavailableError, AgentError, StoreRejectedError or what ``callback`` raises."""
        target = quote(path, safe="/:") + (f"?{urlencode(params)}" if params else "")
        response = self._http.request(method, target, None if data is None else data.encode(), headers=self._headers,
                                      deadline=self.deadline, idempotent=method == "GET")
        status, text = response.status, response.body.decode(errors="replace")
        if status == 403:
            raise StoreRejectedError(f"Consul refused {method} {path}: {text.strip()} (check consul.token and its policies)")
        if status == 500 and "Invalid Session TTL" in text:
            raise TtlRefusedError(text)
        if status == TOO_MANY_REQUESTS or status >= 500:
            raise AgentError(status, text)
        if status in (400, 413, 414):
            raise StoreRejectedError(f"Consul refused {method} {path}: {text.strip()}")
        if response.headers.get("x-consul-results-filtered-by-acls") == "true":
            raise StoreRejectedError(f"Consul hides keys below {path} from this token (check consul.token and its policies)")
        return callback(base.Response(status, {INDEX_HEADER: response.headers.get(INDEX_HEADER.lower(), "0")}, text))


class Client(base.Consul):
    """The parts of python-consul's client that are used. Its constructor would obey ``CONSUL_HTTP_*``."""

    def __init__(self, http: _Transport, dc: str | None) -> None:
        self.http, self.dc = http, dc
        self.token, self.consistency = None, "default"  # the token travels as a header, the consistency is given with each read
        self.kv, self.session, self.agent = base.Consul.KV(self), base.Consul.Session(self), base.Consul.Agent(self)


class Gateway:
    """One thread's access to Consul. ``close`` may come from any thread."""

    def __init__(self, section: ConsulSection) -> None:
        self.closing = threading.Event()
        self.interruptions = 0
        """How often a request got no clear answer: afterwards the agent may be another, or have forgotten."""
        self._http = HttpClient([address(section)], connector(section))
        self._transport = _Transport(self._http, section.token)
        self._client = Client(self._transport, section.dc)

    def once(self, request: Callable[[Client], T], deadline: Deadline) -> T:
        """One request. Raises HttpUnavailableError, AgentError, StoreRejectedError or an exception of python-consul."""
        self._transport.deadline = deadline
        try:
            return request(self._client)
        except (HttpUnavailableError, AgentError):
            self.interruptions += 1
            raise
        except (LookupError, ValueError, TypeError) as error:
            raise AgentError(0, f"this is no answer of Consul: {error!r}") from error

    def call(self, what: str, request: Callable[[Client], T], deadline: Deadline) -> tuple[T, bool]:
        """Ask until Consul gives a clear answer; also whether an earlier attempt may have been carried out.

        Raises StoreUnavailableError at the deadline, StoreRejectedError when repeating cannot help, or as python-consul does.
        """
        pause_s, repeated = FIRST_PAUSE_S, False
        while True:
            try:
                return self.once(request, deadline), repeated
            except (HttpUnavailableError, AgentError) as error:
                sent = error.sent if isinstance(error, HttpUnavailableError) else error.status != TOO_MANY_REQUESTS
                repeated = repeated or sent
                self.closing.wait(min(pause_s, deadline.left()))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                if deadline.expired or self.closing.is_set():
                    raise StoreUnavailableError(f"Consul gave no answer to {what} in time: {error}") from error

    def commit(self, what: str, operations: list[Json], deadline: Deadline) -> Outcome:
        """Carry out all of these operations on keys or none. Raises like ``call``, and SessionLostError."""
        body = json.dumps([{"KV": operation} for operation in operations])

        def send(client: Client) -> tuple[list[Json] | None, str]:
            params = [("dc", client.dc)] if client.dc else []
            return client.http.put(_transaction, "/v1/txn", params, body)

        repeated = False
        while True:
            (written, problem), again = self.call(what, send, deadline)
            repeated = repeated or again
            if "Permission denied" in problem:
                raise StoreRejectedError(f"Consul refused {what}: {problem} (check consul.token and its policies)")
            if "invalid session" in problem:
                raise SessionLostError(problem)
            if "lock delay" not in problem:
                return Outcome(written, repeated)
            if deadline.expired or self.closing.wait(LOCK_DELAY_PAUSE_S):
                raise StoreUnavailableError(f"Consul delayed {what}: {problem}")

    def close(self) -> None:
        """End a request under way and release the connection."""
        self.closing.set()
        self._http.close()


def _transaction(response: Any) -> tuple[list[Json] | None, str]:
    """What was written, or None and the conditions that did not hold."""
    answer = json.loads(response.body)
    errors = answer["Errors"] or []
    return (None if errors else answer["Results"] or []), "; ".join(str(error["What"]) for error in errors)


def encode(text: str) -> str:
    """A value as transactions want it."""
    return base64.b64encode(text.encode()).decode()
