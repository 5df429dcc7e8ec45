"""The only input of a rule: what is remembered, configured, observed and answered, and what time it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from pgcore.model.actions import BootstrapPhase, DemoteMode, Outcome, Phase, RewindState
from pgcore.model.basics import Instant, Lsn, Role, State, slot_name
from pgcore.model.cluster import ClusterStatus, ClusterView, Member, SyncView, address_in
from pgcore.model.failsafe import FailsafeAnswer, FailsafeMap, FailsafeRecord
from pgcore.model.node import DataDir, NodeView, TaskKind, TaskResult
from pgcore.model.orders import Order, ScheduledRestart
from pgcore.model.server import Upstream
from pgcore.model.settings import Settings
from pgcore.model.slots import SlotMemory
from pgcore.model.synchronous import SyncMemory


class LeaseState(StrEnum):
    """My hold on the lock as far as this beat knows."""

    UNKNOWN = "unknown"
    """The store was not read, or did not answer."""
    NONE = "none"
    """Somebody else, or nobody, is named in the lock."""
    UNRENEWED = "unrenewed"
    """The lock names me, but this beat has not proven it yet."""
    HELD = "held"
    """The store confirmed during this beat that the lock is mine."""
    GONE = "gone"
    """My renewal was refused: the lock does not exist any more."""
    TAKEN = "taken"
    """My renewal was refused: another name holds it."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """A member's fresh answer over REST. Unreachable, or without WAL fields: ``reachable`` is false (HA rules 1)."""

    name: str
    reachable: bool
    is_primary: bool = False
    position: Lsn = Lsn(0)
    timeline: int | None = None
    nofailover: bool = False
    failover_priority: int = 1
    watchdog_failed: bool = False
    starting: bool = False
    """Its agent answers but its server does not serve yet: what WAL it has is not known."""
    counts_on_lock: bool = False
    """It does not say what WAL it has, but that it is a primary whose lock is proven for now: it may be accepting writes."""
    promoting: bool = False
    """Its server was asked to become a primary, which cannot be taken back: it may do so at any moment."""
    failsafe_leader: str | None = None
    """A primary without the store that it has accepted as the leader, while that is valid."""
    failsafe_unknown: bool = False
    """Its agent has just begun, in failsafe mode: what it accepted before is forgotten."""


Switches = tuple[tuple[int, Lsn], ...]
"""Where timelines ended: (timeline, position), oldest first."""


@dataclass(frozen=True, slots=True)
class OwnTimeline:
    """This server's timeline by IDENTIFY_SYSTEM, or by pg_control; the WAL receiver's may be ahead of it (EC 108).

    ``switches`` is None when the history file of that timeline is not here. ``begins_alike``: where it begins, the bytes here and
    on the leader are the same right behind the switch; None if that cannot be said. ``newer``: the later timelines whose history
    files are here too, with what these say.
    """

    timeline: int
    switches: Switches | None = ()
    begins_alike: bool | None = None
    newer: tuple[tuple[int, Switches], ...] = ()


@dataclass(frozen=True, slots=True)
class LeaderTimeline:
    """What the leader said about its history, and what this server's own history was at that moment."""

    timeline: int
    in_recovery: bool
    switches: Switches = ()
    own: OwnTimeline | None = None
    """None: it could not be told."""


@dataclass(frozen=True, slots=True)
class Demotion:
    """A demotion under way (HA rules 17): its mode, where it stands, since when, and who may take over."""

    mode: DemoteMode
    phase: Phase
    began: Instant
    since: Instant
    candidates: tuple[str, ...] = ()
    end: Lsn | None = None
    """End of the shutdown checkpoint: what a candidate must have received."""
    mark: Lsn | None = None
    """Own position after the checkpoint: a candidate that has received it is alive."""
    released: bool = False


@dataclass(frozen=True, slots=True)
class Bootstrapping:
    """The creation of a new cluster under way."""

    phase: BootstrapPhase
    since: Instant
    claim: str | None = None
    """Version of the empty ``/initialize`` that this node created."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the callbacks know of the server: its role, and the postmaster whose start they were told."""

    role: Role
    postmaster: int | None


