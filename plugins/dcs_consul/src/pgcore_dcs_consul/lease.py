"""The session of a member: Consul ends it after twice its TTL without renewal, so it is given half of ttl (dcs-layout 7)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from consul import NotFound, base

from pgcore.plugin import Deadline, Instant, Renewal, StoreRejectedError, StoreUnavailableError, now
from pgcore_dcs_consul.client import Client, Gateway, SessionLostError, TtlRefusedError

T = TypeVar("T", bool, Renewal)
log = logging.getLogger(__name__)
TRIES = 3
LOCK_DELAY_S = 0.001
"""How long a key rests after its session ended. 0 would mean Consul's default of 15 s."""
LONGEST_TTL_S = 86400


class Lease:
    """The one session a member owns. Nothing renews it but the calls below."""

    def __init__(self, gateway: Gateway, name: str, checks: Sequence[str], ttl: int) -> None:
        self._gateway, self._name, self._checks, self.ttl = gateway, name, list(checks), ttl
        self._session: str | None = None
        self._session_ttl = 0
        self._extended_at: Instant | None = None
        self._floor: str | None = None

    def _keep(self, deadline: Deadline) -> str:
        """Extend the session, or make a new one if there is none, it has ended, or ttl changed."""
        session = self._session
        if session is not None and self._session_ttl == self.ttl:
            try:
                self._gateway.call("renewing the session", lambda client: client.session.renew(session), deadline)
                self._extended_at = now()
                return session
            except NotFound:
                pass
        self._session = None
        made, _ = self._gateway.call("a new session", self._create, deadline)
        self._session, self._session_ttl, self._extended_at = made, self.ttl, now()
        return made

    def _create(self, client: Client) -> str:
        wanted = self.ttl / 2
        if wanted > LONGEST_TTL_S:
            raise StoreRejectedError(f"Consul keeps no lock for ttl {self.ttl}; set at most {2 * LONGEST_TTL_S} s")
        try:
            return self._created(client, f"{wanted}s")
        except TtlRefusedError as error:
            found = re.search(r"between \[(\w+)=", str(error))
            if found is None:
                raise StoreRejectedError(f"Consul refuses a session of {wanted:g} s: {error}") from error
            floor = found[1]
        if floor != self._floor:
            self._floor = floor
            log.warning("Consul's session_ttl_min is %s, longer than half of ttl %s: the lock of a dead leader ends only after "
                        "twice that; lower session_ttl_min or raise ttl", floor, self.ttl)
        return self._created(client, floor)

    def _created(self, client: Client, ttl: str) -> str:
        # The library's own verb insists on 10 s, whatever the agent allows.
        body = {"name": self._name, "ttl": ttl, "behavior": "delete", "lockdelay": f"{LOCK_DELAY_S}s", "checks": self._checks}
        params = [("dc", client.dc)] if client.dc else []
        session: str = client.http.put(base.CB.json(is_id=True), "/v1/session/create", params, json.dumps(body))
        return session

    def holds(self, session: str | None) -> bool:
        """Whether this is the session."""
        return session is not None and session == self._session

    def under(self, attempt: Callable[[str], T | None], deadline: Deadline, *, extend: bool = True) -> T:
        """Do something under the extended session; again under a new one if it ends meanwhile (SessionLostError or None).

        Without ``extend`` a session extended just before is good enough.
        """
        for _ in range(TRIES):
            try:
                session = None if extend else self._just_extended()
                extend = True
                result = attempt(session or self._keep(deadline))
                if result is not None:
                    return result
            except SessionLostError:
                self._session = None
        raise StoreUnavailableError(f"the session {self._name} ended {TRIES} times while it was used")

    def _just_extended(self) -> str | None:
        recently = (self._session_ttl == self.ttl and self._extended_at is not None
                    and now() - self._extended_at < min(1.0, self.ttl / 10))
        return self._session if recently else None
