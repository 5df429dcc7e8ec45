"""``pgcore run``: compose everything, start the threads, run the agent, end it. (HA rules 5, 27)"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pgcore import __version__, log
from pgcore.clock import Deadline
from pgcore.config.document import equal
from pgcore.config.environment import take_environment
from pgcore.config.load import LocalConfig, Origin, examine, load_local, record_path
from pgcore.config.plugins import blocked_plugins, named_plugins
from pgcore.daemon import systemd, watchdog
from pgcore.daemon.agent import Agent
from pgcore.daemon.board import Board
from pgcore.daemon.callbacks import CallbackLane
from pgcore.daemon.configuration import Configuration
from pgcore.daemon.guard import Guard, GuardError, Prepared
from pgcore.daemon.mailbox import Mailbox
from pgcore.daemon.methods import works_without_leader
from pgcore.daemon.mpp import Mpp, Reach, Tools
from pgcore.daemon.peers import CANDIDATE_S, PeerAccess, Peers, ask_now
from pgcore.daemon.perform import Performer, Ports
from pgcore.daemon.tally import Tally
from pgcore.daemon.tasks import Tasks
from pgcore.daemon.watchers import PostmasterWatch, watch_store
from pgcore.dcs import codec
from pgcore.dcs.shield import ShieldedStore
from pgcore.dcs.store import Store
from pgcore.errors import ConfigError, FatalError, PgcoreError, PluginError, StoreUnavailableError
from pgcore.hookspecs import Facts, StoreBackend, StoreRequest
from pgcore.model.basics import Role, Timing
from pgcore.mpp import MppHandler
from pgcore.postgres import data_dir
from pgcore.postgres.parameters import split_listen
from pgcore.postgres.programs import ProgramRunner
from pgcore.postgres.server import Postgres
from pgcore.record.recorder import Recorder
from pgcore.record.writer import Place
from pgcore.registry import BUILTINS, Registry
from pgcore.rest.manage import Reports
from pgcore.rest.routes import Routes
from pgcore.rest.server import RestServer

if TYPE_CHECKING:
    from pgcore.model import actions

logger = logging.getLogger("pgcore")

_M_ARENA_MAX = -8
UNIQUE_NAME_S = 3.0
STORE_RETRY_S = 5.0
STORE_PATIENCE_S = 1.0
"""A store that has not answered after this is mentioned."""
CALLBACKS_AT_END_S = 10.0
RECORD_AT_END_S = 1.0


def run(path: str | None, prepared: Prepared | None = None) -> int:
    """Run the agent until it ends; the exit code. Errors of configuration and start are printed, not raised."""
    log.configure()
    _one_malloc_arena()
    try:
        return _run(path, prepared)
    except PgcoreError as error:
        print(f"pgcore: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, FatalError) else 1


def _one_malloc_arena() -> None:
    """Sixteen mostly idle threads share one heap instead of having one each. (architecture 11)"""
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (OSError, AttributeError):
        pass  # another C library; the setting only saves memory


def _run(path: str | None, prepared: Prepared | None) -> int:
    notifier = systemd.Notifier(systemd.take_notify_address(os.environ))
    registry, local, backend = load(path)
    configure_log(local)
    for warning in local.warnings:
        logger.warning("%s", warning)
    section = local.plugin_sections[backend.name]
    floor, reason = backend.ttl_floor(section)
    major = data_dir.major_version(local.postgresql.data_dir)
    configuration = Configuration(
        local, floor, major, lambda: _enforced(registry, local), reason, lambda wanted: works_without_leader(registry, wanted)
    )
    refuse_unsupported(configuration)
    handler = registry.mpp_handler(dict(local.plugin_sections) | ({"citus": local.citus} if local.citus is not None else {}))
    if handler is not None and backend.name == "raft":
        problem = "a cluster of several groups cannot use raft, as an agent sees the store of its own group only"
        raise ConfigError(handler.rest_path, problem, "use a store that all groups share, such as etcd3", local.source)
    routes = Routes(registry.rest_routes(), handler.rest_path if handler is not None else "")
    postgres = Postgres(configuration.server)
    check_programs(postgres)
    check_listen(configuration.server.listen)
    guarding = _Guarding(configuration.server.data_dir, prepared)
    threading.stack_size(local.node.thread_stack_size)
    mailbox, board = Mailbox(), Board(local.node.scope, local.node.name)
    stop = _Signals(mailbox, notifier)
    path = local.node.store_path + (f"/{handler.group}" if handler is not None else "")
    request = StoreRequest(section, path, local.node.name, configuration.effective.timing)
    tally = Tally()
    store = ShieldedStore(backend.open(request), tally.request)
    logger.info(
        "pgcore %s: member %s of scope %s, store %s, data directory %s",
        __version__,
        local.node.name,
        local.node.scope,
        backend.name,
        configuration.server.data_dir,
    )
    try:
        if not _store_answers(store, backend, configuration, stop):
            return 0
        ports = Ports(
            store,
            postgres,
            Tasks(mailbox, lambda: postgres.user, board.show_task),
            Peers(configuration.peer_access(), local.node.thread_pool_size),
            CallbackLane(registry, tally.callback),
            registry,
            mailbox,
            configuration,
            tally=tally,
        )
        if handler is not None:
            above = StoreRequest(section, local.node.store_path, local.node.name, Timing(), observer=True)
            others = ShieldedStore(backend.open(above))
            ports.mpp = _mpp(handler, Reach(others, postgres, board, configuration.peer_access), configuration)
        return _serve(ports, board, guarding, stop, notifier, routes)
    finally:
        store.close()
        guarding.close()


def _mpp(handler: MppHandler, reach: Reach, configuration: Configuration) -> Mpp:
    tools = Tools(reach, configuration.server.name, lambda: configuration.effective.timing)
    mpp = Mpp(handler, tools)
    mpp.watch(lambda: float(configuration.effective.timing.loop_wait))
    return mpp


def _enforced(registry: Registry, local: LocalConfig) -> dict[str, str]:
    """Server parameters that plugins insist on."""
    facts = Facts(local.node.scope, local.node.name, Role.UNINITIALIZED, "", False, None)
    parameters: dict[str, str] = {}
    for plugin, wanted in registry.collect("pgcore_server_parameters", facts=facts).items():
        if not isinstance(wanted, dict):
            raise PluginError(plugin, "pgcore_server_parameters brings no mapping of names to values", "mend or block it")
        parameters |= {str(name): str(value) for name, value in wanted.items()}
    return parameters


def load(path: str | None) -> tuple[Registry, LocalConfig, StoreBackend]:
    """Find the store that the configuration names, activate its plugin and the others, and read everything with them.

    Raises ConfigErrors, or PluginError with the distribution to install.
    """
    first = examine(Origin(path, take_environment(dict(os.environ)), {}))
    registry = Registry(block=blocked_plugins(first.tree))
    builtin = [name for name in BUILTINS if name in registry.names]  # the metadata of an editable installation may be older
    registry.activate([*builtin, *named_plugins(first.tree, registry.names)])
    stores = registry.stores()
    local = load_local(path, os.environ, registry.sections())
    chosen = [name for name in local.stores if name in stores]
    if not chosen:
        raise ConfigError(
            "etcd3, raft, …",
            "no store is configured",
            "add one section such as etcd3: {hosts: [10.0.0.1:2379]} or raft: {self_addr: 10.0.0.1:2222, partner_addrs: [...]}",
            local.source,
        )
    if len(chosen) > 1:
        logger.warning("%s: several stores are configured (%s); %s is used", local.source, ", ".join(chosen), sorted(chosen)[0])
    return registry, local, stores[sorted(chosen)[0]]


def refuse_unsupported(configuration: Configuration) -> None:
    """Refuse to start with settings whose promise cannot be kept. Raises ConfigError."""
    watchdog.refuse_unsupported(configuration.local.watchdog, configuration.local.source)


def configure_log(local: LocalConfig) -> None:
    """Put the ``log`` section in force. Raises ConfigError when its file cannot be written."""
    section = local.log
    try:
        log.configure(
            kind=section.type,
            level=section.level,
            traceback_level=section.traceback_level,
            format_=section.format,
            dateformat=section.dateformat,
            static_fields=section.static_fields,
            directory=section.dir,
            file_num=section.file_num,
            file_size=section.file_size,
            mode=section.mode,
            loggers=section.loggers,
        )
    except OSError as error:
        raise ConfigError(
            "log.dir", f"cannot write {error.filename}: {error.strerror}", "create the directory", local.source
        ) from error
    except ValueError as error:
        raise ConfigError("log", f"log.format or log.loggers cannot be used: {error}", "correct it", local.source) from error


def record_place(local: LocalConfig) -> Place | None:
    """Where the flight recorder writes; None: nowhere."""
    section, node = local.recorder, local.node
    path = record_path(section, local.log, local.postgresql, node)
    return Place(path, node.name, node.scope, section.file_size, section.file_num) if section.enabled else None


def check_programs(postgres: Postgres) -> None:
    """PostgreSQL's programs are there and answer. Raises FatalError naming the first that does not."""
    for name in ("postgres", "initdb", "pg_controldata", "pg_basebackup"):
        path = postgres.program(name)
        if not os.path.isabs(path) or not os.access(path, os.X_OK):
            where = postgres.settings.bin_dir or "PATH"
            raise FatalError(
                f"the program {name} was not found in {where}",
                "set postgresql.bin_dir to the directory of PostgreSQL's programs, for example /usr/lib/postgresql/15/bin",
            )
    logger.info(
        "PostgreSQL %d.%d from %s",
        postgres.binary_version() // 10000,
        postgres.binary_version() % 10000,
        os.path.dirname(postgres.program("postgres")),
    )


