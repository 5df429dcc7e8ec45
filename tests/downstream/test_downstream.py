"""Can a stranger build on us? Wheels in a fresh environment, a plugin of their own, and bad neighbours beside it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgcore.testing.processes import EtcdServer, free_port

ROOT = Path(__file__).resolve().parents[2]
BIN_DIR = "/usr/lib/postgresql/15/bin"
PAGE = ROOT / "docs" / "plugins" / "first-plugins.md"
NOTES = ROOT / "tests" / "downstream" / "notes"


@dataclass(frozen=True)
class Environment:
    """A virtual environment that knows nothing of this checkout."""

    path: Path

    def run(self, *argv: str | Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        program, *arguments = argv
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return subprocess.run([self.path / "bin" / program, *arguments], capture_output=True, text=True, timeout=timeout_s,
                              cwd=self.path, env=environment | {"COLUMNS": "200"}, check=False)

    def must(self, *argv: str | Path) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, f"{argv}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def pip_install(self, *what: str | Path) -> None:
        self.must("python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *what)

    def plugins(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.must("pgcore", "plugins", "--format", "json"))}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of every distribution, by the folder it was built from."""
    target = tmp_path_factory.mktemp("wheels")
    found = {}
    for folder in (ROOT / "core", *(path.parent for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))), NOTES):
        built = subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", target / folder.name, folder],
                               capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout + built.stderr
        (found[folder.name],) = (target / folder.name).glob("*.whl")
    return found


@dataclass(frozen=True)
class Journey:
    """What came of following the page: the environment it made, the folder, and what the shell printed."""

    environment: Environment
    folder: Path
    printed: str


@pytest.fixture(scope="session")
def journey(wheels: dict[str, Path]) -> Iterator[Journey]:
    """Runs every command of the page in one shell that stops at the first failure, in a folder with nothing but our wheel."""
    folder = Path(tempfile.mkdtemp(prefix="pgcore-journey-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
    (folder / "dist").mkdir()
    shutil.copy(wheels["core"], folder / "dist")
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    for port in ("8008", "5432"):
        script = script.replace(port, str(free_port()))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "PGCORE_"))}
    environment |= {"PATH": f"{os.environ.get('PGCORE_BIN_DIR', BIN_DIR)}:{os.environ['PATH']}", "COLUMNS": "200"}
    shell = subprocess.Popen(["bash", "-euxc", script], cwd=folder, env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        printed, _ = shell.communicate(timeout=280)
        assert shell.returncode == 0, printed[-5000:]
        yield Journey(Environment(folder / "venv"), folder, printed)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stranger(journey: Journey, wheels: dict[str, Path]) -> Environment:
    """The environment at the end of the page, with core, kit and two plugins, and the toy of this folder beside them."""
    journey.environment.pip_install(wheels["notes"])
    return journey.environment


def neighbour(environment: Environment, name: str, source: str) -> None:
    """Installs a distribution with one module as pip would have left it."""
    (site,) = environment.path.glob("lib/python3*/site-packages")
    (site / f"bad_{name}.py").write_text(source)
    info = site / f"bad_{name}-0.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bad-{name}\nVersion: 0.9\n")
    (info / "entry_points.txt").write_text(f"[pgcore]\n{name} = bad_{name}\n")


