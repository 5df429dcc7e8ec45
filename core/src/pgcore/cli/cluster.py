"""Commands that only look: ``list``, ``topology``, ``show-config``, ``history``, ``version`` (cli 2 and 4)."""

from __future__ import annotations

from datetime import datetime

import click

from pgcore import PATRONI_VERSION, __version__
from pgcore.cli import render
from pgcore.cli.api import ApiError, MemberApi
from pgcore.cli.context import Cluster, Session
from pgcore.cli.members import matching
from pgcore.cli.options import (
    format_option,
    group_option,
    members_argument,
    name_argument,
    names_argument,
    repeat,
    watch_flag,
    watch_option,
)
from pgcore.cli.problems import problems
from pgcore.rest.members import ClusterMode
from pgcore.rest.status import history_document


@click.command("list")
@names_argument
@click.option("-e", "--extended", is_flag=True, help="Show every column, also empty ones.")
@click.option("-t", "--timestamp", is_flag=True, help="Print the time first.")
@group_option
@format_option
@watch_flag
@watch_option
@click.pass_obj
def list_members(session: Session, names: tuple[str, ...], extended: bool, timestamp: bool, group: int | None, style: str,
                 watch: bool, every: float | None) -> None:
    """Show the members of clusters, and what is wrong with them."""
    def once() -> None:
        if timestamp:
            click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S}")
        for name in _names(session, names):
            with session.cluster(name, group) as cluster:
                show_cluster(cluster, extended=extended, style=style)

    repeat(once, every, watch=watch)


@click.command("topology")
@names_argument
@group_option
@watch_flag
@watch_option
@click.pass_obj
def topology(session: Session, names: tuple[str, ...], group: int | None, watch: bool, every: float | None) -> None:
    """Show who follows whom."""
    def once() -> None:
        for name in _names(session, names):
            with session.cluster(name, group) as cluster:
                show_cluster(cluster, tree=True)

    repeat(once, every, watch=watch)


@click.command("show-config")
@name_argument
@group_option
@click.pass_obj
def show_config(session: Session, name: str | None, group: int | None) -> None:
    """Print the cluster-wide configuration as YAML."""
    with session.cluster(name, session.own_group(group)) as cluster:
        config = cluster.read().config
    if config is not None and config.document is not None:
        click.echo(render.yaml_text(dict(config.document)))


@click.command("history")
@name_argument
@group_option
@format_option
@click.pass_obj
def history(session: Session, name: str | None, group: int | None, style: str) -> None:
    """Show the ends of timelines: which, when, why, and who led next."""
    columns = ("TL", "LSN", "Reason", "Timestamp", "New Leader")
    with session.cluster(name, session.own_group(group)) as cluster:
        lines = history_document(cluster.read())
    rows = [dict(zip(columns, [*line, "", ""], strict=False)) for line in lines]
    click.echo(render.show(render.Table(columns, rows), style, omit_empty=False))


@click.command("version")
@name_argument
@members_argument
@group_option
@click.pass_obj
def version(session: Session, name: str | None, members: tuple[str, ...], group: int | None) -> None:
    """Show the version of this program and, for a cluster, those of its members."""
    click.echo(f"pgcore version {__version__} (speaks Patroni {PATRONI_VERSION})")
    if name is None:
        return
    click.echo("")
    with session.cluster(name, group) as cluster:
        views = cluster.read_groups()
    for found in matching(views, members, "any"):
        click.echo(f"{found.name}: {_versions(MemberApi(session), found.member.api_url)}")


def show_cluster(cluster: Cluster, *, extended: bool = False, style: str = "pretty", tree: bool = False) -> None:
    """Print the table of a cluster; the pretty form is followed by everything that is wrong."""
    views = cluster.read_groups()
    table = render.cluster_table(cluster.scope, views, cluster.group, extended=extended, tree=tree)
    if style != "pretty":
        click.echo(render.show(table, style))
        return
    click.echo("\n".join([render.pretty(table), *render.footer(views, cluster.group)]))
    for number, view in views.items():
        where = f"group {number}: " if number is not None and cluster.group is None else ""
        for problem in problems(cluster.scope, view, ClusterMode.of(view)):
            click.echo(click.style(" ! ", fg="red", bold=True) + where + problem)


def _names(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    if names or session.client.scope:
        return names or (session.client.scope or "",)
    click.echo("Warning: no cluster is named; name one, or set scope in the configuration", err=True)
    return ()


def _versions(api: MemberApi, url: str | None) -> str:
    try:
        document = api.status(url)
    except ApiError as error:
        return f"failed to get version: {error}"
    number = document.get("server_version") or 0
    server = f"{number // 10000}.{number % 10000}" if number >= 100000 else "unknown"
    own = document.get("pgcore") or {}
    return f"Patroni {(document.get('patroni') or {}).get('version')} PostgreSQL {server}" + (
        f" pgcore {own['version']}" if own.get("version") else "")
