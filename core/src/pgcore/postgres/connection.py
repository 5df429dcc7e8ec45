"""Connections to PostgreSQL with hard deadlines: psycopg2 in its asynchronous mode, driven by ``poll``.

A frozen server, one that was stopped by a signal or whose disk hangs, keeps its sockets open and answers nothing. A blocking
driver would hang with it; here every wait ends at its deadline and the connection is dropped. One owner thread per session.
This is the only module that imports psycopg2.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgcore.clock import Deadline
from pgcore.errors import FatalError, PgcoreError, ServerError, ServerUnavailableError

try:
    import psycopg2  # type: ignore[import-untyped]
    import psycopg2.extensions  # type: ignore[import-untyped]
except ImportError as missing:
    raise FatalError("the PostgreSQL driver psycopg2 is not installed",
                     "install the distribution's package python3-psycopg2, or run `pip install psycopg2-binary`, or build it "
                     "from source with `pip install psycopg2` (needs a compiler and libpq's headers)") from missing

CONNECT_TIMEOUT_S = 3.0
STATEMENT_TIMEOUT_S = 2.0
_CHECK_EVERY_S = 0.1
_QUERY_CANCELED = "57014"


class QueryFailedError(ServerError):
    """The server refused a statement. ``sqlstate`` is its code, empty if there was none."""

    def __init__(self, message: str, sqlstate: str = "") -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


class StatementTimeoutError(ServerUnavailableError):
    """The server answered that the statement took too long: it lives, the connection is still good."""


class Session:
    """One connection with automatic commit. Every method raises ServerUnavailableError when no answer came in time."""

    def __init__(self, parameters: Mapping[str, Any], deadline: Deadline, *, connect_s: float = CONNECT_TIMEOUT_S) -> None:
        wait = deadline.within(connect_s)
        try:
            self._connection = psycopg2.connect(async_=1, **_with_keepalives(parameters))
        except psycopg2.Error as error:
            raise ServerUnavailableError(_text(error)) from error
        try:
            self._wait(wait)
        except psycopg2.Error as error:
            self.close()
            raise ServerUnavailableError(_text(error)) from error
        except BaseException:
            self.close()
            raise

    @property
    def server_version(self) -> int:
        """As in ``server_version_num``, such as 150006."""
        return int(self._connection.server_version)

    @property
    def closed(self) -> bool:
        """Dropped by a time-out, by an error or by ``close``."""
        return bool(self._connection.closed)

    def query(self, sql: str, arguments: Sequence[Any] | None = None, *, deadline: Deadline,
              check: Callable[[], None] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement in one round trip; its rows, or nothing for a statement without rows.

        Raises as ``table``, which see for ``check``.
        """
        return self.table(sql, arguments, deadline=deadline, check=check)[1]

    def table(self, sql: str, arguments: Sequence[Any] | None = None, *, deadline: Deadline,
              check: Callable[[], None] | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement in one round trip; its columns' names and its rows, neither for a statement without rows.

        ``check`` is called while waiting and may raise to give up. Raises QueryFailedError when the server refused the statement;
        the connection stays usable then.
        """
        if self.closed:
            raise ServerUnavailableError("the connection is closed")
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, arguments)
                self._wait(deadline, check)
                if cursor.description is None:
                    return [], []
                return [column.name for column in cursor.description], list(cursor.fetchall())
        except psycopg2.Error as error:
            raise self._translated(error) from error
        except PgcoreError:
            self.close()  # the answer that is still under way must not be taken for that of the next statement
            raise

    def close(self) -> None:
        """Drop the connection; never waits and never fails."""
        try:
            self._connection.close()
        except psycopg2.Error:
            pass  # it is gone either way

    def _translated(self, error: psycopg2.Error) -> ServerError:
        if error.pgcode == _QUERY_CANCELED:
            return StatementTimeoutError(_text(error))
        if error.pgcode is None or error.pgcode.startswith(("08", "57P")):
            self.close()
            return ServerUnavailableError(_text(error))
        return QueryFailedError(_text(error), error.pgcode)

    def _wait(self, deadline: Deadline, check: Callable[[], None] | None = None) -> None:
        while True:
            state = self._connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            poller = select.poll()
            events = select.POLLOUT if state == psycopg2.extensions.POLL_WRITE else select.POLLIN
            poller.register(self._connection.fileno(), events)
            while not poller.poll(int(min(deadline.left(), _CHECK_EVERY_S if check else deadline.left()) * 1000)):
                if check is not None:
                    check()
                if deadline.expired:
                    raise ServerUnavailableError("PostgreSQL did not answer within the deadline")


def _with_keepalives(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A dead peer is noticed by the kernel too, for connections that nobody is waiting on."""
    bounds = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
    if psycopg2.extensions.libpq_version() >= 120000:
        bounds["tcp_user_timeout"] = 9000
    return bounds | {name: value for name, value in parameters.items() if value is not None}


def _text(error: psycopg2.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def scram_verifier(session: Session, password: str, username: str, *, deadline: Deadline) -> str:
    """The password as the server will store it, so that its clear text appears in no log and in no process list."""
    method = session.query("SELECT pg_catalog.current_setting('password_encryption')", deadline=deadline)[0][0]
    algorithm = "md5" if str(method).lower() in ("md5", "on") else "scram-sha-256"
    try:
        if algorithm == "md5":
            return str(psycopg2.extensions.encrypt_password(password, username, algorithm="md5"))
        return str(psycopg2.extensions.encrypt_password(password, username, session._connection, algorithm))
    except psycopg2.Error as error:
        raise ServerError(f"the password of {username} could not be encoded: {_text(error)}") from error


def quote_identifier(name: str) -> str:
    """An SQL identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def libpq_version() -> int:
    """Version of the client library, such as 150006: newer connection options are unknown to an older one."""
    return int(psycopg2.extensions.libpq_version())


def read_conninfo(text: str) -> dict[str, str]:
    """A connection string that somebody gave, as a mapping. Raises ServerError saying what is wrong with it."""
    try:
        return {name: str(value) for name, value in psycopg2.extensions.parse_dsn(text).items()}
    except psycopg2.Error as error:
        raise ServerError(f"the connection string cannot be read: {_text(error)}") from error


def parse_conninfo(text: str) -> dict[str, str]:
    """A libpq connection string as a mapping; empty if it can't be understood."""
    try:
        return read_conninfo(text)
    except ServerError:
        return {}
