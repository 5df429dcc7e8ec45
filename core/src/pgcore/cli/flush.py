"""``pgcore flush``: drop what is scheduled, restarts of members or a switchover (cli 4.7)."""

from __future__ import annotations

import click

from pgcore.cli.api import ApiError, MemberApi
from pgcore.cli.context import Cluster, Session
from pgcore.cli.members import Found
from pgcore.cli.nodes import call, chosen_members, confirm, failed, finish
from pgcore.cli.options import force_option, group_option, members_argument, needed_name_argument, role_option
from pgcore.clock import Deadline
from pgcore.dcs.codec import encode_failover
from pgcore.dcs.store import Key, Refused, version
from pgcore.errors import StoreUnavailableError
from pgcore.model.cluster import ClusterView

ANSWER_S = 60.0
WRITE_S = 10.0
_NOTHING = "No pending scheduled switchover"


@click.command("flush")
@needed_name_argument
@members_argument
@click.argument("target", type=click.Choice(["restart", "switchover"]))
@role_option
@group_option
@force_option
@click.pass_obj
def flush(session: Session, name: str, members: tuple[str, ...], target: str, role: str, group: int | None, force: bool) -> None:
    """Drop scheduled restarts of members, or the scheduled switchover."""
    with session.cluster(name, group) as cluster:
        api = MemberApi(session)
        if target == "switchover":
            finish([_switchover(api, cluster, number, view) for number, view in cluster.read_groups().items()])
            return
        _, chosen = chosen_members(cluster, members, role)
        confirm("flush scheduled restarts of", chosen, force=force)
        finish([_restart(api, found) for found in chosen])


def _restart(api: MemberApi, found: Found) -> bool:
    """Whether nothing is scheduled on this member any more."""
    if not found.member.data.get("scheduled_restart"):
        click.echo(f"No scheduled restart on member {found.name}")
        return True
    answer = call(api, "DELETE", found, "restart", None)
    if answer is None:
        return False
    good = answer.code == 200
    click.echo(f"Success: flush scheduled restart for member {found.name}" if good else failed("flush scheduled restart",
                                                                                              found.name, answer))
    return good


def _switchover(api: MemberApi, cluster: Cluster, group: int | None, view: ClusterView) -> bool:
    """Whether no switchover is scheduled any more. The leader is asked first, then whoever answers."""
    where = f" in group {group}" if group is not None and cluster.group is None else ""
    if view.failover is None or not view.failover.scheduled_at:
        click.echo(_NOTHING + where)
        return True
    answered = False
    for member in sorted(view.members, key=lambda member: member.name != view.leader):
        try:
            answer = api.call("DELETE", member.api_url, "switchover", None, ANSWER_S)
        except ApiError as error:
            answered = answered or error.sent or error.untrusted
            click.echo(f"{member.name} does not answer: {error}", err=True)
            continue
        answered = True
        if answer.code == 200:
            click.echo(f"Success: scheduled switchover deleted{where}")
            return True
        click.echo(failed("flush scheduled switchover", member.name, answer))
        if answer.code == 404:
            return False
    return False if answered else _clear(cluster, group, view, where)


def _clear(cluster: Cluster, group: int | None, view: ClusterView, where: str) -> bool:
    """No agent can be asked: clear the request in the store, if it is still the one that was seen."""
    if group != cluster.group:
        click.echo(f"Failed: flush scheduled switchover{where}, no agent can be asked; to clear it in the store name --group")
        return False
    assert view.failover is not None
    try:
        written = cluster.store.put(Key.FAILOVER, encode_failover(), expect=version(view.failover.version),
                                    deadline=Deadline.after(WRITE_S))
    except StoreUnavailableError as error:
        click.echo(f"Failed: flush scheduled switchover, result unknown: {error}")
        return False
    if isinstance(written, Refused):
        click.echo("Failed: flush scheduled switchover, the request in the store has changed meanwhile")
        return False
    click.echo("Success: scheduled switchover cleared in the store, as no agent could be asked")
    return True
