"""Long actions and watchers on a real PostgreSQL: stop with its hook, checkpoint, slots, the end of the postmaster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.postgres_node import Node, make, root  # noqa: F401 - fixtures
from pgcore.clock import Deadline
from pgcore.daemon.watchers import PostmasterWatch
from pgcore.model import actions as a
from pgcore.model.basics import Role, State
from pgcore.model.node import ControlState, NodeView
from pgcore.model.world import Memory
from unit.test_daemon_kit import Bench, Plugins, eventually, plugins_on_path, result_of, write_script

pytestmark = pytest.mark.server


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        yield plugins


def test_a_primary_from_its_slots_to_its_end(make: Callable[..., Node], tmp_path: Path, plugins: Plugins) -> None:  # noqa: F811
    node = make("daemon").bootstrap()
    told = write_script(tmp_path / "told", f'echo "$@" >> {tmp_path}/out\n')
    alive = f"kill -0 $(head -1 {node.settings.data_dir}/postmaster.pid) && echo before_stop >> {tmp_path}/out\n"
    hook = write_script(tmp_path / "hook", alive)
    changes = {"postgresql": {"callbacks": {"on_stop": told}, "before_stop": hook}}
    member = Bench(tmp_path, registry=plugins.registry(), changes=changes)
    member.ports.postgres = node.server
    performer = member.performer

    def do(action: a.Action) -> a.Outcome:
        return performer.perform(action, member.world(role=Role.PRIMARY, is_primary=True))

    view = do(a.ObserveNode()).value
    assert isinstance(view, NodeView) and view.is_primary and view.postmaster_pid
    watch = PostmasterWatch(member.mailbox)
    watch.follow(view.postmaster_pid)

    assert do(a.ChangeSlots(create=("keeper", "Not A Slot", "other"), drop=("absent",))).ok
    assert {slot.name for slot in node.look().slots} == {"keeper", "other"}
    assert do(a.ChangeSlots(drop=("keeper", "other"), advance={"absent": node.look().position or 0})).ok  # type: ignore[dict-item]
    assert not node.look().slots

    assert do(a.RunCheckpoint(1)).value is False
    eventually(lambda: "checkpoint after the promotion written" in member.mailbox.woken)
    assert do(a.RunCheckpoint(1)).value is True

    member.mailbox.woken.clear()
    assert do(a.StopServer(a.StopMode.FAST, 20)).ok
    assert result_of(member.tasks, 20).ok
    assert sorted(set(member.mailbox.woken)) == ["progress", "stop ended", "the postmaster ended"]
    assert member.mailbox.woken.index("progress") < member.mailbox.woken.index("stop ended")
    down = node.server.observe(Deadline.after(2))
    assert (down.state, down.running) == (State.STOPPED, False)
    assert down.control is not None and down.control.state is ControlState.SHUT_DOWN
    assert member.callbacks.drain(5)
    assert (tmp_path / "out").read_text().splitlines() == ["before_stop", "on_stop primary demo"]
    member.tasks.cancel()


def test_a_stop_is_told_before_the_hand_over_may_begin(
    make: Callable[..., Node], root: Path, tmp_path: Path, plugins: Plugins  # noqa: F811
) -> None:
    """A postmaster that still archives holds nobody up: the callbacks hear ``on_stop`` first, then of the change of the role."""
    archiving = f"while [ ! -e {root}/go ]; do sleep 0.05; done"
    node = make("archiving", parameters={"archive_mode": "on", "archive_command": archiving}).bootstrap()
    told = write_script(tmp_path / "told", f'echo "$@" >> {tmp_path}/out\n')
    callbacks = dict.fromkeys(("on_stop", "on_role_change"), told)
    member = Bench(tmp_path, registry=plugins.registry(), changes={"postgresql": {"callbacks": callbacks}})
    member.ports.postgres = node.server
    primary = member.world(memory=Memory(managed=True), role=Role.PRIMARY, is_primary=True)
    assert member.performer.perform(a.StopServer(a.StopMode.FAST, 20), primary).ok
    eventually(lambda: member.tasks.view is None or "shut_down_end" in member.tasks.view.progress)
    assert member.tasks.kind is not None, "the server still archives"
    assert member.performer.perform(a.SetRole(Role.DEMOTED), primary).ok
    (root / "go").touch()
    assert result_of(member.tasks, 20).ok
    assert member.callbacks.drain(5)
    assert (tmp_path / "out").read_text().splitlines() == ["on_stop primary demo", "on_role_change demoted demo"]
