"""The kit that proves a store: subclass ``StoreContract``, give it a ``cluster`` fixture, run pytest.

::

    class TestFileStore(StoreContract):
        @pytest.fixture
        def cluster(self, tmp_path):
            return lambda member, timing, observer=False: FileStore(tmp_path, member, timing, observer)

        @pytest.fixture
        def outage(self, tmp_path):  # optional: a context manager that makes the store unreachable
            return unreadable(tmp_path)

Every test states one guarantee of ``pgcore.dcs.store``. The kit speaks to the store through its verbs only, so it runs against
a real server. Fault cases need hooks, which are fixtures to override: ``outage`` (freeze), ``restart``, ``wipe``, ``wire`` (cut
connections, lose answers), ``stranger`` (wrong credentials), ``minority``; see ``pgcore.testing.dcs.base``. What a backend cannot
show for want of one is skipped with the words *not proven*, never silently.
"""

from __future__ import annotations

import pytest

PARTS = ("base", "records", "lease", "events", "faults", "lost_answers", "members")
pytest.register_assert_rewrite(*(f"pgcore.testing.dcs.{part}" for part in PARTS))

from pgcore.testing.dcs.base import Line, Minority, OpenStore, Wire, without  # noqa: E402 - assertions must be rewritten before
from pgcore.testing.dcs.events import EventsContract  # noqa: E402
from pgcore.testing.dcs.faults import FaultsContract  # noqa: E402
from pgcore.testing.dcs.lease import LeaseContract  # noqa: E402
from pgcore.testing.dcs.lost_answers import LostAnswersContract  # noqa: E402
from pgcore.testing.dcs.members import MembersContract  # noqa: E402
from pgcore.testing.dcs.records import RecordsContract  # noqa: E402

__all__ = ["Line", "Minority", "OpenStore", "StoreContract", "Wire", "without"]


class StoreContract(RecordsContract, LeaseContract, EventsContract, MembersContract, FaultsContract, LostAnswersContract):
    """Subclass it as ``TestMyStore`` and define the fixture ``cluster``; the other hooks are optional."""
