"""What the store says decides whether a cluster can be moved, and in which order: cards as Patroni 4.1 and pgcore write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgcore.dcs.codec import decode
from pgcore.dcs.store import Record, Snapshot
from pgcore.migrate.check import check
from pgcore.migrate.plan import Plan, Step, Units, back, forth
from pgcore.migrate.subject import Kind, Machine, Subject
from pgcore.model.cluster import ClusterView

UNITS = Units("patroni", "pgcore", "/etc/patroni/demo one.yml")
SYSTEM = "7380000000000000001"
FILE = {"scope": "demo", "name": "n1", "etcd3": {"host": "a"}, "restapi": {"authentication": {"username": "u", "password": "p"}}}


def card(number: int, **change: Any) -> dict[str, Any]:
    """Of a member that runs Patroni."""
    return {"conn_url": f"postgres://10.0.0.{number}:5432/postgres", "api_url": f"http://10.0.0.{number}:8008/patroni",
            "state": "running", "role": "replica", "version": "4.1.5", "timeline": 1, "replication_state": "streaming"} | change


OURS = {"pgcore_version": "0.1.0"}
THREE: dict[str, Any] = {"leader": "n2", "initialize": SYSTEM, "config": {"ttl": 30, "loop_wait": 10, "retry_timeout": 10},
                         "members/n1": card(1), "members/n2": card(2, role="primary", replication_state=None),
                         "members/n3": card(3)}


def view(**change: Any) -> ClusterView:
    """The cluster of three with keys changed; None removes one. Names of members stand for their cards."""
    keys = THREE | {f"members/{name}" if name[:1] == "n" and name[1:].isdecimal() else name: value
                    for name, value in change.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in keys.items() if value is not None}
    return decode(Snapshot({key: Record(text, "1") for key, text in texts.items()}))


def order(plan: Plan) -> list[str]:
    """Whose agents are exchanged, in order."""
    return list(dict.fromkeys(step.member for step in plan.steps if any("--now" in command for command in step.commands)))


def commands(steps: tuple[Step, ...], member: str) -> list[str]:
    return [command for step in steps if step.member == member for command in step.commands]


@pytest.mark.parametrize(("change", "wanted"), [
    ({}, ["n1", "n3", "n2"]),
    ({"leader": "n1", "n1": card(1, role="primary"), "n2": card(2)}, ["n2", "n3", "n1"]),
    ({"n3": card(3, tags={"replicatefrom": "n1"})}, ["n3", "n1", "n2"]),
    ({"n1": card(1, **OURS)}, ["n3", "n2"]),
    ({"n1": "no JSON", "n3": card(3, **OURS)}, ["n1", "n2"]),
    ({"n1": card(1, **OURS), "n2": card(2, **OURS), "n3": card(3, **OURS)}, []),
    ({"leader": None, "n2": card(2, role="primary")}, ["n1", "n3", "n2"])])
def test_standbys_go_first_the_leader_last_and_who_is_there_stays(change: dict[str, Any], wanted: list[str]) -> None:
    assert order(forth("demo", view(**change), UNITS)) == wanted


def test_an_exchange_is_pause_stop_start_look_resume() -> None:
    plan = forth("demo", view(), UNITS)
    file = "'/etc/patroni/demo one.yml'"
    assert commands(plan.steps, "n3")[2:] == [
        f"pgcore -c {file} pause --wait demo", "systemctl disable --now patroni", "systemctl enable --now pgcore",
        f"until pgcore -c {file} version demo n3; do sleep 1; done", f"pgcore -c {file} resume --wait demo"]
    assert commands(plan.steps, "n3")[0] == f"pgcore migrate check {file}"
    assert next(step.where for step in plan.steps if step.member == "n3") == "on 10.0.0.3, as the agent's account"


def test_a_paused_cluster_stays_paused() -> None:
    plan = forth("demo", view(config={"pause": True}), UNITS)
    assert not any(word in " ".join(commands(plan.steps, "n1")) for word in ("pause", "resume"))


def test_the_leader_may_hand_over_first_to_a_member_that_was_moved() -> None:
    plan = forth("demo", view(n1=card(1, tags={"nofailover": True})), UNITS, switchover=True)
    moves = [command for command in commands(plan.steps, "n2") if "switchover" in command]
    assert moves == ["pgcore -c '/etc/patroni/demo one.yml' switchover --leader n2 --candidate n3 --force demo"]
    assert commands(plan.steps, "n2").index(moves[0]) < commands(plan.steps, "n2").index("systemctl disable --now patroni")


def test_the_way_back_exchanges_who_runs_pgcore_and_first_mends_what_patroni_cannot() -> None:
    config = {"ttl": 10, "loop_wait": 3, "retry_timeout": 3, "failsafe_quorum": True}
    plan = back("demo", view(config=config, n1=card(1, **OURS), n2=card(2, role="primary", **OURS)), UNITS)
    assert order(plan) == ["n1", "n2"] and plan.done == ("n3",)
    assert commands(plan.steps, "n1")[1:3] == ["systemctl disable --now pgcore", "systemctl enable --now patroni"]
    edit = next(command for step in plan.steps for command in step.commands if "edit-config" in command)
    assert edit.endswith("edit-config --force -s ttl=30 -s failsafe_quorum=null demo")
    assert order(back("demo", view(), UNITS)) == ["n1", "n3", "n2"]


@pytest.mark.parametrize(("change", "kind", "told"), [
    (dict.fromkeys(("initialize", "leader", "config", "n1", "n2", "n3")), Kind.FIRST, "there is no cluster at"),
    ({"n1": None}, Kind.LOOK, "no member is called 'n1'; the members are n2, n3"),
    ({"leader": None}, Kind.FIRST, "nobody leads"),
    ({"n3": card(3, state="stopped")}, Kind.FIRST, "its state is stopped"),
    ({"n3": card(3, replication_state="in archive recovery")}, Kind.LOOK, "does not stream, it is in archive recovery"),
    ({"n3": card(3, version="3.3.2")}, Kind.FIRST, "is Patroni 3.3.2"),
    ({"n3": card(3, version="4.0.6")}, Kind.LOOK, "is Patroni 4.0.6"),
    ({"n3": card(3, version="nightly")}, Kind.FIRST, "is Patroni nightly"),
    ({"n3": card(3, scheduled_restart={"schedule": "2031-01-01T00:00:00+00:00"})}, Kind.LOOK, "has a scheduled restart"),
    ({"n3": card(3, pending_restart=True)}, Kind.LOOK, "waits for a restart"),
    ({"failover": {"leader": "n2", "scheduled_at": "2031-01-01T00:00:00+00:00"}}, Kind.LOOK, "a switchover is scheduled at 2031"),
    ({"config": {"pause": True}}, Kind.LOOK, "is in maintenance mode already"),
    ({"config": {"ttl": "soon"}}, Kind.FIRST, "pgcore refuses the whole document"),
    ({"config": {"synchronous_mode": "onn"}}, Kind.FIRST, "pgcore refuses the whole document"),
    ({"config": "no JSON"}, Kind.FIRST, "is no JSON object"),
    ({"config": {"ttl": 10}}, Kind.LOOK, "below the 20 s that a Patroni member"),
    ({"config": {"failsafe_quorum": True}}, Kind.IGNORED, "a Patroni member of this cluster does not know it"),
    ({"config": {"failsafe_mode": True}}, Kind.DIFFERS, "a member accepts only the leader it knows"),
    ({"config": {"master_start_timeout": 3}}, Kind.LOOK, "is an older name of primary_start_timeout"),
    ({"initialize": "7380000000000000002"}, Kind.FIRST, f"holds the cluster {SYSTEM}, the store is about 7380000000000000002")])
def test_the_store_tells_what_stands_in_the_way(change: dict[str, Any], kind: Kind, told: str) -> None:
    calm = _findings()
    assert [finding for finding in calm if finding.kind is Kind.FIRST] == []
    found = [finding for finding in _findings(**change) if told in finding.text]
    assert [finding.kind for finding in found] == [kind], _findings(**change)
    assert not any(told in finding.text for finding in calm)


def _findings(**change: Any) -> list[Any]:
    subject = Subject(FILE, lambda path: f"node.yml:{path}", cluster=view(**change), store_path="/service/demo",
                      machine=Machine(account="postgres", system_identifier=SYSTEM, rest_answer="Patroni 4.1.5 as n1"))
    return check(subject)


@pytest.mark.parametrize(("answer", "kind"), [("", Kind.LOOK), ("10.0.0.1:8008 does not answer with JSON", Kind.FIRST),
                                              ("pgcore 0.1.0 as n1", None), (None, None)])
def test_somebody_else_at_the_rest_address_stands_in_the_way(answer: str | None, kind: Kind | None) -> None:
    subject = Subject(FILE, lambda path: "node.yml:1", machine=Machine(rest_answer=answer))
    assert [found.kind for found in check(subject) if found.path == "restapi.connect_address"] == ([] if kind is None else [kind])
