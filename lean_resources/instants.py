"""Instants as Lean and banks write them."""

from __future__ import annotations

import datetime as dt
import re

EARLIEST_YEAR = 1900
"""Earlier years are Hijri dates in Gregorian clothes."""

BEFORE_LEAN = dt.date(2015, 1, 1)
"""A UTC day on which Lean did not exist yet: whoever asks from it on gets everything."""

_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?"
    r"(?: ?([Zz]|[+-]\d{2}(?::?\d{2})?))?)?"
)


def parse_instant(text: str) -> dt.datetime:
    """The instant in UTC, cut to the microsecond.

    Reads ISO 8601 with `T` or a space, up to nine fractional digits and any offset; without an
    offset the text is UTC, and a date alone is its midnight.

    Raises:
        ValueError: The text is no instant, or a year before 1900.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError("is not an instant")
    day, minute, second, fraction, offset = match.groups()
    if offset is None or offset in "Zz":
        offset = "+00:00"
    offset = offset if ":" in offset else f"{offset[:3]}:{offset[3:] or '00'}"
    # Digits beyond the microsecond are cut, not rounded: rounding could move a row into the next
    # month.
    micros = (fraction or "").ljust(6, "0")[:6]
    try:
        written = dt.datetime.fromisoformat(
            f"{day}T{minute or '00:00'}:{second or '00'}.{micros}{offset}"
        )
        instant = written.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not an instant") from None
    if instant.year < EARLIEST_YEAR:
        raise ValueError(f"is before {EARLIEST_YEAR}, so not Gregorian")
    return instant


def parse_date(text: str) -> dt.date:
    """The day as written, whatever time and offset follow it.

    Raises:
        ValueError: The text does not begin with a date, or with a year before 1900.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError("is not a date")
    try:
        day = dt.date.fromisoformat(match[1])
    except ValueError:
        raise ValueError("is not a date") from None
    if day.year < EARLIEST_YEAR:
        raise ValueError(f"is before {EARLIEST_YEAR}, so not Gregorian")
    return day
