"""Values as bytes, for messages between members and for their files: plain values and node addresses, nothing else.

A value is a tag of one byte and what the tag says; whatever has a length names it. Decoding builds values and calls nothing, so
that bytes of any origin cost at most memory in proportion to their number. Unlike JSON it keeps tuples and bytes, which
pysyncobj tells from lists and texts.
"""

from __future__ import annotations

import struct
from typing import Any

from pysyncobj.node import Node, TCPNode  # type: ignore[import-untyped]

DEEPEST = 32
_COUNT = struct.Struct(">I")
_FLOAT = struct.Struct(">d")
_CONSTANTS = {b"N": None, b"T": True, b"F": False}


def encode(value: Any) -> bytes:
    """Raises TypeError for what has no place in a message."""
    parts: list[bytes] = []
    _write(value, parts.append, DEEPEST)
    return b"".join(parts)


def decode(data: bytes) -> Any:
    """Raises ValueError unless the bytes are exactly one value."""
    try:
        value, end = _read(data, 0, DEEPEST)
    except (IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"no value of the Raft store: {type(error).__name__}") from error
    if end != len(data):
        raise ValueError(f"no value of the Raft store: {len(data) - end} bytes too many")
    return value


def _write(value: Any, out: Any, depth: int) -> None:
    if depth == 0:
        raise TypeError("nested too deeply for a Raft message")
    kind = type(value)
    if value is None or kind is bool:
        out(b"N" if value is None else b"T" if value else b"F")
    elif kind is float:
        out(b"f" + _FLOAT.pack(value))
    elif kind in _TEXTS:
        tag, data = _TEXTS[kind](value)
        out(tag + _COUNT.pack(len(data)))
        out(data)
    elif kind in _LISTS:
        out(_LISTS[kind] + _COUNT.pack(len(value)))
        for item in value:
            _write(item, out, depth - 1)
    elif kind is dict:
        out(b"d" + _COUNT.pack(len(value)))
        for pair in value.items():
            for item in pair:
                _write(item, out, depth - 1)
    else:
        raise TypeError(f"{kind.__name__} has no place in a Raft message")


_TEXTS: dict[Any, Any] = {
    int: lambda value: (b"i", b"%d" % value), str: lambda value: (b"s", value.encode()), bytes: lambda value: (b"b", value),
    TCPNode: lambda value: (b"n", value.id.encode()), Node: lambda value: (b"o", value.id.encode())}
_LISTS: dict[Any, bytes] = {list: b"l", tuple: b"t", set: b"e"}
_FROM_TEXT: dict[bytes, Any] = {b"i": int, b"s": lambda data: data.decode(), b"b": lambda data: data,
                                b"n": lambda data: TCPNode(data.decode()), b"o": lambda data: Node(data.decode())}
_FROM_LIST: dict[bytes, Any] = {b"l": list, b"t": tuple, b"e": set}


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth == 0:
        raise ValueError("no value of the Raft store: nested too deeply")
    tag, at = data[at:at + 1], at + 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"f":
        return _FLOAT.unpack_from(data, at)[0], at + _FLOAT.size
    count, at = _COUNT.unpack_from(data, at)[0], at + _COUNT.size
    if count > len(data) - at:
        raise ValueError("no value of the Raft store: it ends too early")
    if tag in _FROM_TEXT:
        return _FROM_TEXT[tag](data[at:at + count]), at + count
    items: list[Any] = []
    for _ in range(2 * count if tag == b"d" else count):
        item, at = _read(data, at, depth - 1)
        items.append(item)
    if tag == b"d":
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return _FROM_LIST[tag](items), at
