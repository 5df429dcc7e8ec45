"""What is on disk when something is said, by the word of the kernel: strace for the order, a small tmpfs for a full disk."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore.plugin import ANYTHING, Deadline, Key, StoreUnavailableError
from pgcore_dcs_raft.channel import WORD
from pgcore_dcs_raft.journal import Journal
from pgcore_dcs_raft.wire import decode

pytestmark = pytest.mark.server

TRACED = "openat,write,ftruncate,rename,fsync,fdatasync,sendto"
CALL = re.compile(r'^(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)$')
RESUMED = re.compile(r'^(?P<thread>\d+) +<\.\.\. (?P<name>\w+) resumed>')
DESCRIPTOR = re.compile(r'^(\d+)<([^>]*)>+')
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Disk:
    """What a power failure would leave of the files a process writes, followed call by call."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.written: dict[str, bytes] = {}
        self.synced: dict[str, bytes] = {}
        self.names: dict[str, str] = {}  # what the directory calls them on disk -> what holds the content

    def call(self, name: str, path: str, data: list[bytes]) -> None:
        if name == "openat" and path.startswith(self.directory):
            self.written[path] = b""
        elif name == "write" and path in self.written:
            self.written[path] += data[0]
        elif name in ("fsync", "fdatasync") and path in self.written:
            self.synced[path] = self.written[path]
        elif name == "fsync" and path == self.directory:
            self.names = {known: known for known in self.written}
        elif name == "rename" and data[0].decode() in self.written:
            old, new = (part.decode() for part in data)
            self.written[new] = self.written.pop(old)
            self.synced[new] = self.synced.pop(old, b"")

    def after_power_failure(self, journal: str, scratch: Path) -> Journal | None:
        """The journal as the next start would read it, None if it has none."""
        if journal not in self.names or not self.synced.get(journal):
            return None
        scratch.write_bytes(self.synced[journal])
        return Journal(str(scratch))


def calls(trace: Path) -> Iterator[tuple[str, str, str, list[bytes]]]:
    """Moment, name, path and texts. Moment: ``begin`` for what is handed to the kernel, ``end`` when it has done its work."""
    open_calls: dict[str, tuple[str, str, list[bytes]]] = {}
    for line in trace.read_text().splitlines():
        if resumed := RESUMED.match(line):
            if call := open_calls.pop(resumed["thread"], None):
                yield "end", *call
        elif begun := CALL.match(line):
            rest = begun["rest"]
            texts = [bytes.fromhex(text.replace("\\x", "")) for text in TEXT.findall(rest)]
            described = DESCRIPTOR.match(rest)
            path = described[2] if described else texts[0].decode() if texts else ""
            if begun["name"] == "openat":
                path = texts[0].decode() if "O_TRUNC" in rest else ""
            if described and "\\x" in path:
                path = bytes.fromhex(path.replace("\\x", "")).decode()
            yield "begin", begun["name"], path, texts
            if rest.endswith("<unfinished ...>"):
                open_calls[begun["thread"]] = begun["name"], path, texts
            else:
                yield "end", begun["name"], path, texts


def promises(trace: Path, journal: str, scratch: Path) -> Iterator[tuple[dict[str, Any], Journal | None]]:
    """Every message of the traced member, and the journal it would have had after a power failure at that moment."""
    disk, streams = Disk(os.path.dirname(journal)), {}
    for moment, name, path, texts in calls(trace):
        if name == "sendto":
            if moment == "begin" and texts:
                stream = streams[path] = streams.get(path, b"") + texts[0]
                if stream.startswith(WORD[False]):
                    stream = stream[len(WORD[False]):]
                while len(stream) >= 4 and len(stream) >= 4 + struct.unpack_from(">I", stream)[0]:
                    size, = struct.unpack_from(">I", stream)
                    message, stream = decode(stream[4:4 + size]), stream[4 + size:]
                    if isinstance(message, dict):
                        yield message, disk.after_power_failure(journal, scratch)
                streams[path] = stream
        elif name == "write" and moment == "begin" and texts and texts[0].startswith(b'{"decided'):
            yield {"type": "answer", **json.loads(texts[0])}, disk.after_power_failure(journal, scratch)
        elif moment == ("end" if "sync" in name or name == "rename" else "begin"):
            disk.call(name, path, texts)