@dataclass(frozen=True)
class Memory:
    """What one heartbeat leaves for the next (HA rules 3, nothing else)."""

    old_cluster: ClusterView | None = None
    """The last view that had a leader, or the first view read."""
    lease_until: Instant | None = None
    """My lock is proven until here, counted from before the confirmed request was sent."""
    release_undecided: bool = False
    """I gave the lock up without an answer: that may take effect at any time, so no renewal counts until one is decided."""
    elected: str | None = None
    """Version of the ``/sync`` under which I won the race for the present lock; None: nothing was proven."""
    sync: SyncMemory = field(default_factory=SyncMemory)
    rewind: RewindState = RewindState.INITIAL
    undecided_since: Instant | None = None
    """Since when the comparison with the leader has stayed open."""
    starting_since: Instant | None = None
    """Since when the server has been seen starting without accepting connections."""
    silent_since: Instant | None = None
    """Since when the running server has not answered the monitoring query."""
    compared_timeline: int | None = None
    """The leader's timeline that this history was last compared with."""
    recovering: bool = False
    """A start of dead PostgreSQL was attempted; its outcome is due."""
    crash_recovered: bool = False
    """Single-user crash recovery was tried since the server last ran: once per episode. (HA rules 13.3)"""
    procedure: Demotion | Bootstrapping | None = None
    last_result: TaskResult | None = None
    """How the last long action ended, until the next one begins."""
    failed_at: Instant | None = None
    """When a long action last failed; the next attempt waits for ``loop_wait``."""
    promotion_failed_at: Instant | None = None
    """When the lock was given up because a gate said no or the promotion failed (HA rules 15.1)."""
    managed: bool = False
    """This agent has taken charge of the server: a callback has been told (HA rules 3.15)."""
    told: Told | None = None
    stopping: bool = False
    """The agent was asked to end."""
    was_paused: bool = False
    checkpoint_needed: bool = False
    """The checkpoint after my promotion has not been seen to end."""
    request_seen: tuple[str, Instant] | None = None
    """Version of the switchover request first seen, and when."""
    refusal: str = ""
    """Why the last request was not carried out."""
    unlocked_since: Instant | None = None
    """Since when the lock has been seen free."""
    request_waits: tuple[str, Instant] | None = None
    """Version of the request that was seen beside the free lock, and since when."""
    slots: SlotMemory = field(default_factory=SlotMemory)
    written_status: ClusterStatus | None = None
    written_timeline: int | None = None
    """Timeline whose history is known to be stored."""
    last_timeline: int | None = None
    """Own timeline as last observed while the server answered."""
    last_position: Lsn | None = None
    grew_at: Instant | None = None
    """When the own position was last seen to have grown."""
    leaving_sync: Instant | None = None
    """Since when this node asks not to be synchronous, because its server is about to stop."""
    order: Order | None = None
    """What an operator asked of this node and is not yet begun."""
    order_refused: str = ""
    """Why the last order was not begun."""
    restart_result: TaskResult | None = None
    """How the last restart ended, until the next order."""
    start_limit: float | None = None
    """Seconds this start may take, given with the request for the restart; None: ``primary_start_timeout``."""
    scheduled_restart: ScheduledRestart | None = None
    failsafe: FailsafeRecord | None = None
    """The leader without a store that I accepted over REST, while that is valid. (HA rules 3.3)"""
    failsafe_map: FailsafeMap = field(default_factory=FailsafeMap)
    sync_stored: SyncView | None = None
    """``/sync`` as last read, or written by me and confirmed."""
    failsafe_positions: Mapping[str, Lsn] = field(default_factory=dict)
    """Where the members stood when they last kept me as the leader."""
    failsafe_until: Instant | None = None
    """My lease is proven until here by the members, not by the store."""
    failsafe_bound: Instant | None = None
    """Until then members may treat me as the leader, by what I asked them without the store, and take no lock."""
    began: Instant | None = None
    """When this agent first looked at its node: what it promised before, it does not remember."""


