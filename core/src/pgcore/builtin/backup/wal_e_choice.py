"""Whether a backup of WAL-E is worth fetching: how much WAL was written since, against limits and the backup's size."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import ClassVar

from pgcore.plugin import ServerError

LATEST = "LATEST"
MEGABYTE = 1024 * 1024
_UNITS = {"kB": 1024, "MB": MEGABYTE, "GB": 1024 * MEGABYTE}


@dataclass(frozen=True, slots=True)
class Backup:
    """A row of ``wal-e backup-list --detail``: its name, its size in bytes when fetched, where its WAL begins."""

    name: str
    size: int
    segment: str
    offset: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a server writes: the position in bytes, and the bytes of a WAL segment."""

    lsn: int
    segment_size: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From how much WAL on a fresh copy is cheaper: in megabytes, and in percent of the backup's size."""

    megabytes: int
    percentage: int

    DEFAULTS: ClassVar = (10240, 30)


def newest(listing: str) -> Backup | None:
    """The last row of the list, None without one. Raises ServerError for something else than a list."""
    lines = listing.splitlines()
    header = next((number for number, line in enumerate(lines) if line.startswith("name\t")), None)
    if header is None:
        raise ServerError(f"wal-e backup-list printed no list of backups: {' | '.join(lines[-3:])}")
    found = None
    for row in csv.DictReader(lines[header:], dialect="excel-tab"):
        try:
            found = Backup(row["name"], int(row["expanded_size_bytes"]), row["wal_segment_backup_start"],
                           int(row["wal_segment_offset_backup_start"], 16))
        except (KeyError, TypeError, ValueError):
            continue  # a line of the log among them
    return found


def position(system: str, segment_size: str) -> Position:
    """From the answers to IDENTIFY_SYSTEM and SHOW wal_segment_size. Raises ServerError."""
    try:
        high, low = system.split()[2].split("/")
        number, unit = segment_size.strip()[:-2], segment_size.strip()[-2:]
        return Position(int(high, 16) << 32 | int(low, 16), int(number) * _UNITS[unit])
    except (IndexError, ValueError, KeyError) as error:
        raise ServerError(f"the source told {system.strip()!r} and {segment_size.strip()!r} instead of its position") from error


def reason_against(backup: Backup | None, source: Position | None, thresholds: Thresholds) -> str:
    """Why a fresh copy is better, or nothing. Without a source there is nothing to copy from, so any backup will do.

    One that seems to begin after the source's position is taken, too: of a backup of a stopped server WAL-E tells a wrong one.
    """
    if backup is None:
        return "it has no backup"
    if source is None:
        return ""
    written = source.lsn - _begins(backup, source.segment_size)
    if written > thresholds.megabytes * MEGABYTE:
        return (f"{written // MEGABYTE} MB of WAL were written since the backup {backup.name}, more than threshold_megabytes "
                f"({thresholds.megabytes})")
    if written * 100 > backup.size * thresholds.percentage:
        return (f"{written // MEGABYTE} MB of WAL were written since the backup {backup.name}, which has "
                f"{backup.size // MEGABYTE} MB: more than threshold_backup_size_percentage ({thresholds.percentage} %)")
    return ""


def _begins(backup: Backup, segment_size: int) -> int:
    """The position at which its WAL begins: a segment's name is timeline, high and low part in hexadecimal digits."""
    per_high_part = (1 << 32) // segment_size
    number = int(backup.segment[8:16], 16) * per_high_part + int(backup.segment[16:24], 16)
    return number * segment_size + backup.offset
