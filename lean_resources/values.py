"""Values of records, converted to the kind of their column.

This is the definition of typed decoding, one value at a time. For a value that cannot be read there
is a reason, which contains no part of the value.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from lean_resources.documents import Number, Odd, flaw, text_of
from lean_resources.hijri import gregorian
from lean_resources.instants import parse_date, parse_instant
from lean_resources.streams import Column, Kind, segments

SCALE = {Kind.MONEY: 9, Kind.RATE: 18}
PRECISION = 38
_MOST_DIGITS = 1000
"""A longer number is refused at once, since its conversion would take long."""
_WAS_HIJRI = "was a Hijri date and was converted"
_IBAN = re.compile(r"\s*[A-Za-z]{2}\s*\d{2}[A-Za-z0-9\s]{11,40}")


@dataclass(frozen=True, slots=True)
class Note:
    """Why a value at a place of a record that is kept became null or was converted."""

    path: str
    reason: str


class MisfitError(Exception):
    """A value cannot be read; the message is the reason, without the value."""

    def __init__(self, path: str | None, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def is_blank(value: Any) -> bool:
    """Whether a value is a blank text, which means nothing where no text belongs."""
    return isinstance(value, str) and not value.strip()


def iban_like(text: Any) -> bool:
    """Whether a text has the form of an IBAN."""
    return isinstance(text, str) and _IBAN.fullmatch(text) is not None


def best_place(items: Sequence[Mapping[str, Any]]) -> int:
    """Which of several identifications of one account is shown: an IBAN, else the first.

    An IBAN is known by its form before its label, because banks mix their labels up.
    """
    ranks = [
        4 * iban_like(item.get("identification"))
        + 2 * ("IBAN" in (item.get("scheme_name"), item.get("identification_type")))
        + (item.get("identification") is not None)
        for item in items
    ]
    return ranks.index(max(ranks))


def look_up(column: Column, record: Any) -> tuple[str, Any] | None:
    """The first path of a column with a value, and that value; None without any.

    A blank text is a value only for a column of text.

    Raises:
        MisfitError: A part of the path is not an object.
    """
    for path in column.paths:
        value = record
        for step in segments(path):
            if value is None or is_blank(value):
                value = None
                break
            if isinstance(value, Odd):
                raise MisfitError(path, value.reason)
            if not isinstance(value, dict):
                raise MisfitError(path, f"has no object on the way along {path}")
            value = value.get(step.name)
            if step.first and isinstance(value, list):
                value = _best(value)
        if value is not None and not (column.kind is not Kind.TEXT and is_blank(value)):
            return path, value
    return None


def _best(items: Sequence[Any]) -> Any:
    """The identification of a list that is shown; another value only where no object is there."""
    known = [item for item in items if isinstance(item, dict)]
    if not known:
        return next((item for item in items if item is not None), None)
    return known[best_place(known)]


def convert(
    column: Column, path: str, value: Any, notes: list[Note], *, exact: bool = False
) -> Any:
    """A value as its column takes it.

    Args:
        path: Place of the value in the record.
        value: The value as `documents.parse` reads it.
        notes: Gets a note for each part that cannot be read or has another calendar.
        exact: Whether a date of another calendar is refused instead of converted.

    Raises:
        MisfitError: The value cannot be read.
    """
    if isinstance(value, Odd):
        raise MisfitError(path, value.reason)
    try:
        if column.kind is Kind.ITEMS:
            return _to_items(column, path, value, notes)
        if column.kind in (Kind.INSTANT, Kind.DATE):
            return _to_time(column.kind, path, value, notes, exact=exact)
        return _CONVERT[column.kind](column, value)
    except ValueError as error:
        raise MisfitError(path, str(error)) from None


def _to_text(column: Column, value: Any) -> str:
    if isinstance(value, Number):
        text = value.text
    elif isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value)
    else:
        raise ValueError(value.reason if isinstance(value, Odd) else "is not text")  # noqa: TRY004
    if (reason := flaw(text)) is not None:
        raise ValueError(reason)
    return column.aliases.get(text, text)


def _decimal(value: Any) -> Decimal | None:
    """The exact number; None where the value is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | Number):
        return None
    if isinstance(value, int):
        return Decimal(value)
    if len(value.text) > _MOST_DIGITS:
        raise ValueError(f"has more than {_MOST_DIGITS} digits")
    try:
        return Decimal(value.text)
    except InvalidOperation:
        raise ValueError("has an exponent beyond all numbers") from None


