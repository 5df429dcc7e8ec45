"""What ``global/pg_control`` says, by ``pg_controldata`` or read directly, and where a WAL record ends.

Output of another major version may lack fields or carry warnings: missing values become unknown, never an exception.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable

from pgcore.errors import CommandFailedError
from pgcore.model.basics import Lsn
from pgcore.model.node import ControlData, ControlState

WAL_PAGE = 8192
_SHORT_HEADER, _LONG_HEADER, _ALIGNMENT = 24, 40, 8
DEFAULT_SEGMENT = 16 * 1024 * 1024

_STATES = (ControlState.STARTING_UP, ControlState.SHUT_DOWN, ControlState.SHUT_DOWN_IN_RECOVERY, ControlState.SHUTTING_DOWN,
           ControlState.IN_CRASH_RECOVERY, ControlState.IN_ARCHIVE_RECOVERY, ControlState.IN_PRODUCTION)
_SHARED_MEMORY = ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_xacts", "max_locks_per_xact")
_PARAMETER_NAMES = {"max_prepared_xacts": "max_prepared_transactions", "max_locks_per_xact": "max_locks_per_transaction"}

RunProgram = Callable[[list[str]], str]


def control_path(data_dir: str) -> str:
    """Where pg_control lives."""
    return os.path.join(data_dir, "global", "pg_control")


def peek(data_dir: str) -> tuple[ControlState, Lsn] | None:
    """State and last checkpoint straight from the file, microseconds instead of a program run; None if unreadable.

    The offsets have been the same in all versions from 12 to 18. A torn read is possible in principle (the file is one
    512-byte sector, written at once), which is why only the final state is acted upon and re-read afterwards.
    """
    try:
        with open(control_path(data_dir), "rb") as file:
            head = file.read(48)
        state, checkpoint = struct.unpack_from("=I", head, 16)[0], struct.unpack_from("=Q", head, 32)[0]
    except (OSError, struct.error):
        return None
    return (_STATES[state] if state < len(_STATES) else ControlState.UNKNOWN), Lsn(checkpoint)


def peek_system_id(data_dir: str) -> str | None:
    """The system identifier straight from the file; None if unreadable."""
    try:
        with open(control_path(data_dir), "rb") as file:
            return str(struct.unpack("=Q", file.read(8))[0])
    except (OSError, struct.error):
        return None


def fields(text: str) -> dict[str, str]:
    """The ``name: value`` lines of pg_controldata; anything else (warnings) is skipped."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon and value.strip()}


def parse(text: str) -> ControlData | None:
    """ControlData out of pg_controldata's output in English; None if it does not even hold a system identifier."""
    values = fields(text)
    system_id = values.get("Database system identifier", "")
    if not system_id.isdigit():
        return None
    shared = {_PARAMETER_NAMES.get(name, name): _integer(values.get(f"{name} setting")) for name in _SHARED_MEMORY}
    return ControlData(
        state=_state(values.get("Database cluster state", "")),
        system_id=system_id,
        checkpoint=_lsn(values.get("Latest checkpoint location")),
        checkpoint_timeline=_integer(values.get("Latest checkpoint's TimeLineID")) or 0,
        minimum_recovery=_lsn(values.get("Minimum recovery ending location")),
        minimum_recovery_timeline=_integer(values.get("Min recovery ending loc's timeline")) or 0,
        data_checksums=(_integer(values.get("Data page checksum version")) or 0) > 0,
        wal_log_hints=values.get("wal_log_hints setting", "off").lower() in ("on", "yes"),
        parameters={name: number for name, number in shared.items() if number is not None},
    )


def segment_size(text: str) -> int:
    """Bytes per WAL segment out of pg_controldata's output; 16 MiB if it does not say."""
    return _integer(fields(text).get("Bytes per WAL segment")) or DEFAULT_SEGMENT


def _state(text: str) -> ControlState:
    try:
        return ControlState(text)
    except ValueError:
        return ControlState.UNKNOWN


def _integer(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _lsn(text: str | None) -> Lsn:
    try:
        return Lsn.parse(text or "0")
    except ValueError:
        return Lsn(0)


def record_end(start: Lsn, total_length: int, segment: int = DEFAULT_SEGMENT) -> Lsn:
    """The end of a WAL record, as PostgreSQL reports it after reading it.

    A record that does not fit its page goes on behind the header of the next one: 24 bytes, 40 at the start of a segment.
    A record that ends exactly at a page border ends there, not behind the next header.
    """
    left = -(-total_length // _ALIGNMENT) * _ALIGNMENT
    position = int(start)
    if position % WAL_PAGE == 0:
        position += _header(position, segment)
    while left > (room := WAL_PAGE - position % WAL_PAGE):
        left -= room
        position += room
        position += _header(position, segment)
    return Lsn(position + left)


def _header(page: int, segment: int) -> int:
    return _LONG_HEADER if page % segment == 0 else _SHORT_HEADER


_RECORD = re.compile(r"len \(rec/tot\):\s*\d+/\s*(\d+),.*?lsn: ([0-9A-F]+/[0-9A-F]+)", re.IGNORECASE)


def checkpoint_end(run: RunProgram, pg_waldump: str, data_dir: str, control: ControlData, segment: int) -> Lsn | None:
    """The end of the last checkpoint's record, None if the segment is gone or the output not understood (HA rules 12.2, 30.2)."""
    try:
        output = run([pg_waldump, "-p", os.path.join(data_dir, "pg_wal"), "-t", str(control.checkpoint_timeline),
                      "-s", str(control.checkpoint), "-n", "1"])
    except CommandFailedError:
        return None
    match = _RECORD.search(output)
    if match is None or Lsn.parse(match.group(2)) != control.checkpoint:
        return None
    return record_end(control.checkpoint, int(match.group(1)), segment)
