"""Plugins are found by metadata, imported only when named, and a bad one harms nobody but who selects it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore.errors import PluginError
from pgcore.hookspecs import GateRequest, Sample
from pgcore.plugin_probe import probe
from pgcore.registry import SAMPLES_S, PluginRow, PluginState, Registry, cure

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one entry point and one module on the path, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = set(sys.modules)

    def install(name: str, source: str, distribution: str = "", version: str = "1.5") -> None:
        distribution = distribution or f"their-{name}"
        module = f"pgcore_test_{distribution.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text("from pgcore.plugin import *\nfrom pgcore.plugin import hookimpl\n" + source)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[pgcore]\n{name} = {module}\n")

    yield install
    for module in set(sys.modules) - before:
        if module.startswith("pgcore_test_"):
            del sys.modules[module]


def the_row(rows: list[PluginRow], name: str) -> PluginRow:
    return next(row for row in rows if row.name == name)


CARD = "@hookimpl\ndef pgcore_member_fields(facts): return {'seen_by': %r}\n"


def test_listing_imports_nothing(install: Install) -> None:
    install("toy", "raise SystemExit('imported')\n")
    row = the_row(Registry().report(), "toy")
    assert (row.state, row.distribution, row.version) == (PluginState.AVAILABLE, "their-toy", "1.5")
    assert "pgcore_test_their_toy" not in sys.modules


def test_an_active_plugin_is_reported_with_its_hooks(install: Install) -> None:
    install("toy", CARD % "toy")
    registry = Registry()
    registry.activate(["toy"])
    assert the_row(registry.report(), "toy").state is PluginState.ACTIVE
    assert the_row(registry.report(), "toy").hooks == ("pgcore_member_fields",)


@pytest.mark.parametrize(("section", "distribution"), [
    ("consul", "pgcore-dcs-consul"), ("exhibitor", "pgcore-dcs-zookeeper"), ("kubernetes", "pgcore-dcs-kubernetes"),
    ("aws", "pgcore-callbacks-aws"),
])
def test_a_plugin_of_ours_that_is_not_installed_is_named_with_its_cure(section: str, distribution: str) -> None:
    assert cure(section) == f"pip install {distribution}"
    registry = Registry()
    if section in registry.names:
        return  # installed here
    with pytest.raises(PluginError, match=f"{section}: is not installed .pip install {distribution}"):
        registry.activate([section])


def test_a_misspelt_name_gets_the_nearest_installed_one() -> None:
    with pytest.raises(PluginError, match="did you mean initdb"):
        Registry().activate(["initbd"])


BROKEN = [
    ("import no_such_library\n", PluginState.FAILED, "ModuleNotFoundError: No module named 'no_such_library'"),
    ("raise SystemExit(3)\n", PluginState.FAILED, "SystemExit: 3"),
    ("def (\n", PluginState.FAILED, "SyntaxError"),
    ("PGCORE_API_LEVEL = 99\n", PluginState.REFUSED, "built for API level 99, this pgcore has API level 1"),
    ("@hookimpl\ndef pgcore_member_feilds(facts): pass\n", PluginState.REFUSED, "unknown hook 'pgcore_member_feilds'"),
    ("@hookimpl\ndef pgcore_callback(event, moon): pass\n", PluginState.REFUSED, "moon"),
    ("@hookimpl(wrapper=True)\ndef pgcore_callback(event): return (yield)\n", PluginState.REFUSED, "is a wrapper"),
    ("x = 1\n", PluginState.REFUSED, "implements no hook"),
]


@pytest.mark.parametrize(("source", "state", "reason"), BROKEN)
def test_a_bad_plugin_stops_only_who_selects_it(install: Install, source: str, state: PluginState, reason: str) -> None:
    install("bad", source)
    install("good", CARD % "good")
    registry = Registry()
    registry.activate(["good"])
    with pytest.raises(PluginError, match="plugin bad") as caught:
        registry.activate(["bad"])
    assert reason in str(caught.value)
    row = the_row(registry.report(), "bad")
    assert row.state is state and reason in row.reason
    assert registry.collect("pgcore_member_fields", facts=None) == {"good": {"seen_by": "good"}}


def test_the_probe_survives_a_plugin_that_kills_its_process_or_hangs(install: Install) -> None:
    install("dies", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    install("quits", "import os\nos._exit(0)\n")
    install("hangs", "import time\ntime.sleep(60)\n")
    install("talks", "print('hello', end='')\n" + CARD % "talks")
    rows = probe(timeout_s=3)
    assert "killed by signal 9" in the_row(rows, "dies").reason
    assert the_row(rows, "quits").state is PluginState.FAILED
    assert "within 3 s" in the_row(rows, "hangs").reason
    assert the_row(rows, "talks").state is PluginState.AVAILABLE
    assert the_row(rows, "callback_command").state is PluginState.AVAILABLE


def test_a_blocked_plugin_is_not_imported_even_if_named(install: Install) -> None:
    install("toy", "raise SystemExit('imported')\n")
    registry = Registry(block=["toy"])
    registry.activate(["toy"])
    assert the_row(registry.report(), "toy").reason == "blocked by plugins.block"
    with pytest.raises(PluginError, match=r"blocked by plugins.block"):
        registry.store("toy")


def test_a_name_claimed_by_two_distributions_is_nobodys(install: Install) -> None:
    install("toy", CARD % 1, distribution="first")
    install("toy", CARD % 2, distribution="second")
    with pytest.raises(PluginError, match="claimed by first and second"):
        Registry().activate(["toy"])


def test_plugins_are_asked_before_built_ins(install: Install) -> None:
    install("aaa", "@hookimpl\ndef pgcore_callback(event): event.append('aaa')\n")
    registry = Registry()
    registry.activate(["aaa", "callback_command"])
    order = [plugin for plugin, _ in registry._calls("pgcore_callback", {})]
    assert order == ["aaa", "callback_command"]


def test_one_failing_plugin_does_not_keep_the_others_from_being_told(install: Install) -> None:
    install("aaa", "@hookimpl\ndef pgcore_started(facts): facts.append('aaa')\n")
    install("bad", "@hookimpl\ndef pgcore_started(facts): raise ValueError('no')\n")
    install("ccc", "@hookimpl\ndef pgcore_started(facts): facts.append('ccc')\n")
    registry = Registry()
    registry.activate(["aaa", "bad", "ccc"])
    told: list[str] = []
    registry.tell("pgcore_started", facts=told)
    assert sorted(told) == ["aaa", "ccc"]
    assert registry.failures == {("bad", "pgcore_started"): 1}


def test_a_contribution_that_fails_later_keeps_its_last_good_value(install: Install) -> None:
    install("toy", "@hookimpl\ndef pgcore_member_fields(facts):\n    return {'x': facts.pop()}\n")
    registry = Registry()
    registry.activate(["toy"])
    facts = ["value"]
    assert registry.collect("pgcore_member_fields", facts=facts) == {"toy": {"x": "value"}}
    assert registry.collect("pgcore_member_fields", facts=facts) == {"toy": {"x": "value"}}
    assert registry.failures == {("toy", "pgcore_member_fields"): 1}


def test_samples_of_one_plugin_survive_the_failure_of_another_and_its_own(install: Install) -> None:
    install("bad", "@hookimpl\ndef pgcore_metrics(status):\n    raise SystemExit('no')\n")
    install("strange", "@hookimpl\ndef pgcore_metrics(status):\n    return [4711]\n")
    install("good", "@hookimpl\ndef pgcore_metrics(status):\n    yield Sample('left', status.pop())\n")
    registry = Registry()
    registry.activate(["bad", "strange", "good"])
    status = [3]
    for _ in range(2):  # the second time the good one fails, and its last good value counts
        assert registry.samples(status) == {"bad": (), "strange": (), "good": (Sample("left", 3.0),)}  # type: ignore[arg-type]
    assert registry.failures == {("bad", "pgcore_metrics"): 2, ("strange", "pgcore_metrics"): 2, ("good", "pgcore_metrics"): 1}


def test_a_plugin_that_hangs_in_a_scrape_costs_one_thread_and_a_second_per_scrape(
        install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("hung", "import threading\ngo = threading.Event()\ncalls = []\n"
                    "@hookimpl\ndef pgcore_metrics(status):\n    calls.append(1)\n    go.wait()\n    return [Sample('x', 1)]\n")
    install("good", "@hookimpl\ndef pgcore_metrics(status):\n    return [Sample('y', 1)]\n")
    registry = Registry()
    registry.activate(["hung", "good"])
    began = time.monotonic()
    for _ in range(3):
        assert registry.samples(None) == {"hung": (), "good": (Sample("y", 1.0),)}  # type: ignore[arg-type]
    assert time.monotonic() - began < 3 * SAMPLES_S + 5
    module = sys.modules["pgcore_test_their_hung"]
    assert module.calls == [1]
    module.go.set()
    end = time.monotonic() + 10
    while registry.samples(None)["hung"] != (Sample("x", 1.0),):  # type: ignore[arg-type]
        assert time.monotonic() < end


def test_labels_and_help_of_a_sample_are_text() -> None:
    sample = Sample("a", 1, help=None, labels={"slot": 3})  # type: ignore[arg-type, dict-item]
    assert (sample.help, sample.labels) == ("None", {"slot": "3"})


@pytest.mark.parametrize(("sample", "told"), [
    (("a-b", 1), "'a-b' is no name"), (("a", 1, "summary"), "gauge or counter"), (("a", "many"), "could not convert"),
    (("a", 1, "gauge", "", {"name": "x"}), "pgcore's own"), (("a", 1, "gauge", "", {"1x": "x"}), "'1x' is no name"),
])
def test_a_sample_that_prometheus_would_not_take_is_refused_where_it_is_made(sample: tuple[Any, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Sample(*sample)


def test_a_contribution_that_fails_at_the_start_names_plugin_and_hook(install: Install) -> None:
    install("toy", "@hookimpl\ndef pgcore_stores():\n    raise KeyError('moon')\n")
    registry = Registry()
    registry.activate(["toy"])
    with pytest.raises(PluginError, match="plugin toy: failed in pgcore_stores: KeyError: 'moon'"):
        registry.stores()


def test_two_plugins_bringing_the_same_store_are_an_error(install: Install) -> None:
    source = "@hookimpl\ndef pgcore_stores(): return [StoreBackend('moon', object, print)]\n"
    install("one", source)
    install("two", source)
    registry = Registry()
    registry.activate(["one"])
    assert registry.store("moon").name == "moon"
    registry.activate(["two"])
    with pytest.raises(PluginError, match="which plugin two brings too"):
        registry.stores()


GATE = "@hookimpl\ndef pgcore_before_promote(request):\n    "


@pytest.mark.parametrize(("body", "reason"), [
    ("return Veto('not today')", "not today"),
    ("raise RuntimeError('broken')", "plugin gate failed in pgcore_before_promote: RuntimeError: broken"),
    ("raise SystemExit(0)", "SystemExit"),
    ("return True", "answered True"),
    ("import time; time.sleep(30)", "gave no answer"),
])
def test_everything_but_a_plain_none_from_a_gate_is_a_no(
        install: Install, body: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgcore.registry.GATE_GRACE_S", 0.1)
    install("gate", GATE + body + "\n")
    registry = Registry()
    registry.activate(["gate"])
    began = time.monotonic()
    (veto,) = registry.ask("pgcore_before_promote", request=GateRequest("s", "m", timeout=0.2))
    assert reason in veto.reason
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("answer", "reasons"), [("None", []), ("Veto('killed')", ["killed"])])
def test_a_gate_that_looks_at_the_cancellation_answers_at_once(install: Install, answer: str, reasons: list[str]) -> None:
    """A yes stays a yes: the caller looks itself whether the question has become pointless."""
    install("gate", GATE + f"import time\n    while not request.cancelled(): time.sleep(0.01)\n    return {answer}\n")
    registry = Registry()
    registry.activate(["gate"])
    pointless = threading.Event()
    threading.Timer(0.2, pointless.set).start()
    began = time.monotonic()
    vetoes = registry.ask("pgcore_before_promote", request=GateRequest("s", "m", 30, None, pointless.is_set))
    assert [veto.reason for veto in vetoes] == reasons
    assert time.monotonic() - began < 1
    assert registry.failures == {}


def test_every_gate_is_asked_although_the_question_has_become_pointless(install: Install) -> None:
    for name in ("one", "two"):
        install(name, GATE + f"return Veto('{name}')\n")
    registry = Registry()
    registry.activate(["one", "two"])
    vetoes = registry.ask("pgcore_before_promote", request=GateRequest("s", "m", 30, None, lambda: True))
    assert sorted(veto.reason for veto in vetoes) == ["one", "two"]


@pytest.mark.parametrize("cry", ["raise SystemExit(2)", "import sys; sys.exit('bye')"])
def test_a_plugin_that_exits_is_a_plugin_that_fails(install: Install, cry: str) -> None:
    hooks = ("pgcore_started(facts)", "pgcore_member_fields(facts)", "pgcore_callback(event)", "pgcore_stores()")
    install("bad", "".join(f"@hookimpl\ndef {hook}:\n    {cry}\n" for hook in hooks))
    install("good", CARD % "good" + "@hookimpl\ndef pgcore_started(facts): facts.append('good')\n")
    registry = Registry()
    registry.activate(["bad", "good"])
    told: list[str] = []
    registry.tell("pgcore_started", facts=told)
    registry.tell("pgcore_callback", event=None)
    assert told == ["good"]
    assert registry.collect("pgcore_member_fields", facts=None) == {"good": {"seen_by": "good"}}
    assert registry.failures == {("bad", hook): 1 for hook in ("pgcore_started", "pgcore_callback", "pgcore_member_fields")}
    with pytest.raises(PluginError, match="plugin bad: failed in pgcore_stores: SystemExit"):
        registry.stores()


def test_a_gate_without_objection_says_yes(install: Install) -> None:
    install("gate", GATE + "return None\n")
    registry = Registry()
    registry.activate(["gate"])
    assert registry.ask("pgcore_before_promote", request=GateRequest("s", "m", timeout=5)) == []
