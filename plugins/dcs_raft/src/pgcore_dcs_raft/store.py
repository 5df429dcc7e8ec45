"""The verbs of the Raft store: each is one command to the machine. What the commands mean is said in ``machine``."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping

from pgcore.plugin import (
    MEMBERS,
    Deadline,
    Expect,
    Json,
    Key,
    Refused,
    Renewal,
    Snapshot,
    Stored,
    StoreRejectedError,
    StoreRequest,
    StoreUnavailableError,
    Timing,
)
from pgcore_dcs_raft.node import RaftNode
from pgcore_dcs_raft.plugin import RaftSection


class RaftStore:
    """One scope of the replicated dictionary as seen by one member (``pgcore.dcs.store.Store``).

    A write, and a fresh read, is an entry of the Raft log that a majority has and this node has applied. Another read
    shows the local state if this node was in touch with a leader within ``contact_s``, else waits for the next contact.
    """

    carries: frozenset[Key] = frozenset()

    def __init__(self, node: RaftNode, request: StoreRequest, *, contact_s: float, owns_node: bool = True) -> None:
        self._node, self._owns_node = node, owns_node
        self._path, self._member, self._observer = request.path, request.member, request.observer
        self._timing, self._contact_s = request.timing, contact_s
        self._session = secrets.token_hex(8)
        self._number = 0
        self._verbs = threading.Lock()
        self._closed = False

    @classmethod
    def opened(cls, section: RaftSection, request: StoreRequest) -> RaftStore:
        """Start this process's node. Raises ConfigError; does not wait for the other members."""
        node = RaftNode(section, request.timing, observer=request.observer)
        return cls(node, request, contact_s=min(section.max_timeout, request.timing.retry_timeout))

    # -- reads ---------------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """See ``Store.read``. Observers always read fresh: they have no state to lose and are asked by people."""
        self._check_open()
        if fresh or self._observer:
            self._node.submit({"op": "barrier"}, deadline)
            contact = self._node.clock()
        else:
            contact = self._node.in_touch(self._contact_s, deadline)
        records, revision = self._node.machine.records(self._path, contact)
        return Snapshot(records, revision)

    def watch(self, seen: str, *, timeout: float) -> bool:
        """See ``Store.watch``. Woken by the Raft thread when it applies a change."""
        machine = self._node.machine
        with machine.changed:
            machine.changed.wait_for(lambda: self._closed or machine.revision(self._path) != seen, timeout)
            return not self._closed and machine.revision(self._path) != seen

    # -- permanent keys ------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """See ``Store.put``."""
        result = self._decide("put", key, deadline, value=value, **_condition(expect))
        return Stored(str(result["index"])) if result["done"] else Refused()

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """See ``Store.delete``."""
        return Stored() if self._decide("delete", key, deadline, **_condition(expect))["done"] else Refused()

    # -- the lease -----------------------------------------------------------------------------------------------------

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """See ``Store.announce``. StoreUnavailableError also while a later process of the same name holds the card."""
        if not self._decide_lease("announce", MEMBERS + self._member, deadline, value=card)["done"]:
            raise StoreUnavailableError(f"a process started later announces itself as member {self._member}; "
                                        "give every member a name of its own")

    def withdraw(self, *, deadline: Deadline) -> None:
        """See ``Store.withdraw``."""
        self._decide_lease("withdraw", MEMBERS + self._member, deadline)

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """See ``Store.acquire``."""
        return bool(self._decide_lease("acquire", Key.LEADER, deadline, force=force)["done"])

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """See ``Store.renew``."""
        return Renewal(self._decide_lease("renew", Key.LEADER, deadline, riders=self._paths(riders))["renewal"])

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """See ``Store.release``."""
        return bool(self._decide_lease("release", Key.LEADER, deadline, riders=self._paths(riders))["done"])

    # -- life ----------------------------------------------------------------------------------------------------------

    def clear(self, *, deadline: Deadline) -> None:
        """See ``Store.clear``; key by key."""
        for path in self.read(fresh=True, deadline=deadline).records:
            self._decide("delete", path, deadline)

    def retime(self, timing: Timing) -> None:
        """See ``Store.retime``."""
        self._timing = timing
        self._node.retime(timing)

    def close(self) -> None:
        """See ``Store.close``."""
        self._closed = True
        with self._node.machine.changed:
            self._node.machine.changed.notify_all()
        if self._owns_node:
            self._node.close()

    # -- commands ------------------------------------------------------------------------------------------------------

    def _decide_lease(self, operation: str, key: str, deadline: Deadline, **words: Json) -> dict[str, Json]:
        if self._observer:
            raise StoreRejectedError(f"{operation}: an observer of the Raft store has no lease")
        return self._decide(operation, key, deadline, ttl=self._timing.ttl, **words)

    def _decide(self, operation: str, key: str, deadline: Deadline, **words: Json) -> dict[str, Json]:
        """Number the command and have it decided. The numbers tell the machine which commands are late."""
        self._check_open()
        if not self._verbs.acquire(timeout=deadline.left()):
            raise StoreUnavailableError(f"{operation}: another verb of this store is still under way")
        try:
            self._number += 1
            result = self._node.submit(
                {"op": operation, "path": f"{self._path}/{key}", "member": self._member, "session": self._session,
                 "number": self._number, "time": time.time(), **words}, deadline)
        finally:
            self._verbs.release()
        if "refused" in result:
            raise StoreRejectedError(f"{operation} {key}: the Raft members do not understand the command ({result['refused']}); "
                                     "run the same version of pgcore-dcs-raft on all of them")
        return result

    def _paths(self, riders: Mapping[Key, str]) -> dict[str, str]:
        return {f"{self._path}/{key}": value for key, value in riders.items()}

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError("the Raft store is closed")


def _condition(expect: Expect) -> dict[str, Json]:
    """The condition in the words of dcs-layout 10. A version that is not one of ours matches nothing."""
    if expect.absent:
        return {"prevExist": False}
    if expect.version is None:
        return {}
    return {"prevIndex": int(expect.version) if expect.version.isdigit() else -1}
