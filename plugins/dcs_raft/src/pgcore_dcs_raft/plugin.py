"""The ``raft`` section of the configuration, its checks, and the hook that offers the backend. Imports nothing heavy."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from pgcore.plugin import ConfigError, Store, StoreBackend, StoreRequest, hookimpl, option

TTL_FLOOR_S = 5


@dataclass(frozen=True, slots=True)
class RaftSection:
    """Config 3.5. Addresses are ``host:port``; all members need the same password."""

    self_addr: str | None = option(None, doc="address other members reach this one at; absent: not part of the consensus")
    bind_addr: str | None = option(None, doc="address to listen on, if it differs from self_addr")
    partner_addrs: tuple[str, ...] = option((), doc="addresses of the other members")
    data_dir: str = option("", doc="directory of <self_addr>.journal and <self_addr>.dump; default: the working directory")
    password: str | None = option(None, doc="encrypts all traffic; required unless every address is loopback", secret=True)
    min_timeout: float = option(0.4, doc="shortest silence after which a leader counts as dead", unit="s")
    max_timeout: float = option(1.4, doc="longest silence after which a leader counts as dead", unit="s")
    connection_timeout: float = option(3.5, doc="a connection silent for this long is dropped", unit="s")
    append_entries_period: float = option(0.1, doc="interval of the leader's heartbeats", unit="s")
    connection_retry_time: float = option(1.0, doc="interval between attempts to connect", unit="s", minimum=0)
    leader_fallback_timeout: float | None = option(
        None, doc="a leader without a majority steps down after this; default: a sixth of ttl, at least max_timeout", unit="s")


def checked(section: RaftSection, *, observer: bool) -> RaftSection:
    """The section if it can work. Raises ConfigError naming the key, what is wrong and the remedy."""
    if not observer and not section.self_addr:
        raise ConfigError("raft.self_addr", "is missing", "set it to the host:port the other members reach this node at")
    if not members(section):
        raise ConfigError("raft.partner_addrs", "no address to connect to", "name at least one member, or set raft.self_addr")
    exposed = ""
    for key, address in _addresses(section):
        if not _is_loopback(_host(key, address)):
            exposed = exposed or f"{key} {address}"
    if exposed and not section.password:
        raise ConfigError("raft.password", f"is missing, but {exposed} is not a loopback address",
                          "set the same password on all members; without one, whoever reaches the port owns the cluster")
    _check_times(section)
    return section


def check(section: object) -> None:
    """Raises ConfigError for what a voter cannot start with."""
    assert isinstance(section, RaftSection)
    checked(section, observer=False)


def members(section: RaftSection) -> tuple[str, ...]:
    """Every configured voter, this node first, each once, in the form pysyncobj takes."""
    configured = ([section.self_addr] if section.self_addr else []) + list(section.partner_addrs)
    return tuple(dict.fromkeys(plain(address) for address in configured))


def plain(address: str) -> str:
    """``host:port`` without the brackets of an IPv6 address."""
    host, _, port = address.rpartition(":")
    return f"{host.removeprefix('[').removesuffix(']')}:{port}"


def _addresses(section: RaftSection) -> Iterable[tuple[str, str]]:
    if section.self_addr:
        yield "raft.self_addr", section.self_addr
    if section.bind_addr:
        yield "raft.bind_addr", section.bind_addr
    for address in section.partner_addrs:
        yield "raft.partner_addrs", address


def _host(key: str, address: str) -> str:
    host, _, port = plain(address).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(key, f"{address!r} is not an address", "write host:port, for example 10.0.0.1:2222")
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # other names may resolve to anything, tomorrow if not today


def _check_times(section: RaftSection) -> None:
    """The conditions of config 3.5 [dev]."""
    for key in ("min_timeout", "max_timeout", "connection_timeout", "append_entries_period", "leader_fallback_timeout"):
        value = getattr(section, key)
        if value is not None and not value > 0:
            raise ConfigError(f"raft.{key}", f"is {value}", "it must be above 0")
    if section.connection_retry_time < 0:
        raise ConfigError("raft.connection_retry_time", f"is {section.connection_retry_time}", "it must not be negative")
    period, fallback = section.append_entries_period, section.leader_fallback_timeout
    if not section.min_timeout > 3 * period:
        raise ConfigError("raft.min_timeout", f"is {section.min_timeout}",
                          f"it must be above 3 times append_entries_period ({period})")
    if not section.max_timeout > section.min_timeout:
        raise ConfigError("raft.max_timeout", f"is {section.max_timeout}",
                          f"it must be above min_timeout ({section.min_timeout})")
    if not section.connection_timeout >= section.max_timeout:
        raise ConfigError("raft.connection_timeout", f"is {section.connection_timeout}",
                          f"it must be at least max_timeout ({section.max_timeout})")
    if fallback is not None and not fallback > period:
        raise ConfigError("raft.leader_fallback_timeout", f"is {fallback}", f"it must be above append_entries_period ({period})")


def open_store(request: StoreRequest) -> Store:
    """Join the Raft cluster and return this member's store. Raises ConfigError or StoreRejectedError, never waits for peers."""
    assert isinstance(request.section, RaftSection)
    section = checked(request.section, observer=request.observer)
    from pgcore_dcs_raft.store import RaftStore  # pysyncobj is imported only when this backend is the chosen one

    return RaftStore.opened(section, request)


@hookimpl
def pgcore_stores() -> Iterable[StoreBackend]:
    """The backend ``raft``."""
    return [StoreBackend(name="raft", section=RaftSection, open=open_store,
                         ttl_floor=lambda section: (TTL_FLOOR_S, "an election has to fit into it several times"), check=check)]
