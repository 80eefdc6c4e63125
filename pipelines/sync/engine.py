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
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import duckdb
import numpy as np
import pyarrow as pa

from lean_resources.client import LeanClient
from lean_resources.decoding import Decoder, DecodeResult
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
from lean_resources.limits import CircuitBreaker, CircuitOpenError
from lean_resources.machine import raise_machine_error
from lean_resources.paging import PagedRead
from lean_resources.streams import STREAMS, Stream
from pipelines.lake.batch import Batch
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Mark, Outcome, Pull, new_id
from pipelines.lake.quarantine import standing
from pipelines.lake.schemas import RAW_SCHEMA
from pipelines.sync.coverage import covered, slots_of
from pipelines.sync.last_good import LastGood
from pipelines.sync.memory import keep_memory
from pipelines.sync.policy import Policy
from pipelines.sync.read_targets import Parent
from pipelines.sync.tasks import Done, Selection, Task, tasks_of

__all__ = ["Report", "Selection", "Task", "sync", "tasks_of"]

_LEAST_BATCH_BYTES = 4_000_000
_BATCH_BYTES = 8_000_000
_BUFFER_BYTES = 16_000_000
_BATCH_READS = 20_000
_COMMIT_BYTES = 48_000_000
_COMMIT_SECONDS = 30.0
_COMMIT_READS = 250
_REFUSALS = 5
_REMEDIES: dict[str | None, str] = {
    "CONSENT_EXPIRED": ConsentError.remedy,
    "BANK_PAUSED": BankPausedError.remedy,
}
_UNTYPABLE = (LeanError, ValueError, RecursionError, duckdb.Error)  # what a decoder may raise

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Report:
    """What a sync of one stream did.

    Args:
        parents: Parents that were looked at.
        fresh: Parents that were left alone, because what is known of them is new enough.
        outcomes: Pulls by outcome.
        codes: Pulls that did not commit, by code.
        rows: Rows that were committed, by stream (a stream may bring another along).
        quarantined: Records that did not fit and were left out.
        unfit: Records that were left out, and values that became null, by column and reason.
        requests: Requests made.
        received: Bytes of bodies, decoded.
        written: Bytes of files.
        seconds: Wall time.
        standing: Records that do not fit and still count, whenever they were read, by column and
            reason; those of streams that come along included.
        drift: Records with a field that the catalogue does not know, by path.
    """

    parents: int = 0
    fresh: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    quarantined: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    standing: Counter[str] = field(default_factory=Counter)
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

    def note_unfit(self, quarantine: pa.Table) -> None:
        """Count what went to quarantine, without a value."""
        names = quarantine["column_name"].to_pylist()
        reasons = quarantine["reason"].to_pylist()
        self.unfit.update(f"{name} {reason}" for name, reason in zip(names, reasons, strict=True))


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
        progress: Called with the stream, the paged reads that are done, and the number of all.

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
    mark = Mark(run_id, await asyncio.to_thread(lake.next_generation))
    writer = _Writer(stream, lake, mark, policy.unfit_share)
    writer.report.parents = len({task.parent.parent_id for task in tasks}) + len(skipped)
    writer.report.fresh = planned.count(None)
    writer.skip(skipped)
    progress(0, len(tasks))
    refusals = _Refusals()
    banks = client.breaker(policy.bank_failures, policy.bank_cooldown_seconds)
    workers = min(client.settings.max_concurrency, len(tasks))

    async def read(task: Task, attempt: int) -> Done:
        return await _read(stream, client, banks, refusals, task, attempt)

    try:
        await _Stages(read, writer, tasks, workers, progress).run()
    finally:
        writer.close()
    writer.report.standing = await asyncio.to_thread(
        lambda: sum((standing(lake, one) for one in writer.streams), Counter())
    )
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
        read: Callable[[Task, int], Awaitable[Done]],
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
        self._results: asyncio.Queue[Done] = asyncio.Queue()
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


async def _batch(results: asyncio.Queue[Done], unread: int) -> list[Done]:
    """Reads that are typed together: what has come, if it is worth a call, or all that is left."""
    batch: list[Done] = []
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

    def tell(self, result: PagedRead | LeanError) -> None:
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
) -> Done:
    """Try one task, unless its bank is left alone; what Lean refuses is a result."""
    bank = task.parent.bank_identifier
    asked_at = dt.datetime.now(dt.UTC)
    known_at, latest_at = client.heard_at, None
    result: PagedRead | LeanError
    with client.tally() as tally:
        try:
            refusals.check()
            if bank is not None:
                banks.check(bank)
            now = await client.server_time()
            # As Lean told it: what is counted on from there is this machine's clock.
            known_at = client.heard_at or now
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
    return Done(task, result, requests, asked_at, known_at, latest_at, finished_at, attempt)


def _tell(banks: CircuitBreaker, bank: str, result: PagedRead | LeanError) -> None:
    """Let the breaker know how the bank answered."""
    if isinstance(result, BankPausedError):
        banks.pause(bank)
    elif isinstance(result, UnavailableError):
        banks.failed(bank)
    else:
        banks.succeeded(bank)


@dataclass(frozen=True, slots=True)
class _Typed:
    """A batch between the decoder and the lake."""

    failed: list[tuple[Done, LeanError]]
    unchanged: list[Done]
    whole: dict[str, tuple[Done, PagedRead]]
    decoded: dict[str, DecodeResult]


