"""What this process knows of a scope's objects: of everything it was shown the newest, and how long it has been so.

Reads, watches and answers to writes all end here, whichever comes first; so what a store shows never goes back, also when a
list comes from the cache of an API server that lags behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pgcore.plugin import MEMBERS, Instant, Json, Key, Record, now
from pgcore_dcs_kubernetes.layout import (
    CARD,
    GROUP_LABEL,
    KEYS_OF,
    LEADER_OBJECT,
    Annotations,
    Names,
    card_life,
    text_of,
    version_of,
)
from pgcore_dcs_kubernetes.lock import Lock, Sight, in_annotations, in_lease

WATCHED = (Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE)
CARD_GRACE = 1.5
"""A card is good for so many of its ttls: its writer shows a sign of life at least every half of one."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object as far as we need it. ``body``: the fields of a Lease, the subsets of Endpoints."""

    name: str
    version: str
    labels: Annotations
    annotations: Annotations
    body: Json = None

    @property
    def order(self) -> int:
        """Its resourceVersion as a number: of two of them the larger is the newer object."""
        return order_of(self.version)

    @property
    def group(self) -> str:
        """The group of an MPP cluster it belongs to."""
        return self.labels.get(GROUP_LABEL, "")

    @property
    def lock(self) -> Lock:
        """The lock in it."""
        return in_lease(self.body) if isinstance(self.body, dict) else in_annotations(self.annotations)


def thing(found: Mapping[str, Json]) -> Thing:
    """An object as Kubernetes shows it."""
    metadata = found.get("metadata") or {}
    body = found["spec"] if isinstance(found.get("spec"), dict) else found.get("subsets")
    return Thing(str(metadata["name"]), str(metadata.get("resourceVersion") or ""), metadata.get("labels") or {},
                 metadata.get("annotations") or {}, body)


def order_of(version: str) -> int:
    """A resourceVersion as a number."""
    return int(version) if version.isdigit() else 0


@dataclass(slots=True)
class _Shelf:
    """The objects of one kind."""

    things: dict[str, Thing] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    newest: int = 0
    """The largest resourceVersion of an object that was seen."""
    listed: str = ""
    """resourceVersion of the last list, from where a watch goes on."""


