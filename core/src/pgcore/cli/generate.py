"""``pgcore generate-config`` and ``generate-sample-config``: node files made by the program. (CLI 7)"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import click

from pgcore.config.document import FILL_IN
from pgcore.config.dynamic import NEW_CLUSTER_TIMING
from pgcore.config.generate import Machine, NodeFile, of_server, sample
from pgcore.config.parameters import CONTROLLED
from pgcore.config.validate import program_major
from pgcore.model.basics import Timing

_ASIDE = ".old"
_BIN_DIRS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""Where distributions keep the programs outside of PATH, by major version."""
_force = click.option("--force", is_flag=True, help=f"Replace OUT; what was there is kept as OUT{_ASIDE}.")


@click.command("generate-sample-config")
@click.argument("out", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_force
@click.pass_obj
def sample_config(session: object, out: Path | None, force: bool) -> None:
    """Write a node file for a new node, to OUT or to standard output.

    It has the defaults, this machine's name and address, and what the environment sets (PGCORE_*, PATRONI_*). What only you know
    is #FIXME; `pgcore validate` refuses the file as long as it is there.
    """
    write(make_sample(os.environ, NEW_CLUSTER_TIMING), out, force=force)


@click.command("generate-config")
@click.argument("out", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dsn", metavar="DSN", help="The server: libpq's connection string or URL of a superuser; else PGHOST, PGUSER ….")
@_force
@click.pass_obj
def node_config(session: object, out: Path | None, dsn: str | None, force: bool) -> None:
    """Write a node file for a PostgreSQL server that runs, to OUT or to standard output.

    An agent started with it takes the server over without a restart. The file holds the superuser's password: its mode is 0600.
    """
    write(make_of_server(dsn, os.environ, NEW_CLUSTER_TIMING), out, force=force)


def make_sample(environ: Mapping[str, str], timing: Timing) -> NodeFile:
    """The sample as this machine and the environment fill it in."""
    return sample(_machine(environ), environ, timing)


def make_of_server(dsn: str | None, environ: Mapping[str, str], timing: Timing) -> NodeFile:
    """The file for the server at ``dsn`` or libpq's variables; a password is asked for if the server wants one.

    Raises ServerError.
    """
    from pgcore.postgres.survey import connect, survey

    session, superuser = connect(dsn, environ, _ask)
    try:
        found = survey(session, superuser, CONTROLLED)
    finally:
        session.close()
    return of_server(found, _machine(environ), environ, timing)


def write(file: NodeFile, out: Path | None, *, force: bool) -> None:
    """Print it, or make the file whole with mode 0600; one that is there is kept beside it, and without ``force`` left alone.

    Raises ClickException.
    """
    if out is None:
        click.echo(file.text(), nl=False)
    else:
        try:
            kept = _store(out, file.text(), force=force)
        except FileExistsError as error:
            raise click.ClickException(f"{out} exists and was not touched: name another file, or use --force") from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or out} cannot be written: {error.strerror}") from error
        click.echo(f"{out} written" + (f"; what was there is now {kept}" if kept else ""), err=True)
    if missing := file.missing():
        click.echo(f"replace {FILL_IN} in: {', '.join(missing)}", err=True)


def _store(out: Path, text: str, *, force: bool) -> Path | None:
    """The path of what was there before. Raises OSError; then nothing has changed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f"{out.name}.{os.getpid()}")
    aside = out.with_name(out.name + _ASIDE)
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if not (force and out.exists()):
            os.link(made, out)  # fails if somebody was faster
            return None
        os.replace(out, aside)
        os.replace(made, out)
        return aside
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)


def _ask(user: str) -> str:
    return str(click.prompt(f"Password{f' of {user}' if user else ''}", hide_input=True, err=True))


# -- what this machine knows -----------------------------------------------------------------------------------------------------

def _machine(environ: Mapping[str, str]) -> Machine:
    bin_dir = environ.get("PGCORE_POSTGRESQL_BIN_DIR") or environ.get("PATRONI_POSTGRESQL_BIN_DIR") or _bin_dir()
    major = program_major(os.path.join(bin_dir, "postgres")) if bin_dir else None
    return Machine(socket.gethostname(), _address(), bin_dir, int(float(major)) if major else None)


def _bin_dir() -> str | None:
    found = shutil.which("postgres")
    if found:
        return os.path.dirname(os.path.realpath(found))
    places = [path for pattern in _BIN_DIRS for path in glob.glob(pattern)]
    installed = [path for path in places if os.access(os.path.join(path, "postgres"), os.X_OK)]
    return max(installed, key=lambda path: [int(number) for number in re.findall(r"\d+", path)], default=None)


def _address() -> str | None:
    """An address of this machine that is not only its own: by its name, else the one it would send from."""
    addresses = []
    with contextlib.suppress(OSError):
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of a datagram socket: nothing is sent
        addresses.append(probe.getsockname()[0])
    return next((address for address in addresses if not address.startswith(("127.", "0."))), None)