PROGRAM = """
import json, sys, time
from pgcore.plugin import ANYTHING, Deadline, Key, StoreRequest, Timing
from pgcore_dcs_raft.plugin import RaftSection, open_store
described = json.loads(sys.argv[1])
described["partner_addrs"] = tuple(described["partner_addrs"])
store = open_store(StoreRequest(RaftSection(**described), "/service/demo", "a", Timing(3, 1, 1)))
for number in range(15):
    value = f"traced {number}"
    store.put(Key.CONFIG, value, expect=ANYTHING, deadline=Deadline.after(20))
    print(json.dumps({"decided": value}), flush=True)
sys.stdin.readline()
store.close()
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_nothing_is_said_that_a_power_failure_at_that_moment_would_make_untrue(sections, start, tmp_path, soon):
    """Without a password, so that the trace can be read. Another member writes too, and the first Raft leader is stopped."""
    parts = sections(3)
    others = [start(part, name) for part, name in zip(parts[1:], "bc", strict=True)]
    others[0].put(Key.HISTORY, "[]", expect=ANYTHING, deadline=soon())
    described, trace = json.dumps(dataclasses.asdict(parts[0])), tmp_path / "trace"
    os.makedirs(parts[0].data_dir)
    strace = ["strace", "-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={TRACED}", "-o", str(trace)]
    traced = subprocess.Popen([*strace, sys.executable, "-c", PROGRAM, described],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for number in range(15):
            assert json.loads(traced.stdout.readline()) == {"decided": f"traced {number}"}
            others[number % 2].put(Key.HISTORY, f"[{number}]", expect=ANYTHING, deadline=soon())
        leader = next(store for store in others if store._node._raft._isLeader())
        leader.close()
        remaining = next(store for store in others if store is not leader)
        remaining.put(Key.HISTORY, "after the election", expect=ANYTHING, deadline=soon())
        traced.communicate("\n", timeout=20)
    finally:
        traced.kill()
        traced.communicate()
    journal = os.path.join(parts[0].data_dir, parts[0].self_addr) + ".journal"
    kinds: dict[str, int] = {}
    for message, disk in promises(trace, journal, tmp_path / "scratch"):
        kind = message["type"]
        kinds[kind] = kinds.get(kind, 0) + 1
        if kind == "next_node_idx" and message["success"]:
            assert disk is not None and disk[-1][1] >= message["next_node_idx"] - 1, message
        elif kind == "response_vote":
            assert disk is not None and disk.getCurrentTerm() >= message["term"] and disk.getVotedForNodeId(), message
        elif kind == "request_vote":
            assert disk is not None and disk.getCurrentTerm() >= message["term"], message
            assert disk.getVotedForNodeId() == parts[0].self_addr or disk.getCurrentTerm() > message["term"]
        elif kind == "answer":
            assert disk is not None and any(message["decided"].encode() in entry[0] for entry in disk[:]), message
    assert kinds["next_node_idx"] >= 25 and kinds["answer"] == 15, kinds
    assert kinds.get("response_vote", 0) + kinds.get("request_vote", 0) >= 1, kinds


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take all the room."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return filler


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_written(store: Any, value: str) -> bool:
    try:
        store.put(Key.CONFIG, value, expect=ANYTHING, deadline=Deadline.after(2))
        return True
    except StoreUnavailableError:
        return False


def test_a_full_disk_makes_a_lone_member_say_so_at_once_lose_nothing_and_go_on_when_there_is_room(sections, start, small_disk):
    section, = sections(1, data_dir=str(small_disk))
    store = start(section, "a")
    assert is_written(store, "before")
    filler = fill(small_disk)
    lost = ""
    while lost == "":  # the last page of the journal may still have room
        try:
            store.put(Key.HISTORY, "x" * 5000, expect=ANYTHING, deadline=Deadline.after(10))
        except StoreUnavailableError as error:
            lost = str(error)
    assert f"cannot write to {small_disk} (raft.data_dir): No space left on device" in lost
    for verb in (lambda: is_written(store, "full"), lambda: _reads(store)):
        began = time.monotonic()
        assert not verb() and time.monotonic() - began < 1.0, "it froze instead of telling"
    filler.unlink()
    eventually(lambda: is_written(store, "after"))
    store.close()
    assert start(section, "a").read(fresh=True, deadline=Deadline.after(10)).records["config"].value == "after"


def _reads(store: Any) -> bool:
    try:
        return bool(store.read(fresh=False, deadline=Deadline.after(2)))
    except StoreUnavailableError:
        return False


def test_a_raft_leader_with_a_full_disk_gives_way_to_the_others_and_comes_back(sections, start, small_disk):
    parts = sections(3)
    full = dataclasses.replace(parts[0], data_dir=str(small_disk))
    stores = [start(section, name) for section, name in zip([full, *parts[1:]], "abc", strict=True)]
    assert is_written(stores[0], "1")
    filler = fill(small_disk)
    end = time.monotonic() + 20
    while stores[0]._node._storage_trouble == "":
        is_written(stores[1], "x" * 5000)
        assert time.monotonic() < end
    assert not is_written(stores[0], "lie") and not _reads(stores[0])
    eventually(lambda: is_written(stores[1], "2") and is_written(stores[2], "3"))
    assert not stores[0]._node._raft._isLeader() or stores[1]._node._leader != full.self_addr
    filler.unlink()
    eventually(lambda: is_written(stores[0], "4"))
    assert stores[1].read(fresh=True, deadline=Deadline.after(10)).records["config"].value == "4"


def test_a_member_starts_on_a_full_disk_and_takes_part_when_there_is_room(sections, start, small_disk):
    section, = sections(1, data_dir=str(small_disk))
    store = start(section, "a")
    assert is_written(store, "before")
    store.close()
    filler = fill(small_disk)
    store = start(section, "a")
    eventually(lambda: store._node._storage_trouble)
    assert not is_written(store, "full")
    filler.unlink()
    eventually(lambda: is_written(store, "after"))


def test_a_leader_without_a_majority_falls_back_in_the_configured_time(sections, start):
    parts = sections(3, leader_fallback_timeout=0.8)
    stores = [start(section, name) for section, name in zip(parts, "abc", strict=True)]
    assert is_written(stores[0], "1")
    leader = next(store for store in stores if store._node._raft._isLeader())
    for store in stores:
        if store is not leader:
            store.close()
    began = time.monotonic()
    eventually(lambda: not leader._node._raft._isLeader())
    assert time.monotonic() - began < 5
