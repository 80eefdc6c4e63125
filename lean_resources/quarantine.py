"""The quarantine: values that do not fit, by place and reason and without the value."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

TRACE_SCHEMA = pa.schema(
    [
        pa.field("series_id", pa.string(), nullable=False),
        pa.field("page_number", pa.int32(), nullable=False),
        pa.field("record_number", pa.int32(), nullable=False),
    ]
)
"""Where a row came from: the paged read (`series_id`), its page, and the record's place in it."""

QUARANTINE_SCHEMA = pa.schema(
    [
        *TRACE_SCHEMA,
        pa.field("column_name", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("record_key", pa.string()),
        pa.field("placed_on", pa.date32()),
        pa.field("is_lost", pa.bool_(), nullable=False),
    ]
)
"""Records and values that do not fit, without the values, which stay in the raw page.

One row per record that is left out (`is_lost`), and one per optional value that became null, or
was read in another way than it was written, while its record was kept. `path` is the place in the
record, where it is known. `record_key` is the JSON text of the list of the stream's key columns,
null where a part of the key cannot be read. `placed_on` is the UTC day by the first readable column
of `placed_by`; null where none can be read, and in streams without months.
"""


def key_text(values: Sequence[str | int | None]) -> str | None:
    """The key of a record as JSON text; None where a part of it is unknown."""
    if any(value is None for value in values):
        return None
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))


def lost(quarantine: pa.Table) -> pa.Table:
    """Rows of records that were left out; older files have only those, with null in `is_lost`."""
    return quarantine.filter(pc.fill_null(quarantine["is_lost"], fill_value=True))
