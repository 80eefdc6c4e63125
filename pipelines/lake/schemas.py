"""Schemas of the lake's files, their names in SQL, and the meanings of columns that rows carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

import pyarrow as pa

from lean_resources.streams import Stream

RAW_SCHEMA = pa.schema(
    [
        ("series_id", pa.string()),
        ("page_number", pa.int32()),
        ("first_record", pa.int32()),
        ("is_detail", pa.bool_()),
        ("request", pa.map_(pa.string(), pa.string())),
        ("asked_path", pa.string()),
        ("status_code", pa.int16()),
        ("correlation_id", pa.string()),
        ("trace_id", pa.string()),
        ("received_at", pa.timestamp("us", tz="UTC")),
        ("body", pa.binary()),
    ]
)
"""One row per answer, as received: enough to decode it again without asking Lean."""

TRACE_DOCS = {
    "last_good_at": "Where the record no longer fits and this earlier version of it stays: when the"
    " bank had last been asked for it, UTC; null on all other rows.",
    "pull_id": "Pull that brought the row; see pulls.",
    "page_number": "Page of the paged read that held the record, from 0.",
    "record_number": "Place of the record in its paged read, from 0.",
}
"""Meanings of the columns that every row carries."""

HISTORY_DOCS = TRACE_DOCS | {
    "month": "UTC month of the pull as YYYY-MM, for a stream with months.",
    "claimed_from": "First UTC day that the pull covers.",
    "claimed_to": "Last UTC day that the pull covers, inclusive.",
    "refreshed_at": "When the bank was last asked before the pull, UTC.",
    "known_at": "When the pull was asked for, UTC, by Lean's clock.",
    "generation": "Orders pulls that Lean's clock cannot tell apart; null for those of format 1 of"
    " the lake.",
    "asked_at": "When the pull was asked for, UTC, by this machine.",
    "finished_at": "When the pull ended, UTC, by this machine.",
}
"""Meanings of the columns that rows of a history carry."""


@cache
def lake_schema(stream: Stream) -> pa.Schema:
    """Columns of a stream's files: the typed row, and where it came from."""
    return pa.schema(
        [
            *stream.schema,
            pa.field("last_good_at", pa.timestamp("us", tz="UTC")),
            pa.field("pull_id", pa.string()),
            pa.field("page_number", pa.int32()),
            pa.field("record_number", pa.int32()),
        ]
    )


def merged_schema(stream: Stream) -> pa.Schema:
    """Columns of merged files: the typed row, where it came from, and which pulls brought it.

    `seen_from` and `seen_to` are sequence numbers, both inclusive and from 1, of the pulls of the
    account and month that were ever merged; see sql/lake/merged_pulls.sql.
    """
    return pa.schema(
        [
            *lake_schema(stream),
            pa.field("seen_from", pa.int32()),
            pa.field("seen_to", pa.int32()),
        ]
    )


def typed_nothing(columns: Iterable[tuple[str, str]]) -> str:
    """A SELECT without rows, of columns with their types."""
    named = ", ".join(f'null::{kind} as "{name}"' for name, kind in columns)
    return f"select {named} where false"


_SQL_TYPES: Mapping[pa.DataType, str] = {
    pa.string(): "varchar",
    pa.binary(): "blob",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type.

    Raises:
        ValueError: The lake does not use that type.
    """
    if kind in _SQL_TYPES:
        return _SQL_TYPES[kind]
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"map({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"
    if pa.types.is_struct(kind):
        return "struct(" + ", ".join(f'"{f.name}" {sql_type(f.type)}' for f in kind) + ")"
    raise ValueError(f"no SQL type for {kind}")
