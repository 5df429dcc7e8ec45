"""Rules about a node's own configuration, its environment and its machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from pgcore.config.plugins import named_methods
from pgcore.migrate.subject import Finding, Kind, Subject, mapping, value_at
from pgcore.model.basics import Json

OLDEST_SERVER = 12
OLD_NAMES = {
    "master_start_timeout": "primary_start_timeout", "master_stop_timeout": "primary_stop_timeout",
    "permanent_slots": "slots", "permanent_replication_slots": "slots"}
"""Names of the dynamic configuration before Patroni 4, and those of today."""
PROGRAMS = {
    "patroni_barman": "afterwards pgcore-barman with the same flags, or a link of the old name to pgcore",
    "patroni": "afterwards a link of that name to pgcore", "patronictl": "afterwards a link of that name to pgcore",
    "patroni_wale_restore": "afterwards pgcore-wale-restore with the same flags, or a link of the old name to pgcore",
    "patroni_aws": "afterwards pgcore-aws of the distribution pgcore-callbacks-aws, or a link of the old name to pgcore"}
"""Programs of Patroni's package that files name, and what takes their place."""


def validated(subject: Subject) -> Iterator[Finding]:
    """What `pgcore validate` says: an error keeps the agent from working; a key without effect is ignored."""
    for problem in subject.problems:
        ineffective = "no effect" in problem.problem or problem.problem.startswith("is ignored")
        kind = Kind.FIRST if problem.level == "error" else Kind.IGNORED if ineffective else Kind.LOOK
        yield Finding(kind, problem.path, problem.problem, problem.remedy, problem.source)


def environment(subject: Subject) -> Iterator[Finding]:
    """Variables that look like ours and mean nothing."""
    for name in subject.leftover:
        yield Finding(Kind.IGNORED, "", "sets no key", "correct its name, or remove it", name)
    if subject.unused_document:
        yield Finding(Kind.IGNORED, "", "counts only when no file is named, with Patroni too", "remove it",
                      subject.unused_document)


def raft(subject: Subject) -> Iterator[Finding]:
    """The one store that members of both cannot share."""
    if "raft" in subject.stores[:1]:
        yield Finding(Kind.FIRST, "raft", "voters of Patroni and pgcore do not understand each other: this cluster cannot be "
                                          "moved "
                      "node by node", "move it to another store first, or as a whole", subject.place("raft"),
                      "migrating-from-patroni.md")


def bootstrap(subject: Subject) -> Iterator[Finding]:
    """A section for clusters that are yet to be made."""
    if subject.get("bootstrap") is not None:
        yield Finding(Kind.IGNORED, "bootstrap", "counts only while a cluster is made, with Patroni too; what the cluster goes "
                                                 "by is "
                      "in the store", place=subject.place("bootstrap"))


def logs(subject: Subject) -> Iterator[Finding]:
    """Settings of the log for which there is no use."""
    for key, why in (("max_queue_size", "each line is written at once and none is dropped"),
                     ("deduplicate_heartbeat_logs", "an unchanged heartbeat is never repeated")):
        if value_at(subject.tree, f"log.{key}") is not None:
            yield Finding(Kind.IGNORED, f"log.{key}", why, place=subject.place(f"log.{key}"))


def backlog(subject: Subject) -> Iterator[Finding]:
    """A listen backlog below the least one."""
    size = subject.get("restapi.request_queue_size")
    if isinstance(size, int) and size < 1024:
        yield Finding(Kind.DIFFERS, "restapi.request_queue_size", f"is {size}; the backlog is 1024 at least, so that bursts of "
                                                                  f"checks "
                      "lose no connection", place=subject.place("restapi.request_queue_size"), see="rest.md")


def old_names(subject: Subject) -> Iterator[Finding]:
    """Older spellings that go on being understood."""
    local = {"create_replica_method": "create_replica_methods"}
    for old, new in local.items():
        if value_at(subject.tree, f"postgresql.{old}") is not None:
            yield _renamed(f"postgresql.{old}", new, subject.place(f"postgresql.{old}"))
    if value_at(subject.tree, "bootstrap.post_init") is not None:
        yield _renamed("bootstrap.post_init", "post_bootstrap", subject.place("bootstrap.post_init"))
    for old, new in OLD_NAMES.items():
        if old in subject.dynamic:
            yield _renamed(old, new, subject.dynamic_place(old))


def _renamed(path: str, new: str, place: str) -> Finding:
    return Finding(Kind.LOOK, path, f"is an older name of {new}; it goes on being understood", place=place)


def methods(subject: Subject) -> Iterator[Finding]:
    """Commands that make replicas: what differs for all of them, and what single ones lack."""
    commanded = False
    for name in dict.fromkeys(named_methods(subject.tree)):
        section, place = subject.shared(name)
        options = mapping(section)
        if name in ("", "basebackup", "initdb") or (not options.get("command") and name in subject.methods):
            continue
        creates = name == subject.get("bootstrap.method")
        if creates:
            continue  # it made a cluster once
        commanded = True
        if not options.get("command"):
            yield Finding(Kind.FIRST, f"postgresql.{name}", "has no command, and no installed plugin is called so",
                          f"write  command: {name}  if a program of that name is meant", place)
        for old in ("no_master", "no_replica"):
            if old in options:
                yield Finding(Kind.LOOK, f"postgresql.{name}.{old}", "is handed to the command and means nothing else, with "
                              "Patroni 4 too", "no_leader allows the command while nobody leads",
                              subject.place(f"postgresql.{name}.{old}"))
    if commanded:
        yield Finding(Kind.DIFFERS, "postgresql.create_replica_methods", "what keep_data keeps stays there after a failed "
                                                                         "attempt; "
                      "Patroni removes it when all methods have failed", place=_methods_place(subject),
                      see="operations.md")


