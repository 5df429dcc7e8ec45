"""The simulated servers behave as PostgreSQL does, as far as the agent and its rules can tell."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pgcore.daemon
from pgcore.model.basics import Role, State
from pgcore.model.node import ControlData, ControlState
from pgcore.postgres.programs import ProgramRunner
from pgcore.postgres.server import Postgres
from pgcore.testing.simulation.postgres import SimulatedPostgres
from sim.servers import room


def _used_by_the_daemon() -> set[str]:
    """Names that the daemon looks up on something called ``postgres``."""
    found = set()
    for path in sorted(Path(pgcore.daemon.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
                if name == "postgres":
                    found.add(node.attr)
    return found


def test_the_model_has_every_method_of_the_real_port_that_the_daemon_uses() -> None:
    used = _used_by_the_daemon() - {"role", "state"}
    assert len(used) > 30
    for name in sorted(used):
        real, model = getattr(Postgres, name), getattr(SimulatedPostgres, name, None)
        assert model is not None, f"{name} is missing"
        if isinstance(real, property):
            assert isinstance(model, property), name
            continue
        wanted, offered = inspect.signature(real).parameters, inspect.signature(model).parameters
        assert list(wanted) == list(offered), name
        for each in wanted:
            assert (wanted[each].kind, wanted[each].default is inspect.Parameter.empty) == (
                offered[each].kind, offered[each].default is inspect.Parameter.empty), f"{name}({each})"


def test_a_cluster_begins_is_copied_and_streams() -> None:
    with room() as r:
        commit, told = r.write("a")
        assert told == [commit]
        r.passes(1.0)
        primary, standby = r.look("a"), r.look("b")
        assert primary.is_primary and primary.role is Role.PRIMARY and primary.state is State.RUNNING
        assert sorted(sender.application_name for sender in primary.senders) == ["b", "c"]
        assert not standby.is_primary and standby.receiver is not None and standby.receiver.host == "10.0.0.1"
        assert standby.position == primary.position and r["b"].at.contains(commit)


def test_an_orderly_stop_hands_the_shutdown_checkpoint_to_the_standbys() -> None:
    with room() as r:
        ends: list[ControlData] = []
        r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0, on_shut_down=ends.append))
        view = r.look("a")
        assert view.control is not None and view.control.state is ControlState.SHUT_DOWN
        assert [control.checkpoint_end for control in ends] == [view.control.checkpoint_end] == [r["b"].at.position]
        assert view.state is State.STOPPED and not view.running


def test_a_diverged_primary_is_refused_until_it_was_rewound() -> None:
    with room() as r:
        r["b"].pace.receive_s = r["c"].pace.receive_s = 5.0
        lost, _ = r.write("a")
        r["a"].kill()
        assert r.look("a").state is State.CRASHED
        r["c"].pace.receive_s = 0.0
        r.promote("b")
        assert r["b"].timeline == 2 and not r["b"].at.contains(lost)
        r.follow("c", "b")
        assert r["c"].receiver is not None and r["c"].timeline == 2
        assert r.start("a", "b") and r["a"].receiver is None and r["a"].at.contains(lost)
        r.ask("a", lambda port: port.rewind(ProgramRunner(), r.upstream("b")))
        assert r.start("a", "b") and r["a"].receiver is not None and not r["a"].at.contains(lost)
        assert not r.happened("mixed")
