"""Weakened rules that the simulator must catch: one safety condition of pgcore removed or inverted in each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``old`` stands exactly once in ``file`` below core/src/pgcore and becomes ``new``.

    ``hunt``: the profile of ``sim.hunts`` that must catch it within so many ``seeds``, by one of the invariants. ``why``: what
    the weakened rules do.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    hunt: str
    seeds: int
    caught_by: tuple[str, ...]


ONE = "one writable primary"
LEASE = "no lease beyond the store's"
MEMBERS = "no lease beyond what members gave"
LISTED = "/sync lists who has every commit"
KEPT = "acknowledged commits are kept"
COVERED = "/sync covers what is promoted"
VOTES = "a leader has its votes"
ORDERLY = "an orderly switchover loses nothing"
SETTLES = "it settles once faults stop"
BEHIND = "nobody who is behind is promoted"
TAGS = "tags are respected"
PAUSED = "a paused cluster is left alone"
MIXED = "histories are not mixed"
CALM = "no failover while all is well"


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "lease from answer",
        "decide/advance/store.py",
        "began = outcome.began if outcome.began is not None else outcome.at\n    accepted",
        "began = outcome.at\n    accepted",
        "the lease counts from the answer of the store, not from the request",
        "hunt_lease", 20, (LEASE, ONE),
    ),
    Mutant(
        "acquire undecided is won",
        "decide/advance/store.py",
        "    if not outcome.ok:\n"
        "        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)\n"
        "    if outcome.value is not True:",
        "    if outcome.ok and outcome.value is not True:",
        "a lock whose acquisition was not answered is taken for won",
        "hunt_lease", 20, (LEASE, ONE),
    ),
    Mutant(
        "renew undecided is held",
        "decide/advance/store.py",
        "    if not outcome.ok:\n"
        "        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)\n"
        "    lease = LeaseState(str(outcome.value))",
        "    lease = LeaseState(str(outcome.value)) if outcome.ok else LeaseState.HELD",
        "a renewal that was not answered is taken for done",
        "hunt_lease", 20, (LEASE, ONE),
    ),
    Mutant(
        "lease never forgotten",
        "decide/advance/store.py",
        "return _held(world, outcome) if lease is LeaseState.HELD else remember(world, lease_until=None,"
        " failsafe_until=None)",
        "return _held(world, outcome)",
        "a refused renewal leaves the lease proven",
        "hunt_lease", 40, (LEASE, ONE),
    ),
    Mutant(
        "acquire by force",
        "decide/race.py",
        "return act(AcquireLease(proof=proof(w)), because=f\"{healthy}: taking the lock\")",
        "return act(AcquireLease(proof=proof(w), force=True), because=f\"{healthy}: taking the lock\")",
        "the race overwrites another's lock",
        "hunt_freeze", 30, (LEASE, ONE),
    ),
    Mutant(
        "lock read is proven",
        "decide/advance/looks.py",
        "lease = (world.lease if world.lease is LeaseState.HELD else LeaseState.UNRENEWED) if mine else"
        " LeaseState.NONE",
        "lease = LeaseState.HELD if mine else LeaseState.NONE",
        "a lock that names this node when it is read counts as proven, without a renewal",
        "hunt_freeze", 20, (CALM, LEASE, SETTLES),
    ),
    Mutant(
        "initialize unconditional",
        "daemon/perform.py",
        "self._put(Key.INITIALIZE, \"\", ABSENT, world)",
        "self._put(Key.INITIALIZE, \"\", ANYTHING, world)",
        "whoever finds no cluster makes one, also when another is about to",
        "hunt_lease", 5, (ONE, LEASE),
    ),
    Mutant(
        "guard not armed",
        "daemon/agent.py",
        "            self.guard.arm(until, ttl)\n        elif",
        "            pass\n        elif",
        "the guard is not told of the lease",
        "hunt_freeze", 20, (ONE,),
    ),
    Mutant(
        "guard disarmed while promoting",
        "model/world.py",
        "return serving or self.node.is_primary or self.becoming_primary",
        "return (serving or self.node.is_primary) and not self.becoming_primary",
        "the guard is disarmed while a server is being promoted",
        "hunt_promotion", 20, (ONE,),
    ),
    Mutant(
        "restart without lock",
        "decide/down.py",
        "if w.holds and restartable(w) and not w.memory.recovering:",
        "if restartable(w) and not w.memory.recovering:",
        "a crashed primary is started as a primary without the lock",
        "hunt_restart", 30, (ONE,),
    ),
    Mutant(
        "ordered restart unproven",
        "daemon/ordered.py",
        "if needs_lock and (until is None or until - now() < LEAST_LEASE_S):",
        "if False:",
        "a primary restarted by an operator comes up without a look at the lease",
        "hunt_restart", 40, (ONE,),
    ),
    Mutant(
        "race primary alive",
        "decide/race.py",
        "    primary_alive,\n    primary_counts_on_lock,\n",
        "",
        "a standby takes the lock beside a primary that runs",
        "hunt_wipe", 20, (ONE,),
    ),
    Mutant(
        "race nofailover",
        "decide/race.py",
        "    nofailover,\n    unanswering",
        "    unanswering",
        "a node tagged nofailover races",
        "hunt_async_loss", 30, (TAGS,),
    ),
    Mutant(
        "race no peers",
        "decide/race.py",
        "    if w.peers is None and peers:",
        "    if False:",
        "the race asks nobody",
        "hunt_lag", 40, (BEHIND,),
    ),
    Mutant(
        "race peer ahead",
        "decide/race.py",
        "    peer_ahead,\n    peer_may",
        "    peer_may",
        "the race does not compare positions",
        "hunt_lag", 40, (BEHIND,),
    ),
    Mutant(
        "pause demotes",
        "decide/store_lost.py",
        "    paused,\n    failsafe.ask",
        "    failsafe.ask",
        "a primary that loses the store is demoted in maintenance mode too",
        "hunt_pause", 20, (PAUSED,),
    ),
    Mutant(
        "race outside sync",
        "model/cluster.py",
        "return name.lower() in {n.lower() for n in (self.leader or \"\", *self.standbys)}",
        "return True",
        "every node counts as listed in /sync",
        "hunt_sync_loss", 40, (LISTED, KEPT, COVERED),
    ),
    Mutant(
        "race too few votes",
        "decide/race.py",
        "    too_few_votes,\n    acquire",
        "    acquire",
        "votes are not counted",
        "hunt_quorum_loss", 30, (VOTES, LISTED, KEPT),
    ),
    Mutant(
        "votes one less",
        "decide/election.py",
        "needed = max(0, sync.quorum) + (0 if inside else 1)",
        "needed = max(0, sync.quorum - 1) + (0 if inside else 1)",
        "one vote less than the quorum is enough",
        "hunt_quorum_loss", 30, (VOTES, LISTED, KEPT),
    ),
    Mutant(
        "names not before promotion",
        "decide/sync_promotion.py",
        "    names_before_promotion,\n    sync_before",
        "    sync_before",
        "with quorum commit the names are not set before the promotion",
        "hunt_quorum_loss", 30, (LISTED, KEPT),
    ),
    Mutant(
        "sync not moved",
        "decide/sync_promotion.py",
        "    sync_before_promotion,\n    names_not",
        "    names_not",
        "/sync is not moved to the winner before it is promoted",
        "hunt_sync", 20, (LISTED, KEPT),
    ),
    Mutant(
        "heirs not dropped",
        "decide/sync_priority.py",
        "heirs = known if strict and p.sync.quorum == 0 else ()",
        "heirs = known",
        "the winner leaves others in /sync although no commit waits for them",
        "hunt_sync_loss", 20, (LISTED, KEPT),
    ),
    Mutant(
        "sync before confirmed",
        "decide/sync_priority.py",
        "    ready = chosen & p.proven\n",
        "    ready = chosen\n",
        "a standby is listed in /sync before it has everything",
        "hunt_sync_change", 30, (LISTED, KEPT),
    ),
    Mutant(
        "names narrowed first",
        "decide/sync_priority.py",
        "    if stay != listed:\n",
        "    if stay != listed and p.names.same(wanted):\n",
        "commits stop waiting for a standby that /sync still lists",
        "hunt_sync", 20, (LISTED, KEPT),
    ),
    Mutant(
        "reached ignored",
        "decide/sync_candidates.py",
        "return anchor.in_force and candidate.position >= anchor.position",
        "return anchor.in_force",
        "a standby counts as caught up wherever it is",
        "hunt_quorum_change", 40, (LISTED, KEPT),
    ),
    Mutant(
        "quorum unproven",
        "decide/sync_quorum.py",
        "    known = everybody - proven\n",
        "    known = 0\n",
        "with quorum commit members vote without the proof that they have everything",
        "hunt_quorum_change", 40, (LISTED, KEPT),
    ),
    Mutant(
        "quorum count ignored",
        "decide/sync_quorum.py",
        "quorum = max(0, everybody - s.count, min(inherited, known))",
        "quorum = max(0, min(inherited, known))",
        "the quorum is lowered below what the names require",
        "hunt_quorum_change", 40, (LISTED, KEPT),
    ),
    Mutant(
        "quorum gone",
        "decide/sync_quorum.py",
        "    if s.quorum:\n        stay = s.names - _last(gone, s.quorum)\n",
        "    if True:\n        stay = s.names - gone\n",
        "with quorum commit all gone standbys leave the names at once, whatever the quorum can spare",
        "hunt_quorum_change", 20, (LISTED, KEPT),
    ),
    Mutant(
        "failsafe one missing",
        "decide/failsafe.py",
        "all(each.accepted for each in answers.values())",
        "sum(not each.accepted for each in answers.values()) <= 1",
        "in failsafe mode one member may be missing",
        "hunt_failsafe", 20, (MEMBERS, ONE),
    ),
    Mutant(
        "failsafe all but refusers",
        "decide/failsafe.py",
        "all(each.accepted for each in answers.values())",
        "not any(each.refused for each in answers.values())",
        "in failsafe mode silence is consent",
        "hunt_failsafe", 20, (MEMBERS, ONE),
    ),
    Mutant(
        "failsafe lease from answers",
        "decide/advance/failsafe.py",
        "until = outcome.began + world.settings.timing.ttl",
        "until = outcome.at + world.settings.timing.ttl",
        "the members' lease counts from their answers",
        "hunt_failsafe", 40, (MEMBERS, ONE),
    ),
    Mutant(
        "failsafe record short",
        "daemon/failsafe.py",
        "max(standing.ttl, min(_seconds(request.get(\"ttl\")), LONGEST_TTL_S)),",
        "standing.ttl / 2,",
        "a member forgets after half of ttl whom it accepted",
        "hunt_failsafe", 20, (MEMBERS, ONE),
    ),
    Mutant(
        "handover to the mark",
        "decide/demotion.py",
        "return act(EnterPhase(Phase.HANDOVER, Lsn(seen)), because=f\"shut down",
        "return act(EnterPhase(Phase.HANDOVER, demotion_of(w).mark or Lsn(seen)), because=f\"shut down",
        "a candidate needs what was written before the stop, not the end of the shutdown checkpoint",
        "hunt_handover", 40, (ORDERLY,),
    ),
    Mutant(
        "released lease kept",
        "decide/advance/store.py",
        "remember(world, lease_until=None, failsafe_until=None, elected=None, release_undecided=not outcome.ok)",
        "remember(world, release_undecided=not outcome.ok)",
        "a lease that was given back still counts",
        "hunt_handover", 30, (LEASE,),
    ),
    Mutant(
        "diverged is fine",
        "decide/histories.py",
        "    if own.reached > switch:\n",
        "    if False:\n",
        "WAL beyond the switch point is no divergence",
        "hunt_data", 20, (SETTLES, MIXED),
    ),
)
