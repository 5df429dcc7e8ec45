"""An authority of the test's own and what it signs, made with the openssl program."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path


class Authority:
    """``ca.crt`` below a folder; every certificate it signs lies beside it as ``<name>.crt`` and ``<name>.key``."""

    def __init__(self, folder: Path, addresses: Sequence[str] = ("127.0.0.1", "127.0.0.2", "::1")) -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._openssl("req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test ca", "-days", "2")
        (folder / "san").write_text("subjectAltName=" + ",".join(f"IP:{address}" for address in addresses) + "\n")

    def sign(self, name: str) -> tuple[Path, Path]:
        """Certificate and key; signing the same name again replaces both."""
        self._openssl("req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-out", f"{name}.crt", "-days", "2", "-extfile", "san")
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def lock(self, key: Path, password: str) -> Path:
        """A copy of the key that needs this password."""
        locked = key.with_suffix(".locked")
        self._openssl("rsa", "-aes256", "-passout", f"pass:{password}", "-in", key.name, "-out", locked.name)
        return locked

    def client(self, name: str = "") -> ssl.SSLContext:
        """A client that trusts this authority and shows the certificate of this name, if any."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if name:
            context.load_cert_chain(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


_NEW_KEY = ("-newkey", "rsa:2048", "-nodes")
