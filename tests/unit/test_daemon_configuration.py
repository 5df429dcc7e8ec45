"""The configuration in force: a real node file, the document in the store, the cache of an earlier run. (config 1.3 to 1.7)"""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from pgcore.daemon.configuration import CACHE_NAME, Configuration
from pgcore.errors import ConfigErrors
from pgcore.model.basics import Timing
from pgcore.model.cluster import ClusterView, ConfigRecord, Member
from unit.test_daemon_kit import configured, local, write_node_file

NEW = {"bootstrap": {"dcs": {"maximum_lag_on_failover": 7}}}
GOOD = {"ttl": 40, "loop_wait": 5, "retry_timeout": 8, "postgresql": {"parameters": {"max_connections": 55}}}
PATRONI = Member("old", data={"state": "running", "role": "replica"})
PGCORE = Member("new", data={"state": "running", "role": "replica", "pgcore_version": "0.1.0"})

BROKEN: dict[str, Any] = {
    "timing that is no number": {"ttl": "soon"},
    "parameters that are no mapping": {"postgresql": {"parameters": ["work_mem"]}},
    "slots that are no mapping": {"slots": ["one"]},
    "a wrong standby cluster": {"standby_cluster": {"host": "x", "port": "y"}},
    "a synchronous mode that there is not": {"synchronous_mode": "qourum"},
}


def view(document: Any, *members: Member) -> ClusterView:
    return ClusterView(config=ConfigRecord("1", document), members=members)


def timing(configuration: Configuration) -> tuple[int, int, int]:
    found = configuration.effective.timing
    assert found == configuration.settings().timing
    return found.ttl, found.loop_wait, found.retry_timeout


# -- where it begins -------------------------------------------------------------------------------------------------------


def test_a_node_that_may_make_a_cluster_begins_with_the_short_timing(tmp_path: Path) -> None:
    configuration = configured(tmp_path, NEW)
    assert timing(configuration) == (10, 3, 3)
    assert configuration.settings().dynamic == {"maximum_lag_on_failover": 7, "ttl": 10, "loop_wait": 3, "retry_timeout": 3}
    assert configuration.settings().maximum_lag_on_failover == 7


def test_the_floor_of_the_store_raises_the_short_timing(tmp_path: Path) -> None:
    assert timing(Configuration(local(tmp_path, NEW), 15, None))[0] == 15


def test_timing_named_by_the_operator_stays(tmp_path: Path) -> None:
    assert timing(configured(tmp_path, {"bootstrap": {"dcs": {"ttl": 60}}})) == (60, 10, 10)


def test_a_node_that_only_joins_begins_with_the_defaults_every_member_computes(tmp_path: Path) -> None:
    assert timing(configured(tmp_path)) == (30, 10, 10)


@pytest.mark.parametrize("document", [{}, {"maximum_lag_on_failover": 5}, {"ttl": None}])
def test_a_stored_document_without_timing_means_30_10_10(tmp_path: Path, document: Any) -> None:
    configuration = configured(tmp_path, NEW)
    assert configuration.update(view(document), None)
    assert timing(configuration) == (30, 10, 10)


# -- what the store says ----------------------------------------------------------------------------------------------------


def test_a_document_of_the_store_is_taken_over_whole(tmp_path: Path) -> None:
    configuration = configured(tmp_path, NEW)
    assert configuration.update(view(GOOD), None)
    assert timing(configuration) == (40, 5, 8)
    assert configuration.server.parameters["max_connections"] == 55
    assert configuration.server.retry_timeout == 8
    assert configuration.settings().maximum_lag_on_failover == 1048576
    assert configuration.server_stale and configuration.settings().server_stale


