"""Another site: a server that follows the cluster's primary, and that the cluster follows while it is a standby cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcore.model.basics import Lsn
from pgcore.model.node import ControlState
from pgcore.testing.simulation.faults import Undo, kind
from pgcore.testing.simulation.operators import set_for_a_while
from pgcore.testing.simulation.schedule import Fault
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.server_files import DataFiles, Followed

if TYPE_CHECKING:
    from pgcore.testing.simulation.machine import Machine
    from pgcore.testing.simulation.world import World

NAME, HOST, PORT = "remote", "10.9.9.9", 5432
LOOK_S = 0.5
PATIENCE_S = 30.0
"""The operators over there promote their server after so long, whether it has all of this cluster's WAL or not."""


@kind("demote-cluster", targets=("all",))
def _demote_cluster(world: World, machines: list[Machine], fault: Fault) -> Undo | None:
    """The other site takes over: this cluster becomes a standby cluster, and is promoted again later."""
    primary = world[world.leader].server if world.leader in world.machines else None
    if primary is None or not primary.writable or (HOST, PORT) in world.fleet.servers:
        return None
    remote = Server(world.fleet, NAME, HOST)
    _copy(remote, primary)
    back = set_for_a_while(world, standby_cluster={"host": HOST, "port": PORT})
    end = world.now + PATIENCE_S

    def take_over() -> None:
        if not remote.running:
            return
        complete = not primary.running and primary.files is not None and remote.at.contains(primary.at)
        if complete or world.now >= end:
            remote.promote()
        else:
            world.scheduler.after(LOOK_S, take_over)

    world.scheduler.after(LOOK_S, take_over)

    def return_home() -> None:
        """That site is fenced first."""
        remote.kill()
        del world.fleet.servers[HOST, PORT]
        back()

    return return_home


def _copy(remote: Server, primary: Server) -> None:
    """It has followed the primary for long."""
    files = primary.files
    assert files is not None
    end = files.wal
    remote.files = DataFiles(end, files.control, end.position, standby_signal=True,
                             followed=Followed(primary.host, primary.port, None, False), known=dict(files.known))
    remote.files.note(state=ControlState.IN_ARCHIVE_RECOVERY, checkpoint_end=None,
                      minimum_recovery=Lsn(end.position), minimum_recovery_timeline=end.branch.timeline)
    remote.launch()
