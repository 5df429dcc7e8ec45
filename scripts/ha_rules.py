"""Writes the page that leads from each HA rule to its code and its tests: ``python scripts/ha_rules.py docs/ha-rules.md``.

Code names its rule in a docstring, as ``(HA rules 15.3)``. A test belongs to a rule of a table when one of its cases expects it,
and to any other function when its file imports and names it. ``--missing`` prints the numbers without code or without a test,
and ends with 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CONTRACT: Mapping[str, str] = {
    "1": "words and values", "2": "timing", "3": "what is remembered", "4": "the cycle: 1-15", "5": "start of a node: 1-6",
    "6.1": "empty data directory", "6.2": "new cluster", "6.3": "copy of a replica", "6.4": "end of a bootstrap: 1-4",
    "7": "adoption, system identifier: 1-5", "8": "the leader: 1-7", "9": "store failure, failsafe: 1-5", "10": "watchdog",
    "11.1": "whom to follow", "11.2": "replica of a leader: 1-7", "11.3": "recovery settings", "11.4": "parameters of a standby",
    "11.5": "timeline of a standby", "12.1": "when to compare", "12.2": "the comparison: 1-3", "12.3": "diverged: 1-3",
    "12.4": "pg_rewind: 1-7", "13": "PostgreSQL is down: 1-4", "14.1": "starting: 1-2", "14.2": "busy: 1-3",
    "15.1": "gates of the race: 1-11", "15.2": "primary without a lock", "15.3": "comparison of health: 1-4", "15.4": "won",
    "15.5": "not healthy", "15.6": "backoff for a primary", "16.1": "requests", "16.2": "request on the holder",
    "16.3": "request in the race: 1-4", "16.4": "request in a pause", "16.5": "is a failover possible", "17": "demotion: 1-6",
    "18.1": "finding the postmaster", "18.2": "start", "18.3": "stop: 1-10", "19.1": "invariants", "19.2": "enabling",
    "19.3": "candidates", "19.4": "proof", "19.5": "each cycle: 1-8", "19.6": "before a promotion", "19.7": "strict",
    "19.8": "synchronous_standby_names", "19.9": "leaving duty", "20.1": "target", "20.2": "invariants: 1-3",
    "20.3": "transitions: 1-6", "20.4": "worked examples", "20.5": "before a promotion", "20.6": "strict",
    "20.7": "change of mode",
    "21.1": "which slots", "21.2": "feedback of positions", "21.3": "changes: 1-6", "21.4": "copies of logical slots",
    "21.5": "ignored slots", "22": "standby cluster: 1-11", "23": "pause", "24": "restart, reload, reinitialise: 1-5",
    "25": "callbacks and hooks", "26": "tags", "27": "end of the agent",
    "28": "several sites, in [several-sites.md](several-sites.md)",
    "29": "MPP, Citus",
    "30": "safer than the predecessor: 1-13",
}
"""The sections of the contract; ``a-b`` at the end are its numbered rules."""

HEAD = """# From each HA rule to its code and its tests

The numbers are those of the HA rules, the contract that pgcore is built by. `table.rule` names a rule of [rules.md](rules.md).
Written by `python scripts/ha_rules.py docs/ha-rules.md`; do not edit.

