"""The addresses of ``restapi.listen``: several, both protocols, and how they move on a reload without closing the door."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.processes import free_port
from pgcore.config.sections import RestapiSection
from pgcore.config.values import split_addresses
from pgcore.errors import ConfigError, FatalError
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import call

Open = Callable[..., RestServer]


def _answers(host: str, port: int) -> bool:
    try:
        return call((host, port), "OPTIONS", "/", timeout=5).code == 200
    except OSError:
        return False


def test_all_addresses_are_listened_on_with_a_star(serve: Open) -> None:
    port = serve(listen="*:0").bound[0][1]
    assert _answers("127.0.0.1", port) and _answers("::1", port)


def test_both_protocols_are_answered_on_the_empty_ipv6_address(serve: Open) -> None:
    port = serve(listen="[::]:0").bound[0][1]
    assert _answers("127.0.0.1", port) and _answers("::1", port)


def test_both_protocols_may_have_a_socket_of_their_own_on_one_port(serve: Open) -> None:
    port = free_port()
    assert len(serve(listen=f"0.0.0.0:{port},[::]:{port}").bound) == 2
    assert _answers("127.0.0.1", port) and _answers("::1", port)


def test_several_addresses_are_listened_on(serve: Open) -> None:
    server = serve(listen="127.0.0.1:0, 127.0.0.2:0,[::1]:0")
    assert [host for host, _ in server.bound] == ["127.0.0.1", "127.0.0.2", "::1"]
    assert all(_answers(*address) for address in server.bound)


def test_one_of_several_addresses_that_is_taken_opens_none(serve: Open) -> None:
    taken = serve().bound[0]
    free = free_port("127.0.0.2")
    with pytest.raises(FatalError, match=rf"cannot listen on 127\.0\.0\.1:{taken[1]}: the port is in use"):
        serve(listen=f"127.0.0.2:{free},127.0.0.1:{taken[1]}")
    assert not _answers("127.0.0.2", free)


def test_a_new_address_is_opened_before_the_old_one_is_closed(serve: Open) -> None:
    server = serve()
    old = server.bound[0]
    server.reconfigure(RestSettings("127.0.0.2:0"))
    assert _answers(*server.bound[0])
    assert not _answers(*old)


def test_an_address_that_stays_is_never_closed(serve: Open) -> None:
    stays, goes, comes = (f"127.0.0.{number}:{free_port(f'127.0.0.{number}')}" for number in (1, 2, 3))
    server = serve(listen=f"{goes},{stays}")
    with socket.create_connection(("127.0.0.1", int(stays.rpartition(":")[2])), 5) as connection:
        server.reconfigure(replace(server.settings, listen=f"{stays},{comes}"))
        connection.sendall(b"OPTIONS / HTTP/1.0\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.0 200 OK\r\n\r\n"
    assert [host for host, _ in server.bound] == ["127.0.0.1", "127.0.0.3"]
    assert not _answers("127.0.0.2", int(goes.rpartition(":")[2]))


def test_all_addresses_may_replace_one_on_the_same_port_and_the_other_way_round(serve: Open) -> None:
    port = free_port()
    server = serve(listen=f"127.0.0.1:{port}")
    server.reconfigure(replace(server.settings, listen=f"*:{port}"))
    assert _answers("127.0.0.1", port) and _answers("::1", port)
    server.reconfigure(replace(server.settings, listen=f"127.0.0.1:{port}"))
    assert _answers("127.0.0.1", port) and not _answers("::1", port)


def test_a_bad_new_setting_leaves_the_old_ones_in_force(serve: Open, tmp_path: Path) -> None:
    port = free_port()
    server = serve(listen=f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match=r"restapi\.certfile"):
        server.reconfigure(replace(server.settings, certfile=str(tmp_path / "missing")))
    with pytest.raises(FatalError, match="not an address of this machine"):
        server.reconfigure(RestSettings("203.0.113.1:8008"))
    with socket.create_server(("127.0.0.2", port)), pytest.raises(FatalError, match=rf"cannot listen on \*:{port}: the port is"):
        server.reconfigure(RestSettings(f"*:{port}"))
    assert _answers("127.0.0.1", port)
    assert server.settings.listen == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("", "wants host:port"),
        ("127.0.0.1", "wants host:port"),
        ("127.0.0.1:8008,127.0.0.2", "wants host:port, has '127.0.0.2'"),
        ("127.0.0.1:8008,127.0.0.1:8008", "twice"),
        ("*:8008,127.0.0.1:8008", r"mixes \* with other hosts"),
        ("127.0.0.1:99999", "port from 1 to 65535"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(listen: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        split_addresses(listen)


def test_the_first_address_is_published_unless_another_is_named() -> None:
    settings = RestSettings.of(RestapiSection(listen="[fd00::1]:8008,127.0.0.1:8008"))
    assert settings.api_url == "http://[fd00::1]:8008/patroni"
    assert RestSettings("127.0.0.1:8008,[::1]:8008", "127.0.0.1:8008").only_loopback
    assert not RestSettings("127.0.0.1:8008,10.0.0.1:8008", "127.0.0.1:8008").only_loopback
