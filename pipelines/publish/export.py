"""Exports: tables of the warehouse for those who have no lake, as DuckDB, Parquet or CSV."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import duckdb
import msgspec

from lean_resources.errors import ConfigError
from pipelines.environment import settings, state_folder
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folder import Folder
from pipelines.lake.lake import Lake
from pipelines.lake.permissions import restrict
from pipelines.lake.storage import Key
from pipelines.models.manifest import current_manifest
from pipelines.models.model import Model, Models
from pipelines.models.relations import Relation
from pipelines.publish.leaks import LeakError, leaking
from pipelines.publish.warehouse import Published, add_old_names, comments, old_names, show, swap_in

STORAGE_VERSION = "v1.0.0"
"""Format of the file, for DuckDB 1.0 and later. Source: https://duckdb.org/docs/stable/internals/storage"""
_CONTENTS = "leanhouse.json"
"""File of an exported folder that says what is in it."""
_NESTED = re.compile(r"\[\]$|^(STRUCT|MAP|JSON)")
_FRACTION = re.compile(r"DECIMAL\(\d+,\s*[1-9]")


class Form(StrEnum):
    """How an export is written."""

    DUCKDB = "duckdb"
    PARQUET = "parquet"
    CSV = "csv"


class Layer(StrEnum):
    """Which tables an export holds."""

    MARTS = "marts"
    INTERMEDIATE = "intermediate"
    STAGING = "staging"
    RAW = "raw"


_SEARCHED = {Layer.MARTS, Layer.INTERMEDIATE}
"""Layers that hold no personal value in any column; others have no column of such values."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The tables of an export.

    Args:
        layers: Layers of which all tables are taken.
        tables: Names of the tables, of any layer; empty means all tables of the layers.
        pii: Whether the schema `pii` comes along, with the personal columns of these tables.
    """

    layers: Collection[str] = (Layer.MARTS,)
    tables: Collection[str] = ()
    pii: bool = False


class _Table(msgspec.Struct, frozen=True):
    """A table that can be exported; `types` has its columns, `docs` their meanings."""

    schema: str
    name: str
    layer: str
    doc: str
    types: dict[str, str]
    docs: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.schema}.{self.name}"


def export(
    lake: Lake, models: Models, target: Path, form: Form, choice: Choice, group: str | None = None
) -> Published:
    """Write tables as built last to a DuckDB file or a folder, completely or not at all.

    Decimals stay decimals; in CSV they are in fixed notation without zeros at the end. CSV has
    instants as ISO 8601 in UTC and lists as JSON, and tells null from an empty text (`""`).
    Parquet has intervals as text.

    Args:
        models: All models; those that were never built are left out.
        target: The DuckDB file; else the folder, with a file per table and one of the contents. It
            is replaced if an export wrote it.
        group: Name of a group that may read it; None means the owner alone.

    Raises:
        ConfigError: The target is in the home or is no export, a table is unknown, or another
            process writes there.
        DamageError: A file of the lake is missing or too short.
        LeakError: A mart or a step of one contains a personal value.
    """
    target = outside(lake, target)
    with _begun(target, group) as part:
        _refuse_foreign(target, form)
        database = part.with_name("copy.duckdb")
        with _connected(lake) as connection:
            tables = _tables(connection, lake, models, pii=choice.pii)
            chosen = _chosen(tables, choice)
            rows = _fill(connection, lake, models, chosen, database)
            if form is Form.DUCKDB:
                connection.execute("use copy")
                by = f"leanhouse {version('leanhouse')}, from {lake.environment}"
                connection.execute(f"create macro exported_by() as '{by}'; use memory")
            else:
                _write_folder(connection, part, chosen, rows, form)
        if form is Form.DUCKDB:
            database.rename(part)
        _reveal(part, target, group)
    return Published(target, rows)


