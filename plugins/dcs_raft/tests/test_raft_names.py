"""Host names of members: a name service that hangs, fails or changes its mind costs the Raft thread next to nothing."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest

from harness import wait_for
from pgcore.plugin import ANYTHING, Key
from pgcore_dcs_raft.names import FRESH_S, PATIENCE_S, Names


class Service:
    """A name service that answers, fails, or hangs until it is released."""

    def __init__(self) -> None:
        self.answer: list[str] | None = ["10.0.0.1"]
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked: list[str] = []
        self.moment = 0.0
        self.names = Names(self.look_up, lambda: self.moment)

    def look_up(self, host: str) -> list[str]:
        self.asked.append(host)
        self.goes_on.wait()
        if self.answer is None:
            raise OSError("Name or service not known")
        return self.answer


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.goes_on.set()


@pytest.mark.parametrize("address", ["10.0.0.9", "::1", "fe80::1"])
def test_an_address_is_not_looked_up(service, address):
    assert service.names.resolve(address) == address and service.asked == []


def test_a_name_that_hangs_is_waited_for_shortly_once_and_known_as_soon_as_it_is_answered(service):
    service.goes_on.clear()
    began = time.monotonic()
    assert [service.names.resolve("db1") for _ in range(1000)] == [None] * 1000
    assert time.monotonic() - began < 10 * PATIENCE_S and service.asked == ["db1"]
    service.goes_on.set()
    assert service.names.resolve("db1", 10.0) == "10.0.0.1" and service.asked == ["db1"]


@pytest.mark.parametrize("hangs", [True, False])
def test_an_old_answer_serves_until_there_is_a_new_one(service, hangs):
    assert service.names.resolve("db1", 10.0) == "10.0.0.1"
    service.moment, service.answer = FRESH_S + 1, None
    if hangs:
        service.goes_on.clear()
    assert service.names.resolve("db1") == "10.0.0.1"
    service.answer = ["10.0.0.2"]
    service.goes_on.set()
    wait_for(lambda: len(service.asked) == 2 or None, 10, "it is looked up anew")
    service.moment += FRESH_S + 1
    wait_for(lambda: service.names.resolve("db1") == "10.0.0.2", 10, "the new answer is used")


def test_a_name_that_cannot_be_resolved_is_asked_for_again_and_complained_of_once(service, caplog):
    service.answer = None
    assert [service.names.resolve("db1", 10.0) for _ in range(3)] == [None] * 3
    assert service.asked == ["db1"] * 3 and caplog.text.count("db1 of a Raft member cannot be resolved") == 1
    service.answer = ["10.0.0.3"]
    assert service.names.resolve("db1", 10.0) == "10.0.0.3"


@pytest.mark.server
def test_members_find_each_other_by_name(sections, start, soon):
    made = sections(2)
    names = tuple(str(part.self_addr).replace("127.0.0.1", "localhost") for part in made)
    parts = [dataclasses.replace(part, self_addr=name, partner_addrs=names) for part, name in zip(made, names, strict=True)]
    stores = [start(part, member) for part, member in zip(parts, "ab", strict=True)]
    stores[0].put(Key.CONFIG, "1", expect=ANYTHING, deadline=soon())
    assert stores[1].read(fresh=True, deadline=soon()).records["config"].value == "1"
