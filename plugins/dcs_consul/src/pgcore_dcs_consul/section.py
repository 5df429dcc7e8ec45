"""The keys of the section ``consul`` (config 3.2) and what they say about where Consul is."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pgcore.plugin import ConfigError, option

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8500


@dataclass(frozen=True, slots=True)
class ConsulSection:
    """Where the Consul agent is, how to log in, and whether to register a service. ``url`` wins over ``host``."""

    host: str = option(DEFAULT_HOST, doc="The Consul agent to talk to, `host` or `host:port`; best the one on this machine.")
    url: str | None = option(None, doc="`scheme://host[:port]` of the agent, in place of `scheme`, `host` and `port`.")
    port: int = option(DEFAULT_PORT, doc="Port of the agent if `host` names none.", minimum=1, maximum=65535)
    scheme: str = option("http", doc="`http` or `https`.", choices=("http", "https"))
    token: str | None = option(None, doc="ACL token.", secret=True)
    verify: bool = option(True, doc="Check the agent's certificate.")
    cacert: str | None = option(None, doc="File with the certificate authority of the agent; the system's ones by default.")
    cert: str | None = option(None, doc="File with the client certificate.")
    key: str | None = option(None, doc="File with the key of the client certificate; not needed if `cert` holds both.")
    dc: str | None = option(None, doc="Datacenter of the keys; the agent's own by default.")
    consistency: str = option("default", choices=("default", "consistent", "stale"),
                              doc="Consistency of the reads of a member that does not lead.")
    checks: tuple[str, ...] = option((), doc="Ids of the node's health checks that the session depends on: when one turns "
                                             "critical, lock and card are gone at once, before their owner knows. None, not even "
                                             "`serfHealth`, by default; leave it so.")
    register_service: bool = option(False, doc="Register this member as a service of the agent.")
    service_tags: tuple[str, ...] = option((), doc="Tags of the service besides the role.")
    service_check_interval: str = option("5s", doc="How often Consul asks the REST API for the role, as Consul writes durations.")
    service_check_tls_server_name: str | None = option(None, doc="Host name expected in the certificate of the REST API.")


def address(section: ConsulSection) -> str:
    """The agent as ``scheme://host:port``. Raises ConfigError if the section names none."""
    key, entry = ("url", section.url) if section.url else ("host", section.host)
    entry = entry.strip()
    parts = urlsplit(entry if "://" in entry else f"{section.scheme}://{entry}")
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"consul.{key}", f"scheme {parts.scheme!r} is not supported", "use http or https")
    try:
        port = parts.port or (DEFAULT_PORT if section.url else section.port)
    except ValueError as error:
        raise ConfigError(f"consul.{key}", f"{entry!r} has no valid port", "write host:port") from error
    if not parts.hostname:
        raise ConfigError(f"consul.{key}", f"{entry!r} has no host", "write host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"
