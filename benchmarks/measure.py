"""The measurements: one method per scenario, all on one cluster of three nodes, each leaving it healthy for the next."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psycopg2

from harness import Cluster, Node, Writer, wait_for
from harness.agents import AgentKind
from harness.stores import StoreKind
from harness.weight import weigh

WARM_UP_S = 1.5
SETTLE_S = 5.0
REPAIR_TIMEOUT_S = 180.0
RESUME_TIMEOUT_S = 120.0

SCENARIOS = ("bootstrap", "idle", "switchover", "crash", "handover", "dead_node", "replica")


@dataclass
class Round:
    """The figures of one round: seconds, bytes or counts by name. A scenario that failed leaves a note instead."""

    figures: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Measurement:
    """One round on a new cluster; ``timing`` is laid over the agent's own defaults."""

    def __init__(self, agent: AgentKind, store: StoreKind, idle_s: float, timing: Mapping[str, int]) -> None:
        self.cluster = Cluster(agent=agent, store=store, timing="default", dynamic=timing)
        self.result = Round()
        self._idle_s = idle_s

    def run(self, scenarios: tuple[str, ...]) -> Round:
        """Bootstrap, then the chosen scenarios. Whatever happens, nothing is left running."""
        methods: dict[str, Callable[[], None]] = {
            "idle": self.idle, "switchover": self.switchover, "crash": self.crash, "handover": self.handover,
            "dead_node": self.dead_node, "replica": self.replica}
        with self.cluster as cluster:
            try:
                self.bootstrap()
                for name in scenarios:
                    if name in methods:
                        self._note(f"{cluster.agent.name}: {name}")
                        methods[name]()
            except (AssertionError, OSError, psycopg2.Error) as error:
                self.result.failures.append(str(error))
                self._note(f"failed: {error}\n{cluster.log_tails(30)}")
        return self.result

    def _note(self, text: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def bootstrap(self) -> None:
        """From the start of three agents at once: to the first write, and until both standbys stream."""
        self.cluster.start_store()
        began = time.monotonic()
        for node in self.cluster.nodes:
            node.start()
        wait_for(self._first_write, REPAIR_TIMEOUT_S, "the first write", interval_s=0.02)
        self.result.figures["bootstrap to first write"] = time.monotonic() - began
        self.cluster.wait_healthy(REPAIR_TIMEOUT_S)
        self.result.figures["bootstrap to all streaming"] = time.monotonic() - began

    def _first_write(self) -> bool:
        link = psycopg2.connect(self.cluster.connection_string())
        try:
            link.autocommit = True
            with link.cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS written (number bigint PRIMARY KEY)")
        finally:
            link.close()
        return True

    def idle(self) -> None:
        """Memory, threads, processor time and store requests of agents that have nothing to do; per agent, not per cluster."""
        time.sleep(SETTLE_S)
        helpers = {node.name: node.helper_pids() for node in self.cluster.nodes}
        before = [weigh(pids) for pids in helpers.values()]
        asked, began = self._store_requests(), time.monotonic()
        time.sleep(self._idle_s)
        elapsed = time.monotonic() - began
        asked_after = self._store_requests()
        after = [weigh(pids) for pids in helpers.values()]
        agents = len(after)
        figures = self.result.figures
        figures["memory of agent and helpers"] = sum(weight.pss_bytes for weight in after) / agents
        figures["resident memory of agent and helpers"] = sum(weight.rss_bytes for weight in after) / agents
        figures["threads"] = sum(weight.threads for weight in after) / agents
        figures["processes"] = sum(weight.processes for weight in after) / agents
        figures["processor time, idle"] = (sum(w.cpu_s for w in after) - sum(w.cpu_s for w in before)) / agents / elapsed
        if asked_after:
            figures["store requests, whole cluster"] = (sum(asked_after.values()) - sum(asked.values())) / elapsed

    def _store_requests(self) -> dict[str, float]:
        return self.cluster.server.requests() if self.cluster.server else {}

    def switchover(self) -> None:
        """A switchover through REST to a healthy standby, named."""
        primary = self.cluster.primary()
        candidate = self.cluster.others(primary)[0]

        def act() -> None:
            answer = self.cluster.switchover(primary, candidate)
            assert answer is not None and answer.status == 200, f"switchover answered {answer}"

        self._gap("switchover", act)

    def crash(self) -> None:
        """SIGKILL of the primary's postmaster while its agent lives."""
        self._gap("postmaster crash", self.cluster.primary().kill_postmaster)

    def handover(self) -> None:
        """SIGTERM to the leader's agent."""
        primary = self.cluster.primary()

        def act() -> None:
            primary.stop(RESUME_TIMEOUT_S)

        self._gap("SIGTERM to the leader's agent", act, repair=primary)

    def dead_node(self) -> None:
        """Agent, helpers and PostgreSQL of the primary killed at once."""
        primary = self.cluster.primary()
        self._gap("dead node", primary.kill_everything, repair=primary)

    def _gap(self, name: str, act: Callable[[], None], repair: Node | None = None) -> None:
        """The longest pause between two acknowledged writes around ``act``, and how many acknowledged commits it lost."""
        writer: Writer = self.cluster.writer().start()
        time.sleep(WARM_UP_S)
        began = time.monotonic()
        act()
        writer.wait_resumed(time.monotonic(), RESUME_TIMEOUT_S)
        report = writer.stop()
        self.result.figures[f"{name}: write gap"] = report.longest_gap(after_s=began).seconds
        self.result.figures[f"{name}: lost commits"] = float(len(report.missing(self.cluster.present())))
        if repair is not None:
            repair.start()
        self.cluster.wait_healthy(REPAIR_TIMEOUT_S)

    def replica(self) -> None:
        """A standby that lost its data directory: from the start of its agent until it streams."""
        standby = self.cluster.others(self.cluster.primary())[0]
        standby.stop()
        shutil.rmtree(standby.data_dir)
        began = time.monotonic()
        standby.start()
        wait_for(standby.streams, REPAIR_TIMEOUT_S, "the new replica streams", interval_s=0.02)
        self.result.figures["replica creation"] = time.monotonic() - began
        self.cluster.wait_healthy(REPAIR_TIMEOUT_S)
