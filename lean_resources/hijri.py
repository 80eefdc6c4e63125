"""Dates of the Umm al-Qura calendar that stand where Gregorian ones are documented."""

from __future__ import annotations

import re

from hijridate import Hijri

_WRITTEN = re.compile(r"(1[345]\d{2})-(\d{2})-(\d{2})(?=$|[Tt ])")
_FIRST_YEAR, _LAST_YEAR = 1300, 1500


def gregorian(text: str) -> str | None:
    """A text whose date is Hijri with its Gregorian date, the time left as it is.

    Returns:
        None for a text that does not begin with a date of the years 1300 to 1500.

    Raises:
        ValueError: The calendar has no such day, or its table, which begins in 1343, does not.
    """
    match = _WRITTEN.match(text)
    if match is None or not _FIRST_YEAR <= int(match[1]) <= _LAST_YEAR:
        return None
    try:
        day = Hijri(int(match[1]), int(match[2]), int(match[3])).to_gregorian()
    except (ValueError, OverflowError):
        raise ValueError("is a Hijri date that the calendar does not hold") from None
    return f"{day.isoformat()}{text[match.end() :]}"
