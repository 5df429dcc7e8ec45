"""What etcd does to its clients: servers that die, freeze, restart and compact, answers that get lost."""

from __future__ import annotations

import base64
import http.server
import json
import statistics
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.plugin import ABSENT, ANYTHING, Deadline, Key, Renewal, Stored, StoreUnavailableError, version

pytestmark = pytest.mark.server


def soon(seconds=5.0):
    return Deadline.after(seconds)


def post(server, path, body):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


def put(store, value, key=Key.CONFIG, deadline=None):
    return store.put(key, value, expect=ANYTHING, deadline=deadline or soon())


def read(store, fresh=True, deadline=None):
    return store.read(fresh=fresh, deadline=deadline or soon())


def latency(watcher, change, timeout=15.0, seen=None):
    """Seconds from a change to the end of a watch."""
    seen = seen or read(watcher).revision
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(lambda: (watcher.watch(seen, timeout=timeout), time.monotonic()))
        time.sleep(0.1)
        assert not watching.done(), "the watch ended before the change"
        before = time.monotonic()
        change()
        changed, at = watching.result()
    assert changed
    return at - before


# -- one server -------------------------------------------------------------------------------------------------------

def test_a_change_ends_a_watch_within_milliseconds(etcd, connect, api, record_property):
    a, b = connect("a", api=api, host=etcd.host), connect("b", api=api, host=etcd.host)
    put(b, "0")
    latencies = [latency(a, lambda number=number: put(b, str(number))) for number in range(1, 11)]
    record_property("watch_latency_ms", round(statistics.median(latencies) * 1000, 2))
    print(f"\n{api}: a change by another ends watch() after {statistics.median(latencies) * 1000:.1f} ms (median)")
    assert statistics.median(latencies) < 0.1


def test_lock_and_data_survive_a_restart_of_etcd(own_etcd, connect, api):
    a, b = connect("a", api=api, host=own_etcd.host), connect("b", api=api, host=own_etcd.host)
    assert a.acquire(force=False, deadline=soon())
    put(a, "kept")
    a.watch(read(a).revision, timeout=0.1)
    seen = read(a).revision
    own_etcd.kill()
    own_etcd.start()
    assert a.renew({}, deadline=soon()) is Renewal.HELD
    assert read(b).records["config"].value == "kept"
    assert latency(a, lambda: put(b, "new"), seen=seen) < 1.0


def test_a_frozen_etcd_costs_no_more_than_the_deadline(own_etcd, connect, api):
    a = connect("a", api=api, host=own_etcd.host)
    put(a, "1")
    with own_etcd.frozen():
        before = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            put(a, "2", deadline=soon(0.5))
        assert 0.4 < time.monotonic() - before < 0.8
    put(a, "3")


def test_no_server_at_all_ends_at_the_deadline(own_etcd, connect, api):
    a = connect("a", api=api, host=own_etcd.host)
    own_etcd.kill()
    before = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        read(a, deadline=soon(0.5))
    assert not a.watch("1", timeout=0.5)
    assert 0.9 < time.monotonic() - before < 1.6


def test_a_watch_behind_a_compaction_makes_the_caller_look_again(own_etcd, connect):
    a, b = connect("a", host=own_etcd.host), connect("b", host=own_etcd.host)
    put(b, "0")
    seen = read(a).revision
    for number in range(5):
        last = put(b, str(number))
    post(own_etcd, "/v3/kv/compaction", {"revision": last.version})
    assert a.watch(seen, timeout=5) is True
    assert read(a, fresh=False).records["config"].value == "4"
    assert latency(a, lambda: put(b, "5")) < 1.0


def test_a_compaction_while_the_stream_is_cut_loses_nothing(own_etcd, connect, line):
    cable = line(own_etcd.host)
    a, b = connect("a", host=cable.host), connect("b", host=own_etcd.host)
    seen = read(a).revision
    a.watch(seen, timeout=0.1)
    own_etcd.kill()
    own_etcd.start()
    for number in range(5):
        last = put(b, str(number))
    post(own_etcd, "/v3/kv/compaction", {"revision": last.version})
    assert a.watch(seen, timeout=5) is True


