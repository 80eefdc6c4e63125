"""A sync of one stream: plan, read, type, write, commit.

Answers are read by many requests at once and written in batches by one thread, so that memory
holds a few batches whatever the size of the application.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.client import LeanClient, Read
from lean_resources.errors import (
    AuthError,
    BankPausedError,
    ConsentError,
    IncompleteError,
    LeanError,
    NotGrantedError,
    SchemaError,
    UnavailableError,
)
from lean_resources.gate import Gate, Gated
from lean_resources.limits import CircuitBreaker, CircuitOpenError
from lean_resources.machine import raise_machine_error
from lean_resources.quarantine import QUARANTINE_SCHEMA, TRACE_SCHEMA, key_text, lost
from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake import DEPTHS, PARENTS, RAW_SCHEMA, Batch, Lake, lake_schema
from pipelines.ledger import Outcome, Pull, new_id
from pipelines.memory import keep_memory
from pipelines.parents import ClaimsInOrder, Parent, Resumed, parents_of, window_of
from pipelines.planner import PlannedMonth, plan
from pipelines.policy import Policy

__all__ = ["Report", "Selection", "Task", "sync", "tasks_of"]

_FIRST_DAY = "2015-01-01"  # before Lean existed
_LEAST_BATCH_BYTES = 4_000_000
_BATCH_BYTES = 8_000_000
_BUFFER_BYTES = 16_000_000
_BATCH_READS = 20_000
_COMMIT_BYTES = 48_000_000
_COMMIT_SECONDS = 30.0
_COMMIT_READS = 250
_REFUSALS = 5
_SKEW = dt.timedelta(minutes=5)  # between the clocks of Lean's own machines
_REMEDIES: dict[str | None, str] = {
    "CONSENT_EXPIRED": ConsentError.remedy,
    "BANK_PAUSED": BankPausedError.remedy,
}
_UNTYPABLE = (LeanError, ValueError, RecursionError, duckdb.Error)  # what the gate may raise

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run is narrowed to.

    Args:
        entity_ids: Only these entities; None for all.
        account_ids: Only these accounts; None for all.
        months: Months as YYYY-MM to read whatever is there already; None for what is missing.
        insights: Whether to ask Lean for its categories of transactions.
    """

    entity_ids: Collection[str] | None = None
    account_ids: Collection[str] | None = None
    months: Collection[str] | None = None
    insights: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether it leaves no entity and no account out."""
        return self.entity_ids is None and self.account_ids is None


@dataclass(frozen=True, slots=True)
class Task:
    """One series of requests to make.

    Args:
        parent: What it is of.
        request: Parameters of the requests.
        months: The pulls it commits, for a stream with months.
        unless_refreshed_at: When the store still is of this instant, nothing is new.
        spent: Requests that earlier reads of it took, in which a record came twice.
        doubled: Keys that came on two pages of the read before.
    """

    parent: Parent
    request: dict[str, str]
    months: tuple[PlannedMonth, ...] = ()
    unless_refreshed_at: dt.datetime | None = None
    spent: int = 0
    doubled: frozenset[str] = frozenset()


@dataclass(slots=True)
class Report:
    """What a sync of one stream did.

    Args:
        parents: Parents that were looked at.
        fresh: Parents that were left alone, because what is known of them is new enough.
        outcomes: Pulls by outcome.
        codes: Pulls that did not commit, by code.
        rows: Rows that were committed, by stream (a stream may bring another along).
        quarantined: Records that did not fit.
        requests: Requests made.
        received: Bytes of bodies, decoded.
        written: Bytes of files.
        seconds: Wall time.
        drift: Records with a field that the catalogue does not know, by path.
    """

    parents: int = 0
    fresh: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    quarantined: int = 0
    requests: int = 0
    received: int = 0
    written: int = 0
    seconds: float = 0.0
    drift: Counter[str] = field(default_factory=Counter)

    @property
    def failed_share(self) -> float:
        """Failed pulls among those that were tried or need not be, from 0 to 1."""
        failed = self.outcomes[Outcome.FAILED]
        tried = self.outcomes.total() - self.outcomes[Outcome.SKIPPED] + self.fresh
        return failed / tried if tried else 0.0


@dataclass(frozen=True, slots=True)
class _Done:
    """A task that was tried.

    Args:
        known_at: Lean's clock when it began.
        latest_at: Lean's clock when it ended.
    """

    task: Task
    result: Read | LeanError
    requests: int
    asked_at: dt.datetime
    known_at: dt.datetime | None
    latest_at: dt.datetime | None
    finished_at: dt.datetime
    attempt: int

    @property
    def size(self) -> int:
        if isinstance(self.result, LeanError):
            return 0
        return sum(len(answer.page.body) for answer in self.result.answers)


def tasks_of(
    stream: Stream,
    lake: Lake,
    now: dt.datetime,
    policy: Policy,
    selection: Selection,
    resumes: Collection[str] = (),
) -> Iterator[Task | Parent | None]:
    """What to read now, and the parents that may not be read, in the order of the parents' ids.

    None stands for a parent of which enough is known.

    One by one, in memory that does not grow with the accounts or the ledger.

    Args:
        stream: The stream.
        lake: The lake, which alone says what there is.
        now: Lean's clock.
        policy: How eagerly to pull.
        selection: What the run is narrowed to.
        resumes: Attempts of the same run, by id, whose reads are not repeated.
    """
    resumed = None
    if resumes:
        resumed = Resumed(resumes, now - dt.timedelta(hours=policy.resume_hours))
    also = stream.name if stream.window is Window.SNAPSHOT else DEPTHS
    with lake.planning({*PARENTS, also}) as connection:
        parents = parents_of(
            stream, connection, now, selection.entity_ids, selection.account_ids, resumed
        )
        if stream.window is Window.SNAPSHOT:
            yield from _snapshots(stream, parents, now, policy, selection)
            return
        claims = ClaimsInOrder(stream, connection.cursor(), policy.longest_lookback)
        for parent in parents:
            window = window_of(parent)
            if window is None:
                if parent.skip_code is not None:
                    yield parent
                continue
            for planned in plan([window], claims, now.date(), policy, selection.months):
                if parent.read_months and all(
                    month.month in parent.read_months for month in planned.months
                ):
                    yield None
                    continue
                request = {
                    **parent.request,
                    "start_date": planned.from_date.isoformat(),
                    "end_date": planned.to_date.isoformat(),
                }
                if selection.insights:
                    request["insights"] = "true"
                yield Task(parent, request, planned.months, planned.unless_refreshed_at)


def _snapshots(
    stream: Stream,
    parents: Iterable[Parent],
    now: dt.datetime,
    policy: Policy,
    selection: Selection,
) -> Iterator[Task | Parent | None]:
    """Reads of a stream without months; None for a parent that is not due."""
    days = {"start_date": _FIRST_DAY, "end_date": f"{now:%Y-%m-%d}"}
    extra = {name: days[name] for name in stream.query if name in days}
    hours = policy.reread_hours.get(stream.name) if selection.is_whole else None
    reread = dt.timedelta(hours=hours) if hours is not None else None
    for parent in parents:
        if parent.skip_code is not None:
            yield parent
        elif not parent.read_months and parent.is_due(now, reread):
            yield Task(parent, {**parent.request, **extra}, unless_refreshed_at=parent.refreshed_at)
        else:
            yield None


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

    One parent's failure stops no other; it ends in the ledger with its code and remedy.

    Args:
        stream: The stream; those that are exploded from it come along.
        client: An open client.
        lake: Where to write.
        policy: How eagerly to pull.
        selection: What the run is narrowed to.
        run_id: The run, for the ledger.
        resumes: Attempts of the same run, by id: what they have read is not read again, unless its
            entity was refreshed since.
        progress: Is told how many series are done, of how many.

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
    skipped = [one for one in planned if isinstance(one, Parent)]
    writer = _Writer(stream, lake, run_id)
    writer.report.parents = len({task.parent.parent_id for task in tasks}) + len(skipped)
    writer.report.fresh = planned.count(None)
    writer.skip(skipped)
    progress(0, len(tasks))
    refusals = _Refusals()
    banks = client.breaker(policy.bank_failures, policy.bank_cooldown_seconds)
    workers = min(client.settings.max_concurrency, len(tasks))

    async def read(task: Task, attempt: int) -> _Done:
        return await _read(stream, client, banks, refusals, task, attempt)

    try:
        await _Stages(read, writer, tasks, workers, progress).run()
    finally:
        writer.close()
    writer.report.requests = client.requests - before
    writer.report.seconds = time.monotonic() - started
    return writer.report


class _Stages:
    """Three stages side by side: one batch is read, the one before typed, the one before written.

    Args:
        read: Tries one task; its attempt comes with it.
        writer: Types and writes.
        tasks: What to read.
        workers: How many tasks are read at once.
        progress: Is told how many tasks are done, of how many.
    """

    def __init__(
        self,
        read: Callable[[Task, int], Awaitable[_Done]],
        writer: _Writer,
        tasks: Sequence[Task],
        workers: int,
        progress: Progress,
    ) -> None:
        self._read = read
        self._writer = writer
        self._tasks = tasks
        self._workers = workers
        self._progress = progress
        self._todo: asyncio.Queue[tuple[Task, int] | None] = asyncio.Queue()
        self._results: asyncio.Queue[_Done] = asyncio.Queue()
        self._typed: asyncio.Queue[tuple[_Typed, int] | None] = asyncio.Queue(maxsize=1)
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
            # The first failure ends the others; what they had to say is of no use to anybody.
            raise ended.exceptions[0] from None

    def _put(self, items: Sequence[tuple[Task, int] | None]) -> None:
        for item in items:
            self._todo.put_nowait(item)

    async def _read_all(self) -> None:
        while (following := await self._todo.get()) is not None:
            done = await self._read(*following)
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


async def _batch(results: asyncio.Queue[_Done], unread: int) -> list[_Done]:
    """Reads that are typed together: what has come, if it is worth a call, or all that is left."""
    batch: list[_Done] = []
    size = 0
    while len(batch) < min(unread, _BATCH_READS) and size < _BATCH_BYTES:
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

        The last to enter may exceed it: a read of any size passes, and what is held always
        suffices for a batch, so nobody waits for ever.
        """
        async with self._freed:
            await self._freed.wait_for(lambda: self._held < self._limit)
            self._held += size

    async def leave(self, size: int) -> None:
        """Make room."""
        async with self._freed:
            self._held -= size
            self._freed.notify_all()


