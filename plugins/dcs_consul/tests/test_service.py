"""The service a member registers, as it stands in the catalogue."""

from __future__ import annotations

import http.server
import json
import logging
import threading
import time
from typing import ClassVar

import pytest

from pgcore.plugin import Deadline, StoreUnavailableError, Timing
from pgcore.testing.processes import LOOPBACK
from pgcore_dcs_consul.service import service_name

TIMING = Timing(30, 10, 10)


def card(role="replica", state="running", host="10.0.0.1", api="http://10.0.0.1:8008/patroni"):
    return json.dumps({"conn_url": f"postgres://{host}:5433/postgres", "api_url": api, "role": role, "state": state})


def announce(store, text):
    store.announce(text, deadline=Deadline.after(8))


def in_catalogue(server, name, wanted=1):
    """The services of that name, once there are so many."""
    end = time.monotonic() + 10
    while True:
        found = server.ask("GET", f"/v1/catalog/service/{name}?consistent") or []
        if len(found) == wanted:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


def tags(server, name):
    return in_catalogue(server, name)[0]["ServiceTags"]


@pytest.fixture
def member(consul, connect):
    """A store that registers a service, and that service's name."""
    def make(**section):
        section = {"host": consul.host, "register_service": True} | section
        return connect("n1", timing=TIMING, **section), connect.scope.rpartition("/")[2]
    return make


@pytest.mark.parametrize(("scope", "name"), [
    ("demo", "demo"), ("My_Cluster.prod x", "my-cluster-prod-x"), ("a#b", "au0035b"), ("zürich", "zu0252rich"),
    ("語", "u35486"), ("x" * 300, "x" * 230)])
def test_a_service_has_a_name_that_dns_takes(scope, name):
    assert service_name(scope) == name


@pytest.mark.server
def test_a_running_member_stands_in_the_catalogue_with_its_role_and_a_check(consul, member):
    a, name = member(service_tags=("west", "db"))
    announce(a, card(state="starting"))
    in_catalogue(consul, name, 0)
    announce(a, card())
    [service] = in_catalogue(consul, name)
    assert (service["ServiceID"], service["ServiceAddress"], service["ServicePort"], service["ServiceEnableTagOverride"]) == (
        f"{name}/n1", "10.0.0.1", 5433, True)
    assert service["ServiceTags"] == ["db", "west", "replica"]


@pytest.mark.server
def test_the_name_in_the_certificate_of_the_rest_api_goes_to_an_agent_that_knows_such_names(consul, member, caplog):
    a, name = member(service_check_tls_server_name="node.example")
    announce(a, card())
    major, minor = (int(number) for number in consul.ask("GET", "/v1/agent/self")["Config"]["Version"].split(".")[:2])
    if (major, minor) >= (1, 9):
        in_catalogue(consul, name)
    else:
        assert "TLSServerName" in caplog.text


class RestApi(http.server.BaseHTTPRequestHandler):
    """Answers like a standby that turned primary: 503 for what it is not."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/primary" else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def rest_api():
    RestApi.asked.clear()
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), RestApi) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}/patroni"
        server.shutdown()


@pytest.mark.server
def test_consul_asks_the_rest_api_for_the_role(consul, member, rest_api):
    a, name = member(service_check_interval="200ms")

    def passing(wanted):
        end = time.monotonic() + 10
        while bool(consul.ask("GET", f"/v1/health/service/{name}?passing&consistent")) is not wanted:
            assert time.monotonic() < end
            time.sleep(0.05)

    announce(a, card("primary", api=rest_api))
    passing(True)
    assert set(RestApi.asked) == {"/primary"}
    announce(a, card("standby_leader", api=rest_api))
    end = time.monotonic() + 10
    while RestApi.asked[-1] != "/standby-leader":
        assert time.monotonic() < end
        time.sleep(0.05)
    passing(False)


@pytest.mark.server
def test_the_role_is_followed_and_a_stopped_member_leaves(consul, member):
    a, name = member()
    for role, wanted in (("replica", ["replica"]), ("primary", ["primary", "master"]), ("standby_leader", ["standby-leader"])):
        announce(a, card(role))
        assert in_catalogue(consul, name)[0]["ServiceTags"] == wanted
    announce(a, card("standby_leader", state="restarting"))
    announce(a, card("demoted"))
    assert tags(consul, name) == ["standby-leader"]
    announce(a, card(state="stopped"))
    in_catalogue(consul, name, 0)
    announce(a, card())
    in_catalogue(consul, name)
    a.withdraw(deadline=Deadline.after(8))
    in_catalogue(consul, name, 0)


@pytest.mark.server
def test_an_unchanged_member_is_registered_once(consul, member, line):
    cable = line(consul.host)
    a, _ = member(host=cable.host)
    for _ in range(4):
        announce(a, card())
    assert sum("/agent/service" in request for request in cable.requests) == 1


@pytest.mark.server
def test_registering_no_longer_takes_away_what_an_earlier_process_registered(consul, member, line):
    cable = line(consul.host)
    before, name = member()
    announce(before, card())
    in_catalogue(consul, name)
    after, _ = member(register_service=False, host=cable.host)
    for _ in range(3):
        announce(after, card())
    in_catalogue(consul, name, 0)
    assert sum("/agent/service" in request for request in cable.requests) == 1


@pytest.mark.server
def test_an_agent_that_forgot_the_service_is_told_again(own_consul, member):
    a, name = member(host=own_consul.host)
    announce(a, card())
    in_catalogue(own_consul, name)
    own_consul.stop()
    with pytest.raises(StoreUnavailableError):
        a.read(fresh=True, deadline=Deadline.after(0.3))
    own_consul.forget()
    own_consul.start()
    announce(a, card())
    in_catalogue(own_consul, name)


@pytest.mark.server
def test_a_service_that_is_refused_holds_up_neither_card_nor_lock(consul, member, caplog):
    a, name = member(service_check_interval="never")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            announce(a, card())
            assert a.acquire(force=False, deadline=Deadline.after(8))
    assert caplog.text.count("cannot be registered") == 1
    in_catalogue(consul, name, 0)
