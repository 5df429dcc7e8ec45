"""Synchronous mode ``quorum``: the one write that comes next on the primary and before a promotion. (HA rules 20)

A commit waits for ``count`` of the names; a new leader must find ``quorum`` other nodes of ``/sync`` that are not ahead. Whatever
set confirmed a commit must meet whatever set lets a node lead, in every state between two writes. Names are only set when that
holds for the commits to come, ``/sync`` is only written when it holds for the commits of the past as well: see ``_least_quorum``.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from pgcore.decide.sync_candidates import Picture, fenced, spelled
from pgcore.decide.sync_names import QUORUM_PLACEHOLDER, SetNames, Step, Wait, WriteSync, any_of, in_order
from pgcore.model.changes import replace
from pgcore.model.cluster import SyncView
from pgcore.model.synchronous import OFF, Names

RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _State:
    """``/sync`` of mine and the names together."""

    voters: frozenset[str]
    quorum: int
    names: frozenset[str]
    count: int

    @property
    def waits_for(self) -> tuple[frozenset[str], int]:
        """The half that is PostgreSQL's."""
        return self.names, self.count

    @property
    def surplus(self) -> int:
        """By how much the quorum is above what the names require once all have everything."""
        return self.quorum + self.count - len(self.voters | self.names)


@dataclass(frozen=True, slots=True)
class _Goal:
    """What is wanted, and what is known: ``active`` standbys, how many are ``proven``, how many a commit shall wait for."""

    active: frozenset[str]
    wanted: int
    proven: int


def next_step(picture: Picture) -> Step | None:
    """What the primary writes next; None when all is as wanted. (HA rules 20.1, 20.3, 20.4, 20.6, 20.7)

    Adjacent writes of the same half are merged. An unsafe state, made by hand or by another program, is repaired first.
    """
    p = spelled(picture)
    return fenced(p, _claim(p) or _repair(p) or _settle(p) or _without_candidates(p) or _transition(p))


def before_promotion(me: str, sync: SyncView, names: Names, strict: bool, elected: bool) -> Step | None:
    """What the winner of the race writes before it promotes; None: promote. (HA rules 20.5)

    ``elected``: the votes of the race prove that I have every confirmed commit. Then ``/sync`` moves to me before I accept one:
    the leader it names may come back without any vote, and must not do so beside a commit it has never seen. A node that leads
    by a forced failover has no such proof, and ``/sync`` moves after its promotion. (differs from HA rules 20.5)
    """
    p = spelled(Picture(me, sync, names))
    voters = _heirs(p) if p.sync.active else frozenset()
    count = len(voters) - p.sync.quorum
    wanted = any_of(max(1, count), voters) if voters else (QUORUM_PLACEHOLDER if strict else OFF)
    if not p.names.same(wanted):
        return SetNames(wanted, f"before promotion commits must wait for: {wanted}")
    if elected and p.sync.active and not p.leads:
        return _write(me, voters, p.sync.quorum, f"before promotion; the votes of {p.sync.leader} are mine")
    return None


def is_safe(me: str, sync: SyncView, names: Names) -> bool:
    """Every set that confirms a commit meets every set that lets a node lead. (HA rules 20.2)

    ``everybody`` in the names confirms nothing; the placeholder confirms no commit, so that nothing can be lost.
    """
    voters, listed = frozenset(sync.standbys), frozenset(names.names) - {me}
    count = min(names.count, len(listed))
    everybody, may_lead = voters | listed | {sync.leader or me, me}, voters | {sync.leader or me}
    if sync.quorum < 0 or sync.quorum >= max(1, len(voters)):
        return False
    if names.placeholder or (not voters and (sync.leader or me) == me):
        return True
    nested = may_lead <= listed | {me} or listed | {me} <= may_lead
    return nested and len(everybody) <= sync.quorum + count + 1


# -- whose /sync it is, and whether it can be relied on ---------------------------------------------------------------


def _claim(p: Picture) -> Step | None:
    """``/sync`` names nobody or somebody else: it must name me. (HA rules 19.2, 20.3.1, EC 136, 144)

    The votes are taken over if the names were set for them before I was promoted, else nobody else may lead until proven.
    """
    if p.leads:
        return None
    if p.sync.active and is_safe(p.me, p.sync, p.names):
        return _write(p.me, _heirs(p), p.sync.quorum, f"/sync still names {p.sync.leader}")
    return _write(p.me, frozenset(), 0, f"/sync names {p.sync.leader or 'nobody'} and the names do not match: {p.names}")


