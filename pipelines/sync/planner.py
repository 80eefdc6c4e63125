"""Decides what to pull: a pure function of the wanted days, the covered days, and today.

A sync wants all months that the consent allows, up to today. Committed pulls cover days of them. A
month stays open for a number of days after its end, because banks post late and change pending
rows. Each sync reads the last days of open months again, and each week whole open months, at the
cost of a request while the bank has nothing new. All days are UTC days, and all ranges include both
ends.

The last days begin some days before the newest read of whole months, and stay there until the next.
So they grow by a day each day, a read covers all days of the reads before it, and of older pulls
only that of the whole months counts beside it. They begin earlier if a row that the bank may still
move is there: the days that meet then have only rows that stay.

A row may move between open months, for example when a pending row is booked a day later. So these
months are read together. A read that is too long is cut before its open months, and a backfill also
reads the open neighbours of the chosen months. If a bank moves a row out of a settled month, the
weekly reconciliation finds it.

A bank offers a limited number of months. Older days stay known from earlier reads: a later read
covers only days that the bank still has, or that no pull has read before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Protocol
from zlib import crc32

from pipelines.sync.policy import Policy

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Availability:
    """The first day whose transactions a bank offers for an account, reported by a refresh.

    Args:
        available_from: First UTC day that the bank offered.
        reported_on: UTC day of that refresh.
    """

    available_from: dt.date
    reported_on: dt.date

    def whole_from(self, refreshed_at: dt.datetime | None, first_row_on: dt.date | None) -> dt.date:
        """The first UTC day that a bank data copy certainly has complete.

        Since the report, the start may have moved by as many days as have passed. An earlier row
        shows that it did not move so far. On that row's day, the first hours may be missing.

        Args:
            refreshed_at: The copy's instant; None if Lean did not send it.
            first_row_on: UTC day of the first row of a read of that copy; None without rows.
        """
        passed = 0 if refreshed_at is None else (refreshed_at.date() - self.reported_on).days
        latest = self.available_from + max(passed, 0) * _DAY
        return latest if first_row_on is None else min(latest, first_row_on + _DAY)


@dataclass(frozen=True, slots=True)
class AllowedDays:
    """The days of an account that the consent allows to read.

    Args:
        account_id: The account.
        bank_identifier: Its bank.
        from_date: First allowed UTC day.
        to_date: Last allowed UTC day; it may be later than today.
        availability: The days that the bank offers; None if no refresh reported it.
    """

    account_id: str
    bank_identifier: str
    from_date: dt.date
    to_date: dt.date
    availability: Availability | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """A range of days that a committed pull covers.

    Args:
        from_date: First UTC day.
        to_date: Last UTC day.
        refreshed_at: When Lean last asked the bank for it; None if Lean did not send it.
        is_unfit: Whether it had unfit records, so that not all of these days are known.
        moving_from: UTC day from which on its rows may still move to another day; None if that is
            not known.
    """

    from_date: dt.date
    to_date: dt.date
    refreshed_at: dt.datetime | None
    is_unfit: bool = False
    moving_from: dt.date | None = None


@dataclass(frozen=True, slots=True)
class PlannedMonth:
    """A planned pull.

    Args:
        month: UTC month as YYYY-MM.
        from_date: First UTC day that it will cover, if the bank data copy has it.
        to_date: Last UTC day that it will cover.
        known_to: Last day of the unbroken run of covered days that starts at `from_date`; None if
            `from_date` is not covered.
        is_open: Whether its rows may still change, or no pull has read it.
    """

    month: str
    from_date: dt.date
    to_date: dt.date
    known_to: dt.date | None = None
    is_open: bool = True

    def covered_from(
        self,
        availability: Availability | None,
        refreshed_at: dt.datetime | None,
        first_row_on: dt.date | None = None,
    ) -> dt.date:
        """The first UTC day that a read covers; after `to_date` if it covers no day.

        Days that the bank may no longer have stay with the pulls that read them in time. This read
        covers days that no pull has read yet.

        Args:
            availability: The days that the bank offers; None if unknown.
            refreshed_at: The instant of the bank data copy that was read; None if Lean did not
                send it.
            first_row_on: UTC day of the first row of the read; None without rows.
        """
        if availability is None or self.known_to is None:
            return self.from_date
        # While rows move, an older pull may show a row that is on another day now. So an open month
        # keeps only days before the reported start, not before a start that may have moved.
        whole_from = availability.available_from
        if not self.is_open:
            whole_from = availability.whole_from(refreshed_at, first_row_on)
        return max(self.from_date, min(whole_from, self.known_to + _DAY))


@dataclass(frozen=True, slots=True)
class PlannedRead:
    """A planned paged read, for neighbouring months of an account.

    Args:
        from_date: First UTC day to request.
        to_date: Last UTC day to request.
        months: The pulls that the read will commit.
        unless_refreshed_at: If the bank data copy still has this instant, nothing is new.
    """

    from_date: dt.date
    to_date: dt.date
    months: tuple[PlannedMonth, ...]
    unless_refreshed_at: dt.datetime | None


def months(from_date: dt.date, to_date: dt.date) -> Iterator[tuple[str, dt.date, dt.date]]:
    """Months that overlap a range: name, and first and last day within the range."""
    if from_date > to_date:
        return
    for number in range(_number(from_date), _number(to_date) + 1):
        name, first, last = _month(number)
        yield name, max(first, from_date), min(last, to_date)


def plan(
    allowed: AllowedDays,
    coverage: CoverageByAccount,
    today: dt.date,
    policy: Policy,
    only: Collection[str] | None = None,
) -> Iterator[PlannedRead]:
    """Plan the paged reads of an account.

    Args:
        allowed: The account and its allowed days.
        coverage: For each account and month, the ranges of days that pulls cover.
        today: The last UTC day that may be requested.
        policy: How eagerly to pull.
        only: Months as YYYY-MM to read even if they are covered, as a backfill does; None for a
            sync.
    """
    first = max(allowed.from_date, _horizon(today, policy))
    last = min(allowed.to_date, today)
    if first > last:
        return
    have = coverage.get(allowed.account_id, _NOTHING)
    open_days = policy.open_days_of(allowed.bank_identifier)
    availability = allowed.availability
    available_from = dt.date.min if availability is None else availability.available_from
    if only is None:
        wanted = _last_days(
            allowed,
            list(_missing_or_open(have, first, last, open_days, available_from)),
            have,
            today,
            policy,
        )
    else:
        chosen = _chosen(have, first, last, open_days, available_from, only)
        wanted = _remembered(chosen, available_from)
    for run in _runs(wanted, policy.longest_read_months):
        # The time zone of a bank's days is not documented. So the read adds a day on each side, and
        # leaves rows outside the planned days to the neighbour's pull.
        yield PlannedRead(
            from_date=max(run[0].from_date - _DAY, first),
            to_date=min(run[-1].to_date + _DAY, last),
            months=tuple(run),
            unless_refreshed_at=None if only is not None else _known_copy(run, have, availability),
        )


def phase_of(account_id: str, policy: Policy) -> int:
    """The day of the cycle on which an account's open months are read whole, from 0.

    Accounts are due on different days, so that a night has a part of them.
    """
    return crc32(account_id.encode()) % policy.whole_months_every_days


class CoverageByAccount(Protocol):
    """Coverage by account, then by month as YYYY-MM; a mapping has this shape."""

    def get(
        self, account_id: str, default: Mapping[str, Sequence[Coverage]], /
    ) -> Mapping[str, Sequence[Coverage]]:
        """Coverage of an account by month; the default if it has none."""


_NOTHING: Mapping[str, Sequence[Coverage]] = {}


def _number(day: dt.date) -> int:
    return day.year * 12 + day.month - 1


@cache
def _month(number: int) -> tuple[str, dt.date, dt.date]:
    """A month's name, first and last day."""
    first = dt.date(number // 12, number % 12 + 1, 1)
    last = (first + 31 * _DAY).replace(day=1) - _DAY
    return f"{first:%Y-%m}", first, last


@cache
def _settled_on(number: int, open_days: int) -> dt.date:
    """The last day on which a month's rows may still change."""
    return _month(number)[2] + open_days * _DAY


def _horizon(today: dt.date, policy: Policy) -> dt.date:
    """The first day of the wanted history."""
    if policy.history_months is None:
        return dt.date.min
    return _month(_number(today) - policy.history_months + 1)[1]


def _missing_or_open(
    have: Mapping[str, Sequence[Coverage]],
    first: dt.date,
    last: dt.date,
    open_days: int,
    available_from: dt.date,
) -> Iterator[tuple[int, PlannedMonth]]:
    """Months with days that no pull covers, and months that may still change."""
    calendar = _calendar(_number(first), _number(last), open_days)
    for number, name, month_start, month_end, settled_on in calendar:
        start, end = max(month_start, first), min(month_end, last)
        found = have.get(name, ())
        is_open = not found or _is_open(found, settled_on, available_from)
        if is_open or not _covers(found, start, end):
            yield number, PlannedMonth(name, start, end, _known_to(found, start), is_open)


@lru_cache(maxsize=4096)
def _calendar(
    first: int, last: int, open_days: int
) -> tuple[tuple[int, str, dt.date, dt.date, dt.date], ...]:
    """Number, name, first day and last day of months, and the last day on which rows may change."""
    return tuple(
        (number, *_month(number), _settled_on(number, open_days))
        for number in range(first, last + 1)
    )


def _last_days(
    allowed: AllowedDays,
    wanted: Sequence[tuple[int, PlannedMonth]],
    have: Mapping[str, Sequence[Coverage]],
    today: dt.date,
    policy: Policy,
) -> Iterator[tuple[int, PlannedMonth]]:
    """Shorten the open months at the end to their last days, unless they are due to be read whole.

    Args:
        allowed: The account.
        wanted: Months to read, in their order.
        have: Coverage of the account by month.
        today: The last UTC day that may be requested.
        policy: How eagerly to pull.
    """
    place = len(wanted)
    while place and wanted[place - 1][1].is_open:
        if place < len(wanted) and wanted[place - 1][0] + 1 != wanted[place][0]:
            break
        place -= 1
    start = _last_days_from(allowed, [month for _, month in wanted[place:]], have, today, policy)
    yield from wanted[:place]
    for number, month in wanted[place:]:
        if start is None or start <= month.from_date:
            yield number, month
        elif start <= month.to_date:
            known_to = _known_to(have.get(month.month, ()), start)
            yield number, replace(month, from_date=start, known_to=known_to)


def _last_days_from(
    allowed: AllowedDays,
    open_months: Sequence[PlannedMonth],
    have: Mapping[str, Sequence[Coverage]],
    today: dt.date,
    policy: Policy,
) -> dt.date | None:
    """The UTC day from which on open months are read; None if they are due to be read whole."""
    availability = allowed.availability
    available_from = dt.date.min if availability is None else availability.available_from
    # Days that the consent or the bank no longer offers are never read again.
    ranges = [
        it
        for month in open_months
        for it in have.get(month.month, ())
        if it.to_date >= max(available_from, month.from_date)
    ]
    copies = [it.refreshed_at for it in ranges if it.refreshed_at is not None]
    if not ranges or len(copies) < len(ranges):
        return None
    oldest = min(copies)
    every, phase = policy.whole_months_every_days, phase_of(allowed.account_id, policy)
    if (oldest.toordinal() + phase) // every < (today.toordinal() + phase) // every:
        return None
    start = oldest.date() - policy.nightly_days_of(allowed.bank_identifier) * _DAY
    for it in ranges:
        if it.is_unfit or it.refreshed_at != oldest:
            start = min(start, it.from_date)
        moving_from = it.moving_from or it.from_date
        if moving_from <= it.to_date:
            start = min(start, moving_from)
    for month in open_months:
        last = min(start - _DAY, month.to_date)
        if month.from_date <= last and not _covers(
            have.get(month.month, ()), month.from_date, last
        ):
            return None
    return start


def _chosen(
    have: Mapping[str, Sequence[Coverage]],
    first: dt.date,
    last: dt.date,
    open_days: int,
    available_from: dt.date,
    only: Collection[str],
) -> Iterator[tuple[int, PlannedMonth]]:
    """Chosen months, and their open neighbours that pulls cover."""
    numbers = range(_number(first), _number(last) + 1)
    wanted = {number for number in numbers if _month(number)[0] in only}
    for step, ordered in ((1, numbers), (-1, reversed(numbers))):
        for number in ordered:
            if number - step in wanted and number not in wanted:
                found = have.get(_month(number)[0], ())
                if _is_open(found, _settled_on(number, open_days), available_from):
                    wanted.add(number)
    for number in sorted(wanted):
        name, start, end = _month(number)
        start = max(start, first)
        found = have.get(name, ())
        is_open = not found or _is_open(found, _settled_on(number, open_days), available_from)
        yield number, PlannedMonth(name, start, min(end, last), _known_to(found, start), is_open)


def _remembered(
    wanted: Iterable[tuple[int, PlannedMonth]], available_from: dt.date
) -> Iterator[tuple[int, PlannedMonth]]:
    """Leave out months that were completely read and that the bank no longer offers.

    Otherwise the weekly reconciliation would request more of them each week, without any result.
    """
    for number, month in wanted:
        is_known = month.known_to is not None and month.known_to >= month.to_date
        if month.to_date >= available_from or not is_known:
            yield number, month


def _is_open(have: Sequence[Coverage], settled_on: dt.date, available_from: dt.date) -> bool:
    """Whether Lean last asked the bank for a month while its rows could change.

    Days that the bank no longer offers do not count, because they cannot be read again.
    """
    # A loop costs half as much as `any`, and this runs for each month of each account.
    for it in have:
        if it.to_date >= available_from and (
            it.is_unfit or it.refreshed_at is None or it.refreshed_at.date() <= settled_on
        ):
            return True
    return False


def _runs(wanted: Iterable[tuple[int, PlannedMonth]], longest: int) -> Iterator[list[PlannedMonth]]:
    """Runs of months without a gap, cut from the end so that open months stay together."""
    run: list[PlannedMonth] = []
    for _, month in wanted:
        if run and month.from_date != run[-1].to_date + _DAY:
            yield from _cut(run, longest)
            run = []
        run.append(month)
    if run:
        yield from _cut(run, longest)


def _cut(run: list[PlannedMonth], longest: int) -> Iterator[list[PlannedMonth]]:
    rest = len(run) % longest
    if rest:
        yield run[:rest]
    for start in range(rest, len(run), longest):
        yield run[start : start + longest]


def _covers(have: Sequence[Coverage], first: dt.date, last: dt.date) -> bool:
    """Whether all days of a range are covered."""
    if len(have) == 1:
        return have[0].from_date <= first and last <= have[0].to_date
    known_to = _known_to(have, first)
    return first > last or (known_to is not None and known_to >= last)


def _known_to(have: Sequence[Coverage], first: dt.date) -> dt.date | None:
    """Last day of the unbroken run of covered days from `first` on; None without covered days."""
    reached = first
    for one in sorted(have, key=lambda one: one.from_date) if len(have) > 1 else have:
        if one.from_date > reached:
            break
        reached = max(reached, one.to_date + _DAY)
    return reached - _DAY if reached > first else None


def _known_copy(
    run: Sequence[PlannedMonth],
    have: Mapping[str, Sequence[Coverage]],
    availability: Availability | None,
) -> dt.datetime | None:
    """The instant of the bank data copy of which all planned days were already read, or None.

    Days that this copy no longer had do not count.
    """
    copy: dt.datetime | None = None
    for month in run:
        for one in have.get(month.month, ()):
            if one.refreshed_at is None:
                return None
            if copy is None or one.refreshed_at > copy:
                copy = one.refreshed_at
    if copy is None:
        return None
    for month in run:
        of_copy = [one for one in have.get(month.month, ()) if one.refreshed_at == copy]
        start = month.covered_from(availability, copy)
        if not _covers(of_copy, start, min(month.to_date, copy.date())):
            return None
    return copy
