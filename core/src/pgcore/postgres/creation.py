"""Making a data directory: the first one of a cluster with its users, or a copy of another node (HA rules 6.2, 6.3)."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pgcore.clock import Deadline
from pgcore.errors import CancelledError, CommandFailedError, ServerError
from pgcore.hookspecs import BootstrapMethod, BootstrapRequest, IdleLimit, ReplicaMethod, ReplicaRequest
from pgcore.model.basics import Json
from pgcore.model.server import Credentials, ServerSettings, Upstream
from pgcore.postgres import data_dir, files, local, recovery, tablespaces, unfinished
from pgcore.postgres.connection import Session, quote_identifier, scram_verifier
from pgcore.postgres.programs import OsUser, program_path
from pgcore.postgres.unfinished import Note

if TYPE_CHECKING:
    from pgcore.hookspecs import TaskContext

logger = logging.getLogger(__name__)

_ROLE_TIMEOUT_S = 60.0
_REWIND_FUNCTIONS = ("pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)",
                     "pg_read_binary_file(text, bigint, bigint, boolean)")
_QUIET = ("log_statement = 'none'", "log_min_duration_statement = -1", "log_min_error_statement = 'panic'",
          "log_duration = off", "pgaudit.log = 'none'", "pg_stat_statements.track = 'none'",
          "synchronous_commit = 'local'", "statement_timeout = 0")
"""No statement of a role's creation may reach a log, nor wait for a standby that does not exist yet (HA rules 6.4.3)."""


@contextmanager
def secret_file(content: str, user: OsUser | None) -> Iterator[str]:
    """A file with mode 0600 in a directory of its own that only the programs' account can read; gone afterwards."""
    directory = tempfile.mkdtemp(prefix="pgcore-")
    path = os.path.join(directory, "secret")
    try:
        if user is not None:
            os.chown(directory, user.uid, user.gid)
        files.write(path, content, mode=0o600, user=user)
        yield path
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def password_env(host: str, port: int, credentials: Credentials, user: OsUser | None) -> Iterator[dict[str, str]]:
    """``PGPASSFILE`` for one program run; empty without a password (config 8.5)."""
    if not credentials.password:
        yield {}
        return
    with secret_file(files.pgpass_text(host, port, credentials.username, credentials.password), user) as path:
        yield {"PGPASSFILE": path}


def run_bootstrap(ctx: TaskContext, settings: ServerSettings, user: OsUser | None, method: BootstrapMethod,
                  options: Json, claim: str) -> None:
    """Let the method fill the data directory. Raises ServerError or CancelledError.

    The note of unfinished work stays: it ends when the cluster is complete, or when what was made of it is set aside.
    """
    data_dir.prepare(settings.data_dir, user)
    note = unfinished.begin(settings.data_dir, Note(method.name, creates_cluster=True, claim=claim))
    password = settings.superuser.password

    def run(password_file: str | None) -> None:
        method.run(BootstrapRequest(server=settings, options=options, superuser_password_file=password_file,
                                    binary=lambda name: program_path(settings, name), task=note.marked(ctx)))

    if password:
        with secret_file(password + "\n", user) as path:
            run(path)
    else:
        run(None)
    if data_dir.major_version(settings.data_dir) is None:
        raise ServerError(f"bootstrap method {method.name} ended without an error but left no cluster in {settings.data_dir}")


def trust_lines(settings: ServerSettings) -> list[str]:
    """The hba file during a custom bootstrap: local connections only, without a password (config 8.2)."""
    superuser = settings.superuser.username or "all"
    replication = settings.replication.username or "all"
    lines = []
    for database, name in (("replication", replication), ("all", superuser)):
        quoted = name if name == "all" else quote_identifier(name)
        lines.append(f"local {database} {quoted} trust")
        lines += [f"host {database} {quoted} {network} trust" for network in _own_networks(settings)]
    return lines


