"""The simulated clock, and Lean's formats of instants; instants are nanoseconds since 1970."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import lru_cache

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NEVER = 1 << 62
"""An instant that never comes."""

_EPOCH = dt.date(1970, 1, 1).toordinal()
_START = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MORNING = dt.time(7, 15, tzinfo=dt.UTC)


def nanos_of(instant: dt.datetime) -> int:
    """Nanoseconds of an instant; an instant without a zone is taken as UTC."""
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=dt.UTC)
    return _nanos(instant - _START)


def _nanos(length: dt.timedelta) -> int:
    return (length.days * 86_400 + length.seconds) * SECOND + length.microseconds * 1000


def day_of(date: dt.date) -> int:
    """Days since 1970 of a date."""
    return date.toordinal() - _EPOCH


def date_of(day: int) -> dt.date:
    """Date of a day counted since 1970."""
    return dt.date.fromordinal(day + _EPOCH)


@lru_cache(maxsize=8192)
def day_text(day: int) -> str:
    """`2026-03-15` of a day counted since 1970."""
    return date_of(day).isoformat()


@lru_cache(maxsize=8192)
def month_of(day: int) -> int:
    """Months since year 0 of a day counted since 1970."""
    date = date_of(day)
    return date.year * 12 + date.month - 1


@lru_cache(maxsize=2048)
def first_day(month: int) -> int:
    """First day, counted since 1970, of a month counted since year 0."""
    return day_of(dt.date(month // 12, month % 12 + 1, 1))


def stamp(nanos: int, digits: int = 3) -> str:
    """Write an instant in UTC with this many fractional digits.

    Further digits are dropped, not rounded; with zero digits no dot is written.
    """
    day, rest = divmod(nanos, DAY)
    seconds, fraction = divmod(rest, SECOND)
    tail = f".{fraction:09}"[: digits + 1] if digits else ""
    time = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{day_text(day)}T{time}{tail}Z"


def parse_today(today: dt.date | dt.datetime | str) -> int:
    """Nanoseconds at which the clock starts: a date means 07:15 UTC on that day."""
    if isinstance(today, str):
        text = today.strip()
        today = dt.date.fromisoformat(text) if len(text) == 10 else dt.datetime.fromisoformat(text)
    if isinstance(today, dt.datetime):
        return nanos_of(today)
    return nanos_of(dt.datetime.combine(today, _MORNING))


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: int) -> None:
        self.nanos = start
        self.moved: list[Callable[[], None]] = []
        """Functions that are called after each move."""

    def __repr__(self) -> str:
        return f"Clock({stamp(self.nanos, 0)})"

    def now(self) -> dt.datetime:
        """The present instant, UTC, to the microsecond."""
        return _START + dt.timedelta(microseconds=self.nanos // 1000)

    @property
    def today(self) -> int:
        """The present UTC day, counted since 1970."""
        return self.nanos // DAY

    def advance(self, by: dt.timedelta) -> dt.datetime:
        """Move forward; returns the new instant.

        Raises:
            ValueError: The step is negative; Lean's clock does not run backwards.
        """
        if by < dt.timedelta(0):
            raise ValueError("The sandbox clock only moves forward; pass a positive timedelta.")
        self.nanos += _nanos(by)
        for tell in self.moved:
            tell()
        return self.now()
