"""``pgcore-barman`` against the HTTP service of Barman, which is played: no package has it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

PROGRAM = Path(sys.executable).with_name("pgcore-barman")
RECOVER = ("recover", "--barman-server=main", "--ssh-command=ssh postgres@a", "--datadir=/data", "--loop-wait=0.05",
           "--scope=demo", "--role=replica", "--connstring=")
SWITCH = ("config-switch", "--barman-server", "main", "--barman-model", "a")


class Service(ThreadingHTTPServer):
    """Notes what is asked; an operation is under way once, then ends with ``outcome``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Any] = []
        self.outcome, self.codes = "DONE", [200]
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        if self.path == "/status":
            code = self.server.codes.pop(0) if len(self.server.codes) > 1 else self.server.codes[0]
            return self._answer(code, "OK" if code == 200 else "no")
        self.server.asked.append(self.path)
        return self._answer(200, {"status": self.server.outcome if len(self.server.asked) > 2 else "IN_PROGRESS"})

    def do_POST(self) -> None:
        self.server.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self._answer(202, {"operation_id": "20261124T020000"})

    def _answer(self, code: int, document: Any) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    yield server
    server.shutdown()
    server.server_close()


def run(url: str, *words: str) -> int:
    done = subprocess.run([PROGRAM, f"--api-url={url}", "--retry-wait=0.05", "--max-retries=2", *words], capture_output=True,
                          text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.mark.parametrize(("outcome", "code"), [("DONE", 0), ("FAILED", 1)])
def test_a_restore_is_begun_and_waited_for(service: Service, outcome: str, code: int) -> None:
    service.outcome = outcome
    assert run(service.url, *RECOVER) == code
    operations = "/servers/main/operations"
    assert service.asked == [
        (operations, {"type": "recovery", "backup_id": "latest", "remote_ssh_command": "ssh postgres@a",
                      "destination_directory": "/data"}),
        f"{operations}/20261124T020000", f"{operations}/20261124T020000"]


@pytest.mark.parametrize(("words", "code", "asked"), [
    ((*SWITCH, "on_role_change", "primary", "demo"), 0, {"type": "config_switch", "model_name": "a"}),
    ((*SWITCH, "on_role_change", "replica", "demo"), 1, None),
    ((*SWITCH, "--switch-when=demoted", "on_role_change", "replica", "demo"), 0, {"type": "config_switch", "model_name": "a"}),
    ((*SWITCH[:3], "--reset", "--switch-when=always", "on_role_change", "standby_leader", "demo"), 0,
     {"type": "config_switch", "reset": True}),
    ((*SWITCH, "--reset", "on_role_change", "primary", "demo"), 4, None),
    ((*SWITCH[:3], "on_role_change", "primary", "demo"), 4, None),
])
def test_a_switch_is_for_its_role_alone(service: Service, words: tuple[str, ...], code: int, asked: Any) -> None:
    service.asked = [] if asked is None else ["so that the first look finds it ended"]
    assert run(service.url, *words) == code
    assert [each[1] for each in service.asked if isinstance(each, tuple)] == ([] if asked is None else [asked])


def test_a_service_that_stumbles_is_asked_again_and_one_that_refuses_is_not(service: Service) -> None:
    service.codes = [503, 500, 200]
    assert run(service.url, *RECOVER) == 0
    service.codes = [401, 200]
    assert run(service.url, *RECOVER) == 2
    assert service.codes == [200]


@pytest.mark.parametrize(("words", "code"), [(RECOVER, 2), ((*SWITCH, "on_role_change", "primary", "demo"), 3)])
def test_nobody_answers(words: tuple[str, ...], code: int) -> None:
    assert run("http://127.0.0.1:1", *words) == code


def test_a_failed_switch_is_told_by_its_code(service: Service) -> None:
    service.outcome, service.asked = "FAILED", ["so that the first look finds it ended"]
    assert run(service.url, *SWITCH, "on_role_change", "primary", "demo") == 2
