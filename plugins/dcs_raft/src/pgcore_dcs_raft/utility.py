"""Questions and orders to a running member, over pysyncobj's utility messages."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pysyncobj.monotonic import monotonic  # type: ignore[import-untyped]
from pysyncobj.poller import createPoller  # type: ignore[import-untyped]
from pysyncobj.tcp_connection import CONNECTION_STATE  # type: ignore[import-untyped]

from pgcore_dcs_raft.channel import secret_of
from pgcore_dcs_raft.connection import Connection
from pgcore_dcs_raft.names import Names
from pgcore_dcs_raft.plugin import RaftSection

REQUEST_S = 1.0


def ask(section: RaftSection, address: str, command: list[str]) -> Any:
    """The answer of a member to a utility command, or None."""
    answers: list[Any] = []
    poller = createPoller("auto")
    connection = Connection(poller, secret_of(section.password), REQUEST_S)
    connection.setOnConnectedCallback(lambda: connection.send(command))
    connection.setOnMessageReceivedCallback(answers.append)
    host, _, port = address.rpartition(":")
    end = monotonic() + REQUEST_S
    connection.connect(Names().resolve(host, REQUEST_S), int(port))
    while not answers and connection.state != CONNECTION_STATE.DISCONNECTED and monotonic() < end:
        poller.poll(0.1)
    connection.disconnect()
    return answers[0] if answers else None


def ask_all(section: RaftSection, addresses: Iterable[str], command: list[str]) -> dict[str, dict[str, Any]]:
    """The answers of those that answer with a description, asked at the same time."""
    asked = list(addresses)
    if not asked:
        return {}
    with ThreadPoolExecutor(len(asked), thread_name_prefix="raft-ask") as pool:
        answers = pool.map(lambda address: ask(section, address, list(command)), asked)
        return {address: answer for address, answer in zip(asked, answers, strict=True) if isinstance(answer, dict)}
