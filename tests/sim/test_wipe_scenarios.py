"""The store is wiped while the primary's server is too slow to answer: nobody is promoted beside it."""

from __future__ import annotations

import pytest

from sim.conftest import Simulate
from sim.scene import Diary, cast, expect_trouble


@pytest.mark.parametrize("wipes", [1, 2, 3])
@pytest.mark.parametrize("query_s", [0.4, 2.0])
def test_a_primary_that_does_not_answer_queries_keeps_its_place_when_the_store_is_wiped(
        simulate: Simulate, wipes: int, query_s: float) -> None:
    """Its agent says that it counts on its lock, which was removed; its card may not be back when it is removed again. (EC 17)"""
    world = simulate()
    leader, *_ = cast(world)
    expect_trouble(world)
    diary = Diary(world)
    leader.server.pace.query_s = query_s
    world.run(4)
    for _ in range(wipes):
        world.store.wipe()
        world.run(1.3)
    world.run(10)
    assert world.writable() == [leader.name] and leader.server.timeline == 1
    leader.server.pace.query_s = 0.0
    world.settle()
    assert world.leader == leader.name
    assert {"race.primary_counts_on_lock", "race.primary_alive"} & set(diary.rules())
