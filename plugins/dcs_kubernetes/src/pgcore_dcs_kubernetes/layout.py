"""Which annotation of which object holds a key, and back: as Patroni lays them out (dcs-layout 9.1), with marks of our own.

Keys share objects, so an object's resourceVersion says too little about one of them. Each write of ours leaves a random mark
beside the key; mark and value together are the key's version. A mark that begins with ``-`` is that of a removal. Texts that
Patroni's annotations cannot express are kept as they are in an annotation of ours; those of Patroni win.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.plugin import Json, Key

Annotations = Mapping[str, str]
Change = dict[str, str | None]
"""Annotations to write; None removes one."""

LEADER_OBJECT, CONFIG_OBJECT, FAILOVER_OBJECT, SYNC_OBJECT = "leader", "config", "failover", "sync"
OBJECT_OF: Mapping[Key, str] = {
    Key.LEADER: LEADER_OBJECT, Key.STATUS: LEADER_OBJECT, Key.FAILSAFE: LEADER_OBJECT,
    Key.CONFIG: CONFIG_OBJECT, Key.INITIALIZE: CONFIG_OBJECT, Key.HISTORY: CONFIG_OBJECT, Key.OPTIME: CONFIG_OBJECT,
    Key.FAILOVER: FAILOVER_OBJECT, Key.SYNC: SYNC_OBJECT}
KEYS_OF: Mapping[str, tuple[Key, ...]] = {
    name: tuple(key for key, of in OBJECT_OF.items() if of == name and key is not Key.LEADER)
    for name in (LEADER_OBJECT, CONFIG_OBJECT, FAILOVER_OBJECT, SYNC_OBJECT)}
GROUP_LABEL = "citus-group"
OWN = "pgcore/"
CARD, CARD_MARK = "status", OWN + "card"
MEMBER_INFIX = "-member-"
NO_REQUEST = "{}"

_WHOLE = {Key.CONFIG: "config", Key.INITIALIZE: "initialize", Key.HISTORY: "history", Key.FAILSAFE: "failsafe"}
_FIELDS = {Key.SYNC: ("leader", "quorum", "sync_standby"), Key.FAILOVER: ("leader", "member", "scheduled_at"),
           Key.STATUS: ("optime", "slots", "retain_slots")}
_NUMBERS, _DOCUMENTS = frozenset({"quorum", "optime"}), frozenset({"slots", "retain_slots"})
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a scope's objects; ``group`` of one group of an MPP cluster, empty for all others."""

    scope: str
    group: str = ""
    leader_suffix: str = "-leader"

    def base(self, group: str) -> str:
        """How the names of a group begin."""
        return f"{self.scope}-{group}" if group else self.scope

    def of(self, part: str) -> str:
        """The object that holds a part of the keys."""
        return self.base(self.group) + (self.leader_suffix if part == LEADER_OBJECT else f"-{part}")

    def member(self, name: str) -> str:
        """The Lease that holds a member's card."""
        return self.base(self.group) + MEMBER_INFIX + name

    def part(self, name: str, group: str) -> str:
        """Which part of the keys an object holds, by its name; empty for a foreign object."""
        base = self.base(group)
        if name == base + self.leader_suffix:
            return LEADER_OBJECT
        rest = name.removeprefix(base + "-")
        return rest if rest != name and rest in (CONFIG_OBJECT, FAILOVER_OBJECT, SYNC_OBJECT) else ""

    def member_of(self, name: str, group: str) -> str:
        """The member whose card a Lease of this name holds; empty for another object."""
        prefix = self.base(group) + MEMBER_INFIX
        return name.removeprefix(prefix) if name.startswith(prefix) else ""


def mark_of(key: Key) -> str:
    """The annotation with the mark of a key."""
    return OWN + key.replace("/", "-")


def _text_name(key: Key) -> str:
    return OWN + key.replace("/", "-") + ".text"


