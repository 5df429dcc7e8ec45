"""Profiles: what kind of cluster it is, which faults strike it, how thick they come, and how soon it must be well again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from pgcore.model.basics import Json
from pgcore.testing.simulation.faults import KINDS
from pgcore.testing.simulation.moments import MOMENTS
from pgcore.testing.simulation.schedule import Fault, Schedule, ScheduleError, in_order
from pgcore.testing.simulation.world import Setup

HOUR = 3600.0

SHORT = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""How long faults last where they come thick: from less than a heartbeat to several leases."""
GAPS = (0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 12.0, 30.0)
"""Seconds from one fault to the next within a burst."""

STARTS = ("power-loss", "freeze", "freeze-agent", "end-agent", "partition", "store-cut", "hang", "disk-full", "broken-start",
          "crash", "switchover", "switchover-to", "restart", "demote-cluster", "store-away")
"""Faults that set something going when they strike a primary and last."""
LONG = (8.0, 15.0, 25.0, 40.0, 60.0)


@dataclass(frozen=True)
class Profile:
    """``kinds``: faults with their weights; ``bursts`` of ``thick`` faults each, ``calm_s`` apart at most.

    ``bound_s``: once the last fault is over, everything is as it should be within so many seconds. ``setup`` draws the cluster.
    """

    name: str
    sentence: str
    kinds: Mapping[str, int]
    setup: Callable[[Random], Setup]
    bursts: tuple[int, int] = (2, 4)
    thick: tuple[int, int] = (1, 7)
    calm_s: tuple[float, float] = (20.0, 300.0)
    lasts_s: tuple[float, ...] = SHORT
    awaits: float = 0.5
    """The share of faults that wait for a bad moment, of those that follow another one."""
    starts: float = 0.7
    """The share of bursts that begin with the primary in trouble."""
    bound_s: float = 180.0
    settles_first: bool = True
    """Faults begin when the new cluster has settled; else with its first moment."""

    def draw(self, seed: int) -> Schedule:
        """The whole schedule of this seed."""
        return draw(self, seed)


def draw(profile: Profile, seed: int) -> Schedule:
    """All faults of a run, from their own dice: nothing that happens in the run changes them."""
    dice = Random(f"{profile.name}/{seed}/faults")
    names, weights = list(profile.kinds), list(profile.kinds.values())
    faults: list[Fault] = []
    at = 0.0
    for _ in range(dice.randint(*profile.bursts)):
        at += dice.uniform(*profile.calm_s)
        for place in range(dice.randint(*profile.thick)):
            first = place == 0
            name = dice.choices(names, weights)[0]
            if first and dice.random() < profile.starts:
                name = dice.choice([each for each in names if each in STARTS] or [name])
            faults.append(_draw_one(profile, dice, round(at, 2), name, first=first))
            at += dice.choice(GAPS)
    return in_order(faults)


def _draw_one(profile: Profile, dice: Random, at: float, name: str, *, first: bool) -> Fault:
    kind = KINDS[name]
    target, arguments = dice.choice(kind.targets), kind.args(dice)
    lasts = dice.choice(profile.lasts_s) if kind.lasts else 0.0
    if first and name in STARTS:
        target = "leader" if "leader" in kind.targets else target
        lasts = dice.choice(LONG) if kind.lasts else 0.0
    awaits = dice.choice(tuple(MOMENTS)) if not first and dice.random() < profile.awaits else ""
    return Fault(at, name, target, lasts, arguments, awaits)


# -- clusters ----------------------------------------------------------------------------------------------------------------


TIMINGS: tuple[dict[str, Json], ...] = (
    {},  # what pgcore gives a new cluster: 10, 3, 3
    {},
    {"ttl": 30, "loop_wait": 10, "retry_timeout": 10},
    {"ttl": 20, "loop_wait": 2, "retry_timeout": 5},
)


SPICE: tuple[dict[str, Json], ...] = (
    *({},) * 6, {"primary_start_timeout": 0}, {"primary_start_timeout": 8}, {"check_timeline": True},
    {"maximum_lag_on_failover": 200}, {"primary_race_backoff": 2},
)
"""Settings that some clusters have besides those of their profile."""


def cluster(*sizes: int, own: Callable[[tuple[str, ...], Random], Mapping[str, Mapping[str, Json]]] | None = None,
            local: Mapping[str, Json] | None = None, drift: float = 0.0, wall_offset: float = 0.0,
            choices: Mapping[str, tuple[Json, ...]] | None = None, backend: str = "",
            **dynamic: Json) -> Callable[[Random], Setup]:
    """Clusters of these sizes with this dynamic configuration; of ``choices`` each setting gets one of its values."""

    def setup(dice: Random) -> Setup:
        nodes = tuple("abcde"[:dice.choice(sizes or (3,))])
        drawn = {name: dice.choice(values) for name, values in (choices or {}).items()}
        chosen = {name: value for name, value in drawn.items() if value is not None}
        document = {**dice.choice(TIMINGS), **dice.choice(SPICE), **dynamic, **chosen}
        return Setup(nodes, document, local or {}, own(nodes, dice) if own else {}, drift, wall_offset, backend=backend)

    return setup


