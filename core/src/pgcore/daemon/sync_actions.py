"""The actions of synchronous replication: names in the server, ``/sync`` in the store, never long enough to delay the lease."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgcore.clock import Deadline
from pgcore.dcs import codec
from pgcore.dcs.store import ABSENT, Key, Refused
from pgcore.dcs.store import version as at_version
from pgcore.model import actions as a
from pgcore.model.world import World

if TYPE_CHECKING:
    from pgcore.daemon.perform import Ports

SHOWN_S = 1.0
"""How long the server may take to show new names; it takes milliseconds."""


class SyncActions:
    """``spare`` gives the deadline of what may wait for the next beat."""

    def __init__(self, ports: Ports, spare: Callable[[World], Deadline]) -> None:
        self._ports, self._spare = ports, spare
        self.handlers: dict[type, Callable[[Any, World], Any]] = {
            a.SetStandbyNames: self._set_names,
            a.RestoreStandbyNames: self._restore_names,
            a.WriteSync: self._write,
            a.DropSync: self._drop,
        }

    def _set_names(self, action: a.SetStandbyNames, world: World) -> bool:
        return self._ports.postgres.set_standby_names(action.text, self._spare(world).within(SHOWN_S))

    def _restore_names(self, action: a.RestoreStandbyNames, world: World) -> bool:
        return self._ports.postgres.set_standby_names(None, self._spare(world).within(SHOWN_S))

    def _write(self, action: a.WriteSync, world: World) -> str | None:
        """Once: an unanswered conditional write must not be repeated, the rules count on its fate being unknown."""
        text = codec.encode_sync(action.leader, action.standbys, action.quorum)
        expect = at_version(action.version) if action.version is not None else ABSENT
        answer = self._ports.store.put(Key.SYNC, text, expect=expect, deadline=self._spare(world))
        return None if isinstance(answer, Refused) else answer.version

    def _drop(self, action: a.DropSync, world: World) -> bool:
        answer = self._ports.store.delete(Key.SYNC, expect=at_version(action.version), deadline=self._spare(world))
        return not isinstance(answer, Refused)
