"""A second cluster that replicates a first one: made, led, promoted, and taken back. (HA rules 22)"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from harness import Cluster, Gap, Node, wait_for
from harness.agents import POSTGRES_USER

SCRIPT = '#!/bin/sh\necho "$1 $2" >> {told}\n'


def prepared(west: Cluster) -> Path:
    """Every node of the second cluster archives its WAL and writes down its callbacks; the archive."""
    archive = west.directory / "archive"
    archive.mkdir()
    shutil.chown(archive, POSTGRES_USER, POSTGRES_USER)
    for node in west.nodes:
        script = west.directory / f"{node.name}.sh"
        script.write_text(SCRIPT.format(told=told_file(node)))
        script.chmod(0o755)
        events = ("on_start", "on_stop", "on_restart", "on_reload", "on_role_change")
        node.document["postgresql"]["callbacks"] = dict.fromkeys(events, str(script))
        node.document["postgresql"]["parameters"] |= {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    return archive


def told_file(node: Node) -> Path:
    return node.directory / "told"


def told(node: Node) -> list[str]:
    """What the callbacks of this node were told."""
    return told_file(node).read_text().splitlines() if told_file(node).exists() else []


def rows(node: Node) -> int | None:
    return node.ask("SELECT count(*) FROM word")


def upstream(node: Node) -> tuple[str, int] | None:
    found = node.query("SELECT sender_host, sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'")
    return (found[0][0], found[0][1]) if found else None


def leader(west: Cluster) -> Node | None:
    assert west.etcd is not None
    return next((node for node in west.nodes if node.name == west.etcd.get(west.leader_key())), None)


def settled(west: Cluster, source: Node, timeline: int) -> Node | None:
    """The standby leader, once it streams from the source and everybody else from it, s3 from the member it names."""
    holder = leader(west)
    if holder is None or holder.status().get("role") != "standby_leader" or upstream(holder) != (source.host, source.pg_port):
        return None
    for node in west.others(holder):
        above = west.node("s2") if node.name == "s3" and holder.name != "s3" else holder
        if upstream(node) != (above.host, above.pg_port):
            return None
    return holder if all(node.timeline() == timeline and not node.is_writable() for node in west.nodes) else None


def switched_over(west: Cluster, source: Node, holder: Node) -> Node:
    """A switchover inside: no server stops, and only the change of roles is told. The new standby leader."""
    pids = {node.name: node.postmaster_pid() for node in west.nodes}
    heard = {node.name: len(told(node)) for node in west.nodes}
    candidate = next(node for node in west.others(holder) if node.name != "s3")
    answer = west.switchover(holder, candidate)
    assert answer is not None and answer.status == 200, answer
    assert wait_for(lambda: settled(west, source, 1), 20, "the candidate leads") is candidate
    assert {node.name: node.postmaster_pid() for node in west.nodes} == pids
    wait_for(lambda: told(holder)[heard[holder.name] :] == ["on_role_change replica"], 30, "the old leader's callback")
    assert told(candidate)[heard[candidate.name] :] == ["on_role_change standby_leader"]
    return candidate


def test_a_standby_cluster_lives_and_is_promoted_and_taken_back(
    make_cluster: Callable[..., Cluster], measured: Callable[[str, Gap | float], None]
) -> None:
    """EC 197, 201, 202, 218"""
    east = make_cluster(size=1, scope="east").bootstrap()
    source = east.nodes[0]
    remote = {"host": source.host, "port": source.pg_port}
    west = make_cluster(
        names=("s1", "s2", "s3"),
        scope="west",
        beside=east,
        dynamic={"standby_cluster": remote},
        per_node={"s3": {"tags": {"replicatefrom": "s2"}}},
    )
    archive = prepared(west)
    source.query("CREATE TABLE word (text text)")
    began = time.monotonic()
    for node in west.nodes:
        node.start()

    def arrived(count: int) -> bool:
        return all(rows(node) == count for node in west.nodes)

    holder = wait_for(lambda: settled(west, source, 1), 60, "the standby cluster streams")
    measured("a standby cluster of three nodes is made", time.monotonic() - began)
    codes = {path: holder.status_of(path) for path in ("/primary", "/leader", "/standby-leader", "/replica", "/read-only")}
    assert codes == {"/primary": 503, "/leader": 200, "/standby-leader": 200, "/replica": 503, "/read-only": 200}
    replicas = west.others(holder)
    wait_for(lambda: all(node.status_of("/replica") == 200 for node in replicas), 30, "the agents have seen that they stream")
    assert all(node.status_of("/leader") == 503 for node in replicas)
    source.query("INSERT INTO word VALUES ('hello')")
    wait_for(lambda: arrived(1), 30, "a row of the first cluster is everywhere")

    candidate = switched_over(west, source, holder)

    # Promoted by removing the section; the first cluster does not notice.
    before = (source.timeline(), source.postmaster_pid())
    began = time.monotonic()
    west.configure({"standby_cluster": None})
    wait_for(candidate.is_writable, 20, "the holder is promoted")
    measured("section removed until the holder is writable", time.monotonic() - began)
    wait_for(west.streaming, 30, "the others follow it", interval_s=0.1)
    candidate.query("INSERT INTO word VALUES ('west')")
    wait_for(lambda: arrived(2), 30, "its row is everywhere")
    assert (source.timeline(), source.postmaster_pid(), rows(source)) == (*before, 1)

    # And taken back: it stops in order, keeps the lock, archives its end, and everybody is rewound.
    archived = len(list(archive.iterdir()))
    source.query("INSERT INTO word VALUES ('east')")
    west.configure({"standby_cluster": remote})
    assert wait_for(lambda: settled(west, source, 1), 60, "a standby cluster again", interval_s=0.2) is candidate
    wait_for(
        lambda: all(node.ask("SELECT string_agg(text, ' ' ORDER BY text) FROM word") == "east hello" for node in west.nodes),
        10,
        "what the first cluster has, and nothing else",
    )
    assert len(list(archive.iterdir())) > archived and "archiving the WAL file with the shutdown checkpoint" in candidate.log()
    assert "guard" not in "".join(line for line in candidate.log().splitlines() if "ERROR" in line)
    assert (source.timeline(), source.postmaster_pid()) == before
