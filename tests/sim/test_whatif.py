"""What-if: a world that begins where another cluster stands, and what trouble in words does to it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pgcore.daemon.peers import PeerAccess
from pgcore.model.basics import Json
from pgcore.testing.simulation.present import Present, Seen
from pgcore.testing.simulation.schedule import ScheduleError
from pgcore.testing.simulation.whatif import FOR_EVER_S, answer, read_what, what_if
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate


def look(world: World) -> Present:
    """As the command line looks at a live cluster."""
    view = world.view()
    values = {path: entry.value for path, entry in world.store.entries.items()}

    def status(name: str) -> dict[str, Json]:
        doors = world[name].doors
        answer = doors.answer("GET", "/patroni", None, "127.0.0.1", PeerAccess()) if doors is not None else None
        return json.loads(answer.body or "") if answer is not None else {}

    return Present("simulated", view, values, tuple(Seen(member, status(member.name)) for member in view.members))


def settled(simulate: Simulate, **setup: object) -> Present:
    world = simulate(**setup)
    world.run(20)
    present = look(world)
    world.close()
    return present


def test_a_world_that_begins_in_the_middle_goes_on_as_if_nothing_had_been(simulate: Simulate) -> None:
    present = settled(simulate)
    course = what_if(present, read_what("pause", "abc"), 1)
    assert course.before == "" and course.writable == (present.view.leader,) and course.took_s is None
    assert course.lost == 0 and course.gap_s < 1


@pytest.mark.parametrize("dynamic", [{}, {"synchronous_mode": "quorum"}], ids=["off", "quorum"])
def test_a_primary_that_loses_power_is_replaced(simulate: Simulate, dynamic: dict[str, object]) -> None:
    present = settled(simulate, dynamic=dynamic)
    old = present.view.leader or ""
    course = what_if(present, read_what(f"stop {old}", "abc"), 1)
    assert course.leader not in (None, old) and course.writable == (course.leader,)
    assert course.took_s is not None and 5 < course.took_s < 12 and course.took_s - 1 < course.gap_s < 13
    text = "\n".join(answer(present, [course]))
    assert f"{course.leader} accepts writes at the end." in text and "  a  " in text
    assert any("race.acquire" in what for _, who, what in course.lines if who == course.leader)


def test_who_may_not_lead_does_not(simulate: Simulate) -> None:
    own = {name: {"tags": {"nofailover": True}} for name in "bc"}
    present = settled(simulate, own=own, nodes=("a", "b", "c"))
    if present.view.leader != "a":
        pytest.skip("another seed made b or c the first leader")
    course = what_if(present, read_what("stop a", "abc"), 1)
    assert course.still_down and course.leader is None
    assert "Nobody accepts writes" in "\n".join(answer(present, [course]))


def test_a_member_that_is_off_is_off_in_the_world_too(simulate: Simulate) -> None:
    world = simulate()
    off = next(machine for machine in world if machine.name != world.leader)
    world.checker.trouble(off.name, begins=True)
    cards = world.view().members
    off.power_off()
    world.run(3)
    present = look(world)
    missing = next(member for member in cards if member.name == off.name)
    gone = Seen(replace(missing, data={**missing.data, "state": "stopped"}), {}, "no route to host")
    seen = tuple(each for each in present.members if each.name != off.name)
    present = Present("simulated", present.view, {**present.values, f"members/{off.name}": '{"state": "stopped"}'}, (*seen, gone))
    leader = present.view.leader
    world.close()
    course = what_if(present, read_what(f"crash {leader}", ["a", "b", "c"]), 1)
    assert course.writable == (leader,) and course.rests[off.name] == "no agent runs"


def test_trouble_in_words() -> None:
    first, second = read_what("cut-store n1 for 20s; crash n2 after 5 s", ["n1", "n2"])
    assert (first.kind, first.target, first.lasts, first.at) == ("store-cut", "n1", 20.0, 0.0)
    assert (second.kind, second.target, second.lasts, second.at) == ("crash", "n2", 0.0, 5.0)
    assert read_what("lose-store for 30", ["n1"])[0].lasts == 30.0
    assert read_what("stop leader", ["n1"])[0].lasts == FOR_EVER_S


@pytest.mark.parametrize(("text", "said"), [
    ("", "say what happens"),
    ("explode n1", "is not understood. Wanted: WORD"),
    ("stop", "which node?"),
    ("stop n9", "there is no member n9; there are n1, n2"),
    ("switchover n1", "'n1' is one word too many"),
    ("stop n1 for ever", "is not understood"),
])
def test_words_that_mean_nothing_are_refused_with_what_would_do(text: str, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        read_what(text, ["n1", "n2"])
