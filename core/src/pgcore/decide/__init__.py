"""The functional core: a World in, a Decision out. Which table answers when. (HA rules 4)"""

from __future__ import annotations

from collections.abc import Callable, Container

from pgcore.decide.bootstrap import BOOTSTRAP
from pgcore.decide.busy import BUSY
from pgcore.decide.demotion import DEMOTION
from pgcore.decide.down import DOWN
from pgcore.decide.identity import IDENTITY, in_question
from pgcore.decide.leader import LEADER
from pgcore.decide.no_data import NO_DATA, half_copied
from pgcore.decide.prepare import PREPARE
from pgcore.decide.publish import PUBLISH
from pgcore.decide.race import RACE
from pgcore.decide.reinit import REINIT
from pgcore.decide.replica import REPLICA
from pgcore.decide.restart import RESTART
from pgcore.decide.shutdown import SHUTDOWN
from pgcore.decide.standby_cluster import STANDBY_LEADER
from pgcore.decide.starting import STARTING
from pgcore.decide.store_lost import STORE_LOST
from pgcore.decide.table import Table
from pgcore.decide.upkeep import UPKEEP
from pgcore.decide.watchdog import WATCHDOG, due
from pgcore.model.decision import Decision
from pgcore.model.orders import ReinitOrder, RestartOrder
from pgcore.model.world import World

SITUATIONS: tuple[tuple[str, Callable[[World], bool], Table], ...] = (
    ("the watchdog is due", due, WATCHDOG),
    ("a restart was asked for", lambda w: isinstance(w.memory.order, RestartOrder), RESTART),
    ("a new copy was asked for", lambda w: isinstance(w.memory.order, ReinitOrder), REINIT),
    ("a demotion is under way", lambda w: w.demotion is not None, DEMOTION),
    ("a cluster is being created", lambda w: w.bootstrapping is not None, BOOTSTRAP),
    ("the agent was asked to end", lambda w: w.memory.stopping, SHUTDOWN),
    ("the store does not answer", lambda w: w.store_lost, STORE_LOST),
    ("a long action is running", lambda w: w.busy, BUSY),
    ("the data directory is empty or unreadable", lambda w: not w.has_data or half_copied(w), NO_DATA),
    ("the identity of the data is in question", in_question, IDENTITY),
    ("PostgreSQL is not running", lambda w: not w.node.running, DOWN),
    ("PostgreSQL is starting", lambda w: w.node.starting, STARTING),
    ("the lock is free", lambda w: w.cluster.unlocked, RACE),
    ("I hold the lock of a standby cluster", lambda w: w.is_holder and w.standby_cluster, STANDBY_LEADER),
    ("I hold the lock", lambda w: w.is_holder, LEADER),
    ("another node holds the lock", lambda w: True, REPLICA),
)
"""The first condition that holds selects the table of the main stage."""

MAIN = "main"
STAGES = ("prepare", MAIN, "upkeep", "publish")


def decide(stage: str, world: World, done: Container[str] = ()) -> Decision | None:
    """The decision of one stage; None when a stage of repairs has nothing to do.

    In those stages each rule of ``done`` has had its turn in this beat; in the main stage every rule is asked again.
    """
    if stage == MAIN:
        return _situation(world).decide(world)
    if stage == "publish":
        return PUBLISH.decide(world)
    if world.store_lost:
        return None
    return (PREPARE if stage == "prepare" else UPKEEP).decide(world, done)


def _situation(world: World) -> Table:
    for _, holds, table in SITUATIONS:
        if holds(world):
            return table
    raise AssertionError("the last situation always holds")


TABLES = (PREPARE, *(table for _, _, table in SITUATIONS), UPKEEP, PUBLISH)
