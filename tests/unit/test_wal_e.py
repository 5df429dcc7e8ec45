"""WAL-E: when a backup is worth fetching, and what method and command make of it. WAL-G is played by a recorder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgcore.builtin.backup import wal_e, wal_g, wale_restore
from pgcore.builtin.backup.wal_e_choice import MEGABYTE, Backup, Position, Thresholds, newest, position, reason_against
from pgcore.plugin import ServerError, ServerSettings
from pgcore.testing.methods import bootstrap_request, replica_request

SERVER = ServerSettings(name="a", scope="main", listen="127.0.0.1:5432", data_dir="/data")
SEGMENT = 16 * MEGABYTE
HEADER = ("name\tlast_modified\texpanded_size_bytes\twal_segment_backup_start\twal_segment_offset_backup_start\t"
          "wal_segment_backup_stop\twal_segment_offset_backup_stop")
ROW = "base_000000010000000200000003_00000040\t2026-11-24T00:00:00.000Z\t1073741824\t000000010000000200000003\t00000028\t\t"
BACKUP = Backup("base_000000010000000200000003_00000040", 1024 * MEGABYTE, "000000010000000200000003", 0x28)
BEGINS = (2 << 32) + 3 * SEGMENT + 0x28


def since(megabytes: int, segment_size: int = SEGMENT) -> Position:
    return Position(BEGINS + megabytes * MEGABYTE, segment_size)


@pytest.mark.parametrize(("backup", "source", "thresholds", "why"), [
    (BACKUP, since(0), (10240, 30), ""),
    (BACKUP, since(307), (10240, 30), ""),
    (BACKUP, since(308), (10240, 30), "308 MB of WAL .* which has 1024 MB: more than threshold_backup_size_percentage"),
    (BACKUP, since(101), (100, 30), r"101 MB of WAL .* more than threshold_megabytes \(100\)"),
    (BACKUP, since(100), (100, 30), ""),
    (BACKUP, since(-1), (10240, 30), ""),
    (BACKUP, None, (0, 0), ""),
    (None, since(0), (10240, 30), "it has no backup"),
    (None, None, (10240, 30), "it has no backup"),
])
def test_a_backup_is_fetched_while_that_is_cheaper_than_a_copy(
        backup: Backup | None, source: Position | None, thresholds: tuple[int, int], why: str) -> None:
    found = reason_against(backup, source, Thresholds(*thresholds))
    if why:
        assert re.search(why, found), found
    else:
        assert found == ""


def test_segments_of_another_size_are_counted_right() -> None:
    backup = Backup("x", 2**40, "00000001000000020000000A", 0)
    assert reason_against(backup, Position((2 << 32) + 10 * 64 * MEGABYTE, 64 * MEGABYTE), Thresholds(0, 0)) == ""


def test_the_newest_backup_is_read_from_the_list_and_its_log() -> None:
    assert newest(f"wal_e.main   INFO     MSG: starting WAL-E\n{HEADER}\n{ROW}\n") == BACKUP
    assert newest(f"{HEADER}\n") is None
    with pytest.raises(ServerError, match="printed no list of backups: what is this"):
        newest("what is this")


def test_the_position_is_read_from_the_replication_protocol() -> None:
    assert position("7300000000000000001 1 2/3000028 \n", "16MB\n") == Position((2 << 32) + 0x3000028, SEGMENT)
    with pytest.raises(ServerError, match="instead of its position"):
        position("", "16MB")


def tool(path: Path, listing: str = f"{HEADER}\n{ROW}", code: int = 0) -> Path:
    """In the place of envdir, WAL-E and WAL-G: notes each call, lists one backup, leaves a cluster."""
    path.write_text(f"#!/bin/sh\necho \"$*\" >> {path}.calls\ncase \"$*\" in *backup-list*) printf '%s\\n' '{listing}' ;;\n"
                    f"*) echo 'no such key'; exit {code} ;; esac\n")
    path.chmod(0o755)
    return path


def calls(path: Path) -> list[str]:
    return Path(f"{path}.calls").read_text().splitlines()


def test_a_replica_without_a_leader_is_made_of_the_newest_backup(tmp_path: Path) -> None:
    fake = tool(tmp_path / "envdir")
    wal_e.make_replica(replica_request(tmp_path / "data", {
        "envdir": "/etc/wal-e.d/env", "envdir_program": str(fake), "use_iam": 1, "no_leader": 1}))
    assert calls(fake) == ["/etc/wal-e.d/env wal-e --aws-instance-profile backup-list --detail LATEST",
                           f"/etc/wal-e.d/env wal-e --aws-instance-profile backup-fetch {tmp_path / 'data'} {BACKUP.name}"]


def test_a_failed_fetch_is_repeated_and_then_told_with_its_last_lines(tmp_path: Path) -> None:
    fake = tool(tmp_path / "envdir", code=3)
    with pytest.raises(ServerError, match=r"envdir exited with 3: no such key"):
        wal_e.make_replica(replica_request(tmp_path / "data", {"envdir": "/e", "envdir_program": str(fake), "retries": 2}))
    assert len(calls(fake)) == 1 + 3


@pytest.mark.parametrize(("options", "why"), [
    ({}, r"postgresql\.wal_e\.envdir is missing"),
    ({"envdir": "/e", "retries": "often"}, r"postgresql\.wal_e\.retries is 'often': it must be a whole number"),
    ({"envdir": "/e", "treshold_megabytes": 1}, r"postgresql\.wal_e\.treshold_megabytes is not a key"),
])
def test_a_section_that_cannot_work_is_refused(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ServerError, match=why):
        wal_e.make_replica(replica_request(tmp_path / "data", options))


@pytest.mark.parametrize(("listing", "code", "extra", "ended"), [
    (f"{HEADER}\n{ROW}", 0, ("--no_leader=1",), wale_restore.DONE),
    (f"{HEADER}\n{ROW}", 1, ("--no_leader=1", "--retries=0"), wale_restore.RETRY_LATER),
    (f"{HEADER}\n{ROW}", 0, (), wale_restore.RETRY_LATER),
    (HEADER, 0, ("--no-leader=1",), wale_restore.DO_NOT_RETRY),
    (f"{HEADER}\n{ROW}", 0, ("--no_leader=True", "--keep_data=False"), wale_restore.DONE),
])
def test_the_command_ends_with_the_codes_that_scripts_know(
        tmp_path: Path, listing: str, code: int, extra: tuple[str, ...], ended: int) -> None:
    """As Patroni calls it, with its own arguments after those of the section, under either name."""
    tool(tmp_path / "envdir", listing, code)
    link = tmp_path / "patroni_wale_restore"
    link.symlink_to(Path(sys.executable).with_name("pgcore"))
    for program in (str(link), str(Path(sys.executable).with_name("pgcore-wale-restore"))):
        done = subprocess.run([program, "--envdir=/etc/wal-e.d/env", "--use_iam=1", *extra, "--scope=demo", "--role=replica",
                               f"--datadir={tmp_path}/data", "--connstring="], capture_output=True, text=True, check=False,
                              env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        assert done.returncode == ended, done.stderr
        assert "Traceback" not in done.stderr


def test_wal_g_is_called_as_it_wants(tmp_path: Path) -> None:
    """WAL-G itself cannot be had for our tests: these are its documented calls."""
    fake = tool(tmp_path / "wal-g")
    options = {"program": str(fake), "config": "/etc/wal-g.json", "options": ["reverse-unpack", "skip-redundant-tars"]}
    wal_g.make_replica(replica_request(tmp_path / "data", options))
    wal_g.make_cluster(bootstrap_request(tmp_path / "other", {"program": str(fake), "backup": "base_1"}))
    assert calls(fake) == [
        f"--config=/etc/wal-g.json backup-fetch {tmp_path / 'data'} LATEST --reverse-unpack --skip-redundant-tars",
        f"backup-fetch {tmp_path / 'other'} base_1"]
    assert wal_g.recovery_settings({"target_xid": "7"}, SERVER)["restore_command"] == 'wal-g wal-fetch %f "%p"'
