"""How tables become Parquet files."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.storage import Write

LEVEL = 1
"""Level of zstd."""
_LARGE_ROWS = 5_000


def parquet_of(table: pa.Table) -> Write:
    """What writes a table as a Parquet file."""
    return lambda file: pq.write_table(
        table, file, use_dictionary=_repeating(table.schema), **_compression(table)
    )


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns for which a dictionary pays: not instants and amounts, which seldom repeat."""
    return [
        field.name
        for field in schema
        if not (pa.types.is_decimal(field.type) or pa.types.is_timestamp(field.type))
    ]


def _compression(table: pa.Table) -> dict[str, Any]:
    """How to compress a file.

    zstd starts anew for each column of each file, three milliseconds for a stream as wide as
    transactions; only where there are many rows does its size pay for that.
    """
    if table.num_rows >= _LARGE_ROWS:
        return {"compression": "zstd", "compression_level": LEVEL}
    return {"compression": "snappy"}
