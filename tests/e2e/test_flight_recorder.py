"""What the flight recorders of real agents tell after a primary died: who took over, by which rule, and the same on a replay."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from harness import Cluster, wait_for
from harness.configuration import REPLICATION_PASSWORD, REST_PASSWORD, REWIND_PASSWORD, SUPERUSER_PASSWORD
from harness.node import Node
from harness.processes import send


def record_of(node: Node) -> Path:
    """Where a node records by default: beside its data directory."""
    return Path(f"{node.data_dir}.flight") / f"flight-{node.document['scope']}-{node.name}.jsonl"


def pgcore(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, as an operator runs it."""
    argv = [sys.executable, "-m", "pgcore", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"TZ": "UTC"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)


def nearer(text: str, rival: str) -> str:
    """A line of a record in which this member had more WAL whenever it was asked."""
    tree = json.loads(text)
    for step in tree.get("beat", {}).get("steps", ()):
        if step["action"]["is"] == "PollPeers" and rival in step["outcome"].get("value", {}):
            step["outcome"]["value"][rival] |= {"reachable": True, "position": "F/0"}
    return json.dumps(tree)


def test_the_survivors_records_tell_who_took_over_from_whom_and_why(etcd_cluster: Cluster, tmp_path: Path) -> None:
    old = etcd_cluster.primary()
    old.kill_everything()
    new = etcd_cluster.wait_primary_other_than(old, etcd_cluster.ttl + 10)
    survivors = etcd_cluster.others(old)
    wait_for(lambda: "leader.keep" in record_of(new).read_text().splitlines()[-1], 30, "the new primary has recorded its lead")
    other = next(node for node in survivors if node is not new)
    wait_for(lambda: f'"leader":"{new.name}"' in record_of(other).read_text(), 30, "the other one has recorded whom it follows")
    copies = [Path(shutil.copy(record_of(node), tmp_path)) for node in survivors]

    found = pgcore("explain", *(f"--record={path}" for path in copies))
    assert found.returncode == 0, found.stderr
    assert f"failover: {old.name} -> {new.name}, " in found.stdout
    answer = " ".join(found.stdout.split())
    assert f"{new.name} took over from {old.name} at " in answer and f"There is no record of {old.name} itself." in answer
    assert f"{new.name} decided by race.acquire: healthy at " in answer
    assert "race.acquire: Nothing speaks against me" in answer
    by_configuration = pgcore("explain", "-c", new.node_file, "-o", "json")
    (moment,) = json.loads(by_configuration.stdout)["moments"]
    assert (moment["kind"], moment["old"], moment["new"]) == ("failover", old.name, new.name)

    assert old.data_dir.exists() and pgcore("replay", record_of(old)).returncode == 0  # SIGKILL has torn nothing
    again = pgcore("replay", *copies)
    assert again.returncode == 0 and "none differently" in again.stdout, again.stdout + again.stderr
    copy = next(path for path in copies if new.name in path.name)
    copy.write_text("".join(nearer(text, other.name) + "\n" for text in copy.read_text().splitlines()))
    otherwise = pgcore("replay", copy)
    assert otherwise.returncode == 1
    assert "then: race.acquire" in otherwise.stdout and f"now:  race.peer_ahead: {other.name} is ahead" in otherwise.stdout

    written = "".join(record_of(node).read_text() for node in etcd_cluster.nodes)
    assert not any(secret in written for secret in (SUPERUSER_PASSWORD, REPLICATION_PASSWORD, REWIND_PASSWORD, REST_PASSWORD))

    moved = {**new.document, "recorder": {"dir": str(new.directory / "elsewhere")}}
    new.write_file(yaml.safe_dump(moved))
    send(new.pid, signal.SIGHUP)
    wait_for((new.directory / "elsewhere" / record_of(new).name).exists, 30, "a reload moves the record")
    new.write_file()
    send(new.pid, signal.SIGHUP)
