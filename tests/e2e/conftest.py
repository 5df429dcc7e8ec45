"""Fixtures of the end-to-end tests: clusters that tests share while they can be repaired, logs on failure, measured gaps.

``PGCORE_E2E_PATRONI=<virtual environment>`` drives the predecessor through the same tests; ``PGCORE_E2E_LOGS=<directory>`` keeps
the logs of failed tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, Gap
from harness.agents import chosen_agent
from harness.predecessor import install
from harness.stores import StoreKind

_open_clusters: list[Cluster] = []
MEASURED = "measured"
BEGAN = pytest.StashKey[float]()
"""When the set-up of a test began, on the monotonic clock."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole agents need root, PostgreSQL and etcd; without them these tests say so instead of failing."""
    missing = [] if os.geteuid() == 0 else ["root"]
    missing += [name for name in ("etcd", "setpriv") if shutil.which(name) is None]
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.e2e)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note when it begins."""
    item.stash[BEGAN] = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Attach the logs of the clusters that a failed test had to do with."""
    report = yield
    if report.failed and Path(__file__).parent in Path(item.path).parents:
        for cluster in (each for each in _open_clusters if each.used_since(item.stash[BEGAN])):
            report.sections.append((f"logs of the {cluster.store} cluster", cluster.log_tails()))
            if directory := os.environ.get("PGCORE_E2E_LOGS"):
                cluster.keep_logs(Path(directory) / item.name.replace("/", "_"))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured, also when everything passed."""
    reports = [report for found in terminalreporter.stats.values() for report in found if getattr(report, "when", "") == "call"]
    measured = [line for report in reports for name, line in report.user_properties if name == MEASURED]
    if measured:
        terminalreporter.section("measured")
        for line in measured:
            terminalreporter.write_line(line)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, Gap | float], None]:
    """Note a figure for the end of the run."""

    def note(name: str, value: Gap | float) -> None:
        shown = f"{value:.3f} s" if isinstance(value, float) else str(value)
        request.node.user_properties.append((MEASURED, f"{shown:>10}  {name} [{request.node.name}]"))

    return note


class ClusterPool:
    """One healthy cluster per store, made anew only when it cannot be repaired."""

    def __init__(self) -> None:
        self._clusters: dict[StoreKind, Cluster] = {}

    def healthy(self, store: StoreKind) -> Cluster:
        """A cluster of three nodes in which all stream."""
        cluster = self._clusters.get(store)
        if cluster is not None:
            try:
                cluster.repair()
                return cluster
            except AssertionError:
                self.discard(store)
        cluster = opened(Cluster(store=store, agent=chosen_agent()))
        self._clusters[store] = cluster
        try:
            return cluster.bootstrap()
        except AssertionError:
            # Whoever asked gets the logs with the failure; the next test gets a new cluster.
            del self._clusters[store]
            raise

    def discard(self, store: StoreKind) -> None:
        """Close the cluster of this store."""
        cluster = self._clusters.pop(store, None)
        if cluster is not None:
            closed(cluster)


def opened(cluster: Cluster) -> Cluster:
    """Remember a cluster for the logs of a failing test."""
    _open_clusters.append(cluster)
    return cluster


def closed(cluster: Cluster) -> None:
    """Close and forget a cluster."""
    if cluster in _open_clusters:
        _open_clusters.remove(cluster)
    cluster.close()


@pytest.fixture(scope="session")
def pool() -> Iterator[ClusterPool]:
    """The shared clusters of this run."""
    yield ClusterPool()
    for cluster in list(_open_clusters):
        closed(cluster)


@pytest.fixture(scope="session", params=["etcd3", "raft"])
def store(request: pytest.FixtureRequest) -> StoreKind:
    """Each store in turn."""
    return request.param


@pytest.fixture(scope="session")
def predecessor() -> Path:
    """The virtual environment of Patroni, with its programs; installed once per machine."""
    try:
        return install()
    except (subprocess.CalledProcessError, SystemExit) as error:
        pytest.skip(f"Patroni is not to be had: {error}")


@pytest.fixture
def cluster(pool: ClusterPool, store: StoreKind) -> Cluster:
    """A healthy shared cluster of three nodes on each store in turn."""
    return pool.healthy(store)


@pytest.fixture
def etcd_cluster(pool: ClusterPool) -> Cluster:
    """A healthy shared cluster of three nodes on etcd."""
    return pool.healthy("etcd3")


def _maker() -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(**options: Any) -> Cluster:
        made.append(opened(Cluster(**{"agent": chosen_agent(), **options})))
        return made[-1]

    yield make
    for cluster in made:
        closed(cluster)


@pytest.fixture
def make_cluster(pool: ClusterPool) -> Iterator[Callable[..., Cluster]]:
    """Clusters for one test alone: not started, closed after it."""
    yield from _maker()


@pytest.fixture(scope="module")
def make_shared_cluster(pool: ClusterPool) -> Iterator[Callable[..., Cluster]]:
    """Clusters for the tests of one file: not started, closed after the last of them."""
    yield from _maker()
