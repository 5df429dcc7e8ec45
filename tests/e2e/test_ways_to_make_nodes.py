"""Replicas and clusters by other ways than a plain pg_basebackup and initdb, and what happens when a source or a tool fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, wait_for
from harness.agents import POSTGRES_USER
from harness.configuration import BIN_DIR, REPLICATION_PASSWORD, SUPERUSER_PASSWORD
from harness.node import Node
from harness.processes import alive, send

TIME_S = 90.0


@pytest.fixture(scope="module")
def main(make_shared_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    """One primary with something to copy, and a backup of it with an archive."""
    cluster = make_shared_cluster(size=1)
    archive = owned(cluster.directory / "archive")
    cluster.nodes[0].document["postgresql"]["parameters"] |= {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    cluster.bootstrap()
    primary = cluster.primary()
    primary.query("CREATE TABLE ballast AS SELECT repeat('x', 7000) || n AS t FROM generate_series(1, 2500) n")
    backup = owned(cluster.directory / "backup")
    as_postgres(f"{BIN_DIR}/pg_basebackup", "-D", str(backup), "-c", "fast", "-d", source(primary), password=REPLICATION_PASSWORD)
    primary.query("CREATE TABLE mark AS SELECT 'before' AS word")
    primary.query("SELECT pg_create_restore_point('wanted')")
    primary.query("INSERT INTO mark VALUES ('after')")
    primary.query("SELECT pg_switch_wal()")
    wait_for(lambda: len(os.listdir(archive)) >= 3, TIME_S, "the WAL is archived")
    yield cluster


def owned(place: Path) -> Path:
    """A directory of the account that PostgreSQL runs as."""
    place.mkdir(mode=0o700)
    shutil.chown(place, POSTGRES_USER, POSTGRES_USER)
    return place


def as_postgres(*argv: str, password: str = "") -> None:
    """Run a program as that account."""
    environment = {**os.environ, "PGPASSWORD": password}
    subprocess.run(["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--init-groups", *argv],
                   check=True, env=environment, cwd="/", capture_output=True)


def source(node: Node) -> str:
    return f"host={node.host} port={node.pg_port} user=replicator"


def script(path: Path, body: str) -> str:
    """A program that the agent can run as another user."""
    path.write_text("#!/bin/bash\n" + body)
    path.chmod(0o755)
    return str(path)


def test_methods_are_tried_in_order_and_each_failure_is_named(main: Cluster) -> None:
    """(EC 180) Missing, failing, empty-handed, and then pg_basebackup; each begins in an empty directory."""
    node = main.add_node("order")
    node.write_file()
    tried = node.directory / "tried"
    half = f"""data=$(printf '%s\\n' "$@" | sed -n 's/^--datadir=//p')
    echo "$(basename $0): $(ls -A $data) $*" >>{tried}; touch $data/half
    """
    failing = script(node.directory / "failing", f"{half} echo no such stanza; exit 28")
    idle = script(node.directory / "idle", f"{half} rm $data/half; exit 0")
    node.document["postgresql"] |= {
        "create_replica_methods": ["absent", "failing", "idle", "basebackup"], "absent": {"command": "/nowhere/restore"},
        "failing": {"command": f"{failing} 'two words'", "stanza": "demo"}, "idle": {"command": idle, "no_leader": 1}}
    node.start()
    wait_for(node.streams, TIME_S, "the last method has made a replica")
    log = node.log()
    assert "replica method absent failed: /nowhere/restore could not be started" in log
    assert f"replica method failing failed: {failing} exited with 28: no such stanza" in log
    assert "replica method idle failed: it ended without an error but left no cluster" in log
    first, second = tried.read_text().splitlines()
    assert first.startswith("failing:  two words --stanza=demo --scope=demo --role=replica --datadir=")
    assert second.startswith("idle:  --no_leader=1 --scope=demo") and REPLICATION_PASSWORD not in first + second
    assert node.stop() == 0


def test_a_source_that_dies_in_the_middle_costs_an_attempt(main: Cluster) -> None:
    """Its share, rate and source are seen everywhere while it goes on."""
    primary, node = main.primary(), main.add_node("twice")
    node.document["postgresql"]["basebackup"] = [{"max-rate": "8M"}, "attempts=5", {"attempt-pause": "0.5"}]
    node.start()

    def copying() -> dict[str, Any] | None:
        task = node.status().get("pgcore", {}).get("task", {})
        return task if task.get("bytes_per_second") else None

    task = wait_for(copying, TIME_S, "the copy goes on")
    assert 0 < task["percent"] < 100 and task["source"] == primary.name and task["seconds_left"] > 0
    metrics = node.request("GET", "/metrics")
    assert metrics is not None and "pgcore_task_bytes_per_second{" in metrics.text
    assert main.etcd is not None
    etcd, key = main.etcd, main.key("members/twice")
    card = wait_for(lambda: (found := json.loads(etcd.get(key) or "{}")).get("progress", {}).get("percent") and found, TIME_S,
                    "the card shows it")
    assert card["state"] == "creating replica" and card["progress"]["source"] == primary.name
    postmaster = primary.postmaster_pid()
    primary.kill_postmaster()
    wait_for(node.streams, TIME_S, "the next attempt has made a replica")
    assert primary.postmaster_pid() not in (None, postmaster)
    assert "the next begins in 0.5 s" in node.log() and "pg_basebackup exited with 1" in node.log()
    assert node.stop() == 0


@pytest.mark.parametrize("keeps", [False, True])
def test_a_cluster_from_a_backup_up_to_a_marker(main: Cluster, make_cluster: Callable[..., Cluster], keeps: bool) -> None:
    """recovery_conf of the section, or what the tool left: recovered up to the restore point, with the users of the node file."""
    settings = {"restore_command": f"cp {main.directory}/archive/%f %p", "recovery_target_name": "wanted",
                "recovery_target_action": "promote"}
    body = f"""
    for word in "$@"; do case $word in --datadir=*) data=${{word#*=}};; --scope=pitr*) s=1;; --label=x) l=1;; *) exit; esac; done
    [ "$s$l" = 11 ] && cp -a {main.directory}/backup/. $data/ || exit 8
    """
    if keeps:
        body += "touch $data/recovery.signal\n" + "".join(
            f"echo \"{name} = '{value}'\" >>$data/postgresql.auto.conf\n" for name, value in settings.items())
    cluster = make_cluster(size=1, scope=f"pitr{int(keeps)}", beside=main)
    node = cluster.nodes[0]
    tool = script(cluster.directory / "restore", body)
    told = owned(cluster.directory / "told") / "post"
    post = script(cluster.directory / "post", f'echo "$1" >{told}; exec {BIN_DIR}/psql "$1" -c "CREATE ROLE app"')
    extra = {"keep_existing_recovery_conf": True} if keeps else {"recovery_conf": settings}
    node.document["bootstrap"] |= {"method": "restore", "restore": {"command": tool, "label": "x", **extra}, "post_init": post}
    node.start()
    assert cluster.primary(TIME_S) is node
    assert node.query("SELECT word FROM mark") == [("before",)] and (node.timeline() or 0) >= 2
    assert node.ask("SELECT count(*) FROM pg_roles WHERE rolname IN ('app', 'replicator', 'rewinder')") == 3
    assert "password" not in told.read_text()
    assert node.ask("SELECT current_setting('recovery_target_name')") == "" and not list(node.data_dir.glob("*.signal"))
    assert not Path(f"{node.data_dir}.unfinished").exists()


def test_a_standby_cluster_from_a_backup(main: Cluster, make_cluster: Callable[..., Cluster]) -> None:
    """Its own list of methods counts, not the node's; it catches up from the remote."""
    primary = main.primary()
    tool = script(main.directory / "from_backup", f"""
    data=$(printf '%s\\n' "$@" | sed -n 's/^--datadir=//p'); exec cp -a {main.directory}/backup/. $data/""")
    section = {"host": primary.host, "port": primary.pg_port, "create_replica_methods": ["from_backup"],
               "restore_command": f"cp {main.directory}/archive/%f %p"}
    cluster = make_cluster(size=1, scope="west", beside=main, dynamic={"standby_cluster": section}, names=["w1"])
    node = cluster.nodes[0]
    node.document["postgresql"] |= {"create_replica_methods": ["false"], "from_backup": {"command": tool, "no_leader": 1}}
    node.start()
    wait_for(lambda: node.status().get("role") == "standby_leader" and node.streams(), TIME_S, "the standby leader streams")
    assert node.query("SELECT word FROM mark ORDER BY word") == [("after",), ("before",)]
    assert node.system_identifier() == primary.system_identifier()


def test_a_running_server_is_adopted_without_a_restart(main: Cluster, make_cluster: Callable[..., Cluster]) -> None:
    """(EC 175) The store knows nothing of it; its postmaster stays the same, and it is the primary."""
    cluster = make_cluster(size=1, scope="adopted", beside=main)
    node = cluster.nodes[0]
    node.write_file()
    secret = node.directory / "password"
    secret.write_text(SUPERUSER_PASSWORD)
    as_postgres(f"{BIN_DIR}/initdb", "-D", str(node.data_dir), "-U", "postgres", "-A", "scram-sha-256", "-N",
                f"--pwfile={secret}")
    with open(node.data_dir / "postgresql.conf", "a") as file:
        file.write(f"port = {node.pg_port}\nlisten_addresses = '{node.host}'\nunix_socket_directories = '{node.directory}'\n")
    as_postgres(f"{BIN_DIR}/pg_ctl", "start", "-w", "-D", str(node.data_dir), "-l", str(node.directory / "own.log"))
    pid = node.postmaster_pid()
    assert pid is not None
    try:
        node.start()
        wait_for(lambda: node.status_of("/primary") == 200, TIME_S, "the adopted server is the primary")
        assert node.postmaster_pid() == pid and alive(pid)
        assert main.etcd is not None
        assert main.etcd.get("/service/adopted/initialize") == str(node.system_identifier())
        assert main.etcd.get("/service/adopted/leader") == node.name
        assert node.stop() == 0
    finally:
        if alive(pid):
            send(pid, signal.SIGQUIT)


def test_a_full_disk_is_named_and_the_copy_succeeds_once_there_is_room(main: Cluster) -> None:
    """What the failed attempts wrote is gone, or there would be less room each time."""
    node = main.add_node("full")
    node.write_file()
    disk = owned(node.directory / "disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=True)
    try:
        shutil.chown(disk, POSTGRES_USER, POSTGRES_USER)
        node.document["postgresql"] |= {"data_dir": str(disk / "data"), "basebackup": {"attempts": 1}}
        node.start()
        wait_for(lambda: node.log().count("No space left on device") >= 2, TIME_S, "two copies have failed for want of room")
        subprocess.run(["mount", "-o", "remount,size=512m", str(disk)], check=True)
        wait_for(node.streams, TIME_S, "there is room")
        assert node.stop() == 0
    finally:
        node.kill_everything()
        subprocess.run(["umount", str(disk)], check=True)


def test_the_lease_of_the_primary_is_renewed_on_time_while_it_is_copied(tmp_path: Path) -> None:
    """The benchmark of a clone in small; what it says of a large one stands in docs/benchmarks.md."""
    program = Path(__file__).parents[2] / "benchmarks" / "clone.py"
    subprocess.run([sys.executable, str(program), "--megabytes", "100", "--rounds", "1", "--json", str(tmp_path / "report")],
                   check=True, timeout=4 * TIME_S, capture_output=True)
    report = json.loads((tmp_path / "report").read_text())
    assert report["bytes"] > 100 << 20 and len(report["pgcore"]) == len(report["hand"]) == 1
    assert report["least_left_s"] > 0, "the lease ran out while the primary was copied"
    assert report["longest_gap_s"] < 10, "a renewal came later than the lease lasts"
