"""A primary at another site, and a cluster that replicates it."""

from __future__ import annotations

from pgcore.testing.simulation.server import Server
from sim.told import Told, others, primary, streams_from

HOST = "10.9.9.9"
SECTION = {"host": HOST, "port": 5432}


def remote_primary(world: Told, host: str = HOST, name: str = "remote") -> Server:
    """It accepts writes; no agent looks after it."""
    remote = Server(world.fleet, name, host)
    remote.make_cluster()
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