def _to_integer(_: Column, value: Any) -> int:
    number = _decimal(value)
    if number is None:
        raise ValueError("is not a whole number")
    if number.adjusted() > 18 and number:
        raise ValueError("is beyond 64 bits")
    if number != number.to_integral_value():
        raise ValueError("is not a whole number")
    if not -(2**63) <= number < 2**63:
        raise ValueError("is beyond 64 bits")
    return int(number)


def _to_boolean(_: Column, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")  # noqa: TRY004 - a reason, not a bug
    return value


def _to_decimal(column: Column, value: Any) -> Decimal:
    number = _decimal(value)
    if number is None:
        raise ValueError("is not a number")
    _, digits, exponent = number.as_tuple()
    significant = "".join(map(str, digits)).rstrip("0")
    exponent = int(exponent) + len(digits) - len(significant)
    scale = SCALE[column.kind]
    if not significant:
        return Decimal(0)
    if -exponent > scale:
        raise ValueError(f"has {-exponent} decimals and the column holds {scale}")
    if len(significant) + exponent > PRECISION - scale:
        raise ValueError(f"has more than {PRECISION - scale} digits before the point")
    return number


def _to_time(
    kind: Kind, path: str, value: Any, notes: list[Note], *, exact: bool
) -> dt.datetime | dt.date:
    parse: Callable[[str], dt.date] = parse_instant if kind is Kind.INSTANT else parse_date
    if not isinstance(value, str):
        raise ValueError("is not an instant" if kind is Kind.INSTANT else "is not a date")  # noqa: TRY004
    if exact or (converted := gregorian(value)) is None:
        return parse(value)
    found = parse(converted)
    notes.append(Note(path, _WAS_HIJRI))
    return found


def _to_texts(column: Column, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [_to_text(column, v) for v in values if v is not None]


def _to_map(_: Column, value: Any) -> list[tuple[str, str | None]]:
    if not isinstance(value, dict):
        raise ValueError("is not an object")  # noqa: TRY004 - a reason, not a bug
    found = []
    for key, inner in value.items():
        text = inner if inner is None or isinstance(inner, str) else text_of(inner)
        if (reason := flaw(key) or flaw(text or "")) is not None:
            raise ValueError(reason)
        found.append((key, text))
    return found


def _to_json(_: Column, value: Any) -> str:
    return text_of(value)


def _to_items(
    column: Column, path: str, value: Any, notes: list[Note]
) -> list[dict[str, Any]] | None:
    """Objects of a list; other elements are left out, each with a note."""
    if not isinstance(value, list):
        raise ValueError("is not a list")  # noqa: TRY004 - a reason, not a bug
    items = []
    for place, item in enumerate(value):
        here = f"{path}[{place}]"
        if not isinstance(item, dict):
            odd = item.reason if isinstance(item, Odd) else "is not an object"
            notes.append(Note(here, odd))
            continue
        items.append({inner.name: _inner(inner, here, item, notes) for inner in column.fields})
    # Elements that cannot be read are unknown. An empty list would say that there are none.
    is_nothing = bool(value) and not items
    return None if is_nothing or len(items) < column.fewest else items


def _inner(column: Column, place: str, item: Mapping[str, Any], notes: list[Note]) -> Any:
    """One column of an element, null where it cannot be read."""
    try:
        found = look_up(column, item)
        if found is None:
            return None
        path, value = found
        inner: list[Note] = []
        result = convert(column, path, value, inner)
        notes += [Note(f"{place}.{note.path}", note.reason) for note in inner]
    except MisfitError as misfit:
        notes.append(Note(f"{place}.{misfit.path}", misfit.reason))
        return None
    return result


_CONVERT: dict[Kind, Callable[[Column, Any], Any]] = {
    Kind.TEXT: _to_text,
    Kind.INTEGER: _to_integer,
    Kind.BOOLEAN: _to_boolean,
    Kind.MONEY: _to_decimal,
    Kind.RATE: _to_decimal,
    Kind.TEXTS: _to_texts,
    Kind.TEXT_MAP: _to_map,
    Kind.JSON: _to_json,
}
