"""The JSON documents of the REST API as JSON Schema, for ``/openapi.json`` (rest-api 5 to 9)."""

from __future__ import annotations

from pgcore.model.basics import Json, State

TEXT: Json = {"type": "string"}
INTEGER: Json = {"type": "integer"}
BYTES: Json = {"type": "integer", "minimum": 0}
ONLY_TRUE: Json = {"const": True, "description": "true, or absent for false"}
MOMENT: Json = {"type": "string", "description": "with a blank between day and time, in PostgreSQL's time zone",
                "examples": ["2026-01-02 03:04:05.678901+00:00"]}
ISO: Json = {"type": "string", "description": "ISO 8601 with time zone", "examples": ["2030-01-02T03:04:05+00:00"]}
LOOSE_BOOLEAN: Json = {"type": ["boolean", "string", "integer", "null"], "description": "true, on, yes or 1, and their opposites"}
STATES = [*map(str, State), "unknown"]


def _optional(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


def _object(properties: dict[str, Json], required: tuple[str, ...] = (), **more: Json) -> Json:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {}), **more}


PENDING: Json = {
    "type": "object", "description": "parameters whose new value waits for a restart",
    "additionalProperties": _object({"old_value": TEXT, "new_value": TEXT}, ("old_value", "new_value")),
}
SCHEDULED_RESTART = _object({
    "schedule": ISO, "role": TEXT, "postgres_version": TEXT, "timeout": INTEGER, "restart_pending": {},
    "postmaster_start_time": _optional(TEXT),
}, ("schedule",))
TAGS: Json = {"type": "object", "additionalProperties": True}

XLOG = _object({
    "location": {**BYTES, "description": "flushed, on a primary"},
    "received_location": {**BYTES, "description": "received, in recovery"},
    "replayed_location": {**BYTES, "description": "replayed, in recovery"},
    "replayed_timestamp": _optional(MOMENT),
    "paused": {"type": "boolean", "description": "replay is paused"},
}, description="positions in the WAL, as bytes")

SENDER = _object({
    "usename": _optional(TEXT), "application_name": _optional(TEXT), "client_addr": _optional(TEXT), "state": _optional(TEXT),
    "sync_state": _optional(TEXT), "sync_priority": _optional(INTEGER),
}, ("application_name", "client_addr", "state"))

OWN = _object({
    "version": TEXT,
    "rule": {"type": "string", "description": "the rule that decided the last heartbeat"},
    "reason": {"type": "string", "description": "why it did"},
    "lease_seconds_left": {"type": ["number", "null"], "description": "how long this node is proven to be the leader"},
    "observed_age": {"type": "number", "minimum": 0, "description": "seconds since the node was looked at"},
    "task": {"type": ["object", "null"], "description": "the long action that runs, with its progress"},
    "phases": {"type": "array", "description": "what long actions have done in the last minute", "items": _object({
        "number": {"type": "integer", "description": "counts since the agent began"},
        "what": {"type": "string", "examples": ["stop: stopping"]},
        "took": {"type": "number", "minimum": 0, "description": "seconds"},
        "ended": {"type": "number", "minimum": 0, "description": "seconds ago"},
    }, ("number", "what", "took", "ended"))},
    "watchdog": TEXT,
    "promoting": {"type": "boolean", "description": "on its way to take writes"},
    "writes": _object({
        "accepted": {"type": "boolean", "description": "the server takes writes"},
        "seconds": {"type": ["number", "null"], "description": "since then"},
        "paused": {"type": ["number", "null"], "description": "how long it took none before"},
    }, ("accepted",)),
    "failsafe_leader": {**_optional(TEXT), "description": "with fresh=1: the primary without the store that it accepted"},
    "failsafe_unknown": {"type": "boolean", "description": "with fresh=1: it may have accepted one and not know any more"},
    "failsafe_binding": {"type": "boolean", "description": "with fresh=1: its yes counts towards failsafe_quorum"},
}, ("version",), description="what pgcore says beside Patroni's fields")

NODE = _object({
    "state": {"enum": STATES},
    "postmaster_start_time": _optional(MOMENT),
    "role": {"enum": ["primary", "replica", "standby_leader", "promoted", "demoted", "uninitialized"]},
    "server_version": {**_optional(INTEGER), "examples": [150020]},
    "xlog": {"$ref": "#/components/schemas/Xlog"},
    "sync_standby": ONLY_TRUE,
    "quorum_standby": ONLY_TRUE,
    "timeline": _optional(INTEGER),
    "replication_state": {"type": "string", "examples": ["streaming", "in archive recovery"]},
    "replication": {"type": "array", "items": {"$ref": "#/components/schemas/Sender"}},
    "pause": ONLY_TRUE,
    "cluster_unlocked": ONLY_TRUE,
    "failsafe_mode_is_active": ONLY_TRUE,
    "dcs_last_seen": {**BYTES, "description": "epoch seconds of the last good read of the store, 0 for never"},
    "tags": TAGS,
    "database_system_identifier": {"type": "string", "pattern": "^[0-9]+$"},
    "pending_restart": ONLY_TRUE,
    "pending_restart_reason": PENDING,
    "patroni": _object({"version": TEXT, "scope": TEXT, "name": TEXT}, ("version",)),
    "scheduled_restart": SCHEDULED_RESTART,
    "watchdog_failed": ONLY_TRUE,
    "logger_queue_size": BYTES,
    "logger_records_lost": BYTES,
    "pgcore": {"$ref": "#/components/schemas/Own"},
}, ("state", "role", "dcs_last_seen", "patroni", "pgcore"), description="a node; absent fields are unknown or false")

