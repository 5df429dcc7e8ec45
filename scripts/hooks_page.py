"""Writes the reference of the hooks from their specifications: ``python scripts/hooks_page.py docs/plugins/hooks.md``."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pgcore import API_LEVEL, hookspecs
from pgcore.dcs import store

HEAD = f"""# The hooks

Written by `python scripts/hooks_page.py docs/plugins/hooks.md` from `pgcore/hookspecs.py` and `pgcore/dcs/store.py`, API
level {API_LEVEL}; do not edit. Every name here is imported from `pgcore.plugin`. How plugins are selected, and what happens
when one fails: [README.md](README.md). What may change, and when: [versions.md](versions.md).

A hook is a function of your module, marked with `@hookimpl`. It names only the arguments it uses.
"""
STORE_NAMES = ("Store", "Key", "Expect", "Stored", "Refused", "Record", "Snapshot", "Renewal")


def page() -> str:
    """The whole page in Markdown."""
    parts = [HEAD]
    for title, body in _rooms(hookspecs):
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n")
        classes = [node for node in body if isinstance(node, ast.ClassDef)]
        parts += [_family(node) for node in classes if node.name.endswith("Specs")]
        parts += [_type(node) for node in classes if not node.name.endswith("Specs")]
    parts.append("\n## What a store promises\n")
    found = {node.name: node for node in _tree(store).body if isinstance(node, ast.ClassDef)}
    parts += [_type(found[name]) for name in STORE_NAMES]
    return "".join(parts)


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(_source(module))


def _source(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text()


def _rooms(module: ModuleType) -> Iterator[tuple[str, list[ast.stmt]]]:
    """The parts of the module between its lines ``# -- title ---``."""
    starts = [(number, match[1]) for number, line in enumerate(_source(module).splitlines(), 1)
              if (match := re.fullmatch(r"# -- (.+?) -+", line))]
    ends = [number for number, _ in starts[1:]] + [sys.maxsize]
    for (start, title), end in zip(starts, ends, strict=True):
        yield title, [node for node in _tree(module).body if start < node.lineno < end]


def _family(node: ast.ClassDef) -> str:
    return f"\n{_doc(node)}\n" + "".join(_function(hook, level=3) for hook in node.body if isinstance(hook, ast.FunctionDef))


def _function(node: ast.FunctionDef, level: int = 0) -> str:
    """A heading with the signature for a hook; a line of a list for a method."""
    first, _, rest = _doc(node).partition("\n\n")
    signature = f"{node.name}({_arguments(node)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    if level:
        return f"\n{'#' * level} `{node.name}`\n\n```python\n{signature}\n```\n\n{first}\n" + (f"\n{rest}\n" if rest else "")
    return f"- `{signature}`: {' '.join(_doc(node).split())}\n"


def _arguments(node: ast.FunctionDef) -> str:
    if node.args.args and node.args.args[0].arg == "self":
        del node.args.args[0]
    return ast.unparse(node.args)


def _type(node: ast.ClassDef) -> str:
    lines = [f"\n### `{node.name}`\n\n{_doc(node)}\n", "\n"]
    for index, member in enumerate(node.body):
        if isinstance(member, ast.AnnAssign) and not _name(member.target).startswith("_"):
            lines.append(_field(member, _described(node.body, index)))
        elif isinstance(member, ast.Assign):
            lines.append(f"- `{ast.unparse(member)}`{_described(node.body, index)}\n")
        elif isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            lines.append(_function(member))
    return "".join(lines) if len(lines) > 2 else lines[0]


def _field(member: ast.AnnAssign, described: str) -> str:
    default = "" if member.value is None else f" = {ast.unparse(member.value)}"
    return f"- `{_name(member.target)}: {ast.unparse(member.annotation)}{default}`{described}\n"


def _name(target: ast.expr) -> str:
    return ast.unparse(target)


def _described(body: list[ast.stmt], index: int) -> str:
    """The text below a field, as a continuation of its line."""
    below = body[index + 1] if index + 1 < len(body) else None
    if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
        return ": " + _markdown(" ".join(below.value.value.split()))
    return ""


def _doc(node: ast.ClassDef | ast.FunctionDef) -> str:
    return _markdown(ast.get_docstring(node) or "")


def _markdown(text: str) -> str:
    """Docstrings mark code with two backticks, and lists with asterisks."""
    return re.sub(r"^\* ", "- ", text.replace("``", "`"), flags=re.MULTILINE)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