class _Refusals:
    """Whether Lean refuses the application itself: again and again, with no answer between.

    A single refusal can be one account's; so many in a row are not, and asking on is of no use.
    """

    def __init__(self) -> None:
        self._row: list[AuthError] = []

    def check(self) -> None:
        """Raise the last refusal once there is no hope."""
        if len(self._row) >= _REFUSALS:
            raise copy.copy(self._row[-1])

    def tell(self, result: Read | LeanError) -> None:
        """Note how a read ended."""
        if isinstance(result, AuthError):
            self._row.append(result)
        else:
            self._row.clear()


async def _read(
    stream: Stream,
    client: LeanClient,
    banks: CircuitBreaker,
    refusals: _Refusals,
    task: Task,
    attempt: int,
) -> _Done:
    """Try one task, unless its bank is left alone; what Lean refuses is a result."""
    bank = task.parent.bank_identifier
    asked_at = dt.datetime.now(dt.UTC)
    known_at = latest_at = None
    result: Read | LeanError
    with client.tally() as tally:
        try:
            refusals.check()
            if bank is not None:
                banks.check(bank)
            known_at = await client.server_time()
            # A record that slid over the edge of a page does not slide over another edge.
            result = await client.read(
                stream,
                task.request,
                unless_refreshed_at=task.unless_refreshed_at,
                page_size=max(1, client.settings.page_size - attempt),
            )
            asked_at = result.asked_at
            latest_at = await client.server_time()
        except LeanError as error:
            result = error
    refusals.tell(result)
    if bank is not None and not isinstance(result, CircuitOpenError):
        _tell(banks, bank, result)
    requests = task.spent + tally.requests
    finished_at = dt.datetime.now(dt.UTC)
    return _Done(task, result, requests, asked_at, known_at, latest_at, finished_at, attempt)


