"""The stores ``zookeeper`` and ``exhibitor``: every verb a few requests (dcs-layout 4 and 8). See the README for the lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError, NotEmptyError, ZookeeperError
from kazoo.protocol.serialization import Delete, Exists, GetChildren, GetData, SetData
from kazoo.protocol.states import ZnodeStat

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
    StoreRequest,
    StoreUnavailableError,
    Timing,
)
from pgcore_dcs_zookeeper.ensemble import Ensemble
from pgcore_dcs_zookeeper.lease import Lease
from pgcore_dcs_zookeeper.line import Reply
from pgcore_dcs_zookeeper.section import ExhibitorSection, ZooKeeperSection, credentials
from pgcore_dcs_zookeeper.session import Attempts, Session
from pgcore_dcs_zookeeper.tree import NO_SYNC, WATCHED, Tree, made, text, version_of
from pgcore_dcs_zookeeper.watch import Watcher, revision

T = TypeVar("T")
LISTING_S = 0.5
"""Time a heartbeat spends on a list of servers that is due."""


class ZooKeeperStore:
    """One scope of a ZooKeeper ensemble as seen by one member; see ``pgcore.dcs.store.Store``."""

    carries: frozenset[Key] = frozenset()

    def __init__(self, request: StoreRequest) -> None:
        section = request.section
        assert isinstance(section, ZooKeeperSection | ExhibitorSection)
        self._ensemble = Ensemble(section)
        self._tree = Tree(self._ensemble.chroot, request.path, request.member, section, self._ensemble.name)
        self._closing = threading.Event()
        self._attempts = Attempts(self._ensemble, self._closing)
        auth, ttl = credentials(section, self._ensemble.name), request.timing.ttl
        self._data = Session(self._ensemble, auth, ttl)
        self._lease = Lease(self._ensemble, auth, self._tree, request.member, ttl, self._closing)
        self._watcher = Watcher(self._ensemble, auth, self._tree, ttl, self._closing)
        self._zxid = 0

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """Every key in two round trips; behind a write of nothing if ``fresh``, or if the server is behind what was shown."""

        def attempt(share: Deadline) -> Snapshot:
            shown = max(self._zxid, self._lease.zxid, self._watcher.zxid)
            replies, at = self._everything(fresh, share)
            if not fresh and at < shown:
                replies, at = self._everything(True, share)
            if at < shown:  # proven by a majority: the store was set back, so what was shown counts no more
                self._lease.zxid = self._watcher.zxid = 0
            self._zxid = at
            return _snapshot(replies, at)

        snapshot = self._attempts.run("a read", self._data, attempt, deadline)
        self._ensemble.refresh(deadline.within(LISTING_S))
        return snapshot

    def _everything(self, proven: bool, deadline: Deadline) -> tuple[dict[str, Reply], int]:
        """Replies by key, and where the server's history stood at the oldest of them."""
        keys = list(Key)
        requests: list[object] = [self._tree.barrier()] if proven else []
        requests += [GetChildren(self._tree.members, False), *(GetData(self._tree.path(key), False) for key in keys)]
        replies = self._data.call(requests, deadline)[len(requests) - len(keys) - 1:]
        found = {str(key): reply for key, reply in zip(keys, replies[1:], strict=True)}
        at = min(reply.zxid for reply in replies)
        names = [] if replies[0].failed else sorted(replies[0].result)
        if names:
            cards = self._data.call([GetData(self._tree.path(MEMBERS + name), False) for name in names], deadline)
            found |= {MEMBERS + name: reply for name, reply in zip(names, cards, strict=True)}
        return found, at

    def watch(self, seen: str, *, timeout: float) -> bool:
        """See ``Store.watch``."""
        return self._watcher.watch(seen, timeout)

    # -- permanent keys ------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Set or create; with a version, set that version of the znode whose creation it names."""
        if expect.absent:
            return self._create(key, value, deadline)
        if expect.version is not None:
            return self._set(key, value, expect.version, deadline)
        path = self._tree.path(key)

        def attempt(share: Deadline) -> Stored:
            while True:
                stat = self._one(SetData(path, value.encode(), -1), share).result
                if isinstance(stat, ZnodeStat):
                    return Stored(version_of(stat))
                created = self._made(path, value, share)
                if created is not None:
                    return created

        return self._decided(f"a write of {path}", attempt, deadline)

    def _made(self, path: str, value: str, deadline: Deadline) -> Stored | None:
        """Create a znode, with those above it; None if it exists."""
        while True:
            reply = self._one(self._tree.create(path, value), deadline)
            if not reply.failed:
                return Stored(made(reply.zxid, 0))
            if isinstance(reply.result, NodeExistsError):
                return None
            self._data.make_parents(self._tree, path, deadline)

    def _create(self, key: Key, value: str, deadline: Deadline) -> Stored | Refused:
        path = self._tree.path(key)
        created = self._decided(f"the creation of {path}", lambda share: self._made(path, value, share), deadline,
                                repeatable=False)
        if created is None and key is Key.SYNC:
            found = self._found(path, deadline)
            if found is not None and text(found[0]) == NO_SYNC:
                return self._set(key, value, version_of(found[1]), deadline)
        return created or Refused()

    def _set(self, key: Key, value: str, version: str, deadline: Deadline) -> Stored | Refused:
        path = self._tree.path(key)
        found = self._found(path, deadline)
        if found is None or version_of(found[1]) != version:
            return Refused()
        request = SetData(path, value.encode(), found[1].version)
        stat = self._decided(f"a write of {path}", lambda share: self._one(request, share), deadline, repeatable=False).result
        if not isinstance(stat, ZnodeStat):
            return Refused()
        if stat.czxid != found[1].czxid:
            raise StoreUnavailableError(f"{path} was deleted and created again while it was written; read it again")
        return Stored(version_of(stat))

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Delete the znode; ``sync`` is emptied in its place."""
        path = self._tree.path(key)
        if not expect.absent and expect.version is None:
            request = SetData(path, NO_SYNC.encode(), -1) if key is Key.SYNC else Delete(path, -1)
            self._decided(f"the deletion of {path}", lambda share: self._one(request, share), deadline)
            return Stored()
        found = self._found(path, deadline)
        gone = found is None or (key is Key.SYNC and text(found[0]) == NO_SYNC)
        if expect.absent or gone or found is None:
            return Stored() if expect.absent and gone else Refused()
        if key is Key.SYNC:
            return Stored() if isinstance(self._set(key, NO_SYNC, expect.version or "", deadline), Stored) else Refused()
        if version_of(found[1]) != expect.version:
            return Refused()
        removal = Delete(path, found[1].version)
        reply = self._decided(f"the deletion of {path}", lambda share: self._one(removal, share), deadline, repeatable=False)
        return Refused() if reply.failed else Stored()

    def _found(self, path: str, deadline: Deadline) -> tuple[bytes, ZnodeStat] | None:
        """A znode as a majority has it now."""
        reply = self._decided(f"a read of {path}", lambda share: self._data.call(
            [self._tree.barrier(), GetData(path, False)], share)[1], deadline)
        return None if reply.failed else reply.result

    def _one(self, request: object, deadline: Deadline) -> Reply:
        """A request whose failure, if it fails, is one that conditions or missing znodes explain."""
        [reply] = self._data.call([request], deadline)
        self._zxid = max(self._zxid, reply.zxid)
        if reply.failed and not isinstance(reply.result, BadVersionError | NodeExistsError | NoNodeError):
            raise StoreUnavailableError(f"ZooKeeper refused a request: {type(reply.result).__name__} {reply.result}")
        return reply

    def _decided(self, what: str, call: Callable[[Deadline], T], deadline: Deadline, *, repeatable: bool = True) -> T:
        return self._attempts.run(what, self._data, call, deadline, repeatable=repeatable)

    # -- the lease -----------------------------------------------------------------------------------------------------

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """See ``Lease.announce``."""
        self._lease.announce(card, deadline)

    def withdraw(self, *, deadline: Deadline) -> None:
        """See ``Lease.withdraw``."""
        self._lease.withdraw(deadline)

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """See ``Lease.acquire``."""
        return self._lease.acquire(force=force, deadline=deadline)

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """See ``Lease.renew``."""
        return self._lease.renew(deadline)

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """See ``Lease.release``."""
        return self._lease.release(deadline)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def clear(self, *, deadline: Deadline) -> None:
        """Delete the znodes from the leaves up, those of unknown names and of other groups below the scope included."""

        def attempt(share: Deadline) -> None:
            while True:
                self._data.call([self._tree.barrier()], share)
                self._remove(self._tree.root, share)
                if isinstance(self._one(Exists(self._tree.root, False), share).result, NoNodeError):
                    return

        self._decided("the removal of everything", attempt, deadline)

    def _remove(self, path: str, deadline: Deadline) -> None:
        [children] = self._data.call([GetChildren(path, False)], deadline)
        if children.failed:
            return
        for name in children.result:
            self._remove(f"{path}/{name}", deadline)
        [reply] = self._data.call([Delete(path, -1)], deadline)
        if isinstance(reply.result, ZookeeperError) and not isinstance(reply.result, NoNodeError | NotEmptyError):
            raise StoreUnavailableError(f"ZooKeeper refused to delete {path}: {type(reply.result).__name__}")

    def retime(self, timing: Timing) -> None:
        """A changed ttl leads to a new session, under which ``renew`` and ``announce`` write lock and card again."""
        self._lease.ttl = self._watcher.ttl = timing.ttl

    def close(self) -> None:
        """End everything under way; lock and card stay until their session ends."""
        self._closing.set()
        self._watcher.close()
        self._data.close(farewell=True)
        self._lease.close()


def _snapshot(replies: Mapping[str, Reply], at: int) -> Snapshot:
    records, stands = {}, {}
    for path, reply in replies.items():
        if reply.failed:
            continue
        value, stat = reply.result
        if path in WATCHED:
            stands[path] = stat.mzxid
        if path != Key.SYNC or text(value) != NO_SYNC:
            records[path] = Record(text(value), version_of(stat))
    return Snapshot(records, revision(stands, at))
