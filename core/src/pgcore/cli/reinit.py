"""``pgcore reinit``: new copies of replicas, watched until they are made (cli 4.5)."""

from __future__ import annotations

import sys
from collections import deque

import click

from pgcore.cli.api import MemberApi
from pgcore.cli.context import Session
from pgcore.cli.live import Live
from pgcore.cli.members import Found, matching
from pgcore.cli.nodes import call, chosen_members, confirm, failed, finish
from pgcore.cli.options import dry_run_option, force_option, group_option, members_argument, needed_name_argument
from pgcore.cli.request import LOOK_S, settled, show
from pgcore.cli.watch import Sight, Watch
from pgcore.clock import now
from pgcore.model.basics import Instant, Json, State
from pgcore.model.node import TaskKind
from pgcore.rest.members import ClusterMode

SILENT_S = 60.0
"""A member whose agent does not answer for so long is given up."""
DOWN_S = 30.0
"""One whose server stays down for so long, with nothing going on, as well."""
RATE_S = 5.0
"""The rate is that of so many last seconds."""
MEBIBYTE = 1024 * 1024
COPYING = (TaskKind.REINITIALIZE, TaskKind.CLONE)


@click.command("reinit")
@needed_name_argument
@members_argument
@click.option("--from-leader", is_flag=True, help="Copy from the leader by pg_basebackup, whatever is configured.")
@click.option("--wait/--no-wait", default=None,
              help="Return when the copies are made; the default on a terminal, but not as patronictl.")
@group_option
@force_option
@dry_run_option
@click.pass_obj
def reinit(session: Session, name: str, members: tuple[str, ...], from_leader: bool, wait: bool | None, group: int | None,
           force: bool, dry_run: bool) -> None:
    """Throw the data directories of replicas away and copy them anew."""
    with session.cluster(name, group) as cluster:
        views, able = chosen_members(cluster, (), "replica")
        if not members and (force or dry_run):
            raise click.ClickException("name the members to copy anew")
        names = members or (click.prompt(f"Which member {[found.name for found in able]}"),)
        chosen = matching(views, names, "replica")
        api = MemberApi(session)
        body: dict[str, Json] = {"force": force, "from_leader": from_leader}
        if dry_run:
            from pgcore.cli.forecast import of_reinit, tell

            tell(of_reinit(api, chosen, body))
            return
        confirm("reinitialize", chosen, force=force)
        begun = [(found, now()) for found in chosen if _begin(api, found, body)]
        waits = sys.stderr.isatty() and not session.patronictl if wait is None else wait
        made = [_until_made(api, found, at) for found, at in begun] if waits else []
        finish([len(begun) == len(chosen), *made])


def _begin(api: MemberApi, found: Found, body: dict[str, Json]) -> bool:
    answer = call(api, "POST", found, "reinitialize", body)
    if answer is not None and answer.body.endswith(" already in progress") and not body["force"]:
        if not click.confirm(f"{found.name}: {answer.body}. Cancel it and reinitialize anyway?"):
            return False
        answer = call(api, "POST", found, "reinitialize", {**body, "force": True})
    if answer is None:
        return False
    good = answer.code == 200
    click.echo(f"Success: reinitialize for member {found.name}" if good else failed("reinitialize", found.name, answer))
    return good


def _until_made(api: MemberApi, found: Found, began: Instant) -> bool:
    """Show how the copy goes on until it serves; whether it does."""
    leader = found.view.leader_member
    with Live(began) as live, Watch(api, (found.member, *((leader,) if leader else ()))) as watch:
        copy = _Copy(found.name, live, watch, began)
        try:
            problem = copy.until_made()
        except KeyboardInterrupt:
            raise click.ClickException(f"interrupted: the copy on {found.name} goes on at its agent, how it ends is not known "
                                       "here (see pgcore list)") from None
        if problem:
            click.echo(f"Failed: reinitialize for member {found.name}, {problem}")
            return False
        settled(live, watch)
        live.line(f"{found.name} runs again{copy.told}")
        if leader is not None and not ClusterMode.of(found.view).standby_cluster:
            live.line(watch.write_gap(None, leader.name, began))
    click.echo(f"Reinitialize is completed on: {found.name}")
    return True


class _Copy:
    """One copy as its member tells of it."""

    def __init__(self, name: str, live: Live, watch: Watch, began: Instant) -> None:
        self._name, self._live, self._watch = name, live, watch
        self._began = self._heard = self._up_to_something = began
        self._seen: deque[tuple[Instant, int]] = deque()
        self._first: tuple[Instant, int] | None = None
        self._kind = ""

    def until_made(self) -> str:
        """Empty once the member runs on its new copy; else why that is given up."""
        while True:
            sight = self._watch.sight(self._name)
            if sight is not None and not sight.problem and sight.at > self._began:
                self._heard = sight.at
                if (ended := self._take(sight)) is not None:
                    return ended
            elif now() - self._heard > SILENT_S:
                return f"result unknown: its agent has not answered for {SILENT_S:.0f} s ({sight.problem if sight else 'at all'})"
            self._watch.pause(LOOK_S)

    def _take(self, sight: Sight) -> str | None:
        """Show what it does; None as long as it is not over."""
        kind = str(sight.task.get("kind") or "")
        copying, state = kind in COPYING, sight.status.get("state")
        if copying and self._kind and kind != self._kind:
            self._live.line(f"{self._name}: the copy failed, its agent makes another one")
        self._kind = kind if copying else self._kind
        if kind or state in (State.CREATING_REPLICA, State.STARTING):
            self._up_to_something = sight.at
        if not copying and state == State.RUNNING:
            return ""
        if sight.at - self._up_to_something > DOWN_S:
            own = sight.status.get("pgcore") or {}
            return f"its state is {state!r} and nothing goes on: {own.get('reason') or 'its log says why'}"
        self._show(sight)
        return None

    def _show(self, sight: Sight) -> None:
        done, total = sight.task.get("bytes_done"), sight.task.get("bytes_total")
        if isinstance(done, int) and (self._first is None or done < self._first[1]):
            self._first = sight.at, done
            self._seen.clear()
        if not isinstance(done, int) or not isinstance(total, int) or total <= 0:
            show(self._live, self._watch)
            return
        if not self._seen or done != self._seen[-1][1]:
            self._seen.append((sight.at, done))
        while len(self._seen) > 2 and sight.at - self._seen[0][0] > RATE_S:
            self._seen.popleft()
        (since, before), (at, last) = self._seen[0], self._seen[-1]
        rate = (last - before) / (at - since) if at > since else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        speed = f", {rate / MEBIBYTE:.1f} MB/s" if rate else ""
        share = min(1.0, done / total)
        detail = f"  {share:.0%}, {done / MEBIBYTE:.0f} of {total / MEBIBYTE:.0f} MB{speed}{left}"
        self._live.going_on(f"{self._name}: {sight.doing}", detail, share)

    @property
    def told(self) -> str:
        """How much was copied how fast."""
        if self._first is None or not self._seen or self._seen[-1][0] <= self._first[0]:
            return ""
        (began, before), (ended, last) = self._first, self._seen[-1]
        seconds, copied = ended - began, (last - before) / MEBIBYTE
        return f"; {copied:.0f} MB were copied in {seconds:.1f} s ({copied / seconds:.1f} MB/s)"
