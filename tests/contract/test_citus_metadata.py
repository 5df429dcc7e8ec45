"""The coordinator's transactions on a real server, with a recorded stand-in for the extension. (HA rules 29)"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contract.postgres_node import Node, make, root
from pgcore.builtin.citus.handler import CitusHandler
from pgcore.clock import Deadline
from pgcore.errors import ServerError
from pgcore.model.basics import Json
from pgcore.mpp import Group, GroupMember
from pgcore.postgres import local
from pgcore.postgres.connection import Session
from pgcore.postgres.programs import os_user

__all__ = ["make", "root"]
STAND_IN = (Path(__file__).parents[1] / "harness" / "citus.sql").read_text()


def member(name: str, *, primary: bool = False) -> GroupMember:
    return GroupMember(name, f"{name}.example", 5432, f"http://{name}:8008", True, primary)


@dataclass
class Tools:
    """The tools of a coordinator that leads, with groups as the test wants them."""

    node: Node
    found: dict[int, Group] = field(default_factory=dict)
    leading: bool = True
    posts: list[tuple[str, str, Json]] = field(default_factory=list)
    member: str = "c1"
    host: str = "c1.example"
    port: int = 5432
    ttl: int = 8
    retry_timeout: int = 3

    def groups(self, *, fresh: bool = False) -> Mapping[int, Group]:
        return self.found

    def leads(self) -> bool:
        return self.leading

    def session(self, database: str, deadline: Deadline) -> Session:
        parameters = local.superuser(self.node.settings, os_user(self.node.settings), statement_timeout_s=0)
        return Session(parameters | {"dbname": database}, deadline)

    def post(self, member: GroupMember, path: str, body: Json, timeout_s: float) -> int | None:
        self.posts.append((member.name, path, body))
        return 200


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Node]:
    node = Node(root, "coordinator", parameters={"allow_system_table_mods": "on"}).bootstrap()
    node.sql(STAND_IN)
    yield node
    node.end()


@pytest.fixture
def tools(server: Node) -> Tools:
    server.sql("DELETE FROM pg_dist_node; DELETE FROM public.calls")
    a = Group(1, "a", (member("a", primary=True), member("b")))
    return Tools(server, {0: Group(0, "c1", (member("c1", primary=True),)), 1: a})


@pytest.fixture
def coordinator(tools: Tools) -> CitusHandler:
    handler = CitusHandler(0, "postgres")
    handler.groups_seen(tools)
    return handler


def nodes(server: Node) -> list[tuple[Any, ...]]:
    return server.sql("SELECT groupid, nodename, noderole FROM pg_dist_node ORDER BY groupid, noderole, nodename")


def report(kind: str, leader: str, **changes: Any) -> dict[str, Json]:
    return {"type": kind, "group": 1, "leader": leader, "timeout": 5, "cooldown": 1, **changes}


def moved(tools: Tools) -> None:
    tools.found[1] = Group(1, "b", (member("b", primary=True), member("a")))


def test_the_groups_of_the_store_become_nodes(tools: Tools, coordinator: CitusHandler, server: Node) -> None:
    assert nodes(server) == [(0, "c1.example", "primary"), (1, "a.example", "primary"), (1, "b.example", "secondary")]
    before = server.sql("SELECT count(*) FROM public.calls")
    coordinator.groups_seen(tools)
    assert server.sql("SELECT count(*) FROM public.calls") == before, "nothing is done twice"


def test_statements_wait_from_the_first_report_to_the_last_and_the_row_keeps_its_id(
        tools: Tools, coordinator: CitusHandler, server: Node) -> None:
    (before,) = server.sql("SELECT nodeid FROM pg_dist_node WHERE groupid = 1 AND noderole = 'primary'")
    coordinator.reported(tools, report("before_demote", "a"))
    with pytest.raises(ServerError):  # what needs the row waits
        server.sql("SET lock_timeout = 100; UPDATE pg_dist_node SET isactive = isactive WHERE groupid = 1")
    moved(tools)
    coordinator.groups_seen(tools)
    assert (1, "a.example", "primary") in nodes(server), "a reading of the store does not disturb an open change"
    coordinator.reported(tools, report("after_promote", "b"))
    assert (1, "b.example", "primary") in nodes(server)
    assert server.sql("SELECT nodeid FROM pg_dist_node WHERE groupid = 1 AND noderole = 'primary'") == [before]
    coordinator.groups_seen(tools)
    assert (1, "a.example", "secondary") in nodes(server)


def test_a_report_of_somebody_who_does_not_lead_is_ignored(tools: Tools, coordinator: CitusHandler, server: Node) -> None:
    before = server.sql("SELECT * FROM public.calls")
    for kind in ("before_demote", "before_promote", "after_promote"):
        coordinator.reported(tools, report(kind, "b"))
        coordinator.reported(tools, report(kind, "a", group="x"))
    assert server.sql("SELECT * FROM public.calls") == before


def test_a_lost_last_report_is_made_good_by_the_store(tools: Tools, coordinator: CitusHandler, server: Node) -> None:
    """After its time the open change is rolled back and the store's word is carried out. (EC 226, 227)"""
    coordinator.reported(tools, report("before_demote", "a", timeout=1))
    moved(tools)
    time.sleep(1.1)
    coordinator.groups_seen(tools)
    assert nodes(server) == [(0, "c1.example", "primary"), (1, "b.example", "primary"), (1, "a.example", "secondary")]


def test_a_primary_that_vanished_during_its_change_keeps_its_row(tools: Tools, coordinator: CitusHandler, server: Node) -> None:
    """Nobody leads the group: the change is rolled back after its time, and nothing blocks any more. (EC 227)"""
    coordinator.reported(tools, report("before_demote", "a", timeout=1))
    tools.found[1] = Group(1, None, (member("b"),))
    time.sleep(1.1)
    coordinator.groups_seen(tools)
    assert (1, "a.example", "primary") in nodes(server)
    server.sql("SET lock_timeout = 500; UPDATE pg_dist_node SET isactive = isactive WHERE groupid = 1")


def test_a_coordinator_that_is_stopped_rolls_back(tools: Tools, coordinator: CitusHandler, server: Node) -> None:
    coordinator.reported(tools, report("before_demote", "a"))
    coordinator.before_demote(tools)
    server.sql("SET lock_timeout = 500; UPDATE pg_dist_node SET isactive = isactive WHERE groupid = 1")
    tools.leading = False
    coordinator.reported(tools, report("before_demote", "a"))
    server.sql("SET lock_timeout = 500; UPDATE pg_dist_node SET isactive = isactive WHERE groupid = 1")


def test_a_missing_extension_fails_the_bootstrap_and_says_so(tools: Tools, server: Node) -> None:
    with pytest.raises(ServerError, match="citus"):
        CitusHandler(0, "app").bootstrapped(tools)
    assert server.sql("SELECT 1 FROM pg_database WHERE datname = 'app'") == [(1,)]


def test_a_worker_reports_to_the_coordinator_that_leads(tools: Tools) -> None:
    worker, tools.member = CitusHandler(1, "postgres"), "a"
    worker.before_demote(tools)
    worker.before_promote(tools)
    worker.promoted(tools)
    kinds, rest = ("before_demote", "before_promote", "after_promote"), {"group": 1, "leader": "a", "timeout": 8, "cooldown": 3}
    assert tools.posts == [("c1", "/citus", {"type": kind, **rest}) for kind in kinds]
    tools.found[0] = Group(0, None)
    worker.promoted(tools)
    assert len(tools.posts) == 3
