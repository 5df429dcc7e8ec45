"""``pgcore query`` against a real server: values in every format, roles, and what happens when it fails (cli 4.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from contract.postgres_node import Node, root  # noqa: F401
from unit.test_cli_commands import Cluster

VALUES = r"""SELECT 1 AS a, NULL AS b, true AS c, 1.50 AS d, date '2026-01-02' AS e, ARRAY[1, 2] AS f, '{"x": 1}'::jsonb AS g,
'ü' AS h, '\x00ff'::bytea AS i, timestamptz '2020-01-01 00:00:00+00' AS j, 'NaN'::float8 AS k, 12345678901234567890.5 AS l,
interval '1 day' AS m"""
PLAIN = {"a": 1, "b": None, "c": True, "d": 1.5, "e": "2026-01-02", "f": [1, 2], "g": {"x": 1}, "h": "ü", "i": "\\x00ff",
         "j": "2020-01-01T00:00:00+00:00", "k": "NaN", "l": "12345678901234567890.5", "m": "1 day, 0:00:00"}


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Node]:  # noqa: F811
    node = Node(root, "primary").bootstrap()
    yield node
    node.end()


@pytest.fixture
def cluster(server: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """``a`` leads and is the server; ``b`` says it is a replica and is the same server; nobody listens at ``c``."""
    for name, value in {"PGUSER": "admin", "PGPASSWORD": "sup'er %s", "PGDATABASE": "postgres", "PGTZ": "UTC"}.items():
        monkeypatch.setenv(name, value)
    made = Cluster(tmp_path)
    for name, role, port in (("a", "primary", server.port), ("b", "replica", server.port), ("c", "replica", 1)):
        made.card(name, role, conn_url=f"postgres://127.0.0.1:{port}/postgres")
    return made


def query(cluster: Cluster, sql: str, *arguments: str) -> Result:
    return cluster.run("query", "demo", "-c", sql, *arguments)


def test_every_kind_of_value_is_printed_as_text(cluster: Cluster) -> None:
    assert query(cluster, VALUES).stdout == (
        "a\tb\tc\td\te\tf\tg\th\ti\tj\tk\tl\tm\n"
        '1\tNone\tTrue\t1.50\t2026-01-02\t[1, 2]\t{"x": 1}\tü\t\\x00ff\t2020-01-01 00:00:00+00:00\tnan\t12345678901234567890.5\t'
        "1 day, 0:00:00\n"
    )
    assert query(cluster, "SELECT 1, 2", "--delimiter", ";").stdout == "?column?;?column?_2\n1;2\n"


def test_json_and_yaml_hold_every_kind_of_value(cluster: Cluster) -> None:
    assert json.loads(query(cluster, VALUES, "--format", "json").stdout) == [PLAIN]
    assert yaml.safe_load(query(cluster, VALUES, "--format", "yaml").stdout) == [PLAIN]


def test_a_table_for_people(cluster: Cluster) -> None:
    result = query(cluster, "SELECT 1 AS a, NULL AS b, E'two\\nlines' AS c", "--format", "pretty")
    assert result.stdout.splitlines() == [
        "+---+------+-------+", "| a | b    | c     |", "+---+------+-------+", "| 1 | None | two   |", "|   |      | lines |",
        "+---+------+-------+"]


def test_statements_without_rows_are_no_error(cluster: Cluster) -> None:
    assert query(cluster, "CREATE TABLE numbers (n int)").stdout == ""
    assert query(cluster, "INSERT INTO numbers VALUES (1)", "--format", "json").stdout == "[]\n"
    assert query(cluster, "SELECT n FROM numbers WHERE false").stdout == "n\n"
    assert query(cluster, "SELECT n FROM numbers WHERE false", "--format", "json").stdout == "[]\n"


def test_a_file_holds_several_statements_and_the_last_one_counts(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "two.sql").write_text("SELECT 1 AS x; SELECT 2 AS y, 3 AS z")
    assert cluster.run("query", "-f", str(tmp_path / "two.sql")).stdout == "y\tz\n2\t3\n"
    assert cluster.run("query", "-f", "-", input="SELECT 4 AS x").stdout == "x\n4\n"


def test_an_error_is_a_row_its_text_and_exit_code_1(cluster: Cluster) -> None:
    result = query(cluster, "SELECT nosuch")
    assert result.exit_code == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\tERROR, SQLSTATE: 42703\n", result.stdout)
    assert result.stderr.startswith('Error: column "nosuch" does not exist')
    result = query(cluster, "SELECT nosuch", "--format", "json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ERROR, SQLSTATE: 42703 |" in query(cluster, "SELECT nosuch", "--format", "pretty").stdout


@pytest.mark.parametrize(
    ("arguments", "row", "words"),
    [
        (("-r", "replica"), "No connection to role 'replica' is available", "b: its server is no standby; c: "),
        (("-r", "standby-leader"), "No connection to role 'standby-leader' is available", "demo has no such member"),
        (("-m", "c"), "No connection to member c is available", "Connection refused"),
        (("-m", "z"), "No connection to member z is available", "demo has no such member"),
        (("-U", "nobody"), "No connection is available", 'password authentication failed for user "nobody"'),
    ],
)
def test_nobody_to_ask_is_told_with_the_reason(cluster: Cluster, arguments: tuple[str, ...], row: str, words: str) -> None:
    result = query(cluster, "SELECT 1", *arguments)
    assert (result.exit_code, result.stdout.rstrip().partition("\t")[2]) == (1, row)
    assert words in result.stderr


def test_the_member_meant_is_asked_and_knows_who_asks(cluster: Cluster) -> None:
    sql = "SELECT current_setting('application_name') AS who, current_database() AS where"
    assert query(cluster, sql, "-r", "primary").stdout.splitlines()[1] == "pgcore ctl\tpostgres"
    assert query(cluster, sql, "-m", "b", "-d", "template1", "-U", "admin").stdout.splitlines()[1] == "pgcore ctl\ttemplate1"
    assert cluster.run("query", "-c", sql, patronictl=True).stdout.splitlines()[1] == "Patroni ctl\tpostgres"
    assert cluster.run("query", "-c", "SELECT 1", "--password", input="wrong\n").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((), "You need to specify either --command or --file", 1),
        (("-c", "SELECT 1", "-f", "/dev/null"), "mutually exclusive", 1),
        (("-c", "SELECT 1", "-m", "a", "-r", "any"), "mutually exclusive", 1),
        (("-c", "SELECT 1", "--format", "xml"), "Invalid value", 2),
        (("-f", "/nonexistent"), "No such file", 2),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(cluster: Cluster, arguments: tuple[str, ...], words: str, code: int) -> None:
    result = cluster.run("query", *arguments)
    assert (result.exit_code, words in result.output) == (code, True)
