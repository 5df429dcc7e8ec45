"""Whom to follow and whom to copy from. (HA rules 6.3, 11.1)"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from pgcore.model.cluster import ClusterView, Member
from pgcore.model.server import Upstream
from pgcore.model.world import World


def upstream(w: World) -> Upstream | None:
    """The server this standby must stream from; None: archive only, or nobody yet. Never myself. (HA rules 11.1)"""
    if w.settings.tags.nostream:
        return None
    if w.standby_cluster and (w.is_holder or (w.cluster.unlocked and not w.paused)):
        return w.remote
    cascade = w.settings.tags.replicatefrom
    if cascade and not leads_back(w, cascade):
        found = w.upstream_of(w.cluster.member(cascade))
        if found is not None:
            return found
    return w.leader_upstream


def leads_back(w: World, name: str) -> bool:
    """Following ``replicatefrom`` from this member leads back to me: nobody of that loop would get any WAL. (HA rules 26)"""
    seen: set[str] = set()
    above: str | None = name
    while above is not None and above != w.me and above != w.cluster.leader and above not in seen:
        seen.add(above)
        member = w.cluster.member(above)
        above = member.tags.replicatefrom if member is not None else None
    return above == w.me


def clone_source(w: World) -> Member | None:
    """The least loaded running ``clonefrom`` member that is not the leader, else the leader. (HA rules 6.3)

    Several that are loaded alike are spread over the cloning nodes by name, as these may choose at the same moment.
    """
    willing = [m for m in w.others if m.tags.clonefrom and m.running and m.address and m.name != w.cluster.leader]
    if willing:
        loads = [load(w.cluster, m, w.me) for m in willing]
        least = [m for m, found in zip(willing, loads, strict=True) if found == min(loads)]
        return least[zlib.crc32(w.me.encode()) % len(least)]
    leader = w.cluster.leader_member
    ready = leader is not None and leader.name != w.me and leader.address is not None
    return leader if ready else None


LAG_STEP = 64 << 20
"""Bytes; who is behind by less than this is as good as who is not behind."""


def load(cluster: ClusterView, source: Member, me: str) -> tuple[int, int]:
    """How much a copy would burden this member: the copies others take from it now, then how far it is behind. (HA rules 6.3)

    A member that falls behind is busy, and its copy has more to catch up with. An unknown position counts as the farthest.
    """
    taking = sum(1 for m in cluster.members if m.name != me and _source_of(m) == source.name)
    optime, position = cluster.status.optime, source.replay_lsn or source.xlog_location
    if optime is None:
        return taking, 0
    return taking, max(0, optime - (position or 0)) // LAG_STEP


def _source_of(member: Member) -> object:
    shown = member.data.get("progress")
    return shown.get("source") if isinstance(shown, Mapping) else None
