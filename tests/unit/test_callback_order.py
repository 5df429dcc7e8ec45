"""Which callback runs beside, after or instead of which, with real scripts; and what a start is told as. (HA rules 25)"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore.model import actions as a
from pgcore.model.actions import BootstrapPhase, StopMode
from pgcore.model.basics import Instant, Role
from pgcore.model.world import Bootstrapping, Memory, Told
from unit.test_daemon_kit import Bench, Plugins, eventually, is_root, plugins_on_path, result_of, running, write_script

EVENTS = ("on_start", "on_stop", "on_restart", "on_reload", "on_role_change")
KNOWN = Memory(managed=True, told=Told(Role.REPLICA, 17))


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        yield plugins


class Member(Bench):
    """A member whose one script writes when it began and ended, and waits for ``go`` when it is told of the role ``demoted``."""

    def __init__(self, folder: Path, plugins: Plugins, **postgresql: Any) -> None:
        self.folder = folder
        body = (
            f'echo "begin $@" >> {folder}/told; [ "$2" = demoted ] || [ "$1" = on_start ] && '
            f"{{ echo $$ > {folder}/pid; while [ ! -e {folder}/go ]; do sleep 0.02; done; }}\n"
            f'echo "end $@" >> {folder}/told\n'
        )
        script = write_script(folder / "callback", body)
        changes = {"postgresql": {"callbacks": dict.fromkeys(EVENTS, script), **postgresql}}
        super().__init__(folder, registry=plugins.registry(), changes=changes)

    def told(self) -> list[str]:
        """What the script wrote, without the scope."""
        path = self.folder / "told"
        return [line.removesuffix(" demo") for line in path.read_text().splitlines()] if path.exists() else []

    def go(self) -> None:
        """Let the script that waits go on."""
        (self.folder / "go").touch()

    def role(self, role: Role, before: Role = Role.REPLICA) -> None:
        """The rules say that the role changes."""
        self.performer.perform(a.SetRole(role), self.world(memory=KNOWN, role=before))


@pytest.fixture
def member(tmp_path: Path, plugins: Plugins) -> Iterator[Member]:
    made = Member(tmp_path, plugins)
    yield made
    made.go()
    made.close()


# -- one after the other, or instead -----------------------------------------------------------------------------------------


def test_a_newer_event_waits_for_the_running_one_and_the_last_role_is_delivered(member: Member) -> None:
    member.role(Role.DEMOTED)
    eventually(lambda: member.told() == ["begin on_role_change demoted"])
    member.role(Role.REPLICA, Role.DEMOTED)
    member.role(Role.PROMOTED)
    time.sleep(0.2)
    assert member.told() == ["begin on_role_change demoted"]
    member.go()
    assert member.callbacks.drain(5)
    order = [f"{word} on_role_change {role}" for role in ("demoted", "replica", "primary") for word in ("begin", "end")]
    assert member.told() == order


def test_where_it_is_configured_a_newer_event_kills_the_running_one(tmp_path: Path, plugins: Plugins) -> None:
    member = Member(tmp_path, plugins, callback_kill_running=True)
    member.role(Role.DEMOTED)
    pid = int(eventually((tmp_path / "pid").exists) and eventually((tmp_path / "pid").read_text))
    member.role(Role.REPLICA, Role.DEMOTED)
    assert member.callbacks.drain(5)
    assert member.told() == ["begin on_role_change demoted", "begin on_role_change replica", "end on_role_change replica"]
    assert not running(pid)
    member.close()


@pytest.mark.parametrize("kill", [False, True], ids=["in order", "killing"])
def test_a_reload_neither_ends_nor_delays_a_role_change(tmp_path: Path, plugins: Plugins, kill: bool) -> None:
    """EC 216: both run at the same time; a virtual IP is not left half-moved."""
    member = Member(tmp_path, plugins, callback_kill_running=kill)
    member.role(Role.DEMOTED)
    eventually(lambda: member.told() == ["begin on_role_change demoted"])
    member.performer.tell("on_reload", Role.REPLICA)
    eventually(lambda: "end on_reload replica" in member.told())
    assert "end on_role_change demoted" not in member.told()
    member.go()
    assert member.callbacks.drain(5) and member.told()[-1] == "end on_role_change demoted"
    member.close()


def test_a_role_change_does_not_wait_for_a_slow_reload(tmp_path: Path, plugins: Plugins) -> None:
    slow = write_script(tmp_path / "slow", f"touch {tmp_path}/begun; sleep 30\n")
    member = Member(tmp_path, plugins, callback_timeout=5)
    member.configuration.effective.postgresql.callbacks["on_reload"] = slow  # type: ignore[index]
    member.performer.tell("on_reload", Role.REPLICA)
    eventually((tmp_path / "begun").exists)
    member.role(Role.PROMOTED)
    eventually(lambda: "end on_role_change primary" in member.told(), 2)
    member.close()


@pytest.mark.skipif(not is_root(), reason="only root can make a script that its caller may not kill")
def test_a_callback_that_cannot_be_killed_is_waited_for() -> None:
    """EC 215: the agent runs as an ordinary user, the script became another one as sudo does; the next event comes after it."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/pgcore-sudo-XXXXXX"], text=True).strip())
    folder.chmod(0o777)
    interpreter = folder / "sudo"
    shutil.copy(os.path.realpath("/usr/bin/perl"), interpreter)
    interpreter.chmod(0o4755)
    become = f"$< = 0; $> = 0; open(F, '>', '{folder}/root'); close F; sleep 2"
    program = f"""
import os, pwd, sys, time
sys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}
from pgcore.daemon.callbacks import CallbackLane
from pgcore.hookspecs import CallbackEvent
from pgcore.model.basics import Role
from pgcore.registry import Registry
registry = Registry()
registry.activate(["callback_command"])
lane = CallbackLane(registry)
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
first = CallbackEvent("on_start", Role.REPLICA, "s", "a", {f"{interpreter} -e {shlex.quote(become)}"!r})
lane.tell(first)
while not os.path.exists({str(folder / "root")!r}): time.sleep(0.01)
began = time.monotonic()
lane.tell(CallbackEvent("on_role_change", Role.PRIMARY, "s", "a", "touch {folder}/next", kills_running=True))
assert lane.drain(10)
print(time.monotonic() - began)
"""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "cannot be killed: waiting for its end" in done.stderr
        assert float(done.stdout) > 1.0, "it was waited for"
        assert (folder / "next").exists()
    finally:
        shutil.rmtree(folder)


