"""Seeds and schedules that once violated an invariant: each is run again by ``test_regressions``."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.testing.simulation.schedule import Fault, Schedule


@dataclass(frozen=True)
class Regression:
    """``found``: what it showed, and what was changed."""

    name: str
    profile: str
    seed: int
    found: str
    faults: Schedule | None = None


REGRESSIONS: tuple[Regression, ...] = (
    Regression(
        "a lock renewed behind its own release", "store", 867262250,
        "the release of a stopped primary's lock went unanswered and took effect after the next renewal was confirmed: it "
        "counted on a lease while another led; now a lock whose release is undecided is released again instead of being renewed",
        (Fault(132.0, "power-loss", "leader", 15.0),
         Fault(180.61, "switchover"),
         Fault(185.61, "store-late", "all", 8.0, {"share": 0.6, "way": "both"}, awaits="await-leader"),
         Fault(187.0, "store-slow", "sync 1", 8.0, {"delay_s": 2.5, "way": "both"}),
         Fault(216.61, "store-away", "all", 60.0),
         Fault(217.0, "store-late", "replica 2", 30.0, {"share": 0.1, "way": "both"}, awaits="verify"),
         Fault(217.0, "store-late", "sync 1", 60.0, {"share": 0.1, "way": "out"}),
         Fault(217.0, "store-loss", "leader", 0.5, {"share": 0.3, "way": "both"}),
         Fault(473.0, "store-late", "leader", 4.0, {"share": 0.3, "way": "out"}),
         Fault(473.74, "store-late", "replica 1", 1.0, {"share": 0.6, "way": "both"}),
         Fault(473.84, "switchover"),
         Fault(474.34, "switchover"),
         Fault(474.84, "store-cut", "replica 2", 0.5, {"way": "out"}))),
    Regression(
        "a twin timeline forgotten", "drift", 859353882,
        "two nodes began a timeline 2 each; one was known to have parted, until the leader went on to timeline 3: the numbers "
        "agreed, it streamed and mixed the two; now numbers do not take back what the records have shown",
        (Fault(255.0, "store-away", "all", 8.0),
         Fault(311.0, "store-slow", "replica 2", 0.5, {"delay_s": 0.3, "way": "in"}, awaits="stopping"),
         Fault(429.0, "end-agent", "leader", 0.47), Fault(429.0, "store-cut", "other 1", 8.0, {"way": "both"}),
         Fault(439.78, "partition", "leader", 30.0), Fault(740.0, "freeze", "leader", 25.0))),
    Regression(
        "a leader ahead of its member key compared twice", "chaos", 178619823,
        "a standby knew from the leader's server that it is on timeline 3 while its member key still said 2: timeline_grew asked "
        "for the comparison again in the same heartbeat; now it is asked for once in a heartbeat",
        (Fault(43.0, "store-cut", "leader", 60.0, {"way": "out"}, awaits="starting"),
         Fault(115.95, "freeze", "leader", 20.0), Fault(116.0, "slow-query", "leader", 30.0, {"value": 0.3}))),
    Regression(
        "a leader ahead of its member key judged twice", "slots", 178619835,
        "the same with the comparison already open at the beginning of the heartbeat: it was judged, opened and judged again",
        (Fault(60.0, "store-cut", "leader", 40.0, {"way": "out"}), Fault(72.39, "end-agent", "other 1", 15.0),
         Fault(74.39, "hang", "other 1", 4.0, {"killable": True}), Fault(77.0, "split", "half 3", 60.0, {"store": "there"}),
         Fault(89.0, "store-loss", "sync 1", 30.0, {"share": 0.3, "way": "out"}, awaits="stopping"))),
    Regression(
        "a killed standby believed its pg_control", "cascade", 1014,
        "a diverged standby that lost power was judged by a minimum recovery point from long before, replayed past the switch "
        "point, never streamed and was never compared again; now a running standby that has replayed too much is",
        (Fault(490.0, "crash", "leader"), Fault(660.0, "freeze-agent", "leader", 25.0),
         Fault(660.0, "freeze", "leader", 7.5, awaits="new-leader"),
         Fault(672.0, "power-loss", "replica 2", 0.5, awaits="rewinding"), Fault(672.18, "stream-cut", "replica 1", 1.0))),
    Regression(
        "a primary that ended while the candidates were cut off", "standby_cluster", 178619835,
        "their cards had ended by the time its server was down, so it took itself for alone and left a free lock, which the "
        "first one back took without acknowledged commits that the other had; now the lock is left to its lease",
        (Fault(276.6, "end-agent", "replica 1", 60.0), Fault(276.7, "switchover"), Fault(559.68, "freeze", "sync 1", 15.0),
         Fault(560.0, "end-agent", "leader", 20.0), Fault(560.0, "partition", "replica 2", 15.0))),
    Regression(
        "a primary that ended after the others' cards", "cascade", 5,
        "the same with both cut off for longer: the free lock was taken while the primary's agent was being restarted",
        (Fault(500.0, "partition", "replica 1", 40.0), Fault(500.0, "partition", "replica 2", 40.0),
         Fault(528.0, "end-agent", "leader", 20.0))),
    Regression(
        "a wipe while the primary's agent stood still", "chaos", 954076466,
        "the wipe took the lock of a primary that could not be asked, and a standby was promoted beside it; now it is given ttl",
        (Fault(30.69, "freeze-agent", "leader", 3.75), Fault(31.0, "store-wipe"))),
    Regression(
        "a candidate whose watchdog broke during the switchover", "watchdog", 365873401,
        "named, it took the lock and gave it back every few milliseconds, and whoever raced against it lost to nobody twice in a "
        "heartbeat; now it stands back, and whoever loses a race does not race again in the same heartbeat",
        (Fault(29.0, "hung-stop", "other 1", 0.47), Fault(34.0, "switchover", awaits="verify"),
         Fault(46.0, "watchdog-breaks", "replica 1", 1.0, awaits="checkpoint"))),
    Regression(
        "a wipe during a promotion", "store", 365873410,
        "it took the lock of a node that was being promoted; another was elected while its server went on to accept writes; "
        "now a node says that it is being promoted, and the others wait until it has stopped",
        (Fault(37.0, "store-cut", "leader", 7.5, {"way": "out"}), Fault(38.0, "store-wipe", awaits="promoting"))),
    Regression(
        "a standby whose agent had not seen its server yet", "drift", 566825414,
        "a mistake of the checker: the old primary, a standby again, waited for the store before it could say where it is, and a "
        "standby that was behind took the lock, as it may without synchronous mode; now only who has looked counts",
        (Fault(225.0, "store-cut", "leader", 30.0, {"way": "both"}), Fault(225.0, "stream-cut", "leader", 30.0))),
    Regression(
        "a rewind in maintenance mode", "pause", 662850067,
        "a mistake of the checker: a diverged standby that came back in maintenance mode was stopped to be rewound, as it must",
        (Fault(399.0, "partition", "leader", 60.0, awaits="stopping"), Fault(448.0, "pause", "all", 60.0))),
    Regression(
        "a machine frozen while it had no power", "chaos", 178619877,
        "a mistake of the simulation: its server stood still for ever once the power was back; now the thaw lets it go on",
        (Fault(272.0, "power-loss", "leader", 40.0), Fault(272.0, "freeze", "leader", 0.5, awaits="checkpoint"),
         Fault(273.0, "power-loss", "replica 1", 30.0))),
    Regression(
        "a crash while the store takes no writes", "watchdog", 114864963,
        "the primary crashed and its lock could not be renewed: nobody was going to start it, yet the watchdog was kept as for a "
        "restart and reset the machine; now it is stopped",
        (Fault(533.35, "end-agent", "leader", 0.31), Fault(535.0, "store-read-only", "all", 15.0),
         Fault(537.0, "crash", "leader"))),
    Regression(
        "waiting for one that may not lead", "chaos", 824526831,
        "the old primary had more WAL but was not in /failsafe when it came back: it might not lead, and those who might waited "
        "for it, for ever; now it may lead once all who are named answer that they do not"),
    Regression(
        "a session lost while the primary is started again", "consul", 462413336,
        "the old primary was being started again in place, its lock proven, when its session was destroyed: it was not asked "
        "what it counts on, and another was promoted beside it; now a primary that is starting counts too"),
    Regression(
        "no answer to the configuration of a new cluster", "bootstrap", 462413503,
        "the new primary had its lock and clients wrote, when the write of /config went unanswered: the bootstrap counted as "
        "failed and the data were set aside; now the lock comes after /config, and nothing after the lock undoes the cluster"),
    Regression(
        "a thawed primary that /failsafe does not name", "watchdog", 462413481,
        "it had been replaced while it stood still; the new primary went on without the store, the members' word behind it, and "
        "the old one took the free lock back as a running primary; now it asks those whom the key names"),
    Regression(
        "what a crashed primary wrote while it recovered", "failsafe", 817137370,
        "the old primary stood frozen when the lock was taken, and came back as a standby before a slow promotion was done: the "
        "checker compared the record of its recovery; now it counts standbys that could be asked at that moment"),
    Regression(
        "a failover by hand while the primary is started again", "chaos", 492641294,
        "the crashed primary was writable once more before it made way for the one that the operator had named: the checker took "
        "the order for carried out; now it waits for the promotion while the request stands"),
)
