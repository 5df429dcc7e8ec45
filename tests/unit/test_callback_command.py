"""Scripts of the operator: arguments, exit codes, time limits, nothing left running."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pgcore.builtin import callback_command
from pgcore.plugin import CallbackEvent, GateRequest, Role, Veto


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "script with blank.sh"
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return f"'{path}'"


def event(command: str | None) -> CallbackEvent:
    return CallbackEvent("on_role_change", Role.PRIMARY, "the scope", "a", command)


def gate(command: str, timeout: float = 10) -> GateRequest:
    return GateRequest("s", "a", timeout, command)


def test_a_callback_gets_action_role_and_scope_after_its_own_words(tmp_path: Path) -> None:
    command = script(tmp_path, f'printf "%s|" "$@" > {tmp_path}/out')
    callback_command.pgcore_callback(event(f"{command} --flag 'two words'"))
    assert (tmp_path / "out").read_text() == "--flag|two words|on_role_change|primary|the scope|"


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    command = script(tmp_path, f'printf "%s|" "$@" > {tmp_path}/out')
    callback_command.pgcore_before_stop(gate(f"{command} $HOME ; true"))
    assert (tmp_path / "out").read_text() == "$HOME|;|true|"


def test_a_failing_callback_is_logged_with_code_and_output(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback_command.pgcore_callback(event(script(tmp_path, "echo no address; exit 3")))
    assert "exited with 3: no address" in caplog.text


def test_a_finished_callback_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    callback_command.pgcore_callback(event(script(tmp_path, "echo moved")))
    assert "exited with 0 | moved" in caplog.text


def test_without_a_command_nothing_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    callback_command.pgcore_callback(event(None))
    assert caplog.text == ""


@pytest.mark.parametrize(("body", "stopped", "results"), [
    ("exit 0", False, ["ok"]), ("exit 3", False, ["failed"]), ("sleep 60", False, ["timeout"]), ("sleep 60", True, ["cancelled"]),
])  # fmt: skip
def test_a_callback_says_how_it_ended(tmp_path: Path, body: str, stopped: bool, results: list[str]) -> None:
    told: list[str] = []
    command = script(tmp_path, body)
    callback_command.pgcore_callback(
        replace(event(command), timeout=1, cancelled=lambda: stopped, report=told.append)
    )
    assert told == results


def test_a_callback_that_cannot_be_started_has_failed_and_without_a_command_there_is_no_result() -> None:
    told: list[str] = []
    for command in ("/no/such/program", None):
        callback_command.pgcore_callback(replace(event(command), report=told.append))
    assert told == ["failed"]


@pytest.mark.parametrize(("body", "why"), [("exit 1", "exited with 1"), ("kill -9 $$", "exited with -9")])
def test_pre_promote_ending_badly_is_a_veto(tmp_path: Path, body: str, why: str) -> None:
    veto = callback_command.pgcore_before_promote(gate(script(tmp_path, body)))
    assert isinstance(veto, Veto) and why in veto.reason


@pytest.mark.parametrize("command", ["/no/such/program", "'unfinished"])
def test_pre_promote_that_cannot_start_is_a_veto(command: str) -> None:
    veto = callback_command.pgcore_before_promote(gate(command))
    assert isinstance(veto, Veto) and "could not be started" in veto.reason


def test_pre_promote_ending_well_is_no_veto(tmp_path: Path) -> None:
    assert callback_command.pgcore_before_promote(gate(script(tmp_path, "exit 0"))) is None


def test_a_script_over_time_is_killed_with_its_children(tmp_path: Path) -> None:
    command = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()
    veto = callback_command.pgcore_before_promote(gate(command, timeout=1))
    assert isinstance(veto, Veto) and "within 1 s" in veto.reason
    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def test_a_gate_that_has_become_pointless_kills_its_script_with_its_children_at_once(tmp_path: Path) -> None:
    command = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child.new; mv {tmp_path}/child.new {tmp_path}/child; wait")
    request = GateRequest("s", "a", 30, command, (tmp_path / "child").exists)
    began = time.monotonic()
    veto = callback_command.pgcore_before_promote(request)
    assert isinstance(veto, Veto) and "was cancelled and was killed with its children" in veto.reason
    assert time.monotonic() - began < 1
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 1
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def test_a_gate_that_is_pointless_from_the_start_says_no(tmp_path: Path) -> None:
    veto = callback_command.pgcore_before_promote(GateRequest("s", "a", 30, script(tmp_path, "sleep 5"), lambda: True))
    assert isinstance(veto, Veto) and "was cancelled" in veto.reason


def test_before_stop_that_has_become_pointless_ends_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = script(tmp_path, f"touch {tmp_path}/began; exec sleep 60")
    began = time.monotonic()
    callback_command.pgcore_before_stop(GateRequest("s", "a", 30, command, (tmp_path / "began").exists))
    assert time.monotonic() - began < 1
    assert "before_stop: " in caplog.text and "was cancelled" in caplog.text


def test_a_callback_has_its_configured_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    began = time.monotonic()
    callback_command.pgcore_callback(CallbackEvent("on_start", Role.PRIMARY, "s", "a", command, 0.3))
    assert 0.3 <= time.monotonic() - began < 2
    assert "did not end within 0.3 s" in caplog.text
    assert not _alive(int((tmp_path / "pid").read_text()))


def test_a_callback_may_take_a_minute_unless_configured() -> None:
    assert event(None).timeout == 60


def test_a_child_in_the_background_does_not_hold_the_answer_up(tmp_path: Path) -> None:
    began = time.monotonic()
    command = script(tmp_path, f"sleep 20 & echo $! > {tmp_path}/child")
    assert callback_command.pgcore_before_promote(gate(command)) is None
    assert time.monotonic() - began < 5
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_settings_of_the_agent_are_not_shown_to_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONI_SUPERUSER_PASSWORD", "secret")
    monkeypatch.setenv("THEIR_OWN", "kept")
    callback_command.pgcore_before_stop(gate(script(tmp_path, f"env > {tmp_path}/out")))
    assert "secret" not in (tmp_path / "out").read_text()
    assert "THEIR_OWN=kept" in (tmp_path / "out").read_text()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
