"""Results of queries as CSV, JSON and Parquet: exact, and null differs from an empty text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pipelines.lake.folder import Folder
from pipelines.lake.storage import Key

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

_ROWS_AT_ONCE = 10_000
_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$|^$')


Write = Callable[[str], object]
"""Writes a text somewhere."""


def names_of(result: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the columns of a result; empty if the statement has no result."""
    return [column[0] for column in result.description or ()]


def as_text(value: Any) -> str:
    """A value that is not null, as exact text."""
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def write_csv(result: duckdb.DuckDBPyConnection, write: Write) -> None:
    """Write all rows as CSV with a header; null is an empty field, and an empty text is `""`."""
    write(",".join(map(_csv_field, names_of(result))) + "\n")
    for row in _rows(result):
        write(",".join(map(_csv_field, row)) + "\n")


def _csv_field(value: Any) -> str:
    text = "" if value is None else as_text(value)
    is_quoted = value is not None and _NEEDS_QUOTES.search(text)
    return '"' + text.replace('"', '""') + '"' if is_quoted else text


def write_json(result: duckdb.DuckDBPyConnection, write: Write) -> None:
    """Write all rows as one array of objects, a row per line; decimals are text.

    A name that repeats has `_1`, `_2`, … added from the second time on.
    """
    names = _apart(names_of(result))
    write("[")
    between = "\n"
    for row in _rows(result):
        line = dict(zip(names, map(_plain, row), strict=True))
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        if not text.isprintable():
            # JSON allows characters that a terminal would obey.
            text = "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
        write(between + text)
        between = ",\n"
    write("\n]\n")


def write_parquet(relation: duckdb.DuckDBPyRelation, file: Path) -> int:
    """Write all rows into a file, completely or not at all; returns their number.

    Args:
        relation: The rows; decimals stay decimals, and large integers become decimals.
        file: The file, which is replaced if it exists.

    Raises:
        OSError: The file cannot be written.
        pyarrow.ArrowException: Parquet has no such type as a column has.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow, and other forms do not need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    rows = 0
    storage, key = Folder(file.parent), Key(file.name)
    storage.root.stat()  # a folder that does not exist is an error, and is not made
    with storage.staging(key) as part, relation.to_arrow_reader(_ROWS_AT_ONCE) as reader:
        names = _apart(reader.schema.names)
        fields = zip(reader.schema, names, strict=True)
        schema = pa.schema([field.with_name(name) for field, name in fields])
        with pq.ParquetWriter(part, schema) as writer:
            for batch in reader:
                rows += batch.num_rows
                writer.write_batch(batch.rename_columns(names))
    storage.reveal(key)
    return rows


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := result.fetchmany(_ROWS_AT_ONCE) if result.description else []:
        yield from rows


def _plain(value: Any) -> Any:
    """A value as JSON; whatever a reader of JSON could round is text."""
    plain: Any
    match value:
        case None | bool() | int() | str():
            plain = value
        case float() if math.isfinite(value):
            plain = value
        case Decimal():
            plain = f"{value:f}"
        case bytes():
            plain = value.hex()
        case dict():
            plain = {str(name): _plain(one) for name, one in value.items()}
        case list() | tuple():
            plain = [_plain(one) for one in value]
        case _:
            plain = str(value)
    return plain


def _apart(names: list[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        number, apart = 0, name
        while apart in found or (number and apart in names):
            number += 1
            apart = f"{name}_{number}"
        found.append(apart)
    return found
