"""Tries to load every installed plugin, each in a child process, so that one that crashes or hangs harms nobody.

Used by ``pgcore plugins`` only; never by the daemon. ``python -m pgcore.plugin_probe NAME`` is the child's side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from pgcore.registry import PluginRow, PluginState, Registry, hooks_of, inspect_entries, row

PROBE_TIMEOUT_S = 30.0
"""Importing a client library takes half a second; on a busy machine several."""


def probe(timeout_s: float = PROBE_TIMEOUT_S) -> list[PluginRow]:
    """What would become of each installed plugin if the configuration named it: ``available``, ``refused`` or ``failed``."""
    registry = Registry()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda name: _probe(registry, name, timeout_s), registry.names))


def _probe(registry: Registry, name: str, timeout_s: float) -> PluginRow:
    entries = registry.entries(name)
    try:
        child = subprocess.run([sys.executable, "-P", "-m", "pgcore.plugin_probe", name], stdin=subprocess.DEVNULL,
                               capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return row(name, entries, PluginState.FAILED, f"its import did not end within {timeout_s:g} s")
    try:
        # The plugin may print while it is imported: the verdict is the last line.
        verdict = json.loads(child.stdout.splitlines()[-1])
        return row(name, entries, PluginState(verdict["state"]), verdict["reason"], tuple(verdict["hooks"]))
    except (IndexError, ValueError, KeyError, TypeError):
        ended = f"was killed by signal {-child.returncode}" if child.returncode < 0 else f"exited with {child.returncode}"
        last = child.stderr.strip().splitlines()[-1:]
        return row(name, entries, PluginState.FAILED, f"the process importing it {ended}" + "".join(f": {line}" for line in last))


def main(name: str) -> None:
    """Load one plugin here and print the verdict as a line of JSON."""
    module, problem = inspect_entries(name, Registry().entries(name))
    state, reason = problem or (PluginState.AVAILABLE, "")
    hooks = () if problem else hooks_of(module)
    sys.stdout.write("\n" + json.dumps({"state": state, "reason": reason, "hooks": hooks}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # threads that a plugin left behind must not hold the listing up


if __name__ == "__main__":
    main(sys.argv[1])
