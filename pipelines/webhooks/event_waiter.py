"""Waiting for events: a task that waits for Lean wakes when the announcing webhook arrives.

An event only wakes the task, which then reads the state from Lean. Without an inbox, or while the
inbox cannot be reached, the task waits its full time.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from lean_resources.errors import UnavailableError
from lean_resources.webhooks import FINISHED

if TYPE_CHECKING:
    from pipelines.webhooks.inbox import Inbox

_LOOK_SECONDS = 0.5
"""Time between two queries of the inbox; each query serves all waiting tasks."""
_LIVE = dt.timedelta(hours=1)

Sleep = Callable[[float], Awaitable[None]]


class EventWaiter:
    """Wakes waiting tasks of one event loop.

    Args:
        inbox: Where events arrive; None if webhooks are not set up.
    """

    def __init__(self, inbox: Inbox | None, sleep: Sleep = asyncio.sleep) -> None:
        self._inbox = inbox
        self._sleep = sleep
        self._results: dict[str, asyncio.Event] = {}
        self._refreshes: dict[str, asyncio.Event] = {}
        self._announced: set[str] = set()
        self._looking: asyncio.Task[None] | None = None

    async def is_live(self) -> bool:
        """Whether a webhook arrived within the last hour, so that waiting makes sense."""
        if self._inbox is None:
            return False
        try:
            last = await asyncio.to_thread(self._inbox.last_received_at)
        except UnavailableError:
            return False
        return last is not None and dt.datetime.now(dt.UTC) - last < _LIVE

    async def result(self, results_id: str, seconds: float) -> float:
        """Wait up to `seconds` for the webhook that announces a result; the seconds waited."""
        return await self._wait(self._results, results_id, seconds)

    async def refresh(self, refresh_id: str, seconds: float) -> float:
        """Wait up to `seconds` for the webhook that ends a refresh; the seconds waited."""
        return await self._wait(self._refreshes, refresh_id, seconds)

    async def expect(self, refresh_id: str, seconds: float) -> None:
        """Record in the inbox that this process will read the data of a refresh.

        Args:
            seconds: How long the record holds; after that the sensor takes the refresh's events.
        """
        if self._inbox is not None:
            until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
            await self._note(self._inbox.await_refresh, refresh_id, until)

    async def end(self, refresh_ids: Collection[str], *, is_over: bool) -> None:
        """Record in the inbox that no task waits for these refreshes, and if they are over."""
        if self._inbox is not None and refresh_ids:
            inbox = self._inbox
            await self._note(lambda: inbox.end_refreshes(refresh_ids, is_over=is_over))

    async def _note(self, write: Callable[..., None], *args: object) -> None:
        """Write to the inbox; if that fails, an entity is read one extra time."""
        try:
            await asyncio.to_thread(write, *args)
        except UnavailableError:
            return

    async def _wait(self, waiting: dict[str, asyncio.Event], key: str, seconds: float) -> float:
        if self._inbox is None or key in self._announced:
            # The result was announced but Lean does not have it yet: no further event will come.
            await self._sleep(seconds)
            return seconds
        announced = waiting.setdefault(key, asyncio.Event())
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(self._inbox))
        started = time.monotonic()
        timer = asyncio.ensure_future(self._sleep(seconds))
        event = asyncio.ensure_future(announced.wait())
        try:
            await asyncio.wait({timer, event}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            event.cancel()
            waiting.pop(key, None)
        return min(time.monotonic() - started, seconds) if announced.is_set() else seconds

    async def _look(self, inbox: Inbox) -> None:
        """Query the inbox as long as a task waits."""
        while self._results or self._refreshes:
            try:
                found = await asyncio.to_thread(inbox.ready, list(self._results))
                over = await asyncio.to_thread(inbox.finished, list(self._refreshes), FINISHED)
            except UnavailableError:
                found, over = set(), set()
            for waiting, keys in ((self._results, found), (self._refreshes, over)):
                for key in keys & set(waiting):
                    waiting[key].set()
                    self._announced.add(key)
            await asyncio.sleep(_LOOK_SECONDS)
