"""Configuration from environment variables: ``PATRONI_*`` and the same names as ``PGCORE_*``, which win (config 17).

Recognised variables are taken out of the environment, so that no child process sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from pgcore.config.document import Places
from pgcore.config.sections import DISTRIBUTION_OF, PROGRAMS
from pgcore.config.values import parse_bool, parse_int
from pgcore.errors import ConfigError

PREFIXES = ("PATRONI_", "PGCORE_")
"""In order of strength: a later one wins."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SECTIONS = {
    "LOG": "TYPE LEVEL TRACEBACK_LEVEL FORMAT DATEFORMAT STATIC_FIELDS MAX_QUEUE_SIZE DIR MODE FILE_SIZE FILE_NUM LOGGERS"
           " DEDUPLICATE_HEARTBEAT_LOGS",
    "RECORDER": "ENABLED DIR FILE_SIZE FILE_NUM",
    "RESTAPI": "LISTEN CONNECT_ADDRESS CERTFILE KEYFILE KEYFILE_PASSWORD CAFILE CIPHERS VERIFY_CLIENT HTTP_EXTRA_HEADERS"
               " HTTPS_EXTRA_HEADERS ALLOWLIST ALLOWLIST_INCLUDE_MEMBERS REQUEST_QUEUE_SIZE SERVER_TOKENS KEYFILE_PASSWORD_FILE",
    "CTL": "INSECURE CACERT CERTFILE KEYFILE KEYFILE_PASSWORD KEYFILE_PASSWORD_FILE",
    "POSTGRESQL": "LISTEN CONNECT_ADDRESS PROXY_ADDRESS CONFIG_DIR DATA_DIR PGPASS BIN_DIR",
    "CITUS": "GROUP DATABASE",
}
_USER_KEYS = ("USERNAME PASSWORD SSLMODE SSLCERT SSLKEY SSLPASSWORD SSLROOTCERT SSLCRL SSLCRLDIR GSSENCMODE CHANNEL_BINDING"
              " SSLNEGOTIATION PASSWORD_FILE SSLPASSWORD_FILE")
_STORE_KEYS = _words(
    "HOST HOSTS PORT URL PROXY SRV SRV_SUFFIX USE_PROXIES PROTOCOL CACERT CERT KEY USERNAME PASSWORD PASSWORD_FILE"
    " TOKEN TOKEN_FILE VERIFY DC CONSISTENCY CHECKS REGISTER_SERVICE SERVICE_TAGS SERVICE_CHECK_INTERVAL"
    " SERVICE_CHECK_TLS_SERVER_NAME USE_SSL KEY_PASSWORD KEY_PASSWORD_FILE SET_ACLS AUTH_DATA"
    " NAMESPACE CONTEXT LABELS SCOPE_LABEL ROLE_LABEL LEADER_LABEL_VALUE FOLLOWER_LABEL_VALUE STANDBY_LEADER_LABEL_VALUE"
    " TMP_ROLE_LABEL USE_ENDPOINTS POD_IP PORTS BYPASS_API_SERVICE RETRIABLE_HTTP_CODES BOOTSTRAP_LABELS"
    " SELF_ADDR BIND_ADDR PARTNER_ADDRS DATA_DIR MIN_TIMEOUT MAX_TIMEOUT CONNECTION_TIMEOUT APPEND_ENTRIES_PERIOD"
    " LEADER_FALLBACK_TIMEOUT CONNECTION_RETRY_TIME")
_RESERVED = ("LOG", "RECORDER", "RESTAPI", "CTL", "POSTGRESQL", "SUPERUSER", "REPLICATION", "REWIND", "CITUS")

_BOOLEANS = frozenset(_words("ALLOWLIST_INCLUDE_MEMBERS INSECURE DEDUPLICATE_HEARTBEAT_LOGS USE_PROXIES REGISTER_SERVICE"
                             " USE_ENDPOINTS BYPASS_API_SERVICE VERIFY ENABLED"))
_INTEGERS = frozenset(_words("PORT GROUP REQUEST_QUEUE_SIZE MAX_QUEUE_SIZE FILE_SIZE FILE_NUM MODE"))
_LISTS = frozenset(_words("HOSTS PORTS CHECKS SERVICE_TAGS RETRIABLE_HTTP_CODES PARTNER_ADDRS ALLOWLIST"))
_MAPS = frozenset(_words("LABELS SET_ACLS AUTH_DATA BOOTSTRAP_LABELS HTTP_EXTRA_HEADERS HTTPS_EXTRA_HEADERS STATIC_FIELDS"
                         " LOGGERS"))


