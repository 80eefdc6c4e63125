"""Records that do not fit, and their effect on the pulls of their read.

The content of such records is unknown. Their days are the pull's unfit days. A record without a
readable day makes all days of its read unfit. If a row fitted before, its last good version stays.
A read with too many unfit records is refused: it replaces nothing.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.quarantine import QUARANTINE_SCHEMA, TRACE_SCHEMA, key_text
from lean_resources.streams import Stream, Window
from pipelines.lake.schemas import lake_schema
from pipelines.sync.last_good import LastGood
from pipelines.sync.slots import Found, Slot, day_of_row, known_at
from pipelines.sync.tasks import Done

_DAY = dt.timedelta(days=1)
_FEW_RECORDS = 3
"""This many unfit records are never too many, even at a large share."""


@dataclass(slots=True)
class Misfits:
    """Records that did not fit, by the pulls to which they belong.

    Args:
        slots: The future pulls, grouped by read.
        fitting: Number of rows that fit, by slot.
    """

    stream: Stream
    slots: Sequence[Slot]
    fitting: np.ndarray
    _lost: Counter[int] = field(default_factory=Counter)
    _unfit: defaultdict[int, set[dt.date]] = field(default_factory=lambda: defaultdict(set))
    _keys: dict[str, int] = field(default_factory=dict)
    _places: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def note(self, quarantine: pa.Table) -> pa.Table:
        """Record what did not fit.

        Returns:
            The quarantine without records that belong to pulls of different reads.
        """
        if not quarantine.num_rows:
            return quarantine
        for place, slot in enumerate(self.slots):
            if slot.read is not None:
                self._places[slot.read.pages[0].series_id].append(place)
        columns = ("series_id", "is_lost", "placed_on", "record_key")
        records = zip(*(quarantine[name].to_pylist() for name in columns), strict=True)
        return quarantine.filter(pa.array([self._noted(*each) for each in records], pa.bool_()))

    def _noted(
        self, series_id: str, is_lost: bool | None, day: dt.date | None, key: str | None
    ) -> bool:
        """Record an unfit record or value; returns whether it belongs to its read."""
        places = self._places[series_id]
        place, done = places[0], self.slots[places[0]].done
        dates: dict[int, Sequence[dt.date]] = {}
        if self.stream.window is Window.MONTHS:
            if day is None or _is_incredible(done, day):
                dates = {one: self.slots[one].dates for one in places}
            else:
                within = [one for one in places if self.slots[one].covers(day)]
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
        """The pull of a day's month, or the first pull if the read has none for that month."""
        month = f"{day:%Y-%m}"
        return next((one for one in places if self.slots[one].key[1] == month), places[0])

    def refused(self, last_good: LastGood, unfit_share: float) -> set[int]:
        """Places of refused pulls: too many records of their read do not fit."""
        wanted: list[int] = []
        for places in self._places.values():
            lost = sum(self._lost[place] for place in places)
            records = lost + sum(int(self.fitting[place]) for place in places)
            if too_many(lost, records, unfit_share):
                wanted += places
        if not wanted:
            return set()
        known = last_good.covered({self.slots[place].key[0] for place in wanted})
        # If nothing was known before, the rows that fit count.
        return {place for place in wanted if self.slots[place].key in known}

    def kept(
        self, last_good: LastGood, rows: pa.Table, refused: set[int]
    ) -> tuple[pa.Table, np.ndarray]:
        """Last good versions of records that no longer fit, and the places of their pulls."""
        wanted = {key: place for key, place in self._keys.items() if place not in refused}
        found = last_good.rows(wanted) if wanted else None
        if found is None or not found.num_rows:
            return lake_schema(self.stream).empty_table(), np.empty(0, np.int64)
        present = self._present(rows, found)
        keys = found["record_key"].to_pylist()
        days: Sequence[dt.date | None] = [None] * len(keys)
        if self.stream.window is Window.MONTHS:
            days = day_of_row(self.stream, found).to_pylist()
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
        """The pull that covers a day, in the same read as a given pull."""
        read = self.slots[place].read
        if day is None or read is None:
            return place
        places = self._places[read.pages[0].series_id]
        return next((one for one in places if self.slots[one].covers(day)), None)

    def found(self, place: int, rows: int) -> Found:
        """The counts of a pull."""
        is_unfit = self._lost[place] or self._unfit[place]
        days = sorted(self._unfit[place]) if is_unfit else None
        return Found(rows, self._lost[place], days)


def too_many(lost: int, records: int, unfit_share: float) -> bool:
    """Whether a read has too many unfit records, so that it replaces nothing.

    Args:
        lost: Number of records that did not fit.
        records: Number of all records of the read.
        unfit_share: Largest allowed share, from 0 to 1.
    """
    return lost > _FEW_RECORDS and lost > unfit_share * records


def unplaced(stream: Stream, quarantine: pa.Table) -> pa.Table:
    """The quarantine, without days that replace an unreadable date."""
    is_unsure = pc.is_in(
        quarantine["column_name"], value_set=pa.array(stream.placed_by, pa.string())
    )
    if not quarantine.num_rows or not pc.any(is_unsure).as_py():
        return quarantine
    days = pc.if_else(is_unsure, pa.scalar(None, pa.date32()), quarantine["placed_on"])
    place = quarantine.schema.get_field_index("placed_on")
    return quarantine.set_column(place, quarantine.schema.field(place), days)


def undated(stream: Stream, rows: pa.Table, quarantine: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Move rows without a day to the quarantine; returns the remaining rows and the quarantine."""
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


def astray(
    stream: Stream, rows: pa.Table, index: np.ndarray, whole: Mapping[str, Done]
) -> pa.Table:
    """Rows that no pull can cover, as records of the quarantine.

    Args:
        rows: Rows of whole reads.
        index: For each row the place of its pull, or -1 if no pull covers it.
        whole: The paged reads, by `series_id`.
    """
    outside = np.flatnonzero(index < 0)
    if not len(outside) or stream.window is Window.SNAPSHOT:
        return QUARANTINE_SCHEMA.empty_table()
    uncovered = rows.take(pa.array(outside))
    days = day_of_row(stream, uncovered).to_pylist()
    series_ids = uncovered["series_id"].to_pylist()
    reasons = [_why_astray(whole[one], day) for one, day in zip(series_ids, days, strict=True)]
    places = [place for place, reason in enumerate(reasons) if reason is not None]
    return _quarantined(
        stream,
        uncovered.take(pa.array(places, pa.int64())),
        stream.placed_by[0],
        [reasons[place] or "" for place in places],
        [days[place] for place in places],
    )


def _why_astray(done: Done, day: dt.date) -> str | None:
    """Why no pull of the read target can cover a day; None if a pull can."""
    target = done.task.target
    asked_at = known_at(done) or done.latest_at
    if target.from_date is not None and day < target.from_date:
        return "is dated before the first day that the consent allows"
    if asked_at is not None and day > asked_at.date():
        return "is dated after the day on which the bank was asked"
    if target.to_date is not None and day > target.to_date:
        return "is dated after the last day that the consent allows"
    return None


def _is_incredible(done: Done, day: dt.date) -> bool:
    """Whether a record's day is not credible, because it is before all requested days.

    Banks use days of their own time zone, so the day before the first allowed day is credible.
    """
    first = done.task.target.from_date
    return first is not None and day < first - _DAY


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
