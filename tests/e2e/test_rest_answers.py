"""Codes and texts of requests to a running cluster, as they were answered by Patroni 4.1.5 too (see ``PGCORE_E2E_PATRONI``).

Nothing in the table changes the cluster for longer than a line. (rest-api 2, 7, 8)
"""

from __future__ import annotations

import json
from typing import Any

from harness import Cluster, Node, wait_for

LATER, PAST = "2999-01-01T00:00:00+00:00", "2001-01-01T00:00:00+00:00"
PAGE = "<"
"""An error page, of which only the code counts."""
NO_GOOD = "{} is not possible: no good candidates have been found"
ANSWERS: list[tuple[str, str, Any, int, str]] = [
    ("P", "GET /nosuch", None, 503, '{"state": "running"'),
    ("P", "GET /Primary", None, 503, '{"state": "running"'),
    ("P", "GET /x/leader", None, 200, '{"state": "running"'),
    ("R", "GET /healthz", None, 200, '{"state": "running"'),
    ("P", "GET /config/x", None, 200, "{"),
    ("P", "GET /patroni/x", None, 200, '{"state": "running"'),
    ("P", "GET /readiness?lag=abc", None, 200, ""),
    ("R", "GET /replica?lag=1KB", None, 200, '{"state"'),
    ("R", "GET /replica?lag=0x40000000", None, 200, '{"state"'),
    ("R", "GET /replica?lag=", None, 200, '{"state"'),
    ("R", "GET /health?tag_foo=1", None, 503, '{"state"'),
    ("P", "GET /failsafe", None, 502, PAGE),
    *((who, f"{verb} /{path}", None, 503, "") for who in "PR" for verb in ("HEAD", "OPTIONS")
      for path in ("liveness", "readiness", "patroni", "cluster", "config", "history", "metrics", "failsafe")),
    *(("P", line, {"a": 1}, 501, PAGE) for line in (
        "POST /foo", "POST /patroni", "POST /config", "PUT /reload", "PATCH /restart", "DELETE /failover", "DELETE /config",
        "TRACE /", "BREW /primary")),
    *(("P", line, body, 400, PAGE) for body in ("", "no json", "[1]", "{}") for line in (
        "PATCH /config", "PUT /config", "POST /switchover", "POST /failover", "POST /citus", "POST /mpp")),
    *(("P", line, body, 400, PAGE) for body in ("no json", "[1]") for line in ("POST /restart",)),
    *(("P", line, None, 411, PAGE) for line in ("PATCH /config", "POST /switchover", "POST /failover", "POST /citus")),
    ("P", "POST /citus", {"x": 1}, 200, "OK"),
    ("P", "POST /mpp", {"x": 1}, 200, "OK"),
    ("P", "POST /reload", None, 202, "reload scheduled"),
    ("P", "POST /reload", "no json", 202, "reload scheduled"),
    ("P", "POST /sigterm", None, 202, "shutdown scheduled"),
    ("P", "POST /failsafe", {"name": "n9", "conn_url": "x", "api_url": "y"}, 502, PAGE),
    # restart
    ("P", "POST /restart", {"foo": 1}, 400, "Unknown filter for the scheduled restart: foo"),
    ("P", "POST /restart", {"role": "x"}, 400, "PostgreSQL role should be either primary, standby_leader, or replica"),
    ("P", "POST /restart", {"role": "replica"}, 503, "restart conditions are not satisfied"),
    ("R", "POST /restart", {"role": "primary"}, 503, "restart conditions are not satisfied"),
    ("P", "POST /restart", {"postgres_version": "15"}, 400, "Invalid PostgreSQL version format: "),
    ("P", "POST /restart", {"postgres_version": "15.x"}, 400, "Invalid PostgreSQL version: 15.x"),
    ("P", "POST /restart", {"postgres_version": "9.6.1"}, 503, "restart conditions are not satisfied"),
    ("P", "POST /restart", {"timeout": 0}, 400, "Timeout should be a positive number of seconds"),
    ("P", "POST /restart", {"timeout": "abc"}, 400, "Timeout should be a positive number of seconds"),
    ("P", "POST /restart", {"timeout": "5min", "role": "replica"}, 503, "restart conditions are not satisfied"),
    ("P", "POST /restart", {"restart_pending": False}, 503, "restart conditions are not satisfied"),
    ("P", "POST /restart", {"schedule": ""}, 422, "Unable to parse scheduled timestamp. "),
    ("P", "POST /restart", {"schedule": "garbage"}, 422, "Unable to parse scheduled timestamp. "),
    ("P", "POST /restart", {"schedule": PAST}, 422, "Cannot schedule restart in the past"),
    ("P", "POST /restart", {"schedule": "2999-01-01T00:00"}, 400, "Timezone information is mandatory for the scheduled restart"),
    ("P", "DELETE /restart", None, 404, "no restarts are scheduled"),
    ("P", "POST /restart", {"schedule": LATER, "role": "primary", "timeout": "30s"}, 202, "Restart scheduled"),
    ("P", "POST /restart", {"schedule": LATER}, 409, "Another restart is already scheduled"),
    ("P", "DELETE /restart", "no json", 200, "scheduled restart deleted"),
    ("P", "DELETE /restart", None, 404, "no restarts are scheduled"),
    # switchover
    *((who, "POST /switchover", body, code, text) for who in "PR" for body, code, text in (
        ({"leader": "P", "candidate": "P"}, 400, "Switchover target and source are the same"),
        ({"candidate": "R"}, 400, "Switchover could be performed only from a specific leader"),
        ({"leader": "R"}, 412, "leader name does not match"),
        ({"leader": "zz", "candidate": "R"}, 412, "leader name does not match"),
        ({"leader": "P", "candidate": "zz"}, 412, "candidate does not exists"),
        ({"leader": "P", "scheduled_at": "garbage"}, 422, "Unable to parse scheduled timestamp. "),
        ({"leader": "P", "scheduled_at": PAST}, 422, "Cannot schedule switchover in the past"),
        ({"leader": "P", "scheduled_at": "2999-01-01T00:00"}, 400,
         "Timezone information is mandatory for the scheduled switchover"))),
    ("P", "DELETE /switchover", None, 404, "no switchover is scheduled"),
    ("P", "POST /switchover", {"leader": "P", "scheduled_at": LATER}, 202, "Switchover scheduled"),
    ("P", "DELETE /switchover", None, 200, "scheduled switchover deleted"),
    ("P", "DELETE /switchover", None, 404, "no switchover is scheduled"),
    # failover
    ("P", "POST /failover", {"leader": "P"}, 400, "Failover could be performed only to a specific candidate"),
    ("P", "POST /failover", {"candidate": "R", "scheduled_at": LATER}, 400, "Failover can't be scheduled"),
    ("P", "POST /failover", {"leader": "P", "candidate": "R", "scheduled_at": LATER}, 400, "Failover can't be scheduled"),
    ("P", "POST /failover", {"leader": "P", "candidate": "P"}, 400, "Switchover target and source are the same"),
    ("P", "POST /failover", {"leader": "zz", "candidate": "R"}, 412, "leader name does not match"),
    ("P", "POST /failover", {"candidate": "zz"}, 412, "candidate does not exists"),
    ("R", "POST /failover", {"member": "zz"}, 412, "candidate does not exists"),
    # reinitialize
    ("P", "POST /reinitialize", None, 503, "I am the leader, can not reinitialize"),
    ("P", "POST /reinitialize", {"x": 1}, 503, "I am the leader, can not reinitialize"),
    # configuration
    ("P", "PATCH /config", {"tried": {"a": 1, "b": 2}}, 200, "{"),
    ("P", "PATCH /config", {"tried": {"a": None, "absent": None}}, 200, "{"),
    ("P", "PATCH /config", {"tried": None}, 200, "{"),
]
"""Which node (the primary or a replica), request, body (a text is sent as it is), code, how the answer begins.

``P`` and ``R`` stand for the nodes' names in bodies.
"""


