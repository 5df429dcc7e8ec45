"""``pgcore plugin new``: a distribution with source, tests, README and CI file, from the templates beside this file."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import click

from pgcore import API_LEVEL, __version__
from pgcore.cli.main import COMMANDS
from pgcore.config.sections import DISTRIBUTION_OF, SECTIONS
from pgcore.registry import CLI_GROUP, GROUP, Registry

TEMPLATES = Path(__file__).with_name("templates")
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Kind:
    """What a template makes: one sentence about it, and the entry-point group of its plugin."""

    summary: str
    group: str = GROUP


KINDS = {
    "dcs": Kind("The store {name} for pgcore"),
    "replica": Kind("The way {name} to make standbys with pgcore"),
    "bootstrap": Kind("The way {name} to begin a cluster with pgcore"),
    "callback": Kind("Tells others what pgcore did: {name}"),
    "gate": Kind("Asked before pgcore promotes a node: {name}"),
    "rest": Kind("The endpoint /{name} for pgcore's REST API"),
    "metrics": Kind("Metrics {name} for pgcore"),
    "command": Kind("The command {name} for pgcore", CLI_GROUP),
}
PLACES = {"gitignore": ".gitignore", "ci.yml": ".github/workflows/test.yml", "init.py": "src/{package}/__init__.py",
          "plugin.py": "src/{package}/plugin.py", "store.py": "src/{package}/store.py", "test_plugin.py": "tests/test_plugin.py",
          "pyproject.toml": "pyproject.toml", "README.md": "README.md"}
"""Where each template goes. ``use.md`` becomes part of the README."""


@click.group("plugin")
def plugin() -> None:
    """Write a plugin of your own."""


@plugin.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What it brings.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=".", metavar="DIRECTORY",
              help="Where its folder is made.  [default: here]")
def new(name: str, kind: str, output: Path) -> None:
    """Write a plugin of your own to begin with: a distribution that works, with tests and a CI file.

    \b
    NAME is the word people will write in their configuration (for a command: type).
    A plugin dcs comes with the kit that proves a store, and passes it as it is.
    """
    check_name(name, kind)
    target = output / distribution_name(name, kind)
    if os.path.lexists(target):
        raise click.ClickException(f"{target} is there already and stays as it is: remove it, or choose another name or --output")
    written = write(target, name, kind)
    for path in written:
        click.echo(f"  {target / path}")
    click.echo(f"\nNext:\n  cd {target}\n  pip install -e '.[test]'\n  pgcore plugins check {name}\n  pytest\n"
               "Then README.md says how a node uses it.")


def distribution_name(name: str, kind: str) -> str:
    """``pgcore-dcs-my-store`` for the store ``my_store``."""
    return f"pgcore-{kind}-{name.replace('_', '-')}"


def check_name(name: str, kind: str) -> None:
    """Raises click.BadParameter for a name that could not be used, with the reason."""
    problem = ""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        problem = (f"{name!r} is no name for a plugin: lower-case letters, digits and single underscores, a letter first, "
                   f"{LONGEST_NAME} at most")
    elif keyword.iskeyword(name):
        problem = f"{name!r} is a word of Python"
    elif kind == "command" and name in COMMANDS:
        problem = f"{name!r} is a command of pgcore, which keeps its name"
    elif kind != "command" and (name in SECTIONS or name in ("tags", "plugins")):
        problem = f"{name!r} is a section of pgcore's own configuration"
    else:
        installed = {row.name: row.distribution for row in Registry(group=KINDS[kind].group).report()}
        owner = installed.get(name) or (DISTRIBUTION_OF.get(name) if kind != "command" else None)
        if owner and owner != distribution_name(name, kind):
            problem = f"{name!r} is the name of a plugin of {owner}, and two plugins of one name refuse each other"
    if problem:
        raise click.BadParameter(f"{problem}; choose another", param_hint="NAME")


def write(target: Path, name: str, kind: str) -> list[str]:
    """Write the distribution and return its files, sorted. It appears whole or not at all. Raises click.ClickException."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            written = []
            for path, text in sorted(rendered(name, kind)):
                file = draft / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                written.append(path)
            draft.chmod(0o755)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise click.ClickException(f"{target} cannot be written: {error.strerror or error}") from error
    return written


def rendered(name: str, kind: str) -> Iterator[tuple[str, str]]:
    """Path and text of every file."""
    distribution = distribution_name(name, kind)
    major, minor, _ = __version__.split(".")
    words = {
        "name": name, "Name": "".join(part.capitalize() for part in name.split("_")), "distribution": distribution,
        "package": distribution.replace("-", "_"), "summary": KINDS[kind].summary.format(name=name), "group": KINDS[kind].group,
        "level": str(API_LEVEL), "bound": f">={major}.{minor},<{major}.{int(minor) + 1}",
    }
    words["use"] = Template((TEMPLATES / kind / "use.md.in").read_text()).substitute(words)
    for folder in ("common", kind):
        for file in (TEMPLATES / folder).glob("*.in"):
            if file.stem in PLACES:
                yield PLACES[file.stem].format(**words), Template(file.read_text()).substitute(words)
