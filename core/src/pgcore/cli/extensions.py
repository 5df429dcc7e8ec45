"""Commands of plugins: named by the entry points of a group of their own, imported when they are called (architecture 9)."""

from __future__ import annotations

import click

from pgcore.errors import PluginError
from pgcore.registry import CLI_GROUP, Registry


def plugin_commands() -> dict[str, str]:
    """Names of the commands that installed plugins bring, with the distribution and its version. Imports none of them."""
    return {row.name: f"{row.distribution} {row.version}" for row in Registry(group=CLI_GROUP).report()}


def plugin_command(name: str) -> click.Command | None:
    """The command of that name, None if no plugin brings one. One that cannot be used says so when it is run.

    So neither a broken plugin nor two that claim one name are in the way of any other command, of help or of completion.
    """
    registry = Registry(group=CLI_GROUP)
    if name not in registry.names:
        return None
    try:
        registry.activate([name])
        for brought in registry.collect("pgcore_cli_commands").values():
            for command in brought:
                if isinstance(command, click.Command) and command.name == name:
                    return command
        raise PluginError(name, f"pgcore_cli_commands brings no click command with the name {name}", "upgrade or uninstall it")
    except PluginError as error:
        return _unusable(name, error)


def _unusable(name: str, error: PluginError) -> click.Command:
    def run() -> None:
        raise error

    takes_anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, takes_anything, run, add_help_option=False, short_help=f"cannot be used: {error.problem}")
