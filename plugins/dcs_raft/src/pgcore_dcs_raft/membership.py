"""Who may vote: the identity of a data directory, what was decided about each address, and the question before voting.

A Raft member that has forgotten its votes and entries, or that was removed, must not vote under its address. So each data
directory has an identity, a random *incarnation*, and the replicated dictionary has an entry for each address at
``/pgcore-raft/voters/<address>``: the incarnation that votes, or that an operator removed it, and those that are barred for good.

A member that starts is *held*: it talks to no other member about terms, votes and entries, and answers questions only. It
asks every configured member once what is known of its address. The word with the highest log index counts.

* Nothing against it: it takes part. A directory that never did, which is new or the heir of a lost one, first waits until a
  majority or somebody with a leader has answered; less could not elect it anyway.
* Something against it: a directory that has taken part is refused for good, which is written down in it, and its Raft thread
  ends. A new one remains held and asks again, until an operator has removed the old one and let it in (``pgcore raft``).

Later it asks again only while it hears of no leader. A removal that it applies itself refuses it at once.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pysyncobj import FAIL_REASON  # type: ignore[import-untyped]

from pgcore.plugin import ConfigError, Deadline, Json, PgcoreError
from pgcore_dcs_raft.lock import SUFFIX
from pgcore_dcs_raft.plugin import RaftSection, plain
from pgcore_dcs_raft.utility import ask, ask_all

if TYPE_CHECKING:
    from pgcore_dcs_raft.node import RaftNode

log = logging.getLogger(__name__)

VOTERS = "/pgcore-raft/voters/"
INTERVAL_S = 2.0
FIRST_INTERVAL_S = 0.25
OUT_OF_TOUCH_S = 4.0
REGISTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Known:
    """What was decided about an address. Without incarnation and removal it may come, unless its directory is barred."""

    incarnation: str | None = None
    removed: str | None = None
    barred: tuple[str, ...] = ()
    index: int = 0
    """Of the log entry that says so; 0 in one that is still to be written."""

    @classmethod
    def read(cls, value: str, index: int) -> Known:
        """From an entry of the dictionary."""
        told = json.loads(value)
        return cls(told["incarnation"], told["removed"], tuple(told["barred"]), index)

    def text(self) -> str:
        """As it is written into the dictionary."""
        return json.dumps({"incarnation": self.incarnation, "removed": self.removed, "barred": self.barred})

    def after_removal(self, reason: str) -> Known:
        """The same address when it has been removed; its directory can't be used again."""
        return Known(removed=reason, barred=self._gone)

    def after_admission(self) -> Known:
        """The same address when an operator lets it in again."""
        return Known(barred=self._gone)

    @property
    def _gone(self) -> tuple[str, ...]:
        return (*self.barred, self.incarnation) if self.incarnation else self.barred

    def objection(self, address: str, incarnation: str) -> str | None:
        """Why a directory must not vote under this address, and what to do; None if it may."""
        if self.removed:
            return (f"{address} was removed from the Raft cluster ({self.removed}): to let it in again stop it, delete its files "
                    f"in raft.data_dir, run `pgcore raft add {address}` on another member, and start it")
        if incarnation == self.incarnation:
            return None
        if self.incarnation:
            return (f"{address} has voted with another data directory than this one: bring that one back, or if it is lost, "
                    f"run `pgcore raft remove {address}` and `pgcore raft add {address}` on another member")
        if incarnation in self.barred:
            return (f"this data directory was in use before {address} was removed and admitted again: stop this member, delete "
                    f"its files in raft.data_dir, and start it again")
        return None


