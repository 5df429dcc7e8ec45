"""An HTTP answer as a value, and its bytes in the three shapes callers know: bare, normal, error page (rest-api 1)."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from pgcore.clock import wall
from pgcore.model.basics import Json

_encoder = json.JSONEncoder(default=str)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and body. ``body`` None is the bare shape; ``page`` the error page, whose ``body`` is the explanation."""

    code: int
    body: str | None = None
    content_type: str = "text/html"
    headers: Mapping[str, str] = field(default_factory=dict)
    page: bool = False


def bare(code: int) -> Answer:
    """Status line only: what ``HEAD``, ``OPTIONS`` and probes get."""
    return Answer(code)


def json_answer(code: int, document: Json, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON document."""
    return json_body(code, json_text(document), headers)


def json_body(code: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON document that is encoded already."""
    return Answer(code, text, "application/json", headers or {})


def json_text(document: Json) -> str:
    """As Patroni encodes it: ASCII, default separators; times as text with a blank."""
    return _encoder.encode(document)


def error_page(code: int, explanation: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    """An error page; only its code is contractual, its text is for people."""
    return Answer(code, explanation, headers=headers or {}, page=True)


def encode(answer: Answer, server: str, extra_headers: Mapping[str, str]) -> bytes:
    """The whole response, HTTP/1.0. Extra headers go into normal answers only (rest-api 1)."""
    if answer.body is None:
        return _bare(answer.code)
    phrase = _phrase(answer.code)
    headers = {"Server": server, "Date": _date(int(wall())), **answer.headers}
    body = answer.body
    if answer.page:
        title = f"<html><head><title>{answer.code} {phrase}</title></head>"
        body = f"{title}<body><h1>{phrase}</h1><p>{html.escape(body)}</p></body></html>\n"
        headers |= {"Connection": "close", "Content-Type": "text/html;charset=utf-8", "Content-Length": str(len(body.encode()))}
    else:
        headers |= {"Content-Type": answer.content_type, **extra_headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.0 {answer.code} {phrase}\r\n{head}\r\n".encode("latin-1", "replace") + body.encode("utf-8")


@lru_cache(maxsize=64)
def _bare(code: int) -> bytes:
    return f"HTTP/1.0 {code} {_phrase(code)}\r\n\r\n".encode("ascii")


@lru_cache(maxsize=64)
def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
