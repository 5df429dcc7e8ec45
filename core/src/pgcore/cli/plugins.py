"""``pgcore plugins``: what is installed, what it implements, and whether it would load."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from pgcore.plugin_probe import probe
from pgcore.registry import PluginRow, PluginState

_STYLES = {PluginState.AVAILABLE: "green", PluginState.ACTIVE: "green", PluginState.REFUSED: "yellow", PluginState.FAILED: "red"}


@click.command("plugins")
@click.option("-f", "--format", "style", type=click.Choice(["pretty", "json"]), default="pretty", show_default=True,
              help="How to print the list.")
def plugins(style: str) -> None:
    """List the installed plugins and whether each of them would load."""
    rows = probe()
    if style == "json":
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)


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