def node_file(tmp_path: Path, section: dict[str, Any]) -> Path:
    path = tmp_path / "node.yml"
    document = {
        "scope": "s", "name": "a", "restapi": {"listen": "127.0.0.1:0", "connect_address": "127.0.0.1:1"}, **section,
        "postgresql": {"listen": "127.0.0.1:1", "connect_address": "127.0.0.1:1", "data_dir": str(tmp_path / "data"),
                       "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}}},
    }
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def test_the_toy_store_is_listed_and_the_built_ins_stand_beside_it(stranger: Environment) -> None:
    rows = stranger.plugins()
    assert (rows["file"]["distribution"], rows["file"]["version"]) == ("pgcore-dcs-file", "0.1.0")
    assert (rows["file"]["state"], rows["file"]["hooks"]) == ("available", ["pgcore_stores"])
    for name in ("basebackup", "initdb", "callback_command"):
        assert (rows[name]["distribution"], rows[name]["state"]) == ("pgcore", "available"), rows[name]


def test_the_list_for_people_has_a_line_per_plugin(stranger: Environment) -> None:
    lines = stranger.must("pgcore", "plugins").splitlines()
    (line,) = [line for line in lines if line.strip().startswith("file ")]
    assert line.split() == ["file", "pgcore-dcs-file", "0.1.0", "available", "stores"]


def test_endpoints_metrics_and_commands_of_a_plugin_are_listed_where_people_look(stranger: Environment) -> None:
    row = stranger.plugins()["notes"]
    assert (row["distribution"], row["version"], row["state"]) == ("pgcore-notes", "2.0.1", "available")
    assert row["hooks"] == ["pgcore_metrics", "pgcore_rest_routes"]
    assert "Commands of plugins:\n  notes  of pgcore-notes 2.0.1\n" in stranger.must("pgcore", "--help")
    assert "Show the notes of all members" in stranger.must("pgcore", "notes", "--help")


def test_the_first_plugins_take_the_way_of_their_page(journey: Journey) -> None:
    """The shell stops at a command that fails; this is what the reader is promised to see."""
    summaries = re.findall(r"^(\d+) passed(.*) in ", journey.printed, re.MULTILINE)
    assert len(summaries) == 2 and int(summaries[0][0]) > 50, summaries
    for count, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)$", journey.printed, re.MULTILINE):
        known = "not proven: .* `(wire|restart|stranger|minority)` fixture|this store carries nothing"
        assert re.match(known, reason), f"{count} skipped: {reason}"
    assert re.search(r"^\W*a\W.*Leader.*running", journey.printed, re.MULTILINE), journey.printed[-3000:]
    assert '"leader": ["a", ' in journey.printed
    assert "Traceback" not in (journey.folder / "node.log").read_text()


@pytest.mark.parametrize("kind", ["replica", "bootstrap", "gate", "rest", "metrics", "command"])
def test_every_other_kind_of_plugin_is_written_with_tests_that_pass(stranger: Environment, tmp_path: Path, kind: str) -> None:
    stranger.must("pgcore", "plugin", "new", "my_own", "--kind", kind, "-o", tmp_path)
    (project,) = tmp_path.iterdir()
    alone = ("-o", f"pythonpath={project / 'src'}", "--rootdir", project, "-p", "no:cacheprovider")
    closing = stranger.must("python", "-m", "pytest", "-q", *alone, project / "tests").splitlines()[-1]
    assert "passed" in closing and "skipped" not in closing


@pytest.mark.parametrize(("section", "distribution"), [("etcd3", "pgcore-dcs-etcd"), ("zookeeper", "pgcore-dcs-zookeeper")])
def test_an_agent_without_its_store_says_what_to_install(
        stranger: Environment, tmp_path: Path, section: str, distribution: str) -> None:
    ended = stranger.run("pgcore", "run", node_file(tmp_path, {section: {"hosts": "127.0.0.1:1"}}), timeout_s=30)
    assert ended.returncode != 0
    assert f"pip install {distribution}" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_bad_neighbours_are_reported_and_stop_only_who_selects_them(stranger: Environment) -> None:
    neighbour(stranger, "broken", "import no_such_library\n")
    neighbour(stranger, "old", "PGCORE_API_LEVEL = 0\n")
    neighbour(stranger, "lethal", "import os\nos.abort()\n")
    rows = stranger.plugins()
    assert rows["broken"]["state"] == "failed" and "No module named 'no_such_library'" in rows["broken"]["reason"]
    assert (rows["old"]["state"], rows["old"]["distribution"]) == ("refused", "bad-old")
    assert "API level 0" in rows["old"]["reason"]
    assert rows["lethal"]["state"] == "failed" and "signal 6" in rows["lethal"]["reason"]
    assert rows["file"]["state"] == "available"
    select = "from pgcore.registry import Registry; registry = Registry(); registry.activate([{!r}]); print(*registry.stores())"
    assert stranger.must("python", "-c", select.format("file")).split() == ["file"]
    refused = stranger.run("python", "-c", select.format("old"))
    assert refused.returncode != 0 and "built for API level 0" in refused.stderr


