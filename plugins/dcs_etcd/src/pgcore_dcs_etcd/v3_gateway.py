"""Calls of etcd's v3 JSON gateway (dcs-layout 6): version prefix, login, retries inside one deadline, errors in one place."""

from __future__ import annotations

import base64
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass

from pgcore.net.http import HttpClient, HttpUnavailableError, Response
from pgcore.plugin import Deadline, Json, StoreRejectedError
from pgcore_dcs_etcd.attempts import Attempts
from pgcore_dcs_etcd.discovery import Locator

MIN_VERSION = (3, 0, 4)
INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAUTHENTICATED = 3, 5, 7, 9, 12, 16
HTTP_CODES = {400: INVALID_ARGUMENT, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 501: UNIMPLEMENTED}
STALE_LOGIN = ("invalid auth token", "user name is empty", "revision of auth store is old")


class LeaseLostError(Exception):
    """The lease named in a call does not exist (any more)."""


class EtcdError(Exception):
    """An error etcd reported, with its gRPC code (-1 if it gave none)."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)

    @property
    def stale_login(self) -> bool:
        """A new login may help."""
        return self.code == UNAUTHENTICATED or any(text in self.message for text in STALE_LOGIN)

    @property
    def final(self) -> bool:
        """Repeating the same call can never help."""
        return self.code in (INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call. ``repeated``: an earlier attempt got no clear answer and may have been carried out as well."""

    body: Json
    repeated: bool = False

    @property
    def revision(self) -> int:
        """The store's revision when it answered."""
        return int(self.body.get("header", {}).get("revision", 0))


def encode(text: str) -> str:
    """A key or value as the gateway wants it."""
    return base64.b64encode(text.encode()).decode()


def decode(text: str) -> str:
    """A key or value as the gateway sent it; bytes that are not UTF-8 are replaced."""
    return base64.b64decode(text).decode(errors="replace")


class Gateway:
    """One thread's access to etcd. ``close`` may come from any thread."""

    def __init__(self, locator: Locator) -> None:
        self.locator = locator
        self.closing = threading.Event()
        self._http = HttpClient(locator.endpoints, locator.connector)
        self._prefix: str | None = None
        self._token: str | None = None

    def call(self, path: str, body: Json, deadline: Deadline) -> Answer:
        """Call until etcd gives a clear answer.

        Raises StoreUnavailableError at the deadline, StoreRejectedError when repeating cannot help, LeaseLostError.
        """
        attempts = Attempts(path, deadline, self.locator, self.closing)
        while True:
            try:
                self.prepare(deadline)
                return Answer(self._post(path, body, deadline), attempts.repeated)
            except HttpUnavailableError as error:
                attempts.failed(error, perhaps_done=error.sent)
            except EtcdError as error:
                if error.code == NOT_FOUND and "lease not found" in error.message:
                    raise LeaseLostError(error.message) from error
                again = self._login_again(error)
                if error.final and not again:
                    raise StoreRejectedError(f"etcd refused {path}: {error.message}") from error
                # "request timed out" and "leader changed" leave it open what happened
                attempts.failed(error, perhaps_done=not again)

    def prepare(self, deadline: Deadline) -> None:
        """Know servers, version prefix and token. Raises like the parts of ``call``, but for the deadline."""
        self.locator.ensure(deadline)
        if self._prefix is None:
            self._prefix = _prefix(self._http.request("GET", "/version", deadline=deadline, idempotent=True))
        if self._token is None:
            self._token = self._login(deadline) if self.locator.where.username else ""

    def target(self, path: str) -> tuple[str, dict[str, str]]:
        """The full path and the headers of a call, after ``prepare``."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["authorization"] = self._token
        return f"{self._prefix}{path}", headers

    def _post(self, path: str, body: Json, deadline: Deadline) -> Json:
        full_path, headers = self.target(path)
        response = self._http.request("POST", full_path, json.dumps(body, separators=(",", ":")).encode(), headers=headers,
                                      deadline=deadline, idempotent=False)
        if response.status == 404 and not response.body.startswith(b"{"):
            self._prefix = None  # the cluster was upgraded: another version prefix
        return parse(response.status, response.body)

    def _login(self, deadline: Deadline) -> str:
        where = self.locator.where
        try:
            answer = self._post("/auth/authenticate", {"name": where.username, "password": where.password or ""}, deadline)
        except EtcdError as error:
            if error.code == FAILED_PRECONDITION and "not enabled" in error.message:
                return ""
            if error.final:
                raise StoreRejectedError(f"etcd refused to log in {where.username!r}: {error.message} "
                                         f"(check {where.name}.username and {where.name}.password)") from error
            raise
        return str(answer.get("token", ""))

    def _login_again(self, error: EtcdError) -> bool:
        """Whether a new login is worth a try; forgets the old token. Raises StoreRejectedError without credentials."""
        if not error.stale_login:
            return False
        where = self.locator.where
        if not where.username:
            raise StoreRejectedError(f"etcd wants a login: {error.message} (set {where.name}.username and password)") from error
        self.forget_token()
        return True

    def forget_token(self) -> None:
        """Log in anew before the next call."""
        self._token = None

    def close(self) -> None:
        """End a call under way and release the connection."""
        self.closing.set()
        self._http.close()


def parse(status: int, raw: bytes) -> Json:
    """The content of an answer. Raises EtcdError for an error in any of the shapes etcd 3.x and its proxies use."""
    body: Json = None
    with suppress(ValueError):
        body = json.loads(raw)
    if not isinstance(body, dict):
        raise EtcdError(-1, f"HTTP status {status} without JSON")
    error = body.get("error")
    if isinstance(error, dict):  # inside a stream
        raise EtcdError(_code(error), str(error.get("message", error)))
    if error or status != 200:
        message = str(error or body.get("message") or f"HTTP status {status}")
        raise EtcdError(_code(body) if "code" in body else HTTP_CODES.get(status, -1), message)
    result = body.get("result")
    return result if isinstance(result, dict) else body


def _code(error: Json) -> int:
    code = error.get("grpc_code", error.get("code"))
    return code if isinstance(code, int) else -1


def _prefix(response: Response) -> str:
    try:
        text = str(json.loads(response.body)["etcdcluster"])
    except (ValueError, KeyError, TypeError) as error:
        raise HttpUnavailableError(f"{response.endpoint} does not answer /version as etcd does", sent=False) from error
    numbers = [int(number) for number in re.findall(r"\d+", text)[:3]]
    found = (*numbers, 0, 0, 0)[:3]
    if found < MIN_VERSION and found[:2] != (3, 0):
        raise StoreRejectedError(f"etcd at {response.endpoint} has version {text}; the section etcd3 needs 3.1 or newer")
    return "/v3alpha" if found < (3, 3) else "/v3beta" if found < (3, 4) else "/v3"
