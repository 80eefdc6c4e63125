"""Two barriers that keep a query of the warehouse to the published tables.

DuckDB's own parser says what a statement reads, before it runs. The database that runs it opens
no file outside of the folders that the tables read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from lean_resources.machine import raise_machine_error
from lean_resources.streams import STREAMS
from pipelines.lake.digests import DamageError, damage_error
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folder import Folder
from pipelines.lake.folders import (
    MARTS,
    REFRESH_RESERVATIONS,
    REFRESH_RESULTS,
    quarantine_of,
    rows_of,
    superseded_of,
)
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.publish.named_files import names_of
from pipelines.publish.warehouse import connect, connect_file

_REMEDY = "Run leanhouse build: it publishes the warehouse again, or says what is lost."

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


@contextlib.contextmanager
def reading(
    source: Lake | Path, sql: str, *, is_unsafe: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a warehouse for one statement, behind both barriers.

    Args:
        source: The lake that has the warehouse, or a file that needs no lake.
        is_unsafe: Whether to allow any statement, and everything that DuckDB can reach.

    Raises:
        QueryError: The statement does more than read tables, DuckDB refuses it, or a file that the
            warehouse reads is missing.
        FileNotFoundError: No warehouse was published yet.
        WarehouseError: The warehouse cannot be opened.
    """
    try:
        if isinstance(source, Lake):
            # Of an object store, only what the statement reads is there.
            opened = connect(source, None if is_unsafe else sql)
        else:
            opened = connect_file(source)
            Lake.stand_in(opened, source.parent)
        with opened as connection:
            if isinstance(source, Lake):
                _refuse_outdated(source, connection, sql)
            folders = _folders_of(connection)
            if not is_unsafe:
                refuse_unless_reading(sql, _own_functions(connection))
                close_off(connection, folders)
            yield connection
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException):
            raise_machine_error(error)
        if (damage := damage_error(error)) is not None:
            raise QueryError(f"{damage.message}. {_REMEDY}") from None
        raise QueryError(str(error)) from None
    except DamageError as error:
        raise QueryError(f"{error.message}. {_REMEDY}") from None


def refuse_unless_reading(sql: str, published: frozenset[str] = frozenset()) -> None:
    """Return if a statement reads tables by name and does nothing else.

    Args:
        published: Names of the warehouse's own table functions.

    Raises:
        QueryError: There is more than one statement, or it writes, changes a
            setting, opens a file, or nests too deeply.
    """
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"there are {len(statements)} statements: give one at a time")
    found = statements[0]
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
    with open_duckdb() as connection:
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


def _refuse_outdated(lake: Lake, connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Return if all files exist that the warehouse reads; of an object store, that `sql` reads.

    Raises:
        DamageError: A file is missing, and the result would silently lack its rows.
    """
    try:
        with connection.cursor() as ledger:
            ledger.execute("set search_path = 'leanhouse.raw'")
            if isinstance(lake.storage, Folder):
                lake.check_files(ledger)
                return
            read = {Key(name).parent.parent for name in names_of(ledger, sql) if "*" in name}
            lake.check_folders(ledger, [folder for folder in _of_streams() if folder in read])
    except (duckdb.BinderException, duckdb.CatalogException):
        # An earlier version published it, whose ledger does not list files.
        return


def _own_functions(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    found = connection.execute(
        "select function_name from duckdb_functions()"
        " where database_name = 'leanhouse' and function_type = 'table_macro' and not internal"
    ).fetchall()
    return frozenset(name for (name,) in found)


def _of_streams() -> list[Key]:
    """The folders of streams that published views read."""
    places = (rows_of, superseded_of, quarantine_of)
    return [place(stream) for place in places for stream in STREAMS.values()]


def _folders_of(connection: duckdb.DuckDBPyConnection) -> list[Path]:
    """The folders that the published views read."""
    ((root,),) = connection.execute("select getvariable('leanhouse_folder')").fetchall()
    below = [*_of_streams(), REFRESH_RESERVATIONS, REFRESH_RESULTS, MARTS]
    return [Path(root) / folder for folder in below]


def close_off(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path]) -> None:
    """Let a connection open only files in some folders.

    It can open neither stored answers, nor files of the ledger, nor extensions. No statement can
    undo this.
    """
    paths = [str(folder).replace("'", "''") for folder in folders]
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
