"""The course of a switchover or failover: the request, what is seen of it while it runs, and what came of it (cli 4.6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import click

from pgcore.cli.api import ApiAnswer, ApiError, MemberApi
from pgcore.cli.cluster import show_cluster
from pgcore.cli.context import Cluster
from pgcore.cli.live import Live
from pgcore.cli.request import Request, Sending, show
from pgcore.cli.watch import Watch
from pgcore.clock import Deadline, now
from pgcore.dcs.codec import decode, encode_failover
from pgcore.dcs.store import ABSENT, Key, Refused, version
from pgcore.errors import StoreUnavailableError
from pgcore.model.cluster import ClusterView
from pgcore.rest.members import ClusterMode

ANSWER_S = 150.0
"""The longest wait of a member is twice ``loop_wait``, plus its write; this only bounds a member that hangs."""
LOOK_S = 0.1
"""Cards do not wake a watch, so the view is read this often while a request runs."""
DECIDED_S = 20.0
"""How long at least a request that was written into the store is given to change the leader."""
PROMOTION_S = 60.0
"""How long to go on watching until the new leader accepts writes."""
WRITE_S = 10.0


@dataclass(frozen=True, slots=True)
class Order:
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


class Failed(click.ClickException):
    """The action failed, or its outcome is not known: the text goes to standard output, where scripts look for it."""

    def show(self, file: object = None) -> None:
        """Print the text."""
        click.echo(self.message)


def carry_out(api: MemberApi, cluster: Cluster, order: Order) -> None:
    """Send the request, show what happens, and the cluster when it is over. Raises Failed."""
    before = order.before
    target = before.leader_member or before.member(order.candidate)
    began = now()
    with Live(began) as live, Watch(api, () if order.when else before.members) as watch:
        course = _Course(cluster, order, live, watch)
        url = target.api_url if target else None
        request = Request(lambda sending: _post(api, url, order, sending))
        try:
            answer = course.until(request)
            told = course.settle(api, url, answer)
        except KeyboardInterrupt:
            raise click.ClickException(_left_alone(order, request)) from None
    click.echo(told)
    for line in course.summary:
        click.echo(line, err=True)
    try:
        show_cluster(cluster, judged=False)  # right after a change much is on its way
    except StoreUnavailableError as error:
        click.echo(f"The cluster as it is now cannot be shown: {error}", err=True)
    if course.failed:
        raise click.exceptions.Exit(1)


def _post(api: MemberApi, url: str | None, order: Order, sending: Sending) -> ApiAnswer:
    answer = api.call("POST", url, order.action, order.body, ANSWER_S, sending)
    if answer.code == 501 and order.action == "switchover":  # a Patroni too old to know switchovers by that name
        answer = api.call("POST", url, "failover", order.body, ANSWER_S)
    return answer


def _left_alone(order: Order, request: Request) -> str:
    if request.is_alive() and request.withdraw():
        return f"interrupted before anything was sent: there will be no {order.action}"
    return (f"interrupted: the {order.action} goes on, the agents carry it out; what became of it is not known here, "
            "see pgcore list")


class _Course:
    """Tells each step as the store and the members show it."""

    def __init__(self, cluster: Cluster, order: Order, live: Live, watch: Watch) -> None:
        self._cluster, self._order, self._live, self._watch = cluster, order, live, watch
        self._began = now()
        self._said: set[str] = set()
        self._view = order.before
        self._readable = True
        self.failed = False
        self.summary: list[str] = []

    # -- what is seen ----------------------------------------------------------------------------------------------------

    def until(self, request: Request) -> ApiAnswer | ApiError:
        """Send the request and look on until there is an answer or none will come."""
        request.start()
        while request.is_alive():
            self._look()
            self._wait()
        return request.answer

    def _look(self) -> ClusterView:
        """Read the store and tell what is new. A store that does not answer now is asked again."""
        show(self._live, self._watch)
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

    def _tell(self, step: str) -> None:
        if step not in self._said:
            self._said.add(step)
            self._live.line(step)

    def _wait(self) -> None:
        """Until the lock or the request changes, or it is time to look at the members again."""
        if self._readable:
            self._cluster.store.watch(self._view.revision, timeout=LOOK_S)
        else:
            self._watch.pause(LOOK_S)

    # -- what came of it -------------------------------------------------------------------------------------------------

    def settle(self, api: MemberApi, url: str | None, answer: ApiAnswer | ApiError) -> str:
        """What to tell of the outcome, after having waited for it where the answer leaves it open. Raises Failed."""
        if isinstance(answer, ApiError):
            return self._without_answer(answer)
        if answer.code == 202:
            return _stamped(answer.text)
        if answer.code == 200:
            self._until_writable()
            return _stamped(answer.text)
        self.failed = True
        word = "result unknown" if "status unknown" in answer.body else "failed"
        said = f"{self._order.action.title()} {word}, details: {answer.code}, {answer.text}{answer.remedy}"
        return "\n".join([said, *self._reason(api, url)])

    def _reason(self, api: MemberApi, url: str | None) -> list[str]:
        """What the member that was asked says about its last decision; a Patroni member says nothing."""
        try:
            document = api.status(url)
        except ApiError:
            return []
        own = document.get("pgcore") or {}
        name = (document.get("patroni") or {}).get("name")
        return [f"{name} says: {own['reason']} (rule {own.get('rule')})"] if own.get("reason") else []

    def _without_answer(self, error: ApiError) -> str:
        """The API gave no answer: write the request into the store, unless it may have arrived, and watch what comes of it."""
        action = self._order.action
        if error.untrusted:
            raise Failed(f"{action.title()} failed, nothing was asked for: {error}")
        if error.sent:
            click.echo(f"The REST API broke off ({error}); the request may be under way", err=True)
        else:
            click.echo(f"The REST API is not reachable ({error}); writing the request into the store", err=True)
            self._write()
            if self._order.when:
                return _stamped(f"{action.title()} scheduled")
        undecided = self._undecided()
        if undecided:
            self.failed = True
            return undecided
        self._until_writable()
        return _stamped(f"{action.title()} done")

    def _write(self) -> None:
        """Into the failover key, if leader and request are still those it was decided on. Raises Failed."""
        order, store, deadline = self._order, self._cluster.store, Deadline.after(WRITE_S)
        failed = f"{order.action.title()} failed, nothing was asked for"
        try:
            snapshot = store.read(fresh=True, deadline=deadline)
        except StoreUnavailableError as error:
            raise Failed(f"{failed}: {error}") from error
        view, present = decode(snapshot), snapshot.records.get(Key.FAILOVER)
        if (view.leader, view.failover) != (order.before.leader, order.before.failover):
            raise Failed(f"{failed}: the leader or the request in the store has changed meanwhile")
        value = encode_failover(order.leader, order.candidate, order.when)
        try:
            written = store.put(Key.FAILOVER, value, expect=version(present.version) if present else ABSENT, deadline=deadline)
        except StoreUnavailableError as error:
            raise Failed(f"{order.action.title()} result unknown: the request may or may not be in the store, {error}") from error
        if isinstance(written, Refused):
            raise Failed(f"{failed}: somebody else has written a request into the store meanwhile")

    def _undecided(self) -> str:
        """Wait until another member leads (empty); else what keeps it: the request has vanished, or nothing happened for long."""
        document = self._order.before.config.document if self._order.before.config else None
        settings = document or {}
        ttl, loop_wait = settings.get("ttl") or 30, settings.get("loop_wait") or 10
        deadline = Deadline.after(float(max(DECIDED_S, 2 * loop_wait, ttl + loop_wait)))
        seen_request = False
        while True:
            view = self._look()
            if view.leader and view.leader != self._order.before.leader:
                return ""
            seen_request = seen_request or view.failover is not None
            if seen_request and view.failover is None and view.leader:
                return f"{self._order.action.title()} failed: {view.leader} still leads and the request is gone"
            if deadline.expired:
                return (f"{self._order.action.title()} result unknown: nothing was decided within "
                        f"{now() - self._began:.0f} s; see pgcore list and the agents' logs")
            self._wait()

    def _until_writable(self) -> None:
        """Wait until the new leader says that it serves as one; then who leads, how long everything took, and the write gap."""
        standby_cluster = ClusterMode.of(self._view).standby_cluster
        deadline = Deadline.after(PROMOTION_S)
        while not deadline.expired:
            leader = self._look().leader_member
            if leader and leader.running and leader.role in ("standby_leader" if standby_cluster else "primary", "master"):
                timeline = f" on timeline {leader.timeline}" if leader.timeline else ""
                took = f"{now() - self._began:.1f} s after the request"
                self.summary.append(f"{leader.name} leads {self._cluster.scope}{timeline}, {took}")
                if not standby_cluster:
                    self.summary.append(self._watch.write_gap(self._order.before.leader, leader.name, self._began))
                show(self._live, self._watch)
                return
            self._wait()
        self.failed = True
        self.summary.append(f"{self._view.leader} holds the leader lock but has not published that it serves as the leader "
                            f"{now() - self._began:.1f} s after the request; its agent's log says why")


def _stamped(text: str) -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S.%f} {text}"
