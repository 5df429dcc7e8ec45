"""What holds for every test: how fast hypothesis gets its examples says something of the machine and nothing of the code.

And which worker takes which file when several share the tests (``pytest -n``).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

COMPUTING = ("tests/house/", "tests/rules/", "tests/unit/", "tests/sim/")
"""Where tests compute; elsewhere they start servers and wait for them."""

LONGEST = (
    "tests/downstream/test_downstream.py",
    "tests/e2e/test_synchronous.py",
    "tests/e2e/test_backends.py",
    "tests/e2e/test_rolling_migration.py",
    "tests/e2e/test_mixed_operators.py",
    "tests/e2e/test_mixed_crashes.py",
    "tests/e2e/test_mixed_outages.py",
    "tests/e2e/test_mixed_quorum.py",
    "tests/e2e/test_mixed_requests.py",
    "tests/e2e/test_mixed_stores.py",
    "tests/e2e/test_agent_trouble.py",
    "tests/e2e/test_divergence.py",
    "tests/e2e/test_cli_actions.py",
    "tests/e2e/test_bad_input.py",
    "tests/e2e/test_failsafe.py",
    "tests/e2e/test_election.py",
    "plugins/dcs_kubernetes/tests/test_kubernetes_store.py",
    "tests/e2e/test_haproxy.py",
    "tests/e2e/test_store_outage.py",
    "tests/e2e/test_patronictl.py",
    "tests/contract/test_postgres_server.py",
    "tests/e2e/test_watchdog.py",
    "tests/e2e/test_unready_candidate.py",
    "tests/e2e/test_exhaustion.py",
    "tests/e2e/test_ways_to_make_nodes.py",
    "tests/e2e/test_raft_witness.py",
    "tests/e2e/test_wal_e.py",
)
"""Files that take the better part of a minute. They begin first, lest one of them is left to a single worker in the end."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker computes while the others wait for servers: neither do cores stand idle, nor do clusters compete for them."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # not everybody runs tests in parallel

    class OneComputes(LoadFileScheduling):
        def _assign_work_unit(self, node: Any) -> None:
            computes = node is self.nodes[0]

            def rank(scope: str) -> tuple[bool, int]:
                return scope.startswith(COMPUTING) != computes, LONGEST.index(scope) if scope in LONGEST else len(LONGEST)

            self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False
    return OneComputes(config, log)