def _methods_place(subject: Subject) -> str:
    older = "postgresql.create_replica_method"
    return subject.place(older) if subject.get(older) is not None else subject.shared("create_replica_methods")[1]


def programs(subject: Subject) -> Iterator[Finding]:
    """Commands of Patroni's own package, which may be removed one day."""
    for path, command in sorted(_commands(subject)):
        try:
            word = (shlex.split(command) or [""])[0].rpartition("/")[2]
        except ValueError:
            yield Finding(Kind.FIRST, path, "cannot be split into words: a quote is not closed", "close it", subject.place(path))
            continue
        if word.startswith("patroni_") or word in ("patronictl", "patroni"):
            yield Finding(Kind.LOOK, path, f"runs {word}, a program of Patroni's package; it works as long as that is installed",
                          PROGRAMS.get(word, "keep that package, pgcore has no such program"), subject.place(path),
                          "migrating-from-patroni.md")


def _commands(subject: Subject) -> Iterator[tuple[str, str]]:
    callbacks, _ = subject.shared("callbacks")
    for event, command in mapping(callbacks).items():
        if isinstance(command, str):
            yield f"postgresql.callbacks.{event}", command
    for key in ("pre_promote", "before_stop"):
        command, _ = subject.shared(key)
        if isinstance(command, str):
            yield f"postgresql.{key}", command
    for name in dict.fromkeys(named_methods(subject.tree)):
        command = mapping(subject.shared(name)[0]).get("command") if name else None
        if isinstance(command, str):
            yield f"postgresql.{name}.command", command


def server(subject: Subject) -> Iterator[Finding]:
    """PostgreSQL's version and whose data this is."""
    machine = subject.machine
    version = machine.postgres_version
    if version is not None and int(version.partition(".")[0]) < OLDEST_SERVER:
        yield Finding(Kind.FIRST, "postgresql.bin_dir", f"{machine.postgres} is PostgreSQL {version}; pgcore knows "
                                                        f"{OLDEST_SERVER} "
                      "and newer", "upgrade PostgreSQL first, under Patroni", subject.place("postgresql.bin_dir"))
    known = subject.cluster.initialize if subject.cluster is not None else None
    if known and machine.system_identifier and known != machine.system_identifier:
        yield Finding(Kind.FIRST, "postgresql.data_dir", f"holds the cluster {machine.system_identifier}, the store is about "
                                                         f"{known}",
                      "correct data_dir, scope, namespace or the store's section", subject.place("postgresql.data_dir"))


def files(subject: Subject) -> Iterator[Finding]:
    """What the agent's account must be able to read and write."""
    machine = subject.machine
    if machine.data_owner and machine.data_owner != machine.account:
        yield Finding(Kind.LOOK, "postgresql.data_dir", f"belongs to {machine.data_owner}, and this check runs as "
                                                        f"{machine.account}: "
                      "what it says about files is about that account", f"run it as {machine.data_owner}, as the agent will",
                      subject.place("postgresql.data_dir"))
    for fact in machine.files:
        if fact.problem:
            optional = fact.path in ("recorder.dir", "watchdog.device") and not _watchdog_required(subject.tree)
            kind = Kind.LOOK if optional else Kind.FIRST
            yield Finding(kind, fact.path, f"{fact.name} {fact.problem}", _file_remedy(fact.path), subject.place(fact.path))
    for name in machine.readable_by_all:
        yield Finding(Kind.LOOK, "", "holds passwords and is readable by everybody on this machine", "chmod 600", name)


def _watchdog_required(tree: Mapping[str, Json]) -> bool:
    return str(value_at(tree, "watchdog.mode")).lower() in ("required", "require")


def _file_remedy(path: str) -> str:
    if path == "recorder.dir":
        return "create it for the agent's account, name another directory, or set recorder.enabled: false"
    return "correct the path or its permissions for the agent's account"


def rest(subject: Subject) -> Iterator[Finding]:
    """Who is at the address that this node publishes."""
    answer = subject.machine.rest_answer
    if answer is None:
        return
    path, place = "restapi.connect_address", subject.place("restapi.connect_address")
    if answer == "":
        yield Finding(Kind.LOOK, path, "nobody answers there now", "run the check on the node itself, while "
                                                                   "its agent runs", place)
    elif not answer.startswith(("Patroni", "pgcore")):
        yield Finding(Kind.FIRST, path, f"belongs to something else: {answer}", "correct the address", place)


RULES = (validated, raft, methods, programs, server, files, rest, backlog, old_names, environment, logs, bootstrap)
