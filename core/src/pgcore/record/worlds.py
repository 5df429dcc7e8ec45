"""Worlds as JSON: every value that a heartbeat is given, asks for and answers, written by its type hints and read back exactly.

Reading is tolerant, so that the record of an older or newer version still loads: unknown fields are dropped, missing ones get
their default. What is nothing (None, false, 0, empty) and the default as well is not written.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import importlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pgcore.errors import PgcoreError
from pgcore.model.basics import Json, Lsn

Encode = Callable[[Any], Json]
Decode = Callable[[Json], Any]

_TAG, _CONTENT = "is", "of"
_MODULES = (
    "pgcore.model.basics",
    "pgcore.model.cluster",
    "pgcore.model.decision",
    "pgcore.model.failsafe",
    "pgcore.model.node",
    "pgcore.model.orders",
    "pgcore.model.server",
    "pgcore.model.settings",
    "pgcore.model.slots",
    "pgcore.model.synchronous",
    "pgcore.model.world",
    "pgcore.model.actions",
    "pgcore.decide.advance.looks",
)
"""Where the values of a heartbeat are defined; their names are unique."""


class UnreadableError(PgcoreError):
    """A recorded value that this version cannot read: where, and why."""

    def __init__(self, problem: str, path: str = "") -> None:
        self.problem, self.path = problem, path
        super().__init__(f"{path}: {problem}" if path else problem)

    def below(self, name: str) -> UnreadableError:
        """The same, seen from the value that contains it."""
        return UnreadableError(self.problem, f"{name}.{self.path}" if self.path else name)


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """A value of a type that only another version has: it equals no value of this version, but is told by its name."""

    name: str
    tree: Json


def encode(value: Any) -> Json:
    """A value of the model as JSON, without the name of its own type."""
    kind: Any = type(value)
    return _pair(kind)[0](value)


def encode_named(value: Any) -> Json:
    """Any value of a heartbeat as JSON that ``decode_named`` reads without knowing its type."""
    return _encode_any(value)


def decode(kind: type, tree: Json) -> Any:
    """The value of this type that ``encode`` wrote. Raises UnreadableError."""
    return _pair(kind)[1](tree)


def decode_named(tree: Json) -> Any:
    """The value that ``encode_named`` wrote. Raises UnreadableError."""
    return _decode_any(tree)


@functools.cache
def kinds() -> dict[str, type]:
    """Every named type of the model by its name."""
    found: dict[str, type] = {}
    for module in map(importlib.import_module, _MODULES):
        for name, value in vars(module).items():
            if isinstance(value, type) and (dataclasses.is_dataclass(value) or issubclass(value, enum.Enum)):
                found[name] = value
    return found


# -- by type hints ---------------------------------------------------------------------------------------------------------


@functools.cache
def _pair(hint: Any) -> tuple[Encode, Decode]:
    """How values of this type are written and read."""
    if hint is Any or hint is object:
        return _encode_any, _decode_any
    if hint is types.NoneType:
        return _as_it_is, _checked("nothing", types.NoneType)
    if hint in _PLAIN:
        return _as_it_is, _checked(*_PLAIN[hint])
    if hint is Lsn:
        return str, _lsn
    if isinstance(hint, typing.NewType):
        return _pair(hint.__supertype__)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint)
    if dataclasses.is_dataclass(hint):
        return _fields(hint)
    return _container(hint)


_PLAIN: dict[Any, tuple[Any, ...]] = {
    str: ("a text", str), bool: ("true or false", bool), int: ("a number", int), float: ("a number", float, int),
}


def _as_it_is(value: Any) -> Json:
    return value


def _checked(wanted: str, *accepted: type) -> Decode:
    def read(tree: Json) -> Any:
        if isinstance(tree, accepted):
            return tree
        raise UnreadableError(f"wanted {wanted}, found {type(tree).__name__}")

    return read


def _lsn(tree: Json) -> Lsn:
    try:
        return Lsn.parse(tree)
    except (AttributeError, ValueError) as error:
        raise UnreadableError(f"wanted a WAL position, found {tree!r}") from error


def _enum(kind: type[enum.Enum]) -> tuple[Encode, Decode]:
    words = issubclass(kind, str)
    members = {str(member) if words else member.name: member for member in kind}

    def read(tree: Json) -> enum.Enum:
        if isinstance(tree, str) and tree in members:
            return members[tree]
        raise UnreadableError(f"{tree!r} is no {kind.__name__} of this version")

    return (str if words else lambda value: value.name), read


def _container(hint: Any) -> tuple[Encode, Decode]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is tuple:
        return _tuple(arguments)
    if origin is frozenset:
        item_out, item_in = _pair(arguments[0])
        listed = _checked("a list", list)
        return (lambda value: [item_out(item) for item in sorted(value)],
                lambda tree: frozenset(_each(item_in, listed(tree))))
    if origin in (collections.abc.Mapping, dict) and arguments[0] is str:
        item_out, item_in = _pair(arguments[1])
        mapped = _checked("a mapping", dict)
        return (lambda value: {key: item_out(item) for key, item in value.items()},
                lambda tree: {key: _at(key, item_in, item) for key, item in mapped(tree).items()})
    raise TypeError(f"values of type {hint} cannot be recorded")


def _union(arguments: tuple[Any, ...]) -> tuple[Encode, Decode]:
    """An optional value is null or the value; one of several types carries the name of its type."""
    others = [each for each in arguments if each is not types.NoneType]
    if len(others) > 1:
        return _encode_any, _decode_any
    write, read = _pair(others[0])
    return (lambda value: None if value is None else write(value)), (lambda tree: None if tree is None else read(tree))


def _tuple(arguments: tuple[Any, ...]) -> tuple[Encode, Decode]:
    listed = _checked("a list", list)
    if len(arguments) == 2 and arguments[1] is ...:
        item_out, item_in = _pair(arguments[0])
        return (lambda value: [item_out(item) for item in value]), (lambda tree: tuple(_each(item_in, listed(tree))))
    pairs = [_pair(each) for each in arguments]

    def read(tree: Json) -> tuple[Any, ...]:
        if len(listed(tree)) != len(pairs):
            raise UnreadableError(f"wanted {len(pairs)} values, found {len(tree)}")
        return tuple(_at(str(n), pair[1], item) for n, (pair, item) in enumerate(zip(pairs, tree, strict=True)))

    return (lambda value: [pair[0](item) for pair, item in zip(pairs, value, strict=True)]), read


def _each(read: Decode, items: list[Json]) -> list[Any]:
    return [_at(str(number), read, item) for number, item in enumerate(items)]


def _at(name: str, read: Decode, tree: Json) -> Any:
    try:
        return read(tree)
    except UnreadableError as error:
        raise error.below(name) from None


def _fields(kind: Any) -> tuple[Encode, Decode]:
    hints = typing.get_type_hints(kind)
    fields = [(field.name, *_pair(hints[field.name]), _default(field)) for field in dataclasses.fields(kind)]
    mapped = _checked(f"a {kind.__name__}", dict)

    def write(value: Any) -> Json:
        tree = {}
        for name, out, _, default in fields:
            item = getattr(value, name)
            if item or item != default:
                tree[name] = out(item)
        return tree

    def read(tree: Json) -> Any:
        tree = mapped(tree)
        given = {name: _at(name, into, tree[name]) for name, _, into, _ in fields if name in tree}
        missing = [name for name, _, _, default in fields if default is dataclasses.MISSING and name not in tree]
        if missing:
            raise UnreadableError(f"{', '.join(missing)} of {kind.__name__} is missing")
        return kind(**given)

    return write, read


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


# -- by the value itself ---------------------------------------------------------------------------------------------------


def _encode_any(value: Any) -> Json:
    """JSON as it is; everything else with the name of its type."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Mapping):
        if _TAG not in value and all(type(key) is str for key in value):
            return {key: _encode_any(item) for key, item in value.items()}
        return {_TAG: "mapping", _CONTENT: [[_encode_any(key), _encode_any(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_encode_any(item) for item in value]
    if isinstance(value, tuple):
        return {_TAG: "tuple", _CONTENT: [_encode_any(item) for item in value]}
    if isinstance(value, frozenset):
        return {_TAG: "frozenset", _CONTENT: [_encode_any(item) for item in sorted(value)]}
    if isinstance(value, Lsn):
        return {_TAG: "Lsn", _CONTENT: str(value)}
    if isinstance(value, Unknown):
        return value.tree
    name = type(value).__name__
    if kinds().get(name) is not type(value):
        raise TypeError(f"a value of type {name} cannot be recorded")
    tree = encode(value)
    return {_TAG: name, _CONTENT: tree} if isinstance(value, enum.Enum) else {_TAG: name, **tree}


_CONTAINERS: dict[Any, Callable[[list[Any]], Any]] = {"mapping": dict, "tuple": tuple, "frozenset": frozenset}


def _decode_any(tree: Json) -> Any:
    if isinstance(tree, list):
        return _each(_decode_any, tree)
    if not isinstance(tree, dict):
        return tree
    name = tree.get(_TAG)
    if _TAG not in tree:
        return {key: _at(key, _decode_any, item) for key, item in tree.items()}
    content = tree.get(_CONTENT)
    if name == "Lsn":
        return _lsn(content)
    if name in _CONTAINERS:
        items = _each(_decode_any, _checked("a list", list)(content))
        return _CONTAINERS[name](items)
    kind = kinds().get(str(name))
    if kind is None:
        return Unknown(str(name), tree)
    return decode(kind, content if issubclass(kind, enum.Enum) else tree)
