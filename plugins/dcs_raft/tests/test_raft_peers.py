"""A member and peers made by hand, over real sockets: what it keeps of its word, and what it takes from whom.

Promises: a vote across a restart, entries whatever a leader repeats. Strangers: nothing before the password, and limits.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore.plugin import ANYTHING, Key
from pgcore_dcs_raft.channel import KEY_BYTES, PROOF_BYTES, WORD, Channel, Refused, secret_of
from pgcore_dcs_raft.connection import LARGEST_BYTES, MOST_STRANGERS
from pgcore_dcs_raft.journal import Journal
from pgcore_dcs_raft.wire import decode, encode

pytestmark = pytest.mark.server


class Peer:
    """One connection to the member at ``address``. With the wrong password it goes on as if it had been let in."""

    def __init__(self, address: str, password: str | None, name: str | list[str]) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.channel = Channel(secret_of(password), connects=True)
        self.socket.sendall(self.channel.hello())
        self.socket.sendall(self.channel.receive(self.read(self.channel.expects)))
        if password:
            self.channel.receive(self.read(PROOF_BYTES))
        self.say(name)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def say(self, message: Any) -> None:
        sealed = self.channel.seal(encode(message))
        self.socket.sendall(struct.pack(">I", len(sealed)) + sealed)

    def hear(self, kind: str, seconds: float = 10.0) -> dict[str, Any] | None:
        """The next message of that type, None if none comes in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                length, = struct.unpack(">I", self.read(4))
                message = decode(self.channel.unseal(self.read(length)))
            except TimeoutError:
                return None
            if isinstance(message, dict) and message["type"] == kind:
                return message
        return None

    def close(self) -> None:
        self.socket.close()


def append(term: int, after: tuple[int, int], entries: list[tuple[bytes, int, int]], commit: int = 1) -> dict[str, Any]:
    """What a leader sends; ``after`` is index and term of the entry before."""
    return {"type": "append_entries", "term": term, "commit_index": commit, "entries": entries,
            "prevLogIdx": after[0], "prevLogTerm": after[1]}


def entries(first: int, last: int, term: int) -> list[tuple[bytes, int, int]]:
    """Entries without effect."""
    return [(b"\x01", index, term) for index in range(first, last + 1)]


@pytest.fixture
def lone(sections, start, free_addresses) -> Any:
    """Makes a lone member of a cluster of three, which never leads, because the others would have to vote for it.

    The two others have the higher addresses, so that they connect.
    """

    def make(min_timeout: float, max_timeout: float) -> Any:
        section, = sections(1, password="secret", partner_addrs=("127.0.0.1:65533", "127.0.0.1:65534"), min_timeout=min_timeout,
                            max_timeout=max_timeout, connection_timeout=10.0)

        class Lone:
            path = f"{section.data_dir}/{section.self_addr}.journal"

            def start(self) -> None:
                self.store = start(section, "a")
                end = time.monotonic() + 20
                while self.store._node.held:  # until it knows that none of the others objects
                    assert time.monotonic() < end
                    time.sleep(0.02)

            def restart(self) -> None:
                self.store.close()
                self.start()

            @contextlib.contextmanager
            def peer(self, number: int) -> Iterator[Peer]:
                peer = Peer(section.self_addr, "secret", f"127.0.0.1:6553{number}")
                try:
                    yield peer
                finally:
                    peer.close()

            def log(self) -> list[tuple[int, int]]:
                """Index and term of what a restart would find."""
                return [(index, term) for _, index, term in Journal(self.path)[:]]

            def term(self) -> int:
                return Journal(self.path).getCurrentTerm()

        os.makedirs(section.data_dir)
        journal = Journal(Lone.path)  # a new directory would wait for a majority
        journal.add(b"\x01", 1, 0)
        journal.sync()
        made = Lone()
        made.start()
        return made

    return make


@pytest.fixture
def member(lone) -> Any:
    """One that waits for a leader for longer than a test takes."""
    return lone(8.0, 9.0)


def vote(term: int) -> dict[str, Any]:
    return {"type": "request_vote", "term": term, "last_log_index": 99, "last_log_term": 99}


def test_one_vote_in_a_term_also_across_a_restart(member):
    with member.peer(3) as first:
        first.say(vote(7))
        assert first.hear("response_vote") == {"type": "response_vote", "term": 7}
    member.restart()
    with member.peer(4) as second:
        second.say(vote(7))
        assert second.hear("response_vote", 1.0) is None, "a second vote in term 7"
        second.say(vote(8))
        assert second.hear("response_vote") == {"type": "response_vote", "term": 8}


