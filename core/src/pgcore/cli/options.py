"""Arguments and options that several commands share, worded once (cli 1.3)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NoReturn

import click

from pgcore.cli import render
from pgcore.cli.context import Session
from pgcore.cli.members import ROLES, with_role
from pgcore.errors import PgcoreError, StoreUnavailableError

WATCH_S = 2.0
"""Seconds between two rounds of ``-W``."""
COMPLETE_S = 1.0
"""How long a shell may wait for the store when it completes a name."""



def complete_cluster(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The cluster of the configuration, for the shell."""
    try:
        scope = _session(ctx).client.scope
    except PgcoreError:
        scope = None
    return [scope] if scope and scope.startswith(incomplete) else []


def complete_member(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The members of the cluster named so far, for the shell. A store that takes long gives none."""
    name, group = ctx.params.get("name"), ctx.params.get("group")
    try:
        with _session(ctx).cluster(name if isinstance(name, str) else None, group) as cluster:
            views = cluster.read_groups(COMPLETE_S)
    except PgcoreError:
        return []
    return [found.name for found in with_role(views, "any") if found.name.startswith(incomplete)]


def _session(ctx: click.Context) -> Session:
    given = ctx.find_root().params
    return Session(given.get("config_file"), given.get("dcs_url"), bool(given.get("insecure")), os.environ)


name_argument = click.argument("name", required=False, metavar="[CLUSTER_NAME]", shell_complete=complete_cluster)
needed_name_argument = click.argument("name", metavar="CLUSTER_NAME", shell_complete=complete_cluster)
names_argument = click.argument("names", nargs=-1, metavar="[CLUSTER_NAMES]...", shell_complete=complete_cluster)
members_argument = click.argument("members", nargs=-1, metavar="[MEMBERS]...", shell_complete=complete_member)

group_option = click.option("--group", type=click.IntRange(min=0), metavar="N",
                            help="Only this group of a cluster of groups (Citus).")
role_option = click.option("-r", "--role", type=click.Choice(ROLES), default="any", show_default=True, help="Only this role.")
one_role_option = click.option("-r", "--role", type=click.Choice(ROLES), help="A member with this role; leader by default.")
member_option = click.option("-m", "--member", metavar="NAME", shell_complete=complete_member,
                             help="This member, instead of one with a role.")
force_option = click.option("--force", is_flag=True, help="Ask nothing.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would happen and what speaks against it.")
format_option = click.option("-f", "--format", "style", type=click.Choice(render.FORMATS), default="pretty", show_default=True,
                             help="How to print the table.")
watch_option = click.option("-w", "--watch", "every", type=click.FloatRange(min=0.1), metavar="SECONDS",
                            help="Repeat until interrupted.")
watch_flag = click.option("-W", "watch", is_flag=True, help=f"Repeat every {WATCH_S:.0f} seconds until interrupted.")


def repeat(once: Callable[[], None], every: float | None, *, watch: bool, clear: bool = True) -> None:
    """Once; or, with one of the watch options, every so many seconds until interrupted, on a screen cleared each time."""
    every = every or (WATCH_S if watch else None)
    if every is None:
        once()
        return
    _forever(once, every, clear=clear)


def _forever(once: Callable[[], None], every: float, *, clear: bool) -> NoReturn:
    never = threading.Event()
    while True:
        if clear:
            click.clear()
        try:
            once()
        except StoreUnavailableError as error:
            click.echo(f"Error: {error}", err=True)  # who watches wants to see the end of an outage
        never.wait(every)
