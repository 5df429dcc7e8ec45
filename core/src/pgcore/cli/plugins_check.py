"""``pgcore plugins check``: whether a plugin can be used, and what its author should still mend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

import click

from pgcore.plugin_probe import Probed, probe_one
from pgcore.registry import CLI_GROUP, GROUP, PluginState, Registry, cure

IMPORT_LIMIT_S = 0.03
ROUNDS = 3
"""An import is measured again when it was slow: what counts is the plugin, not what else the machine did."""
_BOUNDED = re.compile(r"pgcore(\[[^]]*\])?[\s(]*(?=[<>=~!])[^;]*(<|~=|==)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A ``warning`` is an error with ``--strict``."""

    level: str
    text: str


@click.command("check")
@click.argument("name")
@click.option("--strict", is_flag=True, help="Fail for warnings too, as a plugin's own CI should.")
def check(name: str, strict: bool) -> None:
    """Check one installed plugin: does it load, what does it bring, what does it cost those who only have it installed.

    \b
    NAME is the word in the configuration, or the command, as `pgcore plugins` lists it.
    """
    registry = next((each for each in map(lambda group: Registry(group=group), (GROUP, CLI_GROUP)) if name in each.names), None)
    if registry is None:
        known = ", ".join(sorted({*Registry().names, *Registry(group=CLI_GROUP).names}))
        raise click.ClickException(f"no plugin {name} is installed: {cure(name) or f'pip install it; installed are {known}'}")
    probed = _measured(registry, name)
    click.echo(f"{name} ({probed.row.distribution} {probed.row.version})")
    found = list(findings(probed, command=registry.entries(name)[0].group == CLI_GROUP))
    for finding in found:
        click.echo(f"  {finding.level:<7}  {finding.text}")
    levels = {finding.level for finding in found}
    if "error" in levels or (strict and "warning" in levels):
        raise click.exceptions.Exit(1)


def _measured(registry: Registry, name: str) -> Probed:
    best = probe_one(registry, name)
    for _ in range(ROUNDS - 1):
        if best.row.state is not PluginState.AVAILABLE or best.seconds < IMPORT_LIMIT_S:
            break
        best = min(best, probe_one(registry, name), key=lambda probed: probed.seconds)
    return best


def findings(probed: Probed, command: bool) -> Iterator[Finding]:
    """What there is to say, the best first. A command is imported only when it is called, so its weight is its own affair."""
    shown = probed.row
    if shown.state is not PluginState.AVAILABLE:
        yield Finding("error", f"{shown.state}: {shown.reason}")
        return
    yield Finding("ok", f"implements {', '.join(shown.hooks)}")
    if probed.brings:
        yield Finding("ok", f"brings {', '.join(probed.brings)}")
    if probed.problem:
        yield Finding("error", probed.problem)
    if not command:
        yield from _weight(probed)
    if shown.distribution != "pgcore" and not _bounded(shown.distribution):
        yield Finding("warning", f"{shown.distribution} takes any version of pgcore: give its dependency an upper bound, "
                                 "such as pgcore>=0.1,<0.2")
    if any(each.startswith("store ") for each in probed.brings):
        yield Finding("note", "pgcore.testing.dcs proves a store: subclass StoreContract in its tests (docs/plugins/)")


def _weight(probed: Probed) -> Iterator[Finding]:
    took = f"its import takes {probed.seconds * 1000:.0f} ms"
    slow = probed.seconds >= IMPORT_LIMIT_S
    if probed.libraries:
        yield Finding("warning", f"{took} and loads {', '.join(probed.libraries)}: import that inside the function that uses it")
    elif slow:
        yield Finding("warning", f"{took}, more than {IMPORT_LIMIT_S * 1000:.0f}: every start of an agent pays for it")
    else:
        yield Finding("ok", f"{took} and loads no library")


def _bounded(distribution: str) -> bool:
    try:
        needs = requires(distribution) or []
    except PackageNotFoundError:
        return True
    return any(_BOUNDED.match(need) for need in needs)
