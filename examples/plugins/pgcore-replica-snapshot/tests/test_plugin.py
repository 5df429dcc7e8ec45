"""The method copies a snapshot without what belongs to its server, or says why not."""

from pathlib import Path

import pytest

from pgcore.plugin import ServerError
from pgcore.testing.methods import replica_request
from pgcore_replica_snapshot.plugin import pgcore_replica_methods

MAJOR = 17  # of replica_request


def snapshot(path: Path, major: int = MAJOR) -> Path:
    """What a primary's file system looks like."""
    (path / "pg_replslot" / "standby2").mkdir(parents=True)
    (path / "PG_VERSION").write_text(f"{major}\n")
    (path / "postmaster.pid").write_text("4711\n")
    return path


def test_the_copy_is_without_the_process_and_the_slots_of_its_server(tmp_path):
    (method,) = pgcore_replica_methods()
    method.run(replica_request(tmp_path / "data", {"path": str(snapshot(tmp_path / "snapshot"))}))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["PG_VERSION", "pg_replslot"]
    assert list((tmp_path / "data" / "pg_replslot").iterdir()) == []
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "snapshot" / "postmaster.pid").exists()


@pytest.mark.parametrize("options", [None, {}, {"path": "relative"}, {"path": "/no/such/directory"}])
def test_without_a_snapshot_nothing_is_copied(tmp_path, options):
    (method,) = pgcore_replica_methods()
    with pytest.raises(ServerError, match=r"postgresql\.snapshot\.path"):
        method.run(replica_request(tmp_path / "data", options))
    assert list((tmp_path / "data").iterdir()) == []


def test_a_snapshot_of_another_version_is_refused(tmp_path):
    (method,) = pgcore_replica_methods()
    with pytest.raises(ServerError, match="is of PostgreSQL 12, this node runs 17"):
        method.run(replica_request(tmp_path / "data", {"path": str(snapshot(tmp_path / "snapshot", 12))}))
