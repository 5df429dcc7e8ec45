"""The store ``etcd``: etcd's v2 API (dcs-layout 4 and 5). Lock and card carry a ttl each and are rewritten each beat."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import etcd  # type: ignore[import-untyped]

from pgcore.net.http import HttpUnavailableError
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
    StoreRejectedError,
    StoreRequest,
    StoreUnavailableError,
    Timing,
)
from pgcore_dcs_etcd.attempts import CARDS
from pgcore_dcs_etcd.discovery import Locator, connector
from pgcore_dcs_etcd.section import EtcdSection, place
from pgcore_dcs_etcd.v2_client import V2Gateway

WATCHED = frozenset({Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE})
MEMBER_LIST_TTLS = 10
MEMBER_LIST_S = 1.0
NO_INDEX = 2**62
"""An index that no key has."""
PAUSE_S = 0.2


class Etcd2Store:
    """One scope of an etcd as seen by one member; see ``pgcore.dcs.store.Store``."""

    carries: frozenset[Key] = frozenset()

    def __init__(self, request: StoreRequest) -> None:
        assert isinstance(request.section, EtcdSection)
        where = place(request.section, "etcd")
        connections = connector(request.section, where)
        self._locator = Locator(where, connections)
        self._gateway = V2Gateway(self._locator)
        self._watching = V2Gateway(Locator(where, connections))  # a long poll that ends must not move the verbs to another server
        self._path = request.path
        self._member, self._observer, self._timing = request.member, request.observer, request.timing
        self._cards: deque[str] = deque(maxlen=CARDS)
        """The card that was confirmed last and those whose writing went unanswered since: any of them may be there."""
        self._index = 0
        self._watched_index = 0

    def _key(self, key: str) -> str:
        return f"{self._path}/{key}"

    def _call(self, what: str, request: Any, deadline: Deadline) -> tuple[Any, bool]:
        """The answer of etcd or an exception object that is one; its index is remembered."""
        answer, repeated = self._gateway.call(what, request, deadline)
        self._index = max(self._index, _index(answer))
        return answer, repeated

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """One recursive GET; a quorum read if ``fresh``, for an observer, or if the server asked was behind."""
        quorum = fresh or self._observer
        answer = self._get(quorum, deadline)
        if not quorum and _index(answer) < max(self._index, self._watched_index):
            answer = self._get(True, deadline)
        self._index = _index(answer)
        if not self._observer and self._locator.due(MEMBER_LIST_TTLS * self._timing.ttl):
            self._refresh_machines(deadline.within(MEMBER_LIST_S))
        records = {} if isinstance(answer, Exception) else {
            leaf.key.removeprefix(self._path + "/"): Record(leaf.value or "", str(leaf.modifiedIndex))
            for leaf in answer.leaves if not leaf.dir}
        return Snapshot(records, str(_index(answer)))

    def _get(self, quorum: bool, deadline: Deadline) -> Any:
        return self._gateway.call("a read", lambda client: client.read(self._path, recursive=True, quorum=quorum), deadline)[0]

    def _refresh_machines(self, deadline: Deadline) -> None:
        with suppress(StoreUnavailableError, StoreRejectedError):
            reply, _ = self._gateway.call("a member list", lambda client: client.api_execute("/v2/machines", "GET"), deadline)
            if not isinstance(reply, Exception):
                urls = [url.strip() for url in reply.data.decode().split(",")]
                self._locator.learn(urls)
                self._watching.locator.learn(urls)

    # -- permanent keys ------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """PUT with prevExist=false, prevIndex, or no condition."""
        path, condition = self._key(key), _condition(expect)
        answer, repeated = self._call(f"a write of {key}", lambda client: client.write(path, value, **condition), deadline)
        if isinstance(answer, Exception):
            return self._refused(key, repeated)
        return Stored(str(answer.modifiedIndex))

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """DELETE with prevIndex or no condition."""
        if expect.absent:
            return Refused() if key in self.read(fresh=True, deadline=deadline).records else Stored()
        condition = _condition(expect)
        answer, repeated = self._call(f"a removal of {key}", lambda client: client.delete(self._key(key), **condition), deadline)
        if isinstance(answer, Exception) and condition:
            return self._refused(key, repeated)
        return Stored()

    def _refused(self, key: Key, repeated: bool) -> Refused:
        if repeated:
            # The first attempt may have changed the key itself: then its success would look like this refusal.
            raise StoreUnavailableError(f"the answer of etcd to a change of {key} was lost; it may have happened")
        return Refused()

    # -- the card ------------------------------------------------------------------------------------------------------

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """PUT with ttl, every time."""
        path, ttl = self._key(MEMBERS + self._member), self._timing.ttl
        self._cards.append(card)
        self._call("the member card", lambda client: client.write(path, card, ttl=ttl), deadline)
        self._cards = deque([card], CARDS)

    def withdraw(self, *, deadline: Deadline) -> None:
        """DELETE if the card is one that we wrote."""
        path = self._key(MEMBERS + self._member)
        for card in dict.fromkeys(self._cards):
            self._call("removing the card", partial(etcd.Client.delete, key=path, prevValue=card), deadline)
        self._cards.clear()

    # -- the lock ------------------------------------------------------------------------------------------------------

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """PUT with prevExist=false and ttl; if that is refused because the lock names us already, it is extended."""
        path, ttl = self._key(Key.LEADER), self._timing.ttl
        condition = {} if force else {"prevExist": False}
        answer, _ = self._call("the lock", lambda client: client.write(path, self._member, ttl=ttl, **condition), deadline)
        return not isinstance(answer, Exception) or self._extend(deadline) is Renewal.HELD

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """PUT with prevValue=me and ttl."""
        return self._extend(deadline)

    def _extend(self, deadline: Deadline) -> Renewal:
        path, ttl = self._key(Key.LEADER), self._timing.ttl
        answer, _ = self._call("renewing the lock",
                               lambda client: client.write(path, self._member, ttl=ttl, prevValue=self._member), deadline)
        if isinstance(answer, etcd.EtcdKeyNotFound):
            return Renewal.GONE
        return Renewal.TAKEN if isinstance(answer, Exception) else Renewal.HELD

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """DELETE with prevValue=me. Also true if the answer was lost and the lock is found absent."""
        path = self._key(Key.LEADER)
        answer, repeated = self._call("releasing the lock", lambda client: client.delete(path, prevValue=self._member), deadline)
        return not isinstance(answer, Exception) or (repeated and isinstance(answer, etcd.EtcdKeyNotFound))

    # -- the rest ------------------------------------------------------------------------------------------------------

    def clear(self, *, deadline: Deadline) -> None:
        """One recursive DELETE."""
        self._cards.clear()
        self._call("the removal of everything", lambda client: client.delete(self._path, recursive=True), deadline)

    def watch(self, seen: str, *, timeout: float) -> bool:
        """Long polls on the whole scope; the rewriting of an unchanged lock is not a change."""
        waiting, unsure = Deadline.after(timeout), True
        index = int(seen) if seen.isdigit() else 0
        while not waiting.expired and not self._watching.closing.is_set():
            # No poll is trusted for long: its server may be frozen or cut off.
            poll = waiting.within(max(1.0, self._timing.ttl / 10))
            try:
                if unsure and self._newest(poll) < index:
                    return True  # etcd was set back: it would be silent until it comes to this index again
                unsure = False
                event = self._watching.once(lambda client: client.read(
                    self._path, recursive=True, wait=True, waitIndex=index + 1 if index else None), poll)  # noqa: B023
            except etcd.EtcdEventIndexCleared:
                return True
            except (HttpUnavailableError, StoreUnavailableError, etcd.EtcdException):
                if not poll.expired:  # refused, not silent
                    unsure = True
                    self._watching.closing.wait(min(PAUSE_S, waiting.left()))
                continue
            index = max(index, event.modifiedIndex)
            if self._is_change(event):
                self._watched_index = max(self._watched_index, event.modifiedIndex)
                return True
        return False

    def _newest(self, deadline: Deadline) -> int:
        """The index of the server that is watched; raises as it does."""
        try:
            return _index(self._watching.once(lambda client: client.read(self._path), deadline))
        except etcd.EtcdKeyNotFound as error:
            return _index(error)

    def _is_change(self, event: Any) -> bool:
        before = getattr(event, "_prev_node", None)
        written = event.action in ("set", "update", "compareAndSwap")
        same = written and before is not None and before.value == event.value
        return event.key.removeprefix(self._path + "/") in WATCHED and not same

    def retime(self, timing: Timing) -> None:
        """The next write of lock and card brings the new ttl."""
        self._timing = timing

    def close(self) -> None:
        """End everything under way; lock and card live on to the end of their ttl."""
        self._watching.close()
        self._gateway.close()


def _condition(expect: Expect) -> dict[str, Any]:
    if expect.absent:
        return {"prevExist": False}
    if expect.version is None:
        return {}
    known = expect.version.isdigit() and int(expect.version) > 0
    return {"prevIndex": expect.version if known else NO_INDEX}


def _index(answer: Any) -> int:
    """The store's index at the time of an answer, be it a result or an exception."""
    if isinstance(answer, Exception):
        return int((getattr(answer, "payload", None) or {}).get("index", 0))
    return max(int(getattr(answer, "etcd_index", 0)), int(answer.modifiedIndex or 0))
