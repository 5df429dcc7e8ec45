"""What an operator asks of one node over REST: a restart, now or at a time, and a new copy. The lock stays where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from harness import Cluster, Gap, Node
from harness.cluster import lost_commits
from harness.processes import wait_for

RESTART_GAP_S = 5.0


def started_at(node: Node) -> str:
    return str(node.ask("SELECT pg_postmaster_start_time()"))


def ask(node: Node, method: str, path: str, body: object = None) -> tuple[int, str]:
    """Code and text of an answer that may take as long as a restart."""
    answer = node.request(method, path, body, timeout_s=60)
    assert answer is not None
    return answer.status, answer.text


def test_a_restart_of_the_primary_keeps_the_lock_and_the_timeline(
    cluster: Cluster, measured: Callable[[str, Gap | float], None]
) -> None:
    primary = cluster.primary()
    timeline, since = primary.timeline(), started_at(primary)
    writer = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    assert ask(primary, "POST", "/restart", {"role": "primary", "timeout": "30s"}) == (200, "restarted successfully")
    writer.wait_resumed(time.monotonic(), 20)
    assert started_at(primary) != since
    assert primary.is_writable()
    assert lost_commits(cluster, writer) == []
    gap = writer.report().longest_gap(after_s=began)
    measured("restart of the primary: write gap", gap)
    cluster.wait_healthy()
    assert (cluster.primary(), primary.timeline()) == (primary, timeline)
    assert gap.seconds <= RESTART_GAP_S


def test_a_restart_whose_conditions_do_not_hold_is_not_done(etcd_cluster: Cluster) -> None:
    primary = etcd_cluster.primary()
    standby = etcd_cluster.others(primary)[0]
    since = started_at(standby)
    for body in ({"role": "primary"}, {"restart_pending": True}, {"postgres_version": "9.6.1"}):
        assert ask(standby, "POST", "/restart", body) == (503, "restart conditions are not satisfied")
    assert started_at(standby) == since


def test_a_scheduled_restart_runs_at_its_time(etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    standby = etcd_cluster.others(etcd_cluster.primary())[0]
    since = started_at(standby)
    moment = datetime.now(UTC) + timedelta(seconds=4)
    assert ask(standby, "POST", "/restart", {"schedule": moment.isoformat()}) == (202, "Restart scheduled")
    assert ask(standby, "POST", "/restart", {"schedule": moment.isoformat()}) == (409, "Another restart is already scheduled")
    assert standby.status()["scheduled_restart"]["schedule"] == moment.isoformat()
    wait_for(lambda: standby.ask("SELECT 1") is None or started_at(standby) not in (since, "None"), 30, "the restart began")
    late = time.time() - moment.timestamp()
    measured("scheduled restart: late by", late)
    etcd_cluster.wait_healthy()
    assert started_at(standby) != since
    assert "scheduled_restart" not in standby.status()
    assert ask(standby, "DELETE", "/restart") == (404, "no restarts are scheduled")
    assert -0.1 <= late < 5


def test_a_restart_that_fails_on_the_holder_gives_the_lock_up(etcd_cluster: Cluster) -> None:
    """Its configuration is broken: it cannot come up again, so another one leads (EC 209)."""
    old = etcd_cluster.primary()
    writer = etcd_cluster.writer().start()
    old.query("ALTER SYSTEM SET shared_preload_libraries = 'there_is_no_such_library'")
    assert ask(old, "POST", "/restart") == (503, "restart failed")
    new = etcd_cluster.wait_primary_other_than(old, 20)
    writer.wait_resumed(time.monotonic(), 20)
    auto_conf = old.data_dir / "postgresql.auto.conf"
    auto_conf.write_text("".join(line for line in auto_conf.read_text().splitlines(True) if "no_such" not in line))
    etcd_cluster.wait_healthy()
    assert etcd_cluster.primary() is new
    assert lost_commits(etcd_cluster, writer) == []


def test_a_standby_is_copied_anew_and_the_leader_is_not(etcd_cluster: Cluster) -> None:
    primary = etcd_cluster.primary()
    standby = etcd_cluster.others(primary)[0]
    (standby.data_dir / "a_leftover").write_text("from before")
    assert ask(primary, "POST", "/reinitialize", {"force": True}) == (503, "I am the leader, can not reinitialize")
    assert ask(standby, "POST", "/reinitialize", {"from_leader": True}) == (200, "reinitialize started")
    status, text = ask(standby, "POST", "/reinitialize")
    assert (status, text.endswith(" already in progress")) == (503, True)
    wait_for(lambda: not (standby.data_dir / "a_leftover").exists(), 20, "the old data directory is gone")
    etcd_cluster.wait_healthy()
    assert etcd_cluster.primary() is primary


def test_a_reload_reaches_the_server_also_when_only_its_own_files_changed(etcd_cluster: Cluster) -> None:
    """As SIGHUP to the agent: an operator who changed an included file or a certificate expects it in force (HA rules 24.4)."""
    standby = etcd_cluster.others(etcd_cluster.primary())[0]
    with open(standby.data_dir / "postgresql.auto.conf", "a") as file:
        file.write("work_mem = '11MB'\n")
    time.sleep(etcd_cluster.loop_wait + 1)
    assert standby.ask("SHOW work_mem") != "11MB"
    assert ask(standby, "POST", "/reload") == (202, "reload scheduled")
    wait_for(lambda: standby.ask("SHOW work_mem") == "11MB", 30, "the server has read its file")
    auto_conf = standby.data_dir / "postgresql.auto.conf"
    auto_conf.write_text("".join(line for line in auto_conf.read_text().splitlines(True) if "11MB" not in line))


def test_an_agent_that_comes_back_puts_its_changed_file_in_force_without_a_restart(etcd_cluster: Cluster) -> None:
    """It attaches to the running server (EC 231); a managed pg_hba.conf is rewritten."""
    for node in (etcd_cluster.primary(), etcd_cluster.others(etcd_cluster.primary())[0]):
        pid, before = node.postmaster_pid(), node.document
        node.kill_agent()
        parameters = {**before["postgresql"]["parameters"], "work_mem": "9MB"}
        hba = [*before["postgresql"]["pg_hba"], "host nobody all 10.9.8.7/32 reject"]
        node.document = {**before, "postgresql": {**before["postgresql"], "parameters": parameters, "pg_hba": hba}}
        node.start()
        wait_for(lambda node=node: node.ask("SHOW work_mem") == "9MB", 20, f"{node.name} has the new setting")  # type: ignore[misc]
        assert "10.9.8.7" in (node.data_dir / "pg_hba.conf").read_text()
        assert node.postmaster_pid() == pid
        node.document = before
        etcd_cluster.wait_healthy()
