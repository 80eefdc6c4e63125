"""One query of the warehouse, given as text, as a file or on standard input."""

from __future__ import annotations

import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pipelines.cli.console import say, show, standard_output
from pipelines.cli.results import write_csv, write_json, write_parquet
from pipelines.environment import settings
from pipelines.lake.queries import QUERIES
from pipelines.publish.read_only import QueryError, reading

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.lake.lake import Lake

__all__ = ["Form", "QueryError", "ask", "statement"]

_LISTING = re.compile(r"(?i)\s*(show\s+|pragma\s+show_)tables\s*;*\s*")


class Form(StrEnum):
    """How a result is written to standard output."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def statement(given: str) -> str:
    """The one statement in an argument or in the file that it names.

    Args:
        given: SQL, the path of a file that holds it, or `-` for standard input.

    Raises:
        QueryError: There is no statement or more than one, or the file cannot be read.
    """
    sql = _text(given)
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        # DuckDB quotes the text, and a file that is not SQL may hold secrets.
        is_quoted = given in {sql, "-"} or given.lower().endswith(".sql")
        raise QueryError(str(error) if is_quoted else f"{given} holds no SQL") from None
    if not found:
        raise QueryError("the query is empty: give one SELECT, or a file that holds one")
    if len(found) > 1:
        raise QueryError(f"there are {len(found)} statements: give one at a time")
    return sql


def _text(given: str) -> str:
    try:
        if given == "-":
            return sys.stdin.buffer.read().decode("utf-8-sig")
        if (file := _file(given)) is not None:
            return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise QueryError(f"{given} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise QueryError(f"{given} is not text in UTF-8") from None
    return given


def _file(given: str) -> Path | None:
    """The file that an argument names, or None if it is SQL."""
    # A SELECT may be too long for a path, or contain a zero byte.
    try:
        is_there = bool(given.strip()) and Path(given).exists()
    except (OSError, ValueError):
        return None
    is_name = given.lower().endswith(".sql") and len(given.split()) == 1
    return Path(given) if is_there or is_name else None


def ask(
    lake: Lake,
    sql: str,
    console: Console,
    form: Form,
    parquet: Path | None = None,
    *,
    is_unsafe: bool = False,
) -> None:
    """Run a statement on the warehouse, and write its result.

    Args:
        parquet: A Parquet file to write the result to instead, or None.
        is_unsafe: Whether to allow any statement, and everything that DuckDB can reach.

    Raises:
        QueryError: The statement does more than read tables, DuckDB refuses it, a file that the
            warehouse reads is missing, or the Parquet file cannot be written.
        FileNotFoundError: No warehouse was published yet.
        WarehouseError: The warehouse cannot be opened.
    """
    if parquet is not None:
        _refuse_inside(lake, parquet)
    if _LISTING.fullmatch(sql):
        sql = QUERIES["listed_tables"]
    with reading(lake, sql, is_unsafe=is_unsafe) as connection:
        if parquet is not None:
            say(f"{_keep(connection, sql, parquet):,} rows in {parquet}")
        elif form is Form.TABLE:
            show(connection.execute(sql), console)
        else:
            write = write_csv if form is Form.CSV else write_json
            write(connection.execute(sql), standard_output())


def _refuse_inside(lake: Lake, file: Path) -> None:
    """Refuse to write a result into the lake, the inbox or Dagster's home."""
    root, home = lake.folder.parent, settings().home
    beside = [folder / name for folder in (root.parent, home) for name in ("inbox", "dagster")]
    kept = (root, *beside, settings().cache)
    if any(file.resolve().is_relative_to(folder) for folder in kept):
        raise QueryError(f"{file} is in a folder of leanhouse: choose another folder")


def _keep(connection: duckdb.DuckDBPyConnection, sql: str, file: Path) -> int:
    import pyarrow as pa  # noqa: PLC0415 - slow, and other forms do not need it

    relation = connection.sql(sql)
    if relation is None:
        raise QueryError("the statement has no result")
    try:
        return write_parquet(relation, file)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise QueryError(f"{file} cannot be written: {reason}. Choose another file") from None
    except pa.ArrowException as error:
        raise QueryError(f"Parquet does not know the type of a column; cast it: {error}") from None
