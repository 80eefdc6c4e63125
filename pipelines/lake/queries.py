"""What the lake's own code asks: the files of sql/queries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template
from typing import TYPE_CHECKING, Any

from pipelines.shipped import SQL

if TYPE_CHECKING:
    import duckdb

_COMMENT = re.compile(r"--.*\n")

QUERIES: Mapping[str, str] = {
    file.stem: file.read_text(encoding="utf-8") for file in (SQL / "queries").glob("*.sql")
}
"""SELECTs by name; read once, so that a process keeps to one version while files change."""


def records(connection: duckdb.DuckDBPyConnection, name: str, **given: Any) -> list[dict[str, Any]]:
    """The rows of a SELECT, each by the names of its columns.

    Args:
        connection: Where it is asked.
        name: Its name, a key of `QUERIES`.
        given: Its parameters.
    """
    result = connection.execute(QUERIES[name], given)
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def filled(name: str, **parts: str) -> str:
    """A SELECT with SQL in place of `$name`, where no parameter can stand: columns, files, types.

    Other names stay as parameters. Comments go, because DuckDB keeps the text of a view.
    """
    return Template(_COMMENT.sub("", QUERIES[name])).safe_substitute(parts)
