"""The gate: JSON records become typed columns, and what does not fit goes to quarantine.

There are two ways through, and a test holds them equal. `_Reader` reads one record after the
other in Python; it is the definition. Where a whole page is of the documented shape, which a
validator derived from the catalogue decides, DuckDB reads the page instead and Arrow types its
columns: the same rows several times faster, outside Python's lock. Numbers never pass through a
float: the first way parses their text, the second lets DuckDB cast the text itself, and only after
the validator has seen that the text fits the column.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from operator import attrgetter
from typing import Annotated, Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.answers import (
    Envelope,
    counted,
    decoder_of,
    envelope_of,
    list_decoder_of,
    records_of,
)
from lean_resources.documents import Odd, is_twice, parse, split
from lean_resources.errors import SchemaError
from lean_resources.instants import EARLIEST_YEAR, parse_date, parse_instant
from lean_resources.quarantine import QUARANTINE_SCHEMA, TRACE_SCHEMA, key_text
from lean_resources.repeats import without_repeats
from lean_resources.streams import STREAMS, Column, Kind, Segment, Stream, segments
from lean_resources.values import (
    SCALE,
    MisfitError,
    Note,
    best_place,
    convert,
    is_blank,
    look_up,
)

__all__ = [
    "QUARANTINE_SCHEMA",
    "TRACE_SCHEMA",
    "Gate",
    "Gated",
    "Look",
    "Page",
    "look",
    "records_in",
]

_REGIONAL = "regional_data"
_VECTOR_PAGES = 8
_VIEW = np.dtype([("length", "<i4"), ("prefix", "S4"), ("buffer", "<i4"), ("offset", "<i4")])
"""One text of Arrow's string views: its length and first bytes, and where the whole of it lies."""
_INLINE_BYTES = 12
"""Texts up to this length lie in the view itself."""
# A number whose text fits both scales without a look at its value.
_PLAIN_NUMBERS = re.compile(rb"(?:(?:-?(?:0|[1-9]\d{0,18})(?:\.\d{1,9})?|null),)*")


@dataclass(frozen=True, slots=True)
class Look:
    """Which way through the gate a page may go.

    Args:
        way: The fast way; None where only the reader can tell.
        bare: Where bare texts lie in it.
        envelope: What surrounds the records, when there is a way.
    """

    way: _Way | None = field(default=None, repr=False)
    bare: _Bare = frozenset()
    envelope: Envelope | None = None


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
        look: What a look at the body found, where there was one already.
    """

    series_id: str
    number: int
    first_record: int
    body: bytes = field(repr=False)
    request: Mapping[str, str]
    is_detail: bool = False
    look: Look | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Gated:
    """What came through the gate.

    Args:
        rows: Rows of the stream's schema followed by `TRACE_SCHEMA`.
        quarantine: Rows of `QUARANTINE_SCHEMA`: records that were left out, and optional values
            that could not be read.
        drift: How many records hold each path that the catalogue does not know.
        shifted: Keys that came on two pages, by series: another record may be missing in place of
            the second, unless they come so again when the pages are cut otherwise.
    """

    rows: pa.Table
    quarantine: pa.Table
    drift: Counter[str]
    shifted: Mapping[str, frozenset[str]] = field(default_factory=dict)


class Gate:
    """Types the pages of one stream.

    One gate may be used by one thread at a time. Call it with many pages at once: the cost of a
    call is about ten milliseconds, that of a page of a hundred records less than one, of which half
    is the look at it that the client may have had already.

    Args:
        stream: The stream whose records the pages hold.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._connection = _database(os.getpid()).cursor()
        self._reader = _Reader(stream)

    def __call__(self, pages: Sequence[Page]) -> Gated:
        """Type the records of some pages.

        Raises:
            SchemaError: A body holds no list of records where the stream has it.
        """
        alike: dict[tuple[_Way, _Bare], list[Page]] = {}
        other: list[Page] = []
        for page in pages:
            found = page.look or look(self._stream, page.body)
            # A stream that is exploded from another one shares its pages, and not its ways.
            if found.way is None or found.way.stream is not self._stream:
                other.append(page)
            else:
                alike.setdefault((found.way, found.bare), []).append(page)
        tables: list[pa.Table] = []
        for (way, bare), some in alike.items():
            rows, misfits = way.read(self._connection, some, bare)
            tables.append(rows)
            other += misfits
        read = self._reader.typed(other)
        if read.rows.num_rows or not tables:
            tables.append(read.rows)
        rows = pa.concat_tables(tables) if len(tables) > 1 else tables[0]
        if self._stream.detail is not None:
            rows = _last_by_key(rows, self._stream)
        return _settled(self._stream, Gated(rows, read.quarantine, read.drift))


