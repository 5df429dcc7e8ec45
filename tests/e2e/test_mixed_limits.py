"""With a Patroni member every member must compute the same timing: pgcore's beside the real Patroni's (config 1.5)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from pgcore.model.basics import Timing

READ = """
import json, sys
from patroni.config import Config
config, found = Config(sys.argv[1]), []
for timing in json.load(sys.stdin):
    config.set_dynamic_configuration(dict(zip(("ttl", "loop_wait", "retry_timeout"), timing)))
    found.append([config["ttl"], config["loop_wait"], config["retry_timeout"]])
print(json.dumps(found))
"""
TIMINGS = [(8, 2, 3), (20, 2, 3), (20, 10, 3), (20, 10, 10), (30, 10, 10), (30, 1, 1), (5, 5, 5), (0, 0, 0), (21, 20, 10),
           (20, 30, 2), (25, 10, 10), (10, 3, 3), (19, 1, 9), (60, 50, 40), (20, 14, 3), (20, 15, 3)]


@pytest.fixture(scope="module")
def theirs(predecessor: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int], Timing]:
    """What Patroni makes of each timing."""
    directory = tmp_path_factory.mktemp("patroni")
    login = {"superuser": {"username": "s"}, "replication": {"username": "r"}}
    file = directory / "node.yml"
    file.write_text(yaml.safe_dump({
        "scope": "demo", "name": "n1", "etcd3": {"host": "127.0.0.1"},
        "restapi": {"listen": "127.0.0.1:1", "connect_address": "127.0.0.1:1"},
        "postgresql": {"data_dir": str(directory / "data"), "listen": "127.0.0.1:2", "connect_address": "127.0.0.1:2",
                       "authentication": login}}))
    done = subprocess.run([predecessor / "bin" / "python", "-c", READ, str(file)], input=json.dumps(TIMINGS), text=True,
                          capture_output=True, check=True, timeout=60)
    return {timing: Timing(*found) for timing, found in zip(TIMINGS, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize("timing", TIMINGS, ids=str)
def test_pgcore_computes_the_timing_that_patroni_computes(
        theirs: dict[tuple[int, int, int], Timing], timing: tuple[int, int, int]) -> None:
    assert Timing(*timing).fitted(patroni_present=True) == theirs[timing]
