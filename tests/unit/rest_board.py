"""Hand-built observations and a raw HTTP client for the tests of the REST interface and the command line."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass, replace

from pgcore.clock import now
from pgcore.daemon.board import Status
from pgcore.model.basics import Instant, Lsn, Role, State, Tags, Timing
from pgcore.model.cluster import ClusterStatus, ClusterView, Member, SyncView
from pgcore.model.node import DataDir, NodeView, WalReceiver, WalSender


def member(name: str, role: str = "replica", **fields: object) -> Member:
    """A card of a running member that streams."""
    tags = fields.pop("tags", {})
    data = {"pgcore_version": "0", **({"tags": tags} if tags else {}), **fields}
    return Member(
        name,
        conn_url=f"postgres://127.0.0.1:{5432 + ord(name[0])}/postgres",
        api_url=f"http://127.0.0.1:8008/{name}",
        state=str(fields.get("state", "running")),
        role=role,
        tags=Tags(tags),
        xlog_location=Lsn(1000),
        receive_lsn=Lsn(1000) if role != "primary" else None,
        replay_lsn=Lsn(900) if role != "primary" else None,
        timeline=1,
        replication_state="streaming" if role != "primary" else None,
        data=data,
    )


def view(*, leader: str | None = "a", sync: tuple[str, ...] = (), **fields: object) -> ClusterView:
    """Three members, of which ``a`` is the primary."""
    members = (member("a", "primary"), member("b"), member("c"))
    return ClusterView(
        **{
            "initialize": "7000000000000000001",
            "leader": leader,
            "members": members,
            "status": ClusterStatus(optime=Lsn(1000)),
            "sync": SyncView("1", "a", sync) if sync else SyncView(),
            **fields,
        }
    )


def primary_node(**fields: object) -> NodeView:
    """A primary that answers."""
    return NodeView(
        **{
            "at": now(),
            "data_dir": DataDir.PRESENT,
            "role": Role.PRIMARY,
            "state": State.RUNNING,
            "running": True,
            "answering": True,
            "accepting": True,
            "is_primary": True,
            "position": Lsn(1000),
            "server_version": 150020,
            "timeline": 1,
            "system_id": "7000000000000000001",
            "postmaster_start": "2026-01-02 03:04:05.678901+00:00",
            "senders": (WalSender("b", "streaming", "replicator", "127.0.0.1"),),
            **fields,
        }
    )


def replica_node(**fields: object) -> NodeView:
    """A standby that streams and has replayed 900 of 1000 bytes."""
    return NodeView(
        **{
            "at": now(),
            "data_dir": DataDir.PRESENT,
            "role": Role.REPLICA,
            "state": State.RUNNING,
            "running": True,
            "answering": True,
            "accepting": True,
            "received": Lsn(1000),
            "replayed": Lsn(900),
            "position": Lsn(1000),
            "server_version": 150020,
            "timeline": 1,
            "receiver": WalReceiver("streaming", latest_end=Lsn(1000)),
            **fields,
        }
    )


def status(name: str = "b", node: NodeView | None = None, *, leads: bool = False, **fields: object) -> Status:
    """What the heartbeat of that member published just now."""
    moment = now()
    return Status(
        **{
            "scope": "demo",
            "name": name,
            "node": node or replica_node(),
            "cluster": view(),
            "timing": Timing(30, 10, 10),
            "at": moment,
            "lease_until": Instant(moment + 30) if leads else None,
            "next_beat_due": Instant(moment + 10),
            "dcs_last_seen": 1700000000,
            **fields,
        }
    )


def leader_status(**fields: object) -> Status:
    """The primary with the lock."""
    return status("a", primary_node(), leads=True, **fields)


def aged(observed: Status, seconds: float) -> Status:
    """The same observation, made that long ago."""
    return replace(observed, at=Instant(observed.at - seconds))


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; ``raw`` is every byte of it."""

    code: int
    headers: dict[str, str]
    body: str


def call(
    address: tuple[str, int],
    method: str,
    path: str,
    body: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    timeout: float = 30,
) -> Reply:
    """One request on a connection of its own."""
    connection = (
        http.client.HTTPSConnection(*address, timeout=timeout, context=context)
        if context
        else http.client.HTTPConnection(*address, timeout=timeout)
    )
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Reply(response.status, {k: v for k, v in response.getheaders()}, response.read().decode())
    finally:
        connection.close()


def raw(address: tuple[str, int], request: bytes, timeout: float = 5) -> bytes:
    """Everything the server sends back until it closes."""
    with socket.create_connection(address, timeout) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received
