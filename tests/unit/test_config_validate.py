"""What `pgcore validate` finds: everything load finds, and what only this machine can tell (config 19)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgcore.config.document import patch
from pgcore.config.schema import option
from pgcore.config.validate import Problem, validate

PROGRAMS = ("pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Etcd:
    hosts: tuple[str, ...] = option((), doc="endpoints")
    password: str | None = option(None, secret=True, doc="password")


def free_ports() -> tuple[int, int]:
    """Two that differ."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.2", 0))
        other.bind(("127.0.0.2", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def free_port() -> int:
    return free_ports()[0]


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on which something listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.2", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def node(tmp_path: Path, listener: int) -> dict[str, Any]:
    """A configuration without problems on this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 15.4 (Debian)'\n")
        (programs / name).chmod(0o755)
    rest, server = free_ports()
    return {"scope": "demo", "name": "node1", "restapi": {"listen": f"127.0.0.2:{rest}"},
            "etcd3": {"hosts": [f"127.0.0.2:{listener}"]},
            "bootstrap": {"dcs": {"ttl": 30}},
            "postgresql": {"listen": f"127.0.0.2:{server}", "data_dir": str(tmp_path / "data"), "bin_dir": str(programs),
                           "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "r"}},
                           "os_user": "nobody"}}


def check(tmp_path: Path, node: dict[str, Any], changes: Any = None, **options: Any) -> list[Problem]:
    path = tmp_path / "node.yml"
    path.write_text(yaml.safe_dump(patch(node, changes or {}), sort_keys=False))
    return validate(str(path), {}, options.pop("types", {"etcd3": Etcd}), **options)


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_a_good_configuration_has_no_problems(tmp_path: Path, node: dict[str, Any]) -> None:
    assert check(tmp_path, node) == []


def test_a_busy_port_is_named_with_its_key(tmp_path: Path, node: dict[str, Any], listener: int) -> None:
    changes = {"restapi": {"listen": f"127.0.0.2:{listener}"}}
    problem = only(check(tmp_path, node, changes))
    assert problem.level == "error" and problem.path == "restapi.listen"
    assert f"port {listener} of 127.0.0.2 is in use" in problem.problem
    assert problem.value == f"127.0.0.2:{listener}"
    assert check(tmp_path, node, changes, ignore_listen_port=True) == []
    assert check(tmp_path, node, changes, probe=False) == []


def test_one_address_for_both_listeners_is_reported(tmp_path: Path, node: dict[str, Any]) -> None:
    problem = only(check(tmp_path, node, {"postgresql": {"listen": node["restapi"]["listen"]}}))
    assert problem.path == "postgresql.listen" and "is the same address as restapi.listen" in problem.problem


def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path: Path, node: dict[str, Any]) -> None:
    problem = only(check(tmp_path, node, {"restapi": {"listen": "192.0.2.1:8008"}}))
    assert "192.0.2.1 is no address of this machine" in problem.problem


@pytest.mark.parametrize(("address", "level"), [
    ("127.0.0.1:8008", "warning"), ("localhost:8008", "warning"), ("[::1]:8008", "warning"), ("0.0.0.0:8008", "error"),
    ("*:8008", "error")])
def test_published_addresses_must_be_reachable(tmp_path: Path, node: dict[str, Any], address: str, level: str) -> None:
    for section in ("restapi", "postgresql"):
        problem = only(check(tmp_path, node, {section: {"connect_address": address}}))
        assert (problem.level, problem.path) == (level, f"{section}.connect_address")


def test_the_default_of_a_published_address_is_checked_too(tmp_path: Path, node: dict[str, Any]) -> None:
    problem = only(check(tmp_path, node, {"restapi": {"listen": f"0.0.0.0:{free_port()}"}}))
    assert problem.path == "restapi.connect_address" and "is not set, and its default '0.0.0.0:" in problem.problem


def test_missing_programs_are_listed(tmp_path: Path, node: dict[str, Any]) -> None:
    for name in ("pg_ctl", "pg_rewind"):
        (tmp_path / "bin" / name).unlink()
    problem = only(check(tmp_path, node))
    assert problem.path == "postgresql.bin_dir" and problem.problem.endswith("bin' has no program pg_ctl")
    assert "pg_ctl, pg_rewind" in only(check(tmp_path, node, {"postgresql": {"use_pg_rewind": True}})).problem
    assert "no program nonesuch" in only(check(tmp_path, node, {"postgresql": {"bin_name": {"pg_ctl": "nonesuch"}}})).problem


def test_the_data_directory_is_empty_or_a_cluster_of_the_right_version(tmp_path: Path, node: dict[str, Any]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert check(tmp_path, node) == []
    (data / "letters.txt").write_text("x")
    assert "is neither empty nor a PostgreSQL cluster" in only(check(tmp_path, node)).problem
    (data / "pg_wal").mkdir()
    (data / "PG_VERSION").write_text("15\n")
    assert check(tmp_path, node) == []
    (data / "PG_VERSION").write_text("14\n")
    assert "holds a cluster of PostgreSQL 14, but the programs are of 15" in only(check(tmp_path, node)).problem
    assert check(tmp_path, node, probe=False) == []


def test_a_silent_store_is_reported(tmp_path: Path, node: dict[str, Any], listener: int) -> None:
    silent = f"127.0.0.2:{free_port()}"
    problem = only(check(tmp_path, node, {"etcd3": {"hosts": [silent]}}))
    assert problem.path == "etcd3.hosts" and f"no endpoint answers: {silent} (Connection refused)" in problem.problem
    assert check(tmp_path, node, {"etcd3": {"hosts": [silent, f"127.0.0.2:{listener}"]}}) == []
    assert check(tmp_path, node, {"etcd3": {"hosts": [silent]}}, probe=False) == []


@pytest.mark.parametrize(("section", "distribution"), [("etcd3", "pgcore-dcs-etcd"), ("exhibitor", "pgcore-dcs-zookeeper")])
def test_a_missing_plugin_is_named_with_its_distribution(tmp_path: Path, node: dict[str, Any], section: str,
                                                         distribution: str) -> None:
    problem = only(check(tmp_path, node, {"etcd3": None, section: {"hosts": []}}, types={}, probe=False))
    assert problem.path == section and problem.remedy == f"pip install {distribution}"


def test_no_store_and_several_stores(tmp_path: Path, node: dict[str, Any]) -> None:
    assert "has no section for a store" in only(check(tmp_path, node, {"etcd3": None})).problem
    several = check(tmp_path, node, {"consul": {}}, types={"etcd3": Etcd, "consul": Etcd})
    assert only(several).level == "warning" and "consul, etcd3" in only(several).problem


def test_the_seed_is_checked_as_a_dynamic_configuration(tmp_path: Path, node: dict[str, Any]) -> None:
    seed = {"ttl": 10, "loop_wait": 10, "slots": ["a"], "synchronus_mode": True,
            "postgresql": {"parameters": {"max_connections": 3}}}
    problems = check(tmp_path, node, {"bootstrap": {"dcs": seed}})
    assert [(problem.level, problem.path) for problem in problems] == [
        ("error", "bootstrap.dcs.slots"), ("warning", "bootstrap.dcs.loop_wait"), ("warning", "bootstrap.dcs.retry_timeout"),
        ("warning", "bootstrap.dcs.postgresql.parameters.max_connections"), ("warning", "bootstrap.dcs.synchronus_mode")]
    assert "retry_timeout <= ttl; 1 is used" in problems[1].problem and problems[3].value == 3


def test_a_setting_of_the_cluster_in_the_local_file_has_no_effect(tmp_path: Path, node: dict[str, Any]) -> None:
    problems = check(tmp_path, node, {"ttl": 30, "postgresql": {"parameters": {"max_connections": 5}}})
    assert [(problem.level, problem.path) for problem in problems] == \
        [("warning", "ttl"), ("warning", "postgresql.parameters.max_connections")]
    assert "bootstrap.dcs" in problems[0].remedy and "PATCH /config" in problems[0].remedy


@pytest.mark.parametrize(("options", "message"), [
    (["--encoding"], "has leading dashes"), ([{"encoding": 8}], "wants a text, has 8"),
    (["pgdata=/x"], "option pgdata is not allowed"), ([["a"]], "wants a word or one key"),
    ("data-checksums", "wants a list of options")])
def test_wrong_options_of_initdb(tmp_path: Path, node: dict[str, Any], options: Any, message: str) -> None:
    assert message in only(check(tmp_path, node, {"bootstrap": {"initdb": options}})).problem


def test_tags_that_repeat_each_other(tmp_path: Path, node: dict[str, Any]) -> None:
    assert only(check(tmp_path, node, {"tags": {"nofailover": True, "failover_priority": 1}})).level == "warning"
    assert "is set together" in only(check(tmp_path, node, {"tags": {"nosync": True, "sync_priority": 0}})).problem


def test_files_and_accounts_must_exist(tmp_path: Path, node: dict[str, Any]) -> None:
    changes = {"restapi": {"certfile": "/no.crt"}, "log": {"dir": "/no/dir"}, "postgresql": {"os_user": "nobody-at-all"}}
    assert [problem.path for problem in check(tmp_path, node, changes)] == ["restapi.certfile", "log.dir", "postgresql.os_user"]
    assert "has no effect without TLS" in only(check(tmp_path, node, {"restapi": {"verify_client": "required"}})).problem


def test_all_mistakes_of_a_broken_file_are_found_at_once(tmp_path: Path, node: dict[str, Any]) -> None:
    changes = {"name": None, "restapi": {"listen": "nowhere", "allowlist": 5, "server_tokns": 1},
               "postgresql": {"data_dir": None, "bin_dir": "/nowhere",
                              "authentication": {"replication": {"sslmode": "sometimes"}}}}
    paths = [problem.path for problem in check(tmp_path, node, changes)]
    assert paths == ["name", "restapi.allowlist", "postgresql.data_dir", "postgresql.authentication.replication.sslmode",
                     "restapi.listen", "postgresql.bin_dir", "restapi.server_tokns"]


def test_broken_yaml_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "node.yml"
    path.write_text("scope: demo\nname: [a\n")
    problem = only(validate(str(path), {}, {}))
    assert f"{path}:3" in str(problem) and "line 3, column 1" in str(problem)
    assert "does not exist" in only(validate(str(tmp_path / "absent"), {}, {})).problem
    assert "Config is empty." in only(validate(None, {}, {})).problem


def test_parameters_that_a_role_cannot_have_of_its_own_are_told(tmp_path: Path, node: dict[str, Any]) -> None:
    changes = {"postgresql": {"parameters_standby_leader": {"max_connections": 7, "work_mem": "1MB"}}}
    problem = only(check(tmp_path, node, changes))
    assert (problem.level, problem.path) == ("warning", "postgresql.parameters_standby_leader.max_connections")


def test_problems_are_one_line_and_hide_secrets(tmp_path: Path, node: dict[str, Any]) -> None:
    problem = only(check(tmp_path, node, {"etcd3": {"password": ["hush"]}}))
    assert problem.value == "***" and "hush" not in str(problem) and "\n" not in str(problem)
    assert str(problem).startswith("error: ") and "node.yml:" in str(problem)


def test_the_environment_is_left_alone(tmp_path: Path, node: dict[str, Any]) -> None:
    (tmp_path / "node.yml").write_text(yaml.safe_dump(node))
    environ = {"PATRONI_NAME": "other", "HOME": os.sep}
    assert validate(str(tmp_path / "node.yml"), environ, {"etcd3": Etcd}, probe=False) == []
    assert len(environ) == 2
