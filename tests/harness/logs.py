"""Logs of several agents as one."""

from __future__ import annotations

import re
from collections.abc import Mapping

STAMP = re.compile(r"\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d)[,.](\d{3})")


def newest_first(logs: Mapping[str, str], count: int) -> list[str]:
    """The last ``count`` lines of all of these together, newest first, each with its owner's name.

    A line without a time of its own (a traceback's) stays below the one it belongs to.
    """
    entries: list[tuple[str, list[str]]] = []
    for name, text in logs.items():
        own: list[tuple[str, list[str]]] = []
        for line in text.splitlines():
            if stamp := STAMP.match(line):
                moment = f"{stamp[1]}.{stamp[2]}"
                own.append((line[: stamp.end()].replace(",", "."), [f"{moment} {name}{line[stamp.end():]}"]))
            elif own:
                own[-1][1].append(f"    {line}")
        entries += reversed(own)
    entries.sort(key=lambda entry: entry[0], reverse=True)
    return [line for _, lines in entries for line in lines][:count]
