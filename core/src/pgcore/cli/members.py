"""Which members a command is about: by role, as the store tells it, and by name (cli 1.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import click

from pgcore.model.cluster import ClusterView, Member

ROLES = ("leader", "primary", "standby-leader", "replica", "standby", "any")

Views = Mapping[int | None, ClusterView]
"""The groups of a cluster by number; a cluster without groups is one of number None."""


@dataclass(frozen=True, slots=True)
class Found:
    """A member and the cluster it is part of."""

    member: Member
    view: ClusterView
    group: int | None = None

    @property
    def name(self) -> str:
        """Of the member."""
        return self.member.name


def with_role(views: Views, role: str) -> list[Found]:
    """All members of that role, by group and name."""
    return [Found(member, view, group) for group, view in views.items() for member in sorted(view.members, key=lambda m: m.name)
            if has_role(view, member, role)]


def wanted(views: Views, role: str | None, member: str | None) -> list[Found]:
    """The members that ``--role``, by default leader, or ``--member`` mean. Raises ClickException when both are given."""
    if role is not None and member is not None:
        raise click.ClickException("--role and --member are mutually exclusive options")
    if member is not None:
        return [found for found in with_role(views, "any") if found.name == member]
    return with_role(views, role or "leader")


def matching(views: Views, names: Iterable[str], role: str) -> list[Found]:
    """The members of these names, all without one, that have the role; names of nobody are warned of.

    Raises ClickException if there are none.
    """
    found, names = with_role(views, role), set(names)
    known = {member.name for view in views.values() for member in view.members}
    for name in sorted(names - known):
        click.echo(f"Warning: {name} is not a member; members are {', '.join(sorted(known)) or 'none'}", err=True)
    if names:
        found = [one for one in found if one.name in names]
    if not found and names:
        raise click.ClickException(f"No '{role}' among provided members")
    if not found:
        raise click.ClickException("there is no member" if role == "any" else f"no member has the role {role}")
    return found


def has_role(view: ClusterView, member: Member, role: str) -> bool:
    """Whether the store tells this role of the member: who leads is the holder of the leader key."""
    leads = member.name == view.leader
    if role == "primary":
        return leads and member.role != "standby_leader"
    if role == "standby-leader":
        return leads and not member.is_primary
    return role == "any" or leads == (role == "leader")