def written(key: Key, text: str) -> Change:
    """The annotations that make a key say ``text``, with a fresh mark."""
    change: Change = {mark_of(key): secrets.token_hex(6)}
    if key in _WHOLE:
        return change | {_WHOLE[key]: text}
    fields = _split(key, text)
    if fields is not None:
        return change | fields | {_text_name(key): None}
    return change | dict.fromkeys(_FIELDS.get(key, ()), None) | {_text_name(key): text}


def removed(key: Key) -> Change:
    """The annotations that make a key absent, with the mark of a removal."""
    names = (_WHOLE[key],) if key in _WHOLE else (*_FIELDS.get(key, ()), _text_name(key))
    return dict.fromkeys(names, None) | {mark_of(key): "-" + secrets.token_hex(6)}


def text_of(key: Key, annotations: Annotations) -> str | None:
    """What a key says; None if it is absent."""
    if key in _WHOLE:
        return annotations.get(_WHOLE[key])
    joined = _join(key, annotations)
    if joined is not None:
        return joined
    text = annotations.get(_text_name(key))
    if text is None and key is Key.FAILOVER and not annotations.get(mark_of(key), "-").startswith("-"):
        return NO_REQUEST
    return text


def version_of(key: Key, annotations: Annotations) -> str:
    """The version of a key that is there: it changes with each write of ours, and with each other value."""
    text = text_of(key, annotations) or ""
    return f"{annotations.get(mark_of(key), '')}.{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _split(key: Key, text: str) -> Change | None:
    """The text as Patroni's annotations; None if they could not give it back exactly."""
    names = _FIELDS.get(key, ())
    try:
        document = json.loads(text) if names else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or set(document) - set(names):
        return None
    fields = {name: _word(name, document.get(name)) for name in names}
    if key is Key.FAILOVER and text == NO_REQUEST:
        return fields
    present = {name: word for name, word in fields.items() if word is not None}
    return fields if _join(key, present) == text else None


def _word(name: str, value: Json) -> str | None:
    if value is None or name not in _DOCUMENTS:
        return None if value is None else str(value)
    return _ENCODER.encode(value)


def _join(key: Key, annotations: Annotations) -> str | None:
    """The text in Patroni's annotations; None if the fields that make one are not there."""
    names = _FIELDS.get(key, ())
    fields = {name: annotations[name] for name in names if annotations.get(name)}
    if not fields or (key is Key.SYNC and "leader" not in fields) or (key is Key.STATUS and "optime" not in fields):
        return None
    document: dict[str, Json] = {}
    for name in names:
        if name in fields:
            document[name] = _value(name, fields[name])
        elif key is Key.SYNC:
            document[name] = 0 if name == "quorum" else None
    return _ENCODER.encode({name: value for name, value in document.items() if value is not None or key is Key.SYNC})


def _value(name: str, word: str) -> Json:
    try:
        return int(word) if name in _NUMBERS else json.loads(word) if name in _DOCUMENTS else word
    except (ValueError, RecursionError):
        return 0 if name in _NUMBERS else None


# -- cards ------------------------------------------------------------------------------------------------------------

def _digest(card: str) -> str:
    return hashlib.blake2b(card.encode(), digest_size=4).hexdigest()


def card_written(card: str, ttl: int) -> Change:
    """A card, and the sign of life of its writer: how long it is good for, and something that changes each time."""
    return {CARD: card, CARD_MARK: f"{ttl} {_digest(card)} {secrets.token_hex(4)}"}


def card_life(annotations: Annotations) -> tuple[int, str] | None:
    """ttl of the card in seconds and its sign of life; None for one of Patroni, which lasts as long as its pod."""
    words = annotations.get(CARD_MARK, "").split(" ")
    if len(words) != 3 or not words[0].isdigit() or words[1] != _digest(annotations.get(CARD, "")):
        return None
    return int(words[0]), words[2]


CARD_REMOVED: Change = {CARD: None, CARD_MARK: None}
