"""The flight recorder: which beats it keeps, how it writes them, and that the heartbeat never notices when it cannot."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgcore.model.actions import AcquireLease, Outcome, PollPeers, ReadCluster
from pgcore.record.beats import BeatRecord, Quiet, line
from pgcore.record.recorder import BEFORE, MARK_S, REPEATS, Recorder
from pgcore.record.worlds import decode
from pgcore.record.writer import AGAIN_S, QUEUE, Place, Writer
from pgcore.testing.builders import END, NOW, WALL, peer, standby, view, world
from unit.record_scenes import Node
from unit.test_daemon_kit import eventually

REPLICA = world(standby(), view("b"), use_slots=False)


FREE = view(None)
AHEAD = (peer("b", reachable=False), peer("c", END + 500))


@pytest.fixture
def node() -> Node:
    """A standby that has settled: the first beats are kept, then nothing."""
    node = Node()
    for _ in range(3):
        node.beat(PollPeers=AHEAD)
    node.kept.entries.clear()
    return node


def test_an_idle_node_records_nothing_but_a_mark_a_minute(node: Node) -> None:
    for number in range(int(3 * MARK_S)):
        node.beat(node=standby(END + number * 100), cluster=view("b", optime=END + number * 100))
    assert all(kind.startswith("quiet") for kind in node.kept.kinds) and 2 <= len(node.kept.kinds) <= 4
    assert sum(entry.beats for entry in node.kept.entries if isinstance(entry, Quiet)) > 2 * MARK_S


def test_a_change_is_kept_with_the_beats_before_it(node: Node) -> None:
    for _ in range(10):
        node.beat()
    node.kept.entries.clear()
    node.beat(cluster=FREE)
    assert node.kept.kinds == ["quiet 8", *["beat"] * (BEFORE + 1)]
    assert [record.start.wall for record in node.kept.beats] == [WALL + node.seconds - back for back in (3, 2, 1, 0)]
    last = node.kept.beats[-1]
    assert last.decisions[-2].rule == "race.peer_ahead" and "c is ahead" in last.decisions[-2].because
    assert [type(step.action) for step in last.steps][1:3] == [ReadCluster, PollPeers]


def test_waiting_is_not_repeated_and_its_end_is_kept(node: Node) -> None:
    for _ in range(20):
        node.beat(cluster=FREE)
    assert len(node.kept.entries) <= 6
    node.kept.entries.clear()
    node.beat(cluster=view("c"))
    assert node.kept.kinds[-1] == "beat"


def test_an_outage_is_kept_once_though_its_error_has_another_number_each_time(node: Node) -> None:
    for _ in range(20):
        node.beat(lost=True)
    assert len(node.kept.beats) <= BEFORE + 2
    assert node.kept.beats[-1].decisions[0].rule.startswith("store_lost")


def test_what_acts_is_kept_every_time(node: Node) -> None:
    """Nobody else answers, so that it tries to take the free lock; each time another was faster."""
    for _ in range(5):
        node.beat(cluster=FREE, PollPeers=())
    assert len(node.kept.beats[-5:]) == 5
    assert all(any(isinstance(step.action, AcquireLease) for step in record.steps) for record in node.kept.beats[-5:])


def test_what_acts_the_same_for_ever_is_only_counted_in_the_end(node: Node) -> None:
    for _ in range(REPEATS * 3):
        node.beat(cluster=FREE, PollPeers=())
    assert REPEATS <= len(node.kept.beats) <= REPEATS + BEFORE + 2


def test_a_bug_is_kept_with_what_led_to_it(node: Node) -> None:
    steps = node.recorder.heartbeat(REPLICA)
    next(steps)
    steps.send(Outcome(NOW, value=standby()))
    node.recorder.failed("KeyError('x')")
    record = node.kept.beats[-1]
    assert record.error == "KeyError('x')" and len(record.steps) == 1


def test_a_recorder_that_breaks_switches_itself_off(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def put(self, entry: BeatRecord | Quiet) -> None:
            raise RuntimeError("no")

    node = Node(sink=Broken())
    assert node.beat().cluster.leader == "b"
    assert node.beat(cluster=FREE).cluster.unlocked
    assert "switched off" in caplog.text and caplog.text.count("Traceback") == 1


def test_a_heartbeat_is_the_same_with_and_without_a_recorder() -> None:
    with_it, without = Node(), Node()
    without.recorder.sink = None
    for seen in ({}, {"cluster": FREE}, {"lost": True}, {"cluster": view("a")}):
        assert with_it.beat(**seen) == without.beat(**seen)  # type: ignore[arg-type]
    assert with_it.kept.entries and not without.kept.entries


# -- files ---------------------------------------------------------------------------------------------------------------------


def record(number: int = 0) -> BeatRecord:
    return BeatRecord(replace(REPLICA, wall=WALL + number))


LINE = len(line(record())) + 1


def numbers(path: Path | str) -> list[float]:
    """Which records stand in a file; a line that is no JSON fails."""
    return [json.loads(text)["at"] - WALL for text in Path(path).read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A directory that does not exist yet."""
    return Place(str(tmp_path / "flight" / "flight-demo-a.jsonl"), "a", "demo", 1 << 20, 2)


def test_a_record_is_a_line_that_can_be_read_back(place: Place) -> None:
    writer = Writer(place)
    writer.put(record(7))
    writer.close()
    (text,) = Path(place.path).read_text().splitlines()
    tree = json.loads(text)
    assert (tree["v"], tree["kind"], tree["node"], tree["scope"], tree["at"]) == (1, "beat", "a", "batman", WALL + 7)
    assert decode(BeatRecord, tree["beat"]) == record(7)
    assert os.stat(place.path).st_mode & 0o777 == 0o600 and os.stat(Path(place.path).parent).st_mode & 0o777 == 0o700


