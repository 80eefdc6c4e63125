"""What to pull now: a pure function of what is wanted, what is there, and the day.

Wanted is every month that the consent allows, up to today. There is what committed pulls claim. A
month stays open until some days after its end, because banks post late and change pending rows;
an open month is read again at every sync, which costs one request while the bank has said nothing
new. Days are UTC days and every range includes both ends.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.policy import Policy

__all__ = ["Claim", "PlannedMonth", "PlannedSeries", "Window", "months", "plan"]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """The days of one account that the consent allows to read.

    Args:
        account_id: The account.
        entity_id: Its entity.
        bank_identifier: Its bank.
        from_date: First allowed UTC day.
        to_date: Last allowed UTC day; later than today for a consent that goes on.
    """

    account_id: str
    entity_id: str
    bank_identifier: str
    from_date: dt.date
    to_date: dt.date


@dataclass(frozen=True, slots=True)
class Claim:
    """What a committed pull says it knows.

    Args:
        from_date: First UTC day.
        to_date: Last UTC day.
        refreshed_at: When the bank was last asked for it; None where Lean did not say.
    """

    from_date: dt.date
    to_date: dt.date
    refreshed_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class PlannedMonth:
    """One pull to be made.

    Args:
        month: UTC month as YYYY-MM.
        from_date: First UTC day that it will claim.
        to_date: Last UTC day that it will claim.
    """

    month: str
    from_date: dt.date
    to_date: dt.date


@dataclass(frozen=True, slots=True)
class PlannedSeries:
    """One series of requests to be made, for neighbouring months of one account.

    Args:
        window: The account.
        from_date: First UTC day to ask for.
        to_date: Last UTC day to ask for.
        months: The pulls that the series will commit.
        unless_refreshed_at: When the store still is of this instant, nothing is new.
    """

    window: Window
    from_date: dt.date
    to_date: dt.date
    months: tuple[PlannedMonth, ...]
    unless_refreshed_at: dt.datetime | None


def months(from_date: dt.date, to_date: dt.date) -> Iterator[tuple[str, dt.date, dt.date]]:
    """Months that touch a range: name, and the first and last day within the range."""
    first = from_date
    while first <= to_date:
        following = (first.replace(day=1) + 32 * _DAY).replace(day=1)
        yield f"{first:%Y-%m}", first, min(following - _DAY, to_date)
        first = following


def plan(
    windows: Sequence[Window],
    claims: Mapping[str, Mapping[str, Sequence[Claim]]],
    today: dt.date,
    policy: Policy,
    only: Collection[str] | None = None,
) -> Iterator[PlannedSeries]:
    """Decide which series of requests to make.

    Args:
        windows: The accounts.
        claims: For each account and month, the stretches of days that pulls speak for.
        today: The last UTC day that may be asked for.
        policy: How eagerly to pull.
        only: Months to read whatever is there already, as a backfill does; None for a sync.
    """
    for window in windows:
        have = claims.get(window.account_id, {})
        run: list[PlannedMonth] = []
        for name, first, last in months(window.from_date, min(window.to_date, today)):
            wanted = (
                name in only
                if only is not None
                else _is_wanted(have.get(name, ()), name, first, last, policy)
            )
            if run and (not wanted or len(run) == policy.longest_series_months):
                yield _series(window, run, have, today, is_forced=only is not None)
                run = []
            if wanted:
                run.append(PlannedMonth(name, first, last))
        if run:
            yield _series(window, run, have, today, is_forced=only is not None)


def _is_wanted(
    have: Sequence[Claim], name: str, first: dt.date, last: dt.date, policy: Policy
) -> bool:
    """Whether a month has days that no pull claims, or may still change."""
    if not _covers(have, first, last):
        return True
    year, month = map(int, name.split("-"))
    end = (dt.date(year, month, 1) + 32 * _DAY).replace(day=1) - _DAY
    settled = end + policy.lookback_days * _DAY
    return any(c.refreshed_at is None or c.refreshed_at.date() <= settled for c in have)


def _covers(have: Sequence[Claim], first: dt.date, last: dt.date) -> bool:
    """Whether claims leave no day of a range out."""
    reached = first
    for claim in sorted(have, key=lambda claim: claim.from_date):
        if claim.from_date > reached:
            return False
        reached = max(reached, claim.to_date + _DAY)
    return reached > last


def _series(
    window: Window,
    run: Sequence[PlannedMonth],
    have: Mapping[str, Sequence[Claim]],
    today: dt.date,
    *,
    is_forced: bool,
) -> PlannedSeries:
    # How a bank cuts days is not documented, so a neighbouring day is asked for on each side and
    # rows outside the claims are left to the neighbour's pull.
    allowed_to = min(window.to_date, today)
    return PlannedSeries(
        window=window,
        from_date=max(run[0].from_date - _DAY, window.from_date),
        to_date=min(run[-1].to_date + _DAY, allowed_to),
        months=tuple(run),
        unless_refreshed_at=None if is_forced else _known_store(run, have),
    )


def _known_store(
    run: Sequence[PlannedMonth], have: Mapping[str, Sequence[Claim]]
) -> dt.datetime | None:
    """The store's instant at which all that is planned was read already, if there is one."""
    stores = {claim.refreshed_at for month in run for claim in have.get(month.month, ())}
    if len(stores) != 1:
        return None
    (store,) = stores
    if store is None:
        return None
    known_to = store.date()
    is_known = all(
        _covers(have.get(month.month, ()), month.from_date, min(month.to_date, known_to))
        for month in run
    )
    return store if is_known else None
