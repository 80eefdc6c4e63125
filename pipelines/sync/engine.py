"""A sync of a stream: plan, read, type, write, commit.

Many requests read answers at once, and one thread writes them in batches. So memory holds a few
batches, however large the application is.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from lean_resources.client import LeanClient
from lean_resources.errors import (
    AuthError,
    BankPausedError,
    LeanError,
    UnavailableError,
)
from lean_resources.limits import CircuitBreaker, CircuitOpenError
from lean_resources.paging import PagedRead
from lean_resources.streams import Stream
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Mark
from pipelines.lake.quarantine import standing
from pipelines.sync.memory import keep_memory
from pipelines.sync.policy import Policy
from pipelines.sync.read_targets import ReadTarget
from pipelines.sync.report import Report
from pipelines.sync.tasks import Done, Selection, Task, tasks_of
from pipelines.sync.writer import BATCH_READS, Typed, Writer

__all__ = ["sync"]

_LEAST_BATCH_BYTES = 4_000_000
_BATCH_BYTES = 8_000_000
_BUFFER_BYTES = 16_000_000
_REFUSALS = 5

Progress = Callable[[int, int], None]


async def sync(
    stream: Stream,
    client: LeanClient,
    lake: Lake,
    *,
    policy: Policy,
    selection: Selection,
    run_id: str | None = None,
    resumes: Collection[str] = (),
    progress: Progress = lambda _done, _total: None,
) -> Report:
    """Bring a stream up to date, or read again what is selected.

    A read target's failure stops no other read; the ledger has its code and remedy.

    Args:
        stream: The stream; streams that are exploded from it come along.
        client: An open client.
        lake: Where to write.
        policy: How eagerly to pull.
        selection: What the run is narrowed to.
        run_id: The run, for the ledger.
        resumes: Ids of runs that this run continues: what they have read is not read again, unless
            its entity was refreshed since.
        progress: Called with the number of paged reads that are done, and of all.

    Raises:
        AuthError: Lean refuses the application; nothing can be pulled.
        UnavailableError: Lean cannot be reached at all.
    """
    keep_memory()
    started = time.monotonic()
    before = client.requests
    now = await client.server_time()
    planned = await asyncio.to_thread(
        lambda: list(tasks_of(stream, lake, now, policy, selection, resumes))
    )
    tasks = [one for one in planned if isinstance(one, Task)]
    skipped = [one for one in planned if isinstance(one, ReadTarget)]
    mark = Mark(run_id, await asyncio.to_thread(lake.next_generation))
    writer = Writer(stream, lake, mark, policy.unfit_share)
    writer.report.read_targets = len({task.target.target_id for task in tasks}) + len(skipped)
    writer.report.fresh = planned.count(None)
    writer.skip(skipped)
    progress(0, len(tasks))
    banks = client.breaker(policy.bank_failures, policy.bank_cooldown_seconds)
    reader = _Reader(stream, client, banks)
    workers = min(client.settings.max_concurrency, len(tasks))
    try:
        await _Stages(reader, writer, tasks, workers, progress).run()
    finally:
        writer.close()
    writer.report.standing = await asyncio.to_thread(
        lambda: sum((standing(lake, one) for one in writer.streams), Counter())
    )
    writer.report.requests = client.requests - before
    writer.report.seconds = time.monotonic() - started
    return writer.report


class _Stages:
    """Three stages side by side: a batch is read, the batch before is typed, and before it written.

    Args:
        reader: Reads tasks.
        writer: Types and writes.
        tasks: What to read.
        workers: How many tasks are read at once.
        progress: Called with the number of tasks that are done, and of all.
    """

    def __init__(
        self,
        reader: _Reader,
        writer: Writer,
        tasks: Sequence[Task],
        workers: int,
        progress: Progress,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._tasks = tasks
        self._workers = workers
        self._progress = progress
        self._todo: asyncio.Queue[tuple[Task, int] | None] = asyncio.Queue()
        self._results: asyncio.Queue[Done] = asyncio.Queue()
        self._typed: asyncio.Queue[tuple[Typed, int] | None] = asyncio.Queue(maxsize=1)
        self._buffer = _Buffer(_BUFFER_BYTES)

    async def run(self) -> None:
        """Read every task and commit what came.

        Raises:
            OSError: A file cannot be written.
        """
        self._put([(task, 0) for task in self._tasks])
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._read_all())
                group.create_task(self._type_all())
                group.create_task(self._write_all())
        except ExceptionGroup as ended:
            # The first failure ends the other stages; their errors say nothing more.
            raise ended.exceptions[0] from None

    def _put(self, items: Sequence[tuple[Task, int] | None]) -> None:
        for item in items:
            self._todo.put_nowait(item)

    async def _read_all(self) -> None:
        while (following := await self._todo.get()) is not None:
            done = await self._reader.read(*following)
            await self._buffer.enter(done.size)
            self._results.put_nowait(done)

    async def _type_all(self) -> None:
        unread = len(self._tasks)
        while unread:
            batch = await _batch(self._results, unread)
            typed, again = await self._writer.type(batch)
            self._put(again)
            unread -= len(batch) - len(again)
            await self._typed.put((typed, sum(done.size for done in batch)))
            self._progress(len(self._tasks) - unread, len(self._tasks))
        self._put([None] * self._workers)
        await self._typed.put(None)

    async def _write_all(self) -> None:
        while (following := await self._typed.get()) is not None:
            typed, size = following
            await self._writer.add(typed)
            await self._buffer.leave(size)
            if self._writer.is_full:
                await self._writer.commit()
        await self._writer.commit()


async def _batch(results: asyncio.Queue[Done], unread: int) -> list[Done]:
    """Reads to type together: those that have come, if they are worth a call, or all the rest."""
    batch: list[Done] = []
    size = 0
    while len(batch) < min(unread, BATCH_READS) and size < _BATCH_BYTES:
        if size >= _LEAST_BATCH_BYTES and results.empty():
            break
        batch.append(await results.get())
        size += batch[-1].size
    return batch


class _Buffer:
    """Bytes that were read and are not yet written, bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._freed = asyncio.Condition()

    async def enter(self, size: int) -> None:
        """Wait until less than the limit is held.

        The last read to enter may exceed the limit. So a read of any size passes, and what is held
        always suffices for a batch: nobody waits for ever.
        """
        async with self._freed:
            await self._freed.wait_for(lambda: self._held < self._limit)
            self._held += size

    async def leave(self, size: int) -> None:
        """Make room."""
        async with self._freed:
            self._held -= size
            self._freed.notify_all()


