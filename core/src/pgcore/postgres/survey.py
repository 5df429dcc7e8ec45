"""Reading a running server for a node file: where it is, how it is set up, who may log in. Nothing is changed. (CLI 7)"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from pgcore.clock import Deadline
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.model.server import Credentials, FoundServer
from pgcore.postgres.connection import Session, read_conninfo

SURVEY_S = 30.0
NO_PASSWORD = "no password supplied"
"""What libpq says when the server asks for a password and there is none."""
LOGIN_OPTIONS = {"sslmode": "PGSSLMODE", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslrootcert": "PGSSLROOTCERT",
                 "sslcrl": "PGSSLCRL", "sslcrldir": "PGSSLCRLDIR", "gssencmode": "PGGSSENCMODE",
                 "channel_binding": "PGCHANNELBINDING", "sslnegotiation": "PGSSLNEGOTIATION", "sslpassword": ""}
"""Connection options that a node file keeps, each with the variable libpq reads it from."""

_HIDDEN = ("listen_addresses", "port", "cluster_name", "data_directory", "config_file", "hba_file", "ident_file",
           "external_pid_file", "primary_conninfo", "primary_slot_name")
_QUERY = """
SELECT s.name, CASE WHEN s.own THEN f.setting WHEN s.vartype = 'string' THEN s.reset_val
    ELSE pg_catalog.current_setting(s.name) END
FROM (SELECT *, source IN ('database', 'user', 'database user', 'client', 'session') AS own FROM pg_catalog.pg_settings) s
    LEFT JOIN (SELECT DISTINCT ON (pg_catalog.lower(name)) * FROM pg_catalog.pg_file_settings WHERE applied
        ORDER BY pg_catalog.lower(name), seqno DESC) f ON pg_catalog.lower(f.name) = pg_catalog.lower(s.name)
WHERE s.name = ANY(%s) OR (s.context <> 'internal' AND s.name <> ALL(%s) AND s.name NOT LIKE 'recovery_target%%'
    AND CASE WHEN s.own THEN f.setting IS NOT NULL ELSE s.reset_val IS DISTINCT FROM s.boot_val
        AND s.source IN ('configuration file', 'command line', 'environment variable') END)
ORDER BY pg_catalog.lower(s.name)
"""
"""Texts as they were configured: SHOW says ``(disabled)`` for a command that is not in use. A parameter that this session has of
its own (``ALTER ROLE ... SET``) counts as the server's files have it."""


def connect(dsn: str | None, environ: Mapping[str, str], ask: Callable[[str], str]) -> tuple[Session, Credentials]:
    """A session as a superuser by the connection string, then libpq's variables; ``ask`` is called with the user's name when the
    server wants a password and none is known. Raises ServerError: no such server, a refused login, no superuser."""
    given = read_conninfo(dsn or "")
    if "dbname" not in given and not environ.get("PGDATABASE"):
        given["dbname"] = "postgres"
    wanted = {"application_name": "pgcore generate-config", **given}
    password = given.get("password") or environ.get("PGPASSWORD")
    try:
        session = Session(wanted, Deadline.after(SURVEY_S))
    except ServerUnavailableError as error:
        if NO_PASSWORD not in str(error):
            raise ServerUnavailableError(f"no connection to the server: {error}") from error
        password = ask(given.get("user") or environ.get("PGUSER") or "")
        session = Session({**wanted, "password": password}, Deadline.after(SURVEY_S))
    user, superuser = session.query("SELECT current_user, pg_catalog.current_setting('is_superuser')",
                                    deadline=Deadline.after(SURVEY_S))[0]
    if superuser != "on":
        session.close()
        raise ServerError(f"{user} is no superuser: name one with --dsn or PGUSER, as settings and files are hidden from others")
    options = {name: value for name, variable in LOGIN_OPTIONS.items() if (value := given.get(name) or environ.get(variable))}
    return session, Credentials(user, password or None, options)


def survey(session: Session, superuser: Credentials, names: Iterable[str]) -> FoundServer:
    """Everything a node file can say of this server; ``names`` are parameters wanted in any case. Raises ServerError."""
    deadline = Deadline.after(SURVEY_S)
    places = ("cluster_name", "listen_addresses", "port", "data_directory", "config_file", "hba_file", "ident_file")
    place = dict(session.query("SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)", (list(places),),
                               deadline=deadline))
    parameters = dict(session.query(_QUERY, (sorted(names), list(_HIDDEN)), deadline=deadline))
    (bin_dir,), = session.query("SELECT setting FROM pg_catalog.pg_config WHERE name = 'BINDIR'", deadline=deadline)
    (socket,), = session.query("SELECT pg_catalog.inet_server_addr() IS NULL", deadline=deadline)
    roles = session.query("SELECT rolname FROM pg_catalog.pg_roles WHERE rolreplication AND rolcanlogin AND NOT rolsuper",
                          deadline=deadline)
    return FoundServer(
        major=session.server_version // 10000, cluster_name=place["cluster_name"] or "",
        listen=f"{_bracketed(place['listen_addresses'] or 'localhost')}:{place['port']}", data_dir=place["data_directory"],
        config_file=place["config_file"] or os.path.join(place["data_directory"], "postgresql.conf"), bin_dir=bin_dir,
        parameters=parameters, hba_file=place["hba_file"] or "", ident_file=place["ident_file"] or "",
        hba=_lines(session, place["hba_file"], deadline), ident=_lines(session, place["ident_file"], deadline),
        superuser=superuser, socket=socket, replication_role=roles[0][0] if len(roles) == 1 else None)


def _bracketed(hosts: str) -> str:
    return ",".join(f"[{host}]" if ":" in host else host for host in (part.strip() for part in hosts.split(",")))


def _lines(session: Session, path: str | None, deadline: Deadline) -> tuple[str, ...]:
    """The file as the server reads it, without comments and empty lines."""
    if not path:
        return ()
    (text,), = session.query("SELECT pg_catalog.pg_read_file(%s)", (path,), deadline=deadline)
    return tuple(line.strip() for line in str(text).splitlines() if line.strip() and not line.strip().startswith("#"))
