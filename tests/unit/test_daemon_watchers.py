"""What wakes the heartbeat: the mailbox, the store's watch, the end of a real process. (architecture 11)"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pgcore.clock import Deadline, now
from pgcore.daemon.mailbox import Mailbox, ReloadConfig, WriteFailover
from pgcore.daemon.watchers import SETTLE_S, PostmasterWatch, watch_store
from pgcore.dcs.store import ANYTHING, Key
from pgcore.model.basics import Instant
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from unit.test_daemon_kit import SHORT, Counting, eventually

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def soon(seconds: float) -> Instant:
    return Instant(now() + seconds)


# -- mailbox -------------------------------------------------------------------------------------------------------------


def test_a_wake_up_ends_the_wait_and_the_same_reason_is_told_once() -> None:
    mailbox = Mailbox()

    def wake() -> None:
        for reason in "aba":
            mailbox.wake(reason)

    threading.Timer(0.05, wake).start()
    began = time.monotonic()
    reasons, letters = mailbox.wait(soon(5))
    assert time.monotonic() - began < 2 and reasons[0] == "a" and letters == ()
    time.sleep(0.05)
    assert (*reasons, *mailbox.wait(soon(0))[0]) in [("a", "b"), ("a", "b", "a")]
    assert mailbox.wait(soon(0)) == ((), ())


def test_a_wait_ends_at_its_time() -> None:
    began = time.monotonic()
    assert Mailbox().wait(soon(0.1)) == ((), ())
    assert 0.09 < time.monotonic() - began < 1


def test_a_wake_up_before_the_wait_is_not_lost() -> None:
    mailbox = Mailbox()
    mailbox.wake("early")
    assert mailbox.wait(soon(5))[0] == ("early",)


def test_a_request_is_taken_once_and_its_answer_reaches_who_asked() -> None:
    mailbox = Mailbox()
    answer, other = mailbox.ask(WriteFailover(candidate="b")), mailbox.ask(ReloadConfig())
    _, letters = mailbox.wait(soon(5))
    assert [letter.request for letter in letters] == [WriteFailover(candidate="b"), ReloadConfig()]
    letters[0].reply.set_result(True)
    assert answer.result(1) is True and not other.done()
    assert mailbox.wait(soon(0)) == ((), ())


# -- the store -------------------------------------------------------------------------------------------------------------


class Heartbeat:
    """A member whose watch runs; ``read`` does what the heartbeat does first in a beat."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.store, self.other = (MemoryStore(self.server, name, SHORT) for name in "ab")
        self.mailbox = Counting()
        self.revision = ""
        self.ended, self.asked, self.pauses = False, 0, 0

    def watch(self, pause_s: float = 30) -> None:
        def revision() -> str:
            self.asked += 1
            if self.ended:
                raise SystemExit  # the only way out of a thread that is made to run as long as the agent
            return self.revision

        def pause() -> float:
            self.pauses += 1
            return pause_s

        watch_store(self.store, self.mailbox, revision, pause)

    def read(self) -> None:
        self.revision = self.store.read(fresh=False, deadline=Deadline.after(1)).revision

    def change(self, key: Key = Key.CONFIG) -> None:
        self.other.put(key, str(time.monotonic()), expect=ANYTHING, deadline=Deadline.after(1))


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    heartbeat = Heartbeat()
    yield heartbeat
    heartbeat.ended = True
    heartbeat.change()


