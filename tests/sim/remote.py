"""A primary at another site, and a cluster that replicates it."""

from __future__ import annotations

from pgcore.model.basics import Lsn
from pgcore.model.node import ControlState
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.server_files import DataFiles, Followed
from sim.told import Told, others, primary, streams_from

HOST = "10.9.9.9"
SECTION = {"host": HOST, "port": 5432}


def remote_primary(world: Told, host: str = HOST, name: str = "remote") -> Server:
    """It accepts writes; no agent looks after it."""
    remote = Server(world.fleet, name, host)
    remote.make_cluster()
    remote.pace.start_s = 0.0
    remote.launch()
    return remote


def follows(world: Told, remote: Server) -> bool:
    """One standby leader streams from the remote, the others from it, nobody accepts writes."""
    if world.leader is None or world.writable() or streams_from(primary(world)) != remote.name:
        return False
    return all(streams_from(machine) == world.leader for machine in others(world))


def follow(world: Told, remote: Server) -> None:
    """Let the cluster come to that. Raises AssertionError."""
    assert world.run_until(lambda: follows(world, remote), 120), [(m.name, m.server, streams_from(m)) for m in world]


def remote_standby(world: Told, above: Server, host: str = HOST, name: str = "remote") -> Server:
    """It has followed that server for long; no agent looks after it."""
    assert above.files is not None
    end = above.at
    server = Server(world.fleet, name, host)
    server.files = DataFiles(end, above.files.control, end.position, standby_signal=True,
                             followed=Followed(above.host, above.port, None, False), known=dict(above.files.known))
    server.files.note(state=ControlState.IN_ARCHIVE_RECOVERY, checkpoint_end=None,
                      minimum_recovery=Lsn(end.position), minimum_recovery_timeline=end.branch.timeline)
    server.launch()
    return server
