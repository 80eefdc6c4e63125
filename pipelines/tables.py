"""Results of queries on a terminal or as CSV."""

from __future__ import annotations

import csv
import sys
from decimal import Decimal
from typing import TextIO

import duckdb
from rich.console import Console
from rich.table import Table

__all__ = ["show", "write_csv"]

_MOST_ROWS = 200


def show(result: duckdb.DuckDBPyConnection, console: Console) -> None:
    """Print a result as a table, at most 200 rows of it."""
    table = Table(show_edge=False, pad_edge=False)
    for name in _names(result):
        table.add_column(name, overflow="fold")
    rows = result.fetchmany(_MOST_ROWS + 1)
    for row in rows[:_MOST_ROWS]:
        table.add_row(*map(_cell, row))
    console.print(table)
    if len(rows) > _MOST_ROWS:
        console.print(f"… the first {_MOST_ROWS} rows")


def _cell(value: object) -> str:
    """A value as people read it; money without the zeros that its type has room for."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        whole, point, places = f"{value:f}".partition(".")
        return f"{whole}{point}{places.rstrip('0').ljust(min(2, len(places)), '0')}"
    return str(value)


def write_csv(result: duckdb.DuckDBPyConnection, to: TextIO = sys.stdout) -> None:
    """Write a whole result as CSV; null is an empty field."""
    writer = csv.writer(to)
    writer.writerow(_names(result))
    while rows := result.fetchmany(10_000):
        writer.writerows(["" if value is None else value for value in row] for row in rows)


def _names(result: duckdb.DuckDBPyConnection) -> list[str]:
    return [column[0] for column in result.description or ()]
