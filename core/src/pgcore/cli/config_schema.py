"""``pgcore config schema``: the JSON Schema of a node file, for editors and for checks in a pipeline. (architecture 12)"""

from __future__ import annotations

import json

import click

from pgcore.config.sections import configuration_schema, dynamic_schema
from pgcore.errors import PluginError
from pgcore.registry import Registry


@click.group("config")
def config() -> None:
    """What a configuration may hold."""


@config.command("schema")
@click.option("--dynamic", is_flag=True, help="Of the dynamic configuration, as edit-config and PATCH /config take it.")
def schema(dynamic: bool) -> None:
    """Print the JSON Schema of a node file, the sections of all installed plugins included."""
    document = dynamic_schema() if dynamic else configuration_schema(_installed_sections())
    click.echo(json.dumps(document, indent=2))


def _installed_sections() -> dict[str, type]:
    """A plugin that cannot be loaded is named on standard error and left out."""
    registry = Registry()
    for name in registry.names:
        try:
            registry.activate([name])
        except PluginError as error:
            click.echo(str(error), err=True)
    return registry.sections()
