"""Prints the numbers of the edge cases that no test names: ``python scripts/edge_cases.py``; ends with 1 if there are any.

A test names a case as ``EC 41`` or ``EC 41, 42``: in the situation of a row of a table of cases, or in its own docstring.
``--tests`` prints the tests of every number instead. The edge cases are part of the contract this project is judged by; their
numbers and kinds stand here so that a checkout can be checked by itself.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DECIDED = """1-8 10 14 16 18 20-34 36 38-76 78-86 93-95 100-110 112 115-116 118-133 136-158 160-177 180 182-183 185-186 188-211
    213-214 217-223 226-231"""
"""Cases that the rules decide."""
SHELL = "9 11-13 87-92 96-99 111 113-114 117 134-135 159 178-179 181 184 187 212 215-216"
"""Cases about processes, files and SQL."""
API = "19 35 77 224-225"
"""Cases of REST and of the command line."""
ELSEWHERE = "15 17 37"
"""Cases of the stores."""

_NAMED = re.compile(r"\bEC ((?:\d+(?:-\d+)?)(?:(?:, | and | to )\d+(?:-\d+)?(?![\d.]))*)")
_ROWS = ("case", "nothing", "silent", "Case", "Row", "step", "param", "changing", "kept", "upkeep")


def numbers(text: str) -> set[int]:
    """``1-3 7`` as numbers."""
    found: set[int] = set()
    for part in re.findall(r"\d+(?:-\d+)?", text):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def named_in(text: str) -> set[int]:
    """The numbers that a sentence names."""
    return {number for listed in _NAMED.findall(text) for number in numbers(listed.replace(" to ", "-"))}


def _sentences(path: Path) -> Iterator[tuple[str, str]]:
    """Every place where a test of this file may name a case: the test, and the text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test"):
            yield node.name, ast.get_docstring(node) or ""
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _ROWS:
                texts = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "id")]
                yield from ((text.value, text.value) for text in texts
                            if isinstance(text, ast.Constant) and isinstance(text.value, str))


def tests_by_number() -> dict[int, list[str]]:
    """The tests that name each case."""
    found = defaultdict(list)
    for path in sorted([*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/*.py")]):
        for test, text in _sentences(path):
            for number in named_in(text):
                found[number].append(f"{path.relative_to(ROOT)}: {test}")
    return found


def missing() -> list[int]:
    """Cases of the rules, of the shell and of the interfaces that no test names."""
    return sorted((numbers(DECIDED) | numbers(SHELL) | numbers(API)) - set(tests_by_number()))


def main() -> int:
    """Print and tell by the exit code."""
    if "--tests" in sys.argv[1:]:
        for number, tests in sorted(tests_by_number().items()):
            print(number, *tests, sep="\n  ")
        return 0
    without = missing()
    print(*without)
    return 1 if without else 0


if __name__ == "__main__":
    sys.exit(main())
