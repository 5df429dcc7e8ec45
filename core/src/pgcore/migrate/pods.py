"""The commands that move a cluster whose members are pods: the agent is the main process of its pod, so pods are made anew."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pgcore.errors import ConfigError
from pgcore.migrate.plan import Plan, Step, Units, in_order, look, pgcore, runs_pgcore, settings
from pgcore.model.cluster import ClusterView, Member
from pgcore.rest.members import ClusterMode

IMAGE, STRATEGY = "pgcore/image-before", "pgcore/update-strategy-before"
"""Annotations of the StatefulSet: what it had before the plan, for the way back."""
HERE = "any machine with kubectl, pgcore and the file"
BY_HAND = "docs/migrating-from-patroni.md says what to do without a plan"
_POD = re.compile(r"(.+)-\d+")
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Section(Protocol):
    """What a plan goes by of the section ``kubernetes``."""

    @property
    def namespace(self) -> str:
        """Of Kubernetes, unless the file has one at the top."""

    @property
    def context(self) -> str:
        """Of the kubeconfig file, outside of a pod."""

    @property
    def use_leases(self) -> bool:
        """Whether the cluster is kept in Leases."""


@dataclass(frozen=True, slots=True)
class Pods:
    """What the operator says of the pods. Raises ConfigError for a name that Kubernetes would not take."""

    file: str
    """The node file beside whoever runs the commands."""
    kubectl: tuple[str, ...] = ("kubectl",)
    """With the options that lead to the namespace."""
    image: str = ""
    """With pgcore; the way back needs none."""
    image_before: str = ""
    """With Patroni; empty for the one that the way there has noted."""
    stateful_set: str = ""
    """Empty: as the members' names say."""
    container: str = ""
    """Empty: the first one of the pod."""

    def __post_init__(self) -> None:
        for option, image in (("--image", self.image), ("--image-before", self.image_before)):
            if re.search(r"\s", image) or image.startswith("-"):
                raise ConfigError(option, f"{image!r} cannot be an image", "write it as the pods name it: registry/name:tag")
        if self.container and not _CONTAINER.fullmatch(self.container):
            raise ConfigError("--container", f"{self.container!r} cannot be the name of a container",
                              "kubectl get statefulset -o wide shows the names")


def forth(scope: str, view: ClusterView, pods: Pods) -> Plan:
    """From Patroni to pgcore: standbys first; the leader last, after a switchover. Raises ConfigError.

    Members that run pgcore already are left out; the StatefulSet gets its update strategy back in any case.
    """
    kube = _Kube(_with_set(scope, view, pods), scope)
    ahead = [member for member in in_order(view) if not runs_pgcore(member)]
    done = tuple(sorted(member.name for member in view.members if runs_pgcore(member)))
    steps: list[Step] = []
    if ahead:
        steps = [look(scope, kube.units), kube.note(IMAGE, STRATEGY), kube.hold(), kube.set_image(shlex.quote(pods.image))]
        steps += kube.exchanges(view, ahead)
    steps += [kube.release(), look(scope, kube.units)]
    if ahead:
        steps.append(Step("The way back depends on who leads then. This prints it, now or at any time", HERE, (kube.way_back(),)))
    return Plan(f"{scope}: from Patroni to pgcore, pod by pod", tuple(steps), done)


def back(scope: str, view: ClusterView, pods: Pods) -> Plan:
    """From pgcore to Patroni: the members that run pgcore now, in the same order. Raises ConfigError."""
    kube = _Kube(_with_set(scope, view, pods), scope)
    ours = [member for member in in_order(view) if runs_pgcore(member)]
    done = tuple(sorted(member.name for member in view.members if not runs_pgcore(member)))
    steps = [look(scope, kube.units), *settings(scope, view, kube.units), kube.note(STRATEGY), kube.hold(),
             kube.image_back(),
             *kube.exchanges(view, ours), kube.release(), kube.forget(), look(scope, kube.units)]
    return Plan(f"{scope}: back from pgcore to Patroni, pod by pod", tuple(steps), done)