def _tell(banks: CircuitBreaker, bank: str, result: Read | LeanError) -> None:
    """Let the breaker know how the bank answered."""
    if isinstance(result, BankPausedError):
        banks.pause(bank)
    elif isinstance(result, UnavailableError):
        banks.failed(bank)
    else:
        banks.succeeded(bank)


@dataclass(frozen=True, slots=True)
class _Typed:
    """A batch between the gate and the lake."""

    failed: list[tuple[_Done, LeanError]]
    unchanged: list[tuple[_Done, Read]]
    whole: dict[str, tuple[_Done, Read]]
    gated: dict[str, Gated]


class _Writer:
    """Types what was read and commits it: one thread types a batch while another writes the last.

    Only `add` and `commit` touch what is noted for the ledger, and they share a thread.
    """

    def __init__(self, stream: Stream, lake: Lake, run_id: str | None) -> None:
        self.report = Report()
        # One thread each for good: memory that it frees is memory that it uses again.
        self._typing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="typing")
        self._committing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="committing")
        self._lake = lake
        self._run_id = run_id
        self._stream = stream
        self._streams = (
            stream,
            *(s for s in STREAMS.values() if s.exploded_from == stream.name),
        )
        self._gates = {s.name: Gate(s) for s in self._streams}
        # Pulls wait for others, so that files hold many and nothing new makes one file.
        self._pulls: list[Pull] = []
        self._batch: Batch | None = None
        self._held = 0  # bytes of the answers whose rows wait for the commit
        self._reads = 0  # and how many reads brought them
        self._commit_at = time.monotonic() + _COMMIT_SECONDS

    async def type(self, batch: Sequence[_Done]) -> tuple[_Typed, list[tuple[Task, int]]]:
        """Type a batch.

        Returns:
            The batch, and tasks to be read again because a record came twice, each with its next
            attempt.
        """
        return await asyncio.get_running_loop().run_in_executor(self._typing, self._type, batch)

    async def add(self, typed: _Typed) -> None:
        """Write what is whole of a batch, and note the rest."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._committing, self._add, typed)

    async def commit(self) -> None:
        """Make everything count that was added."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._committing, self._commit)

    @property
    def is_full(self) -> bool:
        """Whether enough has come together, or waited long enough, to be committed."""
        is_late = time.monotonic() > self._commit_at
        is_much = self._held >= _COMMIT_BYTES or self._reads >= _COMMIT_READS
        return is_late or is_much or len(self._pulls) >= _BATCH_READS

    def close(self) -> None:
        """Let the threads go, and give up what was not committed."""
        self._typing.shutdown(wait=False)
        self._committing.shutdown(wait=True)
        if self._batch is not None:
            self._batch.discard()

    def skip(self, parents: Sequence[Parent]) -> None:
        """Note parents that may not be read, once per reason and sync."""
        now = dt.datetime.now(dt.UTC)
        for parent in parents:
            self._note(
                Pull(
                    pull_id=new_id(),
                    series_id=new_id(),
                    stream=self._stream.name,
                    parent_id=parent.parent_id,
                    entity_id=parent.entity_id,
                    bank_identifier=parent.bank_identifier,
                    outcome=Outcome.SKIPPED,
                    code=parent.skip_code,
                    remedy=_REMEDIES.get(parent.skip_code, NotGrantedError.remedy),
                    asked_at=now,
                    finished_at=now,
                    run_id=self._run_id,
                )
            )

    def _type(self, batch: Sequence[_Done]) -> tuple[_Typed, list[tuple[Task, int]]]:
        again: list[tuple[Task, int]] = []
        failed: list[tuple[_Done, LeanError]] = []
        unchanged: list[tuple[_Done, Read]] = []
        whole: dict[str, tuple[_Done, Read]] = {}
        for done in batch:
            if isinstance(done.result, LeanError):
                failed.append((done, done.result))
            elif done.result.is_unchanged:
                unchanged.append((done, done.result))
            else:
                whole[done.result.pages[0].series_id] = (done, done.result)
        gated, untypable = self._gated(whole)
        failed += untypable
        for series_id, keys in self._shifted(gated).items():
            done, read = whole[series_id]
            if done.attempt and keys == done.task.doubled:
                continue  # however the pages are cut: the bank has it twice
            del whole[series_id]
            if done.attempt < 2:  # three reads in all
                task = replace(done.task, spent=done.requests, doubled=keys)
                again.append((task, done.attempt + 1))
            else:
                error = IncompleteError("a record came twice", code="DOUBLED")
                failed.append((done, _traced(error, read)))
        return _Typed(failed, unchanged, whole, gated), again

    def _shifted(self, gated: Mapping[str, Gated]) -> dict[str, frozenset[str]]:
        """Keys that came on two pages of one read, by series."""
        found: dict[str, frozenset[str]] = {}
        for stream in self._streams:
            doubled = _doubled(stream, gated)
            for series_id in doubled:
                found[series_id] = found.get(series_id, frozenset()) | doubled[series_id]
        return found

    def _gated(
        self, whole: dict[str, tuple[_Done, Read]]
    ) -> tuple[dict[str, Gated], list[tuple[_Done, LeanError]]]:
        """Type whole series; one that cannot be typed fails alone and is no longer among them."""
        failed: list[tuple[_Done, LeanError]] = []
        try:
            return self._gate([read for _, read in whole.values()]), failed
        except _UNTYPABLE as problem:
            raise_machine_error(problem)
            for series_id, (done, read) in list(whole.items()):
                try:
                    self._gate([read])
                except _UNTYPABLE as problem:
                    raise_machine_error(problem)
                    del whole[series_id]
                    failed.append((done, _traced(SchemaError("an answer cannot be typed"), read)))
            return self._gate([read for _, read in whole.values()]), failed

    def _gate(self, reads: Sequence[Read]) -> dict[str, Gated]:
        pages = [page for read in reads for page in read.pages]
        return {name: gate(pages) for name, gate in self._gates.items()}

    def _add(self, typed: _Typed) -> None:
        for done, error in typed.failed:
            self._fail(done, error)
        for done, read in typed.unchanged:
            self._unchanged(done, read)
        if typed.whole:
            self._write(typed)

    def _write(self, typed: _Typed) -> None:
        """Add whole series to the batch."""
        self._batch = batch = self._batch or self._lake.batch()
        self._held += sum(done.size for done, _ in typed.whole.values())
        self._reads += len(typed.whole)
        batch.raw(self._stream, _raw_table([read for _, read in typed.whole.values()]))
        for stream in self._streams:
            found = typed.gated[stream.name]
            pulls, parts, quarantine = _claimed(stream, typed.whole, found, self._run_id)
            for month, part in parts:
                batch.rows(stream, part, month=month)
            batch.quarantine(stream, quarantine)
            for pull in pulls:
                self._note(pull)
            self.report.drift.update(found.drift if stream is self._stream else {})

    def _commit(self) -> None:
        self._commit_at = time.monotonic() + _COMMIT_SECONDS
        if not self._pulls:
            return
        batch = self._batch or self._lake.batch()
        batch.commit(self._pulls)
        self.report.written += batch.bytes
        self._pulls, self._batch, self._held, self._reads = [], None, 0, 0

    def _note(self, pull: Pull) -> None:
        self._pulls.append(pull)
        report = self.report
        report.quarantined += pull.quarantined
        report.rows[pull.stream] += pull.rows
        if pull.stream == self._stream.name:
            report.outcomes[pull.outcome] += 1
            report.received += pull.bytes
            if pull.code is not None:
                report.codes[pull.code] += 1

    def _unchanged(self, done: _Done, read: Read) -> None:
        for place, month in enumerate(done.task.months or (None,)):
            self._note(
                _pull_of(
                    self._stream,
                    done,
                    month,
                    self._run_id,
                    Outcome.UNCHANGED,
                    read=read,
                    is_first=place == 0,
                )
            )

    def _fail(self, done: _Done, error: LeanError) -> None:
        outcome = Outcome.SKIPPED if isinstance(error, NotGrantedError) else Outcome.FAILED
        for stream in self._streams:
            for place, month in enumerate(done.task.months or (None,)):
                is_first = place == 0 and stream is self._stream
                self._note(
                    _pull_of(
                        stream, done, month, self._run_id, outcome, error=error, is_first=is_first
                    )
                )


