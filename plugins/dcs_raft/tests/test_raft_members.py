"""Who votes, with real processes: a witness, a removed voter, a lost data directory. The commands are those of docs/raft.md."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import wait_for

pytestmark = pytest.mark.server
LONG_S = 30.0


def eventually(condition: Callable[[], Any], what: str) -> Any:
    return wait_for(condition, LONG_S, what, interval_s=0.1)


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs that are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, **environment: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


# -- the witness -------------------------------------------------------------------------------------------------------

def test_a_witness_gives_two_nodes_their_third_vote(cluster, program, tmp_path):
    two = cluster(3)
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(tmp_path / "notify"))
    notices.settimeout(LONG_S)
    begin = (sys.executable, "-m", "pgcore", "raft-witness", two.file("c"))
    with notices:
        witness = program(*begin, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert notices.recv(100) == b"READY=1"
        two.start("a", "b")
        assert two.call("a", "acquire") is True
        two.kill("b")
        assert two.call("a", "renew") == "held"
        two.start("b")
        assert two.call("b", "put") != "unavailable"
        status = Path(f"/proc/{witness.pid}/status").read_text()
        resident_mib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
        print(f"\na witness takes {resident_mib:.0f} MiB")
        assert resident_mib < 64
        assert not {"psycopg2", "cherrypy"} & set(Path(f"/proc/{witness.pid}/maps").read_text().replace("-", "/").split("/"))
        told = ""
        while "Raft leader: " not in told:  # it looks once a second
            line = witness.stderr.readline()
            assert line, told
            told += line
        witness.send_signal(signal.SIGTERM)
        witness.wait(LONG_S)
        told += witness.stderr.read()
        assert (witness.returncode, notices.recv(100)) == (0, b"STOPPING=1")
    assert f"Raft witness {two.address('c')} starts" in told and told.rstrip().endswith("has ended") and "Raft leader: " in told
    assert two.call("a", "put") != "unavailable"
    program(*begin)
    eventually(lambda: two.voters("a").get(two.address("c")) in ("leader", "follower"), "the witness is back")
    two.kill("b")
    assert two.call("a", "put") != "unavailable"


def test_the_witness_is_also_the_program_patroni_knows(sections, tmp_path):
    link = tmp_path / "patroni_raft_controller"
    link.symlink_to(Path(sys.executable).with_name("pgcore"))
    section, other = sections(2)
    environment = os.environ | {"PATRONI_RAFT_SELF_ADDR": section.self_addr, "PATRONI_RAFT_DATA_DIR": section.data_dir,
                                "PATRONI_RAFT_PARTNER_ADDRS": other.self_addr}
    with subprocess.Popen([str(link)], env=environment, stderr=subprocess.PIPE, text=True) as witness:
        try:
            eventually(lambda: Path(section.data_dir, f"{section.self_addr}.journal").exists(), "it keeps a journal")
            witness.send_signal(signal.SIGTERM)
            _, told = witness.communicate(timeout=LONG_S)
        finally:
            witness.kill()
    assert witness.returncode == 0 and section.self_addr in told


@pytest.mark.parametrize(("told", "words"), [
    ({}, "has no such section"), ({"raft": {"partner_addrs": ["127.0.0.1:2"]}}, "raft.self_addr"),
    ({"raft": {"self_addr": "10.0.0.1:2"}}, "raft.password"),
    ({"raft": {"self_addr": "127.0.0.1:2", "partner_adrs": ["127.0.0.1:3"]}}, "raft.partner_addrs")])
def test_a_witness_that_cannot_start_says_which_key_is_wrong(told, words, tmp_path):
    file = tmp_path / "witness.yml"
    file.write_text(yaml.safe_dump({"scope": "demo"} | told))
    command = [sys.executable, "-m", "pgcore", "raft-witness", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and words in ended.stderr and "Traceback" not in ended.stderr


# -- removal -----------------------------------------------------------------------------------------------------------

def test_a_removed_voter_stops_acting_until_it_is_let_in_with_an_empty_directory(cluster):
    four = cluster(4)
    four.start("a", "b", "c", "d")
    assert four.call("d", "acquire") is True and four.call("d", "announce") is None

    mistyped = four.pgcore("a", "raft", "remove", four.address("d"), typed="d\n")
    assert mistyped.returncode == 1 and "nothing was removed" in mistyped.stderr
    assert four.call("d", "renew") == "held"
    removed = four.pgcore("a", "raft", "remove", four.address("d"), typed=four.address("d") + "\n")
    assert removed.returncode == 0, removed.stderr
    assert four.address("d") not in four.voters("a")
    eventually(lambda: four.rejected("d", "was removed"), "the agent of a removed voter is told")
    eventually(lambda: four.call("a", "acquire") is True, "the lease of the removed voter ends")

    four.kill("d")
    four.start("d")
    assert four.rejected("d", "was removed"), "a restart changes nothing"
    four.kill("d")
    four.wipe("d")
    four.start("d")
    eventually(lambda: four.rejected("d", "pgcore raft add"), "neither does an empty directory alone")
    assert four.address("d") not in four.voters("a")
    let_in = four.pgcore("a", "raft", "add", four.address("d"))
    assert let_in.returncode == 0, let_in.stderr
    eventually(lambda: four.voters("a").get(four.address("d")) == "follower", "it joins by itself")
    assert four.call("d", "put") != "unavailable"


def test_a_voter_that_was_down_learns_of_its_removal_when_it_starts(cluster):
    three = cluster(3)
    three.start("a", "b", "c")
    assert three.call("c", "put") != "unavailable"
    eventually(lambda: set(three.voters("a").values()) == {"leader", "follower"}, "all are well")
    three.kill("c")
    eventually(lambda: "leader" in three.voters("a").values(), "a or b leads")
    refused = three.pgcore("a", "raft", "remove", three.address("b"), "--force")
    assert refused.returncode == 1 and "1 are well and 2 are needed" in refused.stderr
    stranger = three.pgcore("a", "raft", "remove", "127.0.0.1:9", "--force")
    assert stranger.returncode == 1 and "is no voter" in stranger.stderr
    removed = three.pgcore("a", "raft", "remove", three.address("c"), "--force")
    assert removed.returncode == 0, removed.stderr
    three.start("c")
    eventually(lambda: three.rejected("c", "was removed"), "it is told")
    assert set(three.voters("a")) == {three.address("a"), three.address("b")}
    three.kill("b")  # what would be the majority of old, c and a, decides nothing
    assert three.call("a", "put", 1.0) == "unavailable"
    ended = three.pgcore("a", "raft", "members")
    assert ended.returncode == 1 and "NO LEADER" in ended.stdout and three.address("b") in ended.stdout


# -- a lost data directory ---------------------------------------------------------------------------------------------

def test_a_voter_that_lost_its_data_directory_does_not_vote_under_its_old_address(cluster):
    three = cluster(3)
    three.start("a", "b", "c")
    assert three.call("c", "put") != "unavailable"
    eventually(lambda: os.path.exists(f"{three.sections['c'].data_dir}/{three.address('c')}.identity"), "it has an identity")
    eventually(lambda: three.call("b", "registered") == 3, "everybody is registered")
    three.kill("a", "c")
    three.wipe("c")
    three.start("c")
    eventually(lambda: three.rejected("c", "has voted with another data directory"), "it is told")
    assert three.call("b", "put", 2.0) == "unavailable", "the memory of two voters is not enough"
    three.start("a")
    assert three.call("b", "put") != "unavailable"
    assert three.voters("b")[three.address("c")] == "waiting"
    for command in (("remove", three.address("c"), "--force"), ("add", three.address("c"))):
        ended = three.pgcore("b", "raft", *command)
        assert ended.returncode == 0, ended.stderr
    eventually(lambda: three.voters("b").get(three.address("c")) == "follower", "it joins as a new one")
    assert three.call("c", "put") != "unavailable"
