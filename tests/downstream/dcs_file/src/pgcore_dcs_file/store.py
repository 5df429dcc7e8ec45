"""A store in a directory: one JSON file, replaced whole, guarded by ``flock``. Copy it to write your own."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgcore.plugin import (
    MEMBERS,
    Deadline,
    Expect,
    Key,
    Record,
    Refused,
    Renewal,
    Snapshot,
    Stored,
    StoreUnavailableError,
    Timing,
    now,
)

WATCHED = (Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE)
LOOK_EVERY_S = 0.05


class State:
    """What the file holds. A record is [value, version, lease or None]; versions come from one counter and never repeat."""

    def __init__(self, text: str) -> None:
        document: dict[str, Any] = json.loads(text) if text else {}
        self.revision: int = document.get("revision", 0)
        self.watched: int = document.get("watched", 0)
        self.records: dict[str, list[Any]] = document.get("records", {})
        self.leases: dict[str, float] = document.get("leases", {})
        for lease in [lease for lease, end in self.leases.items() if end <= now()]:
            del self.leases[lease]
        for path in [path for path, (_, _, lease) in self.records.items() if lease and lease not in self.leases]:
            self.write(path, None)

    def write(self, path: str, value: str | None, lease: str | None = None) -> Stored:
        """Write a record, or delete it if the value is None."""
        self.revision += 1
        if path in WATCHED:
            self.watched = self.revision
        self.records.pop(path, None)
        if value is not None:
            self.records[path] = [value, str(self.revision), lease]
        return Stored(str(self.revision) if value is not None else "")

    def expected(self, path: str, expect: Expect) -> bool:
        """Whether a conditional write may go ahead."""
        found = self.records.get(path)
        return found is None if expect.absent else expect.version is None or (found is not None and found[1] == expect.version)


class FileStore:
    """One member's view of one scope."""

    carries: frozenset[Key] = frozenset()

    def __init__(self, directory: Path, member: str, timing: Timing) -> None:
        self._directory, self._member, self._ttl = directory, member, timing.ttl
        self._lease = uuid.uuid4().hex
        self._closed = threading.Event()
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _state(self, deadline: Deadline) -> Iterator[State]:
        """The state, locked; written back in the end. Everything that goes wrong with files is translated here and only here."""
        file, new = self._directory / "state.json", self._directory / "state.new"
        try:
            with open(self._directory / "lock", "a") as lock:
                while True:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if deadline.expired:
                            raise
                        time.sleep(0.002)
                before = file.read_text() if file.exists() else ""
                state = State(before)
                yield state
                if (after := json.dumps(vars(state))) != before:
                    new.write_text(after)
                    os.replace(new, file)  # a process killed half-way leaves the old state
        except OSError as error:
            raise StoreUnavailableError(f"{self._directory}: {error.strerror or error}") from error

    def _extend(self, state: State) -> str:
        state.leases[self._lease] = now() + self._ttl
        return self._lease

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        with self._state(deadline) as state:
            records = {path: Record(value, version) for path, (value, version, _) in state.records.items()}
            return Snapshot(records, str(state.revision))

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        with self._state(deadline) as state:
            return state.write(key, value) if state.expected(key, expect) else Refused()

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        with self._state(deadline) as state:
            if not state.expected(key, expect):
                return Refused()
            return state.write(key, None) if key in state.records else Stored()

    def announce(self, card: str, *, deadline: Deadline) -> None:
        with self._state(deadline) as state:
            state.write(MEMBERS + self._member, card, self._extend(state))

    def withdraw(self, *, deadline: Deadline) -> None:
        with self._state(deadline) as state:
            state.write(MEMBERS + self._member, None)

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        with self._state(deadline) as state:
            lease, found = self._extend(state), state.records.get(Key.LEADER)
            if found is None or force:
                state.write(Key.LEADER, self._member, lease)
                return True
            return found[0] == self._member and found[2] == lease

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        with self._state(deadline) as state:
            found = state.records.get(Key.LEADER)
            if found is None:
                return Renewal.GONE
            if found[0] != self._member:
                return Renewal.TAKEN
            if found[2] != self._extend(state):  # left by a predecessor of our name
                state.write(Key.LEADER, self._member, self._lease)
            return Renewal.HELD

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        with self._state(deadline) as state:
            found = state.records.get(Key.LEADER)
            if found is None or found[0] != self._member:
                return False
            state.write(Key.LEADER, None)
            return True

    def clear(self, *, deadline: Deadline) -> None:
        with self._state(deadline) as state:
            for path in list(state.records):
                state.write(path, None)

    def watch(self, seen: str, *, timeout: float) -> bool:
        deadline = Deadline.after(timeout)
        while not self._closed.wait(min(LOOK_EVERY_S, deadline.left())) and not deadline.expired:
            try:
                with self._state(deadline) as state:
                    if state.watched > int(seen or 0) or state.revision < int(seen or 0):  # the latter: somebody removed the file
                        return True
            except StoreUnavailableError:
                continue
        return False

    def retime(self, timing: Timing) -> None:
        self._ttl = timing.ttl

    def close(self) -> None:
        self._closed.set()
