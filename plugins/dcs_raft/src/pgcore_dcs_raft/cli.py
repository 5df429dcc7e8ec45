"""``pgcore raft …`` and ``pgcore raft-witness``. Imported when one of them is called, never by an agent."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pgcore.plugin import CliSession, ConfigError, Notifier, Timing, hookimpl, take_notify_address
from pgcore_dcs_raft.controller import Survey, admit_member, check_absence, check_removal, remove_member, run_voter, survey
from pgcore_dcs_raft.plugin import RaftSection, checked

if TYPE_CHECKING:
    from pgcore_dcs_raft.recovery import Survivor

log = logging.getLogger("pgcore_dcs_raft")


@click.group("raft")
def raft() -> None:
    """Look at the voters of the embedded store, and change who they are."""


@raft.command("members")
@click.option("-f", "--format", "style", type=click.Choice(["pretty", "json"]), default="pretty", help="For people or programs.")
@click.pass_obj
def list_voters(session: CliSession, style: str) -> None:
    """List the voters and how they are. The exit code is 1 without a majority."""
    seen = survey(_section(session))
    if style == "json":
        told = {"leader": seen.leader, "needed": seen.needed, "healthy": seen.healthy, "removed": dict(seen.removed),
                "voters": [asdict(voter) for voter in seen.voters]}
        click.echo(json.dumps(told, indent=2))
    else:
        _show(seen)
    if seen.leader is None:
        raise click.exceptions.Exit(1)


@raft.command("remove")
@click.argument("address")
@click.option("--force", is_flag=True, help="Ask nothing.")
@click.pass_obj
def remove(session: CliSession, address: str, force: bool) -> None:
    """Remove the voter ADDRESS for good. If it runs, its agent stops acting, and a primary there ends its writes."""
    section = _section(session)
    _show(check_removal(section, address))
    if not force and (given := click.prompt("Address of the voter to remove", type=str)) != address:
        raise click.ClickException(f"{given!r} is not {address!r}: nothing was removed")
    remove_member(section, address)
    click.echo(f"Success: {address} is no voter any more. Take it out of raft.partner_addrs of the others")


@raft.command("add")
@click.argument("address")
@click.pass_obj
def add(session: CliSession, address: str) -> None:
    """Let the removed voter ADDRESS come again. Delete its files first, and start it afterwards: it joins by itself."""
    admit_member(_section(session), address)
    click.echo(f"Success: {address} joins when it is started with an empty raft.data_dir")


@raft.command("recover")
@click.option("--force", is_flag=True, help="Ask nothing.")
@click.option("--dry-run", is_flag=True, help="Show what would be kept and lost, and change nothing.")
@click.pass_obj
def recover(session: CliSession, force: bool, dry_run: bool) -> None:
    """Make the stopped voter of this configuration the only one, when a majority is lost FOR GOOD.

    What only the others have acknowledged is lost. Never do this while they may still be running somewhere.
    """
    from pgcore_dcs_raft.recovery import survivor  # it imports pysyncobj

    section = _section(session)
    with survivor(section) as left:
        if not left.others:
            click.echo(f"{left.address} is the only voter already: start it")
            return
        check_absence(section, left.others)
        _show_recovery(left, section)
        if dry_run:
            return
        if not force and (given := click.prompt("Address of the voter that goes on alone", type=str)) != left.address:
            raise click.ClickException(f"{given!r} is not {left.address!r}: nothing was changed")
        backup = left.recover()
    click.echo(f"Success: {left.address} is the only voter. Start it; the files as they were are in {backup}")


def _show_recovery(left: Survivor, section: RaftSection) -> None:
    click.echo(f"Goes on alone: {left.address}, with the files in {os.path.abspath(section.data_dir)}")
    click.echo(f"Kept: its log up to entry {left.index} of term {left.term}, also what nobody knows the decision about")
    for scope in left.scopes:
        written = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(scope.written))
        click.echo(f"  {scope.path}: locked by {scope.leader or 'nobody'}; members {', '.join(scope.members) or 'none'}; "
                   f"last written {written}")
    click.echo("Lost: whatever only the others have decided after that")
    click.echo(f"Removed, until `pgcore raft add`: {', '.join(left.others)}")


@click.command("raft-witness")
@click.argument("file", required=False)
@click.pass_obj
def witness(session: CliSession, file: str | None) -> None:
    """Vote without PostgreSQL until SIGTERM: the third voter of a cluster with two nodes.

    FILE is a configuration with a section raft; variables PGCORE_RAFT_* and PATRONI_RAFT_* are laid over it. Under the name
    patroni_raft_controller the program is this command.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s: %(message)s", force=True)
    log.setLevel(min(logging.INFO, log.getEffectiveLevel()))
    section = checked(_section(session, file), observer=False)
    if not section.partner_addrs:  # alone it would elect itself and be a cluster of its own
        raise ConfigError("raft.partner_addrs", "names nobody, and a witness votes for others", "name the other members")
    notifier, stop = Notifier(take_notify_address(os.environ)), threading.Event()
    log.info("Raft witness %s starts, data in %s, other voters: %s", section.self_addr, section.data_dir or ".",
             ", ".join(section.partner_addrs))
    with _stopped_by_signals(stop):
        run_voter(section, Timing(), stop, notifier.ready)
        notifier.stopping()
    log.info("Raft witness %s has ended", section.self_addr)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _section(session: CliSession, file: str | None = None) -> RaftSection:
    section = session.section("raft", file)
    assert isinstance(section, RaftSection)
    return section


def _show(seen: Survey) -> None:
    rows = [("Voter", "State", "Term", "Applied"),
            *((voter.address, voter.state, *("" if number is None else str(number) for number in (voter.term, voter.applied)))
              for voter in seen.voters)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for address, reason in seen.removed.items():
        click.echo(f"removed: {address} {reason}")
    click.echo(f"{seen.healthy} of {len(seen.voters)} voters are well, {seen.needed} are needed; "
               + (f"{seen.leader} leads" if seen.leader else "there is NO LEADER"))


@hookimpl
def pgcore_cli_commands() -> list[click.Command]:
    """Asked for when one of them is called."""
    return [raft, witness]
