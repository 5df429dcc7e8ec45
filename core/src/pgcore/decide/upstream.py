"""Whom to follow and whom to copy from. (HA rules 6.3, 11.1)"""

from __future__ import annotations

import zlib

from pgcore.model.cluster import Member
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
    """A running ``clonefrom`` member that is not the leader, else the leader. (HA rules 6.3)

    Several are spread over the cloning nodes by name, so that two copies seldom load one member.
    """
    willing = [m for m in w.others if m.tags.clonefrom and m.running and m.address and m.name != w.cluster.leader]
    if willing:
        return willing[zlib.crc32(w.me.encode()) % len(willing)]
    leader = w.cluster.leader_member
    ready = leader is not None and leader.name != w.me and leader.address is not None
    return leader if ready else None
