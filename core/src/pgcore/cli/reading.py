"""Commands that only look: ``show-config``, ``history``, ``dsn``, ``version`` (cli 4)."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from pgcore import PATRONI_VERSION, __version__
from pgcore.cli import render
from pgcore.cli.api import ApiError, MemberApi
from pgcore.cli.context import Session
from pgcore.cli.members import Found, matching, wanted, with_role
from pgcore.cli.options import format_option, group_option, member_option, members_argument, name_argument, one_role_option
from pgcore.model.basics import Json
from pgcore.rest.members import ClusterMode

CONNECT_S = 3
"""Seconds until libpq tries the next host of a string: one that is cut off would keep it for minutes."""
_ATTRIBUTES = {"leader": "read-write", "primary": "read-write", "replica": "prefer-standby", "standby": "standby", "any": "any"}


@click.command("show-config")
@name_argument
@group_option
@click.pass_obj
def show_config(session: Session, name: str | None, group: int | None) -> None:
    """Print the cluster-wide configuration as YAML."""
    with session.cluster(name, session.own_group(group)) as cluster:
        config = cluster.read().config
    if config is None or config.document is None:
        click.echo(f"Warning: {cluster.scope} has no configuration in the store{' that can be read' if config else ''}", err=True)
        return
    click.echo(render.yaml_text(dict(config.document)))


@click.command("history")
@name_argument
@group_option
@format_option
@click.pass_obj
def history(session: Session, name: str | None, group: int | None, style: str) -> None:
    """Show the ends of timelines: which, when, why, and who led next."""
    from pgcore.rest.status import history_document

    columns = ("TL", "LSN", "Reason", "Timestamp", "New Leader")
    with session.cluster(name, session.own_group(group)) as cluster:
        lines = history_document(cluster.read())
    rows = [dict(zip(columns, [*line, "", ""], strict=False)) for line in lines]
    click.echo(render.show(render.Table(columns, rows), style, omit_empty=False))


@click.command("dsn")
@name_argument
@one_role_option
@member_option
@group_option
@click.pass_obj
def dsn(session: Session, name: str | None, role: str | None, member: str | None, group: int | None) -> None:
    """Print how clients connect: a libpq string that finds the member of a role wherever it has moved to.

    As ``patronictl`` it is the address of one member, as it is now.
    """
    with session.cluster(name, group) as cluster:
        found = wanted(cluster.read_groups(), role, member)
    found = [one for one in found if one.member.address is not None]
    if not found:
        raise click.ClickException("Can not find a suitable member")
    if member is not None or session.patronictl:
        click.echo(_address(found[:1]))
        return
    click.echo(_moving(found, role or "leader"))


def _address(found: list[Found]) -> str:
    addresses = [one.member.address for one in found]
    hosts, ports = zip(*(address for address in addresses if address is not None), strict=True)
    return f"host={','.join(hosts)} port={','.join(str(port) for port in ports)}"


def _moving(found: list[Found], role: str) -> str:
    """The members of one cluster, those that have the role now first; libpq finds who has it when it connects."""
    view, group = found[0].view, found[0].group
    if role == "standby-leader" or (role == "leader" and ClusterMode.of(view).standby_cluster):
        return _address(found[:1])  # no attribute tells it from its replicas
    others = [one for one in with_role({group: view}, "any") if one.member.address is not None]
    order = {one.name: one for one in (*found, *others) if one.group == group}
    if role in ("replica", "standby"):
        order = {name: one for name, one in order.items() if not one.member.tags.noloadbalance} or order
    return f"{_address(list(order.values()))} connect_timeout={CONNECT_S} target_session_attrs={_ATTRIBUTES[role]}"


@click.command("version")
@name_argument
@members_argument
@group_option
@click.pass_obj
def version(session: Session, name: str | None, members: tuple[str, ...], group: int | None) -> None:
    """Show the version of this program and, for a cluster, those of its members."""
    if session.patronictl:
        click.echo(f"patronictl version {PATRONI_VERSION}")
    else:
        click.echo(f"pgcore version {__version__} (speaks Patroni {PATRONI_VERSION})")
    if name is None:
        return
    click.echo("")
    with session.cluster(name, group) as cluster:
        views = cluster.read_groups()
    api, answered = MemberApi(session), True
    for found in matching(views, members, "any"):
        try:
            text = _versions(api.status(found.member.api_url), own=not session.patronictl)
        except ApiError as error:
            text, answered = f"failed to get version: {error}", False
        click.echo(f"{found.name}: {text}")
    if not answered:
        sys.exit(1)


def _versions(document: Mapping[str, Json], *, own: bool) -> str:
    number = document.get("server_version") or 0
    server = f"{number // 10000}.{number % 10000}" if number >= 100000 else "unknown"
    ours = (document.get("pgcore") or {}).get("version") if own else None
    return f"Patroni {(document.get('patroni') or {}).get('version')} PostgreSQL {server}" + (f" pgcore {ours}" if ours else "")
