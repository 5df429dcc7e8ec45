"""The card of a member: an annotation of its pod, or a Lease of its own, and the labels of the pod."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

from pgcore.plugin import Deadline, Instant, Json, Refused, StoreRejectedError, StoreUnavailableError, now
from pgcore_dcs_kubernetes.client import PODS, Gateway, NotFoundError
from pgcore_dcs_kubernetes.labels import pod_labels
from pgcore_dcs_kubernetes.layout import CARD, CARD_REMOVED, Change, card_life, card_written
from pgcore_dcs_kubernetes.mirror import Mirror, Thing, thing
from pgcore_dcs_kubernetes.objects import Edit, Objects
from pgcore_dcs_kubernetes.section import KubernetesSection

log = logging.getLogger(__name__)
SIGN_OF_LIFE = 0.5
"""Part of ttl after which an unchanged card is written again."""


class Member(ABC):
    """What this process says of itself."""

    def __init__(self, gateway: Gateway, objects: Objects, mirror: Mirror, section: KubernetesSection, member: str,
                 ttl: int) -> None:
        self._gateway, self._objects, self._mirror = gateway, objects, mirror
        self._section, self._member, self.ttl = section, member, ttl
        self._change: Change | None = None
        self._shown_at = Instant(0.0)

    def announce(self, card: str, leads: bool, deadline: Deadline) -> None:
        """See ``Store.announce``. ``leads``: we hold the lock."""
        labels = pod_labels(self._section, card, leads)
        stands = self._stands(self._found(), card)
        if not stands or not self._labelled(labels):
            change = self._change if stands and self._change is not None else card_written(card, self.ttl)
            sent = now()
            self._write(change, labels, deadline)
            if change is not self._change:
                self._change, self._shown_at = change, Instant(sent)

    def _stands(self, found: Thing | None, card: str) -> bool:
        """Whether the card stands there as we wrote it, lately enough."""
        if self._change is None or found is None or now() - self._shown_at >= SIGN_OF_LIFE * self.ttl:
            return False
        life = card_life(found.annotations)
        return found.annotations.get(CARD) == card and life is not None and life[0] == self.ttl and all(
            found.annotations.get(name) == text for name, text in self._change.items())

    @abstractmethod
    def _found(self) -> Thing | None:
        """The object with the card as last seen."""

    @abstractmethod
    def _labelled(self, labels: Change) -> bool:
        """Whether the pod has these labels as far as is known."""

    @abstractmethod
    def _write(self, change: Change, labels: Change, deadline: Deadline) -> None:
        """Write the card and the labels."""

    @abstractmethod
    def clear(self, deadline: Deadline) -> None:
        """Remove all cards of the scope, after its objects are gone."""

    def withdraw(self, deadline: Deadline) -> None:
        """See ``Store.withdraw``."""
        if self._change is not None:
            self._remove(deadline)
            self._change = None

    @abstractmethod
    def _remove(self, deadline: Deadline) -> None:
        """Remove the own card."""

    def _patch_pod(self, name: str, metadata: dict[str, Json], deadline: Deadline) -> Thing:
        """Raises NotFoundError."""
        sent = now()
        found, _ = self._gateway.call(f"a change of the pod {name}", "PATCH", PODS.path(self._gateway.namespace, name), deadline,
                                      body={"metadata": metadata})
        result = thing(found)
        self._mirror.add(result, Instant(sent), pod=True)
        return result


class PodMember(Member):
    """The card is the annotation ``status`` of the pod. One request brings card and labels."""

    def _found(self) -> Thing | None:
        return self._mirror.get(self._member, pod=True)

    def _labelled(self, labels: Change) -> bool:
        found = self._found()
        return found is not None and all(found.labels.get(name) == text for name, text in labels.items())

    def _write(self, change: Change, labels: Change, deadline: Deadline) -> None:
        try:
            written = self._patch_pod(self._member, {"annotations": change, "labels": labels}, deadline)
        except NotFoundError as error:
            raise StoreRejectedError(f"there is no pod {self._member!r} in namespace {self._gateway.namespace!r}: "
                                     f"a member must be named after its pod ({error})") from error
        missing = {name: text for name, text in self._objects.labels.items() if written.labels.get(name) != text}
        if missing:
            raise StoreRejectedError(f"the pod {self._member!r} lacks labels by which its cluster is found: "
                                     + ", ".join(f"{name}={text}" for name, text in missing.items()))

    def _remove(self, deadline: Deadline) -> None:
        try:
            self._patch_pod(self._member, {"annotations": CARD_REMOVED}, deadline)
        except NotFoundError:
            self._mirror.remove(self._member, pod=True)

    def clear(self, deadline: Deadline) -> None:
        """PATCH of each pod that has a card."""
        self._objects.fill(self._gateway, fresh=True, deadline=deadline)
        for name in self._mirror.pods():
            pod = self._mirror.get(name, pod=True)
            if pod is not None and pod.annotations.get(CARD):
                try:
                    self._patch_pod(name, {"annotations": CARD_REMOVED}, deadline)
                except NotFoundError:
                    self._mirror.remove(name, pod=True)


class LeaseMember(Member):
    """The card is a Lease: nothing in Kubernetes but us watches it. The pod is touched only when its labels change."""

    def __init__(self, gateway: Gateway, objects: Objects, mirror: Mirror, section: KubernetesSection, member: str,
                 ttl: int) -> None:
        super().__init__(gateway, objects, mirror, section, member, ttl)
        self._lease = mirror.names.member(member)
        self._labels: Change | None = None
        self._complained = False

    def _found(self) -> Thing | None:
        return self._mirror.get(self._lease)

    def _labelled(self, labels: Change) -> bool:
        return self._labels == labels

    def _write(self, change: Change, labels: Change, deadline: Deadline) -> None:
        if change is not self._change:
            self._edit(change, deadline)
        if self._labels == labels:
            return
        try:
            self._patch_pod(self._member, {"labels": labels}, deadline)
            self._labels, self._complained = labels, False
        except (NotFoundError, StoreRejectedError, StoreUnavailableError) as error:
            if not self._complained:
                self._complained = True
                log.warning("the pod %s does not show its role: %s", self._member, error)
            if not isinstance(error, StoreUnavailableError):
                self._labels = labels  # tried again when they change

    def _edit(self, change: Change, deadline: Deadline) -> None:
        held: dict[str, Json] = {"spec": {"holderIdentity": self._member if change.get(CARD) is not None else None}}

        def plan(found: Thing | None) -> Edit | Refused | None:
            return Edit(change, held)

        self._objects.change(self._gateway, self._lease, plan, deadline)

    def _remove(self, deadline: Deadline) -> None:
        self._edit(CARD_REMOVED, deadline)

    def clear(self, deadline: Deadline) -> None:
        """Nothing: the cards were among the objects."""
