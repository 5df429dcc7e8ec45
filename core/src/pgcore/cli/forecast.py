"""``--dry-run``: what the agents' own rules would make of a request, and what speaks against it. Nothing is written.

The rules get what the members publish now (``image``); a request that waits for something counts as refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import click

from pgcore.cli.api import MemberApi
from pgcore.cli.course import Order
from pgcore.cli.image import Asked, ask_all, world
from pgcore.cli.members import Found
from pgcore.decide import forecast as decided
from pgcore.model.basics import Json
from pgcore.model.orders import Order as NodeOrder
from pgcore.model.orders import ReinitOrder
from pgcore.rest.manage import Ask, Reply, refused_by_cluster, refused_request, unasked
from pgcore.rest.members import ClusterMode
from pgcore.rest.orders import restart_order

MEBIBYTE = 1024 * 1024
MUCH_REPLAY = 64 * MEBIBYTE
"""This takes seconds to replay, in which a new primary does not accept writes yet."""


@dataclass
class Forecast:
    """What would come of one request."""

    what: str
    facts: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    accepted: bool = True
    result: str = ""

    def refuse(self, why: str) -> Forecast:
        """It would not be done."""
        self.accepted, self.result = False, f"it would be refused: {why}"
        return self


def tell(forecasts: Iterable[Forecast] | Forecast) -> None:
    """Print them. Ends the command with code 1 unless everything would be accepted."""
    found = [forecasts] if isinstance(forecasts, Forecast) else list(forecasts)
    for forecast in found:
        click.echo(f"Dry run, nothing is changed: {forecast.what}")
        for fact in forecast.facts:
            click.echo(f"  {fact}")
        for line in forecast.against:
            click.echo(click.style("  ! ", fg="red", bold=True) + line)
        click.echo(f"Result: {forecast.result}")
    if not all(forecast.accepted for forecast in found):
        raise click.exceptions.Exit(1)


# -- switchover and failover ---------------------------------------------------------------------------------------------------


def of_order(api: MemberApi, scope: str, order: Order) -> Forecast:
    """A switchover or failover."""
    view, asked = order.before, ask_all(api, order.before.members)
    leader, mode = asked.get(view.leader or ""), ClusterMode.of(view)
    away = f" from {view.leader}" if view.leader else ""
    when = f", at {order.when}" if order.when else ""
    made = Forecast(f"{order.action} of {scope}{away} to {order.candidate or 'the best candidate'}{when}")
    made.facts = [_standing(each, leader) for each in asked.values()]
    made.against = list(_against(order, asked, mode))
    ask = Ask(order.action, order.leader, order.candidate, order.when)
    refusal = refused_request(ask, paused=mode.paused) or refused_by_cluster(ask, mode.synchronous, view, unasked)
    if refusal is not None:
        return made.refuse(refusal.text)
    if view.leader and (leader is None or not leader.status):
        view, leader = replace(view, leader=None), None
        made.against.append(f"the agent of {order.before.leader} does not answer: the request would be written into the store, "
                            "and unless that agent acts on it, nobody leads until its lease has ended")
        if order.candidate is None:
            return made.refuse("nobody can say who would lead then; name a candidate")
    acting = leader or asked.get(order.candidate or "")
    if acting is None or not acting.status:
        why = acting.problem if acting is not None else "it has no member card"
        return made.refuse(f"the agent of {order.candidate} does not answer ({why})")
    verdict = decided.of_request(world(acting, view, asked), order.leader, order.candidate)
    if not verdict.accepted:
        return made.refuse(verdict.reason)
    first, *others = verdict.able
    made.result = f"{first} would lead" if view.leader else f"{first} would take the lock and be promoted"
    if others:
        made.result += f"; if it has not received everything when {view.leader} has stopped: {', then '.join(others)}"
    return made


def _standing(asked: Asked, leader: Asked | None) -> str:
    """A member in words."""
    name, node, member = asked.name, asked.node, asked.member
    if not asked.status:
        return f"{name}: its agent does not answer ({asked.problem}), its card says {member.state or 'nothing'}"
    leads = leader is not None and leader.name == name
    words = ["leads" if leads else "runs as a primary without the lock" if node.is_primary else
             str(asked.status.get("replication_state") or "does not stream") if node.running else str(node.state)]
    words.append(f"timeline {node.timeline or 'unknown'}")
    if leader is not None and not leads and node.position and leader.node.position:
        words.append(f"{max(0, leader.node.position - node.position)} bytes behind")
    words += [what for what in ("sync_standby", "quorum_standby") if asked.status.get(what)]
    if published := member.tags.published():
        words.append("tags " + ", ".join(f"{tag}: {value}" for tag, value in sorted(published.items())))
    return f"{name}: {', '.join(words)}"


def _against(order: Order, asked: Mapping[str, Asked], mode: ClusterMode) -> Iterable[str]:
    """What does not forbid it, but should be known before."""
    view = order.before
    if mode.paused:
        yield "maintenance mode is on: if it fails half-way, nobody takes over by himself"
    if view.failover is not None:
        at = f" at {view.failover.scheduled_at}" if view.failover.scheduled_at else ""
        yield f"it would replace the request that is in the store: to {view.failover.candidate or 'the best candidate'}{at}"
    if order.action == "failover" and mode.synchronous == "off":
        yield f"replication is asynchronous: commits that {order.candidate} has not received could be lost"
    if order.action == "failover" and mode.synchronous != "off" and not view.sync.covers(order.candidate or ""):
        yield f"{order.candidate} is not synchronous: commits that were confirmed could be lost"
    if any(member.is_patroni for member in view.members):
        yield "the agent of a member is Patroni, which may decide otherwise"
    for name, each in asked.items():
        if name == view.leader or (order.candidate and name != order.candidate):
            continue
        backlog = (each.node.received or 0) - (each.node.replayed or 0)
        if each.node.replay_paused:
            yield f"the replay of WAL is paused on {name}"
        if backlog > MUCH_REPLAY:
            yield f"{name} has {backlog / MEBIBYTE:.0f} MB to replay before it accepts writes"
        if each.node.pending_restart:
            yield f"{name} waits for a restart ({', '.join(sorted(each.node.pending_restart))}), which a promotion does not do"


# -- one node ------------------------------------------------------------------------------------------------------------------


def of_restart(api: MemberApi, chosen: Iterable[Found], body: dict[str, Json]) -> Iterable[Forecast]:
    """Restarts, one after the other."""
    order = restart_order(body)
    for found in chosen:
        made = Forecast(f"restart of {found.name}" + (f" at {body['schedule']}" if body.get("schedule") else ""))
        if isinstance(order, Reply):
            yield made.refuse(order.text)
            continue
        if body.get("schedule") and found.member.data.get("scheduled_restart"):
            made.against.append("another restart is scheduled there; only with --force it is replaced")
        result = "PostgreSQL would be restarted" + (
            ": nobody can write from its stop to its start, the lock is kept" if found.name == found.view.leader else
            ", the primary goes on")
        yield _of_node(api, found, made, order, result)


def of_reinit(api: MemberApi, chosen: Iterable[Found], body: dict[str, Json]) -> Iterable[Forecast]:
    """New copies."""
    order = ReinitOrder(bool(body["force"]), bool(body["from_leader"]))
    for found in chosen:
        result = "its data directory would be removed and replaced by a copy of {source}"
        yield _of_node(api, found, Forecast(f"new copy of {found.name}"), order, result)


def _of_node(api: MemberApi, found: Found, made: Forecast, order: NodeOrder, result: str) -> Forecast:
    everybody = ask_all(api, found.view.members)
    me = everybody[found.name]
    made.facts = [_standing(me, everybody.get(found.view.leader or ""))]
    if not me.status:
        return made.refuse("its agent does not answer")
    verdict = decided.of_order(world(me, found.view, everybody), order)
    if verdict.leaves_sync:
        made.against.append("it is a synchronous standby and would first ask to be released, which may take some seconds")
    made.result = result.format(source=verdict.source)
    return made if verdict.accepted else made.refuse(verdict.reason)
