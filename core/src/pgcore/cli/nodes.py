"""``pgcore restart`` and ``reload``: one member after the other, over its REST API (cli 4.3, 4.4)."""

from __future__ import annotations

import random
import re

import click

from pgcore.cli.api import ApiAnswer, ApiError, MemberApi
from pgcore.cli.cluster import show_cluster
from pgcore.cli.context import Cluster, Session
from pgcore.cli.live import Live
from pgcore.cli.members import Found, Views, matching
from pgcore.cli.options import (
    dry_run_option,
    force_option,
    group_option,
    members_argument,
    needed_name_argument,
    role_option,
)
from pgcore.cli.request import Request, answered
from pgcore.cli.switch import moment_of
from pgcore.cli.watch import Watch
from pgcore.clock import now
from pgcore.config.values import parse_int
from pgcore.model.basics import Json
from pgcore.rest.members import ClusterMode

ANSWER_S = 1000.0
"""A restart answers when it has ended; this only bounds a member that hangs."""


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and (parse_int(value, "s") or 0) <= 0:
        raise click.BadParameter(f"{value!r} is not a positive time: write it like 30, 30s or 5min")
    return value


def _release(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value and not re.fullmatch(r"\d{1,4}(\.\d{1,4}){1,2}", value):
        raise click.BadParameter(f"{value!r} is not a version of PostgreSQL: write it like 15.6 or 9.6.24")
    return value


@click.command("restart")
@needed_name_argument
@members_argument
@role_option
@click.option("--any", "one", is_flag=True, help="One member, chosen at random.")
@click.option("--scheduled", metavar="TIME", help="When, with or without a zone; now by default.")
@click.option("--pg-version", metavar="X.Y", callback=_release, help="Only servers of a lower version.")
@click.option("--pending", is_flag=True, help="Only servers on which a parameter waits for a restart.")
@click.option("--timeout", metavar="TIME", callback=_duration, help="How long a start may take, as 30s or 5min.")
@group_option
@force_option
@dry_run_option
@click.pass_obj
def restart(session: Session, name: str, members: tuple[str, ...], role: str, group: int | None, one: bool, force: bool,
            dry_run: bool, scheduled: str | None, pg_version: str | None, pending: bool, timeout: str | None) -> None:
    """Restart PostgreSQL on members, one after the other."""
    with session.cluster(name, group) as cluster:
        views, chosen = chosen_members(cluster, members, role)
        when = moment_of(views, scheduled, "restart", force=force or dry_run)
        if pending and when is None:
            chosen = [found for found in chosen if found.member.data.get("pending_restart")]
        if not chosen:
            raise click.ClickException("no parameter of these members waits for a restart")
        chosen = [random.choice(chosen)] if one else chosen
        fields = {"schedule": when, "postgres_version": pg_version, "timeout": timeout}
        body: dict[str, Json] = {key: value for key, value in fields.items() if value}
        if pending:
            body["restart_pending"] = True
        api = MemberApi(session)
        if dry_run:
            from pgcore.cli.forecast import of_restart, tell

            tell(of_restart(api, chosen, body))
            return
        confirm("restart", chosen, force=force)
        if pg_version is None and not force:
            body |= _version_asked()
        finish([_restart(api, found, body, instead=force and when is not None) for found in chosen])


def _version_asked() -> dict[str, Json]:
    version = click.prompt("Restart only servers of a version lower than", default="", show_default=False,
                           value_proc=lambda text: _release(click.get_current_context(), click.Option(["--pg-version"]), text))
    return {"postgres_version": version} if version else {}


def _restart(api: MemberApi, found: Found, body: dict[str, Json], *, instead: bool) -> bool:
    """Whether it succeeded, which is said."""
    member = found.member
    if instead and member.data.get("scheduled_restart"):
        call(api, "DELETE", found, "restart", None)
    leader = found.view.leader_member
    watched = {each.name: each for each in (member, leader) if each is not None and "schedule" not in body}
    began = now()
    with Live(began) as live, Watch(api, watched.values()) as watch:
        request = Request(lambda sending: api.call("POST", member.api_url, "restart", body, ANSWER_S, sending))
        try:
            answer = answered(request, live, watch)
        except KeyboardInterrupt:
            raise interrupted(request, f"the restart of {member.name}") from None
        told = {
            200: f"Success: restart on member {member.name}",
            202: f"Success: restart scheduled on member {member.name}",
            409: f"Failed: another restart is already scheduled on member {member.name}",
        }
        if isinstance(answer, ApiError) or answer.code not in told:
            click.echo(failed("restart", member.name, answer))
            return False
        click.echo(told[answer.code])
        if answer.code == 200 and leader is not None and not ClusterMode.of(found.view).standby_cluster:
            live.line(watch.write_gap(member.name if leader is member else None, leader.name, began))
        return answer.code != 409


@click.command("reload")
@needed_name_argument
@members_argument
@role_option
@group_option
@force_option
@click.pass_obj
def reload(session: Session, name: str, members: tuple[str, ...], role: str, group: int | None, force: bool) -> None:
    """Let agents read their configuration files again."""
    with session.cluster(name, group) as cluster:
        _, chosen = chosen_members(cluster, members, role)
        confirm("reload", chosen, force=force)
        finish([_reload(MemberApi(session), found) for found in chosen])


def _reload(api: MemberApi, found: Found) -> bool:
    answer = call(api, "POST", found, "reload", None)
    if answer is None:
        return False
    if answer.code == 202:
        document = found.view.config.document if found.view.config else None
        seconds = (document or {}).get("loop_wait") or 10
        click.echo(f"Reload request received for member {found.name}: its files are read within {seconds} seconds")
    elif answer.code == 200:
        click.echo(f"No changes to apply on member {found.name}")
    else:
        click.echo(failed("reload", found.name, answer))
    return answer.code in (200, 202)


# -- what the commands for members have in common ------------------------------------------------------------------------------


def chosen_members(cluster: Cluster, names: tuple[str, ...], role: str) -> tuple[Views, list[Found]]:
    """Show the cluster; its views, and the members of it that are meant. Raises ClickException if there are none."""
    show_cluster(cluster)
    views = cluster.read_groups()
    return views, matching(views, names, role)


def confirm(action: str, members: list[Found], *, force: bool) -> None:
    """Ask, unless nothing may be asked."""
    if not force:
        click.confirm(f"Are you sure you want to {action} members {', '.join(found.name for found in members)}?", abort=True)


def call(api: MemberApi, method: str, found: Found, path: str, body: Json) -> ApiAnswer | None:
    """The member's answer; None when there was none, which is said."""
    try:
        return api.call(method, found.member.api_url, path, body, ANSWER_S)
    except ApiError as error:
        click.echo(failed(path, found.name, error))
        return None


def failed(action: str, member: str, answer: ApiAnswer | ApiError) -> str:
    """What has not succeeded, and whether that is certain."""
    if isinstance(answer, ApiError):
        unknown = "result unknown (it may be under way), " if answer.sent else ""
        return f"Failed: {action} for member {member}, {unknown}no answer: {answer}"
    unknown = "result unknown, " if "status unknown" in answer.body else ""
    return f"Failed: {action} for member {member}, {unknown}status code={answer.code}, ({answer.text}){answer.remedy}"


def interrupted(request: Request, what: str) -> click.ClickException:
    """The error to end with when the operator does not want to wait any longer."""
    if request.withdraw():
        return click.ClickException(f"interrupted before anything was sent: nothing becomes of {what}")
    return click.ClickException(f"interrupted: {what} goes on at its agent, how it ends is not known here (see pgcore list); "
                                "nothing else is begun")


def finish(succeeded: list[bool]) -> None:
    """End with code 1 unless all of them did."""
    if not all(succeeded):
        raise click.exceptions.Exit(1)
