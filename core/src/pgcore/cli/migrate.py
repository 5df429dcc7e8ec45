"""``pgcore migrate check`` and ``migrate plan``: before a cluster moves from Patroni to pgcore, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import click

from pgcore.cli import migrate_report as report
from pgcore.cli.context import Session
from pgcore.cli.migrate_survey import read_environment_file, survey
from pgcore.errors import PgcoreError
from pgcore.migrate.check import check, must_change
from pgcore.migrate.plan import Units, back, forth

FORMATS = ("pretty", "json", "yaml")
UNREADABLE = 2
_file = click.argument("file", required=False, type=click.Path())
_format = click.option("-f", "--format", "style", type=click.Choice(FORMATS), default="pretty", show_default=True,
                       help="How to print it.")


@click.group("migrate")
def migrate() -> None:
    """Move a cluster from Patroni to pgcore, and back: what to know before, and the commands in their order."""


@migrate.command("check")
@_file
@click.option("--environment-file", metavar="PATH", multiple=True, type=click.Path(),
              help="Variables of the agent's unit, lines NAME=VALUE (EnvironmentFile=).")
@click.option("--offline", is_flag=True, help="Judge file and machine only: neither the store nor the agent is asked.")
@_format
@click.pass_obj
def check_node(session: Session, file: str | None, environment_file: tuple[str, ...], offline: bool, style: str) -> None:
    """Check a node of Patroni: FILE is its configuration, a file or a directory; without one its variables PATRONI_*.

    Run it on the node, as the account of the agent. Only reads. Exit code 0: nothing must change; 1: something must change
    first; 2: file or cluster cannot be read.
    """
    try:
        environ = _environ(session.environ, environment_file)
        own = Session(file or session.config_file, session.dcs_url, session.insecure, environ)
        found = survey(own, offline=offline)
    except PgcoreError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(UNREADABLE)
    findings = check(found.subject)
    report.show_check(found, findings, style)
    if found.unreadable:
        click.echo(f"Error: the cluster cannot be read: {found.unreadable} (--offline judges the file alone)", err=True)
        sys.exit(UNREADABLE)
    sys.exit(int(must_change(findings)))


@migrate.command("plan")
@_file
@click.option("--back", "only_back", is_flag=True, help="Only the way back to Patroni.")
@click.option("--switchover", is_flag=True, help="Hand the leadership over before the leader's agent is exchanged.")
@click.option("--patroni-unit", metavar="NAME", default="patroni", show_default=True, help="systemd unit of Patroni on the "
                                                                                           "nodes.")
@click.option("--pgcore-unit", metavar="NAME", default="pgcore", show_default=True, help="systemd unit of pgcore on the nodes.")
@click.option("--file-on-nodes", metavar="PATH", help="Where the configuration lies on every node; FILE by default.")
@_format
@click.pass_obj
def plan_cluster(session: Session, file: str | None, only_back: bool, switchover: bool, patroni_unit: str, pgcore_unit: str,
                 file_on_nodes: str | None, style: str) -> None:
    """Print the commands for the whole cluster, in order, and the way back. FILE is the configuration of any node.

    Nothing is done. Members that run pgcore already are left out: after a break the plan says what is left.
    """
    path = file or session.config_file
    if path is None and file_on_nodes is None:
        raise click.UsageError("name the configuration of a node: the commands need it")
    if patroni_unit == pgcore_unit:
        raise click.UsageError(f"both units are called {pgcore_unit}: a plan needs two (docs/migrating-from-patroni.md tells "
                               f"how to "
                               "keep one)")
    own = Session(path, session.dcs_url, session.insecure, session.environ)
    units = Units(patroni_unit, pgcore_unit, file_on_nodes or os.path.abspath(str(path)))
    if "kubernetes" in own.client.stores:
        raise click.ClickException("on Kubernetes an agent is exchanged with its pod: docs/migrating-from-patroni.md says how")
    if "raft" in own.client.stores:
        raise click.ClickException("a Raft cluster cannot be moved node by node: voters of Patroni and pgcore do not understand "
                                   "each "
                                   "other (docs/migrating-from-patroni.md says what can be done)")
    with own.cluster(None, own.own_group(None)) as cluster:
        view = cluster.read()
        scope = cluster.scope
    if not view.members:
        raise click.ClickException(f"{scope} has no members in the store: start its agents, or correct scope and namespace")
    ways = [] if only_back else [forth(scope, view, units, switchover=switchover)]
    report.show_plans([*ways, back(scope, view, units)], style)


def _environ(environ: Mapping[str, str], files: tuple[str, ...]) -> dict[str, str]:
    """The environment as the agent's unit has it; later files win, as with systemd."""
    merged = dict(environ)
    for path in files:
        merged |= read_environment_file(path)
    return merged
