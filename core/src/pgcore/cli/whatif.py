"""``pgcore simulate --from-cluster``: look at a live cluster, let trouble happen to an image of it. Nothing real is touched."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

from pgcore.cli.api import ApiError, MemberApi
from pgcore.cli.context import READ_S, Session
from pgcore.clock import Deadline
from pgcore.dcs.codec import decode
from pgcore.errors import PgcoreError
from pgcore.model.cluster import Member
from pgcore.testing.simulation.present import Present, Seen
from pgcore.testing.simulation.whatif import Course, answer, read_what, what_if

RUNS = 10
"""So often it happens, with other timings each time."""


def look(session: Session, name: str | None) -> Present:
    """Read every key of the cluster and ask every member. Raises PgcoreError when there is no cluster or no store."""
    with session.cluster(name, session.own_group(None)) as cluster:
        snapshot = cluster.store.read(fresh=True, deadline=Deadline.after(READ_S))
    view = decode(snapshot)
    if view.initialize is None or not view.members:
        raise PgcoreError(f"there is no cluster {cluster.scope} in the store: nothing is known that could be simulated")
    api = MemberApi(session)

    def see(member: Member) -> Seen:
        try:
            return Seen(member, api.status(member.api_url))
        except ApiError as error:
            return Seen(member, {}, str(error))

    with ThreadPoolExecutor(max_workers=len(view.members)) as pool:
        members = tuple(pool.map(see, view.members))
    values = {path: record.value for path, record in snapshot.records.items()}
    return Present(cluster.scope, view, values, members)


def tell_what(present: Present, text: str, *, first_seed: int, as_json: bool) -> None:
    """Let it happen to the image of the cluster and print what came of it. Raises ScheduleError for words that mean nothing."""
    faults = read_what(text, [seen.name for seen in present.members])
    courses = [what_if(present, faults, seed) for seed in range(first_seed, first_seed + RUNS)]
    if as_json:
        click.echo(json.dumps(_document(present, text, courses), indent=2))
        return
    click.echo(f"Now, in {present.scope} (nothing of it is touched):")
    for seen in present.members:
        click.echo(f"  {present.sentence(seen)}")
    click.echo(f"What if: {text}")
    width = max(len(who) for _, who, _ in courses[0].lines)
    for at, who, what in courses[0].lines:
        click.echo(f"  {at:+8.1f} s  {who:<{width}}  {what}")
    click.echo(f"Result ({RUNS} runs with other timings; the lines above are the first):")
    for line in answer(present, courses):
        click.echo(f"  {line}")


def _document(present: Present, text: str, courses: list[Course]) -> dict[str, object]:
    return {
        "scope": present.scope,
        "now": [present.sentence(seen) for seen in present.members],
        "what": text,
        "answer": list(answer(present, courses)),
        "runs": [asdict(course) for course in courses],
    }
