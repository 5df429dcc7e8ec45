"""Where ZooKeeper is: the servers of the section, or those Exhibitor lists; and how a connection to one is opened."""

from __future__ import annotations

import json
import logging
import random
import ssl
from dataclasses import dataclass

from kazoo.hosts import collect_hosts

from pgcore.net.http import Connector, Endpoints, HttpClient, HttpUnavailableError, TlsFiles
from pgcore.plugin import ConfigError, Deadline, Instant, StoreUnavailableError, now
from pgcore_dcs_zookeeper.section import Access, ExhibitorSection, ZooKeeperSection, listed

log = logging.getLogger(__name__)
LIST_PATH = "/exhibitor/v1/cluster/list"
LIST_S = 3.1
"""Time Exhibitor is given for its list (dcs-layout 8)."""
RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Tls(TlsFiles):
    key_password: str | None = None
    verify: bool = True
    check_hostname: bool = False

    def context(self) -> ssl.SSLContext:
        """The TLS settings. Like kazoo, and unlike a browser, by default any name of a trusted certificate will do."""
        context = ssl.create_default_context(cafile=self.cacert or None)
        context.check_hostname = self.verify and self.check_hostname
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None, self.key_password)
        return context


class Ensemble:
    """The servers of one store, for its verbs and its watch. ``name`` is the section's, for messages."""

    def __init__(self, section: ZooKeeperSection | ExhibitorSection) -> None:
        self.name = "exhibitor" if isinstance(section, ExhibitorSection) else "zookeeper"
        self.chroot = ""
        self._scheme = "https" if section.use_ssl else "http"  # Connector's words for with and without TLS
        self.connector = _connector(section, self.name)
        self._exhibitor: Exhibitor | None = None
        if isinstance(section, ExhibitorSection):
            self._exhibitor = Exhibitor(section)
            self.endpoints = Endpoints(())
        else:
            hosts = ",".join(listed(section.hosts, self.name, "list host:port of each ZooKeeper server"))
            try:
                addresses, chroot = collect_hosts(hosts)
            except ValueError as error:
                raise ConfigError("zookeeper.hosts", f"{hosts!r} has an entry that is no address: {error}",
                                  "write host:port") from error
            self.chroot = (chroot or "").rstrip("/")
            self.endpoints = Endpoints(self._shuffled(addresses))

    def _shuffled(self, addresses: list[tuple[str, int]]) -> tuple[str, ...]:
        """Members of a cluster should not all start at the same server."""
        urls = [f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses]
        return tuple(random.sample(urls, len(urls)))

    def ensure(self, deadline: Deadline) -> str:
        """The server to try next. Raises StoreUnavailableError if Exhibitor has never listed one."""
        if not self.endpoints.urls:
            self.refresh(deadline)
        if not self.endpoints.urls:
            assert self._exhibitor is not None
            raise StoreUnavailableError(f"Exhibitor lists no ZooKeeper server: {self._exhibitor.problem}")
        return self.endpoints.urls[0]

    def refresh(self, deadline: Deadline) -> None:
        """Ask Exhibitor again if that is due. A list that cannot be had leaves the last one in use."""
        if self._exhibitor is None or not self._exhibitor.due:
            return
        addresses = self._exhibitor.ask(deadline.within(LIST_S))
        urls = self._shuffled(addresses)
        if urls and set(urls) != set(self.endpoints.urls):
            log.info("Exhibitor lists the ZooKeeper servers %s", ", ".join(sorted(urls)))
            self.endpoints.urls = urls


class Exhibitor:
    """The list of servers, asked for over HTTP every ``poll_interval``."""

    def __init__(self, section: ExhibitorSection) -> None:
        if section.port is None:
            raise ConfigError("exhibitor.port", "is missing", "set it to the port of Exhibitor's REST interface, often 8181")
        hosts = listed(section.hosts, "exhibitor", "list the hosts Exhibitor runs on")
        self._urls = Endpoints(tuple(f"http://{host}:{section.port}" for host in random.sample(hosts, len(hosts))))
        self._interval_s = section.poll_interval
        self._next_at: Instant | None = None
        self.problem = "not asked yet"

    @property
    def due(self) -> bool:
        """Whether it is time to ask."""
        return self._next_at is None or now() >= self._next_at

    def ask(self, deadline: Deadline) -> list[tuple[str, int]]:
        """The servers' hosts and port; none if no Exhibitor answered, which is asked again a few seconds later."""
        client = HttpClient(self._urls)
        try:
            answer = client.request("GET", LIST_PATH, deadline=deadline, idempotent=True)
            body = json.loads(answer.body)
            found = [(str(host), int(body["port"])) for host in body["servers"]]
            self.problem = "" if found else f"{answer.endpoint} answered with an empty list"
        except (HttpUnavailableError, ValueError, LookupError, TypeError) as error:
            found, self.problem = [], str(error)
            log.warning("Exhibitor gave no list of ZooKeeper servers: %s", error)
        finally:
            client.close()
        self._next_at = Instant(now() + (self._interval_s if found else min(RETRY_S, self._interval_s)))
        return found


def _connector(section: Access, name: str) -> Connector:
    """What opens the connections. Raises ConfigError if a TLS file cannot be used."""
    if not section.use_ssl:
        return Connector()
    made = Connector(_Tls(section.cacert, section.cert, section.key,
                          section.key_password, section.verify, section.check_hostname))
    try:
        made.check()
    except OSError as error:
        files = ", ".join(f"{key} {path}" for key, path in (("cacert", section.cacert), ("cert", section.cert),
                                                            ("key", section.key)) if path)
        raise ConfigError(name, f"the TLS files cannot be used: {error}", f"check {files or 'cacert'}") from error
    return made
