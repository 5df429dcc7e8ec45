"""The program under the name ``patronictl`` and the real one, side by side on one running cluster: the same bytes (cli 1-5)."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from harness import Cluster, wait_for
from harness.configuration import SUPERUSER_PASSWORD

FORMATS = ("pretty", "tsv", "json", "yaml")
TRIES = 5
"""Positions and states move between two looks; the programs look at the same moment, and again if they differ."""
LOGIN = {"PGUSER": "postgres", "PGPASSWORD": SUPERUSER_PASSWORD, "PGDATABASE": "postgres", "PGTZ": "UTC"}


WORDS = """
import importlib, json, sys
import click
module, name = sys.argv[1:]
root = getattr(importlib.import_module(module), name)
context = click.Context(root)
found = {}
for word in ["", *root.list_commands(context)]:
    params = (root.get_command(context, word) if word else root).params
    found[word] = [sorted(text for one in params for text in (*one.opts, *one.secondary_opts) if text.startswith("-")),
                   [[one.nargs, one.required] for one in params if isinstance(one, click.Argument)]]
print(json.dumps(found))
"""
"""Options and the shape of arguments of every command of a program."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both programs with the environment that tells them where the cluster is."""

    ours: Path
    theirs: Path
    environ: dict[str, str]
    cluster: Cluster

    def run(self, program: Path, *arguments: str, text: str = "", **environ: str | None) -> tuple[int, str, str]:
        """Exit code, standard output, standard error; None removes a variable."""
        variables = {name: value for name, value in {**self.environ, **environ}.items() if value is not None}
        done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False,
                              env=variables)
        return done.returncode, done.stdout, done.stderr

    def both(self, *arguments: str, **options: str | None) -> list[tuple[int, str]]:
        """Exit code and standard output of ours and theirs, run at the same time."""
        with ThreadPoolExecutor(2) as pool:
            programs = (self.ours, self.theirs)
            return [found[:2] for found in pool.map(lambda program: self.run(program, *arguments, **options), programs)]

    def same(self, *arguments: str, **options: str | None) -> str:
        """What both print, byte for byte."""
        for _ in range(TRIES):
            ours, theirs = self.both(*arguments, **options)
            if ours == theirs:
                return ours[1]
            time.sleep(1)
        assert ours == theirs, f"patronictl {' '.join(arguments)}\nours:\n{ours[1]}\ntheirs:\n{theirs[1]}"
        return ""


