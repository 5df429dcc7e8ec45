"""What plugins are built on does not change by accident: every public name and signature stands in ``interface.txt``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pgcore.plugin
from pgcore.hookspecs import SPECS

PINNED = Path(__file__).with_name("interface.txt")


def interface() -> str:
    """The hooks, then the names of ``pgcore.plugin`` with their fields and methods, one line each."""
    hooks = [f"hook {name}{inspect.signature(hook)}" for family in SPECS for name, hook in vars(family).items()
             if name.startswith("pgcore_")]
    names = [line for name in sorted(pgcore.plugin.__all__) for line in _described(name, getattr(pgcore.plugin, name))]
    return re.sub(r" at 0x[0-9a-f]+", "", "\n".join([*sorted(hooks), *names])) + "\n"


def _described(name: str, value: object) -> Iterator[str]:
    if not inspect.isclass(value):
        yield f"{name}{inspect.signature(value)}" if inspect.isfunction(value) else name
        return
    yield f"{name}({', '.join(base.__name__ for base in value.__bases__ if base is not object)})"
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            optional = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
            yield f"  {name}.{field.name}: {field.type}{' = ...' if optional else ''}"
    for own, member in vars(value).items():
        if own.startswith("_"):
            continue
        if inspect.isfunction(member):
            yield f"  {name}.{own}{inspect.signature(member)}"
        elif isinstance(member, property):
            yield f"  {name}.{own}: {inspect.signature(member.fget).return_annotation}"  # type: ignore[arg-type]


def test_the_interface_of_plugins_is_the_one_that_was_agreed_upon() -> None:
    """A change that is meant: ``PYTHONPATH=tests python -m house.test_interface``, and a word in CHANGELOG.md.

    Names and arguments may be added at any time. What is taken away or changed breaks plugins: ``API_LEVEL`` counts that.
    """
    pinned, found = PINNED.read_text().splitlines(), interface().splitlines()
    # What the agent publishes grows with the agent; nothing that a plugin may read in it is taken away.
    assert [line for line in found if line in pinned or not line.startswith("  Status.")] == pinned


if __name__ == "__main__":
    PINNED.write_text(interface())
