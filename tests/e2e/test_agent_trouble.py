"""The agent of the primary freezes, dies, or dies and comes back, while PostgreSQL itself is well."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness import UNDISTURBED_S, Cluster, Gap, Node, Writer, wait_for
from harness.processes import send


def _writes_ended_before_others_began(cluster: Cluster, old: Node, direct: Writer, elsewhere: Writer) -> tuple[float, float]:
    """The instants of the last write on the old primary and of the first one sent to another node; one clock for both."""
    server = f"{old.host}:{old.pg_port}"
    last = direct.report().last_on(server)
    first = elsewhere.report().first_elsewhere(server, 0.0)
    assert last is not None and first is not None
    return last, first


def _stopped_leading(cluster: Cluster, old: Node, measured: Callable[[str, Gap | float], None], what: str) -> None:
    """The agent of ``old`` does nothing any more: its server must end its writes before another one begins to accept any."""
    direct = cluster.direct_writer(old).start()
    elsewhere = cluster.writer(cluster.connection_string(cluster.others(old))).start(wait=False)
    last_renewal_is_before = time.monotonic()
    new = cluster.wait_primary_other_than(old, cluster.ttl + 10)
    elsewhere.wait_resumed(time.monotonic(), 20)
    direct.stop()
    elsewhere.stop()
    last, first = _writes_ended_before_others_began(cluster, old, direct, elsewhere)
    measured(f"{what}: last write on the old primary to first on the new", first - last)
    assert last < first, f"{old.name} accepted a write {last - first:.3f} s after {new.name} had accepted one"
    assert last < last_renewal_is_before + cluster.ttl, "writes ended after the lease had ended for certain"
    present = cluster.present(new)
    assert (direct.report().missing(present), elsewhere.report().missing(present)) == ([], [])


def test_frozen_agent_does_not_leave_a_writable_primary_behind(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    old = cluster.primary()
    old.freeze_agent()
    _stopped_leading(cluster, old, measured, "frozen agent")
    assert not old.is_writable()
    old.thaw_agent()
    cluster.wait_healthy()
    assert cluster.primary() is not old


def test_killed_agent_does_not_leave_a_writable_primary_behind(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    old = cluster.primary()
    old.kill_agent()
    _stopped_leading(cluster, old, measured, "killed agent")
    assert not old.is_writable()
    old.start()
    cluster.wait_healthy()
    assert cluster.primary() is not old


def test_killed_guard_is_replaced_and_its_successor_stops_a_frozen_agents_server(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    cluster = etcd_cluster
    old = cluster.primary()
    before = old.postmaster_pid()

    def guards() -> list[int]:
        return [pid for pid in old.helper_pids() if Path(f"/proc/{pid}/comm").read_text().strip() == "pgcore-guard"]

    (first,) = wait_for(guards, 20, "the guard is there and no other helper ends meanwhile")
    send(first, signal.SIGKILL)
    wait_for(lambda: guards() not in ([], [first]), 2 * cluster.loop_wait + 20, "another guard is there")
    assert old.postmaster_pid() == before and cluster.primary() is old
    old.freeze_agent()
    _stopped_leading(cluster, old, measured, "frozen agent with a second guard")
    old.thaw_agent()
    cluster.wait_healthy()
    assert (old.stop(), old.pids()) == (0, []), "the second guard ends with its agent"
    old.start()
    cluster.wait_healthy()


def test_agent_killed_and_restarted_at_once_adopts_its_primary(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    """It attaches to the same postmaster and keeps the lock; no session notices (EC 231)."""
    primary = cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    with cluster.writer() as writer, primary.connection() as session:
        time.sleep(0.5)
        began = time.monotonic()
        primary.kill_agent()
        primary.start()
        cluster.wait_healthy(40)
        time.sleep(cluster.ttl + 2)  # long enough for a lease that nobody renews to end
        with session.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            assert cursor.fetchone() == (False,)
    report = writer.report()
    gap = report.longest_gap(after_s=began)
    measured("agent restarted: write gap", gap)
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert cluster.primary() is primary
    assert report.missing(cluster.present()) == []
    assert gap.seconds < UNDISTURBED_S


def test_killed_agent_of_a_standby_changes_nothing_for_clients(cluster: Cluster) -> None:
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    pid = standby.postmaster_pid()
    with cluster.writer() as writer:
        began = time.monotonic()
        standby.kill_agent()
        time.sleep(1)
        standby.start()
        cluster.wait_healthy(40)
    assert standby.postmaster_pid() == pid
    assert cluster.primary() is primary
    assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S
