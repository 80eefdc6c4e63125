"""Two barriers that keep a query of the warehouse to the published tables.

DuckDB's own parser says what a statement reads, before it runs. The database that runs it opens
no file outside of the folders that the tables read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import duckdb

from lean_resources.streams import STREAMS
from pipelines.lake.folders import (
    MARTS,
    REFRESH_RESERVATIONS,
    REFRESH_RESULTS,
    quarantine_of,
    rows_of,
    superseded_of,
)

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake

__all__ = ["QueryError", "close_off", "refuse_unless_reading"]

_CATALOGUE = ("columns", "constraints", "databases", "functions", "keywords", "schemas")
_TABLE_FUNCTIONS = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "unnest", "icu_calendar_names"}
    | {"pg_timezone_names", "duckdb_settings", "duckdb_tables", "duckdb_types", "duckdb_views"}
    | {f"duckdb_{listed}" for listed in _CATALOGUE}
)
"""Table functions of DuckDB that open no file."""
_PRAGMA = re.compile(
    r"(?is)\s*pragma\s+(collations|database_size|functions|platform|show_databases|show_tables"
    r"|show_tables_expanded|version|table_info\s*\(\s*('\w+'|\w+)\s*\))\s*;*\s*"
)
_SCHEMAS = frozenset(
    {"information_schema", "intermediate", "leanhouse", "main", "pg_catalog", "pii", "raw"}
    | {"system"}
)
_NAME = re.compile(r"[\w $-]+")
_REFUSED = (
    "the warehouse is read-only: use SELECT, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN"
)


class QueryError(Exception):
    """A query is refused or fails; the message says why."""


def refuse_unless_reading(sql: str, published: frozenset[str] = frozenset()) -> None:
    """Return if a statement reads tables by name and does nothing else.

    Args:
        sql: One statement that parses.
        published: Names of the warehouse's own table functions.

    Raises:
        QueryError: The statement writes, changes a setting or opens a file, or nests too deeply.
    """
    found = duckdb.extract_statements(sql)[0]
    if found.type == duckdb.StatementType.PRAGMA and _PRAGMA.fullmatch(sql):
        return
    asked = _explained(sql) if found.type == duckdb.StatementType.EXPLAIN else _tree(sql)
    if found.type == duckdb.StatementType.MULTI:
        raise QueryError("list the values of a PIVOT: pivot … on … in (…)")
    if asked is None:
        raise QueryError(f"{_REFUSED} (an operator may use --unsafe)")
    for kind, path in _read(asked):
        name = path[-1].lower() if path else ""
        if any(part.lower() not in _SCHEMAS for part in path[:-1]):
            raise QueryError(f"there is no schema {'.'.join(path[:-1])} in the warehouse")
        if kind == "TABLE_FUNCTION":
            if name not in _TABLE_FUNCTIONS | published:
                raise QueryError(
                    f"{name}() is for operators: query tables by name, or use --unsafe"
                )
        elif name and not _NAME.fullmatch(name.strip('"')):
            raise QueryError(
                "reading a file is for operators: query tables by name, or use --unsafe"
            )


def _tree(sql: str) -> Any | None:
    """The syntax tree of a statement by DuckDB's parser; None if it is not a SELECT."""
    with duckdb.connect() as connection:
        found = connection.execute("select json_serialize_sql($1)", [sql]).fetchone()
    try:
        tree = json.loads(found[0]) if found else {"error": True}
    except RecursionError:
        raise QueryError("the query nests too deeply") from None
    return None if tree["error"] else tree["statements"]


def _explained(sql: str) -> Any | None:
    """The syntax tree of the SELECT behind EXPLAIN: the longest tail of the text that parses."""
    text = sql.encode()
    for start, _ in duckdb.tokenize(sql)[1:]:
        tree = _tree(text[start:].decode("utf-8", "replace"))
        if tree is not None:
            return tree
    return None


def _read(tree: Any) -> Iterator[tuple[str, list[str]]]:
    """Every table and table function that a statement reads, with the parts of its name."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            kind = node.get("type")
            if kind in {"BASE_TABLE", "SHOW_REF", "TABLE_FUNCTION"}:
                named = node["function"] if kind == "TABLE_FUNCTION" else node
                yield kind, named["qualified_name"]["path"]
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def close_off(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    """Let a connection open only files in the folders that the published views read.

    It can open neither stored answers, nor files of the ledger, nor extensions. No statement can
    undo this.
    """
    folders = [
        folder_of(stream)
        for folder_of in (rows_of, superseded_of, quarantine_of)
        for stream in STREAMS.values()
    ]
    folders += [REFRESH_RESERVATIONS.parent, REFRESH_RESULTS, MARTS]
    paths = [str(lake.storage.local(folder)).replace("'", "''") for folder in folders]
    listed = ", ".join(f"'{path}'" for path in paths)
    for setting in (
        "allow_persistent_secrets = false",
        "allow_community_extensions = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        f"allowed_directories = [{listed}]",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"set {setting}")
