"""``pgcore pause`` and ``resume``: maintenance mode of a whole cluster (cli 4.8)."""

from __future__ import annotations

import threading

import click

from pgcore.cli.api import ApiAnswer, ApiError, MemberApi
from pgcore.cli.context import Cluster, Session
from pgcore.cli.nodes import finish
from pgcore.cli.options import group_option, name_argument
from pgcore.clock import Deadline
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView
from pgcore.rest.members import ClusterMode

ANSWER_S = 60.0
LOOK_S = 1.0

wait_option = click.option("--wait", is_flag=True, help="Return when every member has taken it over.")


@click.command("pause")
@name_argument
@group_option
@wait_option
@click.pass_obj
def pause(session: Session, name: str | None, group: int | None, wait: bool) -> None:
    """Let agents watch only: nobody is promoted, started or stopped until you resume."""
    with session.cluster(name, session.own_group(group)) as cluster:
        _change(MemberApi(session), cluster, True, wait=wait)


@click.command("resume")
@name_argument
@group_option
@wait_option
@click.pass_obj
def resume(session: Session, name: str | None, group: int | None, wait: bool) -> None:
    """End maintenance mode."""
    with session.cluster(name, session.own_group(group)) as cluster:
        _change(MemberApi(session), cluster, False, wait=wait)


def _change(api: MemberApi, cluster: Cluster, wanted: bool, *, wait: bool) -> None:
    view = cluster.read()
    if ClusterMode.of(view).paused == wanted:
        raise click.ClickException(f"{cluster.scope} is {'in' if wanted else 'not in'} maintenance mode already")
    what = "pause" if wanted else "resume"
    answer, who = change_config(api, view, {"pause": True if wanted else None})
    if answer.code != 200:
        click.echo(f"Failed: {what} cluster management, asked {who}: status code={answer.code}, ({answer.text}){answer.remedy}")
        finish([False])
    if wait:
        click.echo(f"'{what}' request sent, waiting until every member has taken it over")
        late = _late(cluster, wanted)
        if late:
            click.echo(f"Failed: {what} is written, but {', '.join(late)} did not take it over in time; see pgcore list")
            finish([False])
    click.echo(f"Success: cluster management is {'paused' if wanted else 'resumed'}")


def change_config(api: MemberApi, view: ClusterView, change: dict[str, Json]) -> tuple[ApiAnswer, str]:
    """Merge this into ``/config`` through the first member that answers, the leader before the others; and its name.

    Raises ClickException if none does.
    """
    problems = []
    for member in sorted(view.members, key=lambda member: member.name != view.leader):
        try:
            return api.call("PATCH", member.api_url, "config", change, ANSWER_S), member.name
        except ApiError as error:
            problems.append(f"{member.name}: {error}" + (" (it may have been carried out)" if error.sent else ""))
    raise click.ClickException("no member could be asked: " + ("; ".join(problems) or "there is none"))


def _late(cluster: Cluster, wanted: bool) -> list[str]:
    """Who has not taken it over after a heartbeat of everybody."""
    never, view = threading.Event(), cluster.read()
    document = view.config.document if view.config else None
    deadline = Deadline.after(float((document or {}).get("loop_wait") or 10) + 1.0)
    while True:
        late = sorted(member.name for member in view.members if member.pause != wanted)
        if not late or deadline.expired:
            return late
        never.wait(LOOK_S)
        view = cluster.read()
