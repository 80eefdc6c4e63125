"""What to pull now: a pure function of what is wanted, what is there, and the day.

Wanted is every month that the consent allows, up to today. There is what committed pulls claim. A
month stays open until some days after its end, because banks post late and change pending rows;
an open month is read again at every sync, which costs one request while the bank has said nothing
new. Days are UTC days and every range includes both ends.

A row may move between open months, as a pending one does that books a day later. So months between
which it can move are read together: a read that has to be cut is cut before its open months,
and a backfill brings along the open neighbours of what was chosen. A row that a bank moves out of a
month after that month has settled is for the weekly reconciliation to find.

Banks offer so many months and forget the days before. What was read of those stays what is known: a
later read speaks only for days that the bank still has, or that nobody has read before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Protocol

from pipelines.sync.policy import Policy

__all__ = ["Claim", "Claims", "Depth", "PlannedMonth", "PlannedRead", "Window", "months", "plan"]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Depth:
    """How far back a bank offers an account's rows, as a refresh told.

    Args:
        from_date: First UTC day that it offered.
        told_on: UTC day of that refresh.
    """

    from_date: dt.date
    told_on: dt.date

    def whole_from(self, refreshed_at: dt.datetime | None, first_row_on: dt.date | None) -> dt.date:
        """The first UTC day that a store surely has whole.

        The start may have moved on since it was told, by as many days as have passed; unless an
        earlier row shows that it did not. Of that row's own day the bank may lack the hours before.

        Args:
            refreshed_at: The store's instant; None where Lean did not say.
            first_row_on: UTC day of the first row of a read of that store; None without any.
        """
        passed = 0 if refreshed_at is None else (refreshed_at.date() - self.told_on).days
        told = self.from_date + max(passed, 0) * _DAY
        return told if first_row_on is None else min(told, first_row_on + _DAY)


@dataclass(frozen=True, slots=True)
class Window:
    """The days of one account that the consent allows to read.

    Args:
        account_id: The account.
        bank_identifier: Its bank.
        from_date: First allowed UTC day.
        to_date: Last allowed UTC day; later than today for a consent that goes on.
        depth: How far back the bank offers rows, where the newest refresh told.
    """

    account_id: str
    bank_identifier: str
    from_date: dt.date
    to_date: dt.date
    depth: Depth | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a committed pull says it knows.

    Args:
        from_date: First UTC day.
        to_date: Last UTC day.
        refreshed_at: When the bank was last asked for it; None where Lean did not say.
        is_unfit: Whether records of it did not fit, so that not all of these days are known.
    """

    from_date: dt.date
    to_date: dt.date
    refreshed_at: dt.datetime | None
    is_unfit: bool = False


@dataclass(frozen=True, slots=True)
class PlannedMonth:
    """One pull to be made.

    Args:
        month: UTC month as YYYY-MM.
        from_date: First UTC day that it will claim, if the store has it.
        to_date: Last UTC day that it will claim.
        known_to: Last of the days from the first one on that pulls speak for already, without a
            day between that none does; None where the first day is new.
        is_open: Whether its rows may still change, or nobody has read it.
    """

    month: str
    from_date: dt.date
    to_date: dt.date
    known_to: dt.date | None = None
    is_open: bool = True

    def claims_from(
        self,
        depth: Depth | None,
        refreshed_at: dt.datetime | None,
        first_row_on: dt.date | None = None,
    ) -> dt.date:
        """The first UTC day that a read speaks for; after the last where it speaks for none.

        Days that the bank may have forgotten stay with the pulls that read them while it had them;
        those that no pull has read yet have nobody else to speak for them.

        Args:
            depth: How far back the bank offers rows, where that is known.
            refreshed_at: The instant of the store that was read; None where Lean did not say.
            first_row_on: UTC day of the first row of the read; None without any.
        """
        if depth is None or self.known_to is None:
            return self.from_date
        # While rows move, a day that is kept from an older pull may show one that has moved on; so
        # an open month is only kept from a start that was told, not from one that may have moved.
        whole_from = depth.from_date
        if not self.is_open:
            whole_from = depth.whole_from(refreshed_at, first_row_on)
        return max(self.from_date, min(whole_from, self.known_to + _DAY))


