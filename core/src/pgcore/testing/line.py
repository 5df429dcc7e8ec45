"""A TCP line between a client and an HTTP server, for faults that a real server cannot be asked for: an answer lost, a cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from pgcore.testing.processes import LOOPBACK


class HttpLine:
    """Leads to the server at ``target`` (``host:port``), notes the requests, can swallow the next answer and can be cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        """Where the client is to connect."""
        self.requests: list[str] = []
        """``POST /path`` of each, in order."""
        self.swallow = ""
        """The answer to the next request whose path holds this is thrown away and the connection closed; then it is empty."""
        self.lost = False
        """The answer that ``lose`` chose was thrown away."""
        self._lose = 0
        self.meanwhile: Callable[[], object] = lambda: None
        """Called when an answer was swallowed, before the client notices."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            swallowed = threading.Event()
            threading.Thread(target=self._upwards, args=(client, server, swallowed), daemon=True).start()
            threading.Thread(target=self._downwards, args=(client, server, swallowed), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, swallowed: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                first = data.split(b"\r\n")[0].decode("latin-1")
                if first.endswith("HTTP/1.1"):
                    method, path, _ = first.split(" ")
                    self.requests.append(f"{method} {path}")
                    if self._chosen(path):
                        swallowed.set()
                server.sendall(data)
        server.close()

    def _chosen(self, path: str) -> bool:
        """Whether the answer to this request is to be lost."""
        if self.swallow and self.swallow in path:
            self.swallow = ""
            return True
        self._lose -= 1
        if self._lose == 0:
            self.lost = True
        return self._lose == 0

    def lose(self, number: int) -> None:
        """Throw away the answer to the request that many from now (1: the next) and close its connection. 0: to none."""
        self._lose, self.lost = number, False

    def _downwards(self, client: socket.socket, server: socket.socket, swallowed: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if swallowed.is_set():
                    self.meanwhile()
                    break
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()

    def cut(self) -> None:
        """End the connections that are open; new ones work."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """End the line. Its listener is shut down first: a thread that waits in it would take one more client."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
