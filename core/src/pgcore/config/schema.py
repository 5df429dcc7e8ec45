"""How a configuration section is described and read: a frozen dataclass whose fields are made by ``option``.

``parse_section`` turns a YAML mapping into such a dataclass and reports every mistake at once: path, value seen, value
wanted, remedy. Types are checked by msgspec, one field at a time (it stops at the first error of a conversion); aliases,
units, accepted spellings (config 18) and secrets in files are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgcore.config.values import nearest, parse_bool, parse_int, parse_real, split_list
from pgcore.errors import ConfigError

Source = str | Callable[[str], str]
"""Where a value came from: a file name, or a function from a path to ``file:line``."""

_NUMBERS = (int, float)
_WORDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a text", tuple: "a list",
                          list: "a list", Sequence: "a list", dict: "a mapping", Mapping: "a mapping"}


def option(default: Any = dataclasses.MISSING, *, doc: str, factory: Any = dataclasses.MISSING, unit: str = "",
           alias: tuple[str, ...] = (), minimum: float | None = None, maximum: float | None = None,
           secret: bool = False, choices: tuple[str, ...] = ()) -> Any:
    """One key of a section. ``unit`` is ``s``, ``ms``, ``bytes`` or empty and allows values such as ``30min`` or ``16MB``.

    Without ``default`` and ``factory`` the key is required. ``secret`` values never appear in output, and ``<name>_file`` may
    name a file to read the value from. ``choices`` are compared without case. For a list of texts the unit ``lines`` means that a
    single text is split at its line ends; otherwise it is split at commas. For a text the unit ``words`` means that a list of
    texts may stand in its place, which are joined with commas.
    """
    metadata = {"doc": doc, "unit": unit, "alias": alias, "minimum": minimum, "maximum": maximum,
                "secret": secret, "choices": choices}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata, repr=not secret)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """What could be read of a section: the good values by field name, and what was wrong with the others."""

    values: dict[str, Any]
    errors: list[ConfigError]
    warnings: list[ConfigError]


def parse_section(cls: type, value: Any, path: str, source: Source, *,
                  unknown: str = "warn") -> tuple[Any, list[ConfigError], list[ConfigError]]:
    """Read ``value`` as the section ``cls``: the object (None if there is an error), all errors, all warnings.

    ``unknown`` says what a key without a field is: ``warn`` (a warning naming the nearest known key), ``error`` or ``ignore``.
    """
    parsed = parse_fields(cls, value, path, source, unknown=unknown)
    section = None if parsed.errors else cls(**parsed.values)
    return section, parsed.errors, parsed.warnings


def parse_fields(cls: type, value: Any, path: str, source: Source, *, unknown: str = "warn") -> Parsed:
    """Like ``parse_section``, but hands back the good fields even if others are wrong or missing."""
    reader = _Reader(cls, path, source)
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        reader.fail(path, f"wants a mapping of keys, has {_seen(value)}", "indent its keys below it")
    else:
        reader.read(value, unknown)
    return Parsed(reader.values, reader.errors, reader.warnings)


def partial_section(cls: type, values: Mapping[str, Any]) -> Any:
    """The section with None for required keys that are missing: to go on looking for mistakes where there are some."""
    missing = {field.name: None for field in dataclasses.fields(cls) if field.name not in values
               and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING}
    return cls(**missing, **values)


def key_names(cls: type) -> dict[str, str]:
    """Every key a section accepts (names, aliases, ``<secret>_file``) with the field it belongs to."""
    names = {}
    for field in dataclasses.fields(cls):
        for name in (field.name, *field.metadata.get("alias", ())):
            names[name] = field.name
        if field.metadata.get("secret"):
            names.setdefault(f"{field.name}_file", field.name)
    return names


def is_section(cls: Any) -> bool:
    """Is it a dataclass type, to be read key by key?"""
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


@functools.lru_cache(maxsize=64)
def field_types(cls: type) -> dict[str, Any]:
    """The resolved annotations of a section."""
    return typing.get_type_hints(cls)


class _Reader:
    """One pass over one section; collects values, errors and warnings."""

    def __init__(self, cls: type, path: str, source: Source) -> None:
        self.cls, self.path, self.source = cls, path, source
        self.values: dict[str, Any] = {}
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []

    def where(self, path: str) -> str:
        return self.source if isinstance(self.source, str) else self.source(path)

    def below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fail(self, path: str, problem: str, hint: str = "") -> None:
        self.errors.append(ConfigError(path, problem, hint, self.where(path)))

    def warn(self, path: str, problem: str, hint: str = "") -> None:
        self.warnings.append(ConfigError(path, problem, hint, self.where(path)))

    def read(self, mapping: Mapping[Any, Any], unknown: str) -> None:
        given = {str(key): value for key, value in mapping.items()}
        known = key_names(self.cls)
        for key in given:
            if key not in known and unknown != "ignore":
                near = nearest(key, known)
                report = self.fail if unknown == "error" else self.warn
                report(self.below(key), "is not a known key and has no effect", f"did you mean {near}?" if near else "remove it")
        for field in dataclasses.fields(self.cls):
            self.read_field(field, given)

    def read_field(self, field: Any, given: Mapping[str, Any]) -> None:
        metadata = field.metadata
        names = [name for name in (field.name, *metadata.get("alias", ())) if given.get(name) is not None]
        path = self.below(names[0] if names else field.name)
        if len(names) > 1:
            self.warn(self.below(names[1]), f"is ignored because {names[0]} is set too", "keep one of them")
        value = given[names[0]] if names else None
        file_key = f"{field.name}_file"
        if metadata.get("secret") and given.get(file_key) is not None:
            if value is not None:
                self.fail(path, f"is set together with {file_key}", "keep one of them")
                return
            value = self.read_secret(self.below(file_key), given[file_key])
            if value is None:
                return
        if value is None:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self.fail(path, "is required but missing" if field.name not in given else "is required but empty",
                          metadata.get("doc", ""))
            return
        self.convert(field, value, path)

    def read_secret(self, path: str, name: Any) -> str | None:
        try:
            with open(os.path.expanduser(str(name)), encoding="utf-8") as file:
                return file.read().rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.fail(path, f"names {str(name)!r}, which cannot be read: {reason}",
                      "make it readable for the user the agent runs as")
            return None

    def convert(self, field: Any, value: Any, path: str) -> None:
        import msgspec

        wanted, metadata = field_types(self.cls)[field.name], field.metadata
        section = next((kind for kind in alternatives(wanted) if is_section(kind)), None)
        if section is not None:
            nested = parse_fields(section, value, path, self.source)
            self.errors += nested.errors
            self.warnings += nested.warnings
            self.values[field.name] = partial_section(section, nested.values)
            return
        secret = metadata.get("secret", False)
        softened = _soften(wanted, value, metadata)
        if isinstance(value, _NUMBERS) and not isinstance(value, bool) and softened == str(value):
            shown = "" if secret else f" {value!r}"
            self.warn(path, f"wants a text, has the number{shown}; its decimal form is used", "put it in quotes")
        try:
            result = msgspec.convert(softened, wanted)
        except msgspec.ValidationError as error:
            place = str(error).partition("`$")[2].rstrip("`")
            item = "" if secret or not place else f"; item {place} does not fit"
            seen = "something else" if secret else _seen(value)
            self.fail(path, f"wants {describe(wanted, metadata)}, has {seen}{item}", _quote_hint(wanted, value))
            return
        if _within(result, metadata):
            self.values[field.name] = result
        else:
            self.fail(path, f"wants {describe(wanted, metadata)}, has {'something else' if secret else _seen(value)}")


def alternatives(wanted: Any) -> list[Any]:
    """The members of a union without None; a single type is its own only member."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return [kind for kind in typing.get_args(wanted) if kind is not type(None)]
    return [wanted]


