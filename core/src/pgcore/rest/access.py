"""Who may use the unsafe verbs: address, client certificate, password, in this order (rest-api 11)."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgcore.clock import now
from pgcore.model.basics import Instant
from pgcore.rest.settings import RestSettings

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Patroni"'}
LOOK_UP_S = 60.0
"""A name of the allowlist that could not be looked up is tried again after so many seconds."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Denial:
    """Why not: status code, text, headers."""

    code: int
    text: str
    headers: Mapping[str, str]


class Access:
    """The check. An allowlist is read once; its names, and those of members, only when nothing else lets the caller in."""

    def __init__(self) -> None:
        self._allowlist = Allowlist(())

    def denial(self, settings: RestSettings, members: Iterable[str], client: str, *, verified: bool,
               authorization: str | None) -> Denial | None:
        """None when the client at this address may go on. ``members``: the hosts of all members, of every group."""
        if not self._address_allowed(settings, members, client):
            return Denial(403, "Access is denied", {})
        if settings.checks_clients and not verified:
            return Denial(403, "client certificate required", {})
        if settings.authenticates:
            return _password_denial(settings, authorization)
        if not settings.checks_clients and not settings.only_loopback:
            # Whoever can reach the port could stop the database. Patroni allows it, pgcore does not (principles, security).
            return Denial(403, "Access is denied: set restapi.authentication, or verify_client with TLS: "
                               "without either, unsafe requests are answered only where every address is loopback", {})
        return None

    def _address_allowed(self, settings: RestSettings, members: Iterable[str], client: str) -> bool:
        if not settings.allowlist and not settings.allowlist_include_members:
            return True
        if self._allowlist.entries != settings.allowlist:
            self._allowlist = Allowlist(settings.allowlist)
        address = ipaddress.ip_address(client.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return self._allowlist.lets_in(address) or (
            settings.allowlist_include_members and any(address in network for host in members for network in _networks_of(host)))


class Allowlist:
    """``restapi.allowlist``. A name that cannot be looked up now is tried again later: name services come up late."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self.entries = entries
        self._networks: frozenset[Network] = frozenset()
        self._names: tuple[str, ...] = ()
        self._try_again: Instant | None = None
        for entry in entries:
            try:
                self._networks |= {ipaddress.ip_network(entry, strict=False)}
            except ValueError:
                self._names += (entry,)

    def lets_in(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """The address is named, or belongs to what is named."""
        if any(address in network for network in self._networks):
            return True
        return self._look_up() and any(address in network for network in self._networks)

    def _look_up(self) -> bool:
        """Look up the names whose addresses are not known yet. True if any became known."""
        if not self._names or (self._try_again is not None and now() < self._try_again):
            return False
        found = {name: _networks_of(name) for name in self._names}
        unknown = tuple(name for name, networks in found.items() if not networks)
        if unknown and self._try_again is None:
            logger.error("restapi.allowlist: nothing is known of %s, which lets nobody in until it is; "
                         "write addresses (10.0.0.5), networks (10.0.0.0/24) or names that can be looked up", ", ".join(unknown))
        self._try_again = Instant(now() + LOOK_UP_S)
        self._networks, self._names = self._networks.union(*found.values()), unknown
        return len(unknown) < len(found)


def hosts_of(urls: Iterable[str | None]) -> set[str]:
    """The hosts of ``api_url``s; what is no URL is left out."""
    hosts = set()
    for url in urls:
        try:
            hosts.add(urlsplit(url or "").hostname or "")
        except ValueError:
            continue
    return hosts - {""}


def _networks_of(host: str) -> frozenset[Network]:
    try:
        return frozenset({ipaddress.ip_network(host)})
    except ValueError:
        pass
    try:
        return frozenset(ipaddress.ip_network(found[4][0]) for found in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return frozenset()


def _password_denial(settings: RestSettings, authorization: str | None) -> Denial | None:
    if not authorization or not authorization.startswith("Basic "):
        return Denial(401, "no auth header received", CHALLENGE)
    try:
        given = base64.b64decode(authorization.removeprefix("Basic "), validate=True)
    except (binascii.Error, ValueError):
        return Denial(401, "not authenticated", CHALLENGE)
    wanted = f"{settings.username}:{settings.password}".encode()
    return None if hmac.compare_digest(given, wanted) else Denial(401, "not authenticated", CHALLENGE)
