"""``pgcore list`` and ``topology``, and their table for the commands that show it before they act (cli 2)."""

from __future__ import annotations

from datetime import datetime

import click

from pgcore.cli import render
from pgcore.cli.context import Cluster, Session
from pgcore.cli.options import format_option, group_option, names_argument, repeat, watch_flag, watch_option
from pgcore.cli.problems import problems
from pgcore.rest.members import ClusterMode


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


def show_cluster(cluster: Cluster, *, extended: bool = False, style: str = "pretty", tree: bool = False,
                 judged: bool = True) -> None:
    """Print the table of a cluster; the pretty form is followed by everything that is wrong, on standard error, if ``judged``."""
    views = cluster.read_groups()
    table = render.cluster_table(cluster.scope, views, cluster.group, extended=extended, tree=tree,
                                 progress=not cluster.patronictl)
    if style != "pretty":
        click.echo(render.show(table, style))
        return
    click.echo("\n".join([render.pretty(table), *render.footer(views, cluster.group)]))
    for number, view in views.items() if judged else ():
        where = f"group {number}: " if number is not None and cluster.group is None else ""
        for problem in problems(cluster.scope, view, ClusterMode.of(view)):
            click.echo(click.style(" ! ", fg="red", bold=True) + where + problem, err=True)


def _names(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    if names or session.client.scope:
        return names or (session.client.scope or "",)
    click.echo("Warning: no cluster is named; name one, or set scope in the configuration", err=True)
    return ()
