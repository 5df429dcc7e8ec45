"""The page of ``/metrics``: the contract's names, kinds, order and values, our own series, plugins, what a parser makes of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pgcore.clock import now
from pgcore.daemon.board import Board, Status
from pgcore.daemon.mailbox import Mailbox
from pgcore.hookspecs import Sample
from pgcore.model.basics import Instant, Lsn, Role, State
from pgcore.model.counts import BOUNDS_S, CallbackResult, Counts, Gained, Histogram, Lost, Renewed
from pgcore.model.node import DataDir, NodeView
from pgcore.rest.metrics import PLUGIN_FAILURES, exposition
from pgcore.rest.patroni_series import PATRONI
from pgcore.rest.pgcore_series import PGCORE
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import aged, call, leader_status, primary_node, replica_node, status, view
from unit.test_daemon_kit import plugins_on_path

ROOT = Path(__file__).parents[2]
CONTRACT = [
    "patroni_version gauge",
    "patroni_postgres_running gauge",
    "patroni_postmaster_start_time gauge",
    "patroni_primary gauge",
    "patroni_xlog_location counter",
    "patroni_standby_leader gauge",
    "patroni_replica gauge",
    "patroni_sync_standby gauge",
    "patroni_quorum_standby gauge",
    "patroni_xlog_received_location counter",
    "patroni_xlog_replayed_location counter",
    "patroni_xlog_replayed_timestamp gauge",
    "patroni_xlog_paused gauge",
    "patroni_postgres_streaming gauge",
    "patroni_postgres_in_archive_recovery gauge",
    "patroni_postgres_server_version gauge",
    "patroni_cluster_unlocked gauge",
    "patroni_failsafe_mode_is_active gauge",
    "patroni_failsafe_mode_enabled gauge",
    "patroni_failsafe_member gauge",
    "patroni_postgres_timeline gauge",
    "patroni_dcs_last_seen gauge",
    "patroni_pending_restart gauge",
    "patroni_is_paused gauge",
    "patroni_postgres_state gauge",
    "patroni_failover_priority gauge",
]
"""The names and kinds of metrics.md in its order, the three that were added after 4.1.5 where it puts them."""
UNLESS_UP = {"patroni_postgres_streaming gauge", "patroni_postgres_in_archive_recovery gauge"}


def down(**fields: object) -> Status:
    """PostgreSQL was stopped."""
    return status(node=NodeView(now(), DataDir.PRESENT, Role.REPLICA, State.STOPPED), **fields)


PAGES = {
    "primary": leader_status,
    "standby": status,
    "PostgreSQL down": down,
    "PostgreSQL silent": lambda: status(node=replica_node(answering=False)),
    "store gone": lambda: leader_status(cluster=None),
}


def values(page: str, start: str = "") -> dict[str, str]:
    """The text of each value by series with its labels besides ``scope`` and ``name``."""
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, labels = re.fullmatch(r'(\w+)\{scope="demo",name="[abc]",?(.*)\}', series).groups()  # type: ignore[union-attr]
            found[f"{name}{{{labels}}}" if labels else name] = value
    return {name: value for name, value in found.items() if name.startswith(start)}


def kinds(page: str) -> list[str]:
    """``name kind`` in the order of the page."""
    return [line.removeprefix("# TYPE ") for line in page.splitlines() if line.startswith("# TYPE ")]


# -- the contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", PAGES)
def test_names_kinds_and_order_are_the_contracts(node: str) -> None:
    """(metrics, "Series in 4.1.5" and "Added after 4.1.5")"""
    up = node not in ("PostgreSQL down", "PostgreSQL silent")
    expected = [line for line in CONTRACT if up or line not in UNLESS_UP]
    assert [line for line in kinds(exposition(PAGES[node]())) if line.startswith("patroni_")] == expected


@pytest.mark.parametrize("node", PAGES)
def test_a_parser_finds_what_was_written(node: str) -> None:
    page = exposition(PAGES[node]())
    families = list(text_string_to_metric_families(page))
    assert [f"{family.name} {family.type}" for family in families] == [
        re.sub(r"_total counter$", " counter", line) for line in kinds(page)
    ]
    samples = [sample for family in families for sample in family.samples]
    assert len(samples) == len(values(page)) and all(list(sample.labels)[:2] == ["scope", "name"] for sample in samples)
    assert len({(sample.name, *sample.labels.items()) for sample in samples}) == len(samples)
    assert all(family.documentation and family.samples for family in families)
    assert page.endswith("\n") and "\n\n" not in page and "_created" not in page


def test_the_values_of_a_primary() -> None:
    page = exposition(leader_status(tags={"failover_priority": 3}))
    found = values(page, "patroni_")
    assert found["patroni_version"] == "040105"
    assert found["patroni_postmaster_start_time"] == "1767323045.678901"
    assert {name: found[f"patroni_{name}"] for name in ("postgres_running", "primary", "replica", "xlog_location")} == {
        "postgres_running": "1", "primary": "1", "replica": "0", "xlog_location": "1000"}  # fmt: skip
    assert (found["patroni_xlog_received_location"], found["patroni_xlog_replayed_location"]) == ("0", "0")
    assert (found["patroni_postgres_state"], found["patroni_failover_priority"], found["patroni_dcs_last_seen"]) == (
        "5", "3", "1700000000")  # fmt: skip
    states = r"# HELP patroni_postgres_state [^\n]+\n# Values: 0=initdb, [^\n]+, 14=crashed\n# TYPE patroni_postgres_state "
    assert re.search(states, page)


def test_the_values_of_a_standby() -> None:
    node = replica_node(replayed_at="2026-01-02 03:04:05.5+00:00", replay_paused=True)
    found = values(exposition(status(node=node, cluster=view(sync=("b",)), synchronous="on", failsafe={"b": ""})), "patroni_")
    assert {name.removeprefix("patroni_"): value for name, value in found.items() if value not in ("0",)} == {
        "version": "040105", "postgres_running": "1", "replica": "1", "sync_standby": "1", "xlog_received_location": "1000",
        "xlog_replayed_location": "900", "xlog_replayed_timestamp": "1767323045.5", "xlog_paused": "1",
        "postgres_streaming": "1", "postgres_server_version": "150020", "failsafe_member": "1", "postgres_timeline": "1",
        "dcs_last_seen": "1700000000", "postgres_state": "5", "failover_priority": "1"}  # fmt: skip


@pytest.mark.parametrize("node", [
    NodeView(now(), DataDir.PRESENT, Role.PRIMARY, State.STOPPED), primary_node(answering=False), replica_node(answering=False),
])  # fmt: skip
def test_without_postgresqls_answer_only_the_cached_role_is_told(node: NodeView) -> None:
    """(metrics, column "PG down")"""
    found = values(exposition(status(node=node, tags={"nofailover": True})), "patroni_")
    unknown = ("postgres_running", "postmaster_start_time", "xlog_location", "sync_standby", "quorum_standby",
               "xlog_received_location", "xlog_replayed_location", "xlog_replayed_timestamp", "xlog_paused",
               "postgres_server_version", "postgres_timeline")
    assert {found[f"patroni_{name}"] for name in unknown} == {"0"}
    assert found["patroni_primary"] == str(int(node.role is Role.PRIMARY))
    assert found["patroni_replica"] == str(int(node.role is Role.REPLICA))
    assert found["patroni_postgres_state"] == ("-1" if node.state is State.RUNNING else "12")
    assert found["patroni_failover_priority"] == "0"


@pytest.mark.parametrize(("cluster", "unlocked"), [(view(), "0"), (view(leader=None), "1"), (None, "1")])
def test_the_cluster_is_unlocked_when_nobody_leads_or_nobody_knows(cluster: object, unlocked: str) -> None:
    assert values(exposition(status(cluster=cluster)))["patroni_cluster_unlocked"] == unlocked


def test_integers_have_neither_point_nor_exponent() -> None:
    found = values(exposition(status("a", primary_node(position=Lsn(2**60)), leads=True)), "patroni_")
    assert found["patroni_xlog_location"] == str(2**60)
    assert {name for name, value in found.items() if not re.fullmatch(r"-?\d+", value)} == {"patroni_postmaster_start_time"}


def test_a_scope_that_needs_escaping_does_not_break_the_page() -> None:
    odd = 'the "new" \\ one\nof two'
    families = text_string_to_metric_families(exposition(replace(status(), scope=odd)))
    assert {sample.labels["scope"] for family in families for sample in family.samples} == {odd}


# -- our own -------------------------------------------------------------------------------------------------------------


def test_the_lease_runs_down_between_two_observations_and_is_absent_on_a_standby() -> None:
    led = leader_status()
    left = [float(values(exposition(replace(led, lease_until=Instant(now() + s))))["pgcore_lease_seconds_left"]) for s in (9, -9)]
    assert left == [pytest.approx(9, abs=0.5), 0.0]
    assert "pgcore_lease_seconds_left" not in values(exposition(status()))


def test_the_age_of_the_observation_grows() -> None:
    assert 50 <= float(values(exposition(aged(status(), 50)))["pgcore_observation_age_seconds"]) < 60


def test_counters_begin_at_zero_so_that_the_first_increase_shows() -> None:
    found = values(exposition(status()), "pgcore_")
    for name, label, words in (("lease_renewals", "result", Renewed), ("leadership_gained", "reason", Gained),
                               ("leadership_lost", "reason", Lost)):  # fmt: skip
        assert {found[f'pgcore_{name}_total{{{label}="{word}"}}'] for word in words} == {"0"}
    assert {found[f'pgcore_callbacks_total{{event="on_start",result="{word}"}}'] for word in CallbackResult} == {"0"}
    assert found['pgcore_tasks_total{kind="reinitialize",result="failed"}'] == "0"


def test_counts_come_through() -> None:
    counts = Counts(1.5, bugs=2, unanswered={"read": 3}, renewals={Renewed.TAKEN: 4}, gained={Gained.FAILOVER: 5},
                    lost={Lost.SHUTDOWN: 6}, decisions={"race.acquire": 7}, writable_s=8.5, not_writable_s=9.5,
                    callbacks={("on_stop", "failed"): 10},
                    tasks={("promote", "ok"): 11}, members_agreed=12, members_refused=13)
    found = values(exposition(status(counts=counts)), "pgcore_")
    assert {name: value for name, value in found.items() if value not in ("0", "0.0", "1") and "_age_" not in name} == {
        "pgcore_agent_start_time_seconds": "1.5", "pgcore_heartbeat_failures_total": "2",
        'pgcore_store_request_failures_total{verb="read"}': "3", 'pgcore_lease_renewals_total{result="taken"}': "4",
        'pgcore_leadership_gained_total{reason="failover"}': "5", 'pgcore_leadership_lost_total{reason="shutdown"}': "6",
        'pgcore_decisions_total{rule="race.acquire"}': "7", "pgcore_writable_seconds_total": "8.5",
        "pgcore_not_writable_seconds_total": "9.5", 'pgcore_callbacks_total{event="on_stop",result="failed"}': "10",
        'pgcore_tasks_total{kind="promote",result="ok"}': "11", 'pgcore_failsafe_rounds_total{result="agreed"}': "12",
        'pgcore_failsafe_rounds_total{result="refused"}': "13"}  # fmt: skip


def test_a_histogram_counts_what_is_up_to_each_bound() -> None:
    durations = Histogram().plus(0.0005).plus(0.001).plus(0.3).plus(99)
    found = values(exposition(status(counts=Counts(requests={"renew": durations}))), "pgcore_store_request_duration_seconds")
    buckets = {name.partition(",")[2]: value for name, value in found.items() if "le=" in name}
    assert [buckets[f'le="{bound}"}}'] for bound in (0.001, 0.25, 0.5, 10.0, "+Inf")] == ["2", "2", "3", "3", "4"]
    assert len(buckets) == len(BOUNDS_S) + 1
    assert found['pgcore_store_request_duration_seconds_count{verb="renew"}'] == "4"
    assert float(found['pgcore_store_request_duration_seconds_sum{verb="renew"}']) == pytest.approx(99.3015)


def test_a_long_action_shows_its_phase_its_bytes_and_its_time() -> None:
    task = {"kind": "clone", "seconds": 1.0, "phase": "basebackup", "bytes_done": 25, "bytes_total": 100,
            "bytes_per_second": 5, "seconds_left": 15}
    busy = status(task=task, task_since=Instant(now() - 7))
    found = values(exposition(busy), "pgcore_task_")
    assert 7 <= float(found.pop('pgcore_task_seconds{kind="clone"}')) < 20
    assert found == {
        'pgcore_task_phase{kind="clone",phase="basebackup"}': "1", 'pgcore_task_bytes_done{kind="clone"}': "25",
        'pgcore_task_bytes_expected{kind="clone"}': "100", 'pgcore_task_progress_ratio{kind="clone"}': "0.25",
        'pgcore_task_bytes_per_second{kind="clone"}': "5", 'pgcore_task_seconds_left{kind="clone"}': "15"}  # fmt: skip
    assert not values(exposition(status()), "pgcore_task_")


@pytest.mark.parametrize("progress", [
    {}, {"bytes_done": 5}, {"bytes_done": 5, "bytes_total": 0}, {"bytes_done": "5", "phase": 7}])  # fmt: skip
def test_an_action_that_reports_little_or_nonsense_does_not_break_the_page(progress: dict[str, object]) -> None:
    busy = status(task={"kind": "clone", "seconds": 1.0, **progress}, task_since=now())
    assert list(text_string_to_metric_families(exposition(busy)))
    assert not values(exposition(busy), "pgcore_task_progress")


# -- plugins -------------------------------------------------------------------------------------------------------------


class Guests:
    """What plugins contribute, and what was said about it."""

    def __init__(self, **samples: Iterable[Sample]) -> None:
        self._samples = {plugin: tuple(found) for plugin, found in samples.items()}
        self.failures: dict[tuple[str, str], int] = {}

    def samples(self, status: Status) -> dict[str, tuple[Sample, ...]]:
        return self._samples

    def refuse(self, plugin: str, hook: str, problem: str) -> None:
        self.failures[plugin, hook] = self.failures.get((plugin, hook), 0) + 1


def test_plugins_add_series_under_a_prefix_and_a_label_of_their_own() -> None:
    a = [Sample("jobs", 1, "counter", "Jobs.", {"queue": "x"}), Sample("jobs", 2, "counter", labels={"queue": "y"})]
    guests = Guests(a=a, b=[Sample("jobs", 3, "counter"), Sample("left", 0.5)])
    page = exposition(status(), guests)
    assert values(page, "pgcore_plugin_") == {
        'pgcore_plugin_jobs{plugin="a",queue="x"}': "1.0", 'pgcore_plugin_jobs{plugin="a",queue="y"}': "2.0",
        'pgcore_plugin_jobs{plugin="b"}': "3.0", 'pgcore_plugin_left{plugin="b"}': "0.5"}  # fmt: skip
    assert kinds(page)[-2:] == ["pgcore_plugin_jobs counter", "pgcore_plugin_left gauge"]


def test_what_would_make_the_page_contradict_itself_is_left_out_and_counted() -> None:
    guests = Guests(a=[Sample("jobs", 1), Sample("jobs", 2)], b=[Sample("jobs", 3, "counter")])
    page = exposition(status(), guests)
    assert values(page, "pgcore_plugin_") == {'pgcore_plugin_jobs{plugin="a"}': "1.0"}
    assert values(page, PLUGIN_FAILURES) == {
        f'{PLUGIN_FAILURES}{{plugin="{plugin}",hook="pgcore_metrics"}}': "1" for plugin in "ab"}  # fmt: skip
    assert list(text_string_to_metric_families(page))


def test_a_plugin_that_hands_over_numbers_for_labels_does_not_break_the_page() -> None:
    page = exposition(status(), Guests(a=[Sample("jobs", 1, labels={"queue": 7}, help="a\nb\\c")]))  # type: ignore[dict-item]
    assert values(page, "pgcore_plugin_") == {'pgcore_plugin_jobs{plugin="a",queue="7"}': "1.0"}
    assert next(f for f in text_string_to_metric_families(page) if f.name == "pgcore_plugin_jobs").documentation == "a\nb\\c"


GOOD = "@hookimpl\ndef pgcore_metrics(status): return [Sample('timeline', status.node.timeline, labels={'of': status.name})]\n"
FAILING = """
answers = [[Sample("left", 3)]]
@hookimpl
def pgcore_metrics(status):
    return answers.pop()