MENDS: Mapping[str, Json] = {"postgresql": {"remove_data_directory_on_rewind_failure": True,
                                            "remove_data_directory_on_diverged_timelines": True}}

STORE = {"store-away": 3, "store-new-leader": 3, "store-read-only": 1, "store-cut": 4, "store-slow": 3, "store-loss": 3,
         "store-late": 2}
STORE_MORE = {**STORE, "store-stale": 5, "store-late": 6, "store-loss": 6, "store-wipe": 1}
NETWORK = {"http-slow": 1, "http-loss": 2, "http-cut": 2, "stream-cut": 4, "partition": 4, "split": 3}
NODES = {"freeze": 4, "freeze-agent": 3, "kill-agent": 3, "end-agent": 2, "power-loss": 4}
SERVERS = {"crash": 5, "hang": 3, "slow-start": 2, "long-recovery": 2, "slow-stop": 2, "hung-stop": 2, "slow-promote": 2,
           "lag": 3, "replay-lag": 2}
PLUGINS = {"veto": 2, "slow-gate": 2, "slow-callbacks": 1}
COMMON = {**STORE, **NETWORK, **NODES, **SERVERS, **PLUGINS}
SLOW = {"slow-start": 3, "long-recovery": 3, "endless-recovery": 1, "slow-stop": 3, "slow-promote": 3, "slow-checkpoint": 3,
        "slow-rewind": 3,
        "slow-query": 3, "slow-copy": 2, "slow-machine": 3, "lag": 2, "replay-lag": 2, "slow-gate": 2, "slow-callbacks": 2,
        "hung-stop": 2}
DISK = {"disk-full": 5, "disk-gone": 2, "broken-start": 4, "rewind-fails": 3, "rewind-tears": 2, "copy-fails": 2}
ASKED = {"switchover": 5, "switchover-to": 5, "switchover-later": 2, "restart": 5, "reinitialize": 2, "reload": 2}
CHANGES = {"settings": 4, "synchronous-mode": 4, "failsafe-mode": 2}

REALISTIC = {"crash": 6, "power-loss": 3, "freeze": 2, "partition": 2, "stream-cut": 2, "store-new-leader": 6, "store-away": 1,
             "store-cut": 2, "store-slow": 2, "kill-agent": 2, "end-agent": 2, "hang": 1, "switchover": 4, "switchover-to": 2,
             "restart": 4, "reload": 2, "reinitialize": 1, "lag": 2, "slow-machine": 1, "settings": 1}


def _cascading(nodes: tuple[str, ...], dice: Random) -> dict[str, dict[str, Json]]:
    """The last ones replicate from the ones before them; one of them may never lead."""
    tags: dict[str, dict[str, Json]] = {nodes[-1]: {"replicatefrom": nodes[-2]}}
    if len(nodes) > 4:
        tags[nodes[-2]] = {"replicatefrom": nodes[1]}
    if dice.random() < 0.4:
        tags.setdefault(nodes[-1], {})["nofailover"] = True
    return {name: {"tags": values} for name, values in tags.items()}


SOME_SYNC: Mapping[str, tuple[Json, ...]] = {"synchronous_mode": (None, None, True)}