@cache
def _database(_process: int) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory: to open it costs as much as to type a page; a process has its own."""
    # The other core reads the next pages meanwhile.
    return duckdb.connect(config={"threads": 1})


def look(stream: Stream, body: bytes) -> Look:
    """Decide which way a page of a stream goes, by decoding it once."""
    for way in _ways(stream):
        if (found := way.look(body)) is not None:
            return found
    return Look()


@cache
def _ways(stream: Stream) -> tuple[_Way, ...]:
    """The fast ways of a stream, the narrowest first."""
    # Flat records are cheaper to validate when nothing regional is looked for.
    return () if _always_read(stream) else tuple(_Way(stream, p) for p in (_flat, _all))


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


def _body_table(pages: Sequence[Page]) -> pa.Table:
    # A batch of pages is one vector to DuckDB, which holds all its records at once: small batches
    # need less memory, and are faster for staying in the processor's cache.
    bodies = _texts([page.body for page in pages])
    table = pa.table({"place": pa.array(range(len(pages)), pa.int32()), "body": bodies})
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

_Place = tuple[str, ...]
"""Keys from a record to what lies in it; `*` stands for every element of a list."""
_Bare = frozenset[_Place]
"""Places where a bare text stands for a list of texts, as in the older generation."""


_LEAF_TYPES: dict[Kind, Any] = {
    # Banks send ids as numbers; others than these could be written in more than one way.
    Kind.TEXT: str | Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None,
    Kind.INTEGER: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None,
    Kind.BOOLEAN: bool | None,
    Kind.MONEY: msgspec.Raw,
    Kind.RATE: msgspec.Raw,
    Kind.INSTANT: dt.datetime | None,
    Kind.DATE: dt.date | None,
    Kind.TEXTS: list[str] | str | None,
    Kind.TEXT_MAP: dict[str, str] | None,
}
_NULL = msgspec.Raw(b"null")
_ENCODER = msgspec.json.Encoder()
_QUOTE, _COLON, _SPACE = b'": '
_HIDDEN = re.compile(rb"\\u00(?:22|3[aA])")
"""A quotation mark or a colon that is written otherwise than the encoder writes it."""
_SPACED = re.compile(rb'"[ \t\r\n]+:')
_NANOSECONDS = pa.timestamp("ns", tz="UTC")
_BARE_NANOSECONDS, _BARE_MICROSECONDS = pa.timestamp("ns"), pa.timestamp("us")
_EARLIEST, _LATEST = f"{EARLIEST_YEAR}-01-02", "2262"
"""Texts of instants that 64 bits of nanoseconds hold, whatever their offset."""


class _Way:
    """One fast way through the gate: what it accepts, and how the records become columns.

    A page is accepted when every record is of the documented shape to the last field, and every
    number's text fits its column.
    """

    def __init__(self, stream: Stream, places: Places) -> None:
        self.stream = stream
        self._places = places
        self._shape = _shape(stream, places)
        self._steps = stream.records.split(".") if stream.records else []
        # Bare texts are of the older generation, whose records are not flat.
        leaves = _LEAF_TYPES if places is _all else _LEAF_TYPES | {Kind.TEXTS: list[str] | None}
        record = _struct("Record", self._shape, leaves)
        self._decoder = decoder_of(stream, record)
        self._list_decoder = list_decoder_of(stream)
        self._survey = _Survey(self._shape, has_bare=places is _all)
        self._schema = pa.schema([*stream.schema, *TRACE_SCHEMA])

    def look(self, body: bytes) -> Look | None:
        """What a page is, or None where DuckDB may not read it."""
        if len(body) <= _INLINE_BYTES:
            return None  # no room for a record
        try:
            found = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        records = records_of(self.stream, found)
        bare: set[_Place] = set()
        if records is None or not self._is_plain(body, found, records, bare):
            return None
        try:
            envelope = envelope_of(self.stream, found, _lacks)
        except SchemaError:
            envelope = None  # no reason to doubt the records
        return Look(self, frozenset(bare), envelope)

    def _is_plain(self, body: bytes, found: Any, records: Sequence[Any], bare: set[_Place]) -> bool:
        """Whether DuckDB reads what the validator saw; gathers places of bare texts."""
        numbers: list[msgspec.Raw] = []
        return (
            self._survey(records, numbers, bare)
            and _PLAIN_NUMBERS.fullmatch(b",".join([*numbers, b""])) is not None
            and self._has_keys_once(body, found, records)
        )

    def _has_keys_once(self, body: bytes, found: Any, records: Sequence[Any]) -> bool:
        """Whether no object of the records has a key twice.

        Of such keys the validator takes the last value and DuckDB the first. What was decoded and
        is written again has each key once, so the number of keys tells.
        """
        if _hides_keys(body):
            return False
        if _keys(body) == _keys(_ENCODER.encode(found)):
            return True
        # Keys around the records that the envelope does not know.
        return _keys(self._list_decoder(body)) == _keys(_ENCODER.encode(records))

    def read(
        self, connection: duckdb.DuckDBPyConnection, pages: Sequence[Page], bare: _Bare
    ) -> tuple[pa.Table, list[Page]]:
        """Rows of pages that were looked at, and the pages that hold a misfit after all."""
        connection.register("pages", _body_table(pages))
        try:
            found = connection.sql(self._query(bare)).to_arrow_table().combine_chunks()
        finally:
            connection.unregister("pages")
        lists = found.column("records").combine_chunks()
        pages = [pages[place] for place in found.column("place").to_pylist()]
        counts = pc.list_value_length(lists).to_numpy()
        page_of_row = np.repeat(np.arange(len(pages)), counts)
        record_number = np.arange(len(page_of_row)) - np.repeat(
            np.cumsum(counts) - counts - [page.first_record for page in pages], counts
        )
        of_row = pa.array(page_of_row)
        asked: dict[str | None, pa.Array] = {"record_number": pa.array(record_number)}
        for name in {c.request for c in self.stream.columns} - {None, "record_number"}:
            values = [page.request.get(name or "") for page in pages]
            asked[name] = pa.array(values, pa.string()).take(of_row)
        columns = _Columns(lists.flatten(), self._places)
        arrays = [
            *(columns.typed(column, asked.get(column.request)) for column in self.stream.columns),
            pa.array([page.series_id for page in pages]).take(of_row),
            pa.array([page.number for page in pages]).take(of_row),
            asked["record_number"],
        ]
        table = pa.Table.from_arrays(
            [array.cast(f.type) for array, f in zip(arrays, self._schema, strict=True)],
            schema=self._schema,
        )
        if not columns.misfits.any():
            return table, []
        wrong = np.unique(page_of_row[columns.misfits])
        kept = table.filter(pa.array(~np.isin(page_of_row, wrong)))
        return kept, [pages[place] for place in wrong]

    def _query(self, bare: _Bare) -> str:
        """The SELECT that reads the records of `pages`."""
        structure: Any = [_structure(self._shape, (), bare)]
        for name in reversed(self._steps):
            structure = {name: structure}
        listed = f"json_transform(body, '{json.dumps(structure)}')"
        for name in self._steps:
            listed += f'."{name}"'
        return f"select place, {listed} as records from pages"


def _struct(name: str, node: _Node, leaves: Mapping[Kind, Any]) -> type[msgspec.Struct]:
    """The validator of a node.

    Args:
        name: Its name.
        node: The node.
        leaves: What a leaf of each kind may be.
    """
    fields: list[tuple[str, Any, Any]] = []
    for key, child in node.fields.items():
        kind: Any
        if child.fields:
            struct: Any = _struct(key, child, leaves)
            kind = (list[struct] if child.is_list else struct) | None
        else:
            kind = leaves[child.kind] if child.kind is not None else None
        # What was absent is told from what was null, so that keys can be counted.
        if child.kind in SCALE:
            fields.append((key, kind, _NULL))
        else:
            fields.append((key, kind | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True, omit_defaults=True, gc=False)


def _keys(text: bytes) -> int:
    """How many keys the objects of a JSON text have that the encoder wrote."""
    array = np.frombuffer(text, np.uint8)
    return int(np.count_nonzero((array[1:] == _COLON) & (array[:-1] == _QUOTE)))


def _hides_keys(text: bytes) -> bool:
    """Whether a JSON text is written so that `_keys` may count too few in it.

    A text that begins with a colon counts as a key, but does so too when it is written again.
    """
    array = np.frombuffer(text, np.uint8)
    if ((array[1:] == _COLON) & (array[:-1] <= _SPACE)).any() and _SPACED.search(text):
        return True
    return b"\\" in text and _HIDDEN.search(text) is not None


def _lacks(stream: Stream, record: Any) -> bool:
    """Whether a validated record lacks the field that the newer generation always has."""
    return getattr(record, stream.verbose_unless or "") is msgspec.UNSET


class _Survey:
    """Gathers what the validator cannot judge, without a look at the other fields of a record.

    Args:
        node: The place in the records that is surveyed.
        has_bare: Whether a bare text may stand for a list of texts.
        place: Keys of the node.
    """

    def __init__(self, node: _Node, *, has_bare: bool, place: _Place = ()) -> None:
        self._inner: list[tuple[bool, _Survey]] = []
        self._texts: list[_Place] = []
        objects: list[str] = []
        numbers: list[str] = []
        for key, child in node.fields.items():
            here = (*place, key)
            if child.fields:
                inner = _Survey(child, has_bare=has_bare, place=here)
                if inner:
                    objects.append(key)
                    self._inner.append((child.is_list, inner))
            elif child.kind in SCALE:
                numbers.append(key)
            elif child.kind is Kind.TEXTS and has_bare:
                self._texts.append(here)
        self._keys = [*objects, *(here[-1] for here in self._texts), *numbers]
        # One call per record for all of them; a lone name would give a bare value.
        self._values = attrgetter("__class__", "__class__", *self._keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __call__(
        self, records: Sequence[Any], numbers: list[msgspec.Raw], bare: set[_Place]
    ) -> bool:
        """Gather numbers and places of bare texts.

        Returns:
            False where one place holds a list in one record and a bare text in another.
        """
        if not records:
            return True
        columns = islice(zip(*map(self._values, records), strict=True), 2, None)
        for is_list, survey in self._inner:
            found = [value for value in next(columns) if value]  # neither null nor absent
            inner = [item for items in found for item in items] if is_list else found
            if not survey(inner, numbers, bare):
                return False
        for here in self._texts:
            values = next(columns)
            kinds = set(map(type, values)) - {type(None), msgspec.UnsetType}
            if len(kinds) > 1:
                return False
            if str in kinds:
                if any(map(is_blank, {value for value in values if value.__class__ is str})):
                    return False
                bare.add(here)
        numbers.extend(chain.from_iterable(columns))
        return True


_TRANSFORM: dict[Kind, Any] = {
    Kind.TEXT: "VARCHAR",
    Kind.INTEGER: "BIGINT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.MONEY: "DECIMAL(38,9)",
    Kind.RATE: "DECIMAL(38,18)",
    Kind.INSTANT: "VARCHAR",
    Kind.DATE: "VARCHAR",
    Kind.TEXTS: ["VARCHAR"],
    Kind.TEXT_MAP: "MAP(VARCHAR,VARCHAR)",
}


def _structure(node: _Node, place: _Place, bare: _Bare) -> Any:
    """The shape in the words of DuckDB's `json_transform`."""
    if not node.fields:
        assert node.kind is not None  # noqa: S101 - a leaf is made by a column
        return "VARCHAR" if place in bare else _TRANSFORM[node.kind]
    found = {
        key: _structure(child, (*place, key), bare)
        for key, child in node.fields.items()
        if child.fields or child.kind is not None
    }
    return [found] if node.is_list and place else found


