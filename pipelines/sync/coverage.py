"""What a read covers: its rows apart by pull, and the days that it leaves unknown.

A paged read of transactions becomes one pull per month. A row goes to the pull that covers its UTC
day. A row of other days that may be read belongs to another pull and is left to it; a row of any
other day goes to quarantine.

What did not fit is not known. The days of such records are the pull's unfit days. A record whose
day cannot be read makes all days of its read unfit. A row that fitted before and no longer does
keeps its last good version. A read of which too much does not fit replaces nothing.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.decoding import DecodeResult
from lean_resources.errors import LeanError, UnfitError
from lean_resources.paging import PagedRead
from lean_resources.quarantine import QUARANTINE_SCHEMA, TRACE_SCHEMA, key_text
from lean_resources.streams import Stream, Window
from pipelines.lake.ledger import Mark, Outcome, Pull, new_id
from pipelines.lake.schemas import lake_schema
from pipelines.sync.last_good import LastGood
from pipelines.sync.planner import PlannedMonth
from pipelines.sync.tasks import Done

__all__ = ["Covered", "Found", "Mark", "Slot", "covered", "slots_of", "too_many", "unplaced"]

_SKEW = dt.timedelta(minutes=5)  # between the clocks of Lean's own machines
_DAY = dt.timedelta(days=1)
_EPOCH = dt.date(1970, 1, 1)
_TOO_MUCH = "too many records do not fit"
_FEW_RECORDS = 3
"""So many records that do not fit replace what was known, whatever their share."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came for one pull.

    Args:
        rows: Rows that count.
        quarantined: Records that were left out.
        unfit_dates: UTC days that are not known because of them; None where every record fits.
    """

    rows: int = 0
    quarantined: int = 0
    unfit_dates: Sequence[dt.date] | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """What one pull of a paged read is to cover: a read target, or days of one month of it.

    Args:
        done: The read.
        month: The month, for a stream with months.
        from_date: First covered UTC day; None where the read covers no day of the month.
        to_date: Last covered UTC day, inclusive.
        is_first: Whether it is the read's first one, which says what the whole read took.
    """

    done: Done
    month: PlannedMonth | None = None
    from_date: dt.date | None = None
    to_date: dt.date | None = None
    is_first: bool = True

    @property
    def read(self) -> PagedRead | None:
        """What was read; None where the read failed."""
        return None if isinstance(self.done.result, LeanError) else self.done.result

    @property
    def target(self) -> tuple[str, str | None]:
        """The read target and the month."""
        return self.done.task.parent.parent_id, self.month.month if self.month else None

    @property
    def dates(self) -> list[dt.date]:
        """The covered UTC days."""
        if self.from_date is None or self.to_date is None:
            return []
        return [self.from_date + n * _DAY for n in range((self.to_date - self.from_date).days + 1)]

    def pull(
        self,
        stream: Stream,
        mark: Mark,
        outcome: Outcome,
        found: Found = Found(),
        error: LeanError | None = None,
    ) -> Pull:
        """The ledger's row of the pull."""
        done, read = self.done, self.read
        last = read.answers[-1] if read is not None else None
        # What covers no day says which days it was about.
        days = self if self.from_date is not None else self.month
        return Pull(
            pull_id=new_id(),
            series_id=last.page.series_id if last is not None else new_id(),
            stream=stream.name,
            parent_id=done.task.parent.parent_id,
            entity_id=done.task.parent.entity_id,
            bank_identifier=done.task.parent.bank_identifier,
            month=self.month.month if self.month is not None else None,
            claimed_from=days.from_date if days is not None else None,
            claimed_to=days.to_date if days is not None else None,
            outcome=outcome,
            code=error.code if error is not None else None,
            remedy=error.remedy if error is not None else None,
            rows=found.rows,
            quarantined=found.quarantined,
            unfit_dates=found.unfit_dates,
            pages=len(read.answers) if read is not None else 0,
            requests=done.requests if self.is_first else 0,
            bytes=done.size if self.is_first else 0,
            refreshed_at=_credible(read.refreshed_at, done.latest_at) if read else None,
            known_at=done.known_at,
            asked_at=done.asked_at,
            finished_at=done.finished_at,
            results_id=last.envelope.results_id if last else error.results_id if error else None,
            correlation_id=(
                last.correlation_id if last else error.correlation_id if error else None
            ),
            trace_id=last.trace_id if last else error.trace_id if error else None,
            run_id=mark.run_id,
            generation=mark.generation,
        )


