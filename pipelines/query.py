"""One question to the warehouse, given as text, as a file or on standard input."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pipelines.console import say, show, standard_output
from pipelines.results import write_csv, write_json, write_parquet
from pipelines.warehouse import connect

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.lake import Lake

__all__ = ["Form", "QueryError", "ask", "statement"]


class QueryError(Exception):
    """A question cannot be asked; the message says why."""


class Form(StrEnum):
    """How a result is written to standard output."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def statement(given: str) -> str:
    """The one statement that an argument is or names.

    Args:
        given: SQL, the path of a file that holds it, or `-` for standard input.

    Raises:
        QueryError: There is no statement, more than one, or the file cannot be read.
    """
    sql = _text(given)
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
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
    """The file that an argument names, or None where it is SQL."""
    # Not every SELECT could be a path: some are too long, or hold a zero byte.
    try:
        is_there = bool(given.strip()) and Path(given).exists()
    except (OSError, ValueError):
        return None
    is_name = given.lower().endswith(".sql") and len(given.split()) == 1
    return Path(given) if is_there or is_name else None


def ask(lake: Lake, sql: str, console: Console, form: Form, parquet: Path | None = None) -> None:
    """Ask the warehouse, and write what it answers.

    Args:
        lake: The lake whose warehouse is asked.
        sql: One statement.
        console: Where a table goes.
        form: How it is written to standard output.
        parquet: A file to write instead, as Parquet.

    Raises:
        QueryError: DuckDB refused the statement, or the file cannot be written.
        FileNotFoundError: Nothing was published yet.
    """
    try:
        with connect(lake) as connection:
            if parquet is not None:
                say(f"{_keep(connection, sql, parquet):,} rows in {parquet}")
            elif form is Form.TABLE:
                show(connection.execute(sql), console)
            else:
                write = write_csv if form is Form.CSV else write_json
                write(connection.execute(sql), standard_output())
    except duckdb.Error as error:
        raise QueryError(str(error)) from None


def _keep(connection: duckdb.DuckDBPyConnection, sql: str, file: Path) -> int:
    import pyarrow as pa  # noqa: PLC0415 - other forms need none of it

    relation = connection.sql(sql)
    if relation is None:
        raise QueryError("the statement has no result")
    try:
        return write_parquet(relation, file)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise QueryError(f"{file} cannot be written: {reason}") from None
    except pa.ArrowException as error:
        raise QueryError(f"cast a column that Parquet does not know: {error}") from None