class _Columns:
    """Records as DuckDB read them, and the typed columns in them.

    Args:
        records: One struct per record.
        places: Which of a column's paths are looked at.
    """

    def __init__(self, records: pa.StructArray, places: Places) -> None:
        self.misfits = np.zeros(len(records), bool)
        """Records that do not fit after all."""
        self._records = records
        self._places = places
        self._nulls: dict[pa.DataType, pa.Array] = {}
        # Columns share the objects on their way, and taking a field out costs as much as typing it.
        self._seen: dict[str, pa.Array | None] = {"": records}

    def typed(self, column: Column, asked: pa.Array | None) -> pa.Array:
        """A column of one value per record.

        Args:
            column: The column.
            asked: What the requests say where a record is silent.
        """
        values = [
            found
            for path in self._places(column)
            if (found := self._at(path)) is not None and found.null_count < len(found)
        ]
        if asked is not None:
            values.append(asked)
        if not values:
            found = self._nothing(column.type)
        else:
            found = self._first([self._converted(column, value) for value in values])
        if column.required and found.null_count:
            self.misfits |= found.is_null().to_numpy(zero_copy_only=False)
        return found

    def _first(self, values: list[pa.Array]) -> pa.Array:
        first, *others = values
        return pc.coalesce(*values) if others and first.null_count else first

    def _nothing(self, kind: pa.DataType) -> pa.Array:
        if kind not in self._nulls:
            self._nulls[kind] = pa.nulls(len(self._records), kind)
        return self._nulls[kind]

    def _converted(self, column: Column, values: pa.Array) -> pa.Array:
        if column.kind is Kind.INSTANT:
            return self._parsed(values, column.type, parse_instant)
        if column.kind is Kind.DATE:
            return self._parsed(values, column.type, parse_date)
        if column.kind is Kind.TEXTS and not pa.types.is_list(values.type):
            # The older generation sends one bare text where the newer one sends a list.
            offsets = np.cumsum(np.r_[0, values.is_valid().to_numpy(zero_copy_only=False)])
            return pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), values.drop_null(), mask=values.is_null()
            )
        if column.kind is Kind.ITEMS:
            inner = _Columns(values.flatten(), _all)
            items = pa.StructArray.from_arrays(
                [inner.typed(field, None) for field in column.fields],
                fields=list(column.type.value_type),
            )
            lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
            offsets = pa.array(np.cumsum(np.r_[0, lengths]), pa.int32())
            if inner.misfits.any():
                wrong = np.repeat(np.arange(len(values)), lengths)[inner.misfits]
                self.misfits[wrong] = True
            is_null = values.is_null()
            if column.fewest:
                is_null = pa.array(lengths < column.fewest)
            return pa.ListArray.from_arrays(offsets, items, mask=is_null)
        for old, new in column.aliases.items():
            is_old = pc.equal(values, old)
            if pc.any(is_old).as_py():
                values = pc.if_else(is_old, new, values)
        return values

    def _parsed(
        self, values: pa.Array, kind: pa.DataType, parse: Callable[[str], dt.date]
    ) -> pa.Array:
        """Texts as instants or dates; one that is none makes its record a misfit."""
        bounds = pc.min_max(values)
        if bounds["min"].as_py() >= _EARLIEST and bounds["max"].as_py() < _LATEST:
            try:
                if parse is parse_date:
                    return values.cast(kind)
                nanos = values.cast(_NANOSECONDS)
            except pa.ArrowInvalid:
                pass
            else:
                # Digits beyond the microsecond are cut as the reader cuts them: towards the past.
                # Without the zone meanwhile: Arrow would look for UTC among the machine's zones,
                # and some machines have none.
                bare = pc.floor_temporal(nanos.view(_BARE_NANOSECONDS), 1, "microsecond")
                return bare.cast(_BARE_MICROSECONDS).view(kind)
        found: list[dt.date | None] = []
        for place, text in enumerate(values.to_pylist()):
            try:
                found.append(parse(text) if text is not None else None)
            except ValueError:
                found.append(None)
                self.misfits[place] = True
        return pa.array(found, kind)

    def _at(self, path: str) -> pa.Array | None:
        """What lies at a path, null wherever an object on the way is; None if nothing was read."""
        if path not in self._seen:
            outer = self._at(path.rpartition(".")[0])
            self._seen[path] = _inner(outer, segments(path)[-1]) if outer is not None else None
        return self._seen[path]


