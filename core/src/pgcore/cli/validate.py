"""``pgcore validate``: every mistake of a configuration, one line each, before the agent runs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping

import click

from pgcore.cli.context import Session, section_types
from pgcore.config.environment import take_environment
from pgcore.config.load import Draft, Origin, examine
from pgcore.config.validate import Problem, masked, validate
from pgcore.errors import ConfigError, PluginError
from pgcore.registry import Registry


@click.command("validate")
@click.argument("path", required=False, metavar="[FILE]")
@click.option("-i", "--ignore-listen-port", is_flag=True, help="Addresses to listen on may be in use: the node is running.")
@click.option("-p", "--print", "print_it", is_flag=True,
              help="Print the merged configuration of the node as YAML; secrets are masked.")
@click.option("--secrets", is_flag=True, help="With --print: passwords and tokens in clear.")
@click.pass_obj
def validate_file(session: Session, path: str | None, ignore_listen_port: bool, print_it: bool, secrets: bool) -> None:
    """Check the configuration of a node: a file, a directory, or the environment. Warnings do not make it invalid.

    Problems go to standard error, one a line. The exit code is 1 if one of them keeps the agent from working.
    """
    if secrets and not print_it:
        raise click.UsageError("--secrets is for --print")
    path = path or session.config_file
    found = problems(path, session.environ, ignore_listen_port=ignore_listen_port)
    for problem in found:
        click.echo(click.style(str(problem), fg="red" if problem.level == "error" else "yellow"), err=True)
    if print_it:
        print_local(path, session.environ, secrets=secrets)
    if any(problem.level == "error" for problem in found):
        sys.exit(1)
    if not print_it:
        click.echo(f"{path or 'environment'}: valid")


def problems(path: str | None, environ: Mapping[str, str], *, ignore_listen_port: bool) -> list[Problem]:
    """Everything that is wrong with the configuration of a node and with the plugins it names (config 19)."""
    return look(path, environ, Registry(), ignore_listen_port=ignore_listen_port)[1]


def look(path: str | None, environ: Mapping[str, str], registry: Registry, *, ignore_listen_port: bool,
         probe: bool = True) -> tuple[Draft, list[Problem]]:
    """The configuration as far as it can be read, and its problems; without ``probe`` neither ports nor the store are tried."""
    types, found = _section_types(registry, path, environ)
    found += validate(path, environ, types, ignore_listen_port=ignore_listen_port, probe=probe)
    draft = _draft(path, environ, types)
    return draft, [*_store_problems(registry, draft, {problem.path for problem in found}), *found]


def print_local(path: str | None, environ: Mapping[str, str], *, secrets: bool) -> None:
    """The merged local configuration as YAML on standard output, as far as it can be read."""
    import yaml

    types, _ = _section_types(Registry(), path, environ)
    tree = _draft(path, environ, types).tree
    click.echo(yaml.safe_dump(tree if secrets else masked("", tree), sort_keys=False, allow_unicode=True), nl=False)


def _draft(path: str | None, environ: Mapping[str, str], types: Mapping[str, type]) -> Draft:
    return examine(Origin(path, take_environment(dict(environ), types), types))


def _section_types(registry: Registry, path: str | None, environ: Mapping[str, str]) -> tuple[dict[str, type], list[Problem]]:
    try:
        return section_types(registry, _draft(path, environ, {}).tree, environ), []
    except PluginError as error:
        return {}, [Problem("error", error.plugin, None, error.problem, error.hint)]


def _store_problems(registry: Registry, draft: Draft, told: Collection[str]) -> Iterator[Problem]:
    """What each store's plugin has against its section, unless that is said already."""
    for name, backend in registry.stores().items():
        section = draft.plugin_sections.get(name)
        if section is None or any(path.startswith(name) for path in told):
            continue
        try:
            backend.check(section)
        except ConfigError as error:
            yield Problem("error", error.path, None, error.problem, error.hint, draft.places(error.path))
