"""A file fits into a head, a function on a screen (architecture 16)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from house.sources import python_files, relative

FILE_LINES, FUNCTION_LINES, LINE_LENGTH = 500, 60, 130

EXCEPTIONS: dict[str, str] = {}
"""``path`` or ``path::function`` -> why it is longer. An entry that is not needed any more is an error."""

SOURCES = python_files("core", "plugins", "tests", "scripts")


def longer() -> dict[str, str]:
    """Everything above its limit, by its name in EXCEPTIONS."""
    found = {}
    for path in SOURCES:
        text = path.read_text()
        name = relative(path)
        if (lines := text.count("\n")) > FILE_LINES:
            found[name] = f"{lines} lines, at most {FILE_LINES}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    found[f"{name}::{node.name}"] = f"{length} lines, at most {FUNCTION_LINES}"
    return found


def test_nothing_is_too_long() -> None:
    too_long = {name: size for name, size in longer().items() if name not in EXCEPTIONS}
    assert not too_long, "\n".join(f"{name}: {size}" for name, size in too_long.items())


def test_no_exception_outlives_its_reason() -> None:
    assert not set(EXCEPTIONS) - set(longer())


@pytest.mark.parametrize("path", [path for path in SOURCES if "src" in path.parts or "scripts" in path.parts], ids=relative)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{relative(path)} starts without a docstring"
