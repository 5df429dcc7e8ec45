"""The lock and the card: two ephemeral znodes of a session that nothing but these verbs extends.

Taking and renewing the lock opens a new connection for the session. That is what the leader of the ensemble hears of at once,
where an ordinary request is known to the asked server alone for half a tick. Over the same connection goes a write, so that a
leader without a majority cannot confirm. Between the verbs nothing is sent: a hung agent's session ends, and so does that of one
whose threads live on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from kazoo.exceptions import NodeExistsError, NoNodeError
from kazoo.protocol.serialization import Delete, Exists, GetData, SetData, Transaction
from kazoo.protocol.states import ZnodeStat

from pgcore.plugin import Deadline, Instant, Renewal, StoreRejectedError, StoreUnavailableError, now
from pgcore_dcs_zookeeper.ensemble import Ensemble
from pgcore_dcs_zookeeper.line import Line, LineLostError, Reply
from pgcore_dcs_zookeeper.session import Attempts, Session
from pgcore_dcs_zookeeper.tree import Tree, text

T = TypeVar("T")
TAKE_OVER_S = 1.0
"""A lock is taken over from an earlier session of the same name only if looking and replacing took no longer."""


class Lease:
    """The verbs on lock and card of one member."""

    def __init__(self, ensemble: Ensemble, auth: Mapping[str, str], tree: Tree, member: str, ttl: int,
                 closing: threading.Event) -> None:
        self.ttl = ttl
        self._ensemble, self._auth, self._tree, self._member = ensemble, auth, tree, member
        self._attempts = Attempts(ensemble, closing)
        self._session = Session(ensemble, auth, ttl)
        self._mine: set[int] = set()
        self._card: tuple[str, int] | None = None
        self.zxid = 0
        """How far the ensemble's history was when it answered last; reads must not be older."""

    @property
    def _young_s(self) -> float:
        """A connection opened this long ago, by the renewal of the same heartbeat, will do for the card."""
        return min(1.0, self.ttl / 10)

    def _leased(self, what: str, action: Callable[[Deadline], T], deadline: Deadline, *, anew: bool = False) -> T:
        """Extend the session, or begin one, and act in it. ``action`` may be repeated. ``anew``: counts from this call on."""
        if self._session.timeout_s != self.ttl:  # the old one keeps its nodes until they are written again under the new one
            self._session.close()
            self._session = Session(self._ensemble, self._auth, self.ttl)

        def attempt(share: Deadline) -> T:
            line = self._session.line(share, no_older_than_s=0.0 if anew else self._young_s)
            self._mine.add(line.ticket.number)
            self._check_timeout(line)
            return action(share)

        return self._attempts.run(what, self._session, attempt, deadline)

    def _check_timeout(self, line: Line) -> None:
        if line.ticket.timeout_s < self.ttl:
            raise StoreRejectedError(
                f"ZooKeeper at {line.url} ends sessions after {line.ticket.timeout_s:g} s at the latest, "
                f"before ttl ({self.ttl} s): raise its maxSessionTimeout (20 times tickTime by default) or lower ttl")

    @property
    def _owner(self) -> int:
        return self._session.ticket.number if self._session.ticket is not None else 0

    def _call(self, requests: list[object], deadline: Deadline) -> list[Reply]:
        replies = self._session.call(requests, deadline)
        self.zxid = max(self.zxid, *(reply.zxid for reply in replies))
        return replies

    # -- the lock ------------------------------------------------------------------------------------------------------

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """Create the ephemeral. That it exists already is a yes if it is this process's own."""

        def attempt(share: Deadline) -> bool:
            while True:
                began = now()
                created, found = self._call([self._tree.create(self._tree.leader, self._member, ephemeral=True),
                                             GetData(self._tree.leader, False)], share)
                if isinstance(created.result, NoNodeError):
                    self._session.make_parents(self._tree, self._tree.leader, share)
                elif not created.failed:
                    return True
                elif not found.failed:
                    value, stat = found.result
                    if text(value) == self._member and stat.ephemeralOwner == self._owner:
                        return True
                    if force or (text(value) == self._member and stat.ephemeralOwner in self._mine):
                        return self._replace_lock(stat, began, share)
                    return False

        return self._leased("the acquisition of the lock", attempt, deadline, anew=True)

    def renew(self, deadline: Deadline) -> Renewal:
        """A write of nothing and a look at the lock, over a new connection of the session."""

        def attempt(share: Deadline) -> Renewal:
            began = now()
            found = self._call([self._tree.barrier(), GetData(self._tree.leader, False)], share)[1]
            if found.failed:
                return Renewal.GONE
            value, stat = found.result
            if text(value) != self._member:
                return Renewal.TAKEN
            if stat.ephemeralOwner == self._owner or self._replace_lock(stat, began, share):
                return Renewal.HELD
            return self._look(share)

        return self._leased("the renewal of the lock", attempt, deadline, anew=True)

    def _look(self, deadline: Deadline) -> Renewal:
        found = self._call([GetData(self._tree.leader, False)], deadline)[0]
        if found.failed:
            return Renewal.GONE
        value, stat = found.result
        return Renewal.HELD if (text(value), stat.ephemeralOwner) == (self._member, self._owner) else Renewal.TAKEN

    def _replace_lock(self, stat: ZnodeStat, began: Instant, deadline: Deadline) -> bool:
        """Put our lock in the place of one seen since ``began``; false if that has changed.

        ZooKeeper compares versions, which begin anew with each creation: had this process slept since it looked, the lock might
        be another's by now. So what took too long is undone.
        """
        replies = self._call([Transaction([Delete(self._tree.leader, stat.version),
                                           self._tree.create(self._tree.leader, self._member, ephemeral=True)])], deadline)
        if any(isinstance(result, Exception) for result in replies[0].result):
            return False
        if now() - began > TAKE_OVER_S:
            self._session.end(deadline)
            self._card = None
            raise StoreUnavailableError("taking over the lock of an earlier session took so long that it may have been "
                                        "another's; it was given up")
        return True

    def release(self, deadline: Deadline) -> bool:
        """End the session, which removes exactly what is ours, the card as well."""
        ended = False

        def attempt(share: Deadline) -> bool:
            nonlocal ended
            began = now()
            found = self._call([self._tree.barrier(), GetData(self._tree.leader, False)], share)[1]
            if found.failed:
                return ended
            value, stat = found.result
            if text(value) != self._member:
                return ended
            if stat.ephemeralOwner != self._owner and not self._replace_lock(stat, began, share):
                raise LineLostError("store://", "the lock changed while it was looked at", sent=False)
            ended, self._card = True, None
            self._session.end(share)
            return True

        return self._leased("the release of the lock", attempt, deadline)

    # -- the card ------------------------------------------------------------------------------------------------------

    def announce(self, card: str, deadline: Deadline) -> None:
        """Write the ephemeral unless it stands there as it is; replace one of another session of this name."""

        def attempt(share: Deadline) -> None:
            path = self._tree.card
            if self._card == (card, self._owner):
                found = self._call([self._tree.barrier(), Exists(path, False)], share)[1].result
                if isinstance(found, ZnodeStat) and found.ephemeralOwner == self._owner:
                    return
            self._card = None
            while True:
                created, found = (reply.result for reply in self._call(
                    [self._tree.create(path, card, ephemeral=True), Exists(path, False)], share))
                if isinstance(created, NoNodeError):
                    self._session.make_parents(self._tree, path, share)
                elif not isinstance(created, NodeExistsError) or self._overwrite(found, card, share):
                    break
            self._card = (card, self._owner)

        self._leased("the member card", attempt, deadline)

    def _overwrite(self, found: object, card: str, deadline: Deadline) -> bool:
        """Write over a card found as ``found``; false if it changed meanwhile."""
        if not isinstance(found, ZnodeStat):
            return False
        path = self._tree.card
        if found.ephemeralOwner == self._owner:
            return not self._call([SetData(path, card.encode(), -1)], deadline)[0].failed
        results = self._call([Transaction([Delete(path, -1), self._tree.create(path, card, ephemeral=True)])], deadline)[0].result
        return not any(isinstance(result, Exception) for result in results)

    def withdraw(self, deadline: Deadline) -> None:
        """Delete the card if it belongs to a session of this process."""
        if not self._mine:
            return

        def attempt(share: Deadline) -> None:
            found = self._call([self._tree.barrier(), Exists(self._tree.card, False)], share)[1].result
            if isinstance(found, ZnodeStat) and found.ephemeralOwner in self._mine:
                self._call([Delete(self._tree.card, -1)], share)
            self._card = None

        self._leased("the withdrawal of the member card", attempt, deadline)

    def close(self) -> None:
        """Close the connection; lock and card stay until their session ends."""
        self._session.close()
