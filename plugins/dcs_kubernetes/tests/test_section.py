"""What the keys of the section mean, how the plugin presents itself, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from pgcore.plugin import ConfigError
from pgcore_dcs_kubernetes.labels import pod_labels
from pgcore_dcs_kubernetes.section import KubernetesSection, check_section, ports, retriable_codes

LABELS = {"application": "pgcore"}


def section(**keys):
    return KubernetesSection(**{"labels": LABELS} | keys)


@pytest.mark.parametrize(("keys", "words"), [
    ({"labels": {}}, "labels"), ({"labels": {"a": "b c"}}, "labels.a"),
    ({"use_endpoints": True, "use_leases": True}, "use_leases"),
    ({"pod_ip": "here"}, "pod_ip"), ({"leader_label_value": "a/b"}, "leader_label_value"), ({"namespace": "A"}, "namespace"),
    ({"ports": ({"name": "x"},)}, "ports"), ({"retriable_http_codes": "5xx"}, "retriable_http_codes")])
def test_a_value_that_kubernetes_would_not_take_is_refused(keys, words):
    with pytest.raises(ConfigError, match=f"kubernetes.{words}"):
        check_section(section(**keys))


@pytest.mark.parametrize("value", [502, [502], "502", (502,)])
def test_codes_are_a_number_a_list_or_a_text(value):
    assert retriable_codes(section(retriable_http_codes=value)) == {429, 500, 502, 503, 504}


def test_ports_keep_what_the_service_calls_them():
    assert ports(section()) == [{"protocol": "TCP", "port": 5432}]
    assert ports(section(ports=({"name": "postgresql", "port": "5433"},))) == [
        {"protocol": "TCP", "name": "postgresql", "port": 5433}]


@pytest.mark.parametrize(("state", "role", "leads", "label", "plain"), [
    ("running", "primary", True, "lead", "primary"), ("stopping", "demoted", True, "lead", "primary"),
    ("running", "standby_leader", True, "standby", "primary"), ("running", "replica", False, "follow", "replica"),
    ("running", "standby_leader", False, "standby_leader", "standby_leader"), ("running", "primary", False, None, None),
    ("running", "demoted", False, "demoted", "demoted"), ("stopped", "replica", False, None, None)])
def test_the_role_label_follows_lock_state_and_role(state, role, leads, label, plain):
    keys = section(leader_label_value="lead", follower_label_value="follow", standby_leader_label_value="standby",
                   tmp_role_label="tmp", bootstrap_labels={"new": "1"})
    card = f'{{"state":"{state}","role":"{role}"}}'
    assert pod_labels(keys, card, leads) == {"role": label, "tmp": plain, "new": None}


@pytest.mark.parametrize("state", ["initializing new cluster", "running custom bootstrap script", "creating replica",
                                   "starting after custom bootstrap"])
def test_a_pod_whose_data_directory_is_made_says_so(state):
    keys = section(bootstrap_labels={"new": "1"})
    assert pod_labels(keys, f'{{"state":"{state}","role":"uninitialized"}}', False) == {"new": "1", "role": None}


def test_the_entry_point_describes_the_store():
    [entry] = entry_points(group="pgcore", name="kubernetes")
    [backend] = entry.load().pgcore_stores()
    assert (backend.name, backend.section) == ("kubernetes", KubernetesSection)
    backend.check(section())
    with pytest.raises(ConfigError):
        backend.check(section(use_leases=True, use_endpoints=True))


def test_nothing_heavy_is_imported_before_it_is_needed():
    """In pgcore's presence, which every agent has loaded, the plugin costs less than 30 ms and no library."""
    code = ("import sys, time, pgcore.plugin; began = time.perf_counter(); import pgcore_dcs_kubernetes.plugin; "
            "took = time.perf_counter() - began; "
            "print([name for name in ('kubernetes', 'urllib3', 'requests', 'http.client', 'ssl') if name in sys.modules], took)")
    outcomes = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert all(outcome.startswith("[] ") for outcome in outcomes)
    assert min(float(outcome.split()[1]) for outcome in outcomes) < 0.03
