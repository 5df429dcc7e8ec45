"""An instance with two volumes in moto's EC2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.ec2 import Machine, ec2


@pytest.fixture(scope="session")
def region() -> Iterator[tuple[Any, str, str]]:
    """One EC2 for all tests: its client, its address, an image."""
    with ec2() as found:
        yield found


@pytest.fixture
def machine(region: tuple[Any, str, str]) -> Iterator[Machine]:
    """An instance of the test's own."""
    machine = Machine(*region)
    yield machine
    machine.close()
