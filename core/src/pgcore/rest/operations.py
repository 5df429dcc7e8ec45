"""Every operation of the REST API in OpenAPI's words: parameters, bodies, codes (rest-api 3 to 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pgcore.model.basics import Json

TAGS = {
    "checks": "For load balancers and probes: the code is the answer.",
    "documents": "What the node and the cluster are.",
    "actions": "What changes something.",
    "members": "What members of the cluster ask each other.",
    "plugins": "What active plugins add.",
}

AGE: Json = {"X-Pgcore-Observed-Age": {"description": "Seconds since the node was looked at.", "schema": {"type": "string"}}}


def _bare(text: str) -> Json:
    return {"description": f"{text} No header, no body."}


def _json(text: str, schema: str, headers: Json = None) -> Json:
    found: Json = {"description": text, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
    return found | ({"headers": headers} if headers else {})


def _text(text: str, kind: str = "text/html") -> Json:
    return {"description": text, "content": {kind: {"schema": {"type": "string"}}}}


def _parameter(name: str, text: str, **schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string", **schema}}


LAG = _parameter("lag", "How many bytes the node may be behind: 16MB, 1048576, 0x10000. What cannot be read is no limit.",
                 examples=["16MB"])
STATE = _parameter("replication_state", "The check fails unless the node replicates like this.",
                   examples=["streaming", "in archive recovery"])
TAGGED = _parameter("tag_nofailover", "The check fails unless the tag has this value. Any tag's name may follow `tag_`.",
                    examples=["true"])
CHECK_HELP = {
    "/": "As /primary.", "/leader": "Holds the leader lock.", "/replica": "A running standby that load balancers may use.",
    "/primary": "Holds the leader lock and is no standby cluster.", "/master": "As /primary.", "/read-write": "As /primary.",
    "/standby-leader": "Leads a standby cluster.", "/standby_leader": "As /standby-leader.",
    "/read-only": "The leader or a replica.", "/health": "PostgreSQL runs and answers.", "/sync": "A synchronous standby.",
    "/synchronous": "As /sync.", "/quorum": "A standby of the quorum.", "/async": "A standby that is neither of both.",
    "/asynchronous": "As /async.", "/read-only-sync": "The leader or a synchronous standby.",
    "/read-only-synchronous": "As /read-only-sync.", "/read-only-quorum": "The leader or a standby of the quorum.",
}
LEADER_ONLY = {"/", "/leader", "/primary", "/master", "/read-write", "/standby-leader", "/standby_leader"}


def check(method: str, path: str) -> Json:
    """The operation of a health check."""
    codes = {"200": "It is.", "503": "It is not, or nobody knows."}
    replies = {code: _json(text, "Node", AGE) if method == "GET" else _bare(text) for code, text in codes.items()}
    parameters = [] if path in LEADER_ONLY else [TAGGED] if path == "/health" else [LAG, STATE, TAGGED]
    return {"tags": ["checks"], "summary": CHECK_HELP[path], "operationId": f"check {method} {path}", "parameters": parameters,
            "responses": replies}


def any_other(method: str, taken: Sequence[str]) -> Json:
    """The operation of every path that is not described."""
    name: Json = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}
    if method == "GET":
        name["not"] = {"enum": list(taken)}
    return {**check(method, "/replica"), "summary": "A health check by what the path contains, see above.",
            "operationId": f"check {method} anything",
            "parameters": [{"name": "path", "in": "path", "required": True, "schema": name}, LAG, STATE, TAGGED]}


def _read(summary: str, responses: Mapping[str, Json], parameters: Sequence[Json] = (), tag: str = "documents") -> Json:
    return {"tags": [tag], "summary": summary, "parameters": list(parameters), "responses": dict(responses)}


def _act(summary: str, responses: Mapping[str, str], body: str = "", *, optional: bool = False, tag: str = "actions") -> Json:
    """An action, answered with plain text; ``body`` names the schema of what is sent."""
    found: Json = {"tags": [tag], "summary": summary, "responses": {code: _text(text) for code, text in responses.items()}}
    if body:
        found["requestBody"] = {"required": not optional,
                                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}}}
        found["responses"] |= {"400": _text("The body is no JSON object, or asks for what cannot be."),
                               "413": _text("The body is larger than 256 KiB.")}
        if not optional:
            found["responses"]["411"] = _text("There is no Content-Length.")
    return found


def _change(summary: str, responses: Mapping[str, str], body: str) -> Json:
    """A change of the dynamic configuration, answered with the document."""
    found = _act(summary, responses, body)
    return {**found, "responses": {"200": _json("The document as it is now.", "Config"), **found["responses"]}}


_UNREAD = "The store has not been read yet or did not answer in the last heartbeat."
_FRESH = (
    _parameter("fresh", "1: positions of this moment, read from PostgreSQL.", examples=["1"]),
    _parameter("within", "Seconds that PostgreSQL has for them, at most 0.3.", examples=["0.2"]),
    _parameter("race", "1, with fresh=1: the answer is a vote, which needs access.", examples=["1"]),
)
_SWITCH = {
    "200": "Done; the text names the new leader.",
    "202": "Scheduled.",
    "412": "The cluster is not as the request says, or nobody can take over.",
    "422": "The time cannot be read, or has passed.",
    "503": "It failed, or what came of it is not known. Too many requests of this kind are running.",
}
OPERATIONS: dict[tuple[str, str], Json] = {
    ("GET", "liveness"): _read("The heartbeat beats.", {"200": _bare("It does."), "503": _bare("It does not.")}, tag="checks"),
    ("GET", "readiness"): _read(
        "The leader, or a standby that streams and keeps up.", {"200": _bare("Ready."), "503": _bare("Not ready.")},
        [_parameter("lag", "How far behind it may be, maximum_lag_on_failover by default.", examples=["16MB"]),
         _parameter("mode", "write: received counts; else what is replayed.", examples=["apply", "write"])], tag="checks"),
    ("GET", "patroni"): _read(
        "What this node is and does.",
        {"200": _json("Always, whatever its state.", "Node", AGE), "401": _text("A vote needs the password."),
         "403": _text("A vote needs access.")}, _FRESH),
    ("GET", "cluster"): _read("All members.", {"200": _json("The cluster.", "Cluster", AGE), "503": _text(_UNREAD)}),
    ("GET", "history"): _read("All promotions.", {"200": _json("The history.", "History", AGE), "503": _text(_UNREAD)}),
    ("GET", "metrics"): _read(
        "For Prometheus.", {"200": _text("The series.", "text/plain"), "503": _text("The first heartbeat has not ended yet.")}),
    ("GET", "openapi.json"): _read("This document.", {"200": {
        "description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}}),
    ("GET", "config"): _read("The dynamic configuration as stored.", {
        "200": _json("The document.", "Config", AGE), "502": _text("There is none."), "503": _text(_UNREAD)}),
    ("GET", "failsafe"): _read("The members that must agree when the store is away.",
                               {"200": _json("Names and addresses.", "MemberUrls"), "502": _text("There is no such key.")}),
    ("PATCH", "config"): _change("Lay a document over the dynamic configuration.", {
        "409": "Somebody else changed it at the same moment.",
        "503": "There is no configuration yet, or the store did not answer. Too many requests of this kind are running.",
    }, "ConfigChange"),
    ("PUT", "config"): _change("Replace the dynamic configuration.", {
        "409": "Somebody else changed it at the same moment.", "502": "The store did not answer.",
        "503": "Too many requests of this kind are running.",
    }, "ConfigWhole"),
    ("POST", "switchover"): _act("Let another member lead, without loss. Answered when it does.", _SWITCH, "Switchover"),
    ("DELETE", "switchover"): _act("Drop a scheduled switchover.", {
        "200": "Dropped.", "404": "None is scheduled.", "409": "It has changed meanwhile.",
        "503": "The store did not answer. Too many requests of this kind are running.",
    }),
    ("POST", "failover"): _act("Make a member lead, also without a leader.", _SWITCH, "Failover"),
    ("POST", "reload"): _act("Read the configuration file of this node again.", {
        "202": "Before the next heartbeat.", "503": "Too many requests of this kind are running."}),
    ("POST", "sigterm"): _act("Nothing: Patroni's own tests ask for it.", {
        "202": "As if it were.", "503": "Too many requests of this kind are running."}),
    ("POST", "restart"): _act("Restart PostgreSQL on this node. Answered when it is up again.", {
        "200": "Restarted.", "202": "Scheduled.", "409": "Another one is scheduled already.",
        "422": "The time cannot be read, or has passed.", "500": "Not scheduled in maintenance mode.",
        "503": "The conditions do not hold, something else runs, or it failed.",
    }, "Restart", optional=True),
    ("DELETE", "restart"): _act("Drop the scheduled restart of this node.", {
        "200": "Dropped.", "404": "None is scheduled.", "503": "The heartbeat did not answer. Too many requests are running."}),
    ("POST", "reinitialize"): _act("Copy this node anew. Answered when the copy has begun.", {
        "200": "Begun; /patroni shows its progress.", "503": "The leader is not copied, or something else runs.",
    }, "Reinitialize", optional=True),
    ("POST", "failsafe"): _act("Keep a primary that lost the store as the leader.", {
        "200": "Accepted. The header `lsn` is the position of this member.", "500": "This member leads.",
        "502": "failsafe_mode is off.",
    }, "Failsafe", tag="members"),
    ("POST", "mpp"): _act("A member of another group reports.", {
        "200": "OK, whatever comes of it.", "503": "Too many requests of this kind are running.",
    }, "Report", tag="members"),
}

WORDS = frozenset(word for _, word in OPERATIONS)
"""First segments with a description of their own."""
DENIED = {
    "401": {**_text("User name and password are needed, or wrong."),
            "headers": {"WWW-Authenticate": {"description": "How to say who you are.", "schema": {"type": "string"}}}},
    "403": _text("Not from this address, or not without a client certificate."),
}
PLUGIN_TROUBLE = {"400": _text("The body is no JSON."), "413": _text("The body is larger than 256 KiB."),
                  "500": _text("The plugin failed."), "503": _text("Too many requests to plugins are running.")}


def guarded(operation: Json, method: str, path: str) -> Json:
    """The same operation behind the checks of access."""
    return {"operationId": f"{method} {path}", **operation, "security": [{"password": []}],
            "responses": {**operation["responses"], **DENIED}}
