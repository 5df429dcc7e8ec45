"""The watchdog over a named pipe that the test reads, and over files that are no watchdog. (HA rules 10, config 14)"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore.config.load import load_local
from pgcore.config.sections import WatchdogSection
from pgcore.daemon import watchdog as daemon_watchdog
from pgcore.daemon.watchdog import Watchdog
from pgcore.daemon.watchdog_device import LinuxWatchdog, SystemDevices, WatchdogError
from pgcore.model import actions as a
from pgcore.model.basics import Timing
from pgcore.model.node import WatchdogState
from pgcore.model.world import Memory
from unit.test_daemon_kit import Bench, write_node_file

TIMING = Timing(30, 10, 10)
SLOW = Timing(60, 10, 10)


class Pipe:
    """The reader's end of a watchdog of the driver ``testing``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> str:
        """Everything written since the last look."""
        text = b""
        while select.select([self.fd], [], [], 0)[0] and (part := os.read(self.fd, 65536)):
            text += part
        return text.decode()

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path / "watchdog")
    yield made
    made.close()


class Wired:
    """A watchdog whose configuration the test changes; it is asked as the performer asks it."""

    def __init__(self, pipe: Path, **section: Any) -> None:
        self.section = WatchdogSection(**{"mode": "automatic", "driver": "testing", "device": str(pipe)} | section)
        self.timing = TIMING
        self.watchdog = Watchdog(lambda: self.section, SystemDevices())

    def change(self, **section: Any) -> None:
        self.section = WatchdogSection(
            **{name: getattr(self.section, name) for name in ("mode", "driver", "device", "safety_margin")} | section
        )

    def ask(self, action: a.Action) -> str:
        world = type("World", (), {"settings": type("Settings", (), {"timing": self.timing})})
        return str(self.watchdog.handlers[type(action)](action, world) or "")  # type: ignore[arg-type]

    def activate(self) -> str:
        return self.ask(a.ActivateWatchdog())

    def feed(self) -> str:
        return self.ask(a.FeedWatchdog())

    @property
    def look(self) -> dict[str, Any]:
        return dict(self.watchdog.look(self.timing))

    @property
    def active(self) -> bool:
        return self.look.get("watchdog") is WatchdogState.ACTIVE


# -- a life ----------------------------------------------------------------------------------------------------------------


def test_it_is_given_its_timeout_fed_and_stopped(pipe: Pipe) -> None:
    wired = Wired(pipe.path)
    assert not wired.active and wired.activate() == "" and wired.active
    assert pipe.read() == "T25\n"
    assert (wired.feed(), wired.feed()) == ("", "")
    assert pipe.read() == "11"
    wired.ask(a.DisableWatchdog())
    assert pipe.read() == "V" and not wired.active
    wired.ask(a.DisableWatchdog())
    assert pipe.read() == ""


def test_a_killed_agent_leaves_it_running(tmp_path: Path, pipe: Pipe) -> None:
    """No V is written by whoever did not decide to stop it; programs it started do not keep it open either."""
    program = f"""
import subprocess, sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from unit.test_watchdog import Wired
wired = Wired({str(pipe.path)!r})
assert wired.activate() == "" and wired.feed() == ""
child = subprocess.Popen(["sleep", "60"], close_fds=False, start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        assert pipe.read() == "T25\n1"
        assert select.select([pipe.fd], [], [], 1)[0] and os.read(pipe.fd, 1) == b"", "nobody has it open any more"
    finally:
        os.kill(child, signal.SIGKILL)


# -- the configuration changes --------------------------------------------------------------------------------------------


def test_a_changed_ttl_is_applied_with_the_next_keepalive(pipe: Pipe) -> None:
    """EC 222: timeout and lock agree at every moment."""
    wired = Wired(pipe.path)
    wired.activate()
    wired.timing = SLOW
    assert wired.active and pipe.read() == "T25\n"
    assert wired.feed() == "" and pipe.read() == "T55\n1"
    assert wired.feed() == "" and pipe.read() == "1"


def test_a_raised_loop_wait_that_the_timeout_does_not_fit_ends_it(pipe: Pipe) -> None:
    """EC 222: else the keepalives would come too late from now on, and reset a machine that is well."""
    wired = Wired(pipe.path, safety_margin=15)
    wired.activate()
    wired.timing = Timing(30, 16, 7)
    assert "leave a timeout of 15 s, less than loop_wait (16 s)" in wired.feed()
    assert pipe.read() == "T15\nV" and not wired.active


def test_another_device_is_used_from_the_next_keepalive_on(tmp_path: Path, pipe: Pipe) -> None:
    """EC 222: the old one is stopped."""
    other = Pipe(tmp_path / "other")
    wired = Wired(pipe.path)
    wired.activate()
    wired.change(device=str(other.path))
    assert (pipe.read(), other.read()) == ("T25\n", "")
    assert wired.feed() == ""
    assert (pipe.read(), other.read()) == ("V", "T25\n1")
    other.close()


def test_a_change_that_leaves_no_slack_ends_it(pipe: Pipe) -> None:
    wired = Wired(pipe.path, mode="required")
    wired.activate()
    wired.change(safety_margin=25)
    assert "leave a timeout of 5 s, less than loop_wait (10 s)" in wired.feed()
    assert pipe.read() == "T25\nV" and not wired.active
    assert wired.look["watchdog_failed"]


def test_the_timing_of_the_bootstrap_section_counts_from_the_first_activation(tmp_path: Path, pipe: Pipe) -> None:
    """EC 223: nothing is in the store yet when a new cluster's watchdog is started."""
    bootstrap = {"dcs": {"ttl": 40, "loop_wait": 10, "retry_timeout": 10}}
    section = {"mode": "required", "driver": "testing", "device": str(pipe.path)}
    bench = Bench(tmp_path, changes={"bootstrap": bootstrap, "watchdog": section})
    timing = bench.configuration.settings().timing
    outcome = bench.performer.perform(a.ActivateWatchdog(), bench.world(memory=Memory(), timing=timing))
    assert (outcome.ok, outcome.value) == (True, "") and pipe.read() == "T35\n"
    assert bench.performer.watchdog.look(timing) == {"watchdog": WatchdogState.ACTIVE}
    bench.performer.watchdog.disable()
    bench.close()


