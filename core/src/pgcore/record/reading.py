"""Reads records: files and directories of one or more nodes, torn lines and lines of other versions included."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pgcore.errors import PgcoreError
from pgcore.model.basics import Json
from pgcore.record.beats import FORMAT, BeatRecord, Note
from pgcore.record.worlds import UnreadableError, decode

_ROTATED = re.compile(r"\.(\d+)$")


class NoRecordError(PgcoreError):
    """There is nothing to read, or nothing in it."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A recorded heartbeat and where it stands."""

    at: float
    node: str
    by: str
    record: BeatRecord
    source: str


@dataclass(slots=True)
class Recording:
    """What was read, per node in the order it was written, and what could not be."""

    lines: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Heartbeats as text, with file and line: they are large once they are decoded."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The first and the last moment that the record of each node tells of."""
    scopes: set[str] = field(default_factory=set)
    """The clusters they belong to."""
    notes: list[Note] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    torn: int = 0
    unreadable: list[str] = field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        """Who has a record here."""
        return sorted(self.spans)

    def beats(self, node: str) -> Iterator[Beat]:
        """The heartbeats of a node, decoded one by one; those that cannot be are noted."""
        for text, source in self.lines.get(node, ()):
            try:
                tree = json.loads(text)
                yield Beat(float(tree["at"]), node, tree.get("by", ""), decode(BeatRecord, tree["beat"]), source)
            except UnreadableError as error:
                self.unreadable.append(f"{source}: {error}")

    def remarks(self) -> list[str]:
        """What a reader must know about holes in it."""
        found = [f"{node}: {beats} heartbeats could not be written at the time" for node, beats in sorted(self.lost.items())]
        found += [f"{self.torn} torn lines were skipped"] if self.torn else []
        if self.unreadable:
            found.append(f"{len(self.unreadable)} heartbeats cannot be read by this version, the first: {self.unreadable[0]}")
        return found


def read(paths: Sequence[str]) -> Recording:
    """Everything in these files, and in the records of these directories. Raises NoRecordError."""
    recording, seen = Recording(), set[int]()
    for path in _files(paths):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for number, text in enumerate(file, 1):
                    if text.strip() and hash(text) not in seen:
                        seen.add(hash(text))
                        _take(recording, text, f"{path}:{number}")
        except OSError as error:
            raise NoRecordError(f"{path} cannot be read: {error.strerror}") from error
    if not recording.nodes:
        why = f": {recording.unreadable[0]}" if recording.unreadable else ""
        raise NoRecordError(f"there is no record in {', '.join(paths)}{why}")
    return recording


def _files(paths: Iterable[str]) -> Iterator[str]:
    """Oldest first, as far as their names tell."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        found = glob.glob(os.path.join(glob.escape(path), "flight-*.jsonl*"))
        if not found:
            raise NoRecordError(f"there is no record in {path}: its files are called flight-<scope>-<name>.jsonl")
        yield from sorted(found, key=lambda name: (_ROTATED.sub("", name), -_number(name)))


def _number(path: str) -> int:
    found = _ROTATED.search(path)
    return int(found[1]) if found else 0


def _take(recording: Recording, text: str, source: str) -> None:
    try:
        tree = json.loads(text)
    except ValueError:
        recording.torn += 1
        return
    try:
        _keep(recording, tree, text, source)
    except (UnreadableError, KeyError, TypeError, ValueError) as error:
        recording.unreadable.append(f"{source}: {error}")


def _keep(recording: Recording, tree: Json, text: str, source: str) -> None:
    if tree["v"] > FORMAT:
        raise UnreadableError(f"written by pgcore {tree.get('by')} in format {tree['v']}, this version reads {FORMAT}")
    kind, node, at = tree["kind"], str(tree["node"]), float(tree["at"])
    if kind == "lost":
        recording.lost[node] = recording.lost.get(node, 0) + int(tree["beats"])
        return
    if kind == "beat":
        recording.lines.setdefault(node, []).append((text, source))
    elif kind == "note":
        recording.notes.append(Note(node, tree["scope"], at, tree["text"]))
    recording.scopes.add(str(tree["scope"]))
    first, last = recording.spans.get(node, (at, at))
    recording.spans[node] = min(first, at, float(tree.get("since", at))), max(last, at)
