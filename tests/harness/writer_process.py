"""The client of the end-to-end tests, run as a process: writes unique numbers and notes each acknowledgement.

Reads one JSON line from standard input (the connection string stays out of argv) and appends one line per acknowledged write to a
file: ``number sent acknowledged host:port`` with CLOCK_MONOTONIC seconds, which are the same for every process of a machine.
Failures go to ``<file>.errors``. Ends on SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time

import psycopg2


class Client:
    """Writes until told to end. A statement or connection attempt without an answer is given up by shutting the socket."""

    def __init__(self, settings: dict[str, object]) -> None:
        self._dsn, self._path = str(settings["dsn"]), str(settings["path"])
        self._interval_s, self._patience_s = float(str(settings["interval_s"])), float(str(settings["answer_timeout_s"]))
        self._insert = f"INSERT INTO {settings['table']} (number) VALUES (%s)"
        self._number = int(str(settings["first"]))
        self.ending = threading.Event()
        self._busy_since: float | None = None
        self._link: psycopg2.extensions.connection | None = None

    def guard(self) -> None:
        """Shut the socket of a statement that waits too long: libpq then returns an error to the writing thread."""
        while not self.ending.wait(0.1):
            since, link = self._busy_since, self._link
            if since is None or link is None or time.monotonic() - since < self._patience_s:
                continue
            with contextlib.suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(link.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        threading.Thread(target=self.guard, daemon=True).start()
        with open(self._path, "a", buffering=1) as notes, open(f"{self._path}.errors", "a", buffering=1) as errors:
            while not self.ending.is_set():
                try:
                    self._connected(notes)
                except psycopg2.Error as error:
                    text = " | ".join(str(error).split("\n"))
                    errors.write(f"{time.monotonic():.6f} {type(error).__name__} {text[:400]}\n")
                    self.ending.wait(0.005)
                finally:
                    self._busy_since = None

    def _connected(self, notes: object) -> None:
        self._link = psycopg2.connect(self._dsn)
        try:
            self._link.autocommit = True
            server = f"{self._link.info.host}:{self._link.info.port}"
            with self._link.cursor() as cursor:
                while not self.ending.is_set():
                    self._number += 1
                    sent = time.monotonic()
                    self._busy_since = sent
                    cursor.execute(self._insert, (self._number,))
                    acknowledged = time.monotonic()
                    self._busy_since = None
                    print(f"{self._number} {sent:.6f} {acknowledged:.6f} {server}", file=notes)  # type: ignore[call-overload]
                    self.ending.wait(self._interval_s)
        finally:
            link, self._link = self._link, None
            link.close()


def main() -> None:
    client = Client(json.loads(sys.stdin.readline()))
    signal.signal(signal.SIGTERM, lambda *_: client.ending.set())
    signal.signal(signal.SIGINT, lambda *_: client.ending.set())
    client.run()


if __name__ == "__main__":
    main()