@pytest.fixture(scope="module")
def pair(make_shared_cluster: Callable[..., Cluster], predecessor: Path,
         tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Three nodes, the third of which follows the second; the environment alone says where they are."""
    tags = {"n2": {"tags": {"zone": "ü", "rack": 3}}, "n3": {"tags": {"replicatefrom": "n2", "clonefrom": True}}}
    cluster = make_shared_cluster(per_node=tags).bootstrap()
    assert cluster.etcd is not None
    home = tmp_path_factory.mktemp("home")
    link = home / "patronictl"
    link.symlink_to(Path(sys.executable).with_name("pgcore"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI", "DCS", "XDG"))}
    environ = {**kept, **LOGIN, "HOME": str(home), "LC_ALL": "C.UTF-8", "PATRONI_SCOPE": cluster.scope,
               "PATRONI_ETCD3_HOSTS": cluster.etcd.address}
    yield Pair(link, predecessor / "bin" / "patronictl", environ, cluster)


def connected(address: str) -> tuple[bool, int]:
    """Whether the server that this string leads to is a standby, and its port."""
    connection = psycopg2.connect(f"{address} user=postgres password={SUPERUSER_PASSWORD} dbname=postgres gssencmode=disable")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery(), inet_server_port()")
            return cursor.fetchone()
    finally:
        connection.close()


def test_one_string_leads_to_the_primary_and_to_a_standby_before_and_after_a_switchover(pair: Pair) -> None:
    """First of all, so that there is a history to look at."""
    pgcore = Path(sys.executable).with_name("pgcore")
    cluster, strings = pair.cluster, {}
    for role in ("leader", "replica", "standby"):
        code, out, err = pair.run(pgcore, "dsn", "-r", role)
        assert code == 0, err
        strings[role] = out.strip()
    assert {role: text.partition("target_session_attrs=")[2] for role, text in strings.items()} == {
        "leader": "read-write", "replica": "prefer-standby", "standby": "standby"}
    old = cluster.primary()
    for _ in range(2):
        primary = cluster.primary()
        assert connected(strings["leader"]) == (False, primary.pg_port)
        assert connected(strings["replica"])[0] and connected(strings["standby"])[0]
        if primary is old:
            answer = cluster.switchover(old, cluster.node("n2") if old.name != "n2" else cluster.node("n1"))
            assert answer is not None and answer.status == 200, answer
            cluster.wait_healthy()
    assert cluster.primary() is not old
    shown = subprocess.run(["psql", f"{strings['leader']} gssencmode=disable", "-Atc", "SELECT pg_is_in_recovery()"],
                           capture_output=True, text=True, env=pair.environ, timeout=30, check=True)
    assert shown.stdout == "f\n"


def test_every_command_takes_every_option_and_the_same_arguments(pair: Pair) -> None:
    def words(python: Path, module: str, name: str) -> dict[str, list[list[str]]]:
        found: dict[str, list[list[str]]] = json.loads(pair.run(python, "-c", WORDS, module, name)[1])
        return found

    theirs = words(pair.theirs.with_name("python"), "patroni.ctl", "ctl")
    ours = words(Path(sys.executable), "pgcore.cli.main", "group")
    assert len(theirs) == 20
    for command, (options, arguments) in theirs.items():
        assert set(options) <= set(ours[command][0]) and arguments == ours[command][1], command


@pytest.mark.parametrize("style", FORMATS)
def test_tables_are_the_same_in_every_format(pair: Pair, style: str) -> None:
    members = pair.same("list", "-f", style)
    assert all(name in members for name in ("n1", "n2", "n3", "replicatefrom"))
    assert "no recovery target specified" in pair.same("history", "-f", style)


def test_topology_configuration_addresses_and_versions(pair: Pair) -> None:
    pair.same("topology")
    assert "Scheduled restart" in pair.same("list", "-e")
    assert "loop_wait: " in pair.same("show-config")
    for arguments in ((), ("-r", "replica"), ("-m", "n3"), ("-m", "nobody")):
        pair.same("dsn", *arguments)
    assert pair.same("version", "demo").count("Patroni 4.1.5 PostgreSQL 15.") == 3


def _without_positions(table: str) -> str:
    """The servers go on writing between one call and the next."""
    return re.sub(r"\b[0-9A-F]+/[0-9A-F]+\b", "X/X", table)


def test_a_file_a_url_and_a_document_lead_to_the_same_cluster(pair: Pair) -> None:
    assert pair.cluster.etcd is not None
    nowhere = {"PATRONI_SCOPE": None, "PATRONI_ETCD3_HOSTS": None}
    file, url = str(pair.cluster.nodes[0].node_file), f"etcd3://{pair.cluster.etcd.address}/service"
    document = f"{{scope: demo, etcd3: {{hosts: ['{pair.cluster.etcd.address}']}}}}"

    def tables() -> set[str]:
        return {
            _without_positions(pair.same(*arguments, **environ)) for arguments, environ in (
                (("list",), {}),
                (("-c", file, "list"), nowhere),
                (("list",), {"PATRONICTL_CONFIG_FILE": file, **nowhere}),
                (("-d", url, "list", "demo"), nowhere),
                (("list", "demo"), {"DCS_URL": url, **nowhere}),
                (("list",), {"PATRONI_CONFIGURATION": document, **nowhere}),
            )
        }

    (table,) = tables()
    assert "Leader" in table
    assert "uninitialized" in pair.same("list", "nosuch")
    assert pair.both("-c", "/nonexistent.yml", "list") == [(1, ""), (1, "")]
    assert pair.both("list", **nowhere) == [(0, ""), (0, "")]
    assert pair.both("list", "-f", "xml") == [(2, ""), (2, "")]


def test_a_terminal_that_watches_is_cleared_until_it_is_interrupted(pair: Pair) -> None:
    """But not by query, whose rows are kept."""
    for arguments, clears in ((("list", "-w", "0.2"), True), (("query", "-W", "-w", "0.2", "-c", "SELECT 'demo' AS x"), False)):
        outside, inside = pty.openpty()
        program = subprocess.Popen([pair.ours, *arguments], stdin=inside, stdout=inside, stderr=inside, env=pair.environ)
        os.close(inside)
        shown = b""
        while shown.count(b"demo") < 3:
            shown += os.read(outside, 4096)
        program.send_signal(signal.SIGINT)
        with suppress(OSError):  # the terminal ends with the program
            while more := os.read(outside, 4096):
                shown += more
        assert program.wait(30) == 1
        os.close(outside)
        assert (b"\x1b[2J" in shown, b"Aborted!" in shown) == (clears, True)


def test_bash_completes_the_members_of_the_running_cluster(pair: Pair) -> None:
    for line, offered in (("restart demo n", "n1 n2 n3"), ("dsn -m n", "n1 n2 n3"), ("version nosuch n", "")):
        words = f"patronictl {line}"
        found = pair.run(pair.ours, _PATRONICTL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
        assert " ".join(word.partition(",")[2] for word in found[1].split()) == offered, found


@pytest.mark.parametrize("style", FORMATS)
def test_rows_of_a_query(pair: Pair, style: str) -> None:
    sql = "SELECT 1 AS one, NULL AS nothing, true AS truth, 'ü' AS letter UNION ALL SELECT 100, 'x', false, 'abc' ORDER BY 1"
    assert "abc" in pair.same("query", "-c", sql, "--format", style)


def test_who_a_query_asks(pair: Pair) -> None:
    sql = "SELECT pg_is_in_recovery(), current_setting('application_name'), 1.50, now()::date, ARRAY[1, 2]"
    for arguments in ((), ("-r", "replica"), ("-m", "n3", "--delimiter", ";")):
        assert "Patroni ctl" in pair.same("query", *arguments, "-c", sql)
    (our_code, ours), (their_code, theirs) = pair.both("query", "-c", "SELECT nosuch")
    assert ours.partition("\t")[2] == theirs.partition("\t")[2] == "ERROR, SQLSTATE: 42703\n"
    assert (our_code, their_code) == (1, 0)  # on purpose


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-s", "ttl=9", "-p", "work_mem=5MB", "--force"), ""),
        (("-p", "track_functions=pl", "-s", "postgresql.parameters.plpgsql.extra_warnings=all"), "y\n"),
        (("-q", "-s", "maximum_lag_on_failover=null", "-s", "postgresql.parameters.wal_keep_size=null", "--force"), ""),
        (("--apply", "-", "--force"), "ttl: 10\npostgresql: {parameters: {work_mem: 6MB, max_connections: null}}\n"),
        (("--apply", "-"), "ttl: 10\n"),
        (("-s", "loop_wait=2", "--force"), ""),
    ],
    ids=["force", "prompt", "quiet", "merge", "no-force", "unchanged"],
)
def test_edit_config_prints_and_writes_the_same(pair: Pair, arguments: tuple[str, ...], text: str) -> None:
    """First theirs, then ours on what stood there before."""
    compare_edits(pair, *arguments, text=text)


def compare_edits(pair: Pair, *arguments: str, text: str = "", **environ: str) -> str:
    """What both write to the store, which is put back each time."""
    etcd, key = pair.cluster.etcd, pair.cluster.key("config")
    assert etcd is not None
    before = etcd.get(key)
    assert before is not None
    found = []
    for program in (pair.theirs, pair.ours):
        found.append((pair.run(program, "edit-config", *arguments, text=text, **environ)[:2], etcd.get(key)))
        etcd.put(key, before)
    assert found[0] == found[1]
    return found[0][1] or ""


def test_edit_config_replaces_from_a_file_and_takes_an_editor(pair: Pair, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/^ttl:.*/ttl: 11/" "$1"\n')
    editor.chmod(0o755)
    whole = pair.run(pair.theirs, "show-config")[1]
    assert json.loads(compare_edits(pair, "--replace", "-", "-s", "ttl=12", "--force", text=whole))["ttl"] == 12
    assert json.loads(compare_edits(pair, "--force", EDITOR=str(editor)))["ttl"] == 11


def test_maintenance_a_schedule_and_waiting_restarts_look_the_same(pair: Pair) -> None:
    cluster = pair.cluster
    assert cluster.etcd is not None
    code, out, err = pair.run(pair.ours, "edit-config", "-q", "-s", "pause=true", "-p", "max_connections=77", "--force")
    assert (code, out) == (0, "Configuration changed\n"), err
    wait_for(lambda: all(node.status().get("pending_restart") for node in cluster.nodes), 60, "every node waits for its restart")
    schedule = {"leader": cluster.primary().name, "member": "n3", "scheduled_at": "2099-01-01T00:00:00+00:00"}
    cluster.etcd.put(cluster.key("failover"), json.dumps(schedule))
    for style in ("pretty", "json"):
        assert "max_connections: 60->77" in pair.same("list", "-f", style)
    assert " Maintenance mode: on\n Switchover scheduled at: 2099" in pair.same("topology")
    cluster.etcd.put(cluster.key("failover"), "{}")


def test_a_cluster_of_groups_looks_the_same(pair: Pair) -> None:
    """Two groups, written into the same etcd as a Citus cluster's agents would."""
    etcd = pair.cluster.etcd
    assert etcd is not None
    for group in (0, 1):
        path = f"/service/many/{group}"
        etcd.put(f"{path}/initialize", f"700000000000000000{group}")
        etcd.put(f"{path}/leader", f"a{group}")
        etcd.put(f"{path}/status", '{"optime":100000000}')
        etcd.put(f"{path}/config", json.dumps({"ttl": 30 + group, "pause": bool(group)}))
        etcd.put(f"{path}/history", f'[[1,{100 + group},"no recovery target specified"]]')
        for name, role in ((f"a{group}", "primary"), (f"b{group}", "replica")):
            card = {"conn_url": f"postgres://10.0.{group}.{ord(name[0])}:5432/postgres", "state": "running", "role": role,
                    "timeline": 2, "xlog_location": 100000000}
            positions = {"receive_lsn": 100000000, "replay_lsn": 90000000, "replication_state": "streaming"}
            etcd.put(f"{path}/members/{name}", json.dumps(card | (positions if role == "replica" else {})))
    own = {"PATRONI_SCOPE": "many", "PATRONI_CITUS_GROUP": "1", "PATRONI_CITUS_DATABASE": "x"}
    for style in ("pretty", "tsv", "json"):
        assert pair.same("list", "-f", style, **own).count("a0") == 1
    assert "Citus group: 1" in pair.same("topology", **own)
    for command in (("show-config",), ("history", "--group", "0"), ("dsn",), ("dsn", "--group", "1"), ("list", "--group", "1"),
                    ("list", "--group", "1", "-f", "tsv"), ("list", "--group", "5")):
        pair.same(*command, **own)
    for group, program in ((1, pair.ours), (0, pair.theirs)):  # the same answers remove one group, and nothing else
        answers = f"many\nYes I am aware\na{group}\n"
        code, out, err = pair.run(program, "remove", "many", "--group", str(group), text=answers, **own)
        assert code == 0, out + err
        assert etcd.get(f"/service/many/{group}/leader") is None and etcd.get(f"/service/many/{group}/members/a{group}") is None
        assert (etcd.get("/service/many/0/leader") is None) == (group == 0)
    assert etcd.get(pair.cluster.key("leader")) is not None
