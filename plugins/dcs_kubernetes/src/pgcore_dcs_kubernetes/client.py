"""Requests to the API server: the library's client builds and signs them, ours sends them, as the library's knows no deadline.

Bodies and answers are plain dictionaries; none of the library's models is used.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from kubernetes.client import ApiClient, Configuration

from pgcore.net.http import Connector, Endpoints, HttpClient, HttpUnavailableError, LineStream, Response
from pgcore.plugin import Deadline, Json, StoreRejectedError, StoreUnavailableError
from pgcore_dcs_kubernetes.access import Access

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
PATCH_TYPE = "application/merge-patch+json"
"""Not Kubernetes' own strategic kind: where an object has no annotations, that turns the removal of one into an empty text."""
JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "deletecollection"}
_DENIED = re.compile(r"cannot (\w+) resource")


class NotFoundError(Exception):
    """There is no such object. ``repeated``: an earlier attempt got no clear answer and may have been carried out."""

    repeated = False


class ConflictError(Exception):
    """The object is not, or is no longer, what the request relied on. ``repeated`` as above."""

    repeated = False


class TroubleError(Exception):
    """The API server could not do it, this time. ``wait_s``: how long it asks for patience."""

    def __init__(self, text: str, *, sent: bool, wait_s: float = 0.0) -> None:
        self.sent, self.wait_s = sent, wait_s
        super().__init__(text)


class DeniedError(Exception):
    """The API server knows us but does not allow this, or does not know us (401)."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object in one namespace."""

    plural: str
    kind: str
    group: str = ""
    """API group and version; empty for the core's v1."""

    @property
    def version(self) -> str:
        """``apiVersion`` of its objects."""
        return self.group or "v1"

    def path(self, namespace: str, name: str = "") -> str:
        """Where the objects, or one of them, are."""
        root = f"/apis/{self.group}" if self.group else "/api/v1"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


CONFIGMAPS, ENDPOINTS = Resource("configmaps", "ConfigMap"), Resource("endpoints", "Endpoints")
LEASES = Resource("leases", "Lease", "coordination.k8s.io/v1")
PODS, SERVICES = Resource("pods", "Pod"), Resource("services", "Service")


class Client(ApiClient):
    """The library's client with another way of sending. Requests end at ``deadline``, set before each."""

    def __init__(self, configuration: Configuration, http: HttpClient) -> None:
        super().__init__(configuration)
        self._http = http
        self.deadline = Deadline.after(0)

    def request(self, method: str, url: str, query_params: Iterable[tuple[str, str]] | None = None,
                headers: Mapping[str, str] | None = None, post_params: object = None, body: Json = None,
                **_: object) -> Response:
        """Send one request. Raises HttpUnavailableError."""
        target = urlsplit(url).path + (f"?{urlencode(list(query_params))}" if query_params else "")
        return self._http.request(method, target, None if body is None else json.dumps(body).encode(), headers=headers,
                                  deadline=self.deadline, idempotent=method == "GET")


