"""The ``pgcore`` command: global options, and commands that are imported when they are called (cli 1)."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from pgcore import PATRONI_VERSION, __version__
from pgcore.cli.context import Session
from pgcore.cli.extensions import plugin_command, plugin_commands
from pgcore.errors import PgcoreError

PATRONICTL = "patronictl"

COMMANDS = {
    "completion": ("pgcore.cli.completion", "completion"),
    "dsn": ("pgcore.cli.reading", "dsn"),
    "edit-config": ("pgcore.cli.edit", "edit_config"),
    "explain": ("pgcore.cli.explain", "explain"),
    "replay": ("pgcore.cli.explain", "replay"),
    "config": ("pgcore.cli.config_schema", "config"),
    "generate-config": ("pgcore.cli.generate", "node_config"),
    "generate-sample-config": ("pgcore.cli.generate", "sample_config"),
    "history": ("pgcore.cli.reading", "history"),
    "list": ("pgcore.cli.cluster", "list_members"),
    "migrate": ("pgcore.cli.migrate", "migrate"),
    "plugin": ("pgcore.cli.plugin_new", "plugin"),
    "plugins": ("pgcore.cli.plugins", "plugins"),
    "query": ("pgcore.cli.query", "query"),
    "show-config": ("pgcore.cli.reading", "show_config"),
    "switchover": ("pgcore.cli.switch", "switchover"),
    "demote-cluster": ("pgcore.cli.standby", "demote_cluster"),
    "failover": ("pgcore.cli.switch", "failover"),
    "flush": ("pgcore.cli.flush", "flush"),
    "pause": ("pgcore.cli.pause", "pause"),
    "promote-cluster": ("pgcore.cli.standby", "promote_cluster"),
    "reinit": ("pgcore.cli.reinit", "reinit"),
    "reload": ("pgcore.cli.nodes", "reload"),
    "remove": ("pgcore.cli.remove", "remove"),
    "restart": ("pgcore.cli.nodes", "restart"),
    "resume": ("pgcore.cli.pause", "resume"),
    "simulate": ("pgcore.cli.simulate", "simulate"),
    "topology": ("pgcore.cli.cluster", "topology"),
    "validate": ("pgcore.cli.validate", "validate_file"),
    "version": ("pgcore.cli.reading", "version"),
}
"""Module and object of each command. Looking at the list imports none of them."""


class LazyGroup(click.Group):
    """Imports the module of a command when the command is asked for. No plugin takes the place of a command of pgcore."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted({*self._own(ctx), *plugin_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name) or plugin_command(cmd_name)
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Own commands with what they do, those of plugins with where they come from: to ask them would be to import them."""
        commands = {name: self.get_command(ctx, name) for name in self._own(ctx)}
        width = formatter.width - 6 - max(map(len, commands))
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(width)) for name, command in commands.items()
                                if command is not None and not command.hidden])
        brought = {name: f"of {owner}" for name, owner in plugin_commands().items() if name not in commands}
        if brought:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(list(brought.items()))

    def _own(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def invoke(self, ctx: click.Context) -> Any:
        """Errors made for operators end the command with code 1 and their text, without a stack trace."""
        try:
            return super().invoke(ctx)
        except PgcoreError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LazyGroup)
@click.option("-c", "--config-file", metavar="PATH", help="Configuration file or directory.",
              envvar=["PGCORECTL_CONFIG_FILE", "PATRONICTL_CONFIG_FILE"])
@click.option("-d", "--dcs-url", "--dcs", metavar="URL", envvar="DCS_URL",
              help="Where the store is: [scheme://]host[:port][/namespace]. Replaces the section of the configuration.")
@click.option("-k", "--insecure", is_flag=True, help="Do not verify the certificates of REST APIs.")
@click.version_option(__version__, prog_name="pgcore", message=f"%(prog)s %(version)s (speaks Patroni {PATRONI_VERSION})")
@click.pass_context
def group(ctx: click.Context, config_file: str | None, dcs_url: str | None, insecure: bool) -> None:
    """High availability for PostgreSQL: look at a cluster and act on it."""
    logging.basicConfig(level=_log_level(os.environ), format="%(levelname)s: %(message)s", stream=sys.stderr)
    ctx.obj = ctx.obj or Session(config_file, dcs_url, insecure, os.environ, patronictl=ctx.info_name == PATRONICTL)


@group.command("run")
@click.argument("config", required=False, metavar="[FILE]")
@click.pass_context
def run_agent(ctx: click.Context, config: str | None) -> None:
    """Run the agent of this node until it is told to stop.

    \b
    FILE is its configuration, a file or a directory; it may also stand before, as -c FILE.
    Without one the variables PGCORE_* and PATRONI_* configure it.
    """
    # reached only with options before the word ``run``; the program begins anew, as the agent forks its guard first of all
    assert ctx.parent is not None
    typed = {name: value for name, value in ctx.parent.params.items()
             if ctx.parent.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    before = typed.pop("config_file", None)
    if typed:
        raise click.UsageError(f"--{next(iter(typed)).replace('_', '-')} is for the other commands: the agent's file says it all")
    if config and before:
        raise click.UsageError(f"two configurations are named, {before} and {config}: name one")
    file = config or before
    os.execv(sys.executable, [sys.executable, "-m", "pgcore", "run", *([file] if file else [])])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is its exit code (cli 5)."""
    try:
        group(args=None if argv is None else list(argv), prog_name=program(sys.argv[0]), standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def program(path: str) -> str:
    """The name this program goes by when it is called by that path: a link ``patronictl`` makes it one (cli 1)."""
    return PATRONICTL if os.path.basename(path) == PATRONICTL else "pgcore"


def _log_level(environ: Mapping[str, str]) -> str:
    names = ("PGCORE_LOG_LEVEL", "PATRONI_LOG_LEVEL", "PATRONI_LOGLEVEL", "LOGLEVEL")
    level = next((environ[name].upper() for name in names if environ.get(name)), "WARNING")
    return level if level in logging.getLevelNamesMapping() else "WARNING"
