"""``pgcore demote-cluster`` and ``promote-cluster``: turn a cluster into a standby of another one, and back (cli 4.10)."""

from __future__ import annotations

import threading

import click

from pgcore.cli.api import ApiError, MemberApi
from pgcore.cli.cluster import show_cluster
from pgcore.cli.context import Cluster, Session
from pgcore.cli.options import force_option, name_argument
from pgcore.cli.pause import ANSWER_S
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView, Member
from pgcore.rest.members import ClusterMode

LOOK_S = 1.0


@click.command("demote-cluster")
@name_argument
@click.option("--host", help="The remote primary; several with commas.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.")
@click.option("--restore-command", help="How WAL is fetched from the remote cluster's archive.")
@click.option("--primary-slot-name", help="The replication slot to use on the remote primary.")
@force_option
@click.pass_obj
def demote_cluster(session: Session, name: str | None, host: str | None, port: int | None, restore_command: str | None,
                   primary_slot_name: str | None, force: bool) -> None:
    """Make the cluster a standby of another cluster: it becomes read-only and follows."""
    given = {"host": host, "port": port, "restore_command": restore_command}
    if not any(given.values()):
        raise click.ClickException("whom shall it follow? Give at least one of --host, --port and --restore-command")
    section: dict[str, Json] = {key: value for key, value in {**given, "primary_slot_name": primary_slot_name}.items() if value}
    _convert(session, name, section, force=force)


@click.command("promote-cluster")
@name_argument
@force_option
@click.pass_obj
def promote_cluster(session: Session, name: str | None, force: bool) -> None:
    """Make a standby cluster one that accepts writes."""
    _convert(session, name, None, force=force)


def _convert(session: Session, name: str | None, section: dict[str, Json] | None, *, force: bool) -> None:
    what = "promote" if section is None else "demote"
    with session.cluster(name, session.own_group(None)) as cluster:
        show_cluster(cluster)
        view, api = cluster.read(), MemberApi(session)
        leader = view.leader_member
        if leader is None:
            raise click.ClickException(f"{cluster.scope} has no leader that could {what} it")
        standby = section is not None
        if ClusterMode.of(view).standby_cluster == standby and (leader.role == "standby_leader") == standby:
            raise click.ClickException(f"{cluster.scope} is {'a standby' if standby else 'no standby'} cluster already")
        if not force:
            whom = ", ".join(f"{key} {value}" for key, value in (section or {}).items())
            becomes = f"a standby cluster of {whom}; it will not accept writes" if section else "a cluster that accepts writes"
            click.confirm(f"Are you sure you want to {what} cluster {cluster.scope}? It becomes {becomes}", abort=True)
        _ask(api, leader, what, section)
        try:
            _until_converted(api, cluster, leader.name, standby=standby)
        except KeyboardInterrupt:
            raise click.ClickException(f"interrupted: the cluster goes on to {what}, how it ends is not known here "
                                       "(see pgcore list)") from None
        show_cluster(cluster, judged=False)


def _ask(api: MemberApi, leader: Member, what: str, section: dict[str, Json] | None) -> None:
    """Through the leader alone, which has to act on it first. Raises ClickException."""
    try:
        answer = api.call("PATCH", leader.api_url, "config", {"standby_cluster": section}, ANSWER_S)
    except ApiError as error:
        unknown = ", result unknown (it may have been carried out)" if error.sent else ""
        raise click.ClickException(f"Failed to {what} the cluster{unknown}: {leader.name} gave no answer, {error}") from error
    if answer.code != 200:
        said = f"{answer.code}, {answer.text}{answer.remedy}"
        raise click.ClickException(f"Failed to {what} the cluster: {leader.name} answered {said}")


def _until_converted(api: MemberApi, cluster: Cluster, former: str, *, standby: bool) -> None:
    """Until a leader of the new kind runs; after a demotion the former leader runs as well. There is no deadline."""
    never = threading.Event()
    while not _converted(view := cluster.read(), former, standby=standby):
        click.echo(f"Waiting: {_situation(api, view, former)}", err=True)
        never.wait(LOOK_S)
    click.echo(f"Success: {view.leader} leads {cluster.scope} as {'standby leader' if standby else 'primary'}")


def _converted(view: ClusterView, former: str, *, standby: bool) -> bool:
    leader, old = view.leader_member, view.member(former)
    roles = ("standby_leader",) if standby else ("primary", "master")
    if leader is None or not leader.running or leader.role not in roles:
        return False
    return not standby or (old is not None and old.running)


def _situation(api: MemberApi, view: ClusterView, former: str) -> str:
    """Who leads, what it is, and why it rests there."""
    member = view.leader_member or view.member(former)
    if member is None:
        return "there is no leader"
    try:
        own = api.status(member.api_url).get("pgcore") or {}
    except ApiError as error:
        own = {"reason": str(error)}
    reason = f" ({own['reason']})" if own.get("reason") else ""
    leads = "leads" if member.name == view.leader else "has led, nobody leads"
    return f"{member.name} {leads}, its role is {member.role}, its state {member.state}{reason}"
