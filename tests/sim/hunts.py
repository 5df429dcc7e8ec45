"""Short, dense profiles for hunting weakened rules: few kinds of faults, mostly on the leader, seconds apart.

None scripts a bug. Each says what kind of cluster it is and what kind of trouble it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pgcore.testing.simulation.faults import KINDS
from pgcore.testing.simulation.moments import MOMENTS
from pgcore.testing.simulation.profiles import MENDS, Profile
from pgcore.testing.simulation.schedule import Fault, Schedule, in_order
from pgcore.testing.simulation.world import Setup


@dataclass(frozen=True)
class Hunt(Profile):
    """``leader``: the share of faults that strike the leader; ``count`` of them, ``gaps`` seconds apart.

    ``among``: machines that are struck, ``arguments``: what a kind is drawn with, each instead of the usual.
    """

    leader: float = 0.6
    count: tuple[int, int] = (6, 9)
    gaps: tuple[float, ...] = (0.0, 0.2, 1.0, 3.0, 6.0)
    moments: tuple[str, ...] = tuple(MOMENTS)
    among: tuple[str, ...] = ()
    arguments: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    def draw(self, seed: int) -> Schedule:
        """The whole schedule of this seed."""
        dice = Random(f"{self.name}/{seed}/faults")
        names, weights = list(self.kinds), list(self.kinds.values())
        faults, at = [], 1.0
        for _ in range(dice.randint(*self.count)):
            kind = KINDS[dice.choices(names, weights)[0]]
            on_leader = "leader" in kind.targets and dice.random() < self.leader
            target = "leader" if on_leader else dice.choice(self.among or kind.targets)
            given = self.arguments.get(kind.name)
            arguments = dice.choice(given) if given is not None else kind.args(dice)
            lasts = dice.choice(self.lasts_s) if kind.lasts else 0.0
            awaits = dice.choice(self.moments) if dice.random() < self.awaits else ""
            faults.append(Fault(round(at, 2), kind.name, target, lasts, arguments, awaits))
            at += dice.choice(self.gaps)
        return in_order(faults)


def cluster(*sizes: int, write_s: float = 0.5, drift: float = 0.0, tags: Mapping[str, Any] | None = None,
            choices: Mapping[str, tuple[Any, ...]] | None = None, **dynamic: Any) -> Callable[[Random], Setup]:
    """Clusters of these sizes; ``tags``: those of the last node; of ``choices`` each setting gets one of its values."""

    def setup(dice: Random) -> Setup:
        nodes = tuple("abcde"[:dice.choice(sizes)])
        drawn = {name: dice.choice(values) for name, values in (choices or {}).items()}
        document = {**dynamic, **{name: value for name, value in drawn.items() if value is not None}}
        own: dict[str, Any] = {nodes[-1]: {"tags": tags}} if tags else {}
        return Setup(nodes, document, MENDS, own, drift, 0.0, write_s)

    return setup


HUNTS: dict[str, Hunt] = {}


def hunt(name: str, sentence: str, kinds: Mapping[str, int], setup: Callable[[Random], Setup], **more: Any) -> None:
    """Note a hunt."""
    HUNTS[name] = Hunt(name, sentence, kinds, setup, **{"lasts_s": (0.5, 2.0, 6.0, 12.0, 20.0), "awaits": 0.3, **more})


hunt("hunt_lease", "A store that answers late, or reads only, or not at all.",
     {"store-read-only": 5, "store-slow": 12, "store-loss": 4, "store-cut": 3, "freeze-agent": 4, "store-late": 2},
     cluster(2, 3, write_s=1.0, drift=0.01), lasts_s=(2.0, 6.0, 12.0, 20.0), gaps=(0.2, 1.0, 3.0, 6.0, 12.0),
     arguments={"store-slow": ({"delay_s": 0.6, "way": "in"}, {"delay_s": 1.0, "way": "in"})})
hunt("hunt_freeze", "Agents and machines that stand still.",
     {"freeze-agent": 10, "kill-agent": 3, "store-cut": 4, "freeze": 3, "store-read-only": 2, "hung-stop": 2},
     cluster(2, 3, write_s=1.0, drift=0.01), lasts_s=(2.0, 4.0, 12.0, 20.0), leader=0.8, gaps=(0.0, 1.0, 3.0, 5.0))
hunt("hunt_promotion", "Trouble in the middle of promotions.",
     {"slow-gate": 8, "slow-promote": 6, "freeze-agent": 8, "store-cut": 5, "power-loss": 5, "crash": 4, "partition": 3,
      "kill-agent": 3},
     cluster(2, 3, write_s=1.0), lasts_s=(4.0, 12.0, 20.0), awaits=0.5,
     moments=("promoting", "new-leader", "unlocked", "starting"))
hunt("hunt_restart", "Trouble in the middle of restarts and starts.",
     {"restart": 10, "crash": 8, "slow-start": 4, "long-recovery": 4, "freeze-agent": 4, "store-cut": 5, "kill-agent": 4,
      "power-loss": 3},
     cluster(2, 3, write_s=1.0), lasts_s=(4.0, 12.0, 20.0), awaits=0.5, moments=("starting", "stopping"))
hunt("hunt_pause", "Maintenance mode while things fail.",
     {"pause": 10, "power-loss": 7, "store-away": 5, "store-cut": 3},
     cluster(2, 3, write_s=1.0), lasts_s=(60.0, 120.0), gaps=(35.0, 40.0), count=(3, 4), awaits=0.0, leader=0.9)
hunt("hunt_wipe", "A store that forgets everything, and is slow for the primary.",
     {"store-wipe": 8, "store-slow": 8, "switchover": 1}, cluster(2, 3, write_s=1.0), gaps=(0.0, 20.0), count=(3, 5), leader=0.9,
     lasts_s=(6.0, 12.0), awaits=0.0)
SYNC = {"lag": 8, "stream-cut": 8, "power-loss": 6, "crash": 4, "store-late": 5, "store-loss": 5, "freeze-agent": 3,
        "kill-agent": 3, "partition": 4, "switchover": 3}
hunt("hunt_sync", "Synchronous mode: standbys lag and lose their streams, the store loses writes or brings them late.", SYNC,
     cluster(3, 4, synchronous_mode=True, choices={"synchronous_node_count": (None, 2)}))
LOSS = {"lag": 5, "power-loss": 8, "partition": 4, "freeze": 2, "http-cut": 2}
LONG = {"lasts_s": (20.0, 40.0), "gaps": (0.0, 0.5, 2.0), "awaits": 0.0, "leader": 0.35, "count": (3, 5),
        "among": ("sync 1", "sync 1", "sync 2", "other 1", "replica 1")}
hunt("hunt_sync_loss", "Synchronous mode: standbys lag for long, and several machines are lost at once.", LOSS,
     cluster(3, 4, synchronous_mode=True, choices={"synchronous_node_count": (None, 2)}), **LONG)
hunt("hunt_quorum_loss", "The same with quorum commit.", LOSS,
     cluster(3, 4, synchronous_mode="quorum", choices={"synchronous_node_count": (None, 2)}), **LONG)
hunt("hunt_async_loss", "The same without synchronous mode; little lag is allowed, and one node may never lead.", LOSS,
     cluster(3, 4, tags={"nofailover": True}, maximum_lag_on_failover=300), **LONG)
hunt("hunt_lag", "A standby lags for long, and the primary is lost.", {"lag": 6, "power-loss": 6, "partition": 2},
     cluster(3, 4), **{**LONG, "count": (2, 3), "leader": 0.5, "among": ("replica 1", "replica 2")})
CHANGE = {"lasts_s": (3.0, 8.0, 20.0), "gaps": (0.0, 1.0, 3.0), "awaits": 0.15, "leader": 0.0, "count": (6, 9),
          "among": ("sync 1", "sync 1", "other 1", "replica 1", "replica 2"),
          "arguments": {"lag": ({"value": 0.5}, {"value": 3.0}, {"value": 10.0})}}
hunt("hunt_sync_change", "Synchronous mode: who is synchronous changes all the time, while standbys lag.",
     {"lag": 10, "stream-cut": 8, "power-loss": 4, "store-late": 2, "store-loss": 2},
     cluster(3, write_s=0.2, synchronous_mode=True, choices={"synchronous_node_count": (None, 2)}), **CHANGE)
hunt("hunt_quorum_change", "The same with quorum commit.",
     {"lag": 10, "stream-cut": 8, "power-loss": 4, "store-late": 2, "store-loss": 2},
     cluster(3, 4, write_s=0.2, synchronous_mode="quorum", choices={"synchronous_node_count": (None, 2)}), **CHANGE)
hunt("hunt_failsafe", "Failsafe mode: the store is away, members are silent, agents begin anew.",
     {"store-away": 10, "store-cut": 8, "store-read-only": 3, "http-cut": 6, "http-slow": 3, "kill-agent": 5, "freeze-agent": 3,
      "freeze": 2, "partition": 3, "split": 3, "slow-gate": 3},
     cluster(2, 3, 4, failsafe_mode=True, write_s=1.0), lasts_s=(2.0, 6.0, 12.0, 20.0, 40.0))
hunt("hunt_handover", "Switchovers while standbys lag and lose their streams.",
     {"switchover": 10, "switchover-to": 8, "end-agent": 5, "lag": 10, "stream-cut": 5, "power-loss": 4, "crash": 3,
      "hung-stop": 2, "store-loss": 2, "http-cut": 2},
     cluster(2, 3, write_s=0.1), awaits=0.4, leader=0.2, gaps=(0.0, 0.5, 4.0, 8.0),
     arguments={"lag": ({"value": 0.2}, {"value": 2.0})},
     moments=("asked", "stopping", "handover", "await-leader", "unlocked", "verify"))
hunt("hunt_data", "Histories part; servers are rewound and copied anew.",
     {"crash": 5, "power-loss": 6, "partition": 8, "stream-cut": 4, "lag": 5, "freeze": 3, "reinitialize": 6, "rewind-fails": 4,
      "rewind-tears": 3, "copy-fails": 3, "slow-promote": 3, "switchover": 3},
     cluster(2, 3), lasts_s=(2.0, 6.0, 12.0, 20.0))