def _asked(node: Node, line: str, body: Any, names: dict[str, str]) -> tuple[int, str]:
    method, path = line.split()
    if isinstance(body, dict):
        body = {key: names.get(str(value), value) for key, value in body.items()}
    answer = node.request(method, path, body if isinstance(body, dict) else None, timeout_s=30,
                          raw_body=body if isinstance(body, str) else None)
    return (answer.status, answer.text) if answer else (0, "no answer")


def test_every_request_is_answered_with_the_known_code_and_text(etcd_cluster: Cluster) -> None:
    primary = etcd_cluster.primary()
    replica = etcd_cluster.others(primary)[0]
    names, wrong = {"P": primary.name, "R": replica.name}, []
    assert etcd_cluster.etcd is not None
    etcd_cluster.etcd.delete(etcd_cluster.key("failsafe"))  # the key outlives the mode, which another test may have used
    wait_for(lambda: primary.status_of("/failsafe") == 502, 20, "the primary has seen that there is no /failsafe key")
    for who, line, body, code, text in ANSWERS:
        found = _asked(primary if who == "P" else replica, line, body, names)
        if found[0] != code or not found[1].startswith(text):
            wrong.append((who, line, body, found))
    assert wrong == []
    assert "tried" not in json.loads(_asked(primary, "GET /config", None, names)[1])


def test_a_candidate_that_does_not_answer_is_none(etcd_cluster: Cluster) -> None:
    primary = etcd_cluster.primary()
    candidate = etcd_cluster.others(primary)[0]
    candidate.freeze_agent()
    try:
        for action in ("switchover", "failover"):
            body = {"candidate": candidate.name} | ({"leader": primary.name} if action == "switchover" else {})
            answer = primary.request("POST", f"/{action}", body, timeout_s=30)
            assert answer is not None and (answer.status, answer.text) == (412, NO_GOOD.format(action)), answer
    finally:
        candidate.thaw_agent()
    assert primary.is_writable()
    wait_for(lambda: candidate.status_of("/replica") == 200, 20, "the candidate is back")
