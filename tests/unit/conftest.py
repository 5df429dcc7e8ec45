"""A REST server on loopback over hand-built observations, and the certificates of its tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.model.basics import Lsn
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from pgcore.testing.certificates import Authority
from unit.rest_board import leader_status


@pytest.fixture
def board() -> Board:
    """What a leader has published."""
    board = Board()
    board.publish(leader_status())
    return board


@pytest.fixture
def serve(board: Board) -> Iterator[Callable[..., RestServer]]:
    """Start a server on a free loopback port with these settings."""
    servers: list[RestServer] = []

    def start(**settings: object) -> RestServer:
        server = RestServer(
            RestSettings(**{"listen": "127.0.0.1:0", **settings}), board, Mailbox(), lambda seconds: (Lsn(7), Lsn(6), False)
        )
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has signed ``server`` and ``client``."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    for name in ("server", "client"):
        authority.sign(name)
    return authority
