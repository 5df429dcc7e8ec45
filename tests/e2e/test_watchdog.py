"""Watchdog and callbacks of a cluster: a named pipe (driver ``testing``) and a script for each node note what they are told."""

from __future__ import annotations

import json
import os
import select
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, Node, wait_for
from harness.agents import POSTGRES_USER
from harness.configuration import merged

EVENTS = ("on_start", "on_stop", "on_restart", "on_reload", "on_role_change")
LATE_S = 0.9
"""Between a renewal that etcd has counted and the keepalive that the reader has seen, on a busy machine."""


class Pipe:
    """The reader of one node's watchdog: everything written, with the instants."""

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, threading.Event()
        self.heard: list[tuple[float, str]] = []
        os.mkfifo(path)
        shutil.chown(path, POSTGRES_USER)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._end.is_set():
            select.select([self._fd], [], [], 0.1)
            try:
                data = os.read(self._fd, 4096)
            except BlockingIOError:
                continue
            if data:
                self.heard.append((time.monotonic(), data.decode()))
            else:
                time.sleep(0.01)  # nobody has it open for writing

    def since(self, at: float) -> str:
        """What was written after this instant."""
        return "".join(text for when, text in list(self.heard) if when > at)

    def fed(self, since: float) -> list[float]:
        """The instants of the keepalives after this one."""
        return [when for when, text in list(self.heard) if when > since and "1" in text]

    def close(self) -> None:
        """End the reader."""
        self._end.set()
        self._thread.join(2)
        os.close(self._fd)


