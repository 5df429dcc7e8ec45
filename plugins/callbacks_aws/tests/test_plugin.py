"""The hook as the agent calls it: registry, callback lane, section; what AWS does never reaches the agent."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.ec2 import Machine
from pgcore.daemon.callbacks import CallbackLane
from pgcore.plugin import CallbackEvent, Role
from pgcore.registry import Registry
from pgcore_callbacks_aws.section import AwsSection


class Agent:
    """What an agent has for its plugins: a registry with ours and a callback lane."""

    def __init__(self, machine: Machine) -> None:
        self.section = AwsSection(endpoint_url=machine.door.url, limit=20, retry=1)
        self.ended: list[tuple[str, str]] = []
        self.registry = Registry()
        self.registry.activate(["aws"])
        self.lane = CallbackLane(self.registry, lambda event, result: self.ended.append((event, result)))

    def tell(self, action: str, role: Role) -> None:
        self.lane.tell(CallbackEvent(action, role, "demo", "a", sections={"aws": self.section}))
        assert self.lane.drain(5), "the hook holds up the lane"

    def end(self) -> None:
        self.lane.run(lambda: self.registry.tell("pgcore_stopping", facts=None))
        assert self.lane.drain(10), "the end of an agent waits for 10 s"


@pytest.fixture
def agent(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    for name, value in machine.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_EC2")
    agent = Agent(machine)
    yield agent
    agent.end()
    assert children() == []


def children() -> list[int]:
    """The workers that this process has now."""
    argv = ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in text.splitlines() if "pgcore_callbacks_aws.worker" in line]


def eventually(condition: Callable[[], object], timeout_s: float = 40) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_each_change_is_told_and_counted(machine: Machine, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent.tell("on_start", Role.REPLICA)
    eventually(lambda: agent.ended == [("on_start", "ok")])
    assert machine.role() == "replica"
    agent.tell("on_reload", Role.REPLICA)
    agent.tell("on_role_change", Role.PRIMARY)
    eventually(lambda: agent.ended == [("on_start", "ok"), ("on_role_change", "ok")])
    assert machine.role() == "primary"
    assert f"{machine.instance} and its volumes" in caplog.text and "are tagged Role=primary" in caplog.text


def test_the_newest_role_replaces_the_one_that_hangs(machine: Machine, agent: Agent) -> None:
    machine.door.open.clear()
    agent.tell("on_start", Role.REPLICA)
    eventually(lambda: machine.door.requests)
    agent.tell("on_role_change", Role.PRIMARY)
    agent.tell("on_stop", Role.DEMOTED)
    eventually(lambda: len(children()) == 1)
    machine.door.open.set()
    eventually(lambda: ("on_stop", "ok") in agent.ended)
    assert agent.ended == [("on_start", "cancelled"), ("on_role_change", "cancelled"), ("on_stop", "ok")]
    assert machine.role() == "demoted"


def test_a_role_that_was_refused_is_told_later_and_counted_once(
        machine: Machine, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    machine.door.refusals += [(403, "UnauthorizedOperation")] * 2
    agent.tell("on_role_change", Role.PRIMARY)
    eventually(lambda: machine.role() == "primary")
    assert agent.ended == [("on_role_change", "failed")]
    assert "role primary is not told to AWS (failure 1, tried again): refused: " in caplog.text


def test_an_agent_that_ends_while_aws_hangs_leaves_no_process_behind(
        machine: Machine, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    machine.door.open.clear()
    agent.tell("on_stop", Role.DEMOTED)
    eventually(lambda: machine.door.requests)
    agent.end()
    eventually(lambda: not children(), 5)
    assert "the agent ends before the last role could be told to AWS" in caplog.text


def test_a_killed_agent_leaves_no_process_behind(machine: Machine) -> None:
    """Its worker would go on and overwrite what the next agent tells."""
    machine.door.open.clear()
    code = ("import time; from pgcore.plugin import *; from pgcore_callbacks_aws import plugin; "
            "plugin.pgcore_callback(CallbackEvent('on_start', Role.PRIMARY, 's', 'a')); time.sleep(60)")
    agent = subprocess.Popen([sys.executable, "-c", code], env=machine.environment())
    try:
        eventually(lambda: machine.door.requests)
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent.pid)], capture_output=True, text=True, check=True).stdout
        (worker,) = map(int, found.split())
    finally:
        agent.kill()
        agent.wait()
    eventually(lambda: not _alive(worker), 5)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_a_way_to_start_a_process_the_agent_goes_on(machine: Machine, tmp_path: Path) -> None:
    """Its interpreter is gone, as during an upgrade of the package, and comes back."""
    interpreter = tmp_path / "python"
    interpreter.symlink_to(sys.executable)
    code = ("import logging, sys, time; logging.basicConfig(level='INFO', stream=sys.stdout); from pgcore.plugin import *; "
            "from pgcore_callbacks_aws import plugin; from pgcore_callbacks_aws.section import AwsSection; input(); "
            "plugin.pgcore_callback(CallbackEvent('on_start', Role.PRIMARY, 's', 'a', "
            "sections={'aws': AwsSection(retry=1)})); input(); plugin.pgcore_stopping()")
    environment = machine.environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([interpreter, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as agent:
        assert agent.stdin is not None and agent.stdout is not None
        interpreter.unlink()
        agent.stdin.write("\n")
        agent.stdin.flush()
        assert f"{interpreter} could not be started" in agent.stdout.readline()
        interpreter.symlink_to(sys.executable)
        eventually(lambda: machine.role() == "primary")
        agent.communicate("\n", timeout=20)
        assert agent.returncode == 0