def _fixed() -> dict[str, tuple[str, ...]]:
    """Variable name without prefix to the path it sets."""
    paths: dict[str, tuple[str, ...]] = {name: (name.lower(),) for name in
                                         ("NAME", "NAMESPACE", "SCOPE", "THREAD_POOL_SIZE", "THREAD_STACK_SIZE")}
    for section, keys in _SECTIONS.items():
        for key in keys.split():
            paths[f"{section}_{key}"] = (section.lower(), key.lower())
    for program in PROGRAMS:
        paths[f"POSTGRESQL_BIN_{program.upper()}"] = ("postgresql", "bin_name", program)
    for user in ("SUPERUSER", "REPLICATION", "REWIND"):
        for key in _USER_KEYS.split():
            paths[f"{user}_{key}"] = ("postgresql", "authentication", user.lower(), key.lower())
    for section in ("RESTAPI", "CTL"):
        for key in ("USERNAME", "PASSWORD", "PASSWORD_FILE"):
            paths[f"{section}_{key}"] = (section.lower(), "authentication", key.lower())
    return paths | {"LOGLEVEL": ("log", "level"), "LOGFORMAT": ("log", "format"), "LOG_DATEFMT": ("log", "dateformat")}


VARIABLES = _fixed()
"""Names after the prefix, each with the path it sets; those of the stores follow from section and key."""
_OLD = ("LOGLEVEL", "LOGFORMAT", "LOG_DATEFMT")


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment said, read once at start and applied again at every reload."""

    document: str | None = field(default=None, repr=False)
    """The whole configuration as YAML, from ``PGCORE_CONFIGURATION`` or ``PATRONI_CONFIGURATION``."""
    document_name: str = ""
    tree: Mapping[str, Any] = field(default_factory=dict, repr=False)
    places: Places = field(default_factory=Places, compare=False, repr=False)
    warnings: tuple[ConfigError, ...] = ()


def take_environment(environ: MutableMapping[str, str], section_types: Mapping[str, type] | None = None) -> Environment:
    """Read the recognised variables and remove them from ``environ``.

    Values that cannot be converted are dropped with a warning. The keys of ``section_types`` may be set by
    ``PGCORE_<SECTION>_<KEY>`` in addition to the names of config 17.
    """
    own_keys = {name.upper(): _field_names(cls) for name, cls in (section_types or {}).items()}
    document, document_name = None, ""
    tree: dict[str, Any] = {}
    places = Places("environment")
    warnings: list[ConfigError] = []
    for variable in sorted(environ, key=_strength):
        prefix = next((prefix for prefix in PREFIXES if variable.startswith(prefix)), None)
        if prefix is None:
            continue
        name = variable[len(prefix):].upper()
        if name == "CONFIGURATION":
            document, document_name = environ.pop(variable) or document, variable
            continue
        path = _path(name, own_keys, any_section=prefix == "PATRONI_")
        if path is None:
            if name.startswith("CITUS_"):
                del environ[variable]
            continue
        text = environ.pop(variable)
        if text == "":
            continue
        try:
            value = _convert(name, path, text)
        except ValueError as error:
            warnings.append(ConfigError(".".join(path), f"is not taken from the environment: {error}", "correct it", variable))
            continue
        _set(tree, path, value)
        places.note(".".join(path), variable)
    return Environment(document or None, document_name, tree, places, tuple(warnings))


def _strength(variable: str) -> tuple[bool, bool, str]:
    """PGCORE_ names after PATRONI_ ones, current names after the old ones, otherwise by name: later ones win."""
    return variable.startswith(PREFIXES[1]), not variable.endswith(_OLD), variable


def _field_names(cls: type) -> frozenset[str]:
    from pgcore.config.schema import is_section, key_names

    return frozenset(name.upper() for name in key_names(cls)) if is_section(cls) else frozenset()


def _path(name: str, own_keys: Mapping[str, Collection[str]], *, any_section: bool) -> tuple[str, ...] | None:
    if name in VARIABLES:
        return VARIABLES[name]
    for section in sorted({*own_keys, *(known.upper() for known in DISTRIBUTION_OF)}, key=len, reverse=True):
        key = name[len(section) + 1:]
        if name.startswith(section + "_") and (key in own_keys.get(section, ()) or key in _STORE_KEYS):
            return section.lower(), key.lower()
    for key in sorted(_STORE_KEYS, key=len, reverse=True) if any_section else ():
        section = name[:-len(key) - 1]
        if name.endswith("_" + key) and section and section.partition("_")[0] not in _RESERVED:
            return section.lower(), key.lower()
    return None


def _convert(name: str, path: tuple[str, ...], text: str) -> Any:
    key = path[-1].upper()
    if key in _BOOLEANS:
        return _demand(parse_bool(text), "wants true or false")
    if key in _INTEGERS:
        return _demand(parse_int(text), "wants an integer")
    if key in _LISTS or (name in ("LOG_FORMAT", "LOGFORMAT") and "%(" not in text):
        if text.lstrip().startswith("-") or "[" in text:
            return _yaml(text, list)
        return _yaml(f"[{text}]", list)
    if key in _MAPS:
        return _yaml(text if text.lstrip().startswith("{") else f"{{{text}}}", dict)
    return text


def _demand(value: Any, wish: str) -> Any:
    if value is None:
        raise ValueError(wish)
    return value


def _yaml(text: str, kind: Callable[..., Any]) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(value, kind):  # type: ignore[arg-type]
        raise ValueError(f"wants a {'list' if kind is list else 'mapping'}")
    return value


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
