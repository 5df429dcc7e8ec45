"""The service a member registers with its Consul agent (dcs-layout 7): name, address, role tags and a check of the role."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pgcore.net.http import HttpUnavailableError
from pgcore.plugin import Deadline, Json, StoreRejectedError
from pgcore_dcs_consul.client import AgentError, Client, Gateway
from pgcore_dcs_consul.section import ConsulSection

log = logging.getLogger(__name__)
ROLES = {"primary": "primary", "replica": "replica", "standby_leader": "standby-leader"}
LONGEST_NAME = 230
DEREGISTER_AFTER_SESSIONS = 10
"""A service whose check fails for this many session TTLs is removed by Consul."""
BUDGET_S = 2.0
"""Time the agent is given for a registration in the middle of a heartbeat."""


class Service:
    """Keeps the registration in step with the member card. Failures are logged and made good at the next card."""

    def __init__(self, gateways: Sequence[Gateway], section: ConsulSection, scope: str, member: str, ttl: int) -> None:
        self._gateways, self._section, self.ttl = gateways, section, ttl
        self._name, self._id = service_name(scope), f"{scope}/{member}"
        self._registered: Json = None
        self._known = False
        self._interruptions = 0
        self._problem = ""
        if section.register_service and self._name != scope:
            log.info("the scope %s is registered in Consul as the service %s", scope, self._name)

    def follow(self, card: str, deadline: Deadline) -> None:
        """Register, register anew or deregister as the card says; nothing if it says the same as before."""
        wanted = self._registered
        if not self._section.register_service:
            wanted = None
        else:
            data = _fields(card)
            if data.get("state") == "stopped":
                wanted = None
            elif data.get("state") == "running" and data.get("role") in ROLES:
                wanted = self._registration(data)
            elif not self._known:
                return
        interruptions = sum(gateway.interruptions for gateway in self._gateways)
        # After an interruption the agent may have been replaced by one that knows nothing of it.
        if not self._known or wanted != self._registered or (wanted is not None and interruptions != self._interruptions):
            self._settle(wanted, interruptions, deadline)

    def leave(self, deadline: Deadline) -> None:
        """Deregister for good."""
        if self._registered is not None:
            self._settle(None, 0, deadline)

    def _settle(self, wanted: Json, interruptions: int, deadline: Deadline) -> None:
        def request(client: Client) -> Any:
            service = client.agent.service
            return service.deregister(self._id) if wanted is None else service.register(**wanted)

        try:
            self._gateways[0].once(request, deadline.within(BUDGET_S))
        except (HttpUnavailableError, AgentError, StoreRejectedError) as error:
            if not self._section.register_service:
                self._known = True  # tidying up after an earlier configuration: tried once
            elif str(error) != self._problem:
                log.warning("the service %s cannot be %s: %s", self._id, "registered" if wanted else "deregistered", error)
            self._problem, self._known = str(error), self._known and not self._section.register_service
            return
        self._registered, self._known, self._interruptions, self._problem = wanted, True, interruptions, ""

    def _registration(self, data: Json) -> Json:
        """The arguments of the registration; None if the card names no address."""
        role = ROLES[data["role"]]
        database, api = urlsplit(str(data.get("conn_url") or "")), urlsplit(str(data.get("api_url") or ""))
        if not database.hostname:
            return None
        check = {"HTTP": f"{api.scheme}://{api.netloc}/{role}", "Interval": self._section.service_check_interval,
                 "DeregisterCriticalServiceAfter": f"{self.ttl / 2 * DEREGISTER_AFTER_SESSIONS}s"}
        if self._section.service_check_tls_server_name:
            check["TLSServerName"] = self._section.service_check_tls_server_name
        tags = [*sorted(self._section.service_tags), role, *(["master"] if role == "primary" else [])]
        return {"name": self._name, "service_id": self._id, "address": database.hostname, "port": database.port or 5432,
                "tags": tags, "check": check, "enable_tag_override": True}


def service_name(scope: str) -> str:
    """The scope as a name that DNS takes."""
    plain = "".join("-" if letter in "._ " else letter if letter in "abcdefghijklmnopqrstuvwxyz0123456789-"
                    else f"u{ord(letter):04d}" for letter in scope.lower())
    return plain[:LONGEST_NAME]


def _fields(card: str) -> dict[str, Json]:
    try:
        data = json.loads(card)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
