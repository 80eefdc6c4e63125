"""The warehouse: the DuckDB file that analysts open, built beside the old one and swapped in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from lean_resources.streams import STREAMS, Stream
from pipelines.lake import Lake
from pipelines.ledger import VIEW_DOCS, new_id

__all__ = ["Published", "connect", "publish"]


@dataclass(frozen=True, slots=True)
class Published:
    """A warehouse that was swapped in.

    Args:
        path: The file.
        rows: Resolved rows of each stream.
    """

    path: Path
    rows: Mapping[str, int]


def publish(lake: Lake) -> Published:
    """Build the warehouse from the lake as it stands, and swap it in.

    Whoever has the old file open keeps reading the old file; whoever opens it after the swap sees
    the new one. Each view shows what was committed when the file was built.
    """
    lake.folder.mkdir(parents=True, exist_ok=True)
    temporary = lake.folder / f"leanhouse.{new_id()}.tmp"
    try:
        with duckdb.connect(str(temporary)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            lake.attach_to(connection)
            connection.execute(
                "comment on table pulls is 'The ledger: one row per pull, whatever its outcome.'"
            )
            connection.execute(
                "comment on table claims is 'Which committed pull speaks for which UTC days.'"
            )
            for view, (doc, columns) in VIEW_DOCS.items():
                _comment(connection, view, doc, columns)
            rows = {name: _describe(connection, stream) for name, stream in STREAMS.items()}
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(lake.warehouse)
    finally:
        temporary.unlink(missing_ok=True)
    return Published(lake.warehouse, rows)


def connect(lake: Lake) -> duckdb.DuckDBPyConnection:
    """Open the warehouse for reading, with days cut in UTC.

    Raises:
        FileNotFoundError: Nothing was published yet.
    """
    if not lake.warehouse.exists():
        raise FileNotFoundError(f"{lake.warehouse} does not exist: run a sync first")
    # Attached rather than opened: within one process DuckDB hands out the database that it has
    # open under a path, which after a swap would be the old one.
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(f"attach '{_quoted(str(lake.warehouse))}' as leanhouse (read_only)")
    connection.execute("use leanhouse")
    return connection


def _describe(connection: duckdb.DuckDBPyConnection, stream: Stream) -> int:
    """Comment a stream's view and count its rows."""
    docs = {column.name: column.doc for column in stream.columns}
    docs |= {
        "pull_id": "Pull that brought the row; see pulls.",
        "page_number": "Page of the series that held the record, from 0.",
        "record_number": "Place of the record in its series, from 0.",
    }
    _comment(connection, stream.name, stream.doc, docs)
    found = connection.execute(f"select count(*) from {stream.name}").fetchone()
    return int(found[0]) if found else 0


def _comment(
    connection: duckdb.DuckDBPyConnection, view: str, doc: str, columns: Mapping[str, str]
) -> None:
    connection.execute(f"comment on view {view} is '{_quoted(doc)}'")
    for name, column_doc in columns.items():
        connection.execute(f"""comment on column {view}."{name}" is '{_quoted(column_doc)}'""")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