def publish_copy(lake: Lake, models: Models, folder: Path, group: str | None = None) -> Published:
    """Write `leanhouse.duckdb` with the marts and their steps as built last, and swap it in.

    Readers of the old file keep reading it. A process that is killed leaves the old file.

    Args:
        models: All models; marts that were never built are left out.
        folder: Folder of the file, outside of the lake's home; created if it does not exist.

    Raises:
        ConfigError: No mart is built, or as for `export`, like DamageError and LeakError.
        WarehouseError: Something that is not a file is in the way.
    """
    target = outside(lake, state_folder(folder, "the folder for analysts")) / lake.warehouse.name
    with _begun(target, group) as part:
        with _connected(lake) as connection:
            tables = _tables(connection, lake, models, pii=False)
            chosen = [one for one in tables if one.layer in _SEARCHED]
            rows = _fill(connection, lake, models, chosen, part)
            # A view names its schema and no database: the file may be opened under any name.
            connection.execute("use copy")
            add_old_names(connection, old_names(models[one.name] for one in chosen))
        _reveal(part, target, group)
    return Published(target, rows)


def outside(lake: Lake, target: Path) -> Path:
    """A target as an absolute path.

    Raises:
        ConfigError: It is in the home of the lake.
    """
    target = target.resolve()
    homes = [lake.folder.parent, settings().home, settings().cache]
    if settings().house.lake is None:
        homes.append(lake.folder.parent.parent)
    if any(target.is_relative_to(home) for home in homes):
        raise ConfigError(f"{target} is in the home of the lake: choose a folder outside of it")
    return target


def _refuse_foreign(target: Path, form: Form) -> None:
    """Return if nothing lies at a target that no export wrote."""
    if not target.exists() or (target.is_dir() and form is not Form.DUCKDB and _is_own(target)):
        return
    if target.is_file() and form is Form.DUCKDB:
        with contextlib.suppress(duckdb.Error), duckdb.connect(target, read_only=True) as before:
            before.execute("select exported_by()")
            return
    raise ConfigError(f"{target} was not written by leanhouse export: choose another name")


def _is_own(folder: Path) -> bool:
    """Whether a folder is empty, or holds an export and nothing else."""
    there = {str(one.relative_to(folder)) for one in folder.rglob("*") if not one.is_dir()}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = msgspec.json.decode((folder / _CONTENTS).read_bytes())["files"]
        return there <= {_CONTENTS, *known}
    return not there


