"""``pgcore validate``: every mistake of a configuration, one line each, before the agent runs."""

from __future__ import annotations

import sys

import click

from pgcore.cli.context import Session, section_types
from pgcore.config.load import load_client
from pgcore.config.validate import Problem, validate
from pgcore.errors import ConfigErrors, PluginError
from pgcore.registry import Registry


@click.command("validate")
@click.argument("path", required=False, metavar="[FILE]")
@click.option("-i", "--ignore-listen-port", is_flag=True, help="Addresses to listen on may be in use: the node is running.")
@click.pass_obj
def validate_file(session: Session, path: str | None, ignore_listen_port: bool) -> None:
    """Check the configuration of a node: a file, a directory, or the environment. Warnings do not make it invalid."""
    path = path or session.path
    found = [*_plugin_problems(session, path, ignore_listen_port)]
    for problem in found:
        click.echo(click.style(str(problem), fg="red" if problem.level == "error" else "yellow"))
    if any(problem.level == "error" for problem in found):
        sys.exit(1)
    click.echo(f"{path or 'environment'}: valid")


def _plugin_problems(session: Session, path: str | None, ignore_listen_port: bool) -> list[Problem]:
    registry, found = Registry(), []
    types: dict[str, type] = {}
    try:
        types = section_types(registry, load_client(path, dict(session.environ), {}).tree, session.environ)
    except ConfigErrors:
        pass  # validate() reports the same and more
    except PluginError as error:
        found.append(Problem("error", error.plugin, None, error.problem, error.hint))
    return [*found, *validate(path, session.environ, types, ignore_listen_port=ignore_listen_port)]
