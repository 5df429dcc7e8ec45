"""YAML text to a tree of plain values, remembering the file and line of every key for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgcore.errors import ConfigError

FILL_IN = "#FIXME"
"""Stands in a generated file where only the administrator knows the value."""


class Places:
    """Where each key of a tree came from; call it with a path to get ``file:line`` or the name of a variable."""

    def __init__(self, default: str = "") -> None:
        self._default = default
        self._places: dict[str, str] = {}

    def note(self, path: str, place: str) -> None:
        """Remember a place; a later one wins, as the value does."""
        self._places[path] = place

    def update(self, other: Places) -> None:
        """Take over the places of a tree patched over this one."""
        self._places |= other._places
        self._default = self._default or other._default

    def __call__(self, path: str) -> str:
        while path:
            if path in self._places:
                return self._places[path]
            path = path[:max(path.rfind("."), path.rfind("["), 0)]
        return self._default


def read_yaml(text: str, name: str,
              begin: str = "start with scope: and name:") -> tuple[dict[str, Any], Places, list[ConfigError]]:
    """The mapping in a YAML 1.1 text, its places, and a warning for each key that is given twice. ``begin``: how it should.

    Raises ConfigError with line and column for text that is not YAML or whose top level is not a mapping (config 1.1).
    """
    import yaml

    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    places = Places(name)
    warnings: list[ConfigError] = []
    try:
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            _Visit(name, places, warnings).node(node, "")
            tree = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _broken(error, name) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError("", f"is not valid YAML: {error}", "correct the file", name) from error
    if not isinstance(tree, Mapping):
        raise ConfigError("", "wants a mapping of keys at the top level" + (", but is empty" if tree is None else ""),
                          begin, name)
    return {str(key): value for key, value in tree.items()}, places, warnings


class _Visit:
    """One walk over the composed text. A node that aliases repeat is walked once, so that no text can make the walk explode."""

    def __init__(self, name: str, places: Places, warnings: list[ConfigError]) -> None:
        self.name, self.places, self.warnings = name, places, warnings
        self.visited: set[int] = set()
        self.open: set[int] = set()

    def node(self, node: Any, path: str) -> None:
        """Note the places of everything below ``node``. Raises ConfigError for a value that contains itself."""
        if id(node) in self.open:
            raise ConfigError(path, "contains itself", "remove the alias", f"{self.name}:{node.start_mark.line + 1}")
        if id(node) in self.visited or not isinstance(getattr(node, "value", None), list):
            return
        self.visited.add(id(node))
        self.open.add(id(node))
        seen: dict[str, int] = {}
        for index, item in enumerate(node.value):
            if not isinstance(item, tuple):
                self.places.note(f"{path}[{index}]", f"{self.name}:{item.start_mark.line + 1}")
                self.node(item, f"{path}[{index}]")
                continue
            key, value = item
            word, line = str(key.value), key.start_mark.line + 1
            below, place = f"{path}.{word}" if path else word, f"{self.name}:{line}"
            if word in seen and word != "<<":
                self.warnings.append(ConfigError(below, f"is given twice; the value of line {seen[word]} is lost",
                                                 "keep one of them", place))
            seen[word] = line
            self.places.note(below, place)
            self.node(value, below)
        self.open.discard(id(node))


def _broken(error: Any, name: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    if mark is None:
        return ConfigError("", f"is not valid YAML: {problem}", "correct the file", name)
    return ConfigError("", f"is not valid YAML: {problem} at line {mark.line + 1}, column {mark.column + 1}",
                       "check indentation, quotes and colons there", f"{name}:{mark.line + 1}")


def patch(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` applied: null deletes, mappings merge, anything else replaces if its text differs (config 1.2)."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = patch(old, value) if isinstance(old, Mapping) else _copy(value)
        elif key not in result or str(old) != str(value):
            result[key] = _copy(value)
    return result


def equal(left: Any, right: Any) -> bool:
    """Same keys at every level and leaves of the same text: ``2`` equals ``"2"`` (config 1.2)."""
    if left is right:
        return True
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(equal(value, right[key]) for key, value in left.items())
    if isinstance(left, Mapping) or isinstance(right, Mapping):
        return False
    return str(left) == str(right)


def unfilled(tree: Any, path: str = "") -> list[str]:
    """The paths that still say ``#FIXME``, also as the host of an address."""
    if isinstance(tree, Mapping):
        return [found for key, item in tree.items() for found in unfilled(item, f"{path}.{key}" if path else str(key))]
    if isinstance(tree, list):
        return [found for index, item in enumerate(tree) for found in unfilled(item, f"{path}[{index}]")]
    return [path] if isinstance(tree, str) and (tree == FILL_IN or tree.startswith(f"{FILL_IN}:")) else []


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
