"""Requests made up by machines against a running cluster, switchovers and restarts included: none ends in a bug.

``schemathesis`` reads ``/openapi.json`` and asks all of it; a fuzzer of our own sends what is no request at all. For another seed
or more cases: ``PGCORE_FUZZ_SEED``, ``PGCORE_FUZZ_CASES``.
"""

from __future__ import annotations

import base64
import collections
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster
from harness.configuration import REST_PASSWORD, REST_USER
from harness.hostile import attempts, tried
from harness.node import Node
from harness.processes import wait_for
from pgcore.rest.doorman import LINGER_S, PATIENCE_S

SEED = int(os.environ.get("PGCORE_FUZZ_SEED", "4711"))
CASES = int(os.environ.get("PGCORE_FUZZ_CASES", "8"))
CHECKS = ("status_code_conformance", "content_type_conformance", "response_headers_conformance", "response_schema_conformance",
          "ignored_auth")
"""What an answer must be. A code that the document does not name, 500 for a bug above all, is a failure."""
ANY_OTHER = "check GET anything"
"""A path that this one does not stand for is another one, so there is no wrong value for it; the fuzzer below tries them."""
KNOBS = {"ttl": "integer", "loop_wait": "integer", "maximum_lag_on_failover": "integer", "synchronous_mode": "boolean",
         "failsafe_mode": "boolean", "slots": "object"}
BOUND_S = PATIENCE_S + LINGER_S + 20
"""In which a connection must have ended, on a machine that is busy with something else."""