def _inner(outer: pa.Array, step: Segment) -> pa.Array | None:
    """A field of some objects; None where they have none of that name."""
    if not pa.types.is_struct(outer.type) or outer.type.get_field_index(step.name) < 0:
        return None
    found = pc.struct_field(outer, step.name)
    return _best(found) if step.first and pa.types.is_list(found.type) else found


def _best(lists: pa.ListArray) -> pa.Array:
    """Of each list the identification that is shown; null of an empty one."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    chosen = lists.offsets.to_numpy()[:-1].copy()
    for place in np.flatnonzero(lengths > 1):
        chosen[place] += best_place(lists[place].as_py())
    return lists.values.take(pa.array(chosen, mask=lengths == 0))


# -- the definition ----------------------------------------------------------------------------


class _Reader:
    """Reads records one by one, telling what does not fit and what is not known."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._shape = _shape(stream)

    def read(self, pages: Sequence[Page]) -> Gated:
        """Type the records of some pages, each key of a series once."""
        return _settled(self._stream, self.typed(pages))

    def typed(self, pages: Sequence[Page]) -> Gated:
        """Type the records of some pages as they come."""
        values: dict[str, list[Any]] = {c.name: [] for c in self._stream.columns}
        trace: list[tuple[str, int, int]] = []
        quarantine: list[tuple[Any, ...]] = []
        drift: Counter[str] = Counter()
        for page in pages:
            for place, (record, request) in enumerate(_records(self._stream, page)):
                where = (page.series_id, page.number, page.first_record + place)
                found = _Record(self._stream, record, {**request, "record_number": where[2]})
                for path, value in _unknown(record, self._shape):
                    drift[path] += 1
                    if is_twice(value):
                        found.tell_of(path)
                quarantine += [(*where, *told) for told in found.told]
                if found.is_lost:
                    continue
                for name, value in found.row.items():
                    values[name].append(value)
                trace.append(where)
        arrays = [pa.array(values[c.name], c.type) for c in self._stream.columns]
        arrays += _columns(trace, TRACE_SCHEMA)
        schema = pa.schema([*self._stream.schema, *TRACE_SCHEMA])
        return Gated(
            pa.Table.from_arrays(arrays, schema=schema),
            pa.Table.from_arrays(_columns(quarantine, QUARANTINE_SCHEMA), schema=QUARANTINE_SCHEMA),
            drift,
        )


