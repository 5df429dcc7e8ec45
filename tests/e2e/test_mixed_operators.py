"""One Patroni and two pgcore members, in a cluster that Patroni created: either command line acts on members of either kind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Cluster, Gap, wait_for
from harness.cluster import lost_commits
from harness.mixed import MixedCluster

NOTED_S = 90.0
DYNAMIC = {"postgresql": {"parameters": {"wal_level": "logical"}}}


@pytest.fixture(scope="module")
def mixed(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[MixedCluster]:
    """n1 is Patroni's; the tests of this file follow one another."""
    yield MixedCluster(make_shared_cluster, predecessor, "patroni pgcore pgcore", dynamic=DYNAMIC).bootstrap()


def either(mixed: MixedCluster, *arguments: str) -> tuple[str, str]:
    """What both command lines print, Patroni's first."""
    return mixed.patronictl.ok(*arguments), mixed.pgcore.ok(*arguments)


def test_members_that_pgcore_adds_are_copies_of_patronis(mixed: MixedCluster) -> None:
    cluster = mixed.cluster
    assert cluster.primary() is cluster.node("n1")
    assert len({node.system_identifier() for node in cluster.nodes}) == 1
    wanted = {"n1": ("Leader", "running"), "n2": ("Replica", "streaming"), "n3": ("Replica", "streaming")}

    def listed() -> bool:
        rows = [{row["Member"]: (row["Role"], row["State"]) for row in json.loads(table)}
                for table in either(mixed, "list", cluster.scope, "-f", "json")]
        return rows == [wanted, wanted]

    wait_for(listed, NOTED_S, "both show the members as their cards will say, which each agent writes once in loop_wait")
    for node in cluster.nodes:
        answer = node.request("GET", "/cluster")
        assert answer is not None
        assert {member["name"]: member["role"] for member in answer.json()["members"]} == {
            "n1": "leader", "n2": "replica", "n3": "replica"}
        assert node.status()["patroni"]["version"] == "4.1.5"


def wait_everywhere(mixed: MixedCluster, *wanted: str) -> None:
    """Wait until every node has these slots."""
    def there() -> bool:
        slots = [node.query("SELECT slot_name FROM pg_replication_slots") for node in mixed.cluster.nodes]
        return all({row[0] for row in found} >= set(wanted) for found in slots)

    wait_for(there, NOTED_S, f"{wanted} on every node")


def test_permanent_slots_are_on_members_of_both_kinds(mixed: MixedCluster) -> None:
    """(EC 161)"""
    mixed.pgcore.ok("edit-config", mixed.cluster.scope, "-s", "slots.kept.type=physical", "-s", "slots.told.type=logical",
                    "-s", "slots.told.database=postgres", "-s", "slots.told.plugin=pgoutput", "--force")
    wait_everywhere(mixed, "kept", "told")


@pytest.mark.parametrize(("program", "candidate", "copied"), [("pgcore", "n2", "n1"), ("patronictl", "n1", "n3")])
def test_switchover_and_reinit_between_the_kinds_lose_nothing(mixed: MixedCluster, program: str, candidate: str, copied: str,
                                                              measured: Callable[[str, Gap | float], None]) -> None:
    """From Patroni to pgcore and back, asked for by either; then the other kind's member is copied anew. (EC 60, 63)"""
    cluster, old, new = mixed.cluster, mixed.cluster.primary(), mixed.cluster.node(candidate)
    operator = mixed.patronictl if program == "patronictl" else mixed.pgcore
    writer = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    mixed.move(operator, new)
    writer.wait_resumed(time.monotonic(), 30)
    measured(f"switchover {old.agent.name} to {new.agent.name}: write gap", writer.report().longest_gap(after_s=began))
    assert {row[0] for row in new.query("SELECT slot_name FROM pg_replication_slots")} >= {"kept", "told"}
    kept = (cluster.node(copied).data_dir / "PG_VERSION").stat().st_ino
    operator.ok("reinit", cluster.scope, copied, "--force", "--wait")
    cluster.wait_healthy()
    assert (cluster.node(copied).data_dir / "PG_VERSION").stat().st_ino != kept
    assert lost_commits(cluster, writer) == []
    wait_everywhere(mixed, "kept")  # the new copy lacks the WAL that nobody has read from the other one
    active = {row[0] for row in new.query("SELECT slot_name FROM pg_replication_slots WHERE active")}
    assert {node.name for node in cluster.others(new)} <= active
    wait_for(lambda: {"kept", "told", new.name} <= set(mixed.document("status")["slots"]), NOTED_S, "/status tells of the slots")


