"""Who may use the unsafe verbs: address, client certificate, password, in this order (rest-api 11)."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgcore.model.cluster import ClusterView
from pgcore.rest.settings import RestSettings

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Patroni"'}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Denial:
    """Why not: status code, text, headers."""

    code: int
    text: str
    headers: Mapping[str, str]


def resolve(entries: Iterable[str]) -> frozenset[Network]:
    """Addresses, networks and host names as networks; names are looked up now, what cannot be read is left out."""
    networks: set[Network] = set()
    for entry in entries:
        try:
            networks.add(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            try:
                networks |= {ipaddress.ip_network(found[4][0]) for found in socket.getaddrinfo(entry, None)}
            except (OSError, UnicodeError):
                continue
    return frozenset(networks)


class Access:
    """The check, with host names of the allowlist resolved once per configuration, those of members once per request."""

    def __init__(self) -> None:
        self._resolved: tuple[tuple[str, ...], frozenset[Network]] = ((), frozenset())

    def denial(self, settings: RestSettings, view: ClusterView | None, client: str, *, verified: bool,
               authorization: str | None) -> Denial | None:
        """None when the client at this address may go on."""
        if not self._address_allowed(settings, view, client):
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

    def _address_allowed(self, settings: RestSettings, view: ClusterView | None, client: str) -> bool:
        if not settings.allowlist and not settings.allowlist_include_members:
            return True
        if self._resolved[0] != settings.allowlist:
            self._resolved = (settings.allowlist, resolve(settings.allowlist))
        networks = self._resolved[1]
        if settings.allowlist_include_members and view is not None:
            networks |= resolve(_member_hosts(view))
        address = ipaddress.ip_address(client.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in networks)


def _member_hosts(view: ClusterView) -> set[str]:
    hosts = set()
    for member in view.members:
        try:
            hosts.add(urlsplit(member.api_url or "").hostname or "")
        except ValueError:
            continue
    return hosts - {""}


def _password_denial(settings: RestSettings, authorization: str | None) -> Denial | None:
    if not authorization or not authorization.startswith("Basic "):
        return Denial(401, "no auth header received", CHALLENGE)
    try:
        given = base64.b64decode(authorization.removeprefix("Basic "), validate=True)
    except (binascii.Error, ValueError):
        return Denial(401, "not authenticated", CHALLENGE)
    wanted = f"{settings.username}:{settings.password}".encode()
    return None if hmac.compare_digest(given, wanted) else Denial(401, "not authenticated", CHALLENGE)