def test_a_store_that_was_set_back_is_followed(own_etcd, connect):
    a = connect("a", host=own_etcd.host, use_proxies=True)
    seen = read(a).revision
    for number in range(10):
        put(a, str(number))
    while a.watch(seen, timeout=0.2):
        seen = read(a).revision
    own_etcd.stop()
    (own_etcd.directory / "data").rename(own_etcd.directory / "old")
    own_etcd.start()
    assert dict(read(a, fresh=False).records) == {}
    b = connect("b", host=own_etcd.host)
    assert latency(a, lambda: put(b, "new")) < 1.0


class LaggingServer(http.server.BaseHTTPRequestHandler):
    """Stands before an etcd and answers serializable reads as a server would that has not heard of the latest changes."""

    protocol_version = "HTTP/1.1"
    etcd_url = ""
    revision = "0"

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body):
        lagging = bool(body) and body.pop("serializable", False)
        data = None if body is None else json.dumps(body | ({"revision": self.revision} if lagging else {})).encode()
        with urllib.request.urlopen(self.etcd_url + self.path, data, timeout=5) as response:
            content = json.load(response)
        if lagging:
            content["header"]["revision"] = self.revision
        raw = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def test_a_server_that_lags_behind_never_takes_a_store_back_in_time(etcd, connect):
    b = connect("b", host=etcd.host)
    handler = type("Handler", (LaggingServer,), {"etcd_url": etcd.url, "revision": put(b, "old").version})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        a = connect("a", host=f"127.0.0.1:{server.server_port}", use_proxies=True)
        assert read(a, fresh=False).records["config"].value == "old"
        put(b, "new")
        assert read(a, fresh=False).records["config"].value == "old"  # allowed: nothing newer was shown
        assert read(a, fresh=True).records["config"].value == "new"
        assert read(a, fresh=False).records["config"].value == "new"
        put(a, "newest")
        assert read(a, fresh=False).records["config"].value == "newest"
        a.close()
        server.shutdown()


# -- lost answers -----------------------------------------------------------------------------------------------------

def test_a_conditional_write_whose_answer_was_lost_is_undecided(etcd, connect, line, api):
    cable = line(etcd.host)
    a, b = connect("a", api=api, host=cable.host, use_proxies=True), connect("b", api=api, host=etcd.host)
    first = put(a, "1")
    cable.swallow = "/kv/txn" if api == "etcd3" else "/config"
    with pytest.raises(StoreUnavailableError, match="may have happened"):
        a.put(Key.CONFIG, "2", expect=version(first.version), deadline=soon())
    assert read(b).records["config"].value == "2"


def test_an_acquire_whose_answer_was_lost_is_settled_by_repeating_it(etcd, connect, line, api):
    cable = line(etcd.host)
    a = connect("a", api=api, host=cable.host, use_proxies=True)
    read(a)
    cable.swallow = "/kv/txn" if api == "etcd3" else "/leader"
    assert a.acquire(force=False, deadline=soon()) is True
    assert cable.swallow == ""
    assert a.renew({}, deadline=soon()) is Renewal.HELD


def test_a_release_whose_answer_was_lost_is_settled_by_repeating_it(etcd, connect, line, api):
    cable = line(etcd.host)
    a = connect("a", api=api, host=cable.host, use_proxies=True)
    assert a.acquire(force=False, deadline=soon())
    cable.swallow = "/kv/txn" if api == "etcd3" else "/leader?prevValue=a"
    assert a.release({}, deadline=soon()) is True
    assert cable.swallow == ""
    assert "leader" not in read(a).records


def test_a_renewal_whose_answer_was_lost_is_repeated(etcd, connect, line):
    cable = line(etcd.host)
    a = connect("a", host=cable.host, use_proxies=True)
    assert a.acquire(force=False, deadline=soon())
    cable.swallow = "/lease/keepalive"
    assert a.renew({}, deadline=soon()) is Renewal.HELD
    assert cable.swallow == ""


# -- weight -----------------------------------------------------------------------------------------------------------

def test_a_beat_of_an_idle_leader_costs_one_range_and_one_keepalive(etcd, connect, line):
    cable = line(etcd.host)
    a = connect("a", host=cable.host, use_proxies=True)
    assert a.acquire(force=False, deadline=soon())
    a.announce("card", deadline=soon())
    cable.requests.clear()
    for _ in range(3):
        read(a, fresh=False)
        assert a.renew({}, deadline=soon()) is Renewal.HELD
        a.announce("card", deadline=soon())
    assert cable.requests == ["POST /v3/kv/range", "POST /v3/lease/keepalive"] * 3


