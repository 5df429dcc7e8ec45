"""The replicated state: what every member computes from the same commands in the same order. No Raft, no sockets here.

Layout (dcs-layout 10): a dictionary path -> ``{"value", "created", "updated", "expire"?, "index"}``. ``created``, ``updated`` and
``expire`` are wall clock seconds of the writer, for readers only; nothing is decided by them. ``index`` is the log index of the
last write and serves as version. Entries bound to a lease also carry ``session`` and ``born``, see below.

Sessions. Every process that writes has a session: a random name, and the log index of its first command (``born``), which
orders the processes of one member: the later one may take over what names the earlier one, never the reverse.

* A session numbers its commands. The same number again returns the first result without applying anything, so an
  undecided command can be sent again. A lower number than the highest applied is stale and does nothing: a command that
  surfaces late, from the log of a leader that came back, never overwrites what the same process wrote after it.
* A session has one lease, which the lock and the member card live under. ``announce``, a successful ``acquire`` and a ``renew``
  that held extend it, all as applied commands; nothing else does.

Leases end by a command too: ``expire``, proposed by the Raft leader (``due``), names the session and its last extension, and does
nothing if there has been another. Only the number of seconds travels with a write. The Raft leader measures the age of a lease
with its own clock from the moment it applied the extension, or from the moment it became leader, whichever is later. Both are
after the moment the holder sent its command, so a lease never ends earlier than ttl after that, whatever the wall clocks say.
What a member believes about its own lease must start at the moment of sending; then the store lets go later than the holder.

Late commands. An ``acquire`` that is applied after its sender gave up locks for ttl in the name of a process that may not know
it: it sees the lock as its own in the next read, or lets it expire. A ``renew`` applied after the expiry finds no lock, and after
another one's acquisition another name: it changes nothing in both cases. A ``renew`` or ``announce`` of a dead process finds its
successor's ``born`` and changes nothing. A permanent key written without a condition is only protected from late writes
of the same process; whoever must not overwrite others gives a version, and that is compared when the command is applied.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgcore.plugin import Instant, Json, Key, Record, now

WATCHED = frozenset({Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE})
IDLE_SESSIONS_KEPT = 64
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a session as the Raft leader sees it: ``extended`` is the log index of its last extension."""

    session: str
    extended: int
    ttl_s: float
    extended_at: Instant