@dataclass(frozen=True, slots=True)
class PlannedRead:
    """A paged read to be made, for neighbouring months of one account.

    Args:
        from_date: First UTC day to ask for.
        to_date: Last UTC day to ask for.
        months: The pulls that the read will commit.
        unless_refreshed_at: When the store still is of this instant, nothing is new.
    """

    from_date: dt.date
    to_date: dt.date
    months: tuple[PlannedMonth, ...]
    unless_refreshed_at: dt.datetime | None


def months(from_date: dt.date, to_date: dt.date) -> Iterator[tuple[str, dt.date, dt.date]]:
    """Months that touch a range: name, and the first and last day within the range."""
    if from_date > to_date:
        return
    for number in range(_number(from_date), _number(to_date) + 1):
        name, first, last = _month(number)
        yield name, max(first, from_date), min(last, to_date)


def plan(
    window: Window,
    claims: Claims,
    today: dt.date,
    policy: Policy,
    only: Collection[str] | None = None,
) -> Iterator[PlannedRead]:
    """Decide which paged reads to make for an account.

    Args:
        window: The account.
        claims: For each account and month, the stretches of days that pulls speak for.
        today: The last UTC day that may be asked for.
        policy: How eagerly to pull.
        only: Months to read whatever is there already, as a backfill does; None for a sync.
    """
    first = max(window.from_date, _horizon(today, policy))
    last = min(window.to_date, today)
    if first > last:
        return
    have = claims.get(window.account_id, _NOTHING)
    lookback = policy.lookback_of(window.bank_identifier)
    offered_from = dt.date.min if window.depth is None else window.depth.from_date
    if only is None:
        wanted = _missing_or_open(have, first, last, lookback, offered_from)
    else:
        chosen = _chosen(have, first, last, lookback, offered_from, only)
        wanted = _remembered(chosen, offered_from)
    for run in _runs(wanted, policy.longest_read_months):
        # How a bank cuts days is not documented, so a neighbouring day is asked for on each side
        # and rows outside the claims are left to the neighbour's pull.
        yield PlannedRead(
            from_date=max(run[0].from_date - _DAY, first),
            to_date=min(run[-1].to_date + _DAY, last),
            months=tuple(run),
            unless_refreshed_at=None if only is not None else _known_store(run, have, window.depth),
        )


class Claims(Protocol):
    """Claims by account, then by month as YYYY-MM; a mapping is one."""

    def get(
        self, account_id: str, default: Mapping[str, Sequence[Claim]], /
    ) -> Mapping[str, Sequence[Claim]]:
        """Claims of one account by month."""


_NOTHING: Mapping[str, Sequence[Claim]] = {}


def _number(day: dt.date) -> int:
    return day.year * 12 + day.month - 1


