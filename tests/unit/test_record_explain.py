"""``pgcore explain`` and ``pgcore replay`` over records of real heartbeats: what they answer, how they exit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgcore.cli.main import group
from pgcore.model.basics import Lsn
from pgcore.model.node import TaskKind, WalSender
from pgcore.record.account import account
from pgcore.record.explain import Kind, Moment, moments
from pgcore.record.reading import read
from pgcore.record.timeline import Entry, render
from pgcore.testing.builders import END, WALL, crashed, did, doing, peer, primary, request, standby, view
from unit.record_scenes import Node, saved
from unit.test_daemon_kit import write_node_file

FREE = view(None)
MORE = END + 500


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, list(arguments), env={"TZ": "UTC", "HOME": "/nowhere"})


def failover() -> list[Node]:
    """b dies; c has more than a, takes the lock and is promoted; a stands back."""
    a, b, c = Node("a"), Node("b"), Node("c")
    for second in range(1, 4):
        a.beat(second, PollPeers=(peer("c", MORE), peer("b", reachable=False)))
        b.beat(second, node=primary(MORE))
        c.beat(second, node=standby(MORE), PollPeers=(peer("a"), peer("b", reachable=False)), AcquireLease=True)
    a.beat(10, cluster=FREE)
    c.beat(10.5, cluster=FREE)
    a.beat(11, cluster=view("c"))
    c.beat(11.5, cluster=view("c"), node=doing(TaskKind.PROMOTE, standby(MORE)))
    c.beat(12, node=replace(primary(MORE, timeline=2), finished=did(TaskKind.PROMOTE)))
    return [a, b, c]


def only(folder: Path, nodes: list[Node]) -> Moment:
    (moment,) = moments(read(saved(folder, nodes)))
    return moment


# -- explain -------------------------------------------------------------------------------------------------------------------


def test_a_failover_names_both_leaders_the_evidence_and_who_stood_back(tmp_path: Path) -> None:
    moment = only(tmp_path, failover())
    assert (moment.kind, moment.old, moment.new) == (Kind.FAILOVER, "b", "c")
    assert moment.rules == ("race.acquire", "race.peer_ahead")
    for part in ("c took over from b at 22:13:30.500: a failover.", "b's lock ended without being given up",
                 "found free at 22:13:30.000", "The last that b itself recorded before that is of 22:13:21.000.",
                 f"c decided by race.acquire: healthy at {Lsn(MORE)} (a at {Lsn(END)}): taking the lock.",
                 "a stood back (race.peer_ahead): c is ahead", "c's promotion had ended by 22:13:32.000."):
        assert part in moment.answer, moment.answer


def test_what_is_not_recorded_is_said(tmp_path: Path) -> None:
    answer = only(tmp_path, failover()[2:]).answer
    assert "There is no record of b itself." in answer and "There is no record of a." in answer


def test_a_failed_promotion_is_told(tmp_path: Path) -> None:
    nodes = failover()
    del nodes[2].kept.entries[-1]
    nodes[2].beat(12, node=replace(standby(MORE), finished=did(TaskKind.PROMOTE, "pg_ctl ended with 1")))
    assert "Its promotion failed: pg_ctl ended with 1." in only(tmp_path, nodes).answer


def test_nobody_took_over_and_why(tmp_path: Path) -> None:
    a, c = Node("a"), Node("c", maximum_lag_on_failover=100)
    for node in (a, c):
        node.beat(1)
    for second in range(10, 60, 4):  # most of them are only counted
        a.beat(second, cluster=FREE, PollPeers=(peer("b", is_primary=True),))
        c.beat(second, cluster=view(None, optime=MORE))
    moment = only(tmp_path, [a, c])
    assert (moment.kind, moment.old, moment.new) == (Kind.NOBODY, "b", "")
    assert moment.answer.startswith("Nobody took over: b's lock was free from 22:13:30.000 until")
    assert "a because of race.primary_alive: b still runs as a primary" in moment.answer
    assert "c because of race.lagging: 500 bytes behind" in moment.answer


def test_an_old_leader_that_comes_back_is_no_failover(tmp_path: Path) -> None:
    a, b = Node("a"), Node("b")
    a.beat(1)
    b.beat(1, node=primary())
    a.beat(10, cluster=FREE, PollPeers=(peer("b", is_primary=True),))
    b.beat(10.2, cluster=FREE, AcquireLease=True)
    a.beat(11, cluster=view("b"))
    moment = only(tmp_path, [a, b])
    assert moment.kind is Kind.CAME_BACK
    assert "b had it again at 22:13:30.200 (race.primary_takes_it)" in moment.answer
    assert "The others stood back: a because of race.primary_alive" in moment.answer


def test_a_leader_that_is_kept_while_its_server_recovers(tmp_path: Path) -> None:
    b = Node("b")
    b.beat(1, node=primary())
    b.beat(2, node=crashed())
    b.beat(30, node=doing(TaskKind.START_PRIMARY, crashed()))
    b.beat(31, node=replace(primary(), finished=did(TaskKind.START_PRIMARY)))
    moment = only(tmp_path, [b])
    assert moment.kind is Kind.KEPT and "the server of b was down from 22:13:22.000, and b kept the lock" in moment.answer
    assert "down.restart_as_primary" in moment.rules


def test_a_switchover_tells_who_gave_up_and_who_was_asked(tmp_path: Path) -> None:
    a, b = Node("a"), Node("b")
    asked = view("b", failover=request("b", "a"))
    a.beat(1)
    b.beat(1, node=primary(senders=(WalSender("a", "streaming"),)))
    b.beat(2, cluster=asked, PollPeers=(peer("a"), peer("c")))
    a.beat(9, cluster=view(None, failover=request("b", "a")), PollPeers=(peer("b"), peer("c")), AcquireLease=True)
    moment = only(tmp_path, [a, b])
    assert (moment.kind, moment.old, moment.new, moment.begin) == (Kind.SWITCHOVER, "b", "a", WALL + 2)
    assert "b gave the lead up at 22:13:22.000 (leader.hand_over): " in moment.answer
    texts = "\n".join(render(moment.entries))
    assert "b  sees: a switchover from b to a is asked for" in texts and "BeginDemotion(graceful" in texts


def test_a_switchover_is_told_also_without_the_record_of_the_new_leader(tmp_path: Path) -> None:
    b = Node("b")
    b.beat(1, node=primary(senders=(WalSender("a", "streaming"),)))
    b.beat(2, cluster=view("b", failover=request("b", "a")), PollPeers=(peer("a"), peer("c")))
    b.beat(9, cluster=view("a"), node=standby())
    moment = only(tmp_path, [b])
    assert (moment.kind, moment.old, moment.new, moment.begin) == (Kind.SWITCHOVER, "b", "a", WALL + 2)
    assert moment.answer.startswith("a leads in the place of b, as b saw at 22:13:29.000: a switchover.")
    assert "b gave the lead up at 22:13:22.000 (leader.hand_over): " in moment.answer
    assert "There is no record of a" in moment.answer


def test_a_failover_that_only_a_bystander_recorded(tmp_path: Path) -> None:
    moment = only(tmp_path, failover()[:1])
    assert (moment.kind, moment.old, moment.new) == (Kind.FAILOVER, "b", "c")
    assert "There is no record of b." in moment.answer


def test_a_restart_that_was_asked_for_is_no_reason_for_another_leader(tmp_path: Path) -> None:
    b = Node("b")
    b.beat(1, node=primary())
    b.beat(2, node=doing(TaskKind.RESTART, crashed()))
    b.beat(3, node=replace(primary(), finished=did(TaskKind.RESTART)))
    assert moments(read(saved(tmp_path, [b]))) == []


def test_a_request_that_is_not_carried_out(tmp_path: Path) -> None:
    b = Node("b")
    b.beat(1, node=primary())
    b.beat(2, cluster=view("b", failover=request("c", "a")))
    moment = only(tmp_path, [b])
    assert moment.kind is Kind.REFUSED and moment.rules == ("leader.wrong_leader",)
    assert moment.answer.startswith("b did not carry out what was asked for: ")


def test_the_command_shows_the_timeline_the_answer_and_the_rules(tmp_path: Path) -> None:
    saved(tmp_path, failover())
    result = run("explain", "--record", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("failover: b -> c, 2023-11-14 22:13:32.000+00:00\n")
    assert "22:13:30.000  a  race.peer_ahead: c is ahead" in result.output
    assert "22:13:30.500  c  race.acquire: healthy" in result.output and "-> AcquireLease\n" in result.output
    assert "\nc took over from b" in result.output
    assert "race.peer_ahead: An eligible peer has more WAL or a newer timeline" in result.output


def test_programs_get_the_same_as_json(tmp_path: Path) -> None:
    document = json.loads(run("explain", "-o", "json", *(f"--record={path}" for path in saved(tmp_path, failover()))).output)
    (moment,) = document["moments"]
    assert (moment["kind"], moment["old"], moment["new"], document["nodes"]) == ("failover", "b", "c", ["a", "b", "c"])
    assert moment["rules"]["race.acquire"].startswith("Nothing speaks against me")
    assert {"at": WALL + 10.5, "node": "c", "saw": "the lock is mine"} in moment["timeline"]


def test_earlier_moments_are_found_by_time_and_by_number(tmp_path: Path) -> None:
    nodes = failover()
    a, _, c = nodes
    a.beat(100, cluster=view(None), PollPeers=(peer("c", reachable=False),), AcquireLease=True)
    a.beat(101, cluster=view("a"))
    c.beat(90, cluster=view("c"))
    saved(tmp_path, nodes)
    record = ("--record", str(tmp_path))
    last = run("explain", *record)
    assert "a took over from c" in last.output and "c took over from b" not in last.output
    assert "c took over from b" in run("explain", *record, "--at", "2023-11-14T22:14:00Z").output
    both = run("explain", *record, "--last", "2").output
    assert both.index("c took over from b") < both.index("a took over from c")
    assert "the first is of 2023-11-14 22:13:30.000+00:00" in run("explain", *record, "--at", "2023-11-14T22:00:00Z").output
    assert "is not a time" in run("explain", *record, "--at", "whenever").output


def test_records_of_two_clusters_are_not_mixed(tmp_path: Path) -> None:
    paths = saved(tmp_path, failover())
    other = tmp_path / "other.jsonl"
    other.write_text(Path(paths[0]).read_text().replace('"scope":"demo"', '"scope":"prod"'))
    result = run("explain", "--record", paths[0], "--record", str(other))
    assert result.exit_code == 1 and "several clusters (demo, prod)" in result.output


def test_a_record_without_such_a_moment_says_so(tmp_path: Path) -> None:
    node = Node("a")
    node.beat(1)
    result = run("explain", "--record", node.save(tmp_path))
    assert result.exit_code == 0 and "no failover, switchover or refusal is recorded there (a from" in result.output


def test_what_a_guard_did_is_part_of_the_timeline(tmp_path: Path) -> None:
    nodes = failover()
    nodes[1].recorder.note(nodes[1].settings, WALL + 9, "the guard stopped PostgreSQL: the lease had ended")
    assert "22:13:29.000  b  sees: the guard stopped" in "\n".join(render(only(tmp_path, nodes).entries))


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "name a record with --record, or the configuration of a node with -c"),
    (("--record", "/no/where"), "/no/where cannot be read: No such file or directory"),
    (("--record", "{folder}"), "there is no record in {folder}"),
    (("-c", "{folder}/node.yml"), "there is no record at {folder}/data.flight/flight-"),
    (("-c", "{folder}/ctl.yml"), "does not describe a node"),
])
def test_without_a_record_it_says_what_to_name(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    write_node_file(tmp_path)
    (tmp_path / "ctl.yml").write_text("etcd3: {host: 127.0.0.1}\n")
    result = run("explain", *(word.format(folder=tmp_path) for word in arguments))
    assert result.exit_code == 1 and message.format(folder=tmp_path) in result.output


def test_the_configuration_of_a_node_leads_to_its_record_and_the_rotated_files(tmp_path: Path) -> None:
    file = write_node_file(tmp_path, {"name": "c", "scope": "demo", "recorder": {"dir": str(tmp_path / "flight")}})
    (tmp_path / "flight").mkdir()
    path = Path(failover()[2].save(tmp_path / "flight"))
    lines = path.read_text().splitlines(keepends=True)
    for number, part in (("", lines[-1:]), (".1", lines[-2:-1]), (".2", lines[:-2])):
        Path(f"{path}{number}").write_text("".join(part))
    for arguments in (("explain", "-c", str(file)), ("-c", str(file), "explain"), ("explain", "--record", str(path.parent))):
        assert "c took over from b" in run(*arguments).output


# -- replay --------------------------------------------------------------------------------------------------------------------


def changed(path: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Every heartbeat of a record, changed."""
    trees = [json.loads(text) for text in Path(path).read_text().splitlines()]
    for tree in trees:
        if tree["kind"] == "beat":
            change(tree["beat"])
    Path(path).write_text("".join(json.dumps(tree) + "\n" for tree in trees))
    return path


