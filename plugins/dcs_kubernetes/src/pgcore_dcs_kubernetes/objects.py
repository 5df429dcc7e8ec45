"""The objects of one scope at the API server: listed, read one by one, watched, and changed under their resourceVersion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pgcore.net.http import LineStream
from pgcore.plugin import Deadline, Instant, Json, Refused, StoreRejectedError, StoreUnavailableError, now
from pgcore_dcs_kubernetes.client import (
    JSON,
    METADATA_ONLY,
    PODS,
    ConflictError,
    Gateway,
    NotFoundError,
    Resource,
)
from pgcore_dcs_kubernetes.layout import GROUP_LABEL, Change
from pgcore_dcs_kubernetes.mirror import Mirror, Thing, thing

STREAM_GRACE_S = 10


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to become of an object. ``body``: further parts of it, ``{"spec": {...}}``; None inside removes a field.

    ``done`` tells of an object whether it is as this edit leaves it: that is how an edit whose answer was lost is recognised.
    """

    annotations: Change
    body: Mapping[str, Json] = field(default_factory=dict)
    done: Callable[[Thing], bool] | None = None

    def happened(self, found: Thing) -> bool:
        """Whether the object shows that this very edit was carried out."""
        if self.done is not None:
            return self.done(found)
        return all(found.annotations.get(name) == text for name, text in self.annotations.items())


Plan = Callable[[Thing | None], "Edit | Refused | None"]
"""What to do about an object as found (None: absent): an edit; None, nothing; Refused, a condition does not hold."""


class Objects:
    """The objects that carry a scope's labels."""

    def __init__(self, resource: Resource, mirror: Mirror, labels: Mapping[str, str], *, with_pods: bool) -> None:
        self.resource, self.labels, self.with_pods = resource, labels, with_pods
        self._mirror = mirror
        self._selector = ",".join(f"{name}={value}" for name, value in labels.items())

    # -- reading -------------------------------------------------------------------------------------------------------

    def fill(self, gateway: Gateway, *, fresh: bool, deadline: Deadline) -> None:
        """List the objects, and the pods, into the mirror: ``fresh`` by a majority, else from the API server's cache."""
        self._list(gateway, self.resource, fresh, deadline)
        if self.with_pods:
            self._list(gateway, PODS, fresh, deadline)

    def _list(self, gateway: Gateway, resource: Resource, fresh: bool, deadline: Deadline) -> None:
        pod = resource is PODS
        for majority in (fresh, True):
            began = self._mirror.newest(pod=pod)
            query = {"labelSelector": self._selector} | ({} if majority else {"resourceVersion": "0"})
            found, _ = gateway.call(f"a list of {resource.plural}", "GET", resource.path(gateway.namespace), deadline,
                                    query=query, accept=METADATA_ONLY if pod else JSON)
            items = [thing(item) for item in found.get("items") or ()]
            if self._mirror.fill(items, str(found["metadata"]["resourceVersion"]), began, fresh=majority, pod=pod):
                return

    def get(self, gateway: Gateway, name: str, deadline: Deadline) -> Thing | None:
        """One object as a majority has it."""
        path, began = self.resource.path(gateway.namespace, name), self._mirror.order(name)
        try:
            found = thing(gateway.call(f"a read of {name}", "GET", path, deadline)[0])
        except NotFoundError:
            self._mirror.remove(name)
            return None
        self._mirror.certain(found, began)
        return found

    def stream(self, gateway: Gateway, place: str, longest_s: float, deadline: Deadline) -> LineStream:
        """The changes since ``place``. Raises OSError, http.client.HTTPException."""
        query = {"labelSelector": self._selector, "watch": "1", "resourceVersion": place, "allowWatchBookmarks": "true",
                 "timeoutSeconds": str(int(longest_s) + STREAM_GRACE_S)}
        return gateway.stream(self.resource.path(gateway.namespace), query, deadline)

    # -- changing ------------------------------------------------------------------------------------------------------

    def change(self, gateway: Gateway, name: str, plan: Plan, deadline: Deadline, *, patient: bool = False,
               lenient: bool = False) -> Thing | Refused | None:
        """Bring an object to what ``plan`` says of its present state, each attempt on condition that this still is its state.

        The object as the edit left it, None if there was nothing to do. Raises StoreUnavailableError when undecided: also when
        an edit may have happened and been undone since, unless ``lenient``, for plans that only ask what is so now.
        """
        found, certain, doubtful = self._mirror.get(name), False, False
        while True:
            edit = plan(found)
            if not isinstance(edit, Edit):
                if certain and doubtful and isinstance(edit, Refused) and not lenient:
                    raise StoreUnavailableError(f"an answer about {name} was lost; the change may have happened")
                if certain:
                    return edit
                found, certain = self.get(gateway, name, deadline), True
                continue
            sent = now()
            try:
                if found is None:
                    written = self._create(gateway, name, edit, deadline)
                else:
                    written = self._patch(gateway, found, edit, deadline, patient)
            except (ConflictError, NotFoundError) as error:
                if found is None and isinstance(error, NotFoundError):
                    raise StoreRejectedError(f"Kubernetes has no namespace {gateway.namespace!r} ({error})") from error
                found, certain = self.get(gateway, name, deadline), True
                if error.repeated and found is not None and edit.happened(found):
                    return found
                doubtful = doubtful or error.repeated
                if deadline.expired:
                    raise StoreUnavailableError(f"{name} changed again and again while it was to be written") from error
                continue
            result = thing(written)
            self._mirror.add(result, Instant(sent))
            return result

    def _create(self, gateway: Gateway, name: str, edit: Edit, deadline: Deadline) -> dict[str, Json]:
        labels = dict(self.labels) | ({GROUP_LABEL: self._mirror.names.group} if self._mirror.names.group else {})
        annotations = {key: text for key, text in edit.annotations.items() if text is not None}
        body = {"apiVersion": self.resource.version, "kind": self.resource.kind,
                "metadata": {"name": name, "labels": labels, "annotations": annotations}, **edit.body}
        return gateway.call(f"the creation of {name}", "POST", self.resource.path(gateway.namespace), deadline, body=body)[0]

    def _patch(self, gateway: Gateway, found: Thing, edit: Edit, deadline: Deadline, patient: bool) -> dict[str, Json]:
        body = {"metadata": {"resourceVersion": found.version, "annotations": edit.annotations}, **edit.body}
        return gateway.call(f"a change of {found.name}", "PATCH", self.resource.path(gateway.namespace, found.name), deadline,
                            body=body, patient=patient)[0]

    def delete_all(self, gateway: Gateway, deadline: Deadline) -> None:
        """Delete every object of the scope."""
        gateway.call("the removal of all objects", "DELETE", self.resource.path(gateway.namespace), deadline,
                     query={"labelSelector": self._selector})
        self._list(gateway, self.resource, True, deadline)
