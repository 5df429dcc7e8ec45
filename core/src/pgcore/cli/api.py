"""Calls to the REST API of members: TLS, login and time-outs in one place (cli 1.2)."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgcore.cli.context import Session
from pgcore.config.sections import CtlSection
from pgcore.errors import ConfigError, PgcoreError
from pgcore.model.basics import Json

CONNECT_S = 5.0


class ApiError(PgcoreError):
    """No answer. ``sent``: the member may have received the request and may act on it."""

    def __init__(self, problem: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """Code and text of an answer."""

    code: int
    body: str


class MemberApi:
    """Requests to any member; ``url`` is its ``api_url`` as published."""

    def __init__(self, session: Session) -> None:
        self._ctl = session.client.ctl
        self._insecure = session.insecure or self._ctl.insecure

    def status(self, url: str | None, timeout: float = CONNECT_S) -> dict[str, Json]:
        """The status document of a member. Raises ApiError."""
        try:
            document = json.loads(self.call("GET", url, "", None, timeout).body)
        except ValueError as error:
            raise ApiError(f"{url} does not answer with JSON", sent=True) from error
        if not isinstance(document, dict):
            raise ApiError(f"{url} does not answer with a status", sent=True)
        return document

    def call(self, method: str, url: str | None, path: str, body: Json, timeout: float) -> ApiAnswer:
        """A request to ``/path`` of a member; without a path to the URL as published. Raises ApiError."""
        parts = urlsplit(url or "")
        if not parts.hostname:
            raise ApiError("it has published no REST API", sent=False)
        connection = self._connection(parts.scheme, parts.hostname, parts.port)
        sent = False
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            sent = True
            connection.request(method, f"/{path}" if path else parts.path or "/", None if body is None else json.dumps(body),
                               {"Content-Type": "application/json", **self._login()})
            response = connection.getresponse()
            return ApiAnswer(response.status, response.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"{parts.scheme}://{parts.netloc}: {str(error) or type(error).__name__}", sent=sent) from error
        finally:
            connection.close()

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=CONNECT_S)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=_tls(self._ctl, insecure=self._insecure))

    def _login(self) -> dict[str, str]:
        login = self._ctl.authentication
        if login is None:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode("ascii")}


def _tls(ctl: CtlSection, *, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ctl.cacert)
        if ctl.certfile:
            password = ctl.keyfile_password or ""
            context.load_cert_chain(ctl.certfile, ctl.keyfile, password=lambda: password)
    except (OSError, ValueError) as error:
        raise ConfigError("ctl", f"cannot use cacert, certfile or keyfile: {error}", "they must be readable PEM files") from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
