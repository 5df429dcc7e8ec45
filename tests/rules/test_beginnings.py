"""Data directories that are empty, strange, or being made. (HA rules 6, 7)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide import MAIN, decide
from pgcore.decide.upstream import LAG_STEP, clone_source
from pgcore.model.actions import (
    AcquireLease,
    Bootstrap,
    BootstrapPhase,
    CancelTask,
    ClaimInitialize,
    Clone,
    DropInitialize,
    EndProcedure,
    EnterBootstrap,
    Exit,
    PostBootstrap,
    ReleaseLease,
    SetAsideDataDir,
    SetRole,
    StopMode,
    StopServer,
    WriteConfig,
    WriteInitialize,
)
from pgcore.model.basics import Instant, Lsn, Role, State, Tags
from pgcore.model.cluster import ClusterView, Member
from pgcore.model.decision import Then
from pgcore.model.node import DataDir, NodeView, TaskKind
from pgcore.model.world import Bootstrapping, World
from pgcore.testing.builders import (
    END,
    NOW,
    OTHER_SYSTEM,
    SYSTEM,
    did,
    doing,
    down,
    empty,
    member,
    primary,
    silent,
    standby,
    upstream,
    view,
    world,
)
from rules.cases import Case, case, nothing

MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
NOTHING = ClusterView()
CLAIMED = ClusterView(initialize="", initialize_version="3")
GONE = empty(running=True)

NO_DATA = (
    case(
        "the data directory vanished under a running primary with the lock (EC 11)",
        world(GONE, MINE),
        "no_data.orphan",
        SetRole(Role.UNINITIALIZED),
        StopServer(StopMode.IMMEDIATE, 10),
        then=Then.END,
    ),
    case(
        "the lock names a node without data: give it back, clone later (EC 14)",
        world(empty(), MINE),
        "no_data.give_lock_back",
        SetRole(Role.UNINITIALIZED),
        ReleaseLease(),
        then=Then.END,
    ),
    case(
        "the holder's directory cannot be read (EC 12)",
        world(empty(DataDir.UNREADABLE), MINE),
        "no_data.give_lock_back",
        SetRole,
        ReleaseLease(),
    ),
    nothing(
        "the directory cannot be read: touch nothing (EC 12, 179)",
        world(empty(DataDir.UNREADABLE), NOTHING, has_bootstrap=True),
        "no_data.unreadable",
    ),
    nothing("nothing is created in maintenance mode", world(empty(), B_LEADS, paused=True), "no_data.paused"),
    nothing(
        "all methods failed a moment ago (EC 180)", world(empty(), B_LEADS, failed_at=Instant(NOW - 1)), "no_data.failed_recently"
    ),
    case(
        "no cluster exists",
        world(empty(), NOTHING, has_bootstrap=True),
        "no_data.claim",
        ClaimInitialize(),
        EnterBootstrap(BootstrapPhase.CREATE),
        Bootstrap(),
    ),
    nothing(
        "no cluster exists, and this node may not lead",
        world(empty(), NOTHING, has_bootstrap=True, tags=Tags({"nofailover": True})),
        "no_data.wait",
    ),
    nothing("no cluster exists and there is no bootstrap section", world(empty(), NOTHING), "no_data.wait"),
    case(
        "the agent was killed while it created the cluster: its own claim is taken back (EC 173)",
        world(empty(claim_left="3"), CLAIMED, has_bootstrap=True),
        "no_data.free_own_claim",
        DropInitialize("3"),
        then=Then.END,
    ),
    nothing(
        "somebody else has claimed it since: not mine to take back (EC 172)",
        world(empty(claim_left="2"), CLAIMED, has_bootstrap=True),
        "no_data.wait",
    ),
    case(
        "what was left of a copy is made anew, whatever it was claimed for",
        world(empty(claim_left="3"), B_LEADS),
        "no_data.clone",
        SetRole(Role.UNINITIALIZED),
        Clone(upstream("b")),
        then=Then.END,
    ),
    nothing("another node is creating the cluster (EC 172)", world(empty(), CLAIMED, has_bootstrap=True), "no_data.wait"),
    nothing(
        "not even a method without a leader is used meanwhile (EC 172)",
        world(empty(), CLAIMED, leaderless_methods=True),
        "no_data.wait",
    ),
    case(
        "copy from the leader",
        world(empty(), B_LEADS),
        "no_data.clone",
        SetRole(Role.UNINITIALIZED),
        Clone(upstream("b")),
        then=Then.END,
    ),
    case(
        "copy from a willing replica that runs (EC 182)",
        world(
            empty(),
            view(
                "b", member("b"), member("c", tags={"clonefrom": True}), member("d", tags={"clonefrom": True}, state="starting")
            ),
        ),
        "no_data.clone",
        SetRole,
        Clone(upstream("c")),
    ),
    nothing("the leader has no card yet", world(empty(), view("b", member("a"))), "no_data.wait"),
    case(
        "a method works without a leader (EC 183)",
        world(empty(), FREE, leaderless_methods=True),
        "no_data.clone_without_leader",
        Clone(None),
        then=Then.END,
    ),
    nothing("the cluster has no leader to copy from", world(empty(), FREE), "no_data.wait"),
)

IDENTITY = (
    nothing("pg_control cannot be read: no exit (EC 177)", world(down(system_id=None), B_LEADS), "identity.unreadable"),
    nothing("nor is it believed when it says nonsense", world(down(system_id="0"), B_LEADS), "identity.unreadable"),
    case(
        "another cluster's data (EC 176)", world(down(system_id=OTHER_SYSTEM), B_LEADS), "identity.foreign", Exit, then=Then.END
    ),
    case(
        "data replaced in maintenance mode: the holder gives the lock back (EC 193)",
        world(primary(system_id=OTHER_SYSTEM), MINE, paused=True),
        "identity.foreign_paused",
        ReleaseLease(),
        then=Then.END,
    ),
    nothing(
        "another cluster's data in maintenance mode takes no lock (EC 193)",
        world(primary(system_id=OTHER_SYSTEM), FREE, paused=True),
        "identity.foreign_paused",
        then=Then.END,
    ),
    case(
        "a running replica cannot found a cluster: left running (EC 175)",
        world(standby(), NOTHING, managed=False),
        "identity.replica_first",
        Exit,
        then=Then.END,
    ),
    case(
        "a running primary founds it", world(primary(), NOTHING, managed=False), "identity.found", WriteInitialize(SYSTEM, None)
    ),
    case(
        "and replaces an invalid identifier",
        world(primary(), ClusterView(initialize="x", initialize_version="3"), managed=False),
        "identity.found",
        WriteInitialize(SYSTEM, "3"),
    ),
    case(
        "a wiped store is not founded again by a server in charge (EC 15, 17)", world(primary(), NOTHING), "race.primary_takes_it"
    ),
)


def creating(phase: BootstrapPhase, node: NodeView, **facts: Any) -> World:
    """A bootstrap in this phase; /initialize is empty and ours."""
    return world(node, CLAIMED, procedure=Bootstrapping(phase, NOW, CLAIMED.initialize_version), managed=False, **facts)


CREATED, MADE = did(TaskKind.BOOTSTRAP), did(TaskKind.POST_BOOTSTRAP)
CREATE, POST, FAILED = BootstrapPhase.CREATE, BootstrapPhase.POST, BootstrapPhase.FAILED

BOOTSTRAP = (
    case(
        "the agent is asked to end",
        creating(CREATE, doing(TaskKind.BOOTSTRAP, empty()), stopping=True),
        "bootstrap.stopping",
        CancelTask(),
        EnterBootstrap(FAILED),
    ),
    nothing("initdb runs", creating(CREATE, doing(TaskKind.BOOTSTRAP, empty())), "bootstrap.working"),
    case(
        "initdb failed (EC 173)",
        creating(CREATE, empty(), last_result=did(TaskKind.BOOTSTRAP, "no")),
        "bootstrap.failed",
        EnterBootstrap(FAILED),
    ),
    case("the method could not even begin (EC 173)", creating(CREATE, empty()), "bootstrap.failed", EnterBootstrap(FAILED)),
    case(
        "the new server died (EC 173)",
        creating(CREATE, down(Role.PRIMARY, State.CRASHED), last_result=CREATED),
        "bootstrap.failed",
        EnterBootstrap(FAILED),
    ),
    case(
        "the script failed (EC 173)",
        creating(POST, primary(), last_result=did(TaskKind.POST_BOOTSTRAP, "no")),
        "bootstrap.failed",
        EnterBootstrap(FAILED),
    ),
    case(
        "a half-made server is stopped",
        creating(FAILED, primary()),
        "bootstrap.stop_failed_server",
        StopServer(StopMode.IMMEDIATE, 10),
        then=Then.END,
    ),
    case(
        "everything is undone (EC 173)",
        creating(FAILED, down(), last_result=did(TaskKind.STOP)),
        "bootstrap.give_up",
        DropInitialize(CLAIMED.initialize_version or ""),
        SetAsideDataDir(),
        EndProcedure(),
        Exit,
        then=Then.END,
    ),
    nothing(
        "everything is to be undone but the store is away: wait for it, else nobody can create the cluster",
        world(down(), None, procedure=Bootstrapping(FAILED, Instant(NOW - 59), "3"), last_result=did(TaskKind.STOP)),
        "bootstrap.wait_for_store",
    ),
    case(
        "not longer than a minute",
        world(down(), None, procedure=Bootstrapping(FAILED, Instant(NOW - 61), "3"), last_result=did(TaskKind.STOP)),
        "bootstrap.give_up",
        SetAsideDataDir(),
        EndProcedure(),
        Exit,
    ),
    case(
        "/initialize was freed and claimed by another meanwhile: it is left alone",
        world(down(), CLAIMED, procedure=Bootstrapping(FAILED, NOW, "2"), last_result=did(TaskKind.STOP)),
        "bootstrap.give_up",
        SetAsideDataDir(),
        EndProcedure(),
        Exit,
    ),
    case(
        "the users were never made: the result is that of initdb",
        creating(POST, primary(), last_result=CREATED),
        "bootstrap.failed",
        EnterBootstrap(FAILED),
    ),
    nothing("a restored backup recovers", creating(CREATE, standby(), last_result=CREATED), "bootstrap.recovering"),
    case(
        "the new server is a primary",
        creating(CREATE, primary(), last_result=CREATED),
        "bootstrap.create_users",
        SetRole(Role.PRIMARY),
        EnterBootstrap(POST),
        PostBootstrap(),
        then=Then.END,
    ),
    nothing("the script runs", creating(POST, doing(TaskKind.POST_BOOTSTRAP, primary())), "bootstrap.working"),
    case(
        "the cluster is made",
        creating(POST, primary(), last_result=MADE),
        "bootstrap.finish",
        WriteConfig({"ttl": 30}),
        AcquireLease(force=True),
        EndProcedure(),
        WriteInitialize(SYSTEM, "3"),
    ),
    case(
        "the store is away during the bootstrap: it goes on",
        world(doing(TaskKind.BOOTSTRAP, empty()), None, procedure=Bootstrapping(CREATE, NOW)),
        "bootstrap.working",
    ),
    case("the new server is slow to answer", creating(POST, silent(primary()), last_result=MADE), "bootstrap.finish"),
)

CASES: tuple[Case, ...] = NO_DATA + IDENTITY + BOOTSTRAP


@pytest.mark.parametrize("each", CASES, ids=str)
def test_beginnings(each: Case) -> None:
    each.check()


def taking(name: str, source: object) -> Member:
    """A member that is being copied from another."""
    return member(name, state="creating replica", data={"progress": {"action": "clone", "source": source}})


def donor(name: str, behind: int | None = 0) -> Member:
    """A member to copy from."""
    position = None if behind is None else Lsn(END + (1 << 34) - behind)
    return member(name, tags={"clonefrom": True}, xlog_location=position)


@pytest.mark.parametrize(("members", "chosen"), [
    ((donor("m"), donor("n"), taking("x", "m")), {"n"}),
    ((donor("m"), donor("n"), taking("x", "m"), taking("y", "n")), {"m", "n"}),
    ((donor("m"), donor("n"), taking("x", "m"), taking("y", "m"), taking("v", "n")), {"n"}),
    ((donor("m"), donor("n", LAG_STEP)), {"m"}),
    ((donor("m"), donor("n", LAG_STEP - 1)), {"m", "n"}),
    ((donor("m"), donor("n", None)), {"m"}),
    ((donor("m", 5 * LAG_STEP), donor("n"), taking("x", "n")), {"m"}),
    ((donor("m"), taking("x", "m")), {"m"}),
    ((donor("m"), donor("n"), taking("x", "z"), taking("y", None), taking("v", ["m"])), {"m", "n"}),
])
def test_the_least_loaded_of_the_willing_is_copied_from(members: tuple[Member, ...], chosen: set[str]) -> None:
    """Copies that others take count first, then steps of lag; those that are alike are spread."""
    willing = view("z", *members, member("z"), optime=END + (1 << 34))
    assert {clone_source(world(empty(), willing, name=name)).name for name in "abcdefgh"} == chosen


def test_what_my_own_card_still_says_of_the_last_attempt_is_no_load() -> None:
    willing = view("z", donor("m"), donor("n"), taking("a", "m"), taking("b", "n"), member("z"))
    assert clone_source(world(empty(), willing, name="a")).name == "m"
    assert clone_source(world(empty(), willing, name="b")).name == "n"


def test_copies_are_spread_over_the_willing() -> None:
    willing = view("z", *(member(name, tags={"clonefrom": True}) for name in ("m", "n", "o")), member("z"))
    chosen = {case("", world(empty(), willing, name=name), "").decision().actions[1].source.name for name in "abcdefgh"}
    assert chosen == {"m", "n", "o"}


@pytest.mark.parametrize(("cluster", "remedy"), [
    (B_LEADS, "(pgcore reinit)"),
    (FREE, "once somebody leads"),
    (replace(FREE, initialize=""), "empty the directory and delete the empty key /initialize"),
])
def test_what_to_do_with_an_unreadable_data_directory_is_advice_that_works(cluster: ClusterView, remedy: str) -> None:
    """A node that lost power while it created the cluster: nobody leads, so a reinit would be refused."""
    found = decide(MAIN, world(down(system_id=None), cluster))
    assert found is not None and found.rule == "identity.unreadable" and found.because.endswith(remedy)
