"""Replay: decodes rows again from the answers as received, without requests to Lean.

It serves new columns of the catalogue, and corrections of typing. Each pull that counts gets a
successor with the same days, bank data copy and instants, and with rows from the raw pages. The
successor has a later generation, so it replaces the old pull. A read that was refused, because too
many records did not fit, counts once they fit.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.decoding import Decoder, DecodeResult, Page
from lean_resources.quarantine import lost
from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake.folders import answers_of
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import PULL_COLUMNS, Mark, Outcome, Pull
from pipelines.lake.queries import QUERIES
from pipelines.lake.schemas import lake_schema
from pipelines.sync.last_good import LastGood
from pipelines.sync.misfits import too_many, unplaced
from pipelines.sync.policy import Policy
from pipelines.sync.slots import day_of_row, moving_from

_READS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a stream's replay.

    Args:
        pulls: Number of replayed pulls.
        rows: Number of their rows.
        without_answers: Number of pulls that stay unchanged, because their answers are not kept.
    """

    pulls: int
    rows: int
    without_answers: int


def replay(
    stream: Stream,
    lake: Lake,
    *,
    policy: Policy | None = None,
    run_id: str | None = None,
    only: Collection[str] | None = None,
) -> Replayed:
    """Type the answers of a stream's pulls again.

    Args:
        stream: The stream; an exploded stream uses the answers of its source stream.
        policy: Sets the share of records that may be unfit; the default policy if None.
        run_id: The run, for the ledger.
        only: Ids of pulls, even of pulls that no longer count; None for all pulls that count.

    Raises:
        DamageError: A file that is read is missing, or has the wrong size.
        SchemaError: An answer can no longer be typed; its group of reads is not committed.
    """
    outer = STREAMS[stream.exploded_from or stream.name]
    with lake.connect(("claims",)) as connection:
        lake.check_folders(connection, [answers_of(outer)])
        lake.verify(connection, [answers_of(outer)])
        connection.execute(f"create temp view raw_pages as {lake.raw_pages(outer)}")
        pulls = _pulls(connection, stream, only)
        known = {
            row[0]
            for row in connection.execute("select distinct series_id from raw_pages").fetchall()
        }
        kept = [pull for pull in pulls if pull.series_id in known]
        series_ids = sorted({pull.series_id for pull in kept})
        rows = 0
        decoder = Decoder(stream)
        mark = Mark(run_id, lake.next_generation())
        unfit_share = (policy or Policy()).unfit_share
        with closing(LastGood(stream, lake)) as last_good:
            for start in range(0, len(series_ids), _READS_AT_ONCE):
                chosen = set(series_ids[start : start + _READS_AT_ONCE])
                group = [pull for pull in kept if pull.series_id in chosen]
                decoded = decoder.decode(_pages(connection, sorted(chosen)))
                misfits = _UnfitRecords(stream, decoded, last_good, unfit_share)
                rows += _commit(stream, lake, group, decoded, misfits, mark)
    return Replayed(len(kept), rows, len(pulls) - len(kept))


def _pulls(
    connection: duckdb.DuckDBPyConnection, stream: Stream, only: Collection[str] | None
) -> list[Pull]:
    """Pulls to replay in the order of their ids: the pulls in `only`, or all that count."""
    ids = QUERIES["replayable_pulls"]
    given: dict[str, Any] = {"stream": stream.name}
    if only is not None:
        ids, given = "select unnest($only)", {**given, "only": list(only)}
    result = connection.execute(
        f"select {', '.join(PULL_COLUMNS)} from pulls"
        f" where stream = $stream and pull_id in ({ids}) order by pull_id",
        given,
    )
    return [Pull.of_row(PULL_COLUMNS, row) for row in result.fetchall()]


def _pages(connection: duckdb.DuckDBPyConnection, series_ids: Sequence[str]) -> list[Page]:
    found = connection.execute(
        "select series_id, page_number, first_record, body, request, is_detail from raw_pages"
        " where list_contains($series_ids, series_id) order by series_id, page_number",
        {"series_ids": list(series_ids)},
    ).fetchall()
    return [
        Page(series_id, number, first, bytes(body), dict(request), is_detail=is_detail)
        for series_id, number, first, body, request, is_detail in found
    ]


