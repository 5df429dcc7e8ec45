"""python-etcd for the words of the v2 API, our own HTTP client underneath.

python-etcd's transport repeats requests beyond any deadline and relies on urllib3's old interface: ``api_execute`` is replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import etcd  # type: ignore[import-untyped]

from pgcore.net.http import HttpClient, HttpUnavailableError
from pgcore.plugin import Deadline, StoreRejectedError
from pgcore_dcs_etcd.attempts import Attempts
from pgcore_dcs_etcd.discovery import Locator

CLEAR_ANSWERS = (etcd.EtcdKeyNotFound, etcd.EtcdCompareFailed, etcd.EtcdAlreadyExist, etcd.EtcdEventIndexCleared)
"""Errors that are answers: etcd looked and says no."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What python-etcd wants to see of a response."""

    status: int
    data: bytes
    headers: Mapping[str, str]

    def getheaders(self) -> Mapping[str, str]:
        """Headers by lower-case name."""
        return self.headers


class DeadlineClient(etcd.Client):
    """A python-etcd client whose requests end at ``deadline``, set before each; they raise HttpUnavailableError."""

    def __init__(self, http: HttpClient, username: str | None, password: str | None) -> None:
        super().__init__(username=username, password=password)
        self._transport = http
        self.deadline = Deadline.after(0)

    def api_execute(self, path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Send one request. Raises HttpUnavailableError or what python-etcd makes of an error answer."""
        path, fields = quote(path), urlencode(params or {})
        headers, body = dict(self._get_headers()), None
        if method in ("PUT", "POST"):
            headers["Content-Type"], body = "application/x-www-form-urlencoded", fields.encode()
        elif fields:
            path = f"{path}?{fields}"
        response = self._transport.request(method, path, body, headers=headers, deadline=self.deadline,
                                           idempotent=method == "GET")
        if response.status in (307, 308):  # a v2 proxy sends to its leader
            target = urlsplit(response.headers.get("location", ""))
            self._transport.endpoints.prefer(f"{target.scheme}://{target.netloc}")
        return self._handle_server_response(Reply(response.status, response.body, response.headers))


class V2Gateway:
    """One thread's access to etcd by the v2 API. ``close`` may come from any thread."""

    def __init__(self, locator: Locator) -> None:
        self.locator = locator
        self.closing = threading.Event()
        self._http = HttpClient(locator.endpoints, locator.connector)
        self._client = DeadlineClient(self._http, locator.where.username, locator.where.password)

    def once(self, request: Callable[[DeadlineClient], Any], deadline: Deadline) -> Any:
        """One request. Raises StoreUnavailableError, HttpUnavailableError or an etcd exception."""
        self.locator.ensure(deadline)
        self._client.deadline = deadline
        return request(self._client)

    def call(self, what: str, request: Callable[[DeadlineClient], Any], deadline: Deadline) -> tuple[Any, bool]:
        """Ask until etcd gives a clear answer: its result or one of ``CLEAR_ANSWERS``, and whether it was asked repeatedly.

        Raises StoreUnavailableError at the deadline, StoreRejectedError when repeating cannot help.
        """
        attempts = Attempts(what, deadline, self.locator, self.closing)
        while True:
            try:
                return self.once(request, deadline), attempts.repeated
            except CLEAR_ANSWERS as answer:
                return answer, attempts.repeated
            except HttpUnavailableError as error:
                attempts.failed(error, perhaps_done=error.sent)
            except etcd.EtcdInsufficientPermissions as error:
                name = self.locator.where.name
                raise StoreRejectedError(f"etcd refused {what}: {error} (check {name}.username and {name}.password)") from error
            except etcd.EtcdException as error:
                if (error.payload or {}).get("errorCode") == 102 or isinstance(error, (etcd.EtcdValueError, etcd.EtcdNotDir)):
                    raise StoreRejectedError(f"etcd refused {what}: {error}") from error
                attempts.failed(error, perhaps_done=True)

    def close(self) -> None:
        """End a request under way and release the connection."""
        self.closing.set()
        self._http.close()
