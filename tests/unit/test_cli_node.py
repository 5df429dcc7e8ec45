"""Commands about one node's configuration: its JSON Schema, the plugins it uses (architecture 9, 12)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pgcore.cli.generate import make_sample
from pgcore.model.basics import Timing

ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI"))}
RICH = """
scope: demo
name: a
restapi: {listen: '127.0.0.2:8008', allowlist: 127.0.0.0/8, authentication: {username: u, password_file: /x}, certfile: null}
etcd3: {hosts: 127.0.0.1:2379}
log: {mode: 0644, format: [message, {levelname: severity}], type: json, file_size: 25MB}
bootstrap:
  dcs:
    synchronous_mode: true
    member_slots_ttl: 30min
    master_start_timeout: 5
    slots: {a: {type: physical}, b: null, c: {database: x, plugin: pgoutput}}
    ignore_slots: [{name: x, type: physical}]
    standby_cluster: {host: h, port: 5432}
    postgresql: {parameters: {max_connections: 100}, use_slots: true}
  initdb: [data-checksums, {encoding: UTF8}]
postgresql:
  listen: '*:5432'
  data_dir: /data
  pg_hba: |
    local all all trust
    host all all all md5
  create_replica_method: [mine, basebackup]
  mine: {command: /bin/true, no_leader: 1}
  authentication: {replication: {username: r, sslmode: prefer}, superuser: {username: s}}
  pg_ctl_timeout: 1min
watchdog: {mode: off}
tags: {nofailover: true, rack: a1}
citus: {group: 0, database: app}
plugins: {use: [x], block: y}
"""


def pgcore(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pgcore", *arguments], env=CLEAN | environment, capture_output=True, text=True,
                          timeout=60)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    done = pgcore("config", "schema")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(document)
    return document


def complaints(schema: dict[str, Any], document: Any) -> list[str]:
    return sorted(error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(document))


def test_the_schema_accepts_every_example_and_what_is_generated(schema: dict[str, Any]) -> None:
    paths = sorted([*ROOT.glob("examples/raft-node*.yml"), *ROOT.glob("examples/postgres*.yml")])
    assert len(paths) >= 6
    for path in paths:
        assert complaints(schema, yaml.safe_load(path.read_text())) == [], path
    assert complaints(schema, make_sample({}, Timing()).tree) == []
    assert complaints(schema, yaml.safe_load(RICH)) == []


@pytest.mark.parametrize(("change", "path"), [
    ("scope: null", "$.scope"), ("log: {level: LOUD}", "$.log.level"), ("restapi: {listen: 5}", "$.restapi.listen"),
    ("restapi: {}", "$.restapi"), ("etcd3: {protocol: [http]}", "$.etcd3.protocol"),
    ("watchdog: {safety_margin: -2}", "$.watchdog"),
    ("restapi: {listen: 'a:1', authentication: {username: u}}", "$.restapi.authentication"),
    ("bootstrap: {dcs: {synchronous_mode: sometimes}}", "$.bootstrap.dcs.synchronous_mode"),
    ("bootstrap: {dcs: {ttl: soon}}", "$.bootstrap.dcs.ttl"), ("tags: {nofailover: 'yes'}", "$.tags.nofailover"),
    ("postgresql: {listen: 'a:1', data_dir: /x, parameters: [a]}", "$.postgresql.parameters")])
def test_the_schema_refuses_what_the_agent_would(schema: dict[str, Any], change: str, path: str) -> None:
    document = yaml.safe_load(RICH) | yaml.safe_load(change)
    found = complaints(schema, document)
    assert len(found) == 1 and found[0].startswith(path), found


def test_the_schema_describes_the_sections_of_plugins_and_keeps_secrets_out(schema: dict[str, Any]) -> None:
    assert {"etcd", "etcd3", "raft", "citus", "postgresql"} <= set(schema["properties"])
    assert "default" not in schema["properties"]["restapi"]["properties"]["keyfile_password"]
    dynamic = json.loads(pgcore("config", "schema", "--dynamic").stdout)
    assert {"ttl", "slots", "synchronous_mode", "postgresql"} <= set(dynamic["properties"])
    assert "scope" not in dynamic["properties"]


def test_plugins_are_shown_as_an_agent_with_this_file_uses_them(tmp_path: Path) -> None:
    path = tmp_path / "node.yml"
    path.write_text("scope: demo\netcd3: {host: a}\nkubernetes: {labels: b}\nplugins: {block: [raft], use: [gadget]}\n")
    done = pgcore("-c", str(path), "plugins", "-f", "json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert {name: rows[name]["state"] for name in ("etcd3", "etcd", "raft", "initdb", "kubernetes", "gadget")} == {
        "etcd3": "active", "etcd": "available", "raft": "refused", "initdb": "active", "kubernetes": "active", "gadget": "failed"}
    assert rows["raft"]["reason"] == "blocked by plugins.block"
    assert rows["etcd3"]["hooks"] == ["pgcore_stores"] and rows["etcd3"]["version"]
    alone = {row["name"]: row["state"] for row in json.loads(pgcore("plugins", "-f", "json").stdout)}
    assert alone["etcd3"] == alone["raft"] == alone["initdb"] == alone["kubernetes"] == "available"


def test_the_agent_takes_the_file_of_the_global_option_too(tmp_path: Path) -> None:
    path = tmp_path / "node.yml"
    path.write_text("scope: [\n")
    for arguments in (("-c", str(path), "run"), ("run", str(path))):
        done = pgcore(*arguments, PGCORE_SCOPE="elsewhere")
        assert done.returncode == 1 and done.stderr.startswith(f"pgcore: {path}:"), done.stderr
    for arguments in (("-c", str(path), "run", str(path)), ("-d", "etcd3://127.0.0.1", "run"), ("-k", "run"), ("run", "a", "b")):
        done = pgcore(*arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    done = pgcore("-c", str(tmp_path / "none.yml"), "plugins")
    assert done.returncode == 1 and "none.yml" in done.stderr and "Traceback" not in done.stderr