def _credible(
    refreshed_at: dt.datetime | None, latest_at: dt.datetime | None
) -> dt.datetime | None:
    """The store's instant, cut to Lean's clock: from the future it would be the newest for ever."""
    if refreshed_at is None or latest_at is None or refreshed_at <= latest_at + _SKEW:
        return refreshed_at
    return latest_at


def _pull_of(
    stream: Stream,
    done: _Done,
    month: PlannedMonth | None,
    run_id: str | None,
    outcome: Outcome,
    *,
    read: Read | None = None,
    error: LeanError | None = None,
    claimed: _Slot | None = None,
    rows: int = 0,
    quarantined: int = 0,
    is_first: bool = True,
) -> Pull:
    """The ledger's row of one pull."""
    last = read.answers[-1] if read is not None else None
    task = done.task
    # What speaks for no day tells which days it was about.
    days = claimed if claimed is not None and claimed.from_date is not None else month
    return Pull(
        pull_id=new_id(),
        series_id=last.page.series_id if last is not None else new_id(),
        stream=stream.name,
        parent_id=task.parent.parent_id,
        entity_id=task.parent.entity_id,
        bank_identifier=task.parent.bank_identifier,
        month=month.month if month is not None else None,
        claimed_from=days.from_date if days is not None else None,
        claimed_to=days.to_date if days is not None else None,
        outcome=outcome,
        code=error.code if error is not None else None,
        remedy=error.remedy if error is not None else None,
        rows=rows,
        quarantined=quarantined,
        pages=len(read.answers) if read is not None else 0,
        requests=done.requests if is_first else 0,
        bytes=done.size if is_first else 0,
        refreshed_at=_credible(read.refreshed_at, done.latest_at) if read is not None else None,
        known_at=done.known_at,
        asked_at=done.asked_at,
        finished_at=done.finished_at,
        results_id=last.envelope.results_id if last else error.results_id if error else None,
        correlation_id=last.correlation_id if last else error.correlation_id if error else None,
        trace_id=last.trace_id if last else error.trace_id if error else None,
        run_id=run_id,
    )


