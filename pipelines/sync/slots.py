"""The pulls that a read becomes: the days that each covers, and its row in the ledger."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.errors import LeanError
from lean_resources.paging import PagedRead
from lean_resources.streams import Stream, Window
from pipelines.lake.ids import new_id
from pipelines.lake.ledger import Mark, Outcome, Pull
from pipelines.sync.planner import PlannedMonth
from pipelines.sync.tasks import Done

_SKEW = dt.timedelta(minutes=5)  # between the clocks of Lean's own machines
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Found:
    """The counts of a pull.

    Args:
        rows: Number of rows that count.
        quarantined: Number of omitted records.
        unfit_dates: UTC days that are unknown because of these; None if all records fit.
        moving_from: UTC day from which on its rows may still move; None where that is not known.
    """

    rows: int = 0
    quarantined: int = 0
    unfit_dates: Sequence[dt.date] | None = None
    moving_from: dt.date | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """The part of a paged read for a pull: a read target, or days of a month of it.

    Args:
        done: The read.
        month: The month, for a stream with months.
        from_date: First covered UTC day; None if the read covers no day of the month.
        to_date: Last covered UTC day, inclusive.
        is_first: Whether it is the first slot of its read; that slot records the requests and bytes
            of the whole read.
    """

    done: Done
    month: PlannedMonth | None = None
    from_date: dt.date | None = None
    to_date: dt.date | None = None
    is_first: bool = True

    @property
    def read(self) -> PagedRead | None:
        """The paged read; None if it failed."""
        return None if isinstance(self.done.result, LeanError) else self.done.result

    @property
    def key(self) -> tuple[str, str | None]:
        """The id of the read target, and the month."""
        return self.done.task.target.target_id, self.month.month if self.month else None

    @property
    def dates(self) -> list[dt.date]:
        """The covered UTC days."""
        if self.from_date is None or self.to_date is None:
            return []
        return [self.from_date + n * _DAY for n in range((self.to_date - self.from_date).days + 1)]

    def covers(self, day: dt.date) -> bool:
        """Whether a UTC day is covered."""
        if self.from_date is None or self.to_date is None:
            return False
        return self.from_date <= day <= self.to_date

    def pull(
        self,
        stream: Stream,
        mark: Mark,
        outcome: Outcome,
        found: Found = Found(),
        error: LeanError | None = None,
    ) -> Pull:
        """The pull's row in the ledger."""
        done, read, target = self.done, self.read, self.done.task.target
        last = read.answers[-1] if read is not None else None
        trace = last.response if last is not None else error
        # A pull that covers no day records the requested days.
        days = self if self.from_date is not None else self.month
        return Pull(
            pull_id=new_id(),
            series_id=last.page.series_id if last is not None else new_id(),
            stream=stream.name,
            parent_id=target.target_id,
            entity_id=target.entity_id,
            bank_identifier=target.bank_identifier,
            month=self.month.month if self.month is not None else None,
            covered_from=days.from_date if days is not None else None,
            covered_to=days.to_date if days is not None else None,
            outcome=outcome,
            code=error.code if error is not None else None,
            remedy=error.remedy if error is not None else None,
            rows=found.rows,
            quarantined=found.quarantined,
            unfit_dates=found.unfit_dates,
            moving_from=found.moving_from,
            pages=len(read.answers) if read is not None else 0,
            requests=done.requests if self.is_first else 0,
            bytes=done.size if self.is_first else 0,
            refreshed_at=_credible(read.refreshed_at, done.latest_at) if read else None,
            known_at=done.known_at,
            asked_at=done.asked_at,
            finished_at=done.finished_at,
            results_id=last.envelope.results_id if last else error.results_id if error else None,
            correlation_id=trace.correlation_id if trace else None,
            trace_id=trace.trace_id if trace else None,
            run_id=mark.run_id,
            generation=mark.generation,
        )


def slots_of(done: Done, *, is_counted: bool = True) -> list[Slot]:
    """Slots of a read that failed or was unchanged.

    Args:
        done: The read.
        is_counted: Whether the first slot records the read's requests and bytes.
    """
    return [
        Slot(done, month, is_first=is_counted and place == 0)
        for place, month in enumerate(done.task.months or (None,))
    ]


