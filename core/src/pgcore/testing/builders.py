"""Worlds, members and nodes in one line each, for tests of rules.

Every builder describes a healthy thing; what matters for a case is named. The node under test is ``a``, the time is ``NOW``.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pgcore.model.actions import Phase
from pgcore.model.basics import Instant, Json, Lsn, Role, State, Tags, Timing
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterStatus, ClusterView, ConfigRecord, FailoverRequest, HistoryEntry, Member
from pgcore.model.node import ControlData, ControlState, DataDir, NodeView, TaskKind, TaskResult, TaskView, WalReceiver, WalSender
from pgcore.model.server import Upstream
from pgcore.model.settings import Settings
from pgcore.model.world import Demotion, LeaderTimeline, LeaseState, Memory, OwnTimeline, PeerView, World

NOW = Instant(1000.0)
WALL = 1_700_000_000.0
TTL, LOOP_WAIT = Timing().ttl, Timing().loop_wait
SYSTEM = "7300000000000000001"
OTHER_SYSTEM = "7300000000000000002"
ME = "a"
END = Lsn(1000)
"""Where everybody's WAL ends unless a case says otherwise."""


# -- what the store says -----------------------------------------------------------------------------------------------


def _host(name: str) -> str:
    return f"10.0.0.{ord(name[0]) - ord('a') + 1}"


def member(name: str, *, role: str = "replica", api: bool = True, conn: bool = True, tags: Json = None, **card: Any) -> Member:
    """A member card; ``b`` listens on 10.0.0.2, and so on."""
    host = _host(name)
    running: dict[str, Any] = {"state": "running", "timeline": 1, "xlog_location": END}
    return Member(
        name,
        conn_url=f"postgres://{host}:5432/postgres" if conn else None,
        api_url=f"http://{host}:8008/patroni" if api else None,
        role=role,
        tags=Tags(tags or {}),
        **running | card,
    )


def view(leader: str | None = None, *members: Member, optime: int | None = END, **changes: Any) -> ClusterView:
    """The store's contents; without members the three nodes ``a``, ``b`` and ``c``, of which ``leader`` is the primary."""
    cards = members or tuple(member(name, role="primary" if name == leader else "replica") for name in "abc")
    status = ClusterStatus(None if optime is None else Lsn(optime))
    known: dict[str, Any] = {"initialize": SYSTEM, "initialize_version": "1", "status": status, "config": ConfigRecord("1", {})}
    return ClusterView(leader=leader, members=cards, **known | changes)


def request(
    leader: str | None = None, candidate: str | None = None, *, due: float | None = None, text: str = ""
) -> FailoverRequest:
    """A switchover (with ``leader``) or a manual failover; ``due`` seconds from now, ``text`` a schedule that cannot be read."""
    return FailoverRequest(
        "7", leader, candidate, text or (None if due is None else "later"), None if due is None else WALL + due
    )


def history(*switches: int) -> tuple[HistoryEntry, ...]:
    """Timelines 1, 2, … ended at these positions."""
    return tuple(HistoryEntry(number, Lsn(at), "no recovery target specified") for number, at in enumerate(switches, 1))


# -- what the node sees of itself --------------------------------------------------------------------------------------


def primary(position: int | None = END, *, timeline: int | None = 1, **changes: Any) -> NodeView:
    """A primary that answers, with ``b`` and ``c`` streaming from it."""
    flushed = None if position is None else Lsn(position)
    senders = tuple(WalSender(name, "streaming") for name in "bc")
    up: dict[str, Any] = {"running": True, "answering": True, "accepting": True, "senders": senders, "postmaster_pid": 17}
    known: dict[str, Any] = {"system_id": SYSTEM, "is_primary": True, "timeline": timeline, "position": flushed}
    node: dict[str, Any] = {"data_dir": DataDir.PRESENT, "role": Role.PRIMARY, "state": State.RUNNING}
    return NodeView(NOW, **node | up | known | changes)


def standby(position: int | None = END, *, timeline: int | None = 1, streaming: bool = True, **changes: Any) -> NodeView:
    """A standby that answers and streams."""
    at = None if position is None else Lsn(position)
    received: dict[str, Any] = {
        "received": at,
        "replayed": at,
        "receiver": WalReceiver("streaming") if streaming else None,
        "senders": (),
    }
    role: dict[str, Any] = {"role": Role.REPLICA, "is_primary": False, "recovery_files": True}
    return primary(position, timeline=timeline, **role | received | changes)


def silent(node: NodeView, **changes: Any) -> NodeView:
    """The same server, but its monitoring query is not answered."""
    unknown: dict[str, Any] = {
        "answering": False,
        "timeline": None,
        "position": None,
        "received": None,
        "replayed": None,
        "receiver": None,
    }
    return replace(node, **unknown | changes)


def starting(node: NodeView, **changes: Any) -> NodeView:
    """The same server, but it does not accept connections yet."""
    return silent(node, **{"accepting": False, "state": State.STARTING} | changes)


