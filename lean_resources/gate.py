"""The gate: JSON records become typed columns, and what does not fit goes to quarantine.

There are two ways through, and a test holds them equal. `_Reader` reads one record after the
other in Python; it is the definition. Where a whole page is of the documented shape, which a
validator derived from the catalogue decides, DuckDB reads the page instead: the same rows several
times faster, outside Python's lock. Numbers never pass through a float: the first way parses
their text, the second lets DuckDB cast the text itself, and only after the validator has seen that
the text fits the column.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.errors import SchemaError
from lean_resources.instants import EARLIEST_YEAR, parse_date, parse_instant
from lean_resources.streams import STREAMS, Column, Kind, Stream, segments

__all__ = ["QUARANTINE_SCHEMA", "TRACE_SCHEMA", "Gate", "Gated", "Page"]

TRACE_SCHEMA = pa.schema(
    [
        pa.field("series_id", pa.string(), nullable=False),
        pa.field("page_number", pa.int32(), nullable=False),
        pa.field("record_number", pa.int32(), nullable=False),
    ]
)
"""Where a row came from: the series of requests, its page, and the record's place in the series."""

QUARANTINE_SCHEMA = pa.schema(
    [
        *TRACE_SCHEMA,
        pa.field("column_name", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""A record that did not fit, without its values: those stay in the raw page."""

_REGIONAL = "regional_data"
_SCALE = {Kind.MONEY: 9, Kind.RATE: 18}
_PRECISION = 38
_VECTOR_PAGES = 8
_VIEW = np.dtype([("length", "<i4"), ("prefix", "S4"), ("buffer", "<i4"), ("offset", "<i4")])
"""One text of Arrow's string views: its length and first bytes, and where the whole of it lies."""
_INLINE_BYTES = 12
"""Texts up to this length lie in the view itself."""
# A number whose text fits both scales without a look at its value.
_PLAIN_NUMBERS = re.compile(rb"(?:(?:-?(?:0|[1-9]\d{0,18})(?:\.\d{1,9})?|null),)*")


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of Lean, as received.

    Args:
        series_id: The series of requests it belongs to.
        number: Its place in the series, from 0.
        first_record: How many records the pages before it held.
        body: The JSON text.
        request: Parameters of the request, for columns that the record leaves out.
        is_detail: Whether the body is one record that tells more of a record seen before.
    """

    series_id: str
    number: int
    first_record: int
    body: bytes = field(repr=False)
    request: Mapping[str, str]
    is_detail: bool = False


@dataclass(frozen=True, slots=True)
class Gated:
    """What came through the gate.

    Args:
        rows: Rows of the stream's schema followed by `TRACE_SCHEMA`.
        quarantine: Rows of `QUARANTINE_SCHEMA`, one per record that did not fit.
        drift: How many records hold each path that the catalogue does not know.
    """

    rows: pa.Table
    quarantine: pa.Table
    drift: Counter[str]


class _MisfitError(Exception):
    """A record does not fit; the message is the reason and holds no value."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


class Gate:
    """Types the pages of one stream.

    One gate may be used by one thread at a time. Call it with many pages at once: the cost of a
    call is about a millisecond, that of a page of a hundred records about one and a half.

    Args:
        stream: The stream whose records the pages hold.
        connection: DuckDB in memory; made anew when not given.
    """

    def __init__(self, stream: Stream, connection: duckdb.DuckDBPyConnection | None = None) -> None:
        self._stream = stream
        self._connection = connection or duckdb.connect()
        self._connection.execute("set TimeZone = 'UTC'")
        # The other core reads the next pages meanwhile.
        self._connection.execute("set threads = 1")
        self._reader = _Reader(stream)
        # Flat records are cheaper to transform when nothing regional is looked for.
        self._ways = () if _always_read(stream) else tuple(_Way(stream, p) for p in (_flat, _all))
        self._schema = pa.schema([*stream.schema, *TRACE_SCHEMA])

    def __call__(self, pages: Sequence[Page]) -> Gated:
        """Type the records of some pages.

        Raises:
            SchemaError: A body is not JSON, or holds no list of records where the stream has it.
        """
        other = list(pages)
        misfits: list[Page] = []
        tables: list[pa.Table] = []
        for way in self._ways:
            tried, other = other, []
            clean: list[Page] = []
            for page in tried:
                (clean if way.accepts(page.body) else other).append(page)
            if clean:
                rows, wrong = self._transform(way, clean)
                tables.append(rows)
                misfits += wrong
        other += misfits
        read = self._reader.read(other)
        tables.append(read.rows)
        rows = pa.concat_tables(tables) if len(tables) > 1 else tables[0]
        if self._stream.detail is not None:
            rows = _last_by_key(rows, self._stream)
        return Gated(rows, read.quarantine, read.drift)

    def _transform(self, way: _Way, pages: Sequence[Page]) -> tuple[pa.Table, list[Page]]:
        """Rows of clean pages, and the pages that turned out to hold a misfit after all."""
        self._connection.register("pages", _page_table(self._stream, pages))
        try:
            table = self._connection.sql(way.query).to_arrow_table()
        finally:
            self._connection.unregister("pages")
        is_misfit = table.column("is_misfit")
        table = table.drop_columns(["is_misfit"]).cast(self._schema)
        if not pc.any(is_misfit).as_py():
            return table, []
        wrong = table.filter(is_misfit).select(["series_id", "page_number"]).to_pylist()
        misfits = {(row["series_id"], row["page_number"]) for row in wrong}
        places = zip(
            table.column("series_id").to_pylist(),
            table.column("page_number").to_pylist(),
            strict=True,
        )
        kept = table.filter(pa.array([place not in misfits for place in places]))
        return kept, [page for page in pages if (page.series_id, page.number) in misfits]


def _always_read(stream: Stream) -> bool:
    """Whether the stream holds something that only the reader keeps exactly as sent."""
    return (
        stream.exploded_from is not None
        or stream.detail is not None
        or any(column.kind is Kind.JSON for column in stream.columns)
    )


def _last_by_key(rows: pa.Table, stream: Stream) -> pa.Table:
    """Rows with a record that was told twice kept once, as it was told last."""
    keys = zip(*(rows.column(name).to_pylist() for name in ("series_id", *stream.key)), strict=True)
    last = {key: place for place, key in enumerate(keys)}
    return rows.take(pa.array(sorted(last.values()), pa.int64()))


def _texts(bodies: Sequence[bytes]) -> pa.Array:
    """Bodies as text where they lie; their encoding was proved by decoding every string."""
    views = np.zeros(len(bodies), _VIEW)
    views["length"] = [len(body) for body in bodies]
    views["prefix"] = [body[:4] for body in bodies]
    views["buffer"] = np.arange(len(bodies))
    buffers = [None, pa.py_buffer(views.tobytes()), *map(pa.py_buffer, bodies)]
    return pa.Array.from_buffers(pa.string_view(), len(bodies), buffers)


def _page_table(stream: Stream, pages: Sequence[Page]) -> pa.Table:
    asked = sorted({c.request for c in stream.columns if c.request} - {"record_number"})
    table = pa.table(
        {
            "series_id": pa.array([page.series_id for page in pages], pa.string()),
            "page_number": pa.array([page.number for page in pages], pa.int32()),
            "first_record": pa.array([page.first_record for page in pages], pa.int32()),
            "body": _texts([page.body for page in pages]),
            **{
                f"asked_{name}": pa.array([page.request.get(name) for page in pages], pa.string())
                for name in asked
            },
        }
    )
    # A batch of pages is one vector to DuckDB, which holds all its records at once: small batches
    # need less memory, and are faster for staying in the processor's cache.
    return pa.Table.from_batches(table.to_batches(max_chunksize=_VECTOR_PAGES))


# -- the shape of a record, from the paths of the catalogue -------------------------------------


@dataclass(slots=True)
class _Node:
    """One place in a record: what lies under it, and what the columns read from it."""

    fields: dict[str, _Node] = field(default_factory=dict)
    kind: Kind | None = None
    is_list: bool = False

    def at(self, path: str) -> _Node:
        node = self
        for step in segments(path):
            node = node.fields.setdefault(step.name, _Node())
            node.is_list |= step.first
        return node


Places = Callable[[Column], tuple[str, ...]]
"""Which of a column's paths are looked at."""


def _all(column: Column) -> tuple[str, ...]:
    return column.paths


def _flat(column: Column) -> tuple[str, ...]:
    return tuple(path for path in column.paths if not path.startswith(f"{_REGIONAL}."))


@cache
def _shape(stream: Stream, places: Places = _all) -> _Node:
    """The documented shape of a record."""
    root = _Node()
    _grow(root, stream.columns, places)
    for inner in STREAMS.values():
        if inner.exploded_from == stream.name:
            root.fields[inner.records] = _shape(inner)
    if places is _flat:
        root.fields[_REGIONAL] = _Node()
    return root


def _grow(root: _Node, columns: Sequence[Column], places: Places) -> None:
    for column in columns:
        for path in places(column):
            node = root.at(path)
            if node.kind not in (None, column.kind):
                raise ValueError(f"{column.name}: {path} is read as {node.kind} elsewhere")
            node.kind = column.kind
            if column.kind is Kind.ITEMS:
                node.is_list = True
                _grow(node, column.fields, places)


# -- the fast way ------------------------------------------------------------------------------

_LEAF_TYPES: dict[Kind, Any] = {
    Kind.TEXT: str | None,
    Kind.INTEGER: int | None,
    Kind.BOOLEAN: bool | None,
    Kind.MONEY: msgspec.Raw,
    Kind.RATE: msgspec.Raw,
    Kind.INSTANT: dt.datetime | None,
    Kind.DATE: dt.date | None,
    Kind.TEXTS: list[str] | str | None,
    Kind.TEXT_MAP: dict[str, str] | None,
}
_NULL = msgspec.Raw(b"null")


class _Way:
    """One fast way through the gate: what it accepts, and the SELECT that types it.

    A page is accepted when every record is of the documented shape to the last field, and every
    number's text fits its column.
    """

    def __init__(self, stream: Stream, places: Places) -> None:
        self.query = _query(stream, places)
        self._numbers: list[tuple[str, ...]] = []
        record = self._struct("Record", _shape(stream, places), ())
        for name in reversed(stream.records.split(".") if stream.records else []):
            inner = list[record] if record.__name__ == "Record" else record  # type: ignore[valid-type]
            record = msgspec.defstruct("Envelope", [(name, inner)])
        self._records = stream.records.split(".") if stream.records else []
        top = list[record] if not self._records else record  # type: ignore[valid-type]
        self._decoder = msgspec.json.Decoder(top)

    def _struct(self, name: str, node: _Node, place: tuple[str, ...]) -> type[msgspec.Struct]:
        fields: list[tuple[str, Any, Any]] = []
        for key, child in node.fields.items():
            here = (*place, key)
            if child.fields:
                struct: Any = self._struct(key, child, (*here, "*") if child.is_list else here)
                fields.append((key, (list[struct] if child.is_list else struct) | None, None))
            else:
                is_number = child.kind in _SCALE
                if is_number:
                    self._numbers.append(here)
                leaf = _LEAF_TYPES[child.kind] if child.kind is not None else None
                fields.append((key, leaf, _NULL if is_number else None))
        return msgspec.defstruct(name, fields, forbid_unknown_fields=True, gc=False)

    def accepts(self, body: bytes) -> bool:
        """Whether DuckDB may read the page."""
        if len(body) <= _INLINE_BYTES:
            return False  # no room for a record
        found: Any
        try:
            found = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        for name in self._records:
            found = getattr(found, name)
        numbers: list[msgspec.Raw] = []
        for place in self._numbers:
            _collect(found, place, numbers)
        return _PLAIN_NUMBERS.fullmatch(b",".join([*map(bytes, numbers), b""])) is not None


def _collect(records: list[Any], place: tuple[str, ...], into: list[msgspec.Raw]) -> None:
    """Gather the values at one place of each record."""
    for key in place[:-1]:
        if key == "*":
            records = [item for items in records for item in items]
        else:
            records = [value for record in records if (value := getattr(record, key)) is not None]
    key = place[-1]
    into += [getattr(record, key) for record in records]


_TRANSFORM = {
    Kind.TEXT: "VARCHAR",
    Kind.INTEGER: "BIGINT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.MONEY: "DECIMAL(38,9)",
    Kind.RATE: "DECIMAL(38,18)",
    Kind.INSTANT: "VARCHAR",
    Kind.DATE: "VARCHAR",
    Kind.TEXTS: "JSON",
    Kind.TEXT_MAP: "MAP(VARCHAR,VARCHAR)",
}


def _structure(node: _Node) -> Any:
    """The shape in the words of DuckDB's `json_transform`."""
    if not node.fields:
        assert node.kind is not None  # noqa: S101 - a leaf is made by a column
        return _TRANSFORM[node.kind]
    found = {
        name: _structure(child)
        for name, child in node.fields.items()
        if child.fields or child.kind is not None
    }
    return [found] if node.is_list else found


def _query(stream: Stream, places: Places) -> str:
    """The SELECT that types the records of `pages`."""
    structure: Any = [_structure(_shape(stream, places))]
    for name in reversed(stream.records.split(".") if stream.records else []):
        structure = {name: structure}
    listed = f"json_transform(body, '{json.dumps(structure)}')"
    if stream.records:
        listed += "." + ".".join(f'"{name}"' for name in stream.records.split("."))
    typed = ",\n        ".join(f'{_typed(c, places)} as "{c.name}"' for c in stream.columns)
    columns = ", ".join(f'"{c.name}"' for c in stream.columns)
    texts = {
        c.name: _first(c, places) for c in stream.columns if c.kind in (Kind.INSTANT, Kind.DATE)
    }
    odd = [f'"{c.name}" is null' for c in stream.columns if c.required]
    for name, text in texts.items():
        odd.append(f'(({text}) is not null and "{name}" is null)')
        odd.append(f"coalesce(\"{name}\" < '{EARLIEST_YEAR}-01-01', false)")
    return f"""
    with listed as (
        select * exclude (body), {listed} as records
        from pages
    ),
    spread as (
        select * exclude (records), unnest(records) as r,
            generate_subscripts(records, 1) - 1 as place
        from listed
    ),
    typed as (
        select *,
        {typed}
        from spread
    )
    select {columns},
        series_id, page_number, (first_record + place)::integer as record_number,
        {" or ".join(odd)} as is_misfit
    from typed
    """


def _access(base: str, path: str) -> str:
    expression = base
    for step in segments(path):
        expression += f'."{step.name}"' + ("[1]" if step.first else "")
    return expression


def _first(column: Column, places: Places, base: str = "r") -> str:
    """The first value that is not null, untyped."""
    values = [_access(base, path) for path in places(column)]
    if column.request is not None:
        asked = column.request
        values.append("first_record + place" if asked == "record_number" else f"asked_{asked}")
    return values[0] if len(values) == 1 else f"coalesce({', '.join(values) or 'null'})"


def _typed(column: Column, places: Places, base: str = "r") -> str:
    """The column's value in its type."""
    value = _first(column, places, base)
    if column.kind is Kind.INSTANT:
        return f"try_cast({value} as timestamptz)"
    if column.kind is Kind.DATE:
        return f"try_cast({value} as date)"
    if column.kind is Kind.TEXTS:
        # The older generation sends one bare text where the newer one sends a list.
        return (
            f"case when {value} is null then null"
            f" when starts_with({value}::varchar, '[') then from_json({value}, '[\"VARCHAR\"]')"
            f" else [{value}->>'$'] end"
        )
    if column.kind is Kind.ITEMS:
        packed = ", ".join(f'"{f.name}" := {_typed(f, _all, "x")}' for f in column.fields)
        lists = [
            f"list_transform({_access(base, path)}, lambda x: struct_pack({packed}))"
            for path in places(column)
        ]
        return lists[0] if len(lists) == 1 else f"coalesce({', '.join(lists)})"
    if column.aliases:
        pairs = " ".join(
            f"when '{_quoted(old)}' then '{_quoted(new)}'" for old, new in column.aliases.items()
        )
        return f"case {value} {pairs} else {value} end"
    return value


def _quoted(text: str) -> str:
    return text.replace("'", "''")


# -- the definition ----------------------------------------------------------------------------


class _Reader:
    """Reads records one by one, telling what does not fit and what is not known."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._shape = _shape(stream)

    def read(self, pages: Sequence[Page]) -> Gated:
        """Type the records of some pages."""
        values: dict[str, list[Any]] = {c.name: [] for c in self._stream.columns}
        trace: list[tuple[str, int, int]] = []
        quarantine: list[tuple[str, int, int, str, str]] = []
        drift: Counter[str] = Counter()
        for page in pages:
            for place, (record, request) in enumerate(_records(self._stream, page)):
                where = (page.series_id, page.number, page.first_record + place)
                asked = {**request, "record_number": where[2]}
                drift.update(_unknown(record, self._shape))
                try:
                    row = [self._value(column, record, asked) for column in self._stream.columns]
                except _MisfitError as misfit:
                    quarantine.append((*where, misfit.column, misfit.reason))
                    continue
                for column, value in zip(self._stream.columns, row, strict=True):
                    values[column.name].append(value)
                trace.append(where)
        arrays = [pa.array(values[c.name], c.type) for c in self._stream.columns]
        arrays += _columns(trace, TRACE_SCHEMA)
        schema = pa.schema([*self._stream.schema, *TRACE_SCHEMA])
        return Gated(
            pa.Table.from_arrays(arrays, schema=schema),
            pa.Table.from_arrays(_columns(quarantine, QUARANTINE_SCHEMA), schema=QUARANTINE_SCHEMA),
            drift,
        )

    def _value(self, column: Column, record: Any, request: Mapping[str, Any]) -> Any:
        value = _lookup(column, record)
        if value is None and column.request is not None:
            value = request.get(column.request)
        if value is None:
            if column.required:
                raise _MisfitError(column.name, "is missing")
            return None
        return _convert(column, value)


def _columns(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> list[pa.Array]:
    turned = list(zip(*rows, strict=True)) or [()] * len(schema)
    return [pa.array(list(values), f.type) for values, f in zip(turned, schema, strict=True)]


def _decode(body: bytes) -> Any:
    return json.loads(body, parse_float=Decimal)


def _records(stream: Stream, page: Page) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Records of a page, each with the parameters that may fill its columns."""
    try:
        found = _decode(page.body)
    except ValueError:
        raise SchemaError("the answer is not JSON", stream=stream.name) from None
    if page.is_detail:
        yield found, page.request
        return
    outer = stream if stream.exploded_from is None else STREAMS[stream.exploded_from]
    for name in outer.records.split(".") if outer.records else []:
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, list):
        raise SchemaError(
            f"the answer holds no list under {outer.records or 'its top'}", stream=stream.name
        )
    if stream is outer:
        for record in found:
            yield record, page.request
        return
    for record in found:
        known = {
            column.name: _lookup(column, record)
            for column in outer.columns
            if column.kind is Kind.TEXT
        }
        for inner in (record.get(stream.records) or []) if isinstance(record, dict) else []:
            yield inner, {**page.request, **known}


def _lookup(column: Column, record: Any) -> Any:
    """The first value that is not null among the column's places."""
    for path in column.paths:
        value = record
        for step in segments(path):
            if value is None:
                break
            if not isinstance(value, dict):
                raise _MisfitError(column.name, f"has no object on the way along {path}")
            value = value.get(step.name)
            if step.first and isinstance(value, list):
                value = value[0] if value else None
        if value is not None:
            return value
    return None


def _convert(column: Column, value: Any) -> Any:
    return _CONVERT[column.kind](column, value)


def _to_text(column: Column, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise _MisfitError(column.name, "is not text")
    text = str(value)
    return column.aliases.get(text, text)


def _to_integer(column: Column, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value != int(value):
        raise _MisfitError(column.name, "is not a whole number")
    if not -(2**63) <= value < 2**63:
        raise _MisfitError(column.name, "is beyond 64 bits")
    return int(value)


def _to_boolean(column: Column, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _MisfitError(column.name, "is neither true nor false")
    return value


def _to_decimal(column: Column, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _MisfitError(column.name, "is not a number")
    number = Decimal(value)
    if not number.is_finite():
        raise _MisfitError(column.name, "is not a number")
    _, digits, exponent = number.as_tuple()
    significant = "".join(map(str, digits)).rstrip("0")
    exponent = int(exponent) + len(digits) - len(significant)
    scale = _SCALE[column.kind]
    if not significant:
        return Decimal(0)
    if -exponent > scale:
        raise _MisfitError(column.name, f"has {-exponent} decimals and the column holds {scale}")
    if len(significant) + exponent > _PRECISION - scale:
        raise _MisfitError(
            column.name, f"has more than {_PRECISION - scale} digits before the point"
        )
    return number


def _to_instant(column: Column, value: Any) -> dt.datetime:
    try:
        return parse_instant(value)
    except TypeError:
        raise _MisfitError(column.name, "is not an instant") from None
    except ValueError as error:
        raise _MisfitError(column.name, str(error)) from None


def _to_date(column: Column, value: Any) -> dt.date:
    try:
        return parse_date(value)
    except TypeError:
        raise _MisfitError(column.name, "is not a date") from None
    except ValueError as error:
        raise _MisfitError(column.name, str(error)) from None


def _to_texts(column: Column, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [_to_text(column, v) for v in values if v is not None]


def _to_map(column: Column, value: Any) -> list[tuple[str, str | None]]:
    if not isinstance(value, dict):
        raise _MisfitError(column.name, "is not an object")
    return [
        (key, inner if inner is None or isinstance(inner, str) else _dump(inner))
        for key, inner in value.items()
    ]


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _to_json(_: Column, value: Any) -> str:
    return _dump(value)


def _to_items(column: Column, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _MisfitError(column.name, "is not a list")
    items = []
    for item in value:
        if not isinstance(item, dict):
            raise _MisfitError(column.name, "holds something that is not an object")
        row = {}
        for inner in column.fields:
            found = _lookup(inner, item)
            try:
                row[inner.name] = None if found is None else _convert(inner, found)
            except _MisfitError as misfit:
                raise _MisfitError(f"{column.name}.{inner.name}", misfit.reason) from None
        items.append(row)
    return items


_CONVERT = {
    Kind.TEXT: _to_text,
    Kind.INTEGER: _to_integer,
    Kind.BOOLEAN: _to_boolean,
    Kind.MONEY: _to_decimal,
    Kind.RATE: _to_decimal,
    Kind.INSTANT: _to_instant,
    Kind.DATE: _to_date,
    Kind.TEXTS: _to_texts,
    Kind.TEXT_MAP: _to_map,
    Kind.JSON: _to_json,
    Kind.ITEMS: _to_items,
}


def _unknown(record: Any, node: _Node, place: str = "") -> Iterator[str]:
    """Paths of a record that the catalogue does not know, lists as `[]`."""
    if isinstance(record, list):
        seen = {path for item in record for path in _unknown(item, node, f"{place}[]")}
        yield from sorted(seen)
    elif isinstance(record, dict) and (node.fields or node.kind is None):
        for key, value in record.items():
            path = f"{place}.{key}" if place else key
            if key not in node.fields:
                yield path
            else:
                yield from _unknown(value, node.fields[key], path)