SLOTS = {"archive": {"type": "physical"}, "orders": {"type": "logical", "database": "postgres", "plugin": "pgoutput"}}

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (
    Profile("default", "A cluster as most are: a fault every few hours, days pass.", REALISTIC, cluster(2, 3, 3, 3),
            bursts=(6, 10), thick=(1, 2), calm_s=(0.5 * HOUR, 5 * HOUR), lasts_s=(1.0, 5.0, 15.0, 30.0, 60.0, 300.0),
            awaits=0.1, starts=0.2),
    Profile("sync", "Synchronous mode: nothing that was acknowledged is lost, whatever fails.",
            {**COMMON, "switchover": 4, "switchover-to": 3, "restart": 3},
            cluster(2, 3, 3, 4, synchronous_mode=True, choices={"synchronous_node_count": (None, 2)})),
    Profile("sync_strict", "Strict synchronous mode: the primary rather waits than promises.",
            {**COMMON, "switchover": 4, "restart": 3},
            cluster(2, 3, 4, synchronous_mode=True, synchronous_mode_strict=True,
                    choices={"synchronous_node_count": (None, 2)})),
    Profile("quorum", "Quorum commit with two synchronous nodes among four machines.",
            {**COMMON, "switchover": 4, "switchover-to": 3},
            cluster(4, 4, 5, synchronous_mode="quorum", synchronous_node_count=2,
                    choices={"synchronous_mode_strict": (None, None, True)})),
    Profile("failsafe", "Failsafe mode: the members keep their primary while the store is away.",
            {**COMMON, "store-away": 12, "store-cut": 8, "http-cut": 5, "http-loss": 4}, cluster(2, 3, 3, 4, failsafe_mode=True)),
    Profile("failsafe_quorum", "Failsafe mode with quorum commit, where silent members are tolerated.",
            {**COMMON, "store-away": 12, "store-cut": 8, "http-cut": 5, "http-loss": 4},
            cluster(3, 4, 5, failsafe_mode=True, failsafe_quorum=True, synchronous_mode="quorum",
                    choices={"synchronous_node_count": (None, 2)})),
    Profile("pause", "Maintenance mode comes and goes: while it lasts, servers are left alone.",
            {**COMMON, "pause": 14, "switchover": 3, "restart": 4}, cluster(2, 3)),
    Profile("operators", "Operators switch over, restart, copy anew and change settings while things fail.",
            {**COMMON, **ASKED, **CHANGES, "failover": 2}, cluster(2, 3, 3, 4)),
    Profile("store", "A store that loses, delays and forgets, and answers from the past.",
            {**STORE_MORE, "crash": 4, "switchover": 3, "power-loss": 2},
            cluster(2, 3, 3, choices={"synchronous_mode": (None, None, True)})),
    Profile("drift", "Clocks run fast and slow by up to two in a hundred, machines are suspended.",
            {**COMMON, "freeze": 16, "freeze-agent": 10}, cluster(2, 3, drift=0.02, wall_offset=20.0)),
    Profile("watchdog", "Every node requires a watchdog, some of which break.",
            {**COMMON, "freeze-agent": 6, "watchdog-breaks": 6, "switchover": 4},
            cluster(2, 3, local={"watchdog": {"mode": "required"}}, choices={"failsafe_mode": (None, True)})),
    Profile("cascade", "Replicas of replicas.", {**COMMON, "switchover-to": 4}, cluster(3, 4, 5, own=_cascading,
            choices={"synchronous_mode": (None, True)})),
    Profile("slots", "Permanent slots, physical and logical ones, on every node.",
            {**COMMON, "switchover": 4}, cluster(2, 3, slots=SLOTS, choices={"check_timeline": (None, True)})),
    Profile("standby_cluster", "The cluster replicates another one, and is promoted and demoted as a whole.",
            {**COMMON, "demote-cluster": 8, "switchover": 3}, cluster(2, 3)),
    Profile("slow", "Everything takes long: starts, stops, recoveries, promotions, queries.",
            {**SLOW, "crash": 8, "power-loss": 5, "switchover": 5, "restart": 3, "store-new-leader": 3, "stream-cut": 3},
            cluster(2, 3, choices={"primary_start_timeout": (None, 20, 0), "primary_stop_timeout": (None, 10)}), bound_s=700.0),
    Profile("disk", "Disks fill up or vanish, servers do not start, rewinds fail.",
            {**DISK, "crash": 6, "power-loss": 5, "partition": 4, "store-cut": 3, "switchover": 4, "reinitialize": 1},
            cluster(2, 3, local=MENDS), bound_s=240.0),
    Profile("bootstrap", "A cluster comes into being while things fail.",
            {**COMMON, "copy-fails": 6, "bootstrap-fails": 4, "disk-full": 3, "power-loss": 8, "kill-agent": 8},
            cluster(2, 3, 3, choices={"synchronous_mode": (None, True)}), bursts=(1, 1), thick=(2, 8), calm_s=(0.0, 12.0),
            settles_first=False),
    Profile("chaos", "All of it at once.",
            {**COMMON, **STORE_MORE, **SLOW, **DISK, **ASKED, **CHANGES, "pause": 2, "failover": 1},
            cluster(2, 3, 4, 5, local=MENDS, drift=0.01, wall_offset=5.0,
                    choices={"synchronous_mode": (None, True, "quorum"), "failsafe_mode": (None, True),
                             "check_timeline": (None, True)}),
            bursts=(2, 5), thick=(2, 9), bound_s=700.0),
    Profile("consul", "A store like Consul: sessions last up to twice their time, a lock rests for a while, sessions get lost.",
            {**COMMON, "session-lost": 4, "switchover": 4}, cluster(2, 3, 3, backend="consul", choices=SOME_SYNC), bound_s=300.0),
    Profile("zookeeper", "A store like ZooKeeper: who gives the lock away loses its card, a new leader resets all sessions.",
            {**COMMON, "store-new-leader": 8, "store-stale": 4, "session-lost": 4, "switchover": 4},
            cluster(2, 3, 3, backend="zookeeper", choices=SOME_SYNC)),
    Profile("kubernetes", "A store like Kubernetes: nobody ends a lock, each observer judges it by its own clock, which drifts.",
            {**COMMON, "store-stale": 4, "freeze": 8, "freeze-agent": 6, "switchover": 4},
            cluster(2, 3, 3, backend="kubernetes", drift=0.01, choices={**SOME_SYNC, "failsafe_mode": (None, True)})),
)}


def profile_named(name: str) -> Profile:
    """The profile of this name. Raises ScheduleError."""
    if name not in PROFILES:
        raise ScheduleError(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]
