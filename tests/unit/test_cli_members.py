"""Which members a command is about, and which group (cli 1.3)."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from pgcore.cli.context import Cluster
from pgcore.cli.members import ROLES, matching, with_role
from pgcore.dcs.store import Record, Snapshot, Store
from pgcore.errors import ConfigError
from pgcore.model.basics import Timing
from pgcore.model.cluster import ClusterView
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from unit.rest_board import member, view

A, B, C = member("a", "primary"), member("b"), member("c")


def _names(cluster: ClusterView, role: str) -> list[str]:
    return [found.name for found in with_role({None: cluster}, role)]


@pytest.mark.parametrize(
    ("leader_role", "expected"),
    [
        ("primary", {"leader": "a", "primary": "a", "standby-leader": "", "replica": "bc", "standby": "bc", "any": "abc"}),
        ("standby_leader", {"leader": "a", "primary": "", "standby-leader": "a", "replica": "bc", "standby": "bc", "any": "abc"}),
        ("replica", {"leader": "a", "primary": "a", "standby-leader": "a", "replica": "bc", "standby": "bc", "any": "abc"}),
        ("master", {"leader": "a", "primary": "a", "standby-leader": "", "replica": "bc", "standby": "bc", "any": "abc"}),
    ],
)
def test_roles_are_judged_by_the_leader_key_and_the_published_role(leader_role: str, expected: dict[str, str]) -> None:
    cluster = replace(view(), leader="a", members=(C, B, replace(A, role=leader_role)))
    assert {role: "".join(_names(cluster, role)) for role in ROLES} == expected


def test_names_are_kept_only_with_the_role_and_unknown_ones_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    views = {None: replace(view(), leader="a", members=(A, B, C))}
    assert [found.name for found in matching(views, ["a", "c", "z"], "replica")] == ["c"]
    assert capsys.readouterr().err == "Warning: z is not a member; members are a, b, c\n"
    with pytest.raises(click.ClickException, match="No 'replica' among provided members"):
        matching(views, ["a"], "replica")
    with pytest.raises(click.ClickException, match="no member has the role leader"):
        matching({None: replace(views[None], leader=None)}, [], "leader")
    with pytest.raises(click.ClickException, match="there is no member"):
        matching({None: ClusterView()}, [], "any")


class Groups(MemoryStore):
    """What is below a scope that holds the groups 0 and 10, and a key of nobody."""

    def read(self, **_: object) -> Snapshot:
        """Three records."""
        records = {"10/leader": Record("w", "1"), "0/leader": Record("c", "2"), "01/leader": Record("x", "3")}
        return Snapshot(records, "3")


def test_a_cluster_of_groups_is_read_group_by_group() -> None:
    store: Store = Groups(MemoryServer(), "ctl", Timing())
    cluster = Cluster("demo", store)
    assert {number: found.leader for number, found in cluster.read_groups().items()} == {0: "c", 10: "w"}
    with pytest.raises(ConfigError, match=r"demo is a cluster of the groups 0, 10 \(name one of them with --group\)"):
        cluster.read()
