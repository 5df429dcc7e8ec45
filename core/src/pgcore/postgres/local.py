"""How the agent reaches its own server: the address rules, the heartbeat's kept connection, the one for REST positions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pgcore.clock import Deadline
from pgcore.errors import ServerUnavailableError
from pgcore.model.server import ServerSettings
from pgcore.postgres import parameters, recovery
from pgcore.postgres.connection import STATEMENT_TIMEOUT_S, Session
from pgcore.postgres.postmaster import read_pid_file
from pgcore.postgres.programs import OsUser

T = TypeVar("T")
_SAFE = "-c search_path=pg_catalog -c datestyle=ISO -c default_transaction_isolation=read\\ committed"


def address(settings: ServerSettings, *, replication: bool = False) -> dict[str, Any]:
    """Host and port of the local server (config 6.1).

    A running server is asked by the port it was started with: a changed one acts only after a restart.
    """
    configured_port = parameters.split_listen(settings.listen)[1]
    file = read_pid_file(settings.data_dir)
    port = file.port if file and file.port else configured_port
    if settings.use_unix_socket_repl if replication else settings.use_unix_socket:
        configured = settings.parameters.get("unix_socket_directories")
        if configured is None:
            return {"port": port}
        for directory in str(configured).split(","):
            if directory.strip().startswith(("/", "@")):
                return {"host": directory.strip(), "port": port}
    return tcp_host(settings) | {"port": port}


def tcp_host(settings: ServerSettings) -> dict[str, str]:
    """The host over TCP: this machine's loopback where the server listens there, else the first that it listens on."""
    hosts = [host.strip() for host in parameters.split_listen(settings.listen)[0].split(",")]
    for host in hosts:
        if host in ("*", "localhost"):
            return {"host": "localhost"}
        if host in ("0.0.0.0", "127.0.0.1"):
            # The name for certificates, the number so that a stranger on ::1 with the same port isn't asked.
            return {"host": "localhost", "hostaddr": "127.0.0.1"}
    return {"host": hosts[0]}


def superuser(settings: ServerSettings, user: OsUser | None, *, application_name: str = "pgcore",
              statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> dict[str, Any]:
    """Connection parameters of the superuser on the local server."""
    login = recovery.login(settings.superuser, password=True)
    if user is not None:
        login.setdefault("user", user.name)
    options = f"{_SAFE} -c statement_timeout={int(statement_timeout_s * 1000)}"
    return {"dbname": settings.database, "application_name": application_name, "options": options} | address(settings) | login


def replication(settings: ServerSettings) -> dict[str, Any]:
    """Connection parameters for IDENTIFY_SYSTEM on the local server."""
    login = recovery.login(settings.replication, password=True)
    return {"replication": "true", "application_name": "pgcore", "options": "-c datestyle=ISO"} | address(
        settings, replication=True) | login


class KeptSession:
    """A connection that is kept between uses and opened anew after a failure or a restart of the server.

    Any thread may use it, one at a time; ``forget`` may be called by a thread that must not touch the connection itself.
    """

    def __init__(self, application_name: str) -> None:
        self._application_name = application_name
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._generation = self._opened_in = 0

    def forget(self) -> None:
        """Drop the connection before its next use: the server behind it is another one (edge case 92)."""
        self._generation += 1

    def use(self, settings: ServerSettings, user: OsUser | None, deadline: Deadline, action: Callable[[Session], T]) -> T:
        """Do something with the session. A kept connection that turns out to be dead is opened anew once, within the deadline.

        Raises ServerUnavailableError, also when another thread held the session until the deadline.
        """
        if not self._lock.acquire(timeout=deadline.left()):
            raise ServerUnavailableError("another thread is using the connection")
        try:
            kept = self._current()
            if kept is not None:
                try:
                    return action(kept)
                except ServerUnavailableError:
                    if not kept.closed or deadline.expired:
                        raise
            return action(self._open(settings, user, deadline))
        finally:
            self._lock.release()

    def _current(self) -> Session | None:
        if self._session is not None and (self._session.closed or self._opened_in != self._generation):
            self._session.close()
            self._session = None
        return self._session

    def _open(self, settings: ServerSettings, user: OsUser | None, deadline: Deadline) -> Session:
        generation = self._generation
        self._session = Session(superuser(settings, user, application_name=self._application_name), deadline)
        self._opened_in = generation
        return self._session

    def close(self) -> None:
        """Close it if nobody is using it, else before its next use."""
        self.forget()
        if self._lock.acquire(blocking=False):
            try:
                if self._session is not None:
                    self._session.close()
            finally:
                self._lock.release()

