"""A process that reads for the process that started it, over one end of a pair of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from typing import Any

import uvloop

from lean_resources.auth import Lent
from lean_resources.client import LeanClient, Membership
from lean_resources.shared import Shared
from lean_resources.streams import STREAMS
from pipelines import logs
from pipelines.lake.lake import Lake
from pipelines.sync.engine import read_tasks
from pipelines.sync.processes import END_SECONDS, Channel, Job, Setup
from pipelines.sync.report import Report
from pipelines.sync.tasks import Task


class _Helper:
    """Reads what comes over a channel, until the other end is closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Read what is asked for.

        Raises:
            EOFError: The other end is closed.
            ConnectionError: As above.
        """
        setup: Setup = await self._channel.receive()
        logs.start("json" if setup.are_logs_json else "text")
        lent = Lent(functools.partial(self._ask, "lend"))
        lease = functools.partial(self._ask, "lease") if setup.is_leased else None
        membership = Membership(Shared(setup.file), lent, setup.ahead, setup.heard_at, lease)
        announced = functools.partial(self._ask, "announced")
        client = LeanClient(setup.settings, announced=announced, membership=membership)
        tasks: list[Task] = []
        async with client:
            try:
                while True:
                    match await self._channel.receive():
                        case Job() as job:
                            tasks = []
                        case list() as some:
                            tasks += some
                        case None:
                            self._reading = asyncio.create_task(self._read(client, job, tasks))
                        case number, answer:
                            self._asked.pop(number).set_result(answer)
            finally:
                await self._give_up()

    async def _read(self, client: LeanClient, job: Job, tasks: list[Task]) -> None:
        found: Report | Exception
        try:
            found = await read_tasks(
                STREAMS[job.stream],
                client,
                Lake(job.root, job.environment),
                tasks,
                mark=job.mark,
                policy=job.policy,
                workers=job.workers,
                progress=self._channel.post,
            )
        except Exception as error:  # noqa: BLE001 - raised by the process that asked
            found = _portable(error)
        self._channel.post(found)

    async def _ask(self, name: str, *arguments: object) -> Any:
        """Let the other process do what only it can."""
        number = max(self._asked, default=0) + 1
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.post((number, name, arguments))
        answer = await self._asked[number]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _give_up(self) -> None:
        """Discard what is not committed, and end in any case."""
        timer = threading.Timer(END_SECONDS, os._exit, [1])
        timer.daemon = True
        timer.start()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])


def _portable(error: Exception) -> Exception:
    """An error that another process can raise, with the place where it was raised here."""
    error.add_note("".join(traceback.format_tb(error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made in the line
    except Exception:  # noqa: BLE001 - of a library, with arguments of its own
        other = RuntimeError(type(error).__name__)
        other.add_note("".join(traceback.format_tb(error.__traceback__)))
        return other
    return error


async def _main(descriptor: int) -> None:
    with contextlib.suppress(EOFError, ConnectionError):
        await _Helper(await Channel.over(socket.socket(fileno=descriptor))).serve()


if __name__ == "__main__":
    # A terminal sends it to all processes; the one that asked decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_main(int(sys.argv[1])))