@contextlib.contextmanager
def _connected(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    with lake.scratch() as spill, open_duckdb() as connection:
        connection.execute("set temp_directory = $1", [str(spill)])
        yield connection


@contextlib.contextmanager
def _begun(target: Path, group: str | None) -> Iterator[Path]:
    """A private place for a file before it is swapped in, for one process at a time."""
    folder, beside = target.parent, target.with_name(f".{target.name}.leanhouse")
    if not folder.exists():
        folder.mkdir(parents=True)
        restrict(folder, group)
    with contextlib.ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process writes to {folder}: wait for it") from None
        # The lock says that only a killed process can have left this.
        shutil.rmtree(beside, ignore_errors=True)
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        yield beside / target.name


def _reveal(part: Path, target: Path, group: str | None) -> None:
    """Put what was written in its place, safe from a power cut and with its permissions."""
    storage = Folder(target.parent)
    for one in (*part.rglob("*"), part):
        restrict(one, group)
        storage.sync(Key(one.relative_to(target.parent)))
    if part.is_file():
        swap_in(storage, Key(part.relative_to(target.parent)), Key(target.name))
        return
    # Two renames: a process that is killed between them leaves no folder, and never half of one.
    if target.exists():
        target.rename(part.with_name("before"))
    storage.move(Key(part.relative_to(target.parent)), Key(target.name))


def _tables(
    connection: duckdb.DuckDBPyConnection, lake: Lake, models: Models, *, pii: bool
) -> list[_Table]:
    """Show the lake in a connection; all tables that can be exported."""
    shown = show(connection, lake, models, current_manifest(lake), pii=pii)
    if all(model.stored.is_view for model in shown if model.layer == Layer.MARTS):
        raise ConfigError("no mart is built yet: run leanhouse build first")
    named: dict[str, tuple[str, Relation | Model]] = {
        name: ("seeds" if name in models.seeds else Layer.RAW, one)
        for name, one in models.relations.items()
    }
    named |= {model.name: (model.layer, model) for model in shown}
    types: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for schema, name, column, kind in connection.execute(
        "select schema_name, table_name, column_name, data_type from duckdb_columns()"
        " where not internal order by schema_name, table_name, column_index"
    ).fetchall():
        types[schema, name][column] = kind
    return [
        _Table(schema, name, layer, one.doc, columns, {it: one.docs.get(it, "") for it in columns})
        for (schema, name), columns in types.items()
        if name in named
        for layer, one in [named[name]]
    ]


def _chosen(tables: Sequence[_Table], choice: Choice) -> list[_Table]:
    """The tables of a choice; refuses a name that no table has."""
    if unknown := sorted(set(choice.tables) - {one.name for one in tables}):
        raise ConfigError(
            f'there is no table {", ".join(unknown)}: leanhouse query "show tables" lists them'
        )
    if choice.tables:
        return [one for one in tables if one.name in choice.tables]
    layers = {*choice.layers, *(("pii",) if choice.pii else ())}
    return [one for one in tables if one.layer in layers]


def _fill(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    models: Models,
    tables: Collection[_Table],
    file: Path,
) -> dict[str, int]:
    """Copy rows and meanings into a file that is attached as `copy`; rows by place of the table."""
    place = str(file).replace("'", "''")
    connection.execute(f"attach '{place}' as copy (storage_version '{STORAGE_VERSION}')")
    rows: dict[str, int] = {}
    for one in tables:
        connection.execute(f"create schema if not exists copy.{one.schema}")
        columns = ", ".join(f'"{name}"' for name in one.types)
        name = f"copy.{one.place}"
        connection.execute(f"create table {name} as select {columns} from memory.{one.place}")
        connection.execute(comments("table", name, one.doc, one.docs))
        ((rows[one.place],),) = connection.execute(f"select count(*) from {name}").fetchall()
    texts = [
        f"""select '{one.name}.{name}' as place, "{name}"::varchar as text from copy.{one.place}"""
        for one in tables
        if one.layer in _SEARCHED and one.schema != "pii" and _reads_banks(models, one.name)
        for name, kind in one.types.items()
        if "VARCHAR" in kind or "JSON" in kind
    ]
    if texts and (leaks := leaking(connection, lake, models, " union all ".join(texts))):
        raise LeakError(f"a personal value stands in {', '.join(leaks)}")
    return rows


def _write_folder(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    tables: Iterable[_Table],
    rows: Mapping[str, int],
    form: Form,
) -> None:
    """Write the tables of `copy` into a new folder: those of `main` into it, others below it."""
    options = "format csv, header" if form is Form.CSV else "format parquet, compression zstd"
    files: dict[str, object] = {}
    for one in tables:
        file = f"{'' if one.schema == 'main' else f'{one.schema}/'}{one.name}.{form}"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        selected = [
            f'{_as_text(name, kind)} as "{name}"' if form is Form.CSV else f'"{name}"'
            for name, kind in one.types.items()
        ]
        path = str(folder / file).replace("'", "''")
        connection.execute(
            f"copy (select {', '.join(selected)} from copy.{one.place}) to '{path}' ({options})"
        )
        files[file] = {"rows": rows[one.place], **msgspec.structs.asdict(one)}
    contents = {"exported_by": f"leanhouse {version('leanhouse')}", "files": files}
    folder.mkdir(exist_ok=True)
    (folder / _CONTENTS).write_bytes(msgspec.json.format(msgspec.json.encode(contents)))


def _as_text(name: str, kind: str) -> str:
    """The expression that gives a column as CSV has it."""
    if _NESTED.search(kind):
        return f'to_json("{name}")::varchar'
    if _FRACTION.match(kind):
        return f"""rtrim(rtrim("{name}"::varchar, '0'), '.')"""
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"""strftime("{name}", '%Y-%m-%dT%H:%M:%S.%fZ')"""
    return f'"{name}"'


def _reads_banks(models: Models, name: str) -> bool:
    """Whether a relation holds data of banks, unlike a calendar."""
    if name not in models:
        return name not in models.seeds and name != "clock"
    return any(_reads_banks(models, read) for read in models[name].reads)