def test_what_a_leader_sends_again_in_parts_makes_a_member_forget_nothing(member):
    with member.peer(3) as leader:
        leader.say(append(5, (1, 0), entries(2, 9, 5)))
        assert leader.hear("next_node_idx")["next_node_idx"] == 10
        for after, again in (((1, 0), entries(2, 3, 5)), ((4, 5), []), ((1, 0), [])):
            leader.say(append(5, after, again))
            answer = leader.hear("next_node_idx")
            assert answer["success"] and answer["next_node_idx"] == after[0] + len(again) + 1, "only what came is confirmed"
            assert member.log() == [(1, 0)] + [(index, 5) for index in range(2, 10)]
        leader.say(append(5, (8, 5), entries(9, 11, 5)))
        assert leader.hear("next_node_idx")["next_node_idx"] == 12
        assert member.log()[-3:] == [(9, 5), (10, 5), (11, 5)]


def test_entries_of_a_deposed_leader_are_cut_where_the_new_one_differs_and_only_there(member):
    with member.peer(3) as old:
        old.say(append(5, (1, 0), entries(2, 9, 5)))
        assert old.hear("next_node_idx")["next_node_idx"] == 10
    with member.peer(4) as new:
        new.say(append(6, (3, 5), [(b"\x01", 4, 5), (b"\x01", 5, 6)]))
        assert new.hear("next_node_idx")["next_node_idx"] == 6
        assert member.log() == [(1, 0), (2, 5), (3, 5), (4, 5), (5, 6)]
        new.say(append(6, (7, 6), []))
        answer = new.hear("next_node_idx")
        assert (answer["success"], answer["next_node_idx"]) == (False, 6)
    member.restart()
    assert member.log() == [(1, 0), (2, 5), (3, 5), (4, 5), (5, 6)]


def test_a_commit_index_covers_only_what_the_leader_has_confirmed(member):
    with member.peer(3) as old:
        old.say(append(5, (1, 0), entries(2, 9, 5)))
        old.hear("next_node_idx")
    with member.peer(4) as new:
        new.say(append(6, (1, 0), entries(2, 3, 5), commit=8))
        assert new.hear("next_node_idx")["next_node_idx"] == 4
        assert member.store._node._raft.raftCommitIndex == 3


# -- elections ---------------------------------------------------------------------------------------------------------

def question(last_term: int = 99, number: int = 1) -> dict[str, Any]:
    return {"type": "pre_vote", "round": number, "last_log_index": 99, "last_log_term": last_term}


def test_a_member_that_nobody_would_vote_for_asks_again_and_raises_no_term(lone):
    restless = lone(0.4, 0.6)
    with restless.peer(3) as peer:
        rounds = [peer.hear("pre_vote")["round"] for _ in range(4)]
        assert sorted(set(rounds)) == rounds and restless.term() == 0
        peer.say({"type": "pre_vote_granted", "round": rounds[-2], "term": 6})
        assert peer.hear("request_vote", 0.3) is None, "an answer to an earlier question"
        peer.say({"type": "pre_vote_granted", "round": peer.hear("pre_vote")["round"], "term": 6})
        assert peer.hear("request_vote")["term"] == 7, "an election in a term that is new to both"


def test_a_member_says_yes_only_after_silence_and_to_nobody_who_knows_less(lone):
    restless = lone(0.6, 0.7)
    with restless.peer(3) as leader, restless.peer(4) as candidate:
        for _ in range(6):
            leader.say(append(5, (1, 0), []))
            assert leader.hear("next_node_idx")
            candidate.say(question())
            assert candidate.hear("pre_vote_granted", 0.2) is None, "it hears a leader"
        candidate.say(question(last_term=-1, number=8))
        time.sleep(0.8)
        candidate.say(question(last_term=-1, number=9))
        candidate.say(question(number=10))
        assert candidate.hear("pre_vote_granted") == {"type": "pre_vote_granted", "round": 10, "term": 5}
        assert restless.term() == 5, "saying yes promises nothing"


def test_a_leader_of_an_earlier_term_is_told_by_an_election(lone):
    restless = lone(0.6, 0.8)
    with restless.peer(3) as leader, restless.peer(4) as candidate:
        candidate.say(vote(9))
        assert candidate.hear("response_vote")
        heard, end = None, time.monotonic() + 10
        while heard is None and time.monotonic() < end:
            leader.say(append(5, (1, 0), []))
            heard = leader.hear("request_vote", 0.1)
        assert heard and heard["term"] == 10


# -- strangers ---------------------------------------------------------------------------------------------------------

