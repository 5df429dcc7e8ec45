"""The handler of a cluster of clusters is waited for only while waiting is safe. (HA rules 29)"""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pgcore.daemon.mpp import Mpp
from pgcore.errors import CancelledError
from pgcore.mpp import Group, GroupMember


class Slow:
    """A handler whose coordinator does not answer."""

    group, rest_path = 1, "slow"

    def __init__(self) -> None:
        self.release = threading.Event()

    def before_demote(self, tools: Any) -> None:
        self.release.wait(30)


def mpp(handler: Slow, ttl: float) -> Mpp:
    return Mpp(handler, SimpleNamespace(ttl=ttl))  # type: ignore[arg-type]


def test_a_lost_lock_ends_the_wait_for_the_coordinator_at_once() -> None:
    handler, lost = Slow(), threading.Event()
    threading.Timer(0.2, lost.set).start()

    def check() -> None:
        if lost.is_set():
            raise CancelledError

    began = time.monotonic()
    with pytest.raises(CancelledError):
        mpp(handler, 20).before_demote(check)
    assert time.monotonic() - began < 2
    handler.release.set()


def test_the_wait_for_the_coordinator_is_bounded_by_ttl() -> None:
    handler, began = Slow(), time.monotonic()
    mpp(handler, 0.3).before_demote(lambda: None)
    assert 0.25 < time.monotonic() - began < 2
    handler.release.set()


def test_the_members_of_every_group_may_be_let_in_by_their_addresses() -> None:
    urls = ("http://10.0.0.1:8008/patroni", None, "http://[broken"), ("https://[fd00::3]:8008/patroni",)
    members = [tuple(GroupMember("a", "x", 5432, url) for url in each) for each in urls]
    groups = {number: Group(number, None, each) for number, each in enumerate(members)}
    handler = SimpleNamespace(rest_path="citus", group=0)
    assert Mpp(handler, SimpleNamespace(last_read=groups)).member_hosts() == {"10.0.0.1", "fd00::3"}  # type: ignore[arg-type]
    assert Mpp().member_hosts() == set()