def test_the_same_document_again_changes_nothing(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    assert not configuration.update(view(json.loads(json.dumps(GOOD))), None)


def test_the_settings_of_the_rules_are_composed_anew_only_when_something_changed(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    found = [configuration.settings(), configuration.settings()]
    assert found[0] is found[1]
    configuration.update(view(dict(GOOD)), None)
    assert configuration.settings() is found[0]
    configuration.server_stale = not configuration.server_stale
    assert configuration.settings().server_stale is not found[0].server_stale
    configuration.force_feedback(on=True)
    assert configuration.settings().feedback_forced and not found[0].feedback_forced
    configuration.update(view({**GOOD, "ttl": 50}), None)
    assert configuration.settings().timing.ttl == 50
    write_node_file(tmp_path, {"tags": {"nofailover": True}})
    configuration.reload()
    assert configuration.settings().tags.nofailover and not found[0].tags.nofailover


def test_a_change_that_does_not_concern_the_server_leaves_it_alone(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    configuration.server_stale = False
    assert configuration.update(view({**GOOD, "maximum_lag_on_failover": 3}), None)
    assert not configuration.server_stale


@pytest.mark.parametrize("record", [None, ConfigRecord("1", None)], ids=["missing", "unreadable"])
def test_a_document_that_is_missing_or_unreadable_leaves_the_last_one_in_force(
    tmp_path: Path, record: ConfigRecord | None
) -> None:
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    assert not configuration.update(ClusterView(config=record), None)
    assert timing(configuration) == (40, 5, 8)


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_broken_document_is_refused_whole_and_the_last_good_one_stays(
    tmp_path: Path, damage: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Server parameters that are no mapping, for one (EC 211)."""
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    before = configuration.settings(), configuration.server
    assert not configuration.update(view({**GOOD, "loop_wait": 2, **damage}), None)
    assert (configuration.settings(), configuration.server) == before
    assert "is not used, the last good one stays in force" in caplog.text
    assert configuration.update(view({**GOOD, "loop_wait": 2}), None)
    assert timing(configuration) == (40, 2, 8)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "timing": ({"ttl": "soon"}, "bootstrap.dcs.ttl"),
    "parameters": ({"postgresql": {"parameters": ["work_mem"]}}, "bootstrap.dcs.postgresql.parameters"),
    "slots": ({"slots": ["one"]}, "bootstrap.dcs.slots"),
    "standby cluster": ({"standby_cluster": {"host": "x", "port": "y"}}, "bootstrap.dcs.standby_cluster"),
}


@pytest.mark.parametrize(("document", "key"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_bootstrap_dcs_is_refused_with_file_and_key(tmp_path: Path, document: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        configured(tmp_path, {"bootstrap": {"dcs": document}})
    assert all(error.source == str(tmp_path / "node.yml") for error in caught.value.errors)
    assert [error.path for error in caught.value.errors if error.path.startswith(key)]
    assert str(caught.value).startswith(f"{tmp_path / 'node.yml'}: {key}")
    assert "dynamic configuration" not in str(caught.value)


def test_every_mistake_in_bootstrap_dcs_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        configured(tmp_path, {"bootstrap": {"dcs": {"ttl": "soon", "slots": ["one"]}}})
    assert {error.path for error in caught.value.errors} == {"bootstrap.dcs.ttl", "bootstrap.dcs.slots"}


def test_bootstrap_dcs_does_not_matter_where_a_cached_document_is_good(tmp_path: Path) -> None:
    (data_directory(tmp_path) / CACHE_NAME).write_text(json.dumps(GOOD))
    assert timing(configured(tmp_path, {"bootstrap": {"dcs": {"ttl": "soon"}}})) == (40, 5, 8)


def test_a_document_that_stays_broken_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = configured(tmp_path)
    for _ in range(3):
        configuration.update(view({"ttl": "soon"}), None)
    assert caplog.text.count("is not used") == 1


def test_another_broken_document_is_reported_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = configured(tmp_path)
    for damage in ({"ttl": "soon"}, {"ttl": "later"}):
        configuration.update(view(damage), None)
    assert caplog.text.count("is not used") == 2 and "later" in caplog.text


def test_the_same_mistake_after_another_good_document_is_reported_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = configured(tmp_path)
    for document in ({"ttl": "soon"}, GOOD, {"ttl": "soon"}):
        configuration.update(view(document), None)
    assert caplog.text.count("is not used") == 2


def test_the_same_mistake_after_it_was_taken_back_is_reported_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = configured(tmp_path)
    for document in (GOOD, {"ttl": "soon"}, GOOD, {"ttl": "soon"}):
        configuration.update(view(document), None)
    assert caplog.text.count("is not used") == 2


def test_a_change_is_told_key_by_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    caplog.clear()
    changed = {**GOOD, "pause": True, "synchronous_mode": "on", "slots": {"a": {}}}
    changed["postgresql"] = {"parameters": {"max_connections": 70}}
    del changed["loop_wait"]
    configuration.update(view(changed), None)
    assert [record.getMessage() for record in caplog.records] == [
        "the dynamic configuration has changed: loop_wait: 5 -> not set, pause: not set -> true, "
        "postgresql.parameters.max_connections: 55 -> 70, slots, synchronous_mode: not set -> on"]


def test_a_server_whose_version_became_known_is_no_change_of_the_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    caplog.clear()
    configuration.update(view(GOOD), 15)
    assert "has changed" not in caplog.text


def test_it_is_told_when_the_last_good_document_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    configuration = configured(tmp_path)
    for document in (GOOD, GOOD, {"ttl": "soon"}, GOOD, GOOD):
        configuration.update(view(document), None)
    assert caplog.text.count("is the one in force again") == 1


def test_a_reload_tells_what_has_no_effect_in_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    configuration = configured(tmp_path)
    configuration.reload()
    assert "read again: nothing has changed" in caplog.text and "watchdog" not in caplog.text
    local(tmp_path, {"watchdog": {"mode": "requird"}, "tags": {"nofailover": True, "failover_priority": 5}})
    configuration.reload()
    assert "read again: it has changed" in caplog.text
    assert "watchdog.mode" in caplog.text and "requird" in caplog.text and "contradicts failover_priority 5" in caplog.text


# -- members that are Patroni -------------------------------------------------------------------------------------------------


def test_a_member_that_is_patroni_raises_the_ttl_and_its_end_lowers_it(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    short = {"ttl": 10, "loop_wait": 3, "retry_timeout": 3}
    configuration.update(view(short, PGCORE), None)
    assert timing(configuration) == (10, 3, 3)
    assert configuration.update(view(short, PGCORE, PATRONI), None)
    assert configuration.effective.timing == Timing(20, 3, 3)
    assert configuration.update(view(short, PGCORE), None)
    assert timing(configuration) == (10, 3, 3)


@pytest.mark.parametrize("already", [False, True], ids=["broken when it joins", "broken before"])
def test_a_patroni_that_joins_while_the_document_is_broken_counts_for_the_last_good_one(
    tmp_path: Path, already: bool, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = configured(tmp_path)
    short = {"ttl": 10, "loop_wait": 3, "retry_timeout": 3}
    configuration.update(view(short), None)
    if already:
        configuration.update(view({"ttl": "soon"}), None)
    assert configuration.update(view({"ttl": "soon"}, PATRONI), None)
    assert timing(configuration) == (20, 3, 3)
    assert not configuration.update(view({"ttl": "soon"}, PATRONI), None)
    assert not configuration.update(view(short, PATRONI), None)
    assert timing(configuration) == (20, 3, 3)
    assert caplog.text.count("is not used") == 1


# -- the server's version and plugins' parameters -----------------------------------------------------------------------------


def test_what_old_servers_cannot_do_is_off_once_the_version_is_known(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    assert configuration.settings().member_slots_ttl == 1800
    assert configuration.update(view({}), 10)
    assert configuration.settings().member_slots_ttl == 0


def test_parameters_a_plugin_insists_on_win_over_everything_configured(tmp_path: Path) -> None:
    configuration = Configuration(local(tmp_path), 5, None, lambda: {"work_mem": "1MB", "max_connections": "60"})
    configuration.update(view(GOOD), None)
    assert (configuration.server.parameters["work_mem"], configuration.server.parameters["max_connections"]) == ("1MB", "60")


# -- cache ----------------------------------------------------------------------------------------------------------------------


def data_directory(folder: Path, mode: int = 0o700) -> Path:
    """``folder/data``, which belongs to somebody else where the tests run as root."""
    data = folder / "data"
    data.mkdir()
    data.chmod(mode)
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        os.chown(data, account.pw_uid, account.pw_gid)
    return data


@pytest.mark.parametrize(("directory_mode", "file_mode"), [(0o700, 0o600), (0o750, 0o640)])
def test_the_document_is_kept_in_the_data_directory_with_its_owner(tmp_path: Path, directory_mode: int, file_mode: int) -> None:
    data = data_directory(tmp_path, directory_mode)
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    configuration.save_cache()
    written = (data / CACHE_NAME).stat()
    assert json.loads((data / CACHE_NAME).read_text()) == GOOD
    assert (written.st_uid, written.st_gid) == (data.stat().st_uid, data.stat().st_gid)
    assert stat.S_IMODE(written.st_mode) == file_mode
    assert os.listdir(data) == [CACHE_NAME]


def test_an_unchanged_document_is_not_written_again(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    configuration.save_cache()
    before = (data / CACHE_NAME).stat().st_ino
    configuration.save_cache()
    assert (data / CACHE_NAME).stat().st_ino == before
    configuration.update(view({**GOOD, "ttl": 50}), None)
    configuration.save_cache()
    assert json.loads((data / CACHE_NAME).read_text())["ttl"] == 50


def test_a_start_without_the_store_uses_the_cache(tmp_path: Path) -> None:
    (data_directory(tmp_path) / CACHE_NAME).write_text(json.dumps(GOOD))
    configuration = configured(tmp_path, NEW)
    assert timing(configuration) == (40, 5, 8)
    assert configuration.server.parameters["max_connections"] == 55


@pytest.mark.parametrize("text", ['{"ttl": "soon"}', "not json", "[]", ""])
def test_a_cache_that_cannot_be_used_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (data_directory(tmp_path) / CACHE_NAME).write_text(text)
    assert timing(configured(tmp_path, NEW)) == (10, 3, 3)


def test_a_cache_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configured(tmp_path).save_cache()
    assert f"cannot write {tmp_path / 'data' / CACHE_NAME}: No such file or directory" in caplog.text


# -- reload ---------------------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_in_force_after_a_reload(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    configuration.update(view(GOOD), None)
    configuration.server_stale = False
    write_node_file(tmp_path, {"tags": {"nofailover": True}, "postgresql": {"parameters": {"work_mem": "9MB"}}})
    assert configuration.reload()
    assert configuration.settings().tags.nofailover
    assert configuration.server.parameters["work_mem"] == "9MB" and configuration.server_stale
    assert timing(configuration) == (40, 5, 8)


def test_a_reload_of_an_unchanged_file_says_so_and_still_reloads_the_server(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    configuration.server_stale = False
    assert not configuration.reload()
    assert configuration.server_stale


@pytest.mark.parametrize(
    "change", [{"scope": None}, {"postgresql": {"data_dir": None}}, {"restapi": {"listen": "nowhere"}}], ids=str
)
def test_a_broken_file_leaves_everything_as_it_was(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    configuration = configured(tmp_path)
    before = configuration.settings(), configuration.server, configuration.local
    write_node_file(tmp_path, {"tags": {"nofailover": True}, **change})
    assert not configuration.reload()
    assert (configuration.settings(), configuration.server, configuration.local) == before
    assert "the configuration was not reloaded, the old one stays in force" in caplog.text
    write_node_file(tmp_path, {"tags": {"nofailover": True}})
    assert configuration.reload() and configuration.settings().tags.nofailover


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": "z"}, "name"),
        ({"scope": "other"}, "scope"),
        ({"namespace": "/other"}, "namespace"),
        ({"postgresql": {"data_dir": "/elsewhere"}}, "postgresql.data_dir"),
    ],
)
def test_what_needs_a_restart_stays_as_it_was_at_the_start(
    tmp_path: Path, change: dict[str, Any], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Lock, card and lease keep the old name: rules that know another one give up the primary, or look elsewhere for it."""
    configuration = configured(tmp_path)
    configuration.reload()
    before = configuration.server, configuration.settings(), configuration.local.node
    write_node_file(tmp_path, change)
    configuration.reload()
    assert (configuration.server, configuration.settings(), configuration.local.node) == before
    assert f"{key} stays " in caplog.text and "needs a restart of the agent" in caplog.text
    assert not configuration.reload()


def test_what_needs_no_restart_is_in_force_beside_what_does(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    write_node_file(tmp_path, {"name": "z", "tags": {"nofailover": True}})
    assert configuration.reload()
    assert (configuration.settings().name, configuration.settings().tags.nofailover) == ("a", True)


# -- what follows from it -------------------------------------------------------------------------------------------------------


def test_rest_and_peers_get_their_settings_from_the_file(tmp_path: Path) -> None:
    login = {"username": "admin", "password": "s"}
    configuration = configured(tmp_path, {"restapi": {"connect_address": "10.0.0.1:8008", "authentication": login}})
    assert configuration.settings().api_url == "http://10.0.0.1:8008/patroni"
    access = configuration.peer_access()
    assert (access.username, access.password, access.cacert) == ("admin", "s", None)


@pytest.mark.parametrize(("own", "cacert"), [({}, None), ({"certfile": "own.crt"}, "ca.crt")])
def test_an_authority_counts_for_peers_only_with_an_own_certificate(
    tmp_path: Path, own: dict[str, str], cacert: str | None
) -> None:
    assert configured(tmp_path, {"ctl": {"cacert": "ca.crt", **own}}).peer_access().cacert == cacert


@pytest.mark.parametrize(("patroni", "said"), [
    (False, "ttl: is 4, below the 12 s that the store needs at least; 12 is used"),
    (True, "ttl: is 4, below the 20 s that a Patroni member of this cluster needs at least; 20 is used")])
def test_a_ttl_below_the_floor_is_told_with_the_one_who_needs_more(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, patroni: bool, said: str) -> None:
    made = Configuration(local(tmp_path), 12, 15, floor_reason="sessions last twice as long")
    members = (Member("p", data={"version": "4.1.5"}),) if patroni else ()
    made.update(view({"ttl": 4}, *members), 15)
    assert said in caplog.text
    assert "[sessions last twice as long]" in caplog.text


@pytest.mark.parametrize(("mode", "own"), [("off", "ANY 1 (x, y)"), ("on", ""), ("quorum", "")])
def test_the_users_own_synchronous_names_count_only_while_the_mode_is_off(tmp_path: Path, mode: str, own: str) -> None:
    """(EC 138)"""
    configuration = configured(tmp_path)
    parameters = {"Synchronous_Standby_Names": "ANY 1 (x, y)"}
    configuration.update(view({**GOOD, "synchronous_mode": mode, "postgresql": {"parameters": parameters}}), None)
    assert configuration.settings().own_standby_names == own
    assert configuration.server.parameters.get("synchronous_standby_names", "") == own
