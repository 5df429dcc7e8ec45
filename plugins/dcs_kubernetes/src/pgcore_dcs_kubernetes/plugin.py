"""The entry point ``kubernetes``: describes the store, imports it and the library when it is opened."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.plugin import Store, StoreBackend, StoreRequest, hookimpl
from pgcore_dcs_kubernetes.section import KubernetesSection, check_section


def open_store(request: StoreRequest) -> Store:
    """Open a scope. Raises ConfigError; an unreachable API server is reported by the verbs."""
    from pgcore_dcs_kubernetes.store import KubernetesStore

    return KubernetesStore(request)


def check(section: object) -> None:
    """Raises ConfigError for a section that ``open_store`` would refuse on any machine."""
    assert isinstance(section, KubernetesSection)
    check_section(section)


@hookimpl
def pgcore_stores() -> Iterable[StoreBackend]:
    """Endpoints, ConfigMaps or Leases of one namespace."""
    return [StoreBackend("kubernetes", KubernetesSection, open_store, check=check)]
