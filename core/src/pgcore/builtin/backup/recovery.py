"""How far a restored backup replays: the target keys of ``bootstrap.<tool>`` as recovery settings of PostgreSQL."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgcore.plugin import Json, ServerError

KINDS = ("time", "lsn", "xid", "name")
KEYS = frozenset(f"target_{word}" for word in (*KINDS, "immediate", "timeline", "inclusive", "action"))
_YES, _NO = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


@dataclass(frozen=True, slots=True)
class Target:
    """Where replay ends; ``kind`` is empty for the end of the archive, or ``time``, ``lsn``, ``xid``, ``name``, ``immediate``."""

    kind: str = ""
    value: str = ""
    timeline: str = "latest"
    inclusive: bool = True
    action: str = "promote"

    def settings(self) -> dict[str, Json]:
        """The settings of PostgreSQL."""
        found: dict[str, Json] = {"recovery_target_timeline": self.timeline, "recovery_target_action": self.action}
        if self.kind == "immediate":
            found["recovery_target"] = "immediate"
        elif self.kind:
            found[f"recovery_target_{self.kind}"] = self.value
            found["recovery_target_inclusive"] = "on" if self.inclusive else "off"
        return found


def target(where: str, options: Mapping[str, Json]) -> Target:
    """The target in the section ``where``. Raises ServerError that names the key, the value and the remedy."""
    given = [kind for kind in KINDS if options.get(f"target_{kind}") is not None]
    if _switch(where, options, "target_immediate", False):
        given.append("immediate")
    if len(given) > 1:
        raise ServerError(f"{where}: {' and '.join(f'target_{kind}' for kind in given)} exclude each other: keep one")
    action = _text(where, options, "target_action", "promote")
    if action not in ("promote", "pause"):
        raise ServerError(f"{where}.target_action is {action!r}: write promote, or pause if you end the recovery yourself")
    kind = given[0] if given else ""
    return Target(kind=kind, action=action,
                  value=_text(where, options, f"target_{kind}", "") if kind in KINDS else "",
                  timeline=_text(where, options, "target_timeline", "latest"),
                  inclusive=_switch(where, options, "target_inclusive", True))


def command(words: Sequence[str], arguments: str) -> str:
    """A ``restore_command``: the words as they are, for the shell and for PostgreSQL, and then its ``%f`` and ``%p``."""
    return f"{' '.join(shlex.quote(word).replace('%', '%%') for word in words)} {arguments}"


def _text(where: str, options: Mapping[str, Json], key: str, default: str) -> str:
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int) or "\n" in str(value):
        raise ServerError(f"{where}.{key} is {value!r}: it must be text, put it into quotes")
    return str(value)


def _switch(where: str, options: Mapping[str, Json], key: str, default: bool) -> bool:
    word = str(options.get(key, default)).lower()
    if word not in (*_YES, *_NO):
        raise ServerError(f"{where}.{key} is {options[key]!r}: it must be true or false")
    return word in _YES
