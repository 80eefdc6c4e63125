"""A sync of a stream: plan, read, type, write, commit.

Many requests run at once, and a thread writes their answers in batches. So memory holds a few
batches, even for a large application.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import functools
import math
import os
import sys
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
from lean_resources.streams import Stream, family
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Mark
from pipelines.lake.quarantine import standing
from pipelines.sync.malloc import keep_memory
from pipelines.sync.policy import Policy
from pipelines.sync.processes import Job, Processes
from pipelines.sync.read_targets import ReadTarget
from pipelines.sync.report import Report
from pipelines.sync.tasks import Done, Selection, Task, tasks_of
from pipelines.sync.writer import BATCH_READS, Typed, Writer

_LEAST_BATCH_BYTES = 8_000_000
_BATCH_BYTES = 8_000_000
_BUFFER_BYTES = 16_000_000
_REFUSALS = 5
LEAST_PULLS = 250
"""Pulls to make for each process, at least."""
_REQUESTS_PER_SECOND = 250.0
"""What a process can read, about half of it in reserve."""

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
    """Bring a stream up to date, or read selected months again.

    A failed read does not stop further reads; the ledger has its code and remedy.

    Args:
        stream: The stream; streams that are exploded from it are included.
        client: An open client.
        lake: The lake to write to.
        policy: How eagerly to pull.
        selection: The entities, accounts and months of the run.
        run_id: The run, for the ledger.
        resumes: Ids of runs that this run continues. Their reads are not repeated, unless the
            entity was refreshed since.
        progress: Called with the number of finished paged reads, and of all.

    Raises:
        AuthError: Lean refuses the application; nothing can be pulled.
        UnavailableError: Lean cannot be reached at all.
    """
    started = time.monotonic()
    before = client.requests
    now = await client.server_time()
    planned = await asyncio.to_thread(
        lambda: list(tasks_of(stream, lake, now, policy, selection, resumes))
    )
    tasks = [item for item in planned if isinstance(item, Task)]
    skipped = [item for item in planned if isinstance(item, ReadTarget)]
    fresh = planned.count(None)
    read_targets = len({task.target.target_id for task in tasks}) + len(skipped)
    listed = client.requests
    del planned
    mark = Mark(run_id, await asyncio.to_thread(lake.next_generation))
    progress(0, len(tasks))
    client.breaker(policy.bank_failures, policy.bank_cooldown_seconds).renew()
    number = _processes(client, tasks)
    own, *others = Processes.of(client).deal(tasks, number) if number > 1 else [tasks]
    workers = client.settings.max_concurrency // number
    done = [0, 0]

    def tell(place: int, count: int) -> None:
        done[place] = count
        progress(sum(done), len(tasks))

    reading = read_tasks(
        stream,
        client,
        lake,
        own,
        mark=mark,
        policy=policy,
        workers=client.settings.max_concurrency - workers * len(others),
        skipped=skipped,
        progress=lambda count: tell(0, count),
    )
    if others:
        job = Job(stream.name, lake.root, lake.environment, mark, policy, workers)
        tell_others = functools.partial(tell, 1)
        report, *rest = await Processes.of(client).read(job, others, tell_others, reading)
        for one in rest:
            report.add(one)
    else:
        report = await reading
    report.read_targets, report.fresh = read_targets, fresh
    report.standing = await asyncio.to_thread(
        lambda: sum((standing(lake, each) for each in family(stream)), Counter())
    )
    report.requests += listed - before
    report.seconds = time.monotonic() - started
    return report


def _processes(client: LeanClient, tasks: Sequence[Task]) -> int:
    """Number of processes that tasks are read in, this one included.

    To start a process costs half a second of CPU, as much as a few hundred pulls.
    """
    settings = client.settings
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    wanted = settings.processes
    if wanted is None:
        wanted = min(cores, math.ceil(client.rate / _REQUESTS_PER_SECOND))
    if not client.is_of_network:
        wanted = 1
    pulls = sum(len(task.months) or 1 for task in tasks)
    return max(1, min(wanted, settings.max_concurrency, pulls // LEAST_PULLS))


async def read_tasks(
    stream: Stream,
    client: LeanClient,
    lake: Lake,
    tasks: Sequence[Task],
    *,
    mark: Mark,
    policy: Policy,
    workers: int,
    skipped: Sequence[ReadTarget] = (),
    progress: Callable[[int], None],
) -> Report:
    """Read tasks of a sync in this process, and commit their answers.

    Args:
        tasks: What to read.
        mark: The run and generation, for the ledger.
        workers: Requests at once, at most.
        skipped: Read targets to record as skipped.
        progress: Called with the number of finished tasks.

    Raises:
        OSError: A file cannot be written.
    """
    keep_memory()
    before = client.requests
    writer = Writer(stream, lake, mark, policy.unfit_share)
    writer.skip(skipped)
    banks = client.breaker(policy.bank_failures, policy.bank_cooldown_seconds)
    try:
        reader = _Reader(stream, client, banks)
        await _Stages(reader, writer, tasks, min(workers, len(tasks)), progress).run()
    finally:
        writer.close()
    writer.report.requests = client.requests - before
    return writer.report


class _Stages:
    """Three stages that run at once: read a batch, type the batch before, write the batch before.

    Args:
        reader: Reads tasks.
        writer: Types and writes batches.
        tasks: The tasks to read.
        workers: Number of tasks that are read at once.
        progress: Called with the number of finished tasks.
    """

    def __init__(
        self,
        reader: _Reader,
        writer: Writer,
        tasks: Sequence[Task],
        workers: int,
        progress: Callable[[int], None],
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
        """Read all tasks and commit their answers.

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
            # The first failure ends the remaining stages; their errors add no information.
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
            self._progress(len(self._tasks) - unread)
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
    """Reads to type together: the finished reads once they are large enough, or all that remain."""
    batch: list[Done] = []
    size = 0
    while len(batch) < min(unread, BATCH_READS) and size < _BATCH_BYTES:
        if size >= _LEAST_BATCH_BYTES and results.empty():
            break
        batch.append(await results.get())
        size += batch[-1].size
    return batch


