"""Failsafe mode between this node and the others: accepting a primary without a store, and asking to be accepted. (HA rules 9)

``FailsafeReceiver`` is where two threads meet that must not both have their way: a request to accept a primary, and the heartbeat
that is about to take the lock. Whoever comes first wins; nothing here waits for the store or for the heartbeat.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pgcore.clock import now
from pgcore.dcs import codec
from pgcore.dcs.store import ABSENT, Key
from pgcore.dcs.store import version as at_version
from pgcore.errors import ServerError
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Json, Lsn, Role
from pgcore.model.cluster import ClusterView
from pgcore.model.failsafe import FailsafeAnswer, FailsafeRecord, FailsafeVerdict
from pgcore.model.world import LeaseState, World

if TYPE_CHECKING:
    from pgcore.daemon.perform import Ports

logger = logging.getLogger(__name__)

LONGEST_TTL_S = 3600.0
"""A caller's ttl beyond this is not believed."""
PROMISE_S = 10.0
"""For so long after an announced poll nothing accepted here counts towards a quorum.

Longer than a primary goes on asking (4 s) and a race goes on polling (2 s) together (docs/decisions/0005).
"""


class _Standing(NamedTuple):
    """What the last heartbeat knew of this node."""

    me: str
    mode: bool
    ttl: float
    primary: bool
    lease_until: Instant | None
    position: Lsn | None


@dataclass(slots=True)
class _Seen:
    """What was last read of the cluster, and when."""

    leader: str | None = None
    """The last leader there was."""
    lock: str | None = None
    """Whom the lock named."""
    at: Instant | None = None
    names: frozenset[str] = frozenset()


