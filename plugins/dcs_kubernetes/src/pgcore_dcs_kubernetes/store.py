"""The store ``kubernetes``: the verbs, each a change of one object under its resourceVersion (dcs-layout 4 and 9)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pgcore.net.http import Endpoints
from pgcore.plugin import (
    ConfigError,
    Deadline,
    Expect,
    Json,
    Key,
    Refused,
    Renewal,
    Snapshot,
    Stored,
    StoreRequest,
    Timing,
)
from pgcore_dcs_kubernetes.access import Access
from pgcore_dcs_kubernetes.client import CONFIGMAPS, ENDPOINTS, LEASES, Gateway
from pgcore_dcs_kubernetes.direct import Direct
from pgcore_dcs_kubernetes.layout import LEADER_OBJECT, OBJECT_OF, Change, Names, mark_of, removed, text_of, version_of, written
from pgcore_dcs_kubernetes.lock import Lock, to_annotations, to_lease
from pgcore_dcs_kubernetes.member import LeaseMember, Member, PodMember
from pgcore_dcs_kubernetes.mirror import Mirror, Thing
from pgcore_dcs_kubernetes.objects import Edit, Objects
from pgcore_dcs_kubernetes.section import (
    DEFAULT_NAMESPACE,
    KubernetesSection,
    check_label,
    check_name,
    check_section,
    retriable_codes,
)
from pgcore_dcs_kubernetes.services import Services
from pgcore_dcs_kubernetes.watch import Watcher

log = logging.getLogger(__name__)
PATRONI_NAMESPACE = "service"


class KubernetesStore:
    """One scope of a Kubernetes namespace as seen by one member; see ``pgcore.dcs.store.Store``."""

    carries: frozenset[Key] = frozenset({Key.STATUS, Key.FAILSAFE})

    def __init__(self, request: StoreRequest) -> None:
        assert isinstance(request.section, KubernetesSection)
        self._section = section = request.section
        check_section(section)
        namespace, scope, group = place(request.path, section.namespace)
        check_label("scope", scope)
        check_name("scope", scope, "the beginning of the names of objects")
        if not request.observer:
            check_name("name", request.member, "the name of a pod, and a member must be named after its pod")
        self._member, self._observer = request.member, request.observer
        self._resource = LEASES if section.use_leases else ENDPOINTS if section.use_endpoints else CONFIGMAPS
        self._names = Names(scope, group, "" if section.use_endpoints else "-leader")
        self._leader = self._names.of(LEADER_OBJECT)
        self._mirror = Mirror(self._names, request.timing.ttl)
        labels = {**section.labels, section.scope_label: scope}
        self._objects = Objects(self._resource, self._mirror, labels, with_pods=not section.use_leases)
        access = Access(section)
        connector, servers = access.connector(), Endpoints((access.url,))
        gateways = [Gateway(access, connector, servers, retriable_codes(section), namespace) for _ in range(2)]
        self._gateway = gateways[0]
        self._watcher = Watcher(gateways[1], self._objects, self._mirror, self._leader, request.timing)
        bypass = section.bypass_api_service and not request.observer
        self._direct = Direct(self._gateway, servers, request.timing.loop_wait) if bypass else None
        self._services = Services(self._gateway, section, labels, self._names, request.member)
        kind = LeaseMember if section.use_leases else PodMember
        self._card: Member = kind(self._gateway, self._objects, self._mirror, section, request.member, request.timing.ttl)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """A list of the objects and one of the pods; ``fresh`` asks a majority of etcd, the others the API server's cache."""
        if self._direct is not None:
            self._direct.refresh(deadline)
        self._objects.fill(self._gateway, fresh=fresh or self._observer, deadline=deadline)
        watched = self._mirror.watched()
        return Snapshot(self._mirror.records(), f"{self._mirror.listed};{watched}")

    # -- permanent keys ------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """PATCH or POST of the annotations of the key, with a fresh mark."""
        return self._change(key, written(key, value), expect, deadline)

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """The annotations of the key are removed, the object stays."""
        return self._change(key, removed(key), expect, deadline)

    def _change(self, key: Key, change: Change, expect: Expect, deadline: Deadline) -> Stored | Refused:
        removal = (change[mark_of(key)] or "").startswith("-")
        name = self._names.of(OBJECT_OF[key])

        def plan(found: Thing | None) -> Edit | Refused | None:
            if not self._expected(key, found, expect):
                return Refused()
            if removal and (found is None or not self._holds(key, found)):
                return None
            if key is Key.LEADER and found is not None:
                return self._lock_edit(found.lock.freed(), change)
            return Edit(change)

        self._services.keep(name, deadline)
        result = self._objects.change(self._gateway, name, plan, deadline)
        if isinstance(result, Refused):
            return result
        return Stored() if removal or result is None else Stored(version_of(key, result.annotations))

    def _holds(self, key: Key, found: Thing) -> bool:
        return bool(found.lock.leader) if key is Key.LEADER else text_of(key, found.annotations) is not None

    def _expected(self, key: Key, found: Thing | None, expect: Expect) -> bool:
        held = found is not None and self._holds(key, found)
        if expect.absent:
            return not held
        if expect.version is None:
            return True
        if found is None or not held:
            return False
        return expect.version == (found.lock.version if key is Key.LEADER else version_of(key, found.annotations))

    # -- the lock ------------------------------------------------------------------------------------------------------

    def _lock_edit(self, lock: Lock, change: Change, *, subsets: Json = None) -> Edit:
        """The lock, and what rides on the same request."""
        mark = change.get(mark_of(Key.LEADER))
        done = None if mark is None else lambda found: found.annotations.get(mark_of(Key.LEADER)) == mark
        if self._section.use_leases:
            body: dict[str, Json] = {"spec": to_lease(lock)}
            return Edit(change, body, done or (lambda found: to_lease(found.lock) == body["spec"]))
        return Edit(to_annotations(lock) | change, {} if subsets is None else {"subsets": subsets}, done)

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """The lock object with our name, if its lock is free as long as we have watched it, or ours."""

        def plan(found: Thing | None) -> Edit | Refused | None:
            holder = self._mirror.holder(self._leader) if found is not None else ""
            if holder not in ("", self._member) and not force:
                return Refused()
            before = found.lock if found is not None else Lock()
            return self._taking(before, found, holder != self._member, {}, deadline)

        return not isinstance(self._objects.change(self._gateway, self._leader, plan, deadline, lenient=True), Refused)

    def _taking(self, before: Lock, found: Thing | None, anew: bool, riders: Change, deadline: Deadline) -> Edit:
        lock = before.taken(self._member, self._mirror.ttl, anew=anew)
        return self._lock_edit(lock, riders, subsets=self._services.subsets(found, deadline))

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """A new time of renewal, if the lock names us and has not come to its end as we see it. 403 is waited out."""
        outcome = [Renewal.GONE]
        carried: Change = {name: text for key, value in riders.items() for name, text in written(key, value).items()}

        def plan(found: Thing | None) -> Edit | Refused | None:
            holder = self._mirror.holder(self._leader) if found is not None else ""
            if found is None or holder != self._member:
                outcome[0] = Renewal.TAKEN if holder else Renewal.GONE
                return Refused()
            return self._taking(found.lock, found, False, carried, deadline)

        if isinstance(self._objects.change(self._gateway, self._leader, plan, deadline, patient=True, lenient=True), Refused):
            return outcome[0]
        return Renewal.HELD

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """The lock object without a name, with the last riders in the same request; Endpoints lead nowhere from then on."""
        carried: Change = {name: text for key, value in riders.items() for name, text in written(key, value).items()}
        carried |= {mark_of(Key.LEADER): removed(Key.LEADER)[mark_of(Key.LEADER)]}

        def plan(found: Thing | None) -> Edit | Refused | None:
            if found is None or found.lock.leader != self._member:
                return Refused()
            return self._lock_edit(found.lock.freed(), carried, subsets=[] if self._section.use_endpoints else None)

        return not isinstance(self._objects.change(self._gateway, self._leader, plan, deadline), Refused)

    # -- the card ------------------------------------------------------------------------------------------------------

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """The card, a sign of life every half of ttl, and the labels of the pod, as far as they are not right already."""
        self._card.announce(card, self._mirror.holder(self._leader) == self._member, deadline)

    def withdraw(self, *, deadline: Deadline) -> None:
        """The card is removed if this process wrote it."""
        self._card.withdraw(deadline)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def clear(self, *, deadline: Deadline) -> None:
        """All objects with the labels of the scope are deleted, and the cards of its pods removed."""
        self._objects.delete_all(self._gateway, deadline)
        self._card.clear(deadline)

    def watch(self, seen: str, *, timeout: float) -> bool:
        """See ``Store.watch``; a stream of the objects' changes, and the end of the lock by our own clock."""
        return self._watcher.watch(seen, timeout)

    def retime(self, timing: Timing) -> None:
        """The next renewal and sign of life say the new ttl; others go by what is written."""
        self._mirror.ttl = self._card.ttl = timing.ttl
        self._watcher.retime(timing)

    def close(self) -> None:
        """End everything under way; the lock is left to its end."""
        self._watcher.close()
        self._gateway.close()


def place(path: str, section_namespace: str) -> tuple[str, str, str]:
    """Kubernetes' namespace, scope and group in a path ``/namespace/scope[/group]``. Raises ConfigError.

    The namespace of the layout counts if it was changed: its default means nothing to Kubernetes (dcs-layout 9.4).
    """
    first, *rest = path.strip("/").split("/")
    if not rest or len(rest) > 2 or (len(rest) == 2 and not rest[1].isdigit()):
        raise ConfigError("namespace", f"{path!r} does not name a namespace of Kubernetes and a scope", "use no '/' in them")
    namespace = section_namespace if first == PATRONI_NAMESPACE else first
    if section_namespace not in (DEFAULT_NAMESPACE, namespace):
        log.warning("kubernetes.namespace %s is not used: the namespace at the top, %s, counts", section_namespace, first)
    check_name("namespace", namespace, "a namespace")
    return namespace, rest[0], rest[1] if len(rest) == 2 else ""
