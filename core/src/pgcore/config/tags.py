"""Checks of the ``tags`` section; their meaning is in ``pgcore.model.basics.Tags`` (config 15)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pgcore.config.values import nearest, parse_int

BOOLEAN_TAGS = ("clonefrom", "nofailover", "noloadbalance", "nosync", "nostream")
PRIORITY_TAGS = {"nofailover": "failover_priority", "nosync": "sync_priority"}

Report = Callable[[str, str, str], None]


def check_tags(tags: Any, fail: Report, warn: Report) -> None:
    """Report tags that are not a mapping, values that do not mean what they say, and contradictions."""
    if tags is None:
        return
    if not isinstance(tags, Mapping):
        fail("tags", "wants a mapping of tags", "write one tag per line, as  nofailover: true")
        return
    for name, value in tags.items():
        name = str(name)
        if name in BOOLEAN_TAGS and not isinstance(value, bool) and not (name == "nostream" and isinstance(value, str)):
            warn(f"tags.{name}", f"wants true or false, has {value!r}, which counts as {str(bool(value)).lower()}",
                 "write true or false without quotes")
        elif name in PRIORITY_TAGS.values() and (isinstance(value, bool) or parse_int(value) is None):
            warn(f"tags.{name}", f"wants an integer, has {value!r}, which counts as 1", "write an integer; 0 means never")
        elif name not in (*BOOLEAN_TAGS, *PRIORITY_TAGS.values(), "replicatefrom"):
            near = nearest(name, (*BOOLEAN_TAGS, *PRIORITY_TAGS.values(), "replicatefrom"))
            if near:
                warn(f"tags.{name}", "is a custom tag without effect on pgcore", f"did you mean {near}?")
    for flag, priority in PRIORITY_TAGS.items():
        number = parse_int(tags.get(priority))
        if tags.get(flag) is None or number is None:
            continue
        if bool(tags[flag]) == (number > 0):
            warn(f"tags.{flag}", f"is {tags[flag]!r}, which contradicts {priority} {number}; {flag} wins",
                 f"remove tags.{priority}")
