"""Whole clusters in this process: one member, restarts, joining and leaving, passwords, hostile bytes, speed."""

from __future__ import annotations

import dataclasses
import os
import socket
import statistics
import threading
import time
from typing import Any

import pytest

from pgcore.plugin import ANYTHING, ConfigError, Deadline, Key, Renewal, StoreRejectedError, StoreUnavailableError, Timing
from pgcore_dcs_raft.controller import list_members, remove_member, run_voter

pytestmark = pytest.mark.server

DEFAULTS = {"min_timeout": 0.4, "max_timeout": 1.4, "append_entries_period": 0.1}


def put(store: Any, value: str, seconds: float = 10.0) -> str:
    return store.put(Key.CONFIG, value, expect=ANYTHING, deadline=Deadline.after(seconds)).version


def values(store: Any, seconds: float = 10.0) -> dict[str, str]:
    return {path: record.value for path, record in store.read(fresh=True, deadline=Deadline.after(seconds)).records.items()}


def eventually(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# -- one member --------------------------------------------------------------------------------------------------------

def test_a_cluster_of_one_works_and_is_quick(sections, start, soon):
    section, = sections(1)
    store = start(section, "a")
    store.announce("card", deadline=soon())
    assert store.acquire(force=False, deadline=soon()) and store.renew({}, deadline=soon()) is Renewal.HELD
    before = time.monotonic()
    for number in range(20):
        put(store, str(number))
    assert (time.monotonic() - before) / 20 < 0.03
    assert values(store) == {"leader": "a", "members/a": "card", "config": "19"}


def test_a_cluster_of_one_can_be_read_before_anything_was_written(sections, start, soon):
    part, = sections(1)
    store = start(part, "a")
    assert store.read(fresh=False, deadline=soon()).records == {}


def test_a_cluster_of_one_remembers_everything_after_a_restart(sections, start, soon):
    section, = sections(1)
    store = start(section, "a")
    written = put(store, "{}")
    store.close()
    again = start(section, "a")
    assert again.read(fresh=True, deadline=soon()).records["config"].version == written
    assert put(again, "[]") != written


# -- restarts ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("compacted", [False, True], ids=["journal", "dump"])
def test_a_cluster_that_was_stopped_as_a_whole_remembers_config_and_history(sections, start, soon, compacted):
    parts = sections(3)
    stores = [start(section, name) for section, name in zip(parts, "abc", strict=True)]
    written = put(stores[0], "{}")
    stores[1].put(Key.HISTORY, "[]", expect=ANYTHING, deadline=soon())
    for store in stores:
        values(store)
        if compacted:
            store._node._raft.forceLogCompaction()
    if compacted:
        eventually(lambda: all(os.path.exists(f"{s.data_dir}/{s.self_addr}.dump") for s in parts))
    for store in stores:
        store.close()
    again = [start(section, name) for section, name in zip(parts, "abc", strict=True)]
    for store in again:
        assert values(store) == {"config": "{}", "history": "[]"}
        assert store.read(fresh=True, deadline=soon()).records["config"].version == written
    for part in parts:
        assert os.path.exists(f"{part.data_dir}/{part.self_addr}.journal")


def test_a_member_that_missed_what_the_others_have_compacted_gets_a_snapshot(sections, start, soon):
    parts = sections(3)
    stores = [start(section, name) for section, name in zip(parts, "abc", strict=True)]
    put(stores[0], "old")
    assert values(stores[2]) == {"config": "old"}
    stores[2].close()
    put(stores[0], "new")
    assert stores[0].acquire(force=False, deadline=soon())
    for store in stores[:2]:
        values(store)
        store._node._raft.forceLogCompaction()
    eventually(lambda: all(store._node._raft._getRaftLogSize() <= 3 for store in stores[:2]))
    late = start(parts[2], "c")
    assert values(late)["config"] == "new"
    assert late._node.machine._restored > 0
    assert put(late, "newest") and values(stores[1])["config"] == "newest"
    eventually(lambda: "leader" not in values(late))


def test_closing_ends_threads_and_sockets_promptly_and_frees_the_address(sections, start):
    section, = sections(1)
    put(start(section, "a"), "1")
    threads = {thread.name for thread in threading.enumerate()}
    assert "raft" in threads
    store = start(sections(1)[0], "b")
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        store.close()
        store = start(section := sections(1)[0], "b")
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    before = time.monotonic()
    store.close()
    assert time.monotonic() - before < 1.0
    with socket.socket() as probe:
        host, port = section.self_addr.split(":")
        probe.bind((host, int(port)))
    with pytest.raises(StoreUnavailableError):
        values(store, 1.0)


# -- joining, leaving, observing ---------------------------------------------------------------------------------------

def test_a_fourth_member_joins_and_a_dead_one_is_removed(sections, start):
    parts = sections(4)
    first = [dataclasses.replace(part, partner_addrs=tuple(other.self_addr for other in parts[:3] if other is not part))
             for part in parts[:3]]
    stores = [start(section, name) for section, name in zip(first, "abc", strict=True)]
    put(stores[0], "old")
    newcomer = start(parts[3], "d")
    assert values(newcomer)["config"] == "old"
    everybody = sorted(part.self_addr for part in parts)
    eventually(lambda: list(list_members(parts[3])) == everybody)
    assert put(newcomer, "new") and values(stores[1])["config"] == "new"
    stores[0].close()
    eventually(lambda: _removed(parts[1], parts[0].self_addr))
    assert list(list_members(parts[2])) == sorted(part.self_addr for part in parts[1:])
    stores[1].close()  # two of three are a majority, two of four would not be
    assert put(newcomer, "after") and values(stores[2])["config"] == "after"


def _removed(section: Any, address: str) -> bool:
    """Refused while an election is under way."""
    try:
        remove_member(section, address)
        return address not in list_members(section)
    except (StoreRejectedError, StoreUnavailableError):
        return False


def test_an_observer_has_no_vote_and_no_lease(sections, start, soon):
    part, = sections(1, password="secret")
    alone = dataclasses.replace(part, partner_addrs=(), connection_retry_time=1.0)
    member = start(alone, "a")
    put(member, "1")
    before = time.monotonic()
    observer = start(alone, "pgcore", observer=True)
    assert values(observer) == {"config": "1"}
    assert time.monotonic() - before < 0.9, "a second attempt to connect, or to decide, was needed"
    put(observer, "2")
    assert values(member) == {"config": "2"} and list_members(alone) == (part.self_addr,)
    with pytest.raises(StoreRejectedError):
        observer.acquire(force=False, deadline=soon())
    member.close()
    with pytest.raises(StoreUnavailableError, match=f"asked: {part.self_addr}"):
        values(observer, 0.5)
    assert list(os.listdir(os.path.dirname(part.data_dir))) == [os.path.basename(part.data_dir)], "an observer keeps no journal"


def test_a_voter_without_postgresql_makes_a_majority(sections, start):
    parts = sections(3)
    stop = threading.Event()
    voter = threading.Thread(target=run_voter, args=(parts[0], Timing(), stop))
    voter.start()
    try:
        store = start(parts[1], "a")
        assert put(store, "1")
    finally:
        stop.set()
        voter.join(5)
    with pytest.raises(StoreUnavailableError):
        put(store, "2", seconds=0.5)


# -- who may take part -------------------------------------------------------------------------------------------------

def test_a_wrong_password_neither_joins_nor_reads(sections, start):
    parts = sections(4, password="right")
    stores = [start(section, name) for section, name in zip(parts[:3], "abc", strict=True)]
    put(stores[0], "hidden")
    for password in ("wrong", None):
        stranger = start(dataclasses.replace(parts[3], password=password), f"d{password}")
        observer = start(dataclasses.replace(parts[3], password=password), "pgcore", observer=True)
        for store in (stranger, observer):
            with pytest.raises(StoreUnavailableError):
                values(store, 0.7)
            assert store._node.machine.dump()["data"] == {}
        stranger.close()
    assert list(list_members(parts[0])) == sorted(part.self_addr for part in parts)
    assert values(stores[2])["config"] == "hidden"


def test_an_address_in_use_is_named(sections, start):
    section, = sections(1)
    host, port = section.self_addr.split(":")
    with socket.socket() as occupant:
        occupant.bind((host, int(port)))
        occupant.listen()
        with pytest.raises(ConfigError, match=section.self_addr):
            start(section, "a")


def test_a_directory_that_cannot_be_made_is_named(sections, start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"raft\.data_dir"):
        start(sections(1, data_dir=str(tmp_path / "file" / "below"))[0], "a")


def test_a_value_that_is_too_large_is_rejected_and_named(sections, start):
    section, = sections(1)
    with pytest.raises(StoreRejectedError, match="/service/demo/config"):
        put(start(section, "a"), "x" * 2**20)


# -- speed -------------------------------------------------------------------------------------------------------------

def test_a_write_is_decided_within_milliseconds_and_idling_costs_little(sections, start):
    stores = [start(section, name) for section, name in zip(sections(3, **DEFAULTS, password="secret"), "abc", strict=True)]
    put(stores[0], "1")
    taken_ms = []
    for store in stores:
        values(store)
        for number in range(30):
            before = time.perf_counter()
            put(store, str(number))
            taken_ms.append(1000 * (time.perf_counter() - before))
            time.sleep(0.007)  # not in step with the heartbeats
    before, used = time.monotonic(), time.process_time()
    time.sleep(2)
    idle = 100 * (time.process_time() - used) / (time.monotonic() - before) / len(stores)
    median, slow = statistics.median(taken_ms), sorted(taken_ms)[int(len(taken_ms) * 0.95)]
    print(f"\nwrite: median {median:.1f} ms, 95 % {slow:.1f} ms; idle: {idle:.2f} % of a core per node")
    assert median < 15 and idle < 5
