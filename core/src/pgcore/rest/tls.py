"""The TLS side of the REST listener: the certificate and who must show one, read again when the files change (rest-api 12)."""

from __future__ import annotations

import logging
import os
import ssl

from pgcore.errors import ConfigError
from pgcore.rest.settings import RestSettings

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often the files are looked at: a renewed certificate is in use after so many seconds, without anybody's signal."""

_Print = tuple[tuple[int, int, int] | None, ...]


class TlsFiles:
    """What the files held when they were last read. Used by one thread at a time."""

    def __init__(self, settings: RestSettings) -> None:
        """Raises ConfigError for files or ciphers that do not work."""
        self._settings = settings
        self._print = _print_of(settings)
        self.context = tls_context(settings)

    def renewed(self) -> ssl.SSLContext | None:
        """The new context when the files have changed and work; what does not work is logged once and the old one stays."""
        seen = _print_of(self._settings)
        if seen == self._print:
            return None
        self._print = seen
        try:
            self.context = tls_context(self._settings)
        except ConfigError as error:
            logger.error("the REST API goes on with the certificate it has: %s", error)
            return None
        logger.info("the REST API uses the certificate that is now in %s", self._settings.certfile)
        return self.context


def tls_context(settings: RestSettings) -> ssl.SSLContext | None:
    """The TLS side of the listener, None for plain http. Raises ConfigError for files or ciphers that do not work."""
    if not settings.certfile:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    password = settings.keyfile_password or ""
    try:
        # Always with a password: without one OpenSSL would ask for it on the terminal.
        context.load_cert_chain(settings.certfile, settings.keyfile, password=lambda: password)
    except (OSError, ValueError) as error:
        files = " and ".join(name for name in (settings.certfile, settings.keyfile) if name)
        raise ConfigError("restapi.certfile", f"cannot use {files}: {error}",
                          "both must be readable PEM files that belong together, restapi.keyfile_password the key's password"
                          ) from error
    try:
        if settings.cafile:
            context.load_verify_locations(settings.cafile)
        elif settings.checks_clients:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    except (OSError, ValueError) as error:
        raise ConfigError("restapi.cafile", f"cannot use {settings.cafile}: {error}", "it must be a readable PEM file") from error
    try:
        if settings.ciphers:
            context.set_ciphers(settings.ciphers)
    except ssl.SSLError as error:
        raise ConfigError("restapi.ciphers", f"{settings.ciphers!r} selects no cipher", "see openssl ciphers") from error
    modes = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
    context.verify_mode = modes.get(settings.verify_client.lower(), ssl.CERT_NONE)
    return context


def _print_of(settings: RestSettings) -> _Print:
    return tuple(_file_print(path) for path in (settings.certfile, settings.keyfile, settings.cafile) if path)


def _file_print(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
