"""The keys of the sections ``zookeeper`` and ``exhibitor`` (config 3.3) and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.plugin import ConfigError, option

DEFAULT_PORT = 2181
PERMISSIONS = ("CREATE", "READ", "WRITE", "DELETE", "ADMIN", "ALL")
SCHEMES = ("auth", "digest", "ip", "sasl", "super", "world", "x509")
"""What may stand before the colon of a principal of ``set_acls``; any other principal is one of x509, as in Patroni."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to connect and log in; common to both sections."""

    use_ssl: bool = option(False, doc="Connect with TLS; without it the other TLS keys have no effect.")
    cacert: str | None = option(None, doc="File with the certificate authority of ZooKeeper; the system's ones by default.")
    cert: str | None = option(None, doc="File with the client certificate.")
    key: str | None = option(None, doc="File with the key of the client certificate; not needed if `cert` holds both.")
    key_password: str | None = option(None, doc="Password of the key.", secret=True)
    verify: bool = option(True, doc="Whether the server's certificate must be signed by `cacert`.")
    check_hostname: bool = option(False, doc="Whether the server's certificate must also bear the name it is reached by.")
    auth_data: dict[str, str] | str = option(
        factory=dict, doc="Scheme to credential, `digest: user:password`, or a text of such lines; the scheme `sasl` logs in by "
                          "DIGEST-MD5.", secret=True)
    set_acls: dict[str, list[str]] = option(
        factory=dict, doc="Principal to permissions of every node that is created. A principal is the subject of a client "
                          "certificate, or `scheme:credential`.")


@dataclass(frozen=True, slots=True)
class ZooKeeperSection(Access):
    """The section ``zookeeper``."""

    hosts: str | list[str] | None = option(
        None, doc="The servers: a list of `host:port`, or a text separated by commas, which may end with a path to stay below.")


@dataclass(frozen=True, slots=True)
class ExhibitorSection(Access):
    """The section ``exhibitor``: the servers are asked for over HTTP."""

    hosts: str | list[str] | None = option(None, doc="The hosts Exhibitor runs on.")
    port: int | None = option(None, doc="The port Exhibitor listens on.", minimum=1, maximum=65535)
    poll_interval: int = option(300, doc="Seconds between two requests for the list of servers.", unit="s", minimum=1)


def listed(hosts: str | list[str] | None, name: str, remedy: str) -> list[str]:
    """The entries of ``hosts``. Raises ConfigError if there is none."""
    entries = hosts.split(",") if isinstance(hosts, str) else [str(entry) for entry in hosts or ()]
    found = [entry.strip() for entry in entries if entry.strip()]
    if not found:
        raise ConfigError(f"{name}.hosts", "names no host", remedy)
    return found


def credentials(section: Access, name: str) -> dict[str, str]:
    """Scheme to credential. Raises ConfigError for a line that is none."""
    if not isinstance(section.auth_data, str):
        return section.auth_data
    found = {}
    for line in filter(None, map(str.strip, section.auth_data.splitlines())):
        scheme, colon, credential = line.partition(":")
        if not colon or not credential.strip():
            raise ConfigError(f"{name}.auth_data", "has a line that is not of the form scheme: credential",
                              "write one line for each scheme, for example digest: user:password")
        found[scheme.strip()] = credential.strip()
    return found


def principal(text: str) -> tuple[str, str]:
    """Scheme and credential of a key of ``set_acls``."""
    scheme, colon, credential = text.partition(":")
    return (scheme, credential) if colon and scheme in SCHEMES else ("x509", text)


def permissions(section: Access, name: str) -> list[tuple[str, str, frozenset[str]]]:
    """Scheme, credential and permissions of each line of ``set_acls``. Raises ConfigError for a word that is no permission."""
    found = []
    for who, words in section.set_acls.items():
        wanted = frozenset(word.upper() for word in ([words] if isinstance(words, str) else words))
        if not wanted or not wanted <= set(PERMISSIONS):
            unknown = ", ".join(sorted(wanted - set(PERMISSIONS))) or "an empty list"
            raise ConfigError(f"{name}.set_acls.{who}", f"{unknown} is no permission", f"list some of {', '.join(PERMISSIONS)}")
        found.append((*principal(who), wanted))
    return found
