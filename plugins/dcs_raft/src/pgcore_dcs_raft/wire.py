"""What may be built from bytes that came over the network or from disk: plain values and node addresses, nothing else.

pysyncobj unpickles every message. Pickle can call any function, so whoever may send a message could run any program; without a
password that is every local user. The library's two loading functions are therefore replaced by ones that know the handful of
names its messages need. A message format without pickle is the hardening issue's work.
"""

from __future__ import annotations

import io
import pickle
from typing import IO, Any

import pysyncobj.journal  # type: ignore[import-untyped]
import pysyncobj.pickle  # type: ignore[import-untyped]
from pysyncobj.node import Node, TCPNode  # type: ignore[import-untyped]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes; the encoding in the message is not obeyed."""
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("pysyncobj.node", "TCPNode"): TCPNode,
    ("pysyncobj.node", "Node"): Node,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("__builtin__", "bytes"): bytes,
    ("builtins", "bytes"): bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a Raft message") from None


def load(file: IO[bytes]) -> Any:
    """Read one value. Raises UnpicklingError if it is more than plain values and node addresses."""
    return _PlainUnpickler(file).load()


def loads(data: bytes) -> Any:
    """As ``load``, from bytes."""
    return load(io.BytesIO(data))


def restrict_unpickling() -> None:
    """Make pysyncobj use these functions, in this whole process. Doing it again changes nothing."""
    pysyncobj.pickle.load = load
    pysyncobj.pickle.loads = loads
    pysyncobj.journal.loads = loads
