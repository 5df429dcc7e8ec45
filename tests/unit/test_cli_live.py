"""What is shown while an action runs, and the write gap as the agents tell it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from pgcore.cli.api import ApiError
from pgcore.cli.live import Live
from pgcore.cli.reinit import _Copy
from pgcore.cli.watch import Phase, Sight, Watch
from pgcore.clock import now
from pgcore.model.basics import Instant, Json
from pgcore.model.cluster import Member


class Told:
    """Members that answer with what they are given; a text is why one does not answer."""

    def __init__(self, **answers: Mapping[str, Json] | str) -> None:
        self.answers = dict(answers)

    def status(self, url: str | None) -> Mapping[str, Json]:
        """As MemberApi."""
        answer = self.answers[url or ""]
        if isinstance(answer, str):
            raise ApiError(answer, sent=False)
        return answer


def writes(accepted: bool, seconds: float | None, paused: float | None = None) -> dict[str, Json]:
    return {"pgcore": {"writes": {"accepted": accepted, "seconds": seconds, "paused": paused}}}


def working(kind: str, **progress: Json) -> dict[str, Json]:
    return {"state": "running", "pgcore": {"task": {"kind": kind, **progress}}}


@contextmanager
def watching(told: Told) -> Iterator[Watch]:
    """A watch that has seen everybody once."""
    members = [Member(name, api_url=name) for name in told.answers]
    with Watch(told, members) as watch:  # type: ignore[arg-type]
        until(lambda: all(watch.sight(member.name) for member in members))
        yield watch


def until(condition: object) -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


# -- the gap ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "before", "after", "words"),
    [
        (Told(a=writes(False, 3.0), b=writes(True, 2.5)), "a", "b", "0.50"),
        (Told(a=writes(True, 1.0, 0.25)), "a", "a", "Write gap: 0.250 s (± 0.001 s), a did not accept writes"),
        (Told(a=writes(True, 60.0), b={}), None, "a", "Write gap: none, a accepted writes all the time"),
        (Told(a=writes(False, None), b=writes(True, 1.0)), "a", "b", "not measured, a does not tell when"),
        (Told(a="connection refused", b=writes(True, 1.0)), "a", "b", "not measured, the agent of a does not answer"),
        (Told(a=writes(False, 3.0), b={"role": "primary"}), "a", "b", "not measured, b does not tell when"),
        (Told(a=writes(False, 9.0), b=writes(False, 4.0), c=writes(True, 3.0)), None, "c", "until then b accepted writes"),
        (Told(a=writes(False, None), b=writes(True, 3.0)), None, "b", "no agent knows when writes were last accepted"),
        (Told(a=writes(True, 60.0), b=writes(True, 3.0)), None, "b", "no agent knows"),
    ],
)
def test_the_gap_is_from_the_last_end_to_the_new_beginning(told: Told, before: str | None, after: str, words: str) -> None:
    with watching(told) as watch:
        assert words in watch.write_gap(before, after, Instant(now() - 10))


def test_a_new_beginning_that_is_not_told_yet_is_waited_for() -> None:
    told = Told(a=writes(True, 60.0))
    with watching(told) as watch:
        began = now()
        told.answers["a"] = writes(False, 0.1)
        until(lambda: not (watch.sight("a") or Sight(began)).writes[0])
        told.answers["a"] = writes(True, 0.0, 0.2)
        assert watch.write_gap("a", "a", Instant(began - 1)).startswith("Write gap: 0.200 s")


# -- phases -------------------------------------------------------------------------------------------------------------------


def test_phases_are_told_when_they_have_ended() -> None:
    told = Told(a=working("restart", phase="checkpoint"), b={"state": "creating replica"}, c="no")
    with watching(told) as watch:
        until(lambda: watch.doing()[0] == "a: restart: checkpoint, b: creating replica")
        told.answers |= {"a": working("restart", phase="stopping"), "b": {"state": "running"}}
        until(lambda: watch.doing()[0] == "a: restart: stopping")
        told.answers["a"] = "gone for a moment"
        time.sleep(0.2)
        told.answers["a"] = {"state": "stopped", "pgcore": {"task": None}}
        until(lambda: watch.doing() == ("", ""))
        phases = watch.phases()
    assert {(phase.member, phase.what) for phase in phases} == {
        ("a", "restart: checkpoint"), ("b", "creating replica"), ("a", "restart: stopping")}
    assert all(isinstance(phase, Phase) and phase.ended > phase.began for phase in phases)


def keeping(*phases: tuple[int, str, float, float], kind: str | None = None) -> dict[str, Json]:
    """An agent that keeps what it has done: number, what, took, ended; and what runs."""
    kept = [dict(zip(("number", "what", "took", "ended"), phase, strict=True)) for phase in phases]
    return {"state": "running", "pgcore": {**writes(True, 9.0)["pgcore"], "phases": kept, "task": kind and {"kind": kind}}}


def test_what_an_agent_keeps_is_told_once_by_its_own_times_and_nothing_from_before() -> None:
    told = Told(a=keeping((6, "stop: stopping", 1.0, 30.0), kind="checkpoint"))
    with watching(told) as watch:
        until(lambda: watch.doing()[0] == "a: checkpoint")
        time.sleep(0.3)
        told.answers["a"] = keeping((6, "stop: stopping", 1.0, 30.3), (7, "checkpoint", 0.011, 0.2), (8, "promote", 0.022, 0.1))
        until(lambda: watch.doing() == ("", ""))
        time.sleep(0.2)
        phases = watch.phases()
    assert [(phase.what, round(phase.ended - phase.began, 3)) for phase in phases] == [("checkpoint", 0.011), ("promote", 0.022)]


@pytest.mark.parametrize(
    ("rule", "words"),
    [("restart.leave_sync", "restart: leave sync"), ("demotion.await_leader", "demotion: await leader"),
     ("leader.candidate_not_streaming", "leader: candidate not streaming"), ("leader.keep", ""), ("", "")],
)
def test_what_is_waited_for_between_long_actions_is_told_as_well(rule: str, words: str) -> None:
    assert Sight(now(), {"state": "running", "pgcore": {"rule": rule, "task": None}}).doing == words


# -- lines --------------------------------------------------------------------------------------------------------------------


def test_without_a_terminal_lines_are_plain_and_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(now()) as live:
        live.line("first")
        for tenth in range(11):
            live.going_on("b: copy", f"  {tenth * 10} %", tenth / 10)
        live.going_on("")
        live.going_on("b: other", "  0 %", 0.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(" s  ")[1] for line in captured.err.splitlines()] == [
        "first", *(f"b: copy  {tenth * 10} %" for tenth in range(1, 11))]


def test_on_a_terminal_the_last_line_moves_and_is_gone_at_the_end() -> None:
    code = (
        "import time\nfrom pgcore.cli.live import Live\nfrom pgcore.clock import now\n"
        "with Live(now()) as live:\n"
        "    live.going_on('b: copy', '  7 %', 0.5); time.sleep(0.3); live.line('a [step] done')\n"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, check=True, timeout=60,
                          env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.stdout == b""
    assert "b: copy  7 %  [############............]" in shown and "a [step] done" in shown
    assert "\x1b[?25l" in shown and shown.rstrip().endswith("\x1b[2K")


# -- a copy -------------------------------------------------------------------------------------------------------------------


def copy_of(told: Told, capsys: pytest.CaptureFixture[str], steps: list[Mapping[str, Json]]) -> tuple[str, str]:
    """What until_made says after these answers, one after the other, and what was shown."""
    began = now()
    with watching(told) as watch, Live(began) as live:
        copy = _Copy("b", live, watch, began)
        for step in steps:
            told.answers["b"] = step
            seen = now()
            until(lambda seen=seen: (sight := watch.sight("b")) is not None and sight.at > seen)
            assert copy._take(watch.sight("b") or Sight(began)) is None
        told.answers["b"] = {"state": "running", "pgcore": {"task": None}}
        until(lambda: (watch.sight("b") or Sight(began)).status.get("pgcore") == {"task": None})
        ended = copy.until_made()
        return ended + copy.told, capsys.readouterr().err


def test_a_copy_shows_percentage_rate_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    mega = 1024 * 1024
    copying = [working("reinitialize", phase="basebackup", bytes_done=done * mega, bytes_total=100 * mega)
               for done in (20, 60, 90)]
    start = working("reinitialize", phase="basebackup", bytes_done=0)
    told, shown = copy_of(Told(b=start), capsys, [start, *copying])
    assert "b: reinitialize: basebackup  90%, 90 of 100 MB, " in shown and " MB/s, 0 s left" in shown
    assert told.startswith("; 90 MB were copied in ") and told.endswith(" MB/s)")


def test_a_copy_that_is_made_again_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    start = working("reinitialize", phase="basebackup", bytes_done=0)
    told, shown = copy_of(Told(b=start), capsys, [start, working("clone", phase="basebackup", bytes_done=0)])
    assert "b: the copy failed, its agent makes another one" in shown and told == ""
