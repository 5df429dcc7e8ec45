"""What Endpoints mode needs besides the store: the leader object leads clients to the primary, and Services keep objects alive.

Kubernetes removes Endpoints that belong to no Service. The operator's manifest has one for the leader object; that of the
configuration and of ``/sync``, whose loss would cost safety, get a headless one each.
"""

from __future__ import annotations

import logging

from pgcore.plugin import Deadline, Json, StoreRejectedError, StoreUnavailableError
from pgcore_dcs_kubernetes.client import PODS, SERVICES, ConflictError, Gateway, NotFoundError
from pgcore_dcs_kubernetes.layout import CONFIG_OBJECT, GROUP_LABEL, SYNC_OBJECT, Names
from pgcore_dcs_kubernetes.mirror import Thing
from pgcore_dcs_kubernetes.section import KubernetesSection, ports

log = logging.getLogger(__name__)
PATIENCE_S = 1.0
"""Longer than this nothing here holds up the lock or a write."""


class Services:
    """Does nothing in the other modes."""

    def __init__(self, gateway: Gateway, section: KubernetesSection, labels: dict[str, str], names: Names, member: str) -> None:
        self._gateway, self._section, self._member = gateway, section, member
        self._labels = labels | ({GROUP_LABEL: names.group} if names.group else {})
        self._wanted = {names.of(CONFIG_OBJECT), names.of(SYNC_OBJECT)} if section.use_endpoints else set()
        self._address: Json = None
        self._ports = ports(section)
        self._told: set[str] = set()

    def keep(self, name: str, deadline: Deadline) -> None:
        """See that the Endpoints ``name`` about to be written have their Service. Never raises."""
        if name not in self._wanted:
            return
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": self._labels},
                "spec": {"clusterIP": "None"}}
        try:
            self._gateway.call(f"the Service {name}", "POST", SERVICES.path(self._gateway.namespace), deadline.within(PATIENCE_S),
                               body=body)
        except ConflictError:
            pass
        except StoreUnavailableError:
            return
        except (StoreRejectedError, NotFoundError) as error:
            self._tell(f"the Service {name} is not made, so Kubernetes may remove these Endpoints: {error}")
        self._wanted.discard(name)

    def subsets(self, found: Thing | None, deadline: Deadline) -> Json:
        """What the leader object must say for clients to come here; None if it says so already or nothing can be said."""
        if not self._section.use_endpoints:
            return None
        address = self._own_address(deadline)
        if address is None:
            return None
        wanted = [{"addresses": [address], "ports": self._ports}]
        return None if found is not None and _same(found.body, wanted) else wanted

    def _own_address(self, deadline: Deadline) -> Json:
        if self._address is not None:
            return self._address
        address: dict[str, Json] = {"ip": self._section.pod_ip}
        try:
            path = PODS.path(self._gateway.namespace, self._member)
            pod, _ = self._gateway.call("a read of the own pod", "GET", path, deadline.within(PATIENCE_S))
            spec, uid = pod.get("spec") or {}, pod["metadata"].get("uid")
            address["ip"] = address["ip"] or (pod.get("status") or {}).get("podIP") or ""
            address |= {key: spec[key] for key in ("hostname", "nodeName") if spec.get(key)}
            address["targetRef"] = {"kind": "Pod", "namespace": self._gateway.namespace, "name": self._member, "uid": uid}
        except (NotFoundError, ConflictError, StoreRejectedError, StoreUnavailableError) as error:
            self._tell(f"the pod {self._member} cannot be read for the address of the leader: {error}")
        else:
            self._address = address if address["ip"] else None
        if not address["ip"]:
            self._tell(f"no address of the pod {self._member} is known, so the Endpoints of the leader lead nowhere: set pod_ip")
            return None
        return address

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)


def _same(found: Json, wanted: list[dict[str, Json]]) -> bool:
    """Whether these subsets lead to the same address and ports; what Kubernetes filled in by itself does not count."""
    if not isinstance(found, list) or len(found) != 1:
        return False
    addresses, entries = found[0].get("addresses") or [], found[0].get("ports") or []
    [address], wanted_ports = wanted[0]["addresses"], wanted[0]["ports"]
    return (len(addresses) == 1 and all(_covers(addresses[0].get(key), value) for key, value in address.items())
            and len(entries) == len(wanted_ports)
            and all(_covers(entry, port) for entry, port in zip(entries, wanted_ports, strict=True)))


def _covers(found: Json, wanted: Json) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_covers(found.get(key), value) for key, value in wanted.items())
    return bool(found == wanted)