class _Writer:
    """Types what was read and commits it: one thread types a batch while another writes the last.

    Only `add` and `commit` touch what is noted for the ledger, and they share a thread.
    """

    def __init__(self, stream: Stream, lake: Lake, mark: Mark, unfit_share: float) -> None:
        self.report = Report()
        self._unfit_share = unfit_share
        # One thread each for good: memory that it frees is memory that it uses again.
        self._typing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="typing")
        self._committing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="committing")
        self._lake = lake
        self._mark = mark
        self._stream = stream
        self.streams = (
            stream,
            *(s for s in STREAMS.values() if s.exploded_from == stream.name),
        )
        self._decoders = {s.name: Decoder(s) for s in self.streams}
        self._last_good = {s.name: LastGood(s, lake) for s in self.streams}
        # Pulls wait for others, so that files hold many and nothing new makes one file.
        self._pulls: list[Pull] = []
        self._batch: Batch | None = None
        self._held = 0  # bytes of the answers whose rows wait for the commit
        self._reads = 0  # and how many reads brought them
        self._commit_at = time.monotonic() + _COMMIT_SECONDS

    async def type(self, batch: Sequence[Done]) -> tuple[_Typed, list[tuple[Task, int]]]:
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
        for last_good in self._last_good.values():
            last_good.close()
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
                    run_id=self._mark.run_id,
                    generation=self._mark.generation,
                )
            )

    def _type(self, batch: Sequence[Done]) -> tuple[_Typed, list[tuple[Task, int]]]:
        again: list[tuple[Task, int]] = []
        failed: list[tuple[Done, LeanError]] = []
        unchanged: list[Done] = []
        whole: dict[str, tuple[Done, PagedRead]] = {}
        for done in batch:
            if isinstance(done.result, LeanError):
                failed.append((done, done.result))
            elif done.result.is_unchanged:
                unchanged.append(done)
            else:
                whole[done.result.pages[0].series_id] = (done, done.result)
        decoded, untypable = self._decode_whole(whole)
        failed += untypable
        for series_id, keys in self._shifted(decoded).items():
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
        return _Typed(failed, unchanged, whole, decoded), again

    def _shifted(self, decoded: Mapping[str, DecodeResult]) -> dict[str, frozenset[str]]:
        """Keys that came on two pages of one paged read, by `series_id`."""
        found: dict[str, frozenset[str]] = {}
        for stream in self.streams:
            doubled = _doubled(stream, decoded)
            for series_id in doubled:
                found[series_id] = found.get(series_id, frozenset()) | doubled[series_id]
        return found

    def _decode_whole(
        self, whole: dict[str, tuple[Done, PagedRead]]
    ) -> tuple[dict[str, DecodeResult], list[tuple[Done, LeanError]]]:
        """Decode complete reads; a read that cannot be decoded fails alone and leaves `whole`."""
        failed: list[tuple[Done, LeanError]] = []
        try:
            return self._decode([read for _, read in whole.values()]), failed
        except _UNTYPABLE as problem:
            raise_machine_error(problem)
            for series_id, (done, read) in list(whole.items()):
                try:
                    self._decode([read])
                except _UNTYPABLE as problem:
                    raise_machine_error(problem)
                    del whole[series_id]
                    failed.append((done, _traced(SchemaError("an answer cannot be typed"), read)))
            return self._decode([read for _, read in whole.values()]), failed

    def _decode(self, reads: Sequence[PagedRead]) -> dict[str, DecodeResult]:
        pages = [page for read in reads for page in read.pages]
        return {name: decoder.decode(pages) for name, decoder in self._decoders.items()}

    def _add(self, typed: _Typed) -> None:
        for done, error in typed.failed:
            self._fail(done, error)
        for done in typed.unchanged:
            self._unchanged(done)
        if typed.whole:
            self._write(typed)

    def _write(self, typed: _Typed) -> None:
        """Add complete reads to the batch."""
        self._batch = batch = self._batch or self._lake.batch()
        self._held += sum(done.size for done, _ in typed.whole.values())
        self._reads += len(typed.whole)
        batch.raw(self._stream, _raw_table([read for _, read in typed.whole.values()]))
        whole = {series_id: done for series_id, (done, _) in typed.whole.items()}
        for stream in self.streams:
            decoded = typed.decoded[stream.name]
            made = covered(
                stream,
                whole,
                decoded,
                self._last_good[stream.name],
                unfit_share=self._unfit_share,
                mark=self._mark,
            )
            for month, part in made.parts:
                batch.rows(stream, part, month=month)
            batch.quarantine(stream, made.quarantine)
            for pull in made.pulls:
                self._note(pull)
            self.report.note_unfit(made.quarantine)
            self.report.drift.update(decoded.drift if stream is self._stream else {})

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

    def _unchanged(self, done: Done) -> None:
        for slot in slots_of(done):
            self._note(slot.pull(self._stream, self._mark, Outcome.UNCHANGED))

    def _fail(self, done: Done, error: LeanError) -> None:
        outcome = Outcome.SKIPPED if isinstance(error, NotGrantedError) else Outcome.FAILED
        failed = replace(done, result=error)
        for stream in self.streams:
            for slot in slots_of(failed, is_counted=stream is self._stream):
                self._note(slot.pull(stream, self._mark, outcome, error=error))


def _doubled(stream: Stream, decoded: Mapping[str, DecodeResult]) -> Mapping[str, frozenset[str]]:
    """Keys that came on two pages, by `series_id`: the pages may have moved during the read."""
    return decoded[stream.name].shifted


def _traced(error: LeanError, read: PagedRead) -> LeanError:
    """The error with the ids of the read's last answer."""
    last = read.answers[-1]
    error.stream = read.stream.name
    error.results_id = last.envelope.results_id
    error.correlation_id, error.trace_id = last.correlation_id, last.trace_id
    return error


def _raw_table(reads: Sequence[PagedRead]) -> pa.Table:
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
