"""pgBackRest from Debian with a repository on this machine: a standby from the backup, a new cluster up to a point in time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import Cluster, Node, wait_for
from harness.agents import POSTGRES_USER
from harness.archive import archived, as_postgres, killed_in_the_middle, marker_rows

pytestmark = pytest.mark.skipif(shutil.which("pgbackrest") is None, reason="needs pgbackrest")


@dataclass
class Repository:
    """A repository with one backup of the cluster's primary, its archive, and the place in it where the marker lies."""

    config: Path
    cluster: Cluster
    primary: Node

    def standby(self, name: str, **section: str) -> Node:
        """A further node that is made by pgBackRest and has the archive at hand."""
        node = self.cluster.add_node(name)
        fetch = f'pgbackrest --config={self.config} --stanza=demo --pg1-path={node.data_dir} archive-get %f "%p"'
        node.document["postgresql"] |= {
            "create_replica_methods": ["pgbackrest"], "recovery_conf": {"restore_command": fetch},
            "pgbackrest": {"stanza": "demo", "config": str(self.config), **section}}
        return node


@pytest.fixture(scope="module")
def repository(make_shared_cluster: Callable[..., Cluster]) -> Iterator[Repository]:
    """A cluster of one node that archives; rows ``before`` and ``after`` around the restore point ``here``."""
    cluster = make_shared_cluster(size=1)
    config = cluster.directory / "pgbackrest.conf"
    push = f"pgbackrest --config={config} --stanza=demo archive-push %p"
    (primary,) = cluster.nodes
    primary.document["bootstrap"]["dcs"]["postgresql"]["parameters"] |= {"archive_mode": "on", "archive_command": push}
    for name in ("repo", "log", "spool", "lock"):
        (cluster.directory / name).mkdir()
        shutil.chown(cluster.directory / name, POSTGRES_USER)
    config.write_text(f"[global]\nrepo1-path={cluster.directory}/repo\nlog-path={cluster.directory}/log\n"
                      f"spool-path={cluster.directory}/spool\nlock-path={cluster.directory}/lock\nstart-fast=y\ncompress-type=none\n"
                      f"[demo]\npg1-path={primary.data_dir}\npg1-port={primary.pg_port}\npg1-socket-path={primary.directory}\n"
                      f"pg1-user=postgres\n")
    config.chmod(0o644)
    cluster.start_store()
    primary.start()
    cluster.wait_healthy()
    as_postgres("pgbackrest", f"--config={config}", "--stanza=demo", "stanza-create")
    as_postgres("pgbackrest", f"--config={config}", "--stanza=demo", "backup")
    marker_rows(primary)
    archived(primary)
    yield Repository(config, cluster, primary)


def test_a_standby_is_made_from_the_backup_and_catches_up_from_the_archive(repository: Repository) -> None:
    standby = repository.standby("n2")
    standby.start()
    wait_for(standby.streams, 90, "the standby from the backup streams")
    assert "making a replica with method pgbackrest" in standby.log() and "basebackup" not in standby.log()
    assert "from archive" in standby.postgres_log()
    assert standby.query("SELECT word FROM marker ORDER BY word") == [("after",), ("before",)]


def test_a_killed_agent_begins_the_restore_again(repository: Repository) -> None:
    killed_in_the_middle(repository.standby("n3"), "pgbackrest")


def test_the_next_method_takes_over_and_the_log_names_the_tool(repository: Repository) -> None:
    standby = repository.standby("n4", stanza="nobody")
    standby.document["postgresql"]["create_replica_methods"].append("basebackup")
    standby.start()
    wait_for(standby.streams, 90, "the standby from pg_basebackup streams")
    (line,) = [line for line in standby.log().splitlines() if "replica method pgbackrest failed" in line]
    assert "pgbackrest exited with" in line and "nobody" in line


def test_a_new_cluster_is_restored_to_a_point_in_time(repository: Repository, make_cluster: Callable[..., Cluster]) -> None:
    restored = make_cluster(size=2, scope="restored", beside=repository.cluster)
    first, second = restored.nodes
    first.document["bootstrap"] |= {"method": "pgbackrest", "pgbackrest": {
        "stanza": "demo", "config": str(repository.config), "target_name": "here"}}
    first.document["bootstrap"]["dcs"]["postgresql"]["parameters"]["archive_mode"] = "off"
    first.start()
    assert restored.primary() is first
    assert first.query("SELECT word FROM marker") == [("before",)]
    assert first.timeline() == 2
    assert first.query("SELECT name FROM pg_settings WHERE name = 'recovery_target_name' AND setting <> ''") == []
    second.start()
    restored.wait_healthy()
    first.query("INSERT INTO marker VALUES ('new')")
    wait_for(lambda: second.query("SELECT count(*) FROM marker") == [(2,)], 30, "the second node follows")
    assert repository.primary.query("SELECT count(*) FROM marker") == [(2,)]


def test_a_target_that_cannot_be_reached_makes_no_cluster(repository: Repository, make_cluster: Callable[..., Cluster]) -> None:
    restored = make_cluster(size=1, scope="unreachable", beside=repository.cluster)
    (node,) = restored.nodes
    node.document["bootstrap"] |= {"method": "pgbackrest", "pgbackrest": {
        "stanza": "demo", "config": str(repository.config), "target_name": "nowhere"}}
    node.start()
    assert node.wait_ended(90) == 1
    assert "the bootstrap failed" in node.log()
    assert not node.data_dir.exists()


def test_a_standby_cluster_is_made_from_the_backup(repository: Repository, make_cluster: Callable[..., Cluster]) -> None:
    primary = repository.primary
    site = make_cluster(size=1, scope="site2", beside=repository.cluster, dynamic={
        "standby_cluster": {"host": primary.host, "port": primary.pg_port, "create_replica_methods": ["pgbackrest"]}})
    (node,) = site.nodes
    node.document["postgresql"]["pgbackrest"] = {"stanza": "demo", "config": str(repository.config)}
    node.start()
    wait_for(node.streams, 90, "the standby cluster streams")
    assert "making a replica with method pgbackrest" in node.log() and "method basebackup" not in node.log()
    wait_for(lambda: node.status_of("/standby-leader") == 200, 30, "it leads the standby cluster")
