"""How single values are spelled: booleans, numbers with units, addresses, option words (config 18).

Every function returns None (or raises ValueError where a value has parts) for a spelling it does not know. Nothing here
reads files.
"""

from __future__ import annotations

import re
from typing import Any

_TRUE = frozenset({"on", "true", "yes", "1"})
_FALSE = frozenset({"off", "false", "no", "0"})

_BYTES = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_NUMBER = re.compile(r"\s*([-+]?)(0[xX][0-9a-fA-F]+|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*")

UNITS = {"bytes": "B"}
"""Names of units in ``option`` that are spelled differently in values."""


def parse_bool(value: Any) -> bool | None:
    """``on/true/yes/1`` and ``off/false/no/0`` in any case, booleans, 0 and 1; anything else is None."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


def parse_real(value: Any, unit: str = "") -> float | None:
    """A number in ``unit`` from a number or from text such as ``0x10``, ``010`` (octal), ``1e3``, ``30min``.

    A unit in the text is understood only when ``unit`` says what the plain number would mean.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    sign, digits, suffix = found.groups()
    number = _plain_number(digits)
    if number is None:
        return None
    if suffix:
        factor = _factor(suffix, UNITS.get(unit, unit))
        if factor is None:
            return None
        number *= factor
    return -number if sign == "-" else number


def parse_int(value: Any, unit: str = "") -> int | None:
    """Like ``parse_real``, rounded to the nearest integer (``1.6`` is 2)."""
    number = parse_real(value, unit)
    if number is None or number != number or number in (float("inf"), float("-inf")):
        return None
    return round(number)


def _plain_number(digits: str) -> float | None:
    if digits[:2] in ("0x", "0X"):
        return int(digits, 16)
    if digits.isdecimal():
        if len(digits) > 1 and digits[0] == "0":
            return int(digits, 8) if not set(digits) & {"8", "9"} else None
        return int(digits)
    return float(digits)


def _factor(suffix: str, unit: str) -> float | None:
    for table in (_BYTES, _MICROSECONDS):
        if suffix in table and unit in table:
            return table[suffix] / table[unit]
    return None


def split_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """``host:port`` split at the last colon, brackets of IPv6 removed (config 18).

    Raises ValueError with a sentence for an operator when there is no port and no default, or the port is not one.
    """
    text = text.strip()
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    host = ",".join(part.strip().removeprefix("[").removesuffix("]") for part in host.split(","))
    if not port:
        if default_port is None:
            raise ValueError(f"wants host:port, has {text!r}")
        return host, default_port
    if not port.isdecimal() or not 0 < int(port) <= 65535:
        raise ValueError(f"wants host:port with a port from 1 to 65535, has {text!r}")
    return host, int(port)


def split_addresses(text: str) -> list[tuple[str, int]]:
    """Every ``host:port`` of ``restapi.listen``; an empty host is ``*`` (config 2.3). Raises ValueError as ``split_address``."""
    found = [split_address(word) for word in split_list(text)]
    if not found:
        raise ValueError(f"wants host:port, has {text!r}")
    every = [port for host, port in found if host in ("", "*")]
    for number, (host, port) in enumerate(found):
        if (host, port) in found[:number]:
            raise ValueError(f"names {host or '*'}:{port} twice")
        if port in every and host not in ("", "*"):
            raise ValueError(f"mixes * with other hosts of port {port}: {text!r}")
    return [("*" if host == "" else host, port) for host, port in found]


def split_list(text: str) -> list[str]:
    """The words of ``a, b,c``; empty ones are left out."""
    return [word.strip() for word in text.split(",") if word.strip()]


def nearest(word: str, known: Any) -> str | None:
    """The known name that ``word`` was probably meant to be."""
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), sorted(known), 1, 0.7)
    return found[0] if found else None
