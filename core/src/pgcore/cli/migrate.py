"""``pgcore migrate check`` and ``migrate plan``: before a cluster moves from Patroni to pgcore, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import cast

import click
from click.core import ParameterSource

from pgcore.cli import migrate_report as report
from pgcore.cli.context import Session
from pgcore.cli.migrate_survey import read_environment_file, survey
from pgcore.errors import PgcoreError
from pgcore.migrate import pods
from pgcore.migrate.check import check, must_change
from pgcore.migrate.plan import Units, back, forth
from pgcore.migrate.pods import Pods

FORMATS = ("pretty", "json", "yaml")
UNREADABLE = 2
_OF_PODS = ("image", "image_before", "stateful_set", "container")
_OF_MACHINES = ("patroni_unit", "pgcore_unit")
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
@click.option("--image", metavar="IMAGE", help="Pods: the image with pgcore.")
@click.option("--image-before", metavar="IMAGE", help="Pods, with --back: the image with Patroni; the one noted on the way "
                                                      "there by default.")
@click.option("--stateful-set", metavar="NAME", help="Pods: the StatefulSet they are of; as the members' names say by default.")
@click.option("--container", metavar="NAME", help="Pods: the container with the agent; by default the first.")
@_format
@click.pass_context
def plan_cluster(context: click.Context, file: str | None, only_back: bool, switchover: bool, patroni_unit: str, pgcore_unit: str,
                 file_on_nodes: str | None, image: str | None, image_before: str | None, stateful_set: str | None,
                 container: str | None, style: str) -> None:
    """Print the commands for the whole cluster, in order, and the way back. FILE is the configuration of any node.

    Nothing is done. Members that run pgcore already are left out: after a break the plan says what is left. Of a cluster in
    Kubernetes the pods are made anew one by one with --image, and --back prints the way back.
    """
    session: Session = context.obj
    path = file or session.config_file
    if path is None and file_on_nodes is None:
        raise click.UsageError("name the configuration of a node: the commands need it")
    if patroni_unit == pgcore_unit:
        raise click.UsageError(f"both units are called {pgcore_unit}: a plan needs two (docs/migrating-from-patroni.md tells "
                               f"how to "
                               "keep one)")
    own = Session(path, session.dcs_url, session.insecure, session.environ)
    units = Units(patroni_unit, pgcore_unit, file_on_nodes or os.path.abspath(str(path)))
    kube = None
    if "kubernetes" in own.client.stores:
        _refuse(context, _OF_MACHINES, f"is for machines: the members of {units.file} are pods, which have no units")
        if not only_back and not image:
            raise click.UsageError(f"--image is missing: the members of {units.file} are pods, name the image with pgcore that "
                                   "they are to run")
        if image_before and not only_back:
            raise click.UsageError(f"--image-before {image_before} is for the way back: add --back, or leave it out, as the way "
                                   "there notes the image")
        kube = Pods(units.file, _kubectl(own), image or "", image_before or "", stateful_set or "", container or "")
    else:
        _refuse(context, _OF_PODS, f"is for pods: {units.file} has no section kubernetes; name the file of a pod")
    if "raft" in own.client.stores:
        raise click.ClickException("a Raft cluster cannot be moved node by node: voters of Patroni and pgcore do not understand "
                                   "each "
                                   "other (docs/migrating-from-patroni.md says what can be done)")
    with own.cluster(None, own.own_group(None)) as cluster:
        view = cluster.read()
        scope = cluster.scope
    if not view.members:
        raise click.ClickException(f"{scope} has no members in the store: start its agents, or correct scope and namespace")
    if kube is not None:
        report.show_plans([pods.back(scope, view, kube) if only_back else pods.forth(scope, view, kube)], style)
        return
    ways = [] if only_back else [forth(scope, view, units, switchover=switchover)]
    report.show_plans([*ways, back(scope, view, units)], style)


def _refuse(context: click.Context, options: Iterable[str], why: str) -> None:
    """Raises UsageError for the first of these options that was given."""
    for name in options:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} {why}, or leave the option out")


def _kubectl(session: Session) -> tuple[str, ...]:
    section = cast("pods.Section", session.section("kubernetes"))
    client = session.client
    return pods.kubectl(section, client.namespace, client.source, inside="KUBERNETES_SERVICE_HOST" in session.environ)


def _environ(environ: Mapping[str, str], files: tuple[str, ...]) -> dict[str, str]:
    """The environment as the agent's unit has it; later files win, as with systemd."""
    merged = dict(environ)
    for path in files:
        merged |= read_environment_file(path)
    return merged
