"""The warehouse: the DuckDB file that analysts open, written beside the old file and swapped in.

In an object store it is written locally and put under a new number; see `publications`.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import duckdb

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS
from pipelines.lake.digests import DamageError
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folder import Folder, copy_of
from pipelines.lake.folders import MANIFESTS, SPILL, WAREHOUSE
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.lake.views import LAKE_VIEWS
from pipelines.models.cache import key_of
from pipelines.models.manifest import Manifest, named_now, read_manifest
from pipelines.models.model import Model, Models
from pipelines.models.relations import Relation, add_seeds
from pipelines.models.session import stored_rows
from pipelines.publish.named_files import NamedFiles, names_of
from pipelines.publish.publications import Publication, Publications, published_warehouse
from pipelines.shipped import SQL

Done = TypeVar("Done")

_NOT_PUBLISHED = {"keyed_hash", "owns_number"}
"""Macros that need the key, which is not published."""
_STORED = "stored"
"""Schema of the functions that give the rows of stored models, for views."""
_MOST_NEW_PULLS = 50_000
"""More of them are sooner read with all others than brought in."""
_TRIES = 5
_AGES = (
    "How old the rows of each built table are, by the lake's clock. Grain: one row per table.",
    {
        "table_name": "The table.",
        "all_rows_at": "When all its rows were built.",
        "changed_rows_at": "When rows of accounts that changed since were built last; null if no"
        " account changed, or the table does not come apart by accounts.",
    },
)
_COPIED = {"pulls", *(name for name, view in LAKE_VIEWS.items() if view.is_table)}
"""Relations of the lake that are tables in a warehouse; the others are views."""


class WarehouseError(ConfigError):
    """The warehouse cannot be opened or replaced; the message says why."""

    remedy = "Open it read-only (duckdb -readonly). leanhouse build publishes it again."


@dataclass(frozen=True, slots=True)
class Published:
    """A warehouse that was published.

    Args:
        path: Its file, or its URL in an object store.
        rows: Number of resolved rows of each stream, and of rows of each model that is no view as
            of the last whole build; empty where only changes were published, and without streams
            in an object store.
    """

    path: Path | str
    rows: Mapping[str, int]


def publish(lake: Lake, models: Models, *, pii: bool = False) -> Published:
    """Write the warehouse from the lake and the models as they are now, and publish it.

    Readers of the old file keep reading it; a file that is opened afterwards is the new one. Each
    view shows what was committed when the file was written. If little was committed since the old
    file was written, the new one is a copy of it with the changes.

    Args:
        models: All models; models that were never built are left out.
        pii: Whether to add a schema `pii` with the personal columns, which are left out elsewhere.

    Raises:
        WarehouseError: Something that is not a file is in the way, or the folder is read-only; or
            others published again and again meanwhile.
    """
    lake.format.carry_forward()
    with lake.storage.writers.start() as writer:
        for _ in range(_TRIES):
            publishing = _Publishing(lake, models, writer.id, pii)
            if (published := publishing.run()) is not None:
                return published
    raise WarehouseError(f"others published {_TRIES} times while this warehouse was written")


class _Publishing:
    """One attempt to publish; its temporary files lie in a local folder."""

    def __init__(self, lake: Lake, models: Models, writer_id: str, pii: bool) -> None:
        self._lake, self._models, self._writer_id, self._pii = lake, models, writer_id, pii
        self._publications = Publications(lake)
        self._local = Folder(lake.storage.work)
        self._file = Key(f"leanhouse.{writer_id}.tmp")
        self._is_folder = isinstance(lake.storage, Folder)

    def run(self) -> Published | None:
        """Publish; None if others did so meanwhile."""
        try:
            return self._publish_file() if self._is_folder else self._publish_object()
        finally:
            _delete_all(self._local, f"{self._file}*")

    def _publish_file(self) -> Published:
        publication, files = self._now()
        with open_duckdb() as holder:
            rows = self._write(publication, files, lambda: self._copied_file(holder))
            with self._publications.record(publication, self._writer_id):
                swap_in(self._local, self._file, WAREHOUSE)
        return Published(self._lake.warehouse, rows)

    def _publish_object(self) -> Published | None:
        number = self._publications.next_number()
        publication, files = self._now()
        rows = self._write(publication, files, self._copied_object)
        key = self._publications.take(number, publication, self._writer_id)
        if key is None:
            return None
        content = copy_of(self._local.local(self._file))
        self._lake.storage.create(key, content, self._writer_id)
        return Published(f"{self._lake.storage.place}/{key}", rows)

    def _now(self) -> tuple[Publication, list[Key]]:
        files = self._lake.ledger.files()
        return self._publications.now(files), files

    def _write(
        self, publication: Publication, files: list[Key], copy: Callable[[], bool]
    ) -> dict[str, int]:
        """Write the file; `copy` gives it the published warehouse, or False."""
        named = publication.manifest
        manifest = read_manifest(self._lake, MANIFESTS / named) if named else Manifest()
        manifest = named_now(manifest, self._models)
        with self._named_files() as (folder, lake):

            def write(fill: Callable[[_WarehouseWriter], Done]) -> Done:
                with open_duckdb(self._local.local(self._file)) as connection:
                    lake.stand_in(connection, folder)
                    writer = _WarehouseWriter(
                        connection, lake, self._models, manifest, files, self._pii, self._is_folder
                    )
                    done = fill(writer)
                    # Closing does so too, but hides a failure.
                    connection.execute("checkpoint")
                return done

            rows: dict[str, int] = {}
            is_followed = False
            # In vain if there is none, if it is damaged, if someone writes to it, or if an earlier
            # version wrote it.
            with suppress(OSError, DamageError, duckdb.Error):
                if copy():
                    is_followed = write(_WarehouseWriter.follow)
            if not is_followed:
                _delete_all(self._local, f"{self._file}*")
                rows = write(_WarehouseWriter.fill)
        self._local.sync(self._file)
        return rows

    @contextmanager
    def _named_files(self) -> Iterator[tuple[Path, Lake]]:
        """The folder of the files that views name, and the lake with these names."""
        if self._is_folder:
            yield self._lake.folder, self._lake.portable()
            return
        key = SPILL / self._writer_id
        try:
            named = NamedFiles(self._lake.storage, self._lake.storage.folder(key))
            yield named.folder, self._lake.portable(named.stand_in)
        finally:
            self._lake.storage.sweep(key)

    def _copied_object(self) -> bool:
        newest = published_warehouse(self._lake.storage)
        if newest is None:
            return False
        self._local.put(self._file, copy_of(self._lake.storage.local(newest)))
        return True

    def _copied_file(self, holder: duckdb.DuckDBPyConnection) -> bool:
        """Copy the published warehouse; False if it has changed meanwhile.

        Args:
            holder: Gets the published warehouse, so that nobody opens it for writing until it is
                replaced: DuckDB would take a log of the old file for one of its copy.
        """
        local = self._local
        there = local.head(WAREHOUSE)
        local.copy(WAREHOUSE, self._file, f"{self._file}-copy")
        _attach(holder, local, WAREHOUSE)
        return local.head(WAREHOUSE) == there and not any(local.list(f"{WAREHOUSE}.wal*"))


def swap_in(storage: Folder, file: Key, warehouse: Key) -> None:
    """Put a file in a warehouse's place, with nothing beside it that belonged to the old file.

    DuckDB leaves a log beside a file that was opened for writing. Beside another file, the log
    makes DuckDB refuse to open that file.

    Raises:
        WarehouseError: Something that is not a file is in the way.
    """
    try:
        _delete_all(storage, f"{warehouse}.wal*")
        storage.move(file, warehouse)
        # Again, because whoever had the old file open for writing may have written more meanwhile.
        _delete_all(storage, f"{warehouse}.wal*")
    except OSError as error:
        raise WarehouseError(f"{error.filename} is in the way: {error.strerror}") from None


def _delete_all(storage: Folder, pattern: str) -> None:
    for one in storage.list(pattern):
        storage.delete(one.key)


def connect(lake: Lake, sql: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open the warehouse for reading, with days cut in UTC.

    Args:
        sql: What will be asked, so that only the files for it come from an object store; None for
            anything.

    Raises:
        FileNotFoundError: No warehouse was published yet.
        WarehouseError: Another program has it open for writing, or it is not a database.
        DamageError: A file that is to be read is missing in an object store.
    """
    storage = lake.storage
    file = published_warehouse(storage)
    if file is None:
        raise FileNotFoundError(f"{storage.place} has no warehouse yet: run a sync first")
    connection = connect_file(storage.local(file))
    folder = lake.folder
    if not isinstance(storage, Folder):
        key = SPILL / new_id()
        weakref.finalize(connection, storage.sweep, key)
        named = NamedFiles(storage, storage.folder(key))
        folder = named.folder
        try:
            named.add(names_of(connection, sql))
        except FileNotFoundError as error:
            raise DamageError(f"{error.filename or error} is missing") from None
    lake.stand_in(connection, folder)
    return connection


