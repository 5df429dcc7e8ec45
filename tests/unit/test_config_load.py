"""The local configuration from files, directories and the environment (config 1.1, 1.2, 17, 21)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgcore.config.document import equal, patch
from pgcore.config.load import LocalConfig, load_client, load_local
from pgcore.config.schema import option
from pgcore.config.sections import configuration_schema
from pgcore.errors import ConfigErrors

NODE = """\
scope: demo
namespace: //pg/ha/
name: node1
restapi:
  listen: 127.0.0.2:18008
  authentication: {username: api, password: api-secret}
  cafile: /ca.crt
  allowlist: [127.0.0.0/8]
etcd3:
  hosts: 127.0.0.1:2379,127.0.0.1:2479
  password: etcd-secret
bootstrap:
  dcs: {ttl: 30, member_slots_ttl: 30min}
  initdb: [encoding: UTF8, data-checksums]
postgresql:
  listen: 127.0.0.2:15432
  connect_address: 127.0.0.2:15432
  data_dir: /tmp/demo/node1/data
  authentication:
    superuser: {username: postgres, password: su-secret, sslmode: prefer}
    replication: {username: replicator, password: rep-secret}
  parameters: {unix_socket_directories: /tmp/demo/node1}
  pg_hba:
  - local all all trust
  create_replica_methods: [walg, basebackup]
  walg: {command: /bin/walg}
watchdog: {mode: off}
tags: {clonefrom: true, rack: a1}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Etcd:
    hosts: tuple[str, ...] = option((), doc="endpoints")
    password: str | None = option(None, secret=True, doc="password")
    banana: int = option(0, doc="a key of a plugin's own")


