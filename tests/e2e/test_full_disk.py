"""The disk under the primary is full: it moves once, and comes back when there is room."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import Cluster, Gap, wait_for
from harness.cluster import lost_commits


@contextlib.contextmanager
def _small_disk(path: Path, megabytes: int) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_full_disk_under_the_primary_moves_it_once_and_it_comes_back_when_there_is_room(
        make_cluster: Callable[..., Cluster], measured: Callable[[str, Gap | float], None]) -> None:
    cluster = make_cluster(dynamic={"postgresql": {"parameters": {"max_wal_size": "64MB", "min_wal_size": "32MB"}}})
    small = cluster.directory / "small"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_small_disk(small, 160))
        node = cluster.nodes[0]
        node.document["postgresql"]["data_dir"] = str(small / "data")
        cluster.start_store()
        node.start()
        wait_for(node.is_writable, 30, "the node on the small disk is primary")
        for other in cluster.others(node):
            other.start()
        cluster.wait_healthy()
        cluster.create_table()
        timeline = node.timeline()
        assert timeline is not None
        writer = cluster.writer().start()
        time.sleep(1)
        filler = small / "filler"
        began = time.monotonic()
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * (1 << 20))
        while node.is_writable() and time.monotonic() < began + 30:
            node.ask("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))")
        new = cluster.wait_primary_other_than(node, cluster.ttl + 30)
        writer.wait_resumed(time.monotonic(), 20)
        measured("disk full under the primary: write gap", writer.report().longest_gap(after_s=began))
        time.sleep(cluster.ttl)
        assert cluster.primary() is new
        assert new.timeline() == timeline + 1, "one failover, no flapping"
        assert lost_commits(cluster, writer) == []
        filler.unlink()
        cluster.wait_healthy(60)
        assert cluster.primary() is new
