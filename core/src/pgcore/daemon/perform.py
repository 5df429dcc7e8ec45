"""Performing actions: one function for each looks, store and quick action; ``long_actions`` has the slow ones. (architecture 7)

A failure is an outcome, never an exception: the rules decide what it means. Only bugs raise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgcore import threads
from pgcore.clock import Deadline, now
from pgcore.daemon.callbacks import CallbackLane
from pgcore.daemon.complaints import Complaints
from pgcore.daemon.configuration import Configuration
from pgcore.daemon.failsafe import FailsafeActions, FailsafeReceiver
from pgcore.daemon.long_actions import LongActions
from pgcore.daemon.mailbox import Mailbox
from pgcore.daemon.mending import Mending
from pgcore.daemon.mpp import Mpp
from pgcore.daemon.ordered import OrderedActions
from pgcore.daemon.peers import Peers
from pgcore.daemon.slot_actions import SlotActions
from pgcore.daemon.sync_actions import SyncActions
from pgcore.daemon.tally import Tally
from pgcore.daemon.tasks import Tasks
from pgcore.daemon.watchdog import Watchdog
from pgcore.daemon.watchdog_device import Devices, SystemDevices
from pgcore.dcs import codec
from pgcore.dcs.retry import retrying
from pgcore.dcs.store import ABSENT, ANYTHING, Expect, Key, Refused, Renewal, Store, Stored
from pgcore.dcs.store import version as at_version
from pgcore.decide.advance import ClusterReading
from pgcore.decide.failsafe import votes_count
from pgcore.decide.lease import demote_left_s, failsafe_ask_s
from pgcore.decide.upkeep import status_to_carry
from pgcore.errors import PgcoreError, StoreRejectedError
from pgcore.hookspecs import CallbackEvent, Facts
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Json, Role
from pgcore.model.changes import replace
from pgcore.model.cluster import HistoryEntry
from pgcore.model.failsafe import FailsafeRecord
from pgcore.model.world import World
from pgcore.postgres.programs import ProgramRunner
from pgcore.postgres.server import Postgres
from pgcore.registry import Registry

logger = logging.getLogger(__name__)

OBSERVE_S = 1.0
LEAST_S = 0.3
BEAT_SHARE = 1 / 3
"""Everything in a beat that is not looking at the store or proving the lock fits into this share of ttl."""


@dataclass(slots=True)
class Ports:
    """Everything behind which effects live."""

    store: Store
    postgres: Postgres
    tasks: Tasks
    peers: Peers
    callbacks: CallbackLane
    registry: Registry
    mailbox: Mailbox
    configuration: Configuration
    failsafe: FailsafeReceiver = field(default_factory=FailsafeReceiver)
    mpp: Mpp = field(default_factory=Mpp)
    watchdogs: Devices = field(default_factory=SystemDevices)
    tally: Tally = field(default_factory=Tally)


class Performer:
    """Performs actions for the heartbeat thread."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.exit: a.Exit | None = None
        self.revision = ""
        self.dcs_last_seen = 0
        self.lease_until: Instant | None = None
        """End of the proven lease as of the last action; read by long actions right before what needs it."""
        self._beat_began = now()
        self._complaints = Complaints()
        self._complained: set[str] = set()
        self._carried = ""
        """The status that the renewal of this beat has written."""
        self._checkpoint = _Checkpoint(ports)
        self.watchdog = Watchdog(lambda: ports.configuration.local.watchdog, ports.watchdogs)
        long = LongActions(ports, lambda: self.lease_until)
        ordered = OrderedActions(ports, long, lambda: self.lease_until)
        self._handlers: dict[type, Callable[[Any, World], Any]] = {
            a.ObserveNode: self._observe,
            a.ReadCluster: self._read,
            a.PollPeers: self._poll,
            a.ProbePeers: lambda action, world: ports.peers.probe(action.members),
            a.CompareRecovery: self._recovery,
            a.ReadHistory: self._history,
            a.AcquireLease: self._acquire,
            a.RenewLease: self._renew,
            a.ReleaseLease: self._release,
            a.ClaimInitialize: self._claim,
            a.WriteInitialize: self._initialize,
            a.DropInitialize: self._drop_initialize,
            a.WriteConfig: self._config,
            a.WriteStatus: self._status,
            a.WriteHistory: self._write_history,
            a.WriteFailover: self._failover,
            a.Announce: self._announce,
            a.FollowByReload: self._follow,
            a.ApplySettings: self._apply,
            a.RunCheckpoint: lambda action, world: self._checkpoint.ask(action.timeline),
            a.ResumeReplay: lambda action, world: ports.postgres.resume_replay(),
            a.SetRole: self._role,
            a.Adopt: self._adopt,
            a.TellChange: lambda action, world: self.tell(action.event, world.node.role),
            a.CancelTask: lambda action, world: ports.tasks.cancel(),
            a.SetAsideDataDir: self._set_aside,
            a.Exit: self._exit,
            **FailsafeActions(ports, self._put).handlers,
            **long.handlers,
            **ordered.handlers,
            **SyncActions(ports, self._spare_deadline).handlers,
            **self.watchdog.handlers,
            **Mending(ports).handlers,
            **SlotActions(ports).handlers,
        }

    def perform(self, action: a.Action, world: World) -> a.Outcome:
        """Do it and say what came of it, with the instants it began and ended."""
        self.lease_until = world.memory.lease_until
        handler = self._handlers.get(type(action))
        began = now()
        if isinstance(action, a.ObserveNode):
            self._beat_began = began
        if handler is None:  # remembered by ``advance``, nothing to do
            return a.Outcome(began, began=began)
        try:
            value = handler(action, world)
        except PgcoreError as error:
            self._complaints.failed(type(action).__name__, error, now())
            return a.Outcome(now(), ok=False, error=str(error), began=began)
        ended = now()
        self._complaints.worked(type(action).__name__, ended)
        return a.Outcome(ended, value=value, began=began)

    def _store_deadline(self, world: World) -> Deadline:
        """``retry_timeout``, but a primary never waits into the part of its lease that asking the members and demoting need."""
        timing = world.settings.timing
        limit = float(timing.retry_timeout)
        if world.node.is_primary and world.memory.lease_until is not None:
            asking_s = failsafe_ask_s(timing) if world.settings.failsafe_mode else 0.0
            limit = min(limit, max(LEAST_S, world.lease_left - demote_left_s(timing) - asking_s))
        if world.demotion is not None:
            limit = min(limit, 1.0)  # its steps must not wait for a store that is away
        return Deadline.after(limit)

    def _spare_deadline(self, world: World) -> Deadline:
        """For writes that may wait for the next beat: what is left of a third of ttl since this beat began. (architecture 11)"""
        left = self._beat_began + world.settings.timing.ttl * BEAT_SHARE - now()
        return self._store_deadline(world).within(max(LEAST_S, left))

    # -- looks -----------------------------------------------------------------------------------------------

    def _observe(self, action: a.ObserveNode, world: World) -> object:
        limit = min(OBSERVE_S, world.settings.timing.retry_timeout / 2, world.settings.timing.ttl / 10)
        task, finished = self.ports.tasks.look()  # before the server, so that what a task has done is seen with its end
        view = self.ports.postgres.observe(Deadline.after(limit))
        self.ports.configuration.in_role(view.role)
        silent, accepted = self.ports.peers.silent(), self.ports.failsafe.record()
        keeps = self.ports.mpp.keeps_slot
        slots = tuple(s if s.physical else replace(s, handled=keeps(s.name, s.plugin, s.database)) for s in view.slots)
        watchdog = self.watchdog.look(world.settings.timing)
        return replace(view, task=task, finished=finished, silent=silent, failsafe=accepted, slots=slots, **watchdog)

    def _read(self, action: a.ReadCluster, world: World) -> ClusterReading:
        self._carried = ""
        snapshot = retrying(lambda d: self.ports.store.read(fresh=action.fresh, deadline=d), self._store_deadline(world))
        self.revision = snapshot.revision
        view = codec.decode(snapshot)
        self.ports.failsafe.saw(view)
        configuration = self.ports.configuration
        if configuration.update(view, self._server_major(world)):
            self.ports.store.retime(configuration.effective.timing)
            if configuration.server_stale:
                self.ports.postgres.configure(configuration.server)
        return ClusterReading(view, configuration.settings())

    def _server_major(self, world: World) -> int | None:
        return world.node.server_version // 10000 if world.node.server_version else self.ports.configuration.server_major

    def _poll(self, action: a.PollPeers, world: World) -> object:
        return self.ports.peers.poll(action.members, action.timeout_s, action.brief, announced=votes_count(world))

    def _recovery(self, action: a.CompareRecovery, world: World) -> str:
        return self.ports.postgres.recovery_change(action.upstream, role=action.role)

    def _history(self, action: a.ReadHistory, world: World) -> tuple[HistoryEntry, ...]:
        """The local history; only the newest entry gets a time and a name, the older ones are taken from what is stored."""
        *older, newest = self.ports.postgres.history(action.timeline) or (None,)
        if newest is None:
            return ()
        written_at = self.ports.postgres.history_written_at(action.timeline) or world.wall
        return (
            *(HistoryEntry(timeline, lsn, reason, raw=(timeline, int(lsn), reason)) for timeline, lsn, reason in older),
            HistoryEntry(*newest, codec.local_moment(written_at), world.me),
        )

    # -- store -----------------------------------------------------------------------------------------------

    def _acquire(self, action: a.AcquireLease, world: World) -> bool | FailsafeRecord:
        """True: it is mine; False: another was faster; a record: this primary without the store was accepted as the leader."""
        accepted = self.ports.failsafe.begin_race()
        if accepted is not None:
            return accepted
        return retrying(lambda d: self.ports.store.acquire(force=action.force, deadline=d), self._store_deadline(world))

    def _renew(self, action: a.RenewLease, world: World) -> str:
        """A status that is due travels along where the store can carry it; one that it refuses does not cost the lock."""
        store, deadline = self.ports.store, self._store_deadline(world)
        due = status_to_carry(world) if Key.STATUS in store.carries else None
        if due is not None:
            text = codec.encode_status(due)
            try:
                renewal = retrying(lambda d: store.renew({Key.STATUS: text}, deadline=d), deadline)
            except StoreRejectedError as error:  # told when the status is written by itself
                logger.debug("the store does not take the status together with the lock: %s", error)
            else:
                self._carried = text if renewal is Renewal.HELD else ""
                return renewal.value
        return retrying(lambda d: store.renew({}, deadline=d), deadline).value

    def _release(self, action: a.ReleaseLease, world: World) -> bool:
        deadline = self._store_deadline(world)
        if action.status is not None:
            text = codec.encode_status(action.status)
            if Key.STATUS in self.ports.store.carries:
                return retrying(lambda d: self.ports.store.release({Key.STATUS: text}, deadline=d), deadline)
            retrying(lambda d: self.ports.store.put(Key.STATUS, text, expect=ANYTHING, deadline=d), deadline)
        return retrying(lambda d: self.ports.store.release({}, deadline=d), deadline)

    def _put(self, key: Key, value: str, expect: Expect, world: World) -> Stored | None:
        """Write once: an undecided conditional write must not be repeated."""
        answer = self.ports.store.put(key, value, expect=expect, deadline=self._spare_deadline(world))
        return None if isinstance(answer, Refused) else answer

    def write_key(self, key: Key, value: str, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """A write that another thread asked for, between two heartbeats. Raises StoreUnavailableError when undecided."""
        return self.ports.store.put(key, value, expect=expect, deadline=deadline)

    def _claim(self, action: a.ClaimInitialize, world: World) -> str | None:
        stored = self._put(Key.INITIALIZE, "", ABSENT, world)
        return stored.version if stored else None

    def _initialize(self, action: a.WriteInitialize, world: World) -> bool:
        expect = at_version(action.version) if action.version else ABSENT
        return self._put(Key.INITIALIZE, action.system_id, expect, world) is not None

    def _drop_initialize(self, action: a.DropInitialize, world: World) -> bool:
        expect, deadline = at_version(action.version), self._store_deadline(world)
        return not isinstance(self.ports.store.delete(Key.INITIALIZE, expect=expect, deadline=deadline), Refused)

    def _config(self, action: a.WriteConfig, world: World) -> bool:
        expect = at_version(action.version) if action.version else ABSENT
        return self._put(Key.CONFIG, codec.compact(dict(action.document)), expect, world) is not None

    def _status(self, action: a.WriteStatus, world: World) -> bool:
        text = codec.encode_status(action.status)
        return text == self._carried or self._put(Key.STATUS, text, ANYTHING, world) is not None

    def _write_history(self, action: a.WriteHistory, world: World) -> bool:
        return self._put(Key.HISTORY, codec.encode_history(action.entries), ANYTHING, world) is not None

    def _failover(self, action: a.WriteFailover, world: World) -> bool:
        expect = at_version(action.version) if action.version else ANYTHING
        return self._put(Key.FAILOVER, codec.encode_failover(action.leader, action.candidate), expect, world) is not None

    def _announce(self, action: a.Announce, world: World) -> None:
        card = dict(action.card)
        for plugin, fields in self.ports.registry.collect("pgcore_member_fields", facts=facts(world)).items():
            card |= self._plain_fields(plugin, fields, card)
        self.ports.store.announce(codec.compact(card), deadline=self._spare_deadline(world))

    def _plain_fields(self, plugin: str, fields: object, card: Mapping[str, Json]) -> dict[str, Json]:
        """What a plugin adds to the card; nothing of it counts unless all of it is JSON and the names are free."""
        try:
            if not isinstance(fields, Mapping):
                raise TypeError(f"wanted a mapping, got {type(fields).__name__}")
            codec.compact(dict(fields))
        except (TypeError, ValueError, RecursionError) as error:
            if plugin not in self._complained:
                self._complained.add(plugin)
                logger.error("plugin %s: its pgcore_member_fields cannot be published: %s", plugin, error)
            return {}
        return {str(name): value for name, value in fields.items() if name not in card}

    # -- server, quick ---------------------------------------------------------------------------------------

    def _follow(self, action: a.FollowByReload, world: World) -> None:
        self.ports.postgres.follow_by_reload(action.upstream, role=action.role)
        changes = world.role_changed or action.role is not world.node.role
        if world.memory.managed and not changes:  # else the change of the role is told instead (EC 218)
            self.tell("on_reload", action.role)

    def _apply(self, action: a.ApplySettings, world: World) -> None:
        self.ports.postgres.configure(self.ports.configuration.server)
        configuration, changed = self.ports.configuration, self.ports.postgres.apply_settings()
        if not changed and configuration.reload_asked:
            self.ports.postgres.reload()
        if changed or configuration.reload_asked:
            self.tell("on_reload", world.node.role)
        configuration.server_stale = configuration.reload_asked = False

    # -- node ------------------------------------------------------------------------------------------------

    def _role(self, action: a.SetRole, world: World) -> None:
        before = world.node.role
        self.ports.postgres.role = action.role
        settled = {before, action.role} == {Role.PROMOTED, Role.PRIMARY}
        if world.memory.managed and before is not action.role and action.role is not Role.UNINITIALIZED and not settled:
            self.tell("on_role_change", action.role)

    def _adopt(self, action: a.Adopt, world: World) -> None:
        self.tell("on_start", world.node.role)

    def _set_aside(self, action: a.SetAsideDataDir, world: World) -> None:
        logger.error("the data directory was renamed to %s", self.ports.postgres.rename_failed_data_dir())

    def _exit(self, action: a.Exit, world: World) -> None:
        self.exit = action

    def tell(self, event: str, role: Role) -> None:
        """Queue an event for the callbacks; a promotion under way is told as primary. (HA rules 25, EC 217)"""
        self.ports.callbacks.tell(event_for(self.ports, event, role))


class _Checkpoint:
    """The checkpoint after a promotion, on a thread of its own that exists from the start."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._wanted = threads.event()
        self._running = False
        self._done: tuple[int | None] | None = None
        self._timeline: int | None = None
        threads.start("checkpoint", self._loop)

    def ask(self, timeline: int | None) -> bool:
        """Start it unless it runs; true, once, when one begun on this timeline has been written. (EC 106)"""
        done, self._done = self._done, None
        if done == (timeline,):
            return True
        if not self._running:
            self._running, self._timeline = True, timeline
            self._wanted.set()
        return False

    def _loop(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            begun_on = self._timeline
            written = False
            try:
                self._ports.postgres.checkpoint(ProgramRunner())
                self._done, written = (begun_on,), True
            except PgcoreError as error:
                logger.warning("the checkpoint after the promotion failed and will be repeated: %s", error)
            self._running = False
            if written:
                self._ports.mailbox.wake("checkpoint after the promotion written")


def facts(world: World) -> Facts:
    """What plugins may know of this world."""
    return Facts(world.settings.scope, world.me, world.node.role, str(world.node.state), world.holds, world.node.timeline)


def event_for(ports: Ports, event: str, role: Role) -> CallbackEvent:
    """The event as plugins see it, with the configured command."""
    configuration = ports.configuration
    command = configuration.effective.postgresql.callbacks.get(event)
    shared = configuration.effective.postgresql
    server = configuration.server
    limit, kill = shared.callback_timeout, shared.callback_kill_running
    sections = configuration.local.plugin_sections
    return CallbackEvent(event, role.told, server.scope, server.name, command, limit, kill, sections=sections)
