"""The store ``consul``: every write a transaction on Consul's keys (dcs-layout 4 and 7). One session holds lock and card."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping

from pgcore.plugin import (
    MEMBERS,
    Deadline,
    Expect,
    Instant,
    Json,
    Key,
    Refused,
    Renewal,
    Snapshot,
    Stored,
    StoreRequest,
    StoreUnavailableError,
    Timing,
    now,
)
from pgcore_dcs_consul.client import Client, Gateway, Outcome, encode
from pgcore_dcs_consul.lease import Lease
from pgcore_dcs_consul.section import ConsulSection
from pgcore_dcs_consul.service import Service
from pgcore_dcs_consul.watch import Tree, Watcher, text_of, tree

log = logging.getLogger(__name__)
TRUST_S = 1.0
"""A consistent read that showed our lock under our session stands for a look at it during the renewal that follows."""
TRIES = 3


class ConsulStore:
    """One scope of a Consul as seen by one member; see ``pgcore.dcs.store.Store``."""

    carries: frozenset[Key] = frozenset()

    def __init__(self, request: StoreRequest) -> None:
        assert isinstance(request.section, ConsulSection)
        section = request.section
        self._gateway = Gateway(section)
        self._prefix = request.path.lstrip("/") + "/"
        self._leader, self._card_path = self._prefix + Key.LEADER, self._prefix + MEMBERS + request.member
        self._member, self._observer, self._consistency = request.member, request.observer, section.consistency
        scope = _scope(request.path)
        if section.checks and not request.observer:
            log.warning("consul.checks %s can end the lock before its leader knows: cut off from the others, it writes on "
                        "beside a new primary, up to ttl", ", ".join(section.checks))
        self._lease = Lease(self._gateway, f"{scope}-{request.member}", section.checks, request.timing.ttl)
        self._watcher = Watcher(Gateway(section), self._prefix, request.timing)
        self._service = Service((self._gateway, self._watcher.gateway), section, scope, request.member, request.timing.ttl)
        self._index = 0
        self._card: tuple[str, str] | None = None
        self._card_index = 0
        self._holding = False
        self._deleted = False
        self._trusted: tuple[str, Instant] | None = None

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """One recursive read; ``consul.consistency`` counts for a daemon that does not lead and did not ask for ``fresh``."""
        consistent = fresh or self._observer or self._holding or self._deleted
        found = self._tree("consistent" if consistent else self._consistency, deadline)
        if not consistent and found.index < max(self._index, self._watcher.position):
            consistent, found = True, self._tree("consistent", deadline)
        self._index, self._deleted = found.index, False
        self._look_at_own(found, consistent)
        return Snapshot(found.records, found.revision)

    def _tree(self, consistency: str, deadline: Deadline) -> Tree:
        def get(client: Client) -> Tree:
            return tree(self._prefix, client.kv.get(self._prefix, recurse=True, consistency=consistency))

        return self._gateway.call("a read", get, deadline)[0]

    def _look_at_own(self, found: Tree, consistent: bool) -> None:
        """Note what has become of our lock and card."""
        leader, path = found.records.get(Key.LEADER), MEMBERS + self._member
        self._holding = leader is not None and leader.value == self._member
        self._trusted = None
        session = found.sessions.get(Key.LEADER)
        if consistent and self._holding and session and self._lease.holds(session):
            self._trusted = (session, now())
        card = (found.records[path].value, found.sessions.get(path, "")) if path in found.records else None
        if card != self._card and found.index >= self._card_index:
            self._card = None  # somebody removed or replaced it

    def _get(self, path: str, deadline: Deadline) -> Json:
        """One key, read consistently; None if it is absent."""
        def get(client: Client) -> Json:
            return client.kv.get(path, consistency="consistent")[1]

        return self._gateway.call(f"a read of {path}", get, deadline)[0]

    # -- permanent keys ------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """``set`` or ``cas``, with flags of its own: Consul skips a write that changes nothing, and would keep the version."""
        path, flags = self._prefix + key, secrets.randbits(32)
        operation: Json = {"Verb": "set", "Key": path, "Value": encode(value), "Flags": flags}
        if expect.absent or expect.version is not None:
            operation |= {"Verb": "cas", "Index": 0 if expect.absent else _index(expect)}
        outcome = self._commit(f"a write of {path}", [operation], deadline)
        if outcome.written is not None:
            return Stored(str(outcome.index))
        if not outcome.repeated:
            return Refused()
        # An earlier attempt may have changed the key itself: then its success would look like this refusal.
        found = self._get(path, deadline)
        if found is not None and found["Flags"] == flags and text_of(found) == value:
            self._index = max(self._index, int(found["ModifyIndex"]))
            return Stored(str(found["ModifyIndex"]))
        raise _undecided(path)

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """``delete`` behind the condition, ``check-index``: Consul's own ``delete-cas`` forgives an absent key."""
        path = self._prefix + key
        if expect.absent:
            return Stored() if self._get(path, deadline) is None else Refused()
        operations: list[Json] = [{"Verb": "delete", "Key": path}]
        if expect.version is not None:
            operations.insert(0, {"Verb": "check-index", "Key": path, "Index": _index(expect)})
        outcome = self._commit(f"a removal of {path}", operations, deadline)
        if outcome.written is None and outcome.repeated:
            raise _undecided(path)
        return Refused() if outcome.written is None else Stored()

    def _commit(self, what: str, operations: list[Json], deadline: Deadline) -> Outcome:
        """A transaction of this store: reads are not older than it."""
        outcome = self._gateway.commit(what, operations, deadline)
        self._index = max(self._index, outcome.index)
        self._deleted = self._deleted or any(operation["Verb"] == "delete" for operation in operations)
        return outcome

    # -- the lock ------------------------------------------------------------------------------------------------------

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """``lock`` under our session, extended first; true again for the session that holds it."""
        self._trusted = None

        def attempt(session: str) -> bool:
            steps = [{"Verb": "delete", "Key": self._leader}] if force else []
            steps.append(self._lock(self._leader, self._member, session))
            return self._commit("the lock", steps, deadline).written is not None

        self._holding = self._lease.under(attempt, deadline)
        return self._holding

    @staticmethod
    def _lock(path: str, value: str, session: str) -> Json:
        return {"Verb": "lock", "Key": path, "Value": encode(value), "Session": session}

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """Extend the session and see that the lock is still ours under it; move it there from another session of ours.

        A consistent read of this object less than ``TRUST_S`` ago counts as seeing, once.
        """
        trusted, self._trusted = self._trusted, None

        def attempt(session: str) -> Renewal | None:
            if trusted is not None and trusted[0] == session and now() - trusted[1] < TRUST_S:
                return Renewal.HELD
            found = self._get(self._leader, deadline)
            if found is None or not found.get("Session"):
                return Renewal.GONE
            if text_of(found) != self._member:
                return Renewal.TAKEN
            if found["Session"] == session:
                return Renewal.HELD
            # Left by an earlier process or ttl. In one transaction: nobody can take it in between.
            moved = self._commit("taking over the lock", [
                {"Verb": "delete-cas", "Key": self._leader, "Index": found["ModifyIndex"]},
                self._lock(self._leader, self._member, session)], deadline)
            return Renewal.HELD if moved.written is not None else None

        result = self._lease.under(attempt, deadline)
        self._holding = result is Renewal.HELD
        return result

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """``delete`` the version that names us. Also true if the answer was lost and the lock is found absent."""
        self._trusted, self._holding, repeated = None, False, False
        for _ in range(TRIES):
            found = self._get(self._leader, deadline)
            if found is None or not found.get("Session") or text_of(found) != self._member:
                return repeated and found is None
            outcome = self._commit("releasing the lock", [
                {"Verb": "check-index", "Key": self._leader, "Index": found["ModifyIndex"]},
                {"Verb": "delete", "Key": self._leader}], deadline)
            if outcome.written is not None:
                return True
            repeated = repeated or outcome.repeated
        raise StoreUnavailableError(f"{self._leader} changed {TRIES} times while it was to be released")

    # -- the card ------------------------------------------------------------------------------------------------------

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """``lock`` with the session, only if the card or the session changed; what another session left is deleted with it.

        The session is extended unless that was just done. The service follows the card.
        """

        def attempt(session: str) -> bool:
            if self._card != (card, session):
                self._card = None
                lock = self._lock(self._card_path, card, session)
                outcome = self._commit("the member card", [lock], deadline)
                if outcome.written is None:
                    outcome = self._commit("the member card", [{"Verb": "delete", "Key": self._card_path}, lock], deadline)
                self._card, self._card_index = (card, session), outcome.index
            return True

        self._lease.under(attempt, deadline, extend=False)
        self._service.follow(card, deadline)

    def withdraw(self, *, deadline: Deadline) -> None:
        """``delete`` if the card is under the session we wrote it with."""
        if self._card is None:
            return
        self._commit("removing the card", [{"Verb": "check-session", "Key": self._card_path, "Session": self._card[1]},
                                           {"Verb": "delete", "Key": self._card_path}], deadline)
        self._card = None
        self._service.leave(deadline)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def clear(self, *, deadline: Deadline) -> None:
        """One recursive delete."""
        self._gateway.call("clearing the scope", lambda client: client.kv.delete(self._prefix, recurse=True), deadline)
        self._deleted = True

    def watch(self, seen: str, *, timeout: float) -> bool:
        """See ``Store.watch``; blocking queries on the whole scope."""
        return self._watcher.watch(seen, timeout)

    def retime(self, timing: Timing) -> None:
        """A changed ttl leads to a new session, under which ``renew`` and ``announce`` write lock and card again."""
        self._lease.ttl = self._service.ttl = timing.ttl
        self._watcher.retime(timing)

    def close(self) -> None:
        """End everything under way; the session runs on to its end."""
        self._watcher.close()
        self._gateway.close()


def _scope(path: str) -> str:
    """The scope in a path, which may end in the number of a group: ``/namespace/scope/group``."""
    *above, last = path.strip("/").split("/")
    return above[-1] if last.isdigit() and len(above) > 1 else last


def _index(expect: Expect) -> int:
    """The index expected. One that no key can have where the version is not one of ours: 0 would mean absent."""
    text = expect.version or ""
    return int(text) if text.isdigit() and int(text) > 0 else 1


def _undecided(path: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the answer of Consul to a change of {path} was lost; it may have happened")