TYPES: Mapping[str, type] = {"etcd3": Etcd}
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(text: str = NODE, name: str = "node.yml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return put


def load(path: str | None, environ: dict[str, str] | None = None) -> LocalConfig:
    return load_local(path, {} if environ is None else environ, TYPES)


def errors_of(path: str | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigErrors) as caught:
        load(path, environ)
    return str(caught.value)


def test_a_node_file_is_read_into_sections(write: Write) -> None:
    config = load(write())
    assert (config.node.scope, config.node.name, config.node.store_path) == ("demo", "node1", "/pg/ha/demo")
    assert config.restapi.allowlist == ("127.0.0.0/8",)
    assert config.restapi.connect_address == "127.0.0.2:18008"
    assert config.postgresql.pg_hba == ("local all all trust",)
    assert config.bootstrap is not None and config.bootstrap.dcs["ttl"] == 30
    assert config.watchdog.effective_mode == "off"
    assert config.tags.clonefrom and config.tags.raw["rack"] == "a1"
    assert config.stores == ("etcd3",)
    assert config.plugin_sections["etcd3"].hosts == ("127.0.0.1:2379", "127.0.0.1:2479")
    assert config.warnings == ()


def test_the_ctl_section_falls_back_to_the_rest_api(write: Write) -> None:
    config = load(write())
    assert config.ctl.authentication is not None and config.ctl.authentication.username == "api"
    assert config.ctl.cacert == "/ca.crt"


def test_secrets_do_not_appear_in_the_representation(write: Write) -> None:
    assert "-secret" not in repr(load(write()))


def test_files_of_a_directory_are_patched_in_the_order_of_their_names(write: Write, tmp_path: Path) -> None:
    write(NODE, "10-node.yml")
    write("scope: other\nrestapi: {cafile: null, allowlist: [10.0.0.0/8]}\n", "20-site.yaml")
    write("scope: ignored\n", "30-notes.txt")
    config = load(str(tmp_path))
    assert config.node.scope == "other"
    assert config.restapi.cafile is None and config.restapi.allowlist == ("10.0.0.0/8",)
    assert config.restapi.listen == "127.0.0.2:18008"


def test_the_environment_wins_over_the_file_and_pgcore_over_patroni(write: Write) -> None:
    environ = {"PATRONI_SCOPE": "p", "PGCORE_SCOPE": "g", "PATRONI_NAME": "n", "PATRONI_RESTAPI_LISTEN": "", "HOME": "/h",
               "PATRONI_REPLICATION_SSLMODE": "require", "PATRONI_RESTAPI_ALLOWLIST": "10.0.0.1, 10.0.0.2",
               "PATRONI_POSTGRESQL_BIN_PG_CTL": "ctl", "PGCORE_ETCD3_BANANA": "3", "PATRONI_LOGLEVEL": "ERROR",
               "PATRONI_LOG_LEVEL": "debug", "PATRONI_LOG_LOGGERS": "urllib3: WARNING", "PATRONI_LOG_MODE": "0640",
               "PATRONICTL_CONFIG_FILE": "stays", "PATRONI_CITUS_FOO": "dropped"}
    config = load(write(), environ)
    assert (config.node.scope, config.node.name, config.restapi.listen) == ("g", "n", "127.0.0.2:18008")
    assert config.postgresql.authentication.replication.sslmode == "require"
    assert config.postgresql.authentication.replication.password == "rep-secret"
    assert config.restapi.allowlist == ("10.0.0.1", "10.0.0.2")
    assert config.postgresql.bin_name == {"pg_ctl": "ctl"}
    assert config.plugin_sections["etcd3"].banana == 3
    assert (config.log.level, config.log.loggers, config.log.mode) == ("DEBUG", {"urllib3": "WARNING"}, 0o640)
    assert environ == {"HOME": "/h", "PATRONICTL_CONFIG_FILE": "stays"}


def test_a_variable_that_cannot_be_converted_is_dropped_with_a_warning(write: Write) -> None:
    environ = {"PATRONI_RESTAPI_REQUEST_QUEUE_SIZE": "many", "PATRONI_LOG_STATIC_FIELDS": "{a"}
    config = load(write(), environ)
    assert config.restapi.request_queue_size == 5
    assert sorted(w.source for w in config.warnings) == ["PATRONI_LOG_STATIC_FIELDS", "PATRONI_RESTAPI_REQUEST_QUEUE_SIZE"]
    assert environ == {}


def test_a_store_section_can_come_from_the_environment(write: Write) -> None:
    environ = {"PATRONI_ZOOKEEPER_HOSTS": "'h1:1','h2:2'", "PATRONI_ZOOKEEPER_USE_SSL": "on", "PATRONI_ETCD_SRV_SUFFIX": "x",
               "PATRONI_FOO_HOST": "bar", "PATRONI_KUBERNETES_LABELS": "app: x, env: y"}
    config = load(write(), environ)
    assert config.tree["zookeeper"] == {"hosts": ["h1:1", "h2:2"], "use_ssl": "on"}
    assert config.tree["etcd"] == {"srv_suffix": "x"} and config.tree["foo"] == {"host": "bar"}
    assert config.tree["kubernetes"] == {"labels": {"app": "x", "env": "y"}}
    assert config.stores == ("etcd", "etcd3", "kubernetes", "zookeeper")
    assert any("one of several store sections" in str(warning) for warning in config.warnings)


def test_a_whole_document_in_the_environment_excludes_other_variables() -> None:
    environ = {"PATRONI_CONFIGURATION": NODE, "PATRONI_SCOPE": "other"}
    config = load(None, environ)
    assert config.node.scope == "demo" and config.source == "PATRONI_CONFIGURATION" and environ == {}


def test_a_document_in_the_environment_is_ignored_beside_a_file(write: Write) -> None:
    assert load(write(), {"PGCORE_CONFIGURATION": "scope: other"}).node.scope == "demo"


def test_the_environment_alone_is_enough() -> None:
    environ = {"PGCORE_SCOPE": "s", "PGCORE_NAME": "n", "PGCORE_RESTAPI_LISTEN": "127.0.0.1:8008", "PGCORE_ETCD3_HOST": "h",
               "PGCORE_POSTGRESQL_LISTEN": "127.0.0.1", "PGCORE_POSTGRESQL_DATA_DIR": "/d", "PGCORE_REPLICATION_USERNAME": "r"}
    config = load(None, environ)
    assert config.source == "environment" and config.reload() == config


def test_nothing_at_all_is_an_error() -> None:
    assert "Config is empty." in errors_of(None)
    assert "/does/not/exist.yml: does not exist" in errors_of("/does/not/exist.yml")


@pytest.mark.parametrize(("text", "message"), [
    ("", "wants a mapping of keys at the top level, but is empty"), ("- a", "wants a mapping of keys at the top level"),
    ("a: [1\nb: 2", "is not valid YAML: did not find expected ',' or ']' at line 2, column 2"),
    ("a: 1\n\tb: 2", "line 2, column 1"), ("a: &x [*x]", "contains itself"), ("a: 2023-99-99", "is not valid YAML")])
def test_text_that_is_no_configuration_is_refused(write: Write, text: str, message: str) -> None:
    assert message in errors_of(write(text))


def test_the_rest_api_may_listen_on_several_addresses(write: Write) -> None:
    text = NODE.replace("listen: 127.0.0.2:18008", "listen: ['127.0.0.2:18008', '[::1]:18008']")
    restapi = load(write(text)).restapi
    assert (restapi.listen, restapi.connect_address) == ("127.0.0.2:18008,[::1]:18008", "127.0.0.2:18008")
    text = NODE.replace("listen: 127.0.0.2:18008", "listen: '127.0.0.2:18008, *:18008'")
    assert "node.yml:5: restapi.listen: mixes * with other hosts of port 18008" in errors_of(write(text))


def test_a_key_given_twice_is_reported_with_both_lines(write: Write) -> None:
    config = load(write(NODE + "scope: again\n"))
    assert "node.yml:29: scope: is given twice; the value of line 1 is lost" in str(config.warnings[0])


def test_all_mistakes_come_together_with_their_lines(write: Write) -> None:
    text = NODE.replace("scope: demo\n", "").replace("listen: 127.0.0.2:18008", "listen: 127.0.0.2") \
        .replace("username: replicator, ", "").replace("etcd3:", "etcd9:")
    text = text.replace("127.0.0.2:15432\n  connect", "x:y\n  connect")
    found = errors_of(write(text))
    assert "scope: is required but missing" in found
    assert "node.yml:4: restapi.listen: wants host:port, has '127.0.0.2'" in found
    assert "node.yml:15: postgresql.listen: wants host:port with a port" in found
    assert "postgresql.authentication.replication.username: is required but missing" in found
    assert "has no section for a store (add one of consul, etcd, etcd3" in found
    assert len(found.splitlines()) == 5


def test_keys_without_effect_are_reported(write: Write) -> None:
    text = NODE + "ttl: 20\nsynchronous_mode: on\nlogs: {}\n"
    text = text.replace("  walg: {", "  use_slots: false\n  wagl: {}\n  create_replica_metods: []\n  walg: {")
    found = [str(warning).partition(": ")[2] for warning in load(write(text)).warnings]
    assert found == [
        "postgresql.create_replica_metods: is not a known key and has no effect (did you mean create_replica_methods?)",
        "postgresql.use_slots: has no effect in a local file (set postgresql.use_slots with PATCH /config; "
        "bootstrap.dcs.postgresql.use_slots only counts while a new cluster is made)",
        "ttl: has no effect in a local file (set ttl with PATCH /config; "
        "bootstrap.dcs.ttl only counts while a new cluster is made)",
        "synchronous_mode: has no effect in a local file (set synchronous_mode with PATCH /config; "
        "bootstrap.dcs.synchronous_mode only counts while a new cluster is made)",
        "logs: is not a known key and has no effect (did you mean log?)",
    ]


@pytest.mark.parametrize(("tags", "message"), [
    ("{nofailover: true, failover_priority: 2}", "contradicts failover_priority 2; nofailover wins"),
    ("{nosync: false, sync_priority: 0}", "contradicts sync_priority 0"),
    ("{noloadbalance: 'false'}", "which counts as true"), ("{failover_priority: high}", "which counts as 1"),
    ("{no_failover: true}", "did you mean nofailover?")])
def test_tags_that_do_not_mean_what_they_say_are_reported(write: Write, tags: str, message: str) -> None:
    config = load(write(NODE.replace("{clonefrom: true, rack: a1}", tags)))
    assert message in str(config.warnings[0])


def test_legacy_forms_are_understood(write: Write) -> None:
    old = """\
scope: demo
restapi: {listen: 127.0.0.2:18008}
zookeeper: {exhibitor: {hosts: [a], port: 8181}}
postgresql:
  name: node1
  listen: 127.0.0.2:15432
  data_dir: /d
  superuser: {username: postgres}
  replication: {username: replicator}
  pg_rewind: {username: rewinder}
  create_replica_method: [basebackup]
bootstrap: {post_init: /bin/true}
"""
    config = load(write(old))
    assert config.node.name == "node1" and config.stores == ("exhibitor",)
    assert config.postgresql.authentication.replication.username == "replicator"
    assert config.postgresql.authentication.rewind is not None and config.postgresql.use_pg_rewind
    assert config.postgresql.create_replica_methods == ("basebackup",)
    assert config.bootstrap is not None and config.bootstrap.post_bootstrap == "/bin/true"


def test_reload_reads_the_file_again_under_the_environment_of_the_start(write: Write) -> None:
    path = write()
    config = load(path, {"PATRONI_NAME": "from-environment"})
    assert config.reload() == config
    write(NODE.replace("rack: a1", "rack: b2"))
    again = config.reload()
    assert again != config and again.tags.raw["rack"] == "b2" and again.node.name == "from-environment"
    write("scope: [")
    with pytest.raises(ConfigErrors):
        config.reload()


def test_a_changed_password_file_shows_at_reload(write: Write, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("one\n")
    config = load(write(NODE.replace("password: rep-secret", f"password_file: {tmp_path}/pw")))
    assert config.postgresql.authentication.replication.password == "one"
    (tmp_path / "pw").write_text("two\n")
    assert config.reload() != config and config.reload().postgresql.authentication.replication.password == "two"


def test_small_thread_pools_are_raised(write: Write) -> None:
    config = load(write("thread_pool_size: 2\nthread_stack_size: 1kB\n" + NODE))
    assert (config.node.thread_pool_size, config.node.thread_stack_size) == (5, 65536)


def test_the_reserved_name_and_names_with_slashes_are_refused(write: Write) -> None:
    assert "is reserved" in errors_of(write(NODE.replace("name: node1", "name: __patroni_strict_sync_replica_placeholder__")))
    assert "name without slashes" in errors_of(write(NODE.replace("name: node1", "name: a/b")))


def test_the_command_line_needs_less(write: Write) -> None:
    client = load_client(write("etcd3: {hosts: a}\nctl: {insecure: true}\n"), {}, TYPES)
    assert client.scope is None and client.namespace == "service" and client.ctl.insecure and client.stores == ("etcd3",)
    assert load_client(None, {}, TYPES).stores == ()
    assert load_client(write(), {"PATRONI_SCOPE": "x"}, TYPES).scope == "x"
    with pytest.raises(ConfigErrors, match="does not exist"):
        load_client("/does/not/exist", {}, TYPES)
    with pytest.raises(ConfigErrors, match="YAML"):
        load_client(None, {"PGCORE_CONFIGURATION": "a: ["}, TYPES)


@pytest.mark.parametrize(("base", "change", "result"), [
    ({"a": 1, "b": 2}, {"a": None}, {"b": 2}), ({"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
    ({"a": 1}, {"a": {"y": 2}}, {"a": {"y": 2}}), ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}), ({"a": 2}, {"a": "2"}, {"a": 2}),
    ({}, {"a": None}, {})])
def test_patch_follows_its_rule(base: Any, change: Any, result: Any) -> None:
    before = repr(base)
    assert patch(base, change) == result and repr(base) == before


def test_documents_are_equal_if_their_texts_are() -> None:
    assert equal({"a": 2, "b": {"c": "x"}}, {"b": {"c": "x"}, "a": "2"})
    assert not equal({"a": 2}, {"a": 2, "b": 1}) and not equal({"a": {}}, {"a": "{}"})


def test_unreadable_files_are_named(write: Write, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a directory" in errors_of(str(tmp_path / "pipe"))
    assert "holds no .yml or .yaml file" in errors_of(str(tmp_path))
    (tmp_path / "latin.yml").write_bytes(b"scope: \xff")
    assert "it is not UTF-8 text" in errors_of(str(tmp_path / "latin.yml"))


def test_the_whole_schema_holds_the_sections_of_plugins() -> None:
    schema = configuration_schema(TYPES)
    assert schema["properties"]["etcd3"]["properties"]["banana"]["type"] == "integer"
    assert "maximum_lag_on_failover" in schema["properties"]["bootstrap"]["properties"]["dcs"]["properties"]


def test_tags_that_contradict_each_other_are_told_and_the_switch_wins(write: Write) -> None:
    """EC 220: it may fail over all the same; the number only says how it compares."""
    config = load(write(NODE.replace("{clonefrom: true, rack: a1}", "{nofailover: false, failover_priority: 0}")))
    assert not config.tags.nofailover and config.tags.failover_priority == 0
    assert any("contradicts failover_priority 0; nofailover wins" in str(warning) for warning in config.warnings)
