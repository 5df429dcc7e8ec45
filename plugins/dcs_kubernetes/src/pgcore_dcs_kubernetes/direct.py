"""The API servers themselves, in place of the Service in front of them (``bypass_api_service``): one way fewer that can fail.

Their addresses stand in the Endpoints ``kubernetes`` of the namespace ``default``. The Service stays the last resort.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from pgcore.net.http import Endpoints
from pgcore.plugin import Deadline, Instant, Json, StoreRejectedError, now
from pgcore_dcs_kubernetes.client import ENDPOINTS, ConflictError, DeniedError, Gateway, NotFoundError, TroubleError

log = logging.getLogger(__name__)
SHARE = 4
"""A fourth of the time left is spent on finding the servers; with those known so far all goes on."""


class Direct:
    """Keeps ``servers``, which the threads of a store share, up to date."""

    def __init__(self, gateway: Gateway, servers: Endpoints, every_s: float) -> None:
        self._gateway, self._servers, self._every_s = gateway, servers, every_s
        self._service = servers.urls[0]
        self._next = Instant(0.0)
        self._allowed = not urlsplit(self._service).path.strip("/")

    def refresh(self, deadline: Deadline) -> None:
        """Ask for the servers if that is due. Never raises."""
        if not self._allowed or now() < self._next or deadline.expired:
            return
        self._next = Instant(now() + self._every_s)
        try:
            found = self._gateway.once("GET", ENDPOINTS.path("default", "kubernetes"), deadline.within(deadline.left() / SHARE))
        except DeniedError as error:
            self._allowed, self._servers.urls = False, (self._service,)
            log.warning("kubernetes.bypass_api_service has no effect: %s", error)
        except (TroubleError, NotFoundError, ConflictError, StoreRejectedError) as error:
            log.debug("the API servers are not known anew: %s", error)
        else:
            urls = _urls(found)
            if urls and {*urls, self._service} != set(self._servers.urls):
                self._servers.urls = (*urls, self._service)


def _urls(found: Json) -> list[str]:
    urls = []
    for subset in found.get("subsets") or ():
        port = next((entry["port"] for entry in subset.get("ports") or () if entry.get("name") in (None, "https")), None)
        for address in subset.get("addresses") or () if port else ():
            host = f"[{address['ip']}]" if ":" in address["ip"] else address["ip"]
            urls.append(f"https://{host}:{port}")
    return urls
