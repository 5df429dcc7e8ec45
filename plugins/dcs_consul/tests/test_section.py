"""What the keys of the section mean, how the plugin presents itself, and the layout as Patroni writes and reads it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from pgcore.plugin import ANYTHING, ConfigError, Deadline, Key, Renewal, StoreRejectedError, Timing
from pgcore_dcs_consul.section import ConsulSection, address


def soon():
    return Deadline.after(8)


@pytest.mark.parametrize(("keys", "url"), [
    ({}, "http://127.0.0.1:8500"), ({"host": "h"}, "http://h:8500"), ({"host": "h:1"}, "http://h:1"),
    ({"host": "h", "port": 7, "scheme": "https"}, "https://h:7"), ({"host": "[::1]:7"}, "http://[::1]:7"),
    ({"url": "https://u", "host": "never", "port": 7}, "https://u:8500"), ({"url": "http://u:9"}, "http://u:9")])
def test_where_consul_is(keys, url):
    assert address(ConsulSection(**keys)) == url


@pytest.mark.parametrize(("keys", "words"), [
    ({"host": "h:port"}, "no valid port"), ({"host": ":1"}, "no host"), ({"url": "unix:///x"}, "unix"),
    ({"host": ""}, "no host")])
def test_a_section_that_leads_nowhere_is_refused(keys, words):
    with pytest.raises(ConfigError, match=words):
        address(ConsulSection(**keys))


def test_the_token_does_not_show():
    assert "hidden" not in repr(ConsulSection(token="hidden"))


def test_the_entry_point_describes_the_store():
    [entry] = entry_points(group="pgcore", name="consul")
    [backend] = entry.load().pgcore_stores()
    assert (backend.name, backend.section) == ("consul", ConsulSection)
    floor, reason = backend.ttl_floor(ConsulSection())
    assert floor == 20 and "10 s" in reason
    backend.check(ConsulSection())
    for wrong in ({"host": "h:port"}, {"scheme": "https", "cacert": "/nowhere/ca.pem"}):
        with pytest.raises(ConfigError):
            backend.check(ConsulSection(**wrong))


def test_nothing_heavy_is_imported_before_it_is_needed():
    """In pgcore's presence, which every agent has loaded, the plugin costs less than 30 ms and no library."""
    code = ("import sys, time, pgcore.plugin; began = time.perf_counter(); import pgcore_dcs_consul.plugin; "
            "took = time.perf_counter() - began; "
            "print([name for name in ('consul', 'requests', 'http.client', 'ssl') if name in sys.modules], took)")
    outcomes = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert all(outcome.startswith("[] ") for outcome in outcomes)
    assert min(float(outcome.split()[1]) for outcome in outcomes) < 0.03


# -- the layout -------------------------------------------------------------------------------------------------------

@pytest.mark.server
def test_keys_and_sessions_are_laid_out_as_patroni_does(consul, connect):
    a = connect("n1", host=consul.host, timing=Timing(30, 10, 10))
    a.announce("card", deadline=soon())
    assert a.acquire(force=False, deadline=soon())
    for key in (Key.CONFIG, Key.OPTIME, Key.STATUS):
        a.put(key, "{}", expect=ANYTHING, deadline=soon())
    entries = {entry["Key"]: entry for entry in consul.ask("GET", f"/v1/kv/{connect.scope}/?recurse=1")}
    assert set(entries) == {f"{connect.scope}/{path}" for path in ("leader", "members/n1", "config", "optime/leader", "status")}
    with_session = {key for key, entry in entries.items() if "Session" in entry}
    assert with_session == {f"{connect.scope}/leader", f"{connect.scope}/members/n1"}
    [session] = consul.ask("GET", f"/v1/session/info/{entries[f'{connect.scope}/leader']['Session']}")
    assert (session["Name"], session["TTL"], session["Behavior"], session["LockDelay"]) == (
        f"{connect.scope.rpartition('/')[2]}-n1", "15.0s", "delete", 1_000_000)
    assert not session.get("NodeChecks") and not session.get("Checks")


@pytest.mark.server
def test_the_lock_is_shared_with_a_member_that_writes_as_patroni_does(consul, connect):
    a, base = connect("a", host=consul.host), f"/v1/kv/{connect.scope}"
    session = consul.ask("PUT", "/v1/session/create", {
        "Name": "own-p", "TTL": "10.0s", "Behavior": "delete", "LockDelay": "0.001s", "Checks": []})["ID"]
    assert consul.ask("PUT", f"{base}/leader?acquire={session}", "p") is True
    assert a.acquire(force=False, deadline=soon()) is False
    assert a.renew({}, deadline=soon()) is Renewal.TAKEN
    [lock] = consul.ask("GET", f"{base}/leader")
    assert consul.ask("DELETE", f"{base}/leader?cas={lock['ModifyIndex']}") is True
    assert a.acquire(force=False, deadline=soon()) is True
    assert consul.ask("PUT", f"{base}/leader?acquire={session}", "p") is False
    assert consul.ask("PUT", f"{base}/sync?cas=0", "{}") is True
    found = a.read(fresh=True, deadline=soon()).records
    a.put(Key.SYNC, "mine", expect=ANYTHING, deadline=soon())
    assert consul.ask("PUT", f"{base}/sync?cas={found['sync'].version}", "late") is False
    assert a.read(fresh=True, deadline=soon()).records["sync"].value == "mine"


@pytest.mark.server
def test_a_ttl_that_no_session_can_have_is_refused(consul, connect):
    with pytest.raises(StoreRejectedError, match="172800"):
        connect("a", host=consul.host, timing=Timing(200_000, 10, 10)).acquire(force=False, deadline=soon())


@pytest.mark.server
def test_the_session_depends_on_the_checks_that_are_named_which_is_warned_of(consul, connect, caplog, request):
    consul.ask("PUT", "/v1/agent/check/register", {"Name": "disk", "TTL": "1h", "Status": "passing"})
    request.addfinalizer(lambda: consul.ask("PUT", "/v1/agent/check/deregister/disk"))
    a, b = connect("a", host=consul.host, checks=("disk",), timing=Timing(60, 10, 10)), connect("b", host=consul.host)
    assert "consul.checks disk can end the lock" in caplog.text
    assert a.acquire(force=False, deadline=soon())
    seen = b.read(fresh=True, deadline=soon()).revision
    consul.ask("PUT", "/v1/agent/check/fail/disk")
    assert b.watch(seen, timeout=10) is True
    assert b.acquire(force=False, deadline=soon())