def _traced(error: LeanError, read: Read) -> LeanError:
    """The error with the ids of the read's last answer."""
    last = read.answers[-1]
    error.stream = read.stream.name
    error.results_id = last.envelope.results_id
    error.correlation_id, error.trace_id = last.correlation_id, last.trace_id
    return error


def _doubled(stream: Stream, gated: Mapping[str, Gated]) -> Mapping[str, frozenset[str]]:
    """Keys that came on two pages, by series: the pages may have moved while they were read."""
    return gated[stream.name].shifted


def _raw_table(reads: Sequence[Read]) -> pa.Table:
    answers = [answer for read in reads for answer in read.answers]
    return pa.table(
        [
            [answer.page.series_id for answer in answers],
            pa.array([answer.page.number for answer in answers], pa.int32()),
            pa.array([answer.page.first_record for answer in answers], pa.int32()),
            [answer.page.is_detail for answer in answers],
            pa.array(
                [list(answer.page.request.items()) for answer in answers],
                RAW_SCHEMA.field("request").type,
            ),
            [answer.asked_path for answer in answers],
            pa.array([answer.status_code for answer in answers], pa.int16()),
            [answer.correlation_id for answer in answers],
            pa.array([answer.trace_id for answer in answers], pa.string()),
            pa.array([answer.received_at for answer in answers], pa.timestamp("us", tz="UTC")),
            pa.chunked_array([_where_it_lies(answer.page.body) for answer in answers]),
        ],
        schema=RAW_SCHEMA,
    )