@dataclass(frozen=True, slots=True)
class Covered:
    """What whole reads bring to the lake.

    Args:
        pulls: One per slot.
        parts: Rows of the stream's `lake_schema`, columns that are wholly null left out, apart by
            month where the stream has months.
        quarantine: Rows of `QUARANTINE_SCHEMA`, without those that belong to other pulls.
    """

    pulls: list[Pull]
    parts: list[tuple[str | None, pa.Table]]
    quarantine: pa.Table


def slots_of(done: Done, *, is_counted: bool = True) -> list[Slot]:
    """Slots of a read that covers nothing anew: it failed, or nothing had changed.

    Args:
        done: The read.
        is_counted: Whether the first slot says what the read took.
    """
    return [
        Slot(done, month, is_first=is_counted and place == 0)
        for place, month in enumerate(done.task.months or (None,))
    ]


def covered(
    stream: Stream,
    whole: Mapping[str, Done],
    decoded: DecodeResult,
    last_good: LastGood,
    *,
    unfit_share: float,
    mark: Mark,
) -> Covered:
    """Decide what whole reads cover.

    Args:
        stream: The stream.
        whole: The paged reads, by `series_id`.
        decoded: Their typed rows and quarantine; what belongs to no read of these is left out.
        last_good: What the lake shows of the stream.
        unfit_share: Share of a read's records above which records that do not fit replace nothing.
        mark: What the ledger says of who wrote them.
    """
    rows, quarantine = _of_whole(whole, decoded)
    quarantine = unplaced(stream, quarantine)
    slots, first_days = [], _first_days(stream, whole, rows)
    for series_id, done in whole.items():
        slots += _slots(stream, done, first_days.get(series_id))
    rows, quarantine = _dated(stream, rows, quarantine)
    index = _slot_of_row(stream, rows, slots)
    quarantine = pa.concat_tables([quarantine, _astray(stream, rows, index, whole)])
    fit = _Fit(stream, slots, np.bincount(index[index >= 0], minlength=len(slots)))
    quarantine = fit.note(quarantine)
    refused = fit.refused(last_good, unfit_share)
    if refused:
        index = np.where(np.isin(index, list(refused)), -1, index)
    kept, place_of_kept = fit.kept(last_good, rows, refused)
    counts = np.bincount(
        np.concatenate([index[index >= 0], place_of_kept]).astype(np.int64), minlength=len(slots)
    )
    pulls = []
    for place, slot in enumerate(slots):
        found = fit.found(place, int(counts[place]))
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
    """Rows and quarantine of whole reads."""
    rows, quarantine = decoded.rows, decoded.quarantine
    in_whole = pa.array(list(whole), pa.string())
    is_whole = pc.is_in(rows["series_id"], value_set=in_whole)
    if not pc.all(is_whole).as_py():
        rows = rows.filter(is_whole)
    return rows, quarantine.filter(pc.is_in(quarantine["series_id"], value_set=in_whole))


def unplaced(stream: Stream, quarantine: pa.Table) -> pa.Table:
    """The quarantine without days that another date than the unreadable one tells."""
    is_unsure = pc.is_in(
        quarantine["column_name"], value_set=pa.array(stream.placed_by, pa.string())
    )
    if not quarantine.num_rows or not pc.any(is_unsure).as_py():
        return quarantine
    days = pc.if_else(is_unsure, pa.scalar(None, pa.date32()), quarantine["placed_on"])
    place = quarantine.schema.get_field_index("placed_on")
    return quarantine.set_column(place, quarantine.schema.field(place), days)


def _credible(
    refreshed_at: dt.datetime | None, latest_at: dt.datetime | None
) -> dt.datetime | None:
    """The store's instant, cut to Lean's clock: from the future it would be the newest for ever."""
    if refreshed_at is None or latest_at is None or refreshed_at <= latest_at + _SKEW:
        return refreshed_at
    return latest_at


