"""``GET /metrics``: the page, from the board alone, through the data model of ``prometheus_client`` (metrics 1).

The library's own writer is not used: it ends the name of every counter in ``_total``, sorts the labels, and writes integers with
a point or an exponent, while dashboards know ``patroni_xlog_location``, ``{scope,name}`` and plain integers. It weighs 2 MiB, so
this module is imported by the first scrape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from prometheus_client.core import CollectorRegistry, HistogramMetricFamily, Metric

from pgcore.clock import now
from pgcore.daemon.board import Status
from pgcore.model.counts import BOUNDS_S, Histogram
from pgcore.rest.patroni_series import PATRONI
from pgcore.rest.pgcore_series import PGCORE
from pgcore.rest.series import Number, Plugins, Series

IDENTITY = ("scope", "name")
"""The labels of every series, before its own."""
PLUGIN_PREFIX, PLUGIN_FAILURES = "pgcore_plugin_", "pgcore_hook_failures_total"


class _Node:
    """Collects what one status says of its node."""

    def __init__(self, status: Status) -> None:
        self._status, self._at = status, now()

    def collect(self) -> Iterator[Metric]:
        """Every family that has something to say."""
        for series in (*PATRONI, *PGCORE):
            family = self._histogram(series) if series.kind == "histogram" else self._family(series)
            if family.samples:
                yield family

    def _values(self, series: Series) -> Iterator[tuple[tuple[str, ...], Number | Histogram]]:
        identity = self._status.scope, self._status.name
        return (((*identity, *labels), value) for labels, value in series.values(self._status, self._at))

    def _family(self, series: Series) -> Metric:
        family = Metric(series.name, series.help, series.kind)
        for labels, value in self._values(series):
            assert not isinstance(value, Histogram)
            family.add_sample(series.name, dict(zip((*IDENTITY, *series.labels), labels, strict=True)), value)
        return family

    def _histogram(self, series: Series) -> Metric:
        family = HistogramMetricFamily(series.name, series.help, labels=(*IDENTITY, *series.labels))
        for labels, value in self._values(series):
            assert isinstance(value, Histogram)
            family.add_metric(labels, _buckets(value), value.total_s)
        return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper ends with the number of durations up to each, as the text format wants them."""
    found: list[tuple[str, float]] = []
    upto = 0
    for bound, count in zip((*BOUNDS_S, math.inf), histogram.counts, strict=True):
        upto += count
        found.append((_number(bound), upto))
    return found


class _Plugins:
    """Collects what plugins add, and how often they have failed."""

    def __init__(self, status: Status, plugins: Plugins) -> None:
        self._identity = dict(zip(IDENTITY, (status.scope, status.name), strict=True))
        self._status, self._plugins = status, plugins

    def collect(self) -> Iterator[Metric]:
        """A name belongs to whoever used it first: what would make the page contradict itself is left out."""
        families: dict[str, Metric] = {}
        seen = set[tuple[str, frozenset[tuple[str, str]]]]()
        for plugin, samples in self._plugins.samples(self._status).items():
            for sample in samples:
                name = PLUGIN_PREFIX + sample.name
                labels = {**self._identity, "plugin": plugin, **{label: str(value) for label, value in sample.labels.items()}}
                family = families.setdefault(name, Metric(name, sample.help or f"Of the plugin {plugin}.", sample.kind))
                key = name, frozenset(labels.items())
                if family.type != sample.kind:
                    self._refuse(plugin, f"{sample.name} is a {family.type} and a {sample.kind}")
                elif key in seen:
                    self._refuse(plugin, f"{sample.name} comes twice with the same labels")
                else:
                    seen.add(key)
                    family.add_sample(name, labels, sample.value)
        yield from families.values()
        failures = Metric(PLUGIN_FAILURES, "Calls of plugins that failed, by plugin and hook.", "counter")
        for (plugin, hook), count in sorted(self._plugins.failures.items()):
            failures.add_sample(PLUGIN_FAILURES, {**self._identity, "plugin": plugin, "hook": hook}, count)
        if failures.samples:
            yield failures

    def _refuse(self, plugin: str, problem: str) -> None:
        self._plugins.refuse(plugin, "pgcore_metrics", problem)


def exposition(status: Status, plugins: Plugins | None = None) -> str:
    """The page, every series with the labels ``scope`` and ``name`` first."""
    registry = CollectorRegistry()
    registry.register(_Node(status))
    if plugins is not None:
        registry.register(_Plugins(status, plugins))
    return "".join(_lines(registry.collect()))


_COMMENTS = {series.name: series.comment for series in PATRONI if series.comment}


def _lines(families: Iterable[Metric]) -> Iterator[str]:
    for family in families:
        name = family.name
        text = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        yield f"# HELP {name} {text}\n"
        if name in _COMMENTS:
            yield f"# {_COMMENTS[name]}\n"
        yield f"# TYPE {name} {family.type}\n"
        for sample in family.samples:
            labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels.items())
            yield f"{sample.name}{{{labels}}} {_number(sample.value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else str(value)
