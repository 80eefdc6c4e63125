"""The fast path: pages of the documented shape, read by DuckDB and typed by Arrow.

A msgspec validator, derived from the catalogue, accepts a page when every record has the documented
shape to the last field. Then DuckDB reads the page, and Arrow types its columns: the same rows
as the reader's, several times faster and outside Python's lock. Numbers never become a float:
DuckDB casts their text, after the validator has seen that the text fits the column.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.answers import decoder_of, envelope_of, list_decoder_of, records_of
from lean_resources.decoding.pages import Page, Preflight
from lean_resources.decoding.shape import Node, Paths, Place, Shape, all_paths
from lean_resources.errors import SchemaError
from lean_resources.instants import EARLIEST_YEAR, parse_date, parse_instant
from lean_resources.quarantine import TRACE_SCHEMA
from lean_resources.streams import Column, Kind, Segment, Stream, segments
from lean_resources.values import SCALE, best_place, is_blank

_VECTOR_PAGES = 8
_VIEW = np.dtype([("length", "<i4"), ("prefix", "S4"), ("buffer", "<i4"), ("offset", "<i4")])
"""A text of Arrow's string views: its length, its first bytes and the place of the whole text."""
_INLINE_BYTES = 12
"""Texts up to this length lie in the view itself."""
# Numbers whose text fits both scales, whatever their value. Nothing is matched in a second way.
_PLAIN_NUMBERS = re.compile(rb"(?:(?:-?(?:0|[1-9]\d{0,18}+)(?:\.\d{1,9}+)?+|null),)*+")
_LEAF_TYPES: dict[Kind, Any] = {
    # Banks send ids as numbers. Other numbers have more than one text.
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
_QUOTE = ord('"')
_NANOSECONDS = pa.timestamp("ns", tz="UTC")
_BARE_NANOSECONDS, _BARE_MICROSECONDS = pa.timestamp("ns"), pa.timestamp("us")
_EARLIEST, _LATEST = f"{EARLIEST_YEAR}-01-02", "2262"
"""Texts of instants that 64 bits of nanoseconds hold, whatever their offset."""


class FastPath:
    """Validates pages of one shape, and reads their records with DuckDB.

    A page is accepted when every record has the documented shape to the last field, and the text
    of every number fits its column.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._stream = stream = shape.stream
        has_bare = shape.paths is all_paths
        self._steps = stream.records.split(".") if stream.records else []
        # Bare texts are of the older generation, whose records are not flat.
        leaves = _LEAF_TYPES if has_bare else _LEAF_TYPES | {Kind.TEXTS: list[str] | None}
        record = _struct("Record", shape.root, leaves)
        self._decoder = decoder_of(stream, record)
        self._list_decoder = list_decoder_of(stream)
        self._unjudged = _Unjudged(shape.root, has_bare=has_bare)
        self._schema = pa.schema([*stream.schema, *TRACE_SCHEMA])

    def preflight(self, body: bytes) -> Preflight | None:
        """Validate a page; None where DuckDB may not read it."""
        if len(body) <= _INLINE_BYTES:
            return None  # no room for a record
        try:
            found = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        records = records_of(self._stream, found)
        bare: set[Place] = set()
        if records is None or not self._is_plain(body, found, records, bare):
            return None
        try:
            envelope = envelope_of(self._stream, found, _lacks)
        except SchemaError:
            envelope = None  # the records are fine all the same
        return Preflight(self.shape, frozenset(bare), envelope)

    def _is_plain(self, body: bytes, found: Any, records: Sequence[Any], bare: set[Place]) -> bool:
        """Whether DuckDB reads what the validator saw; gathers places of bare texts."""
        numbers: list[msgspec.Raw] = []
        return (
            self._unjudged(records, numbers, bare)
            and _PLAIN_NUMBERS.fullmatch(b",".join([*numbers, b""])) is not None
            and self._has_keys_once(body, found, records)
        )

    def _has_keys_once(self, body: bytes, found: Any, records: Sequence[Any]) -> bool:
        """Whether no object of the records has a key twice.

        Of such keys the validator takes the last value and DuckDB the first. The decoded page,
        encoded again, has each key once, and every other string as often. So both texts must have
        the same number of quotation marks.
        """
        # The encoder never writes a quotation mark as \u0022. Most pages have no backslash.
        if b"\\" in body and b"\\u0022" in body:
            return False
        if _quotes(body) == _quotes_of(found):
            return True
        # The envelope may have keys that are not documented; compare the records alone.
        return _quotes(self._list_decoder(body)) == _quotes_of(records)

    def read(
        self, connection: duckdb.DuckDBPyConnection, pages: Sequence[Page], bare: frozenset[Place]
    ) -> tuple[pa.Table, list[Page]]:
        """Rows of pages that this path accepted, and the pages that hold a misfit after all."""
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
        for name in {c.request for c in self._stream.columns} - {None, "record_number"}:
            values = [page.request.get(name or "") for page in pages]
            asked[name] = pa.array(values, pa.string()).take(of_row)
        columns = _Columns(lists.flatten(), self.shape.paths)
        arrays = [
            *(columns.typed(column, asked.get(column.request)) for column in self._stream.columns),
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

    def _query(self, bare: frozenset[Place]) -> str:
        """The SELECT that reads the records of `pages`."""
        structure: Any = [_structure(self.shape.root, (), bare)]
        for name in reversed(self._steps):
            structure = {name: structure}
        listed = f"json_transform(body, '{json.dumps(structure)}')"
        for name in self._steps:
            listed += f'."{name}"'
        return f"select place, {listed} as records from pages"


def _struct(name: str, node: Node, leaves: Mapping[Kind, Any]) -> type[msgspec.Struct]:
    """The validator of a node; `leaves` says what a leaf of each kind may be."""
    fields: list[tuple[str, Any, Any]] = []
    for key, child in node.fields.items():
        kind: Any
        if child.fields:
            struct: Any = _struct(key, child, leaves)
            kind = (list[struct] if child.is_list else struct) | None
        else:
            kind = leaves[child.kind] if child.kind is not None else None
        # Absent fields stay apart from null fields, so that keys can be counted.
        if child.kind in SCALE:
            fields.append((key, kind, _NULL))
        else:
            fields.append((key, kind | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True, omit_defaults=True, gc=False)


class _Scratch(threading.local):
    """Room of a thread for an encoded page: to grow a new one costs a quarter of the encoding."""

    def __init__(self) -> None:
        self.text = bytearray()


_SCRATCH = _Scratch()


def _quotes_of(found: Any) -> int:
    """Number of quotation marks in what the encoder writes."""
    _ENCODER.encode_into(found, _SCRATCH.text)
    return _quotes(_SCRATCH.text)


def _quotes(text: bytes | bytearray) -> int:
    """Number of quotation marks; `bytes.count` takes five times as long."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == _QUOTE))


def _lacks(stream: Stream, record: Any) -> bool:
    """Whether a validated record lacks the field that the newer generation always has."""
    return getattr(record, stream.verbose_unless or "") is msgspec.UNSET


class _Unjudged:
    """Gathers what the validator cannot judge, without touching the other fields of a record.

    Args:
        has_bare: Whether a bare text may stand for a list of texts.
    """

    def __init__(self, node: Node, *, has_bare: bool, place: Place = ()) -> None:
        self._inner: list[tuple[bool, _Unjudged]] = []
        self._texts: list[Place] = []
        objects: list[str] = []
        numbers: list[str] = []
        for key, child in node.fields.items():
            here = (*place, key)
            if child.fields:
                inner = _Unjudged(child, has_bare=has_bare, place=here)
                if inner:
                    objects.append(key)
                    self._inner.append((child.is_list, inner))
            elif child.kind in SCALE:
                numbers.append(key)
            elif child.kind is Kind.TEXTS and has_bare:
                self._texts.append(here)
        self._keys = [*objects, *(here[-1] for here in self._texts), *numbers]
        # One call per record reads all keys.
        self._values = attrgetter(*self._keys) if self._keys else None

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __call__(
        self, records: Sequence[Any], numbers: list[msgspec.Raw], bare: set[Place]
    ) -> bool:
        """Gather numbers and places of bare texts.

        Returns:
            False where one place holds a list in one record and a bare text in another.
        """
        if self._values is None or not records:
            return True
        found = map(self._values, records)
        # Of a single key attrgetter returns no tuple.
        columns: Any = zip(*found, strict=True) if len(self._keys) > 1 else iter([tuple(found)])
        for is_list, unjudged in self._inner:
            inner = [value for value in next(columns) if value]  # neither null nor absent
            inner = [item for items in inner for item in items] if is_list else inner
            if not unjudged(inner, numbers, bare):
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


def _structure(node: Node, place: Place, bare: frozenset[Place]) -> Any:
    """The shape as DuckDB's `json_transform` takes it."""
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
        paths: Which of a column's paths are read.
    """

    def __init__(self, records: pa.StructArray, paths: Paths) -> None:
        self.misfits = np.zeros(len(records), bool)
        """Records that do not fit after all."""
        self._records = records
        self._paths = paths
        self._nulls: dict[pa.DataType, pa.Array] = {}
        # Columns share the objects of their paths. To take a field out costs as much as to type it.
        self._seen: dict[str, pa.Array | None] = {"": records}

    def typed(self, column: Column, asked: pa.Array | None) -> pa.Array:
        """A column of one value per record.

        Args:
            asked: What the requests say where a record is silent.
        """
        values = [
            found
            for path in self._paths(column)
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
            inner = _Columns(values.flatten(), all_paths)
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
        """Texts as instants or dates; a text that is neither makes its record a misfit."""
        bounds = pc.min_max(values)
        if bounds["min"].as_py() >= _EARLIEST and bounds["max"].as_py() < _LATEST:
            try:
                if parse is parse_date:
                    return values.cast(kind)
                nanos = values.cast(_NANOSECONDS)
            except pa.ArrowInvalid:
                pass
            else:
                # Digits beyond the microsecond are cut towards the past, as the reader cuts them.
                # The type has no zone meanwhile: Arrow would search UTC among the machine's time
                # zones, which not every machine has.
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
    """A field of objects; None where they have no field of that name."""
    if not pa.types.is_struct(outer.type) or outer.type.get_field_index(step.name) < 0:
        return None
    found = pc.struct_field(outer, step.name)
    return _best(found) if step.first and pa.types.is_list(found.type) else found


def _best(lists: pa.ListArray) -> pa.Array:
    """The identification of each list that is shown; null of an empty list."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    chosen = lists.offsets.to_numpy()[:-1].copy()
    for place in np.flatnonzero(lengths > 1):
        chosen[place] += best_place(lists[place].as_py())
    return lists.values.take(pa.array(chosen, mask=lengths == 0))


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
