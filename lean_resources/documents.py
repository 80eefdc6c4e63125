"""Reads JSON from banks so that an odd value does not affect the rest.

A value that is not valid JSON, such as NaN or a repeated key of an object, becomes an `Odd` with a
reason. Numbers keep their text. If a page is not JSON as a whole, it is split into the records of
its list, and each record is read separately.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

_NOT_TEXT = "holds half of a character, or bytes that are not UTF-8"
_TOO_DEEP = "is nested too deeply"
_DEEPEST = 100
_SAFE_DIGITS = 18
_DEEP = "\udfff" + _TOO_DEEP
"""Replaces values that are nested too deeply; it cannot occur in UTF-8."""
_NO_UTF8 = re.compile("[\udc80-\udcff]")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}:,]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Number:
    """A number as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Odd:
    """Replaces an unreadable value.

    Args:
        reason: Why it cannot be read, without the value.
    """

    reason: str


_NOT_A_NUMBER = Odd("is NaN or infinite, which JSON does not know")
_TWICE = Odd("stands twice in its object")
_BROKEN = Odd("is not JSON")


def parse(text: str) -> Any:
    """Parse JSON; decimals, long integers and -0 keep their text.

    Raises:
        ValueError: The text is not JSON.
        RecursionError: The text is nested too deeply.
    """
    return json.loads(
        text,
        strict=False,
        parse_float=Number,
        parse_int=_integer,
        parse_constant=lambda _: _NOT_A_NUMBER,
        object_pairs_hook=_object,
    )


def _integer(text: str) -> int | Number:
    # Python refuses integers with thousands of digits, and drops the sign of -0.
    return int(text) if len(text) <= _SAFE_DIGITS and text != "-0" else Number(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                found[key] = _TWICE
            seen.add(key)
    return found


def flaw(text: str) -> str | None:
    """Why a text cannot be kept, or None if it can."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return _TOO_DEEP if text == _DEEP else _NOT_TEXT
    return None


def text_of(value: Any) -> str:
    """The JSON text of a parsed value, without spaces and with unchanged numbers.

    Raises:
        ValueError: A part of it is unreadable; the message is the reason.
    """
    try:
        return _dumped(value).decode()
    except TypeError:  # orjson's own errors are of this class
        raise ValueError(next(_flaws(value), _TOO_DEEP)) from None


def _dumped(value: Any) -> bytes:
    return orjson.dumps(value, default=_written, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _written(value: Any) -> orjson.Fragment:
    if isinstance(value, Number):
        return orjson.Fragment(value.text)
    raise TypeError


def _flaws(value: Any) -> Iterator[str]:
    """Reasons why parts of a value are unreadable."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, Odd):
            yield found.reason
        elif isinstance(found, str) and (reason := flaw(found)) is not None:
            yield reason
        elif isinstance(found, list):
            left += found
        elif isinstance(found, dict):
            left += [*found, *found.values()]


def is_twice(value: Any) -> bool:
    """Whether a value, or a part of it, belongs to a repeated key."""
    return _TWICE.reason in _flaws(value)


def split(body: bytes, steps: Sequence[str]) -> list[Any] | None:
    """The records of a page that is not JSON as a whole, each read separately.

    Args:
        steps: Keys from the top to the list of records.

    Returns:
        The records, with an `Odd` for each that is not JSON; None if the list is not found.
    """
    text = body.decode("utf-8", "surrogateescape")
    spans = _spans(text, steps)
    return None if spans is None else [_alone(text[start:end]) for start, end in spans]


def mended(body: bytes, steps: Sequence[str]) -> bytes | None:
    """A page with a readable envelope, and with `null` for each record and odd value.

    `steps` are as for `split`. None if it is still not JSON.
    """
    text = body.decode("utf-8", "surrogateescape")
    spans = _spans(text, steps)
    if spans:
        nulls = ",".join(["null"] * len(spans))
        text = f"{text[: spans[0][0]]}{nulls}{text[spans[-1][1] :]}"
    if _NO_UTF8.search(text):
        return None  # its status could only be guessed
    try:
        return _dumped(_cleaned(parse(_pruned(text))))
    except (ValueError, TypeError):
        return None


def _cleaned(value: Any) -> Any:
    """A value without odd values and without broken characters."""
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None if isinstance(value, Odd) else value


def _alone(text: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        return _BROKEN
    except RecursionError:
        pass
    try:
        return parse(_pruned(text))
    except (ValueError, RecursionError):
        return _BROKEN


def _spans(text: str, steps: Sequence[str]) -> list[tuple[int, int]] | None:
    """Start and end of each element of the list at these keys."""
    tokens = _TOKEN.finditer(text)
    begun = _begun(tokens, list(steps))
    if begun is None:
        return None
    spans: list[tuple[int, int]] = []
    start, depth = begun, 1
    for token in tokens:
        mark = token.group()
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        if depth == 0:
            if spans or text[start : token.start()].strip():
                spans.append((start, token.start()))
            return spans
        if depth == 1 and mark == ",":
            spans.append((start, token.start()))
            start = token.end()
    return None


def _begun(tokens: Iterator[re.Match[str]], wanted: Sequence[str]) -> int | None:
    """Position after the `[` of the list at these keys; consumes the tokens up to it."""
    keys: list[str | None] = []  # the current key of each open object; None for a list
    last = ""
    for token in tokens:
        mark = token.group()
        if mark[0] == '"':
            last = mark[1:-1]
        elif mark == ":" and keys:
            keys[-1] = last
        elif mark == "[" and keys == wanted:
            return token.end()
        elif mark in "[{":
            keys.append(None)
        elif mark in "]}" and keys:
            keys.pop()
    return None


def _pruned(text: str) -> str:
    """A record in which values that are nested too deeply are replaced."""
    kept: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in "[{":
            depth += 1
            if depth == _DEEPEST:
                kept += [text[start : token.start()], json.dumps(_DEEP)]
        elif mark in "]}":
            if depth == _DEEPEST:
                start = token.end()
            depth -= 1
    return "".join([*kept, text[start:]])
