"""Synchronous mode ``on``: the one write that comes next on the primary and before a promotion. (HA rules 19)

Every state between two writes is safe: a standby is listed in ``/sync`` only while every confirmed commit waited for it. So it is
added to the names first and to ``/sync`` once it has everything, and removed the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.decide.sync_candidates import Picture, fenced, spelled
from pgcore.decide.sync_names import (
    PLACEHOLDER,
    DropSync,
    RestoreNames,
    SetNames,
    Step,
    Wait,
    WriteSync,
    any_of,
    first_of,
    in_order,
)
from pgcore.model.cluster import SyncView
from pgcore.model.synchronous import OFF, Names

PROOF_WAIT_S, SETTLE_S = 2.0, 1.0


def next_step(picture: Picture) -> Step | None:
    """What the primary writes next; None when all is as wanted. (HA rules 19.2, 19.5, 19.7, 20.7)"""
    p = spelled(picture)
    return fenced(p, _claim(p) or _reduce(p) or _settle(p) or _without_candidates(p) or _towards_chosen(p))


def switch_off(sync: SyncView, ours: bool, own: str) -> Step | None:
    """Leaving synchronous mode: ``/sync`` goes first, then the names are the user's again. (HA rules 19, EC 138)

    ``ours``: an agent has set the value the server has; ``own`` is the one in ``postgresql.parameters`` or empty.
    """
    if sync.active:
        return DropSync("synchronous mode is off")
    if ours:
        return RestoreNames(own, f"synchronous mode is off: synchronous_standby_names becomes {own or 'what it was without it'}")
    return None


def before_promotion(me: str, sync: SyncView, names: Names, strict: bool) -> Step | None:
    """What the winner of the race writes before it promotes; None: promote. (HA rules 19.6, EC 125, 141)

    Strict adds before it promotes, so the names come first; otherwise it removes, so ``/sync`` does.
    """
    p = spelled(Picture(me, sync, names))
    known = _others(p) if p.sync.active else ()
    heirs = known if strict and p.sync.quorum == 0 else ()
    wanted = _waiting_for(known, p.sync.quorum) if strict else OFF
    if strict and p.leads and not known and p.names.names:
        wanted = p.names  # set a moment ago, before /sync was written
    writes: list[Step] = []
    if not p.names.same(wanted):
        writes.append(SetNames(wanted, f"before promotion commits must wait for: {wanted}"))
    if not (p.leads and p.sync.quorum == 0 and set(p.sync.standbys) == set(heirs)):
        writes.append(WriteSync(me, heirs, 0, f"before promotion; {_listing(heirs)} may lead besides me"))
    return next(iter(writes if strict else writes[::-1]), None)


def _claim(p: Picture) -> Step | None:
    """``/sync`` names nobody or somebody else: it names me alone before anything else. (HA rules 19.2, 19.5.1, EC 122, 136)"""
    if p.leads:
        return None
    return WriteSync(p.me, (), 0, f"/sync names {p.sync.leader or 'nobody'} as the leader")


def _reduce(p: Picture) -> Step | None:
    """Listed standbys that commits do not wait for leave ``/sync`` before the names are corrected. (HA rules 19.5.2, EC 121)"""
    listed = set(p.sync.standbys)
    # Of names of which not all are waited for, any may have been left out of a commit. The placeholder confirms none at all.
    waited_for = set(p.names.names) if p.names.count >= len(p.names.names) else set()
    keep = listed if p.names.placeholder else listed & waited_for
    if p.sync.quorum:
        keep &= p.proven  # with a quorum a listed standby need not have every commit
    if keep == listed and not p.sync.quorum:
        return None
    return WriteSync(
        p.me,
        in_order(keep),
        0,
        f"/sync lists {_listing(p.sync.standbys)} with quorum {p.sync.quorum}, but only {_listing(keep)} must have every commit",
    )


def _settle(p: Picture) -> Step | None:
    """Right after a start nobody is removed before standbys could connect."""
    listed = set(p.sync.standbys)
    if p.fresh and listed and not listed & set(p.chosen):
        return Wait(f"giving {_listing(listed)} time to connect", SETTLE_S)
    return None


def _without_candidates(p: Picture) -> Step | None:
    """Strict and nobody can be synchronous: commits wait for the last known ones, else for nobody. (HA rules 19.7, EC 124)"""
    if p.chosen or not p.strict:
        return None
    wanted = _waiting_for(p.sync.standbys, 0)
    reason = f"strict mode and no candidate: commits wait for {_listing(p.sync.standbys, 'a standby to come')}"
    return Wait(reason) if p.names.same(wanted) else SetNames(wanted, reason)


def _towards_chosen(p: Picture) -> Step | None:
    """Remove from ``/sync``, set the names, add to ``/sync`` what has everything. (HA rules 19.5.4 to 8, EC 118, 119)"""
    chosen, listed, wanted = set(p.chosen), set(p.sync.standbys), first_of(p.chosen)
    stay = listed & chosen & p.proven
    if stay != listed:
        return WriteSync(p.me, in_order(stay), 0, f"{_listing(listed - stay)} not synchronous any more")
    if not p.names.same(wanted):
        return SetNames(wanted, f"commits must wait for {_listing(chosen)}")
    ready = chosen & p.proven
    if ready != listed:
        return WriteSync(p.me, in_order(ready), 0, f"{_listing(ready - listed)} caught up")
    return Wait(f"until {_listing(chosen - ready)} caught up", PROOF_WAIT_S) if ready != chosen else None


def _others(p: Picture) -> tuple[str, ...]:
    return in_order(n for n in (p.sync.leader or "", *p.sync.standbys) if n and n.lower() != p.me.lower())


def _waiting_for(names: Iterable[str], quorum: int) -> Names:
    """Strict: commits wait for enough of these to meet every node that may lead, for nobody when there are none."""
    listed = in_order(names)
    if quorum and listed:
        return any_of(max(1, len(listed) - quorum), listed)
    return first_of(listed) if listed else PLACEHOLDER


def _listing(names: Iterable[str], nobody: str = "nobody") -> str:
    return ", ".join(in_order(names)) or nobody
