"""A client for all steps of a run, which share its token, connections and clock reading.

A client belongs to an event loop, but the steps of a run are plain functions. So the loop runs in a
separate thread, from the first use until the session is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import uvloop

from lean_resources.client import LeanClient
from lean_resources.paging import Announced

Done = TypeVar("Done")

_CLOSE_SECONDS = 10.0
_CANCEL_SECONDS = 60.0
"""How long cancelled work may take to end, for example to finish writing a file."""


class Session:
    """Runs work with a client that is opened once.

    Use it as a context manager, and run a single task at a time. The client is made and opened at
    the first call of `run`.
    """

    def __init__(self, client: Callable[[], LeanClient]) -> None:
        self._make = client
        self._client: LeanClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def run(
        self,
        work: Callable[[LeanClient], Coroutine[Any, Any, Done]],
        announced: Announced | None = None,
    ) -> Done:
        """Run work with the client, and return its result.

        An interrupt, for example a cancelled run, cancels the work and waits until it has ended.

        Raises:
            ConfigError: The client cannot be created; the next call tries again.
            LeanError: The work raised it.
        """
        loop = self._running()
        tasks: list[asyncio.Task[Done]] = []
        has_ended = threading.Event()

        async def whole() -> Done:
            return await work(await self._opened(announced))

        def start() -> None:
            tasks.append(loop.create_task(whole()))
            tasks[0].add_done_callback(lambda _: has_ended.set())

        def cancel() -> None:
            tasks[0].cancel()

        loop.call_soon_threadsafe(start)
        try:
            has_ended.wait()
        except BaseException:
            loop.call_soon_threadsafe(cancel)
            has_ended.wait(_CANCEL_SECONDS)
            raise
        return tasks[0].result()

    def close(self) -> None:
        """Close the client and end the loop; work that still runs is cancelled."""
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        closed = asyncio.run_coroutine_threadsafe(self._closed(), loop)
        with contextlib.suppress(Exception):  # nothing more can be done with the client
            closed.result(_CLOSE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CANCEL_SECONDS)

    async def _opened(self, announced: Announced | None) -> LeanClient:
        if self._client is None:
            self._client = await self._make().__aenter__()
        self._client.wake_by(announced)
        return self._client

    async def _closed(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, started at the first use."""
        if self._loop is None:
            started: Future[asyncio.AbstractEventLoop] = Future()
            self._thread = threading.Thread(
                target=_serve, args=(started,), name="lean", daemon=True
            )
            self._thread.start()
            self._loop = started.result()
        return self._loop


def _serve(started: Future[asyncio.AbstractEventLoop]) -> None:
    """Run a loop until it is stopped; its tasks and threads end with it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        started.set_result(loop)
        loop.run_forever()
