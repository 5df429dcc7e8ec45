"""``POST /failsafe``: a primary that lost the store asks to be kept as the leader (rest-api 9).

Answered by the worker that read it, without the framework of the second door, the store, PostgreSQL or the heartbeat: all of them
may be slow at that very moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from pgcore.model.basics import Json
from pgcore.model.failsafe import FailsafeVerdict
from pgcore.rest import body
from pgcore.rest.access import Access
from pgcore.rest.answer import Answer, error_page
from pgcore.rest.routes import first_segment
from pgcore.rest.settings import RestSettings

BINDING = {"X-Pgcore-Failsafe": "binding"}
"""Header of an acceptance that counts towards ``failsafe_quorum``."""
FIELDS = ("name", "conn_url", "api_url")


class Receiver(Protocol):
    """The daemon's side; every method returns in constant time."""

    def accept(self, request: Mapping[str, Json]) -> FailsafeVerdict:
        """Keep the caller as the leader, or say why not."""

    def promise(self) -> None:
        """The answer that follows may be counted as a vote."""

    def vouching(self) -> tuple[str | None, bool]:
        """The primary that was accepted, and whether that may have been forgotten."""

    def binding(self) -> bool:
        """Whether what is accepted now counts towards ``failsafe_quorum``."""


class Nobody:
    """What stands behind an agent without failsafe mode."""

    def accept(self, request: Mapping[str, Json]) -> FailsafeVerdict:
        """Nobody is accepted."""
        return FailsafeVerdict(502, "failsafe_mode is off")

    def promise(self) -> None:
        """There is nothing to promise."""

    def vouching(self) -> tuple[str | None, bool]:
        """Nobody was accepted."""
        return None, False

    def binding(self) -> bool:
        """Nothing is accepted."""
        return False


class FailsafeDoor:
    """The checks of every unsafe request, then the question to the daemon."""

    def __init__(self, receiver: Receiver, settings: Callable[[], RestSettings]) -> None:
        self._receiver = receiver
        self._settings = settings
        self._access = Access()

    def knows(self, method: str, target: str) -> bool:
        """This request is for here."""
        return method == "POST" and first_segment(target.partition("?")[0]) == "failsafe"

    def votes(self, method: str, target: str) -> bool:
        """This is a poll whose answer counts as a vote (``/patroni?fresh=1&race=1``)."""
        path, _, query = target.partition("?")
        return method == "GET" and path == "/patroni" and "race=1" in query.split("&")

    def promise(self, environment: Mapping[str, Any], *, verified: bool) -> Answer | None:
        """Before a vote is given: a refusal for whoever may not ask, as a promise can end a primary; None: give it."""
        denial = self._denied(environment, verified=verified)
        if denial is None:
            self._receiver.promise()
        return denial

    def _denied(self, environment: Mapping[str, Any], *, verified: bool) -> Answer | None:
        settings = replace(self._settings(), allowlist_include_members=False)
        denial = self._access.denial(
            settings, (), environment["REMOTE_ADDR"], verified=verified, authorization=environment.get("HTTP_AUTHORIZATION")
        )
        return None if denial is None else Answer(denial.code, denial.text, headers=denial.headers)

    def answer(self, environment: Mapping[str, Any], *, verified: bool) -> Answer:
        """The answer to a request in the form of a WSGI environment.

        Members are not let in by ``allowlist_include_members``: their list may be as far away as the store (EC 35). The option is
        ignored here, so with an empty ``allowlist`` every address may ask.
        """
        denial = self._denied(environment, verified=verified)
        if denial is not None:
            return denial
        if not environment.get("CONTENT_LENGTH"):
            return error_page(411, "a Content-Length is needed")
        try:
            document = body.read(environment["wsgi.input"].read(int(environment["CONTENT_LENGTH"])))
        except ValueError as error:
            return error_page(400, str(error))
        if not isinstance(document, dict) or any(not isinstance(document.get(name), str) for name in FIELDS):
            return error_page(400, f"the body must be a JSON object with {', '.join(FIELDS)}")
        verdict = self._receiver.accept(document)
        if verdict.code == 502:
            return error_page(502, verdict.text)
        headers = {} if verdict.lsn is None else {"lsn": str(int(verdict.lsn))}
        return Answer(verdict.code, verdict.text, headers=headers | (BINDING if verdict.binding else {}))