LAG: Json = {"oneOf": [BYTES, {"const": "unknown"}], "description": "bytes behind the leader"}
LSN: Json = {"type": "string", "pattern": "^([0-9A-F]+/[0-9A-F]+|unknown)$"}

MEMBER = _object({
    "name": TEXT,
    "role": {"enum": ["leader", "standby_leader", "sync_standby", "quorum_standby", "replica"]},
    "state": {"type": "string", "description": "how it replicates, else the state of its server"},
    "api_url": _optional(TEXT),
    "host": TEXT,
    "port": INTEGER,
    "timeline": INTEGER,
    "pending_restart": ONLY_TRUE,
    "pending_restart_reason": PENDING,
    "scheduled_restart": SCHEDULED_RESTART,
    "tags": TAGS,
    **{f"{kind}lag": LAG for kind in ("receive_", "replay_", "")},
    **{f"{kind}lsn": LSN for kind in ("receive_", "replay_", "")},
}, ("name", "role", "state", "api_url"))

CLUSTER = _object({
    "members": {"type": "array", "items": {"$ref": "#/components/schemas/Member"}},
    "pause": ONLY_TRUE,
    "scheduled_switchover": _object({"at": ISO, "from": TEXT, "to": TEXT}, ("at",)),
    "scope": TEXT,
}, ("members", "scope"))

HISTORY: Json = {
    "type": "array", "description": "one line for every promotion",
    "items": {"type": "array", "minItems": 3, "maxItems": 5, "items": {"type": ["integer", "string", "null"]},
              "description": "the timeline that ended, where, why, when, and the new leader"},
}

CONFIG: Json = {"type": "object", "description": "the dynamic configuration as it is stored", "additionalProperties": True}
MEMBER_URLS: Json = {"type": "object", "description": "members and their addresses", "additionalProperties": TEXT}

CONFIG_CHANGE: Json = {"type": "object", "minProperties": 1, "additionalProperties": True,
                       "description": "laid over the stored document: null removes a key, objects are merged, lists replaced"}
CONFIG_WHOLE: Json = {"type": "object", "minProperties": 1, "additionalProperties": True, "description": "the whole document"}
RESTART = _object({
    "schedule": ISO,
    "role": {"enum": ["primary", "standby_leader", "replica"], "description": "only if this is its role"},
    "postgres_version": {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,4}){1,2}$", "description": "only if it is older"},
    "timeout": {"type": ["integer", "string"], "description": "seconds, or with a unit: 30s, 5min", "examples": [30, "5min"]},
    "restart_pending": {"description": "present, whatever its value: only if a restart is pending"},
}, additionalProperties=False)
REINITIALIZE = _object({
    "force": {**LOOSE_BOOLEAN, "description": "cancel what runs first"},
    "from_leader": {**LOOSE_BOOLEAN, "description": "copy from the leader, whoever else offers"},
})
SWITCHOVER = _object({
    "leader": {**TEXT, "description": "the present leader"},
    "candidate": {**_optional(TEXT), "description": "who is to lead; needed in maintenance mode"},
    "member": {**_optional(TEXT), "description": "another word for candidate"},
    "scheduled_at": {**_optional(ISO), "description": "when; not in maintenance mode"},
}, ("leader",))
FAILOVER = _object({
    "leader": {**_optional(TEXT), "description": "if given, this is a switchover"},
    "candidate": {**TEXT, "description": "who is to lead"},
    "member": {**_optional(TEXT), "description": "another word for candidate"},
}, ("candidate",))
FAILSAFE = _object({
    "name": TEXT, "conn_url": TEXT, "api_url": TEXT, "slots": {"type": "object", "additionalProperties": INTEGER},
}, ("name", "conn_url", "api_url"))
REPORT = _object({
    "type": {"enum": ["before_demote", "before_promote", "after_promote"]}, "group": INTEGER, "leader": TEXT,
    "timeout": {"type": "number"}, "cooldown": {"type": "number"},
}, ("type", "group"))

SCHEMAS: dict[str, Json] = {
    "Cluster": CLUSTER, "Config": CONFIG, "ConfigChange": CONFIG_CHANGE, "ConfigWhole": CONFIG_WHOLE, "Failover": FAILOVER,
    "Failsafe": FAILSAFE, "History": HISTORY, "Member": MEMBER, "MemberUrls": MEMBER_URLS, "Node": NODE, "Own": OWN,
    "Reinitialize": REINITIALIZE, "Report": REPORT, "Restart": RESTART, "Sender": SENDER, "Switchover": SWITCHOVER, "Xlog": XLOG,
}