# -- what fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "ttl", "timeout"),
    [
        (None, 30, 25),
        (None, 20, 15),
        (None, 10, 9),
        (None, 5, 4),
        (5, 10, 5),
        (0, 30, 30),
        (10, 30, 20),
        (-1, 30, 15),
        (-1, 21, 10),
    ],
)
def test_the_timeout_follows_from_ttl_and_margin(margin: int | None, ttl: int, timeout: int) -> None:
    assert WatchdogSection(safety_margin=margin).timeout_s(ttl) == timeout


def test_a_timeout_below_loop_wait_is_of_no_use(pipe: Pipe) -> None:
    wired = Wired(pipe.path, safety_margin=21)
    assert "leave a timeout of 9 s" in wired.activate()
    assert pipe.read() == "" and wired.look["watchdog"] is WatchdogState.GIVEN_UP
    wired.change(safety_margin=20)
    assert wired.look["watchdog"] is WatchdogState.CLOSED and wired.activate() == ""


def test_whoever_would_be_reset_before_the_agent_gives_up_is_told(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    wired = Wired(pipe.path, safety_margin=-1)
    assert wired.activate() == ""
    assert "resets this machine 15 s after the last renewal, before the agent would stop the server in order" in caplog.text


class Stubborn:
    """A device that keeps a timeout of its own."""

    def __init__(self, timeout: int, *, stoppable: bool = True) -> None:
        self._timeout, self.can_be_stopped, self.heard = timeout, stoppable, ""

    def set_timeout(self, seconds: int) -> None:
        self.heard += f"T{seconds}"

    def timeout(self) -> int:
        return self._timeout

    def keepalive(self) -> None:
        self.heard += "1"

    def close(self, *, stop: bool) -> None:
        self.heard += "V" if stop else "x"


def settled(device: Stubborn, mode: str) -> str:
    """What the judgement of a freshly opened device says."""
    wired = Wired(Path("/dev/null"), mode=mode)
    want = daemon_watchdog.wanted(wired.section, TIMING)
    try:
        wired.watchdog._settle(device, want, TIMING)
    except WatchdogError as error:
        return str(error)
    return ""


def test_a_device_that_waits_longer_than_asked_is_refused_only_where_it_is_required(caplog: pytest.LogCaptureFixture) -> None:
    assert "keeps a timeout of 60 s, more than the 25 s" in settled(Stubborn(60), "required")
    assert settled(Stubborn(60), "automatic") == ""
    assert "may reset this machine too late" in caplog.text


@pytest.mark.parametrize("mode", ["automatic", "required"])
def test_a_device_that_waits_less_than_a_beat_is_of_no_use(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "has a timeout of 5 s, less than loop_wait" in settled(Stubborn(5), mode)
    assert settled(Stubborn(5, stoppable=False), mode) == "", "it runs and cannot be stopped: feeding it is all that is left"
    assert "may be reset at any time" in caplog.text


def test_a_device_that_cannot_be_stopped_gets_a_last_keepalive(caplog: pytest.LogCaptureFixture) -> None:
    wired, device = Wired(Path("/dev/null")), Stubborn(25, stoppable=False)
    wired.watchdog._device, wired.watchdog._applied = device, daemon_watchdog.wanted(wired.section, TIMING)
    wired.watchdog.disable()
    assert device.heard == "1x" and "cannot be stopped: this machine will be reset in 25 s" in caplog.text


# -- it is not there --------------------------------------------------------------------------------------------------------


def test_automatic_does_without_a_missing_device_and_tries_again_when_the_section_changes(
    tmp_path: Path, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    wired = Wired(tmp_path / "missing")
    assert wired.look == {"watchdog": WatchdogState.CLOSED, "watchdog_problem": ""}
    assert "missing cannot be opened: No such file or directory (load its driver" in wired.activate()
    assert wired.look["watchdog"] is WatchdogState.GIVEN_UP and not wired.look.get("watchdog_failed")
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    wired.change(device=str(pipe.path))
    assert wired.look["watchdog"] is WatchdogState.CLOSED and wired.activate() == ""


def test_required_says_before_any_attempt_that_this_node_must_not_lead(tmp_path: Path, pipe: Pipe) -> None:
    """EC 53: the fact that keeps it out of the race, and that others read in its status."""
    missing = tmp_path / "missing"
    assert Wired(missing, mode="required").look == {
        "watchdog_failed": True,
        "watchdog_problem": f"{missing} is missing or not writable",
    }
    assert Wired(pipe.path, mode="required").look == {"watchdog_failed": False, "watchdog_problem": ""}
    assert Wired(pipe.path, mode="required", safety_margin=25).look["watchdog_failed"]
    assert Wired(missing, mode="off").look == {}


def test_what_was_refused_keeps_a_required_node_out_until_ttl_has_passed(tmp_path: Path) -> None:
    """Else it would win the lock, be refused, and give it back, for ever."""
    os.mkfifo(tmp_path / "unread")
    wired = Wired(tmp_path / "unread", mode="required")
    assert not wired.look["watchdog_failed"], "it looks well"
    assert "nobody is behind it" in wired.activate()
    assert wired.look["watchdog_failed"]
    wired.timing = Timing(1, 1, 1)
    wired.change(safety_margin=0)
    assert not wired.look["watchdog_failed"], "another configuration is another matter"


def test_a_broken_device_is_opened_again_once(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    wired = Wired(pipe.path)
    wired.activate()
    pipe.close()
    problem = wired.feed()
    assert "nobody is behind it" in problem and not wired.active
    assert "writing to" in caplog.text and "opening it again" in caplog.text
    pipe.fd = os.open(pipe.path, os.O_RDONLY | os.O_NONBLOCK)


@pytest.mark.parametrize("path", ["/dev/null", __file__])
def test_what_is_no_watchdog_is_not_written_to(path: str) -> None:
    before = Path(path).stat().st_size
    with pytest.raises(WatchdogError, match="is no watchdog"):
        LinuxWatchdog(path)
    assert Path(path).stat().st_size == before


# -- its section -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "mode"),
    [
        ({}, "automatic"),
        ({"mode": False}, "off"),
        ({"mode": "Disabled"}, "off"),
        ({"mode": "auto"}, "automatic"),
        ({"mode": "REQUIRE"}, "required"),
        ({"mode": "required"}, "required"),
    ],
)
def test_every_spelling_of_a_mode_is_understood(tmp_path: Path, written: dict[str, Any], mode: str) -> None:
    config = load_local(str(write_node_file(tmp_path, {"watchdog": written})), {}, {})
    assert config.watchdog.effective_mode == mode
    assert not [warning for warning in config.warnings if "watchdog" in str(warning)]


@pytest.mark.parametrize("word", ["requird", True, "on"])
def test_a_mode_that_means_nothing_counts_as_off_and_is_told(tmp_path: Path, word: Any) -> None:
    config = load_local(str(write_node_file(tmp_path, {"watchdog": {"mode": word}})), {}, {})
    assert config.watchdog.effective_mode == "off"
    assert any("which counts as off" in str(warning) for warning in config.warnings)


def test_a_required_device_that_is_missing_at_the_start_is_told_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    section = WatchdogSection(mode="required", device=str(tmp_path / "missing"))
    daemon_watchdog.refuse_unsupported(section, "node.yml")
    assert "this node will not lead until it is usable" in caplog.text
