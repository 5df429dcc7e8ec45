"""The store ``etcd3``: every verb a transaction of etcd's v3 API (dcs-layout 4 and 6). One lease holds the lock and the card."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pgcore.plugin import (
    MEMBERS,
    Deadline,
    Expect,
    Instant,
    Json,
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
    now,
)
from pgcore_dcs_etcd.attempts import CARDS
from pgcore_dcs_etcd.discovery import Locator, connector
from pgcore_dcs_etcd.section import EtcdSection, place
from pgcore_dcs_etcd.v3_gateway import Answer, Gateway, LeaseLostError, decode, encode
from pgcore_dcs_etcd.v3_watch import Watcher

MEMBER_LIST_TTLS = 10
"""The list of servers is refreshed every this many ttl (config 3.1)."""
MEMBER_LIST_S = 1.0
TRUST_S = 1.0
"""A linearizable read that showed our lock under our lease stands for a look at it during the renewal that follows."""
LEASE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A key as etcd keeps it."""

    value: str
    lease: str


class Etcd3Store:
    """One scope of an etcd cluster as seen by one member; see ``pgcore.dcs.store.Store``."""

    carries: frozenset[Key] = frozenset()

    def __init__(self, request: StoreRequest) -> None:
        assert isinstance(request.section, EtcdSection)
        where = place(request.section, "etcd3")
        connections = connector(request.section, where)
        self._locator = Locator(where, connections)
        self._gateway = Gateway(self._locator)
        self._prefix = request.path + "/"
        self._leader = self._prefix + Key.LEADER
        self._member, self._observer, self._ttl = request.member, request.observer, request.timing.ttl
        self._watcher = Watcher(Gateway(self._locator), self._prefix, _silence_s(request.timing))
        self._revision = 0
        self._lease: str | None = None
        self._lease_ttl = 0
        self._lease_extended_at: Instant | None = None
        self._card: tuple[str, str] | None = None
        self._cards: deque[str] = deque(maxlen=CARDS)
        """The card that was confirmed last and those whose writing went unanswered since: any of them may be there."""
        self._card_revision = 0
        self._holding = False
        self._trusted: tuple[str, Instant] | None = None

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """One range request. Serializable only for a daemon that does not lead and did not ask for ``fresh``."""
        refresh = not self._observer and self._locator.due(MEMBER_LIST_TTLS * self._ttl)
        linearizable = fresh or self._observer or self._holding
        answer = self._range(serializable=not linearizable, deadline=deadline)
        if not linearizable and answer.revision < max(self._revision, self._watcher.position):
            linearizable, answer = True, self._range(serializable=False, deadline=deadline)
        if answer.revision < self._revision:  # only a store restored from a backup goes back
            self._watcher.reset()
        self._revision = answer.revision
        snapshot = self._snapshot(answer, linearizable)
        if refresh:
            self._refresh_members(deadline.within(MEMBER_LIST_S))
        return snapshot

    def _range(self, *, serializable: bool, deadline: Deadline) -> Answer:
        return self._gateway.call("/kv/range", self._everything() | ({"serializable": True} if serializable else {}), deadline)

    def _everything(self) -> Json:
        end = self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1)
        return {"key": encode(self._prefix), "range_end": encode(end)}

    def _snapshot(self, answer: Answer, linearizable: bool) -> Snapshot:
        """The records, noting on the way what has become of our lock and card."""
        records, leases = {}, {}
        for kv in answer.body.get("kvs", ()):
            path = decode(kv["key"]).removeprefix(self._prefix)
            records[path] = Record(decode(kv.get("value", "")), str(kv["mod_revision"]))
            leases[path] = str(kv.get("lease", "0"))
        leader, path = records.get(Key.LEADER), MEMBERS + self._member
        self._holding = leader is not None and leader.value == self._member
        self._trusted = None
        if self._lease and linearizable and self._holding and leases[Key.LEADER] == self._lease:
            self._trusted = (self._lease, now())
        card = (records[path].value, leases[path]) if path in records else None
        if card != self._card and answer.revision >= self._card_revision:
            self._card = None  # somebody removed or replaced it
        return Snapshot(records, str(answer.revision))

    def _refresh_members(self, deadline: Deadline) -> None:
        with suppress(StoreUnavailableError, StoreRejectedError):
            answer = self._gateway.call("/cluster/member/list", {}, deadline)
            self._locator.learn(url for member in answer.body.get("members", ()) for url in member.get("clientURLs", ()))

    # -- permanent keys ------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """A transaction on MOD or CREATE, or a plain put."""
        path = self._prefix + key
        if not expect.absent and expect.version is None:
            return Stored(str(self._wrote(self._gateway.call("/kv/put", _put(path, value), deadline))))
        answer = self._change(path, expect, {"request_put": _put(path, value)}, deadline)
        return Refused() if answer is None else Stored(str(answer.revision))

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """A transaction on MOD or CREATE, or a plain delete."""
        path = self._prefix + key
        if not expect.absent and expect.version is None:
            self._wrote(self._gateway.call("/kv/deleterange", {"key": encode(path)}, deadline))
            return Stored()
        answer = self._change(path, expect, {"request_delete_range": {"key": encode(path)}}, deadline)
        return Refused() if answer is None else Stored()

    def _change(self, path: str, expect: Expect, operation: Json, deadline: Deadline) -> Answer | None:
        """Carry out an operation if the key is as expected; None if it is not."""
        if expect.absent:
            compare = {"target": "CREATE", "key": encode(path), "create_revision": "0"}
        else:
            compare = {"target": "MOD", "key": encode(path), "mod_revision": str(_revision(expect.version))}
        answer = self._txn(compare, operation, path, deadline)
        if answer.body.get("succeeded"):
            return answer
        if answer.repeated:
            # The first attempt may have changed the key itself: then its success would look like this refusal.
            raise StoreUnavailableError(f"the answer of etcd to a change of {path} was lost; it may have happened")
        return None

    def _txn(self, compare: Json, operation: Json, path: str, deadline: Deadline) -> Answer:
        """If ``compare`` holds do ``operation``, else read ``path``."""
        body = {"compare": [compare], "success": [operation], "failure": [{"request_range": {"key": encode(path)}}]}
        answer = self._gateway.call("/kv/txn", body, deadline)
        self._wrote(answer)
        return answer

    def _wrote(self, answer: Answer) -> int:
        self._revision = max(self._revision, answer.revision)
        return answer.revision

    # -- the lease -----------------------------------------------------------------------------------------------------

    def _keep_lease(self, deadline: Deadline) -> str:
        """Extend our lease, or get a new one if there is none, it has expired, or the ttl changed."""
        if self._lease is not None and self._lease_ttl == self._ttl:
            answer = self._gateway.call("/lease/keepalive", {"ID": self._lease}, deadline)
            if int(answer.body.get("TTL", 0)) > 0:
                self._lease_extended_at = now()
                return self._lease
        self._lease = None
        answer = self._gateway.call("/lease/grant", {"TTL": str(self._ttl), "ID": "0"}, deadline)
        self._lease, self._lease_ttl, self._lease_extended_at = str(answer.body["ID"]), self._ttl, now()
        return self._lease

    def _leased(self, attempt: Callable[[str], bool | Renewal | None], deadline: Deadline) -> bool | Renewal:
        """Do something under an extended lease; again under a new one if the lease ends meanwhile (LeaseLostError or None)."""
        for _ in range(LEASE_TRIES):
            try:
                result = attempt(self._keep_lease(deadline))
                if result is not None:
                    return result
            except LeaseLostError:
                self._lease = None
        raise StoreUnavailableError(f"the lease of {self._member} ended {LEASE_TRIES} times while it was used")

    # -- the lock ------------------------------------------------------------------------------------------------------

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """CREATE = 0 -> put with the lease, which is extended first; refused but ours under this lease is true as well."""
        self._trusted = None

        def attempt(lease: str) -> bool:
            put = _put(self._leader, self._member, lease)
            if force:
                self._wrote(self._gateway.call("/kv/put", put, deadline))
                return True
            compare = {"target": "CREATE", "key": encode(self._leader), "create_revision": "0"}
            answer = self._txn(compare, {"request_put": put}, self._leader, deadline)
            return bool(answer.body.get("succeeded")) or _found(answer) == Found(self._member, lease)

        self._holding = self._leased(attempt, deadline) is True
        return self._holding

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """Extend the lease and see that the lock is still ours under it; VALUE = me -> put if it is under another lease.

        A linearizable read of this object less than ``TRUST_S`` ago counts as seeing, once.
        """
        trusted, self._trusted = self._trusted, None

        def attempt(lease: str) -> Renewal | None:
            if trusted is not None and trusted[0] == lease and now() - trusted[1] < TRUST_S:
                return Renewal.HELD
            answer = self._gateway.call("/kv/range", {"key": encode(self._leader)}, deadline)
            self._wrote(answer)
            kvs = answer.body.get("kvs", ())
            found = _key_found(kvs)
            if found is not None and found.value == self._member and found.lease != lease:
                compare = {"target": "VALUE", "key": encode(self._leader), "value": encode(self._member)}
                answer = self._txn(compare, {"request_put": _put(self._leader, self._member, lease)}, self._leader, deadline)
                found = Found(self._member, lease) if answer.body.get("succeeded") else _found(answer)
            if found is None:
                return Renewal.GONE
            return Renewal.HELD if found.value == self._member else Renewal.TAKEN

        result = self._leased(attempt, deadline)
        assert isinstance(result, Renewal)
        self._holding = result is Renewal.HELD
        return result

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """VALUE = me -> delete. Also true if the answer was lost and the lock is found absent."""
        self._trusted, self._holding = None, False
        compare = {"target": "VALUE", "key": encode(self._leader), "value": encode(self._member)}
        answer = self._txn(compare, {"request_delete_range": {"key": encode(self._leader)}}, self._leader, deadline)
        return bool(answer.body.get("succeeded")) or (answer.repeated and _found(answer) is None)

    # -- the card ------------------------------------------------------------------------------------------------------

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """Put with the lease, only if the card or the lease changed; the lease is extended unless that was just done."""

        def attempt(lease: str) -> bool:
            if self._card != (card, lease):
                self._card = None
                self._cards.append(card)
                answer = self._gateway.call("/kv/put", _put(self._prefix + MEMBERS + self._member, card, lease), deadline)
                self._card, self._card_revision = (card, lease), self._wrote(answer)
                self._cards = deque([card], CARDS)
            return True

        just_extended = (self._lease_ttl == self._ttl and self._lease_extended_at is not None
                         and now() - self._lease_extended_at < min(1.0, self._ttl / 10))
        if just_extended and self._lease is not None:
            with suppress(LeaseLostError):
                attempt(self._lease)
                return
            self._lease = None
        self._leased(attempt, deadline)

    def withdraw(self, *, deadline: Deadline) -> None:
        """VALUE = a card we wrote -> delete."""
        path = self._prefix + MEMBERS + self._member
        for card in dict.fromkeys(self._cards):
            compare = {"target": "VALUE", "key": encode(path), "value": encode(card)}
            self._txn(compare, {"request_delete_range": {"key": encode(path)}}, path, deadline)
        self._card = None
        self._cards.clear()

    # -- the rest ------------------------------------------------------------------------------------------------------

    def clear(self, *, deadline: Deadline) -> None:
        """One deletion of the range."""
        self._trusted, self._holding, self._card = None, False, None
        self._cards.clear()
        self._wrote(self._gateway.call("/kv/deleterange", self._everything(), deadline))

    def watch(self, seen: str, *, timeout: float) -> bool:
        """See ``Store.watch``; a kept-open stream on the whole scope."""
        return self._watcher.watch(_revision(seen), timeout)

    def retime(self, timing: Timing) -> None:
        """A changed ttl leads to a new lease, under which ``renew`` and ``announce`` write lock and card again."""
        self._ttl = timing.ttl
        self._watcher.silence_s = _silence_s(timing)

    def close(self) -> None:
        """End everything under way; the lease runs on to its end."""
        self._watcher.close()
        self._gateway.close()


def _silence_s(timing: Timing) -> float:
    """After this long without a sign of life the server behind the watch is asked for one."""
    return max(1.0, timing.ttl / 10)


def _revision(text: str | None) -> int:
    """The revision of a version of ours; one that no key has for any other text, as 0 would mean absent."""
    return int(text) if text and text.isdigit() and int(text) > 0 else -1


def _put(path: str, value: str, lease: str = "0") -> Json:
    return {"key": encode(path), "value": encode(value), "lease": lease}


def _key_found(kvs: Json) -> Found | None:
    return Found(decode(kvs[0].get("value", "")), str(kvs[0].get("lease", "0"))) if kvs else None


def _found(answer: Answer) -> Found | None:
    """The key a refused transaction read."""
    responses = answer.body.get("responses") or [{}]
    return _key_found(responses[0].get("response_range", {}).get("kvs", ()))
