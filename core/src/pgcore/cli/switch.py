"""``pgcore switchover`` and ``failover``: who, when, really? (cli 4.6) What follows is the ``course`` of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import click
from dateutil import parser as dates  # type: ignore[import-untyped]
from dateutil import tz

from pgcore.cli.api import MemberApi
from pgcore.cli.cluster import show_cluster
from pgcore.cli.context import Cluster, Session
from pgcore.cli.course import Order, carry_out
from pgcore.cli.members import Views
from pgcore.cli.options import dry_run_option, force_option, group_option, name_argument
from pgcore.model.cluster import ClusterView
from pgcore.rest.members import ClusterMode


@click.command("switchover")
@name_argument
@click.option("--leader", "--primary", "leader", help="The present leader, as a check.")
@click.option("--candidate", help="Who shall lead; without it the best member.")
@click.option("--scheduled", metavar="TIME", help="When, with or without a zone; now by default.")
@group_option
@force_option
@dry_run_option
@click.pass_obj
def switchover(session: Session, name: str | None, leader: str | None, candidate: str | None, scheduled: str | None,
               group: int | None, force: bool, dry_run: bool) -> None:
    """Move leadership from the present leader to another member, without losing a commit."""
    ask = _Asking("switchover", force=force or dry_run)
    with session.cluster(name, _group(session, name, group, ask)) as cluster:
        view = _shown(cluster)
        if view.unlocked:
            raise click.ClickException(f"{cluster.scope} has no leader: use failover to choose one")
        if leader is None and not ask.force:
            leader = click.prompt("Primary", default=view.leader)
        if leader not in (None, view.leader):
            raise click.ClickException(f"{leader} is not the leader of {cluster.scope}, {view.leader} is")
        candidate = _candidate(view, candidate, ask, needed=False)
        when = moment_of({None: view}, scheduled, "switchover", force=ask.force)
        _finish(session, cluster, Order("switchover", view, view.leader, candidate, when), ask, dry_run=dry_run)


@click.command("failover")
@name_argument
@click.option("--candidate", help="Who shall lead.")
@group_option
@force_option
@dry_run_option
@click.pass_obj
def failover(session: Session, name: str | None, candidate: str | None, group: int | None, force: bool, dry_run: bool) -> None:
    """Give leadership to a member that you name, also when there is no leader. May lose commits it has not received."""
    ask = _Asking("failover", force=force or dry_run)
    with session.cluster(name, _group(session, name, group, ask)) as cluster:
        view = _shown(cluster)
        candidate = _candidate(view, candidate, ask, needed=True)
        if ClusterMode.of(view).synchronous != "off" and not view.sync.covers(candidate or "") and not ask.force:
            click.confirm(f"{candidate} is not a synchronous standby and may lack acknowledged commits. Really?", abort=True)
        _finish(session, cluster, Order("failover", view, None, candidate, None), ask, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class _Asking:
    """What is asked for, and whether questions may be put."""

    action: str
    force: bool


def _group(session: Session, name: str | None, group: int | None, ask: _Asking) -> int | None:
    """One of the groups of a cluster that has some. Raises ClickException when none is named and nobody may be asked."""
    if group is not None:
        return group
    with session.cluster(name) as cluster:
        numbers = [number for number in cluster.read_groups() if number is not None]
        if not numbers:
            return None
        if ask.force:
            raise click.ClickException(f"{cluster.scope} has the groups {', '.join(map(str, numbers))}: name one with --group")
        show_cluster(cluster)
    return int(click.prompt("Group", type=click.Choice([str(number) for number in numbers])))


def _shown(cluster: Cluster) -> ClusterView:
    click.echo("Current cluster topology")
    show_cluster(cluster, tree=True)
    return cluster.read()


def _candidate(view: ClusterView, candidate: str | None, ask: _Asking, *, needed: bool) -> str | None:
    able = sorted(member.name for member in view.members if member.name != view.leader and not member.tags.nofailover)
    if not able:
        raise click.ClickException("there is no candidate: no member but the leader may take over (tag nofailover)")
    if candidate is None and not ask.force:
        candidate = click.prompt(f"Candidate {able}", default="", show_default=False) or None
    if candidate is None and needed:
        raise click.ClickException("a failover needs a candidate: use --candidate")
    if candidate is not None and candidate == view.leader:
        raise click.ClickException(f"{candidate} is the leader already")
    if candidate is not None and candidate not in able:
        why = "has the tag nofailover" if view.member(candidate) else "is not a member"
        raise click.ClickException(f"{candidate} cannot take over: it {why}; candidates are {', '.join(able)}")
    return candidate


def moment_of(views: Views, scheduled: str | None, what: str, *, force: bool) -> str | None:
    """When it shall happen, as ISO 8601 with a zone; None for now. Raises ClickException for what cannot be scheduled."""
    if scheduled is None and not force:
        scheduled = click.prompt(f"When should the {what} take place", default="now")
    if scheduled in (None, "", "now"):
        return None
    try:
        moment = dates.parse(scheduled)
    except (ValueError, OverflowError) as error:
        raise click.ClickException(f"{scheduled!r} is not a time: write it like 2030-12-31T23:30:00+00:00") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=tz.tzlocal())
    if moment < datetime.now(UTC):
        raise click.ClickException(f"{moment.isoformat()} is in the past")
    if any(ClusterMode.of(view).paused for view in views.values()):
        raise click.ClickException("nothing can be scheduled in maintenance mode: resume first")
    text: str = moment.isoformat()
    return text


def _finish(session: Session, cluster: Cluster, order: Order, ask: _Asking, *, dry_run: bool) -> None:
    api, view = MemberApi(session), order.before
    if dry_run:
        from pgcore.cli.forecast import of_order, tell

        tell(of_order(api, cluster.scope, order))
        return
    if not ask.force:
        to = order.candidate or "the best candidate"
        lost = f", demoting the leader {view.leader}" if view.leader else ""
        what, at = ("schedule " if order.when else "") + order.action, f" at {order.when}" if order.when else ""
        which = cluster.scope if cluster.group is None else f"{cluster.scope} (group {cluster.group})"
        click.confirm(f"Are you sure you want to {what} cluster {which} to {to}{at}{lost}?", abort=True)
    carry_out(api, cluster, order)
