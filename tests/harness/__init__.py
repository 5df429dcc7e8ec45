"""The end-to-end harness: real agents, PostgreSQL, stores and clients as processes, and the measurements taken on them.

Nothing here imports the daemon: an agent is a command, so one test or benchmark can drive pgcore and its predecessor alike.
"""

from __future__ import annotations

from harness.agents import AgentKind, pgcore_agent
from harness.cluster import Cluster
from harness.etcd import EtcdServer
from harness.node import Node, RestAnswer
from harness.processes import free_port, kill_marked, wait_for
from harness.writer import UNDISTURBED_S, Gap, Writer, WriterReport

__all__ = [
    "UNDISTURBED_S",
    "AgentKind",
    "Cluster",
    "EtcdServer",
    "Gap",
    "Node",
    "RestAnswer",
    "Writer",
    "WriterReport",
    "free_port",
    "kill_marked",
    "pgcore_agent",
    "wait_for",
]