def test_history_names_leaders_of_both_kinds(mixed: MixedCluster) -> None:
    found = either(mixed, "history", mixed.cluster.scope, "-f", "json")
    assert found[0] == found[1]
    assert [line["New Leader"] for line in json.loads(found[0])] == ["n2", "n1"]


def test_reload_and_restart_of_the_other_kinds_members(mixed: MixedCluster) -> None:
    cluster = mixed.cluster
    for operator, node in ((mixed.patronictl, cluster.node("n2")), (mixed.pgcore, cluster.node("n1"))):
        started = node.query("SELECT pg_postmaster_start_time()")
        operator.ok("reload", cluster.scope, node.name, "--force")
        operator.ok("restart", cluster.scope, node.name, "--force")
        assert node.query("SELECT pg_postmaster_start_time()") > started
    cluster.wait_healthy()


def test_a_parameter_set_by_either_reaches_every_member(mixed: MixedCluster) -> None:
    cluster = mixed.cluster
    for operator, value in ((mixed.patronictl, "5MB"), (mixed.pgcore, "6MB")):
        operator.ok("edit-config", cluster.scope, "-p", f"work_mem={value}", "--force")
        wait_for(lambda value=value: all(node.ask("SHOW work_mem") == value for node in cluster.nodes),  # type: ignore[misc]
                 NOTED_S, f"work_mem is {value} everywhere")
    assert len(set(either(mixed, "show-config", cluster.scope))) == 1


@pytest.mark.parametrize(("name", "kind"), [("n1", "pgcore"), ("n2", "patroni")])
def test_a_second_agent_of_a_node_ends_by_itself(mixed: MixedCluster, name: str, kind: str) -> None:
    """Of the other kind, on the same file, while the first answers: it touches nothing. (HA rules 5.2)"""
    cluster, node, primary = mixed.cluster, mixed.cluster.node(name), mixed.cluster.primary()
    before = node.postmaster_pid()
    environment = {**os.environ, "HOME": str(node.directory)}
    second = subprocess.run(mixed.kinds[kind].argv(node.node_file), cwd=node.directory, env=environment, capture_output=True,
                            text=True, timeout=60, check=False)
    assert second.returncode == 1, second.stdout + second.stderr
    assert "Traceback" not in second.stderr or kind == "patroni"
    assert node.postmaster_pid() == before and cluster.streaming() and cluster.primary() is primary


def test_maintenance_mode_holds_every_member(mixed: MixedCluster) -> None:
    """Begun by one, ended by the other: both kinds say so, and agents that are restarted leave their servers alone. (EC 190)"""
    cluster = mixed.cluster
    mixed.patronictl.ok("pause", cluster.scope, "--wait")
    assert all(node.status().get("pause") for node in cluster.nodes)
    primary = cluster.primary()
    pids = {node.name: node.postmaster_pid() for node in cluster.nodes}
    for node in cluster.nodes[:2]:
        node.stop()
        node.start()
    wait_for(lambda: all(node.status().get("state") == "running" for node in cluster.nodes), NOTED_S, "all agents are back")
    assert {node.name: node.postmaster_pid() for node in cluster.nodes} == pids
    mixed.pgcore.ok("resume", cluster.scope, "--wait")
    cluster.wait_healthy()
    assert cluster.primary() is primary
