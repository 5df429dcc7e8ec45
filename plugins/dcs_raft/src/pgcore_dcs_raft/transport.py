"""What a member sends and receives: nothing that others rely on leaves before it is on disk, and no message cuts what agrees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pysyncobj import SyncObj  # type: ignore[import-untyped]
from pysyncobj.monotonic import monotonic  # type: ignore[import-untyped]
from pysyncobj.tcp_connection import CONNECTION_STATE  # type: ignore[import-untyped]
from pysyncobj.transport import TCPTransport  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from pgcore_dcs_raft.journal import Journal
    from pgcore_dcs_raft.node import RaftNode


class Transport(TCPTransport):
    """Tells the node about every message, which is how it knows that it is still in touch.

    Messages wait in an outbox while the journal has changes that are not on disk, and leave with ``flush``. Only entries that a
    leader appends go at once: it counts itself in the next tick, after ``flush``. Its term is on disk since its election.
    """

    def __init__(self, node: RaftNode, journal: Journal | None, raft: SyncObj, self_node: Any, other_nodes: Any) -> None:
        super().__init__(raft, self_node, other_nodes)
        self._node, self._journal = node, journal
        self._outbox: list[tuple[Any, Any]] = []
        self._confirmed: int | None = None

    # -- out -----------------------------------------------------------------------------------------------------------

    def send(self, node: Any, message: Any) -> bool:
        """Send now or with the next ``flush``."""
        if self._confirmed is not None and message["type"] == "next_node_idx":
            message = message | {"next_node_idx": self._confirmed}
        if self._journal is None or self._journal.is_durable or message["type"] == "append_entries":
            return bool(super().send(node, message))
        self._outbox.append((node, message))
        return True

    def flush(self) -> None:
        """Bring the journal to disk, then send what waited for it. Raises OSError."""
        if self._journal is not None:
            self._journal.sync()
        waiting, self._outbox = self._outbox, []
        for node, message in waiting:
            super().send(node, message)

    def hang_up(self) -> None:
        """Drop all connections, and with them what arrives while the node stands still: later it would look recent."""
        self._outbox.clear()
        for connection in [*self._connections.values(), *self._unknownConnections]:
            connection.disconnect()

    def ping(self, nodes: Iterable[Any]) -> None:
        """Say a word to each of these nodes, which ignore it.

        Followers have nothing to tell each other until they elect, and then the library drops a connection that was silent for
        ``connection_timeout``, and the first request for a vote with it.
        """
        for node in nodes:
            if self._syncObj.isNodeConnected(node):  # in the middle of the handshake a message would break it
                self.send(node, {"type": "ping"})

    # -- in ------------------------------------------------------------------------------------------------------------

    def _onMessageReceived(self, node: Any, message: Any) -> None:
        if not isinstance(message, dict) or "transmission" in message:  # our entries are too small to come in pieces
            return
        try:
            super()._onMessageReceived(node, self._without_what_agrees(message))
        finally:
            self._confirmed = None
        self._node.heard(node, message)

    def _without_what_agrees(self, message: dict[str, Any]) -> dict[str, Any]:
        """The same message without the entries this member has already.

        A leader may send entries twice, and in parts. pysyncobj cuts everything after the first of them and appends what came,
        which forgets entries that were acknowledged. Raft cuts at an entry of another term only.
        """
        journal = self._journal
        if journal is None or message.get("type") != "append_entries" or message["term"] < self._syncObj.raftCurrentTerm \
                or journal.term_of(message.get("prevLogIdx")) is None:
            return message
        index, term, entries = message["prevLogIdx"], message["prevLogTerm"], list(message["entries"])
        if journal.term_of(index) != term:
            return message
        while entries and journal.term_of(entries[0][1]) == entries[0][2]:
            _, index, term = entries.pop(0)
        _, last, last_term = journal[-1]
        if entries or index == last:
            return message | {"prevLogIdx": index, "prevLogTerm": term, "entries": entries}
        # All of it is here, and more, which this leader may or may not have: keep it, and confirm only what came.
        self._confirmed = index + 1
        return message | {"prevLogIdx": last, "prevLogTerm": last_term, "entries": [],
                          "commit_index": min(message["commit_index"], index)}

    def _onIncomingMessageReceived(self, conn: Any, message: Any) -> None:
        """A node that is held answers questions, which are lists, and takes no other part."""
        if self._node.held and isinstance(message, str):
            conn.disconnect()
            self._unknownConnections.discard(conn)
        else:
            super()._onIncomingMessageReceived(conn, message)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _connectIfNecessarySingle(self, node: Any) -> bool:
        """Also give up an attempt that got no answer at all: the kernel's own retries back off to half a minute and more."""
        if self._node.held:
            return False
        connection = self._connections.get(node)
        began = self._lastConnectAttempt.get(node)
        if connection is not None and connection.state == CONNECTION_STATE.CONNECTING and began is not None \
                and monotonic() - began > self._syncObj.conf.connectionTimeout:
            connection.disconnect()
        return bool(super()._connectIfNecessarySingle(node))
