"""A real cluster on this machine, shown live: three agents, three PostgreSQL servers, consensus among the agents (raft).

``make demo`` calls it after setting up what it needs. Everything listens on 127.0.0.1 on ports found free, lives under one
directory below the temporary one, and is gone when this program ends.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HOST = "127.0.0.1"
PGCORE = os.path.join(os.path.dirname(sys.executable), "pgcore")
REFRESH_S = 0.5
RESTART_S = 20.0
"""An agent that ended is started again after this time, as a service manager would; long enough to see the others take over."""
STOP_S = 40.0
"""How long the agents have for an orderly end; they are killed afterwards."""
SUPERUSER, REPLICATION = "postgres", "replicator"


@dataclass
class Node:
    """One agent with its server, and what it last answered."""

    name: str
    directory: Path
    postgres_port: int
    rest_port: int
    raft_port: int
    process: subprocess.Popen[bytes] | None = None
    restart_at: float | None = None
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The node file: what ``pgcore run`` is started with."""
        return self.directory / "node.yml"

    @property
    def log(self) -> Path:
        """What the agent printed."""
        return self.directory / "agent.log"

    @property
    def postmaster(self) -> int | None:
        """The process id of the server, as PostgreSQL wrote it down."""
        try:
            return int((self.directory / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def launch(self) -> None:
        """Start the agent in a session of its own: Ctrl-C is for this program, which stops the agents in order."""
        self.restart_at = None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([PGCORE, "run", str(self.file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, cwd=self.directory)

    def revive(self) -> None:
        """Start an agent again whose time has come."""
        if self.ended is None:
            return
        self.restart_at = self.restart_at or time.monotonic() + RESTART_S
        if time.monotonic() >= self.restart_at:
            self.launch()

    @property
    def ended(self) -> int | None:
        """The exit code of an agent that is no more."""
        return self.process.poll() if self.process else None

    def get(self, path: str) -> dict[str, Any]:
        """JSON of a REST endpoint; empty if there is no answer. A status says no with 503, and tells why in its body."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.rest_port}{path}", timeout=1.5) as answer:
                body = answer.read()
        except urllib.error.HTTPError as refusal:
            body = refusal.read()
        except OSError:
            return {}
        try:
            document = json.loads(body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


def main() -> int:
    """Run the demonstration. Returns the exit code."""
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    work = Path(tempfile.mkdtemp(prefix="pgcore-demo-"))
    cluster = Cluster(work, options.nodes)
    code = 1
    try:
        cluster.start()
        code = watch(cluster, options.seconds)
    except KeyboardInterrupt:
        code = 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind; the wait is bounded
        left = cluster.stop()
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    return code or (1 if left else 0)


def interrupt(number: int, frame: object) -> None:
    """Every signal that ends a program ends this one as Ctrl-C does."""
    raise KeyboardInterrupt


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A real pgcore cluster on this machine, shown live. Ctrl-C ends it.")
    parser.add_argument("--nodes", type=int, default=3, help="number of nodes (default 3)")
    parser.add_argument("--seconds", type=float, help="end by itself after this time; exit code 1 if never healthy")
    parser.add_argument("--keep", action="store_true", help="keep the data directories and logs")
    options = parser.parse_args()
    if not 3 <= options.nodes <= 9:
        parser.error(f"--nodes {options.nodes}: must be 3 to 9, as a majority has to survive a failure")
    if not bin_dir():
        parser.error("no PostgreSQL on PATH: use make demo, which finds or installs it")
    return options


def bin_dir() -> str:
    """Where PostgreSQL's programs are: what scripts/bootstrap.sh found, else those on PATH."""
    return os.environ.get("PGCORE_BIN_DIR") or os.path.dirname(os.path.realpath(shutil.which("postgres") or "postgres"))


class Cluster:
    """The nodes, and the order in which they start and stop."""

    def __init__(self, work: Path, size: int) -> None:
        self.work = work
        self.passwords = {user: secrets.token_hex(12) for user in (SUPERUSER, REPLICATION)}
        ports = free_ports(3 * size)
        self.nodes = [Node(f"node{n + 1}", work / f"node{n + 1}", ports.pop(), ports.pop(), ports.pop())
                      for n in range(size)]
        self.bin_dir = bin_dir()

    def start(self) -> None:
        """Write the node files and start the agents."""
        self.work.chmod(0o755)  # PostgreSQL runs as another user if this is root, and has to get through
        for node in self.nodes:
            node.directory.mkdir()
            if os.geteuid() == 0:
                account = pwd.getpwnam(SUPERUSER)
                os.chown(node.directory, account.pw_uid, account.pw_gid)
            with open(os.open(node.file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                yaml.safe_dump(self.settings(node), file, sort_keys=False)
        for node in self.nodes:
            node.launch()

    def settings(self, node: Node) -> dict[str, Any]:
        """The node file of one node: short times, so that a failover takes seconds."""
        access = ["local all all scram-sha-256", f"host replication {REPLICATION} {HOST}/32 scram-sha-256",
                  f"host all all {HOST}/32 scram-sha-256"]
        return {
            "scope": "demo",
            "name": node.name,
            "restapi": {"listen": f"{HOST}:{node.rest_port}", "connect_address": f"{HOST}:{node.rest_port}"},
            "raft": {"self_addr": f"{HOST}:{node.raft_port}", "data_dir": str(node.directory / "raft"),
                     "partner_addrs": [f"{HOST}:{other.raft_port}" for other in self.nodes if other is not node]},
            "bootstrap": {
                "dcs": {"ttl": 10, "loop_wait": 2, "retry_timeout": 3, "maximum_lag_on_failover": 1048576,
                        "postgresql": {"use_pg_rewind": True, "parameters": {"wal_log_hints": "on", "max_connections": 50}}},
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{HOST}:{node.postgres_port}", "connect_address": f"{HOST}:{node.postgres_port}",
                "data_dir": str(node.directory / "data"), "pgpass": str(node.directory / "pgpass"), "bin_dir": self.bin_dir,
                "authentication": {"superuser": {"username": SUPERUSER, "password": self.passwords[SUPERUSER]},
                                   "replication": {"username": REPLICATION, "password": self.passwords[REPLICATION]}},
                "parameters": {"unix_socket_directories": str(node.directory), "shared_buffers": "16MB", "fsync": "on"},
                "pg_hba": access,
            },
            "watchdog": {"mode": "off"},
        }

    def refresh(self) -> dict[str, Any]:
        """Ask every agent for its status; returns ``GET /cluster`` of the first that answers."""
        for node in self.nodes:
            node.status = node.get("/patroni") if node.ended is None else {}
        for node in self.nodes:
            if node.status and (document := node.get("/cluster")):
                return document
        return {}

    @property
    def connection(self) -> str:
        """A libpq connection string that finds the primary among all nodes."""
        hosts = ",".join(f"{HOST}:{node.postgres_port}" for node in self.nodes)
        return f"postgresql://{SUPERUSER}:{self.passwords[SUPERUSER]}@{hosts}/postgres?target_session_attrs=read-write"

    def stop(self) -> list[str]:
        """Stop all agents, then make sure that nothing is left. Returns what had to be killed."""
        running = [node for node in self.nodes if node.process and node.ended is None]
        print(f"stopping {len(running)} agents and their servers ...", flush=True)
        # A minority of standbys first: the others still agree on everything. Then the rest at once, so that nobody takes over.
        running.sort(key=lambda node: node.status.get("role") in ("primary", "master"))
        spare = running[:max(0, len(running) - (len(self.nodes) // 2 + 1))]
        end = time.monotonic() + STOP_S
        for group in (spare, [node for node in running if node not in spare]):
            for node in group:
                if node.process:
                    node.process.terminate()
            for node in group:
                wait_for(node, end)
        left = []
        for pid, command in list(self.processes()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                left.append(f"{pid} {command}")
        print("stopped; nothing is left running" if not left else "had to kill:\n  " + "\n  ".join(left), flush=True)
        return left

    def processes(self) -> Iterator[tuple[int, str]]:
        """Living processes of this cluster: everything with its directory on the command line, and the postmasters."""
        postmasters = {node.postmaster for node in self.nodes}
        listing = subprocess.run(["ps", "-axww", "-o", "pid=,stat=,command="], capture_output=True, text=True, check=False) \
            if not os.path.isdir("/proc/self") else None
        for pid, command in (from_ps(listing.stdout) if listing else from_proc()):
            if str(self.work) in command or (pid in postmasters and "postgres" in command):
                yield pid, command


def wait_for(node: Node, end: float) -> None:
    """Wait for the end of an agent until the moment ``end``; kill it then."""
    assert node.process is not None
    try:
        node.process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        print(f"{node.name} did not stop in time: killed. The end of {node.log}:\n{tail(node.log)}", flush=True)
        node.process.kill()
        node.process.wait()


def from_proc() -> Iterator[tuple[int, str]]:
    """Process ids and command lines where /proc exists; zombies have no command line."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                yield int(entry), Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue


def from_ps(listing: str) -> Iterator[tuple[int, str]]:
    """Process ids and command lines elsewhere."""
    for line in listing.splitlines():
        pid, state, command = line.split(None, 2)
        if not state.startswith("Z") and int(pid) != os.getpid():
            yield int(pid), command


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that are free now; held together, so that they differ."""
    probes = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, indented."""
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-lines:])


# -- showing ------------------------------------------------------------------------------------------------------------

def watch(cluster: Cluster, seconds: float | None) -> int:
    """Show the cluster until Ctrl-C, or for so many seconds. Returns the exit code."""
    end = time.monotonic() + seconds if seconds else float("inf")
    was_healthy = False
    dead: Node | None = None
    introduce(cluster)
    with screen() as show:
        while time.monotonic() < end and not dead:
            document = cluster.refresh()
            rows = table_rows(cluster, document)
            healthy = sum(row[2] in ("leader", "standby_leader") for row in rows) == 1 and all(
                row[3] in ("running", "streaming") for row in rows)
            was_healthy = was_healthy or healthy
            for node in cluster.nodes if was_healthy else ():
                node.revive()
            dead = next((node for node in cluster.nodes if node.ended is not None and not was_healthy), None)
            show(rows, hints(cluster, rows) if was_healthy else "")
            time.sleep(max(0.0, min(REFRESH_S, end - time.monotonic())))
    if dead:
        print(f"{dead.name}: the agent ended with {dead.ended}. The end of {dead.log}:\n{tail(dead.log)}", flush=True)
    elif not was_healthy:
        for node in cluster.nodes:
            print(f"the cluster did not become healthy in {seconds:g} s. The end of {node.log}:\n{tail(node.log)}", flush=True)
    return 0 if was_healthy else 1


def introduce(cluster: Cluster) -> None:
    """What was started, and how to connect."""
    print(f"{len(cluster.nodes)} nodes, all on {HOST}; node files, data and logs in {cluster.work}\n"
          f"\nconnect (finds the primary, also after a failover):\n  {cluster.bin_dir}/psql '{cluster.connection}'\n", flush=True)


def table_rows(cluster: Cluster, document: dict[str, Any]) -> list[tuple[str, ...]]:
    """Member, address, role, state, timeline, lag, process ids; what the agent itself says wins over what is published."""
    published = {member["name"]: member for member in document.get("members", [])}
    rows: list[tuple[str, ...]] = []
    for node in cluster.nodes:
        member = published.get(node.name, {})
        state = str(member.get("state") or node.status.get("state") or "starting")
        if node.ended is not None:
            state = f"agent ended ({node.ended})"
            if node.restart_at:
                state += f", again in {max(0, round(node.restart_at - time.monotonic()))} s"
        elif not node.status:
            state = "no answer yet" if not member else "no answer"
        lag = member.get("lag", "")
        agent = node.process.pid if node.process and node.ended is None else ""
        rows.append((node.name, f"{HOST}:{node.postgres_port}", str(member.get("role", "")), state,
                     str(node.status.get("timeline") or member.get("timeline") or ""),
                     f"{lag} B" if isinstance(lag, int) else str(lag), str(agent), str(node.postmaster or "")))
    return rows


def hints(cluster: Cluster, rows: list[tuple[str, ...]]) -> str:
    """What to try next, with the process ids of this moment."""
    lines = []
    for node, row in zip(cluster.nodes, rows, strict=True):
        if row[2] == "leader" and node.ended is None:
            lines.append(f"kill the primary's server:    kill -9 {row[7]}   (its agent brings it back)")
            lines.append(f"kill the primary's agent:     kill -9 {row[6]}   (another takes over, this one comes back a replica)")
    command = f"{PGCORE} -c {cluster.nodes[0].file}"
    lines.append(f"hand over in an orderly way:  {command} switchover demo")
    lines.append(f"see what the agents see:      {command} list")
    return "Try in another terminal:\n" + "\n".join(f"  {line}" for line in lines) + "\nCtrl-C ends everything."


COLUMNS = ("Member", "Address", "Role", "State", "TL", "Lag", "Agent", "Server")


class screen:
    """Where the table goes: redrawn in place on a terminal, otherwise a line per change."""

    def __enter__(self) -> Any:
        if not sys.stdout.isatty():
            self.live = None
            self.last: dict[str, str] = {}
            return self.lines
        from rich.live import Live

        self.live = Live(auto_refresh=False)
        self.live.__enter__()
        return self.redraw

    def __exit__(self, *error: Any) -> None:
        if self.live:
            self.live.__exit__(*error)

    def redraw(self, rows: list[tuple[str, ...]], below: str) -> None:
        """The whole table and the hints."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        assert self.live is not None
        table = Table(*COLUMNS, title="pgcore demo")
        for row in rows:
            style = "bold green" if row[2] == "leader" else "red" if row[3].startswith(("agent", "no answer")) else ""
            table.add_row(*row, style=style)
        self.live.update(Group(table, Text(below)), refresh=True)

    def lines(self, rows: list[tuple[str, ...]], below: str) -> None:
        """One line for every member that changed in role, state or timeline."""
        for row in rows:
            line = f"{row[0]}: {row[2] or '-'}, {row[3]}" + (f", timeline {row[4]}" if row[4] else "")
            if self.last.get(row[0]) != line:
                print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
                self.last[row[0]] = line


if __name__ == "__main__":
    sys.exit(main())
