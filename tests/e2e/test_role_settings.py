"""Settings of single roles: in force as soon as a server has the role, without a restart (config 6.6)."""

from __future__ import annotations

from collections.abc import Callable

from harness import Cluster, Node, wait_for

SETTINGS = {"parameters": {"work_mem": "4MB"}, "parameters_primary": {"work_mem": "5MB"},
            "parameters_replica": {"work_mem": "6MB", "shared_buffers": "48MB", "max_connections": 7}}


def _hba_ends(node: Node, line: str) -> bool:
    return (node.data_dir / "pg_hba.conf").read_text().splitlines()[-1] == line


def _has(node: Node, work_mem: str, line: str) -> None:
    wait_for(lambda: node.ask("SHOW work_mem") == work_mem and _hba_ends(node, line), 30,
             f"{node} has work_mem {work_mem} and ends pg_hba.conf with {line}")


def test_a_server_has_the_settings_of_its_role(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=2, dynamic={"postgresql": SETTINGS})
    for node in cluster.nodes:
        section = node.document["postgresql"]
        section["pg_hba_replica"] = [*section["pg_hba"], "host clerks clerk 127.0.0.0/8 reject"]
        section["parameters"].pop("shared_buffers")
    usual = cluster.nodes[0].document["postgresql"]["pg_hba"][-1]
    cluster.bootstrap()
    old = cluster.primary()
    (new,) = [node for node in cluster.nodes if node is not old]
    _has(old, "5MB", usual)
    _has(new, "6MB", "host clerks clerk 127.0.0.0/8 reject")
    assert (new.ask("SHOW shared_buffers"), new.ask("SHOW max_connections")) == ("48MB", "60")
    assert "postgresql.parameters_replica.max_connections" in new.log()

    before = new.postmaster_pid()
    answer = cluster.switchover(old, new)
    assert answer is not None and answer.status == 200, answer
    cluster.wait_healthy()
    _has(new, "5MB", usual)
    assert new.postmaster_pid() == before
    _has(old, "6MB", "host clerks clerk 127.0.0.0/8 reject")
    assert old.ask("SHOW shared_buffers") == "48MB", "it was started as a replica"
    wait_for(lambda: "shared_buffers" in new.status().get("pending_restart_reason", {}), 20, "what only a restart changes waits")
