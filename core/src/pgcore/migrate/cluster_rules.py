"""Rules about the cluster as the store shows it: whether it can be moved now, and what it says that agents of pgcore refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgcore.config.dynamic import Notes, read_document
from pgcore.migrate.subject import Finding, Kind, Subject
from pgcore.model.basics import State
from pgcore.model.cluster import Member
from pgcore.rest.members import ClusterMode

FITTING = (4, 1)
"""The release of Patroni that pgcore's members were proven with; all of its number 4 write the same keys."""


def there(subject: Subject) -> Iterator[Finding]:
    """The store has a cluster, and this node is one of its members."""
    view = subject.cluster
    if view is None:
        return
    if not view.initialize and not view.members:
        yield Finding(Kind.FIRST, "scope", f"there is no cluster at {subject.store_path}: pgcore would make a new one",
                      "correct scope, namespace or the store's section", subject.place("scope"))
        return
    name = subject.get("name")
    if name not in {member.name for member in view.members}:
        names = ", ".join(sorted(member.name for member in view.members)) or "none"
        yield Finding(Kind.LOOK, "name", f"no member is called {name!r}; the members are {names}", "start its agent, or correct "
                                                                                                   "name",
                      subject.place("name"))


def well(subject: Subject) -> Iterator[Finding]:
    """Nothing should be amiss before agents are exchanged."""
    view = subject.cluster
    if view is None or not view.members:
        return
    if view.leader is None:
        yield Finding(Kind.FIRST, "", "nobody leads", "see pgcore list", f"{subject.store_path}/leader")
    for member in sorted(view.members, key=lambda member: member.name):
        place = _card(subject, member)
        if not member.running:
            yield Finding(Kind.FIRST, member.name, f"its state is {member.state or 'unknown'}, not {State.RUNNING}",
                          "mend the member before its agent is exchanged", place)
        elif member.name != view.leader and member.replication_state not in (None, "streaming") and not member.tags.nostream:
            yield Finding(Kind.LOOK, member.name, f"does not stream, it is {member.replication_state}", "see pgcore list", place)
        if member.data.get("scheduled_restart"):
            yield Finding(Kind.LOOK, member.name, "has a scheduled restart, which only its agent remembers", "schedule it again "
                          "afterwards", place)
        if member.data.get("pending_restart"):
            yield Finding(Kind.LOOK, member.name, "waits for a restart of PostgreSQL; an exchange of "
                                                  "agents is none", "restart it when "
                          "it suits", place)
    if view.failover is not None and view.failover.scheduled_at:
        yield Finding(Kind.LOOK, "", f"a switchover is scheduled at {view.failover.scheduled_at}; whoever leads then carries it "
                                     f"out",
                      "do not exchange agents at that time", f"{subject.store_path}/failover")
    if ClusterMode.of(view).paused:
        yield Finding(Kind.LOOK, "pause", "the cluster is in maintenance mode already", "the plan keeps it so: it leaves out "
                                                                                        "pause and "
                      "resume", subject.dynamic_place("pause"))


def releases(subject: Subject) -> Iterator[Finding]:
    """Which Patroni the others are."""
    for member in subject.cluster.members if subject.cluster is not None else ():
        numbers = [int(number) for number in re.findall(r"\d+", member.version or "")[:2]]
        if not member.is_patroni or tuple(numbers) >= FITTING:
            continue
        older = not numbers or numbers[0] < FITTING[0]
        yield Finding(Kind.FIRST if older else Kind.LOOK, member.name,
                      f"is Patroni {member.version or 'of an unknown release'}; pgcore serves beside Patroni 4.1" +
                      ("" if older else ", tested with 4.1.5"),
                      "bring all members to Patroni 4.1 first" if older else "", _card(subject, member))


def configuration(subject: Subject) -> Iterator[Finding]:
    """What pgcore refuses or ignores of the configuration of the whole cluster, with its Patroni members in it."""
    view = subject.cluster
    if view is None or view.config is None:
        return
    place = f"{subject.store_path}/config"
    if view.config.document is None:
        yield Finding(Kind.FIRST, "", "is no JSON object", "write it anew with patronictl edit-config --replace", place)
        return
    notes = Notes("")
    read_document(view.config.document, notes, patroni_present=view.patroni_present)
    for error in notes.errors:
        yield Finding(Kind.FIRST, error.path, f"{error.problem}; pgcore refuses the whole document", "correct it with "
                                                                                                     "edit-config",
                      place, "operations.md")
    for warning in notes.warnings:
        ineffective = "no effect" in warning.problem or warning.problem.startswith("is ignored")
        yield Finding(Kind.IGNORED if ineffective else Kind.LOOK, warning.path, warning.problem, "correct it "
                                                                                                 "with edit-config", place)


def limits(subject: Subject) -> Iterator[Finding]:
    """Shorter timing has to wait until the last Patroni member is gone."""
    if subject.cluster is not None and subject.cluster.patroni_present:
        yield Finding(Kind.LOOK, "ttl", "while a Patroni member is there its limits hold for all: ttl at least 20, "
                                        "retry_timeout at "
                      "least 3; shorter timing only afterwards", place=subject.dynamic_place("ttl"), see="how-it-works.md")


def _card(subject: Subject, member: Member) -> str:
    return f"{subject.store_path}/members/{member.name}"


RULES = (there, well, releases, configuration, limits)