class Mirror:
    """The objects and, in ConfigMaps and Endpoints mode, the pods. Any thread may ask and tell."""

    def __init__(self, names: Names, ttl: int) -> None:
        self.names, self.ttl = names, ttl
        self._change = threading.RLock()
        self._objects, self._pods = _Shelf(), _Shelf()
        self._locks: dict[str, Sight] = {}
        self._cards: dict[str, Sight] = {}
        self.epoch = 0
        """How often Kubernetes turned out to have been set back."""

    # -- told ----------------------------------------------------------------------------------------------------------

    def add(self, found: Thing, at: Instant | None = None, *, pod: bool = False) -> None:
        """An object as it was seen, or as our write left it (``at``: when that was sent)."""
        with self._change:
            self._add(self._pods if pod else self._objects, found, now() if at is None else at)

    def _add(self, shelf: _Shelf, found: Thing, at: Instant) -> None:
        known = shelf.things.get(found.name)
        if (known is not None and found.order < known.order) or found.order < shelf.gone.get(found.name, 0):
            return
        shelf.things[found.name] = found
        shelf.newest = max(shelf.newest, found.order)
        if self._part(found) == LEADER_OBJECT:
            self._locks.setdefault(found.name, Sight()).look(found.lock, at)
        life = card_life(found.annotations)
        if life is not None:
            self._cards.setdefault(found.name, Sight()).look(life, at)

    def remove(self, name: str, version: str = "", *, pod: bool = False) -> None:
        """An object was deleted; without ``version`` it was just found missing."""
        with self._change:
            shelf = self._pods if pod else self._objects
            known = shelf.things.get(name)
            order = order_of(version) or (known.order + 1 if known else 0)
            if known is not None and known.order <= order:
                del shelf.things[name]
            shelf.gone[name] = max(order, shelf.gone.get(name, 0))
            shelf.newest = max(shelf.newest, order_of(version))

    def fill(self, items: Iterable[Thing], version: str, began: int, *, fresh: bool, pod: bool = False) -> bool:
        """A whole list. ``began``: ``newest`` when it was asked for. False: it is too old to be of use.

        A list read with a majority that is older than what was known means that Kubernetes was set back: all is forgotten.
        """
        at, order = now(), order_of(version)
        with self._change:
            shelf = self._pods if pod else self._objects
            if order < began:
                if not fresh:
                    return False
                self._forget()
                shelf = self._pods if pod else self._objects
            present = set()
            for item in items:
                present.add(item.name)
                self._add(shelf, item, at)
            for name in [name for name, known in shelf.things.items() if name not in present and known.order <= order]:
                del shelf.things[name]
                shelf.gone[name] = order
            shelf.listed = version
            return True

    def _forget(self) -> None:
        self._objects, self._pods = _Shelf(), _Shelf()
        self._locks.clear()
        self._cards.clear()
        self.epoch += 1

    def certain(self, found: Thing, began: int) -> None:
        """An object as a majority has it. ``began``: its ``order`` when that was asked; an older one means a set-back, too."""
        with self._change:
            if found.order < began:
                self._forget()
            self._add(self._objects, found, now())

    def order(self, name: str) -> int:
        """The resourceVersion of an object that was seen, or of its end."""
        with self._change:
            known = self._objects.things.get(name)
            return max(known.order if known else 0, self._objects.gone.get(name, 0))

    def newest(self, *, pod: bool = False) -> int:
        """The largest resourceVersion seen of an object of this kind."""
        with self._change:
            return (self._pods if pod else self._objects).newest

    @property
    def listed(self) -> str:
        """Where a watch of the objects may start; empty before the first list."""
        with self._change:
            return self._objects.listed

    # -- asked ---------------------------------------------------------------------------------------------------------

    def get(self, name: str, *, pod: bool = False) -> Thing | None:
        """An object as last seen."""
        with self._change:
            return (self._pods if pod else self._objects).things.get(name)

    def pods(self) -> list[str]:
        """The names of all pods seen."""
        with self._change:
            return list(self._pods.things)

    def _part(self, found: Thing) -> str:
        return self.names.part(found.name, found.group)

    def free_in_s(self, name: str) -> float | None:
        """Seconds until the lock in this object is free, 0 or less if it is; None if nobody holds it."""
        with self._change:
            found, sight = self._objects.things.get(name), self._locks.get(name)
            if found is None or sight is None or not found.lock.leader:
                return None
            return sight.since + found.lock.lasts_s(self.ttl) - now()

    def holder(self, name: str) -> str:
        """Who holds the lock in this object; empty if it is free."""
        with self._change:
            left = self.free_in_s(name)
            return self._objects.things[name].lock.leader if left is not None and left > 0 else ""

    def records(self) -> dict[str, Record]:
        """Every live key. Those of other groups have their group in front, unless this is the store of one group."""
        with self._change:
            records: dict[str, Record] = {}
            for found in self._objects.things.values():
                prefix = self._prefix(found)
                if prefix is None:
                    continue
                part = self._part(found)
                for key in KEYS_OF.get(part, ()):
                    text = text_of(key, found.annotations)
                    if text is not None:
                        records[prefix + key] = Record(text, version_of(key, found.annotations))
                if part == LEADER_OBJECT and self.holder(found.name):
                    records[prefix + Key.LEADER] = Record(found.lock.leader, found.lock.version)
                self._card(records, prefix, self.names.member_of(found.name, found.group), found)
            for pod in self._pods.things.values():
                prefix = self._prefix(pod)
                if prefix is not None:
                    self._card(records, prefix, pod.name, pod)
            return records

    def _prefix(self, found: Thing) -> str | None:
        if self.names.group:
            return "" if found.group == self.names.group else None
        return f"{found.group}/" if found.group else ""

    def _card(self, records: dict[str, Record], prefix: str, member: str, found: Thing) -> None:
        card = found.annotations.get(CARD)
        if not member or not card:
            return
        life, sight = card_life(found.annotations), self._cards.get(found.name)
        if life is None or sight is None or now() - sight.since < CARD_GRACE * life[0]:
            records[prefix + MEMBERS + member] = Record(card, found.version)

    def watched(self) -> str:
        """The versions of the keys that a watch is about, as a text."""
        records = self.records()
        return ",".join(f"{key}={records[key].version}" for key in WATCHED if key in records)
