"""The DuckDB of one build: what models read, whole or some months of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folders import rows_of
from pipelines.lake.lake import Lake
from pipelines.lake.schemas import typed_nothing
from pipelines.lake.storage import Key
from pipelines.models.basis import Basis
from pipelines.models.manifest import Manifest, Part, month_of
from pipelines.models.model import Model, ModelColumn, Models
from pipelines.models.relations import add_macros, add_seeds

MEMORY_LIMIT = "3GB"
"""Beyond this DuckDB spills to disk."""
_MONTH_STREAMS = {
    name: stream
    for stream in STREAMS.values()
    if stream.window is Window.MONTHS
    for name in (stream.name, f"{stream.name}_history")
}
_LEDGER_BY_MONTH = ("pulls", "claims")
_BY_MONTH = {*_MONTH_STREAMS, *_LEDGER_BY_MONTH}
"""Relations of the lake that are kept by month. A month shows no row that has no month."""


class Session:
    """A connection to the lake on which models are built.

    Args:
        basis: What is read, with all models that can be.
        reads: Relations that are read; others of the lake are not there.
        hash_key: Key of hashed identifiers.
        scratch: Folder for files that are thrown away.
    """

    def __init__(self, basis: Basis, reads: Iterable[str], *, hash_key: str, scratch: Path) -> None:
        self.lake, self.models, self.manifest = basis.lake, basis.models, basis.manifest
        self.connection = open_duckdb()
        self.connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        self.connection.execute("set preserve_insertion_order = false")
        self.connection.execute("set temp_directory = $1", [str(scratch / "spill")])
        models = self.models
        add_macros(self.connection, models.macros.values(), hash_key)
        names = {name for name in reads if name in models.relations and name not in models.seeds}
        self._copies: dict[Key, str] = {}
        self.whose = basis.attach(self.connection, names | {"fitting_ranges"})
        """Hash of the ids that show; empty where all do."""
        add_seeds(self.connection, models.seeds)
        self.rows_by_month: dict[str, int] = dict(
            self.connection.execute(
                "select month, coalesce(sum(rows), 0)::bigint + count(*) from pulls"
                " where month is not null and outcome = 'COMMITTED' group by month"
            ).fetchall()
        )
        """Rows of the lake by month, and one more for each pull."""

    def row(self, query: str) -> tuple[Any, ...]:
        """The first row of a result."""
        found = self.connection.execute(query).fetchone()
        return found if found is not None else ()

    def show(self, model: Model) -> None:
        """Make a model readable by its name, for the models that are built after it."""
        select = model.body if model.stored.is_view else self.stored_rows(model)
        self.connection.execute(f"create or replace view main.{model.name} as {select}")

    def stored_rows(self, model: Model, months: Collection[str] | None = None) -> str:
        """The SELECT of a model's rows from its files, of some months or of all."""
        return stored_rows(self.lake, model, self.manifest, months)

    def months(self, name: str) -> set[str] | None:
        """The months (YYYY-MM) that a relation holds, or None if it is kept whole."""
        if name in _BY_MONTH:
            return set(self.rows_by_month)
        if name not in self.models:
            return None
        model = self.models[name]
        if model.stored.month is not None:
            parts = self.manifest.parts.get(name, {})
            return {month_of(name) for name, part in parts.items() if part.rows}
        if model.stored.is_view:
            inner = [self.months(read) for read in model.reads]
            known = [months for months in inner if months is not None]
            return set().union(*known) if known else None
        return None

    @contextlib.contextmanager
    def narrowed(self, reads: Collection[str], months: Collection[str]) -> Iterator[None]:
        """Within the block, relations that are kept by month show some of their months only.

        Args:
            reads: Relations that are read in the block.
            months: The months that they show.
        """
        self.connection.execute("drop schema if exists part cascade")
        self.connection.execute("create schema part")
        for name in through_views(reads, self.models):
            if self.months(name) is not None:
                select = self._some_months(name, months)
                self.connection.execute(f"create view part.{name} as {select}")
        self.connection.execute("set search_path = 'part,main'")
        try:
            yield
        finally:
            self.connection.execute("set search_path = 'main'")

    def _some_months(self, name: str, months: Collection[str]) -> str:
        """The SELECT of some months of a relation that is kept by month."""
        if name in self.models:
            model = self.models[name]
            # What a view reads is narrowed itself.
            return model.body if model.stored.is_view else self.stored_rows(model, months)
        if name in _LEDGER_BY_MONTH:
            listed = ", ".join(f"'{month}'" for month in sorted(months))
            return f"select * from main.{name} where month in ({listed})"
        stream = _MONTH_STREAMS[name]
        lake = self._copied(stream, months) if self.whose else self.lake
        return (lake.history if name.endswith("_history") else lake.resolved)(stream, months)

    def _copied(self, stream: Stream, months: Collection[str]) -> Lake:
        """The lake with a bucket's rows of some months in tables.

        Rows of other buckets lie between them in each file, so that all of it has to be read.
        """
        for month in months:
            folder = rows_of(stream) / f"month={month}"
            if folder not in self._copies:
                self._copies[folder] = f'main."{stream.name} {month}"'
                self.connection.execute(
                    f"create table {self._copies[folder]} as select * from"
                    f" ({self.lake.all_rows(stream, [month])}) where account_id in (from main.ids)"
                )
        return self.lake.copied(self._copies)


