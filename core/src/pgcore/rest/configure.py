"""``PATCH`` and ``PUT /config``: the dynamic configuration, changed through the heartbeat (rest-api 7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError

from pgcore.config.document import equal
from pgcore.daemon.board import Board, Status
from pgcore.daemon.mailbox import ChangeConfig, Mailbox
from pgcore.errors import PgcoreError
from pgcore.model.basics import Json
from pgcore.rest.manage import SHOWN_S, Reply

logger = logging.getLogger(__name__)


class ConfigDoor:
    """Changes the document as asked; its values are checked by the agents that take it over, which refuse a bad one whole."""

    def __init__(self, board: Board, mailbox: Mailbox) -> None:
        self._board, self._mailbox = board, mailbox

    def change(self, document: dict[str, Json], *, merge: bool) -> Reply:
        """Merge into the stored document, or replace it. 200 with the whole document."""
        status = self._board.status
        if status is None or status.cluster is None:
            return Reply(503, "the store did not answer in the last heartbeat", page=True)
        patience = status.timing.retry_timeout + status.timing.loop_wait
        try:
            changed = self._mailbox.ask(ChangeConfig(document, merge)).result(patience)
        except FutureTimeoutError:
            return Reply(503, "the heartbeat did not answer: the change may or may not be written", page=True)
        except PgcoreError as error:
            logger.warning("REST API: changing the configuration failed: %s", error)
            return Reply(503, "the store did not answer: the change may or may not be written", page=True)
        if changed.missing:
            return Reply(503, "there is no valid /config key to merge into; PUT writes a whole document", page=True)
        if changed.conflict:
            return Reply(409, "somebody else has changed the configuration at the same moment: read it and try again", page=True)
        self._board.until(lambda status: equal(_stored(status), changed.document), SHOWN_S)
        return Reply(200, json.dumps(changed.document))


def _stored(status: Status) -> Mapping[str, Json] | None:
    config = status.cluster.config if status.cluster else None
    return config.document if config else None