def test_a_callback_that_ignores_signals_is_killed_when_its_time_is_over(tmp_path: Path, plugins: Plugins) -> None:
    """EC 215: ignoring SIGTERM does not help it, so nothing waits behind it for ever."""
    deaf = write_script(tmp_path / "deaf", f"trap '' TERM INT HUP; echo $$ > {tmp_path}/deaf.pid; while :; do sleep 1; done\n")
    member = Member(tmp_path, plugins, callback_timeout=0.5)
    member.configuration.effective.postgresql.callbacks["on_start"] = deaf  # type: ignore[index]
    member.performer.tell("on_start", Role.REPLICA)
    member.role(Role.PROMOTED)
    assert member.callbacks.drain(5)
    assert not running(int((tmp_path / "deaf.pid").read_text())) and member.told()[-1] == "end on_role_change primary"
    member.close()


# -- what is told -------------------------------------------------------------------------------------------------------------


def test_a_promotion_is_told_as_primary(member: Member) -> None:
    """EC 217: not by an internal name, and its completion is not told again."""
    member.role(Role.PROMOTED)
    member.role(Role.PRIMARY, Role.PROMOTED)
    assert member.callbacks.drain(5)
    assert member.told() == ["begin on_role_change primary", "end on_role_change primary"]


def test_a_replica_that_becomes_a_standby_leader_by_reload_is_told_by_its_role_only(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EC 218: the reload that it takes is not told beside it; a reload without a change of the role is."""
    monkeypatch.setattr(member.postgres, "follow_by_reload", lambda upstream, role: None)
    world = member.world(memory=KNOWN, role=Role.REPLICA)
    member.performer.perform(a.FollowByReload(None, Role.STANDBY_LEADER), world)
    member.performer.perform(a.SetRole(Role.STANDBY_LEADER), world)
    assert member.callbacks.drain(5)
    assert member.told() == ["begin on_role_change standby_leader", "end on_role_change standby_leader"]
    member.performer.perform(a.FollowByReload(None, Role.REPLICA), world)
    assert member.callbacks.drain(5) and member.told()[-1] == "end on_reload replica"


def test_nothing_is_told_while_a_cluster_is_created(member: Member) -> None:
    creating = Memory(procedure=Bootstrapping(BootstrapPhase.POST, Instant(0.0)))
    world = member.world(memory=creating, role=Role.PRIMARY)
    member.performer.perform(a.SetRole(Role.PRIMARY), world)
    member.performer.perform(a.StopServer(StopMode.IMMEDIATE, 5), world)
    result_of(member.tasks)
    assert member.callbacks.drain(5) and member.told() == []


def test_a_stop_of_what_does_not_run_is_not_told(member: Member) -> None:
    member.performer.perform(a.StopServer(StopMode.FAST, 5), member.world(memory=KNOWN, role=Role.PRIMARY))
    assert result_of(member.tasks).ok
    assert member.callbacks.drain(5) and member.told() == []