def test_a_change_wakes_at_once(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    heartbeat.watch()
    time.sleep(0.1)
    assert heartbeat.mailbox.woken == []
    began = time.monotonic()
    heartbeat.change(Key.FAILOVER)
    assert heartbeat.mailbox.wait(soon(5))[0] == ("the store changed",)
    assert time.monotonic() - began < 0.5


def test_a_change_between_the_reading_and_the_watch_is_not_missed(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    heartbeat.change()
    heartbeat.watch()
    eventually(lambda: heartbeat.mailbox.woken)


def test_every_change_wakes_once_when_the_heartbeat_reads_it(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    heartbeat.watch()
    for number in range(1, 6):
        heartbeat.change()
        eventually(lambda: len(heartbeat.mailbox.woken) == number)  # noqa: B023 - asked within the same round
        heartbeat.read()
        time.sleep(0.03)
    assert len(heartbeat.mailbox.woken) == 5


def test_a_change_the_heartbeat_has_not_read_yet_does_not_wake_in_a_loop(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    heartbeat.watch()
    heartbeat.change()
    time.sleep(SETTLE_S + 0.2)
    assert len(heartbeat.mailbox.woken) == 2
    assert heartbeat.pauses == 2


def test_the_next_change_wakes_as_soon_as_the_last_was_read(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    heartbeat.watch()
    heartbeat.change()
    eventually(lambda: len(heartbeat.mailbox.woken) == 1)
    heartbeat.read()
    began = time.monotonic()
    heartbeat.change()
    eventually(lambda: len(heartbeat.mailbox.woken) == 2)
    assert time.monotonic() - began < 0.5


def test_before_the_first_reading_nothing_wakes_and_hardly_anything_runs(heartbeat: Heartbeat) -> None:
    heartbeat.watch()
    heartbeat.change()
    time.sleep(0.3)
    assert heartbeat.mailbox.woken == [] and heartbeat.asked < 15


def test_keys_that_change_in_every_beat_do_not_wake(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    heartbeat.watch()
    heartbeat.change(Key.STATUS)
    heartbeat.other.announce("{}", deadline=Deadline.after(1))
    time.sleep(0.1)
    assert heartbeat.mailbox.woken == []


def test_during_an_outage_the_watch_waits_its_pause_out(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    with heartbeat.server.outage():
        heartbeat.watch(pause_s=0.1)
        time.sleep(0.45)
        assert heartbeat.mailbox.woken == [] and 3 <= heartbeat.pauses <= 6
    heartbeat.change()
    eventually(lambda: heartbeat.mailbox.woken)


def test_after_the_store_was_closed_the_watch_does_not_spin(heartbeat: Heartbeat) -> None:
    heartbeat.change()
    heartbeat.read()
    heartbeat.watch()
    heartbeat.store.close()
    time.sleep(0.1)
    looked, heartbeat.ended = heartbeat.pauses, True
    assert looked < 20


# -- the postmaster --------------------------------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def process() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    yield process
    for each in started:
        each.kill()
        each.wait()


Start = Callable[[], subprocess.Popen[bytes]]


def test_a_killed_process_wakes_at_once(start: Start) -> None:
    mailbox, process = Counting(), start()
    watch = PostmasterWatch(mailbox)
    watch.follow(process.pid)
    watch.follow(process.pid)
    time.sleep(0.05)
    assert mailbox.woken == []
    began = time.monotonic()
    process.kill()
    eventually(lambda: mailbox.woken == ["the postmaster ended"])
    assert time.monotonic() - began < 0.5


def test_one_end_wakes_once(start: Start) -> None:
    mailbox, process = Counting(), start()
    watch = PostmasterWatch(mailbox)
    watch.follow(process.pid)
    process.kill()
    process.wait()
    eventually(lambda: mailbox.woken)
    watch.follow(process.pid)
    time.sleep(0.2)
    assert len(mailbox.woken) == 1


def test_a_process_that_is_gone_already_wakes(start: Start) -> None:
    process = start()
    process.kill()
    process.wait()
    mailbox = Counting()
    PostmasterWatch(mailbox).follow(process.pid)
    eventually(lambda: mailbox.woken == ["the postmaster ended"])


def test_after_a_restart_the_new_process_is_watched_and_the_old_one_forgotten(start: Start) -> None:
    mailbox, old, new = Counting(), start(), start()
    watch = PostmasterWatch(mailbox)
    watch.follow(old.pid)
    time.sleep(0.05)
    watch.follow(new.pid)
    time.sleep(1.05)  # it looks once a second whether it is to watch another one
    old.kill()
    old.wait()
    time.sleep(0.1)
    assert mailbox.woken == []
    new.kill()
    eventually(lambda: mailbox.woken)


def test_a_process_that_ended_is_followed_by_the_next(start: Start) -> None:
    mailbox, old, new = Counting(), start(), start()
    watch = PostmasterWatch(mailbox)
    watch.follow(old.pid)
    old.kill()
    eventually(lambda: len(mailbox.woken) == 1)
    watch.follow(None)
    watch.follow(new.pid)
    new.kill()
    eventually(lambda: len(mailbox.woken) == 2)


def test_a_process_out_of_sight_for_a_while_is_watched_again(start: Start) -> None:
    mailbox, process = Counting(), start()
    watch = PostmasterWatch(mailbox)
    watch.follow(process.pid)
    time.sleep(0.1)
    watch.follow(None)
    time.sleep(1.05)  # it looks once a second whether it is to watch another one
    watch.follow(process.pid)
    time.sleep(0.05)
    process.kill()
    eventually(lambda: mailbox.woken, 0.2)


def test_nothing_to_follow_wakes_nobody() -> None:
    mailbox = Counting()
    PostmasterWatch(mailbox).follow(None)
    time.sleep(0.05)
    assert mailbox.woken == []
