"""Network namespaces joined by a bridge: every node on a machine of its own, to be cut off without closing a connection."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from types import TracebackType


def namespaces_usable() -> bool:
    """Whether this process may create network namespaces, links and bridges."""
    if os.geteuid() != 0:
        return False
    name = f"pgcp{os.getpid() % 100000}"
    try:
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        subprocess.run(["ip", "netns", "delete", name], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class Network:
    """Namespaces with one address each on a common bridge, on which this process has an address as well.

    A cut takes the bridge's end of a link off the bridge: packets vanish, no connection is reset, the interface stays up.
    """

    def __init__(self) -> None:
        self._id = f"{os.getpid() % 10000:x}{random.randrange(256):02x}"
        self.bridge = f"pgcb{self._id}"
        self.subnet = f"10.{random.randrange(100, 250)}.{random.randrange(1, 250)}"
        self._names: list[str] = []

    def create(self) -> None:
        """Create the bridge."""
        self._ip("link", "add", self.bridge, "type", "bridge")
        self._ip("address", "add", f"{self.subnet}.254/24", "dev", self.bridge)
        self._ip("link", "set", self.bridge, "up")

    def add(self, name: str) -> str:
        """A new namespace; returns its address."""
        number = len(self._names) + 1
        self._names.append(name)
        namespace, outside, address = self._namespace(name), self._outside(number), self._address(name)
        self._ip("netns", "add", namespace)
        self._ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._ip("link", "set", outside, "master", self.bridge)
        self._ip("link", "set", outside, "up")
        self._ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("eth0", "lo"):
            self._ip("-n", namespace, "link", "set", interface, "up")
        return address

    def own(self, number: int) -> str:
        """A further address of this process on the bridge: the ``number``-th from above."""
        address = f"{self.subnet}.{254 - number}"
        self._ip("address", "add", f"{address}/24", "dev", self.bridge)
        return address

    def prefix(self, name: str) -> tuple[str, ...]:
        """The beginning of a command line that runs inside the namespace."""
        return ("ip", "netns", "exec", self._namespace(name))

    def cut(self, name: str) -> None:
        """No packet passes between this namespace and the others any more."""
        self._ip("link", "set", self._outside(self._names.index(name) + 1), "nomaster")

    def heal(self, name: str) -> None:
        """Undo a cut."""
        self._ip("link", "set", self._outside(self._names.index(name) + 1), "master", self.bridge)

    def cut_between(self, name: str, other: str) -> None:
        """No packet passes between these two any more; each still reaches everybody else."""
        for here, there in ((name, other), (other, name)):
            self._ip("-n", self._namespace(here), "route", "add", "blackhole", f"{self._address(there)}/32")

    def heal_between(self, name: str, other: str) -> None:
        """Undo ``cut_between``."""
        for here, there in ((name, other), (other, name)):
            self._ip("-n", self._namespace(here), "route", "delete", "blackhole", f"{self._address(there)}/32")

    def delete(self) -> None:
        """Remove everything this object created."""
        for name in self._names:
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip("netns", "delete", self._namespace(name))
        with contextlib.suppress(subprocess.CalledProcessError):
            self._ip("link", "delete", self.bridge)
        self._names.clear()

    def _address(self, name: str) -> str:
        return f"{self.subnet}.{self._names.index(name) + 1}"

    def _namespace(self, name: str) -> str:
        return f"pgcn{self._id}{name}"

    def _outside(self, number: int) -> str:
        return f"pgcv{self._id}{number}"

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def __enter__(self) -> Network:
        self.create()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.delete()
