"""What a running PostgreSQL does with the history file of a timeline that leads nowhere: why the rules stop it first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.postgres_node import BIN_DIR, Node, eventually, make, root
from pgcore.model.basics import Role

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root"]


def streams(node: Node) -> bool:
    receiver = node.look().receiver
    return receiver is not None and receiver.status == "streaming"


def test_a_standby_that_has_chosen_a_dead_end_streams_only_after_a_start(make: Callable[..., Node]) -> None:
    """The dead end begins where it stands, so PostgreSQL takes it while it looks for WAL; renaming the file is not enough."""
    primary = make("primary").bootstrap()
    standby = make("standby", parameters={"logging_collector": "on"}).standby_of(primary)
    eventually(lambda: streams(standby))
    primary.stop()
    time.sleep(1.0)  # what it has received is replayed
    replayed = standby.look().replayed
    directory = Path(standby.settings.data_dir)
    (directory / "pg_wal" / "00000002.history").write_text(f"1\t{replayed}\tno recovery target specified\n")
    eventually(lambda: any("new target timeline is 2" in path.read_text() for path in (directory / "log").iterdir()))
    primary.start(Role.PRIMARY)
    time.sleep(1.0)
    assert not streams(standby)
    standby.server.set_histories_aside([2])
    time.sleep(1.0)
    assert not streams(standby) and standby.look().timeline == 1
    standby.stop()
    standby.start(Role.REPLICA, primary.upstream)
    eventually(lambda: streams(standby))
