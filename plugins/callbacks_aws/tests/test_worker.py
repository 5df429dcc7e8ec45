"""``pgcore-aws`` as a process of its own against moto's EC2: what it tags, who it asks, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.ec2 import Machine
from pgcore.testing.line import HttpLine

TESTS = str(Path(__file__).resolve().parents[3] / "tests")
PROGRAM = Path(sys.executable).with_name("pgcore-aws")


def run(machine: Machine, *words: str, timeout_s: float = 60, program: Path = PROGRAM,
        **variables: str) -> subprocess.CompletedProcess[str]:
    argv = [str(program), *words]
    environment = machine.environment() | variables
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_instance_and_attached_volumes_get_the_tags_of_patroni_aws(machine: Machine, tmp_path: Path) -> None:
    link = tmp_path / "patroni_aws"
    link.symlink_to(PROGRAM)
    done = run(machine, "on_role_change", "primary", "demo", program=link)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{machine.instance} and its volumes vol-")
    assert done.stdout.endswith("are tagged Role=primary\n")
    assert machine.role() == "primary"
    for volume in machine.volumes:
        assert machine.tags(volume) == {"Name": "spilo_demo", "Role": "primary", "Instance": machine.instance}
    assert machine.tags(machine.strange) == {}
    assert machine.metadata.requests == ["PUT /latest/api/token", "GET /latest/dynamic/instance-identity/document"]


def test_volumes_keep_their_name_or_are_left_alone(machine: Machine) -> None:
    assert run(machine, "--instance-only", "on_start", "replica", "demo").returncode == 0
    assert machine.role() == "replica" and [machine.tags(volume) for volume in machine.volumes] == [{}, {}]
    assert run(machine, "--volume-name=", "on_start", "replica", "demo").returncode == 0
    assert machine.tags(machine.volumes[0]) == {"Role": "replica", "Instance": machine.instance}


@pytest.mark.parametrize("words", [[], ["on_reload", "primary", "demo"], ["on_start", "primary"], ["on_start", "a", "b", "c"]])
def test_wrong_arguments_end_with_the_usage_and_1(machine: Machine, words: list[str]) -> None:
    done = run(machine, *words)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: pgcore-aws ")
    assert machine.door.requests == machine.metadata.requests == []


def test_throttling_and_errors_of_the_server_are_repeated(machine: Machine) -> None:
    machine.door.refusals += [(503, "RequestLimitExceeded"), (400, "Throttling"), (500, "InternalError")]
    done = run(machine, "on_role_change", "primary", "demo")
    assert done.returncode == 0, done.stderr
    assert machine.role() == "primary"
    assert done.stderr.count("tried again in") == 3


def test_a_lost_answer_is_repeated(machine: Machine) -> None:
    with HttpLine(machine.door.url.removeprefix("http://")) as line:
        line.swallow = "/"
        done = run(machine, f"--endpoint-url=http://{line.host}", "on_role_change", "primary", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tried again in") == 1
    assert machine.door.requests == ["CreateTags", "CreateTags", "DescribeVolumes", "CreateTags"]
    assert machine.tags(machine.volumes[1])["Role"] == "primary"


def test_what_is_forbidden_is_not_repeated_and_said(machine: Machine) -> None:
    machine.door.refusals += [(403, "UnauthorizedOperation")]
    done = run(machine, "on_role_change", "primary", "demo")
    assert done.returncode == 2
    assert "UnauthorizedOperation" in done.stderr and "CreateTags" in done.stderr
    assert machine.door.requests == ["CreateTags"]


@pytest.mark.parametrize("silent", ["metadata", "ec2"])
def test_a_silent_aws_is_given_up_at_the_limit(machine: Machine, silent: str) -> None:
    variables = {}
    if silent == "metadata":
        variables["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "http://127.0.0.1:9"
    else:
        machine.door.open.clear()
    began = time.monotonic()
    done = run(machine, "--limit=3", "on_role_change", "primary", "demo", **variables)
    assert time.monotonic() - began < 15
    assert done.returncode == 2
    assert "gave up after" in done.stderr
    assert ("Is this an EC2 instance?" in done.stderr) == (silent == "metadata")
    assert machine.role() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_the_metadata_service_is_found_at_its_true_address(machine: Machine) -> None:
    """In a namespace of its own; what it hears there is version 2 only."""
    name = f"pgcaws{os.getpid() % 100000}"
    inside = ("ip", "netns", "exec", name)
    subprocess.run(["ip", "netns", "add", name], check=True)
    stub = None
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", name, "address", "add", "169.254.169.254/32", "dev", "lo"], check=True)
        serve = (f"import sys, time; sys.path.insert(0, {TESTS!r}); from harness.ec2 import Metadata; "
                 "served = Metadata('i-true', '169.254.169.254', 80); print('ready', flush=True); time.sleep(60)")
        stub = subprocess.Popen([*inside, sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True)
        assert stub.stdout is not None and stub.stdout.readline() == "ready\n"
        ask = "from pgcore_callbacks_aws.identity import identity; print(identity())"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        done = subprocess.run([*inside, sys.executable, "-c", ask], env=environment | {"http_proxy": "http://127.0.0.1:9"},
                              capture_output=True, text=True, check=False)
        assert done.stdout == "Identity(instance='i-true', region='eu-central-1')\n", done.stderr
    finally:
        if stub is not None:
            stub.kill()
            stub.wait()
        subprocess.run(["ip", "netns", "delete", name], check=True)
