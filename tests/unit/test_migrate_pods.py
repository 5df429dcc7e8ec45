"""A plan for pods: who is made anew, when, and what stands in its way. A shell runs one in ``tests/e2e/test_migrate_pods.py``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgcore.errors import ConfigError
from pgcore.migrate.plan import Plan
from pgcore.migrate.pods import Pods, back, forth, kubectl
from pgcore.model.cluster import ClusterView
from unit.test_migrate_plan import OURS, card, view

KUBE = ("kubectl", "-n", "db")
PODS = Pods("node.yml", KUBE, image="registry.example/pgcore:0.1")


def cluster(**change: Any) -> ClusterView:
    """Patroni in the pods demo-0, demo-1 (the leader) and demo-2; ``demo_0`` and so on are other cards, None for no pod."""
    cards = {f"demo-{number}": card(number + 1) for number in range(3)} | {"demo-1": card(2, role="primary")}
    cards |= {name.replace("_", "-"): change.pop(name) for name in list(change) if name.startswith("demo_")}
    members = {f"members/{name}": found for name, found in cards.items()}
    return view(**{"leader": "demo-1", "n1": None, "n2": None, "n3": None, **members, **change})


def deleted(plan: Plan) -> list[str]:
    """The pods that are made anew, in order; a switchover is shown as the one who hands over, with an arrow."""
    words = [command.split() for step in plan.steps for command in step.commands]
    return [f"{line[line.index('--leader') + 1]} ->" if "switchover" in line else line[-1] for line in words
            if "switchover" in line or line[3:5] == ["delete", "pod"]]


@pytest.mark.parametrize(("change", "wanted"), [
    ({}, ["demo-0", "demo-2", "demo-1 ->", "demo-1"]),
    ({"demo_2": card(3, tags={"replicatefrom": "demo-0"})}, ["demo-2", "demo-0", "demo-1 ->", "demo-1"]),
    ({"demo_0": card(1, **OURS)}, ["demo-2", "demo-1 ->", "demo-1"]),
    ({"demo_0": card(1, **OURS), "demo_2": card(3, **OURS)}, ["demo-1 ->", "demo-1"]),
    ({"demo_1": card(2, role="primary", **OURS)}, ["demo-0", "demo-2"]),
    ({"demo_0": None, "demo_2": None}, ["demo-1"]),
    ({"demo_0": None, "demo_2": card(3, tags={"nofailover": True})}, ["demo-2", "demo-1"])])
def test_standbys_go_first_and_the_leader_last_after_one_switchover(change: dict[str, Any], wanted: list[str]) -> None:
    assert deleted(forth("demo", cluster(**change), PODS)) == wanted


def test_the_way_back_is_for_those_that_run_pgcore_under_who_leads_by_then() -> None:
    ours = {f"demo_{number}": card(number + 1, **OURS) for number in range(3)}
    plan = back("demo", cluster(leader="demo-2", **ours), PODS)
    assert deleted(plan) == ["demo-0", "demo-1", "demo-2 ->", "demo-2"]
    assert deleted(back("demo", cluster(demo_0=card(1, **OURS)), PODS)) == ["demo-0"]
    assert deleted(back("demo", cluster(), PODS)) == []
    edits = [command for step in back("demo", cluster(config={"ttl": 10}), PODS).steps for command in step.commands
             if "edit-config" in command]
    assert edits == ["pgcore -c node.yml edit-config --force -s ttl=30 demo"]


def test_after_a_break_the_update_strategy_comes_back_although_every_pod_is_there() -> None:
    plan = forth("demo", cluster(**{f"demo_{number}": card(number + 1, **OURS) for number in range(3)}), PODS)
    assert [step.title.partition(":")[0] for step in plan.steps] == ["The update strategy as it was", "Look"]
    assert plan.done == ("demo-0", "demo-1", "demo-2")


def test_who_never_streams_is_waited_for_until_it_runs() -> None:
    plan = forth("demo", cluster(demo_0=card(1, tags={"nostream": True})), PODS)
    waits = {step.member: command for step in plan.steps for command in step.commands if "annotations.status" in command}
    assert '"state": *"running"' in waits["demo-0"] and '"replication_state": *"streaming"' in waits["demo-2"]


@pytest.mark.parametrize(("config", "wanted"), [
    ({}, ["sleep 11"]), ({"loop_wait": 3}, ["sleep 4"]), ({"loop_wait": "soon"}, ["sleep 11"]),
    ({"synchronous_mode": "quorum"}, ["sleep 11", "until pgcore -c node.yml list -f tsv demo | grep -q "
                                      "-e 'Sync Standby' -e 'Quorum Standby'; do sleep 1; done"])])
def test_the_leader_has_seen_who_is_back_before_it_hands_over(config: dict[str, Any], wanted: list[str]) -> None:
    """It refuses while it knows nobody, and with synchronous replication while nobody is synchronous."""
    [step] = [step for step in forth("demo", cluster(config=config), PODS).steps if "hand the" in step.title]
    assert list(step.commands[:-2]) == wanted


def test_the_container_and_the_former_image_may_be_named() -> None:
    """By default the first container and what was noted on the way there."""
    named = replace(PODS, container="database", image_before="registry.example/patroni:4")
    there, again = forth("demo", cluster(), named), back("demo", cluster(), named)
    assert f"{' '.join(KUBE)} set image statefulset/demo database={PODS.image}" in lines(there)
    assert any('containers[?(@.name=="database")].image' in line for line in lines(there))
    assert f"{' '.join(KUBE)} set image statefulset/demo database=registry.example/patroni:4" in lines(again)
    assert "pgcore migrate plan --back --stateful-set demo --container database node.yml" in lines(there)
    assert any("annotations.pgcore/image-before}')\"; else echo" in line for line in lines(back("demo", cluster(), PODS)))


def test_the_lines_of_the_page_are_those_of_the_plan() -> None:
    """As its reader sees them, in the same order."""
    page = (Path(__file__).parents[2] / "docs" / "migrating-from-patroni.md").read_text()
    shown = re.findall(r"^```\n(.*?)^```$", page.partition("\n## Pods\n")[2].partition("\n## ")[0], re.MULTILINE | re.DOTALL)[1]
    printed = iter(lines(forth("demo", cluster(), Pods("patroni.yml", ("kubectl", "--context", "kind-kind", "-n", "default")))))
    assert [line for line in shown.splitlines() if line not in printed] == [] and len(shown.splitlines()) > 5


def lines(plan: Plan) -> list[str]:
    return [command for step in plan.steps for command in step.commands]


@pytest.mark.parametrize(("change", "named", "told"), [
    ({"demo_0": None, "members/other-0": card(1)}, "", "the members demo-1, demo-2, other-0 of demo are not the pods"),
    ({"demo_0": None, "members/node": card(1)}, "", "the members demo-1, demo-2, node of demo are not the pods NAME-0"),
    ({"demo_0": None, "members/node": card(1)}, "demo", "--stateful-set: demo has no pod called node, as members"),
    ({}, "dem", "--stateful-set: dem has no pod called demo-0, .* are .name the StatefulSet whose"),
    ({"leader": None}, "", "nobody leads demo: .* list says what is wrong"),
    ({"config": {"pause": True}}, "", "demo is in maintenance mode: .* resume --wait first")])
def test_there_is_no_plan_for_other_members_or_without_a_leader_or_in_maintenance_mode(
        change: dict[str, Any], named: str, told: str) -> None:
    for way in (forth, back):
        with pytest.raises(ConfigError, match=told):
            way("demo", cluster(**change), replace(PODS, stateful_set=named))


@pytest.mark.parametrize(("top", "inside", "wanted"), [
    ("service", False, "kubectl --context kind-kind -n db"), ("service", True, "kubectl -n db"),
    ("/other/", True, "kubectl -n other")])
def test_kubectl_looks_where_pgcore_looks(top: str, inside: bool, wanted: str) -> None:
    from pgcore_dcs_kubernetes.section import KubernetesSection

    section = KubernetesSection(labels={"application": "pgcore"}, namespace="db")
    assert " ".join(kubectl(section, top, "node.yml", inside=inside)) == wanted
