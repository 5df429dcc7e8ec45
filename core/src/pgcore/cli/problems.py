"""What is wrong with a cluster, in the order in which somebody should care: one line each, with the remedy where there is one."""

from __future__ import annotations

from collections.abc import Iterator

from pgcore.config.dynamic import Notes, read_document
from pgcore.model.basics import Role, slot_name
from pgcore.model.cluster import ClusterView
from pgcore.rest.members import ClusterMode, MemberRow, member_rows

MEBIBYTE = 1024 * 1024


def problems(scope: str, view: ClusterView, mode: ClusterMode) -> list[str]:
    """Everything that keeps this cluster from being healthy, judged by what its members published."""
    if view.initialize is None and not view.members:
        return [f"there is no cluster {scope} here: no agent has ever run with this scope and namespace"]
    rows = member_rows(view, mode)
    found = [*_configuration(view), *_leader(view, mode), *_synchronous(view, mode, rows)]
    for row in rows:
        found += _member(scope, view, mode, row)
    return [*found, *_missing(view)]


def _configuration(view: ClusterView) -> Iterator[str]:
    """A document that every agent refuses stays in the store; what they go by is another."""
    if view.config is None or view.config.document is None:
        return
    notes = Notes("the dynamic configuration is refused, the agents keep the last good one")
    read_document(view.config.document, notes)
    yield from (str(error) for error in notes.errors)


def _synchronous(view: ClusterView, mode: ClusterMode, rows: list[MemberRow]) -> Iterator[str]:
    """Commits that wait, or that nobody but the leader has."""
    if mode.synchronous == "off" or view.unlocked:
        return
    listed = view.sync.standbys
    if not listed:
        means = "commits wait until one streams" if mode.strict else "commits are not protected, and nobody else may take over"
        yield f"no standby is synchronous: {means}"
        return
    names = {name.lower() for name in listed}
    streaming = [row for row in rows if row.member.name.lower() in names and row.member.replication_state == "streaming"]
    needed = len(listed) - view.sync.quorum
    if len(streaming) < needed:
        yield (f"commits on {view.leader} may wait: {needed} of the synchronous standbys {', '.join(listed)} must confirm them, "
               f"but {len(streaming)} stream")


def _leader(view: ClusterView, mode: ClusterMode) -> Iterator[str]:
    if view.unlocked:
        why = "; maintenance mode is on, so nobody takes over by himself (pgcore resume)" if mode.paused else ""
        yield f"there is no leader: nobody holds the leader lock{why}"
        return
    leader = view.leader_member
    wanted = Role.STANDBY_LEADER if mode.standby_cluster else Role.PRIMARY
    if leader is None:
        yield f"the leader {view.leader} has no member card: its agent has lost the store or is not running"
    elif not leader.running:
        yield f"the leader {leader.name} is not running PostgreSQL: its state is {leader.state!r}"
    elif leader.role not in (wanted, "master"):
        doing = "it does not follow the remote cluster yet" if mode.standby_cluster else "it is being promoted"
        yield f"the leader {leader.name} has the role {leader.role}, not yet {wanted}: {doing}"
    elif mode.standby_cluster and leader.replication_state is None:
        yield f"the standby leader {leader.name} does not stream from the remote cluster nor read an archive; see its log"


def _member(scope: str, view: ClusterView, mode: ClusterMode, row: MemberRow) -> Iterator[str]:
    member, leader = row.member, view.leader_member
    if not row.leads and not member.running:
        yield f"{member.name} is not running PostgreSQL: its state is {member.state!r}; its agent's log says why"
    elif not row.leads:
        if member.replication_state is None and not view.unlocked:
            yield f"{member.name} does not stream from the leader and does not read an archive; see PostgreSQL's log on it"
        elif member.replication_state not in (None, "streaming") and not member.tags.nostream:
            yield f"{member.name} does not stream, it is {member.replication_state}"
        if row.receive_lag is not None and row.receive_lag > mode.maximum_lag_on_failover:
            yield (f"{member.name} is {row.receive_lag / MEBIBYTE:.1f} MB behind, maximum_lag_on_failover is "
                   f"{mode.maximum_lag_on_failover / MEBIBYTE:.1f} MB: it cannot take over")
        if leader and leader.timeline and member.timeline and member.timeline < leader.timeline:
            yield f"{member.name} is on timeline {member.timeline}, the leader {leader.name} is on {leader.timeline}"
    if member.data.get("pending_restart"):
        names = ", ".join(sorted(member.data.get("pending_restart_reason") or {})) or "changed parameters"
        yield f"{member.name} has to be restarted for {names} (pgcore restart {scope} {member.name})"


def _missing(view: ClusterView) -> Iterator[str]:
    """Names that the store still knows from elsewhere, but that have no card."""
    known = {name for name in (*(view.failsafe or {}), *view.sync.standbys) if name}
    cards = {member.name.lower() for member in view.members} | {(view.leader or "").lower()}
    for name in sorted(name for name in known if name.lower() not in cards):
        yield f"the member card of {name} is missing: its agent has lost the store or is not running"
    slots = {slot_name(name) for name in known} | {member.slot for member in view.members}
    for slot in sorted(set(view.status.retain_slots) - slots):
        yield f"the slot {slot} is kept for a member without a card: its agent has lost the store or is not running"
