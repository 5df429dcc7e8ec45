"""A change of the ``/config`` key that somebody asked for over REST: read, merge, write if it still is what was read. (rest 7)"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgcore.clock import Deadline
from pgcore.config.document import equal, patch
from pgcore.daemon.mailbox import ChangeConfig
from pgcore.dcs import codec
from pgcore.dcs.store import ABSENT, ANYTHING, Key, Refused, Store
from pgcore.dcs.store import version as at_version
from pgcore.model.basics import Json


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What came of it: the whole document, or why nothing was written."""

    document: dict[str, Json] = field(default_factory=dict)
    missing: bool = False
    """There is no valid document to merge into; a merge into nothing would lose the configuration of the cluster."""
    conflict: bool = False
    """Somebody else wrote between the read and the write."""


def change_config(store: Store, request: ChangeConfig, deadline: Deadline) -> ConfigChange:
    """Merge or replace. Raises StoreUnavailableError when undecided: it may have been written."""
    stored = codec.decode(store.read(fresh=True, deadline=deadline)).config
    present = stored.document if stored is not None else None
    if request.merge and (stored is None or present is None):
        return ConfigChange(missing=True)
    wanted = patch(present or {}, request.document) if request.merge else dict(request.document)
    if present is not None and equal(wanted, present):
        return ConfigChange(wanted)
    expect = (at_version(stored.version) if stored else ABSENT) if request.merge else ANYTHING
    answer = store.put(Key.CONFIG, codec.compact(wanted), expect=expect, deadline=deadline)
    return ConfigChange(conflict=True) if isinstance(answer, Refused) else ConfigChange(wanted)
