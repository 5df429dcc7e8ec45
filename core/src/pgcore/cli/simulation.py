"""Runs of the simulator on all cores, and what they found. (docs/simulation.md)"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from random import SystemRandom

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pgcore.cli.context import Session
from pgcore.testing.simulation.batch import DAY_S, Summary, run_all
from pgcore.testing.simulation.profiles import PROFILES
from pgcore.testing.simulation.records import save
from pgcore.testing.simulation.run import Result, check
from pgcore.testing.simulation.schedule import Plan, ScheduleError, read_plan
from pgcore.testing.simulation.shrink import Budget, shrink
from pgcore.testing.simulation.story import Story, tell

DEFAULT_SEEDS = (1, 100)
EXPLAINED = 3
"""So many violations are shrunk and told; the others are only named."""
STORY_LINES = 120


def carry_out(seeds: tuple[int, int] | None, profiles: tuple[str, ...], minutes: float | None, jobs: int | None,
              schedule: Path | None, findings: Path | None, records: Path | None, *, wants_story: bool, as_json: bool) -> None:
    """Run them all, and print or write what came of it. Raises SystemExit: 1 if something happened that must not."""
    plans, count = _plans(seeds, profiles, minutes, schedule)
    console = Console(stderr=True)
    summary, told = Summary(), list[Plan]()
    began = time.monotonic()
    until = began + minutes * 60 if minutes else float("inf")
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
                  disable=not console.is_terminal) as progress:
        bar = progress.add_task("simulating", total=count)

        def on_result(result: Result) -> None:
            summary.add(result)
            if wants_story or records is not None:
                told.append(Plan(result.profile, result.seed, result.faults))
            if result.violations and findings is not None:
                with findings.open("a") as file:
                    file.write(_named(result) + "\n" + Plan(result.profile, result.seed, result.faults).text())
            progress.update(bar, advance=1, description=f"{summary.days:.1f} days, {len(summary.violated)} violations")

        try:
            run_all(plans, jobs or os.cpu_count() or 1, on_result, until)
        except ScheduleError as error:
            raise click.UsageError(f"{schedule}: {error}") from error
        except KeyboardInterrupt:
            console.print("interrupted")
    wall = time.monotonic() - began
    explained = [_explain(result) for result in summary.violated[:EXPLAINED]]
    if as_json:
        click.echo(json.dumps(_document(summary, wall, explained), indent=2))
    else:
        _print(summary, wall, explained)
        if wants_story:
            _tell_all(told)
    if records is not None:
        for plan in told:
            save(plan, records / f"{plan.profile}-{plan.seed}")
    raise SystemExit(1 if summary.violated else 0)


def _plans(seeds: tuple[int, int] | None, names: tuple[str, ...], minutes: float | None,
           schedule: Path | None) -> tuple[Iterator[Plan], int | None]:
    """What to run, and how many that are if they have an end."""
    if schedule is not None:
        if seeds is not None or minutes is not None or names != ("default",):
            raise click.UsageError("a schedule names its profile and its seed: give neither --seeds nor --profile nor --minutes")
        plan = _read(schedule)
        return iter([plan]), 1
    chosen = list(PROFILES) if "all" in names else list(names)
    unknown = [name for name in chosen if name not in PROFILES]
    if unknown:
        raise click.UsageError(f"there is no profile {', '.join(unknown)}; there are {', '.join(PROFILES)} and all")
    if seeds is None and minutes:
        first = SystemRandom().randrange(10**9)
        return (Plan(name, seed) for seed in itertools.count(first) for name in chosen), None
    first, last = seeds or DEFAULT_SEEDS
    return (Plan(name, seed) for seed in range(first, last + 1) for name in chosen), (last - first + 1) * len(chosen)


def _read(path: Path) -> Plan:
    try:
        plan = read_plan(path.read_text())
        check(plan.faults or ())
    except (OSError, ScheduleError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    if plan.profile not in PROFILES:
        raise click.UsageError(f"{path}: there is no profile {plan.profile!r}; there are {', '.join(PROFILES)}")
    return plan


def tell_what_if(session: Session, name: str | None, what: str, seeds: tuple[int, int] | None, *, as_json: bool) -> None:
    """What would happen to the live cluster now."""
    from pgcore.cli.whatif import look, tell_what

    present = look(session, name)
    try:
        tell_what(present, what, first_seed=(seeds or DEFAULT_SEEDS)[0], as_json=as_json)
    except ScheduleError as error:
        raise click.UsageError(str(error)) from error


def list_them() -> None:
    """The profiles with a sentence each."""
    width = max(map(len, PROFILES))
    for profile in PROFILES.values():
        click.echo(f"{profile.name:<{width}}  {profile.sentence}")


# -- what was found ----------------------------------------------------------------------------------------------------------


def _named(result: Result) -> str:
    first = result.violations[0]
    more = f" (and {len(result.violations) - 1} more)" if len(result.violations) > 1 else ""
    return f"VIOLATION  profile {result.profile}, seed {result.seed}, {first}{more}"


def _command(result: Result) -> str:
    return f"pgcore simulate --profile {result.profile} --seeds {result.seed}..{result.seed} -v"


def _explain(result: Result) -> tuple[Result, Plan, list[str]]:
    """The result, the smallest schedule found that still shows it, and how that went."""
    invariant = result.violations[0].invariant
    smaller = shrink(result.profile, result.seed, result.faults, invariant, Budget())
    again, story = tell(result.profile, result.seed, smaller)
    return result, Plan(result.profile, result.seed, smaller), _end_of(story, again, invariant)


def _end_of(story: Story, again: Result, invariant: str) -> list[str]:
    """The lines that lead to the violation."""
    at = next((each.at for each in again.violations if each.invariant == invariant), float("inf"))
    lines = list(story.text(until=at))
    return lines[-STORY_LINES:]


def _print(summary: Summary, wall: float, explained: list[tuple[Result, Plan, list[str]]]) -> None:
    executed, everything = summary.per_second
    click.echo(f"{summary.runs} runs in {wall:.1f} s: {summary.days:.2f} days of cluster time "
               f"({summary.skipped_s / DAY_S:.2f} of them skipped, as nothing happened)")
    click.echo(f"{summary.cycles} heartbeats, {executed:,.0f} a second on one core; {everything:,.0f} with the skipped ones")
    click.echo(f"{summary.failovers} failovers, {summary.unnecessary} of them unnecessary; {summary.switchovers} switchovers; "
               f"well again after {summary.slowest_settling_s:.0f} s at most; {summary.tended} replicas copied anew by hand")
    click.echo(f"{summary.acknowledged} commits acknowledged; {len(summary.gaps)} gaps between them: "
               f"p50 {summary.gap(0.5):.1f} s, p90 {summary.gap(0.9):.1f} s, p99 {summary.gap(0.99):.1f} s, "
               f"longest {summary.gap(1.0):.1f} s")
    click.echo("faults: " + (", ".join(f"{name} {count}" for name, count in sorted(summary.struck.items())) or "none"))
    for result, plan, story in explained:
        click.echo("\n" + click.style(_named(result), fg="red", bold=True))
        for violation in result.violations[1:]:
            click.echo(f"  also {violation}")
        click.echo("The smallest schedule that shows it:")
        click.echo(plan.text(), nl=False)
        click.echo("How it came to that:")
        for line in story:
            click.echo(line)
        click.echo(f"Again: {_command(result)}\n"
                   "or write the schedule to a file and run pgcore simulate --schedule FILE -v")
    for result in summary.violated[len(explained):]:
        click.echo(click.style(_named(result), fg="red"))
    click.echo(f"\n{len(summary.violated)} runs with violations" if summary.violated else "no violations")


def _document(summary: Summary, wall: float, explained: list[tuple[Result, Plan, list[str]]]) -> dict[str, object]:
    figures = {each.name: getattr(summary, each.name) for each in fields(summary) if each.name not in ("violated", "gaps")}
    executed, everything = summary.per_second
    shrunk = {(result.profile, result.seed): (plan, story) for result, plan, story in explained}
    violations = []
    for result in summary.violated:
        plan, story = shrunk.get((result.profile, result.seed), (None, []))
        violations.append({
            "profile": result.profile, "seed": result.seed, "digest": result.digest, "command": _command(result),
            "violations": [asdict(each) for each in result.violations],
            "schedule": json.loads((plan or Plan(result.profile, result.seed, result.faults)).text()), "story": story})
    return {**figures, "elapsed_s": wall, "days": summary.days, "cycles_per_second": executed,
            "cycles_per_second_with_skipped": everything,
            "write_gaps": {"count": len(summary.gaps), **{f"p{share * 100:g}": summary.gap(share) for share in (0.5, 0.9, 0.99)},
                           "max": summary.gap(1.0)},
            "violations": violations}


def _tell_all(plans: list[Plan]) -> None:
    for plan in plans:
        result, story = tell(plan.profile, plan.seed, plan.faults)
        click.echo(f"\nThe story of profile {plan.profile}, seed {plan.seed} ({result.digest}):")
        for line in story.text():
            click.echo(line)
