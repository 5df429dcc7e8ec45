"""The loop: wait for a reason, run one heartbeat, arm or disarm the guard, publish, log. (architecture 5, 11)"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pgcore.clock import Deadline, now, wall
from pgcore.daemon.board import Board, Status, task_fields
from pgcore.daemon.config_change import ConfigChange, change_config
from pgcore.daemon.guard import GuardAction
from pgcore.daemon.heartbeat import Beat
from pgcore.daemon.mailbox import CancelRestart, CarryOut, ChangeConfig, Letter, ReloadConfig, ScheduleRestart, WriteFailover
from pgcore.daemon.orders import Orders
from pgcore.daemon.perform import Performer
from pgcore.dcs import codec
from pgcore.dcs.store import ANYTHING, Key, Refused
from pgcore.dcs.store import version as at_version
from pgcore.decide.advance import fresh_world
from pgcore.decide.explain import loud
from pgcore.decide.sync_duty import effective_tags
from pgcore.errors import PgcoreError
from pgcore.model import actions as a
from pgcore.model.basics import Instant
from pgcore.model.changes import replace
from pgcore.model.decision import Decision
from pgcore.model.node import NodeView
from pgcore.model.world import Memory, World
from pgcore.record.recorder import Recorder
from pgcore.threads import Event

logger = logging.getLogger("pgcore.decisions")

LEAST_PAUSE_S = 0.002
"""Between two heartbeats, so that a broken source of wake-ups cannot eat a processor."""
TRAIL_LENGTH = 200


def _failsafe_until(world: World) -> Instant | None:
    """Until when the members, or this node for another, keep a leader without the store."""
    record = world.memory.failsafe
    return Instant(record.at + record.ttl) if record is not None else world.memory.failsafe_until


class Signals(Protocol):
    """What the agent needs to know of the signals it was sent."""

    @property
    def asked(self) -> Event:
        """Set when the agent was asked to end."""

    def take_reload(self) -> bool:
        """True once after each SIGHUP."""

    def reloaded(self) -> None:
        """What it asked for is in force."""


class Guards(Protocol):
    """What enforces the lease if this process cannot: ``daemon.guard.Guard``."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def gone(self) -> bool:
        """Nobody enforces the lease any more."""

    @property
    def armed(self) -> bool:
        """A lease is enforced, perhaps one of an agent before this one."""

    def last_action(self) -> GuardAction | None:
        """What it did last."""

    def arm(self, until: Instant, ttl_s: float) -> None:
        """Enforce a lease that ends at ``until``."""

    def disarm(self) -> None:
        """There is nothing to enforce."""

    def watch(self, postmaster_pid: int) -> None:
        """The server to stop."""

    def close(self, stop: bool) -> None:
        """Leave it."""


class Follows(Protocol):
    """Wakes the heartbeat when the postmaster ends."""

    def follow(self, pid: int | None) -> None:
        """Watch this process from now on."""