def _heirs(p: Picture) -> frozenset[str]:
    """The members of ``/sync`` but me."""
    return frozenset(n for n in (p.sync.leader or "", *p.sync.standbys) if n and n.lower() != p.me.lower())


def _repair(p: Picture) -> Step | None:
    """Names and ``/sync`` do not protect each other: raise the quorum or let nobody else lead. (HA rules 20.2, EC 121)"""
    if is_safe(p.me, p.sync, p.names):
        return None
    state = _state(p)
    reason = f"/sync ({p.sync.quorum} of {_listing(state.voters)}) does not fit the names {p.names}"
    quorum = _least_quorum(state, state.names, len(p.proven & state.names))
    if quorum is None or not state.names:
        return _write(p.me, frozenset(), 0, reason)
    return _write(p.me, state.names, quorum, reason)


def _settle(p: Picture) -> Step | None:
    """Right after a promotion or start nobody is removed before standbys could connect. (HA rules 20.3.1, EC 144)"""
    named = frozenset(p.names.names)
    if p.fresh and named and not named & frozenset(p.chosen):
        return Wait(f"giving {_listing(named)} time to connect", RETRY_S)
    return None


def _without_candidates(p: Picture) -> Step | None:
    """Nobody can be synchronous in strict mode, or nobody can confirm what ``/sync`` lists. (HA rules 19.7, 20.6, EC 124)"""
    voters = frozenset(p.sync.standbys)
    if p.strict and not p.chosen:
        wanted = any_of(max(1, len(voters) - p.sync.quorum), voters) if voters else QUORUM_PLACEHOLDER
        reason = f"strict mode and no candidate: commits wait for {_listing(voters) if voters else 'a standby to come'}"
        return Wait(reason) if p.names.same(wanted) else SetNames(wanted, reason)
    if p.names.placeholder and voters and voters & frozenset(p.chosen):
        return SetNames(any_of(len(voters) - p.sync.quorum, voters), f"{_listing(voters & frozenset(p.chosen))} back")
    return None


# -- transitions ------------------------------------------------------------------------------------------------------


def _transition(p: Picture) -> Step | None:
    """The next write of the sequence of 20.3, with those of the same half that follow it."""
    begin = _state(p)
    active = frozenset(p.chosen)
    goal = _Goal(active, min(max(0, p.wanted), len(active)), len(p.proven & begin.names))
    if not goal.wanted:
        goal = replace(goal, active=frozenset())
    state = _advance(begin, goal)
    if state is None:
        return _at_rest(p, begin, goal)
    names_first = state.waits_for != begin.waits_for
    while (following := _advance(state, goal)) is not None and names_first == (following.waits_for != state.waits_for):
        state = following
    reason = f"commits shall wait for any {goal.wanted} of {_listing(goal.active)}; {goal.proven} known to have everything"
    if names_first:
        return SetNames(any_of(state.count, state.names), reason)
    return _write(p.me, state.voters, state.quorum, reason)


def _at_rest(p: Picture, state: _State, goal: _Goal) -> Step | None:
    """No write is possible: all is as wanted but maybe the form of the names, or a proof is due."""
    if state.voters != state.names or state.surplus > 0:
        return Wait(f"{goal.proven} of {state.count} standbys caught up; named: {_listing(state.names)}", RETRY_S)
    wanted = any_of(state.count, state.names)
    return None if p.names.same(wanted) else SetNames(wanted, f"in quorum form: {wanted}")


def _advance(s: _State, goal: _Goal) -> _State | None:
    """The state after the next single safe change; None when there is none."""
    if not s.voters:
        return _without_voters(s, goal)
    if not goal.active & (s.names | s.voters):
        return replace(s, voters=frozenset(), quorum=0)
    if s.names < s.voters:
        return _names_behind(s, goal)
    if s.voters < s.names:
        return _voters_behind(s, goal)
    return _less_surplus(s, goal) or _without_gone(s, goal) or _with_new(s, goal) or _other_count(s, goal)


