"""The listening sockets of ``restapi.listen``, one for each address, and how they move on a reload (rest-api 12)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable, Mapping

from pgcore.errors import FatalError

Address = tuple[str, int]
"""Host and port as configured; an empty host means all addresses, port 0 any free one."""

KEEPALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
"""Accepted sockets inherit them where the system has them: a client that vanished while its restart runs is noticed."""


class Listeners:
    """The open sockets by address. ``serve`` is told which ones to accept from; it closes those that it is no longer told."""

    def __init__(self, addresses: Iterable[Address], backlog: int) -> None:
        """Raises FatalError naming the address and the remedy; then none is open."""
        self._backlog = backlog
        self.sockets = self._open_all(tuple(addresses))

    def move(self, addresses: tuple[Address, ...], serve: Callable[[Collection[socket.socket]], None]) -> None:
        """Listen on these instead. An address in both stays open, new ones are opened before old ones are closed.

        Only where the new ones need the room (``*`` in place of one address with the same port) the old ones are closed before.
        Raises FatalError; then the old ones are listened on.
        """
        kept = {address: sock for address, sock in self.sockets.items() if address in addresses}
        left = tuple(address for address in self.sockets if address not in kept)
        fresh = tuple(address for address in addresses if address not in kept)
        try:
            opened = self._open_all(fresh, kept)
        except FatalError as error:
            in_the_way = getattr(error.__cause__, "errno", None) == errno.EADDRINUSE
            if not in_the_way or not {port for _, port in left} & {port for _, port in fresh}:
                raise
            self.sockets = kept
            serve(kept.values())
            try:
                opened = self._open_all(fresh, kept)
            except FatalError:
                self.sockets = kept | self._open_all(left, kept)
                serve(self.sockets.values())
                raise
        self.sockets = {address: (kept | opened)[address] for address in addresses}
        serve(self.sockets.values())

    def _open_all(self, addresses: tuple[Address, ...], beside: Mapping[Address, socket.socket] | None = None
                  ) -> dict[Address, socket.socket]:
        opened: dict[Address, socket.socket] = {}
        try:
            for host, port in addresses:
                others = {other for other, its_port in (*addresses, *(beside or {})) if its_port == port and other != host}
                opened[host, port] = self._open(host, port, alone=not others)
        except FatalError:
            for sock in opened.values():
                sock.close()
            raise
        return opened

    def _open(self, host: str, port: int, *, alone: bool) -> socket.socket:
        try:
            sock = self._bound(host, port, alone=alone)
        except OSError as error:
            raise FatalError(f"restapi.listen: cannot listen on {shown(host, port)}: {_problem(error)}",
                             _remedy(error, host, port)) from error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited as well
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return sock

    def _bound(self, host: str, port: int, *, alone: bool) -> socket.socket:
        """All addresses are one socket for both protocols, unless the other protocol has a socket of its own on this port."""
        if host in ("", "::") and alone and socket.has_dualstack_ipv6():
            try:
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=self._backlog)
            except OSError as error:
                if host or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda candidate: candidate[0] != socket.AF_INET)
        return socket.create_server(address, family=family, backlog=self._backlog)


def shown(host: str, port: int) -> str:
    """An address as one writes it."""
    return f"{f'[{host}]' if ':' in host else host or '*'}:{port}"


def _problem(error: OSError) -> str:
    return "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)


def _remedy(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"stop the process that listens there (ss -ltnp 'sport = :{port}' shows it) or change restapi.listen"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; change restapi.listen"
    if error.errno == errno.EACCES:
        return "ports below 1024 need a privilege; choose another one in restapi.listen"
    return "change restapi.listen"
