"""Calls to the REST API of members: TLS, login and time-outs in one place, and for each refusal its remedy (cli 1.2)."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgcore.cli.context import Session
from pgcore.config.sections import CtlSection
from pgcore.errors import ConfigError, PgcoreError
from pgcore.model.basics import Json

CONNECT_S = 5.0
_MARKUP = re.compile(r"<(title|h1)>.*?</\1>|<[^>]*>")


class ApiError(PgcoreError):
    """No answer. ``sent``: the member may have received the request and may act on it.

    ``untrusted``: it is there, but one of the two does not accept the other's certificate.
    """

    def __init__(self, problem: str, *, sent: bool, untrusted: bool = False) -> None:
        self.sent, self.untrusted = sent, untrusted
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """Code and body of an answer."""

    code: int
    body: str

    @property
    def text(self) -> str:
        """The body; an error page without its markup."""
        return " ".join(_MARKUP.sub(" ", self.body).split()) if self.body.startswith("<") else self.body

    @property
    def remedy(self) -> str:
        """What to do about a refusal of who asks, to be put behind the text; empty for every other answer."""
        if self.code == 401:
            return "; set ctl.authentication (or restapi.authentication) to the user and password of that member's REST API"
        if self.code == 403 and "certificate" in self.body:
            return "; set ctl.certfile and ctl.keyfile to a certificate that its restapi.cafile has signed"
        if self.code == 403:
            return "; this machine's address is not in its restapi.allowlist: call from one that is, or add it there"
        return ""


class MemberApi:
    """Requests to any member; ``url`` is its ``api_url`` as published."""

    def __init__(self, session: Session) -> None:
        self._ctl = session.client.ctl
        self._insecure = session.insecure or self._ctl.insecure

    def status(self, url: str | None, timeout: float = CONNECT_S, *, fresh: bool = False) -> dict[str, Json]:
        """The status document of a member; ``fresh``: with positions of this moment, as Patroni always does. Raises ApiError."""
        path = f"{urlsplit(url or '').path.lstrip('/')}?fresh=1" if fresh else ""
        try:
            document = json.loads(self.call("GET", url, path, None, timeout).body)
        except ValueError as error:
            raise ApiError(f"{url} does not answer with JSON", sent=True) from error
        if not isinstance(document, dict):
            raise ApiError(f"{url} does not answer with a status", sent=True)
        return document

    def call(self, method: str, url: str | None, path: str, body: Json, timeout: float,
             sending: Callable[[], None] = lambda: None) -> ApiAnswer:
        """A request to ``/path`` of a member; without a path to the URL as published. Raises ApiError.

        ``sending`` is called once connected, right before anything is sent.
        """
        parts = urlsplit(url or "")
        if not parts.hostname:
            raise ApiError("it has published no REST API", sent=False)
        try:
            connection = self._connection(parts.scheme, parts.hostname, parts.port)
        except ConfigError as error:
            raise ApiError(str(error), sent=False, untrusted=True) from error
        except ValueError as error:
            raise ApiError(f"it has published an address that is none, {url}: {error}", sent=False) from error
        sent = False
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            sending()
            sent = True
            connection.request(method, f"/{path}" if path else parts.path or "/", None if body is None else json.dumps(body),
                               {"Content-Type": "application/json", **self._login()})
            response = connection.getresponse()
            return ApiAnswer(response.status, response.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            # A certificate may also be refused right after the handshake (TLS 1.3): then the request was not read.
            untrusted = isinstance(error, ssl.SSLError)
            raise ApiError(f"{parts.scheme}://{parts.netloc}: {_problem(error, timeout if sent else CONNECT_S)}",
                           sent=sent and not untrusted, untrusted=untrusted) from error
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


def _problem(error: Exception, waited_s: float) -> str:
    """Why there is no answer, and what to do about it where that is known."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (f"its certificate is not trusted ({error.verify_message}): set ctl.cacert to the authority that signed it, or "
                "use -k to trust any")
    if isinstance(error, ssl.SSLError) and re.search("ALERT|HANDSHAKE", error.reason or ""):
        return f"it refuses the TLS handshake ({error.reason}): it may want a client certificate, ctl.certfile and ctl.keyfile"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection is possible ({error.reason or error})"
    if isinstance(error, TimeoutError):
        return f"no answer within {waited_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is its agent running?"
    if isinstance(error, socket.gaierror):
        return "its name is not known here"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError):
        return "it closed the connection without an answer"
    return str(error) or type(error).__name__


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
