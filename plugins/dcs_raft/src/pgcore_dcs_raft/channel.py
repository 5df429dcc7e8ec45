"""Who is on the other end of a connection: a handshake that proves the password to both, and the sealed messages after it.

Both say hello with a fresh X25519 key. The one that connected proves the password first, so that a port that is open to the
world tells strangers nothing; the other proves it in return. A proof is an HMAC over both hellos, keyed with what PBKDF2 makes
of the password. Messages are then sealed with ChaCha20-Poly1305 under keys of this connection and a counter: one that is
repeated, moved or from another connection does not open. Before the proof nothing a peer sends is decoded.

Without a password, which the section allows on loopback only, the hello is a word and messages travel as they are.
"""

from __future__ import annotations

import functools
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

WORD = {True: b"pgcore raft 1 p\n", False: b"pgcore raft 1 o\n"}
KEY_BYTES = PROOF_BYTES = 32
ROUNDS = 200_000
_SALT = b"pgcore raft store"


class Refused(Exception):
    """The peer is not one of ours."""


@functools.lru_cache(maxsize=4)
def secret_of(password: str | None) -> bytes | None:
    """What PBKDF2 makes of the password; None without one."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), _SALT, ROUNDS) if password else None


class Channel:
    """One side of a connection: feed ``receive`` what came while not ``is_open``, then ``seal`` and ``unseal`` messages."""

    def __init__(self, secret: bytes | None, *, connects: bool) -> None:
        self._secret, self._connects = secret, connects
        self._key = X25519PrivateKey.generate() if secret else None
        self._transcript = b""
        self._sealer: ChaCha20Poly1305 | None = None
        self._opener: ChaCha20Poly1305 | None = None
        self._sealed = self._opened = 0
        self.is_open = False

    def hello(self) -> bytes:
        """What both send first."""
        return WORD[self._secret is not None] + (self._key.public_key().public_bytes_raw() if self._key else b"")

    @property
    def expects(self) -> int:
        """The size of what the peer has to send next."""
        return PROOF_BYTES if self._transcript else len(self.hello())

    def receive(self, data: bytes) -> bytes:
        """Take what the peer sent, and return the answer. Raises Refused."""
        if not self._transcript:
            return self._greeted(data)
        if self._secret is None or not hmac.compare_digest(data, self._proof(self._secret, own=False)):
            raise Refused("it does not know the password")
        self.is_open = True
        return b"" if self._connects else self._proof(self._secret, own=True)

    def _greeted(self, data: bytes) -> bytes:
        word = WORD[self._secret is not None]
        if not data.startswith(word):
            raise Refused("one side has a password and the other has none" if data[:len(word)] in WORD.values()
                          else "it does not speak like a Raft member of this version")
        hellos = self.hello(), data
        self._transcript = b"".join(hellos if self._connects else reversed(hellos))
        if self._secret is None or self._key is None:
            self.is_open = True
            return b""
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(data[len(word):]))
        except ValueError as error:
            raise Refused("it sent a bad key") from error
        there, back = (ChaCha20Poly1305(hmac.digest(self._secret, label + self._transcript + shared, "sha256"))
                       for label in (b"there", b"back"))
        self._sealer, self._opener = (there, back) if self._connects else (back, there)
        return self._proof(self._secret, own=True) if self._connects else b""

    def _proof(self, secret: bytes, *, own: bool) -> bytes:
        label = b"connects" if own == self._connects else b"listens"
        return hmac.digest(secret, label + self._transcript, "sha256")

    def seal(self, message: bytes) -> bytes:
        """The message for the peer."""
        if self._sealer is None:
            return message
        self._sealed += 1
        return self._sealer.encrypt(self._sealed.to_bytes(12), message, None)

    def unseal(self, data: bytes) -> bytes:
        """The peer's next message. Raises Refused unless it is that."""
        if self._opener is None:
            return data
        self._opened += 1
        try:
            return self._opener.decrypt(self._opened.to_bytes(12), data, None)
        except InvalidTag:
            raise Refused("a message was changed on its way") from None