def _where_it_lies(body: bytes) -> pa.Array:
    """A body as an array of one, not copied."""
    offsets = pa.py_buffer(np.array([0, len(body)], np.int32).tobytes())
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(body)])


@dataclass(frozen=True, slots=True)
class _Slot:
    """What a pull of a series speaks for: a parent, or days of a month, None where none is left."""

    series_id: str
    month: PlannedMonth | None = None
    from_date: dt.date | None = None
    to_date: dt.date | None = None


def _slot(
    series_id: str, month: PlannedMonth, done: _Done, read: Read, first_row_on: dt.date | None
) -> _Slot:
    """The days of a month that a read speaks for.

    A store knows nothing of the days after it was refreshed, nor of those that its bank forgot.
    """
    refreshed_at = _credible(read.refreshed_at, done.latest_at)
    from_date = month.claims_from(done.task.parent.depth, refreshed_at, first_row_on)
    to_date = month.to_date if refreshed_at is None else min(month.to_date, refreshed_at.date())
    if from_date > to_date:
        return _Slot(series_id, month)
    return _Slot(series_id, month, from_date, to_date)


def _first_days(
    stream: Stream, whole: Mapping[str, tuple[_Done, Read]], rows: pa.Table
) -> dict[str, dt.date]:
    """The UTC day of the first row of each series whose bank may have forgotten days."""
    wanted = [
        series_id
        for series_id, (done, _) in whole.items()
        if done.task.parent.depth is not None
        and any(month.known_to is not None for month in done.task.months)
    ]
    if not wanted:
        return {}
    found = rows.select(["series_id"]).append_column("day", _day_of_row(stream, rows))
    found = found.filter(pc.is_in(found["series_id"], value_set=pa.array(wanted, pa.string())))
    firsts = found.group_by("series_id", use_threads=False).aggregate([("day", "min")])
    series_ids, days = firsts["series_id"].to_pylist(), firsts["day_min"].to_pylist()
    return {series_id: day for series_id, day in zip(series_ids, days, strict=True) if day}


