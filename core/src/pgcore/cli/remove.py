"""``pgcore remove``: forget a cluster, after three questions that nobody answers by accident (cli 4.9)."""

from __future__ import annotations

import click

from pgcore.cli.cluster import show_cluster
from pgcore.cli.context import READ_S, Session
from pgcore.cli.options import format_option, group_option, needed_name_argument
from pgcore.clock import Deadline
from pgcore.errors import ConfigError, StoreUnavailableError

AWARE = "Yes I am aware"


@click.command("remove")
@needed_name_argument
@group_option
@format_option
@click.pass_obj
def remove(session: Session, name: str, group: int | None, style: str) -> None:
    """Remove everything the store knows of a cluster. The databases stay; agents that run write it again, so stop them first."""
    with session.cluster(name, group) as cluster:
        show_cluster(cluster, style=style)
        views = cluster.read_groups()
        if (None not in views and group is None) or (group is None and session.client.citus is not None):
            raise ConfigError("", f"{name} is a cluster of groups", "name the one to remove with --group")
        _demand("Name of the cluster to remove", name)
        _demand(f'This removes all that is known of {name}{f", group {group}" if group is not None else ""}. '
                f'Type "{AWARE}"', AWARE)
        if leader := views[group].leader:
            _demand("It has a leader, so it seems to be in use. Name of the leader", leader)
        try:
            cluster.store.clear(deadline=Deadline.after(READ_S))
        except StoreUnavailableError as error:
            raise click.ClickException(f"{error}; some or all of it may be removed, see pgcore list {name}") from error
    click.echo(f"Success: cluster {name} is removed from the store")


def _demand(question: str, answer: str) -> None:
    given = click.prompt(question, type=str)
    if given != answer:
        raise click.ClickException(f"{given!r} is not {answer!r}: nothing was removed")
