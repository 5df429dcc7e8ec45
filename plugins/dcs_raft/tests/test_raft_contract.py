"""The store kit against three real Raft nodes in this process, which talk over loopback sockets."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.plugin import ANYTHING, Deadline, Instant, Key, StoreRequest, StoreUnavailableError, Timing, now
from pgcore.testing.dcs import Minority, StoreContract
from pgcore_dcs_raft.node import RaftNode
from pgcore_dcs_raft.plugin import RaftSection
from pgcore_dcs_raft.store import RaftStore

pytestmark = pytest.mark.server

CONTACT_S = 0.5
SCOPES = itertools.count()


class HastyClock:
    """The clock of all nodes: it runs as fast as the real one, and ahead of it by what the tests let pass."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> Instant:
        return Instant(now() + self.ahead_s)

    def elapse(self, seconds: float) -> None:
        """Five times as fast as real time, faster for long spans; nodes notice after a heartbeat period at most."""
        real_s = min(seconds / 5, 0.1)
        time.sleep(real_s)
        self.ahead_s += seconds - real_s


@pytest.fixture(scope="module")
def clock() -> HastyClock:
    return HastyClock()


@pytest.fixture(scope="module")
def nodes(free_addresses: Callable[[int], list[str]], tmp_path_factory: pytest.TempPathFactory,
          clock: HastyClock) -> Iterator[list[RaftNode]]:
    """One cluster for all tests of the kit; a test has a scope of its own."""
    addresses, directory = free_addresses(3), str(tmp_path_factory.mktemp("raft"))
    opened = [RaftNode(RaftSection(self_addr=address, partner_addrs=tuple(addresses), data_dir=directory, password="secret",
                                   connection_retry_time=0.3), Timing(), clock=clock.now) for address in addresses]
    yield opened
    for node in opened:
        node.close()


@contextlib.contextmanager
def frozen(nodes: list[RaftNode]) -> Iterator[None]:
    """The Raft threads of these nodes stand still, their sockets stay open: what SIGSTOP does to a process."""
    thaw = threading.Event()
    for node in nodes:
        node._raft.doTick = lambda patience: thaw.wait()
    time.sleep(2 * CONTACT_S)
    try:
        yield
    finally:
        for node in nodes:
            del node._raft.doTick
        thaw.set()


class TestRaftStore(StoreContract):
    """Members a and d share the first node, b and c have the others; opening a member again is a new session on the same node."""

    timing = Timing(ttl=5, loop_wait=1, retry_timeout=2)
    expiry_slack_s = 2.0
    races = 50  # each is ten entries that three nodes of one process write and send; PGCORE_TEST_RACES=1000 takes 11 s

    @pytest.fixture
    def cluster(self, nodes):
        path = f"/service/scope{next(SCOPES)}"

        def open_store(member: str, timing: Timing, observer: bool = False) -> RaftStore:
            request = StoreRequest(None, path, member, timing, observer)
            return RaftStore(nodes["abc".find(member) if member in "abc" else 0], request, contact_s=CONTACT_S, owns_node=False)

        return open_store

    @pytest.fixture
    def elapse(self, clock):
        return clock.elapse

    @pytest.fixture
    def outage(self, nodes):
        return frozen(nodes[1:])

    @pytest.fixture
    def minority(self, cluster, outage):
        return Minority(cluster, outage)

    def test_close_ends_a_verb_under_way(self, sections, start):
        """With a node of its own, as agents have it, which finds no other; the stores of the other cases share theirs."""
        a = start(sections(3)[0], "a")
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(a.put, Key.CONFIG, "x", expect=ANYTHING, deadline=Deadline.after(20))
            time.sleep(0.3)  # let the verb begin to wait
            a.close()
            with pytest.raises(StoreUnavailableError):
                writing.result(timeout=self.promptly_s)