def stored_rows(
    lake: Lake, model: Model, manifest: Manifest, months: Collection[str] | None = None
) -> str:
    """The SELECT of a model's rows from its files: those that no later delta replaces, and deltas.

    Args:
        model: A model that is not a view.
        manifest: The manifest that names the files.
        months: The months (YYYY-MM) to read; None means all.
    """
    parts = sorted(manifest.parts.get(model.name, {}).items())
    kept = [part for name, part in parts if months is None or month_of(name) in months]
    select = _reading(lake, model, kept)
    deltas = [delta for delta in manifest.deltas if model.name in delta.parts]
    if not deltas:
        return select
    selects = [select]
    for delta in deltas:
        rows = _reading(lake, model, [delta.parts[model.name]])
        if months is not None:
            listed = ", ".join(f"'{month}'" for month in sorted(months))
            rows = f"select * from ({rows}) where {model.stored.month} in ({listed})"
        selects.append(rows)
    for place, rows in enumerate(selects[:-1]):
        later = lake.listed(Key(delta.ids.file) for delta in deltas[place:])
        selects[place] = (
            f"select kept.* from ({rows}) as kept anti join read_parquet({later}) as changed"
            f" on kept.{deltas[-1].told_by[model.name]} = changed.id"
        )
    return " union all ".join(f"({one})" for one in selects)


def _reading(lake: Lake, model: Model, parts: Iterable[Part]) -> str:
    """The SELECT of the rows in some parts of a model."""
    files = [Key(part.file) for part in parts if part.file]
    if not files:
        return typed_nothing((column.name, column.type) for column in model.columns)
    added = _added_columns(lake.storage.local(files[0]), model)
    nulls = "".join(f", null::{column.type} as {column.name}" for column in added)
    return f"select *{nulls} from read_parquet({lake.listed(files)}, hive_partitioning = false)"


def _added_columns(file: Path, model: Model) -> list[ModelColumn]:
    """Columns of a model that a part of an earlier version does not have; they are null in it.

    A build writes all parts of a model anew when its SQL changes, so each part has the same ones.
    None are added to a file that cannot be read: whoever reads its rows says why.
    """
    try:
        held = _columns_of(file)
    except (OSError, pa.ArrowException):
        return []
    return [column for column in model.columns if column.name not in held]


@functools.lru_cache(maxsize=4096)
def _columns_of(file: Path) -> frozenset[str]:
    """Columns of a file, which never changes."""
    return frozenset(pq.read_schema(file).names)


def through_views(names: Iterable[str], models: Models) -> list[str]:
    """Relations and all that the views among them read, what is read before what reads it."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in found:
            if name in models and models[name].stored.is_view:
                for read in models[name].reads:
                    add(read)
            found[name] = None

    for name in names:
        add(name)
    return list(found)