class Identity:
    """``<self_addr>.identity`` in the data directory: its incarnation, whether it has taken part, and why it was refused."""

    def __init__(self, section: RaftSection, address: str) -> None:
        """Read it; a directory without a journal gets a new one. Raises ConfigError if that is impossible."""
        self._path = os.path.join(section.data_dir, address + ".identity")
        self.incarnation = secrets.token_hex(8)
        self.used = False
        self.refused: str | None = None
        try:
            if _has_state(section.data_dir or ".", address) and os.path.exists(self._path):
                self._read()
            else:
                self.used = _has_state(section.data_dir or ".", address)  # it is from before there were identities
                self._write()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError("raft.data_dir", f"{self._path} cannot be read or written: {error}",
                              "make it accessible to the user pgcore runs as; if it is damaged, let this member begin anew: "
                              "pgcore raft remove, delete its files, pgcore raft add") from error

    def use(self) -> None:
        """Note that this directory takes part from now on. Raises OSError."""
        if not self.used:
            self.used = True
            self._write()

    def refuse(self, reason: str) -> None:
        """Note for every later start that this directory must not be used again. Raises OSError."""
        self.refused = reason
        self._write()

    def _read(self) -> None:
        with open(self._path, encoding="utf-8") as file:
            told = json.load(file)
        self.incarnation, self.used, self.refused = str(told["incarnation"]), bool(told["used"]), told["refused"]

    def _write(self) -> None:
        """Whole or not at all, and on the disk."""
        text = json.dumps({"incarnation": self.incarnation, "used": self.used, "refused": self.refused})
        with open(self._path + ".tmp", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._path + ".tmp", self._path)
        directory = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _has_state(directory: str, address: str) -> bool:
    """Whether this address has kept a journal or a snapshot there."""
    own = {".identity", ".identity.tmp", SUFFIX}
    return any(name.startswith(address + ".") and name.removeprefix(address) not in own and
               os.path.isfile(os.path.join(directory, name)) for name in os.listdir(directory))


