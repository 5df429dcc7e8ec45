"""The lock: who holds it, since when, and when it was renewed, in the annotations of an object or in the fields of a Lease.

Kubernetes ends no lock by itself. It counts as free when all this stayed as it was for its ttl, by the clock of whoever looks
(dcs-layout 9.3): the times in it are for people and are never compared with a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pgcore.plugin import Instant, Json
from pgcore_dcs_kubernetes.layout import Annotations, Change

_FIELDS = {"leader": "holderIdentity", "acquired": "acquireTime", "ttl": "leaseDurationSeconds", "renewed": "renewTime",
           "transitions": "leaseTransitions"}
_ANNOTATIONS = {"leader": "leader", "acquired": "acquireTime", "ttl": "ttl", "renewed": "renewTime", "transitions": "transitions"}
_NUMBERS = ("ttl", "transitions")
NEVER = Instant(0.0)


@dataclass(frozen=True, slots=True)
class Lock:
    """What stands in the object; texts, empty where nothing stands."""

    leader: str = ""
    acquired: str = ""
    ttl: str = ""
    renewed: str = ""
    transitions: str = ""

    @property
    def version(self) -> str:
        """The same as long as one holder keeps it."""
        return f"{self.transitions}.{self.acquired}.{self.leader}"

    def lasts_s(self, own_ttl: int) -> int:
        """Seconds without a change after which it is free."""
        return int(self.ttl) if self.ttl.isdigit() and int(self.ttl) > 0 else own_ttl

    def taken(self, member: str, ttl: int, *, anew: bool) -> Lock:
        """As ``member`` takes it; ``anew`` unless it renews what it holds."""
        moment = _moment()
        if not anew and self.leader == member and self.acquired:
            return replace(self, ttl=str(ttl), renewed=moment)
        transitions = int(self.transitions) if self.transitions.isdigit() else 0
        # A lock that was released keeps its number, so the next holder counts as another.
        return Lock(member, moment, str(ttl), moment, str(transitions + (self.leader != member)))

    def freed(self) -> Lock:
        """Without a holder."""
        return replace(self, leader="", renewed=_moment())


def _moment() -> str:
    """Now, to the microsecond, so that no two writes say the same."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def in_annotations(annotations: Annotations) -> Lock:
    """The lock of Endpoints and ConfigMaps."""
    return Lock(**{field: annotations.get(name, "") for field, name in _ANNOTATIONS.items()})


def to_annotations(lock: Lock) -> Change:
    """The annotations that say so."""
    return {name: getattr(lock, field) or None for field, name in _ANNOTATIONS.items()}


def in_lease(spec: Json) -> Lock:
    """The lock of a Lease."""
    found = spec if isinstance(spec, dict) else {}
    return Lock(**{field: "" if found.get(name) is None else str(found[name]) for field, name in _FIELDS.items()})


def to_lease(lock: Lock) -> dict[str, Json]:
    """The fields that say so."""
    fields: dict[str, Json] = {}
    for field, name in _FIELDS.items():
        text = getattr(lock, field)
        fields[name] = (int(text) if field in _NUMBERS else text.replace("+00:00", "Z")) if text else None
    return fields


@dataclass(slots=True)
class Sight:
    """Something that is alive as long as it changes: what it was when last looked at, and since when it has been so."""

    seen: object = None
    since: Instant = NEVER

    def look(self, state: object, at: Instant) -> None:
        """Note what it is at this moment; the first look counts as a change."""
        if self.seen is None or state != self.seen:
            self.seen, self.since = state, at
        else:
            self.since = min(self.since, at)
