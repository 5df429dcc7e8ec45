"""The keys of the sections ``etcd3`` and ``etcd`` (config 3.1) and what they say about where etcd is."""

from __future__ import annotations

import random
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pgcore.plugin import ConfigError, option

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class EtcdSection:
    """Where etcd is and how to log in. ``proxy`` wins over ``url``, that over ``hosts``, that over ``host``."""

    host: str | None = option(None, doc="One etcd server, `host` or `host:port`; all its DNS addresses are tried.")
    hosts: str | list[str] | None = option(
        None, doc="Several etcd servers: a list of `host:port`, or a text separated by commas.")
    url: str | None = option(None, doc="`scheme://[user:password@]host[:port]` of one etcd server.", secret=True)
    proxy: str | None = option(None, doc="Like `url`, for an etcd proxy: it alone is used, there is no discovery.", secret=True)
    srv: str | None = option(None, doc="Domain whose SRV records name the etcd servers.", alias=("discovery_srv", "srv_domain"))
    srv_suffix: str | None = option(None, doc="Appended as `-<suffix>` to each SRV service name.")
    use_proxies: bool = option(False, doc="Take `hosts` as a fixed list of proxies; do not ask etcd for its members.")
    port: int = option(DEFAULT_PORT, doc="Port of entries in `host` and `hosts` without one.", minimum=1, maximum=65535)
    protocol: str = option("http", doc="`http` or `https`.", choices=("http", "https"))
    username: str | None = option(None, doc="User of etcd.")
    password: str | None = option(None, doc="Password of the user.", secret=True)
    cacert: str | None = option(None, doc="File with the certificate authority of etcd; the system's ones by default.")
    cert: str | None = option(None, doc="File with the client certificate.")
    key: str | None = option(None, doc="File with the key of the client certificate; not needed if `cert` holds both.")


@dataclass(frozen=True, slots=True)
class Etcd3Section(EtcdSection):
    """The section ``etcd3``: etcd by its v3 API."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to find etcd: ``urls`` (``scheme://host:port``) and/or the domain to discover them in, and the credentials."""

    name: str
    urls: tuple[str, ...]
    srv: str | None
    srv_suffix: str | None
    protocol: str
    fixed: bool
    username: str | None
    password: str | None


def place(section: EtcdSection, name: str) -> Place:
    """The meaning of a section called ``name``. Raises ConfigError if nothing says where etcd is, or an address is no address."""
    single = section.proxy or section.url
    username, password = section.username, section.password
    protocol, srv = section.protocol, section.srv
    if single:
        key = "proxy" if section.proxy else "url"
        parts = urlsplit(single if "://" in single else f"{protocol}://{single}")
        if parts.scheme not in ("http", "https"):
            raise ConfigError(f"{name}.{key}", f"scheme {parts.scheme!r} is not supported", "use http or https")
        protocol = parts.scheme
        urls: tuple[str, ...] = (_url(name, key, protocol, parts.netloc.rpartition("@")[2], DEFAULT_PORT),)
        username = unquote(parts.username) if parts.username else username
        password = unquote(parts.password) if parts.password else password
    elif section.hosts and not srv:
        entries = section.hosts.split(",") if isinstance(section.hosts, str) else [str(entry) for entry in section.hosts]
        listed = [_url(name, "hosts", protocol, entry, section.port) for entry in entries if entry.strip()]
        urls = tuple(random.sample(listed, len(listed)))  # members of a cluster should not all start at the same server
    elif section.host and not srv:
        urls = (_url(name, "host", protocol, section.host, section.port),)
    else:
        urls = ()
    if not urls and not srv:
        raise ConfigError(name, "nothing says where etcd is", "set one of host, hosts, url, proxy, srv")
    return Place(name, urls, None if single else srv, section.srv_suffix, protocol,
                 bool(section.proxy or section.use_proxies), username, password)


def check(section: object, name: str) -> None:
    """Raises ConfigError for what no store can be opened with."""
    assert isinstance(section, EtcdSection)
    place(section, name)


def _url(name: str, key: str, protocol: str, entry: str, default_port: int) -> str:
    entry = entry.strip()
    parts = urlsplit(entry if "://" in entry else f"{protocol}://{entry}")
    try:
        port = parts.port or default_port
    except ValueError as error:
        raise ConfigError(f"{name}.{key}", f"{entry!r} has no valid port", "write host:port") from error
    if not parts.hostname:
        raise ConfigError(f"{name}.{key}", f"{entry!r} has no host", "write host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"
