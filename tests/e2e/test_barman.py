"""Barman from Debian with its backups on this machine: a standby from the backup, a new cluster up to a point in time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import Cluster, Node, wait_for
from harness.agents import POSTGRES_USER
from harness.archive import archived, as_postgres, killed_in_the_middle, marker_rows
from harness.configuration import BIN_DIR, REPLICATION_PASSWORD, SUPERUSER_PASSWORD

pytestmark = pytest.mark.skipif(shutil.which("barman") is None, reason="needs barman")


@dataclass
class Barman:
    """Barman's configuration, with one backup of the cluster's primary and its archive."""

    config: Path
    cluster: Cluster
    primary: Node

    def run(self, *words: str) -> str:
        """One command of Barman, as the user it belongs to."""
        return as_postgres("barman", "-c", str(self.config), *words, HOME=str(self.cluster.directory))

    def standby(self, name: str, **section: str) -> Node:
        """A further node that is made by Barman and has the archive at hand."""
        node = self.cluster.add_node(name)
        node.document["postgresql"] |= {
            "create_replica_methods": ["barman"], "barman": {"server": "main", "config": str(self.config), **section},
            "recovery_conf": {"restore_command": f'barman -c {self.config} get-wal main %f > "%p"'}}
        return node


@pytest.fixture(scope="module")
def backups(make_shared_cluster: Callable[..., Cluster]) -> Iterator[Barman]:
    """A cluster of one node that archives; rows ``before`` and ``after`` around the restore point ``here``."""
    cluster = make_shared_cluster(size=1)
    config, home = cluster.directory / "barman.conf", cluster.directory / "barman"
    incoming = home / "main" / "incoming"
    (primary,) = cluster.nodes
    primary.document["bootstrap"]["dcs"]["postgresql"]["parameters"] |= {
        "archive_mode": "on", "archive_command": f"test ! -f {incoming}/%f && cp %p {incoming}/%f"}
    incoming.mkdir(parents=True)
    for directory in (home, home / "main", incoming):
        shutil.chown(directory, POSTGRES_USER)
    where = f"host={primary.host} port={primary.pg_port} dbname=postgres"
    config.write_text(f"[barman]\nbarman_user = {POSTGRES_USER}\nbarman_home = {home}\nlog_file = {home}/barman.log\n"
                      f"configuration_files_directory = {home}\npath_prefix = {BIN_DIR}\n"
                      f"[main]\ndescription = test\nbackup_method = postgres\narchiver = on\nimmediate_checkpoint = true\n"
                      f"conninfo = {where} user=postgres password={SUPERUSER_PASSWORD}\n"
                      f"streaming_conninfo = {where} user=replicator password={REPLICATION_PASSWORD}\n")
    cluster.start_store()
    primary.start()
    cluster.wait_healthy()
    barman = Barman(config, cluster, primary)
    archived(primary)
    barman.run("archive-wal", "main")
    barman.run("backup", "main")
    marker_rows(primary)
    archived(primary)
    barman.run("archive-wal", "main")
    yield barman


def test_a_standby_is_made_from_the_backup_and_catches_up_from_the_archive(backups: Barman) -> None:
    standby = backups.standby("n2")
    standby.start()
    wait_for(standby.streams, 90, "the standby from the backup streams")
    assert "making a replica with method barman" in standby.log() and "basebackup" not in standby.log()
    assert "from archive" in standby.postgres_log()
    assert standby.query("SELECT word FROM marker ORDER BY word") == [("after",), ("before",)]


def test_a_killed_agent_begins_the_restore_again(backups: Barman) -> None:
    killed_in_the_middle(backups.standby("n4"), "barman")


def test_the_next_method_takes_over_and_the_log_names_the_tool(backups: Barman) -> None:
    standby = backups.standby("n3", server="nobody")
    standby.document["postgresql"]["create_replica_methods"].append("basebackup")
    standby.start()
    wait_for(standby.streams, 90, "the standby from pg_basebackup streams")
    (line,) = [line for line in standby.log().splitlines() if "replica method barman failed" in line]
    assert "barman exited with" in line and "nobody" in line


def test_a_new_cluster_is_restored_to_a_point_in_time(backups: Barman, make_cluster: Callable[..., Cluster]) -> None:
    restored = make_cluster(size=1, scope="restored", beside=backups.cluster)
    (node,) = restored.nodes
    node.document["bootstrap"] |= {"method": "barman", "barman": {
        "server": "main", "config": str(backups.config), "target_name": "here"}}
    node.start()
    assert restored.primary() is node
    assert node.query("SELECT word FROM marker") == [("before",)]
    assert node.timeline() == 2
    node.query("INSERT INTO marker VALUES ('new')")
    assert backups.primary.query("SELECT count(*) FROM marker") == [(2,)]