"""


def test_real_plugins_see_the_status_and_a_failing_one_keeps_its_last_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board()
    board.publish(status())
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        registry = plugins.registry(good=GOOD, failing=FAILING)
        server = RestServer(RestSettings(listen="127.0.0.1:0"), board, Mailbox(), lambda seconds: None, plugins=registry)
        server.start()
        try:
            first, second = (call(server.bound[0], "GET", "/metrics") for _ in range(2))
            assert call(server.bound[0], "HEAD", "/metrics").code == 503
        finally:
            server.stop()
    expected = {'pgcore_plugin_left{plugin="failing"}': "3.0", 'pgcore_plugin_timeline{plugin="good",of="b"}': "1.0"}
    assert values(first.body, "pgcore_plugin_") == values(second.body, "pgcore_plugin_") == expected
    assert not values(first.body, PLUGIN_FAILURES)
    assert values(second.body, PLUGIN_FAILURES) == {f'{PLUGIN_FAILURES}{{plugin="failing",hook="pgcore_metrics"}}': "1"}
    assert (first.code, first.headers["Content-Type"]) == (200, "text/plain")


# -- what it costs, and what is written about it -------------------------------------------------------------------------


def test_an_agent_that_nobody_scrapes_does_not_carry_the_library() -> None:
    code = "import sys, pgcore.daemon.run; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def table() -> list[tuple[str, str, str, str]]:
    """Name, kind, further labels and meaning of each row of the manual's tables."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\| ([^|]+) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    return [(name, kind, labels.replace("`", "").strip(), text) for name, kind, labels, text in rows]


