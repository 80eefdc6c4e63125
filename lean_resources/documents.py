"""JSON as banks send it, read so that an odd value costs no other value.

A value without a plain meaning in JSON, such as NaN or a doubled key of an object, becomes an `Odd`
with its reason. Numbers keep their text. A page that is not JSON as a whole is split into the
records of its list, so that each record is read on its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["Number", "Odd", "flaw", "is_twice", "mended", "parse", "split", "text_of"]

_NOT_TEXT = "holds half of a character, or bytes that are not UTF-8"
_TOO_DEEP = "is nested too deeply"
_DEEPEST = 100
_SAFE_DIGITS = 18
_DEEP = "\udfff" + _TOO_DEEP
"""Stands for what lies too deep; no text of UTF-8 can be it."""
_NO_UTF8 = re.compile("[\udc80-\udcff]")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}:,]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Number:
    """A number by its text."""

    text: str


@dataclass(frozen=True, slots=True)
class Odd:
    """Stands where a value cannot be read.

    Args:
        reason: Why, without the value.
    """

    reason: str


_NOT_A_NUMBER = Odd("is NaN or infinite, which JSON does not know")
_TWICE = Odd("stands twice in its object")
_BROKEN = Odd("is not JSON")


def parse(text: str) -> Any:
    """JSON with numbers by their text.

    Raises:
        ValueError: The text is not JSON.
        RecursionError: It is nested too deeply.
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
    # Python refuses to read integers of thousands of digits, and forgets the sign of zero.
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
    """Why a text cannot be kept, or None when it can."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return _TOO_DEEP if text == _DEEP else _NOT_TEXT
    return None


def text_of(value: Any) -> str:
    """The JSON text of a parsed value, without spaces and with numbers as they were sent.

    Raises:
        ValueError: A part of it cannot be read; the message is the reason.
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
    """Reasons for which parts of a value cannot be read."""
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
    """Whether a value, or a part of it, belongs to a doubled key."""
    return _TWICE.reason in _flaws(value)


def split(body: bytes, steps: Sequence[str]) -> list[Any] | None:
    """The records of a page that is not JSON as a whole, each read on its own.

    Args:
        body: The page.
        steps: Keys from the top to the list of records.

    Returns:
        The records, with an `Odd` for each that is not JSON; None where no list is found.
    """
    text = body.decode("utf-8", "surrogateescape")
    spans = _spans(text, steps)
    return None if spans is None else [_alone(text[start:end]) for start, end in spans]


def mended(body: bytes, steps: Sequence[str]) -> bytes | None:
    """A page whose envelope can be read, with `null` for each record and each odd value.

    Args:
        body: The page.
        steps: Keys from the top to the list of records.

    Returns:
        None where the body is not JSON even so.
    """
    text = body.decode("utf-8", "surrogateescape")
    spans = _spans(text, steps)
    if spans:
        nulls = ",".join(["null"] * len(spans))
        text = f"{text[: spans[0][0]]}{nulls}{text[spans[-1][1] :]}"
    if _NO_UTF8.search(text):
        return None  # a guessed status would be worse
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
    """Start and end of each element of the list at some keys."""
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
    """Position after the `[` of the list at some keys; consumes the tokens up to it."""
    keys: list[str | None] = []  # of each object that is open; None for a list
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
    """A record without the values that are nested too deeply."""
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
