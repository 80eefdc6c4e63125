"""The copy for analysts: a DuckDB file with the rows of marts, which needs no lake."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import duckdb

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS, Column, Kind, Stream
from pipelines.environment import state_folder
from pipelines.lake.lake import Lake
from pipelines.lake.permissions import restrict
from pipelines.lake.queries import QUERIES
from pipelines.lake.storage import Key, Storage
from pipelines.models.manifest import current_manifest
from pipelines.models.model import Model, Models
from pipelines.publish.warehouse import (
    Published,
    add_old_names,
    comments,
    old_names,
    show,
    swap_in,
)

__all__ = ["STORAGE_VERSION", "LeakError", "publish_copy"]

STORAGE_VERSION = "v1.0.0"
"""Format of the file, for DuckDB 1.0 and later. Source: https://duckdb.org/docs/stable/internals/storage"""
_SHORTEST = 5
"""Characters that a personal value has at least to be searched for; shorter texts are ambiguous."""
_IDENTIFYING = re.compile("identification|national_id|email|phone|mobile")
_SEARCHED = r"""
create temp macro plain(text) as regexp_replace(lower(text), '[\s+]+', '', 'g');
create temp macro cut(text, marks) as
    list_transform(string_split_regex(text, marks), lambda one: trim(one, ' .'));
create temp macro texts_in(json) as regexp_extract_all(json, '"((?:[^"\\]|\\.)*)"\s*[,\]}]', 1);
"""


class LeakError(ConfigError):
    """A table for analysts contains a personal value; the message names the column only."""

    remedy = (
        "Nothing was published. Find out how it got there (leanhouse dictionary says what the"
        " column is made of), and change the model or the setting that fills it."
    )


def publish_copy(lake: Lake, models: Models, folder: Path, group: str | None = None) -> Published:
    """Write `leanhouse.duckdb` with the marts and their steps as built last, and swap it in.

    Readers of the old file keep reading it. A process that is killed leaves the old file.

    Args:
        lake: The lake.
        models: All models; marts that were never built are left out.
        folder: Folder of the file, outside of the lake's home; created if it does not exist.
        group: Name of a group that may read the file; None means the owner alone.

    Raises:
        ConfigError: The folder is in the home, another process publishes there, or no mart is
            built.
        DamageError: A file of the lake is missing or too short.
        LeakError: A table contains a personal value.
        WarehouseError: Something that is not a file is in the way.
    """
    folder = state_folder(folder, "the folder for analysts")
    if folder.is_relative_to(lake.folder.parent.parent.resolve()):
        raise ConfigError(f"{folder} is in the home of the lake: choose a folder outside of it")
    target = folder / lake.warehouse.name
    with _begun(target, group) as file, lake.scratch() as spill, duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set temp_directory = $1", [str(spill)])
        shown = show(connection, lake, models, current_manifest(lake))
        marts = [model for model in shown if model.layer in {"intermediate", "marts"}]
        if all(model.stored.is_view for model in marts):
            raise ConfigError("no mart is built yet: run leanhouse build first")
        place = str(file).replace("'", "''")
        connection.execute(f"attach '{place}' as copy (storage_version '{STORAGE_VERSION}')")
        connection.execute("create schema copy.intermediate")
        rows = {model.name: _copied(connection, model) for model in marts}
        if leaks := _leaks(connection, lake, models, marts):
            raise LeakError(f"a personal value stands in {', '.join(leaks)}")
        # A view names its schema and no database: the file may be opened under any name.
        connection.execute("use copy")
        add_old_names(connection, old_names(marts))
        connection.execute("use memory")
        connection.execute("detach copy")
        restrict(file, group)
        storage = Storage(folder)
        file_key = Key(file.relative_to(folder))
        storage.sync(file_key)
        swap_in(storage, file_key, Key(target.name))
    return Published(target, rows)


@contextlib.contextmanager
def _begun(target: Path, group: str | None) -> Iterator[Path]:
    """A private place for a file before it is swapped in, for one process at a time."""
    folder, beside = target.parent, target.with_name(f"{target.name}.tmp")
    if not folder.exists():
        folder.mkdir(parents=True)
        restrict(folder, group)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process publishes to {folder}: wait for it") from None
        # The lock says that only a killed process can have left this.
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        try:
            yield beside / target.name
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    finally:
        os.close(descriptor)


