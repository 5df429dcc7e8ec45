"""A plain HTTP way to an API server, which speaks TLS only, for lines that must see requests; it can answer in its place."""

from __future__ import annotations

import select
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
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: ssl.SSLSocket) -> None:
        """Both ways in one thread: OpenSSL knows no reading and writing of one connection at a time."""
        with suppress(OSError, ValueError):
            while True:
                ready = [server] if server.pending() else select.select([client, server], [], [])[0]
                if server in ready:
                    server.settimeout(0)
                    try:
                        data = server.recv(65536)
                    except ssl.SSLWantReadError:  # a record that carries no data, or a part of one
                        pass
                    else:
                        if not data:
                            break
                        client.sendall(data)
                    server.settimeout(None)
                if client in ready:
                    data = client.recv(65536)
                    if not data or not self._forwarded(data, client, server):
                        break
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _forwarded(self, data: bytes, client: socket.socket, server: ssl.SSLSocket) -> bool:
        """Send a part of a request on; false if the gate answered in the server's place, which ends the connection."""
        first = data.split(b"\r\n")[0].decode("latin-1")
        if first.endswith("HTTP/1.1"):
            request = first.removesuffix(" HTTP/1.1")
            self.requests.append(request)
            answer = self.instead(request)
            if answer is not None:
                client.sendall(answer)
                return False
        server.sendall(data)
        return True

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
