"""The part of the store kit about what timed out but happened: every answer of every writing verb is lost once."""

from __future__ import annotations

import contextlib

import pytest

from pgcore.dcs.store import ABSENT, ANYTHING, Key, Refused, Renewal, Store, Stored, version
from pgcore.errors import StoreUnavailableError
from pgcore.testing.dcs.base import StoreKit

MOST_REQUESTS = 30
"""No verb needs as many for a scope of three keys."""
UNDECIDED = "undecided"
WRITES = ("put if absent", "put over a version", "put", "delete a version", "delete", "announce", "withdraw", "acquire", "renew",
          "release", "clear")


class LostAnswersContract(StoreKit):
    """Whoever says that nothing was written is right; whoever cannot know says undecided."""

    def prepared(self, store: Store, what: str) -> object:
        """Bring about what this verb is to change. Returns the call of the verb."""
        if what == "put if absent":
            return lambda: store.put(Key.CONFIG, "new", expect=ABSENT, deadline=self.soon)
        if what in ("announce", "acquire"):
            return {"announce": lambda: store.announce("card", deadline=self.soon), "acquire": lambda: self.acquire(store)}[what]
        first = self.put(store, Key.CONFIG, "old")
        store.announce("card", deadline=self.soon)
        assert self.acquire(store)
        return {
            "put over a version": lambda: store.put(Key.CONFIG, "new", expect=version(first), deadline=self.soon),
            "put": lambda: store.put(Key.CONFIG, "new", expect=ANYTHING, deadline=self.soon),
            "delete a version": lambda: store.delete(Key.CONFIG, expect=version(first), deadline=self.soon),
            "delete": lambda: store.delete(Key.CONFIG, expect=ANYTHING, deadline=self.soon),
            "withdraw": lambda: store.withdraw(deadline=self.soon),
            "renew": lambda: self.renew(store),
            "release": lambda: store.release({}, deadline=self.soon),
            "clear": lambda: store.clear(deadline=self.soon),
        }[what]

    def happened(self, witness: Store, what: str) -> bool:
        """Whether the scope shows that the verb was carried out."""
        values = {path: record.value for path, record in witness.read(fresh=True, deadline=self.soon).records.items()}
        return {
            "put": values.get("config") == "new", "delete": "config" not in values, "announce": values.get("members/a") == "card",
            "withdraw": "members/a" not in values, "acquire": values.get("leader") == "a", "renew": values.get("leader") == "a",
            "release": "leader" not in values, "clear": not values,
        }[what.split()[0]]

    @staticmethod
    def outcome(call) -> object:
        """What the verb says."""
        try:
            return call()
        except StoreUnavailableError:
            return UNDECIDED

    @pytest.mark.parametrize("what", WRITES)
    def test_no_lost_answer_makes_a_verb_say_what_is_not_so(self, join, wire, what):
        witness, shown = join("witness", observer=True), []
        for number in range(1, MOST_REQUESTS):
            witness.clear(deadline=self.soon)
            with contextlib.closing(wire.cluster("a", self.timing)) as a:
                call = self.prepared(a, what)
                wire.line.lose(number)
                outcome = self.outcome(call)
                lost = wire.line.lost
                wire.line.lose(0)
                happened = self.happened(witness, what)
                assert outcome == UNDECIDED or happened, f"{what} said {outcome!r}, which is not so (answer {number} was lost)"
                assert outcome != Refused() and outcome not in (False, Renewal.GONE, Renewal.TAKEN), f"{what}: {outcome!r}"
                if isinstance(outcome, Stored) and what.startswith("put"):
                    assert outcome.version == witness.read(fresh=True, deadline=self.soon).records["config"].version
                if what in ("acquire", "announce", "renew"):
                    assert self.outcome(call) in (None, True, Renewal.HELD), f"{what} again"
                    assert self.happened(witness, what), f"{what} again"
            shown.append(happened)
            if not lost:
                break
        else:
            pytest.fail(f"{what} needs {MOST_REQUESTS} requests and more")
        assert any(shown[:-1]), "no answer was lost of a request that was carried out"

    @pytest.mark.parametrize("what", ["put over a version", "delete a version"])
    def test_a_change_that_was_undone_before_its_answer_was_lost_is_not_called_refused(self, join, wire, what):
        b, undone = join("b"), []
        with contextlib.closing(wire.cluster("a", self.timing)) as a:
            call = self.prepared(a, what)

            def undo() -> None:
                undone.append(self.happened(b, what))
                self.put(b, Key.CONFIG, "other")

            wire.line.meanwhile = undo
            wire.line.lose(1)
            outcome = self.outcome(call)
            wire.line.lose(0)
        assert undone and (outcome == UNDECIDED or not undone[0]), f"{what} said {outcome!r}"
        assert self.value(b, "config") == "other"