def test_a_lock_deleted_by_hand_is_noticed_by_the_next_beat(etcd, connect):
    a, observer = connect("a", host=etcd.host), connect("x", host=etcd.host, observer=True)
    assert a.acquire(force=False, deadline=soon())
    read(a, fresh=False)
    assert a.renew({}, deadline=soon()) is Renewal.HELD
    observer.delete(Key.LEADER, expect=ANYTHING, deadline=soon())
    assert a.renew({}, deadline=soon()) is Renewal.GONE


def test_a_card_deleted_by_hand_comes_back(etcd, connect):
    a = connect("a", host=etcd.host)
    a.announce("card", deadline=soon())
    path = f"{a._prefix}members/a"
    post(etcd, "/v3/kv/deleterange", {"key": base64.b64encode(path.encode()).decode()})
    assert "members/a" not in read(a).records
    a.announce("card", deadline=soon())
    assert "members/a" in read(a).records


def test_scopes_with_a_common_beginning_do_not_mix(etcd, connect, api):
    one, two = (connect("a", api=api, host=etcd.host, path=f"/service/twin{api}{end}") for end in ("", "2"))
    put(two, "2")
    assert dict(read(one).records) == {}
    assert isinstance(one.put(Key.CONFIG, "1", expect=ABSENT, deadline=soon()), Stored)
    assert read(two).records["config"].value == "2"


# -- three servers ----------------------------------------------------------------------------------------------------

def test_renewals_and_watch_survive_the_death_of_each_server_in_turn(etcds, connect, api):
    a, b = connect("a", api=api, hosts=etcds.hosts), connect("b", api=api, hosts=",".join(etcds.hosts))
    assert a.acquire(force=False, deadline=soon())
    for turn, server in enumerate([etcds.leader, *(other for other in etcds.servers if other is not etcds.leader)][:2]):
        stop, outcomes = threading.Event(), []

        def renew(stop=stop, outcomes=outcomes):
            while not stop.is_set():
                outcomes.append(a.renew({}, deadline=soon()))
                time.sleep(0.05)

        with ThreadPoolExecutor(1) as pool:
            renewing = pool.submit(renew)
            try:
                time.sleep(0.2)
                server.kill()
                seen = read(b, deadline=soon(8)).revision
                latency(b, lambda turn=turn: put(connect(f"c{turn}", api=api, hosts=etcds.hosts), str(turn), deadline=soon(8)),
                        seen=seen)
            finally:
                stop.set()
            renewing.result()
        assert set(outcomes) == {Renewal.HELD}
        server.start()


def test_a_frozen_server_of_three_holds_up_neither_verbs_nor_watch(etcds, connect, api):
    first = next(server for server in etcds.servers if server is not etcds.leader)
    others = [server.host for server in etcds.servers if server is not first]
    b = connect("b", api=api, hosts=others, use_proxies=True)
    a = connect("a", api=api, host=first.host)
    assert len(a._locator.endpoints.urls) == 1
    seen = read(a).revision  # also learns of the other servers
    assert len(a._locator.endpoints.urls) == 3
    a.watch(seen, timeout=0.1)
    with first.frozen():
        assert latency(a, lambda: put(b, "1"), seen=seen) < 4.0
        before = time.monotonic()
        assert read(a, deadline=soon(3)).records["config"].value == "1"
        assert time.monotonic() - before < 2.0


def test_a_list_of_proxies_is_never_extended(etcds, connect):
    a = connect("a", hosts=etcds.hosts[:1], use_proxies=True)
    read(a)
    assert len(a._locator.endpoints.urls) == 1


def test_a_renewal_or_a_card_of_another_does_not_end_a_watch(etcd, connect, api):
    a, b = connect("a", api=api, host=etcd.host), connect("b", api=api, host=etcd.host)
    assert b.acquire(force=False, deadline=soon())
    seen = read(a).revision
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(a.watch, seen, timeout=1.0)
        for number in range(4):
            assert b.renew({}, deadline=soon()) is Renewal.HELD
            b.announce(f"card {number}", deadline=soon())
            time.sleep(0.1)
        assert watching.result() is False
