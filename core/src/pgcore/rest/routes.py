"""Which request goes where: one table for the doors and for ``/openapi.json``, and the endpoints of plugins (rest-api 2, 15)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgcore.errors import PluginError
from pgcore.registry import OwnedRoute

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PROBES = ("liveness", "readiness")
DOCUMENTS = ("cluster", "config", "failsafe", "history", "metrics", "openapi.json", "patroni")
"""With ``PROBES`` the first segments for which the first door has a GET handler; every other GET is a health check."""
UNSAFE = {
    "citus": ("POST",),
    "config": ("PATCH", "PUT"),
    "failover": ("POST",),
    "failsafe": ("POST",),
    "mpp": ("POST",),
    "reinitialize": ("POST",),
    "reload": ("POST",),
    "restart": ("POST", "DELETE"),
    "sigterm": ("POST",),
    "switchover": ("POST", "DELETE"),
}
REPORT = "mpp"
"""Where members of other groups report, as at ``citus`` and at the word of the handler (rest-api 10)."""
CHECK_WORDS = ("standby_leader", "standby-leader", "leader", "master", "primary", "read-write", "replica", "read-only", "health")
"""A GET path that contains one of these is a health check (rest-api 3.1)."""
CHECK_PATHS = ("/", "/sync", "/synchronous", "/quorum", "/async", "/asynchronous", "/read-only-sync", "/read-only-synchronous",
               "/read-only-quorum")
RESERVED = frozenset((*PROBES, *DOCUMENTS, *UNSAFE))
"""First segments that no plugin gets."""

OTHER_PATH = "the plugin has to choose another path"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PATH = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+")


class Routes:
    """What this agent answers beyond health checks: the table, the word ``reports`` of a handler for several groups, and plugins.

    Raises PluginError for a route that could not be told from another one.
    """

    def __init__(self, owned: Iterable[OwnedRoute] = (), reports: str = "") -> None:
        self.unsafe = UNSAFE | ({reports: ("POST",)} if reports else {})
        self.plugins: dict[tuple[str, str], OwnedRoute] = {}
        for each in owned:
            self._add(each, reports)

    def plugin(self, method: str, path: str) -> OwnedRoute | None:
        """The endpoint of a plugin for this path without its query."""
        return self.plugins.get((method, path))

    def is_unsafe(self, method: str, path: str) -> bool:
        """A built-in handler changes something on this request."""
        return method in self.unsafe.get(first_segment(path), ())

    def _add(self, each: OwnedRoute, reports: str) -> None:
        method, path = each.route.method, each.route.path
        named = f"pgcore_rest_routes brings {method} {path}"
        if method not in _METHODS:
            raise PluginError(each.plugin, f"{named}: not one of the methods {', '.join(_METHODS)}")
        if not _PATH.fullmatch(path):
            raise PluginError(each.plugin, f"{named}: no path like /backups/last, of letters, digits, dots, - and _")
        if method != "GET" and not each.route.unsafe:
            raise PluginError(each.plugin, f"{named} with unsafe=False: only a GET may be open to everybody")
        if first_segment(path) in RESERVED | {reports}:
            raise PluginError(each.plugin, f"{named}, but /{first_segment(path)} is an endpoint of pgcore", OTHER_PATH)
        if method == "GET" and (path in CHECK_PATHS or any(word in path for word in CHECK_WORDS)):
            raise PluginError(each.plugin, f"{named}, but a GET of that path is a health check", OTHER_PATH)
        other = self.plugins.setdefault((method, path), each)
        if other is not each:
            raise PluginError(each.plugin, f"{named}, which plugin {other.plugin} brings too",
                              f"block one of them: plugins: {{block: [{each.plugin}]}}")


def first_segment(path: str) -> str:
    """``config`` of ``/config/x``; empty for what is no path."""
    return path.split("/", 2)[1] if path.startswith("/") else ""
