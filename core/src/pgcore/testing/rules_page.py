"""Writes the page "Rules" from the tables themselves: ``python -m pgcore.testing.rules_page [docs/rules.md]``.

A rule's sentence is its docstring; what stands in the brackets at the end of it is where it comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pgcore.decide import SITUATIONS, TABLES
from pgcore.decide.explain import split
from pgcore.decide.table import Table

HEAD = """# Rules

Every heartbeat asks tables of rules, top to bottom; the first rule that answers decides. Its name is in the log line and in
the status of the node. References: "HA rules" and "EC" are the contract and the edge cases this behaviour was judged by.

A heartbeat asks four stages in this order: `prepare`, then one table chosen by the situation, then `upkeep`, then `publish`.
A stage is asked again after a rule has acted, until a rule rests. An action that fails makes the stage ask again.

Written by `python -m pgcore.testing.rules_page docs/rules.md`; do not edit.
"""


def page() -> str:
    """The whole page in Markdown."""
    return HEAD + "".join(f"\n{part}" for part in _parts())


def _parts() -> Iterator[str]:
    yield _situations()
    for table in TABLES:
        yield _table(table)


def _situations() -> str:
    rows = "".join(
        f"| {number} | {when} | [`{table.name}`](#{table.name}) |\n" for number, (when, _, table) in enumerate(SITUATIONS, 1)
    )
    return (
        "## Situations\n\nThe first that holds selects the table of the main stage.\n\n| | when | table |\n|---|---|---|\n" + rows
    )


def _table(table: Table) -> str:
    rows = []
    for name, docstring in table.listing():
        sentence, reference = split(docstring)
        escaped = sentence.replace("|", "\\|")
        rows.append(f"| `{name}` | {escaped} | {reference} |\n")
    return f"## {table.name}\n\n| rule | meaning | reference |\n|---|---|---|\n" + "".join(rows)


def names() -> str:
    """All tables and rules in order, one a line."""
    lines = [line for table in TABLES for line in (f"{table.name}:", *(f"  {name}" for name, _ in table.listing()))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page())
    else:
        sys.stdout.write(page())
