"""What a standby cluster needs of the PostgreSQL port: the end of a timeline in the archive, and standbys that live from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from contract.postgres_node import BIN_DIR, Node, eventually, make, root
from pgcore.model.basics import Role

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root"]


@pytest.fixture
def archive(root: Path) -> Path:
    """A directory that every server may write to."""
    directory = root / "archive"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def test_the_last_wal_file_of_a_stopped_primary_reaches_those_who_only_read_the_archive(
    make: Callable[..., Node], archive: Path
) -> None:
    """EC 201, 203"""
    to_archive = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    primary = make("p", parameters=to_archive).bootstrap()
    follower = make("f", recovery_conf={"restore_command": f"cp {archive}/%f %p"}).standby_of(primary)
    assert primary.look().archiving and not follower.look().archiving
    assert follower.server.recovery_change(None, role=Role.STANDBY_LEADER) == "reload"
    follower.server.follow_by_reload(None, role=Role.STANDBY_LEADER)
    eventually(lambda: follower.look().receiver is None and follower.look().replication_state == "in archive recovery")
    assert follower.server.recovery_change(None, role=Role.STANDBY_LEADER) == "none"
    assert "primary_conninfo" not in (Path(follower.settings.data_dir) / "postgresql.conf").read_text()

    primary.stop()
    control = primary.server.control_data()
    assert control is not None and control.checkpoint_end is not None
    before = {path.name for path in archive.iterdir()}
    primary.server.archive_shutdown_wal(primary.ctx)
    assert len({path.name for path in archive.iterdir()} - before) == 1
    eventually(lambda: (follower.look().replayed or 0) >= control.checkpoint_end)


def test_without_an_archive_there_is_nothing_to_archive(make: Callable[..., Node]) -> None:
    primary = make("p").bootstrap()
    assert not primary.look().archiving
    primary.stop()
    primary.server.archive_shutdown_wal(primary.ctx)
    assert not primary.reported or all("archiving" not in str(fact.get("phase")) for fact in primary.reported)


def test_the_delay_of_the_standby_leader_ends_with_its_role(make: Callable[..., Node]) -> None:
    primary = make("p").bootstrap()
    leader = make("l", leader_apply_delay="3s").standby_of(primary)
    remote = replace(primary.upstream, name=None)
    assert leader.server.recovery_change(remote, role=Role.STANDBY_LEADER) == "reload"
    leader.server.follow_by_reload(remote, role=Role.STANDBY_LEADER)
    eventually(lambda: leader.server.recovery_change(remote, role=Role.STANDBY_LEADER) == "none")
    assert leader.server.recovery_change(remote, role=Role.REPLICA) == "reload"
    leader.server.follow_by_reload(remote, role=Role.REPLICA)
    eventually(lambda: leader.server.recovery_change(remote, role=Role.REPLICA) == "none")
