"""Slots while the store is away: they follow what the leader told and what members answered. (HA rules 9, 21)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcore.decide import slots
from pgcore.model.actions import ChangeSlots, ServeSlots
from pgcore.model.basics import Lsn
from pgcore.model.node import Slot
from pgcore.model.settings import PermanentSlot
from pgcore.testing.builders import member, primary, standby, view, world
from rules.cases import Case, case, nothing
from rules.test_failsafe import ALL, accepted, away
from rules.test_slots import CASCADE, B, idle, physical

CASCADE_BEHIND = view(
    "a", member("a", role="primary"), member("b"), member("c", tags={"replicatefrom": "b"}, xlog_location=Lsn(900))
)

CASES = (
    case(
        "a member streams from another standby: its idle slot follows what it answered (EC 34)",
        away(
            primary(slots=(Slot("b", True, True, Lsn(900)), Slot("c", True, False, Lsn(500)))),
            failsafe_answers=ALL,
            failsafe_positions={"b": Lsn(950), "c": Lsn(980)},
            old_cluster=view(
                "a", member("a", role="primary"), member("b"), member("c", tags={"replicatefrom": "b"}, xlog_location=Lsn(900))
            ),
        ),
        "store_lost.advance_slots",
        ChangeSlots(advance={"c": Lsn(980)}),
    ),
    nothing(
        "once in a beat (EC 34)",
        away(
            primary(slots=(Slot("c", True, False, Lsn(500)),)),
            failsafe_answers=ALL,
            failsafe_positions={"c": Lsn(980)},
            slots_done=True,
        ),
        "store_lost.members_agree",
    ),
    case(
        "a standby's idle copy of a slot follows what the primary told, as far as it has replayed",
        away(
            standby(slots=(Slot("b", True, False, Lsn(500)), Slot("c", True, False, Lsn(500)))),
            0,
            failsafe=accepted(),
            old_cluster=view("c"),
        ),
        "store_lost.advance_copies",
        ChangeSlots(advance={"c": Lsn(1000)}),
    ),
    case(
        "so does its logical one, beside the heartbeat; nothing is copied",
        away(
            standby(slots=(Slot("cdc", False, False, Lsn(500), Lsn(500), "pgoutput", "shop"),)),
            0,
            failsafe=replace(accepted(), slots={"cdc": Lsn(900), "absent": Lsn(900)}),
            old_cluster=view("c"),
            permanent_slots=(PermanentSlot("absent", "shop", "pgoutput"), PermanentSlot("cdc", "shop", "pgoutput")),
        ),
        "store_lost.advance_copies",
        ServeSlots(advance=((PermanentSlot("cdc", "shop", "pgoutput"), Lsn(900)),)),
    ),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_slots_in_an_outage(each: Case) -> None:
    each.check()


def test_in_an_outage_slots_move_by_what_the_leader_told_and_what_members_answered() -> None:
    """The primary, without a store, moves c's slot by the position c answered; c replicates from b (EC 34)."""
    lost = slots.view_in_failsafe(CASCADE, "a", {}, {"c": Lsn(970)})
    at = world(primary(slots=(B, physical("c", 950), physical("x"))), lost, slots=idle("x", 9999))
    assert slots.changes(at) == ChangeSlots(advance={"c": Lsn(970)})
    told_by_leader = slots.view_in_failsafe(view(None), "b", {"c": Lsn(930)}, {})
    at = world(standby(slots=(B, physical("c", 900), physical("x"))), told_by_leader, slots=idle("x", 9999))
    assert slots.changes(at) == ChangeSlots(advance={"c": Lsn(930)})
