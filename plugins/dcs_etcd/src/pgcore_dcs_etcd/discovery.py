"""Where etcd is: the configured servers, those SRV records name (config 3.1: ``srv``), and the members etcd itself lists."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

from pgcore.net.http import Connector, Endpoints, HttpClient, HttpUnavailableError, TlsFiles
from pgcore.plugin import ConfigError, Deadline, Instant, StoreUnavailableError, now
from pgcore_dcs_etcd.section import EtcdSection, Place

SERVICES = (("etcd-client-ssl", "https"), ("etcd-client", "http"), ("etcd-ssl", "https"), ("etcd", "http"),
            ("etcd-server-ssl", "https"), ("etcd-server", "http"))
"""SRV services in the order they are asked, with the scheme each stands for; the last two name peers, not clients."""
SRV_RETRY_S = 30.0


def connector(section: EtcdSection, where: Place) -> Connector:
    """What opens the connections of a store. Raises ConfigError if a TLS file cannot be used."""
    made = Connector(TlsFiles(section.cacert, section.cert, section.key))
    if section.cacert or section.cert or where.protocol == "https":
        try:
            made.check()
        except OSError as error:
            files = ", ".join(f"{key} {path}" for key, path in (("cacert", section.cacert), ("cert", section.cert),
                                                                ("key", section.key)) if path)
            raise ConfigError(where.name, f"the TLS files cannot be used: {error}", f"check {files}") from error
    return made


class Locator:
    """Keeps the list of servers for the verbs and the watch of one store."""

    def __init__(self, where: Place, connector: Connector) -> None:
        self.where, self.connector = where, connector
        self.endpoints = Endpoints(where.urls)
        self._found = where.urls
        self._looked_up_at: Instant | None = None
        self._refreshed_at: Instant | None = None

    def ensure(self, deadline: Deadline) -> None:
        """There is a server to ask. Raises StoreUnavailableError if SRV discovery finds none."""
        if not self.endpoints.urls:
            self._look_up(deadline)

    def lost(self) -> None:
        """No server answered: with ``srv`` the name service is asked again at the next call, but not too often."""
        if self.where.srv and self._looked_up_at is not None and now() - self._looked_up_at > SRV_RETRY_S:
            self.endpoints.urls = ()

    def _look_up(self, deadline: Deadline) -> None:
        self._looked_up_at = now()
        try:
            self._found = _discover(self.where, self.connector, deadline)
        except StoreUnavailableError:
            if not self._found:
                raise
        self.endpoints.urls = self._found

    def due(self, interval_s: float) -> bool:
        """Whether etcd should be asked for its members; true once in ``interval_s``, never with ``use_proxies`` or ``proxy``."""
        if self.where.fixed or (self._refreshed_at is not None and now() - self._refreshed_at < interval_s):
            return False
        self._refreshed_at = now()
        return True

    def learn(self, client_urls: Iterable[str]) -> None:
        """Use the members etcd lists, the present server first; those configured stay as the last resort."""
        current = self.endpoints.urls
        scheme = current[0].partition(":")[0] if current else self.where.protocol
        members = [url.rstrip("/") for url in client_urls if url.startswith(scheme + "://")]
        if members:
            random.shuffle(members)
            self.endpoints.urls = tuple(dict.fromkeys([*current[:1], *members, *self._found]))


def _discover(where: Place, connector: Connector, deadline: Deadline) -> tuple[str, ...]:
    """The servers the name service lists. Raises StoreUnavailableError if it lists none."""
    for service, scheme in SERVICES:
        if deadline.expired:
            break
        suffix = f"-{where.srv_suffix}" if where.srv_suffix else ""
        urls = tuple(f"{scheme}://{target}" for target in _srv(f"_{service}{suffix}._tcp.{where.srv}", deadline))
        if urls and service.startswith("etcd-server"):
            urls = _clients_by_peers(urls, connector, deadline)
        if urls:
            return tuple(random.sample(urls, len(urls)))
    raise StoreUnavailableError(f"no SRV record below {where.srv} names an etcd server; check {where.name}.srv and the DNS")


def _srv(name: str, deadline: Deadline) -> list[str]:
    import dns.exception
    import dns.resolver

    try:
        answer = dns.resolver.resolve(name, "SRV", lifetime=max(deadline.left() / 2, 0.01), search=False)
    except dns.exception.DNSException:
        return []
    return [f"{str(record.target).rstrip('.')}:{record.port}" for record in answer]


def _clients_by_peers(peers: tuple[str, ...], connector: Connector, deadline: Deadline) -> tuple[str, ...]:
    """The client addresses etcd peers publish at ``/members`` on their peer port."""
    http = HttpClient(peers, connector)
    try:
        answer = http.request("GET", "/members", deadline=deadline, idempotent=True)
        return tuple(url.rstrip("/") for member in json.loads(answer.body) for url in member.get("clientURLs", ()))
    except (HttpUnavailableError, ValueError, AttributeError, TypeError):
        return ()
    finally:
        http.close()
