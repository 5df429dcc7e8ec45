"""A plain PostgreSQL server becomes a node: generate-config, fill it in, run the agent on it (CLI 7, HA rules 7)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import yaml

from harness import Cluster, Node, wait_for
from harness.agents import POSTGRES_USER
from harness.configuration import BIN_DIR, REPLICATION_PASSWORD, SUPERUSER_PASSWORD, dsn

AS_POSTGRES = ("setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--init-groups", "--")
HBA = """# who may connect
local   all          all                       trust
host    replication  replicator  127.0.0.0/8   scram-sha-256

host    all          all         127.0.0.0/8   scram-sha-256
"""


@pytest.fixture
def server(make_cluster: Callable[..., Cluster]) -> Iterator[tuple[Cluster, Node]]:
    """A server that an administrator made by hand, where the node of a cluster would be; its store runs, no agent does."""
    cluster = make_cluster(size=1)
    cluster.start_store()
    node = cluster.nodes[0]
    node.write_file()
    secret = node.directory / "secret"
    secret.write_text(SUPERUSER_PASSWORD)
    secret.chmod(0o644)
    _as_postgres(node, "initdb", "-D", str(node.data_dir), "-U", "postgres", f"--pwfile={secret}", "-A", "scram-sha-256", "-N")
    with (node.data_dir / "postgresql.conf").open("a") as file:
        file.write(f"listen_addresses = '{node.host}'\nport = {node.pg_port}\ncluster_name = 'demo'\nwork_mem = 7MB\n"
                   f"max_connections = 70\nunix_socket_directories = '{node.directory}'\narchive_command = 'test ! -f /x/%f'\n"
                   "wal_keep_size = 0\nwal_log_hints = on\n")
    (node.data_dir / "pg_hba.conf").write_text(HBA)
    _as_postgres(node, "pg_ctl", "-D", str(node.data_dir), "-w", "-l", str(node.directory / "server.log"), "start")
    node.query("CREATE ROLE replicator REPLICATION LOGIN PASSWORD %s", REPLICATION_PASSWORD)
    node.query("CREATE TABLE written (number bigint PRIMARY KEY)")
    node.query("INSERT INTO written VALUES (1)")
    node.query("ALTER ROLE postgres SET work_mem = '9MB'")
    node.query("ALTER ROLE postgres SET random_page_cost = 2")
    yield cluster, node
    if not node.running and node.postmaster_pid():
        _as_postgres(node, "pg_ctl", "-D", str(node.data_dir), "-m", "immediate", "stop")


def _as_postgres(node: Node, program: str, *arguments: str) -> None:
    done = subprocess.run([*AS_POSTGRES, str(BIN_DIR / program), *arguments], cwd=node.directory, text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"PATH": "/usr/bin:/bin", "HOME": "/"})
    assert done.returncode == 0, done.stdout


def _pgcore(node: Node, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI"))}
    return subprocess.run([sys.executable, "-m", "pgcore", *arguments], env=clean | environment, capture_output=True, text=True,
                          timeout=60, cwd=node.directory)


def test_an_agent_takes_over_the_server_its_file_was_generated_from(server: tuple[Cluster, Node]) -> None:
    cluster, node = server
    assert cluster.etcd is not None
    before = node.postmaster_pid()
    file = node.directory / "etc" / "node.yml"
    made = _pgcore(node, "generate-config", str(file), "--dsn", dsn([(node.host, node.pg_port)]))
    assert made.returncode == 0, made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    document = yaml.safe_load(file.read_text())
    assert (document["scope"], document["postgresql"]["listen"]) == ("demo", f"{node.host}:{node.pg_port}")
    assert document["postgresql"]["bin_dir"] == str(BIN_DIR)
    assert document["postgresql"]["pg_hba"] == [line for line in HBA.splitlines() if line and not line.startswith("#")]
    assert document["postgresql"]["authentication"]["replication"]["username"] == "replicator"
    assert document["postgresql"]["parameters"]["archive_command"] == "test ! -f /x/%f"
    shared = document["bootstrap"]["dcs"]["postgresql"]["parameters"]
    assert (shared["work_mem"], shared["max_connections"], shared["wal_log_hints"]) == ("7MB", 70, "on")
    assert shared["wal_keep_size"] == "128MB" and "The server has 0" in file.read_text()
    assert not {"random_page_cost", "archive_command", "port", "listen_addresses", "cluster_name", "hba_file"} & set(shared)
    assert "replace #FIXME in: etcd3.hosts[0], postgresql.authentication.replication.password" in made.stderr

    refused = _pgcore(node, "validate", "-i", str(file))
    assert refused.returncode == 1
    assert [line.split(": ")[2] for line in refused.stderr.splitlines() if "is still #FIXME" in line] == [
        "etcd3.hosts[0]", "postgresql.authentication.replication.password"]

    again = _pgcore(node, "generate-config", str(file), "--dsn", dsn([(node.host, node.pg_port)]))
    assert again.returncode == 1 and "exists and was not touched" in again.stderr
    filled = _pgcore(node, "generate-config", "--force", str(file), PGHOST=node.host, PGPORT=str(node.pg_port), PGUSER="postgres",
                     PGPASSWORD=SUPERUSER_PASSWORD, PATRONI_NAME="n1", PATRONI_ETCD3_HOSTS=cluster.etcd.address,
                     PATRONI_REPLICATION_PASSWORD=REPLICATION_PASSWORD, PGCORE_RESTAPI_LISTEN=f"{node.host}:{node.rest_port}",
                     PGCORE_RESTAPI_CONNECT_ADDRESS=f"{node.host}:{node.rest_port}")
    assert filled.returncode == 0 and "FIXME" not in filled.stderr, filled.stderr
    assert (file.parent / "node.yml.old").read_text().count("#FIXME") > 2
    good = _pgcore(node, "validate", "-i", str(file))
    assert good.returncode == 0, good.stderr

    node.start(text=file.read_text())
    cluster.wait_healthy()
    assert node.postmaster_pid() == before, "it was restarted"
    assert node.query("SELECT number FROM written") == [(1,)]
    node.query("ALTER ROLE postgres RESET work_mem")
    assert node.ask("SHOW work_mem") == "7MB"
    lines = (node.data_dir / "pg_hba.conf").read_text().splitlines()
    assert lines[-3:] == [line for line in HBA.splitlines() if line and not line.startswith("#")]
    wait_for(lambda: node.status().get("state") == "running", 20, "the agent says that the server runs")
    assert set(node.status().get("pending_restart_reason", {})) <= {"wal_keep_size"}, node.status()


def test_what_a_server_hides_or_refuses_is_told_in_one_line(server: tuple[Cluster, Node]) -> None:
    _, node = server
    node.query("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
    address = f"host={node.host} port={node.pg_port}"
    for login, words in ((f"{address} user=clerk password=clerk", "clerk is no superuser"),
                         (f"{address} user=postgres password=wrong", "password authentication failed"),
                         (f"host={node.host} port=1", "no connection to the server"),
                         ("hst=x", "the connection string cannot be read")):
        for mode in (("generate-config",), ("--generate-config",)):
            done = _pgcore(node, *mode, "--dsn", login)
            assert (done.returncode, done.stdout) == (1, "") and words in done.stderr, done
            assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_password_is_asked_for_where_the_server_wants_one(server: tuple[Cluster, Node]) -> None:
    _, node = server
    for typed, code in ((f"{SUPERUSER_PASSWORD}\n", 0), ("wrong\n", 1), ("", 1)):
        asked = subprocess.run(
            [sys.executable, "-m", "pgcore", "generate-config", "--dsn", f"host={node.host} port={node.pg_port} user=postgres"],
            input=typed, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
            start_new_session=True)  # without a terminal, so that it is read from here
        assert asked.returncode == code and "Password of postgres" in asked.stderr, asked
        assert "Traceback" not in asked.stderr and not (typed and typed.strip() in asked.stderr)
        assert code or yaml.safe_load(asked.stdout)["postgresql"]["authentication"]["superuser"] == {
            "username": "postgres", "password": SUPERUSER_PASSWORD}


def test_the_names_and_files_of_a_server_on_its_socket(server: tuple[Cluster, Node]) -> None:
    """Trusted on the socket, a file of settings in another directory: as distributions lay servers out."""
    _, node = server
    _as_postgres(node, "pg_ctl", "-D", str(node.data_dir), "-m", "fast", "-w", "stop")
    etc = node.directory / "etc"
    etc.mkdir()
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        shutil.move(node.data_dir / name, etc / name)
    with (etc / "postgresql.conf").open("a") as file:
        file.write(f"data_directory = '{node.data_dir}'\nhba_file = '{etc}/pg_hba.conf'\nident_file = '{etc}/pg_ident.conf'\n")
    for path in (etc, *etc.iterdir()):
        shutil.chown(path, POSTGRES_USER, POSTGRES_USER)
    _as_postgres(node, "pg_ctl", "-D", str(etc), "-w", "-l", str(node.directory / "server.log"), "start")
    done = _pgcore(node, "--generate-config", PGHOST=str(node.directory), PGPORT=str(node.pg_port), PGUSER="postgres")
    assert done.returncode == 0, done.stderr
    document = yaml.safe_load(done.stdout)
    postgresql = document["postgresql"]
    assert (postgresql["data_dir"], postgresql["config_dir"]) == (str(node.data_dir), str(etc))
    assert postgresql["parameters"]["hba_file"] == f"{etc}/pg_hba.conf" and len(postgresql["pg_hba"]) == 3
    assert postgresql["use_unix_socket"] is True
    assert postgresql["authentication"]["superuser"] == {"username": "postgres"}
    assert document["bootstrap"]["dcs"]["ttl"] == 30, "under Patroni's options: the timing its members can follow"
