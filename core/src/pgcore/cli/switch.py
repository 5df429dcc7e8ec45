"""``pgcore switchover`` and ``failover``: ask, send, show what happens while it happens, say who leads (cli 4.6)."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

import click
from dateutil import parser as dates  # type: ignore[import-untyped]
from dateutil import tz

from pgcore.cli.api import ApiAnswer, ApiError, MemberApi
from pgcore.cli.cluster import show_cluster
from pgcore.cli.context import Cluster, Session
from pgcore.cli.members import Views
from pgcore.cli.options import force_option, group_option, name_argument
from pgcore.clock import Deadline, now
from pgcore.dcs.codec import encode_failover
from pgcore.dcs.store import ANYTHING, Key
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Instant
from pgcore.model.cluster import ClusterView
from pgcore.rest.members import ClusterMode

ANSWER_S = 150.0
"""The longest wait of a member is twice ``loop_wait``, plus its write; this only bounds a member that hangs."""
LOOK_S = 0.25
"""Cards do not wake a watch, so the view is read this often while a request runs."""
PROMOTION_S = 15.0
"""How long to go on watching until the new leader accepts writes."""


@click.command("switchover")
@name_argument
@click.option("--leader", "--primary", "leader", help="The present leader, as a check.")
@click.option("--candidate", help="Who shall lead; without it the best member.")
@click.option("--scheduled", metavar="TIME", help="When, with or without a zone; now by default.")
@group_option
@force_option
@click.pass_obj
def switchover(session: Session, name: str | None, leader: str | None, candidate: str | None, scheduled: str | None,
               group: int | None, force: bool) -> None:
    """Move leadership from the present leader to another member, without losing a commit."""
    with session.cluster(name, group) as cluster:
        view = _shown(cluster)
        if view.unlocked:
            raise click.ClickException(f"{cluster.scope} has no leader: use failover to choose one")
        if leader is None and not force:
            leader = click.prompt("Primary", default=view.leader)
        if leader not in (None, view.leader):
            raise click.ClickException(f"{leader} is not the leader of {cluster.scope}, {view.leader} is")
        candidate = _candidate(view, candidate, force=force, needed=False)
        when = moment_of({None: view}, scheduled, "switchover", force=force)
        _confirm(cluster, view, "switchover", candidate, when, force=force)
        _carry_out(session, cluster, _Order("switchover", view, view.leader, candidate, when))


@click.command("failover")
@name_argument
@click.option("--candidate", help="Who shall lead.")
@group_option
@force_option
@click.pass_obj
def failover(session: Session, name: str | None, candidate: str | None, group: int | None, force: bool) -> None:
    """Give leadership to a member that you name, also when there is no leader. May lose commits it has not received."""
    with session.cluster(name, group) as cluster:
        view = _shown(cluster)
        candidate = _candidate(view, candidate, force=force, needed=True)
        if ClusterMode.of(view).synchronous != "off" and not view.sync.covers(candidate or "") and not force:
            click.confirm(f"{candidate} is not a synchronous standby and may lack acknowledged commits. Really?", abort=True)
        _confirm(cluster, view, "failover", candidate, None, force=force)
        _carry_out(session, cluster, _Order("failover", view, None, candidate, None))


@dataclass(frozen=True, slots=True)
class _Order:
    """What was decided, and the view it was decided on."""

    action: str
    before: ClusterView
    leader: str | None
    candidate: str | None
    when: str | None

    @property
    def body(self) -> dict[str, str]:
        """The request of rest-api 8.4."""
        fields = {"leader": self.leader, "candidate": self.candidate, "scheduled_at": self.when}
        return {name: value for name, value in fields.items() if value}


def _shown(cluster: Cluster) -> ClusterView:
    click.echo("Current cluster topology")
    show_cluster(cluster, tree=True)
    return cluster.read()


def _candidate(view: ClusterView, candidate: str | None, *, force: bool, needed: bool) -> str | None:
    able = sorted(member.name for member in view.members if member.name != view.leader and not member.tags.nofailover)
    if not able:
        raise click.ClickException("there is no candidate: no member but the leader may take over (tag nofailover)")
    if candidate is None and not force:
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


def _confirm(cluster: Cluster, view: ClusterView, action: str, candidate: str | None, when: str | None, *, force: bool) -> None:
    if force:
        return
    to = candidate or "the best candidate"
    lost = f", demoting the leader {view.leader}" if view.leader else ""
    click.confirm(f"Are you sure you want to {'schedule ' if when else ''}{action} cluster {cluster.scope} to {to}"
                  f"{f' at {when}' if when else ''}{lost}?", abort=True)


def _carry_out(session: Session, cluster: Cluster, order: _Order) -> None:
    """Send the request, watch it run, and exit with 0 only if it succeeded."""
    began = now()
    target = order.before.leader_member or order.before.member(order.candidate)
    answers: list[ApiAnswer | ApiError] = []
    url = target.api_url if target else None
    call = threading.Thread(target=_send, args=(MemberApi(session), url, order, answers), daemon=True)
    call.start()
    progress = _Progress(cluster, order, began)
    while call.is_alive():
        progress.look()
        progress.wait()
    answer = answers[0]
    if isinstance(answer, ApiError):
        _finish_without_api(cluster, order, answer, progress)
    elif answer.code == 202:
        _say(answer.body)
    elif answer.code == 200:
        _say(answer.body)
        progress.until_writable()
    else:
        word = "result unknown" if "status unknown" in answer.body else "failed"
        click.echo(f"{order.action.title()} {word}, details: {answer.code}, {plain(answer.body)}")
        _tell_reason(MemberApi(session), url)
        show_cluster(cluster)
        sys.exit(1)
    show_cluster(cluster)


def _send(api: MemberApi, url: str | None, order: _Order, answers: list[ApiAnswer | ApiError]) -> None:
    try:
        answer = api.call("POST", url, order.action, order.body, ANSWER_S)
        if answer.code == 501 and order.action == "switchover":
            answer = api.call("POST", url, "failover", order.body, ANSWER_S)
        answers.append(answer)
    except ApiError as error:
        answers.append(error)


def _tell_reason(api: MemberApi, url: str | None) -> None:
    """What the member that was asked says about its last decision; a Patroni member says nothing."""
    try:
        document = api.status(url)
    except ApiError:
        return
    own = document.get("pgcore") or {}
    if own.get("reason"):
        click.echo(f"{(document.get('patroni') or {}).get('name')} says: {own['reason']} (rule {own.get('rule')})")


def _finish_without_api(cluster: Cluster, order: _Order, error: ApiError, progress: _Progress) -> None:
    """The API gave no answer: write the request into the store, unless it may have arrived, and watch what comes of it."""
    if error.sent:
        click.echo(f"The REST API broke off ({error}); the request may be under way")
    else:
        click.echo(f"The REST API is not reachable ({error}); writing the request into the store")
        value = encode_failover(order.leader, order.candidate, order.when)
        cluster.store.put(Key.FAILOVER, value, expect=ANYTHING, deadline=Deadline.after(10))
        if order.when:
            _say(f"{order.action.title()} scheduled")
            return
    if not progress.until_decided():
        show_cluster(cluster)
        sys.exit(1)
    progress.until_writable()


class _Progress:
    """Prints each step the store shows, with the seconds since the request."""

    def __init__(self, cluster: Cluster, order: _Order, began: Instant) -> None:
        self._cluster, self._order, self._began = cluster, order, began
        self._said: set[str] = set()
        self._view = order.before
        self._readable = True
        self._never = threading.Event()

    def look(self) -> ClusterView:
        """Read the store and print what is new. A store that does not answer now is asked again."""
        try:
            self._view = self._cluster.read()
            self._readable = True
        except StoreUnavailableError as error:
            self._readable = False
            self._tell(f"the store does not answer: {error}")
            return self._view
        view, old = self._view, self._order.before.leader
        request = view.failover
        if request and (request.leader, request.candidate) == (self._order.leader, self._order.candidate):
            self._tell("the request is in the store")
        if old and view.leader != old:
            self._tell(f"{old} has given up the leader lock")
        if view.leader and view.leader != old:
            self._tell(f"{view.leader} holds the leader lock")
        return view

    def wait(self) -> None:
        """Until the lock or the request changes, or it is time to look at the cards again."""
        if self._readable:
            self._cluster.store.watch(self._view.revision, timeout=LOOK_S)
        else:
            self._never.wait(LOOK_S)

    def until_decided(self) -> bool:
        """Wait until another member leads (true) or the request has vanished or nothing happened for too long (false)."""
        document = self._order.before.config.document if self._order.before.config else None
        loop_wait = (document or {}).get("loop_wait") or 10
        deadline = Deadline.after(2.0 * max(10, loop_wait))
        seen_request = False
        while True:
            view = self.look()
            if view.leader and view.leader != self._order.before.leader:
                return True
            seen_request = seen_request or view.failover is not None
            if seen_request and view.failover is None and view.leader:
                click.echo(f"{self._order.action.title()} failed: {view.leader} still leads and the request is gone")
                return False
            if deadline.expired:
                click.echo(f"{self._order.action.title()} result unknown: nothing was decided within "
                           f"{now() - self._began:.0f} s; see pgcore list and the agents' logs")
                return False
            self.wait()

    def until_writable(self) -> None:
        """Wait until the new leader has published that it leads, and say how long everything took."""
        wanted = "standby_leader" if ClusterMode.of(self._view).standby_cluster else "primary"
        deadline = Deadline.after(PROMOTION_S)
        while not deadline.expired:
            leader = self.look().leader_member
            if leader and leader.running and leader.role in (wanted, "master"):
                timeline = f" on timeline {leader.timeline}" if leader.timeline else ""
                click.echo(f"{leader.name} leads {self._cluster.scope}{timeline}, {now() - self._began:.1f} s after the request")
                return
            self.wait()
        click.echo(f"{self._view.leader} holds the leader lock but has not published the role {wanted} "
                   f"{now() - self._began:.1f} s after the request; its agent's log says why")

    def _tell(self, step: str) -> None:
        if step not in self._said:
            self._said.add(step)
            click.echo(f"  {now() - self._began:5.1f} s  {step}")


def _say(text: str) -> None:
    click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S.%f} {text}")


def plain(body: str) -> str:
    """An error page without its markup."""
    return " ".join(re.sub(r"<(title|h1)>.*?</\1>|<[^>]*>", " ", body).split()) if body.startswith("<") else body