def connect_file(file: Path) -> duckdb.DuckDBPyConnection:
    """Open a warehouse's file, of a lake or alone, for reading, with days cut in UTC.

    Raises:
        WarehouseError: Another program has it open for writing, or it is not a database.
    """
    # Attached instead of opened: DuckDB keeps an open database by its path, and a process would
    # get the old one after a swap.
    connection = open_duckdb()
    # An unknown name is an error, and not a variable of the calling code.
    connection.execute("set python_enable_replacements = false")
    try:
        _attach(connection, Folder(file.parent), Key(file.name))
    except duckdb.Error as error:
        connection.close()
        raise WarehouseError(_why_closed(file, error)) from None
    connection.execute("use leanhouse")
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, storage: Folder, file: Key) -> None:
    """Attach a file, under another name if a log lies beside it that is not its own."""
    attach = "attach '{}' as leanhouse (read_only)"
    try:
        connection.execute(attach.format(_quoted(str(storage.local(file)))))
    except duckdb.Error as error:
        if "WAL file" not in str(error):
            raise
        link = Key(f"leanhouse.{new_id()}.tmp")
        try:
            storage.link(file, link)
        except OSError:
            # A reader may lack the right to write here. The next build removes the log.
            raise error from None
        try:
            connection.execute(attach.format(_quoted(str(storage.local(link)))))
        finally:
            storage.delete(link)