class Agent:
    """Owns Memory and drives the heartbeat. Everything here runs on the main thread."""

    def __init__(
        self,
        performer: Performer,
        board: Board,
        guard: Guards | None,
        node: NodeView,
        signals: Signals,
        postmaster: Follows,
        reloaded: Callable[[], None],
        new_guard: Callable[[], Guards | None] = lambda: None,
        recorder: Recorder | None = None,
    ) -> None:
        self.performer, self.board, self.guard, self.signals = performer, board, guard, signals
        self.recorder = recorder or Recorder()
        self.mailbox = performer.ports.mailbox
        self.postmaster = postmaster
        self._reloaded, self._new_guard = reloaded, new_guard
        self.memory = Memory()
        self._orders = Orders()
        self.node = node
        self.settings = performer.ports.configuration.settings()
        self.trail: deque[tuple[float, str, str]] = deque(maxlen=TRAIL_LENGTH)
        self.cluster_known = False
        self._last_rule = ""
        self._guard_told: GuardAction | None = guard.last_action() if guard else None
        self._armed = False
        self._guarded_pid: int | None = None
        self._bugs = 0
        self._tally = performer.ports.tally

    def run(self) -> a.Exit:
        """Beat until a rule says that the agent ends."""
        reasons: tuple[str, ...] = ("start",)
        reloading = False
        while True:
            began = now()
            beat = self._beat(reasons)
            if self.performer.exit is not None:
                return self.performer.exit
            if reloading:
                self.signals.reloaded()
            due = self._next_due(began, beat)
            reasons, letters = self.mailbox.wait(Instant(max(due, now() + LEAST_PAUSE_S)))
            # all of them together, however many there are: the lease must be proven again in time
            deadline = Deadline.after(self.settings.timing.retry_timeout / 2)
            for letter in letters:
                self._answer(letter, deadline)
            reloading = self.signals.take_reload()
            if reloading:
                self.reload()

    def _beat(self, reasons: tuple[str, ...]) -> Beat | None:
        """One heartbeat. A bug ends the beat, never the agent; the guard stays armed with the last proven lease."""
        began = now()
        self._replace_guard()
        memory = replace(self.memory, stopping=True) if self.signals.asked.is_set() else self.memory
        steps = self.recorder.heartbeat(fresh_world(memory, self.settings, self.node, began, wall()))
        try:
            action, world = next(steps)
            while True:
                self._sync_guard(world)
                self._tally.became(world)
                self.performer.ports.failsafe.know(world)
                outcome = self.performer.perform(action, world)
                self._tally.performed(action, world, outcome)
                self._note_bits(action, outcome)
                action, world = steps.send(outcome)
        except StopIteration as ended:
            beat: Beat = ended.value
        except Exception as error:
            self._bugs += 1
            self._tally.broke_off(now() - began)
            self.recorder.failed(repr(error))
            logger.exception(
                "bug %d in a heartbeat (woken by %s): it ended early; the lease was not touched", self._bugs, ", ".join(reasons)
            )
            if self.memory.order is not None:  # it may be what meets the bug, and would in every beat from now on
                self.memory = replace(self.memory, order=None, order_refused="a bug ended the heartbeat, the log has the details")
            return None
        world = beat.world
        self._sync_guard(world)
        self._tally.became(world)
        self._tally.ended(beat.decisions, now() - began)
        self.performer.ports.failsafe.know(world, over=True)
        self.memory, self.settings, self.node = world.memory, world.settings, replace(world.node, finished=None)
        self._publish(beat, began)
        self._log(beat, reasons, began)
        self._orders.settle(world)
        self._tell_guard_action()
        if not world.store_lost and world.has_data and world.memory.managed:
            self.performer.ports.configuration.save_cache()
        self.postmaster.follow(world.node.postmaster_pid)
        return beat

    def _note_bits(self, action: a.Action, outcome: a.Outcome) -> None:
        if isinstance(action, a.ReadCluster):
            self.cluster_known = outcome.ok
            if outcome.ok:
                self.performer.dcs_last_seen = int(wall())

    def _next_due(self, began: Instant, beat: Beat | None) -> Instant:
        loop_wait = float(self.settings.timing.loop_wait)
        if beat is None:
            return Instant(now() + min(1.0, loop_wait))
        due = began + loop_wait
        return Instant(min(due, now() + beat.wake_after)) if beat.wake_after is not None else Instant(due)

    # -- guard --------------------------------------------------------------------------------------------------------------

    def _replace_guard(self) -> None:
        """A guard that was killed is replaced; the new one takes the lease over as the old one had it. (docs/guard.md)"""
        if self.guard is None or not self.guard.gone:
            return
        logger.error("the guard (process %d) is gone: starting another, as nobody else would stop a hung primary", self.guard.pid)
        found = self._new_guard()
        if found is not None:
            self.guard.close(stop=False)
            self.guard, self._guarded_pid = found, None

    def _sync_guard(self, world: World) -> None:
        """Tell the guard until when the lease is proven, or that there is nothing to guard; a few memory writes.

        A primary without a lease of ours (just adopted) gets one ttl from now to prove it. A lost lock leaves the old end.
        """
        if self.guard is None:
            return
        wanted = world.guard_armed
        ttl = float(world.settings.timing.ttl)
        if not wanted:
            if self._armed or self.guard.armed:
                self.guard.disarm()
            self._armed = False
            return
        until = world.memory.lease_until
        if until is not None:
            self.guard.arm(until, ttl)
        elif not self.guard.armed and not self._armed:
            self.guard.arm(Instant(now() + ttl), ttl)
        pid = world.node.postmaster_pid
        if pid and pid != self._guarded_pid:
            self.guard.watch(pid)
        self._guarded_pid = pid
        self._armed = True

    def _tell_guard_action(self) -> None:
        if self.guard is None:
            return
        action = self.guard.last_action()
        if action is not None and action != self._guard_told:
            self._guard_told = action
            logger.error("%s", action.text)
            self.recorder.note(self.settings, wall(), action.text)

    # -- what others see -------------------------------------------------------------------------------------------------------

    def _publish(self, beat: Beat, began: Instant) -> None:
        world, performer = beat.world, self.performer
        task = performer.ports.tasks.view
        rule = beat.main.rule if beat.main else ""
        reason = beat.main.because if beat.main else ""
        if rule == "leader.keep" and world.memory.refusal:
            reason = world.memory.refusal
        loop_wait = world.settings.timing.loop_wait
        scheduled = world.memory.scheduled_restart
        self.board.publish(
            Status(
                scope=world.settings.scope,
                name=world.me,
                node=world.node if world.shown_state is world.node.state else replace(world.node, state=world.shown_state),
                cluster=None if world.store_lost else world.cluster,
                timing=world.settings.timing,
                at=world.node.at,
                lease_until=world.memory.lease_until,
                tags=effective_tags(world).published(),
                dynamic=world.settings.dynamic,
                maximum_lag_on_failover=world.settings.maximum_lag_on_failover,
                paused=world.paused,
                standby_cluster=world.standby_cluster,
                synchronous=world.settings.synchronous_mode,
                dcs_last_seen=performer.dcs_last_seen,
                next_beat_due=Instant(began + loop_wait),
                rule=rule,
                reason=reason,
                failsafe=world.memory.failsafe_map.known,
                failsafe_until=_failsafe_until(world),
                decisions=tuple(f"{d.rule}: {d.because}" for d in beat.decisions),
                task=task_fields(task) if task else {},
                task_since=task.since if task else None,
                counts=self._tally.counts(),
                scheduled_restart={**scheduled.shown, "postmaster_start_time": scheduled.postmaster_start} if scheduled else None,
            )
        )

    def _log(self, beat: Beat, reasons: tuple[str, ...], began: Instant) -> None:
        """A line for every decision with an effect, and one when the resting rule changed."""
        took_ms = round((now() - began) * 1000)
        for decision in beat.decisions:
            acts = any(loud(action) for action in decision.actions)
            resting = decision is beat.main and decision.rule != self._last_rule
            if acts or resting:
                self._log_decision(decision, took_ms)
        if beat.in_vain:
            logger.error(
                "rule %s answered twice in one heartbeat although its actions succeeded; the beat was ended", beat.repeated
            )
        if beat.main:
            self._last_rule = beat.main.rule
        logger.debug("heartbeat of %d ms, woken by %s", took_ms, ", ".join(reasons) or "the timer")

    def _log_decision(self, decision: Decision, took_ms: int) -> None:
        self.trail.append((wall(), decision.rule, decision.because))
        what = ", ".join(type(action).__name__ for action in decision.actions if loud(action))
        logger.info(
            "%s: %s%s",
            decision.rule,
            decision.because,
            f" -> {what}" if what else "",
            extra={"rule": decision.rule, "because": decision.because, "took_ms": took_ms},
        )

    # -- requests of other threads ---------------------------------------------------------------------------------------------

    def _answer(self, letter: Letter, deadline: Deadline) -> None:
        try:
            if isinstance(letter.request, CarryOut | ScheduleRestart | CancelRestart):
                self.memory = self._orders.take(letter, self.memory, self.node.postmaster_start)
            else:
                letter.reply.set_result(self._fulfil(letter, deadline))
        except PgcoreError as error:
            letter.reply.set_exception(error)
        except Exception as error:
            logger.exception("bug while fulfilling %s", type(letter.request).__name__)
            letter.reply.set_exception(error)

    def _fulfil(self, letter: Letter, deadline: Deadline) -> bool | ConfigChange:
        request = letter.request
        if isinstance(request, ChangeConfig):
            return change_config(self.performer.ports.store, request, deadline)
        if isinstance(request, ReloadConfig):
            return self.reload()
        assert isinstance(request, WriteFailover)
        self.memory = replace(self.memory, refusal="")
        expect = at_version(request.version) if request.version else ANYTHING
        text = codec.encode_failover(request.leader, request.candidate, request.scheduled_at)
        answer = self.performer.write_key(Key.FAILOVER, text, expect, deadline)
        return not isinstance(answer, Refused)

    def reload(self) -> bool:
        """Read the local configuration again and put it in force: rules, server, peers, REST, log. (config 1.7)"""
        ports = self.performer.ports
        changed = ports.configuration.reload()
        ports.postgres.configure(ports.configuration.server)
        ports.peers.access = ports.configuration.peer_access()
        try:
            self._reloaded()
        except PgcoreError as error:
            logger.error("the reload is incomplete: %s", error)
        self.settings = ports.configuration.settings()
        return changed