def kubectl(section: Section, top: str, source: str, *, inside: bool) -> tuple[str, ...]:
    """How kubectl is called to reach what the file names; ``top`` is its own namespace, ``inside``: from within a pod.

    Raises ConfigError for a cluster in Leases: Patroni knows none, so there is nothing to move from or back to.
    """
    if section.use_leases:
        raise ConfigError("kubernetes.use_leases", "is true: Patroni knows no Leases, so no member of this cluster runs it",
                          "name the file of a cluster in Endpoints or ConfigMaps", source)
    namespace = section.namespace if top.strip("/") == "service" else top.strip("/")
    return "kubectl", *(() if inside else ("--context", section.context)), "-n", namespace


def _with_set(scope: str, view: ClusterView, pods: Pods) -> Pods:
    """With the name of the set whose pods the members are. Raises ConfigError if there is no plan for this cluster now."""
    if view.leader is None:
        raise ConfigError("", f"nobody leads {scope}: a pod that is made anew would not find its primary",
                          f"pgcore -c {pods.file} list says what is wrong")
    if ClusterMode.of(view).paused:
        raise ConfigError("", f"{scope} is in maintenance mode: an agent would not stop its PostgreSQL, which the end of its pod "
                          "then kills", f"pgcore -c {pods.file} resume --wait first")
    found = sorted(member.name for member in view.members)
    sets = {match[1] if (match := _POD.fullmatch(name)) else "" for name in found}
    if pods.stateful_set:
        if strangers := [name for name in found if not re.fullmatch(rf"{re.escape(pods.stateful_set)}-\d+", name)]:
            raise ConfigError("--stateful-set", f"{pods.stateful_set} has no pod called {', '.join(strangers)}, as members of "
                              f"{scope} are", "name the StatefulSet whose pods all members are, or leave it out; " + BY_HAND)
        return pods
    if len(sets) != 1 or "" in sets:
        raise ConfigError("", f"the members {', '.join(found)} of {scope} are not the pods NAME-0, NAME-1 ... of one StatefulSet",
                          "a plan is for one only; " + BY_HAND)
    return replace(pods, stateful_set=sets.pop())


