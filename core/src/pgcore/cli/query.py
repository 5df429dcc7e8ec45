"""``pgcore query``: SQL on a member chosen by role or name, the result as a table (cli 4.1)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, TextIO

import click

from pgcore.cli import render
from pgcore.cli.context import Cluster, Session
from pgcore.cli.members import Found, wanted
from pgcore.cli.options import group_option, member_option, name_argument, one_role_option, repeat, watch_flag, watch_option
from pgcore.clock import Deadline
from pgcore.errors import ServerError
from pgcore.model.basics import Json

CONNECT_S = 5.0
STATEMENT_S = 7 * 86400.0
"""Nothing but this bounds a statement; who waits for it may interrupt."""
_IN_RECOVERY = {"primary": False, "standby-leader": True, "replica": True, "standby": True}
"""What the server itself must say when one of these roles is asked for; the store may be behind."""


@click.command("query")
@name_argument
@click.option("-c", "--command", metavar="SQL", help="The statement.")
@click.option("-f", "--file", type=click.File(encoding="utf-8"), help="The file that holds it; - reads standard input.")
@one_role_option
@member_option
@group_option
@click.option("-U", "--username", metavar="NAME", help="Database user.")
@click.option("-d", "--dbname", metavar="NAME", help="Database.")
@click.option("--password", "ask_password", is_flag=True, help="Ask for the password.")
@click.option("--format", "style", type=click.Choice(render.FORMATS), default="tsv", show_default=True, help="How to print rows.")
@click.option("--delimiter", default="\t", help="Between the columns of tsv; a tab by default.")
@watch_flag
@watch_option
@click.pass_obj
def query(session: Session, name: str | None, command: str | None, file: TextIO | None, role: str | None, member: str | None,
          group: int | None, watch: bool, every: float | None, **options: Any) -> None:
    """Run SQL on a member, by default the leader. User, database and password are libpq's (PGUSER, ...) unless given."""
    if command is not None and file is not None:
        raise click.ClickException("--file and --command are mutually exclusive options")
    sql = file.read() if file is not None else command
    if sql is None:
        raise click.ClickException("You need to specify either --command or --file")
    login = {"user": options["username"], "dbname": options["dbname"],
             "application_name": "Patroni ctl" if session.patronictl else "pgcore ctl",
             "password": click.prompt("Password", hide_input=True) if options["ask_password"] else None}

    def once() -> None:
        with session.cluster(name, group) as cluster:
            answer = _ask(cluster, sql, role, member, login)
        _show(answer, options["style"], options["delimiter"])
        if answer.problem and not (watch or every):
            sys.exit(1)

    repeat(once, every, watch=watch, clear=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Columns and rows, or the problem in one line for the table and in full."""

    columns: Sequence[str] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    problem: str = ""
    details: str = ""


def _ask(cluster: Cluster, sql: str, role: str | None, member: str | None, login: dict[str, Any]) -> _Answer:
    """Run it on the first of the members meant that can be connected to and that is what was asked for."""
    from pgcore.postgres.connection import QueryFailedError

    failures = []
    for found in wanted(cluster.read_groups(), role, member):
        try:
            connection = _connected(found, role, login)
        except ServerError as error:
            failures.append(f"{found.name}: {error}")
            continue
        try:
            return _Answer(*connection.table(sql, deadline=Deadline.after(STATEMENT_S)))
        except ServerError as error:
            state = error.sqlstate if isinstance(error, QueryFailedError) else ""
            return _Answer(problem=f"ERROR, SQLSTATE: {state or error}", details=str(error))
        finally:
            connection.close()
    target = f" to member {member}" if member else f" to role '{role}'" if role else ""
    missing = f"{cluster.scope} has no such member: see pgcore list"
    return _Answer(problem=f"No connection{target} is available", details="; ".join(failures) or missing)


def _connected(found: Found, role: str | None, login: dict[str, Any]) -> Any:
    """A session on the member. Raises ServerError also when its server says that it has another role."""
    from pgcore.postgres import connection

    address = found.member.address
    if address is None:
        raise ServerError("it has published no address")
    deadline = Deadline.after(2 * CONNECT_S)
    session = connection.Session({"host": address[0], "port": address[1], **login}, deadline, connect_s=CONNECT_S)
    try:
        recovery = _IN_RECOVERY.get(role or "")
        if recovery is not None and session.query("SELECT pg_catalog.pg_is_in_recovery()", deadline=deadline) != [(recovery,)]:
            raise ServerError(f"its server is {'no standby' if recovery else 'a standby'}")
    except BaseException:
        session.close()
        raise
    return session


def _show(answer: _Answer, style: str, delimiter: str) -> None:
    machine = style in ("json", "yaml", "yml")
    if answer.problem:
        if not machine:
            values: tuple[Any, ...] = (f"{datetime.now():%Y-%m-%d %H:%M:%S}", answer.problem)
            table = render.Table(("Field 1", "Field 2"), [dict(zip(("Field 1", "Field 2"), values, strict=True))])
            click.echo(render.pretty(table) if style == "pretty" else delimiter.join(values))
        click.echo(f"Error: {answer.details}", err=True)
        return
    if not answer.columns and not machine:
        return
    columns = _distinct(answer.columns)
    convert = _value if machine else _text
    rows = [{name: convert(value) for name, value in zip(columns, row, strict=True)} for row in answer.rows]
    click.echo(render.show(render.Table(columns, rows), style, omit_empty=False, delimiter=delimiter))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once: a further column of the same name gets a number, so that no value is lost."""
    found: list[str] = []
    for name in names:
        number, chosen = 1, name
        while chosen in found:
            number += 1
            chosen = f"{name}_{number}"
        found.append(chosen)
    return tuple(found)


def _value(value: Any) -> Json:
    """A value as JSON and YAML can hold it: numbers stay numbers while nothing is lost, times are ISO 8601, bytes hexadecimal."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Decimal):
        near = float(value)
        return near if math.isfinite(near) and Decimal(repr(near)) == value else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(Decimal(value))
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(item) for item in value]
    return "\\x" + bytes(value).hex() if isinstance(value, (bytes, memoryview)) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(_value(value), ensure_ascii=False)
    return str(_value(value)) if isinstance(value, memoryview) else str(value)
