"""Asking before electing: a member that misses the leader asks the others whether they would vote, and only then raises its term.

pysyncobj raises its term as soon as it has heard no leader for a while, and a higher term deposes whoever leads. A member that is
cut off from the leader but not from the others would do so again and again, and one that returns once; nothing can be written
during each election. The question (pre-vote, section 9.6 of Ongaro's dissertation) raises nothing. Who does not lead, has missed
the leader too and has no newer entries says yes, others say nothing. With a majority the election that the library knows begins.

The library's deadline for an election is taken away before each tick and given back, as passed, when an election may begin.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pysyncobj.monotonic import monotonic  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from pgcore_dcs_raft.journal import Journal
    from pgcore_dcs_raft.transport import Transport

NEVER, PASSED = float("inf"), float("-inf")


class PreVote:
    """The question, its answers, and the permission to elect, of one member. Used by the Raft thread only."""

    def __init__(self, transport: Transport, raft: Any, journal: Journal) -> None:
        self._transport, self._raft, self._journal = transport, raft, journal
        self._due = NEVER
        self._round = 0
        self._granted: dict[str, int] = {}
        self._heard_at = PASSED
        self._is_leader_behind = False

    def before_tick(self) -> None:
        """Let the library begin an election in this tick, or not."""
        deadline, self._raft._SyncObj__raftElectionDeadline = self._raft._SyncObj__raftElectionDeadline, NEVER
        if deadline != NEVER:  # it has heard a leader, voted, or begun an election
            self._begin_round(deadline)
        others = self._raft.otherNodes
        if self._raft._isLeader():
            return
        if self._is_granted(others):
            self._elect()
        elif monotonic() >= self._due:
            # A leader of an earlier term is ignored here, and heard elsewhere: only an election tells it the term.
            if not others or self._is_leader_behind:
                self._elect()
            else:
                self._ask([node for node in others if self._raft.isNodeConnected(node)], len(others))

    def _begin_round(self, due: float) -> None:
        self._due = due
        self._round += 1
        self._granted.clear()

    def _is_granted(self, others: Any) -> bool:
        return bool(others) and is_majority(sum(node.id in self._granted for node in others), len(others))

    def _elect(self) -> None:
        """Begin an election in a term that is new to all who would vote."""
        term = max(self._granted.values(), default=0)
        if term > self._raft.raftCurrentTerm:
            self._raft._SyncObj__setCurrentTerm(term, None)
        self._granted.clear()
        self._is_leader_behind = False
        self._raft._SyncObj__raftElectionDeadline = PASSED

    def _ask(self, reachable: list[Any], others: int) -> None:
        """Ask those who are connected; while they are too few the next tick looks again."""
        if is_majority(len(reachable), others):
            conf = self._raft.conf
            self._begin_round(monotonic() + random.uniform(conf.raftMinTimeout, conf.raftMaxTimeout))
            _, index, term = self._journal[-1]
            question = {"type": "pre_vote", "round": self._round, "last_log_index": index, "last_log_term": term}
            for node in reachable:
                self._transport.send(node, question)

    def takes(self, node: Any, message: Mapping[str, Any]) -> bool:
        """Look at what a peer sent. True for what is none of the library's business."""
        kind = message.get("type")
        if kind == "append_entries":
            self._is_leader_behind = message["term"] < self._raft.raftCurrentTerm
            if not self._is_leader_behind:
                self._heard_at = monotonic()
        elif kind == "pre_vote" and self._would_vote(message["last_log_term"], message["last_log_index"]):
            term = self._raft.raftCurrentTerm
            self._transport.send(node, {"type": "pre_vote_granted", "round": message["round"], "term": term})
        elif kind == "pre_vote_granted" and message["round"] == self._round:
            self._granted[node.id] = int(message["term"])
        return kind in ("pre_vote", "pre_vote_granted")

    def _would_vote(self, last_term: int, last_index: int) -> bool:
        """A heartbeat may reach the one a little later than the other: hence a period less than the shortest silence."""
        conf = self._raft.conf
        silent = monotonic() - self._heard_at >= conf.raftMinTimeout - conf.appendEntriesPeriod
        _, index, term = self._journal[-1]
        return silent and not self._raft._isLeader() and (last_term, last_index) >= (term, index)


def is_majority(others_for_it: int, others: int) -> bool:
    """Whether this many of the others and the member itself are a majority."""
    return others_for_it + 1 > (others + 1) / 2