class Machine:
    """The state of one Raft node. ``apply`` and ``restore`` are called by the Raft thread, the reading methods by any.

    ``changed`` is the lock of everything here and is notified whenever a watched key of any scope has changed.
    """

    def __init__(self, clock: Callable[[], Instant] = now) -> None:
        self.changed = threading.Condition()
        self._clock = clock
        self._data: dict[str, dict[str, Any]] = {}
        self._sessions: dict[str, dict[str, Any]] = {}
        self._extended_at: dict[str, Instant] = {}  # of this node, never replicated
        self._revisions: dict[str, int] = {}  # by scope; of this node
        self._restored = 0
        self._operations: dict[str, Callable[[Mapping[str, Json], int], dict[str, Json]]] = {
            "put": self._put, "delete": self._delete, "announce": self._announce, "withdraw": self._withdraw,
            "acquire": self._acquire, "renew": self._renew, "release": self._release}

    # -- the Raft thread -----------------------------------------------------------------------------------------------

    def apply(self, text: str, index: int) -> dict[str, Json]:
        """Apply one decided command, a JSON object. Deterministic.

        Never raises: a command this version does not understand is answered with ``refused`` by every member alike. An exception
        would make the Raft thread try the same entry for ever.
        """
        try:
            command = json.loads(text)
            operation = command["op"]
            with self.changed:
                if operation == "barrier":
                    return {}
                if operation == "expire":
                    return self._expire(command)
                return self._once(command, index)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return {"refused": f"{type(error).__name__}: {error}"}

    def dump(self) -> dict[str, Json]:
        """Everything that is replicated, for a snapshot."""
        with self.changed:
            return {"format": FORMAT, "data": self._data, "sessions": self._sessions}

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Replace the state by a snapshot. Leases count as extended now, which is never too early."""
        with self.changed:
            self._data, self._sessions = dict(dumped["data"]), dict(dumped["sessions"])
            self._extended_at = dict.fromkeys(self._sessions, self._clock())
            self._restored += 1
            self.changed.notify_all()

    def due(self, leader_since: Instant) -> Iterator[Lease]:
        """The leases that have run out by this node's clock; meaningful on the Raft leader only."""
        with self.changed:
            moment = self._clock()
            leases = [self._lease(name) for name, session in self._sessions.items() if session["ttl"] is not None]
        return (lease for lease in leases if moment >= max(lease.extended_at, leader_since) + lease.ttl_s)

    # -- readers -------------------------------------------------------------------------------------------------------

    def records(self, scope: str, contact: Instant) -> tuple[dict[str, Record], str]:
        """The live records of a scope, and its revision. ``contact`` is when this node last knew what the majority knows.

        A lease that has run out by this node's clock, and that no contact has confirmed since, is left out: a node that was
        cut off must not show what the others have long dropped.
        """
        with self.changed:
            prefix = scope + "/"
            shown = {path.removeprefix(prefix): Record(entry["value"], str(entry["index"]))
                     for path, entry in self._data.items() if path.startswith(prefix) and self._is_live(entry, contact)}
            return shown, self.revision(scope)

    def entries(self, prefix: str) -> dict[str, tuple[str, int]]:
        """Value and version of every permanent entry below a path that is no scope."""
        with self.changed:
            return {path.removeprefix(prefix): (entry["value"], entry["index"])
                    for path, entry in self._data.items() if path.startswith(prefix)}

    def values(self, key: Key) -> list[str]:
        """The values of this key of every scope."""
        with self.changed:
            return [entry["value"] for path, entry in self._data.items() if path.rpartition("/")[2] == key]

    def revision(self, scope: str) -> str:
        """Changes whenever a watched key of the scope does; meaningful for this node only. Needs ``changed`` held."""
        return f"{self._restored}.{self._revisions.get(scope, 0)}"

    def _is_live(self, entry: Mapping[str, Any], contact: Instant) -> bool:
        if "session" not in entry:
            return True
        lease = self._lease(entry["session"])
        end = lease.extended_at + lease.ttl_s
        return self._clock() < end or contact >= end

    def _lease(self, name: str) -> Lease:
        session = self._sessions[name]
        return Lease(name, session["extended"], session["ttl"], self._extended_at[name])

    # -- sessions ------------------------------------------------------------------------------------------------------

    def _once(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        name, number = command["session"], command["number"]
        session = self._sessions.setdefault(
            name, {"born": index, "number": -1, "used": index, "ttl": None, "extended": 0, "result": {}})
        if number < session["number"]:
            return {"stale": True}
        if number > session["number"]:
            result = self._operations[command["op"]](command, index)
            session.update(number=number, result=result, used=index)
            self._forget_idle_sessions()
        return dict(session["result"])

    def _forget_idle_sessions(self) -> None:
        """Keep the table small: of the sessions without a lease only those used last stay."""
        idle = [name for name, session in self._sessions.items() if session["ttl"] is None]
        for name in sorted(idle, key=lambda name: self._sessions[name]["used"])[:-IDLE_SESSIONS_KEPT]:
            del self._sessions[name]
            self._extended_at.pop(name, None)

    def _extend(self, command: Mapping[str, Json], index: int) -> None:
        """Extend the lease of the command's session, and tell so in the entries bound to it."""
        name = command["session"]
        self._sessions[name].update(ttl=command["ttl"], extended=index)
        self._extended_at[name] = self._clock()
        for entry in self._data.values():
            if entry.get("session") == name:
                entry.update(updated=command["time"], expire=command["time"] + command["ttl"])

    def _is_own(self, entry: Mapping[str, Any] | None, command: Mapping[str, Json]) -> bool:
        return entry is not None and entry.get("session") == command["session"]

    def _is_predecessors(self, entry: Mapping[str, Any], command: Mapping[str, Json]) -> bool:
        """Whether an earlier process wrote the entry. That it names our member is for the caller to know."""
        return entry.get("born", 0) < self._sessions[command["session"]]["born"]

    # -- operations ----------------------------------------------------------------------------------------------------

    def _put(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        if not self._matches(command):
            return {"done": False}
        self._write(command["path"], command["value"], command, index)
        return {"done": True, "index": index}

    def _delete(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        if not self._matches(command):
            return {"done": False}
        self._remove(command["path"])
        return {"done": True}

    def _announce(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        card = self._data.get(command["path"])
        own = self._is_own(card, command)
        if card is not None and not own and not self._is_predecessors(card, command):
            return {"done": False}
        if not own or card is None or card["value"] != command["value"]:
            self._write(command["path"], command["value"], command, index, bound=True)
        self._extend(command, index)
        return {"done": True}

    def _withdraw(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        if self._is_own(self._data.get(command["path"]), command):
            self._remove(command["path"])
        return {"done": True}

    def _acquire(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        lock = self._data.get(command["path"])
        if lock is None or command["force"]:
            self._write(command["path"], command["member"], command, index, bound=True)
        elif not self._is_own(lock, command):
            return {"done": False}
        self._extend(command, index)
        return {"done": True}

    def _renew(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        lock = self._data.get(command["path"])
        if lock is None:
            return {"renewal": "gone"}
        if not self._is_own(lock, command):
            if lock["value"] != command["member"] or not self._is_predecessors(lock, command):
                return {"renewal": "taken"}
            self._write(command["path"], command["member"], command, index, bound=True)
        self._write_riders(command, index)
        self._extend(command, index)
        return {"renewal": "held"}

    def _release(self, command: Mapping[str, Json], index: int) -> dict[str, Json]:
        if not self._is_own(self._data.get(command["path"]), command):
            return {"done": False}
        self._write_riders(command, index)
        self._remove(command["path"])
        return {"done": True}

    def _expire(self, command: Mapping[str, Json]) -> dict[str, Json]:
        name = command["session"]
        session = self._sessions.get(name)
        if session is None or session["extended"] != command["extended"]:
            return {}
        for path in [path for path, entry in self._data.items() if entry.get("session") == name]:
            self._remove(path)
        session["ttl"] = None
        return {}

    # -- entries -------------------------------------------------------------------------------------------------------

    def _matches(self, command: Mapping[str, Json]) -> bool:
        """The conditions of dcs-layout 10: ``prevExist`` and ``prevIndex``."""
        entry = self._data.get(command["path"])
        if command.get("prevExist") is False:
            return entry is None
        if command.get("prevIndex") is not None:
            return entry is not None and entry["index"] == command["prevIndex"]
        return True

    def _write_riders(self, command: Mapping[str, Json], index: int) -> None:
        for path, value in command["riders"].items():
            self._write(path, value, command, index)

    def _write(self, path: str, value: str, command: Mapping[str, Json], index: int, *, bound: bool = False) -> None:
        before = self._data.get(path)
        created = command["time"] if before is None else before["created"]
        entry = {"value": value, "created": created, "updated": command["time"], "index": index}
        if bound:
            entry |= {"session": command["session"], "born": self._sessions[command["session"]]["born"]}
        self._data[path] = entry
        # A lock that keeps its holder is no event, though another process of the holder may have taken it over.
        if not bound or before is None or before["value"] != value:
            self._notice(path)

    def _remove(self, path: str) -> None:
        if self._data.pop(path, None) is not None:
            self._notice(path)

    def _notice(self, path: str) -> None:
        scope, _, key = path.rpartition("/")
        if key in WATCHED:
            self._revisions[scope] = self._revisions.get(scope, 0) + 1
            self.changed.notify_all()