def _soften(wanted: Any, value: Any, metadata: Mapping[str, Any]) -> Any:
    """The value in the wanted type if it is spelled in an accepted way (config 18), else unchanged, for msgspec to refuse."""
    kinds = alternatives(wanted)
    if Any in kinds:
        return value
    unit, choices = metadata.get("unit", ""), metadata.get("choices", ())
    if str in kinds and choices and isinstance(value, str | int):
        return _choice(value, choices)
    if type(value) in kinds:
        return value
    if unit == "words" and isinstance(value, list | tuple) and value and all(isinstance(word, str) for word in value):
        return ",".join(value)
    if bool in kinds and isinstance(value, str | int) and parse_bool(value) is not None:
        return parse_bool(value)
    if int in kinds and isinstance(value, str | float):
        number = parse_int(value, unit)
        return value if number is None else number
    if float in kinds and isinstance(value, str):
        real = parse_real(value, unit)
        return value if real is None else real
    if str in kinds and isinstance(value, _NUMBERS) and not isinstance(value, bool):
        return str(value)
    for kind in kinds:
        origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin in (tuple, list, Sequence) and isinstance(value, str):
            return value.splitlines() if unit == "lines" else split_list(value)
        if origin in (tuple, list, Sequence) and isinstance(value, list | tuple) and arguments:
            return [_soften(arguments[0], item, {}) for item in value]
        if origin in (dict, Mapping) and isinstance(value, Mapping) and len(arguments) == 2:
            return {str(key): _soften(arguments[1], item, {}) for key, item in value.items()}
    return value


