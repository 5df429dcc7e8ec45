"""The commands that act, on one real cluster: their good way, what they refuse, what they show, and that they tell the truth."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness import Cluster, Gap, Node, free_port, wait_for
from harness.configuration import REST_PASSWORD

FILLER_MB = 90
MAX_RATE_MB = 24
EARLY_S, LATE_S = 0.5, 4.0
"""How far the gap that is told may be from a writer's: more, as a client may be served before a promotion is confirmed on a busy
machine; less, as a client must also find the new primary and connect."""
LATER = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0).isoformat()


@pytest.fixture(scope="module")
def actions(make_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes; copies are slowed down, and stops as long as a file says so."""
    cluster = make_shared_cluster(size=3)
    script = cluster.directory / "before-stop.sh"
    script.write_text(f"#!/bin/sh\n[ ! -e {cluster.directory}/slow ] || sleep 4\n")
    script.chmod(0o755)
    for node in cluster.nodes:
        node.document["postgresql"] |= {"before_stop": str(script), "basebackup": [{"checkpoint": "fast"},
                                                                                 {"max-rate": f"{MAX_RATE_MB}M"}]}
    return cluster.bootstrap()


@pytest.fixture
def cluster(actions: Cluster) -> Cluster:
    """All of it well."""
    (actions.directory / "slow").unlink(missing_ok=True)
    actions.repair()
    return actions