def _settled(stream: Stream, found: Gated) -> Gated:
    """What came through, with each key of a series once."""
    rows, repeated, shifted = without_repeats(stream, found.rows)
    if not repeated.num_rows:
        return found
    return Gated(rows, pa.concat_tables([found.quarantine, repeated]), found.drift, shifted)


class _Record:
    """One record as it was read.

    Args:
        stream: Its stream.
        record: It, as JSON has it.
        request: What fills a column where the record is silent.
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
    def told(self) -> list[tuple[Any, ...]]:
        """What is to be told of it: rows of the quarantine without their trace."""
        if not self._notes:
            return []
        days = filter(None, map(self._readable, self._stream.placed_by))
        day = next(days, None)
        key = key_text(list(map(self._readable, self._stream.key)))
        placed_on = day.date() if day is not None else None
        return [(*note, key, placed_on, self.is_lost) for note in self._notes]

    def tell_of(self, path: str) -> None:
        """Note a field without a column in which a key stands twice."""
        if not self.is_lost:
            self._notes.append((path, path, "holds a key that stands twice in its object"))

    def _read(self) -> None:
        # What places a record is not guessed from another field because it cannot be read.
        places = (name for name in self._stream.placed_by if self._is_filled(name))
        placing = next(places, None)
        for column in self._stream.columns:
            # The request knows what it asked for, but does not vouch for the key of a record.
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
        """What the request says of a column."""
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


def _records(stream: Stream, page: Page) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Records of a page, each with the parameters that may fill its columns."""
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
        for one in inner if isinstance(inner, list) else [] if inner is None else [inner]:
            yield one, {**page.request, **known}


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


def _unknown(record: Any, node: _Node, place: str = "") -> Iterator[tuple[str, Any]]:
    """Paths of a record that the catalogue does not know, lists as `[]`, and what lies there."""
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
