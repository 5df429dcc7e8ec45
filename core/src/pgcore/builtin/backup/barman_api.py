"""Barman through its HTTP service (pg-backup-api): operations that are begun, and asked about until they have ended."""

from __future__ import annotations

import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

logger = logging.getLogger(__name__)

REQUEST_S = 30.0
UNDER_WAY = "IN_PROGRESS"


class ApiError(Exception):
    """The service could not be reached, or answered what is no answer."""


@dataclass(frozen=True, slots=True)
class BarmanApi:
    """The service at ``url``. A request without an answer is repeated ``max_retries`` times, ``retry_wait`` seconds apart.

    A refusal (4xx) is not repeated: it would be refused again.
    """

    url: str
    cert_file: str | None = None
    key_file: str | None = None
    retry_wait: float = 2.0
    max_retries: int = 5

    def check(self) -> None:
        """Raises ApiError unless the service is up."""
        told = self._ask("GET", "/status")
        if told != "OK":
            raise ApiError(f"{self.url} is up but not well: {told!r}")

    def begin(self, server: str, operation: dict[str, Any]) -> str:
        """Begin an operation of a server and return its id. Raises ApiError."""
        told = self._ask("POST", f"/servers/{quote(server, safe='')}/operations", operation)
        if not isinstance(told, dict) or not isinstance(told.get("operation_id"), str):
            raise ApiError(f"{self.url} began something without saying what: {told!r}")
        return str(told["operation_id"])

    def wait(self, server: str, operation: str, pause_s: float) -> str:
        """The status of the operation once it has ended, such as DONE or FAILED. Raises ApiError."""
        path = f"/servers/{quote(server, safe='')}/operations/{quote(operation, safe='')}"
        while True:
            told = self._ask("GET", path)
            status = told.get("status") if isinstance(told, dict) else None
            if not isinstance(status, str):
                raise ApiError(f"{self.url} does not say what became of {operation}: {told!r}")
            if status != UNDER_WAY:
                return status
            logger.info("%s is under way", operation)
            time.sleep(pause_s)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, {"Content-Type": "application/json"}, method=method)
        for attempt in range(self.max_retries + 1):
            try:
                with urllib.request.urlopen(request, timeout=REQUEST_S, context=self._context()) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                problem = f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:500].strip()}"
                if error.code < 500:
                    raise ApiError(problem) from error
            except (OSError, ValueError) as error:
                problem = f"{method} {path}: {error}"
            logger.warning("%s (attempt %d of %d)", problem, attempt + 1, self.max_retries + 1)
            if attempt < self.max_retries:
                time.sleep(self.retry_wait)
        raise ApiError(f"{self.url}: {problem}")

    def _context(self) -> ssl.SSLContext | None:
        if not self.url.startswith("https:"):
            return None
        context = ssl.create_default_context()
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context