def test_the_manual_lists_every_series_with_kind_labels_and_meaning() -> None:
    plugins = [("pgcore_hook_failures_total", "counter", "plugin, hook", "Calls of plugins that failed, by plugin and hook.")]
    assert table() == [(each.name, each.kind, ", ".join(each.labels), each.help) for each in (*PATRONI, *PGCORE)] + plugins


def test_the_example_rules_only_use_series_and_labels_that_exist() -> None:
    labels = {name: {"scope", "name", *further.split(", ")} for name, _, further, _ in table()}
    for name, kind, *_ in table():
        if kind == "histogram":
            labels |= {name + end: labels[name] | {"le"} for end in ("_bucket", "_sum", "_count")}
    document = yaml.safe_load((ROOT / "examples" / "prometheus-rules.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert rules and all({"alert", "expr", "for", "labels", "annotations"} <= rule.keys() for rule in rules)
    for rule in rules:
        used = re.findall(r"\b((?:patroni|pgcore)_\w+)(?:\{(.*?)\})?", rule["expr"])
        assert used, rule["alert"]
        for name, selectors in used:
            assert name in labels, f"{rule['alert']}: {name}"
            assert set(re.findall(r"(\w+)\s*[=!]", selectors)) <= labels[name], f"{rule['alert']}: {selectors}"
