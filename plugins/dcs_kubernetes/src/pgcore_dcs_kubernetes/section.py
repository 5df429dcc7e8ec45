"""The keys of the section ``kubernetes`` (config 3.4) and what is checked of them before anything is asked of Kubernetes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from pgcore.plugin import ConfigError, Json, option

DEFAULT_NAMESPACE, DEFAULT_CONTEXT = "default", "kind-kind"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LONGEST_NAME, LONGEST_LABEL = 253, 63


@dataclass(frozen=True, slots=True)
class KubernetesSection:
    """Which objects hold the cluster, how pods are labelled, how the API server is reached."""

    labels: Mapping[str, str] = option(doc="Labels of the pods of this cluster; every object gets them too.")
    scope_label: str = option("cluster-name", doc="Label whose value is the scope.")
    role_label: str = option("role", doc="Label of a pod that tells its role.")
    leader_label_value: str = option("primary", doc="`role_label` of the pod that holds the lock.")
    follower_label_value: str = option("replica", doc="`role_label` of a running replica.")
    standby_leader_label_value: str = option("primary", doc="`role_label` of the leader of a standby cluster.")
    tmp_role_label: str | None = option(None, doc="A second role label, always `primary` or the plain role.")
    bootstrap_labels: Mapping[str, str] = option(factory=dict, doc="Labels of a pod while its data directory is made.")
    namespace: str = option(DEFAULT_NAMESPACE, doc="Namespace of Kubernetes; a top-level `namespace` other than `service` wins.")
    use_endpoints: bool = option(False, doc="Keep the cluster in Endpoints, whose leader object leads clients to the primary; "
                                            "ConfigMaps otherwise.")
    use_leases: bool = option(False, doc="Keep the cluster in Leases, which spares the API server; Patroni cannot join.")
    pod_ip: str = option("", doc="Address of this pod, for `use_endpoints`; asked of Kubernetes if empty.")
    ports: tuple[Mapping[str, Json], ...] = option(({"port": 5432},), doc="Ports of the leader's Endpoints: `port`, and `name` "
                                                                           "and `protocol` as the Service has them.")
    bypass_api_service: bool = option(False, doc="Talk to the API servers themselves, without the Service in between.")
    cacert: str | None = option(None, doc="File with the certificate authority of the API server, if not that of the login.")
    retriable_http_codes: Json = option((), doc="Answers that count as passing trouble, besides 429, 500, 503 and 504: a number, "
                                                "a list, or numbers separated by commas.")
    context: str = option(DEFAULT_CONTEXT, doc="Context of the kubeconfig file, outside of a pod.")


def retriable_codes(section: KubernetesSection) -> frozenset[int]:
    """The status codes after which a request is repeated. Raises ConfigError."""
    value = section.retriable_http_codes
    words = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        return frozenset({429, 500, 503, 504} | {int(str(word)) for word in words})
    except ValueError as error:
        raise ConfigError("kubernetes.retriable_http_codes", f"wants HTTP status codes, has {value!r}",
                          "write [502, 520]") from error


def check_section(section: KubernetesSection) -> None:
    """Raises ConfigError for the first value that Kubernetes would not take."""
    retriable_codes(section)
    if section.use_endpoints and section.use_leases:
        raise ConfigError("kubernetes.use_leases", "excludes kubernetes.use_endpoints", "keep one of them")
    if not section.labels:
        raise ConfigError("kubernetes.labels", "is empty: the pods of the cluster could not be told from others",
                          "write the labels of its pods, such as {application: pgcore}")
    if section.pod_ip:
        try:
            ipaddress.ip_address(section.pod_ip)
        except ValueError as error:
            raise ConfigError("kubernetes.pod_ip", f"wants an address, has {section.pod_ip!r}",
                              "take it from the field status.podIP of the pod") from error
    for key, value in _label_values(section):
        if not _LABEL.fullmatch(value) or len(value) > LONGEST_LABEL:
            raise ConfigError(f"kubernetes.{key}", f"{value!r} cannot be the value of a label",
                              "use at most 63 letters, digits, '-', '_' and '.'")
    if not _NAME.fullmatch(section.namespace):
        raise ConfigError("kubernetes.namespace", f"{section.namespace!r} cannot be a namespace",
                          "use lower case letters and '-'")
    ports(section)


def _label_values(section: KubernetesSection) -> Iterator[tuple[str, str]]:
    for key in ("leader_label_value", "follower_label_value", "standby_leader_label_value"):
        yield key, getattr(section, key)
    for group in ("labels", "bootstrap_labels"):
        for name, value in getattr(section, group).items():
            yield f"{group}.{name}", value


def ports(section: KubernetesSection) -> list[dict[str, Json]]:
    """``ports`` as Endpoints hold them. Raises ConfigError."""
    found = []
    for number, entry in enumerate(section.ports):
        try:
            port = int(str(entry["port"]))
        except (KeyError, ValueError) as error:
            raise ConfigError(f"kubernetes.ports[{number}]", f"wants a port, has {dict(entry)!r}",
                              "write {name: postgresql, port: 5432}") from error
        words = {key: str(entry[key]) for key in ("name", "protocol") if entry.get(key)}
        found.append(cast("dict[str, Json]", {"protocol": "TCP", **words, "port": port}))
    return found


def check_name(key: str, name: str, what: str) -> None:
    """Raises ConfigError if this cannot be (part of) the name of an object."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(key, f"{name!r} cannot be {what}", "Kubernetes wants lower case letters, digits, '-' and '.'")


def check_label(key: str, value: str) -> None:
    """Raises ConfigError if this cannot be the value of a label."""
    if not value or not _LABEL.fullmatch(value) or len(value) > LONGEST_LABEL:
        raise ConfigError(key, f"{value!r} cannot be the value of a label", "use at most 63 letters, digits, '-', '_' and '.'")
