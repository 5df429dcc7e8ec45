"""The dynamic configuration and what follows from it for this node (config 1.3-1.6, 5, 6, 7.1, 10-13, 16)."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pgcore.config.document import patch
from pgcore.config.dynamic import Effective, effective, initial_document, read_cache, write_cache
from pgcore.config.load import LocalConfig, load_local
from pgcore.config.server import bootstrap_method, callbacks, replica_methods, server_settings, settings_by_role
from pgcore.errors import ConfigErrors
from pgcore.model.basics import Role, Timing
from pgcore.model.server import Credentials, ServerSettings

NODE: dict[str, Any] = {
    "scope": "demo", "name": "node1", "restapi": {"listen": "127.0.0.2:18008"}, "etcd3": {"hosts": ["127.0.0.1:2379"]},
    "bootstrap": {"dcs": {"ttl": 40, "loop_wait": 10, "retry_timeout": 10}, "initdb": ["data-checksums"]},
    "postgresql": {
        "listen": "127.0.0.2,10.0.0.5:15432", "data_dir": "/tmp/demo/node1/data", "bin_dir": "/usr/lib/postgresql/15/bin",
        "authentication": {
            "superuser": {"username": "postgres", "password": "s", "channel_binding": "prefer", "sslnegotiation": "direct"},
            "replication": {"username": "replicator", "password": "r", "sslmode": "require"},
            "rewind": {"username": "rewinder"}},
        "parameters": {"unix_socket_directories": "/tmp/demo/node1"}, "pg_hba": ["local all all trust"]}}


def local(**changes: Any) -> LocalConfig:
    return load_local(None, {"PGCORE_CONFIGURATION": yaml.safe_dump(patch(NODE, changes))}, {})


def read(document: Any, **changes: Any) -> Effective:
    return effective(local(**changes), document)


def settings(document: Any, *, server_major: int | None = 15, role: Role | None = None, **changes: Any) -> ServerSettings:
    config = local(**changes)
    return server_settings(effective(config, document), config, server_major=server_major, role=role)


def warned(result: Effective) -> str:
    return "\n".join(str(warning) for warning in result.warnings)


# -- timing ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("document", "timing"), [
    ({}, (30, 10, 10)), ({"ttl": 60}, (60, 10, 10)), ({"retry_timeout": 14}, (30, 2, 14)), ({"retry_timeout": 20}, (30, 1, 14)),
    ({"ttl": "40", "loop_wait": "5"}, (40, 5, 10)), ({"ttl": 1, "retry_timeout": 0, "loop_wait": 0}, (5, 1, 1)),
    ({"ttl": None}, (30, 10, 10))])
def test_timing_is_fitted_to_its_rule(document: Any, timing: tuple[int, int, int]) -> None:
    """Adjusted, never refused (EC 210)."""
    assert read(document).timing == Timing(*timing)


def test_a_corrected_timing_is_reported() -> None:
    """(EC 210)"""
    assert "retry_timeout: is 20" in warned(read({"retry_timeout": 20})) and "14 is used" in warned(read({"retry_timeout": 20}))
    assert warned(read({})) == ""


def test_beside_patroni_its_higher_floors_hold() -> None:
    config = local()
    document = {"ttl": 10, "loop_wait": 3, "retry_timeout": 2}
    assert effective(config, document, patroni_present=True).timing == Timing(20, 3, 3)
    assert effective(config, document).timing == Timing(10, 3, 2)
    assert effective(config, document, ttl_floor=15).timing == Timing(15, 3, 2)


@given(st.integers(-5, 200), st.integers(-5, 200), st.integers(-5, 200), st.booleans(), st.integers(0, 60))
def test_no_timing_breaks_the_rule(ttl: int, loop_wait: int, retry_timeout: int, patroni: bool, floor: int) -> None:
    document = {"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout}
    timing = effective(_LOCAL, document, patroni_present=patroni, ttl_floor=floor).timing
    assert timing.loop_wait + 2 * timing.retry_timeout <= timing.ttl and timing.loop_wait >= 1


_LOCAL = local()


# -- settings of the cluster -------------------------------------------------------------------------------------------------

def test_an_empty_document_means_the_defaults() -> None:
    result = read({})
    assert (result.ha.maximum_lag_on_failover, result.ha.maximum_lag_on_syncnode, result.ha.primary_start_timeout,
            result.ha.synchronous_mode, result.ha.synchronous_node_count, result.ha.member_slots_ttl, result.ha.pause) == \
        (1048576, -1, 300, "off", 1, 1800, False)
    assert result.standby_cluster is None and result.slots == {} and result.ignore_slots == ()


def test_every_setting_is_read() -> None:
    result = read({"maximum_lag_on_failover": "0x10", "master_start_timeout": 5, "synchronous_mode": "Quorum",
                   "failsafe_mode": "on", "check_timeline": True, "member_slots_ttl": "5min", "pause": True,
                   "max_timelines_history": 3,
                   "primary_race_backoff": 2, "synchronous_node_count": 2, "primary_stop_timeout": 7})
    ha = result.ha
    assert (ha.maximum_lag_on_failover, ha.primary_start_timeout, ha.synchronous_mode, ha.failsafe_mode, ha.check_timeline,
            ha.member_slots_ttl, ha.pause, ha.max_timelines_history, ha.primary_race_backoff, ha.synchronous_node_count,
            ha.primary_stop_timeout) == (16, 5, "quorum", True, True, 300, True, 3, 2, 2, 7)
    assert warned(result) == ""


@pytest.mark.parametrize(("value", "mode"), [(True, "on"), ("true", "on"), ("yes", "on"), (1, "on"), (False, "off"), ("0", "off"),
                                             ("QUORUM", "quorum")])
def test_synchronous_mode_has_many_spellings(value: Any, mode: str) -> None:
    assert read({"synchronous_mode": value}).ha.synchronous_mode == mode


@pytest.mark.parametrize(("key", "value"), [
    ("maximum_lag_on_failover", "1MB"), ("maximum_lag_on_failover", -1), ("primary_start_timeout", "5min"),
    ("primary_race_backoff", -3), ("member_slots_ttl", [])])
def test_a_refused_value_becomes_the_default_with_a_warning(key: str, value: Any) -> None:
    result = read({key: value, "loop_wait": 5})
    assert result.ha == read({}).ha and result.timing.loop_wait == 5
    assert f"{key}: wants" in warned(result) and "the default is used" in warned(result)


def test_a_failsafe_quorum_that_has_no_effect_is_named_with_the_reason() -> None:
    whole = {"failsafe_quorum": True, "failsafe_mode": True, "synchronous_mode": "quorum"}
    assert warned(read(whole)) == "" and read(whole).ha.failsafe_quorum
    assert "failsafe_mode is off" in warned(read(whole | {"failsafe_mode": False}))
    assert "synchronous_mode is on, not quorum" in warned(read(whole | {"synchronous_mode": "on"}))
    assert "a Patroni member" in warned(effective(_LOCAL, whole, patroni_present=True))


@pytest.mark.parametrize(("key", "value"), [
    ("synchronous_mode", "qourum"), ("synchronous_mode_strict", "maybe"), ("synchronous_node_count", "two"),
    ("failsafe_mode", "7"), ("failsafe_quorum", []), ("check_timeline", "new"), ("pause", "soon")])
def test_a_misspelled_protection_refuses_the_document(key: str, value: Any) -> None:
    """Its default would be less protection than what is in force."""
    with pytest.raises(ConfigErrors, match=rf"dynamic configuration: {key}: wants .*correct it with PATCH /config"):
        read({key: value, "loop_wait": 5})


@pytest.mark.parametrize(("document", "words"), [
    ({"synchronous_mode_strict": True}, "synchronous_mode_strict: has no effect: synchronous_mode is off"),
    ({"synchronous_mode": "on", "synchronous_node_count": 0}, "synchronous_node_count: is 0: commits wait for no standby"),
    ({"synchronous_mode": "quorum", "synchronous_mode_strict": True, "synchronous_node_count": 0}, "is 0: 1 is used"),
    ({"slots": {"a": {"type": "physical", "cluster_type": "bogus"}}},
     "slots.a.cluster_type: wants primary or standby, has 'bogus'"),
    ({"ignore_slots": [{"nmae": "x"}]}, "ignore_slots[0].nmae: is no property of a slot and does not count: more slots match "
                                        "(did you mean name?)"),
])
def test_what_does_not_do_what_it_seems_to_is_said(document: dict[str, Any], words: str) -> None:
    assert words in warned(read(document))


@pytest.mark.parametrize("document", [
    {"synchronous_mode": "on", "synchronous_mode_strict": True}, {"synchronous_mode": "off", "synchronous_node_count": 0},
    {"slots": {"a": {"type": "physical", "cluster_type": "standby"}}}, {"ignore_slots": [{"name": "x", "type": "physical"}]}])
def test_what_fits_together_is_not_complained_about(document: dict[str, Any]) -> None:
    assert warned(read(document)) == ""


@pytest.mark.parametrize("document", [{"standby_cluster": {"host": "h", "port": "abc"}}, {"standby_cluster": "x"},
                                      {"slots": ["a"]}, {"ignore_slots": {"name": "x"}}, {"ignore_slots": ["x"]}])
def test_a_refusal_shows_the_value_and_a_remedy(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(document)
    (error,) = caught.value.errors
    assert "has " in error.problem and error.hint


def test_strict_mode_wants_at_least_one_synchronous_node() -> None:
    assert read({"synchronous_node_count": 0}).ha.synchronous_node_count == 0
    assert read({"synchronous_node_count": 0, "synchronous_mode_strict": True}).ha.synchronous_node_count == 1


def test_unknown_keys_are_named() -> None:
    assert "did you mean synchronous_mode?" in warned(read({"synchronus_mode": True}))


@pytest.mark.parametrize("document", [
    [], "x", {"ttl": "soon"}, {"ttl": []}, {"postgresql": []}, {"postgresql": {"parameters": ["a"]}}, {"slots": ["a"]},
    {"ignore_slots": {"a": 1}}, {"ignore_slots": ["a"]}, {"standby_cluster": "host"}, {"standby_cluster": {"port": "x"}}])
def test_a_document_of_the_wrong_shape_is_refused_whole(document: Any) -> None:
    with pytest.raises(ConfigErrors, match="dynamic configuration"):
        read(document)


def test_a_standby_cluster_needs_a_source() -> None:
    result = read({"standby_cluster": {"host": "a,b", "port": "5433", "create_replica_methods": ["x"]}, "synchronous_mode": True})
    assert result.standby_cluster is not None
    assert (result.standby_cluster.host, result.standby_cluster.port) == ("a,b", 5433)
    assert not result.synchronous and read({"synchronous_mode": True}).synchronous
    assert read({"standby_cluster": {"port": 5433}}).standby_cluster is not None
    assert read({"standby_cluster": {"restore_command": "cp"}}).standby_cluster is not None
    without = read({"standby_cluster": {"primary_slot_name": "x"}})
    assert without.standby_cluster is None and "set host, port or restore_command" in warned(without)


def test_every_node_of_a_standby_cluster_restores_as_its_section_says() -> None:
    """EC 204: a cascading replica, too; the section wins over recovery_conf, its delay is for the standby leader alone."""
    section = {"host": "x", "restore_command": "theirs", "recovery_min_apply_delay": "5min"}
    own = {"restore_command": "ours", "archive_cleanup_command": "mine"}
    server = settings({"standby_cluster": section}, postgresql={"recovery_conf": own})
    assert server.recovery_conf == {"restore_command": "theirs", "archive_cleanup_command": "mine"}
    assert server.leader_apply_delay == "5min"
    assert settings({}, postgresql={"recovery_conf": own}).recovery_conf == own


def test_slots_are_normalised_and_bad_ones_left_out() -> None:
    result = read({"slots": {"a": None, "b": {"type": "physical", "cluster_type": "primary"},
                             "c": {"database": "d", "plugin": "p"}, "Bad": {}, "d": {"type": "logical"},
                             "e": {"type": "odd"}, "f": "physical"}})
    assert result.slots == {"a": {"type": "physical"}, "b": {"type": "physical", "cluster_type": "primary"},
                            "c": {"type": "logical", "database": "d", "plugin": "p"}}
    assert len(result.warnings) == 4


def test_the_oldest_name_of_slots_wins() -> None:
    assert list(read({"slots": {"a": {}}, "permanent_slots": {"b": {}}}).slots) == ["b"]


def test_ignored_slots_are_kept_as_they_are() -> None:
    assert read({"ignore_slots": [{"name": "x"}, {}]}).ignore_slots == ({"name": "x"}, {})


def test_old_servers_keep_no_slots_of_vanished_members() -> None:
    assert effective(local(), {}, server_major=10).ha.member_slots_ttl == 0


# -- postgresql --------------------------------------------------------------------------------------------------------------

def test_local_values_win_but_not_for_what_the_cluster_decides() -> None:
    document = {"postgresql": {"parameters": {"Max_Connections": "0x40", "work_mem": "8MB", "unix_socket_directories": "/x"},
                               "use_slots": False, "pg_hba": ["dynamic"], "pg_ctl_timeout": 30, "data_dir": "/elsewhere"}}
    result = read(document, postgresql={"use_slots": True, "parameters": {"max_connections": 5, "work_mem": "4MB", "port": 1}})
    assert result.postgresql.parameters["max_connections"] == 64
    assert result.postgresql.parameters["work_mem"] == "4MB"
    assert result.postgresql.parameters["unix_socket_directories"] == "/tmp/demo/node1"
    assert result.postgresql.use_slots is False
    assert result.postgresql.pg_hba == ("local all all trust",) and result.postgresql.pg_ctl_timeout == 30
    assert "data_dir" not in result.postgresql_tree
    for path in ("postgresql.data_dir", "postgresql.parameters.max_connections", "postgresql.parameters.port"):
        assert f"{path}: has no effect" in warned(result)


@pytest.mark.parametrize(("name", "value", "used"), [
    ("max_connections", 24, 100), ("max_connections", 25, 25), ("max_wal_senders", "x", 10), ("wal_level", "MINIMAL", "replica"),
    ("wal_level", "Logical", "logical"), ("wal_level", "hot_standby", "replica"), ("wal_log_hints", False, "off"),
    ("hot_standby", "off", "on"), ("track_commit_timestamp", "yes", "on"), ("wal_keep_size", "1MB", "128MB"),
    ("wal_keep_size", "1GB", "1GB"), ("wal_keep_segments", 10, None), ("max_prepared_transactions", -1, 0)])
def test_controlled_parameters_are_checked(name: str, value: Any, used: Any) -> None:
    assert settings({"postgresql": {"parameters": {name: value}}}).parameters.get(name) == used


def test_bare_booleans_become_words() -> None:
    given = {"synchronous_commit": True, "fsync": False, "x": None, "y": [1]}
    parameters = settings({"postgresql": {"parameters": given}}).parameters
    assert parameters["synchronous_commit"] == "on" and parameters["fsync"] == "off"
    assert "x" not in parameters and "y" not in parameters


@pytest.mark.parametrize(("major", "given", "expected"), [
    (15, {"wal_keep_segments": 10}, {"wal_keep_size": "160MB"}),
    (15, {"wal_keep_segments": 10, "wal_keep_size": "1GB"}, {"wal_keep_size": "1GB"}),
    (12, {"wal_keep_size": "100MB"}, {"wal_keep_segments": 6}), (None, {}, {}),
    (12, {"wal_keep_segments": 3}, {"wal_keep_segments": 3})])
def test_the_server_gets_the_wal_keep_setting_it_knows(major: int | None, given: Any, expected: Any) -> None:
    parameters = settings({"postgresql": {"parameters": given}}, server_major=major).parameters
    assert {name: value for name, value in parameters.items() if name.startswith("wal_keep")} == expected


def test_addresses_and_paths_of_the_server(tmp_path: Path) -> None:
    server = settings({}, postgresql={"data_dir": str(tmp_path)})
    assert (server.parameters["listen_addresses"], server.parameters["port"], server.parameters["cluster_name"]) == \
        ("127.0.0.2,10.0.0.5", 15432, "demo")
    assert server.connect_address == "127.0.0.2:15432" and server.config_dir == str(tmp_path)
    assert server.pgpass is not None and server.pgpass.endswith("/pgpass") and os.path.isabs(server.pgpass)
    assert settings({}, postgresql={"listen": "*"}).connect_address == "localhost:5432"
    assert settings({}, postgresql={"data_dir": "data"}).data_dir == os.path.abspath("data")
    assert settings({}, postgresql={"listen": "[::1]:1"}).connect_address == "[::1]:1"


def test_connection_options_are_filtered_by_version() -> None:
    assert settings({}, server_major=12).superuser == Credentials("postgres", "s", {})
    assert settings({}, server_major=15).superuser.options == {"channel_binding": "prefer"}
    assert settings({}, server_major=17).superuser.options == {"channel_binding": "prefer", "sslnegotiation": "direct"}
    assert settings({}).replication.options == {"sslmode": "require"}


def test_the_superuser_rewinds_where_the_rewind_user_cannot() -> None:
    assert settings({}).rewind.username == "rewinder"
    assert settings({}, server_major=10).rewind.username == "postgres"
    assert settings({}, postgresql={"authentication": {"rewind": None}}).rewind.username == "postgres"


def test_recovery_settings_are_moved_out_of_the_parameters() -> None:
    recovery = {"restore_command": "b", "archive_cleanup_command": "c", "primary_conninfo": "x"}
    server = settings({"postgresql": {"parameters": {"restore_command": "a", "recovery_target_time": "x"}}},
                      postgresql={"recovery_conf": recovery})
    assert server.recovery_conf == {"restore_command": "a", "archive_cleanup_command": "c"}
    assert not {"restore_command", "recovery_target_time"} & set(server.parameters)


def test_synchronous_standby_names_belong_to_the_agent_in_synchronous_mode() -> None:
    document = {"postgresql": {"parameters": {"synchronous_standby_names": "x"}}}
    assert settings(document).parameters["synchronous_standby_names"] == "x"
    assert "synchronous_standby_names" not in settings({**document, "synchronous_mode": "quorum"}).parameters


def test_a_role_has_its_own_parameters_and_hba() -> None:
    changes = {"postgresql": {"parameters_replica": {"work_mem": "1MB", "max_connections": 7}, "pg_hba_primary": ["p"]}}
    assert settings({}, role=Role.REPLICA, **changes).parameters["work_mem"] == "1MB"
    assert settings({}, role=Role.REPLICA, **changes).parameters["max_connections"] == 100
    assert "work_mem" not in settings({}, role=Role.PRIMARY, **changes).parameters
    assert settings({}, role=Role.PRIMARY, **changes).pg_hba == ("p",)
    assert settings({}, **changes).pg_hba == ("local all all trust",)


def test_what_a_role_cannot_have_of_its_own_is_said() -> None:
    section = {"parameters_replica": {"work_mem": "1MB", "max_connections": 7, "port": 1, "unix_socket_directories": "/x"},
               "pg_ident_standby_leader": ["a b c"], "pg_hba_primary": ["p"], "pg_hba": ["q"]}
    told = {warning.path: warning.problem for warning in read({"postgresql": section}).warnings}
    assert sorted(told) == ["postgresql.parameters_replica.max_connections", "postgresql.parameters_replica.port",
                            "postgresql.parameters_replica.unix_socket_directories", "postgresql.pg_ident_standby_leader"]
    assert "pg_ident is not set, so nothing replaces it" in told["postgresql.pg_ident_standby_leader"]
    mine = settings({"postgresql": section}, role=Role.REPLICA).parameters
    assert (mine["work_mem"], mine["max_connections"]) == ("1MB", 100) and mine["unix_socket_directories"] != "/x"


def test_every_role_has_settings_of_its_own_if_one_has_overrides() -> None:
    node = local()
    assert settings_by_role(effective(node, {}), node, server_major=15) == {}
    document = {"postgresql": {"parameters": {"work_mem": "4MB"}, "parameters_primary": {"work_mem": "5MB"}}}
    found = settings_by_role(effective(node, document), node, server_major=15)
    assert {role.value: server.parameters["work_mem"] for role, server in found.items()} == {
        "primary": "5MB", "promoted": "5MB", "replica": "4MB", "demoted": "4MB", "standby_leader": "4MB"}


def test_citus_adjusts_the_server_and_the_first_document() -> None:
    changes = {"citus": {"group": 0, "database": "c"}}
    server = settings({"postgresql": {"parameters": {"shared_preload_libraries": "a,citus"}}}, **changes)
    assert server.parameters["shared_preload_libraries"] == "citus,a"
    assert server.parameters["max_prepared_transactions"] == 200
    assert server.parameters["wal_level"] == "logical" and server.parameters["citus.local_hostname"] == "127.0.0.2"
    assert initial_document(local(**changes))["synchronous_mode"] == "quorum"


def test_bad_dynamic_postgresql_values_leave_the_default() -> None:
    result = read({"postgresql": {"use_pg_rewind": "perhaps", "pg_ctl_timeout": "x", "use_pg_rewnd": True}})
    assert result.postgresql.use_pg_rewind is False and result.postgresql.pg_ctl_timeout == 60
    assert len(result.warnings) == 3


# -- methods -----------------------------------------------------------------------------------------------------------------

def test_replica_methods_come_in_order_with_their_options() -> None:
    document = {"postgresql": {"create_replica_methods": ["walg", "basebackup"], "walg": {"command": "x"}}}
    methods = replica_methods(read(document, postgresql={"basebackup": ["verbose"]}))
    assert methods == [("walg", {"command": "x"}), ("basebackup", ["verbose"])]
    assert replica_methods(read({})) == [("basebackup", {})]
    standby = {**document, "standby_cluster": {"host": "a"}}
    assert replica_methods(read(standby)) == [("basebackup", {})]


def test_a_custom_bootstrap_needs_a_command() -> None:
    assert bootstrap_method(local()) == ("initdb", ["data-checksums"])
    custom = {"bootstrap": {"method": "restore", "restore": {"command": "x", "no_params": True}}}
    assert bootstrap_method(local(**custom)) == ("restore", {"command": "x", "no_params": True})
    assert bootstrap_method(local(bootstrap={"method": "restore"}))[0] == "initdb"
    assert bootstrap_method(local(bootstrap={"method": "restore"}), known=["restore"]) == ("restore", {})


def test_callbacks_are_those_with_a_command() -> None:
    assert callbacks(read({"postgresql": {"callbacks": {"on_start": "a", "on_stop": None}}})) == {"on_start": "a"}


# -- the first document, the cache -------------------------------------------------------------------------------------------

def test_a_new_cluster_starts_with_the_seed() -> None:
    assert initial_document(local())["ttl"] == 40
    assert effective(local(), None).timing == Timing(40, 10, 10)
    assert initial_document(local(bootstrap=None)) == {}


def test_a_seed_without_timing_gets_the_short_one_above_the_floor_of_the_store() -> None:
    config = local(bootstrap={"dcs": {"ttl": None, "loop_wait": None, "retry_timeout": None, "pause": False}})
    assert initial_document(config) == {"pause": False, "ttl": 10, "loop_wait": 3, "retry_timeout": 3}
    assert initial_document(config, ttl_floor=20) == {"pause": False, "ttl": 20, "loop_wait": 3, "retry_timeout": 3}
    partial = initial_document(local(bootstrap={"dcs": {"ttl": None, "loop_wait": 5}}))
    assert "ttl" not in partial and effective(local(), partial).timing == Timing(30, 5, 10)


def test_the_cache_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "patroni.dynamic.json"
    assert read_cache(str(path)) is None
    tmp_path.chmod(0o700)
    write_cache(str(path), {"ttl": 30})
    assert read_cache(str(path)) == {"ttl": 30} and stat.S_IMODE(path.stat().st_mode) == 0o600
    tmp_path.chmod(0o750)
    write_cache(str(path), {"ttl": 31})
    assert json.loads(path.read_text()) == {"ttl": 31} and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(TypeError):
        write_cache(str(path), {"ttl": object()})
    assert read_cache(str(path)) == {"ttl": 31} and len(list(tmp_path.iterdir())) == 1
    for garbage in ("", "[1]", "{", "{}"):
        path.write_text(garbage)
        assert read_cache(str(path)) is None


def test_under_root_the_cache_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(tmp_path, 12345, 12345)
    write_cache(str(tmp_path / "c"), {"a": 1})
    assert (tmp_path / "c").stat().st_uid == 12345
