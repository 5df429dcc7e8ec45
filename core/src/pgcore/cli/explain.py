"""``pgcore explain`` and ``pgcore replay``: what the flight recorders of the nodes tell (docs/flight-recorder.md)."""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import datetime

import click
from dateutil import parser as dates  # type: ignore[import-untyped]
from dateutil import tz

from pgcore.cli.context import Session
from pgcore.config.environment import take_environment
from pgcore.config.load import Origin, examine, record_path
from pgcore.decide.explain import sentence
from pgcore.model.decision import Decision
from pgcore.record.account import told
from pgcore.record.explain import Moment, moments, nothing_found
from pgcore.record.reading import NoRecordError, Recording, read
from pgcore.record.replay import Difference
from pgcore.record.replay import replay as decide_again
from pgcore.record.timeline import render

UNUSABLE = 2
"""Exit code of ``replay`` for a record that cannot be used."""

output_option = click.option("-o", "--output", type=click.Choice(("pretty", "json")), default="pretty", show_default=True,
                             help="For people or for programs.")


@click.command("explain")
@click.option("--record", "records", multiple=True, metavar="DIR_OR_FILE", help="Records of one or more nodes; may be repeated.")
@click.option("-c", "--config-file", metavar="PATH", help="Configuration of the node whose record is meant.")
@click.option("--at", "at", metavar="TIME", help="What happened at this time, or last before it.")
@click.option("--last", default=1, type=click.IntRange(min=1), metavar="N", help="The last N moments instead of one.")
@output_option
@click.pass_obj
def explain(session: Session, records: tuple[str, ...], config_file: str | None, at: str | None, last: int, output: str) -> None:
    """Show why the last failover or switchover happened, or why nobody took over.

    The records of several nodes are merged by the time on their clocks.
    """
    recording = read(records or _own_record(changed(session, config_file=config_file) if config_file else session))
    if len(recording.scopes) > 1:
        raise NoRecordError(f"these are records of several clusters ({', '.join(sorted(recording.scopes))}): name those of one")
    everything = moments(recording)
    until = _moment(at) if at is not None else float("inf")
    found = [moment for moment in everything if moment.begin <= until][-last:]
    if output == "json":
        click.echo(json.dumps({"moments": [moment.document() for moment in found], "nodes": recording.nodes,
                               "remarks": recording.remarks()}, indent=1))
        return
    if not found:
        click.echo(f"the first is of {_day(everything[0].begin)}, after that time" if everything else nothing_found(recording))
    for moment in found:
        _show(moment)
    _remark(recording)


@click.command("replay")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@output_option
def replay(files: tuple[str, ...], output: str) -> None:
    """Decide recorded heartbeats once more, and show where this version would decide otherwise.

    The exit code is 1 if there are differences, 2 if the record cannot be used.
    """
    try:
        recording = read(files)
    except NoRecordError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(UNUSABLE)
    results = list(decide_again(recording))
    if not results:
        click.echo(f"Error: no heartbeat is recorded there{''.join(f'; {remark}' for remark in recording.remarks())}", err=True)
        sys.exit(UNUSABLE)
    differences = [found for found in results if found is not None]
    if output == "json":
        click.echo(json.dumps({"heartbeats": len(results), "differences": [found.document() for found in differences],
                               "remarks": recording.remarks()}, indent=1))
    else:
        for found in differences:
            _tell(found)
        click.echo(f"{len(results)} heartbeats of {', '.join(recording.nodes)} were decided again, "
                   f"{len(differences) or 'none'} differently")
        _remark(recording)
    sys.exit(1 if differences else 0)


def _own_record(session: Session) -> list[str]:
    """The files of the node that the configuration describes, oldest first. Raises NoRecordError, ConfigError."""
    if session.path is None:
        raise NoRecordError("name a record with --record, or the configuration of a node with -c")
    draft = examine(Origin(session.path, take_environment(dict(session.environ)), {}))
    sections = draft.sections
    if "postgresql" not in sections or not sections["postgresql"].data_dir or not sections[""].name:
        raise NoRecordError(f"{session.path} does not describe a node: name its record with --record")
    path = record_path(sections["recorder"], sections["log"], sections["postgresql"], sections[""])
    found = sorted(glob.glob(glob.escape(path) + ".*"), key=lambda name: -_number(name))
    found += [path] if os.path.exists(path) else []
    if not found:
        raise NoRecordError(f"there is no record at {path}: the recorder is off, writes elsewhere, or the agent has not run yet")
    return found


def _number(path: str) -> int:
    last = path.rpartition(".")[2]
    return int(last) if last.isdecimal() else 0


def _moment(text: str) -> float:
    try:
        moment = dates.parse(text)
    except (ValueError, OverflowError) as error:
        raise click.ClickException(f"{text!r} is not a time: write it like 2030-12-31T23:30:00+00:00") from error
    return float((moment if moment.tzinfo else moment.replace(tzinfo=tz.tzlocal())).timestamp())


def _day(wall: float) -> str:
    return datetime.fromtimestamp(wall).astimezone().isoformat(" ", "milliseconds")


def _show(moment: Moment) -> None:
    change = f": {moment.old} -> {moment.new}" if moment.new and moment.new != moment.old else ""
    click.secho(f"{moment.kind}{change}, {_day(moment.end)}", bold=True)
    for text in render(moment.entries):
        click.echo(text)
    click.echo()
    click.echo(click.wrap_text(moment.answer, width=_width()))
    click.echo()
    _show_rules(moment.rules)


def _show_rules(rules: Sequence[str]) -> None:
    for rule in rules:
        if meaning := sentence(rule):
            click.echo(click.wrap_text(f"{rule}: {meaning}", width=_width(), subsequent_indent="    "))
    if rules:
        click.echo()


def _width() -> int:
    return max(60, min(130, shutil.get_terminal_size((100, 24)).columns))


def _tell(found: Difference) -> None:
    click.secho(f"{_day(found.at)} {found.node} ({found.source}, written by {found.by})", bold=True)
    click.echo(f"  then: {_decision(found.then)}")
    click.echo(f"  now:  {_decision(found.now)}")
    if found.remark:
        click.echo(f"  {found.remark}")


def _decision(decision: Decision | None) -> str:
    if decision is None:
        return "nothing more"
    actions = ", ".join(told(action) for action in decision.actions)
    return f"{decision.rule}: {decision.because}" + (f" -> {actions}" if actions else "")


def _remark(recording: Recording) -> None:
    for remark in recording.remarks():
        click.echo(f"Note: {remark}", err=True)
