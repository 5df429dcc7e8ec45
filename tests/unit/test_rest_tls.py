"""HTTPS: who must show a certificate, and how the server's own is replaced while it serves."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgcore.errors import ConfigError
from pgcore.rest import server as rest_server
from pgcore.rest.server import RestServer
from pgcore.testing.certificates import Authority
from unit.rest_board import call, raw

Open = Callable[..., RestServer]


def _tls(authority: Authority, verify_client: str = "none") -> dict[str, str]:
    return {
        "certfile": str(authority.folder / "server.crt"),
        "keyfile": str(authority.folder / "server.key"),
        "cafile": str(authority.ca),
        "verify_client": verify_client,
    }


def test_over_tls_the_whole_body_arrives_and_the_end_is_announced(serve: Open, authority: Authority) -> None:
    server = serve(**_tls(authority), https_extra_headers={"Strict-Transport-Security": "max-age=1"})
    reply = call(server.bound[0], "GET", "/metrics", context=authority.client())
    assert reply.body.endswith("\n") and reply.headers["Strict-Transport-Security"] == "max-age=1"
    context = authority.client()
    with (
        socket.create_connection(server.bound[0], 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as connection,
    ):
        connection.sendall(b"GET /patroni HTTP/1.0\r\n\r\n")
        while connection.recv(65536):
            pass  # a missing goodbye would raise SSLEOFError


def test_a_client_certificate_is_optional_for_checks_and_needed_for_actions(serve: Open, authority: Authority) -> None:
    address = serve(**_tls(authority, "Optional")).bound[0]
    without, with_one = authority.client(), authority.client("client")
    assert call(address, "OPTIONS", "/", context=without).code == 200
    refused = call(address, "POST", "/reload", context=without)
    assert (refused.code, refused.body) == (403, "client certificate required")
    assert call(address, "POST", "/reload", context=with_one).code == 202


def test_a_required_client_certificate_is_required_of_everybody(serve: Open, authority: Authority) -> None:
    address = serve(**_tls(authority, "required")).bound[0]
    with pytest.raises(OSError):
        call(address, "GET", "/primary", context=authority.client())
    assert call(address, "GET", "/primary", context=authority.client("client")).code == 200


def test_silent_tls_clients_do_not_stop_health_checks(serve: Open, authority: Authority) -> None:
    address = serve(**_tls(authority)).bound[0]
    idle = [socket.create_connection(address) for _ in range(50)]
    try:
        began = time.monotonic()
        assert call(address, "OPTIONS", "/", context=authority.client()).code == 200
        assert time.monotonic() - began < 1
    finally:
        for connection in idle:
            connection.close()


def test_plain_http_on_a_tls_port_is_dropped(serve: Open, authority: Authority) -> None:
    address = serve(**_tls(authority)).bound[0]
    try:
        assert not raw(address, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
    except ConnectionResetError:
        pass


def test_tls_is_switched_on_by_a_reload_without_closing_the_port(serve: Open, authority: Authority) -> None:
    server = serve()
    address = server.bound[0]
    server.reconfigure(replace(server.settings, **_tls(authority)))
    assert server.bound[0] == address
    assert call(address, "OPTIONS", "/", context=authority.client()).code == 200


def test_a_key_with_an_unknown_password_is_refused_without_asking_the_terminal(serve: Open, authority: Authority) -> None:
    tls = {**_tls(authority), "keyfile": str(authority.lock(authority.folder / "server.key", "secret"))}
    with pytest.raises(ConfigError, match="keyfile_password") as caught:
        serve(**tls, keyfile_password="wrong-guess")
    assert "wrong-guess" not in str(caught.value)
    server = serve(**tls, keyfile_password="secret")
    assert call(server.bound[0], "OPTIONS", "/", context=authority.client()).code == 200


def test_a_certificate_that_is_renewed_in_its_file_is_used_without_a_reload(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_server, "LOOK_S", 0.05)
    authority = Authority(tmp_path)
    authority.sign("server")
    server = serve(**_tls(authority))
    first = _serial(server, authority)
    authority.sign("server")
    assert _within(10, lambda: _serial(server, authority) != first)


def test_a_half_written_certificate_is_told_of_once_and_the_old_one_stays(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rest_server, "LOOK_S", 0.05)
    authority = Authority(tmp_path)
    certificate, _ = authority.sign("server")
    server = serve(**_tls(authority))
    first, whole = _serial(server, authority), certificate.read_text()
    certificate.write_text(whole[:300])
    assert _within(10, lambda: "goes on with the certificate it has" in caplog.text)
    time.sleep(0.3)
    assert caplog.text.count("goes on with the certificate it has") == 1
    assert _serial(server, authority) == first
    authority.sign("server")
    assert _within(10, lambda: _serial(server, authority) != first)


def test_a_reload_reads_the_certificate_again_and_refuses_one_that_does_not_work(serve: Open, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, _ = authority.sign("server")
    server = serve(**_tls(authority))
    first = _serial(server, authority)
    authority.sign("server")
    server.reconfigure(server.settings)
    second = _serial(server, authority)
    assert second != first
    certificate.write_text("nothing")
    with pytest.raises(ConfigError, match=r"restapi\.certfile"):
        server.reconfigure(server.settings)
    assert _serial(server, authority) == second


def test_only_the_configured_ciphers_are_spoken(serve: Open, authority: Authority) -> None:
    address = serve(**_tls(authority), ciphers="ECDHE-RSA-AES256-GCM-SHA384").bound[0]
    for cipher, good in (("ECDHE-RSA-AES256-GCM-SHA384", True), ("ECDHE-RSA-AES128-GCM-SHA256", False)):
        context = authority.client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # the ciphers of 1.3 are not configurable
        context.set_ciphers(cipher)
        try:
            assert (call(address, "OPTIONS", "/", context=context).code == 200) is good
        except ssl.SSLError:
            assert not good
    with pytest.raises(ConfigError, match=r"restapi\.ciphers: 'NONSENSE' selects no cipher"):
        serve(**_tls(authority), ciphers="NONSENSE")


def _serial(server: RestServer, authority: Authority) -> str:
    """The serial number of the certificate that the server shows."""
    with (
        socket.create_connection(server.bound[0], 5) as plain,
        authority.client().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return str((connection.getpeercert() or {})["serialNumber"])


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
