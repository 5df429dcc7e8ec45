"""A cluster as its members describe it at this moment, as the value that the agents' own rules decide on. Nothing is changed.

What an agent remembers and does not publish is missing here; what is asked for is dealt with as if it were read just now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from pgcore.cli.api import ApiError, MemberApi
from pgcore.clock import now, wall
from pgcore.config.dynamic import Notes, read_document
from pgcore.daemon.configuration import remote_cluster
from pgcore.daemon.peers import parse_status
from pgcore.decide.advance import fresh_world
from pgcore.model.basics import Json, Lsn, Role, State
from pgcore.model.cluster import ClusterView, FailoverRequest, Member
from pgcore.model.node import DataDir, NodeView, TaskKind, TaskView, WalSender
from pgcore.model.orders import Order
from pgcore.model.settings import Settings
from pgcore.model.world import LeaderTimeline, LeaseState, Memory, PeerView, World

VERSION = "dry run"
T = TypeVar("T", Role, State)
UP = (State.RUNNING, State.STARTING, State.RESTARTING, State.STOPPING, State.STOP_FAILED)


@dataclass(frozen=True, slots=True)
class Asked:
    """A member and its answer to ``GET /patroni``, or why there was none."""

    member: Member
    status: Mapping[str, Json]
    problem: str = ""

    @property
    def name(self) -> str:
        """Of the member."""
        return self.member.name

    @property
    def node(self) -> NodeView:
        """What its agent sees of it, as far as it tells."""
        found = self.status
        wal = found.get("xlog") or {}
        primary = found.get("role") in (Role.PRIMARY, "master")
        received, replayed = (Lsn(int(wal.get(f"{what}_location") or 0)) for what in ("received", "replayed"))
        state = _word(State, found.get("state"), State.RUNNING if found.get("state") == "unknown" else State.STOPPED)
        return NodeView(
            at=now(), data_dir=DataDir.PRESENT, role=Role.PRIMARY if primary else _word(Role, found.get("role"), Role.REPLICA),
            state=state, running=state in UP, answering=bool(wal), accepting=bool(wal), is_primary=primary,
            server_version=found.get("server_version"), postmaster_start=found.get("postmaster_start_time"),
            timeline=found.get("timeline"), recovery_files=not primary, received=received, replayed=replayed,
            position=Lsn(int(wal.get("location") or 0)) if primary else max(received, replayed),
            replay_paused=wal.get("paused") is True, senders=_senders(found.get("replication")),
            pending_restart=found.get("pending_restart_reason") or ({"?": {}} if found.get("pending_restart") else {}),
            task=_task(found.get("pgcore")))

    @property
    def peer(self) -> PeerView:
        """What another agent makes of its answer."""
        return parse_status(self.name, self.status) if self.status else PeerView(self.name, False)


def ask_all(api: MemberApi, members: Iterable[Member]) -> dict[str, Asked]:
    """Every member by name, all asked at once."""
    def ask(member: Member) -> Asked:
        try:
            return Asked(member, api.status(member.api_url, fresh=True))
        except ApiError as error:
            return Asked(member, {}, str(error))

    found = tuple(members)
    with ThreadPoolExecutor(max_workers=max(1, len(found))) as pool:
        return {asked.name: asked for asked in pool.map(ask, found)}


def world(me: Asked, view: ClusterView, everybody: Mapping[str, Asked], *, request: FailoverRequest | None = None,
          order: Order | None = None) -> World:
    """What the agent of ``me`` would decide on: the lock, if it is its, is taken for proven, and everybody for asked."""
    made = fresh_world(Memory(request_seen=(VERSION, now()), order=order), _settings(me.member, view), me.node, now(), wall())
    leader = everybody.get(view.leader or "")
    leading = leader is not None and leader.node.running and (leader.node.is_primary or made.standby_cluster)
    return replace(
        made, cluster=replace(view, failover=request), timeline_asked=True,
        lease=LeaseState.HELD if view.leader == me.name else LeaseState.NONE,
        peers={name: asked.peer for name, asked in everybody.items() if name != me.name},
        leader_timeline=LeaderTimeline(leader.node.timeline or 0, made.standby_cluster) if leading and leader else None)


def _settings(member: Member, view: ClusterView) -> Settings:
    document = view.config.document if view.config else None
    shared = read_document(document or {}, Notes("the dynamic configuration"))
    ha = shared.ha
    return Settings(
        name=member.name, scope="", timing=shared.timing, tags=member.tags, paused=ha.pause,
        maximum_lag_on_failover=ha.maximum_lag_on_failover,
        synchronous_mode=ha.synchronous_mode if shared.synchronous else "off",
        synchronous_mode_strict=ha.synchronous_mode_strict, synchronous_node_count=ha.synchronous_node_count,
        check_timeline=ha.check_timeline, primary_start_timeout=int(ha.primary_start_timeout),
        standby_cluster=remote_cluster(shared))


def _word(kind: type[T], text: Json, otherwise: T) -> T:
    try:
        return kind(text)
    except ValueError:
        return otherwise


def _senders(rows: Json) -> tuple[WalSender, ...]:
    found = rows if isinstance(rows, list) else []
    return tuple(WalSender(str(row.get("application_name")), str(row.get("state"))) for row in found if isinstance(row, Mapping))


def _task(own: Json) -> TaskView | None:
    task = own.get("task") if isinstance(own, Mapping) else None
    kind = task.get("kind") if isinstance(task, Mapping) else None
    return TaskView(TaskKind(kind), now()) if kind in set(TaskKind) else None
