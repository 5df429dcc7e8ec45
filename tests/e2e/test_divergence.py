"""An old primary comes back with WAL that the new one never got: rewound, copied anew if that is allowed, else kept."""

from __future__ import annotations

from collections.abc import Callable

from harness import Cluster, wait_for
from harness.node import Node
from pgcore.testing.processes import freeze

LAG = {"maximum_lag_on_failover": 1 << 30}
SWITCH = "SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()"


def diverge(cluster: Cluster, *statements: str) -> tuple[Node, Node]:
    """The primary writes what no standby receives, then its machine dies; another node leads. Old and new primary."""
    old = cluster.primary()
    old.query("CREATE TABLE IF NOT EXISTS common (i int)")
    old.query("CHECKPOINT")
    cluster.wait_healthy()
    old_timeline = old.timeline()
    for sender in old.backend_pids("walsender"):
        freeze(sender)  # connected, but nothing is sent any more
    for statement in ("CREATE TABLE lost AS SELECT generate_series(1, 1000) AS i", *statements):
        old.query(statement)
    assert old.timeline() == old_timeline
    old.kill_everything()
    new = cluster.wait_primary_other_than(old, cluster.ttl + 15)
    new.query("CREATE TABLE kept AS SELECT 1 AS i")
    return old, new


def same_as(new: Node, old: Node) -> bool:
    """The old primary streams, holds what the new one holds, and nothing of what it had alone."""
    tables = "SELECT to_regclass('lost')::text, to_regclass('kept')::text"
    return old.streams() and old.query(tables) == new.query(tables) == [(None, "kept")]


def inode(node: Node) -> int:
    """Tells a data directory that was made anew."""
    return (node.data_dir / "PG_VERSION").stat().st_ino


def test_a_diverged_primary_is_recovered_rewound_and_its_wal_is_archived_first(make_cluster: Callable[..., Cluster]) -> None:
    """(EC 95, 113) The archive was closed while it wrote and died."""
    cluster = make_cluster(size=2, dynamic=LAG | {"postgresql": {"parameters": {"archive_mode": "on"}}})
    archive = cluster.directory / "archive"
    archive.mkdir()
    archive.chmod(0o777)
    command = f"test -f {archive}/open && test ! -f {archive}/%f && cp %p {archive}/%f"
    for node in cluster.nodes:
        node.document["postgresql"]["parameters"]["archive_command"] = command
    cluster.bootstrap()
    old, new = diverge(cluster, SWITCH, SWITCH)
    kept = inode(old)
    waiting = [path.stem for path in (old.data_dir / "pg_wal" / "archive_status").glob("*.ready") if "." not in path.stem]
    assert len(waiting) >= 2
    (archive / "open").touch()
    old.start()
    wait_for(lambda: same_as(new, old), 40, "the old primary was rewound and follows")
    log = old.log()
    assert "single-user crash recovery first" in log and "down.rewind" in log
    assert inode(old) == kept, "it was copied instead of rewound"
    assert {path.name for path in archive.iterdir()} >= set(waiting)


def test_what_cannot_be_rewound_is_kept_until_a_new_copy_is_allowed(make_cluster: Callable[..., Cluster]) -> None:
    """(EC 112) pg_rewind is off: the log says what to do; the operator takes what was lost, and then allows a new copy."""
    cluster = make_cluster(size=2, dynamic=LAG | {"postgresql": {"use_pg_rewind": False}}).bootstrap()
    old, new = diverge(cluster)
    before = inode(old)
    old.start()
    wait_for(lambda: "replica.diverged" in old.log(), 40, "the log says that it has diverged")
    assert "Nothing was removed" in old.log() and "remove_data_directory_on_diverged_timelines" in old.log()
    assert inode(old) == before
    assert old.query("SELECT count(*) FROM lost") == [(1000,)]  # all that it had is still there

    new.request("PATCH", "/config", {"postgresql": {"remove_data_directory_on_diverged_timelines": True}})
    wait_for(lambda: same_as(new, old), 40, "the old primary was copied anew and follows")
    assert inode(old) != before
    assert "down.copy_anew: diverged, and pg_rewind is not possible" in old.log()
    assert new.is_writable()


def test_a_crashed_primary_that_cannot_start_gives_way_and_comes_back(etcd_cluster: Cluster) -> None:
    """(EC 80, 83) One attempt as a primary; then the callbacks are told, the lock is given away, a replica leads."""
    cluster = etcd_cluster
    old = cluster.primary()
    base = old.data_dir / "postgresql.base.conf"
    sound = base.read_text()
    try:
        base.write_text(sound + "\nthis is no setting\n")
        old.kill_postmaster()
        new = cluster.wait_primary_other_than(old, 20)
        log = old.log()
        assert log.rindex("down.restart_as_primary") < log.rindex("down.start_failed")
        assert "SetRole, SetRewind, ReleaseLease" in log
    finally:
        base.write_text(sound)
    cluster.wait_healthy(40)
    assert cluster.primary() is new and not old.is_writable()


def test_a_standby_with_the_history_file_of_a_dead_end_starts_and_streams(etcd_cluster: Cluster) -> None:
    """A primary that is gone promoted itself before what this standby has; PostgreSQL alone would end at every start."""
    cluster = etcd_cluster
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    timeline = primary.timeline()
    wal = standby.data_dir / "pg_wal"
    own, dead = wal / f"{timeline:08X}.history", wal / f"{timeline + 1:08X}.history"
    fork = primary.query("SELECT pg_current_wal_lsn()::text")[0][0]
    primary.query("SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()")
    cluster.wait_healthy()
    dead.write_text((own.read_text() if own.exists() else "") + f"{timeline}\t{fork}\tno recovery target specified\n")
    content = dead.read_text()
    standby.kill_postmaster()
    wait_for(lambda: dead.with_name(dead.name + ".aside1").exists(), 20, "the file is set aside")
    wait_for(standby.streams, 20, "the standby streams")
    assert dead.with_name(dead.name + ".aside1").read_text() == content and not dead.exists()
    assert f"down.set_histories_aside: {dead.name} in pg_wal does not belong to the history of {primary.name}" in standby.log()
    assert cluster.primary() is primary and primary.timeline() == timeline
