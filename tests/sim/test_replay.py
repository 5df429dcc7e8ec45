"""A seed replays bit for bit: in another process, with other hashes of strings, with and without a listener."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from pgcore.testing.simulation.profiles import PROFILES
from pgcore.testing.simulation.run import run
from pgcore.testing.simulation.story import tell

SEED = 7
SCRIPT = f"""
import json, sys
from pgcore.testing.simulation.profiles import PROFILES
from pgcore.testing.simulation.run import run
print(json.dumps({{name: run(name, {SEED}).digest for name in PROFILES}}))
"""


def digests(hash_seed: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "Asia/Kathmandu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True,
                          timeout=200)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_another_process_with_other_hashes_lives_through_the_same() -> None:
    assert digests("1") == digests("4242")


def test_one_process_lives_through_the_same_twice_whatever_ran_before() -> None:
    first = run("chaos", SEED)
    run("sync", SEED)
    assert run("chaos", SEED).digest == first.digest


def test_other_seeds_live_through_something_else() -> None:
    assert len({run(name, seed).digest for name in ("default", "sync") for seed in (1, 2)}) == 4


def test_listening_changes_nothing() -> None:
    for name in ("sync", "operators"):
        told, story = tell(name, SEED)
        assert told.digest == run(name, SEED).digest
        assert any(who == "fault" for _, who, _ in story.lines)


def test_schedules_are_drawn_from_dice_of_their_own() -> None:
    assert all(profile.draw(SEED) == profile.draw(SEED) and profile.draw(SEED) != profile.draw(SEED + 1)
               for profile in PROFILES.values())