class _Buffer:
    """Limits the bytes that are read but not yet written."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._freed = asyncio.Condition()

    async def enter(self, size: int) -> None:
        """Wait until less than the limit is held.

        The last read may exceed the limit. So a read of any size passes, and the buffer always
        holds enough for a batch: no task waits for ever.
        """
        async with self._freed:
            await self._freed.wait_for(lambda: self._held < self._limit)
            self._held += size

    async def leave(self, size: int) -> None:
        """Free space in the buffer."""
        async with self._freed:
            self._held -= size
            self._freed.notify_all()


class _Reader:
    """Reads tasks from Lean; stops requests after repeated refusals or failures of a bank.

    A single refusal may concern only an account. `_REFUSALS` in a row concern the application, and
    further requests are useless.

    Args:
        client: An open client.
        banks: Knows the banks that are paused.
    """

    def __init__(self, stream: Stream, client: LeanClient, banks: CircuitBreaker) -> None:
        self._stream = stream
        self._client = client
        self._banks = banks
        self._refusals: list[AuthError] = []  # in a row

    async def read(self, task: Task, rereads: int) -> Done:
        """Read a task, unless its bank is paused; an error of Lean is a result.

        Args:
            rereads: Number of earlier reads, in which a record came twice.
        """
        client = self._client
        asked_at = dt.datetime.now(dt.UTC)
        known_at, latest_at = client.heard_at, None
        result: PagedRead | LeanError
        with client.tally() as tally:
            try:
                self._check(task.target.bank_identifier)
                now = await client.server_time()
                # The instant of Lean's last answer. `now` adds time from this machine's clock.
                known_at = client.heard_at or now
                # A different page size moves the page edges, so a record is not doubled again.
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
        """Raise the last error again if an answer cannot be expected."""
        if len(self._refusals) >= _REFUSALS:
            raise copy.copy(self._refusals[-1])
        if bank is not None:
            self._banks.check(bank)

    def _note(self, bank: str | None, result: PagedRead | LeanError) -> None:
        """Record how a read ended, for later reads."""
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