def _why_closed(warehouse: Path, error: duckdb.Error) -> str:
    if "Could not set lock" in str(error):
        return f"{warehouse} is open for writing in another program"
    if "WAL file" in str(error):
        return f"{warehouse}.wal belongs to another file, and not to this warehouse"
    return f"{warehouse} cannot be opened ({type(error).__name__})"


@dataclass(slots=True)
class _WarehouseWriter:
    """A warehouse that is being filled.

    Args:
        connection: An empty database that gets the tables and views.
        lake: The lake, whose files are named as the warehouse is to name them.
        counts_streams: Whether rows of streams are counted, for which all have to be read.
    """

    connection: duckdb.DuckDBPyConnection
    lake: Lake
    models: Models
    manifest: Manifest
    seen: list[Key]
    pii: bool
    counts_streams: bool = True
    meanings: list[str] = field(default_factory=list, init=False)

    def follow(self) -> bool:
        """Bring tables and views up to date that were filled before; False if that does not do."""
        execute = self.connection.execute
        ((shape, seen),) = execute(f"from {_STORED}.state").fetchall()
        new = self.lake.ledger.since(seen, self.seen)
        if shape != self._shape() or new is None:
            return False
        execute("begin; set search_path = 'raw,main'")
        execute("create temp table batches as select unnest($1::varchar[]) as id", [sorted(new)])
        known = set(seen)
        files = [file for file in self.seen if str(file) not in known]
        execute(
            f"create temp table new_pulls as from ({self.lake.ledger_now(files)})"
            " where batch_id in (from batches)"
        )
        ((count, refreshes),) = execute(
            "select count(*), count(*) filter (where stream = 'refreshes') from new_pulls"
        ).fetchall()
        if count > _MOST_NEW_PULLS:
            return False
        execute("insert into raw.pulls by name from new_pulls")
        execute("delete from raw.claims where parent_id in (select parent_id from new_pulls)")
        execute(
            "insert into raw.claims with pulls as (from raw.pulls where parent_id in"
            f" (select parent_id from new_pulls)) select * from ({LAKE_VIEWS['claims'].sql})"
        )
        for name in _COPIED - {"pulls", "claims"} if refreshes else ():
            execute(f"delete from raw.{name}; insert into raw.{name} {LAKE_VIEWS[name].sql}")
        execute("drop table new_pulls; drop table batches; set search_path = 'main,raw'")
        self._show_stored()
        self._note()
        execute("commit")
        return True

    def _shape(self) -> str:
        """Hash of all that a warehouse rests on, besides commits and builds."""
        built = sorted(self.manifest.parts)
        parts = (key_of(SQL), self.lake.selects(), self.pii, built, sorted(self.lake.lost_files()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _note(self) -> None:
        """Note what the warehouse rests on, and how old tables are."""
        self.connection.execute(
            f"create or replace table {_STORED}.state as"
            " select $1::varchar as shape, $2::varchar[] as seen",
            [self._shape(), [str(file) for file in self.seen]],
        )
        names = sorted(self.manifest.parts)
        changed = [
            max((one.as_of or 0 for one in self.manifest.deltas if name in one.parts), default=None)
            for name in names
        ]
        self.connection.execute("delete from raw.table_ages")
        self.connection.execute(
            "insert into raw.table_ages select unnest($1::varchar[]), to_timestamp($2),"
            " to_timestamp(unnest($3::double[]))",
            [names, self.manifest.as_of, changed],
        )

    def _show_stored(self) -> None:
        """Create a function per stored model with its rows, so that views need not name files."""
        for model in self.models:
            if not model.stored.is_view and self._is_there(model):
                rows = stored_rows(self.lake, model, self.manifest)
                self.connection.execute(
                    f"create or replace macro {_STORED}.{model.name}() as table {rows}"
                )

    def fill(self) -> dict[str, int]:
        """Create all tables and views; the number of rows by stream and model."""
        # One transaction, because otherwise every statement waits for the disk.
        self.connection.execute("begin")
        shown = self.show()
        names = {name: f"raw.{name}" for name in self.models.relations}
        for name in self.models.seeds:
            del names[name]
        add_old_names(self.connection, names | old_names(shown))
        self.connection.execute(
            "create table raw.table_ages (table_name varchar, all_rows_at timestamptz,"
            " changed_rows_at timestamptz)"
        )
        self.meanings.append(comments("table", "raw.table_ages", *_AGES))
        self._note()
        # Two thousand statements, which DuckDB need not optimize nor share among threads.
        settings = ("pragma disable_optimizer", "set threads = 1")
        reset = ("reset threads", "pragma enable_optimizer")
        self.connection.execute("; ".join([*settings, *self.meanings, *reset, "commit"]))
        rows: dict[str, int] = {}
        if self.counts_streams:
            each = (f"select '{one}', count(*) from raw.{one}" for one in STREAMS)
            rows |= self.connection.execute(" union all ".join(each)).fetchall()
        for model in shown:
            if not model.stored.is_view:
                parts = self.manifest.parts[model.name]
                rows[model.name] = sum(part.rows for part in parts.values())
        return rows

    def show(self) -> list[Model]:
        """Create everything that `fill` does but old names; the models that can be read."""
        for name, macro in self.models.macros.items():
            if name not in _NOT_PUBLISHED:
                self.connection.execute(macro)
        self.connection.execute(
            f"create schema raw; create schema intermediate; create schema {_STORED}"
        )
        add_seeds(self.connection, self.models.seeds)
        self.connection.execute("set search_path = 'raw,main'")
        self.lake.attach_to(self.connection, files=self.seen)
        self.connection.execute("set search_path = 'main,raw'")
        # A view finds functions of its own schema and of the reader's, which is main; a function
        # finds what it reads by the reader's names, which are not those of raw.
        functions = self.connection.execute(
            "select function_name from duckdb_functions() where schema_name = 'raw'"
        ).fetchall()
        for (name,) in functions:
            view = LAKE_VIEWS[name]
            before = self._with(
                {one: self._from(one) for one in view.reads if (one,) not in functions}
            )
            self.connection.execute(view.statement_after(before))
        self._show_stored()
        shown = [model for model in self.models if self._is_there(model)]
        for relation in self.models.relations.values():
            public = [name for name in relation.types if name not in relation.pii]
            self._put(relation, public, self._schema(relation.name))
        for model in shown:
            if model.layer != "pii":
                self._put(model, model.public, model.schema)
        there = {model.name for model in shown} | set(self.models.relations)
        for table_macro in self.models.table_macros:
            if there.issuperset(table_macro.reads):
                before = self._with({one: self._from(one) for one in table_macro.reads})
                self.connection.execute(table_macro.statement(before))
        if self.pii:
            self._show_personal(shown)
        return shown

    def _show_personal(self, shown: Collection[Model]) -> None:
        """Create the schema `pii`, with all columns of what has personal ones."""
        self.connection.execute("create schema pii")
        for relation in self.models.relations.values():
            if relation.pii:
                self._put(relation, relation.types, "pii")
        for model in shown:
            if len(model.public) < len(model.columns):
                self._put(model, [column.name for column in model.columns], "pii")

    def _put(self, shown: Relation | Model, columns: Collection[str], schema: str) -> None:
        """Create the view of some columns of a relation or a model, and note their meanings.

        The view contains the SELECTs of what it reads, because it may need hidden columns.
        """
        if isinstance(shown, Model) or shown.pii:
            inner: dict[str, str] = {}
            self._inline(shown.name, inner)
            body = inner.pop(shown.name)
            listed = ", ".join(f'"{column}"' for column in columns)
            self.connection.execute(
                f"create or replace view {schema}.{shown.name} as"
                f" {self._with(inner)} select {listed} from ({body}\n)"
            )
        kind = "table" if shown.name in _COPIED or shown.name in self.models.seeds else "view"
        docs = shown.docs
        meanings = {name: docs[name] for name in columns}
        self.meanings.append(comments(kind, f"{schema}.{shown.name}", shown.doc, meanings))

    def _is_there(self, model: Model) -> bool:
        """Whether a model can be read: it was built, or it is a view of what can be read."""
        if not model.stored.is_view:
            return model.name in self.manifest.parts
        return all(self._is_there(self.models[name]) for name in model.reads if name in self.models)

    def _with(self, inner: Mapping[str, str]) -> str:
        """The WITH clause of SELECTs by name; empty if there are none."""
        parts = ", ".join(f"{name} as ({select}\n)" for name, select in inner.items())
        return f"with {parts}" if parts else ""

    def _schema(self, name: str) -> str:
        if name in self.models:
            return self.models[name].schema
        return "main" if name in self.models.seeds else "raw"

    def _from(self, name: str) -> str:
        """The SELECT of a relation or a model as it is shown, for any search path."""
        return f"from {self._schema(name)}.{name}"

    def _inline(self, name: str, inner: dict[str, str]) -> None:
        """Add the SELECT of a relation, behind those of what it reads."""
        if name in inner:
            return
        if name in self.models:
            model = self.models[name]
            if model.stored.is_view:
                for one in model.reads:
                    self._inline(one, inner)
                inner[name] = model.body
            else:
                inner[name] = f"from {_STORED}.{name}()"
            return
        if not self.models.relations[name].pii:
            inner[name] = self._from(name)
            return
        for one in ("pulls", "claims"):
            inner[one] = self._from(one)
        stream = STREAMS[name.removesuffix("_history")]
        is_history = name.endswith("_history")
        inner[name] = self.lake.history(stream) if is_history else self.lake.resolved(stream)


def show(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    models: Models,
    manifest: Manifest,
    *,
    pii: bool = False,
) -> list[Model]:
    """Create in a connection what a warehouse shows; what is personal only with `pii`.

    Returns:
        The models that can be read, in the order of building.

    Raises:
        DamageError: A file of the lake is missing or too short.
    """
    manifest = named_now(manifest, models)
    return _WarehouseWriter(connection, lake, models, manifest, lake.ledger.files(), pii).show()


def old_names(shown: Iterable[Model]) -> dict[str, str]:
    """The name of each model in the version before, with the place where the model is now."""
    return {model.formerly: model.place for model in shown if model.formerly}


def add_old_names(connection: duckdb.DuckDBPyConnection, names: Mapping[str, str]) -> None:
    """Create views in `main` with the names that tables had in the version before.

    Args:
        names: Places of the tables by old name.
    """
    for name, place in names.items():
        connection.execute(f"create view main.{name} as from {place}")
        doc = f"The old name of {place}, until the next version."
        connection.execute(comments("view", f"main.{name}", doc, {}))


def comments(kind: str, name: str, doc: str, docs: Mapping[str, str]) -> str:
    """Statements that add the meanings of a table or view and of its columns as comments."""
    of_columns = {f'column {name}."{column}"': text for column, text in docs.items()}
    texts = {f"{kind} {name}": doc} | of_columns
    return "; ".join(f"comment on {of} is '{_quoted(text)}'" for of, text in texts.items())


def _quoted(text: str) -> str:
    return text.replace("'", "''")
