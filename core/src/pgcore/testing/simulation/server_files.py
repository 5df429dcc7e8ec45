"""What outlives a simulated server's processes: its data directory, and how fast and how well its machine does things."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pgcore.model.basics import Lsn
from pgcore.model.node import ControlData, ControlState
from pgcore.testing.simulation.wal import Branch, Commit

CHECKPOINT_RECORD = 120
"""Bytes of a checkpoint record, a shutdown checkpoint included."""
END_OF_RECOVERY_RECORD = 80


@dataclass(slots=True)
class Pace:
    """How long things take on one machine, in seconds, and what goes wrong. Faults change it while the world runs."""

    start_s: float = 0.3
    recovery_s: float = 1.0
    """Crash recovery, on top of the start."""
    stop_s: float = 0.4
    """A fast stop: a third for the sessions, a third for the checkpoint, a third for the rest."""
    immediate_s: float = 0.05
    promote_s: float = 0.2
    checkpoint_s: float = 0.3
    rewind_s: float = 2.0
    clone_s: float = 5.0
    initdb_s: float = 2.0
    single_user_s: float = 0.8
    query_s: float = 0.0
    """Until the server answers a query."""
    identifies: bool = True
    """It answers IDENTIFY_SYSTEM, by which a standby without a stream learns its timeline."""
    shown_s: float = 0.01
    """From a reload to a session that shows the new values."""
    in_force_s: float = 0.02
    """From there to the last process that goes by them."""
    receive_s: float = 0.002
    """From a write on the upstream until it is received here."""
    replay_s: float = 0.0
    reports: bool = True
    """It tells its upstream how far it is."""
    reconnect_s: float = 1.0
    """``wal_retrieve_retry_interval``."""
    notice_s: float = 10.0
    """``wal_sender_timeout`` and ``wal_receiver_timeout``."""
    slow: float = 1.0
    """All of the above takes so many times longer."""
    hung_stop: bool = False
    """A session does not end: a fast stop goes on as long as this is so."""
    broken: bool = False
    """It does not come up: a mistake in its configuration."""
    disk_full: bool = False
    unreadable: bool = False
    """The file system of the data directory is not there."""
    rewind_fails: bool = False
    rewind_tears: bool = False
    """pg_rewind dies half way and leaves a data directory that is good for nothing."""
    clone_fails: bool = False
    bootstrap_fails: bool = False
    rewindable: bool = True
    """Data checksums are on."""


@dataclass(slots=True)
class SlotState:
    """A replication slot in the data directory."""

    name: str
    physical: bool
    restart: int | None = None
    confirmed: int | None = None
    plugin: str | None = None
    database: str | None = None
    catalog_xmin: int | None = None
    lost: bool = False
    xmin: int | None = None
    temporary: bool = False
    """Of a session; it is in nobody's list."""
    failover: bool = False
    synced: bool = False
    """From version 17 on a standby keeps such a slot in step with its primary by itself."""
    active: bool = False
    """A client that is no standby of this world reads from it."""


class Followed(NamedTuple):
    """What ``primary_conninfo`` and ``primary_slot_name`` say."""

    host: str
    port: int
    slot: str | None
    read_write: bool


@dataclass(slots=True)
class DataFiles:
    """A data directory. ``wal`` is the end of the WAL in it, ``replayed`` how much of that is in the data."""

    wal: Commit
    control: ControlData | None
    replayed: int = 0
    standby_signal: bool = False
    backup_label: bool = False
    followed: Followed | None = None
    names: str = ""
    """``synchronous_standby_names`` in the files."""
    names_ours: bool = False
    slots: dict[str, SlotState] = field(default_factory=dict)
    known: dict[int, Branch] = field(default_factory=dict)
    """History files of timelines that are not its own."""
    torn: str = ""
    """Half made or half rewound, by what: no server starts from it."""
    spoiled: bool = False
    """Two histories are mixed in it, which no server notices."""

    @property
    def system_id(self) -> str | None:
        """What pg_control says."""
        return self.control.system_id if self.control is not None else None

    def note(self, **changes: object) -> None:
        """Write pg_control."""
        if self.control is not None:
            self.control = replace(self.control, **changes)  # type: ignore[arg-type]

    @property
    def newest_history(self) -> Branch | None:
        """What PostgreSQL takes for where its timeline goes on: it counts up to the last one whose history file is there."""
        newest: Branch | None = None
        while (next_ := (newest or self.wal.branch).timeline + 1) in self.known:
            newest = self.known[next_]
        return newest

    def follows_no_history(self) -> bool:
        """A standby ends at its start when the newest history file leaves out what is in its data already.

        PostgreSQL asks for the last checkpoint and the minimum recovery.
        """
        newest = self.newest_history
        if newest is None or self.control is None:
            return False
        end, control = Commit(newest, newest.start), self.control
        for timeline, position in ((control.checkpoint_timeline, control.checkpoint + 1),
                                   (control.minimum_recovery_timeline, control.minimum_recovery)):
            switch = end.switch(timeline)
            if timeline and (switch is None or position > switch):
                return True
        return False

    def checkpoint(self, at: Commit) -> None:
        """pg_control names this checkpoint, whose record begins here."""
        at.branch.checkpoints.append(at.position)
        self._name(at)

    def restartpoint(self) -> None:
        """pg_control names the last checkpoint that was replayed."""
        at = self.wal.cut(self.replayed)
        found = at.last_checkpoint(CHECKPOINT_RECORD)
        if found is not None:
            self._name(found)

    def _name(self, at: Commit) -> None:
        self.note(checkpoint=Lsn(at.position), checkpoint_timeline=at.branch.timeline, checkpoint_end=None)


def new_control(wal: Commit, *, rewindable: bool) -> ControlData:
    """pg_control of a cluster that was just made."""
    return ControlData(ControlState.SHUT_DOWN, wal.branch.system_id, Lsn(wal.position - CHECKPOINT_RECORD), 1,
                       checkpoint_end=Lsn(wal.position), data_checksums=rewindable)
