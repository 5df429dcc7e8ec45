"""Telling systemd how it goes (``Type=notify``, ``Type=notify-reload``), without a library. (CLI 8)"""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Says the agent's state at the address of NOTIFY_SOCKET; without one nothing is said."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    def ready(self) -> None:
        """The agent works, or a reload is in force."""
        notify(self._address, "READY=1")

    def reloading(self) -> None:
        """A reload begins; systemd waits for ``ready`` and tells this reload from an older one by the time."""
        # systemd compares with its own CLOCK_MONOTONIC, which is not the clock of ``pgcore.clock``
        notify(self._address, f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The agent ends."""
        notify(self._address, "STOPPING=1")


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
