"""The same stories on real PostgreSQL servers and on the simulator's model of them: both must end alike. (docs/simulation.md)"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from contract.postgres_node import BIN_DIR, Node, make, root
from pgcore.clock import Deadline
from pgcore.errors import ServerError
from pgcore.model.basics import Lsn, Role, State
from pgcore.model.node import ControlData, ControlState, NodeView
from pgcore.model.server import Upstream
from pgcore.postgres.programs import ProgramRunner
from pgcore.testing.simulation.scheduler import Scheduler, inside
from sim.servers import Room

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root"]

T = TypeVar("T")
Ask = Callable[[Any], T]


class Real:
    """The interface of ``Room`` over real servers, as far as the stories need it."""

    def __init__(self, make: Callable[..., Node]) -> None:
        self._make = make
        self._nodes: dict[str, Node] = {}

    def ask(self, name: str, what: Callable[[Any], T]) -> T:
        """Do it with this node's port."""
        return what(self._nodes[name].server)

    def bootstrap(self, name: str) -> None:
        """A primary."""
        self._nodes[name] = self._make(name).bootstrap()

    def join(self, name: str, source: str) -> None:
        """A standby of it."""
        self._nodes[name] = self._make(name).standby_of(self._nodes[source])

    def upstream(self, name: str) -> Upstream:
        """How to reach it."""
        return self._nodes[name].upstream

    def look(self, name: str) -> NodeView:
        """What its agent sees."""
        return self._nodes[name].look()

    def write(self, name: str) -> None:
        """A transaction."""
        self._nodes[name].sql("CREATE TABLE IF NOT EXISTS public.t (i int); INSERT INTO public.t SELECT generate_series(1, 100)")

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._nodes[name].server.terminate()

    def passes(self, seconds: float) -> None:
        """Time goes by."""
        time.sleep(seconds)


