"""Tries to load every installed plugin, each in a child process, so that one that crashes or hangs harms nobody.

Used by ``pgcore plugins`` only; never by the daemon. ``python -m pgcore.plugin_probe GROUP NAME`` is the child's side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pgcore.errors import PluginError
from pgcore.registry import CLI_GROUP, PluginRow, PluginState, Registry, hooks_of, inspect_entries, row

PROBE_TIMEOUT_S = 30.0
"""Importing a client library takes half a second; on a busy machine several."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What one import of a plugin showed. ``seconds`` and ``libraries`` are those beyond what pgcore itself imports.

    ``brings`` names what it contributes by kind (``store my_store``); ``problem`` says what of that cannot be used.
    """

    row: PluginRow
    seconds: float = 0.0
    libraries: tuple[str, ...] = ()
    brings: tuple[str, ...] = ()
    problem: str = ""


def probe(timeout_s: float = PROBE_TIMEOUT_S) -> list[PluginRow]:
    """What would become of each installed plugin if the configuration named it: ``available``, ``refused`` or ``failed``."""
    registry = Registry()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return [each.row for each in pool.map(lambda name: probe_one(registry, name, timeout_s), registry.names)]


def probe_one(registry: Registry, name: str, timeout_s: float = PROBE_TIMEOUT_S) -> Probed:
    """Import an installed plugin of the registry's group, once, in a process of its own."""
    entries = registry.entries(name)
    argv = [sys.executable, "-P", "-m", "pgcore.plugin_probe", entries[0].group, name]
    try:
        child = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                               timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return Probed(row(name, entries, PluginState.FAILED, f"its import did not end within {timeout_s:g} s"))
    try:
        # The plugin may print while it is imported: the verdict is the last line.
        verdict = json.loads(child.stdout.splitlines()[-1])
        shown = row(name, entries, PluginState(verdict["state"]), verdict["reason"], tuple(verdict["hooks"]))
        return Probed(shown, verdict["seconds"], tuple(verdict["libraries"]), tuple(verdict["brings"]), verdict["problem"])
    except (IndexError, ValueError, KeyError, TypeError):
        ended = f"was killed by signal {-child.returncode}" if child.returncode < 0 else f"exited with {child.returncode}"
        last = child.stderr.strip().splitlines()[-1:]
        reason = f"the process importing it {ended}" + "".join(f": {line}" for line in last)
        return Probed(row(name, entries, PluginState.FAILED, reason))


def main(group: str, name: str) -> None:
    """Load one plugin here and print the verdict as a line of JSON."""
    import pgcore.plugin  # noqa: F401 - what every plugin imports is not its own weight

    registry = Registry(group=group)
    entries = registry.entries(name)
    before, began = set(sys.modules), time.perf_counter()
    module, problem = inspect_entries(name, entries)
    seconds = time.perf_counter() - began
    libraries = _libraries(set(sys.modules) - before, own={entry.module.partition(".")[0] for entry in entries})
    state, reason = problem or (PluginState.AVAILABLE, "")
    hooks = () if problem else hooks_of(module)
    brings, unusable = ((), "") if problem else _contributions(registry, group, name)
    sys.stdout.write("\n" + json.dumps({"state": state, "reason": reason, "hooks": hooks, "seconds": seconds,
                                        "libraries": libraries, "brings": brings, "problem": unusable}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # threads that a plugin left behind must not hold the listing up


def _libraries(modules: Iterable[str], own: set[str]) -> list[str]:
    packages = {each.partition(".")[0] for each in modules if getattr(sys.modules[each], "__file__", None)}
    return sorted(each for each in packages - own - sys.stdlib_module_names if not each.startswith(("pgcore", "_")))


def _contributions(registry: Registry, group: str, name: str) -> tuple[tuple[str, ...], str]:
    """What the hooks of the start bring, or the reason why an agent with this plugin would not start."""
    try:
        registry.activate([name])
        if group == CLI_GROUP:
            commands = registry.collect("pgcore_cli_commands").get(name, ())
            named = [str(getattr(command, "name", command)) for command in commands]
            problem = "" if name in named else f"pgcore_cli_commands brings no command {name}, which its entry point promises"
            return tuple(f"command {each}" for each in named), problem
        stores = registry.stores()
        found = [f"store {each}" for each in stores]
        found += [f"section {each}" for each in registry.sections() if each not in stores]
        found += [f"replica method {each}" for each in registry.replica_methods()]
        found += [f"bootstrap method {each}" for each in registry.bootstrap_methods()]
        found += [f"endpoint {each.route.method} {each.route.path}" for each in registry.rest_routes()]
        return tuple(found), ""
    except PluginError as error:
        return (), str(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
