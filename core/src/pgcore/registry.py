"""Finds, activates and calls plugins; nothing else in pgcore calls a hook.

Listing reads the metadata of installed distributions and imports nothing. Only plugins that the configuration names are
imported. A plugin is a guest: whatever it raises is caught here, attributed to it, logged and counted, and never reaches
another plugin. Probing installed plugins for ``pgcore plugins`` happens in child processes (``pgcore.plugin_probe``).
"""

from __future__ import annotations

import difflib
import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from pgcore import API_LEVEL, threads
from pgcore.clock import Deadline, now
from pgcore.errors import PluginError
from pgcore.hookspecs import (
    PROJECT,
    SPECS,
    BootstrapMethod,
    ConfigSection,
    GateRequest,
    ReplicaMethod,
    RestRequest,
    RestResponse,
    Route,
    Sample,
    StoreBackend,
    Veto,
)
from pgcore.mpp import MppHandler

if TYPE_CHECKING:
    from pgcore.daemon.board import Status

log = logging.getLogger(__name__)

GROUP = "pgcore"
"""The entry-point group. The name of an entry is the word used in the configuration."""
CLI_GROUP = "pgcore.cli"
"""The group of commands. The name of an entry is the word typed after ``pgcore``."""

BUILTINS = ("barman", "basebackup", "bootstrap_command", "callback_command", "initdb", "pgbackrest", "replica_command",
            "wal_e", "wal_g")
"""Plugins inside the distribution ``pgcore``: registered first, so that every other plugin is asked before them."""

GATE_GRACE_S = 1.0
"""A gate that kills its own script at the end of its time can still say so."""

SAMPLES_S = 1.0
"""What plugins may take for their part of one scrape."""

_DISTRIBUTIONS = {
    "etcd": "pgcore-dcs-etcd", "etcd3": "pgcore-dcs-etcd", "consul": "pgcore-dcs-consul", "zookeeper": "pgcore-dcs-zookeeper",
    "exhibitor": "pgcore-dcs-zookeeper", "kubernetes": "pgcore-dcs-kubernetes", "raft": "pgcore-dcs-raft",
    "aws": "pgcore-callbacks-aws",
}
_AT_START = frozenset({
    "pgcore_stores", "pgcore_replica_methods", "pgcore_bootstrap_methods", "pgcore_config_sections", "pgcore_rest_routes",
    "pgcore_mpp_handlers", "pgcore_cli_commands",
})


class PluginState(StrEnum):
    """What became of an installed plugin."""

    AVAILABLE = "available"
    """Installed; not named in the configuration, so not imported."""
    ACTIVE = "active"
    REFUSED = "refused"
    """Not used on purpose: blocked, another API level, an unknown hook, a wrong signature, a name claimed twice."""
    FAILED = "failed"
    """Could not be imported."""


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One line of ``pgcore plugins``. ``reason`` says why a plugin is refused or failed, for an operator."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    state: PluginState
    reason: str = ""


def cure(name: str) -> str:
    """What to do about a plugin that is not installed, or the empty string if pgcore knows no distribution for it."""
    return f"pip install {_DISTRIBUTIONS[name]}" if name in _DISTRIBUTIONS else ""


@dataclass(frozen=True, slots=True)
class OwnedRoute:
    """A route of a plugin. ``run`` calls its handler and raises PluginError, told and counted, for whatever that raises."""

    plugin: str
    route: Route
    run: Callable[[RestRequest, Status], RestResponse]


