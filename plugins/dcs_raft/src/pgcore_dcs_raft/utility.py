"""Questions and orders to a running member, over pysyncobj's utility messages."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pysyncobj.utility import TcpUtility, UtilityException  # type: ignore[import-untyped]

from pgcore_dcs_raft.library import adapt
from pgcore_dcs_raft.plugin import RaftSection

REQUEST_S = 1.0


def ask(section: RaftSection, address: str, command: list[str]) -> Any:
    """The answer of a member to a utility command, or None."""
    adapt()
    try:
        return TcpUtility(password=section.password, timeout=REQUEST_S).executeCommand(address, command)
    except UtilityException:
        return None


def ask_all(section: RaftSection, addresses: Iterable[str], command: list[str]) -> dict[str, dict[str, Any]]:
    """The answers of those that answer with a description, asked at the same time."""
    asked = list(addresses)
    if not asked:
        return {}
    with ThreadPoolExecutor(len(asked), thread_name_prefix="raft-ask") as pool:
        answers = pool.map(lambda address: ask(section, address, list(command)), asked)
        return {address: answer for address, answer in zip(asked, answers, strict=True) if isinstance(answer, dict)}