def test_this_version_decides_as_it_did(tmp_path: Path) -> None:
    result = run("replay", *saved(tmp_path, failover()))
    assert result.exit_code == 0, result.output
    assert "heartbeats of a, b, c were decided again, none differently" in result.output


def test_another_position_of_a_peer_changes_the_decision(tmp_path: Path) -> None:
    def nearer(beat: dict[str, Any]) -> None:
        for step in beat["steps"]:
            if step["action"]["is"] == "PollPeers":
                step["outcome"]["value"]["c"]["position"] = str(Lsn(END))

    path = changed(failover()[0].save(tmp_path), nearer)
    result = run("replay", path)
    assert result.exit_code == 1
    assert "then: race.peer_ahead: c is ahead" in result.output and "now:  race.acquire: healthy" in result.output
    assert "AcquireLease is asked for" in result.output and ", 1 differently" in result.output
    (found,) = json.loads(run("replay", "-o", "json", path).output)["differences"]
    assert (found["then"]["rule"], found["now"]["rule"]) == ("race.peer_ahead", "race.acquire")
    assert found["now"]["actions"] == ["AcquireLease"]


def test_an_action_only_another_version_has_is_a_difference_and_the_rest_goes_on(tmp_path: Path) -> None:
    def secede(beat: dict[str, Any]) -> None:
        for tree in (*(step["action"] for step in beat["steps"]), *(a for d in beat["decisions"] for a in d.get("actions", ()))):
            if tree["is"] == "AcquireLease":
                tree["is"] = "Secede"

    result = run("replay", changed(failover()[2].save(tmp_path), secede))
    assert result.exit_code == 1 and ", 1 differently" in result.output
    assert "AcquireLease is asked for where Secede was recorded" in result.output


