"""The cluster table and the list of what is wrong (cli 2 and 3)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from pgcore.cli import render
from pgcore.cli.problems import problems
from pgcore.model.basics import Lsn
from pgcore.model.cluster import ClusterStatus, ClusterView, ConfigRecord, FailoverRequest, Member, SyncView
from pgcore.rest.members import ClusterMode
from unit.rest_board import member, view

MIB = 1024 * 1024


def _at(name: str, lsn: int, **fields: object) -> Member:
    return replace(
        member(name, **fields), conn_url=f"postgres://10.0.0.{ord(name)}:5432/postgres", receive_lsn=Lsn(lsn), replay_lsn=Lsn(lsn)
    )


def _cluster(*members: Member, **fields: object) -> ClusterView:
    leader = replace(member("a", "primary"), conn_url="postgres://10.0.0.97:5432/postgres")
    return replace(view(**fields), members=(leader, *members), status=ClusterStatus(optime=Lsn(100 * MIB)))


def _synchronous(cluster: ClusterView, mode: str, *standbys: str, quorum: int = 0, strict: bool = False) -> ClusterView:
    document = {"synchronous_mode": mode, "synchronous_mode_strict": strict}
    return replace(cluster, config=ConfigRecord("1", document), sync=SyncView("1", "a", standbys, quorum))


HEALTHY = _cluster(_at("b", 100 * MIB), _at("c", 97 * MIB))


def test_the_pretty_table() -> None:
    lines = render.pretty(render.cluster_table("demo", {None: HEALTHY})).splitlines()
    assert lines[0].startswith("+ Cluster: demo (7000000000000000001) -")
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[1].strip("|").split("|")] == [
        "Member",
        "Host",
        "Role",
        "State",
        "TL",
        "Receive LSN",
        "Lag",
        "Replay LSN",
        "Lag",
    ]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:6]] == [
        ["a", "10.0.0.97", "Leader", "running", "1", "", "", "", ""],
        ["b", "10.0.0.98", "Replica", "streaming", "1", "0/6400000", "0", "0/6400000", "0"],
        ["c", "10.0.0.99", "Replica", "streaming", "1", "0/6100000", "3", "0/6100000", "3"],
    ]


def test_ports_are_shown_for_all_when_hosts_are_shared_or_ports_differ() -> None:
    rows = render.cluster_table("demo", {None: view()}).rows
    assert [row["Host"] for row in rows] == ["127.0.0.1:5529", "127.0.0.1:5530", "127.0.0.1:5531"]


def test_json_omits_what_is_empty_and_keeps_a_lag_of_zero() -> None:
    text = render.show(render.cluster_table("demo", {None: HEALTHY}), "json")
    assert "\n" not in text
    assert json.loads(text)[:2] == [
        {"Cluster": "demo", "Member": "a", "Host": "10.0.0.97", "Role": "Leader", "State": "running", "TL": 1},
        {
            "Cluster": "demo",
            "Member": "b",
            "Host": "10.0.0.98",
            "Role": "Replica",
            "State": "streaming",
            "TL": 1,
            "Receive LSN": "0/6400000",
            "Receive Lag": 0,
            "Replay LSN": "0/6400000",
            "Replay Lag": 0,
        },
    ]


def test_yaml_holds_the_same_as_json() -> None:
    table = render.cluster_table("demo", {None: HEALTHY})
    assert yaml.safe_load(render.show(table, "yaml")) == json.loads(render.show(table, "json"))


def test_tsv_has_a_header_and_empty_cells() -> None:
    lines = render.show(render.cluster_table("demo", {None: HEALTHY}), "tsv").split("\n")
    assert lines[0] == "Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag\tReplay LSN\tReplay Lag"
    assert lines[1] == "demo\ta\t10.0.0.97\tLeader\trunning\t1\t\t\t\t"


def test_rare_columns_appear_when_somebody_has_a_value() -> None:
    reason = {
        "max_connections": {"old_value": "100", "new_value": "200"},
        "shared_preload_libraries": {"old_value": "", "new_value": "x" * 60},
    }
    odd = _at(
        "b",
        100 * MIB,
        pending_restart=True,
        pending_restart_reason=reason,
        tags={"zone": "x", "rack": 3},
        scheduled_restart={"schedule": "2030-01-01T00:00:00+00:00", "postgres_version": "16.1"},
    )
    table = render.cluster_table("demo", {None: _cluster(odd)})
    assert table.columns[-4:] == ("Pending restart", "Pending restart reason", "Scheduled restart", "Tags")
    text = render.pretty(table)
    assert "max_connections: 100->200" in text and "shared_preload_libraries: [hidden - too long]" in text
    assert "2030-01-01T00:00:00+00:00 if version < 16.1" in text and "rack: 3" in text
    assert json.loads(render.show(table, "json"))[1]["Tags"] == {"zone": "x", "rack": 3}
    assert "{rack: 3, zone: x}" in render.show(table, "tsv")
    assert "Tags" not in render.cluster_table("demo", {None: HEALTHY}).columns
    assert "Tags" in render.cluster_table("demo", {None: HEALTHY}, extended=True).columns


def test_a_member_that_publishes_nothing_is_unknown_and_an_old_one_shows_its_one_position() -> None:
    silent = replace(_at("b", 0), receive_lsn=None, replay_lsn=None, xlog_location=None)
    old = replace(_at("c", 0), receive_lsn=None, replay_lsn=None, xlog_location=Lsn(100 * MIB))
    rows = render.cluster_table("demo", {None: _cluster(silent, old)}).rows
    assert [(row["Receive LSN"], row["Receive Lag"], row["Replay LSN"]) for row in rows[1:]] == [
        ("unknown", "", "unknown"),
        ("0/6400000", 0, "unknown"),
    ]


def test_topology_puts_replicas_below_whom_they_follow_and_loses_nobody() -> None:
    cluster = _cluster(
        _at("b", 0),
        _at("c", 0, tags={"replicatefrom": "b"}),
        _at("d", 0, tags={"replicatefrom": "e"}),
        _at("e", 0, tags={"replicatefrom": "d"}),
    )
    rows = render.cluster_table("demo", {None: cluster}, tree=True).rows
    assert [row["Member"] for row in rows] == ["a", "+ b", "  + c", "d", "e"]
    assert [
        row["Member"] for row in render.cluster_table("demo", {None: replace(HEALTHY, leader=None)}, tree=True).rows
    ] == ["a", "b", "c"]


def test_the_title_says_when_there_is_no_cluster_yet() -> None:
    assert "(uninitialized)" in render.pretty(render.cluster_table("demo", {None: ClusterView()}))
    assert "(initializing)" in render.pretty(render.cluster_table("demo", {None: ClusterView(initialize="")}))


def test_the_footer_shows_maintenance_and_the_schedule() -> None:
    request = FailoverRequest("1", "a", "b", "2030-01-01T00:00:00+00:00", 1.0)
    cluster = replace(HEALTHY, failover=request, config=ConfigRecord("1", {"pause": True}))
    assert render.footer({None: cluster}) == [
        " Maintenance mode: on",
        " Switchover scheduled at: 2030-01-01T00:00:00+00:00",
        " " * 20 + "from: a",
        " " * 22 + "to: b",
    ]


def test_groups_are_one_table_with_a_column_and_a_footer_each() -> None:
    request = FailoverRequest("1", "a", None, "2030-01-01T00:00:00+00:00", 1.0)
    views = {0: HEALTHY, 1: replace(HEALTHY, failover=request)}
    table = render.cluster_table("demo", views)
    lines = render.pretty(table).splitlines()
    assert lines[0].startswith("+ Citus cluster: demo -")
    assert [line.split("|")[1:3] for line in (lines[1], lines[3], lines[8])] == [
        [" Group ", " Member "],
        ["     0 ", " a      "],
        ["     1 ", " c      "],
    ]
    assert render.footer(views)[:2] == ["Citus group: 1", " Switchover scheduled at: 2030-01-01T00:00:00+00:00"]
    assert render.show(table, "tsv").splitlines()[1].startswith("demo\t0\ta\t")


def test_one_group_is_named_in_the_title_and_in_the_machine_formats() -> None:
    table = render.cluster_table("demo", {1: HEALTHY}, 1)
    lines = render.pretty(table).splitlines()
    assert lines[0].startswith("+ Citus cluster: demo (group: 1, 7000000000000000001) -") and lines[1].startswith("| Member |")
    assert json.loads(render.show(table, "json"))[0]["Group"] == 1
    assert render.footer({1: replace(HEALTHY, config=ConfigRecord("1", {"pause": True}))}, 1) == [" Maintenance mode: on"]


def _wrong(cluster: ClusterView, mode: ClusterMode | None = None) -> list[str]:
    return problems("demo", cluster, mode or ClusterMode.of(cluster))


def test_nothing_is_wrong_with_a_healthy_cluster() -> None:
    assert _wrong(_cluster(_at("b", 100 * MIB))) == []


def test_nothing_is_wrong_while_enough_standbys_of_a_quorum_stream() -> None:
    one_down = _cluster(_at("b", 100 * MIB), replace(_at("c", 100 * MIB), replication_state=None))
    assert not [line for line in _wrong(_synchronous(one_down, "quorum", "b", "c", quorum=1)) if "commits" in line]
    assert [line for line in _wrong(_synchronous(one_down, "quorum", "b", "c")) if "commits on a may wait: 2 of" in line]


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (ClusterView(), "there is no cluster demo here"),
        (replace(HEALTHY, leader=None), "there is no leader: nobody holds the leader lock"),
        (
            replace(HEALTHY, leader=None, config=ConfigRecord("1", {"pause": True})),
            "maintenance mode is on, so nobody takes over",
        ),
        (replace(HEALTHY, leader="z"), "the leader z has no member card"),
        (replace(HEALTHY, leader="b"), "the leader b has the role replica, not yet primary"),
        (
            _cluster(replace(_at("b", 100 * MIB), state="start failed")),
            "b is not running PostgreSQL: its state is 'start failed'",
        ),
        (_cluster(replace(_at("b", 100 * MIB), replication_state=None)), "b does not stream from the leader"),
        (
            _cluster(replace(_at("b", 100 * MIB), replication_state="in archive recovery")),
            "b does not stream, it is in archive recovery",
        ),
        (HEALTHY, "c is 3.0 MB behind, maximum_lag_on_failover is 1.0 MB: it cannot take over"),
        (
            replace(HEALTHY, members=(replace(HEALTHY.members[0], timeline=3), _at("b", 100 * MIB))),
            "b is on timeline 1, the leader a is on 3",
        ),
        (
            _cluster(_at("b", 100 * MIB, pending_restart=True, pending_restart_reason={"max_connections": {}})),
            "b has to be restarted for max_connections (pgcore restart demo b)",
        ),
        (
            replace(HEALTHY, config=ConfigRecord("1", {"ttl": "soon", "pause": "perhaps"})),
            "the agents keep the last good one: pause: wants true or false, has 'perhaps'",
        ),
        (
            replace(
                HEALTHY,
                config=ConfigRecord("1", {"standby_cluster": {"host": "h"}}),
                members=(replace(member("a", "standby_leader"), replication_state=None), _at("b", 100 * MIB)),
            ),
            "the standby leader a does not stream from the remote cluster nor read an archive",
        ),
        (
            _synchronous(_cluster(replace(_at("b", 100 * MIB), replication_state=None)), "on", "b"),
            "commits on a may wait: 1 of the synchronous standbys b must confirm them, but 0 stream",
        ),
        (_synchronous(HEALTHY, "on"), "no standby is synchronous: commits are not protected"),
        (_synchronous(HEALTHY, "quorum", strict=True), "no standby is synchronous: commits wait until one streams"),
        (replace(HEALTHY, failsafe={"a": "", "x": ""}), "the member card of x is missing"),
        (
            replace(HEALTHY, status=ClusterStatus(Lsn(0), retain_slots=("b", "gone"))),
            "the slot gone is kept for a member without a card",
        ),
    ],
)
def test_each_problem_is_named(cluster: ClusterView, words: str) -> None:
    found = _wrong(cluster)
    assert [line for line in found if words in line], found


def test_a_copy_shows_its_progress_while_it_goes_on() -> None:
    """Only to those who did not ask as patronictl, and only while there is one."""
    shown = {"action": "clone", "percent": 42, "bytes_per_second": 36 * MIB, "seconds_left": 3723}
    copying = replace(member("b"), state="creating replica", data={"progress": shown})
    table = render.cluster_table("demo", {None: _cluster(copying)})
    assert table.columns[-1] == "Progress" and table.rows[1]["Progress"] == "42 %, 36.0 MiB/s, 1:02:03 left"
    assert "Progress" not in render.cluster_table("demo", {None: HEALTHY}, extended=True).columns
    assert "Progress" not in render.cluster_table("demo", {None: _cluster(copying)}, extended=True, progress=False).columns
    for odd in ({"percent": 7}, "soon", {"phase": "starting"}):
        row = render.cluster_table("demo", {None: _cluster(replace(copying, data={"progress": odd}))}).rows[1]
        assert row["Progress"] == ("7 %" if isinstance(odd, dict) and "percent" in odd else "")
