"""The decoder chooses: the fast path where a page has the documented shape, else the reader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

import duckdb
import pyarrow as pa

from lean_resources.decoding.fast import FastPath
from lean_resources.decoding.pages import Page, Preflight
from lean_resources.decoding.reader import DecodeResult, Reader, with_keys_once
from lean_resources.decoding.shape import Place, Shape, all_paths, flat_paths, shape_of
from lean_resources.streams import Kind, Stream


class Decoder:
    """Decodes the pages of one stream into typed columns.

    Only one thread at a time may use a decoder. Decode many pages at once: a call costs about ten
    milliseconds, and a page of a hundred records less than one. Half of that is its preflight,
    which the client may have done already.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._connection = _database(os.getpid()).cursor()
        self._reader = Reader(stream)

    def decode(self, pages: Sequence[Page]) -> DecodeResult:
        """Decode the records of some pages, each key of a paged read once.

        Raises:
            SchemaError: A page is not JSON, or holds no list of records.
        """
        alike: dict[tuple[Shape, frozenset[Place]], list[Page]] = {}
        others: list[Page] = []
        for page in pages:
            found = page.preflight or preflight(self._stream, page.body)
            # A stream that is exploded from another one shares its pages, but not its shapes.
            if found.shape is None or found.shape.stream is not self._stream:
                others.append(page)
            else:
                alike.setdefault((found.shape, found.bare), []).append(page)
        tables: list[pa.Table] = []
        for (shape, bare), same in alike.items():
            rows, misfits = _fast_path(shape).read(self._connection, same, bare)
            tables.append(rows)
            others += misfits
        read = self._reader.decode_all(others)
        if read.rows.num_rows or not tables:
            tables.append(read.rows)
        rows = pa.concat_tables(tables) if len(tables) > 1 else tables[0]
        if self._stream.detail is not None:
            rows = _last_by_key(rows, self._stream)
        return with_keys_once(self._stream, DecodeResult(rows, read.quarantine, read.drift))


@cache
def _database(_process: int) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory. Opening it costs as much as decoding a page, so a process opens it once."""
    # The other core reads the next pages meanwhile.
    return duckdb.connect(config={"threads": 1})


def preflight(stream: Stream, body: bytes) -> Preflight:
    """Decide how a page of a stream is decoded, by validating it once."""
    for path in fast_paths(stream):
        if (found := path.preflight(body)) is not None:
            return found
    return Preflight()


@cache
def fast_paths(stream: Stream) -> tuple[FastPath, ...]:
    """The fast paths of a stream, the narrowest first; none where only the reader may decode it."""
    if _needs_reader(stream):
        return ()
    # Flat records are cheaper to validate when nothing regional is read.
    return tuple(_fast_path(shape_of(stream, paths)) for paths in (flat_paths, all_paths))


@cache
def _fast_path(shape: Shape) -> FastPath:
    return FastPath(shape)


def _needs_reader(stream: Stream) -> bool:
    """Whether the stream holds something that only the reader keeps exactly as sent."""
    return (
        stream.exploded_from is not None
        or stream.detail is not None
        or any(column.kind is Kind.JSON for column in stream.columns)
    )


def _last_by_key(rows: pa.Table, stream: Stream) -> pa.Table:
    """Rows with each key of a paged read once, as its last record states it."""
    keys = zip(*(rows.column(name).to_pylist() for name in ("series_id", *stream.key)), strict=True)
    last = {key: place for place, key in enumerate(keys)}
    return rows.take(pa.array(sorted(last.values()), pa.int64()))
