"""Answers of Lean as pages, and the records in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lean_resources.answers import Envelope, counted
from lean_resources.decoding.shape import Place, Shape
from lean_resources.documents import parse, split
from lean_resources.errors import SchemaError
from lean_resources.streams import STREAMS, Kind, Stream
from lean_resources.values import MisfitError, convert, look_up


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the validation of a page found, before its columns are decoded.

    Args:
        shape: The shape of its records, which the fast path reads; None where only the reader
            decodes the page.
        bare: Places where a bare text stands for a list of texts, as in the older generation.
        envelope: What surrounds the records, where there is a shape.
    """

    shape: Shape | None = field(default=None, repr=False)
    bare: frozenset[Place] = frozenset()
    envelope: Envelope | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of Lean, as received.

    Args:
        series_id: The paged read that it belongs to.
        number: Its place in the paged read, from 0.
        first_record: How many records the pages before it held.
        body: The JSON text.
        request: Parameters of the request, for columns that the record leaves out.
        is_detail: Whether the body is one record with more fields of a record on a page before.
        preflight: What the validation of the body found, where it was validated before.
    """

    series_id: str
    number: int
    first_record: int
    body: bytes = field(repr=False)
    request: Mapping[str, str]
    is_detail: bool = False
    preflight: Preflight | None = field(default=None, repr=False, compare=False)


def records_with_request(stream: Stream, page: Page) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Records of a page, each with the parameters that may fill its columns.

    Raises:
        SchemaError: The page is not JSON, or holds no list of records.
    """
    outer = stream if stream.exploded_from is None else STREAMS[stream.exploded_from]
    found = _detail_of(outer, page) if page.is_detail else records_in(outer, page.body)
    if page.is_detail:
        yield found, page.request
        return
    if stream is outer:
        for record in found:
            yield record, page.request
        return
    for record in found:
        if not isinstance(record, dict):
            continue
        known = dict(_texts_of(outer, record))
        inner = record.get(stream.records)
        for record_in in inner if isinstance(inner, list) else [] if inner is None else [inner]:
            yield record_in, {**page.request, **known}


def _texts_of(stream: Stream, record: Any) -> Iterator[tuple[str, Any]]:
    """The texts of a record that can be read, by column."""
    for column in stream.columns:
        if column.kind is Kind.TEXT:
            try:
                found = look_up(column, record)
                yield column.name, None if found is None else convert(column, *found, [])
            except MisfitError:
                continue


def _detail_of(stream: Stream, page: Page) -> Any:
    try:
        return parse(page.body.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise SchemaError("the answer is not JSON", stream=stream.name) from None


def records_in(stream: Stream, body: bytes) -> list[Any]:
    """The records of a page as `documents.parse` reads them, an `Odd` for what is not JSON.

    Raises:
        SchemaError: The page holds no list of records.
    """
    steps = stream.records.split(".") if stream.records else []
    try:
        found = parse(body.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        records = split(body, steps)
        if records is None:
            raise SchemaError("the answer is not JSON", stream=stream.name) from None
        return records
    outer = None
    for name in steps:
        outer, found = found, found.get(name) if isinstance(found, dict) else None
    if found is None and isinstance(outer, dict) and counted(stream, body) == 0:
        return []
    if not isinstance(found, list):
        raise SchemaError(
            f"the answer holds no list under {stream.records or 'its top'}", stream=stream.name
        )
    return found