def _claimed(
    stream: Stream,
    whole: dict[str, tuple[_Done, Read]],
    gated: Gated,
    run_id: str | None,
) -> tuple[list[Pull], list[tuple[str | None, pa.Table]], pa.Table]:
    """Pulls of whole series, the rows that they claim, and the quarantine.

    Returns:
        The pulls; the rows with `pull_id` in place of `series_id`, apart by month where the stream
        has months; the quarantine, with records that no day can be told of.
    """
    slots: list[_Slot] = []
    first_days = _first_days(stream, whole, gated.rows)
    for series_id, (done, read) in whole.items():
        if stream.window is Window.SNAPSHOT:
            slots.append(_Slot(series_id))
        else:
            first = first_days.get(series_id)
            slots += [_slot(series_id, month, done, read, first) for month in done.task.months]
    rows, quarantine = gated.rows, gated.quarantine
    in_whole = pa.array(list(whole), pa.string())
    is_whole = pc.is_in(rows["series_id"], value_set=in_whole)
    if not pc.all(is_whole).as_py():
        rows = rows.filter(is_whole)
    quarantine = quarantine.filter(pc.is_in(quarantine["series_id"], value_set=in_whole))
    index: np.ndarray
    if stream.window is Window.SNAPSHOT:
        places = {slot.series_id: place for place, slot in enumerate(slots)}
        index = np.array([places[s] for s in rows["series_id"].to_pylist()], np.int64)
    else:
        rows, quarantine = _placed(stream, rows, quarantine)
        index = _slot_of_row(stream, rows, slots)
    counts = np.bincount(index[index >= 0], minlength=len(slots))
    wrong = Counter(lost(quarantine)["series_id"].to_pylist())
    pulls: list[Pull] = []
    seen: set[str] = set()
    for place, slot in enumerate(slots):
        done, read = whole[slot.series_id]
        is_first = slot.series_id not in seen
        seen.add(slot.series_id)
        is_unknown = slot.month is not None and slot.from_date is None
        pulls.append(
            _pull_of(
                stream,
                done,
                slot.month,
                run_id,
                Outcome.UNCHANGED if is_unknown else Outcome.COMMITTED,
                read=read,
                claimed=slot,
                rows=int(counts[place]),
                quarantined=wrong[slot.series_id] if is_first else 0,
                is_first=is_first and stream.exploded_from is None,
            )
        )
    return pulls, _parts(stream, rows, index, pulls), quarantine