def _least_quorum(s: _State, voters: frozenset[str], proven: int) -> int | None:
    """The lowest quorum at which these voters are safe to be written now; None when they are not at any.

    For commits to come: confirmed by ``count`` of the names and me. For those of the past one of two reasons: each set that lets
    a node lead contains one that did so before (``inherited``), or ``proven`` of the names and me have all of them (``known``).
    """
    everybody = len(voters | s.names)
    inherited = s.quorum + len(voters - s.voters)
    known = everybody - proven
    quorum = max(0, everybody - s.count, min(inherited, known))
    return quorum if quorum < max(1, len(voters)) else None


def _without_voters(s: _State, goal: _Goal) -> _State | None:
    """Only I may lead, so the names are free. They vote once one of them has everything. (HA rules 20.3.5, EC 143)"""
    if s.names and s.names <= goal.active:
        quorum = _least_quorum(s, s.names, goal.proven)
        if quorum is not None:
            return replace(s, voters=s.names, quorum=quorum)
    if (s.names, s.count) != (goal.active, goal.wanted):
        return replace(s, names=goal.active, count=goal.wanted)
    return None


def _names_behind(s: _State, goal: _Goal) -> _State | None:
    """Some vote but are not named: gone ones lose their vote, the others are named. (HA rules 20.3.3)"""
    stay = s.names | (s.voters & goal.active)
    if stay != s.voters:
        quorum = _least_quorum(s, stay, goal.proven)
        if quorum is not None:
            return replace(s, voters=stay, quorum=quorum)
    return replace(s, names=stay) if stay != s.names else None


def _voters_behind(s: _State, goal: _Goal) -> _State | None:
    """Some are named but do not vote: gone ones are named no more, the others get their vote. (HA rules 20.3.3, EC 143)"""
    stay = s.voters | (s.names & goal.active)
    if stay != s.names:
        return replace(s, names=stay, count=min(s.count, len(stay)))
    quorum = _least_quorum(s, s.names, goal.proven)
    return replace(s, voters=s.names, quorum=quorum) if quorum is not None else None


def _less_surplus(s: _State, goal: _Goal) -> _State | None:
    """The quorum is higher than the names require: wait for fewer, or lower it as far as is proven. (HA rules 20.3.3)"""
    if s.surplus <= 0:
        return None
    if s.count > goal.wanted:
        return replace(s, count=max(goal.wanted, len(s.voters) - s.quorum))
    quorum = _least_quorum(s, s.voters, goal.proven)
    return replace(s, quorum=quorum) if quorum is not None and quorum < s.quorum else None


def _without_gone(s: _State, goal: _Goal) -> _State | None:
    """As many as the quorum can spare leave the names first; without spare they lose their vote first. (HA rules 20.3.4)"""
    gone = s.names - goal.active
    if not gone:
        return None
    if s.quorum:
        stay = s.names - _last(gone, s.quorum)
        return replace(s, names=stay, count=min(s.count, len(stay)))
    stay = s.names - gone
    return replace(s, voters=stay, quorum=len(stay) - min(goal.wanted, len(stay)))


def _with_new(s: _State, goal: _Goal) -> _State | None:
    """New ones are named first while commits shall wait for more, else they vote first. (HA rules 20.3.5)"""
    new = goal.active - s.names
    if not new:
        return None
    if s.count < goal.wanted:
        more = min(len(new), goal.wanted - s.count)
        return replace(s, names=s.names | set(in_order(new)[:more]), count=s.count + more)
    quorum = _least_quorum(s, s.voters | new, goal.proven)
    return replace(s, voters=s.voters | new, quorum=quorum) if quorum is not None else None


def _other_count(s: _State, goal: _Goal) -> _State | None:
    """Waiting for more: the names first. For fewer: the quorum first. (HA rules 20.3.6)"""
    if s.count < goal.wanted:
        return replace(s, count=goal.wanted)
    if s.count > goal.wanted:
        return replace(s, quorum=len(s.voters) - goal.wanted)
    return None


def _last(names: Set[str], number: int) -> frozenset[str]:
    return frozenset(in_order(names)[-number:])


def _state(p: Picture) -> _State:
    named = frozenset(p.names.names) - {p.me}  # nobody streams from itself
    return _State(frozenset(p.sync.standbys), max(0, p.sync.quorum), named, min(p.names.count, len(named)))


def _write(me: str, voters: Set[str], quorum: int, because: str) -> WriteSync:
    return WriteSync(me, in_order(voters), quorum, because)


def _listing(names: Set[str]) -> str:
    return ", ".join(in_order(names)) or "nobody"