def test_who_wrote_the_card_does_not_count(tmp_path: Path) -> None:
    def older(beat: dict[str, Any]) -> None:
        for tree in (*(step["action"] for step in beat["steps"]), *(a for d in beat["decisions"] for a in d.get("actions", ()))):
            if "card" in tree:
                tree["card"] |= {"pgcore_version": "0.0.1", "version": "4.0.0"}
            tree["unheard"] = 1

    assert run("replay", changed(failover()[2].save(tmp_path), older)).exit_code == 0


def test_a_heartbeat_cut_short_by_a_bug_is_no_difference_unless_it_decides_otherwise(tmp_path: Path) -> None:
    node = Node("a")
    node.beat(1)
    steps = node.recorder.heartbeat(replace(node.world, now=node.world.now))
    action, _ = next(steps)
    steps.send(node._answer(action, node.world.now))
    node.recorder.failed("KeyError('x')")
    assert run("replay", node.save(tmp_path)).exit_code == 0
    (entry,) = [entry for entry in account(node.kept.beats) if "bug" in entry.saw]
    assert "KeyError('x')" in entry.saw


def test_torn_lines_and_unreadable_heartbeats_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = Path(failover()[2].save(tmp_path))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:80] + "\n" + lines[1] + lines[1].replace('"state":"running"', '"state":"levitating"')
                    + "".join(lines[2:]) + '{"v":1,"kind":"lost","node":"c","scope":"demo","at":1,"beats":7}\n' + lines[-1][:40])
    result = run("replay", str(path))
    assert result.exit_code == 0
    assert "2 torn lines were skipped" in result.output and "7 heartbeats could not be written" in result.output
    assert "1 heartbeats cannot be read by this version" in result.output and "'levitating' is no State" in result.output


