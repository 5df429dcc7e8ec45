"""What is refused before a node is started, and what the hook offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pgcore.plugin import ConfigError, Timing
from pgcore_dcs_raft.controller import told_timing
from pgcore_dcs_raft.plugin import RaftSection, checked, members, pgcore_stores

PEERS = ("127.0.0.1:2", "127.0.0.1:3")


@pytest.mark.parametrize("keys", [
    {"self_addr": "10.0.0.1:1"}, {"bind_addr": "0.0.0.0:1"}, {"partner_addrs": ("127.0.0.1:2", "10.0.0.3:3")},
    {"partner_addrs": ("db2.example.com:2",)}, {"bind_addr": "[::]:1"}, {"password": ""} | {"self_addr": "10.0.0.1:1"}],
    ids=["self", "bind", "partner", "name", "ipv6", "empty"])
def test_a_password_is_required_when_an_address_is_not_loopback(keys):
    section = RaftSection(**{"self_addr": "127.0.0.1:1", "partner_addrs": PEERS} | keys)
    for observer in (False, True):
        with pytest.raises(ConfigError, match=r"raft\.password.*same password on all members"):
            checked(section, observer=observer)


@pytest.mark.parametrize("keys", [{}, {"self_addr": "[::1]:1"}, {"self_addr": "localhost:1"}, {"bind_addr": "127.1.2.3:1"},
                                  {"self_addr": "10.0.0.1:1", "password": "secret"}])
def test_loopback_needs_no_password(keys):
    checked(RaftSection(**{"self_addr": "127.0.0.1:1", "partner_addrs": PEERS} | keys), observer=False)


@pytest.mark.parametrize(("key", "value"), [
    ("min_timeout", 0.3), ("max_timeout", 0.4), ("connection_timeout", 1.3), ("leader_fallback_timeout", 0.1),
    ("append_entries_period", 0.0), ("connection_retry_time", -1.0), ("self_addr", "nonsense"), ("self_addr", "127.0.0.1:0"),
    ("self_addr", None), ("partner_addrs", ("127.0.0.1",))])
def test_a_value_that_cannot_work_is_refused_by_name(key, value):
    with pytest.raises(ConfigError) as refused:
        checked(RaftSection(**{"self_addr": "127.0.0.1:1", "partner_addrs": PEERS} | {key: value}), observer=False)
    assert refused.value.path == f"raft.{key}"


def test_an_observer_needs_no_address_of_its_own():
    section = RaftSection(partner_addrs=PEERS)
    assert checked(section, observer=True) and members(section) == PEERS


def test_the_own_address_counts_once_and_for_an_observer_as_a_partner():
    assert members(RaftSection(self_addr="127.0.0.1:2", partner_addrs=PEERS)) == PEERS


def test_the_password_is_not_shown():
    assert "hush" not in repr(RaftSection(password="hush"))


def test_describing_the_backend_imports_neither_pysyncobj_nor_cryptography():
    program = ("import sys, pgcore_dcs_raft.plugin as plugin; backend, = plugin.pgcore_stores(); "
               "assert not {'pysyncobj', 'cryptography'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_the_hook_offers_the_section_raft_with_a_floor_for_ttl():
    backend, = pgcore_stores()
    assert (backend.name, backend.section, backend.ttl_floor(RaftSection())[0]) == ("raft", RaftSection, 5)


@pytest.mark.parametrize(("configurations", "ttl"), [
    ([], 30), (['{"ttl": 12}'], 12), (['{"ttl": "20"}', '{"ttl": 60}', "{}"], 20), (['{"ttl": 1}'], 5), (["{}"], 30),
    (["[]", "", "{", '{"ttl": null}', '{"ttl": "soon"}', '{"ttl": 1e999}'], 30)])
def test_a_witness_takes_the_ttl_of_the_cluster_and_nothing_that_is_none(configurations, ttl):
    assert told_timing(configurations, Timing()) == Timing(ttl=ttl)