def _slots(stream: Stream, done: Done, first_row_on: dt.date | None) -> list[Slot]:
    """The pulls that a read is to become, with the days that each covers.

    A bank data copy knows nothing of the days after it was refreshed, nor of those that its bank
    forgot.
    """
    is_counted = stream.exploded_from is None
    if stream.window is Window.SNAPSHOT:
        return [Slot(done, is_first=is_counted)]
    slots = []
    refreshed_at = _known_at(done)
    for place, month in enumerate(done.task.months):
        is_first = is_counted and place == 0
        from_date = month.claims_from(done.task.parent.depth, refreshed_at, first_row_on)
        to_date = month.to_date if refreshed_at is None else min(month.to_date, refreshed_at.date())
        if from_date > to_date:
            slots.append(Slot(done, month, is_first=is_first))
        else:
            slots.append(Slot(done, month, from_date, to_date, is_first))
    return slots


def _known_at(done: Done) -> dt.datetime | None:
    """When the bank was last asked for what was read."""
    assert not isinstance(done.result, LeanError)  # noqa: S101 - whole reads only
    return _credible(done.result.refreshed_at, done.latest_at)


def _first_days(stream: Stream, whole: Mapping[str, Done], rows: pa.Table) -> dict[str, dt.date]:
    """The UTC day of the first row of each read whose bank may have forgotten days."""
    wanted = [
        series_id
        for series_id, done in whole.items()
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


def _day_of_row(stream: Stream, rows: pa.Table) -> pa.ChunkedArray:
    """The UTC day that places a row."""
    instants = pc.coalesce(*(rows[name] for name in stream.placed_by))
    return instants.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)


def _quarantined(
    stream: Stream, rows: pa.Table, column: str, reasons: Sequence[str], days: Sequence[dt.date]
) -> pa.Table:
    """Typed rows as records of the quarantine."""
    keys = zip(*(rows[name].to_pylist() for name in stream.key), strict=True)
    count = rows.num_rows
    columns = {
        **{name: rows[name] for name in TRACE_SCHEMA.names},
        "column_name": [column] * count,
        "path": pa.nulls(count, pa.string()),
        "reason": list(reasons),
        "record_key": [key_text(key) for key in keys],
        "placed_on": pa.array(list(days), pa.date32()),
        "is_lost": [True] * count,
    }
    names = QUARANTINE_SCHEMA.names
    return pa.table([columns[name] for name in names], names).cast(QUARANTINE_SCHEMA)