class Bomb:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def answers(address: str, *sent: bytes) -> bytes:
    """All a member says to this, until it hangs up."""
    host, port = address.rsplit(":", 1)
    heard = b""
    with socket.create_connection((host, int(port)), timeout=10) as stranger, contextlib.suppress(ConnectionResetError):
        for data in sent:
            with contextlib.suppress(BrokenPipeError):
                stranger.sendall(data)
        while more := stranger.recv(4096):
            heard += more
    return heard


def framed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@pytest.mark.parametrize("attempt", ["no hello", "pysyncobj", "no proof", "wrong proof", "proof reflected", "open"])
def test_a_peer_that_has_not_proven_the_password_gets_a_hello_and_nothing_more(sections, start, soon, tmp_path, attempt):
    section, = sections(1, password="right", connection_timeout=0.8)
    store = start(section, "a")
    store.put(Key.CONFIG, "hidden", expect=ANYTHING, deadline=soon())
    bomb = framed(pickle.dumps(Bomb(tmp_path / "boom"))) + framed(encode(["members"])) + framed(encode("readonly"))
    other = Channel(secret_of("wrong"), connects=True)
    sent = {
        "no hello": [],
        "pysyncobj": [struct.pack("i", 5000) + pickle.dumps(Bomb(tmp_path / "boom"), 2) + bytes(5000)],
        "no proof": [other.hello(), bomb],
        "wrong proof": [other.hello(), os.urandom(PROOF_BYTES), bomb],
        "proof reflected": [WORD[True] + bytes(KEY_BYTES), bytes(PROOF_BYTES), bomb],
        "open": [WORD[False], bomb]}[attempt]
    heard = answers(section.self_addr, *sent)
    assert heard.startswith(WORD[True]) and len(heard) == len(WORD[True]) + KEY_BYTES
    assert not (tmp_path / "boom").exists()
    assert store.read(fresh=True, deadline=soon()).records["config"].value == "hidden"


def test_with_the_wrong_password_nobody_is_let_in_and_with_the_right_one_he_is(sections, start):
    section, = sections(1, password="right")
    start(section, "a")
    with pytest.raises(EOFError):
        Peer(section.self_addr, "wrong", ["members"])
    peer = Peer(section.self_addr, "right", ["members"])
    length, = struct.unpack(">I", peer.read(4))
    assert decode(peer.channel.unseal(peer.read(length)))["members"] == [section.self_addr]
    peer.close()


def opened() -> tuple[Channel, Channel]:
    """Two ends of a connection between members."""
    ours, theirs = Channel(secret_of("right"), connects=True), Channel(secret_of("right"), connects=False)
    theirs.receive(ours.hello())
    ours.receive(theirs.receive(ours.receive(theirs.hello())))
    assert ours.is_open and theirs.is_open
    return ours, theirs


def test_a_sealed_message_opens_once_in_its_place_on_its_connection_and_unchanged():
    ours, theirs = opened()
    first, second = ours.seal(b"first"), ours.seal(b"second")
    assert b"first" not in first
    for wrong in (second, first[:-1] + bytes([first[-1] ^ 1]), opened()[0].seal(b"first"), theirs.seal(b"first"), b""):
        other = opened()[1]
        with pytest.raises(Refused):
            other.unseal(wrong)
    assert theirs.unseal(first) == b"first"
    with pytest.raises(Refused):
        theirs.unseal(first)


def test_a_proof_is_worth_nothing_on_another_connection():
    secret = secret_of("right")
    client, server = Channel(secret, connects=True), Channel(secret, connects=False)
    server.receive(client.hello())
    proof = client.receive(server.hello())
    later = Channel(secret, connects=False)
    later.receive(client.hello())
    with pytest.raises(Refused):
        later.receive(proof)


def test_a_message_announced_as_larger_than_any_is_not_waited_for(sections, start, soon):
    section, = sections(1)
    store = start(section, "a")
    assert answers(section.self_addr, WORD[False], struct.pack(">I", LARGEST_BYTES + 1)) == WORD[False]
    store.put(Key.CONFIG, "1", expect=ANYTHING, deadline=soon())


def test_a_crowd_of_silent_strangers_neither_stays_nor_keeps_members_out(sections, start, soon):
    parts = sections(2, password="right", connection_timeout=1.0)
    first = start(parts[0], "a")
    host, port = parts[0].self_addr.rsplit(":", 1)
    crowd = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2 * MOST_STRANGERS)]
    try:
        second = start(parts[1], "b")
        second.put(Key.CONFIG, "1", expect=ANYTHING, deadline=soon())
        for stranger in crowd:
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(4096):
                    pass
    finally:
        for stranger in crowd:
            stranger.close()
    assert first.read(fresh=True, deadline=soon()).records["config"].value == "1"