def control(
    state: ControlState = ControlState.SHUT_DOWN, end: int | None = END, *, timeline: int = 1, **changes: Any
) -> ControlData:
    """What pg_controldata says; ``end`` is the end of the last checkpoint."""
    at = Lsn(max(0, (end or END) - 100))
    sound: dict[str, Any] = {"data_checksums": True}
    return ControlData(state, SYSTEM, at, timeline, None if end is None else Lsn(end), **sound | changes)


def down(role: Role = Role.REPLICA, state: State = State.STOPPED, found: ControlData | None = None, **changes: Any) -> NodeView:
    """PostgreSQL is not running, its data directory is sound."""
    found = found or control(ControlState.SHUT_DOWN if role is Role.PRIMARY else ControlState.SHUT_DOWN_IN_RECOVERY)
    gone: dict[str, Any] = {"running": False, "accepting": False, "is_primary": False, "senders": (), "postmaster_pid": None}
    recovery: dict[str, Any] = {"recovery_files": role is Role.REPLICA, "rewind_possible": True, "control": found}
    return silent(primary(), **gone | {"role": role, "state": state} | recovery | changes)


def crashed(found: ControlState = ControlState.IN_PRODUCTION, **changes: Any) -> NodeView:
    """A primary whose server died under the agent's eyes."""
    return down(Role.PRIMARY, State.CRASHED, control(found), **changes)


def empty(directory: DataDir = DataDir.EMPTY, **changes: Any) -> NodeView:
    """A node without a data directory."""
    return down(
        Role.UNINITIALIZED, **{"data_dir": directory, "control": None, "system_id": None, "recovery_files": False} | changes
    )


def doing(kind: TaskKind, node: NodeView, *, seconds: float = 1.0, **progress: Json) -> NodeView:
    """The same node with a long action running beside the heartbeat."""
    return replace(node, task=TaskView(kind, Instant(NOW - seconds), progress))


def did(kind: TaskKind, error: str = "", *, cancelled: bool = False) -> TaskResult:
    """How a long action ended."""
    return TaskResult(kind, error, cancelled)


# -- what others answer, and what is remembered ------------------------------------------------------------------------


def peer(name: str, position: int = END, **changes: Any) -> PeerView:
    """A standby that answers over REST."""
    answer: dict[str, Any] = {"reachable": True, "position": Lsn(position), "timeline": 1}
    return PeerView(name, **answer | changes)


def peers(*answers: PeerView) -> dict[str, PeerView]:
    """Answers by name."""
    return {answer.name: answer for answer in answers}


def leads(timeline: int, *ended: int, own: OwnTimeline | None = OwnTimeline(1), in_recovery: bool = False) -> LeaderTimeline:
    """The leader's answer: its timeline, and that timelines 1, 2, … ended at these positions; ``a`` is on ``own``."""
    return LeaderTimeline(timeline, in_recovery, tuple((number, Lsn(at)) for number, at in enumerate(ended, 1)), own)


def on_timeline(timeline: int, *ended: int, alike: bool | None = None) -> OwnTimeline:
    """The history of ``a`` itself: its timeline, and that timelines 1, 2, … ended at these positions."""
    return OwnTimeline(timeline, tuple((number, Lsn(at)) for number, at in enumerate(ended, 1)), alike)


def upstream(name: str, *, slot: str | None = ME) -> Upstream:
    """How ``a`` streams from this member."""
    return Upstream(_host(name), 5432, name=name, slot=slot)


def demotion(mode: Any, phase: Phase, *candidates: str, seconds: float = 1.0, **changes: Any) -> Demotion:
    """A demotion under way, in this phase for so many seconds."""
    since = Instant(NOW - seconds)
    return Demotion(mode, phase, since, since, candidates, **changes)


_WORLD, _MEMORY, _SETTINGS = ({field.name for field in fields(kind)} for kind in (World, Memory, Settings))


def world(node: NodeView, cluster: ClusterView | None = None, **facts: Any) -> World:
    """A world at ``NOW``. Facts go where a field of that name is: the world itself, its memory or its settings.

    ``cluster`` None: the store did not answer. Unless the lease is given, the holder has it proven for a whole ttl. A server that
    answers is under management, and the store knows its history.
    """
    unknown = facts.keys() - _WORLD - _MEMORY - _SETTINGS
    if unknown:
        raise TypeError(f"no field of the world, its memory or its settings is called {', '.join(sorted(unknown))}")
    seen = cluster or ClusterView()
    mine = seen.leader == ME
    lease = LeaseState.UNKNOWN if cluster is None else LeaseState.HELD if mine else LeaseState.NONE
    answers: dict[str, Any] = {"now": NOW, "wall": WALL, "store_lost": cluster is None, "lease": lease}
    answers["asked_under"] = seen.sync.version
    remembered: dict[str, Any] = {"lease_until": Instant(NOW + TTL) if mine else None, "managed": True, "old_cluster": cluster}
    given: dict[str, Any] = {"name": ME, "scope": "batman", "dynamic": {"ttl": TTL}}
    return World(
        settings=Settings(**given | {key: value for key, value in facts.items() if key in _SETTINGS}),
        memory=Memory(**remembered | {key: value for key, value in facts.items() if key in _MEMORY}),
        node=node,
        cluster=seen,
        **answers | {key: value for key, value in facts.items() if key in _WORLD},
    )
