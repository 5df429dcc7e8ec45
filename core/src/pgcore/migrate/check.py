"""All rules over one subject, and what is left over: the keys that carry over as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pgcore.migrate import cluster_rules, differences, file_rules
from pgcore.migrate.subject import Finding, Kind, Rule, Subject
from pgcore.model.basics import Json

RULES: tuple[Rule, ...] = (*file_rules.RULES, *cluster_rules.RULES, differences.open_doors, differences.differences,
                           differences.watchdog, differences.retrieve_interval)
_LISTED = 3
_ORDER = {kind: number for number, kind in enumerate(Kind)}


def check(subject: Subject) -> list[Finding]:
    """Every finding, urgent ones first, each once; within a kind in the order of the rules."""
    found = list(dict.fromkeys(finding for rule in RULES for finding in rule(subject)))
    found += carried(subject, found)
    return sorted(found, key=lambda finding: _ORDER[finding.kind])


def must_change(findings: Sequence[Finding]) -> bool:
    """Something has to be done before pgcore may take this node over."""
    return any(finding.kind is Kind.FIRST for finding in findings)


def carried(subject: Subject, findings: Sequence[Finding]) -> Iterator[Finding]:
    """A line for each section with its keys that mean the same to both."""
    lost = {finding.path for finding in findings if finding.kind in (Kind.IGNORED, Kind.FIRST) and finding.path}
    plain = [key for key, value in subject.tree.items() if not isinstance(value, Mapping) and key not in lost]
    if plain:
        yield Finding(Kind.CARRIES, "", ", ".join(plain), place=_place(subject, *plain))
    for key, value in subject.tree.items():
        if not isinstance(value, Mapping) or key in lost or not value:
            continue
        keys = [name for name in value if f"{key}.{name}" not in lost]
        if keys:
            place = _place(subject, key, *(f"{key}.{name}" for name in keys))
            yield Finding(Kind.CARRIES, key, ", ".join(_shown(name, value[name]) for name in keys), place=place)
    shared = [key for key in subject.dynamic if key not in lost and subject.cluster is not None]
    if shared:
        yield Finding(Kind.CARRIES, "", ", ".join(shared), place=f"{subject.store_path}/config")


def _place(subject: Subject, *paths: str) -> str:
    """The first of them that is known by a place of its own; a section of variables has none."""
    return next((place for place in map(subject.place, paths) if place != subject.place("")), subject.place(""))


def _shown(name: str, value: Json) -> str:
    """Parameters and the like are counted, not listed."""
    if isinstance(value, Mapping | list) and len(value) > _LISTED:
        return f"{name} ({len(value)})"
    return name