def _own_networks(settings: ServerSettings) -> list[str]:
    """Where the agent's connections to its own server come from: from loopback, or from the very address it connects to."""
    host = str(local.tcp_host(settings).get("host", ""))
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        logger.warning("the address of %s is not known, only loopback is let in during the bootstrap: %s", host, error)
        found = set()
    return [f"{address}/{128 if ':' in address else 32}" for address in sorted(map(str, found | {"127.0.0.1", "::1"}))]


def create_users(settings: ServerSettings, user: OsUser | None, command: Callable[[], None]) -> None:
    """Superuser, the operator's script, replication user, rewind user, in this order (config 4). Raises ServerError."""
    session = _quiet_session(settings, user)
    try:
        if settings.superuser.username and settings.superuser.password:
            _ensure_role(session, settings.superuser, "SUPERUSER LOGIN")
        command()
        if settings.replication.username:
            _ensure_role(session, settings.replication, "REPLICATION LOGIN")
        rewind = settings.rewind
        if rewind.username and rewind.username != settings.superuser.username:
            _ensure_role(session, rewind, "LOGIN")
            for function in _REWIND_FUNCTIONS:
                _execute(session, f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {quote_identifier(rewind.username)}")
    finally:
        session.close()


def _quiet_session(settings: ServerSettings, user: OsUser | None) -> Session:
    deadline = Deadline.after(_ROLE_TIMEOUT_S)
    session = Session(local.superuser(settings, user, statement_timeout_s=0), deadline)
    for setting in _QUIET:
        session.query(f"SET {setting}", deadline=deadline)
    return session


def _execute(session: Session, sql: str, arguments: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    return session.query(sql, arguments, deadline=Deadline.after(_ROLE_TIMEOUT_S))


def _ensure_role(session: Session, credentials: Credentials, attributes: str) -> None:
    """Create the role, or give an existing one these attributes and the password.

    The password is sent as the verifier the server stores, so its clear text is in no log and no pg_stat_activity.
    """
    name = str(credentials.username)
    exists = _execute(session, "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s", (name,))
    statement = f"{'ALTER' if exists else 'CREATE'} ROLE {quote_identifier(name)} WITH {attributes}".replace("%", "%%")
    if credentials.password:
        verifier = scram_verifier(session, credentials.password, name, deadline=Deadline.after(_ROLE_TIMEOUT_S))
        _execute(session, f"{statement} PASSWORD %s", (verifier,))
    else:
        _execute(session, statement.replace("%%", "%"))


def run_post_bootstrap(ctx: TaskContext, settings: ServerSettings, user: OsUser | None, command: str,
                       stall_s: float) -> None:
    """The operator's script, with the superuser's connection string (config 9.3). Raises ServerError if it fails.

    It may do nothing for ``stall_s`` seconds; 0: for ever.
    """
    note = unfinished.read(settings.data_dir)
    ctx = note.marked(ctx) if note is not None else ctx
    where = local.address(settings)
    host = str(where.get("host", ""))
    login = recovery.login(settings.superuser)
    if user is not None:
        login.setdefault("user", user.name)
    target = recovery.conninfo({"dbname": settings.database, **where, **login})
    idle = IdleLimit(stall_s, (settings.data_dir,)) if stall_s else None
    with password_env(host, where["port"], settings.superuser, user) as env:
        ctx.run([*shlex.split(command), target], env={**env, "PGOPTIONS": "-c synchronous_commit=local -c statement_timeout=0"},
                idle=idle)


def clone(ctx: TaskContext, settings: ServerSettings, user: OsUser | None, methods: Sequence[tuple[ReplicaMethod, Json]],
          source: Upstream | None, major: int, claim: str) -> None:
    """Fill the data directory by the first method that succeeds (HA rules 6.3).

    Raises ServerError with every method's reason if none did, CancelledError after having removed a half-built copy. With a
    ``claim`` on a new cluster the note of unfinished work stays after a failure, until the directory is set aside.
    """
    before = unfinished.read(settings.data_dir)
    if before is not None:
        unfinished.empty_places(settings.data_dir, before)
    spaces = tablespaces.locations(source, recovery.ordinary_login(settings)) if source is not None else ()
    failures: list[str] = []
    for method, options in methods:
        if source is None and not method.works_without_source(options):
            continue
        note = _note_of(method, options, claim, spaces)
        with ExitStack() as claims:
            try:
                _run_method(ctx, settings, user, (method, options), note, claims, source, major)
                unfinished.end(settings.data_dir)
                return
            except CancelledError:
                _undo(settings, note)
                raise
            except ServerError as error:
                logger.error("replica method %s failed: %s", method.name, error)
                failures.append(f"{method.name}: {error}")
                _undo(settings, note)
    reasons = "; ".join(failures) or "none of the configured methods works without a source"
    raise ServerError(f"no replica could be made in {settings.data_dir}: {reasons}")


def _note_of(method: ReplicaMethod, options: Json, claim: str, spaces: Sequence[str]) -> Note:
    """Of the source's tablespaces those that may be filled here; a method that goes on with what it has loses nothing there."""
    keeps, places = method.keeps_data(options), unfinished.unoccupied(method.fills(options))
    return Note(method.name, keeps_data=keeps, claim=claim, places=places,
                tablespaces=() if keeps else tuple(path for path in spaces if path not in places))


def _undo(settings: ServerSettings, note: Note) -> None:
    """Remove a half-built copy, unless its method goes on with what it has: then the note says that it is half-built."""
    if note.keeps_data:
        return
    data_dir.remove(settings.data_dir)
    unfinished.empty_places(settings.data_dir, note)
    if not note.claim:
        unfinished.end(settings.data_dir)


def _run_method(ctx: TaskContext, settings: ServerSettings, user: OsUser | None, choice: tuple[ReplicaMethod, Json],
                note: Note, claims: ExitStack, source: Upstream | None, major: int) -> None:
    method, options = choice
    ctx.check()
    if not note.keeps_data:
        data_dir.remove(settings.data_dir)
    data_dir.prepare(settings.data_dir, user)
    unfinished.begin(settings.data_dir, note)
    mine = tablespaces.claim(note.tablespaces, note.mark, user)
    for claimed in mine:
        claims.callback(claimed.end)
    logger.info("making a replica with method %s from %s", method.name, source.label if source else "no source")
    ctx.report(phase=method.name, **({"source": source.name or source.label} if source is not None else {}))
    connstring = "" if source is None else recovery.conninfo(
        {"dbname": source.dbname, "host": source.host, "port": source.port, **recovery.login(settings.replication, major)})
    with password_env(source.host if source else "", source.port if source else 0, settings.replication, user) as env:
        method.run(ReplicaRequest(
            server=settings, source=source, connstring=connstring, env=env if source else {}, options=options,
            binary=lambda name: program_path(settings, name), task=note.marked(ctx), server_major=major,
            places=(*note.places, *(claimed.path for claimed in mine))))
    if data_dir.major_version(settings.data_dir) is None:
        raise ServerError(f"it ended without an error but left no cluster in {settings.data_dir}")


def rewind_source(settings: ServerSettings, source: Upstream, major: int) -> tuple[str, Credentials]:
    """The connection string for pg_rewind, without password, and whose login it is (HA rules 12.4.4)."""
    credentials = settings.rewind if settings.rewind.username else settings.superuser
    values: Mapping[str, Any] = {"dbname": settings.database, "host": source.host, "port": source.port,
                                 "target_session_attrs": "read-write", **recovery.login(credentials, major)}
    return recovery.conninfo(values), credentials


def help_works(run: Callable[[list[str]], str], program: str) -> bool:
    """Whether a program can be run at all."""
    try:
        run([program, "--help"])
        return True
    except CommandFailedError:
        return False
