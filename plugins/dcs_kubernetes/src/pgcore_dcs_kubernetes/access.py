"""Who we are to Kubernetes and where it is: the library's reading of a pod's service account or of a kubeconfig file."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_kube_config
from kubernetes.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)

from pgcore.net.http import Connector, TlsFiles
from pgcore.plugin import ConfigError, Deadline
from pgcore_dcs_kubernetes.section import KubernetesSection

log = logging.getLogger(__name__)
KUBECONFIG = "~/.kube/config"
POD = "the service account of this pod"


class ServiceAccount(InClusterConfigLoader):
    """A pod's own account. Its token is read again as soon as the file changes: Kubernetes replaces it every hour or so."""

    def __init__(self, token: str = SERVICE_TOKEN_FILENAME, cacert: str = SERVICE_CERT_FILENAME) -> None:
        super().__init__(token, cacert, environ=os.environ)
        self._path, self._stamp = token, self._look(token)

    @staticmethod
    def _look(path: str) -> tuple[int, int]:
        found = os.stat(path)
        return found.st_mtime_ns, found.st_ino

    def _read_token_file(self) -> None:
        super()._read_token_file()
        self.token: str = self.token.strip()

    def refresh(self, configuration: Configuration) -> None:
        """Give the configuration the token of the file; a file that cannot be read now leaves the old one."""
        try:
            stamp = self._look(self._path)
            if stamp != self._stamp:
                self._read_token_file()
                self._stamp = stamp
                configuration.api_key["BearerToken"] = self.token
        except (OSError, ConfigException) as error:
            log.warning("the token of the service account cannot be read again: %s", error)


class _Context(ssl.SSLContext):
    """TLS that expects the certificate to be of one name, whatever address is connected to."""

    expected: str | None = None

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        if self.expected:
            options["server_hostname"] = self.expected
        return super().wrap_socket(*arguments, **options)


@dataclass(frozen=True, slots=True)
class _Tls(TlsFiles):
    """Certificate files as the library found them, checked as the kubeconfig wants it."""

    verify: bool = True
    expected: str | None = None

    def context(self) -> ssl.SSLContext:
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.expected = self.expected
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        elif self.cacert:
            context.load_verify_locations(self.cacert)
        else:
            context.load_default_certs()
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


class Access:
    """The way to one API server, shared by the threads of a store."""

    def __init__(self, section: KubernetesSection) -> None:
        """Raises ConfigError if there is no usable login."""
        self.configuration = Configuration()
        self._login = threading.Lock()
        self._asking: threading.Thread | None = None
        self._shown: dict[str, str] = {}
        try:
            if os.environ.get(SERVICE_HOST_ENV_NAME) and os.path.isfile(SERVICE_TOKEN_FILENAME):
                account = ServiceAccount()
                account.load_and_set(self.configuration)
                self.configuration.refresh_api_key_hook = account.refresh
                self.source = POD
            else:
                load_kube_config(os.environ.get("KUBECONFIG") or KUBECONFIG, section.context, self.configuration,
                                 persist_config=False)
                self.source = f"context {section.context} of the kubeconfig file"
        except (ConfigException, OSError, ValueError) as error:
            raise ConfigError("kubernetes.context", f"there is no way to log in to Kubernetes: {error}",
                              "run in a pod with a service account, or name a context of $KUBECONFIG") from error
        if section.cacert:
            self.configuration.ssl_ca_cert = section.cacert
        self.url = str(self.configuration.host).rstrip("/")
        self._api = ApiClient(self.configuration)

    def authorize(self, headers: dict[str, str], deadline: Deadline) -> None:
        """Add what a request shows to be let in; a token that is due is replaced first. Raises TimeoutError.

        A kubeconfig may name a program for that, and the library waits for it without end: it is waited for beside us.
        """
        with self._login:
            if self.source == POD:
                self._api.update_params_for_auth(headers, [], ["BearerToken"])
                return
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._log_in, name="login", daemon=True)
                self._asking.start()
            asking = self._asking
        asking.join(deadline.left())
        if asking.is_alive():
            raise TimeoutError(f"the login by {self.source} gave no token in time")
        headers |= self._shown

    def _log_in(self) -> None:
        shown: dict[str, str] = {}
        self._api.update_params_for_auth(shown, [], ["BearerToken"])
        self._shown = shown

    def connector(self) -> Connector:
        """What opens connections. The certificate must be that of the configured address, also where that is bypassed.

        Raises ConfigError if a TLS file cannot be used.
        """
        found = self.configuration
        made = Connector(_Tls(found.ssl_ca_cert, found.cert_file, found.key_file, bool(found.verify_ssl),
                              found.tls_server_name or urlsplit(self.url).hostname))
        try:
            made.check()
        except OSError as error:
            raise ConfigError("kubernetes.cacert", f"the TLS files of {self.source} cannot be used: {error}",
                              f"check {found.ssl_ca_cert or 'them'}") from error
        return made
