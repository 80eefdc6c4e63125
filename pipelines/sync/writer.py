"""The writer of a sync: types and commits complete reads in batches, and records failed reads."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa

from lean_resources.decoding import Decoder, DecodeResult
from lean_resources.errors import (
    BankPausedError,
    ConsentError,
    IncompleteError,
    LeanError,
    NotGrantedError,
    SchemaError,
)
from lean_resources.machine import raise_machine_error
from lean_resources.paging import PagedRead
from lean_resources.streams import Stream, family
from pipelines.lake.batch import Batch
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Mark, Outcome, Pull
from pipelines.lake.schemas import RAW_SCHEMA
from pipelines.sync.coverage import covered
from pipelines.sync.last_good import LastGood
from pipelines.sync.read_targets import ReadTarget
from pipelines.sync.report import Report
from pipelines.sync.slots import slots_of
from pipelines.sync.tasks import Done, Task

BATCH_READS = 20_000
"""Maximum number of reads that are typed together, and of pulls that wait for a commit."""
_COMMIT_BYTES = 48_000_000
_COMMIT_SECONDS = 30.0
_COMMIT_READS = 250
_REMEDIES: dict[str | None, str] = {
    "CONSENT_EXPIRED": ConsentError.remedy,
    "BANK_PAUSED": BankPausedError.remedy,
}
_UNTYPABLE = (LeanError, ValueError, RecursionError, duckdb.Error)  # errors of a decoder


@dataclass(frozen=True, slots=True)
class Typed:
    """A batch of reads between the decoder and the lake.

    Args:
        failed: Reads that ended in an error.
        unchanged: Reads of a bank data copy that an earlier pull read.
        whole: Complete reads, by `series_id`.
        decoded: Rows and quarantine of the complete reads, by stream.
    """

    failed: list[tuple[Done, LeanError]]
    unchanged: list[Done]
    whole: dict[str, tuple[Done, PagedRead]]
    decoded: dict[str, DecodeResult]


class Writer:
    """Types and commits reads: a thread types a batch while a second thread writes the last batch.

    Only `add` and `commit` change the pulls for the ledger, and they share a thread.

    Args:
        stream: The stream; streams that are exploded from it are included.
        lake: The lake to write to.
        mark: The run and generation, for the ledger.
        unfit_share: Share of a read's records; with more unfit records the read is refused.
    """

    def __init__(self, stream: Stream, lake: Lake, mark: Mark, unfit_share: float) -> None:
        self.report = Report()
        self._unfit_share = unfit_share
        # Each has a single thread for its whole life, which reuses the memory that it frees.
        self._typing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="typing")
        self._committing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="committing")
        self._lake = lake
        self._mark = mark
        self._stream = stream
        self.streams = family(stream)
        self._decoders = {s.name: Decoder(s) for s in self.streams}
        self._last_good = {s.name: LastGood(s, lake) for s in self.streams}
        # Pulls wait, so that a file holds many of them, and a sync without news writes one file.
        self._pulls: list[Pull] = []
        self._batch: Batch | None = None
        self._held = 0  # bytes of the answers whose rows wait for the commit
        self._reads = 0  # number of reads that brought them
        self._commit_at = time.monotonic() + _COMMIT_SECONDS

    async def type(self, batch: Sequence[Done]) -> tuple[Typed, list[tuple[Task, int]]]:
        """Type a batch.

        Returns:
            The typed batch, and tasks to read again because a record came twice, each with its
            number of rereads.
        """
        return await asyncio.get_running_loop().run_in_executor(self._typing, self._type, batch)

    async def add(self, typed: Typed) -> None:
        """Write the complete reads of a batch, and record the rest."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._committing, self._add, typed)

    async def commit(self) -> None:
        """Commit all that was added."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._committing, self._commit)

    @property
    def is_full(self) -> bool:
        """Whether the added reads are large or old enough for a commit."""
        is_late = time.monotonic() > self._commit_at
        is_much = self._held >= _COMMIT_BYTES or self._reads >= _COMMIT_READS
        return is_late or is_much or len(self._pulls) >= BATCH_READS

    def close(self) -> None:
        """End the threads, and discard uncommitted reads."""
        self._typing.shutdown(wait=False)
        self._committing.shutdown(wait=True)
        for last_good in self._last_good.values():
            last_good.close()
        if self._batch is not None:
            self._batch.discard()

    def skip(self, targets: Sequence[ReadTarget]) -> None:
        """Record read targets that may not be read."""
        now = dt.datetime.now(dt.UTC)
        for target in targets:
            self._note(
                Pull(
                    pull_id=new_id(),
                    series_id=new_id(),
                    stream=self._stream.name,
                    parent_id=target.target_id,
                    entity_id=target.entity_id,
                    bank_identifier=target.bank_identifier,
                    outcome=Outcome.SKIPPED,
                    code=target.skip_code,
                    remedy=_REMEDIES.get(target.skip_code, NotGrantedError.remedy),
                    asked_at=now,
                    finished_at=now,
                    run_id=self._mark.run_id,
                    generation=self._mark.generation,
                )
            )

    def _type(self, batch: Sequence[Done]) -> tuple[Typed, list[tuple[Task, int]]]:
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
            if done.rereads and keys == done.task.doubled:
                continue  # a different page size changed nothing: the bank has it twice
            del whole[series_id]
            if done.rereads < 2:  # at most three reads
                task = replace(done.task, spent=done.requests, doubled=keys)
                again.append((task, done.rereads + 1))
            else:
                error = IncompleteError("a record came twice", code="DOUBLED")
                failed.append((done, _traced(error, read)))
        return Typed(failed, unchanged, whole, decoded), again

    def _shifted(self, decoded: Mapping[str, DecodeResult]) -> dict[str, frozenset[str]]:
        """Keys that came on two pages of one paged read, by `series_id`."""
        found: dict[str, frozenset[str]] = {}
        for stream in self.streams:
            doubled = decoded[stream.name].shifted
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

    def _add(self, typed: Typed) -> None:
        for done, error in typed.failed:
            self._fail(done, error)
        for done in typed.unchanged:
            self._unchanged(done)
        if typed.whole:
            self._write(typed)

    def _write(self, typed: Typed) -> None:
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
        self.report.note_pull(pull, is_counted=pull.stream == self._stream.name)

    def _unchanged(self, done: Done) -> None:
        for slot in slots_of(done):
            self._note(slot.pull(self._stream, self._mark, Outcome.UNCHANGED))

    def _fail(self, done: Done, error: LeanError) -> None:
        outcome = Outcome.SKIPPED if isinstance(error, NotGrantedError) else Outcome.FAILED
        failed = replace(done, result=error)
        for stream in self.streams:
            for slot in slots_of(failed, is_counted=stream is self._stream):
                self._note(slot.pull(stream, self._mark, outcome, error=error))


def _traced(error: LeanError, read: PagedRead) -> LeanError:
    """The error with the stream and the ids of the read's last answer."""
    error.stream = read.stream.name
    return read.answers[-1].traced(error)


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
            [answer.response.path for answer in answers],
            pa.array([answer.response.status_code for answer in answers], pa.int16()),
            [answer.response.correlation_id for answer in answers],
            pa.array([answer.response.trace_id for answer in answers], pa.string()),
            pa.array(
                [answer.response.received_at for answer in answers], pa.timestamp("us", tz="UTC")
            ),
            pa.chunked_array([_where_it_lies(answer.page.body) for answer in answers]),
        ],
        schema=RAW_SCHEMA,
    )


def _where_it_lies(body: bytes) -> pa.Array:
    """An array with the body as its only value, without a copy."""
    offsets = pa.py_buffer(np.array([0, len(body)], np.int32).tobytes())
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(body)])