class _Reader:
    """Reads tasks from Lean, and leaves alone what refused or failed again and again.

    A single refusal may concern one account only. So many in a row concern the application, and to
    ask on is of no use.

    Args:
        stream: The stream.
        client: An open client.
        banks: Which banks are left alone.
    """

    def __init__(self, stream: Stream, client: LeanClient, banks: CircuitBreaker) -> None:
        self._stream = stream
        self._client = client
        self._banks = banks
        self._refusals: list[AuthError] = []  # in a row

    async def read(self, task: Task, rereads: int) -> Done:
        """Read a task, unless its bank is left alone; an error of Lean is a result.

        Args:
            task: What to read.
            rereads: How often it was read before, because a record came twice.
        """
        client = self._client
        asked_at = dt.datetime.now(dt.UTC)
        known_at, latest_at = client.heard_at, None
        result: PagedRead | LeanError
        with client.tally() as tally:
            try:
                self._check(task.target.bank_identifier)
                now = await client.server_time()
                # The instant of Lean's last answer. `now` adds what this machine's clock counted.
                known_at = client.heard_at or now
                # A record that slid over the edge of a page does not slide over another edge.
                result = await client.read(
                    self._stream,
                    task.request,
                    unless_refreshed_at=task.unless_refreshed_at,
                    page_size=max(1, client.settings.page_size - rereads),
                )
                asked_at = result.asked_at
                latest_at = await client.server_time()
            except LeanError as error:
                result = error
        self._note(task.target.bank_identifier, result)
        requests = task.spent + tally.requests
        finished_at = dt.datetime.now(dt.UTC)
        return Done(task, result, requests, asked_at, known_at, latest_at, finished_at, rereads)

    def _check(self, bank: str | None) -> None:
        """Raise the last error again where there is no hope of an answer."""
        if len(self._refusals) >= _REFUSALS:
            raise copy.copy(self._refusals[-1])
        if bank is not None:
            self._banks.check(bank)

    def _note(self, bank: str | None, result: PagedRead | LeanError) -> None:
        """Note how a read ended, for the reads after it."""
        if isinstance(result, AuthError):
            self._refusals.append(result)
        else:
            self._refusals.clear()
        if bank is None or isinstance(result, CircuitOpenError):
            return
        if isinstance(result, BankPausedError):
            self._banks.pause(bank)
        elif isinstance(result, UnavailableError):
            self._banks.failed(bank)
        else:
            self._banks.succeeded(bank)