@pytest.mark.parametrize(("text", "message"), [
    (None, "cannot be read"), ("", "no record in"), ("what?\n", "no record in"), ("[1]\n", "no record in"),
    ('{"v":9,"kind":"beat","node":"a","scope":"s","by":"7.0","at":1}\n', "written by pgcore 7.0 in format 9"),
    ('{"v":1,"kind":"quiet","node":"a","scope":"s","at":1,"since":1,"beats":3}\n', "no heartbeat is recorded there"),
])
def test_what_cannot_be_used_ends_with_2(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "flight-demo-a.jsonl"
    if text is not None:
        path.write_text(text)
    result = run("replay", str(path))
    assert result.exit_code == 2 and message in result.output


# -- timelines -----------------------------------------------------------------------------------------------------------------


def test_a_timeline_merges_nodes_and_tells_repetitions_once() -> None:
    entries = [Entry(second, "n1", "race.backoff", f"waiting since {second} s") for second in (1.0, 2.0, 3.0)]
    entries += [Entry(1.5, "node2", saw="the lock is free"), Entry(4.0, "n1", "race.acquire", "healthy", ("AcquireLease",))]
    assert list(render(entries, moment=lambda wall: f"{wall:4.1f}")) == [
        " 1.0  n1     race.backoff: waiting since 1.0 s (3 times until  3.0)",
        " 1.5  node2  sees: the lock is free",
        " 4.0  n1     race.acquire: healthy -> AcquireLease",
    ]
    decided = {"rule": "race.acquire", "because": "healthy", "actions": ["AcquireLease"]}
    assert entries[-1].document() == {"at": 4.0, "node": "n1"} | decided


def test_an_account_tells_an_outage_and_its_end_once() -> None:
    node = Node("a")
    for second, lost in enumerate((False, True, True, False, False)):
        node.beat(second + 1.0, lost=lost)
    told = [entry.saw for entry in account(node.kept.beats) if "store" in entry.saw or "lock" in entry.saw]
    assert told == ["b holds the lock", "the store does not answer: no answer after 2.0 s", "b holds the lock"]
