"""Telling systemd how it goes (``Type=notify``), without a library. (cli 8)"""

from __future__ import annotations

import os
import socket


def take_notify_address(environ: dict[str, str] | os._Environ[str]) -> str | None:
    """The notification socket, removed from the environment so that PostgreSQL does not see it."""
    return environ.pop("NOTIFY_SOCKET", None)


def notify(address: str | None, state: str) -> None:
    """Send a state such as ``READY=1``; without systemd, or when it does not listen, nothing happens."""
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.connect(target)
            channel.send(state.encode())
        except OSError:
            pass