@dataclass(frozen=True, slots=True)
class _Kube:
    """Words the steps for one StatefulSet."""

    pods: Pods
    scope: str

    @property
    def units(self) -> Units:
        return Units(file=self.pods.file)

    def line(self, *words: str) -> str:
        """A command of kubectl's, as a shell takes it."""
        return shlex.join([*self.pods.kubectl, *words])

    def field(self, path: str) -> str:
        """The command that shows a field of the set."""
        return self.line("get", "statefulset", self.pods.stateful_set, "-o", f"jsonpath={path}")

    def noted(self, name: str) -> str:
        """The command that shows what was noted."""
        return self.field(f"{{.metadata.annotations.{name}}}")

    def _set(self, *words: str) -> str:
        return self.line(words[0], "statefulset", self.pods.stateful_set, *words[1:])

    def note(self, *names: str) -> Step:
        """Once: a plan that goes on after a break keeps what the first one noted."""
        chosen = f'?(@.name=="{self.pods.container}")' if self.pods.container else "0"
        paths = {IMAGE: f"{{.spec.template.spec.containers[{chosen}].image}}", STRATEGY: "{.spec.updateStrategy}"}
        return Step("Note at the StatefulSet what it has now, for the way back, unless it is noted there", HERE, tuple(
            f'{self.noted(name)} | grep -q . || {self._set("annotate")} {name}="$({self.field(paths[name])})"' for name in names))

    def hold(self) -> Step:
        """The set makes no pod anew by itself."""
        patch = '{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}'
        return Step("No pod is made anew before its turn", HERE, (self._set("patch", "-p", patch),))

    def set_image(self, image: str) -> Step:
        """For pods that are made from now on."""
        return Step("The image of the pods that are made from now on; those that run stay as they are", HERE,
                    (self._image(image),))

    def image_back(self) -> Step:
        """The image with Patroni. An API server may take an empty one, so nothing is set when none was noted."""
        if self.pods.image_before:
            return self.set_image(shlex.quote(self.pods.image_before))
        noted = self.noted(IMAGE)
        change = self._image(f'"$({noted})"')
        return Step("The image that was noted, of the pods that are made from now on; those that run stay as they are", HERE, (
            f"if {noted} | grep .; then {change}; "
            "else echo 'no image is noted: ask for the plan with --image-before' >&2; false; fi",))

    def _image(self, image: str) -> str:
        name = self.pods.container or f'"$({self.field("{.spec.template.spec.containers[0].name}")})"'
        return f"{self.line('set', 'image', f'statefulset/{self.pods.stateful_set}')} {name}={image}"

    def release(self) -> Step:
        """The one that was noted, if one was; every pod has the wanted image, so none is made anew."""
        noted = self.noted(STRATEGY)
        return Step("The update strategy as it was", HERE,
                    (f'! {noted} | grep -q . || {self._set("patch")} -p "{{\\"spec\\":{{\\"updateStrategy\\":$({noted})}}}}"',))

    def forget(self) -> Step:
        """What the way there has noted."""
        return Step("What was noted is no longer needed", HERE, (self._set("annotate", f"{IMAGE}-", f"{STRATEGY}-"),))

    def exchanges(self, view: ClusterView, members: Sequence[Member]) -> Iterator[Step]:
        """Pod by pod; the leader is last among all, so everybody else is there already when it hands over."""
        for member in members:
            alone = False
            if member.name == view.leader:
                alone = all(each.tags.nofailover for each in view.members if each is not member)
                if not alone:
                    yield self._hand_over(view, member)
            yield from self._exchange(member, leads=alone)

    def _hand_over(self, view: ClusterView, leader: Member) -> Step:
        """Once the leader has seen who is back: it looks once in ``loop_wait``, and refuses while it knows nobody."""
        loop_wait = (view.config.document or {}).get("loop_wait") if view.config else None
        waits = [f"sleep {(loop_wait if isinstance(loop_wait, int) else 10) + 1}"]
        if ClusterMode.of(view).synchronous != "off":
            shown = pgcore(self.units, "list", "-f", "tsv", self.scope)
            waits.append(f"until {shown} | grep -q -e 'Sync Standby' -e 'Quorum Standby'; do sleep 1; done")
        return Step(f"{leader.name}: hand the leadership over. This is the one interruption that clients see", HERE, (
            *waits, pgcore(self.units, "switchover", "--leader", leader.name, "--force", self.scope),
            self._until_back(leader, leads=False)), leader.name)

    def _exchange(self, member: Member, *, leads: bool) -> Iterator[Step]:
        name = member.name
        why = ("nobody can lead in its place, so clients wait until it is back" if leads else
               "its PostgreSQL stops with it and comes back on the same volume")
        yield Step(f"{name}: a new pod in place of the old one; {why}", HERE, (self.line("delete", "pod", name),), name)
        ready = self.line("wait", "--for=condition=Ready", "--timeout=10s", f"pod/{name}")
        yield Step(f"{name}: it is back. If it does not come, kubectl describe and kubectl logs say why", HERE,
                   (f"until {ready}; do sleep 1; done", self._until_back(member, leads=leads)), name)

    def _until_back(self, member: Member, *, leads: bool) -> str:
        """Until the card in the annotation of the pod says so; a pod that is made anew has none until its agent is there."""
        told = '"state": *"running"' if leads or member.tags.nostream else '"replication_state": *"streaming"'
        card = self.line("get", "pod", member.name, "-o", "jsonpath={.metadata.annotations.status}")
        return f"until {card} | grep -q {shlex.quote(told)}; do sleep 1; done"

    def way_back(self) -> str:
        """The command that prints it."""
        named = ("--container", self.pods.container) if self.pods.container else ()
        return shlex.join(["pgcore", "migrate", "plan", "--back", "--stateful-set", self.pods.stateful_set, *named,
                           self.pods.file])