def slots_of_whole(stream: Stream, whole: Mapping[str, Done], rows: pa.Table) -> list[Slot]:
    """Slots of whole reads, grouped by read, with the days that each covers.

    A bank data copy has no days after its refresh, and no days that its bank no longer offers.

    Args:
        whole: The paged reads, by `series_id`.
        rows: Their rows.
    """
    first_days = _first_days(stream, whole, rows)
    return [
        slot
        for series_id, done in whole.items()
        for slot in _slots(stream, done, first_days.get(series_id))
    ]


def _slots(stream: Stream, done: Done, first_row_on: dt.date | None) -> list[Slot]:
    is_counted = stream.exploded_from is None
    if stream.window is Window.SNAPSHOT:
        return [Slot(done, is_first=is_counted)]
    slots = []
    refreshed_at, availability = known_at(done), done.task.target.availability
    for place, month in enumerate(done.task.months):
        is_first = is_counted and place == 0
        from_date = month.covered_from(availability, refreshed_at, first_row_on)
        to_date = month.to_date if refreshed_at is None else min(month.to_date, refreshed_at.date())
        if from_date > to_date:
            slots.append(Slot(done, month, is_first=is_first))
        else:
            slots.append(Slot(done, month, from_date, to_date, is_first))
    return slots


def _first_days(stream: Stream, whole: Mapping[str, Done], rows: pa.Table) -> dict[str, dt.date]:
    """UTC day of the first row of each read whose bank may have dropped days, by `series_id`."""
    wanted = [
        series_id
        for series_id, done in whole.items()
        if done.task.target.availability is not None
        and any(month.known_to is not None for month in done.task.months)
    ]
    if not wanted:
        return {}
    found = rows.select(["series_id"]).append_column("day", day_of_row(stream, rows))
    found = found.filter(pc.is_in(found["series_id"], value_set=pa.array(wanted, pa.string())))
    firsts = found.group_by("series_id", use_threads=False).aggregate([("day", "min")])
    series_ids, days = firsts["series_id"].to_pylist(), firsts["day_min"].to_pylist()
    return {series_id: day for series_id, day in zip(series_ids, days, strict=True) if day}


def known_at(done: Done) -> dt.datetime | None:
    """UTC instant of the bank data copy of a whole read; None if Lean did not send it."""
    assert not isinstance(done.result, LeanError)  # noqa: S101 - whole reads only
    return _credible(done.result.refreshed_at, done.latest_at)


def _credible(
    refreshed_at: dt.datetime | None, latest_at: dt.datetime | None
) -> dt.datetime | None:
    """The bank data copy's instant, but not later than Lean's clock.

    Otherwise a copy with a future instant would always be the newest.
    """
    if refreshed_at is None or latest_at is None or refreshed_at <= latest_at + _SKEW:
        return refreshed_at
    return latest_at


def day_of_row(stream: Stream, rows: pa.Table) -> pa.ChunkedArray:
    """UTC days of rows of a stream with months."""
    instants = pc.coalesce(*(rows[name] for name in stream.placed_by))
    return instants.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)


def moving_from(
    stream: Stream, rows: pa.Table, index: np.ndarray, ends: Sequence[dt.date | None]
) -> list[dt.date | None]:
    """For each pull the UTC day from which on its rows may still move to another day.

    A row stays on its day once the bank calls it final: booked or rejected, and not mutable. Where
    the bank states no such status, the row has to be immutable.

    Args:
        rows: Rows of transactions; other streams have none that move.
        index: For each row the place of its pull, or -1 if no pull covers it.
        ends: The last UTC day that each pull covers; None if it covers none.
    """
    found = [None if end is None else end + _DAY for end in ends]
    if stream.window is Window.SNAPSHOT or not rows.num_rows:
        return found
    status, mutability = rows["status"], rows["transaction_mutability"]
    is_final = pc.is_in(status, pa.array(["BOOKED", "REJECTED"]))
    is_final = pc.and_not(is_final, pc.is_in(mutability, pa.array(["MUTABLE"])))
    is_fixed = pc.is_in(mutability, pa.array(["IMMUTABLE"]))
    is_fixed = pc.and_not(is_fixed, pc.is_in(status, pa.array(["PENDING"])))
    places = np.flatnonzero(pc.invert(pc.or_(is_final, is_fixed)).to_numpy() & (index >= 0))
    days = day_of_row(stream, rows.take(pa.array(places))).to_pylist()
    for place, day in zip(index[places].tolist(), days, strict=True):
        found[place] = min(found[place] or day, day)
    return found
