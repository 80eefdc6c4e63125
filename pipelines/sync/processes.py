"""Processes that read with this one, each a part of a stream's tasks, and end with it.

A process gets its tasks over a socket, and sends back counts and the report. It has no credentials:
it asks for the headers of requests. What limits requests lies in memory that all of them share. It
ends when the socket closes, and so also when this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import itertools
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from lean_resources.client import LeanClient
from lean_resources.errors import MachineError
from lean_resources.settings import LeanSettings
from pipelines import logs
from pipelines.lake.ledger import Mark
from pipelines.sync.policy import Policy
from pipelines.sync.report import Report
from pipelines.sync.tasks import Task

END_SECONDS = 4.0
"""Time that a process has to give up what it has not committed."""
_IDLE_SECONDS = 60.0
"""Time after which a process without work ends, so that it holds no memory meanwhile."""
_SENT_AT_ONCE = 1_000
_LENGTH_BYTES = 8
_BUFFER_BYTES = 1 << 20

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a process has from the first.

    Args:
        settings: The settings, without credentials.
        file: Descriptor of what the processes share.
        ahead: How far Lean's clock is ahead of this machine's.
        heard_at: Lean's clock by its newest answer.
        are_logs_json: Whether logs are JSON.
        is_leased: Whether turns of requests are shared with other machines.
    """

    settings: LeanSettings
    file: int
    ahead: dt.timedelta
    heard_at: dt.datetime | None
    are_logs_json: bool
    is_leased: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What all processes read of a stream.

    Args:
        stream: Its name.
        root: The folder of all environments of the lake.
        environment: The lake's environment.
        mark: The run and generation, for the ledger.
        policy: How eagerly to pull.
        workers: Requests of one process at once.
    """

    stream: str
    root: Path | str
    environment: str
    mark: Mark
    policy: Policy
    workers: int


class Channel:
    """Sends and receives objects over a socket, in the order in which they are sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """A channel over an end of a pair of sockets."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_BUFFER_BYTES))

    def post(self, found: object) -> None:
        """Send a small object."""
        data = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)

    async def send(self, found: object) -> None:
        """Send an object; waits while much is on its way."""
        self.post(found)
        await self._writer.drain()

    async def receive(self) -> Any:
        """The next object.

        Raises:
            EOFError: The other process has closed its end, or is gone.
            ConnectionError: As above.
        """
        length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
        return pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - our own process

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


class _Process:
    """A process that reads with this one."""

    def __init__(
        self, client: LeanClient, channel: Channel, process: subprocess.Popen[bytes]
    ) -> None:
        self._asked: dict[str, Callable[..., Awaitable[Any]]] = {
            "lend": client.lend,
            "announced": client.announced,
            "lease": client.lease,
        }
        self._channel = channel
        self._process = process
        self._answering: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, client: LeanClient) -> Self:
        """Start a process, which has imported nothing yet."""
        file = client.shared.share()
        mine, its = socket.socketpair()
        with its:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - ours, and forking is short
                [sys.executable, "-P", "-m", "pipelines.sync.helper", str(its.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(its.fileno(), file),
            )
        channel = await Channel.over(mine)
        settings = client.settings.model_copy(
            update={
                **dict.fromkeys(("client_id", "client_secret", "app_token", "shared_limits")),
                "requests_per_second": client.rate,
            }
        )
        is_leased = client.settings.shared_limits is not None
        channel.post(
            Setup(settings, file, client.ahead, client.heard_at, logs.are_json(), is_leased)
        )
        return cls(client, channel, process)

    async def read(self, job: Job, tasks: Sequence[Task], tell: Tell) -> Report:
        """Let the process read tasks.

        Args:
            tell: Called with the number of finished tasks.

        Raises:
            MachineError: The process ended.
            Exception: What reading raised there.
        """
        try:
            self._channel.post(job)
            for first in range(0, len(tasks), _SENT_AT_ONCE):
                await self._channel.send(tasks[first : first + _SENT_AT_ONCE])
            self._channel.post(None)
            while True:
                match await self._channel.receive():
                    case Report() as report:
                        return report
                    case int(done):
                        tell(done)
                    case Exception() as error:
                        raise error
                    case number, name, arguments:
                        answering = asyncio.create_task(self._answer(number, name, arguments))
                        self._answering.add(answering)
                        answering.add_done_callback(self._answering.discard)
        except (EOFError, ConnectionError):
            code = await asyncio.to_thread(self._process.wait, END_SECONDS)
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise MachineError(
                f"one of the processes of the sync ended with {how}, so {len(tasks):,} reads of "
                f"{job.stream} were not finished",
                code="PROCESS_ENDED",
                remedy="What was committed is kept, and the next sync reads the rest. If the"
                " system ended it for want of memory, set LEAN_PROCESSES lower.",
            ) from None

    async def _answer(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        answer: object
        try:
            answer = await self._asked[name](*arguments)
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            answer = error
        self._channel.post((number, answer))

    async def end(self) -> None:
        """End the process, which gives up what it has not committed."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, 1.5 * END_SECONDS)
        self._process.kill()
        self._process.wait()


