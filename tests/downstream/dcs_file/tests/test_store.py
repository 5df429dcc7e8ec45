"""The kit proves the file store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pgcore_dcs_file.store import FileStore

from pgcore.plugin import Timing
from pgcore.testing.dcs import StoreContract


class TestFileStore(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)  # a file has no shortest lease, so the kit need not wait long
    expiry_slack_s = 0.5
    races = 200  # who finds the file locked looks again every 2 ms

    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Callable[..., FileStore]:
        return lambda member, timing, observer=False: FileStore(tmp_path / "scope", member, timing)

    @pytest.fixture
    def wipe(self, tmp_path: Path) -> Callable[[], object]:
        return (tmp_path / "scope" / "state.json").unlink

    @pytest.fixture
    def outage(self, tmp_path: Path) -> contextlib.AbstractContextManager[object]:
        @contextlib.contextmanager
        def away() -> Iterator[None]:
            (tmp_path / "scope").rename(tmp_path / "away")
            try:
                yield
            finally:
                (tmp_path / "away").rename(tmp_path / "scope")

        return away()
