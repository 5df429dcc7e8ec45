"""Words every other module uses: WAL positions, instants, timing, roles, states, tags. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, NewType

Instant = NewType("Instant", float)
"""Seconds on the clock of ``pgcore.clock.now``."""

Json = Any
"""What ``json.loads`` can return."""

DEFAULT_TTL, DEFAULT_LOOP_WAIT, DEFAULT_RETRY_TIMEOUT = 30, 10, 10
MIN_LOOP_WAIT, MIN_RETRY_TIMEOUT = 1, 1
PATRONI_MIN_TTL, PATRONI_MIN_RETRY_TIMEOUT = 20, 3
MIN_TTL = 5


class Lsn(int):
    """A WAL position in bytes; prints as PostgreSQL does (``0/3000060``). 0 means "nothing received"."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read ``X/X`` or a decimal number. Raises ValueError for anything else."""
        high, slash, low = text.partition("/")
        if slash:
            return cls((int(high, 16) << 32) + int(low, 16))
        return cls(int(text))

    def __str__(self) -> str:
        return f"{int(self) >> 32:X}/{int(self) & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return int.__repr__(self)


class Role(StrEnum):
    """What a node is, as published (HA rules 1)."""

    PRIMARY = "primary"
    STANDBY_LEADER = "standby_leader"
    REPLICA = "replica"
    DEMOTED = "demoted"
    UNINITIALIZED = "uninitialized"
    PROMOTED = "promoted"


    @property
    def told(self) -> Role:
        """The word outsiders know: what is being promoted is a primary to them (EC 217)."""
        return Role.PRIMARY if self is Role.PROMOTED else self


class State(StrEnum):
    """What the local server is doing, as published; the order is the number in the metrics (HA rules 1)."""

    INITDB = "initializing new cluster"
    INITDB_FAILED = "initdb failed"
    CUSTOM_BOOTSTRAP = "running custom bootstrap script"
    CUSTOM_BOOTSTRAP_FAILED = "custom bootstrap failed"
    CREATING_REPLICA = "creating replica"
    RUNNING = "running"
    STARTING = "starting"
    BOOTSTRAP_STARTING = "starting after custom bootstrap"
    START_FAILED = "start failed"
    RESTARTING = "restarting"
    RESTART_FAILED = "restart failed"
    STOPPING = "stopping"
    STOPPED = "stopped"
    STOP_FAILED = "stop failed"
    CRASHED = "crashed"

    @property
    def number(self) -> int:
        """The value of the ``patroni_postgres_state`` metric."""
        return list(State).index(self)


@dataclass(frozen=True, slots=True)
class Timing:
    """The three settings that must fit together, in seconds: ``loop_wait + 2 * retry_timeout <= ttl`` (HA rules 2)."""

    ttl: int = DEFAULT_TTL
    loop_wait: int = DEFAULT_LOOP_WAIT
    retry_timeout: int = DEFAULT_RETRY_TIMEOUT

    def fitted(self, *, patroni_present: bool = False, ttl_floor: int = MIN_TTL) -> Timing:
        """These values raised to their minimum and made to fit, as every member must compute them (HA rules 2)."""
        min_ttl = max(ttl_floor, PATRONI_MIN_TTL if patroni_present else MIN_TTL)
        min_retry = PATRONI_MIN_RETRY_TIMEOUT if patroni_present else MIN_RETRY_TIMEOUT
        ttl = max(self.ttl, min_ttl)
        loop_wait = max(self.loop_wait, MIN_LOOP_WAIT)
        retry_timeout = max(self.retry_timeout, min_retry)
        if 1 + 2 * retry_timeout > ttl:
            return Timing(ttl, 1, (ttl - 1) // 2)
        return Timing(ttl, min(loop_wait, ttl - 2 * retry_timeout), retry_timeout)


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of one node with the meaning of HA rules 26; ``raw`` is what was configured or published."""

    raw: Mapping[str, Json] = field(default_factory=dict)

    @property
    def nofailover(self) -> bool:
        """Never a candidate; an explicit ``nofailover`` overrides ``failover_priority``."""
        flag = self.raw.get("nofailover")
        return bool(flag) if flag is not None else self.failover_priority <= 0

    @property
    def failover_priority(self) -> int:
        """Tie-breaker at equal WAL position; a true ``nofailover`` counts as 0."""
        if self.raw.get("nofailover") is True:
            return 0
        return _priority(self.raw.get("failover_priority"))

    @property
    def nosync(self) -> bool:
        """Never synchronous; an explicit ``nosync`` overrides ``sync_priority``."""
        flag = self.raw.get("nosync")
        return bool(flag) if flag is not None else self.sync_priority <= 0

    @property
    def sync_priority(self) -> int:
        """Preference as a synchronous standby; a true ``nosync`` counts as 0."""
        return 0 if self.raw.get("nosync") is True else _priority(self.raw.get("sync_priority"))

    @property
    def noloadbalance(self) -> bool:
        """Answers 503 to ``/replica``."""
        return bool(self.raw.get("noloadbalance"))

    @property
    def clonefrom(self) -> bool:
        """Preferred as the source of new replicas."""
        return bool(self.raw.get("clonefrom"))

    @property
    def nostream(self) -> bool:
        """Follows the archive only."""
        value = self.raw.get("nostream")
        return value.strip().lower() in ("on", "true", "yes", "1") if isinstance(value, str) else bool(value)

    @property
    def replicatefrom(self) -> str | None:
        """The member to cascade from."""
        value = self.raw.get("replicatefrom")
        return str(value) if value else None

    def published(self) -> dict[str, Json]:
        """What goes into the member key: false booleans dropped but for the two with a priority tag (HA rules 26)."""
        kept = {}
        for name, value in self.raw.items():
            pair = {"nofailover": "failover_priority", "nosync": "sync_priority"}.get(name)
            if name in _BOOLEAN_TAGS and not value and not (pair and pair in self.raw):
                continue
            kept[name] = value
        return kept


_BOOLEAN_TAGS = frozenset({"clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"})


def _priority(value: Json) -> int:
    try:
        return 1 if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return 1


@lru_cache(maxsize=256)
def slot_name(member: str) -> str:
    """The physical slot of a member, by the rule every member and Patroni share (HA rules 1)."""

    def character(c: str) -> str:
        if c in "-.":
            return "_"
        return c if c.isascii() and (c.isalnum() or c == "_") else f"u{ord(c):04d}"

    return "".join(character(c) for c in member.lower())[:63]