def _parts(
    stream: Stream, rows: pa.Table, index: np.ndarray, pulls: Sequence[Pull]
) -> list[tuple[str | None, pa.Table]]:
    """Rows as the lake has them but without columns that are wholly null, apart by month.

    Args:
        stream: The stream.
        rows: Rows as the gate has them.
        index: For each row the place of its pull among `pulls`, or -1 where none claims it.
        pulls: The pulls.
    """
    names = [pull.month or "" for pull in pulls]
    months = sorted(set(names))
    # Most columns are null throughout a batch, and moving nothing costs as much as moving rows.
    present = [n for n in stream.schema.names if rows[n].null_count < rows.num_rows]
    rows = rows.select([*present, "page_number", "record_number"])
    numbers = np.array([months.index(name) for name in names], np.int64)
    if stream.window is Window.MONTHS:
        # One reordering and slices of it cost a fraction of one filter per month.
        of_row = np.where(index >= 0, numbers[index], -1) if len(pulls) else index
        order = np.argsort(of_row, kind="stable")
        order = order[of_row[order] >= 0]
        rows, index = rows.take(pa.array(order)), index[order]
    ids = pa.array([pull.pull_id for pull in pulls], pa.string())
    place = len(present)
    table = rows.add_column(place, lake_schema(stream).field("pull_id"), ids.take(pa.array(index)))
    if stream.window is Window.SNAPSHOT:
        return [(None, table)]
    bounds = np.searchsorted(numbers[index], np.arange(len(months) + 1))
    return [
        (month, table.slice(start, end - start))
        for month, start, end in zip(months, bounds[:-1], bounds[1:], strict=True)
    ]


def _day_of_row(stream: Stream, rows: pa.Table) -> pa.ChunkedArray:
    """The UTC day that a row stands on."""
    instants = pc.coalesce(*(rows[name] for name in stream.placed_by))
    return instants.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)


def _placed(stream: Stream, rows: pa.Table, quarantine: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Move rows that stand on no day to the quarantine."""
    homeless = pc.is_null(pc.coalesce(*(rows[name] for name in stream.placed_by)))
    if not pc.any(homeless).as_py():
        return rows, quarantine
    reason = f"none of {', '.join(stream.placed_by)} says on which day it stands"
    out = [
        {
            **{name: row[name] for name in TRACE_SCHEMA.names},
            "column_name": stream.placed_by[0],
            "reason": reason,
            "record_key": key_text([row[name] for name in stream.key]),
            "is_lost": True,
        }
        for row in rows.filter(homeless).to_pylist()
    ]
    table = pa.Table.from_pylist(out, QUARANTINE_SCHEMA)
    return rows.filter(pc.invert(homeless)), pa.concat_tables([quarantine, table])


def _slot_of_row(stream: Stream, rows: pa.Table, slots: Sequence[_Slot]) -> np.ndarray:
    """For each row the place of the pull that claims its day, or -1."""
    if rows.num_rows == 0 or not slots:
        return np.full(rows.num_rows, -1, np.int64)
    epoch = dt.date(1970, 1, 1)
    encoded = rows["series_id"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    number = {series_id: place for place, series_id in enumerate(encoded.dictionary.to_pylist())}
    # Claims of one series are neighbours, so the last claim that begins by a row's day is its only
    # candidate; days until the year 9999 fit 22 bits.
    starts, ends, order = [], [], []
    for place, slot in enumerate(slots):
        if slot.series_id in number and slot.from_date is not None and slot.to_date is not None:
            base = number[slot.series_id] << 22
            starts.append(base + (slot.from_date - epoch).days)
            ends.append(base + (slot.to_date - epoch).days)
            order.append(place)
    sort = np.argsort(starts)
    start, end, place_of = (np.array(values, np.int64)[sort] for values in (starts, ends, order))
    days = _day_of_row(stream, rows).cast(pa.int32()).to_numpy().astype(np.int64)
    if not order:
        return np.full(rows.num_rows, -1, np.int64)
    keys = (encoded.indices.to_numpy().astype(np.int64) << 22) + days
    found = np.searchsorted(start, keys, side="right") - 1
    valid = (found >= 0) & (keys <= end[found])
    return np.where(valid, place_of[found], -1)