def _copied(connection: duckdb.DuckDBPyConnection, model: Model) -> int:
    """Copy the rows and meanings of a mart; the number of rows."""
    columns = ", ".join(f'"{name}"' for name in model.public)
    shown = f"{model.schema}.{model.name}"
    name = f"copy.{shown}"
    connection.execute(f"create table {name} as select {columns} from memory.{shown}")
    docs = {column.name: column.doc for column in model.columns if not column.pii}
    connection.execute(comments("table", name, model.doc, docs))
    (rows,) = connection.execute(f"select count(*) from {name}").fetchall()[0]
    return int(rows)


def _leaks(
    connection: duckdb.DuckDBPyConnection, lake: Lake, models: Models, marts: Iterable[Model]
) -> list[str]:
    """Columns of the copy, as table.column, that contain a personal value of the lake.

    A value is searched for as a whole text and as an element of a list. A value that identifies on
    its own, such as an account number or an e-mail address, is searched for as a word of a text
    too. Other values do not count if public columns of banks and movements hold them as well: a
    merchant may have a customer's name.
    """
    connection.execute(_SEARCHED)
    personal = " union all ".join(
        _select(lake, stream, columns)
        for stream in STREAMS.values()
        if (columns := [column for column in stream.columns if _is_personal(column)])
    )
    connection.execute(
        "create temp table personal as select plain(value) as value, bool_or(identifies) as"
        f" identifies from ({personal}) group by all having length(plain(value)) >= {_SHORTEST}"
    )
    connection.execute(
        "delete from personal where value in (select plain(unnest($1)))", [sorted(_words(models))]
    )
    public = " union all ".join(
        _select(
            lake, STREAMS[name], [column for column in STREAMS[name].columns if _is_open(column)]
        )
        for name in ("banks", "transactions")
    )
    connection.execute(
        "delete from personal where not identifies"
        f" and value in (select plain(value) from ({public}))"
    )
    texts = " union all ".join(
        f"""select '{mart.name}.{column.name}' as place, "{column.name}"::varchar as text"""
        f" from copy.{mart.schema}.{mart.name}"
        for mart in marts
        if _reads_banks(models, mart.name)
        for column in mart.columns
        if not column.pii and ("VARCHAR" in column.type or "JSON" in column.type)
    )
    connection.execute(f"create temp view texts as {texts}")
    found = connection.execute(QUERIES["leaking_columns"]).fetchall()
    return [place for (place,) in found]


def _reads_banks(models: Models, name: str) -> bool:
    """Whether a relation holds data of banks, unlike a calendar."""
    if name not in models:
        return name not in models.seeds and name != "clock"
    return any(_reads_banks(models, read) for read in models[name].reads)


def _is_personal(column: Column) -> bool:
    return column.pii and column.kind is not Kind.DATE


def _is_open(column: Column) -> bool:
    return not column.pii and column.kind in {Kind.TEXT, Kind.TEXTS}


def _select(lake: Lake, stream: Stream, columns: Collection[Column]) -> str:
    """The SELECT of all texts that columns ever had, and whether each identifies on its own."""
    names = ", ".join(f'"{column.name}"' for column in columns)
    texts = " union all ".join(
        f"select {value} as value, {bool(_IDENTIFYING.search(value))} as identifies from rows"
        for column in columns
        for value in _values(column)
    )
    # Not the view of this name, which lacks personal columns. Read once for all columns.
    return f"(with rows as materialized (select {names} from ({lake.history(stream)})) {texts})"


def _values(column: Column) -> list[str]:
    """Expressions that give the single texts of a column."""
    match column.kind:
        case Kind.TEXT:
            return [f'"{column.name}"']
        case Kind.TEXTS:
            return [f'unnest("{column.name}")']
        case Kind.TEXT_MAP:
            return [f'unnest(map_values("{column.name}"))']
        case Kind.JSON:
            return [f'unnest(texts_in("{column.name}"))']
        case Kind.ITEMS:
            inner = [field.name for field in column.fields if field.pii]
            return [f'unnest("{column.name}")."{name}"' for name in inner]
        case _:
            return [f'"{column.name}"::varchar']


def _words(models: Models) -> set[str]:
    """The project's own vocabulary: values in the catalogue, in seeds and in the SQL of models."""
    words = {
        word for stream in STREAMS.values() for column in stream.columns for word in column.values
    }
    for file in models.seeds.values():
        with file.open(encoding="utf-8", newline="") as lines:
            words.update(cell for row in csv.reader(lines) for cell in row)
    for body in (*models.macros.values(), *(model.body for model in models)):
        words.update(re.findall(r"'([^'\n]*)'", body))
    return words
