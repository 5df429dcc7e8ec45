"""What a member sends and receives: nothing that others rely on leaves before it is on disk, and no message cuts what agrees."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pysyncobj import SyncObj  # type: ignore[import-untyped]
from pysyncobj.dns_resolver import globalDnsResolver  # type: ignore[import-untyped]
from pysyncobj.monotonic import monotonic  # type: ignore[import-untyped]
from pysyncobj.tcp_connection import CONNECTION_STATE  # type: ignore[import-untyped]
from pysyncobj.transport import TCPTransport  # type: ignore[import-untyped]

from pgcore_dcs_raft.connection import MOST_CONNECTIONS, MOST_STRANGERS, Connection, Listener
from pgcore_dcs_raft.prevote import PreVote

if TYPE_CHECKING:
    from pgcore_dcs_raft.journal import Journal
    from pgcore_dcs_raft.node import RaftNode


log = logging.getLogger(__name__)

BIND_S = 10.0
"""How long a start waits for the address to listen on, if it is a name."""


class Transport(TCPTransport):
    """Tells the node about every message, which is how it knows that it is still in touch.

    Messages wait in an outbox while the journal has changes that are not on disk, and leave with ``flush``. Only entries that a
    leader appends go at once: it counts itself in the next tick, after ``flush``. Its term is on disk since its election.
    """

    def __init__(self, node: RaftNode, journal: Journal | None, secret: bytes | None,
                 raft: SyncObj, self_node: Any, other_nodes: Any) -> None:
        self._node, self._journal, self._secret = node, journal, secret
        self._timeout_s = raft.conf.connectionTimeout
        super().__init__(raft, self_node, other_nodes)
        self._outbox: list[tuple[Any, Any]] = []
        self._confirmed: int | None = None
        self.prevote = PreVote(self, raft, journal) if journal is not None else None

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
        if self.prevote is not None and self.prevote.takes(node, message):
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

    # -- connections ---------------------------------------------------------------------------------------------------

    def _createServer(self) -> None:
        host, _, port = self._syncObj.conf.bindAddress.rpartition(":")
        self._server = Listener(self._syncObj._poller, globalDnsResolver().resolve(host, BIND_S), int(port), self._accepted)

    def _accepted(self, accepted: socket.socket) -> None:
        """Keep a bounded number: of those that have not said who they are the oldest makes room."""
        strangers = sorted(self._unknownConnections, key=lambda connection: connection.since)
        if len(strangers) >= MOST_STRANGERS:
            strangers[0].disconnect()
        if len(self._connections) >= MOST_CONNECTIONS:
            log.warning("The Raft port has %d connections and takes no more", len(self._connections))
            accepted.close()
            return
        self._onNewIncomingConnection(Connection(self._syncObj._poller, self._secret, self._timeout_s, accepted))

    def _onIncomingMessageReceived(self, conn: Any, message: Any) -> None:
        """The first message: who it is, or a question. A node that is held answers questions and takes no other part."""
        if isinstance(message, list) and message and isinstance(message[0], str):
            if not self._onUtilityMessage(conn, message):
                conn.disconnect()
        elif isinstance(message, str) and not self._node.held:
            earlier = self._connections.get(self._nodeAddrToNode.get(message))
            super()._onIncomingMessageReceived(conn, message)
            if earlier is not None:
                earlier.disconnect()
        else:
            conn.disconnect()

    def _onDisconnected(self, conn: Any) -> None:
        node = self._connToNode(conn)
        super()._onDisconnected(conn)
        if node is not None and node not in self._nodes:
            self._connections.pop(node, None)  # an observer never comes back as the same node

    def _onTick(self) -> None:
        super()._onTick()
        if self._server is not None:
            self._server.resume()
        for connection in list(self._unknownConnections):
            if monotonic() - connection.since > self._timeout_s:
                connection.disconnect()

    def addNode(self, node: Any) -> None:
        """See ``TCPTransport.addNode``."""
        super().addNode(node)
        if node in self._connections and self._shouldConnect(node):
            connection = Connection(self._syncObj._poller, self._secret, self._timeout_s)
            connection.setOnConnectedCallback(functools.partial(self._onOutgoingConnected, connection))
            connection.setOnMessageReceivedCallback(functools.partial(self._onMessageReceived, node))
            connection.setOnDisconnectedCallback(functools.partial(self._onDisconnected, connection))
            self._connections[node] = connection

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
