"""``pgcore raft recover``: what it writes, that it is never half-done, what it refuses, and the way back to three voters."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pysyncobj.node import TCPNode  # type: ignore[import-untyped]

from harness import wait_for
from pgcore.plugin import ConfigError, StoreRejectedError
from pgcore_dcs_raft.journal import Journal, read_files
from pgcore_dcs_raft.lock import FilesLock
from pgcore_dcs_raft.membership import VOTERS, Known, put_known
from pgcore_dcs_raft.plugin import RaftSection
from pgcore_dcs_raft.recovery import JUMP, survivor
from pgcore_dcs_raft.wire import encode

A, B, C, D = (f"127.0.0.1:{number}" for number in range(1, 5))
OWN = "0123456789abcdef"
LONG_S = 30.0


def eventually(condition: Callable[[], Any], what: str) -> Any:
    return wait_for(condition, LONG_S, what, interval_s=0.1)


def command(**words: Any) -> bytes:
    return b"\x00" + encode((0, (json.dumps(words),)))


def change(kind: str, address: str) -> bytes:
    return b"\x02" + encode([kind, address, TCPNode(address)])


def lock_of(member: str) -> bytes:
    return command(op="acquire", path="/service/demo/leader", member=member, session="s1", number=1, force=False, ttl=9, time=7.0)


def put(path: str, value: str, number: int) -> bytes:
    return command(op="put", path=path, value=value, member="a", session="s1", number=number, time=8.0)


REGISTERED = [json.dumps(put_known(address, Known(incarnation), address))
              for address, incarnation in ((A, OWN), (B, "b" * 16), (C, "c" * 16))]


@pytest.fixture
def section(tmp_path: Path) -> RaftSection:
    return RaftSection(self_addr=A, partner_addrs=(B, C), data_dir=str(tmp_path / "raft"))


def write(section: RaftSection, *commands: bytes, used: bool = True, refused: str | None = None) -> RaftSection:
    """The files of a member of term 4 with these entries."""
    os.makedirs(section.data_dir)
    base = f"{section.data_dir}/{section.self_addr}"
    journal = Journal(base + ".journal")
    journal.setCurrentTerm(4, B)
    registered = [b"\x00" + encode((0, (text,))) for text in REGISTERED]
    for index, entry in enumerate([b"\x01", *registered, *commands], start=1):
        journal.add(entry, index, 3)
    journal.sync()
    Path(base + ".identity").write_text(json.dumps({"incarnation": OWN, "used": used, "refused": refused}))
    return section


def contents(section: RaftSection) -> dict[str, bytes]:
    files = (path for path in Path(section.data_dir).iterdir() if path.is_file() and path.suffix != ".lock")
    return {path.name: path.read_bytes() for path in files}


# -- what it writes ----------------------------------------------------------------------------------------------------

def test_a_survivor_keeps_all_it_has_alone_and_the_others_are_removed(section):
    write(section, lock_of("n2"), put("/service/demo/config", "{}", 2), put("/service/demo/members/n2", "x", 3), put(
        "/service/other/history", "[]", 4))
    before = contents(section)
    with survivor(section) as left:
        assert (left.others, left.index, left.term) == ((B, C), 8, 3)
        demo, other = left.scopes
        assert (demo.path, demo.leader, demo.members, demo.written) == ("/service/demo", "n2", ("n2",), 8.0)
        assert (other.path, other.leader) == ("/service/other", None)
        backup = left.recover()
    assert {path.name: path.read_bytes() for path in Path(backup).iterdir()} == before
    assert {name: text for name, text in contents(section).items() if not name.endswith(".dump")} == before
    journal, (content, last, previous, voters) = read_files(f"{section.data_dir}/{A}")
    assert {node.id for node in voters} == {A} and journal[:] == [previous, last]
    assert last[1] > JUMP and journal.getCurrentTerm() == 4 and journal.getVotedForNodeId() == B
    data = content[1]["data"]
    assert (data["/service/demo/leader"]["value"], data["/service/demo/config"]["value"]) == ("n2", "{}")
    for address, incarnation in ((B, "b" * 16), (C, "c" * 16)):
        known = Known.read(data[VOTERS + address]["value"], data[VOTERS + address]["index"])
        assert f"recovery of {A}" in known.removed and known.barred == (incarnation,) and JUMP < known.index < last[1]
    assert json.loads(data[VOTERS + A]["value"])["incarnation"] == OWN
    with survivor(section) as left:
        assert left.others == ()


def test_the_voters_are_those_of_the_log_and_the_snapshot_not_of_the_configuration(section):
    write(section, change("rem", C), change("add", D))
    with survivor(section) as left:
        assert left.others == (B, D)
        left.recover()
    with survivor(dataclasses.replace(section, partner_addrs=(B, C, D))) as left:
        assert left.others == ()


def test_a_recovery_that_is_killed_anywhere_leaves_the_old_files_or_the_new_and_both_can_be_used(section):
    write(section, lock_of("n2"))
    program = [sys.executable, str(Path(__file__).with_name("recovery_kills.py")), json.dumps(dataclasses.asdict(section))]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    kills = [json.loads(line) for line in ended.stdout.splitlines()]
    found = [others for _, others, _ in kills]
    changed = found.index(0)
    assert found == [2] * changed + [0] * (len(found) - changed), "one moment decides"
    assert kills[changed - 1][0] == "rename" and changed > 20, kills
    assert all(after == 0 for _, _, after in kills), "it can be begun again"


# -- what it refuses ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("spoil", "error", "words"), [
    (lambda section: shutil.rmtree(section.data_dir), ConfigError, "there is no .*journal"),
    (lambda section: os.unlink(f"{section.data_dir}/{A}.identity"), ConfigError, "there is no .*identity"),
    (lambda section: os.truncate(f"{section.data_dir}/{A}.journal", 40), ConfigError, "journal cannot be used.*another voter"),
    (lambda section: Path(f"{section.data_dir}/{A}.dump").write_bytes(b"x"), ConfigError, "dump cannot be used.*another voter"),
], ids=["nothing", "no identity", "damaged journal", "damaged dump"])
def test_files_that_cannot_decide_are_refused_by_name_and_left_alone(section, spoil, error, words):
    write(section)
    spoil(section)
    before = contents(section) if os.path.exists(section.data_dir) else {}
    with pytest.raises(error, match=words), survivor(section):
        pass
    assert before == (contents(section) if os.path.exists(section.data_dir) else {})


REMOVED = b"\x00" + encode((0, (json.dumps(put_known(A, Known(OWN).after_removal("by an operator"), B)),)))
REPLACED = b"\x00" + encode((0, (json.dumps(put_known(A, Known("f" * 16, barred=(OWN,)), B)),)))


@pytest.mark.parametrize(("files", "words"), [
    ({"used": False}, "has never voted"), ({"commands": [change("rem", A)]}, "has never voted"),
    ({"commands": [REMOVED]}, "was removed from the Raft cluster"), ({"refused": "it was removed"}, "it was removed"),
    ({"commands": [REPLACED]}, "has voted with another data directory")],
    ids=["new", "taken out", "removed", "removed and told", "lost its directory"])
def test_who_does_not_vote_does_not_decide_who_votes(section, files, words):
    write(section, *files.pop("commands", []), **files)
    before = contents(section)
    with pytest.raises(StoreRejectedError, match=f"nothing was changed.*{words}"), survivor(section):
        pass
    assert contents(section) == before


def test_the_files_of_a_process_that_runs_are_left_to_it_and_to_nobody_after_it(section):
    write(section)
    holds = ("import sys; from pgcore_dcs_raft.lock import FilesLock; "
             "lock = FilesLock(sys.argv[1]); print('has it', flush=True); sys.stdin.read()")
    base = f"{section.data_dir}/{A}"
    with subprocess.Popen([sys.executable, "-c", holds, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            words = f"in use by the process {process.pid} .*stop the agent, witness"
            with pytest.raises(ConfigError, match=words), survivor(section):
                pass
        finally:
            process.kill()
    FilesLock(base).release()


# -- the way back ------------------------------------------------------------------------------------------------------

@pytest.mark.server
def test_two_of_three_voters_are_lost_for_good_and_replaced(cluster, tmp_path):
    three = cluster(3)
    three.start("a", "b", "c")
    assert three.call("b", "acquire") is True and three.call("b", "announce") is None
    status = three.call("a", "put")
    eventually(lambda: three.call("a", "registered") == 3, "everybody is registered")
    three.kill("b", "c")
    eventually(lambda: three.call("a", "put", 1.0) == "unavailable", "nothing can be decided any more")
    running = three.pgcore("a", "raft", "recover", "--force")
    assert running.returncode == 1 and f"in use by the process {three.running['a'].process.pid}" in running.stderr
    three.kill("a")
    kept = tmp_path / "kept"
    shutil.copytree(three.sections["b"].data_dir, kept)
    three.wipe("b")
    three.wipe("c")

    three.start("c")
    three.call("c", "leads")
    alive = eventually(lambda: (ended := three.pgcore("a", "raft", "recover", "--dry-run")).returncode == 1 and ended, "c is")
    assert f"{three.address('c')} answers" in alive.stderr and "never come back" in alive.stderr
    three.kill("c")
    three.wipe("c")
    before = contents(three.sections["a"])
    mistyped = three.pgcore("a", "raft", "recover", typed=three.address("b") + "\n")
    assert mistyped.returncode == 1 and "nothing was changed" in mistyped.stderr
    dry = three.pgcore("a", "raft", "recover", "--dry-run")
    assert dry.returncode == 0 and contents(three.sections["a"]) == before
    assert "/service/demo: locked by b; members b" in dry.stdout
    assert f"Removed, until `pgcore raft add`: {', '.join(sorted(map(three.address, 'bc')))}" in dry.stdout
    recovered = three.pgcore("a", "raft", "recover", typed=three.address("a") + "\n")
    assert recovered.returncode == 0 and f"{three.address('a')} is the only voter" in recovered.stdout, recovered.stderr
    again = three.pgcore("a", "raft", "recover", "--force")
    assert again.returncode == 0 and "the only voter already" in again.stdout

    three.start("a")
    assert int(three.call("a", "put")) > JUMP > int(status)
    assert three.call("a", "fresh")["leader"] == "b", "the lease of the lost holder runs out first"
    eventually(lambda: three.call("a", "acquire") is True, "then the lock is free")
    shutil.copytree(kept, three.sections["b"].data_dir)
    three.start("b")
    eventually(lambda: three.rejected("b", f"was removed from the Raft cluster (by the recovery of {three.address('a')}"), "told")
    assert three.voters("a") == {three.address("a"): "leader"}
    three.kill("b")
    three.wipe("b")
    for name in "bc":
        added = three.pgcore("a", "raft", "add", three.address(name))
        assert added.returncode == 0, added.stderr
        three.start(name)
        eventually(lambda name=name: three.voters("a").get(three.address(name)) == "follower", "it joins with an empty directory")
    assert three.call("c", "fresh")["status"] == "1"
    three.kill("a")
    assert three.call("b", "put") != "unavailable", "three voters again, of which two decide"