@pytest.fixture(scope="module")
def victim(make_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """A cluster of two that may suffer."""
    return make_shared_cluster(size=2, dynamic={"failsafe_mode": True}).bootstrap()


@contextmanager
def watched(cluster: Cluster) -> Iterator[None]:
    """Whatever happens inside: no agent ends, no stack trace and no bug of the REST API in a log, and all is well afterwards."""
    primary, standby = cluster.primary(), cluster.others(cluster.primary())[0]
    before = primary.request("GET", "/config")
    logs, pids = {node: len(node.log()) for node in cluster.nodes}, {node: node.pid for node in cluster.nodes}
    assert before is not None and standby.running
    yield
    for node in cluster.nodes:
        said = node.log()[logs[node]:]
        assert "Traceback" not in said and " ERROR: REST API" not in said and "This is a bug" not in said
        assert node.running and node.pid == pids[node]
    for path in ("/restart", "/switchover"):
        for node in cluster.nodes:
            node.request("DELETE", path, timeout_s=20)  # what is scheduled is not to happen to another test
    answer = cluster.nodes[0].request("PUT", "/config", before.json(), timeout_s=20)
    assert answer is not None and answer.status == 200
    cluster.wait_healthy()


def described(node: Node, cluster: Cluster) -> dict[str, Any]:
    """What the node says of its API, with values that mean something in this cluster: some requests succeed."""
    answer = node.request("GET", "/openapi.json", authenticated=False)
    assert answer is not None
    document: dict[str, Any] = answer.json()
    schemas = document["components"]["schemas"]
    for name in ("leader", "candidate"):
        schemas["Switchover"]["properties"][name] = {"enum": [node.name for node in cluster.nodes]}
    schemas["Failover"]["properties"]["candidate"] = schemas["Switchover"]["properties"]["candidate"]
    schemas["ConfigChange"]["properties"] = {name: {"type": [kind, "null"]} for name, kind in KNOBS.items()}
    return document


class Run:
    """``schemathesis`` on some of the operations of a node, as a process."""

    def __init__(self, folder: Path, name: str, document: dict[str, Any], node: Node, *filters: str) -> None:
        folder.mkdir()
        (folder / "openapi.json").write_text(json.dumps(document))
        self.name, self._report = name, folder / "report.txt"
        command = [Path(sys.executable).with_name("schemathesis"), "run", folder / "openapi.json",
                   "--url", f"http://{node.host}:{node.rest_port}", "--auth", f"{REST_USER}:{REST_PASSWORD}",
                   "--checks", ",".join(CHECKS), "--seed", str(SEED), "--max-examples", str(CASES),
                   "--phases", "examples,coverage,fuzzing", "--request-timeout", "90", "--suppress-health-check", "all",
                   "--continue-on-failure", "--no-color", *filters]
        with self._report.open("wb") as report:
            self._process = subprocess.Popen(command, stdout=report, stderr=subprocess.STDOUT, cwd=folder)

    def ended(self) -> str:
        """Its report, after it has ended well."""
        try:
            code = self._process.wait(240)
        finally:
            self._process.kill()
        report = self._report.read_text(errors="replace")
        assert code == 0, f"{self.name}:\n{report[-8000:]}"
        return report


def test_schemathesis_finds_no_answer_that_the_openapi_document_does_not_name(victim: Cluster, tmp_path: Path) -> None:
    """All operations: harmless ones and changes of the configuration, switchovers and copies, restarts; the last two at once."""
    primary = victim.primary()
    standby = victim.others(primary)[0]
    document, since = described(primary, victim), (len(primary.log()), len(standby.log()))
    moves, restarts = "^/(switchover|failover|reinitialize)$", "^/restart$"
    either = f"{moves}|{restarts}"
    with watched(victim):
        runs = [Run(tmp_path / "moves", "switchovers and copies", document, primary, "--include-path-regex", moves),
                Run(tmp_path / "restarts", "restarts", document, standby, "--include-path-regex", restarts),
                Run(tmp_path / "others", "everything else", document, primary, "--exclude-operation-id", ANY_OTHER,
                    "--exclude-path-regex", either)]
        reports = [run.ended() for run in runs]
        if "restart.begin" not in standby.log()[since[1]:]:  # what goes on at once may refuse each other: now alone
            victim.wait_healthy()
            Run(tmp_path / "alone", "restarts alone", document, standby, "--include-path-regex", restarts).ended()
    tested = sum(int(re.search(r"Tested: (\d+)", report)[1]) for report in reports)  # type: ignore[index]
    assert tested == sum(len(methods) for methods in document["paths"].values()) - 1
    said = primary.log()[since[0]:] + standby.log()[since[1]:]
    for sign in ("switchover request is fulfilled", "a new copy was asked for", "restart.begin", "configuration has changed"):
        assert sign in said, f"no request came so far: {sign}"


def test_what_is_no_request_is_answered_or_cut_off_and_disturbs_nobody(
        victim: Cluster, measured: Callable[[str, float], None]) -> None:
    """Truncated, garbled, overlong and contradictory requests, while load balancers go on asking."""
    primary = victim.primary()
    address = (primary.host, primary.rest_port)
    credentials = base64.b64encode(f"{REST_USER}:{REST_PASSWORD}".encode())
    primary.request("POST", "/switchover", {})  # the second door is open from here on, with all its threads
    threads, timeline = thread_count(primary), primary.timeline()
    with watched(victim):
        with checking(primary) as slowest, ThreadPoolExecutor(48) as clients:
            tries = attempts(SEED, 50 * CASES, b"Authorization: Basic " + credentials)
            outcomes = list(clients.map(lambda attempt: tried(address, attempt, BOUND_S), tries))
        measured("slowest health check while fuzzed", max(slowest))
        assert max(slowest) < 5
        assert [each for each in outcomes if each.seconds is None] == [], "still open"
        codes = collections.Counter(each.code for each in outcomes)
        assert set(codes) <= {None, 200, 400, 401, 404, 408, 411, 412, 413, 501, 502, 503, 505}, codes
        assert {None, 200, 400, 401, 408, 501, 503} <= set(codes), f"the fuzzer does not reach much: {codes}"
        wait_for(lambda: thread_count(primary) == threads, 30, "as many threads as before")
        assert (victim.primary(), primary.timeline()) == (primary, timeline)


def thread_count(node: Node) -> int:
    """Of the agent: a worker that died is missing."""
    return len(os.listdir(f"/proc/{node.pid}/task"))


@contextmanager
def checking(node: Node) -> Iterator[list[float]]:
    """Asks as a load balancer does until the end; each check succeeds, and took so many seconds."""
    seconds: list[float] = []
    failed: list[tuple[str, int]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.05):
            for path in ("/primary", "/liveness", "/cluster"):
                began = time.monotonic()
                answer = node.request("GET", path, timeout_s=10)
                seconds.append(time.monotonic() - began)
                if answer is None or answer.status != 200:
                    failed.append((path, answer.status if answer else 0))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        done.set()
        thread.join(20)
    assert failed == []
    assert len(seconds) > 20