def command(cluster: Cluster, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pgcore", "-c", str(cluster.nodes[0].node_file), *arguments]


def ctl(cluster: Cluster, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(cluster, *arguments), capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def told_gap(shown: str) -> float:
    found = re.search(r"Write gap: (\d+\.\d+) s \(± 0\.\d+ s\)", shown)
    assert found, shown
    return float(found[1])


def plausible(told: float, seen: Gap) -> None:
    assert told > 0.0 and -LATE_S < told - seen.seconds < EARLY_S, f"told {told} s, a writer waited for {seen}"


def untouched(cluster: Cluster) -> tuple[object, ...]:
    """What a dry run must leave as it is."""
    assert cluster.etcd is not None
    nodes = [(node.postmaster_pid(), node.timeline(), node.system_identifier()) for node in cluster.nodes]
    return cluster.etcd.get(cluster.leader_key()), *(cluster.etcd.revisions(cluster.key(name)) for name in (
        "failover", "config", "sync", "history")), nodes


def test_a_switchover_tells_its_phases_and_the_gap_a_writer_sees(
    cluster: Cluster, measured: Callable[[str, Gap | float], None]
) -> None:
    old = cluster.primary()
    chosen = cluster.others(old)[0]
    with cluster.writer() as writer:
        before = time.monotonic()
        done = ctl(cluster, "switchover", "--leader", old.name, "--candidate", chosen.name, "--force")
        writer.wait_resumed(before, 30)
        report = writer.stop()
    assert f'Successfully switched over to "{chosen.name}"' in done.stdout and "Write gap" not in done.stdout
    assert f"{chosen.name} leads {cluster.scope} on timeline " in done.stderr
    for what in (f"{old.name}: checkpoint, ", f"{old.name}: stop: stopping, ", f"{chosen.name}: promote"):
        assert what in done.stderr, done.stderr
    gap = report.longest_gap(before)
    plausible(told_gap(done.stderr), gap)
    measured("write gap of a switchover, as told", told_gap(done.stderr))
    measured("write gap of a switchover, as a writer saw it", gap)
    cluster.wait_healthy()
    assert report.missing(cluster.present()) == []


def test_a_restart_of_the_primary_tells_its_gap_and_one_of_a_standby_none(cluster: Cluster) -> None:
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    pids = primary.postmaster_pid(), standby.postmaster_pid()
    with cluster.writer() as writer:
        before = time.monotonic()
        done = ctl(cluster, "restart", cluster.scope, primary.name, "--timeout", "60s", "--force")
        writer.wait_resumed(before, 30)
        report = writer.stop()
    assert done.stdout.endswith(f"Success: restart on member {primary.name}\n")
    assert all(f"{primary.name}: restart: {phase}, " in done.stderr for phase in ("stopping", "starting")), done.stderr
    plausible(told_gap(done.stderr), report.longest_gap(before))
    done = ctl(cluster, "restart", cluster.scope, "-r", "replica", standby.name, "--force")
    assert f"Write gap: none, {primary.name} accepted writes all the time" in done.stderr
    new = primary.postmaster_pid(), standby.postmaster_pid()
    assert None not in new and not set(pids) & set(new)
    assert cluster.primary() is primary


def test_a_new_copy_is_seen_growing(cluster: Cluster) -> None:
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    filler = primary.data_dir / "filler"
    with open(filler, "wb") as file:
        for _ in range(FILLER_MB):
            file.write(b"\1" * 1024 * 1024)
    filler.chmod(0o644)
    try:
        done = ctl(cluster, "reinit", cluster.scope, standby.name, "--from-leader", "--wait", "--force")
    finally:
        filler.unlink()
        (standby.data_dir / "filler").unlink(missing_ok=True)
    name = standby.name
    assert done.stdout.endswith(f"Success: reinitialize for member {name}\nReinitialize is completed on: {name}\n")
    line = r": reinitialize: basebackup  (\d+)%, (\d+) of (\d+) MB(?:, ([\d.]+) MB/s, \d+ s left)?"
    seen = re.findall(name + line, done.stderr)
    percents = [int(percent) for percent, *_ in seen]
    assert len(set(percents)) >= 3 and percents == sorted(percents), done.stderr
    assert all(int(total) >= FILLER_MB for _, _, total, _ in seen)
    rates = [float(rate) for *_, rate in seen if rate]
    assert rates and all(1 < rate < 2 * MAX_RATE_MB for rate in rates), done.stderr
    assert f"{name} runs again; " in done.stderr and "Write gap: none, " in done.stderr
    cluster.wait_healthy()


def test_dry_runs_change_nothing_and_foretell_what_happens(cluster: Cluster) -> None:
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    cluster.wait_aware()
    before = untouched(cluster)
    foretold = ctl(cluster, "switchover", "--dry-run").stdout
    assert f"{standby.name} would lead" in ctl(cluster, "failover", "--candidate", standby.name, "--dry-run").stdout
    assert "PostgreSQL would be restarted" in ctl(cluster, "restart", cluster.scope, "--dry-run").stdout
    copy = ctl(cluster, "reinit", cluster.scope, standby.name, "--dry-run").stdout
    assert f"would be removed and replaced by a copy of {primary.name}" in copy
    refused = ctl(cluster, "restart", cluster.scope, "--pg-version", "9.6.1", "--dry-run", code=1).stdout
    assert "it would be refused: restart conditions are not satisfied" in refused
    assert untouched(cluster) == before
    done = ctl(cluster, "switchover", "--force")
    named = re.search(r"Result: .* would lead.*", foretold)
    winner = re.search(r'Successfully switched over to "(\w+)"', done.stdout)
    assert named and winner and winner[1] in named[0]


def test_what_is_refused_ends_with_1_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    primary = cluster.primary()
    standby, other = cluster.others(primary)
    before = untouched(cluster)
    ctl(cluster, "switchover", "--candidate", primary.name, "--force", code=1)
    assert "it is not a member" in ctl(cluster, "failover", "--candidate", "n77", "--force", code=1).stderr
    assert "No 'replica'" in ctl(cluster, "reinit", cluster.scope, primary.name, "--force", code=1).stderr
    assert "is in the past" in ctl(cluster, "switchover", "--scheduled", "2001-01-01T00:00Z", "--force", code=1).stderr
    newer = ctl(cluster, "restart", cluster.scope, other.name, "--pg-version", "9.6.1", "--force", code=1).stdout
    assert f"Failed: restart for member {other.name}, status code=503, (restart conditions are not satisfied)" in newer
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(cluster.nodes[0].node_file.read_text().replace(REST_PASSWORD, "wrong"))
    done = subprocess.run([sys.executable, "-m", "pgcore", "-c", str(wrong), "switchover", "--force"], capture_output=True,
                          text=True, check=False, timeout=60)
    assert done.returncode == 1 and "details: 401, not authenticated; set ctl.authentication" in done.stdout
    assert untouched(cluster) == before
    standby.stop()
    gone = ctl(cluster, "restart", cluster.scope, standby.name, "--force", code=1).stdout
    assert f"Failed: restart for member {standby.name}, no answer: " in gone and "is its agent running?" in gone
    dry = ctl(cluster, "switchover", "--candidate", standby.name, "--dry-run", code=1).stdout
    assert "it would be refused" in dry and f"{standby.name}: its agent does not answer" in dry
    failed = ctl(cluster, "switchover", "--candidate", standby.name, "--force", code=1).stdout
    assert "Switchover failed, details: 412, " in failed


def test_an_interrupted_display_leaves_the_switchover_running(cluster: Cluster, tmp_path: Path) -> None:
    old = cluster.primary()
    chosen = cluster.others(old)[0]
    cluster.wait_aware(*cluster.others(old))
    (cluster.directory / "slow").touch()
    shown = tmp_path / "shown"
    with open(shown, "wb") as errors:
        running = subprocess.Popen(command(cluster, "switchover", "--candidate", chosen.name, "--force"), stdout=subprocess.PIPE,
                                   stderr=errors)
        try:
            wait_for(lambda: b"the request is in the store" in shown.read_bytes(), 30, "the request is in the store")
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 1
        finally:
            running.kill()
            running.communicate()
    assert "interrupted: the switchover goes on" in shown.read_text() and "Traceback" not in shown.read_text()
    wait_for(chosen.is_writable, 60, f"{chosen.name} is primary")


def test_the_request_goes_into_the_store_when_the_leaders_api_cannot_be_reached(cluster: Cluster) -> None:
    old = cluster.primary()
    published = old.document["restapi"]["connect_address"]
    publish(cluster, old, f"{old.host}:{free_port(old.host)}")
    try:
        done = ctl(cluster, "switchover", "--force")
        assert "The REST API is not reachable" in done.stderr and "writing the request into the store" in done.stderr
        new = cluster.wait_primary_other_than(old, 30)
        assert f"{new.name} leads {cluster.scope}" in done.stderr
        assert f"Write gap: not measured, the agent of {old.name} does not answer" in done.stderr
    finally:
        publish(cluster, old, published)


def publish(cluster: Cluster, node: Node, address: str) -> None:
    """Another address of its REST API on its card."""
    assert cluster.etcd is not None
    etcd = cluster.etcd
    node.document["restapi"]["connect_address"] = address
    node.write_file()
    node.request("POST", "/reload")
    wait_for(lambda: address in json.loads(etcd.get(cluster.key(f"members/{node.name}")) or "{}").get("api_url", ""), 30,
             f"{node.name} has published {address}")


def test_what_is_scheduled_is_flushed(cluster: Cluster) -> None:
    assert cluster.etcd is not None
    primary = cluster.primary()
    cluster.wait_aware()
    assert "Switchover scheduled" in ctl(cluster, "switchover", "--scheduled", LATER, "--force").stdout
    wait_for(lambda: "scheduled_switchover" in json.loads(primary.request("GET", "/cluster").text), 30, "it is known")  # type: ignore[union-attr]
    assert ctl(cluster, "flush", cluster.scope, "switchover").stdout == "Success: scheduled switchover deleted\n"
    assert "leader" not in (cluster.etcd.get(cluster.key("failover")) or "")
    assert ctl(cluster, "flush", cluster.scope, "switchover").stdout == "No pending scheduled switchover\n"
    told = ctl(cluster, "restart", cluster.scope, primary.name, "--scheduled", LATER, "--force").stdout
    assert told.endswith(f"Success: restart scheduled on member {primary.name}\n")
    wait_for(lambda: "scheduled_restart" in (cluster.etcd.get(cluster.key(f"members/{primary.name}")) or ""), 15,  # type: ignore[union-attr]
             "it is on the card")
    again = ctl(cluster, "restart", cluster.scope, primary.name, "--scheduled", LATER, "--force")  # force replaces it
    assert "Success: restart scheduled" in again.stdout
    flushed = ctl(cluster, "flush", cluster.scope, primary.name, "-r", "leader", "restart", "--force").stdout
    assert flushed.endswith(f"Success: flush scheduled restart for member {primary.name}\n")


def test_pause_and_resume_reach_every_member(cluster: Cluster) -> None:
    assert cluster.etcd is not None
    assert "Success: cluster management is paused" in ctl(cluster, "pause", "--wait").stdout
    cards = [json.loads(cluster.etcd.get(cluster.key(f"members/{node.name}")) or "{}") for node in cluster.nodes]
    assert [card.get("pause") for card in cards] == [True, True, True]
    ctl(cluster, "pause", code=1)
    assert "maintenance mode" in ctl(cluster, "switchover", "--scheduled", LATER, "--force", code=1).stderr
    assert "only to a specific candidate in a paused state" in ctl(cluster, "switchover", "--dry-run", code=1).stdout
    assert "Success: cluster management is resumed" in ctl(cluster, "resume", "--wait").stdout
    ctl(cluster, "resume", code=1)


def test_reload_asks_every_member(cluster: Cluster) -> None:
    lines = ctl(cluster, "reload", cluster.scope, "--force").stdout.splitlines()[-3:]
    assert all(line.startswith("Reload request received for member n") for line in lines)
    assert f"within {cluster.loop_wait} seconds" in lines[0]


def test_a_cluster_is_demoted_and_promoted(cluster: Cluster) -> None:
    primary = cluster.primary()
    done = ctl(cluster, "demote-cluster", "--restore-command", "cp /nowhere/%f %p", "--force")
    assert "as standby leader" in done.stdout and not any(node.is_writable() for node in cluster.nodes)
    assert "a standby cluster already" in ctl(cluster, "demote-cluster", "--host", "x", "--force", code=1).stderr
    done = ctl(cluster, "promote-cluster", "--force")
    assert "as primary" in done.stdout and cluster.primary().is_writable()
    assert primary.system_identifier() == cluster.primary().system_identifier()