def check_listen(listen: str) -> None:
    """PostgreSQL will be able to listen there as far as names go. Raises ConfigError before anything is created."""
    hosts, port = split_listen(listen)
    for host in (name.strip() for name in hosts.split(",")):
        try:
            if host not in ("*", ""):
                socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                logger.warning("postgresql.listen: %s cannot be looked up at the moment: %s", host, error)
                continue
            problem = f"{host!r} is not an address of this machine: {error}"
            raise ConfigError("postgresql.listen", problem, "write it as host:port, e.g. 0.0.0.0:5432") from error


class _Guarding:
    """The guard of this run: the first one, or the last that replaced it."""

    def __init__(self, directory: str, prepared: Prepared | None) -> None:
        self._directory = directory
        self.guard = self._start(prepared)

    def another(self) -> Guard | None:
        """One in place of the present guard, which whoever asks closes; None: there is none to be had, the present one stays."""
        found = self._start(None)
        self.guard = found or self.guard
        return found

    def close(self) -> None:
        """The run is over; an armed guard stays."""
        if self.guard is not None:
            self.guard.close(stop=True)

    def _start(self, prepared: Prepared | None) -> Guard | None:
        """The guard, or None with a warning: then only the heartbeat protects the lease."""
        try:
            return Guard.start(self._directory, prepared=prepared)
        except GuardError as error:
            if "another agent" in str(error):
                raise FatalError(str(error)) from error
            logger.warning("%s. A hung agent could leave a primary running past its lease", error)
            return None