class Watched:
    """A cluster in which n1 and n2 have a watchdog and n3 requires one that does not exist."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pipes = {name: Pipe(self.cluster.directory / f"watchdog-{name}") for name in ("n1", "n2")}
        for node in self.cluster.nodes:
            node.document["watchdog"] = self._section(node)
            node.document["postgresql"]["callbacks"] = dict.fromkeys(EVENTS, self._script(node))
        self.cluster.start_store()
        self.cluster.nodes[0].start()
        self.cluster.primary()
        for node in self.cluster.nodes[1:]:
            node.start()
        self.cluster.wait_healthy()
        self.cluster.create_table()

    def _section(self, node: Node) -> dict[str, Any]:
        if node.name in self.pipes:
            return {"mode": "automatic", "driver": "testing", "device": str(self.pipes[node.name].path)}
        return {"mode": "required", "device": str(node.directory / "no-such-device")}

    def _script(self, node: Node) -> str:
        script = self.cluster.directory / f"callback-{node.name}"
        script.write_text(f'#!/bin/sh\nsleep 0.2; echo "$@" >> {self._told(node)}\n')
        script.chmod(0o755)
        return str(script)

    def _told(self, node: Node) -> Path:
        return self.cluster.directory / f"told-{node.name}"

    def told(self, node: Node) -> list[str]:
        """What the callbacks of this node were told: event and role."""
        path = self._told(node)
        return [line.removesuffix(f" {self.cluster.scope}") for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def timeout_line(self) -> str:
        """What a device is told first: a ttl below 20 leaves a sixth of it as the margin."""
        return f"T{self.cluster.ttl - max(1, self.cluster.ttl // 6)}\n"

    def leader(self) -> tuple[Node, Pipe]:
        """The primary, which is one of those with a watchdog, and its pipe."""
        primary = self.cluster.primary()
        return primary, self.pipes[primary.name]

    def configure(self, **dynamic: Any) -> None:
        """Change the dynamic configuration in the store; None removes a key."""
        assert self.cluster.etcd is not None
        key = f"/service/{self.cluster.scope}/config"
        document = merged(json.loads(self.cluster.etcd.get(key) or "{}"), dynamic)
        self.cluster.etcd.put(key, json.dumps(document))

    def close(self) -> None:
        """End the readers."""
        for pipe in self.pipes.values():
            pipe.close()


@pytest.fixture(scope="module")
def shared(make_shared_cluster: Callable[..., Cluster]) -> Iterator[Watched]:
    """One cluster for the tests of this file."""
    made = Watched(make_shared_cluster())
    yield made
    made.close()


@pytest.fixture
def watched(shared: Watched) -> Watched:
    """The shared cluster, in good health also by what its agents know: each has seen the timeline of the primary."""
    shared.cluster.repair()
    timeline = shared.cluster.primary().timeline()
    for node in shared.cluster.nodes:
        wait_for(lambda node=node: node.status().get("timeline") == timeline, 30, f"{node.name} is on {timeline}")  # type: ignore[misc]
    return shared


def _renewals(watched: Watched, seconds: float) -> list[float]:
    """The instants at which etcd counted another renewal of a lease, whosever."""
    assert watched.cluster.etcd is not None
    found, last, end = [], None, time.monotonic() + seconds
    while time.monotonic() < end:
        count = watched.cluster.etcd.requests().get("LeaseKeepAlive", 0.0)
        if last is not None and count > last:
            found.append(time.monotonic())
        last = count
        time.sleep(0.02)
    return found


def test_a_keepalive_follows_each_confirmed_renewal_and_nothing_else(watched: Watched) -> None:
    _, pipe = watched.leader()
    began = time.monotonic()
    renewals = _renewals(watched, 2.5 * watched.cluster.loop_wait)
    fed = pipe.fed(began + LATE_S)
    assert fed and set(pipe.since(began)) == {"1"}
    assert all(any(abs(at - renewal) < LATE_S for renewal in renewals) for at in fed), (renewals, fed)
    assert len(fed) <= len(renewals)

    assert watched.cluster.etcd is not None
    watched.cluster.etcd.freeze()
    time.sleep(LATE_S)
    frozen = time.monotonic()
    time.sleep(watched.cluster.loop_wait + 0.3)
    assert pipe.since(frozen) == "", "no renewal can have been confirmed"
    watched.cluster.etcd.thaw()
    wait_for(lambda: pipe.fed(frozen), watched.cluster.loop_wait + 20, "the watchdog is fed again")


def test_whoever_does_not_lead_does_not_touch_its_watchdog(watched: Watched) -> None:
    primary, _ = watched.leader()
    idle = next(pipe for name, pipe in watched.pipes.items() if name != primary.name)
    began = time.monotonic()
    time.sleep(watched.cluster.loop_wait + 0.5)
    assert idle.since(began) == ""
    assert watched.cluster.node("n3").status().get("watchdog_failed") is True
    assert primary.status().get("watchdog_failed") is None and primary.status()["pgcore"]["watchdog"] == "active"


def test_a_killed_agent_leaves_its_watchdog_running_and_its_successor_takes_it_over(watched: Watched) -> None:
    primary, pipe = watched.leader()
    killed = time.monotonic()
    primary.kill_agent()
    time.sleep(0.5)
    assert "V" not in pipe.since(killed)
    primary.start()
    wait_for(lambda: watched.timeout_line in pipe.since(killed), watched.cluster.ttl, "the watchdog is opened again")
    wait_for(lambda: len(pipe.fed(killed)) > 1, watched.cluster.ttl, "the watchdog is fed again")
    assert "V" not in pipe.since(killed) and watched.cluster.primary() is primary


def test_a_frozen_agent_feeds_nothing_and_whoever_has_no_required_watchdog_does_not_follow_it(watched: Watched) -> None:
    """EC 53: of two standbys with all WAL only the one whose watchdog works takes over, and starts it before it is promoted."""
    old, pipe = watched.leader()
    old.freeze_agent()
    time.sleep(LATE_S)
    frozen = time.monotonic()
    new = watched.cluster.wait_primary_other_than(old, watched.cluster.ttl + 10)
    promoted = time.monotonic()
    assert pipe.since(frozen) == "", "neither fed nor stopped: a real device would have reset the machine"
    assert new.name in watched.pipes
    assert watched.timeout_line in watched.pipes[new.name].since(frozen)
    assert watched.pipes[new.name].heard[-1][0] > frozen
    started = next(when for when, text in watched.pipes[new.name].heard if when > frozen and "T" in text)
    assert started < promoted + LATE_S
    old.thaw_agent()
    wait_for(lambda: pipe.since(frozen).endswith("V"), watched.cluster.ttl, "the thawed agent, a primary no more, stops it")
    watched.cluster.wait_healthy()


def test_an_orderly_end_stops_the_watchdog_and_maintenance_mode_too(watched: Watched) -> None:
    """EC 195: an agent that ends in maintenance mode leaves PostgreSQL running, without a watchdog."""
    primary, pipe = watched.leader()
    began = time.monotonic()
    assert primary.stop() == 0
    assert pipe.since(began).endswith("V")
    assert watched.cluster.etcd is not None
    card = json.loads(watched.cluster.etcd.get(f"/service/{watched.cluster.scope}/members/{primary.name}") or "{}")
    assert (card["state"], card["role"]) == ("stopped", "demoted")
    new = watched.cluster.wait_primary_other_than(primary, watched.cluster.ttl)
    primary.start()
    watched.cluster.wait_healthy()
    pipe, began = watched.pipes[new.name], time.monotonic()
    watched.configure(pause=True)
    wait_for(lambda: pipe.since(began).endswith("V"), watched.cluster.loop_wait + 20, "paused: the watchdog is stopped")
    watched.cluster.wait_aware()  # the others as well: none may take a lock that ends meanwhile
    pid, paused = new.postmaster_pid(), time.monotonic()
    assert new.stop() == 0 and new.postmaster_pid() == pid
    assert pipe.since(paused) == ""
    new.start()
    watched.cluster.wait_aware(new)
    watched.configure(pause=None)
    wait_for(lambda: len(pipe.fed(paused)) > 1, 3 * watched.cluster.loop_wait + 20, "resumed: the watchdog runs again")
    assert watched.cluster.primary() is new and new.postmaster_pid() == pid


def test_callbacks_are_told_of_a_switchover_in_order_and_the_last_role_last(watched: Watched) -> None:
    """EC 217, 218: the scripts are slower than the events, so nothing may overtake or replace another."""
    old, _ = watched.leader()
    new = next(node for node in watched.cluster.others(old) if node.name in watched.pipes)
    before = {node.name: len(watched.told(node)) for node in (old, new)}
    answer = watched.cluster.switchover(old, new)
    assert answer is not None and answer.status == 200, answer
    watched.cluster.wait_healthy()

    def since(node: Node) -> list[str]:
        return [line for line in watched.told(node)[before[node.name]:] if not line.startswith("on_reload")]

    expected = {old: ["on_stop primary", "on_role_change demoted", "on_role_change replica"], new: ["on_role_change primary"]}
    for node, changes in expected.items():
        with suppress(AssertionError):
            wait_for(lambda node=node, changes=changes: since(node) == changes, 30, "told")  # type: ignore[misc]
        assert since(node) == changes, f"{node.name}: what its callbacks were told"


def test_a_promotion_by_hand_is_told_once(watched: Watched) -> None:
    """In maintenance mode nobody undoes it; afterwards the second primary goes, and the last thing told is a replica again."""
    hasty = watched.cluster.node("n3")
    before = len(watched.told(hasty))
    watched.configure(pause=True)
    wait_for(lambda: hasty.status().get("pause"), watched.cluster.loop_wait + 20, "n3 has seen the maintenance mode")
    hasty.query("SELECT pg_promote()")
    wait_for(lambda: "on_role_change primary" in watched.told(hasty)[before:], 30, "the promotion is told")
    time.sleep(watched.cluster.loop_wait + 0.5)
    assert watched.told(hasty)[before:].count("on_role_change primary") == 1
    watched.configure(pause=None)
    watched.cluster.wait_healthy()
    wait_for(lambda: watched.told(hasty)[-1] == "on_role_change replica", 30, "its new role is told last")
    assert watched.told(hasty)[before:].count("on_role_change primary") == 1
