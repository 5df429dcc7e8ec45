"""Telling systemd, over a real datagram socket."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgcore.daemon.systemd import Notifier, notify, take_notify_address


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What systemd has: an address as it stands in NOTIFY_SOCKET, and the socket behind it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@pgcore-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + address[1:] if address.startswith("@") else address)
        channel.settimeout(2)
        yield address, channel


def test_a_state_arrives_as_one_datagram(listener: tuple[str, socket.socket]) -> None:
    address, channel = listener
    notify(address, "READY=1")
    notify(address, "STOPPING=1")
    assert [channel.recv(100), channel.recv(100)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", [None, "", "@pgcore-test-nobody-listens", "/no/such/directory/notify", "relative", "x" * 300])
def test_nothing_happens_where_nobody_listens(address: str | None) -> None:
    notify(address, "READY=1")


def test_nothing_happens_where_the_listener_has_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
    notify(path, "READY=1")


def test_a_listener_that_does_not_read_does_not_hold_the_agent_up(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")

    def tell_often() -> None:
        for _ in range(5000):
            notify(path, "STATUS=busy")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
        telling = threading.Thread(target=tell_often, daemon=True)
        telling.start()
        telling.join(0.4)
        held_up = telling.is_alive()
    telling.join(5)  # the closed socket sets it free
    assert not held_up


def test_the_address_is_taken_out_of_the_environment() -> None:
    environment = {"NOTIFY_SOCKET": "/run/systemd/notify", "PATH": "/bin"}
    assert take_notify_address(environment) == "/run/systemd/notify"
    assert environment == {"PATH": "/bin"}
    assert take_notify_address(environment) is None


def test_a_reload_begins_with_the_time_by_systemds_clock_and_ends_with_ready(listener: tuple[str, socket.socket]) -> None:
    address, channel = listener
    notifier = Notifier(address)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    for say in (notifier.ready, notifier.reloading, notifier.ready, notifier.stopping):
        say()
    ready, reloading, in_force, stopping = (channel.recv(100).decode() for _ in range(4))
    assert (ready, in_force, stopping) == ("READY=1", "READY=1", "STOPPING=1")
    state, _, moment = reloading.partition("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1" and before <= int(moment) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