class Processes:
    """The processes that read for a client; they wait for the next stream for a while.

    Args:
        client: An open client; they end before it is closed.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[LeanClient, Processes]] = weakref.WeakKeyDictionary()

    def __init__(self, client: LeanClient) -> None:
        self._client = weakref.proxy(client)
        self._waiting: list[_Process] = []
        self._places: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        client.before_close(self.end)

    @classmethod
    def of(cls, client: LeanClient) -> Processes:
        """Those of a client."""
        if client not in cls._of:
            cls._of[client] = cls(client)
        return cls._of[client]

    def deal(self, tasks: Sequence[Task], number: int) -> list[list[Task]]:
        """Deal tasks out to so many processes, by entity: the first share is of this process.

        The entities with the most months come first, each to the least share. An entity stays with
        its process, which knows in which generation its bank answers.
        """
        shares: list[list[Task]] = [[] for _ in range(number)]
        of_entity: dict[str, list[Task]] = {}
        for task in tasks:
            key = task.target.entity_id or task.target.target_id
            of_entity.setdefault(key, []).append(task)
        months = [0] * number
        for key, found in sorted(of_entity.items(), key=lambda item: -_months(item[1])):
            place = self._places.get(key, number)
            if place >= number:
                place = self._places[key] = months.index(min(months))
            months[place] += _months(found)
            shares[place] += found
        return shares

    async def ready(self, count: int) -> None:
        """Start processes, so that so many wait."""
        if self._timer is not None:
            self._timer.cancel()
        while len(self._waiting) < count:
            self._waiting.append(await _Process.start(self._client))

    async def _take(self, count: int) -> list[_Process]:
        await self.ready(count)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def read(
        self,
        job: Job,
        shares: Sequence[Sequence[Task]],
        tell: Tell,
        own: Coroutine[Any, Any, Report],
    ) -> list[Report]:
        """Read shares of tasks, each in a process of its own.

        A process that fails or ends stops no other.

        Args:
            tell: Called with the number of finished tasks.
            own: What this process reads meanwhile; its report is the first.

        Raises:
            MachineError: A process ended.
            Exception: The first that reading raised in a process.
        """
        try:
            taken = await self._take(len(shares))
        except BaseException:
            own.close()
            raise
        counts = [0] * len(shares)

        def count(place: int, done: int) -> None:
            counts[place] = done
            tell(sum(counts))

        reads = [
            one.read(job, share, functools.partial(count, place))
            for place, (one, share) in enumerate(zip(taken, shares, strict=True))
        ]
        found: list[Report | BaseException] = []
        try:
            found = await asyncio.gather(own, *reads, return_exceptions=True)
        finally:
            # After a cancellation nothing was found.
            for one, result in itertools.zip_longest(taken, found[1:]):
                if isinstance(result, Report):
                    self._waiting.append(one)
            rest = [one for one in taken if one not in self._waiting]
            await asyncio.gather(*(one.end() for one in rest))
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_IDLE_SECONDS, lambda: loop.create_task(self.end()))
        reports = [one for one in found if isinstance(one, Report)]
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return reports

    async def end(self) -> None:
        """End the processes that wait."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, []
        await asyncio.gather(*(one.end() for one in waiting))
        self._client.shared.keep()


def _months(tasks: Sequence[Task]) -> int:
    """Number of pulls that tasks commit."""
    return sum(len(task.months) or 1 for task in tasks)
