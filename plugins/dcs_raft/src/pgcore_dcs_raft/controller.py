"""Life of the Raft cluster besides the agents: a voter without PostgreSQL, and who is a member.

These are functions for the command line and for operators' scripts. None of them touches PostgreSQL.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pgcore.plugin import StoreRejectedError, StoreUnavailableError, Timing
from pgcore_dcs_raft.plugin import RaftSection, checked, members, plain


def run_voter(section: RaftSection, timing: Timing, stop: threading.Event) -> None:
    """Vote and keep the log until ``stop`` is set: the third member of a cluster with two PostgreSQL nodes.

    Needs ``raft.self_addr``. Raises ConfigError or StoreRejectedError if the node cannot start.
    """
    checked(section, observer=False)
    from pgcore_dcs_raft.node import RaftNode

    node = RaftNode(section, timing)
    try:
        stop.wait()
    finally:
        node.close()


def stop_on_signals(stop: threading.Event) -> None:
    """Let SIGTERM and SIGINT end ``run_voter``. To be called in the main thread."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def list_members(section: RaftSection) -> tuple[str, ...]:
    """The voters by the word of a configured member that has a leader. Raises StoreUnavailableError if there is none."""
    _, answer = _first_answer(section, ["members"], _has_leader)
    return tuple(answer["members"])


def remove_member(section: RaftSection, address: str) -> None:
    """Take a voter out of the cluster for good. Stop it first, and delete its journal and dump if it is ever to come back.

    Needed after a machine is lost: a dead voter counts in every majority. A voter that still runs would ask to be added again.
    Raises StoreRejectedError if the cluster refuses, StoreUnavailableError if no member answers.
    """
    address = plain(address)
    others = replace(section, self_addr=None, partner_addrs=tuple(m for m in members(section) if m != address))
    if address not in list_members(others):
        return
    member, answer = _first_answer(others, ["remove", address], lambda answer: isinstance(answer, str))
    if not answer.startswith("SUCCESS"):
        raise StoreRejectedError(f"Raft member {member} refused to remove {address} ({answer}): stop {address} first, wait until "
                                 "another member leads, and try again; only one change of members at a time is possible")


def _has_leader(answer: Any) -> bool:
    return isinstance(answer, dict) and bool(answer.get("leader"))


def _first_answer(section: RaftSection, command: list[str], fits: Callable[[Any], bool]) -> tuple[str, Any]:
    """Ask one member after the other until an answer fits."""
    checked(section, observer=True)
    from pgcore_dcs_raft.node import ask

    for address in members(section):
        answer = ask(section, address, list(command))
        if fits(answer):
            return address, answer
    raise StoreUnavailableError(f"no Raft member of {', '.join(members(section))} answers that it has a leader; "
                                "check the addresses, the password and that a majority runs")