def test_our_own_plugins_install_beside_it_without_a_search(stranger: Environment, wheels: dict[str, Path]) -> None:
    ours = [wheel for name, wheel in wheels.items() if name not in ("core", "notes")]
    began = time.monotonic()
    stranger.pip_install(*ours)
    assert time.monotonic() - began < 120, "pip went looking through old releases: bound the requirement it could not settle"
    stranger.must("python", "-m", "pip", "check")
    rows = stranger.plugins()
    assert [rows[name]["state"] for name in ("etcd", "etcd3", "raft")] == ["available"] * 3, rows


@dataclass(frozen=True)
class Running:
    """A node from the wheels."""

    rest: str
    etcd: str
    agent: subprocess.Popen[bytes]
    log: Path

    def ask(self, method: str, path: str, body: Any = None, login: str = "") -> tuple[int, str]:
        """Code and text of an answer."""
        token = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.rest + path, data, token, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def running(stranger: Environment, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An agent from the wheels that has founded a cluster on etcd and uses the plugin ``notes``."""
    stranger.pip_install(wheels["dcs_etcd"])
    tmp_path, place = tmp_path_factory.mktemp("running"), Path(tempfile.mkdtemp(prefix="pgcore-downstream-"))
    place.chmod(0o755)
    etcd = EtcdServer(tmp_path)
    etcd.start()
    rest, port = free_port(), free_port()
    users = {"superuser": {"username": "postgres", "password": "su"}, "replication": {"username": "replicator", "password": "re"}}
    node = tmp_path / "node.yml"
    node.write_text(json.dumps({
        "scope": "wheels", "name": "a", "etcd3": {"host": etcd.url.removeprefix("http://")}, "plugins": {"use": ["notes"]},
        "restapi": {"listen": f"127.0.0.1:{rest}", "connect_address": f"127.0.0.1:{rest}",
                    "authentication": {"username": "api", "password": "secret"}}, "bootstrap": {"dcs": {}},
        "postgresql": {"listen": f"127.0.0.1:{port}", "connect_address": f"127.0.0.1:{port}", "data_dir": str(place / "data"),
                       "pgpass": str(place / "pgpass"), "authentication": users,
                       "bin_dir": os.environ.get("PGCORE_BIN_DIR", BIN_DIR),
                       "parameters": {"unix_socket_directories": str(place / "socket")},
                       "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust"]}}))
    log = tmp_path / "agent.log"
    with log.open("w") as output:
        agent = subprocess.Popen([stranger.path / "bin" / "pgcore", "run", node], stdout=output, stderr=output, cwd=stranger.path)
    try:
        assert answers(f"http://127.0.0.1:{rest}/primary", 60), log.read_text()[-3000:]
        yield Running(f"http://127.0.0.1:{rest}", etcd.url, agent, log)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
    finally:
        agent.kill()
        agent.wait()
        etcd.stop()
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.server
@pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd")
def test_an_agent_from_the_wheels_founds_a_cluster_on_etcd(running: Running) -> None:
    assert running.ask("GET", "/primary")[0] == 200


@pytest.mark.server
@pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd")
def test_a_running_agent_has_the_endpoint_the_metric_and_the_command_of_a_plugin(running: Running, stranger: Environment) -> None:
    assert running.ask("POST", "/notes", {"text": "no password"})[0] == 401
    assert running.ask("POST", "/notes", {"text": "disk replaced"}, "api:secret") == (201, '{"notes": 1}')
    assert running.ask("POST", "/notes", [], "api:secret") == (422, "a note is an object with a text")
    code, text = running.ask("GET", "/notes")
    assert (code, json.loads(text)) == (200, {"member": "a", "leader": True, "notes": ["disk replaced"]})
    assert 'pgcore_plugin_notes{scope="wheels",name="a",plugin="notes",role="primary"} 1' in running.ask("GET", "/metrics")[1]
    described = json.loads(running.ask("GET", "/openapi.json")[1])["paths"]["/notes"]
    assert described["get"]["summary"] == "The notes left on this node." and "security" not in described["get"]
    assert described["post"]["security"] and {"201", "422", "401"} <= set(described["post"]["responses"])
    shown = stranger.must("pgcore", "-d", running.etcd.replace("http://", "etcd3://"), "notes", "wheels")
    assert shown == "a: disk replaced\n"
    assert "Traceback" not in running.log.read_text()


def answers(url: str, within_s: float) -> bool:
    """It answers 200 in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except OSError:
            time.sleep(0.2)
    return False
