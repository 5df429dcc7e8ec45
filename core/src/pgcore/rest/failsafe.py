"""``POST /failsafe``: a primary that lost the store asks to be kept as the leader (rest-api 9).

Answered by the worker that read it, without the framework of the second door, the store, PostgreSQL or the heartbeat: all of them
may be slow at that very moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pgcore.model.basics import Json
from pgcore.model.failsafe import FailsafeVerdict
from pgcore.rest.access import Access
from pgcore.rest.answer import Answer, error_page
from pgcore.rest.settings import RestSettings

Accept = Callable[[Mapping[str, Json]], FailsafeVerdict]
"""Keep the caller as the leader, or say why not; in constant time."""
FIELDS = ("name", "conn_url", "api_url")


def nobody(request: Mapping[str, Json]) -> FailsafeVerdict:
    """What an agent without failsafe mode answers."""
    return FailsafeVerdict(502, "failsafe_mode is off")


class FailsafeDoor:
    """The checks of every unsafe request, then the question to the daemon."""

    def __init__(self, accept: Accept, settings: Callable[[], RestSettings]) -> None:
        self._accept = accept
        self._settings = settings
        self._access = Access()

    def knows(self, method: str, target: str) -> bool:
        """This request is for here."""
        return method == "POST" and target.partition("?")[0] == "/failsafe"

    def answer(self, environment: Mapping[str, Any], *, verified: bool) -> Answer:
        """The answer to a request in the form of a WSGI environment.

        Members are not let in by ``allowlist_include_members``: their list may be as far away as the store (EC 35). The option is
        ignored here, so with an empty ``allowlist`` every address may ask.
        """
        settings = replace(self._settings(), allowlist_include_members=False)
        denial = self._access.denial(
            settings, None, environment["REMOTE_ADDR"], verified=verified, authorization=environment.get("HTTP_AUTHORIZATION")
        )
        if denial is not None:
            return Answer(denial.code, denial.text, headers=denial.headers)
        if not environment.get("CONTENT_LENGTH"):
            return error_page(411, "a Content-Length is needed")
        try:
            document = json.loads(environment["wsgi.input"].read(int(environment["CONTENT_LENGTH"])))
        except (ValueError, RecursionError):
            return error_page(400, "the body is not JSON")
        if not isinstance(document, dict) or any(not isinstance(document.get(name), str) for name in FIELDS):
            return error_page(400, f"the body must be a JSON object with {', '.join(FIELDS)}")
        verdict = self._accept(document)
        if verdict.code == 502:
            return error_page(502, verdict.text)
        return Answer(verdict.code, verdict.text, headers={} if verdict.lsn is None else {"lsn": str(int(verdict.lsn))})
