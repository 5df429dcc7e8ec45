"""``PATCH`` and ``PUT /config``: what is written, what is refused, and that a merge never loses a configuration. (rest-api 7)"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pgcore.clock import Deadline, now
from pgcore.daemon.board import Board
from pgcore.daemon.config_change import ConfigChange, change_config
from pgcore.daemon.mailbox import ChangeConfig, Mailbox
from pgcore.dcs.store import ANYTHING, Key, Snapshot
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Instant, Timing
from pgcore.model.cluster import ConfigRecord
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from unit.rest_board import call, leader_status, view


class Contended(MemoryStore):
    """Somebody else writes the configuration after each read."""

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        snapshot = super().read(fresh=fresh, deadline=deadline)
        self.put(Key.CONFIG, '{"theirs": 1}', expect=ANYTHING, deadline=deadline)
        return snapshot


def opened(
    kind: type[MemoryStore] = MemoryStore, stored: str | None = '{"ttl": 30, "postgresql": {"use_slots": true}}'
) -> MemoryStore:
    store = kind(MemoryServer(now), "a", Timing())
    if stored is not None:
        store.put(Key.CONFIG, stored, expect=ANYTHING, deadline=Deadline.after(1))
    return store


def changed(store: MemoryStore, document: dict[str, Any], *, merge: bool = True) -> ConfigChange:
    return change_config(store, ChangeConfig(document, merge), Deadline.after(1))


def stored(store: MemoryStore) -> tuple[Any, str]:
    """The document and its version."""
    record = MemoryStore.read(store, fresh=True, deadline=Deadline.after(1)).records[Key.CONFIG]
    return json.loads(record.value), record.version


def test_a_patch_merges_and_null_deletes() -> None:
    store = opened()
    answer = changed(store, {"loop_wait": 5, "ttl": None, "postgresql": {"parameters": {"work_mem": "1MB"}}})
    wanted = {"loop_wait": 5, "postgresql": {"use_slots": True, "parameters": {"work_mem": "1MB"}}}
    assert answer == ConfigChange(wanted)
    assert stored(store)[0] == wanted


def test_nothing_is_written_when_nothing_changes() -> None:
    store = opened()
    version = stored(store)[1]
    assert changed(store, {"ttl": "30", "absent": None}).document["ttl"] == 30
    assert stored(store)[1] == version


@pytest.mark.parametrize("present", [None, "", "[1]", "no json"])
def test_a_patch_without_a_document_is_refused(present: str | None) -> None:
    """The configuration made at the bootstrap must not be replaced by a fragment (EC 225)."""
    store = opened(stored=present)
    assert changed(store, {"ttl": 20}).missing
    left = MemoryStore.read(store, fresh=True, deadline=Deadline.after(1)).records.get(Key.CONFIG)
    assert (left.value if left else None) == present


def test_a_patch_that_lost_a_race_is_not_written() -> None:
    store = opened(Contended)
    assert changed(store, {"ttl": 20}).conflict
    assert stored(store)[0] == {"theirs": 1}


def test_a_put_replaces_whatever_is_there() -> None:
    for store in (opened(), opened(stored=None), opened(Contended)):
        assert changed(store, {"ttl": 20}, merge=False) == ConfigChange({"ttl": 20})
        assert stored(store)[0] == {"ttl": 20}


# -- over HTTP ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rest(board: Board) -> Iterator[tuple[RestServer, Mailbox]]:
    mailbox = Mailbox()
    server = RestServer(RestSettings("127.0.0.1:0"), board, mailbox, lambda seconds: None)
    server.start()
    yield server, mailbox
    server.stop()


@pytest.mark.parametrize(
    ("method", "result", "code"),
    [
        ("PATCH", ConfigChange({"ttl": 20}), 200),
        ("PATCH", ConfigChange(missing=True), 503),
        ("PATCH", ConfigChange(conflict=True), 409),
        ("PATCH", StoreUnavailableError("no answer"), 503),
        ("PUT", ConfigChange({"ttl": 20}), 200),
        ("PUT", StoreUnavailableError("no answer"), 503),
    ],
)
def test_what_became_of_a_change_is_the_answer_and_is_shown_from_then_on(
    rest: tuple[RestServer, Mailbox], board: Board, method: str, result: Any, code: int
) -> None:
    """A missing document refuses a PATCH (EC 225)."""
    server, mailbox = rest

    def heartbeat() -> None:
        _, letters = mailbox.wait(Instant(now() + 10))
        for letter in letters:
            assert letter.request == ChangeConfig({"ttl": 20}, method == "PATCH")
            (letter.reply.set_exception if isinstance(result, Exception) else letter.reply.set_result)(result)
        time.sleep(0.2)  # the beat that reads the change
        board.publish(leader_status(cluster=view(config=ConfigRecord("2", {"ttl": 20}))))

    threading.Thread(target=heartbeat, daemon=True).start()
    reply = call(server.bound[0], method, "/config", '{"ttl": 20}')
    assert reply.code == code
    if code == 200:
        assert (json.loads(reply.body), reply.headers["Content-Type"]) == ({"ttl": 20}, "application/json")
        assert json.loads(call(server.bound[0], "GET", "/config").body) == {"ttl": 20}


@pytest.mark.parametrize("body", ["", "{}", "[]", "no json"])
def test_a_change_needs_an_object(rest: tuple[RestServer, Mailbox], body: str) -> None:
    server, mailbox = rest
    assert call(server.bound[0], "PATCH", "/config", body).code == 400
    assert mailbox.wait(Instant(now())) == ((), ())