def _commit(
    stream: Stream,
    lake: Lake,
    pulls: Sequence[Pull],
    decoded: DecodeResult,
    misfits: _UnfitRecords,
    mark: Mark,
) -> int:
    """Commit successors of pulls together; returns the number of their rows."""
    batch = lake.batch()
    total = 0
    made: list[Pull] = []
    for pull in pulls:
        is_refused = pull.outcome == Outcome.FAILED
        if is_refused and misfits.are_too_many(pull.series_id):
            continue
        chosen = _of(stream, decoded.rows, pull)
        kept = misfits.kept(pull)
        of_pull = np.zeros(chosen.num_rows, np.int64)
        [moves] = moving_from(stream, chosen, of_pull, [pull.covered_to])
        successor = replace(
            pull,
            pull_id=new_id(),
            outcome=Outcome.COMMITTED,
            code=None,
            remedy=None,
            rows=chosen.num_rows + kept.num_rows,
            quarantined=misfits.count(pull),
            unfit_dates=misfits.dates(pull),
            requests=0,
            bytes=0,
            run_id=mark.run_id,
            replaces=None,
            first_sequence_no=None,
            generation=mark.generation,
            moving_from=moves,
        )
        total += successor.rows
        made.append(successor)
        schema = lake_schema(stream)
        for rows in (chosen, kept):
            ids = pa.array([successor.pull_id] * rows.num_rows, pa.string())
            columns = [
                ids
                if field.name == "pull_id"
                else rows[field.name]
                if field.name in rows.column_names
                else pa.nulls(rows.num_rows, field.type)
                for field in schema
            ]
            batch.rows(stream, pa.Table.from_arrays(columns, schema=schema), month=pull.month)
    batch.quarantine(stream, decoded.quarantine)
    batch.commit(made)
    return total


class _UnfitRecords:
    """Records that do not fit when they are typed now.

    Args:
        decoded: The answers' rows and quarantine.
        last_good: The stream's rows in the lake.
        unfit_share: Share of a read's records; with more unfit records the read is refused.
    """

    def __init__(
        self, stream: Stream, decoded: DecodeResult, last_good: LastGood, unfit_share: float
    ) -> None:
        self._stream = stream
        self._rows = Counter(decoded.rows["series_id"].to_pylist())
        self._found: dict[str, list[tuple[dt.date | None, str | None]]] = defaultdict(list)
        found = unplaced(stream, lost(decoded.quarantine))
        names = ("series_id", "placed_on", "record_key")
        for series_id, day, key in zip(*(found[n].to_pylist() for n in names), strict=True):
            self._found[series_id].append((day, key))
        self._counted: set[str] = set()
        self._last_good = last_good
        self._unfit_share = unfit_share

    def are_too_many(self, series_id: str) -> bool:
        """Whether the read is still refused."""
        count = len(self._found[series_id])
        return too_many(count, count + self._rows[series_id], self._unfit_share)

    def count(self, pull: Pull) -> int:
        """Number of omitted records of the pull's days; a read's first pull adds those undated."""
        is_first = pull.series_id not in self._counted
        self._counted.add(pull.series_id)
        return sum(
            _covers(pull, day) if day is not None and pull.month is not None else is_first
            for day, _ in self._found[pull.series_id]
        )

    def dates(self, pull: Pull) -> list[dt.date] | None:
        """The pull's unfit UTC days; None if all records of the read fit."""
        found = self._found[pull.series_id]
        if not found:
            return None
        if pull.month is None or pull.covered_from is None or pull.covered_to is None:
            return []
        if any(day is None for day, _ in found):
            count = (pull.covered_to - pull.covered_from).days + 1
            return [pull.covered_from + dt.timedelta(days=n) for n in range(count)]
        return sorted({day for day, _ in found if day is not None and _covers(pull, day)})

    def kept(self, pull: Pull) -> pa.Table:
        """The pull's own versions of records that do not fit now."""
        keys = {key for _, key in self._found[pull.series_id] if key is not None}
        if not keys:
            return lake_schema(self._stream).empty_table()
        shown = self._last_good.rows(keys)
        return shown.filter(pc.equal(shown["pull_id"], pull.pull_id))


def _days(pull: Pull) -> tuple[dt.date, dt.date]:
    """First and last UTC day that a pull covers; days before all rows if it covers no day."""
    return pull.covered_from or dt.date.min, pull.covered_to or dt.date.min


def _covers(pull: Pull, day: dt.date) -> bool:
    first, last = _days(pull)
    return first <= day <= last


def _of(stream: Stream, rows: pa.Table, pull: Pull) -> pa.Table:
    """Rows of a pull: the rows of its paged read on days that it covers."""
    mine = rows.filter(pc.equal(rows["series_id"], pull.series_id))
    if stream.window is Window.SNAPSHOT:
        return mine
    days = day_of_row(stream, mine)
    first, last = _days(pull)
    return mine.filter(
        pc.and_(pc.greater_equal(days, pa.scalar(first)), pc.less_equal(days, pa.scalar(last)))
    )
