"""The definition of decoding: Python types the records, one after the other.

A record that does not fit goes to quarantine with its reason. The fast path gives the same rows,
and tests hold both equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa

from lean_resources.decoding.pages import Page, records_with_request
from lean_resources.decoding.shape import Node, all_paths, shape_of
from lean_resources.documents import Odd, is_twice
from lean_resources.quarantine import QUARANTINE_SCHEMA, TRACE_SCHEMA, key_text
from lean_resources.repeats import without_repeats
from lean_resources.streams import Column, Stream
from lean_resources.values import MisfitError, Note, convert, look_up


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """Typed rows of some pages, and what did not fit.

    Args:
        rows: Rows of the stream's schema followed by `TRACE_SCHEMA`.
        quarantine: Rows of `QUARANTINE_SCHEMA`: records that were left out, and optional values
            that could not be read or were read in another way.
        drift: How many records hold each path that the catalogue does not know.
        shifted: Keys that came on two pages, by `series_id`. Another record may be missing in place
            of the second, unless they come so again when the pages are cut otherwise.
    """

    rows: pa.Table
    quarantine: pa.Table
    drift: Counter[str]
    shifted: Mapping[str, frozenset[str]] = field(default_factory=dict)


class Reader:
    """Decodes records one after the other; reports values that do not fit and unknown fields."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._root = shape_of(stream, all_paths).root

    def decode(self, pages: Sequence[Page]) -> DecodeResult:
        """Decode the records of some pages, each key of a paged read once.

        Raises:
            SchemaError: A page is not JSON, or holds no list of records.
        """
        return with_keys_once(self._stream, self.decode_all(pages))

    def decode_all(self, pages: Sequence[Page]) -> DecodeResult:
        """Decode the records of some pages as they come.

        Raises:
            SchemaError: A page is not JSON, or holds no list of records.
        """
        values: dict[str, list[Any]] = {c.name: [] for c in self._stream.columns}
        trace: list[tuple[str, int, int]] = []
        quarantine: list[tuple[Any, ...]] = []
        drift: Counter[str] = Counter()
        for page in pages:
            for place, (record, request) in enumerate(records_with_request(self._stream, page)):
                where = (page.series_id, page.number, page.first_record + place)
                found = _Record(self._stream, record, {**request, "record_number": where[2]})
                for path, value in _unknown(record, self._root):
                    drift[path] += 1
                    if is_twice(value):
                        found.note_twice(path)
                quarantine += [(*where, *note) for note in found.quarantined]
                if found.is_lost:
                    continue
                for name, value in found.row.items():
                    values[name].append(value)
                trace.append(where)
        arrays = [pa.array(values[c.name], c.type) for c in self._stream.columns]
        arrays += _columns(trace, TRACE_SCHEMA)
        schema = pa.schema([*self._stream.schema, *TRACE_SCHEMA])
        return DecodeResult(
            pa.Table.from_arrays(arrays, schema=schema),
            pa.Table.from_arrays(_columns(quarantine, QUARANTINE_SCHEMA), schema=QUARANTINE_SCHEMA),
            drift,
        )


def with_keys_once(stream: Stream, found: DecodeResult) -> DecodeResult:
    """A result in which each key of a paged read stands once."""
    rows, repeated, shifted = without_repeats(stream, found.rows)
    if not repeated.num_rows:
        return found
    return DecodeResult(rows, pa.concat_tables([found.quarantine, repeated]), found.drift, shifted)


class _Record:
    """One record as `documents.parse` reads it, decoded.

    The request has values for columns that the record leaves out.
    """

    def __init__(self, stream: Stream, record: Any, request: Mapping[str, Any]) -> None:
        self._stream = stream
        self._record = record
        self._request = request
        self.is_lost = False
        self.row: dict[str, Any] = {}
        self._notes: list[tuple[str, str | None, str]] = []
        if isinstance(record, dict):
            self._read()
        else:
            reason = record.reason if isinstance(record, Odd) else "the record is not an object"
            self._lose(stream.key[-1], None, reason)

    @property
    def quarantined(self) -> list[tuple[Any, ...]]:
        """Rows of `QUARANTINE_SCHEMA` without their trace."""
        if not self._notes:
            return []
        days = filter(None, map(self._readable, self._stream.placed_by))
        day = next(days, None)
        key = key_text(list(map(self._readable, self._stream.key)))
        placed_on = day.date() if day is not None else None
        return [(*note, key, placed_on, self.is_lost) for note in self._notes]

    def note_twice(self, path: str) -> None:
        """Note that a field without a column holds a key twice."""
        if not self.is_lost:
            self._notes.append((path, path, "holds a key that stands twice in its object"))

    def _read(self) -> None:
        # Where the first placing date cannot be read, no other field replaces it.
        places = (name for name in self._stream.placed_by if self._is_filled(name))
        placing = next(places, None)
        for column in self._stream.columns:
            # The request supplies what it asked for, but never the key of a record.
            is_known = column.request is not None and column.name not in self._stream.key
            is_strict = (column.required and not is_known) or column.name == placing
            notes: list[Note] = []
            try:
                value = self._value(column, notes, exact=column.name == placing)
            except MisfitError as misfit:
                if is_strict:
                    self._lose(column.name, misfit.path, misfit.reason)
                    return
                notes = [Note(misfit.path or "", misfit.reason)]
                value = self._asked(column)
            if value is None and column.required:
                self._lose(column.name, None, "is missing")
                return
            self.row[column.name] = value
            self._notes += [(column.name, note.path, note.reason) for note in notes]

    def _lose(self, column: str, path: str | None, reason: str) -> None:
        self.is_lost = True
        self._notes = [(column, path, reason)]

    def _value(self, column: Column, notes: list[Note], *, exact: bool = False) -> Any:
        found = look_up(column, self._record)
        if found is None:
            return self._asked(column)
        return convert(column, *found, notes, exact=exact)

    def _asked(self, column: Column) -> Any:
        """Value of a column by the request."""
        return self._request.get(column.request) if column.request is not None else None

    def _is_filled(self, name: str) -> bool:
        try:
            return look_up(self._stream.column(name), self._record) is not None
        except MisfitError:
            return True

    def _readable(self, name: str) -> Any:
        """A column of the key or the day; None where it cannot be read."""
        if not isinstance(self._record, dict):
            return None
        try:
            return self._value(self._stream.column(name), [], exact=True)
        except MisfitError:
            return None


def _columns(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> list[pa.Array]:
    turned = list(zip(*rows, strict=True)) or [()] * len(schema)
    return [pa.array(list(values), f.type) for values, f in zip(turned, schema, strict=True)]


def _unknown(record: Any, node: Node, place: str = "") -> Iterator[tuple[str, Any]]:
    """Paths of a record that the catalogue does not know, with their values; lists are `[]`."""
    if isinstance(record, list):
        items = [item for item in record if isinstance(item, dict)]
        yield from dict(chain.from_iterable(_unknown(i, node, f"{place}[]") for i in items)).items()
    elif isinstance(record, dict) and (node.fields or node.kind is None):
        for key, value in record.items():
            path = f"{place}.{key}" if place else key
            if key not in node.fields:
                yield path.encode("utf-8", "replace").decode(), value
            else:
                yield from _unknown(value, node.fields[key], path)
