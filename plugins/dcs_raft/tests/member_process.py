"""A member in a process of its own, for tests that kill or stop it: a JSON array [verb, seconds] per line in, an answer out."""

from __future__ import annotations

import json
import sys
from typing import Any

from pgcore.plugin import ANYTHING, Deadline, Key, StoreRejectedError, StoreRequest, StoreUnavailableError, Timing
from pgcore_dcs_raft.membership import VOTERS
from pgcore_dcs_raft.plugin import RaftSection, open_store


def main() -> None:
    """Open the store described in argv and serve verbs until the end of input."""
    described = json.loads(sys.argv[1])
    section = RaftSection(**described["section"] | {"partner_addrs": tuple(described["section"]["partner_addrs"])})
    store: Any = open_store(StoreRequest(section, "/service/demo", described["member"], Timing(**described["timing"])))
    verbs = {
        "acquire": lambda until: store.acquire(force=False, deadline=until),
        "renew": lambda until: store.renew({}, deadline=until).value,
        "announce": lambda until: store.announce("card", deadline=until),
        "put": lambda until: store.put(Key.STATUS, "1", expect=ANYTHING, deadline=until).version,
        "read": lambda until: {k: r.value for k, r in store.read(fresh=False, deadline=until).records.items()},
        "fresh": lambda until: {k: r.value for k, r in store.read(fresh=True, deadline=until).records.items()},
        "registered": lambda until: len(store._node.machine.entries(VOTERS)),
        "term": lambda until: store._node._raft.raftCurrentTerm,
        "leads": lambda until: store._node._raft._isLeader(),
    }
    for line in sys.stdin:
        verb, seconds = json.loads(line)
        try:
            answer = verbs[verb](Deadline.after(seconds))
        except StoreUnavailableError:
            answer = "unavailable"
        except StoreRejectedError as error:
            answer = f"rejected: {error}"
        print(json.dumps(answer), flush=True)
    store.close()


main()
