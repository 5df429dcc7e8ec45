"""WAL-E 1.1.1 against moto's S3: a standby from the backup, and a new cluster up to a point in time.

PostgreSQL 15 has no exclusive backups, which WAL-E needs online: the backup is taken while the server is down. With PostgreSQL
13 it is taken while the server runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import Cluster, Node, wait_for
from harness.archive import archived, as_postgres, killed_in_the_middle, marker_rows
from harness.configuration import BIN_DIR
from harness.predecessor import default_cache
from harness.wale import bucket, install, write_envdir

pytestmark = [pytest.mark.skipif(shutil.which("lzop") is None or shutil.which("pv") is None, reason="needs lzop and pv"),
              pytest.mark.skipif(sys.version_info >= (3, 12), reason="WAL-E's S3 library needs Python 3.11")]


@dataclass
class WalE:
    """The programs, the directory of variables, and the cluster whose backup lies in the bucket."""

    programs: Path
    envdir: Path
    cluster: Cluster
    primary: Node
    bin_dir: Path

    def command(self, words: str) -> str:
        """A command line that needs no PATH of its own."""
        path = f"PATH={self.programs}:{self.bin_dir}:/usr/bin:/bin"
        return f"env {path} {self.programs}/envdir {self.envdir} {self.programs}/wal-e {words}"

    def section(self, **more: object) -> dict[str, object]:
        """The keys that say where everything is."""
        return {"envdir": str(self.envdir), "envdir_program": f"{self.programs}/envdir",
                "program": f"env PATH={self.programs}:{self.bin_dir}:/usr/bin:/bin {self.programs}/wal-e", **more}

    def standby(self, name: str, methods: list[str], **more: object) -> Node:
        """A further node with the archive at hand."""
        node = self.cluster.add_node(name)
        node.document["postgresql"] |= {
            "bin_dir": str(self.bin_dir), "create_replica_methods": methods, "wal_e": self.section(**more),
            "recovery_conf": {"restore_command": self.command('wal-fetch "%f" "%p"')}}
        return node


@pytest.fixture(scope="module", params=["15, offline", "13, online"])
def wale(request: pytest.FixtureRequest, make_shared_cluster: Callable[..., Cluster]) -> Iterator[WalE]:
    """A cluster of one node that archives, a backup of it; rows ``before`` and ``after`` around the restore point ``here``."""
    try:
        programs = install()
    except (subprocess.CalledProcessError, SystemExit) as error:
        pytest.skip(f"WAL-E is not to be had: {error}")
    online = request.param == "13, online"
    old = default_cache() / "postgresql-13" / "usr" / "lib"
    if online and not (old / "postgresql").exists():
        pytest.skip("PostgreSQL 13 is not to be had")
    with bucket() as endpoint, pytest.MonkeyPatch.context() as environment:
        if online:
            environment.setenv("LD_LIBRARY_PATH", str(old / f"{os.uname().machine}-linux-gnu"))
        cluster = make_shared_cluster(size=1)
        (primary,) = cluster.nodes
        tool = WalE(programs, write_envdir(cluster.directory / "env", endpoint), cluster, primary,
                    old / "postgresql" / "13" / "bin" if online else BIN_DIR)
        primary.document["postgresql"]["bin_dir"] = str(tool.bin_dir)
        primary.document["bootstrap"]["initdb"].append({"auth-host": "scram-sha-256"})  # 13 would store MD5, which hba refuses
        primary.document["bootstrap"]["dcs"]["postgresql"]["parameters"] |= {
            "archive_mode": "on", "archive_command": tool.command('wal-push "%p"')}
        cluster.start_store()
        primary.start()
        cluster.wait_healthy()
        archived(primary)
        if online:
            server = {"PGHOST": str(primary.directory), "PGPORT": str(primary.pg_port), "PGUSER": "postgres"}
            as_postgres("sh", "-c", tool.command(f"backup-push {primary.data_dir}"), **server)
        else:
            primary.stop()
            as_postgres("sh", "-c", tool.command(f"backup-push --while-offline {primary.data_dir}"))
            primary.start()
            cluster.wait_healthy()
        marker_rows(primary)
        archived(primary)
        yield tool


def test_a_standby_is_made_from_the_backup_and_catches_up_from_the_archive(wale: WalE) -> None:
    standby = wale.standby("n2", ["wal_e"], threshold_backup_size_percentage=1000)
    standby.start()
    wait_for(standby.streams, 120, "the standby from the backup streams")
    assert "making a replica with method wal_e" in standby.log() and "method basebackup" not in standby.log()
    assert "from archive" in standby.postgres_log()
    assert standby.query("SELECT word FROM marker ORDER BY word") == [("after",), ("before",)]


def test_a_killed_agent_begins_the_restore_again(wale: WalE) -> None:
    if wale.bin_dir != BIN_DIR:
        pytest.skip("shown with the other PostgreSQL")
    standby = wale.standby("n4", ["wal_e"], threshold_backup_size_percentage=1000)
    killed_in_the_middle(standby, f"{wale.programs}/envdir", "envdir_program")


def test_a_fresh_copy_is_made_when_it_is_cheaper_or_there_is_no_backup(wale: WalE) -> None:
    """WAL-E tells no usable position of a backup taken offline, so there it is tried with a place that has none."""
    online = wale.bin_dir != BIN_DIR
    empty = shutil.copytree(wale.envdir, wale.envdir.with_name("empty"))
    (empty / "WALE_S3_PREFIX").write_text("s3://backups/empty")
    standby = wale.standby("n3", ["wal_e", "basebackup"], envdir=str(wale.envdir if online else empty), threshold_megabytes=0)
    standby.start()
    wait_for(standby.streams, 120, "the standby from pg_basebackup streams")
    (line,) = [line for line in standby.log().splitlines() if "replica method wal_e failed" in line]
    assert ("MB of WAL were written since the backup" if online else "backup") in line
    assert "making a replica with method basebackup" in standby.log()


def test_a_new_cluster_is_restored_to_a_point_in_time(wale: WalE, make_cluster: Callable[..., Cluster]) -> None:
    restored = make_cluster(size=1, scope="restored", beside=wale.cluster)
    (node,) = restored.nodes
    node.document["postgresql"]["bin_dir"] = str(wale.bin_dir)
    node.document["bootstrap"] |= {"method": "wal_e", "wal_e": wale.section(target_name="here")}
    node.start()
    assert restored.primary(120) is node
    assert node.query("SELECT word FROM marker") == [("before",)]
    node.query("INSERT INTO marker VALUES ('new')")
    assert wale.primary.query("SELECT count(*) FROM marker") == [(2,)]