@dataclass(slots=True)
class FailsafeReceiver:
    """Either a primary is accepted for ttl, or this node races; never both. Every method returns in constant time."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _standing: _Standing | None = None
    _seen: _Seen = field(default_factory=_Seen)
    _record: FailsafeRecord | None = None
    _racing: bool = False
    _promised_until: Instant | None = None
    clock: Callable[[], Instant] = now
    _began: Instant = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    # -- the REST thread --

    def accept(self, request: Mapping[str, Json]) -> FailsafeVerdict:
        """``POST /failsafe``: keep this primary as the leader for ttl, or say why not (rest-api 9)."""
        name, at = str(request["name"]), self.clock()
        with self._lock:
            standing, known = self._standing, self._valid(at)
            if standing is None or not standing.mode:
                return FailsafeVerdict(502, "failsafe_mode is off")
            refusal = self._refusal(name, standing, at)
            if not refusal:
                self._record = FailsafeRecord(
                    name,
                    str(request["conn_url"]),
                    str(request["api_url"]),
                    _positions(request.get("slots")),
                    at,
                    max(standing.ttl, min(_seconds(request.get("ttl")), LONGEST_TTL_S)),
                )
        if refusal:
            logger.warning("%s, which lost the store, was not accepted as the leader: %s", name, refusal)
            return FailsafeVerdict(500, refusal)
        if known is None:
            logger.info("%s lost the store and was accepted as the leader; it asks again while that lasts", name)
        return FailsafeVerdict(200, "Accepted", standing.position, self._unpromised(at))

    def promise(self) -> None:
        """An announced poll: who asks may take the lock on my answer, so for a while nothing accepted here counts elsewhere.

        Unless a primary was accepted already: then the answer says so, and no vote is given.
        """
        with self._lock:
            at = self.clock()
            if self._valid(at) is None:
                self._promised_until = Instant(at + PROMISE_S)

    def _unpromised(self, at: Instant) -> bool:
        """No vote was given of late; an agent that has just begun does not know."""
        return at >= max(self._promised_until or at, self._began + PROMISE_S)

    def vouching(self) -> tuple[str | None, bool]:
        """Whom I have accepted as the leader, and whether I may have forgotten it."""
        with self._lock:
            at, standing = self.clock(), self._standing
            record = self._valid(at)
            unknown = standing is None or (standing.mode and at < self._began + standing.ttl)
            return record.name if record is not None else None, unknown

    def binding(self) -> bool:
        """Whether what I accept now counts towards a quorum."""
        with self._lock:
            standing = self._standing
            return standing is not None and standing.mode and self._unpromised(self.clock())

    def _refusal(self, name: str, standing: _Standing, at: Instant) -> str:
        """Why this caller is not accepted; empty if it is. (HA rules 30.11)"""
        seen, record = self._seen, self._valid(at)
        if standing.primary or (standing.lease_until is not None and at < standing.lease_until):
            return "Running as a leader"
        if name == standing.me:
            return f"{name} is the name of this node"
        if self._racing:
            return f"{standing.me} is taking the lock"
        if seen.lock not in (None, name) and seen.at is not None and at < seen.at + standing.ttl:
            return f"{seen.lock} held the lock {at - seen.at:.1f} s ago"
        if record is not None and record.name != name:
            return f"{record.name} was accepted as the leader {at - record.at:.1f} s ago"
        if name != seen.leader and name not in seen.names:
            return f"{name} is neither the last known leader ({seen.leader or 'none'}) nor named in /failsafe"
        return ""

    # -- the heartbeat --

    def record(self) -> FailsafeRecord | None:
        """The primary accepted as the leader, while that is valid."""
        with self._lock:
            return self._valid(self.clock())

    @property
    def accepted(self) -> FailsafeRecord | None:
        """The primary accepted last, valid or not."""
        return self._record

    def begin_race(self) -> FailsafeRecord | None:
        """Before the lock is taken or a standby promoted: None, and nobody is accepted from now on; else who was accepted."""
        with self._lock:
            record = self._valid(self.clock())
            self._racing = self._racing or record is None
            return record

    def saw(self, view: ClusterView) -> None:
        """The store was read."""
        with self._lock:
            leader = view.leader or self._seen.leader
            self._seen = _Seen(leader, view.leader, self.clock(), frozenset(view.failsafe or ()))

    def know(self, world: World, *, over: bool = False) -> None:
        """What the heartbeat knows by now; ``over``: it is at its end.

        A race is over when the store has said that the lock is not mine: an undecided attempt may still succeed.
        """
        node, settings = world.node, world.settings
        primary = node.is_primary or (node.running and node.role in (Role.PRIMARY, Role.PROMOTED))
        primary = primary or world.becoming_primary
        lease_until = world.memory.lease_until
        with self._lock:
            self._standing = _Standing(
                settings.name, settings.failsafe_mode, float(settings.timing.ttl), primary, lease_until, node.position
            )
            if world.holds and node.is_primary:
                self._record = None  # it must not make me demote later (HA rules 9, EC 33)
            decided = world.lease in (LeaseState.NONE, LeaseState.GONE, LeaseState.TAKEN)
            if over and decided and not primary:
                self._racing = False

    def _valid(self, at: Instant) -> FailsafeRecord | None:
        return self._record if self._record is not None and self._record.valid(at) else None


def _positions(slots: Json) -> dict[str, Lsn]:
    """What can be read of a map of slots; a position that is none is left out."""
    if not isinstance(slots, Mapping):
        return {}
    return {str(k): Lsn(v) for k, v in slots.items() if isinstance(v, int) and not isinstance(v, bool) and v >= 0}


def _seconds(ttl: Json) -> float:
    return float(ttl) if isinstance(ttl, int | float) and not isinstance(ttl, bool) else 0.0


class FailsafeActions:
    """Performs the actions of failsafe mode."""

    def __init__(self, ports: Ports, put: Callable[[Key, str, Any, World], Any]) -> None:
        self._ports = ports
        self._put = put
        self.handlers: dict[type, Callable[[Any, World], Any]] = {a.WriteFailsafe: self._write, a.AskFailsafe: self._ask}

    def _write(self, action: a.WriteFailsafe, world: World) -> str | None:
        """The new version of the key, None when somebody else wrote it meanwhile."""
        expect = at_version(action.version) if action.version else ABSENT
        stored = self._put(Key.FAILSAFE, codec.compact(dict(action.members)), expect, world)
        return stored.version if stored else None

    def _ask(self, action: a.AskFailsafe, world: World) -> dict[str, FailsafeAnswer]:
        settings = world.settings
        document: dict[str, Json] = {
            "name": world.me,
            "conn_url": settings.conn_url,
            "api_url": settings.api_url,
            "slots": {name: int(lsn) for name, lsn in action.slots.items()},
            "ttl": settings.timing.ttl,
        }
        return self._ports.peers.ask_failsafe(action.members, document, action.timeout_s)


def nobody_accepted(receiver: FailsafeReceiver) -> None:
    """Right before a promotion. Raises ServerError when another primary was accepted as the leader."""
    record = receiver.begin_race()
    if record is not None:
        raise ServerError(f"no promotion: {record.name} was accepted as the leader and may still be running")
