"""Writes the page of all configuration keys from the options themselves: ``python scripts/configuration_page.py FILE``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pgcore.config.environment import VARIABLES
from pgcore.config.schema import alternatives, describe, field_types, is_section
from pgcore.config.sections import (
    DISTRIBUTION_OF,
    LOCAL_ONLY,
    PLUGIN_SECTIONS,
    SECTIONS,
    DynamicSection,
    NodeSection,
    StandbyClusterSection,
)
from pgcore.registry import Registry

HEAD = """# All keys of the configuration

Written by `python scripts/configuration_page.py docs/configuration-keys.md`; do not edit. How it is used:
[configuration.md](configuration.md). `pgcore config schema` prints the same as JSON Schema.

Every variable exists with the prefix `PGCORE_` and with `PATRONI_`; the former wins. **Bold** keys are required where their
section is. A secret may be read from a file that `<key>_file` names. Text for a list is split at commas, for `pg_hba` and
`pg_ident` at line ends. Methods and bootstrap commands of your own have sections below `postgresql` and `bootstrap`.
"""
COLUMNS = "| key | wants | default | variable | meaning |\n|---|---|---|---|---|\n"
TITLES = {
    "": "Top level (node file)", "bootstrap": "`bootstrap` (node file; only while a cluster is made)",
    "postgresql": "`postgresql` (node file; keys without a mark also in the dynamic configuration, the node file wins)",
}
DYNAMIC_TIMING = (("ttl", "seconds the leader's lock lives without renewal"), ("loop_wait", "seconds between heartbeats"),
                  ("retry_timeout", "seconds a request to the store is repeated"))


def page() -> str:
    """The whole page in Markdown."""
    variables = {path: name for name, path in reversed(VARIABLES.items())}
    parts = [_table(TITLES[""], NodeSection, (), variables)]
    parts += [_table(TITLES.get(name, f"`{name}` (node file)"), cls, (name,), variables) for name, cls in SECTIONS.items()]
    parts += [_table(f"`{name}` (node file, distribution `{DISTRIBUTION_OF[name]}`)", cls, (name,), variables)
              for name, cls in _stores().items()]
    registry = Registry()
    registry.activate(PLUGIN_SECTIONS)
    parts += [_table(f"`{name}` (node file, distribution `{distribution}`)", registry.sections()[name], (name,), variables)
              for name, distribution in PLUGIN_SECTIONS.items()]
    parts += [_dynamic()]
    return HEAD + "".join(f"\n{part}" for part in parts)


def _stores() -> Mapping[str, type]:
    registry = Registry()
    registry.activate(name for name in registry.names if name in DISTRIBUTION_OF)
    sections = {name: backend.section for name, backend in registry.stores().items()}
    return {name: sections[name] for name in DISTRIBUTION_OF if name in sections}


def _table(title: str, cls: type, path: tuple[str, ...], variables: Mapping[tuple[str, ...], str]) -> str:
    return f"## {title}\n\n{COLUMNS}" + "".join(_rows(cls, path, len(path), variables))


def _dynamic() -> str:
    timing = "".join(f"| `{key}` | an integer | see [how it works](how-it-works.md) | | {doc} |\n" for key, doc in DYNAMIC_TIMING)
    more = ("| `slots` | a mapping | {} | | permanent slots ([slots.md](slots.md)) |\n"
            "| `ignore_slots` | a list | [] | | slots that are left alone |\n"
            "| `postgresql` | a mapping | {} | | as above |\n")
    rows = "".join(_rows(DynamicSection, (), 0, {})) + more + "".join(_rows(StandbyClusterSection, ("standby_cluster",), 0, {}))
    return f"## Dynamic configuration (`bootstrap.dcs`, `/config`)\n\n{COLUMNS}{timing}{rows}"


def _rows(cls: type, path: tuple[str, ...], skip: int, variables: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    for field in dataclasses.fields(cls):
        wanted, here = field_types(cls)[field.name], (*path, field.name)
        section = next((kind for kind in alternatives(wanted) if is_section(kind)), None)
        if section is not None:
            yield from _rows(section, here, skip, variables)
            continue
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        key = f"`{'.'.join(here[skip:])}`"
        marks = "".join(mark for mark, holds in (
            (" (node file only)", here[0] == "postgresql" and here[1] in LOCAL_ONLY),
            (" (dynamic only)", here == ("postgresql", "use_slots"))) if holds)
        variable = f"`{variables[here]}`" if here in variables else _own_variable(here)
        aliases = "".join(f" (also `{alias}`)" for alias in field.metadata.get("alias", ()))
        cells = [f"**{key}**" if required else key, _wish(wanted, field.metadata), _default(field), variable,
                 field.metadata["doc"] + aliases + marks]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _wish(wanted: Any, metadata: Mapping[str, Any]) -> str:
    return "see the meaning" if wanted is Any else describe(wanted, metadata)


def _own_variable(path: tuple[str, ...]) -> str:
    """Sections of stores: the name is made of section and key."""
    return f"`{'_'.join(path).upper()}`" if len(path) == 2 and path[0] in DISTRIBUTION_OF else ""


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "{}"
    if field.default in (dataclasses.MISSING, None):
        return ""
    if isinstance(field.default, tuple):
        return "[]"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
