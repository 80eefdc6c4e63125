"""DuckDB as all of this project opens it."""

from __future__ import annotations

from pathlib import Path

import duckdb


def open_duckdb(file: Path | str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A DuckDB that cuts days in UTC, whatever the zone of this machine."""
    connection = duckdb.connect(str(file))
    connection.execute("set TimeZone = 'UTC'")
    return connection
