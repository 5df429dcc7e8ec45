"""How connections to Consul are made: TLS with or without a look at the agent's certificate."""

from __future__ import annotations

import ssl

from pgcore.net.http import Connector, TlsFiles
from pgcore.plugin import ConfigError
from pgcore_dcs_consul.section import ConsulSection, address


class _Unverified(TlsFiles):
    """TLS that takes any certificate."""

    def context(self) -> ssl.SSLContext:
        context = TlsFiles.context(self)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def connector(section: ConsulSection) -> Connector:
    """What opens the connections of a store. Raises ConfigError if a TLS file cannot be used."""
    secure = address(section).startswith("https:")
    made = Connector((TlsFiles if section.verify else _Unverified)(section.cacert, section.cert, section.key))
    if section.cacert or section.cert or secure:
        try:
            made.check()
        except OSError as error:
            files = ", ".join(f"{key} {path}" for key, path in (("cacert", section.cacert), ("cert", section.cert),
                                                                ("key", section.key)) if path)
            raise ConfigError("consul", f"the TLS files cannot be used: {error}", f"check {files or 'them'}") from error
    return made
