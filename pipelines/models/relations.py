"""What models can read besides models: streams, their history, the ledger, seeds, the clock."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import duckdb

from lean_resources.streams import STREAMS
from pipelines.lake.duck import open_duckdb
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import PULL_DOCS, VIEW_DOCS
from pipelines.lake.schemas import HISTORY_DOCS, TRACE_DOCS
from pipelines.lake.views import LAKE_VIEWS


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view, other than a model, that a model can read by its name.

    Args:
        doc: Its meaning and grain.
        types: DuckDB's type of each column, in order.
        docs: Meaning of each column.
        pii: Names of personal columns.
    """

    name: str
    doc: str
    types: Mapping[str, str]
    docs: Mapping[str, str]
    pii: frozenset[str]


@contextlib.contextmanager
def empty_lake(
    macros: Iterable[str], seeds: Mapping[str, Path]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with every relation that models can read, typed and without rows."""
    with open_duckdb() as connection:
        add_macros(connection, macros := tuple(macros), "")
        connection.execute(LAKE_VIEWS["fitting_ranges"].statement)
        connection.execute(_empty_tables(macros))
        add_seeds(connection, seeds)
        yield connection


@lru_cache(maxsize=16)
def _empty_tables(macros: tuple[str, ...]) -> str:
    """Statements that create an empty table for each view of a lake.

    Tables, because a query of a view binds everything behind the view again.
    """
    with open_duckdb() as connection, tempfile.TemporaryDirectory() as folder:
        connection.execute("set TimeZone = 'UTC'")
        add_macros(connection, macros, "")
        Lake(Path(folder), "sandbox").attach_to(connection)
        columns: dict[str, list[str]] = {}
        for name, column, kind in connection.execute(
            "select table_name, column_name, data_type from duckdb_columns()"
            " where not internal order by table_name, column_index"
        ).fetchall():
            columns.setdefault(name, []).append(f'"{column}" {kind}')
    return ";".join(f"create table {name} ({', '.join(kinds)})" for name, kinds in columns.items())


def add_macros(connection: duckdb.DuckDBPyConnection, macros: Iterable[str], hash_key: str) -> None:
    """Create the macros that models use.

    Args:
        connection: The connection that gets them.
        macros: Their statements.
        hash_key: Key of `keyed_hash`, 64 bytes at most; it stays in the connection.

    Raises:
        ValueError: The key is too long.
    """
    key = hash_key.encode()
    if len(key) > 64:
        raise ValueError("a key of more than 64 bytes has to be hashed first")
    block = key.ljust(64, b"\0")
    for name, pad in (("inner_pad", 0x36), ("outer_pad", 0x5C)):
        connection.execute(
            f"set variable {name} = unhex($1)", [bytes(byte ^ pad for byte in block).hex()]
        )
    for macro in macros:
        connection.execute(macro)


def add_seeds(connection: duckdb.DuckDBPyConnection, seeds: Mapping[str, Path]) -> None:
    """Create a table of texts for each seed; models cast what they need."""
    for name, file in seeds.items():
        path = str(file).replace("'", "''")
        connection.execute(
            f"create or replace table {name} as select * from read_csv('{path}',"
            " header = true, all_varchar = true, comment = '#')"
        )


def seed_docs(file: Path) -> tuple[str, dict[str, str]]:
    """The meanings in the comment at the top of a seed: its own, and one of each column.

    Raises:
        ValueError: A column has no line `# name: meaning`.
    """
    doc, docs = [], {}
    lines = file.read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.startswith("#"):
            break
        name, colon, meaning = line.removeprefix("#").strip().partition(": ")
        if colon and name.isidentifier():
            docs[name] = meaning
        else:
            doc.append(line.removeprefix("#").strip())
    columns = next(csv.reader(line for line in lines if not line.startswith("#")))
    if missing := set(columns) - set(docs):
        raise ValueError(f"{file.name}: the comment lacks {', '.join(sorted(missing))}")
    return " ".join(doc), docs


def relations(
    connection: duckdb.DuckDBPyConnection, seeds: Mapping[str, Path]
) -> dict[str, Relation]:
    """Everything that models can read besides models, by name."""
    found: dict[str, Relation] = {}

    def add(
        name: str, doc: str, docs: Mapping[str, str], pii: frozenset[str] = frozenset()
    ) -> None:
        rows = connection.execute(f"describe {name}").fetchall()
        found[name] = Relation(name, doc, {str(row[0]): str(row[1]) for row in rows}, docs, pii)

    for stream in STREAMS.values():
        docs = {column.name: column.doc for column in stream.columns} | TRACE_DOCS
        pii = frozenset(column.name for column in stream.columns if column.pii)
        add(stream.name, stream.doc, docs, pii)
        add(
            f"{stream.name}_history",
            f"Every row that a committed pull ever brought: {stream.doc}",
            docs | HISTORY_DOCS,
            pii,
        )
    add("pulls", "The ledger: one row per pull, whatever its outcome.", PULL_DOCS)
    for name, (doc, view_docs) in VIEW_DOCS.items():
        add(name, doc, view_docs)
    for view in LAKE_VIEWS.values():
        if view.columns:
            add(view.name, view.doc, view.columns)
    for name, file in seeds.items():
        add(name, *seed_docs(file))
    return found