def test_files_rotate_and_the_oldest_goes(place: Place) -> None:
    small = replace(place, size=3 * LINE)
    for number in range(12):
        writer = Writer(small)
        writer.put(record(number))
        writer.close()
    assert [numbers(place.path + end) for end in ("", ".1", ".2")] == [[9, 10, 11], [6, 7, 8], [3, 4, 5]]
    assert sorted(os.listdir(Path(place.path).parent)) == [f"flight-demo-a.jsonl{end}" for end in ("", ".1", ".2")]


def test_without_rotated_files_the_one_begins_anew(place: Place) -> None:
    writer = Writer(replace(place, size=2 * LINE, count=0))
    for number in range(5):
        writer.put(record(number))
    writer.close()
    assert numbers(place.path) == [4] and len(os.listdir(Path(place.path).parent)) == 1


def test_a_torn_last_line_is_ended_before_the_next(place: Place) -> None:
    Path(place.path).parent.mkdir()
    Path(place.path).write_text(line(record(1)) + "\n" + line(record(2))[:50])
    writer = Writer(place)
    writer.put(record(3))
    writer.close()
    first, torn, last = Path(place.path).read_text().splitlines()
    assert json.loads(first)["at"] == WALL + 1 and len(torn) == 50 and json.loads(last)["at"] == WALL + 3


def test_a_file_that_was_taken_away_is_made_anew(place: Place) -> None:
    writer = Writer(place)
    writer.put(record(1))
    assert eventually(lambda: os.path.exists(place.path) and numbers(place.path) == [1])
    os.rename(place.path, place.path + ".taken")
    writer.put(record(2))
    writer.close()
    assert numbers(place.path) == [2] and numbers(place.path + ".taken") == [1]


def test_what_was_written_survives_sigkill(place: Place) -> None:
    code = (f"import os, signal, time\nfrom unit.test_record_recorder import *\nwriter = Writer({place!r})\n"
            "writer.put(record(5))\nwhile not os.path.exists(writer._place.path) or not os.path.getsize(writer._place.path):\n"
            "    time.sleep(0.01)\nos.kill(os.getpid(), signal.SIGKILL)")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert numbers(place.path) == [5]


@pytest.fixture
def limited() -> Iterator[None]:
    """No file may grow beyond three lines: writing fails in the middle of the fourth, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * LINE + 100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_whole_lines_and_is_warned_of_once(
        place: Place, limited: None, caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(place)
    for number in range(10):
        writer.put(record(number))
        time.sleep(0.01)
    writer.close()
    assert numbers(place.path) == [0, 1, 2]
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1 and place.path in caplog.text


def test_it_goes_on_when_it_can_and_says_how_much_is_missing(
        place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    occupied = Path(place.path).parent
    occupied.write_text("a file in the place of the directory")
    writer = Writer(place)
    for number in range(4):
        writer.put(record(number))
    assert eventually(lambda: "cannot write" in caplog.text)
    occupied.unlink()
    moment = time.monotonic()
    while time.monotonic() - moment < AGAIN_S + 1.0 and not os.path.exists(place.path):
        writer.put(record(9))
        time.sleep(0.2)
    writer.close()
    first, *others = (json.loads(text) for text in Path(place.path).read_text().splitlines())
    assert first["kind"] == "lost" and first["beats"] >= 4 and others[-1]["at"] == WALL + 9
    assert caplog.text.count("cannot write") == 1 and caplog.text.count("writes") == 1


def test_a_slow_disk_costs_beats_and_no_time(tmp_path: Path) -> None:
    """A pipe that nobody reads takes nothing, as a disk that hangs."""
    path = tmp_path / "flight-demo-a.jsonl"
    os.mkfifo(path)
    writer = Writer(Place(str(path), "a", "demo", 1 << 20, 2))
    began = time.monotonic()
    for number in range(3 * QUEUE + 100):
        writer.put(record(number))
    assert time.monotonic() - began < 0.5
    began = time.monotonic()
    writer.close(wait_s=0.2)
    assert time.monotonic() - began < 1.0


def test_without_a_thread_the_agent_lives_without_a_recorder(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    code = ("import resource, threading, logging\nlogging.basicConfig()\nfrom unit.test_record_recorder import *\n"
            f"threading.stack_size(1 << 40)\nrecorder = Recorder()\nrecorder.record_to({place!r})\nassert recorder.sink is None")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0 and "no flight recorder until the next reload" in ended.stderr, ended.stderr


def test_another_place_is_used_at_once_and_none_ends_it(place: Place, tmp_path: Path) -> None:
    recorder = Recorder()
    assert recorder.sink is None
    recorder.record_to(place)
    recorder.sink.put(record(1))  # type: ignore[attr-defined]
    other = replace(place, path=str(tmp_path / "other" / "flight.jsonl"))
    recorder.record_to(other)
    recorder.sink.put(record(2))  # type: ignore[attr-defined]
    recorder.note(REPLICA.settings, WALL + 3, "the guard did it, password=x")
    recorder.record_to(None, wait_s=5.0)
    assert recorder.sink is None and numbers(other.path) == [2, 3]
    assert "the guard did it, password=***" in Path(other.path).read_text()
    assert eventually(lambda: os.path.exists(place.path) and numbers(place.path) == [1])
