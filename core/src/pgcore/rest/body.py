"""The JSON of a request: taken only if it can be written down as JSON again, as it may go into the store and into files."""

from __future__ import annotations

import json
from math import isfinite

from pgcore.model.basics import Json

MAX_DEPTH = 64
"""Deeper documents mean nothing here, and could not be walked through by whoever has to read them."""


def read(text: bytes) -> Json:
    """The document. Raises ValueError with a sentence for who sent it."""
    try:
        document = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"the body is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ValueError("the body is not JSON") from error
    _check_depth(document)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("the body holds half a character (a lone surrogate)") from error
    return document


def _check_depth(document: Json) -> None:
    level: list[Json] = [document]
    for _ in range(MAX_DEPTH):
        level = [item for each in level if isinstance(each, dict | list)
                 for item in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    raise ValueError(f"the body is nested deeper than {MAX_DEPTH} levels")


def _no_number(word: str) -> Json:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if isfinite(number) else _no_number(digits)