| rule | about | code | tests |
|---|---|---|---|"""

_REFERENCES = re.compile(r"HA rules? ((?:\d+(?:\.\d+)*(?:[a-z -]*?)(?:, | and | to )?)+)")
_SOURCES = ("core/src/pgcore", "plugins")


@dataclass(frozen=True, slots=True)
class Place:
    """A function, class or module that cites a rule."""

    path: Path
    name: str
    rule: str
    """Its name as a rule of a table, or empty."""

    def __str__(self) -> str:
        shown = self.path.as_posix().replace("core/src/pgcore/", "").removesuffix(".py")
        return f"`{self.rule or (f'{shown}.{self.name}' if self.name else shown)}`"


def numbered() -> list[str]:
    """Every rule with a number of its own, in order."""
    found = []
    for section, title in CONTRACT.items():
        found.append(section)
        if match := re.search(r": (\d+)-(\d+)$", title):
            found += [f"{section}.{number}" for number in range(int(match[1]), int(match[2]) + 1)]
    return found


def cited(text: str) -> set[str]:
    """The rules that a docstring names; ``4.2 to 4.5`` means those between as well."""
    found = set()
    for listed in _REFERENCES.findall(text):
        for first, last in re.findall(r"(\d+(?:\.\d+)*)(?: to (\d+(?:\.\d+)*))?", listed):
            found |= set(_between(first, last) if last else [first])
    return found


def _between(first: str, last: str) -> Iterator[str]:
    parent, _, begin = first.rpartition(".")
    end = last.rpartition(".")[2]
    yield from (f"{parent}.{number}".lstrip(".") for number in range(int(begin), int(end) + 1))


def places() -> Iterator[tuple[Place, set[str]]]:
    """Everything in the sources that cites a rule."""
    rules = _rules()
    for folder in _SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "tests" in path.parts or "testing" in path.parts:
                continue
            shown = path.relative_to(ROOT)
            for name, text in _docstrings(path):
                if found := cited(text):
                    yield Place(shown, name, rules.get((shown.stem, name), "")), found


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each docstring; texts under an assignment count for their class or module."""
    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                yield name, ast.get_docstring(child) or ""
                yield from walk(child, f"{name}.")
            elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                yield prefix.rstrip("."), child.value.value

    yield from walk(ast.parse(path.read_text()), "")


@cache
def _rules() -> dict[tuple[str, str], str]:
    """File and function of each rule of a table, to its name."""
    from pgcore.decide import TABLES

    return {(rule.__module__.rpartition(".")[2], rule.__name__): f"{table.name}.{rule.__name__}"
            for table in TABLES for rule in table.rules}


@cache
def _tests() -> list[tuple[str, str]]:
    files = sorted([*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("plugins/*/tests/test_*.py")])
    return [(path.relative_to(ROOT).as_posix(), path.read_text()) for path in files]


@cache
def tests_of(place: Place) -> list[str]:
    """The files that test this place: by the rule's name, else those that import its module and name it, else that import it."""
    if place.rule:
        return [name for name, text in _tests() if f'"{place.rule}"' in text]
    below = 2 if place.path.parts[0] == "core" else 3
    module = ".".join(place.path.with_suffix("").parts[below:]).removesuffix(".__init__")
    package, _, last = module.rpartition(".")
    imported = re.compile(rf"{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{re.escape(last)}\b")
    word = re.compile(rf"\b{re.escape(place.name.rpartition('.')[2])}\b")
    importing = [(name, text) for name, text in _tests() if imported.search(text)]
    public = place.name and not any(part.startswith("_") for part in place.name.split("."))
    naming = [name for name, text in (importing or _tests()) if public and word.search(text)]
    of_table = [name for (stem, _), rule in _rules().items() if stem == last for name, text in _tests() if f'"{rule}"' in text]
    return naming or [name for name, _ in importing] or list(dict.fromkeys(of_table))


def table() -> dict[str, list[Place]]:
    """The places of each rule with a number; a rule nobody cites by itself has those of its section."""
    by_rule = defaultdict(list)
    known = set(numbered())
    for place, rules in places():
        for rule in rules:
            while rule and rule not in known:
                rule = rule.rpartition(".")[0]
            if rule and place not in by_rule[rule]:
                by_rule[rule].append(place)
    return {rule: by_rule.get(rule) or by_rule.get(rule.rpartition(".")[0]) or [] for rule in numbered()}


def page() -> str:
    """The page in Markdown."""
    lines = [HEAD]
    for rule, found in table().items():
        title = CONTRACT.get(rule, "").partition(":")[0]
        tests = sorted({test for place in found for test in tests_of(place)[:3]})
        shown = ", ".join(dict.fromkeys(Path(test).name for test in tests))
        lines.append(f"| {rule} | {title} | {', '.join(map(str, found))} | {shown} |")
    return "\n".join(lines) + "\n"


def missing() -> list[str]:
    """Rules without code that cites them or their section, or without a test of that code."""
    parents = {rule.rpartition(".")[0] for rule in numbered()} | {"28"}  # 28 is advice, a page of its own
    return [rule for rule, found in table().items() if rule not in parents and not any(tests_of(place) for place in found)]


def main() -> int:
    """Print or write the page, or say what lacks."""
    arguments = sys.argv[1:]
    if "--missing" in arguments:
        without = missing()
        print(*without)
        return 1 if without else 0
    if arguments:
        Path(arguments[0]).write_text(page())
    else:
        sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
