"""Blocking queries on the whole scope, in the thread that asks. What a reader has seen is written into the revision itself.

Every key below the scope ends such a query; only a change of a watched one is news. An index that goes back, as that of a
Consul that was wiped or restored, is not waited for.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.net.http import HttpUnavailableError
from pgcore.plugin import Deadline, Json, Key, Record, StoreRejectedError, Timing
from pgcore_dcs_consul.client import FIRST_PAUSE_S, LONGEST_PAUSE_S, AgentError, Client, Gateway

log = logging.getLogger(__name__)
WATCHED = (Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE)
JITTER = 16 / 17
"""Consul lengthens each wait at random by up to a sixteenth."""
MARGIN_S = 0.05
CALM_S = 0.05
"""Pause after an answer without news: a scope that changes all the time must not be asked all the time."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All keys of a scope at Consul's index ``index``, by path; ``sessions`` of those that have one."""

    index: int
    records: Mapping[str, Record]
    sessions: Mapping[str, str]

    @property
    def revision(self) -> str:
        """The index, and the versions of the watched keys."""
        seen = ",".join(f"{key}={self.records[key].version}" for key in WATCHED if key in self.records)
        return f"{self.index};{seen}"


def tree(prefix: str, answer: tuple[str, list[Json] | None]) -> Tree:
    """What a recursive read says. A lock without a session is nobody's and left out: the next to acquire it overwrites it."""
    index, items = answer
    records, sessions = {}, {}
    for item in items or ():
        path = str(item["Key"]).removeprefix(prefix)
        session = item.get("Session")
        if session:
            sessions[path] = str(session)
        elif path == Key.LEADER:
            continue
        records[path] = Record(text_of(item), str(item["ModifyIndex"]))
    return Tree(int(index), records, sessions)


def text_of(item: Json) -> str:
    """The value of a key as read; bytes that are not UTF-8 are replaced."""
    value = item.get("Value") or b""
    return (value if isinstance(value, bytes) else base64.b64decode(value)).decode(errors="replace")


class Watcher:
    """Tells whether one of the watched keys below ``prefix`` changed."""

    def __init__(self, gateway: Gateway, prefix: str, timing: Timing) -> None:
        self.gateway, self._prefix = gateway, prefix
        self._troubled = False
        self.position = 0
        """Index of the newest answer; reads must not be older."""
        self.retime(timing)

    def retime(self, timing: Timing) -> None:
        """No query is trusted for longer than a part of ttl: its server may be frozen or cut off."""
        self._longest_s = max(1.0, timing.ttl / 4)

    def watch(self, seen: str, timeout: float) -> bool:
        """See ``Store.watch``."""
        waiting, pause_s = Deadline.after(timeout), FIRST_PAUSE_S
        index = int(seen.partition(";")[0]) if ";" in seen else 0
        while not waiting.expired and not self.gateway.closing.is_set():
            try:
                found = self._ask(index, waiting.within(self._longest_s))
            except (HttpUnavailableError, AgentError, StoreRejectedError) as error:
                index = 0
                if waiting.expired:
                    break
                level = logging.DEBUG if self._troubled else logging.INFO  # said once until something is heard again
                log.log(level, "the watch on %s is opened again: %s", self._prefix, error)
                self._troubled = True
                self.gateway.closing.wait(min(pause_s, waiting.left()))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            self._troubled, pause_s = False, FIRST_PAUSE_S
            index = self.position = found.index
            if found.revision.partition(";")[2] != seen.partition(";")[2] or ";" not in seen:
                return True
            self.gateway.closing.wait(min(CALM_S, waiting.left()))
        return False

    def _ask(self, index: int, deadline: Deadline) -> Tree:
        """The scope once it is newer than ``index``, or when the time is over."""
        wait_ms = max(1, int((deadline.left() * JITTER - MARGIN_S) * 1000))

        def query(client: Client) -> tuple[str, list[Json] | None]:
            return client.kv.get(self._prefix, index=index or None, wait=f"{wait_ms}ms", recurse=True)

        found = tree(self._prefix, self.gateway.once(query, deadline))
        if found.index < index:  # from a leader that was replaced, or Consul was set back: only a majority knows
            found = tree(self._prefix, self.gateway.once(
                lambda client: client.kv.get(self._prefix, recurse=True, consistency="consistent"), deadline))
        return found

    def close(self) -> None:
        """End a watch."""
        self.gateway.close()
