"""A plain HTTP way to an API server, which speaks TLS only, for lines that must see requests; it can answer in its place."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

from pgcore.testing.kube_apiserver import KubeApiServer
from pgcore.testing.processes import LOOPBACK


class Gate:
    """Leads to ``server``. ``instead`` sees ``METHOD /path`` of each request; the bytes it returns are the answer."""

    def __init__(self, server: KubeApiServer) -> None:
        self._server = server
        self._tls = ssl.create_default_context(cafile=str(server.ca))
        self._listener = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        """Where the client is to connect."""
        self.instead: Callable[[str], bytes | None] = lambda request: None
        self.requests: list[str] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            try:
                plain = socket.create_connection((self._server.address, self._server.port))
                server = self._tls.wrap_socket(plain, server_hostname=self._server.address)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
            threading.Thread(target=self._downwards, args=(client, server), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while data := client.recv(65536):
                first = data.split(b"\r\n")[0].decode("latin-1")
                if first.endswith("HTTP/1.1"):
                    request = first.removesuffix(" HTTP/1.1")
                    self.requests.append(request)
                    answer = self.instead(request)
                    if answer is not None:
                        client.sendall(answer)
                        break
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _downwards(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while data := server.recv(65536):
                client.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """End the way."""
        self._listener.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def answer(status: int, message: str, *headers: str) -> bytes:
    """An answer as the API server gives it to what it does not do; the connection ends with it."""
    body = f'{{"kind":"Status","status":"Failure","message":"{message}","code":{status}}}'
    head = (f"HTTP/1.1 {status} {message}", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close",
            *headers)
    return "\r\n".join((*head, "", body)).encode()
