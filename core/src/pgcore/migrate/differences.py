"""Features that pgcore carries over but does differently on purpose: a table of when each counts, and what is different."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pgcore.config.sections import WATCHDOG_MODES
from pgcore.config.values import parse_bool, split_address, split_list
from pgcore.migrate.subject import Finding, Kind, Subject, mapping, value_at
from pgcore.model.basics import Json


@dataclass(frozen=True, slots=True)
class Difference:
    """``where``: ``local`` (the node's file), ``cluster`` (dynamic configuration) or ``shared`` (below postgresql, either)."""

    where: str
    path: str
    counts: Callable[[Json], bool]
    text: str
    see: str


def _given(value: Json) -> bool:
    return value is not None and value not in ({}, [], "")


def _on(value: Json) -> bool:
    return parse_bool(value) is True


def _synchronous(value: Json) -> bool:
    return _on(value) or str(value).lower() == "quorum"


def _standby_cluster(value: Json) -> bool:
    return any(mapping(value).get(key) for key in ("host", "port", "restore_command"))


DIFFERENCES = (
    Difference("cluster", "failsafe_mode", _on,
               "a member accepts only the leader it knows or one named in /failsafe; after a restart it waits for all members "
               "or ttl "
               "before it races; one member that does not answer costs no more than the lease that is left", "failsafe.md"),
    Difference("cluster", "synchronous_mode", _synchronous,
               "nobody is promoted without a proof from one version of /sync; a mistyped value refuses the whole document "
               "instead of "
               "switching protection off; a standby asks to be released before it is stopped", "synchronous.md"),
    Difference("cluster", "primary_stop_timeout", _given,
               "counts in synchronous mode only, as before; without it a stop that sessions hold up goes on as an immediate one "
               "after "
               "60 s (switchover) or 300 s", "divergence.md"),
    Difference("cluster", "primary_race_backoff", _on, "waits no longer than the setting, also if "
                                                       "loop_wait is longer", "election.md"),
    Difference("cluster", "standby_cluster", _standby_cluster,
               "a switchover inside stops no server; a crashed primary in a cluster that has become a standby cluster is "
               "started as "
               "a standby", "standby-cluster.md"),
    Difference("cluster", "slots", _given,
               "an unknown slot is dropped only after it was unused for loop_wait; one that was there before the agent is "
               "announced "
               "and kept for member_slots_ttl more", "slots.md"),
    Difference("shared", "callbacks", _given,
               "a running callback is not killed by the next (callback_kill_running: true brings that back), ends after 60 s "
               "(callback_timeout); every demotion tells on_role_change demoted, on_stop the role the server had",
               "operations.md"),
    Difference("shared", "pre_promote", _given, "has 60 s; later counts as no", "operations.md"),
    Difference("shared", "use_pg_rewind", _on,
               "earlier switch points of the histories are compared too, and the leader is asked again before anything is "
               "removed",
               "divergence.md"),
    Difference("local", "citus", _given,
               "pgcore has not been run against the extension itself, only against a stand-in: try it in a test cluster. "
               "Reports to "
               "the coordinator (POST /citus) need the credentials of the REST API", "citus.md"),
    Difference("local", "kubernetes", _given,
               "a pod without a card is no member; the API server's certificate is always checked; a card ends ttl to 1.5 ttl "
               "after "
               "its agent's last sign of life. Pods are replaced one by one, and PostgreSQL with them", "kubernetes.md"),
    Difference("local", "consul", _given, "ttl is at least 20 s, as sessions last at least 10 s; a shorter one is raised",
               "consul.md"),
    Difference("local", "zookeeper", _given,
               "an ensemble whose maxSessionTimeout (40 s as delivered) is below ttl is refused; a new ttl keeps the lock",
               "migrating-from-patroni.md"),
)


def differences(subject: Subject) -> Iterator[Finding]:
    """The rows of the table that count here."""
    for row in DIFFERENCES:
        if row.where == "shared":
            value, place = subject.shared(row.path)
            path = f"postgresql.{row.path}"
        else:
            path = row.path
            value = value_at(subject.tree if row.where == "local" else subject.dynamic, path)
            place = (subject.place if row.where == "local" else subject.dynamic_place)(path)
        if row.counts(value):
            yield Finding(Kind.DIFFERS, path, row.text, place=place, see=row.see)


def watchdog(subject: Subject) -> Iterator[Finding]:
    """The mode is automatic without a section too, where there is a device."""
    mode = value_at(subject.tree, "watchdog.mode")
    there = "watchdog" in subject.tree or any(fact.path == "watchdog.device" for fact in subject.machine.files)
    if there and WATCHDOG_MODES.get(str("automatic" if mode is None else mode).lower(), "off") != "off":
        yield Finding(Kind.DIFFERS, "watchdog", "fires later than the guard, a process of pgcore that stops the server before "
                                                "the "
                      "lease ends; the keepalive comes before the writes of /status; a ttl below 20 has a smaller default margin",
                      place=subject.place("watchdog"), see="guard.md")


def open_doors(subject: Subject) -> Iterator[Finding]:
    """Without credentials and client certificates pgcore answers what changes something on loopback only."""
    if protected(subject.tree) or _only_loopback(subject.tree):
        return
    path, place = "restapi.authentication", subject.place("restapi")
    remedy = "set restapi.authentication on every node, Patroni's included, and reload them"
    if _on(subject.dynamic.get("failsafe_mode")):
        yield Finding(Kind.FIRST, path, "is missing: pgcore refuses POST /failsafe from other machines then, so failsafe_mode "
                                        "would "
                      "keep no primary", remedy, place, "rest.md")
    else:
        yield Finding(Kind.DIFFERS, path, "is missing: restart, switchover, pause and the like are refused (403) beyond "
                                          "loopback; "
                      "Patroni lets everybody in", remedy, place, "rest.md")


def protected(tree: Mapping[str, Json]) -> bool:
    """The REST API asks for a password or a client certificate."""
    login = mapping(value_at(tree, "restapi.authentication"))
    verified = value_at(tree, "restapi.verify_client") in ("optional", "required")
    return bool(login.get("username")) or (verified and bool(value_at(tree, "restapi.certfile")))


def _only_loopback(tree: Mapping[str, Json]) -> bool:
    listen, published = value_at(tree, "restapi.listen"), value_at(tree, "restapi.connect_address")
    words = [str(word) for word in (listen if isinstance(listen, list) else split_list(str(listen or "")))]
    words += [str(published)] if published else []
    try:
        hosts = [split_address(word)[0] for word in words]
    except ValueError:
        return False
    return all(host == "localhost" or host.startswith("127.") or host == "::1" for host in hosts)


def retrieve_interval(subject: Subject) -> Iterator[Finding]:
    """The one server parameter that pgcore sets and Patroni does not."""
    name = "wal_retrieve_retry_interval"
    if name not in mapping(subject.get("postgresql.parameters")) and name not in mapping(
            value_at(subject.dynamic, "postgresql.parameters")):
        yield Finding(Kind.DIFFERS, f"postgresql.parameters.{name}", "is set to 1s (PostgreSQL's default is 5s), so that a "
                                                                     "standby "
                      "is back sooner after a restart of the primary", "configure it to keep another value",
                      subject.place("postgresql.parameters"), "operations.md")