class _AskedError(BaseException):
    """Raised in the main thread by a signal, through whatever it waits for."""


class _Signals:
    """SIGTERM and SIGINT ask the agent to end, SIGHUP to read its configuration again."""

    def __init__(self, mailbox: Mailbox, notifier: systemd.Notifier) -> None:
        self.asked = threading.Event()
        self._reload = self._interrupt = False
        self._mailbox, self._notifier = mailbox, notifier
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._hangup)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """What runs inside is broken off when the agent is asked to end; only for what is not needed any more then."""
        self._interrupt = True
        try:
            yield
        except _AskedError:
            pass  # ``asked`` says so
        finally:
            self._interrupt = False

    def take_reload(self) -> bool:
        """True once after each SIGHUP."""
        asked, self._reload = self._reload, False
        if asked:
            self._notifier.reloading()
        return asked

    def reloaded(self) -> None:
        """What the last SIGHUP asked for is in force."""
        self._notifier.ready()

    def _end(self, number: int, frame: object) -> None:
        self.asked.set()
        self._notifier.stopping()
        # the main thread may hold the mailbox's lock at this very moment, so another thread knocks
        threading.Thread(target=self._mailbox.wake, args=(f"signal {signal.Signals(number).name}",), daemon=True).start()
        if self._interrupt:
            self._interrupt = False
            raise _AskedError

    def _hangup(self, number: int, frame: object) -> None:
        self._reload = True
        threading.Thread(target=self._mailbox.wake, args=("SIGHUP",), daemon=True).start()


