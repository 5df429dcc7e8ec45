"""``pgcore plugins``: what is installed, what it implements, and whether it would load."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping

import click

from pgcore.cli.context import Session
from pgcore.cli.plugins_check import check
from pgcore.config.load import load_client
from pgcore.config.plugins import blocked_plugins, named_plugins
from pgcore.model.basics import Json
from pgcore.plugin_probe import probe
from pgcore.registry import BUILTINS, PluginRow, PluginState, cure

_STYLES = {PluginState.AVAILABLE: "green", PluginState.ACTIVE: "green", PluginState.REFUSED: "yellow", PluginState.FAILED: "red"}


@click.group("plugins", invoke_without_command=True)
@click.option("-f", "--format", "style", type=click.Choice(["pretty", "json"]), default="pretty", show_default=True,
              help="How to print the list.")
@click.pass_context
def plugins(ctx: click.Context, style: str) -> None:
    """List the installed plugins and whether each of them would load; check one of them.

    With a configuration (-c before the command, or the environment) the state is what it would be for an agent with it: active,
    or blocked; a plugin that it names and that is not installed is listed too.
    """
    if ctx.invoked_subcommand is not None:
        return
    session = ctx.find_object(Session)
    assert session is not None
    rows = probe()
    tree = load_client(session.config_file, dict(session.environ), {}).tree
    if tree:
        rows = _in_use(rows, tree)
    if style == "json":
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)


plugins.add_command(check)


def _in_use(rows: list[PluginRow], tree: Mapping[str, Json]) -> list[PluginRow]:
    installed = {row.name for row in rows}
    named, blocked = named_plugins(tree, installed), blocked_plugins(tree)

    def judged(row: PluginRow) -> PluginRow:
        if row.name in blocked:
            return dataclasses.replace(row, state=PluginState.REFUSED, reason="blocked by plugins.block")
        used = row.state is PluginState.AVAILABLE and (row.name in named or row.name in BUILTINS)
        return dataclasses.replace(row, state=PluginState.ACTIVE) if used else row

    missing = [PluginRow(name, "", "", (), PluginState.FAILED, ": ".join(filter(None, ("is not installed", cure(name)))))
               for name in named if name not in installed]
    return sorted([*map(judged, rows), *missing], key=lambda row: row.name)


def _print_table(rows: list[PluginRow]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("Name", "Distribution", "Version", "State", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Hooks, or what is wrong", overflow="fold")
    for row in rows:
        detail = row.reason or " ".join(hook.removeprefix("pgcore_") for hook in row.hooks)
        table.add_row(row.name, row.distribution, row.version, Text(row.state, style=_STYLES[row.state]), Text(detail))
    # Into a pipe or file a plugin is a line: nothing is folded to the width of a terminal that is not there.
    Console(highlight=False, width=None if sys.stdout.isatty() else 250).print(table)
