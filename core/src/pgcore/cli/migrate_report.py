"""How ``pgcore migrate`` prints: tables for people, objects for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from pgcore.cli.migrate_survey import Survey
from pgcore.cli.render import yaml_text
from pgcore.migrate.check import must_change
from pgcore.migrate.plan import Plan
from pgcore.migrate.subject import Finding, Kind, Subject, value_at
from pgcore.model.basics import Json

_COLOURS = {Kind.FIRST: "bold red", Kind.DIFFERS: "yellow", Kind.LOOK: "cyan", Kind.IGNORED: "magenta", Kind.CARRIES: "green"}


def show_check(found: Survey, findings: Sequence[Finding], style: str) -> None:
    """The facts, the findings by kind, and the verdict."""
    facts = dict(_facts(found.subject, found.store_version))
    verdict = _verdict(found, findings)
    if style != "pretty":
        rows = [{**asdict(finding), "kind": finding.kind.value} for finding in findings]
        document: Json = {"source": found.source, "verdict": verdict, "unreadable": found.unreadable, "facts": facts,
                          "findings": rows}
        click.echo(json.dumps(document) if style == "json" else yaml_text(document), nl=style == "json")
        return
    _print_facts(found.source, facts)
    _print_findings(findings)
    click.echo(f"\n{found.source}: {verdict}")


def _verdict(found: Survey, findings: Sequence[Finding]) -> str:
    if must_change(findings):
        count = sum(finding.kind is Kind.FIRST for finding in findings)
        return f"{count} finding{'s' if count > 1 else ''} must be dealt with first"
    if found.unreadable:
        return "nothing must change in the file; the cluster could not be read"
    return "nothing must change first"


def _facts(subject: Subject, store_version: str) -> Iterator[tuple[str, Json]]:
    """What was looked at, for whoever wants to see that it was the right thing."""
    machine, view = subject.machine, subject.cluster
    yield "node", str(subject.get("name") or "")
    yield "cluster", subject.store_path
    yield "store", " ".join(filter(None, (", ".join(subject.stores), store_version)))
    yield "REST address", " ".join(filter(None, (str(value_at(subject.tree, "restapi.connect_address")
                                                    or value_at(subject.tree, "restapi.listen") or ""),
                                                 "" if machine.rest_answer is None else
                                                 f"({machine.rest_answer or 'nobody answers'})")))
    version = machine.postgres_version or "of an unknown version"
    yield "PostgreSQL", f"{version}, {machine.postgres}" if machine.postgres else "not found"
    yield "data directory", f"{subject.get('postgresql.data_dir')}" + (f" of {machine.data_owner}" if machine.data_owner else "")
    yield "account of this check", machine.account
    if view is None:
        return
    timing = [f"{key} {subject.dynamic.get(key, default)}" for key, default in
              (("ttl", 30), ("loop_wait", 10), ("retry_timeout", 10))]
    yield "timing", ", ".join(timing)
    yield "system identifier", view.initialize or ""
    for member in sorted(view.members, key=lambda member: (member.name != view.leader, member.name)):
        agent = f"Patroni {member.version}" if member.is_patroni else f"pgcore {member.data.get('pgcore_version')}"
        host = ":".join(map(str, member.address)) if member.address else "no address"
        yield f"member {member.name}", (f"{'leader' if member.name == view.leader else member.role}, "
                                        f"{member.replication_state or member.state}, {agent}, {host}")


def _print_facts(source: str, facts: dict[str, Json]) -> None:
    width = max(map(len, facts))
    click.echo(source)
    for name, value in facts.items():
        click.echo(f"  {name:<{width}}  {value}")


def _print_findings(findings: Sequence[Finding]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for kind in Kind:
        rows = [finding for finding in findings if finding.kind is kind]
        if not rows:
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(kind.value.capitalize(), style=_COLOURS[kind]),
                      title_justify="left", show_header=False)
        table.add_column("Where", no_wrap=True)
        table.add_column("Key", overflow="fold")
        table.add_column("What", overflow="fold", ratio=1)
        for row in rows:
            table.add_row(Text(row.place), Text(row.path), Text(_said(row)))
        console.print(table)


def _said(finding: Finding) -> str:
    remedy = f" ({finding.remedy})" if finding.remedy else ""
    return f"{finding.text}{remedy}" + (f" [docs/{finding.see}]" if finding.see else "")


def show_plans(plans: Sequence[Plan], style: str) -> None:
    """The steps as a numbered list of commands, or as objects."""
    if style != "pretty":
        rows = [asdict(plan) for plan in plans]
        click.echo(json.dumps(rows) if style == "json" else yaml_text(json.loads(json.dumps(rows))), nl=style == "json")
        return
    click.echo("\n\n".join(_text(plan) for plan in plans))


def _text(plan: Plan) -> str:
    lines = [f"# {plan.title}"]
    if plan.done:
        lines.append(f"# there already: {', '.join(plan.done)}")
    if not plan.steps:
        return "\n".join([*lines, "# nothing is left to do"])
    for number, step in enumerate(plan.steps, 1):
        lines += ["", f"# {number}. {step.title}", f"#    {step.where}:", *step.commands]
    return "\n".join(lines)
