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
a real server. What a backend cannot show (no ``outage`` fixture) is skipped with the words *not proven*, never silently.
"""

from __future__ import annotations

import pytest

PARTS = ("store_contract_base", "store_contract_records", "store_contract_lease", "store_contract_events")
pytest.register_assert_rewrite(*(f"pgcore.testing.{part}" for part in PARTS))

from pgcore.testing.store_contract_base import OpenStore  # noqa: E402 - assertions must be rewritten before
from pgcore.testing.store_contract_events import EventsContract  # noqa: E402
from pgcore.testing.store_contract_lease import LeaseContract  # noqa: E402
from pgcore.testing.store_contract_records import RecordsContract  # noqa: E402

__all__ = ["OpenStore", "StoreContract"]


class StoreContract(RecordsContract, LeaseContract, EventsContract):
    """Subclass it as ``TestMyStore`` and define the fixture ``cluster``; ``outage`` and ``elapse`` are optional."""
