"""Commands that only look: ``list``, ``topology``, ``show-config``, ``history``, ``version`` (cli 2 and 4)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

import click

from pgcore import PATRONI_VERSION, __version__
from pgcore.cli import render
from pgcore.cli.api import ApiError, MemberApi
from pgcore.cli.context import Cluster, Session
from pgcore.cli.problems import problems
from pgcore.rest.members import ClusterMode
from pgcore.rest.status import history_document

WATCH_S = 2.0

format_option = click.option("-f", "--format", "style", type=click.Choice(render.FORMATS), default="pretty", show_default=True,
                             help="How to print the table.")
watch_option = click.option("-w", "--watch", "every", type=click.FloatRange(min=0.1), metavar="SECONDS",
                            help="Repeat until interrupted.")
watch_flag = click.option("-W", "watch", is_flag=True, help="Repeat every 2 seconds until interrupted.")


@click.command("list")
@click.argument("names", nargs=-1, metavar="[CLUSTER_NAMES]...")
@click.option("-e", "--extended", is_flag=True, help="Show every column, also empty ones.")
@click.option("-t", "--timestamp", is_flag=True, help="Print the time first.")
@format_option
@watch_flag
@watch_option
@click.pass_obj
def list_members(session: Session, names: tuple[str, ...], extended: bool, timestamp: bool, style: str, watch: bool,
                 every: float | None) -> None:
    """Show the members of clusters, and what is wrong with them."""
    def once() -> None:
        if timestamp:
            click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S}")
        for name in _names(session, names):
            with session.cluster(name) as cluster:
                show_cluster(cluster, extended=extended, style=style)

    _repeat(once, every or (WATCH_S if watch else None))


@click.command("topology")
@click.argument("names", nargs=-1, metavar="[CLUSTER_NAMES]...")
@watch_flag
@watch_option
@click.pass_obj
def topology(session: Session, names: tuple[str, ...], watch: bool, every: float | None) -> None:
    """Show who follows whom."""
    def once() -> None:
        for name in _names(session, names):
            with session.cluster(name) as cluster:
                show_cluster(cluster, tree=True)

    _repeat(once, every or (WATCH_S if watch else None))


@click.command("show-config")
@click.argument("name", required=False, metavar="[CLUSTER_NAME]")
@click.pass_obj
def show_config(session: Session, name: str | None) -> None:
    """Print the cluster-wide configuration as YAML."""
    with session.cluster(name) as cluster:
        config = cluster.read().config
    if config is not None and config.document is not None:
        click.echo(render.yaml_text(dict(config.document)), nl=False)


@click.command("history")
@click.argument("name", required=False, metavar="[CLUSTER_NAME]")
@format_option
@click.pass_obj
def history(session: Session, name: str | None, style: str) -> None:
    """Show the ends of timelines: which, when, why, and who led next."""
    columns = ("TL", "LSN", "Reason", "Timestamp", "New Leader")
    with session.cluster(name) as cluster:
        lines = history_document(cluster.read())
    rows = [dict(zip(columns, [*line, "", ""], strict=False)) for line in lines]
    click.echo(render.show(render.Table(columns, rows), style, omit_empty=False))


@click.command("version")
@click.argument("name", required=False, metavar="[CLUSTER_NAME]")
@click.argument("members", nargs=-1)
@click.pass_obj
def version(session: Session, name: str | None, members: tuple[str, ...]) -> None:
    """Show the version of this program and, for a cluster, those of its members."""
    click.echo(f"pgcore version {__version__} (speaks Patroni {PATRONI_VERSION})")
    if name is None:
        return
    click.echo("")
    with session.cluster(name) as cluster:
        view = cluster.read()
    for member in view.members:
        if not members or member.name in members:
            click.echo(f"{member.name}: {_versions(MemberApi(session), member.api_url)}")


def show_cluster(cluster: Cluster, *, extended: bool = False, style: str = "pretty", tree: bool = False) -> None:
    """Print the table of a cluster; the pretty form is followed by everything that is wrong."""
    view = cluster.read()
    mode = ClusterMode.of(view)
    table = render.cluster_table(cluster.scope, view, mode, extended=extended, tree=tree)
    if style != "pretty":
        click.echo(render.show(table, style))
        return
    click.echo("\n".join([render.pretty(table), *render.footer(view, mode)]))
    for problem in problems(cluster.scope, view, mode):
        click.echo(click.style(" ! ", fg="red", bold=True) + problem)


def _names(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    if names or session.client.scope:
        return names or (session.client.scope or "",)
    click.echo("Warning: no cluster is named; name one, or set scope in the configuration", err=True)
    return ()


def _repeat(once: Callable[[], None], every: float | None) -> None:
    """Once, or every so many seconds on a cleared screen until interrupted."""
    if every is None:
        once()
        return
    never = threading.Event()
    while True:
        click.clear()
        once()
        never.wait(every)


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
