"""A stub of Exhibitor for tests, which nobody packages: it answers with a list of ZooKeeper servers and notes who asked."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Self

from pgcore.testing.processes import LOOPBACK


class Exhibitor:
    """Listens on ``address`` at once; ``lists`` says what it answers with, and a test may replace ``answer`` by anything."""

    def __init__(self, address: str = LOOPBACK) -> None:
        self.asked: list[str] = []
        """The path of each request."""
        self.answer = b""
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(stub.answer)))
                self.end_headers()
                self.wfile.write(stub.answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()  # how soon it ends when closed

    def lists(self, *servers: str, port: int) -> Self:
        """From now on, answer with these ZooKeeper servers."""
        self.answer = json.dumps({"servers": servers, "port": port}).encode()
        return self

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
