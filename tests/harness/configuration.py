"""The node files of a test cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg2.extensions

SUPERUSER_PASSWORD = "su-secret"
REPLICATION_PASSWORD = "rep-secret"
REWIND_PASSWORD = "rew-secret"
REST_USER, REST_PASSWORD = "api", "api-secret"
BIN_DIR = Path("/usr/lib/postgresql/15/bin")


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it, maps merged at every depth; ``None`` removes a key."""
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def node_document(*, scope: str, name: str, host: str, pg_port: int, rest_port: int, directory: Path,
                  store: Mapping[str, Any], dynamic: Mapping[str, Any], client_network: str) -> dict[str, Any]:
    """One node file as a document: password authentication everywhere, pg_rewind on, small memory."""
    return {
        "scope": scope,
        "name": name,
        "log": {"level": "INFO"},
        "restapi": {"listen": f"{host}:{rest_port}", "connect_address": f"{host}:{rest_port}",
                    "authentication": {"username": REST_USER, "password": REST_PASSWORD}},
        **store,
        "bootstrap": {
            "dcs": merged({"postgresql": {"use_pg_rewind": True, "parameters": {
                "max_connections": 60, "max_wal_senders": 12, "max_replication_slots": 12, "wal_log_hints": "on",
                "wal_keep_size": "64MB"}}}, dynamic),
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
        },
        "postgresql": {
            "listen": f"{host}:{pg_port}", "connect_address": f"{host}:{pg_port}", "data_dir": str(directory / "data"),
            "bin_dir": str(BIN_DIR), "pgpass": str(directory / "pgpass"),
            "authentication": {"superuser": {"username": "postgres", "password": SUPERUSER_PASSWORD},
                               "replication": {"username": "replicator", "password": REPLICATION_PASSWORD},
                               "rewind": {"username": "rewinder", "password": REWIND_PASSWORD}},
            "parameters": {"unix_socket_directories": str(directory), "password_encryption": "scram-sha-256",
                           "shared_buffers": "32MB", "logging_collector": "on", "log_directory": str(directory / "pg_log"),
                           "log_filename": "postgresql.log", "log_line_prefix": "%m [%p] ", "log_connections": "off"},
            "pg_hba": ["local all all trust",
                       f"host replication replicator {client_network} scram-sha-256",
                       f"host all all {client_network} scram-sha-256"],
            "basebackup": [{"checkpoint": "fast"}],
        },
        "watchdog": {"mode": "off"},
        "tags": {},
    }


def dsn(hosts: list[tuple[str, int]], *, read_write: bool = False, connect_timeout_s: int = 2) -> str:
    """A libpq string for the superuser over one or several servers."""
    settings: dict[str, Any] = {"host": ",".join(host for host, _ in hosts), "port": ",".join(str(port) for _, port in hosts),
                                "user": "postgres", "password": SUPERUSER_PASSWORD, "dbname": "postgres",
                                "connect_timeout": connect_timeout_s, "application_name": "harness", "gssencmode": "disable",
                                "tcp_user_timeout": 1500}
    if read_write:
        settings["target_session_attrs"] = "read-write"
    return str(psycopg2.extensions.make_dsn(**settings))