def _dated(stream: Stream, rows: pa.Table, quarantine: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Move rows without a day to the quarantine."""
    if not stream.placed_by:
        return rows, quarantine
    is_undated = pc.is_null(pc.coalesce(*(rows[name] for name in stream.placed_by)))
    if not pc.any(is_undated).as_py():
        return rows, quarantine
    lost = rows.filter(is_undated)
    reason = f"none of {', '.join(stream.placed_by)} says on which day it stands"
    reasons, days = [reason] * lost.num_rows, [None] * lost.num_rows
    added = _quarantined(stream, lost, stream.placed_by[0], reasons, days)  # type: ignore[arg-type]
    return rows.filter(pc.invert(is_undated)), pa.concat_tables([quarantine, added])


def _why_astray(done: Done, day: dt.date) -> str | None:
    """Why no pull of the read target can cover a day; None where one can, or could."""
    parent = done.task.parent
    known_at = _known_at(done) or done.latest_at
    if parent.from_date is not None and day < parent.from_date:
        return "is dated before the first day that the consent allows"
    if known_at is not None and day > known_at.date():
        return "is dated after the day on which the bank was asked"
    if parent.to_date is not None and day > parent.to_date:
        return "is dated after the last day that the consent allows"
    return None


def _is_incredible(done: Done, day: dt.date) -> bool:
    """Whether a record cannot stand on its day, because nobody asked for days so early.

    Banks cut days in their own zone, so the day before the first one is credible.
    """
    first = done.task.parent.from_date
    return first is not None and day < first - _DAY


def _astray(
    stream: Stream, rows: pa.Table, index: np.ndarray, whole: Mapping[str, Done]
) -> pa.Table:
    """Rows that no pull can cover, as records of the quarantine; the others are left to theirs."""
    outside = np.flatnonzero(index < 0)
    if not len(outside) or stream.window is Window.SNAPSHOT:
        return QUARANTINE_SCHEMA.empty_table()
    some = rows.take(pa.array(outside))
    days = _day_of_row(stream, some).to_pylist()
    series_ids = some["series_id"].to_pylist()
    reasons = [_why_astray(whole[one], day) for one, day in zip(series_ids, days, strict=True)]
    places = [place for place, reason in enumerate(reasons) if reason is not None]
    return _quarantined(
        stream,
        some.take(pa.array(places, pa.int64())),
        stream.placed_by[0],
        [reasons[place] or "" for place in places],
        [days[place] for place in places],
    )


@dataclass(slots=True)
class _Fit:
    """What records that did not fit do to the pulls of their reads.

    Args:
        stream: The stream.
        slots: The pulls to be, those of a read beside each other.
        fitting: Rows that fit, by slot.
    """

    stream: Stream
    slots: Sequence[Slot]
    fitting: np.ndarray
    _lost: Counter[int] = field(default_factory=Counter)
    _unfit: defaultdict[int, set[dt.date]] = field(default_factory=lambda: defaultdict(set))
    _keys: dict[str, int] = field(default_factory=dict)
    _places: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def note(self, quarantine: pa.Table) -> pa.Table:
        """Note what did not fit; the quarantine without records that belong to other pulls."""
        if not quarantine.num_rows:
            return quarantine
        for place, slot in enumerate(self.slots):
            if slot.read is not None:
                self._places[slot.read.pages[0].series_id].append(place)
        columns = ("series_id", "is_lost", "placed_on", "record_key")
        told = zip(*(quarantine[name].to_pylist() for name in columns), strict=True)
        return quarantine.filter(pa.array([self._noted(*one) for one in told], pa.bool_()))

    def _noted(
        self, series_id: str, is_lost: bool | None, day: dt.date | None, key: str | None
    ) -> bool:
        """Note one record or value; whether it is of this read."""
        places = self._places[series_id]
        place, done = places[0], self.slots[places[0]].done
        dates: dict[int, Sequence[dt.date]] = {}
        if self.stream.window is Window.MONTHS:
            if day is None or _is_incredible(done, day):
                dates = {one: self.slots[one].dates for one in places}
            else:
                within = [one for one in places if self._covers(one, day)]
                if not within and _why_astray(done, day) is None:
                    return False
                dates = {one: [day] for one in within}
                place = within[0] if within else self._of_month(places, day)
        if is_lost is False:
            return True
        self._lost[place] += 1
        for one, days in dates.items():
            self._unfit[one].update(days)
        if key is not None:
            self._keys[key] = place
        return True

    def _of_month(self, places: Sequence[int], day: dt.date) -> int:
        """The pull of a day's month, or the first where no pull is of that month."""
        month = f"{day:%Y-%m}"
        return next((one for one in places if self.slots[one].target[1] == month), places[0])

    def _covers(self, place: int, day: dt.date) -> bool:
        slot = self.slots[place]
        if slot.from_date is None or slot.to_date is None:
            return False
        return slot.from_date <= day <= slot.to_date

    def refused(self, last_good: LastGood, unfit_share: float) -> set[int]:
        """Places of pulls that replace nothing: too much of their read does not fit."""
        wanted: list[int] = []
        for places in self._places.values():
            lost = sum(self._lost[place] for place in places)
            records = lost + sum(int(self.fitting[place]) for place in places)
            if too_many(lost, records, unfit_share):
                wanted += places
        if not wanted:
            return set()
        known = last_good.targets({self.slots[place].target[0] for place in wanted})
        # Where nothing was known, what fits is better than nothing.
        return {place for place in wanted if self.slots[place].target in known}

    def kept(
        self, last_good: LastGood, rows: pa.Table, refused: set[int]
    ) -> tuple[pa.Table, np.ndarray]:
        """Last good versions of records that do not fit any more, and the place of each."""
        wanted = {key: place for key, place in self._keys.items() if place not in refused}
        found = last_good.rows(wanted) if wanted else None
        if found is None or not found.num_rows:
            return lake_schema(self.stream).empty_table(), np.empty(0, np.int64)
        present = self._present(rows, found)
        keys = found["record_key"].to_pylist()
        days: Sequence[dt.date | None] = [None] * len(keys)
        if self.stream.window is Window.MONTHS:
            days = _day_of_row(self.stream, found).to_pylist()
        chosen, places = [], []
        for number, (key, day) in enumerate(zip(keys, days, strict=True)):
            place = self._place_of(wanted[key], day)
            if place is None or place in refused or key in present:
                continue
            chosen.append(number)
            places.append(place)
            if day is not None:
                self._unfit[place].add(day)
        return found.take(pa.array(chosen, pa.int64())), np.array(places, np.int64)

    def _present(self, rows: pa.Table, found: pa.Table) -> set[str]:
        """Keys of last good versions that are among the rows that fit."""
        name = self.stream.key[-1]
        same = rows.filter(pc.is_in(rows[name], value_set=found[name].combine_chunks()))
        keys = zip(*(same[name].to_pylist() for name in self.stream.key), strict=True)
        return {text for key in keys if (text := key_text(key)) is not None}

    def _place_of(self, place: int, day: dt.date | None) -> int | None:
        """The pull of a read that covers a day, given one of its pulls."""
        read = self.slots[place].read
        if day is None or read is None:
            return place
        places = self._places[read.pages[0].series_id]
        return next((one for one in places if self._covers(one, day)), None)

    def found(self, place: int, rows: int) -> Found:
        """What came for a pull."""
        is_unfit = self._lost[place] or self._unfit[place]
        days = sorted(self._unfit[place]) if is_unfit else None
        return Found(rows, self._lost[place], days)


def too_many(lost: int, records: int, unfit_share: float) -> bool:
    """Whether so many records of a read did not fit that it replaces nothing.

    Args:
        lost: Records that did not fit.
        records: All records of the read.
        unfit_share: Share above which it is too many, from 0 to 1.
    """
    return lost > _FEW_RECORDS and lost > unfit_share * records


def _parts(
    stream: Stream, rows: pa.Table, index: np.ndarray, pulls: Sequence[Pull]
) -> list[tuple[str | None, pa.Table]]:
    """Rows as the lake has them but without columns that are wholly null, apart by month.

    Args:
        stream: The stream.
        rows: Rows as the decoder has them, or as the lake has them.
        index: For each row the place of its pull among `pulls`, or -1 where none covers it.
        pulls: The pulls.
    """
    if not rows.num_rows:
        return []
    names = [pull.month or "" for pull in pulls]
    months = sorted(set(names))
    # Most columns are null throughout a batch, and moving nothing costs as much as moving rows.
    kept = [n for n in lake_schema(stream).names if n != "pull_id" and n in rows.column_names]
    present = [n for n in kept if rows[n].null_count < rows.num_rows]
    rows = rows.select(present)
    numbers = np.array([months.index(name) for name in names], np.int64)
    of_row = np.where(index >= 0, numbers[index], -1) if len(pulls) else index
    if stream.window is Window.MONTHS or (index < 0).any():
        # One reordering and slices of it cost a fraction of one filter per month.
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
        return np.array([places[one] for one in rows["series_id"].to_pylist()], np.int64)
    encoded = rows["series_id"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    number = {series_id: place for place, series_id in enumerate(encoded.dictionary.to_pylist())}
    # Slots of one read are neighbours, so the last slot that begins by a row's day is its only
    # candidate; days until the year 9999 fit 22 bits.
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
    days = _day_of_row(stream, rows).cast(pa.int32()).to_numpy().astype(np.int64)
    keys = (encoded.indices.to_numpy().astype(np.int64) << 22) + days
    found = np.searchsorted(start, keys, side="right") - 1
    valid = (found >= 0) & (keys <= end[found])
    return np.where(valid, place_of[found], -1)
