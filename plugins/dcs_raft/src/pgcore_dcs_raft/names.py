"""Addresses of host names, looked up beside the Raft thread: a name service that hangs must not hold up heartbeats."""

from __future__ import annotations

import ipaddress
import logging
import random
import socket
import threading
from collections.abc import Callable

from pysyncobj.monotonic import monotonic  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

PATIENCE_S = 0.1
"""As long as a heartbeat period: what the Raft thread waits for a name that is new to it."""
FRESH_S = 60.0
"""Older answers are used, and looked up anew."""


def look_up(host: str) -> list[str]:
    """The addresses of a name, of IPv4 if there are any. Raises OSError."""
    found = [(family, str(target[0])) for family, *_, target in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    return [address for family, address in found if family == socket.AF_INET] or [address for _, address in found]


class Names:
    """What pysyncobj takes for its resolver. Any thread may use it."""

    def __init__(self, ask: Callable[[str], list[str]] = look_up, clock: Callable[[], float] = monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._known: dict[str, list[str]] = {}
        self._asked_at: dict[str, float] = {}
        self._answered: dict[str, threading.Event] = {}
        self._failed: set[str] = set()

    def resolve(self, host: str, patience_s: float | None = None) -> str | None:
        """An address; None if none is known in time. Then the answer may be there when somebody asks again.

        Without ``patience_s`` only the call that begins to look up a new name waits, and shortly.
        """
        if _is_address(host):
            return host
        answered = self._answered.get(host)
        if answered is None or (answered.is_set() and self._is_old(host)):
            answered = self._answered[host] = threading.Event()
            self._asked_at[host] = self._clock()
            threading.Thread(target=self._learn, args=(host, answered), name="raft-names", daemon=True).start()
            patience_s = PATIENCE_S if patience_s is None else patience_s
        if host not in self._known and patience_s is not None:
            answered.wait(patience_s)
        known = self._known.get(host)
        return random.choice(known) if known else None

    def _is_old(self, host: str) -> bool:
        """A name without an answer is asked for at every attempt to connect; there is a pause between these."""
        return host not in self._known or self._clock() > self._asked_at[host] + FRESH_S

    def _learn(self, host: str, answered: threading.Event) -> None:
        try:
            self._known[host] = self._ask(host)
            self._failed.discard(host)
        except OSError as error:
            if host not in self._failed:
                log.warning("The host name %s of a Raft member cannot be resolved: %s", host, error)
            self._failed.add(host)
        finally:
            answered.set()

    def setTimeouts(self, cacheTime: float, failCacheTime: float) -> None:
        """pysyncobj's; ours are above."""

    def setPreferredAddrFamily(self, preferredAddrFamily: object) -> None:
        """pysyncobj's; IPv4 goes first."""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
