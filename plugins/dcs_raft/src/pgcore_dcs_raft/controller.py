"""Who votes and how they are, removing and admitting voters, and a voter without PostgreSQL. Nothing here touches PostgreSQL."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pgcore.plugin import Key, StoreRejectedError, StoreUnavailableError, Timing
from pgcore_dcs_raft.plugin import TTL_FLOOR_S, RaftSection, checked, members, plain

log = logging.getLogger(__name__)

CHANGE_S = 20.0
"""How long a change of members is tried: an election may be under way, or be needed first."""
PAUSE_S = 0.3
LOOK_S = 1.0


def run_voter(section: RaftSection, timing: Timing, stop: threading.Event, started: Callable[[], None] = lambda: None) -> None:
    """Vote and keep the log until ``stop`` is set: the third member of a cluster with two PostgreSQL nodes.

    ``timing`` holds until the store tells another ttl. ``started`` is called when it listens. Needs ``raft.self_addr``. Raises
    ConfigError or StoreRejectedError if it cannot start.
    """
    checked(section, observer=False)
    from pgcore_dcs_raft.node import RaftNode

    node, current, told = RaftNode(section, timing), timing, None
    started()
    try:
        while not stop.wait(LOOK_S):
            if node.leader != told:
                told = node.leader
                log.info("Raft leader: %s", told or "none is known")
            wanted = told_timing(node.machine.values(Key.CONFIG), timing)
            if wanted != current:
                current = wanted
                node.retime(current)
                log.info("The ttl of the cluster is %d s", current.ttl)
    finally:
        node.close()


def told_timing(configurations: Iterable[str], default: Timing) -> Timing:
    """``default`` with the ttl of the cluster, by its dynamic configuration; of several that share the store the smallest."""
    found = []
    for text in configurations:
        with suppress(ValueError, TypeError, OverflowError, AttributeError):  # the agents say what is wrong with it
            found.append(max(TTL_FLOOR_S, int(json.loads(text).get("ttl", default.ttl))))
    return replace(default, ttl=min(found, default=default.ttl))


@dataclass(frozen=True, slots=True)
class Voter:
    """One voter as somebody sees it who asks everybody."""

    address: str
    state: str
    """``leader``, ``follower``, ``waiting`` (it does not take part yet), or ``silent``."""
    term: int | None = None
    applied: int | None = None
    """Index of the last log entry in its state."""

    @property
    def is_healthy(self) -> bool:
        """Whether it counts towards a majority now."""
        return self.state in ("leader", "follower")


@dataclass(frozen=True, slots=True)
class Survey:
    """The cluster by the word of those who answer. ``leader`` is None without a majority."""

    voters: tuple[Voter, ...]
    leader: str | None
    removed: Mapping[str, str]
    """Address to when and how it was removed, of those that are not admitted again."""

    @property
    def healthy(self) -> int:
        """How many voters count towards a majority now."""
        return sum(voter.is_healthy for voter in self.voters)

    @property
    def needed(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1

    def without(self, address: str) -> Survey:
        """The same cluster when that voter is removed."""
        return replace(self, voters=tuple(voter for voter in self.voters if voter.address != address))


def survey(section: RaftSection) -> Survey:
    """Ask every configured member, and those they name. Raises ConfigError, and StoreUnavailableError if nobody answers."""
    checked(section, observer=True)
    from pgcore_dcs_raft.utility import ask_all

    configured = members(section)
    answers = ask_all(section, configured, ["members"])
    answers |= ask_all(section, _named(answers) - set(configured), ["members"])
    if not answers:
        raise StoreUnavailableError(f"no Raft member of {', '.join(configured)} answers; check the addresses and the password")
    word = max(answers.values(), key=lambda answer: (answer["leader"] is not None, answer["term"], answer["applied"]))
    entries = {address: json.loads(value)["removed"] for address, (value, _) in word["voters"].items()}
    seen = Survey(tuple(_voter(address, answers.get(address)) for address in word["members"]), word["leader"],
                  {address: reason for address, reason in entries.items() if reason})
    # A leader that has lost the others takes itself for one for a moment longer.
    return seen if seen.healthy >= seen.needed else replace(seen, leader=None)


def _named(answers: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {address for answer in answers.values() for address in answer["members"]}


def _voter(address: str, answer: Mapping[str, Any] | None) -> Voter:
    if answer is None:
        return Voter(address, "silent")
    state = "waiting" if answer["held"] else "leader" if answer["leads"] else "follower"
    return Voter(address, state, answer["term"], answer["applied"])


def list_members(section: RaftSection) -> tuple[str, ...]:
    """The voters by the word of a member that has a leader. Raises StoreUnavailableError if there is none."""
    return tuple(voter.address for voter in _led(section).voters)


def _led(section: RaftSection) -> Survey:
    seen = survey(section)
    if seen.leader is None:
        raise StoreUnavailableError(f"{seen.healthy} of {len(seen.voters)} Raft voters answer and none of them has a leader; "
                                    f"{seen.needed} are needed")
    return seen


def check_removal(section: RaftSection, address: str) -> Survey:
    """The cluster as it is, if that voter may be removed. Raises StoreRejectedError if it is none, or would end the majority."""
    address, seen = plain(address), _led(_besides(section, address))
    if address not in {voter.address for voter in seen.voters}:
        hint = "it was removed before" if address in seen.removed else "see pgcore raft members"
        raise StoreRejectedError(f"{address} is no voter ({hint})")
    rest = seen.without(address)
    if not rest.voters or rest.healthy < rest.needed:
        raise StoreRejectedError(
            f"{address} is not removed: of the {len(rest.voters)} voters that remain {rest.healthy} are well and {rest.needed} "
            "are needed, so nothing could be written any more. Start a silent one first")
    return seen


def remove_member(section: RaftSection, address: str) -> None:
    """Take a voter out of the cluster for good; if it runs, it stops taking part. It comes back only after ``admit_member``.

    Raises StoreRejectedError as ``check_removal``, StoreUnavailableError if it is not done in time: some of it may be.
    """
    address = plain(address)
    voters = check_removal(section, address).voters
    others = _besides(section, address, *(voter.address for voter in voters))

    def is_done() -> bool:
        seen = survey(others)
        return seen.leader not in (None, address) and address in seen.removed and address not in {v.address for v in seen.voters}

    _order(others, ["remove", address], is_done)


def admit_member(section: RaftSection, address: str) -> None:
    """Let a removed voter come again, with an empty data directory. Raises StoreRejectedError if it was not removed."""
    address = plain(address)
    others = _besides(section, address)
    if address not in _led(others).removed:
        raise StoreRejectedError(f"{address} was not removed, so it need not be let in: a new voter joins when it is started")
    _order(others, ["admit", address], lambda: address not in survey(others).removed)


def check_absence(section: RaftSection, addresses: Iterable[str]) -> None:
    """Raises StoreRejectedError if a process answers at one of these addresses."""
    from pgcore_dcs_raft.utility import ask_all

    answers = ask_all(section, addresses, ["members"])
    if answers:
        leaders = {answer["leader"] for answer in answers.values() if answer["leader"]}
        state = f"and {', '.join(sorted(leaders))} leads: the cluster is alive" if leaders else "without a leader"
        raise StoreRejectedError(f"nothing was changed: {', '.join(answers)} answers, {state}. Recovery is for voters that never "
                                 "come back; start this one and see pgcore raft members, or stop those first")


def _besides(section: RaftSection, address: str, *more: str) -> RaftSection:
    """The section of somebody who asks everybody but that address."""
    addresses = dict.fromkeys((*members(section), *more))
    return replace(section, self_addr=None, bind_addr=None, partner_addrs=tuple(each for each in addresses if each != address))


def _order(section: RaftSection, command: list[str], is_done: Callable[[], bool]) -> None:
    """Tell members until it is done: it is refused while another change or an election is under way."""
    from pgcore_dcs_raft.utility import ask

    end, answer = time.monotonic() + CHANGE_S, None
    while time.monotonic() < end:
        for address in members(section):
            if isinstance(answer := ask(section, address, command) or answer, str) and answer.startswith("SUCCESS"):
                break
        try:
            if is_done():
                return
        except StoreUnavailableError as error:
            log.info("%s", error)
        time.sleep(PAUSE_S)
    raise StoreUnavailableError(f"{' '.join(command)}: the Raft cluster did not do it within {CHANGE_S:.0f} s "
                                f"(last answer: {answer}); see pgcore raft members, and repeat it")
