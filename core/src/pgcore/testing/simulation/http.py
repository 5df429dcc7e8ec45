"""Members' HTTP without sockets: the real doors of the REST API answer, the simulated network carries questions and answers."""

from __future__ import annotations

import io
from collections.abc import Callable
from urllib.parse import urlsplit

from pgcore.clock import Deadline
from pgcore.daemon.board import Board
from pgcore.daemon.peers import PeerAccess
from pgcore.net.http import HttpUnavailableError, Response
from pgcore.rest.answer import Answer
from pgcore.rest.failsafe import FailsafeDoor, Receiver
from pgcore.rest.front import Fresh, FrontDoor
from pgcore.rest.settings import RestSettings
from pgcore.testing.simulation.network import Network, Traffic
from pgcore.testing.simulation.scheduler import Process, Scheduler, Wakeup

Find = Callable[[str], tuple[str, "Doors | None"] | None]
"""The machine at a host address, and the doors of the agent that runs there; None: nobody has this address."""


class Doors:
    """The REST API of one agent. Its requests run on threads of the agent's process."""

    def __init__(
        self, process: Process, board: Board, fresh: Fresh, receiver: Receiver, settings: Callable[[], RestSettings]
    ) -> None:
        self.process = process
        self._front = FrontDoor(board, fresh, receiver.vouching)
        self._failsafe = FailsafeDoor(receiver, settings)

    def answer(self, method: str, target: str, body: bytes | None, host: str, access: PeerAccess) -> Answer:
        """As ``rest.server`` hands a request to its door."""
        environment = {"REMOTE_ADDR": host, "CONTENT_LENGTH": str(len(body or b"")), "wsgi.input": io.BytesIO(body or b""),
                       "HTTP_AUTHORIZATION": access.headers().get("Authorization")}
        if self._failsafe.knows(method, target):
            return self._failsafe.answer(environment, verified=False)
        if self._failsafe.votes(method, target):
            denial = self._failsafe.promise(environment, verified=False)
            if denial is not None:
                return denial
        return self._front.answer(method, target)


class SimulatedHttp:
    """The transport of one agent's ``Peers``."""

    def __init__(self, scheduler: Scheduler, network: Network, machine: str, host: str, find: Find) -> None:
        self._scheduler, self._network = scheduler, network
        self._machine, self._host, self._find = machine, host, find

    def request(
        self, access: PeerAccess, method: str, url: str, path: str, body: bytes | None, deadline: Deadline
    ) -> Response:
        """Send it and wait. Raises HttpUnavailableError: refused at once by a machine without an agent, else in time."""
        found = self._find(urlsplit(url).hostname or "")
        machine, doors = found if found is not None else ("nowhere", None)
        there = self._network.line(Traffic.HTTP, self._machine, machine)
        back = self._network.line(Traffic.HTTP, machine, self._machine)
        trip = self._network.trip
        out = trip(there) if found is not None else None
        scheduler = self._scheduler
        waiting = scheduler.parked()
        answers: list[Answer | None] = []

        def wake(answer: Answer | None) -> None:
            if not waiting.cancelled:
                waiting.cancelled = True
                answers.append(answer)
                scheduler.put(scheduler.now, Wakeup(waiting.process, waiting.run))

        def send_back(answer: Answer | None) -> None:
            seconds = trip(back)
            if seconds is not None:
                scheduler.put(scheduler.now + seconds, Wakeup(scheduler.world, lambda: wake(answer)))

        def arrive() -> None:
            if not there.open:
                return
            if doors is None or not doors.process.alive:
                send_back(None)
                return
            open_doors = doors
            doors.process.start(lambda: send_back(open_doors.answer(method, path, body, self._host, access)))

        if out is not None:
            scheduler.put(scheduler.now + out, Wakeup(scheduler.world, arrive))
        scheduler.put(scheduler.now + deadline.left() / scheduler.current.rate, waiting)
        scheduler.switch()
        waiting.cancelled = True
        if not answers:
            raise HttpUnavailableError(f"{url} gave no answer in time", sent=True)
        answer = answers[0]
        if answer is None:
            raise HttpUnavailableError(f"{url}: connection refused", sent=False)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.code, headers, (answer.body or "").encode(), url)