class Gateway:
    """One thread's access to the API. ``close`` may come from any thread."""

    def __init__(self, access: Access, connector: Connector, endpoints: Endpoints, retriable: frozenset[int],
                 namespace: str) -> None:
        self.closing = threading.Event()
        self.namespace = namespace
        self._access, self._connector, self._endpoints, self._retriable = access, connector, endpoints, retriable
        self._http = HttpClient(endpoints, connector)
        self._client = Client(access.configuration, self._http)

    def once(self, method: str, path: str, deadline: Deadline, *, query: Mapping[str, str] | None = None, body: Json = None,
             accept: str = JSON) -> dict[str, Json]:
        """One request and its answer. Raises NotFoundError, ConflictError, TroubleError, DeniedError or StoreRejectedError."""
        self._client.deadline = deadline
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = PATCH_TYPE if method == "PATCH" else JSON
        try:
            self._access.authorize(headers, deadline)
            answer: Response = self._client.call_api(path, method, query_params=list((query or {}).items()),
                                                     header_params=headers, body=body, _preload_content=False)
        except TimeoutError as error:
            raise TroubleError(str(error), sent=False) from error
        except HttpUnavailableError as error:
            raise TroubleError(str(error), sent=error.sent) from error
        return self._judged(method, path, answer.status, answer.headers, answer.body)

    def _judged(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Json]:
        try:
            found = json.loads(body)
            if not isinstance(found, dict):
                raise ValueError("no object")
        except ValueError:
            found = {"message": body.decode(errors="replace")[:300]}
            if status < 300:
                raise TroubleError(f"this is no answer of Kubernetes: {found['message']}", sent=True) from None
        if status < 300:
            return found
        text = f"{method} {path}: {status} {str(found.get('message') or '').strip()[:500]}"
        if status in self._retriable or "retry-after" in headers:
            wait = headers.get("retry-after", "")
            raise TroubleError(text, sent=status != 429, wait_s=float(wait) if wait.isdigit() else 0.0)
        if status == 404:
            raise NotFoundError(text)
        if status == 409:
            raise ConflictError(text)
        if status == 401:
            raise DeniedError(f"Kubernetes does not know us: the login by {self._access.source} was refused ({text})")
        if status == 403:
            raise DeniedError(self._missing_right(method, path, str(found.get("message") or ""), text))
        raise StoreRejectedError(f"Kubernetes refused {text}")

    def _missing_right(self, method: str, path: str, message: str, text: str) -> str:
        """Which right the role lacks; other refusals (a quota, an admission rule) speak for themselves."""
        denied = _DENIED.search(message)
        if denied is None:
            return f"Kubernetes refused {text}"
        namespaced = path.partition("/namespaces/")[2].split("/")
        resource = namespaced[1] if len(namespaced) > 1 else path
        group = path.split("/")[2] if path.startswith("/apis/") else ""
        verb = denied[1] or _VERBS.get(method, "get")
        return (f"the RBAC role of this member lacks the right `{verb}` on `{resource}`"
                + (f" of the API group `{group}`" if group else "") + f" in namespace `{namespaced[0]}` (Kubernetes: {message})")

    def call(self, what: str, method: str, path: str, deadline: Deadline, *, patient: bool = False,
             **request: Any) -> tuple[dict[str, Json], bool]:
        """Ask until there is a clear answer; also whether an earlier attempt may have been carried out.

        Raises StoreUnavailableError at the deadline, StoreRejectedError when repeating cannot help, NotFoundError and
        ConflictError (with ``repeated``). A refused login is tried again once, with a token read anew; ``patient`` takes
        refusals, too, for trouble until the deadline: an authorizer that is away says no to everything.
        """
        pause_s, repeated, refused = FIRST_PAUSE_S, False, 0
        while True:
            wait_s = 0.0
            try:
                return self.once(method, path, deadline, **request), repeated
            except (NotFoundError, ConflictError) as error:
                error.repeated = repeated
                raise
            except DeniedError as error:
                refused += 1
                if (not patient and refused > 1) or deadline.expired:
                    raise StoreRejectedError(str(error)) from error
                problem: Exception = error
            except TroubleError as error:
                repeated = repeated or error.sent
                problem, wait_s = error, error.wait_s
            self.closing.wait(min(max(pause_s, wait_s), deadline.left()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if deadline.expired or self.closing.is_set():
                if isinstance(problem, DeniedError):
                    raise StoreRejectedError(str(problem)) from problem
                raise StoreUnavailableError(f"Kubernetes gave no answer to {what} in time: {problem}") from problem

    def stream(self, path: str, query: Mapping[str, str], deadline: Deadline) -> LineStream:
        """An answer without end. Raises OSError, http.client.HTTPException."""
        url = self._endpoints.urls[0]
        headers = {"Accept": JSON}
        self._access.authorize(headers, deadline)
        try:
            return LineStream(self._connector, url, "GET", f"{urlsplit(url).path}{path}?{urlencode(query)}", b"", headers=headers,
                              deadline=deadline)
        except OSError:
            self._endpoints.avoid(url)
            raise

    def close(self) -> None:
        """End a request under way and release the connection."""
        self.closing.set()
        self._http.close()