class Membership:
    """The part of a node that knows whether it may vote.

    ``refusal`` is what every verb answers with. The Raft thread obeys ``held`` and ends when ``ended``.
    """

    def __init__(self, node: RaftNode, section: RaftSection, address: str, others: Iterable[str]) -> None:
        self._node, self._section, self._address, self._others = node, section, address, tuple(others)
        self.identity = Identity(section, address)
        self.refusal = self.identity.refused
        self.held = bool(self._others)
        self.ended = self.refusal is not None
        if not self._others and not self.refusal:
            self.identity.use()
        self._checked = 0
        if self.refusal:
            log.error("This Raft member takes no part: %s", self.refusal)

    def start(self) -> None:
        """Ask, join and register, on a thread of its own."""
        if not self.ended:
            threading.Thread(target=self._run, name="raft-join", daemon=True).start()

    # -- what is known -------------------------------------------------------------------------------------------------

    def known(self, address: str) -> Known:
        """What this node has applied about an address."""
        entry = self._node.machine.entries(VOTERS).get(address)
        return Known() if entry is None else Known.read(*entry)

    def examine(self) -> None:
        """Refuse this directory if something against it was decided (Raft thread, when it has applied all that was)."""
        known = self.known(self._address)
        if known.index > self._checked:
            self._checked = known.index
            if reason := known.objection(self._address, self.identity.incarnation):
                self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        if self.refusal != reason:
            log.error("This Raft member takes no part: %s", reason)
        if self.identity.used:
            self.ended = True
            try:
                self.identity.refuse(reason)
            except OSError as error:
                log.error("This refusal could not be written down, so the next start asks the others again: %s", error)
        self.refusal = reason
        self._node.wake()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._node.closing and not self.ended:
            if not self.held and (not self._others or self._node.is_in_touch(OUT_OF_TOUCH_S)):
                self._register()
                self._node.pause(INTERVAL_S)
            else:
                self._ask()
                self._node.pause(FIRST_INTERVAL_S if self.held and not self.refusal else INTERVAL_S)

    def _ask(self) -> None:
        answers = ask_all(self._section, self._others, ["members"])
        words = [self.known(self._address), *_words_about(self._address, answers.values())]
        latest = max(words, key=lambda known: known.index)
        if reason := latest.objection(self._address, self.identity.incarnation):
            self._refuse(reason)
        elif self.identity.used or _is_enough(answers, len(self._others) + 1):
            self.refusal = None
            try:
                self.identity.use()
            except OSError as error:
                log.error("This Raft member waits, as its identity cannot be written: %s", error)
                return
            self.held = False
            self._ask_to_be_added(answers)

    def _ask_to_be_added(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """A leader speaks to members only (dcs-layout 10)."""
        for address, answer in answers.items():
            if answer.get("leader"):
                if self._address not in answer["members"]:
                    log.info("Asking Raft member %s to add this node, %s", address, self._address)
                    ask(self._section, address, ["add", self._address])
                return

    def _register(self) -> None:
        """Have it decided that this directory is the one that votes; another round tries again what fails."""
        known = self.known(self._address)
        if known.incarnation is None and not known.removed:
            mine = Known(self.identity.incarnation, barred=known.barred)
            condition: dict[str, Json] = {"prevIndex": known.index} if known.index else {"prevExist": False}
            with suppress(PgcoreError):
                self._node.submit(put_known(self._address, mine, self._address) | condition, Deadline.after(REGISTER_S))

    # -- questions and orders of others (Raft thread) ------------------------------------------------------------------

    def members(self, arguments: list[Any], answer: Callable[[Any, Any], None]) -> None:
        """Answer the utility command ``members``: who votes, who leads, what is known of each address, and how this node is."""
        entries = {address: list(entry) for address, entry in self._node.machine.entries(VOTERS).items()}
        answer(self._node.described() | {"voters": entries, "incarnation": self.identity.incarnation, "held": self.held}, None)

    def add(self, arguments: list[Any], answer: Callable[[Any, int], None]) -> None:
        """Answer ``add``: a voter that was removed stays out until it is admitted."""
        address = plain(str(arguments[0]))
        if self.known(address).removed:
            answer(None, FAIL_REASON.REQUEST_DENIED)
        else:
            self._node.change_members("add", address, answer)

    def remove(self, arguments: list[Any], answer: Callable[[Any, int], None]) -> None:
        """Answer ``remove``: decide that the address is removed, then take it out of the voters."""
        address = plain(str(arguments[0]))
        known = self.known(address)

        def take_out(result: Any, error: int) -> None:
            if error == FAIL_REASON.SUCCESS:
                self._node.change_members("remove", address, answer)
            else:
                answer(None, error)

        if address == self._address:
            answer(None, FAIL_REASON.REQUEST_DENIED)
        elif known.removed:
            take_out(None, FAIL_REASON.SUCCESS)
        else:
            removed = known.after_removal(f"by an operator, {moment()}")
            self._node.propose(put_known(address, removed, self._address), take_out)

    def admit(self, arguments: list[Any], answer: Callable[[Any, int], None]) -> None:
        """Answer ``admit``: a removed address may come again, with a new directory."""
        address = plain(str(arguments[0]))
        known = self.known(address)
        if known.removed:
            self._node.propose(put_known(address, known.after_admission(), self._address),
                               lambda result, error: answer(None, error))
        else:
            answer(None, FAIL_REASON.REQUEST_DENIED)


def put_known(address: str, known: Known, member: str) -> dict[str, Json]:
    """The command that says this about an address, of a session of its own: none of these can be taken for a late one."""
    return {"op": "put", "path": VOTERS + address, "value": known.text(), "member": member, "time": time.time(),
            "session": secrets.token_hex(8), "number": 1}


def moment() -> str:
    """Now, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _words_about(address: str, answers: Iterable[Mapping[str, Any]]) -> list[Known]:
    told = (answer.get("voters", {}).get(address) for answer in answers)
    return [Known.read(*entry) for entry in told if entry is not None]


def _is_enough(answers: Mapping[str, Mapping[str, Any]], voters: int) -> bool:
    """Whether a directory nobody knows may begin to vote: nobody who answers objects, and enough do."""
    return any(answer.get("leader") for answer in answers.values()) or len(answers) + 1 > voters / 2
