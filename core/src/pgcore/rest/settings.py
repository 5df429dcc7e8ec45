"""What the REST server needs to know about itself: the ``restapi`` section as one frozen value (config 2.3)."""

from __future__ import annotations

import ipaddress
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore import PATRONI_VERSION, __version__
from pgcore.config import values
from pgcore.config.sections import RestapiSection
from pgcore.errors import ConfigError

DEFAULT_QUEUE_SIZE = 1024
"""Listen backlog. Patroni's 5 cost a second for every dropped SYN when checks come in bursts; a long one costs nothing."""
MINIMUM_WORKERS = 5


@dataclass(frozen=True, slots=True)
class RestSettings:
    """The ``restapi`` section. ``thread_pool_size`` and ``request_queue_size`` are read once, at start (config 2.3)."""

    listen: str
    """``host:port``, or several separated by commas."""
    connect_address: str = ""
    certfile: str | None = None
    keyfile: str | None = None
    keyfile_password: str | None = field(default=None, repr=False)
    cafile: str | None = None
    ciphers: str | None = None
    verify_client: str = "none"
    """``none``, ``optional`` or ``required``, in any case."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    allowlist: tuple[str, ...] = ()
    allowlist_include_members: bool = False
    http_extra_headers: Mapping[str, str] = field(default_factory=dict)
    https_extra_headers: Mapping[str, str] = field(default_factory=dict)
    thread_pool_size: int = MINIMUM_WORKERS
    request_queue_size: int = DEFAULT_QUEUE_SIZE
    server_tokens: str = "original"

    @classmethod
    def of(cls, section: RestapiSection) -> RestSettings:
        """From the ``restapi`` section. A backlog below our default is raised to it: smaller ones only lose connections."""
        same = ("listen", "certfile", "keyfile", "keyfile_password", "cafile", "ciphers", "verify_client", "allowlist",
                "allowlist_include_members", "http_extra_headers", "https_extra_headers", "thread_pool_size", "server_tokens")
        login = section.authentication
        return cls(
            **{name: getattr(section, name) for name in same},
            connect_address=section.connect_address or values.split_list(section.listen)[0],
            username=login.username if login else None,
            password=login.password if login else None,
            request_queue_size=max(DEFAULT_QUEUE_SIZE, section.request_queue_size),
        )

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every address listened on. Raises ConfigError."""
        return tuple(split_address(word) for word in values.split_list(self.listen))

    @property
    def tls(self) -> bool:
        """The listener speaks https only."""
        return bool(self.certfile)

    @property
    def checks_clients(self) -> bool:
        """Unsafe requests need a verified client certificate (rest-api 11)."""
        return self.tls and self.verify_client.lower() in ("optional", "required")

    @property
    def authenticates(self) -> bool:
        """Unsafe requests need user name and password."""
        return bool(self.username) and self.password is not None

    @property
    def api_url(self) -> str:
        """What the member card publishes (rest-api 1)."""
        return f"{'https' if self.tls else 'http'}://{self.connect_address}/patroni"

    @property
    def headers(self) -> dict[str, str]:
        """The extra headers of every normal response (rest-api 12)."""
        return {**self.http_extra_headers, **(self.https_extra_headers if self.tls else {})}

    @property
    def server_header(self) -> str:
        """The ``Server`` header by ``server_tokens`` (rest-api 12)."""
        words = {"minimal": f"Patroni/{PATRONI_VERSION}", "productonly": "Patroni"}
        return words.get(self.server_tokens.lower(), f"pgcore/{__version__} Python/{platform.python_version()}")

    @property
    def only_loopback(self) -> bool:
        """Every address of this API, listened on or published, is loopback."""
        words = (*values.split_list(self.listen), self.connect_address)
        return all(_is_loopback(split_address(word)[0]) for word in words if word)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of one address of ``restapi.listen``; an empty host means all addresses, port 0 any free one.

    Raises ConfigError.
    """
    host, _, port = address.rpartition(":")
    try:
        host, number = (host.strip(" []"), 0) if port == "0" else values.split_address(address)
    except ValueError as error:
        raise ConfigError("restapi.listen", str(error), "for example 0.0.0.0:8008") from error
    return ("" if host == "*" else host), number


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