def _store_answers(store: Store, backend: StoreBackend, configuration: Configuration, stop: _Signals) -> bool:
    """Wait until the store answers, saying so; then make sure that no other live agent has our name. False: asked to end."""
    patience = threading.Timer(STORE_PATIENCE_S, logger.warning, (
        "waiting for the store (%s), which has not answered yet; PostgreSQL is left as it is", backend.name))
    patience.daemon = True
    patience.start()
    while not stop.asked.is_set():
        snapshot = None
        try:
            with stop.interrupting():
                snapshot = store.read(fresh=False, deadline=Deadline.after(configuration.effective.timing.retry_timeout))
        except StoreUnavailableError as error:
            logger.warning(
                "waiting for the store (%s): %s; trying again every %.0f s, PostgreSQL is left as it is",
                backend.name,
                error,
                STORE_RETRY_S,
            )
            stop.asked.wait(STORE_RETRY_S)
        if snapshot is None:
            continue
        patience.cancel()
        view = codec.decode(snapshot)
        me = view.member(configuration.server.name)
        if me is not None and me.api_url and _alive(me.api_url, configuration.peer_access()):
            raise FatalError(
                f"a member named {me.name} is already running in scope {configuration.server.scope} ({me.api_url} answers)",
                "give this node another name, or stop the other agent first",
            )
        configuration.update(view, configuration.server_major)
        document = view.config.document if view.config else None
        if document is not None and not equal(document, configuration.effective.document):
            raise FatalError(
                "the dynamic configuration of this cluster cannot be used; the line above says why", "see pgcore show-config"
            )
        store.retime(configuration.effective.timing)
        return True
    patience.cancel()
    logger.info("asked to end before the store (%s) answered: the agent ends, PostgreSQL is left as it is", backend.name)
    return False


def _alive(api_url: str, access: PeerAccess) -> bool:
    """Somebody answers ``/liveness`` there, whatever the status. A connection without an HTTP answer does not count. (EC 19)"""
    parts = urlsplit(api_url)
    if not parts.hostname:
        return False
    if parts.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=UNIQUE_NAME_S, context=access.context()
        )
    else:
        connection = HTTPConnection(parts.hostname, parts.port or 80, timeout=UNIQUE_NAME_S)
    try:
        connection.request("GET", "/liveness")
        connection.getresponse()
        return True
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _serve(ports: Ports, board: Board, guarding: _Guarding, stop: _Signals, notifier: systemd.Notifier, routes: Routes) -> int:
    """Start REST and the watchers, run the agent, end everything."""
    configuration, postgres = ports.configuration, ports.postgres
    rest = RestServer(configuration.rest(), board, ports.mailbox, postgres.position, failsafe=ports.failsafe,
                      plugins=ports.registry,
                      reports=Reports(ports.mpp.rest_path, ports.mpp.reported, ports.mpp.member_hosts),
                      look=lambda members: ask_now(members, configuration.peer_access(), CANDIDATE_S), routes=routes)
    rest.start()
    try:
        postgres.configure(configuration.server)
        # what the files say may have changed while no agent ran; what did not is not written (HA rules 5.4)
        configuration.server_stale = postgres.attach()
        node = postgres.observe(Deadline.after(1.0))

        serving = configuration.local.restapi

        def reloaded() -> None:
            nonlocal serving
            try:
                rest.reconfigure(configuration.rest())
                serving = configuration.local.restapi
            except PgcoreError:
                configuration.keep_rest(serving)  # what members are told must be where it listens
                raise
            finally:
                recorder.record_to(record_place(configuration.local))
                configure_log(configuration.local)

        recorder, watch = Recorder(), PostmasterWatch(ports.mailbox)
        recorder.record_to(record_place(configuration.local))
        agent = Agent(Performer(ports), board, guarding.guard, node, stop, watch, reloaded, guarding.another, recorder)
        watch_store(ports.store, ports.mailbox, lambda: agent.performer.revision, lambda: float(agent.settings.timing.loop_wait))
        notifier.ready()
        _tell_life(ports, agent, "pgcore_started")
        ended = agent.run()
        recorder.record_to(None, wait_s=RECORD_AT_END_S)
        notifier.stopping()
        return _end(ports, agent, ended)
    finally:
        rest.stop()
        postgres.close()


def _tell_life(ports: Ports, agent: Agent, hook: str) -> None:
    facts = Facts(agent.settings.scope, agent.settings.name, agent.node.role, str(agent.node.state), False, agent.node.timeline)
    ports.callbacks.run(lambda: ports.registry.tell(hook, facts=facts))


def _end(ports: Ports, agent: Agent, ended: actions.Exit) -> int:
    """The rules have ended the agent: say why, stop what still runs unless it is to be left, deliver the last callbacks."""
    (logger.info if ended.code == 0 else logger.critical)("%s", ended.message)
    if not ended.leave_running and ports.postgres.postmaster() is not None:
        ports.postgres.stop(ProgramRunner(ports.postgres.user), mode="fast", timeout_s=60.0)
    if ended.leave_running or ports.postgres.postmaster() is None:
        agent.performer.watchdog.disable()  # a server that could not be stopped keeps it
    _tell_life(ports, agent, "pgcore_stopping")
    if not ports.callbacks.drain(CALLBACKS_AT_END_S):
        logger.warning("callbacks were still running %.0f s after the end of the agent's work", CALLBACKS_AT_END_S)
    return ended.code