@cache
def _month(number: int) -> tuple[str, dt.date, dt.date]:
    """A month's name, first and last day."""
    first = dt.date(number // 12, number % 12 + 1, 1)
    last = (first + 31 * _DAY).replace(day=1) - _DAY
    return f"{first:%Y-%m}", first, last


@cache
def _settled_on(number: int, lookback: int) -> dt.date:
    """The last day on which a month's rows may still change."""
    return _month(number)[2] + lookback * _DAY


def _horizon(today: dt.date, policy: Policy) -> dt.date:
    """The first day of the history that is wanted."""
    if policy.history_months is None:
        return dt.date.min
    return _month(_number(today) - policy.history_months + 1)[1]


def _missing_or_open(
    have: Mapping[str, Sequence[Claim]],
    first: dt.date,
    last: dt.date,
    lookback: int,
    offered_from: dt.date,
) -> Iterator[tuple[int, PlannedMonth]]:
    """Months with days that no pull claims, and those that may still change."""
    calendar = _calendar(_number(first), _number(last), lookback)
    for number, name, month_start, month_end, settled_on in calendar:
        start, end = max(month_start, first), min(month_end, last)
        found = have.get(name, ())
        is_open = not found or _is_open(found, settled_on, offered_from)
        if is_open or not _covers(found, start, end):
            yield number, PlannedMonth(name, start, end, _known_to(found, start), is_open)


@lru_cache(maxsize=4096)
def _calendar(
    first: int, last: int, lookback: int
) -> tuple[tuple[int, str, dt.date, dt.date, dt.date], ...]:
    """Months by number, with name, first and last day, and the last on which rows may change."""
    return tuple(
        (number, *_month(number), _settled_on(number, lookback))
        for number in range(first, last + 1)
    )


def _chosen(
    have: Mapping[str, Sequence[Claim]],
    first: dt.date,
    last: dt.date,
    lookback: int,
    offered_from: dt.date,
    only: Collection[str],
) -> Iterator[tuple[int, PlannedMonth]]:
    """Chosen months, and their open neighbours as far as pulls speak for them."""
    numbers = range(_number(first), _number(last) + 1)
    wanted = {number for number in numbers if _month(number)[0] in only}
    for step, ordered in ((1, numbers), (-1, reversed(numbers))):
        for number in ordered:
            if number - step in wanted and number not in wanted:
                found = have.get(_month(number)[0], ())
                if _is_open(found, _settled_on(number, lookback), offered_from):
                    wanted.add(number)
    for number in sorted(wanted):
        name, start, end = _month(number)
        start = max(start, first)
        found = have.get(name, ())
        is_open = not found or _is_open(found, _settled_on(number, lookback), offered_from)
        yield number, PlannedMonth(name, start, min(end, last), _known_to(found, start), is_open)


def _remembered(
    wanted: Iterable[tuple[int, PlannedMonth]], offered_from: dt.date
) -> Iterator[tuple[int, PlannedMonth]]:
    """Months without those that were read whole and that the bank has forgotten since.

    A weekly reconciliation would ask for ever more of them, and learn nothing.
    """
    for number, month in wanted:
        is_known = month.known_to is not None and month.known_to >= month.to_date
        if month.to_date >= offered_from or not is_known:
            yield number, month


def _is_open(have: Sequence[Claim], settled_on: dt.date, offered_from: dt.date) -> bool:
    """Whether the bank was last asked for a month while its rows could change.

    Days that it has forgotten since do not count: nothing more can be learnt of them.
    """
    # A loop, because this is asked for each month of each account: half the cost of `any`.
    for claim in have:
        if claim.to_date >= offered_from and (
            claim.is_unfit or claim.refreshed_at is None or claim.refreshed_at.date() <= settled_on
        ):
            return True
    return False


def _runs(wanted: Iterable[tuple[int, PlannedMonth]], longest: int) -> Iterator[list[PlannedMonth]]:
    """Neighbours together, at most so many, cut from the end so that open months stay together."""
    run: list[PlannedMonth] = []
    reached = None
    for number, month in wanted:
        if run and number != reached:
            yield from _cut(run, longest)
            run = []
        run.append(month)
        reached = number + 1
    if run:
        yield from _cut(run, longest)


def _cut(run: list[PlannedMonth], longest: int) -> Iterator[list[PlannedMonth]]:
    rest = len(run) % longest
    if rest:
        yield run[:rest]
    for start in range(rest, len(run), longest):
        yield run[start : start + longest]


def _covers(have: Sequence[Claim], first: dt.date, last: dt.date) -> bool:
    """Whether claims leave no day of a range out."""
    if len(have) == 1:
        return have[0].from_date <= first and last <= have[0].to_date
    known_to = _known_to(have, first)
    return first > last or (known_to is not None and known_to >= last)


def _known_to(have: Sequence[Claim], first: dt.date) -> dt.date | None:
    """The last day of those from the first one on of which claims leave none out."""
    reached = first
    for claim in sorted(have, key=lambda claim: claim.from_date) if len(have) > 1 else have:
        if claim.from_date > reached:
            break
        reached = max(reached, claim.to_date + _DAY)
    return reached - _DAY if reached > first else None


def _known_store(
    run: Sequence[PlannedMonth], have: Mapping[str, Sequence[Claim]], depth: Depth | None
) -> dt.datetime | None:
    """The store's instant at which all that is planned was read already, if there is one.

    Days that the bank had forgotten by then do not count: no read of that store has them.
    """
    store: dt.datetime | None = None
    for month in run:
        for claim in have.get(month.month, ()):
            if claim.refreshed_at is None:
                return None
            if store is None or claim.refreshed_at > store:
                store = claim.refreshed_at
    if store is None:
        return None
    for month in run:
        of_store = [one for one in have.get(month.month, ()) if one.refreshed_at == store]
        start = month.claims_from(depth, store)
        if not _covers(of_store, start, min(month.to_date, store.date())):
            return None
    return store
