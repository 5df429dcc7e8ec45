"""Which standbys can be synchronous, which are chosen, and which have everything. (HA rules 19.3, 19.4)

Pure functions over values; names compare case-insensitively, as PostgreSQL compares ``application_name``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pgcore.decide.sync_names import SetNames, Step, WriteSync
from pgcore.model.basics import Lsn
from pgcore.model.changes import replace
from pgcore.model.cluster import Member, SyncView
from pgcore.model.node import WalSender
from pgcore.model.synchronous import OFF, Anchor, Names

_RANK = {"sync": 0, "quorum": 1, "potential": 2}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member that streams from me and may be synchronous. ``position`` is what ``synchronous_commit`` waits for."""

    name: str
    position: Lsn
    sync_state: str = "async"
    sync_priority: int = 1
    nofailover: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """All that decides the next write. ``chosen`` in order of preference; ``proven`` have everything that was ever confirmed."""

    me: str
    sync: SyncView
    names: Names = OFF
    chosen: tuple[str, ...] = ()
    proven: frozenset[str] = frozenset()
    wanted: int = 1
    strict: bool = False
    fresh: bool = False
    """The server began to serve so recently that standbys had no time to connect (HA rules 20.3.1, EC 144)."""
    undecided: bool = False
    """A write to ``/sync`` was not answered since the last confirmed one: it may still arrive."""

    @property
    def leads(self) -> bool:
        """``/sync`` names me as the leader."""
        return (self.sync.leader or "").lower() == self.me.lower()


def eligible(senders: Iterable[WalSender], members: Iterable[Member], me: str, synchronous_commit: str) -> tuple[Candidate, ...]:
    """Members that stream from me and may be synchronous, sorted by name. (HA rules 19.3, EC 128, 129, 137)"""
    others = {m.name.lower(): m for m in members if m.name.lower() != me.lower() and m.running and "," not in m.name}
    rows: dict[str, tuple[int, Lsn]] = {}
    for sender in senders:
        name, position = sender.application_name.lower(), _position(sender, synchronous_commit)
        if name not in others or sender.state != "streaming" or position is None:
            continue
        # Of two connections under one name count the one PostgreSQL waits for; else the one that proves less.
        row = _RANK.get(sender.sync_state, 3), position
        rows[name] = min(row, rows.get(name, row))
    states = {rank: state for state, rank in _RANK.items()}
    return tuple(
        Candidate(m.name, position, states.get(rank, "async"), m.tags.sync_priority, m.tags.nofailover)
        for name, (rank, position) in sorted(rows.items())
        if not (m := others[name]).tags.nosync and not _cascades(m, others, rows)
    )


def _position(sender: WalSender, synchronous_commit: str) -> Lsn | None:
    if synchronous_commit == "remote_apply":
        return sender.replay
    return sender.write if synchronous_commit == "remote_write" else sender.flush


def _cascades(member: Member, others: Mapping[str, Member], streaming: Collection[str]) -> bool:
    """Its ``replicatefrom`` leads, maybe through others, to a member that streams from me."""
    passed = {member.name.lower()}
    above = (member.tags.replicatefrom or "").lower()
    while above in others and above not in passed:
        if above in streaming:
            return True
        passed.add(above)
        above = (others[above].tags.replicatefrom or "").lower()
    return False


def preferred(candidates: Iterable[Candidate], names: Names, limit: int, own: Lsn) -> tuple[Candidate, ...]:
    """Best first, without those that lag more than ``limit`` bytes (0 or less: no limit). (HA rules 19.3, EC 130-132)"""
    found = list(candidates)
    best = own if len(found) == 1 else max((c.position for c in found), default=own)
    near = [c for c in found if limit <= 0 or best - c.position <= limit]
    return tuple(sorted(near, key=lambda c: (c.nofailover, -c.sync_priority, _rank(c, names), -c.position, c.name.lower())))


def _rank(candidate: Candidate, names: Names) -> int:
    # A name just set shows as async until its sender has read the configuration; choosing again by position would go in circles.
    listed = candidate.name.lower() in _keys(names.names)
    return min(_RANK.get(candidate.sync_state, 3), _RANK["potential"] if listed else 3)