@dataclass(frozen=True)
class World:
    """Memory + settings + node + cluster + the answers of this beat + now."""

    settings: Settings
    memory: Memory
    now: Instant
    wall: float
    node: NodeView
    cluster: ClusterView = field(default_factory=ClusterView)
    store_lost: bool = False
    lease: LeaseState = LeaseState.UNKNOWN
    fresh: bool = False
    """The cluster was read again in this beat, since the lock was taken; nothing newer can have been in the store then."""
    race_lost: bool = False
    """Somebody else was faster to the lock in this beat; who, is not read yet."""
    beaten: bool = False
    """Somebody else was faster to the lock in this beat, whatever was read since."""
    peers: Mapping[str, PeerView] | None = None
    asked_under: str | None = None
    """Version of the ``/sync`` that was known when the peers were asked."""
    read_at: Instant | None = None
    """When the store last answered a read of this beat."""
    leader_timeline: LeaderTimeline | None = None
    timeline_asked: bool = False
    """The leader was asked for its timeline in this beat, answered or not."""
    recovery_change: str | None = None
    history: tuple[object, ...] | None = None
    slots_done: bool = False
    """Slots were changed in this beat."""
    watchdog_tried: bool = False
    """The watchdog was asked to run in this beat, whatever came of it."""
    watchdog_fed: bool = False
    """It had its keepalive in this beat."""
    probed: bool = False
    """The leader is being probed since this beat."""
    left_sync: str | None = None
    """Version of a ``/sync`` that a normal cluster has left behind in what is a standby cluster now."""
    role_changed: bool = False
    """The callbacks were told another role in this beat; a reload that goes with it is not told as well."""
    checkpoint_asked: bool = False
    """The checkpoint after the promotion was begun or asked about in this beat."""
    failsafe_answers: Mapping[str, FailsafeAnswer] | None = None
    """What the members answered in this beat to being asked to keep me as the leader."""
    last: Outcome | None = None

    # -- who I am --------------------------------------------------------------------------------------------

    @property
    def me(self) -> str:
        """My member name."""
        return self.settings.name

    @property
    def is_holder(self) -> bool:
        """The lock names me, or was acquired in this beat."""
        return self.cluster.leader == self.settings.name

    @property
    def holds(self) -> bool:
        """The lock was proven to be mine during this beat."""
        return self.lease is LeaseState.HELD

    @property
    def refused(self) -> bool:
        """The store told me in this beat that the lock is not mine any more."""
        return self.lease in (LeaseState.GONE, LeaseState.TAKEN)

    @property
    def paused(self) -> bool:
        """The cluster is in maintenance mode."""
        return self.settings.paused

    @property
    def standby_cluster(self) -> bool:
        """This cluster replicates another one: nobody in it is a primary. (HA rules 22)"""
        return self.settings.standby_cluster is not None

    @property
    def serves_as_leader(self) -> bool:
        """This server is what a leader's must be: a primary, in a standby cluster the standby leader's."""
        return self.node.role is Role.STANDBY_LEADER if self.standby_cluster else self.node.is_primary

    @property
    def cluster_timeline(self) -> int:
        """Below this timeline nobody may lead; 0 in a standby cluster, whose timeline is the remote's. (HA rules 22.5)"""
        return 0 if self.standby_cluster else self.cluster.timeline

    @property
    def demotion(self) -> Demotion | None:
        """The demotion under way, if that is the procedure."""
        return self.memory.procedure if isinstance(self.memory.procedure, Demotion) else None

    @property
    def bootstrapping(self) -> Bootstrapping | None:
        """The bootstrap under way, if that is the procedure."""
        return self.memory.procedure if isinstance(self.memory.procedure, Bootstrapping) else None

    @property
    def busy(self) -> bool:
        """A long action is running beside the heartbeat."""
        return self.node.task is not None

    def task_is(self, *kinds: TaskKind) -> bool:
        """The running long action is one of these."""
        return self.node.task is not None and self.node.task.kind in kinds

    def ended(self, kind: TaskKind) -> TaskResult | None:
        """How the last long action ended, if it was of this kind and none runs now."""
        result = self.memory.last_result
        return result if result is not None and result.kind is kind and not self.busy else None

    @property
    def cooling_down(self) -> float:
        """Seconds to wait before a failed long action is tried again; 0 when it may begin."""
        if self.memory.failed_at is None:
            return 0.0
        return max(0.0, self.memory.failed_at + min(self.settings.timing.loop_wait, 5) - self.now)

    @property
    def lease_left(self) -> float:
        """Seconds for which my lock is still proven; 0 when it is not."""
        return max(0.0, self.memory.lease_until - self.now) if self.memory.lease_until is not None else 0.0

    @property
    def failsafe_active(self) -> bool:
        """The members, not the store, prove my lease at this moment."""
        return self.memory.failsafe_until is not None and self.now < self.memory.failsafe_until

    @property
    def has_data(self) -> bool:
        """The data directory holds a cluster."""
        return self.node.data_dir is DataDir.PRESENT

    # -- others ----------------------------------------------------------------------------------------------

    @property
    def others(self) -> tuple[Member, ...]:
        """Every member but me."""
        return self.cluster.besides(self.settings.name)

    def known_peers(self) -> tuple[Member, ...]:
        """Members of the last view with a leader, of ``/failsafe`` and of the present view, by name, not me, with a REST URL.

        (HA rules 15.3, 30.8) The newest card of a name counts; one that has none is known by ``/failsafe`` alone.
        """
        vouching = (self.cluster.failsafe or {}) if self.settings.failsafe_mode else {}
        by_name = {m.name: m for m in self.memory.old_cluster.members} if self.memory.old_cluster else {}
        by_name |= {name: Member(name, api_url=url) for name, url in vouching.items() if name not in by_name}
        by_name |= {m.name: m for m in self.cluster.members}
        return tuple(m for name, m in sorted(by_name.items()) if name != self.me and m.api_url)

    def upstream_of(self, member: Member | None) -> Upstream | None:
        """How to stream from this member, with my slot there; None when it cannot be followed."""
        if member is None or not member.conn_url:
            return None
        return _upstream(member.name, member.conn_url, slot_name(self.me) if self.settings.use_slots else None)

    @property
    def leader_upstream(self) -> Upstream | None:
        """The lock holder as an upstream, None when there is none but me."""
        return None if self.is_holder else self.upstream_of(self.cluster.leader_member)

    @property
    def remote(self) -> Upstream | None:
        """The primary that a standby cluster replicates; None without one, or when the archive is its only source."""
        section = self.settings.standby_cluster
        if section is None or not (section.host or section.port):
            return None
        host, slot = section.host or "localhost", section.primary_slot_name
        return Upstream(host, section.port or 5432, slot=slot_name(slot) if slot else None, read_write="," in host)

    @property
    def rewind_source(self) -> Upstream | None:
        """Whose history this server's must agree with: the leader's, in a standby cluster the remote's. (HA rules 12.2, 22.7)"""
        return self.remote if self.standby_cluster else self.leader_upstream

    @property
    def guard_armed(self) -> bool:
        """The guard must stop this server when the lease ends: it is, or is becoming, a writable primary (architecture 11)."""
        if self.paused or (self.demotion is not None and self.demotion.released):
            return False
        if self.bootstrapping is not None:
            return False
        serving = self.node.running and self.node.role in (Role.PRIMARY, Role.PROMOTED)
        return serving or self.node.is_primary or self.becoming_primary

    @property
    def becoming_primary(self) -> bool:
        """The running long action ends with a primary on this node: a promotion, a start as primary, its restart."""
        if self.node.task is None:
            return False
        restarting = self.task_is(TaskKind.RESTART) and self.node.role in (Role.PRIMARY, Role.PROMOTED)
        return restarting or self.task_is(TaskKind.PROMOTE, TaskKind.START_PRIMARY)

    @property
    def shown_state(self) -> State:
        """What is told about the server: one that is not up in maintenance mode is simply stopped. (HA rules 23)"""
        ended = self.node.state in (State.CRASHED, State.START_FAILED, State.RESTART_FAILED)
        return State.STOPPED if self.paused and ended and not self.node.running else self.node.state

    @property
    def crashed(self) -> bool:
        """The agent itself saw the server running before it died. (HA rules 4.12)"""
        return self.node.state is State.CRASHED


@lru_cache(maxsize=256)
def _upstream(name: str, conn_url: str, slot: str | None) -> Upstream | None:
    address = address_in(conn_url)
    return Upstream(*address, name=name, slot=slot) if address is not None else None
