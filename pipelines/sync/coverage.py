"""Coverage of whole reads: distributes their rows among pulls.

A paged read of transactions becomes a pull per month. A row goes to the pull that covers its UTC
day. If the row's day is allowed but outside this read, it is left to another pull. If the day is
not allowed, the row goes to quarantine.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.decoding import DecodeResult
from lean_resources.errors import UnfitError
from lean_resources.streams import Stream, Window
from pipelines.lake.ledger import Mark, Outcome, Pull
from pipelines.lake.schemas import lake_schema
from pipelines.sync.last_good import LastGood
from pipelines.sync.misfits import Misfits, astray, undated, unplaced
from pipelines.sync.slots import Slot, day_of_row, moving_from, slots_of_whole
from pipelines.sync.tasks import Done

_EPOCH = dt.date(1970, 1, 1)
_TOO_MUCH = "too many records do not fit"


@dataclass(frozen=True, slots=True)
class Covered:
    """The pulls and rows that whole reads add to the lake.

    Args:
        pulls: A pull per read target, or per month of it.
        parts: Rows with the stream's `lake_schema` except columns without values. A stream with
            months has a part per month.
        quarantine: Rows of `QUARANTINE_SCHEMA`, except those that belong to different pulls.
    """

    pulls: list[Pull]
    parts: list[tuple[str | None, pa.Table]]
    quarantine: pa.Table


def covered(
    stream: Stream,
    whole: Mapping[str, Done],
    decoded: DecodeResult,
    last_good: LastGood,
    *,
    unfit_share: float,
    mark: Mark,
) -> Covered:
    """Decide which days whole reads cover.

    Args:
        whole: The paged reads, by `series_id`.
        decoded: Their typed rows and quarantine; rows of different reads are left out.
        last_good: The stream's rows in the lake.
        unfit_share: Share of a read's records; with more unfit records the read is refused.
        mark: The writer and run, for the ledger.
    """
    rows, quarantine = _of_whole(whole, decoded)
    quarantine = unplaced(stream, quarantine)
    slots = slots_of_whole(stream, whole, rows)
    rows, quarantine = undated(stream, rows, quarantine)
    index = _slot_of_row(stream, rows, slots)
    quarantine = pa.concat_tables([quarantine, astray(stream, rows, index, whole)])
    misfits = Misfits(stream, slots, np.bincount(index[index >= 0], minlength=len(slots)))
    quarantine = misfits.note(quarantine)
    refused = misfits.refused(last_good, unfit_share)
    if refused:
        index = np.where(np.isin(index, list(refused)), -1, index)
    kept, place_of_kept = misfits.kept(last_good, rows, refused)
    counts = np.bincount(
        np.concatenate([index[index >= 0], place_of_kept]).astype(np.int64), minlength=len(slots)
    )
    moving = moving_from(stream, rows, index, [slot.to_date for slot in slots])
    pulls = []
    for place, slot in enumerate(slots):
        found = replace(misfits.found(place, int(counts[place])), moving_from=moving[place])
        if place in refused:
            error = UnfitError(_TOO_MUCH, code="RECORDS_UNFIT", stream=stream.name)
            pulls.append(slot.pull(stream, mark, Outcome.FAILED, found, error))
            continue
        covers_none = slot.month is not None and slot.from_date is None
        outcome = Outcome.UNCHANGED if covers_none else Outcome.COMMITTED
        pulls.append(slot.pull(stream, mark, outcome, found))
    parts = [
        *_parts(stream, rows, index, pulls),
        *_parts(stream, kept, place_of_kept, pulls),
    ]
    return Covered(pulls, parts, quarantine)


def _of_whole(whole: Mapping[str, Done], decoded: DecodeResult) -> tuple[pa.Table, pa.Table]:
    """Rows and quarantine of whole reads only."""
    rows, quarantine = decoded.rows, decoded.quarantine
    in_whole = pa.array(list(whole), pa.string())
    is_whole = pc.is_in(rows["series_id"], value_set=in_whole)
    if not pc.all(is_whole).as_py():
        rows = rows.filter(is_whole)
    return rows, quarantine.filter(pc.is_in(quarantine["series_id"], value_set=in_whole))


def _parts(
    stream: Stream, rows: pa.Table, index: np.ndarray, pulls: Sequence[Pull]
) -> list[tuple[str | None, pa.Table]]:
    """Rows in the lake's form, by month, without columns that have no values.

    Args:
        rows: Rows in the decoder's form, or in the lake's.
        index: For each row the place of its pull in `pulls`, or -1 if no pull covers it.
    """
    if not rows.num_rows:
        return []
    names = [pull.month or "" for pull in pulls]
    months = sorted(set(names))
    # Most columns of a batch have no values, and moving nulls costs as much as moving values.
    known = {*rows.column_names} - {"pull_id"}
    kept = [n for n in lake_schema(stream).names if n in known]
    present = [n for n in kept if rows[n].null_count < rows.num_rows]
    rows = rows.select(present)
    numbers = np.array([months.index(name) for name in names], np.int64)
    of_row = np.where(index >= 0, numbers[index], -1) if len(pulls) else index
    if stream.window is Window.MONTHS or (index < 0).any():
        # Sorting and slicing costs a fraction of a filter per month.
        order = np.argsort(of_row, kind="stable")
        order = order[of_row[order] >= 0]
        rows, index = rows.take(pa.array(order)), index[order]
    ids = pa.array([pull.pull_id for pull in pulls], pa.string())
    table = rows.append_column(lake_schema(stream).field("pull_id"), ids.take(pa.array(index)))
    if stream.window is Window.SNAPSHOT:
        return [(None, table)]
    bounds = np.searchsorted(numbers[index], np.arange(len(months) + 1))
    return [
        (month, table.slice(start, end - start))
        for month, start, end in zip(months, bounds[:-1], bounds[1:], strict=True)
    ]


def _slot_of_row(stream: Stream, rows: pa.Table, slots: Sequence[Slot]) -> np.ndarray:
    """For each row the place of the pull that covers its day, or -1."""
    if rows.num_rows == 0 or not slots:
        return np.full(rows.num_rows, -1, np.int64)
    series_ids = [slot.read.pages[0].series_id if slot.read else "" for slot in slots]
    if stream.window is Window.SNAPSHOT:
        places = {series_id: place for place, series_id in enumerate(series_ids)}
        return np.array([places[each] for each in rows["series_id"].to_pylist()], np.int64)
    encoded = rows["series_id"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    number = {series_id: place for place, series_id in enumerate(encoded.dictionary.to_pylist())}
    # Slots do not overlap, so only the last slot that begins on or before a row's day can cover it.
    # Days until the year 9999 fit in 22 bits.
    starts, ends, order = [], [], []
    for place, (series_id, slot) in enumerate(zip(series_ids, slots, strict=True)):
        if series_id in number and slot.from_date is not None and slot.to_date is not None:
            base = number[series_id] << 22
            starts.append(base + (slot.from_date - _EPOCH).days)
            ends.append(base + (slot.to_date - _EPOCH).days)
            order.append(place)
    if not order:
        return np.full(rows.num_rows, -1, np.int64)
    sort = np.argsort(starts)
    start, end, place_of = (np.array(values, np.int64)[sort] for values in (starts, ends, order))
    days = day_of_row(stream, rows).cast(pa.int32()).to_numpy().astype(np.int64)
    keys = (encoded.indices.to_numpy().astype(np.int64) << 22) + days
    found = np.searchsorted(start, keys, side="right") - 1
    valid = (found >= 0) & (keys <= end[found])
    return np.where(valid, place_of[found], -1)
