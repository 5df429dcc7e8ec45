"""A cluster as its members describe it at this moment, as values that the agents' own rules decide on. Nothing is changed.

What an agent remembers and does not publish is missing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pgcore.cli.api import ApiError, MemberApi
from pgcore.clock import now, wall
from pgcore.config.dynamic import Notes, read_document
from pgcore.decide import forecast
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView, Member
from pgcore.model.node import NodeView, WalSender
from pgcore.model.settings import RemoteCluster, Settings
from pgcore.model.status import parse_node, parse_status
from pgcore.model.world import PeerView, World


@dataclass(frozen=True, slots=True)
class Asked:
    """A member and its answer to ``GET /patroni``, or why there was none."""

    member: Member
    status: Mapping[str, Json]
    node: NodeView
    peer: PeerView
    problem: str = ""

    @property
    def name(self) -> str:
        """Of the member."""
        return self.member.name


def ask_all(api: MemberApi, members: Iterable[Member]) -> dict[str, Asked]:
    """Every member by name, all asked at once."""
    found = tuple(members)
    with ThreadPoolExecutor(max_workers=max(1, len(found))) as pool:
        return {asked.name: asked for asked in pool.map(lambda member: _ask(api, member), found)}


def _ask(api: MemberApi, member: Member) -> Asked:
    try:
        status = api.status(member.api_url, fresh=True)
    except ApiError as error:
        return Asked(member, {}, parse_node({}, now()), PeerView(member.name, False), str(error))
    return Asked(member, status, parse_node(status, now()), parse_status(member.name, status))


def world(me: Asked, view: ClusterView, everybody: Mapping[str, Asked]) -> World:
    """What the agent of ``me`` would decide on."""
    nodes = {name: asked.node for name, asked in everybody.items()}
    if me.name == view.leader:
        nodes[me.name] = replace(me.node, senders=(*me.node.senders, *_streaming(me, everybody.values())))
    peers = {name: asked.peer for name, asked in everybody.items()}
    return forecast.world(_settings(me.member, view), view, nodes, peers, wall=wall())


def _streaming(leader: Asked, everybody: Iterable[Asked]) -> Iterable[WalSender]:
    """Members that say themselves that they stream from it: what each tells is as old as its last heartbeat."""
    known = {sender.application_name for sender in leader.node.senders}
    for asked in everybody:
        direct = asked.member.tags.replicatefrom in (None, "", leader.name)
        if asked.status.get("replication_state") == "streaming" and direct and asked.name not in known:
            yield WalSender(asked.name, "streaming")


def _settings(member: Member, view: ClusterView) -> Settings:
    document = view.config.document if view.config else None
    shared = read_document(document or {}, Notes("the dynamic configuration"))
    ha, remote = shared.ha, shared.standby_cluster
    return Settings(
        name=member.name, scope="", timing=shared.timing, tags=member.tags, paused=ha.pause,
        maximum_lag_on_failover=ha.maximum_lag_on_failover,
        synchronous_mode=ha.synchronous_mode if shared.synchronous else "off",
        synchronous_mode_strict=ha.synchronous_mode_strict, synchronous_node_count=ha.synchronous_node_count,
        check_timeline=ha.check_timeline, primary_start_timeout=int(ha.primary_start_timeout),
        standby_cluster=RemoteCluster(remote.host, remote.port) if remote is not None else None)
