"""The warehouse: the DuckDB file that analysts open, built beside the old one and swapped in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS
from pipelines.lake.folders import MANIFESTS, WAREHOUSE, WRITERS
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import new_id
from pipelines.lake.storage import Key, Storage
from pipelines.lake.views import LAKE_VIEWS
from pipelines.lake.writers import Writer
from pipelines.models.manifest import Manifest, named_now, read_manifest
from pipelines.models.model import Model, Models
from pipelines.models.relations import Relation, add_seeds
from pipelines.models.session import stored_rows
from pipelines.publish.publications import Publications

__all__ = [
    "Published",
    "WarehouseError",
    "add_old_names",
    "comments",
    "connect",
    "old_names",
    "publish",
    "show",
    "swap_in",
]

_NOT_PUBLISHED = {"keyed_hash", "owns_number"}
"""Macros that need the key, which stays with who builds."""
_COPIED = {"pulls", *(name for name, view in LAKE_VIEWS.items() if view.is_table)}
"""Relations of the lake that are tables in a warehouse; all others are views."""


class WarehouseError(ConfigError):
    """The warehouse cannot be opened or replaced; the message says by whose fault."""

    remedy = "Open it for reading only (duckdb -readonly); leanhouse build makes it anew."


@dataclass(frozen=True, slots=True)
class Published:
    """A warehouse that was swapped in.

    Args:
        path: The file.
        rows: Resolved rows of each stream, and rows of each model that is kept.
    """

    path: Path
    rows: Mapping[str, int]


def publish(lake: Lake, models: Models, *, pii: bool = False) -> Published:
    """Build the warehouse from the lake and the models as they stand, and swap it in.

    Whoever has the old file open keeps reading the old file; whoever opens it after the swap sees
    the new one. Each view shows what was committed when the file was built.

    Args:
        lake: The lake.
        models: What was built from it; those never built are left out.
        pii: Whether a schema `pii` holds the personal columns, which are nowhere else.

    Raises:
        WarehouseError: Something else lies where the file belongs, or nothing can be written there.
    """
    lake.format.carry_forward()
    with Writer(lake.storage.local(WRITERS)) as writer:
        return _publish(lake, models, writer.id, pii=pii)


def _publish(lake: Lake, models: Models, writer_id: str, *, pii: bool) -> Published:
    storage = lake.storage
    temporary = Key(f"leanhouse.{writer_id}.tmp")
    publications = Publications(lake)
    publication = publications.now()
    named = publication.manifest
    manifest = read_manifest(lake, MANIFESTS / named) if named else Manifest()
    manifest = named_now(manifest, models)
    try:
        with duckdb.connect(str(storage.local(temporary))) as connection:
            connection.execute("set TimeZone = 'UTC'")
            lake.stand_in(connection)
            rows = _WarehouseWriter(connection, lake.portable(), models, manifest).fill(pii=pii)
            # Closing would do so too, but keeps a failure to itself.
            connection.execute("checkpoint")
        storage.sync(temporary)
        with publications.record(publication, writer_id):
            swap_in(storage, temporary, WAREHOUSE)
    finally:
        _delete_all(storage, f"{temporary}*")
    return Published(lake.warehouse, rows)


def swap_in(storage: Storage, file: Key, warehouse: Key) -> None:
    """Put a file in a warehouse's place, with nothing beside it that belonged to the old file.

    What DuckDB leaves beside a file that was opened for writing belongs to the file that lay there
    then; beside any other file it makes DuckDB refuse to open that.

    Raises:
        WarehouseError: Something else lies there.
    """
    try:
        _delete_all(storage, f"{warehouse}.wal*")
        storage.move(file, warehouse)
        # Again, because whoever had the old file open for writing may have written more meanwhile.
        _delete_all(storage, f"{warehouse}.wal*")
    except OSError as error:
        raise WarehouseError(f"{error.filename} is in the way: {error.strerror}") from None


def _delete_all(storage: Storage, pattern: str) -> None:
    for one in storage.list(pattern):
        storage.delete(one.key)


def connect(lake: Lake) -> duckdb.DuckDBPyConnection:
    """Open the warehouse for reading, with days cut in UTC.

    Raises:
        FileNotFoundError: Nothing was published yet.
        WarehouseError: Somebody has it open for writing, or it is no database.
    """
    if lake.storage.head(WAREHOUSE) is None:
        raise FileNotFoundError(f"{lake.warehouse} does not exist: run a sync first")
    # Attached rather than opened: within one process DuckDB hands out the database that it has
    # open under a path, which after a swap would be the old one.
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    # A name that does not exist is an error, not a variable of whoever asks.
    connection.execute("set python_enable_replacements = false")
    lake.stand_in(connection)
    try:
        _attach(connection, lake.storage)
    except duckdb.Error as error:
        connection.close()
        raise WarehouseError(_why_closed(lake.warehouse, error)) from None
    connection.execute("use leanhouse")
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, storage: Storage) -> None:
    """Attach the file, by another name where something lies beside it that is not its own."""
    attach = "attach '{}' as leanhouse (read_only)"
    try:
        connection.execute(attach.format(_quoted(str(storage.local(WAREHOUSE)))))
    except duckdb.Error as error:
        if "WAL file" not in str(error):
            raise
        link = Key(f"leanhouse.{new_id()}.tmp")
        try:
            storage.link(WAREHOUSE, link)
        except OSError:
            # Not every reader may write here; whoever builds removes what is in the way.
            raise error from None
        try:
            connection.execute(attach.format(_quoted(str(storage.local(link)))))
        finally:
            storage.delete(link)


def _why_closed(warehouse: Path, error: duckdb.Error) -> str:
    if "Could not set lock" in str(error):
        return f"{warehouse} is open for writing in another program"
    if "WAL file" in str(error):
        return f"{warehouse}.wal belongs to another file than the one beside it"
    return f"{warehouse} cannot be opened ({type(error).__name__})"


@dataclass(frozen=True, slots=True)
class _WarehouseWriter:
    """A warehouse that is being filled.

    Args:
        connection: An empty database, and where its tables are created.
        lake: The lake, whose files are named as the warehouse is to name them.
        models: What there is to build from it.
        manifest: Which of the models' files count.
    """

    connection: duckdb.DuckDBPyConnection
    lake: Lake
    models: Models
    manifest: Manifest

    def fill(self, *, pii: bool) -> dict[str, int]:
        """Create everything that analysts see; rows by stream and model."""
        # One transaction: each statement on its own would be made durable.
        self.connection.execute("begin")
        shown = self.show()
        names = {name: f"raw.{name}" for name in self.models.relations}
        for name in self.models.seeds:
            del names[name]
        add_old_names(self.connection, names | old_names(shown))
        if pii:
            self._show_personal(shown)
        self.connection.execute("commit")
        rows = {name: self._count(name) for name in STREAMS}
        for model in shown:
            if not model.stored.is_view:
                parts = self.manifest.parts[model.name]
                rows[model.name] = sum(part.rows for part in parts.values())
        return rows

    def show(self) -> list[Model]:
        """Create everything that is not personal; the models that are there."""
        for name, macro in self.models.macros.items():
            if name not in _NOT_PUBLISHED:
                self.connection.execute(macro)
        self.connection.execute("create schema raw; create schema intermediate")
        add_seeds(self.connection, self.models.seeds)
        self.connection.execute("set search_path = 'raw,main'")
        self.lake.attach_to(self.connection)
        self.connection.execute("set search_path = 'main,raw'")
        # A view finds functions of its own schema and of the reader's, which is main.
        functions = self.connection.execute(
            "select function_name from duckdb_functions() where schema_name = 'raw'"
        ).fetchall()
        for (name,) in functions:
            self.connection.execute(LAKE_VIEWS[name].statement)
        shown = [model for model in self.models if self._is_there(model)]
        self._show_public(shown)
        there = {model.name for model in shown} | set(self.models.relations)
        for table_macro in self.models.table_macros:
            if there.issuperset(table_macro.reads):
                before = self._with({one: self._from(one) for one in table_macro.reads})
                self.connection.execute(table_macro.statement(before))
        return shown

    def _show_public(self, shown: Collection[Model]) -> None:
        for relation in self.models.relations.values():
            public = [name for name in relation.types if name not in relation.pii]
            self._put(relation, public, self._schema(relation.name))
        for model in shown:
            if model.layer != "pii":
                self._put(model, model.public, model.schema)

    def _show_personal(self, shown: Collection[Model]) -> None:
        self.connection.execute("create schema pii")
        for relation in self.models.relations.values():
            if relation.pii:
                self._put(relation, relation.types, "pii")
        for model in shown:
            if len(model.public) < len(model.columns):
                self._put(model, [column.name for column in model.columns], "pii")

    def _put(self, shown: Relation | Model, columns: Collection[str], schema: str) -> None:
        """Show some columns of a relation or a model, with their meanings."""
        if isinstance(shown, Model):
            docs: Mapping[str, str] = {column.name: column.doc for column in shown.columns}
        else:
            docs = shown.docs
        if isinstance(shown, Model) or shown.pii:
            self._view(shown.name, columns, schema)
        kind = "table" if shown.name in _COPIED or shown.name in self.models.seeds else "view"
        meanings = {name: docs[name] for name in columns}
        self.connection.execute(comments(kind, f"{schema}.{shown.name}", shown.doc, meanings))

    def _is_there(self, model: Model) -> bool:
        """Whether a model can be read: it was built, or is a view over what can be read."""
        if not model.stored.is_view:
            return model.name in self.manifest.parts
        return all(self._is_there(self.models[name]) for name in model.reads if name in self.models)

    def _view(self, name: str, columns: Collection[str], schema: str) -> None:
        """Show some columns of a stream or a model.

        What a view reads is written into it, because the columns that it needs may not be shown.
        """
        inner: dict[str, str] = {}
        self._spell(name, inner)
        body = inner.pop(name)
        shown = ", ".join(f'"{column}"' for column in columns)
        self.connection.execute(
            f"create or replace view {schema}.{name} as"
            f" {self._with(inner)} select {shown} from ({body}\n)"
        )

    def _with(self, inner: Mapping[str, str]) -> str:
        """The WITH of some SELECTs by name; empty without one."""
        parts = ", ".join(f"{name} as ({select}\n)" for name, select in inner.items())
        return f"with {parts}" if parts else ""

    def _schema(self, name: str) -> str:
        """The schema that shows a relation or a model."""
        if name in self.models:
            return self.models[name].schema
        return "main" if name in self.models.seeds else "raw"

    def _from(self, name: str) -> str:
        """The SELECT of a relation or a model as it is shown, whatever the search path is."""
        return f"from {self._schema(name)}.{name}"

    def _spell(self, name: str, inner: dict[str, str]) -> None:
        """Add the SELECT of a relation, behind those of what it reads."""
        if name in inner:
            return
        if name in self.models:
            model = self.models[name]
            if model.stored.is_view:
                for one in model.reads:
                    self._spell(one, inner)
                inner[name] = model.body
            else:
                inner[name] = stored_rows(self.lake, model, self.manifest)
            return
        if not self.models.relations[name].pii:
            inner[name] = self._from(name)
            return
        for one in ("pulls", "claims"):
            inner[one] = self._from(one)
        stream = STREAMS[name.removesuffix("_history")]
        is_history = name.endswith("_history")
        inner[name] = self.lake.history(stream) if is_history else self.lake.resolved(stream)

    def _count(self, name: str) -> int:
        found = self.connection.execute(f"select count(*) from {name}").fetchone()
        return int(found[0]) if found else 0


def show(
    connection: duckdb.DuckDBPyConnection, lake: Lake, models: Models, manifest: Manifest
) -> list[Model]:
    """Let a connection see what a warehouse shows, without what is personal.

    Returns:
        The models that were built or can be read, in the order of building.

    Raises:
        DamageError: A file that counts is missing, or not as long as it was.
    """
    return _WarehouseWriter(connection, lake, models, named_now(manifest, models)).show()


def old_names(shown: Iterable[Model]) -> dict[str, str]:
    """Names that models had in the version before, each with the place that it stands for."""
    return {model.formerly: model.place for model in shown if model.formerly}


def add_old_names(connection: duckdb.DuckDBPyConnection, names: Mapping[str, str]) -> None:
    """Let tables be found in `main` by the names that they had in the version before.

    Args:
        connection: Where they stand.
        names: The old names, each with the place that it stands for.
    """
    for name, place in names.items():
        connection.execute(f"create view main.{name} as from {place}")
        doc = f"The old name of {place}, until the next version."
        connection.execute(comments("view", f"main.{name}", doc, {}))


def comments(kind: str, name: str, doc: str, docs: Mapping[str, str]) -> str:
    """Statements that give a table or view and its columns their meanings.

    Args:
        kind: `table` or `view`.
        name: Its name.
        doc: Its meaning.
        docs: Meanings of its columns.
    """
    # One call for all: two thousand of their own are a sixth of what publishing costs.
    return "; ".join(
        [
            f"comment on {kind} {name} is '{_quoted(doc)}'",
            *(
                f"""comment on column {name}."{column}" is '{_quoted(text)}'"""
                for column, text in docs.items()
            ),
        ]
    )


def _quoted(text: str) -> str:
    return text.replace("'", "''")