def _choice(value: str | int, choices: Sequence[str]) -> str | int:
    """The choice as it is listed, compared without case; YAML's bare on and off are the words (config 18)."""
    words = {choice.lower(): choice for choice in choices}
    word = str(value).strip().lower()
    if word in words:
        return words[word]
    truth = parse_bool(value)
    for spelling in ("on", "true") if truth else ("off", "false"):
        if truth is not None and spelling in words:
            return words[spelling]
    return value


def _within(result: Any, metadata: Mapping[str, Any]) -> bool:
    minimum, maximum, choices = (metadata.get(name) for name in ("minimum", "maximum", "choices"))
    if isinstance(result, _NUMBERS) and not isinstance(result, bool):
        return (minimum is None or result >= minimum) and (maximum is None or result <= maximum)
    return not (choices and isinstance(result, str)) or result in choices


def describe(wanted: Any, metadata: Mapping[str, Any]) -> str:
    """What a key wants, in words: type, range, unit, choices."""
    if metadata.get("choices"):
        return "one of " + ", ".join(metadata["choices"])
    kinds = [typing.get_origin(kind) or kind for kind in alternatives(wanted)]
    text = " or ".join(_WORDS.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
    minimum, maximum = metadata.get("minimum"), metadata.get("maximum")
    if minimum is not None and maximum is not None:
        text += f" from {minimum:g} to {maximum:g}"
    elif minimum is not None:
        text += f" of at least {minimum:g}"
    elif maximum is not None:
        text += f" of at most {maximum:g}"
    unit = {"s": "in seconds or with a unit (30s, 5min)", "ms": "in milliseconds or with a unit (500ms, 2s)",
            "bytes": "in bytes or with a unit (16MB)", "words": "or a list of texts"}.get(metadata.get("unit", ""), "")
    return f"{text} {unit}".strip()


def _seen(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _quote_hint(wanted: Any, value: Any) -> str:
    if str in alternatives(wanted) and isinstance(value, bool):
        return "put it in quotes: YAML reads bare on, off, yes and no as booleans"
    return ""


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema of a section: descriptions, ranges and choices from ``option``, types from msgspec.

    It allows every key and spelling that ``parse_section`` takes without a warning; other keys are not forbidden.
    """
    properties: dict[str, Any] = {}
    required: list[str] = []
    either: list[dict[str, Any]] = []
    for field in dataclasses.fields(cls):
        names = [field.name, *field.metadata.get("alias", ())]
        entry = _property(field, field_types(cls)[field.name])
        properties |= {name: entry if name == field.name else {**entry, "deprecated": True} for name in names}
        if field.metadata.get("secret"):
            names.append(f"{field.name}_file")
            properties.setdefault(names[-1], {"type": "string", "description": f"file that holds {field.name}"})
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if len(names) == 1:
                required.append(field.name)
            else:
                either.append({"anyOf": [{"required": [name]} for name in names]})
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | ({"required": required} if required else {}) | ({"allOf": either} if either else {})


def _property(field: Any, wanted: Any) -> dict[str, Any]:
    import msgspec

    metadata = field.metadata
    section = next((kind for kind in alternatives(wanted) if is_section(kind)), None)
    entry: dict[str, Any] = json_schema(section) if section else msgspec.json.schema(wanted)
    limits = {"minimum": metadata.get("minimum"), "maximum": metadata.get("maximum")}
    entry |= {name: limit for name, limit in limits.items() if limit is not None}
    choices = metadata.get("choices", ())
    spellings: list[dict[str, Any]] = []
    if choices:
        entry = {"enum": [*choices, None] if type(None) in typing.get_args(wanted) else list(choices)}
        spellings += [{"type": "boolean"}] if {"on", "off", "true", "false"} & {choice.lower() for choice in choices} else []
    if metadata.get("unit") in ("s", "ms", "bytes") or _is_list(wanted):
        spellings.append({"type": "string"})
    if spellings:
        entry = {"anyOf": [entry, *spellings]}
    if metadata.get("doc"):
        entry["description"] = metadata["doc"]
    if field.default is not dataclasses.MISSING and field.default is not None and not metadata.get("secret"):
        entry["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
    return entry


def _is_list(wanted: Any) -> bool:
    """A single text may stand for a list: it is split."""
    return any((typing.get_origin(kind) or kind) in (tuple, list, Sequence) for kind in alternatives(wanted))
