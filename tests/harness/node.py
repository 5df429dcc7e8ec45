"""One node of a test cluster: its agent as a process, its PostgreSQL, its REST API, and everything that can be done to them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import yaml

from harness.agents import POSTGRES_USER, AgentKind
from harness.configuration import REST_PASSWORD, REST_USER, dsn
from harness.processes import MARKER, alive, all_pids, belongs, is_postgres, send, wait_for
from pgcore.testing.processes import freeze

REST_TIMEOUT_S = 3.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """What a REST call returned."""

    status: int
    text: str

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)


class Node:
    """An agent and its PostgreSQL. Every verb acts on this node alone."""

    def __init__(self, *, name: str, host: str, pg_port: int, rest_port: int, directory: Path, mark: str, agent: AgentKind,
                 document: dict[str, Any], prefix: tuple[str, ...] = ()) -> None:
        self.name, self.host, self.pg_port, self.rest_port = name, host, pg_port, rest_port
        self.directory, self.document, self.agent = directory, document, agent
        self.node_file, self.log_file = directory / "node.yml", directory / "agent.log"
        self.prefix = prefix
        self._mark = mark
        self.process: subprocess.Popen[bytes] | None = None
        self.used_s = 0.0
        """When it was last started or asked something, on the monotonic clock."""

    @property
    def data_dir(self) -> Path:
        """PostgreSQL's data directory."""
        return Path(self.document["postgresql"]["data_dir"])

    def __repr__(self) -> str:
        return f"<{self.name}>"

    # the agent

    def write_file(self, text: str | None = None) -> None:
        """Write the node file, or ``text`` in its place; the directory belongs to the user PostgreSQL runs as."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "pg_log").mkdir(exist_ok=True)
        self.node_file.write_text(text or yaml.safe_dump(self.document, sort_keys=False))
        for path in (self.directory, self.directory / "pg_log", self.node_file):
            shutil.chown(path, POSTGRES_USER, POSTGRES_USER)
        self.node_file.chmod(0o600)

    def start(self, text: str | None = None) -> None:
        """Start the agent on its node file, or on ``text`` in its place; its output goes to ``log_file``."""
        assert not self.running, f"the agent of {self.name} runs already"
        self.used_s = time.monotonic()
        self.write_file(text)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI_"))}
        environment |= {MARKER: self._mark, "PYTHONUNBUFFERED": "1", "HOME": str(self.directory)}
        with open(self.log_file, "ab") as log:
            log.write(f"--- start at {time.monotonic():.3f}\n".encode())
            log.flush()
            argv = [*self.prefix, *self.agent.argv(self.node_file)]
            self.process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, cwd=self.directory, env=environment, start_new_session=True)

    @property
    def running(self) -> bool:
        """Whether the agent's process exists (a frozen one does)."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The agent's pid."""
        assert self.process is not None, f"the agent of {self.name} was never started"
        return self.process.pid

    def wait_ended(self, timeout_s: float) -> int:
        """The agent's exit code, once it ended. Raises ``AssertionError`` after ``timeout_s``."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the agent of {self.name} still runs after {timeout_s:g} s") from error

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, then the exit code."""
        send(self.pid, signal.SIGTERM)
        return self.wait_ended(timeout_s)

    def kill_agent(self) -> None:
        """SIGKILL the agent's main process alone; its helpers and PostgreSQL stay."""
        send(self.pid, signal.SIGKILL)
        self.wait_ended(10)

    def freeze_agent(self) -> None:
        """SIGSTOP the agent's main process alone; it stands still on return."""
        freeze(self.pid)

    def thaw_agent(self) -> None:
        """SIGCONT."""
        send(self.pid, signal.SIGCONT)

    def kill_everything(self) -> None:
        """SIGKILL agent, helpers and every PostgreSQL process at once, as when the machine dies."""
        for _ in range(3):
            for pid in self.pids():
                send(pid, signal.SIGKILL)
        if self.process is not None:
            self.wait_ended(10)
        wait_for(lambda: not self.pids(), 10, f"nothing of {self.name} is left")

    def freeze_everything(self) -> None:
        """SIGSTOP agent, helpers and PostgreSQL, as when the machine hangs: its connections stay open, and nobody answers."""
        for pid in self.pids():
            send(pid, signal.SIGSTOP)

    def pids(self) -> list[int]:
        """Every living process of this node: agent, helpers, PostgreSQL."""
        children = {self.pid} if self.running else set()
        for pid in all_pids():
            if pid != os.getpid() and alive(pid) and self._is_mine(pid):
                children.add(pid)
        return sorted(children)

    def helper_pids(self) -> list[int]:
        """The agent and its helpers without PostgreSQL."""
        return [pid for pid in self.pids() if not is_postgres(pid)]

    def postgres_pids(self) -> list[int]:
        """The postmaster and all its children."""
        return [pid for pid in self.pids() if is_postgres(pid)]

    def _is_mine(self, pid: int) -> bool:
        # The mark is the cluster's, the directory is the node's: helpers keep the agent's environment and so its HOME.
        if belongs(pid, "", self.directory):
            return True
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return f"HOME={self.directory}".encode() in file.read().split(b"\0")
        except OSError:
            return False

    def log(self) -> str:
        """Everything the agent wrote."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def postgres_log(self) -> str:
        """What PostgreSQL wrote through its logging collector."""
        path = self.directory / "pg_log" / "postgresql.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # PostgreSQL

    def postmaster_pid(self) -> int | None:
        """The living postmaster's pid according to its pid file."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if alive(pid) and is_postgres(pid) else None

    def kill_postmaster(self) -> None:
        """SIGKILL the postmaster alone; its children notice by themselves."""
        pid = self.postmaster_pid()
        assert pid is not None, f"{self.name} has no postmaster"
        send(pid, signal.SIGKILL)

    def backend_pids(self, title: str) -> list[int]:
        """PostgreSQL children whose process title contains ``title``, such as ``walreceiver``."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                if title.encode() in file.read() and is_postgres(pid):
                    found.append(pid)
        return found

    @contextlib.contextmanager
    def connection(self, timeout_s: int = 2) -> Iterator[Any]:
        """An autocommit superuser connection to this server, closed afterwards."""
        self.used_s = time.monotonic()
        link = psycopg2.connect(dsn([(self.host, self.pg_port)], connect_timeout_s=timeout_s))
        try:
            link.autocommit = True
            yield link
        finally:
            link.close()

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of one statement; an empty list for a statement without rows. Raises ``psycopg2.Error``."""
        with self.connection() as link, link.cursor() as cursor:
            cursor.execute("SET statement_timeout = 20000")
            cursor.execute(text, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def ask(self, text: str, *values: Any) -> Any:
        """The single value of one statement, ``None`` when the server does not answer it."""
        try:
            return self.query(text, *values)[0][0]
        except psycopg2.Error:
            return None

    def is_writable(self) -> bool:
        """Whether the server answers as a primary."""
        return self.ask("SELECT pg_is_in_recovery()") is False

    def timeline(self) -> int | None:
        """The timeline the server runs on (primary) or receives (standby)."""
        return self.ask("SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver)"
                        " ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END")

    def streams(self) -> bool:
        """Whether this standby's walreceiver is streaming."""
        return self.ask("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") == 1

    def system_identifier(self) -> int:
        """The identifier initdb gave to this server's cluster."""
        return int(self.query("SELECT system_identifier FROM pg_control_system()")[0][0])

    # REST

    def request(self, method: str, path: str, body: Any = None, timeout_s: float = REST_TIMEOUT_S, *,
                authenticated: bool = True, raw_body: str | None = None) -> RestAnswer | None:
        """One REST call, by default with the credentials of the test cluster; ``None`` when nobody answers.

        ``raw_body`` is sent as it is. Without a body no length is sent either.
        """
        self.used_s = time.monotonic()
        link = http.client.HTTPConnection(self.host, self.rest_port, timeout=timeout_s)
        token = base64.b64encode(f"{REST_USER}:{REST_PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {token}"} if authenticated else {}
        try:
            link.putrequest(method, path)
            text = json.dumps(body) if body is not None else raw_body
            for name, value in (headers if text is None else headers | {"Content-Length": str(len(text.encode()))}).items():
                link.putheader(name, value)
            link.endheaders(None if text is None else text.encode())
            answer = link.getresponse()
            return RestAnswer(answer.status, answer.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException):
            return None
        finally:
            link.close()

    def status_of(self, path: str, timeout_s: float = REST_TIMEOUT_S) -> int:
        """The status code of a GET, 0 when nobody answers."""
        answer = self.request("GET", path, timeout_s=timeout_s)
        return answer.status if answer else 0

    def status(self) -> dict[str, Any]:
        """``GET /patroni`` as a document, empty when nobody answers."""
        answer = self.request("GET", "/patroni")
        return dict(answer.json()) if answer else {}