@pytest.fixture(params=["PostgreSQL", "the model"])
def servers(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Three servers; ``a`` is the primary, the others stream from it."""
    if request.param == "PostgreSQL":
        found: Any = Real(request.getfixturevalue("make"))
        _begin(found)
        yield found
    else:
        with inside(Scheduler()) as scheduler:
            found = Room(scheduler, "abc")
            _begin(found)
            yield found


def _begin(servers: Any) -> None:
    servers.bootstrap("a")
    for name in "bc":
        servers.join(name, "a")
    eventually(servers, lambda: all(streams(servers, name) for name in "bc"))


def eventually(servers: Any, question: Callable[[], bool], seconds: float = 10.0) -> None:
    """It is so, now or soon."""
    for _ in range(int(seconds / 0.2)):
        if question():
            return
        servers.passes(0.2)
    raise AssertionError("it never was so")


def streams(servers: Any, name: str) -> bool:
    receiver = servers.look(name).receiver
    return receiver is not None and receiver.status == "streaming"


def start(servers: Any, name: str, upstream: str | None) -> None:
    """As a standby."""
    above = servers.upstream(upstream) if upstream else None
    servers.ask(name, lambda port: port.start(ProgramRunner(port.user), role=Role.REPLICA, upstream=above, timeout_s=20.0))


def stop(servers: Any, name: str, **options: Any) -> None:
    servers.ask(name, lambda port: port.stop(ProgramRunner(port.user), mode="fast", timeout_s=20.0, **options))


def promote(servers: Any, name: str) -> None:
    servers.ask(name, lambda port: port.promote(ProgramRunner(port.user), timeout_s=20.0))
    servers.ask(name, lambda port: port.checkpoint(ProgramRunner(port.user)))


def left_behind(servers: Any) -> None:
    """``b`` runs without an upstream and lacks what ``a`` wrote and ``c`` has; ``a`` is dead."""
    stop(servers, "b")
    servers.write("a")
    eventually(servers, lambda: servers.look("c").position == servers.look("a").position)
    servers.kill("a")
    start(servers, "b", None)
    assert position(servers, "b") < position(servers, "c")


def position(servers: Any, name: str) -> Lsn:
    found = servers.look(name).position
    assert found is not None
    return found


def test_a_standby_that_is_ahead_is_refused_by_the_new_timeline_and_does_not_start_again(servers: Any) -> None:
    left_behind(servers)
    promote(servers, "b")
    fork = servers.ask("b", lambda port: port.history(2))[0][1]
    servers.ask("c", lambda port: port.follow_by_reload(servers.upstream("b")))
    eventually(servers, lambda: bool(servers.ask("c", lambda port: port.history(2))))
    servers.passes(2.0)
    view = servers.look("c")
    assert view.timeline == 1 and view.position > fork
    eventually(servers, lambda: not streams(servers, "c"))  # a refused receiver calls itself streaming for a moment
    assert servers.ask("c", lambda port: port.local_timeline(Deadline.after(2.0))) == 1
    stop(servers, "c")
    control = servers.look("c").control
    assert (control.state, control.minimum_recovery_timeline) == (ControlState.SHUT_DOWN_IN_RECOVERY, 1)
    assert control.minimum_recovery == view.position
    with pytest.raises(ServerError, match="while it was starting"):
        start(servers, "c", "b")
    assert servers.look("c").state is State.START_FAILED


def at_a_dead_end(servers: Any) -> None:
    """``c`` has fetched the history file of ``b``'s timeline 2, which it cannot follow; ``b`` is gone and ``a`` is back on 1."""
    left_behind(servers)
    promote(servers, "b")
    servers.ask("c", lambda port: port.follow_by_reload(servers.upstream("b")))
    eventually(servers, lambda: bool(servers.ask("c", lambda port: port.history(2))))
    servers.kill("b")
    servers.ask("a", lambda port: port.start(ProgramRunner(port.user), role=Role.PRIMARY, upstream=None, timeout_s=20.0))


def newer(servers: Any, name: str) -> list[int]:
    """Timelines after the first whose history files are in the data directory."""
    return sorted(servers.ask(name, lambda port: port.newer_histories(1, 1)))


def test_a_standby_starts_again_once_the_history_file_of_a_dead_end_is_aside(servers: Any) -> None:
    at_a_dead_end(servers)
    stop(servers, "c")
    with pytest.raises(ServerError, match="while it was starting"):
        start(servers, "c", "a")
    assert newer(servers, "c") == [2]
    servers.ask("c", lambda port: port.set_histories_aside([2]))
    assert newer(servers, "c") == []
    start(servers, "c", "a")
    servers.write("a")
    eventually(servers, lambda: streams(servers, "c") and position(servers, "c") == position(servers, "a"))


def test_a_running_standby_follows_a_timeline_of_the_same_number_once_the_dead_end_is_aside(servers: Any) -> None:
    at_a_dead_end(servers)
    servers.ask("c", lambda port: port.follow_by_reload(servers.upstream("a")))
    eventually(servers, lambda: streams(servers, "c"))
    stop(servers, "a")
    start(servers, "a", None)
    promote(servers, "a")
    assert servers.look("a").timeline == 2
    servers.write("a")
    servers.passes(3.0)
    assert position(servers, "c") < position(servers, "a")
    servers.ask("c", lambda port: port.set_histories_aside([2]))
    eventually(servers, lambda: streams(servers, "c") and position(servers, "c") == position(servers, "a"))
    assert servers.look("c").timeline == 2


def test_a_standby_may_wait_at_an_upstream_that_is_behind_it(servers: Any) -> None:
    left_behind(servers)
    had = position(servers, "c")
    servers.ask("c", lambda port: port.follow_by_reload(servers.upstream("b")))
    eventually(servers, lambda: streams(servers, "c") and servers.look("c").receiver.port == servers.upstream("b").port)
    servers.passes(1.0)
    assert streams(servers, "c") and position(servers, "c") == had


def test_twin_timelines_differ_in_their_first_record_and_pg_rewind_sees_nothing_to_do(servers: Any) -> None:
    servers.kill("a")
    for name in "bc":
        promote(servers, name)
        servers.write(name)
    assert [servers.look(name).timeline for name in "bc"] == [2, 2]
    found = servers.ask("b", lambda port: port.leader_timeline(servers.upstream("c"), Deadline.after(5.0)))
    assert found.timeline == 2 and not found.in_recovery
    assert servers.ask("b", lambda port: port.begins_alike(found, 2)) is False
    stop(servers, "b")
    before = servers.look("b").control
    servers.ask("b", lambda port: port.rewind(ProgramRunner(port.user), servers.upstream("c")))
    assert servers.look("b").control == before


def test_a_leader_that_has_gone_on_still_shows_how_its_earlier_timelines_began(servers: Any) -> None:
    """(EC 112) The twin of a timeline which the leader has left since is known by its first record."""
    servers.kill("a")
    for name in "bc":
        promote(servers, name)
        servers.write(name)
    stop(servers, "c")
    start(servers, "c", None)
    promote(servers, "c")
    servers.write("c")
    found = servers.ask("b", lambda port: port.leader_timeline(servers.upstream("c"), Deadline.after(5.0)))
    assert found.timeline == 3 and not found.in_recovery
    assert [servers.ask(name, lambda port: port.begins_alike(found, 2)) for name in "bc"] == [False, True]
    assert servers.ask("b", lambda port: port.begins_alike(found, 3)) is None


def test_the_shutdown_checkpoint_of_an_orderly_stop_reaches_the_standbys(servers: Any) -> None:
    servers.write("a")
    told: list[ControlData] = []
    stop(servers, "a", on_shut_down=told.append)
    end = servers.look("a").control.checkpoint_end
    assert [control.checkpoint_end for control in told] == [end]
    assert [servers.look(name).position for name in "bc"] == [end, end]
    promote(servers, "b")
    switch, = servers.ask("b", lambda port: port.history(2))
    assert (switch[0], switch[1]) == (1, end)
    start(servers, "a", "b")
    eventually(servers, lambda: streams(servers, "a") and servers.look("a").timeline == 2)


def test_a_killed_primary_keeps_its_tail_and_a_rewind_takes_it_away(servers: Any) -> None:
    left_behind(servers)
    promote(servers, "b")
    view = servers.look("a")
    assert view.control.state is ControlState.IN_PRODUCTION and view.control.checkpoint_timeline == 1
    servers.ask("a", lambda port: port.crash_recover(ProgramRunner(port.user)))
    control = servers.look("a").control
    fork = servers.ask("b", lambda port: port.history(2))[0][1]
    assert control.state is ControlState.SHUT_DOWN and control.checkpoint_timeline == 1 and control.checkpoint_end > fork
    servers.ask("a", lambda port: port.ready_for_rewind(servers.upstream("b"), Deadline.after(5.0)))
    servers.ask("a", lambda port: port.rewind(ProgramRunner(port.user), servers.upstream("b")))
    view = servers.look("a")
    assert view.control.state is ControlState.IN_ARCHIVE_RECOVERY and view.control.minimum_recovery_timeline == 2
    assert view.restored_backup
    start(servers, "a", "b")
    eventually(servers, lambda: streams(servers, "a") and servers.look("a").timeline == 2)
