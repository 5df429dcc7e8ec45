"""A cluster of clusters with a handler that a stranger brings: two groups below one scope, each with its lock. (HA rules 29)

The handler writes what it is told into a file, so the same moments that Citus needs are proven without the extension.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, wait_for
from unit.test_daemon_kit import Plugins

HANDLER = '''
import json
from dataclasses import dataclass

from pgcore.plugin import ConfigSection, Deadline, hookimpl, option


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The section ``shards``."""

    group: int = option(minimum=0, doc="group of this node")
    notes: str = option(doc="file to write to")


class Handler:
    rest_path = "shards"

    def __init__(self, section):
        self.group, self.notes, self.seen = section.group, section.notes, None

    def note(self, tools, what, **more):
        with open(self.notes, "a") as file:
            file.write(json.dumps({"who": tools.member, "group": self.group, "what": what, **more}) + chr(10))

    def tell(self, tools, what):
        self.note(tools, what)
        leader = tools.groups(fresh=True)[0].leader_member
        if self.group and leader:
            report = {"type": what, "group": self.group, "leader": tools.member}
            self.note(tools, "posted", code=tools.post(leader, "/shards", report, 5.0))

    def keeps_slot(self, name, plugin, database):
        return False

    def bootstrapped(self, tools):
        session = tools.session("postgres", Deadline.after(5))
        self.note(tools, "bootstrapped", rows=session.query("SELECT 1", deadline=Deadline.after(5)))
        session.close()

    def before_demote(self, tools):
        self.tell(tools, "before_demote")

    def before_promote(self, tools):
        self.tell(tools, "before_promote")

    def promoted(self, tools):
        self.tell(tools, "promoted")

    def reported(self, tools, report):
        self.note(tools, "reported", report=report, leads=tools.leads())

    def groups_seen(self, tools):
        leaders = {number: group.leader for number, group in tools.groups().items()}
        if leaders != self.seen:
            self.seen = leaders
            self.note(tools, "groups", leaders=leaders)


@hookimpl
def pgcore_config_sections():
    return [ConfigSection("shards", Section)]


@hookimpl
def pgcore_mpp_handlers(sections):
    return [Handler(sections["shards"])] if "shards" in sections else []
'''


def test_a_handler_learns_of_the_other_group_and_is_told_of_its_handover(
        make_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator gets each report while the worker's primary is handed over, and sees the new leader in the store."""
    Plugins(tmp_path / "plugins").install("shards", HANDLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"))
    notes = tmp_path / "notes"

    def group(number: int) -> dict[str, Any]:
        return {"plugins": {"use": ["shards"]}, "shards": {"group": number, "notes": str(notes)}}

    coordinators = make_cluster(names=["c1"], per_node={"c1": group(0)})
    workers = make_cluster(names=["w1", "w2"], beside=coordinators, per_node={"w1": group(1), "w2": group(1)})
    coordinators.start_store()
    for node in (*coordinators.nodes, *workers.nodes):
        node.start()
    coordinators.wait_healthy()
    workers.wait_healthy()
    assert coordinators.etcd is not None

    def noted(what: str, **wanted: Any) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
        return [line for line in lines if line["what"] == what and wanted.items() <= line.items()]

    assert {line["who"] for line in noted("bootstrapped", rows=[[1]])} == {"c1", workers.primary().name}
    old = workers.primary()
    (new,) = workers.others(old)
    wait_for(lambda: noted("groups", who="c1", leaders={"0": "c1", "1": old.name}), 30, "the coordinator sees both groups")
    answer = workers.switchover(old, new)
    assert answer is not None and answer.status == 200, answer
    wait_for(lambda: [line for line in noted("reported", who="c1") if line["report"]["type"] == "promoted"
                      and line["report"]["leader"] == new.name], 30, "the coordinator has heard of the promotion")
    wait_for(lambda: noted("posted", who=new.name, code=200), 30, "the new primary's report was answered")
    wait_for(lambda: noted("groups", who="c1", leaders={"0": "c1", "1": new.name}), 30, "the coordinator sees the new leader")
    reports = [line["report"] for line in noted("reported", who="c1", leads=True)]
    assert [(report["type"], report["leader"]) for report in reports] == [
        ("before_demote", old.name), ("before_promote", new.name), ("promoted", new.name)]
