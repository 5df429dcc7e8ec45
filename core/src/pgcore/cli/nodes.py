"""``pgcore restart``, ``reload`` and ``reinit``: one member after the other, over its REST API (cli 4.3-4.5)."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable

import click

from pgcore.cli.api import ApiAnswer, ApiError, MemberApi
from pgcore.cli.cluster import show_cluster
from pgcore.cli.context import Cluster, Session
from pgcore.cli.members import Views, matching
from pgcore.cli.options import force_option, group_option, members_argument, needed_name_argument, role_option
from pgcore.cli.switch import moment_of, plain
from pgcore.model.basics import Json, State
from pgcore.model.cluster import Member
from pgcore.model.node import TaskKind

ANSWER_S = 1000.0
"""A restart answers when it has ended; this only bounds a member that hangs."""
LOOK_S = 2.0

@click.command("restart")
@needed_name_argument
@members_argument
@role_option
@click.option("--any", "one", is_flag=True, help="One member, chosen at random.")
@click.option("--scheduled", metavar="TIME", help="When, with or without a zone; now by default.")
@click.option("--pg-version", metavar="X.Y", help="Only servers of a lower version.")
@click.option("--pending", is_flag=True, help="Only servers on which a parameter waits for a restart.")
@click.option("--timeout", metavar="TIME", help="How long a start may take, as 30s or 5min.")
@group_option
@force_option
@click.pass_obj
def restart(
    session: Session, name: str, members: tuple[str, ...], role: str, one: bool, force: bool,
    group: int | None, **conditions: str | bool | None
) -> None:
    """Restart PostgreSQL on members, one after the other."""
    with session.cluster(name, group) as cluster:
        views, chosen = _chosen(cluster, members, role)
        when = moment_of(views, _given(conditions["scheduled"]), "restart", force=force)
        if conditions["pending"] and when is None:
            chosen = [member for member in chosen if member.data.get("pending_restart")]
        if one and chosen:
            chosen = [random.choice(chosen)]
        if not chosen:
            raise click.ClickException("no parameter of these members waits for a restart")
        _confirm("restart", chosen, force=force)
        version = _given(conditions["pg_version"])
        if version is None and not force:
            version = click.prompt("Restart only servers of a version lower than", default="", show_default=False) or None
        fields = {"schedule": when, "postgres_version": version, "timeout": _given(conditions["timeout"])}
        body: dict[str, Json] = {key: value for key, value in fields.items() if value}
        if conditions["pending"]:
            body["restart_pending"] = True
        for member in chosen:
            _restart(MemberApi(session), member, body, instead=force and when is not None)


def _given(value: str | bool | None) -> str | None:
    return value if isinstance(value, str) else None


def _restart(api: MemberApi, member: Member, body: dict[str, Json], *, instead: bool) -> None:
    if instead and member.data.get("scheduled_restart"):
        _call(api, "DELETE", member, "restart", None)
    answer = _call(api, "POST", member, "restart", body)
    if answer is None:
        return
    told = {
        200: f"Success: restart on member {member.name}",
        202: f"Success: restart scheduled on member {member.name}",
        409: f"Failed: another restart is already scheduled on member {member.name}",
    }
    click.echo(told.get(answer.code) or _failed("restart", member, answer))


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
        _, chosen = _chosen(cluster, members, role)
        _confirm("reload", chosen, force=force)
        for member in chosen:
            answer = _call(MemberApi(session), "POST", member, "reload", None)
            if answer is not None and answer.code == 202:
                click.echo(f"Reload request received for member {member.name}: its files are read before its next heartbeat")
            elif answer is not None:
                click.echo(_failed("reload", member, answer))


@click.command("reinit")
@needed_name_argument
@members_argument
@click.option("--from-leader", is_flag=True, help="Copy from the leader by pg_basebackup, whatever is configured.")
@click.option("--wait", is_flag=True, help="Return when the copies are made.")
@group_option
@force_option
@click.pass_obj
def reinit(session: Session, name: str, members: tuple[str, ...], from_leader: bool, wait: bool, group: int | None,
           force: bool) -> None:
    """Throw the data directories of replicas away and copy them anew."""
    with session.cluster(name, group) as cluster:
        views, able = _chosen(cluster, (), "replica")
        if not members and force:
            raise click.ClickException("name the members to copy anew")
        chosen = _members(views, members or (click.prompt(f"Which member {[member.name for member in able]}"),), "replica")
        _confirm("reinitialize", chosen, force=force)
        api = MemberApi(session)
        begun = [member for member in chosen if _reinit(api, member, from_leader=from_leader, force=force)]
        for member in begun if wait else ():
            _wait(api, member)


def _reinit(api: MemberApi, member: Member, *, from_leader: bool, force: bool) -> bool:
    answer = _call(api, "POST", member, "reinitialize", {"force": force, "from_leader": from_leader})
    if answer is not None and answer.body.endswith(" already in progress") and not force:
        if not click.confirm(f"{member.name}: {answer.body}. Cancel it and reinitialize anyway?"):
            return False
        answer = _call(api, "POST", member, "reinitialize", {"force": True, "from_leader": from_leader})
    if answer is not None:
        success = f"Success: reinitialize for member {member.name}"
        click.echo(success if answer.code == 200 else _failed("reinitialize", member, answer))
    return answer is not None and answer.code == 200


def _wait(api: MemberApi, member: Member) -> None:
    """Until the member is not making its copy any more; what runs beside its heartbeat says so from the first moment."""
    never = threading.Event()
    while True:
        try:
            document = api.status(member.api_url)
        except ApiError:
            document = {"state": State.CREATING_REPLICA}  # it may be busy; it is asked again
        task = (document.get("pgcore") or {}).get("task") or {}
        if document.get("state") != State.CREATING_REPLICA and task.get("kind") != TaskKind.REINITIALIZE:
            click.echo(f"Reinitialize is completed on: {member.name}")
            return
        never.wait(LOOK_S)


# -- members ---------------------------------------------------------------------------------------------------------------


def _chosen(cluster: Cluster, names: tuple[str, ...], role: str) -> tuple[Views, list[Member]]:
    show_cluster(cluster)
    views = cluster.read_groups()
    return views, _members(views, names, role)


def _members(views: Views, names: Iterable[str], role: str) -> list[Member]:
    return [found.member for found in matching(views, names, role)]


def _confirm(action: str, members: list[Member], *, force: bool) -> None:
    if not force:
        click.confirm(f"Are you sure you want to {action} members {', '.join(m.name for m in members)}?", abort=True)


def _call(api: MemberApi, method: str, member: Member, path: str, body: Json) -> ApiAnswer | None:
    """The member's answer; None when there was none, which is said."""
    try:
        return api.call(method, member.api_url, path, body, ANSWER_S)
    except ApiError as error:
        click.echo(f"Failed: {path} for member {member.name}, no answer: {error}")
        return None


def _failed(action: str, member: Member, answer: ApiAnswer) -> str:
    return f"Failed: {action} for member {member.name}, status code={answer.code}, ({plain(answer.body)})"