def choose_first(candidates: Iterable[Candidate], wanted: int) -> tuple[str, ...]:
    """Priority mode: the best ``wanted`` of them. (HA rules 19.3)"""
    return tuple(c.name for c in candidates)[: max(0, wanted)]


def choose_any(candidates: Iterable[Candidate], wanted: int) -> tuple[str, ...]:
    """Quorum mode: all of them, ``nofailover`` members only while there are fewer than ``wanted``. (HA rules 20)"""
    if wanted <= 0:
        return ()
    names: list[str] = []
    for candidate in sorted(candidates, key=lambda c: c.nofailover):
        if not candidate.nofailover or len(names) < wanted:
            names.append(candidate.name)
    return tuple(names)


def anchored(anchor: Anchor | None, names: Names, era: str, flushed: Lsn, in_force: bool) -> Anchor:
    """The anchor after a look at the server that shows these names and this flushed position. (HA rules 19.4)

    ``in_force`` says that every process waits by the new value. The first look at a change is never believed: its processes
    take the value over one after the other, and a commit confirmed by the old rule may lie behind the position just read.
    """
    if anchor is None or anchor.era != era or not anchor.names.same(names):
        return Anchor(names, era, flushed)
    return anchor if anchor.in_force else Anchor(names, era, flushed, in_force)


def proven_first(candidates: Iterable[Candidate], anchor: Anchor, sync: SyncView, me: str) -> frozenset[str]:
    """Priority mode: standbys PostgreSQL waits for that have everything. (HA rules 19.4)

    A listed one has, but only in a ``/sync`` of mine that lets each listed one lead alone: with a quorum none need have it.
    It may still show as ``quorum`` while the names change from that form.
    """
    named = [c for c in candidates if c.name.lower() in _keys(anchor.names.names)]
    listed = _keys(sync.standbys) if sync.quorum == 0 and (sync.leader or "").lower() == me.lower() else frozenset()
    known = {c.name.lower() for c in named if c.sync_state in ("sync", "quorum") and c.name.lower() in listed}
    return frozenset(known | {c.name.lower() for c in named if c.sync_state == "sync" and _reached(c, anchor)})


def proven_any(candidates: Iterable[Candidate], anchor: Anchor) -> frozenset[str]:
    """Quorum mode: named standbys that have everything. Being listed in ``/sync`` proves nothing here. (HA rules 20)

    Not only ``quorum`` but every state that PostgreSQL counts is accepted: the names may still be in priority form.
    """
    named = _keys(anchor.names.names)
    return frozenset(
        c.name.lower() for c in candidates if c.name.lower() in named and c.sync_state in _RANK and _reached(c, anchor)
    )


def _reached(candidate: Candidate, anchor: Anchor) -> bool:
    return anchor.in_force and candidate.position >= anchor.position


def _keys(names: Iterable[str]) -> frozenset[str]:
    return frozenset(n.lower() for n in names)


def fenced(picture: Picture, step: Step | None) -> Step | None:
    """The same step, but before new names a ``/sync`` write of unknown fate is outrun by a newer version. (HA rules 19.1)

    Otherwise it could arrive after the names were changed under the assumption that it had been lost.
    """
    sync = picture.sync
    if not picture.undecided or not isinstance(step, SetNames) or sync.leader is None:
        return step
    return WriteSync(sync.leader, sync.standbys, sync.quorum, f"an earlier write to /sync may still arrive; then: {step.because}")


def spelled(picture: Picture) -> Picture:
    """The same picture with every name written as its member writes it, so that names can be compared."""
    known = {n.lower(): n for names in (picture.names.names, picture.sync.standbys, picture.chosen) for n in names}
    me = picture.me

    def one(name: str) -> str:
        return me if name.lower() == me.lower() else known.get(name.lower(), name)

    def each(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one(n) for n in names))

    leader = one(picture.sync.leader) if picture.sync.leader else None
    standbys = tuple(n for n in each(picture.sync.standbys) if n != leader)
    return replace(
        picture,
        sync=replace(picture.sync, leader=leader, standbys=standbys),
        names=replace(picture.names, names=each(picture.names.names)),
        chosen=tuple(n for n in each(picture.chosen) if n != me),
        proven=frozenset(one(n) for n in picture.proven),
    )
