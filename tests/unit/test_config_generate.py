"""Generated node files: what is in them, in which order, what is left to fill in (cli 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pgcore.config.document import FILL_IN
from pgcore.config.generate import Machine, NodeFile, of_server, sample
from pgcore.config.validate import validate
from pgcore.model.basics import Timing
from pgcore.model.server import Credentials, FoundServer

MACHINE = Machine("db1", "10.0.0.1", "/opt/pg/bin", 15)
QUICK = Timing(10, 3, 3)


def found(**changes: Any) -> FoundServer:
    values: dict[str, Any] = {
        "major": 15, "cluster_name": "shop", "listen": "10.0.0.1:5433", "data_dir": "/data",
        "config_file": "/data/postgresql.conf", "bin_dir": "/opt/pg/bin", "hba_file": "/data/pg_hba.conf",
        "ident_file": "/data/pg_ident.conf", "parameters": {"work_mem": "7MB", "max_connections": "70"},
        "hba": ("local all all peer",), "superuser": Credentials("boss", "secret")}
    return FoundServer(**(values | changes))


def parameters(file: NodeFile) -> dict[str, Any]:
    return dict(file.tree["bootstrap"]["dcs"]["postgresql"]["parameters"])


def test_the_sample_has_the_known_defaults() -> None:
    tree = sample(MACHINE, {}, Timing()).tree
    postgresql = tree["postgresql"]
    assert (tree["name"], tree["restapi"]["listen"], postgresql["connect_address"]) == ("db1", "10.0.0.1:8008", "10.0.0.1:5432")
    assert [user["username"] for user in postgresql["authentication"].values()] == ["postgres", "replicator", "rewind_user"]
    assert postgresql["parameters"] == {"password_encryption": "scram-sha-256"}
    assert tree["bootstrap"]["dcs"]["postgresql"]["use_pg_rewind"] is True
    shared = parameters(sample(MACHINE, {}, Timing()))
    assert (shared["wal_keep_size"], shared["max_connections"], shared["wal_log_hints"]) == ("128MB", 100, "on")
    assert tree["tags"] == {
        "clonefrom": True, "failover_priority": 1, "sync_priority": 1, "noloadbalance": False, "nostream": False}


@pytest.mark.parametrize(("major", "users", "method", "keep"), [
    (15, 3, "scram-sha-256", "wal_keep_size"), (12, 3, "scram-sha-256", "wal_keep_segments"),
    (10, 2, "scram-sha-256", "wal_keep_segments"), (9, 2, "md5", "wal_keep_segments")])
def test_the_sample_follows_the_version_of_the_programs(major: int, users: int, method: str, keep: str) -> None:
    file = sample(Machine("db1", "10.0.0.1", "/opt/pg/bin", major), {}, Timing())
    postgresql = file.tree["postgresql"]
    assert len(postgresql["authentication"]) == users and all(line.endswith(method) for line in postgresql["pg_hba"])
    assert keep in parameters(file) and len([name for name in parameters(file) if name.startswith("wal_keep")]) == 1


def test_what_nobody_knows_is_named_in_the_order_of_the_file() -> None:
    missing = sample(Machine("db1"), {}, QUICK).missing()
    assert missing == ["scope", "restapi.listen", "restapi.connect_address", "etcd3.hosts[0]", "postgresql.listen",
                       "postgresql.connect_address", "postgresql.data_dir", "postgresql.bin_dir",
                       "postgresql.authentication.superuser.password", "postgresql.authentication.replication.password",
                       "postgresql.authentication.rewind.password"]


def test_the_environment_wins_and_its_store_replaces_ours() -> None:
    environment = {"PATRONI_SCOPE": "shop", "PATRONI_RAFT_SELF_ADDR": "10.0.0.1:2222", "PGCORE_POSTGRESQL_DATA_DIR": "/data",
                   "PATRONI_CITUS_GROUP": "0", "PATRONI_CITUS_DATABASE": "app", "PATRONI_CTL_INSECURE": "on"}
    file = sample(MACHINE, environment, QUICK)
    assert (file.tree["scope"], file.tree["raft"], "etcd3" in file.tree) == ("shop", {"self_addr": "10.0.0.1:2222"}, False)
    assert list(file.tree) == ["scope", "name", "log", "restapi", "ctl", "citus", "raft", "bootstrap", "postgresql", "tags"]
    assert environment["PATRONI_SCOPE"] == "shop", "the environment is not changed"


def test_the_text_is_the_tree_with_comments() -> None:
    for file in (sample(MACHINE, {}, QUICK), of_server(found(), MACHINE, {}, QUICK)):
        text = file.text()
        assert yaml.safe_load(text) == file.tree
        assert "# With Patroni members in the cluster: 30, 10, 10." in text and "pgcore validate FILE" in text
    assert "With Patroni members" not in sample(MACHINE, {}, Timing()).text()
    awkward = {"scope": "on", "log": {"format": "%(asctime)s 'x': #", "loggers": {}},
               "tags": {"a": "1e3", "é": ["x", {"y": None}]}}
    assert yaml.safe_load(NodeFile(awkward, {"tags.a": "two\nlines"}).text()) == awkward


def test_a_filled_in_sample_is_valid_and_one_that_is_not_filled_in_is_told_once_per_key(tmp_path: Path) -> None:
    path = tmp_path / "node.yml"
    file = sample(MACHINE, {"PATRONI_ETCD3_HOSTS": "10.0.0.9:2379"}, QUICK)
    path.write_text(file.text())
    problems = validate(str(path), {}, {"etcd3": object}, probe=False)
    told = [problem for problem in problems if problem.problem == f"is still {FILL_IN}"]
    assert [problem.path for problem in told] == file.missing() and all(problem.level == "error" for problem in told)
    assert {problem.path for problem in problems if problem.level == "error"} == {*file.missing(), "postgresql.bin_dir"}
    filled = file.text().replace(f"'{FILL_IN}'", str(tmp_path / "data")).replace("/opt/pg/bin", str(_programs(tmp_path)))
    path.write_text(filled.replace(f"scope: {tmp_path}/data", "scope: shop"))
    assert [problem for problem in validate(str(path), {}, {"etcd3": object}, probe=False) if problem.level == "error"] == []


def _programs(folder: Path) -> Path:
    (folder / "bin").mkdir()
    for name in ("pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"):
        (folder / "bin" / name).write_text("#!/bin/sh\n")
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


def test_a_server_keeps_its_settings_where_they_belong() -> None:
    file = of_server(found(parameters={
        "work_mem": "7MB", "max_connections": "70", "archive_command": "cp %p /a/%f", "restore_command": "", "wal_keep_size": "0",
        "TimeZone": "UTC", "wal_level": "replica"}), MACHINE, {}, QUICK)
    shared, own = parameters(file), file.tree["postgresql"]["parameters"]
    assert (file.tree["scope"], shared["work_mem"], shared["max_connections"], shared["TimeZone"]) == ("shop", "7MB", 70, "UTC")
    assert shared["wal_keep_size"] == "128MB", "what pgcore would refuse is not asked for"
    assert "# The server has 0; pgcore wants a size of at least 16MB." in file.text()
    assert own == {"archive_command": "cp %p /a/%f", "hba_file": "/data/pg_hba.conf", "ident_file": "/data/pg_ident.conf"}
    assert "archive_command" not in shared and "restore_command" not in shared


def test_a_server_keeps_its_access_rules_where_they_are_the_agents_to_write() -> None:
    postgresql = of_server(found(), MACHINE, {}, QUICK).tree["postgresql"]
    assert postgresql["pg_hba"] == ["local all all peer"] and "pg_ident" not in postgresql and "config_dir" not in postgresql
    elsewhere = of_server(found(hba_file="/etc/pg/hba"), MACHINE, {}, QUICK).tree["postgresql"]
    assert "pg_hba" not in elsewhere and elsewhere["parameters"]["hba_file"] == "/etc/pg/hba"
    debian = of_server(found(config_file="/etc/pg/postgresql.conf", hba_file="/etc/pg/pg_hba.conf"), MACHINE, {}, QUICK)
    assert debian.tree["postgresql"]["config_dir"] == "/etc/pg" and debian.tree["postgresql"]["pg_hba"]


@pytest.mark.parametrize(("listen", "address", "said"), [
    ("*:5432", "10.0.0.1:5432", False), ("0.0.0.0:5433", "10.0.0.1:5433", False),
    ("localhost,10.0.0.7:5432", "10.0.0.7:5432", False),
    ("10.0.0.1,10.0.0.7:5432", "10.0.0.1:5432", False), ("localhost:5432", "10.0.0.1:5432", True),
    ("[fd00::7]:5432", "[fd00::7]:5432", False)])
def test_the_published_address_is_one_the_server_listens_on(listen: str, address: str, said: bool) -> None:
    file = of_server(found(listen=listen), MACHINE, {}, QUICK)
    assert (file.tree["postgresql"]["listen"], file.tree["postgresql"]["connect_address"]) == (listen, address)
    assert ("Only programs on this machine can connect" in file.text()) is said


def test_a_trusted_socket_needs_no_password_and_everything_else_does() -> None:
    socket = of_server(found(superuser=Credentials("boss"), socket=True), MACHINE, {}, QUICK)
    assert socket.tree["postgresql"]["authentication"]["superuser"] == {"username": "boss"}
    assert socket.tree["postgresql"]["use_unix_socket"] is True
    network = of_server(found(superuser=Credentials("boss", None, {"sslmode": "require"})), MACHINE, {}, QUICK)
    assert network.tree["postgresql"]["authentication"]["superuser"] == {
        "username": "boss", "password": FILL_IN, "sslmode": "require"}
    assert "use_unix_socket" not in network.tree["postgresql"]
