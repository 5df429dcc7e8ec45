"""What the check of a node looks at, gathered beforehand, and the findings its rules make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pgcore.config.sections import DISTRIBUTION_OF
from pgcore.config.validate import Problem
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView


class Kind(StrEnum):
    """What a finding means for the move, the urgent ones first."""

    FIRST = "must change first"
    DIFFERS = "behaves differently"
    LOOK = "worth a look"
    IGNORED = "is ignored"
    CARRIES = "carries over"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``place`` is ``file:line``, a variable or a part of the cluster; ``see`` a page of docs/."""

    kind: Kind
    path: str
    text: str
    remedy: str = ""
    place: str = ""
    see: str = ""


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file or directory that a key names, and what the present account cannot do with it (empty: all is well)."""

    path: str
    name: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine tells: who checks, PostgreSQL's programs and data, files, what answers at the REST address."""

    account: str = ""
    postgres: str | None = None
    postgres_version: str | None = None
    data_owner: str | None = None
    system_identifier: str | None = None
    files: tuple[FileFact, ...] = ()
    readable_by_all: tuple[str, ...] = ()
    """Configuration files that everybody may read."""
    rest_answer: str | None = None
    """What answered at ``restapi.connect_address``: ``Patroni 4.1.5``; empty if nothing did, None if it was not asked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything a rule may look at. A rule changes nothing and asks nobody."""

    tree: Mapping[str, Json]
    """The merged local configuration, older forms turned into those of today."""
    place: Callable[[str], str]
    problems: tuple[Problem, ...] = ()
    """What `pgcore validate` says about it."""
    leftover: tuple[str, ...] = ()
    """Variables ``PATRONI_*`` and ``PGCORE_*`` that nothing reads."""
    unused_document: str = ""
    """The variable whose document is not read because a file is named."""
    methods: frozenset[str] = frozenset()
    """Ways of making replicas and clusters that installed plugins bring."""
    machine: Machine = field(default_factory=Machine)
    cluster: ClusterView | None = None
    """None: the cluster was not to be asked, or could not be."""
    store_path: str = ""

    @property
    def dynamic(self) -> Mapping[str, Json]:
        """The configuration of the whole cluster; while it is not known what ``bootstrap.dcs`` says."""
        if self.cluster is not None and self.cluster.config is not None:
            return self.cluster.config.document or {}
        return mapping(self.get("bootstrap.dcs"))

    def dynamic_place(self, path: str) -> str:
        """Where a key of ``dynamic`` stands."""
        known = self.cluster is not None and self.cluster.config is not None
        return f"{self.store_path}/config" if known else self.place(f"bootstrap.dcs.{path}")

    def get(self, path: str) -> Json:
        """A value of the local configuration, None without one."""
        return value_at(self.tree, path)

    def shared(self, key: str) -> tuple[Json, str]:
        """A key below ``postgresql`` and its place: local if it is there, else of the whole cluster (config 1.3)."""
        local = self.get(f"postgresql.{key}")
        if local is not None:
            return local, self.place(f"postgresql.{key}")
        return value_at(self.dynamic, f"postgresql.{key}"), self.dynamic_place(f"postgresql.{key}")

    @property
    def stores(self) -> tuple[str, ...]:
        """The store sections that are there."""
        return tuple(name for name in DISTRIBUTION_OF if name in self.tree)


Rule = Callable[[Subject], Iterator[Finding]]


def mapping(value: Json) -> Mapping[str, Json]:
    """The value if it is one, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def value_at(tree: Json, path: str) -> Json:
    """The value at a dotted path, None without one."""
    for part in path.split("."):
        tree = mapping(tree).get(part)
    return tree
