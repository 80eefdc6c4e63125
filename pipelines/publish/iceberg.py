"""Iceberg tables of the marts, over the very files that builds write: no row is copied.

Each table gets one commit per build that changed it: files that the build replaced go, new files
come. The table `builds` is written last. It names the snapshot of each table in each complete set,
so that nobody has to read half of one. Files of sets that it names survive a vacuum.

A publication that was killed leaves tables of two builds, and `builds` without the newer build. The
next publication compares files with the newest manifest, so it completes all of them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from lean_resources.errors import ConfigError
from pipelines.environment import provider_variable
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folder import Folder
from pipelines.lake.folders import ICEBERG
from pipelines.lake.lake import Lake
from pipelines.lake.schemas import typed_nothing
from pipelines.lake.storage import Key
from pipelines.lake.writers import exclusive
from pipelines.models.manifest import PART_FORM, Manifest, current_manifest, named_now
from pipelines.models.model import Model, Models
from pipelines.publish.publications import ICEBERG_RECORD, Publications

try:
    from pyiceberg.catalog import Catalog, load_catalog
    from pyiceberg.exceptions import NoSuchTableError
    from pyiceberg.io.pyarrow import parquet_file_to_data_file
    from pyiceberg.table.update.snapshot import ManageSnapshots
except ImportError:
    raise ConfigError(
        "Iceberg tables need the package pyiceberg: pip install 'leanhouse[iceberg]'"
    ) from None

if TYPE_CHECKING:
    from pyiceberg.table import Table

NAMESPACE = "marts"
BUILDS = "builds"
"""The table of complete sets."""
KEPT_BUILDS = 10
"""Complete sets that can be read."""
_STRAY_SECONDS = 86_400
"""Metadata that nothing names any more stays this long, for whoever reads by it."""
_SHAPE = "leanhouse.shape"
_PROPERTIES = {
    "format-version": "2",
    # The files belong to the lake: no engine may delete them with a table or a snapshot.
    "gc.enabled": "false",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": str(KEPT_BUILDS),
}
_BUILDS_COLUMNS = (
    ("build_number", "BIGINT", "Number of the build."),
    ("table_name", "VARCHAR", "Name of a table of the set."),
    ("snapshot_id", "BIGINT", "Snapshot of the table in this set; null before it had a row."),
    ("row_count", "BIGINT", "Rows of the table in this set."),
    ("published_at", "TIMESTAMP WITH TIME ZONE", "When the set was complete, by this machine."),
)


@dataclass(frozen=True, slots=True)
class PublishedTables:
    """What a publication did.

    Args:
        build: Number of the build that the tables show; 0 before the first build.
        changed: Names of tables that got a snapshot.
    """

    build: int
    tables: int
    changed: tuple[str, ...]
    rows: int
    seconds: float


def publish_tables(lake: Lake, models: Models, url: str = "") -> PublishedTables:
    """Bring the Iceberg tables up to the newest build.

    Args:
        models: All models. Stored marts become tables; views have no files, and models with
            personal columns never become tables.
        url: The catalogue, as LEANHOUSE_ICEBERG_CATALOGUE; empty for a SQLite file in the lake.

    Raises:
        ConfigError: The catalogue cannot be reached, no mart is built, or parts are of an earlier
            version.
    """
    started = time.monotonic()
    lake.format.carry_forward()
    with exclusive(lake.storage.work / ICEBERG / "lock"), _catalogue(lake, url) as catalogue:
        manifest = named_now(current_manifest(lake), models)
        wanted = [m for m in models if m.layer == "marts" and m.name in manifest.parts]
        _check(manifest, wanted)
        publisher = _Publisher(lake, catalogue, manifest)
        # Before the first commit names a file, and shorter only after the last one is gone.
        kept = Publications(lake).builds_of_iceberg()
        lake.storage.put(ICEBERG_RECORD, msgspec.json.encode(sorted({*kept, manifest.number})))
        changed = tuple(model.name for model in wanted if publisher.update(model))
        numbers = publisher.complete([model.name for model in wanted])
        publisher.tidy()
        lake.storage.put(ICEBERG_RECORD, msgspec.json.encode(numbers))
    rows = sum(publisher.rows(model.name) for model in wanted)
    seconds = time.monotonic() - started
    return PublishedTables(manifest.number, len(wanted), changed, rows, seconds)


def _check(manifest: Manifest, wanted: Sequence[Model]) -> None:
    """Return if there are tables, and no personal column and no part of an earlier form."""
    if not wanted:
        raise ConfigError("no mart is built yet: run leanhouse build first")
    for model in wanted:
        if personal := [column.name for column in model.columns if column.pii]:
            raise ConfigError(f"{model.name} has personal columns: {', '.join(personal)}")
        if any(part.form != PART_FORM for part in manifest.parts[model.name].values()):
            raise ConfigError(
                f"parts of {model.name} were written by an earlier version, which other engines"
                " cannot read: run leanhouse build"
            )


@contextmanager
def _catalogue(lake: Lake, url: str) -> Iterator[Catalog]:
    """The catalogue of a URL, whose errors show nothing of the URL."""
    parts = urllib.parse.urlsplit(url)
    properties = {"type": "sql", "uri": url}
    is_folder = isinstance(lake.storage, Folder)
    if not url and not is_folder:
        raise ConfigError(
            "Iceberg tables in an object store need a catalogue that every machine reaches: set"
            " LEANHOUSE_ICEBERG_CATALOGUE to one in PostgreSQL or to a REST catalogue"
        )
    if not url:
        file = urllib.parse.quote(str(lake.storage.work / ICEBERG / "catalogue.db"))
        properties["uri"] = f"sqlite:///{file}"
    elif parts.scheme.startswith("postgresql"):
        query = parts.query or "connect_timeout=10"
        properties["uri"] = parts._replace(scheme="postgresql+psycopg", query=query).geturl()
    elif parts.scheme in {"http", "https"}:
        given = dict(urllib.parse.parse_qsl(parts.query))
        properties = {**given, "type": "rest", "uri": parts._replace(query="").geturl()}
    else:
        raise ConfigError(
            "LEANHOUSE_ICEBERG_CATALOGUE begins with postgresql://, http:// or https://"
        )
    if not is_folder:
        properties |= _access(lake.storage.place)
    elif "#" in str(lake.folder):
        raise ConfigError("Iceberg tables need a LEANHOUSE_HOME without # in its path")
    try:
        catalogue = load_catalog("leanhouse", **properties)
        catalogue.create_namespace_if_not_exists(NAMESPACE)
    except ImportError:
        raise ConfigError(
            "a catalogue in PostgreSQL needs psycopg: pip install 'leanhouse[postgres]'"
        ) from None
    except Exception as error:  # noqa: BLE001 - each driver has its own, and may quote the URL
        raise ConfigError(
            f"the catalogue of the Iceberg tables does not answer ({type(error).__name__}): check"
            " LEANHOUSE_ICEBERG_CATALOGUE"
        ) from None
    with catalogue:
        yield catalogue


def _access(place: str) -> dict[str, str]:
    """Properties by which Iceberg reaches an object store, with the provider's own credentials."""
    if place.startswith("az://"):
        raise ConfigError(
            "Iceberg tables can lie in S3, Google's storage or a folder, not in Azure's"
        )
    given = {
        "s3.endpoint": provider_variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "s3.region": provider_variable("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1",
    }
    return {name: value for name, value in given.items() if value}


class _Publisher:
    def __init__(self, lake: Lake, catalogue: Catalog, manifest: Manifest) -> None:
        self._storage, self._catalogue, self._manifest = lake.storage, catalogue, manifest
        self._tables: dict[str, Table] = {}
        self._named: set[int | None] = set()

    def rows(self, name: str) -> int:
        """Rows of a table in the build."""
        return sum(part.rows for part in self._manifest.parts[name].values())

    def update(self, model: Model) -> bool:
        """Let a table name the files of the build, in one commit; whether it named others."""
        columns = [(column.name, column.type, column.doc) for column in model.columns]
        table = self._table(model.name, columns, model.stored.month, model.doc)
        files = {task.file.file_path: task.file for task in table.scan().plan_files()}
        parts = self._manifest.parts[model.name].values()
        wanted = {self._uri(Key(part.file)) for part in parts if part.rows}
        self._tables[model.name] = table
        if files.keys() == wanted:
            return False
        number = self._manifest.number
        with table.transaction() as transaction:
            update = transaction.update_snapshot({"leanhouse.build": str(number)})
            with update.overwrite() as snapshot:
                for uri in files.keys() - wanted:
                    snapshot.delete_data_file(files[uri])
                for uri in sorted(wanted - files.keys()):
                    found = parquet_file_to_data_file(table.io, transaction.table_metadata, uri)
                    snapshot.append_data_file(found)
            tags = ManageSnapshots(transaction)
            tags.create_tag(snapshot.snapshot_id, f"build-{number}").commit()
        return True

    def complete(self, names: Iterable[str]) -> list[int]:
        """Let the table of complete sets name the build; the numbers of all that it names."""
        builds = self._table(BUILDS, _BUILDS_COLUMNS, None, "Complete sets of tables.")
        there = {
            name: {one.snapshot_id for one in of.snapshots()} | {None}
            for name, of in self._tables.items()
        }
        self._tables[BUILDS] = builds
        rows = builds.scan().to_arrow().to_pylist()
        # A set cannot be read any more if one of its tables was created anew or is gone.
        lost = {
            row["build_number"]
            for row in rows
            if row["snapshot_id"] not in there.get(row["table_name"], ())
        }
        number = self._manifest.number
        numbers = sorted({row["build_number"] for row in rows} - lost | {number})[-KEPT_BUILDS:]
        kept = [row for row in rows if row["build_number"] in {*numbers} - lost]
        if not any(row["build_number"] == number for row in kept):
            now = dt.datetime.now(dt.UTC)
            for name in names:
                head = self._tables[name].current_snapshot()
                found = (number, name, head.snapshot_id if head else None, self.rows(name), now)
                kept.append(dict(zip((name for name, *_ in _BUILDS_COLUMNS), found, strict=True)))
        if kept != rows:
            write = builds.overwrite if rows else builds.append
            write(pa.Table.from_pylist(kept, _schema(_BUILDS_COLUMNS)))
        self._named = {row["snapshot_id"] for row in kept}
        return numbers

    def tidy(self) -> None:
        """Drop what no complete set names: tables of models that are gone, snapshots, metadata."""
        for _, name in self._catalogue.list_tables(NAMESPACE):
            if name not in self._tables:
                self._catalogue.drop_table((NAMESPACE, name))
        named: set[str] = set()
        for name, table in self._tables.items():
            head = table.current_snapshot()
            over = {one.snapshot_id for one in table.snapshots()} - self._named
            over -= {head.snapshot_id if head else None}
            if over:
                with table.transaction() as transaction:
                    tags = ManageSnapshots(transaction)
                    for tag, reference in table.refs().items():
                        if reference.snapshot_id in over:
                            tags.remove_tag(tag)
                    tags.commit()
                table.maintenance.expire_snapshots().by_ids(list(over)).commit()
            named |= set(_metadata_of(table, has_data=name == BUILDS))
        before = time.time() - _STRAY_SECONDS
        for file in self._storage.list(f"{ICEBERG}/*/*/*"):
            if file.written_at < before and self._uri(file.key) not in named:
                self._storage.delete(file.key)

    def _table(
        self, name: str, columns: Sequence[tuple[str, str, str]], month: str | None, doc: str
    ) -> Table:
        """A table of some columns; a table of that name with others gives way to it."""
        place, location = (NAMESPACE, name), self._uri(ICEBERG / name)
        types = [column[:2] for column in columns]
        shape = hashlib.sha256(repr((types, month, location)).encode()).hexdigest()[:16]
        with suppress(NoSuchTableError):
            # Metadata is not there if the home was moved.
            with suppress(FileNotFoundError):
                table = self._catalogue.load_table(place)
                if table.properties.get(_SHAPE) == shape:
                    return table
            self._catalogue.drop_table(place)
        properties = {**_PROPERTIES, _SHAPE: shape, "comment": doc}
        with self._catalogue.create_table_transaction(
            place, _schema(columns), location, properties=properties
        ) as transaction:
            if month is not None:
                with transaction.update_spec() as spec:
                    spec.add_identity(month)
            # Files of builds have names of columns and no ids.
            names = transaction.table_metadata.schema().name_mapping.model_dump_json()
            transaction.set_properties({"schema.name-mapping.default": names})
        return self._catalogue.load_table(place)

    def _uri(self, key: Key) -> str:
        if isinstance(self._storage, Folder):
            return f"file://{self._storage.local(key)}"
        return f"{self._storage.place}/{key}"


def _schema(columns: Sequence[tuple[str, str, str]]) -> pa.Schema:
    """Columns, by name, DuckDB's type and meaning, all of which may be null."""
    with open_duckdb() as connection:
        connection.execute("set TimeZone = 'UTC'")
        nothing = connection.sql(typed_nothing((name, kind) for name, kind, _ in columns))
        fields = zip(nothing.to_arrow_table().schema, columns, strict=True)
        return pa.schema([field.with_metadata({"doc": doc}) for field, (*_, doc) in fields])


def _metadata_of(table: Table, *, has_data: bool) -> Iterator[str]:
    """Places of files that a table needs, without those that the lake keeps."""
    yield table.metadata_location
    yield from (entry.metadata_file for entry in table.metadata.metadata_log)
    for snapshot in table.snapshots():
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(table.io):
            yield manifest.manifest_path
            if has_data:
                entries = manifest.fetch_manifest_entry(table.io)
                yield from (entry.data_file.file_path for entry in entries)
