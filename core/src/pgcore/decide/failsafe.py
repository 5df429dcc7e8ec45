"""Failsafe mode: a primary that lost the store goes on while every member that could replace it agrees not to. (HA rules 9)

The proof: whoever takes the lock must be named in ``/failsafe``; whoever is named there and has accepted me takes no lock for ttl
from then on. So when all of them have accepted, nobody can lead before my lease ends, whatever the store says meanwhile. Who is
not named may take a lock that is free once all who are have answered that they are no primary, within ttl of having seen it free:
one of them that led since would hold it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.decide import slot_copies, slots
from pgcore.decide.election import by_votes, same_name, sync_in_force
from pgcore.decide.lease import demote_left_s, failsafe_ask_s, lease_running_out
from pgcore.model.actions import AskFailsafe, ChangeSlots, PollPeers, ReleaseLease, ServeSlots, WriteFailsafe
from pgcore.model.basics import Lsn, slot_name
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterView, Member, SyncView
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.failsafe import FailsafeRecord
from pgcore.model.world import PeerView, World

AGAIN_S = 1.0
LEAST_ASK_S = 0.05


# -- the primary ---------------------------------------------------------------------------------------------


def wanted_members(w: World) -> dict[str, str]:
    """What ``/failsafe`` should hold: every member with a REST URL and me; for a while also those whose card is not back yet."""
    keep_until = w.memory.failsafe_map.keep_until
    kept = w.cluster.failsafe or {} if keep_until is not None and w.now < keep_until else {}
    cards = {m.name: m.api_url for m in w.others if m.api_url}
    return dict(sorted({**kept, **cards, w.me: w.settings.api_url}.items()))


def failsafe_key(w: World) -> Decision | None:
    """The holder names in ``/failsafe`` who must agree while the store is away; once under each lock of its own. (HA rules 9)"""
    if not (w.settings.failsafe_mode and w.holds) or w.demotion is not None or w.bootstrapping is not None:
        return None
    wanted, known = wanted_members(w), w.memory.failsafe_map
    if wanted == w.cluster.failsafe and known.mine and not known.unsure:
        return None
    return act(
        WriteFailsafe(wanted, w.cluster.failsafe_version),
        because=f"while the store is away, {', '.join(wanted)} must agree that {w.me} leads",
    )


def name_whoever_takes_over(w: World) -> Decision | None:
    """Before the lock is given away ``/failsafe`` names everybody who may take it: who is missing would stand back. (EC 25, 32)

    Once: if the write fails, the hand-over does not wait for it.
    """
    named, known = w.cluster.failsafe, w.memory.failsafe_map
    if not (w.settings.failsafe_mode and w.holds and named) or known.unsure:
        return None
    missing = [name for name in wanted_members(w) if name not in named]
    if not missing:
        return None
    return act(
        WriteFailsafe({**named, **wanted_members(w)}, w.cluster.failsafe_version),
        because=f"about to give the lock away, and /failsafe does not name {', '.join(missing)}",
    )


def bound_s(w: World) -> float:
    """Seconds for which members may still treat me as the leader whatever the store says; 0: they are free to take the lock."""
    until = w.memory.failsafe_bound
    return max(0.0, until - w.now) if until is not None and w.settings.failsafe_mode else 0.0


def ask_members(w: World) -> Decision | None:
    """The store is away and the lease still proven: ask everybody in ``/failsafe`` to keep me as the leader. (HA rules 9.4)"""
    if not (w.settings.failsafe_mode and w.node.is_primary) or w.failsafe_answers is not None or lease_running_out(w):
        return None
    others = w.memory.failsafe_map.others(w.me)
    limit = min(failsafe_ask_s(w.settings.timing), w.lease_left - demote_left_s(w.settings.timing))
    if others is None or limit < LEAST_ASK_S:
        return None
    return act(
        AskFailsafe(others, positions_here(w), limit),
        because=f"the store does not answer: asking {', '.join(others) or 'nobody, there is no other member'}, "
        f"{w.lease_left:.1f} s of the lease left",
    )


def positions_here(w: World) -> dict[str, Lsn]:
    """Where each slot of this server stands, and the server itself under its own name. (HA rules 9, sender)"""
    at = {s.name: s.restart_lsn if s.physical else s.confirmed_flush for s in w.node.slots}
    positions = {name: lsn for name, lsn in at.items() if lsn is not None}
    if w.node.position is not None:
        positions[slot_name(w.me)] = w.node.position
    return positions


def agreed(w: World) -> bool:
    """Everybody asked in this beat has accepted, or so many that too few votes are left for another leader."""
    answers = w.failsafe_answers
    return answers is not None and (all(each.accepted for each in answers.values()) or not quorum_lacks(w))


def quorum_lacks(w: World) -> str:
    """Why the members that have accepted are not enough for ``failsafe_quorum``; empty: they are. (docs/decisions/0005)

    A candidate in ``/sync`` needs ``quorum`` votes of others there, one outside needs one more. Those who have accepted give
    none, and I give none while I am a primary. So at most ``quorum`` voters may be silent.
    """
    answers, sync = w.failsafe_answers or {}, w.memory.sync_stored
    if not w.settings.failsafe_quorum or w.settings.synchronous_mode != "quorum":
        return "failsafe_quorum is not in force"
    if sync is None or not sync.standbys or not same_name(sync.leader, w.me) or w.memory.sync.undecided:
        return "failsafe_quorum: /sync was not written by this primary and confirmed"
    strangers = _not_pgcore(w, {*answers, *sync.standbys})
    if strangers:
        return f"failsafe_quorum: {', '.join(strangers)} has no card of a pgcore member"
    refused = [name for name, answer in answers.items() if answer.refused]
    if refused:
        return f"failsafe_quorum: {', '.join(refused)} refused"
    bound = {name.lower() for name, answer in answers.items() if answer.accepted and answer.binding}
    silent = [name for name in sync.standbys if name.lower() not in bound]
    if len(silent) > sync.quorum or not bound:
        return f"failsafe_quorum: {', '.join(silent)} not bound, of {len(sync.standbys)} voters {sync.quorum} may be missing"
    return ""


def _not_pgcore(w: World, names: set[str]) -> list[str]:
    cards = w.memory.old_cluster.members if w.memory.old_cluster is not None else ()
    known = {m.name.lower() for m in cards if m.is_pgcore}
    return sorted(name for name in names if name.lower() not in known)


def advance_slots(w: World) -> Decision | None:
    """Slots of members that stream from another standby follow what these members answered. (HA rules 9, EC 34)"""
    if not (agreed(w) and w.node.is_primary):
        return None
    return _advance(w, w.me, {}, w.memory.failsafe_positions)


def advance_copies(w: World) -> Decision | None:
    """A standby keeps its idle copies of slots moving by what the primary told when it asked. (HA rules 9.2)"""
    record = w.memory.failsafe
    if record is None or w.node.is_primary:
        return None
    return _advance(w, record.name, record.slots, {})


def _advance(w: World, leader: str, told: Mapping[str, Lsn], answered: Mapping[str, Lsn]) -> Decision | None:
    """Unused slots move as they would with the store; nothing is created, dropped or copied by a view that may be old."""
    view = w.memory.old_cluster
    if view is None or w.slots_done or w.busy or not w.node.answering:
        return None
    seen = replace(w, cluster=slots.view_in_failsafe(view, leader, told, answered))
    change, service = slots.changes(seen), slot_copies.service(seen)
    actions = (
        *((ChangeSlots(advance=change.advance),) if change is not None and change.advance else ()),
        *((ServeSlots(advance=service.advance),) if service is not None and service.advance else ()),
    )
    return act(*actions, because="the store is away; unused slots follow what was told") if actions else None


def members_agree(w: World) -> Decision | None:
    """Everybody agrees: the lease runs from before they were asked, and they are asked again soon. (HA rules 9.4, EC 23, 24)"""
    if not agreed(w) or not w.node.is_primary:
        return None
    answers = w.failsafe_answers or {}
    who = ", ".join(name for name, answer in answers.items() if answer.accepted)
    silent = ", ".join(name for name, answer in answers.items() if not answer.accepted)
    return rest(
        because=f"the store does not answer; {who + ' accepted' if who else 'there is no other member'}"
        f"{f', {silent} did not answer (failsafe_quorum)' if silent else ''}, so {w.me} stays the leader for "
        f"{w.lease_left:.1f} s more",
        wake_after=AGAIN_S,
    )


def trouble(w: World) -> str:
    """Why failsafe mode does not carry this primary; empty if it is off."""
    if not w.settings.failsafe_mode:
        return ""
    if w.failsafe_answers is not None:
        silent = [f"{name}: {answer.problem}" for name, answer in w.failsafe_answers.items() if not answer.accepted]
        return "; ".join([*silent, *([quorum_lacks(w)] if w.settings.failsafe_quorum else [])])
    if w.memory.failsafe_map.others(w.me) is None:
        return "failsafe mode does not help: /failsafe was not confirmed, cannot be read, or does not name this node"
    return ""


# -- the others ----------------------------------------------------------------------------------------------


def with_leader(cluster: ClusterView, record: FailsafeRecord) -> ClusterView:
    """The cluster as it is: the lock is gone, but this primary leads by what I accepted. (HA rules 4.1, EC 26)"""
    card = cluster.member(record.name) or Member(record.name, record.conn_url, record.api_url, "running", "primary")
    others = tuple(m for m in cluster.members if m.name != record.name)
    status = replace(cluster.status, slots={**cluster.status.slots, **record.slots})
    return replace(cluster, leader=record.name, members=(*others, card), status=status)


def accepted_another(w: World) -> Decision | None:
    """The lock is mine but I have accepted another primary as the leader: nobody is promoted beside it. (HA rules 9)"""
    record = w.memory.failsafe
    if w.is_holder and not w.node.is_primary and record is not None and record.valid(w.now):
        return end(
            ReleaseLease(),
            because=f"the lock is mine, but {record.name} was accepted as leader {w.now - record.at:.1f} s ago: giving it back",
            wake_after=AGAIN_S,
        )
    return None


def _shut_out(w: World) -> bool:
    return w.settings.failsafe_mode and bool(w.cluster.failsafe) and w.me not in (w.cluster.failsafe or {})


def _leads_nobody(w: World, peer: PeerView | None) -> bool:
    """It answers, neither leads nor is about to, and has accepted no other primary."""
    if peer is None or not peer.reachable or peer.is_primary or peer.promoting:
        return False
    return peer.failsafe_leader in (None, w.me)


def not_in_failsafe(w: World) -> Decision | None:
    """``/failsafe`` does not name me, so the primary needs not ask me: it may still run, unless all named say that they do not.

    (HA rules 15.1.9, EC 25, 32)
    """
    if not _shut_out(w):
        return None
    named = f"/failsafe names {', '.join(sorted(w.cluster.failsafe or {}))}, not {w.me}"
    if w.peers is None and w.known_peers():
        return act(PollPeers(w.known_peers(), brief=w.node.silent), because=f"{named}: asking them")
    if all(_leads_nobody(w, (w.peers or {}).get(name)) for name in w.cluster.failsafe or {}):
        return None
    return rest(
        because=f"{named}: one of them may run as the primary without the store; this node takes the lock once all of them "
        "answer that they do not, or when failsafe_mode is switched off",
        wake_after=AGAIN_S,
    )


def claimed_late(w: World) -> Decision | None:
    """I took the lock without being named in ``/failsafe``, so long after I saw it free that another may have led. (EC 25, 32)"""
    took = w.now - w.read_at if w.read_at is not None else 0.0
    if w.is_holder and not w.node.is_primary and _shut_out(w) and took > w.settings.timing.ttl:
        return end(
            ReleaseLease(),
            because=f"/failsafe does not name {w.me}, and it took {took:.1f} s to take the lock: giving it back",
            wake_after=AGAIN_S,
        )
    return None


def _just_began(w: World) -> bool:
    began = w.memory.began
    return w.settings.failsafe_mode and began is not None and w.now - began < w.settings.timing.ttl


def ask_after_start(w: World) -> Decision | None:
    """This agent has just begun: what it accepted before is forgotten, so everybody is asked first."""
    if _just_began(w) and w.peers is None and w.known_peers():
        return act(PollPeers(w.known_peers(), brief=w.node.silent), because="this agent has just begun: asking who leads")
    return None


def forgetful(w: World) -> Decision | None:
    """Before it ended, this agent may have accepted a primary that does not answer now: it waits for ttl. (HA rules 9)"""
    silent = [name for name, peer in sorted((w.peers or {}).items()) if not peer.reachable and not peer.starting]
    if not _just_began(w) or not silent or w.memory.began is None:
        return None
    return rest(
        because=f"this agent began {w.now - w.memory.began:.1f} s ago and {', '.join(silent)} does not answer: it may have been "
        f"accepted as the leader before; waiting for {w.settings.timing.ttl} s",
        wake_after=AGAIN_S,
    )


def _votes_of(w: World) -> SyncView | None:
    """The ``/sync`` whose votes a primary without the store may count on: the present one, or the last seen with a leader.

    A store that lost its data does not stop that primary. (decisions/0005)
    """
    sync = sync_in_force(w)
    if sync is None and w.settings.failsafe_quorum and w.memory.old_cluster is not None:
        sync = w.memory.old_cluster.sync if w.memory.old_cluster.sync.active else None
    return sync if sync is not None and by_votes(sync, w.settings.synchronous_mode) else None


def votes_count(w: World) -> bool:
    """Asking the members now is asking for votes that a primary without the store may need as well: they must know."""
    return w.cluster.unlocked and w.settings.failsafe_mode and _votes_of(w) is not None


def peer_accepted(w: World) -> Decision | None:
    """Where votes decide, a member that has accepted a primary without the store gives none. (decisions/0005)"""
    if _votes_of(w) is None:
        return None
    for name, peer in sorted((w.peers or {}).items()):
        if peer.reachable and peer.failsafe_leader not in (None, w.me):
            return rest(
                because=f"{name} has accepted {peer.failsafe_leader} as the leader without the store: it may still run",
                wake_after=AGAIN_S,
            )
    return None


def peer_forgetful(w: World) -> Decision | None:
    """A member whose agent has just begun may have accepted one that is silent: its vote does not count yet. (decisions/0005)"""
    peers = w.peers or {}
    silent = [name for name, peer in sorted(peers.items()) if not peer.reachable and not peer.starting]
    young = [name for name, peer in sorted(peers.items()) if peer.reachable and peer.failsafe_unknown]
    if not votes_count(w) or not silent or not young:
        return None
    return rest(
        because=f"the agent of {', '.join(young)} has just begun and may have accepted {', '.join(silent)}, which is silent: "
        f"waiting for {w.settings.timing.ttl} s",
        wake_after=AGAIN_S,
    )


def _too_few_free(w: World) -> str:
    """Why the answers do not rule out that the primary runs on by the word of others; empty: they do."""
    sync = _votes_of(w)
    if sync is None or not w.settings.failsafe_quorum or not votes_count(w) or (w.peers is None and w.known_peers()):
        return ""
    free = [name for name, peer in sorted((w.peers or {}).items()) if peer.reachable and sync.covers(name)]
    needed = sync.quorum + (0 if sync.covers(w.me) else 1)
    if len(free) >= needed:
        return ""
    return (
        f"only {len(free)} of {needed} members of /sync answer: {sync.leader} may still run by the word of the others; make sure "
        "that it does not, then switch failsafe_quorum off"
    )


def forced_unproven(w: World) -> Decision | None:
    """A manual failover names me, but too few answer to rule out that the primary runs on by their word. (decisions/0005)"""
    request = w.cluster.failover
    named = request is not None and request.candidate == w.me and not request.is_switchover and not request.scheduled_at
    few = _too_few_free(w) if named else ""
    return rest(because=f"a manual failover names this node, but {few}, and ask again", wake_after=AGAIN_S) if few else None


def sync_vanished(w: World) -> Decision | None:
    """The store has lost ``/sync``, by whose votes the primary may run on: they are asked for all the same. (decisions/0005)"""
    few = _too_few_free(w) if sync_in_force(w) is None else ""
    return rest(because=f"/sync has vanished from the store, and {few}", wake_after=AGAIN_S) if few else None


RACE_GATES = (not_in_failsafe, ask_after_start, forgetful, peer_accepted, peer_forgetful, forced_unproven, sync_vanished)