class Registry:
    """The installed plugins of a group and those among them that this process uses.

    ``block`` holds names that are never imported, whatever else the configuration says (``plugins.block``).
    """

    def __init__(self, block: Iterable[str] = (), group: str = GROUP) -> None:
        self._blocked = frozenset(block)
        self._entries = _installed(group)
        self._manager = _new_manager()
        self._problems: dict[str, tuple[PluginState, str]] = {}
        self._modules: dict[str, object] = {}
        self._last_good: dict[tuple[str, str], Any] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._sampling: dict[str, Future[tuple[Sample, ...]]] = {}
        self._lock = threading.Lock()

    # -- finding and activating ----------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Every installed name, sorted. Reads metadata only."""
        return tuple(sorted(self._entries))

    def activate(self, names: Iterable[str]) -> None:
        """Import and register these plugins: built-ins first, then by name. Blocked names are passed over.

        Call it once with all names, as the order of registration is the order of calls. Raises PluginError for a name that is
        not installed, with its cure, and for one that cannot be used, with the reason. Plugins not named are not touched.
        """
        for name in sorted(set(names), key=lambda name: (name not in BUILTINS, name)):
            if name in self._blocked:
                log.warning("plugin %s is named in the configuration but blocked by plugins.block: not used", name)
            elif name not in self._modules:
                self._activate(name)

    def _activate(self, name: str) -> None:
        if name not in self._entries:
            raise PluginError(name, "is not installed", cure(name) or self._nearest(name))
        module, problem = inspect_entries(name, self._entries[name])
        if problem is not None:
            self._problems[name] = problem
            state, reason = problem
            raise PluginError(name, f"is {state} and cannot be used: {reason}", _repair(self._entries[name][0], state))
        self._modules[name] = module
        if not self._manager.is_registered(module):  # one module may serve several names: etcd and etcd3
            self._manager.register(module, name)

    def _nearest(self, name: str) -> str:
        guess = "".join(f"did you mean {near}? " for near in difflib.get_close_matches(name, self._entries, n=1))
        return f"{guess}installed: {', '.join(self.names) or 'none'}"

    # -- calling ----------------------------------------------------------------------------------------------------------

    def collect(self, hook: str, **arguments: Any) -> dict[str, Any]:
        """What each plugin contributes, by plugin name; iterables come back as tuples, mappings as dicts.

        For hooks of the start a failure raises PluginError with plugin and hook. For the others the plugin's last good value is
        used (none if there was none yet) and the failure logged and counted.
        """
        contributions = {}
        for plugin, call in self._calls(hook, arguments):
            try:
                value = _settled(call())
            except (Exception, SystemExit) as error:
                if hook in _AT_START:
                    raise PluginError(plugin, f"failed in {hook}: {_told(error)}", "mend, upgrade or block it") from error
                self._failed(plugin, hook, error)
                value = self._last_good.get((plugin, hook))
            else:
                self._last_good[plugin, hook] = value
            if value is not None:
                contributions[plugin] = value
        return contributions

    def tell(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin, each alone; failures are logged and counted. The caller's lane enforces the deadline."""
        for plugin, call in self._calls(hook, arguments):
            try:
                call()
            except (Exception, SystemExit) as error:  # sys.exit in a plugin must not end the lane
                self._failed(plugin, hook, error)

    def ask(self, hook: str, *, request: GateRequest) -> list[Veto]:
        """Ask every gate. A veto, a failure, a strange answer or silence is a no; an empty list means yes.

        A gate limits itself to ``request.timeout`` seconds. Each runs in a thread of its own, abandoned a second after that.
        """
        vetoes = []
        for plugin, call in self._calls(hook, {"request": request}):
            veto = self._asked(plugin, hook, call, request)
            if veto is not None:
                vetoes.append(veto)
        return vetoes

    def _asked(self, plugin: str, hook: str, call: Callable[[], Any], request: GateRequest) -> Veto | None:
        answers: list[Veto | None] = []

        def gate() -> None:
            try:
                answer = call()
                good = answer is None or isinstance(answer, Veto)
                answers.append(answer if good else Veto(f"plugin {plugin} answered {answer!r} instead of a Veto or None"))
            except BaseException as error:  # a SystemExit, too, would otherwise end the thread in silence
                self._failed(plugin, hook, error)
                answers.append(Veto(f"plugin {plugin} failed in {hook}: {_told(error)}"))

        thread = threading.Thread(target=gate, name=f"gate-{plugin}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no thread to be had: the question was not asked, so the answer is no
            self._failed(plugin, hook, error)
            return Veto(f"plugin {plugin} could not be asked: {error}")
        timeout = request.timeout + GATE_GRACE_S
        end = now() + timeout
        while thread.is_alive() and (left := end - now()) > 0:
            if request.cancelled():
                thread.join(GATE_GRACE_S)  # it may kill its script and say so
                return answers[0] if answers else Veto(f"plugin {plugin} was still asked when the question became pointless")
            thread.join(min(left, 0.1))
        if not answers:
            self._failed(plugin, hook, TimeoutError(f"no answer within {timeout:g} s"))
            return Veto(f"plugin {plugin} gave no answer to {hook} within {timeout:g} s")
        return answers[0]

    def _calls(self, hook: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The implementations in pluggy's order (last registered first), each bound to the arguments it names."""
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            named = {name: arguments[name] for name in implementation.argnames if name in arguments}
            yield implementation.plugin_name, functools.partial(implementation.function, **named)

    def _failed(self, plugin: str, hook: str, error: BaseException) -> None:
        with self._lock:
            self._failures[plugin, hook] += 1
            count = self._failures[plugin, hook]
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th … time: visible, without drowning the log
            log.error("plugin %s failed in %s (failure %d): %s", plugin, hook, count, _told(error))

    def refuse(self, plugin: str, hook: str, problem: str) -> None:
        """What it contributed cannot be used."""
        self._failed(plugin, hook, ValueError(problem))

    @property
    def failures(self) -> dict[tuple[str, str], int]:
        """How often each (plugin, hook) has failed since the start; published as a metric."""
        with self._lock:
            return dict(self._failures)

    def samples(self, status: Status) -> dict[str, tuple[Sample, ...]]:
        """What each plugin adds to ``/metrics``, by plugin name, after ``SAMPLES_S`` seconds at most.

        Called beside one another, as a scrape must hold no worker. A plugin that fails or is too slow adds its last good value;
        one that has not ended yet is not called a second time.
        """
        deadline, found = Deadline.after(SAMPLES_S), {}
        for plugin, future in [(plugin, self._sample(plugin, call)) for plugin, call in
                               self._calls("pgcore_metrics", {"status": status})]:
            try:
                self._last_good[plugin, "pgcore_metrics"] = future.result(deadline.left())
            except TimeoutError:
                self._failed(plugin, "pgcore_metrics", TimeoutError(f"no answer within {SAMPLES_S:g} s"))
            except (Exception, SystemExit) as error:
                self._failed(plugin, "pgcore_metrics", error)
            found[plugin] = self._last_good.get((plugin, "pgcore_metrics"), ())
        return found

    def _sample(self, plugin: str, call: Callable[[], Any]) -> Future[tuple[Sample, ...]]:
        """The call that runs, or a new one."""
        with self._lock:
            future = self._sampling.get(plugin)
            if future is not None:
                return future
            future = self._sampling[plugin] = threads.future()

        def sample() -> None:
            try:
                found = tuple(call() or ())
                for each in found:
                    if not isinstance(each, Sample):
                        raise TypeError(f"{each!r} is no Sample")
                future.set_result(found)
            except BaseException as error:  # a SystemExit, too: somebody waits for it
                future.set_exception(error)
            finally:
                with self._lock:
                    del self._sampling[plugin]

        try:
            threads.start(f"metrics-{plugin}", sample)
        except RuntimeError as error:  # no thread to be had
            with self._lock:
                del self._sampling[plugin]
            future.set_exception(error)
        return future

    # -- what was contributed -----------------------------------------------------------------------------------------------

    def stores(self) -> dict[str, StoreBackend]:
        """The stores of the active plugins by section name. Raises PluginError if two plugins bring the same one."""
        return self._by_name("pgcore_stores", StoreBackend)

    def sections(self) -> dict[str, type]:
        """The sections that the active plugins read, stores included: name to option dataclass.

        Raises PluginError for what is no section, or has a name that is taken.
        """
        found: dict[str, type] = {name: backend.section for name, backend in self.stores().items()}
        for plugin, contributed in self.collect("pgcore_config_sections").items():
            for section in contributed:
                if not isinstance(section, ConfigSection) or section.name in found:
                    problem = f"pgcore_config_sections brings {section!r}: no ConfigSection, or a name that is taken"
                    raise PluginError(plugin, problem)
                found[section.name] = section.section
        return found

    def store(self, section: str) -> StoreBackend:
        """The store for a section of the configuration. Raises PluginError with the cure if no active plugin brings it."""
        backend = self.stores().get(section)
        if backend is None and section in self._blocked:
            raise PluginError(section, "is blocked by plugins.block", f"take it off the list or remove the section {section}")
        if backend is None:
            raise PluginError(section, f"no active plugin brings a store named {section}", cure(section))
        return backend

    def rest_routes(self) -> tuple[OwnedRoute, ...]:
        """The endpoints of the active plugins. Raises PluginError for what is no route."""
        found = []
        for plugin, routes in self.collect("pgcore_rest_routes").items():
            for route in routes:
                if not isinstance(route, Route):
                    raise PluginError(plugin, f"pgcore_rest_routes brings {route!r}, wanted a Route")
                found.append(OwnedRoute(plugin, route, functools.partial(self._handle, plugin, route)))
        return tuple(found)

    def _handle(self, plugin: str, route: Route, request: RestRequest, status: Status) -> RestResponse:
        named = f"{route.method} {route.path}"
        try:
            answer = route.handler(request, status)
            if not isinstance(answer, RestResponse):
                raise TypeError(f"answered {answer!r} instead of a RestResponse")
            return answer
        except (Exception, SystemExit) as error:
            self._failed(plugin, named, error)
            raise PluginError(plugin, f"failed in {named}: {_told(error)}") from error

    def mpp_handler(self, sections: Mapping[str, object]) -> MppHandler | None:
        """The handler for clusters of clusters that the configuration asks for. Raises PluginError if there are several."""
        collected = self.collect("pgcore_mpp_handlers", sections=sections)
        found = [(plugin, each) for plugin, values in collected.items() for each in values]
        if len(found) > 1:
            raise PluginError(" and ".join(sorted(plugin for plugin, _ in found)),
                              "bring a handler for clusters of clusters each", "block all but one")
        return found[0][1] if found else None

    def replica_methods(self) -> dict[str, ReplicaMethod]:
        """The replica methods of the active plugins by name. Raises PluginError if two plugins bring the same one."""
        return self._by_name("pgcore_replica_methods", ReplicaMethod)

    def bootstrap_methods(self) -> dict[str, BootstrapMethod]:
        """The bootstrap methods of the active plugins by name. Raises PluginError if two plugins bring the same one."""
        return self._by_name("pgcore_bootstrap_methods", BootstrapMethod)

    def _by_name(self, hook: str, kind: type[Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for plugin, values in self.collect(hook).items():
            for value in values:
                if not isinstance(value, kind):
                    raise PluginError(plugin, f"{hook} brings {value!r}, wanted a {kind.__name__}")
                if value.name in found:
                    raise PluginError(plugin, f"{hook} brings {value.name}, which plugin {origin[value.name]} brings too",
                                      f"block one of them: plugins: {{block: [{plugin}]}}")
                found[value.name], origin[value.name] = value, plugin
        return found

    # -- telling ---------------------------------------------------------------------------------------------------------------

    def report(self) -> list[PluginRow]:
        """Every installed plugin as this process knows it. Imports nothing."""
        return [self._row(name) for name in self.names]

    def _row(self, name: str) -> PluginRow:
        if name in self._modules:
            return row(name, self._entries[name], PluginState.ACTIVE, hooks=hooks_of(self._modules[name]))
        if name in self._blocked:
            return row(name, self._entries[name], PluginState.REFUSED, "blocked by plugins.block")
        state, reason = self._problems.get(name, (PluginState.AVAILABLE, ""))
        return row(name, self._entries[name], state, reason)

    def entries(self, name: str) -> tuple[EntryPoint, ...]:
        """The entry points that claim a name: one, unless two distributions are at odds."""
        return self._entries[name]


# -- one plugin at a time, for the registry and for the probe ---------------------------------------------------------------

def inspect_entries(name: str, entries: tuple[EntryPoint, ...]) -> tuple[object, tuple[PluginState, str] | None]:
    """Import a plugin and check it: (module, None) if it may be used, else (None, (state, reason))."""
    if len(entries) > 1:
        owners = " and ".join(sorted(_owner(entry)[0] for entry in entries))
        return None, (PluginState.REFUSED, f"the name {name} is claimed by {owners}: uninstall all but one")
    try:
        module = entries[0].load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module does at import
        return None, (PluginState.FAILED, _told(error))
    level = getattr(module, "PGCORE_API_LEVEL", API_LEVEL)
    if level != API_LEVEL:
        return None, (PluginState.REFUSED, f"built for API level {level}, this pgcore has API level {API_LEVEL}")
    trial = _new_manager()
    try:
        trial.register(module, name)
        trial.check_pending()
    except pluggy.PluginValidationError as error:
        return None, (PluginState.REFUSED, _one_line(error))
    for caller in trial.get_hookcallers(module) or ():
        if any(each.wrapper or each.hookwrapper for each in caller.get_hookimpls()):
            return None, (PluginState.REFUSED, f"{caller.name} is a wrapper, but plugins are called one by one")
    if not trial.get_hookcallers(module):
        return None, (PluginState.REFUSED, "implements no hook of pgcore")
    return module, None


def hooks_of(module: object) -> tuple[str, ...]:
    """The hooks a checked module implements, sorted."""
    trial = _new_manager()
    trial.register(module)
    return tuple(sorted(caller.name for caller in trial.get_hookcallers(module) or ()))


def row(name: str, entries: tuple[EntryPoint, ...], state: PluginState, reason: str = "",
        hooks: tuple[str, ...] = ()) -> PluginRow:
    """The line of ``pgcore plugins`` for a plugin in this state."""
    distributions, versions = zip(*map(_owner, entries), strict=True)
    return PluginRow(name, ", ".join(distributions), ", ".join(versions), hooks, state, reason)


def _installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    for family in SPECS:
        manager.add_hookspecs(family)
    return manager


def _owner(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("unknown", "")


def _repair(entry: EntryPoint, state: PluginState) -> str:
    owner, _ = _owner(entry)
    if state is PluginState.FAILED:
        return f"pip install --force-reinstall {owner}" + (", or remove its section" if entry.group == GROUP else "")
    return f"install versions of {owner} and pgcore that fit together; pgcore plugins lists them"


def _settled(value: Any) -> Any:
    """A generator may fail while it is consumed: consume it where the failure can still be attributed."""
    if value is None:
        return None
    return dict(value) if isinstance(value, Mapping) else tuple(value)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
