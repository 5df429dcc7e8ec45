"""``pgcore simulate``: its options; what they need is imported when it is called, as that is the whole agent."""

from __future__ import annotations

from pathlib import Path

import click

from pgcore.cli.context import Session


class Seeds(click.ParamType):
    """``A..B`` or a single number."""

    name = "A..B"

    def convert(self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """First and last."""
        if isinstance(value, tuple):
            return value
        first, dots, last = value.partition("..")
        try:
            found = int(first), int(last if dots else first)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor A..B", param, ctx)
        if found[0] < 0 or found[0] > found[1]:
            self.fail(f"{value!r} holds no seed", param, ctx)
        return found


@click.command("simulate")
@click.option("--seeds", type=Seeds(),
              help="Seeds to run, the first and the last.  [default: 1..100, or random ones with --minutes]")
@click.option("--profile", "profiles", multiple=True, default=("default",), show_default=True, metavar="NAME",
              help="What to simulate; several times for several, 'all' for every one. --profiles lists them.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Begin no new run after so long.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one for each core]")
@click.option("--schedule", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run the faults of this file.")
@click.option("--findings", type=click.Path(dir_okay=False, path_type=Path),
              help="Append every violation to this file, as it is found.")
@click.option("--from-cluster", "what", metavar="WHAT",
              help="Take the live cluster's present view, and tell what would happen, for example 'stop node2'. Touches nothing.")
@click.option("--cluster", "cluster_name", metavar="CLUSTER_NAME", help="Which one, if not that of the configuration.")
@click.option("--record", "records", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write the flight records of every run, for pgcore explain and pgcore replay.")
@click.option("-v", "--story", "wants_story", is_flag=True, help="Tell the story of every run.")
@click.option("-o", "--output", type=click.Choice(["pretty", "json"]), default="pretty", show_default=True)
@click.option("--profiles", "list_profiles", is_flag=True, help="List the profiles.")
@click.pass_obj
def simulate(session: Session, seeds: tuple[int, int] | None, profiles: tuple[str, ...], minutes: float | None, jobs: int | None,
             schedule: Path | None, findings: Path | None, what: str | None, cluster_name: str | None, records: Path | None,
             wants_story: bool, output: str, list_profiles: bool) -> None:
    """Let real agents live through trouble in virtual time, and see whether anything happens that must not.

    Ends with 1 if something did, and tells what, with the command that shows it again.
    """
    from pgcore.cli.simulation import carry_out, list_them, tell_what_if

    if list_profiles:
        list_them()
    elif what is not None:
        tell_what_if(session, cluster_name, what, seeds, as_json=output == "json")
    else:
        carry_out(seeds, profiles, minutes, jobs, schedule, findings, records, wants_story=wants_story, as_json=output == "json")
