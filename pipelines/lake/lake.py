"""The lake: where files lie, and how they get there.

Files are only ever added. A batch writes its files beside their places and renames them, the
ledger's file last; a file whose batch is not in the ledger does not count. So a crash at any
instant leaves the old truth or the new one, and two writers need no lock.
"""

from __future__ import annotations

import copy
import datetime as dt
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lean_resources.quarantine import QUARANTINE_SCHEMA
from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake.digests import DamageError, Digest, digest
from pipelines.lake.files import beside, naming, reveal, synced
from pipelines.lake.format import LakeFormat
from pipelines.lake.ledger import (
    ATTEMPTS_SCHEMA,
    LEDGER_SCHEMA,
    LOST_SCHEMA,
    SPENDS_SCHEMA,
    VIEW_DOCS,
    FileRecord,
    Outcome,
    Pull,
    new_id,
    to_table,
)
from pipelines.lake.ledger_files import LedgerFiles
from pipelines.lake.missing_files import foreign_files, listed, missing_files, missing_sentence
from pipelines.lake.views import LAKE_VIEWS
from pipelines.lake.writers import Writer

__all__ = [
    "HISTORY_DOCS",
    "RAW_SCHEMA",
    "TRACE_DOCS",
    "Batch",
    "Lake",
    "lake_schema",
    "merged_schema",
    "put",
    "typed_nothing",
]

RAW_SCHEMA = pa.schema(
    [
        ("series_id", pa.string()),
        ("page_number", pa.int32()),
        ("first_record", pa.int32()),
        ("is_detail", pa.bool_()),
        ("request", pa.map_(pa.string(), pa.string())),
        ("asked_path", pa.string()),
        ("status_code", pa.int16()),
        ("correlation_id", pa.string()),
        ("trace_id", pa.string()),
        ("received_at", pa.timestamp("us", tz="UTC")),
        ("body", pa.binary()),
    ]
)
"""One row per answer, as received: enough to type it again without asking Lean."""

_HISTORY = "_history"
_SHOWN = (
    *STREAMS,
    *(f"{name}{_HISTORY}" for name in STREAMS),
    *VIEW_DOCS,
    *(name for name, view in LAKE_VIEWS.items() if view.columns),
    "fitting_ranges",
)
"""What models may read."""
_PLANNING_MEMORY = "400MB"
_LARGE_ROWS = 5_000
_FOLDER = "leanhouse_folder"
"""The variable of DuckDB that says where a portable lake lies, with / at its end."""
_LEVEL = 1
_RAW_COMPRESSION = "zstd"
_WRITERS = 2

TRACE_DOCS = {
    "last_good_at": "Where the record no longer fits and this earlier version of it stays: when the"
    " bank had last been asked for it, UTC; null on all other rows.",
    "pull_id": "Pull that brought the row; see pulls.",
    "page_number": "Page of the paged read that held the record, from 0.",
    "record_number": "Place of the record in its paged read, from 0.",
}
"""Meanings of the columns that every row carries."""

HISTORY_DOCS = TRACE_DOCS | {
    "month": "UTC month of the pull as YYYY-MM, for a stream with months.",
    "claimed_from": "First UTC day that the pull covers.",
    "claimed_to": "Last UTC day that the pull covers, inclusive.",
    "refreshed_at": "When the bank was last asked before the pull, UTC.",
    "known_at": "When the pull was asked for, UTC, by Lean's clock.",
    "generation": "Orders pulls that Lean's clock cannot tell apart; null for those of format 1 of"
    " the lake.",
    "asked_at": "When the pull was asked for, UTC, by this machine.",
    "finished_at": "When the pull ended, UTC, by this machine.",
}
"""Meanings of the columns that rows of a history carry."""


def lake_schema(stream: Stream) -> pa.Schema:
    """Columns of a stream's files: the typed row, and where it came from."""
    return pa.schema(
        [
            *stream.schema,
            pa.field("last_good_at", pa.timestamp("us", tz="UTC")),
            pa.field("pull_id", pa.string()),
            pa.field("page_number", pa.int32()),
            pa.field("record_number", pa.int32()),
        ]
    )


def merged_schema(stream: Stream) -> pa.Schema:
    """Columns of merged files: the typed row, where it came from, and which pulls brought it.

    `seen_from` and `seen_to` are places, both inclusive and from 1, among the pulls of the account
    and month that were ever merged; see sql/lake/merged_pulls.sql.
    """
    return pa.schema(
        [
            *lake_schema(stream),
            pa.field("seen_from", pa.int32()),
            pa.field("seen_to", pa.int32()),
        ]
    )


def _with_what_they_read(names: Iterable[str]) -> list[str]:
    """Relations of the lake and everything that they read, each behind what it reads itself."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name in found or name == "pulls":
            return
        if name in LAKE_VIEWS:
            for one in LAKE_VIEWS[name].reads:
                add(one)
        elif name in STREAMS:
            add("claims")
        found[name] = None

    for name in names:
        add(name)
    return list(found)


def _streams_of(names: Iterable[str]) -> list[str]:
    """The streams of which some relations show rows, histories included."""
    return list(
        dict.fromkeys(one for name in names if (one := name.removesuffix(_HISTORY)) in STREAMS)
    )


class Lake:
    """The files of one environment; sandbox and production never share one.

    Args:
        root: Folder that holds the environments.
        environment: `sandbox` or `production`.
    """

    def __init__(self, root: Path, environment: str) -> None:
        self.environment = environment
        self.folder = Path(root).resolve() / environment
        self.warehouse = self.folder / "leanhouse.duckdb"
        self.pulls = self.folder / "pulls"  # the ledger
        self.lost = self.folder / "lost"  # what is known to be lost
        self.spends = self.folder / "spends" / "log"  # refreshes that were spent
        self.attempts = self.folder / "attempts"  # what became of refreshes
        self.marts = self.folder / "marts"  # the models' files
        self.manifests = self.folder / "manifests"  # which of those count; the newest says so
        self.published = self.folder / "published"  # what published warehouses refer to
        self.writers = self.folder / "writers"  # signs of those who write
        self.spill = self.folder / "spill"  # what is thrown away, in a folder per writer
        self._is_portable = False
        self.format = LakeFormat(self.folder)

    def __repr__(self) -> str:
        return f"Lake({str(self.folder)!r})"

    def portable(self) -> Self:
        """The same lake, whose SELECTs name files relative to its folder, wherever that is then.

        A connection says where with `stand_in`; without that it is the folder it was started in.
        """
        other = copy.copy(self)
        other._is_portable = True  # noqa: SLF001 - a copy of its own
        return other

    def stand_in(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read the files of this lake where it lies now, and no others."""
        connection.execute(f"set variable {_FOLDER} = $folder", {"folder": f"{self.folder}/"})

    def listed(self, files: Iterable[Path]) -> str:
        """Files or patterns of files of this lake, as SQL lists them."""
        if not self._is_portable:
            return "[" + ", ".join(f"'{_escaped(file)}'" for file in files) + "]"
        # Not file_search_path: with that DuckDB prefers what lies where it was started, which may
        # be the folder that the lake was copied from.
        names = ", ".join(f"'{_escaped(file.relative_to(self.folder))}'" for file in files)
        return (
            f"list_transform([{names}]::varchar[],"
            f" lambda file: coalesce(getvariable('{_FOLDER}'), '') || file)"
        )

    def place(self, stream: Stream) -> Path:
        """Folder of a stream's typed files."""
        return self.folder / stream.name

    def raw(self, stream: Stream) -> Path:
        """Folder of a stream's answers as received."""
        return self.folder / "raw" / stream.name

    def quarantine(self, stream: Stream) -> Path:
        """Folder of a stream's records that did not fit."""
        return self.folder / "quarantine" / stream.name

    def superseded(self, stream: Stream) -> Path:
        """Folder of a stream's rows that merged files no longer show."""
        return self.folder / "superseded" / stream.name

    @property
    def ledger(self) -> LedgerFiles:
        """The ledger's files."""
        return LedgerFiles(self.pulls, self.lost_files())

    def known_lost(self) -> str:
        """The SELECT of what is known to be lost."""
        return self._files(self.lost, LOST_SCHEMA)

    def lost_files(self) -> frozenset[str]:
        """Files and commits that are known to be lost, so that nobody misses them."""
        return frozenset(
            name
            for file in self.lost.glob("*/*.parquet")
            for name in pq.read_table(file, columns=["file"])["file"].to_pylist()
        )

    def batch(self, now: dt.datetime | None = None) -> Batch:
        """Start a set of files that will count together.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
        """
        self.format.check()
        return Batch(self, now or dt.datetime.now(dt.UTC))

    def connect(
        self, names: Collection[str] | None = None, *, is_checked: bool = True
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB in memory that sees the lake as it stands.

        Streams show their resolved rows. What was committed after this call does not show.

        Args:
            names: Streams, their histories (`accounts_history`) and views of `sql/lake`, with
                everything that these read; None means all that models may read. Fewer are faster,
                because a view opens each file that it may read. `pulls` is always there.
            is_checked: Whether files that are missing or shorter are an error.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
            DamageError: A file that counts is missing, or not as long as it was.
        """
        connection = duckdb.connect()
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set temp_directory = $1", [str(self.folder / f"spill-{new_id()}")])
        self.attach_to(connection, names, is_checked=is_checked)
        return connection

    @contextmanager
    def planning(self, names: Collection[str]) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB that plans: like `connect`, in bounded memory however long the ledger is.

        The ledger is read where it lies, from the files that there are at this call. `claims` tells
        of the streams that are shown only, and `every_claim` is the view of all.

        Args:
            names: As for `connect`.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
            DamageError: A file that counts is missing, or not as long as it was.
        """
        self.format.check()
        relations = _with_what_they_read(("claims", *names))
        streams = _streams_of(relations)
        with self.scratch() as folder, duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            connection.execute("set preserve_insertion_order = false")
            connection.execute("set enable_progress_bar = false")
            connection.execute(f"set memory_limit = '{_PLANNING_MEMORY}'")
            connection.execute("set temp_directory = $1", [str(folder)])
            connection.execute(f"create view pulls as {self.ledger_now()}")
            connection.execute(f"create view every_claim as {LAKE_VIEWS['claims'].sql}")
            known = ", ".join(f"'{name}'" for name in streams)
            connection.execute(f"create table claims as from every_claim where stream in ({known})")
            connection.execute(LAKE_VIEWS["merged_pulls"].statement)
            self.check_files(connection, streams)
            self._create(connection, [name for name in relations if name != "claims"])
            yield connection

    def check_writable(self) -> None:
        """See that a file could be written now.

        Raises:
            OSError: It cannot, and the lake's folder is its `filename`.
        """
        probe = self.folder / ".doctor"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(bytes(4096))
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder)) from None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of the lake for what is thrown away when the block ends."""
        with Writer(self.writers) as writer:
            folder = self.spill / writer.id
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def next_generation(self) -> int:
        """One more than the greatest generation in the ledger.

        A pull that was made after another one was committed gets a greater number without a look
        at a clock. Writers side by side may get the same one.
        """
        return self.ledger.greatest("generation") + 1

    def ledger_now(self, files: Sequence[Path] | None = None) -> str:
        """The SELECT over the files of the ledger that there are now, whatever is added later."""
        select = self._reading(self.ledger.files() if files is None else files, LEDGER_SCHEMA)
        if not any(self.lost.glob("*/*.parquet")):
            return select
        lost = f"select pull_id from ({self.known_lost()}) where pull_id is not null"
        return (
            f"select * replace (case when pull_id in ({lost})"
            f" then '{Outcome.LOST}' else outcome end as outcome) from ({select})"
        )

    def attach_to(
        self,
        connection: duckdb.DuckDBPyConnection,
        names: Collection[str] | None = None,
        *,
        is_checked: bool = True,
    ) -> None:
        """Create `pulls` and what else is asked for in a connection.

        The ledger is copied, so that every view speaks of one instant; rows are read where they
        lie.

        Args:
            connection: The connection.
            names: As for `connect`.
            is_checked: Whether files that are missing or shorter are an error.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
            DamageError: A file that counts is missing, or not as long as it was.
        """
        self.format.check()
        self.attach_ledger(connection)
        relations = _with_what_they_read(_SHOWN if names is None else names)
        if is_checked:
            self.check_files(connection, None if names is None else _streams_of(relations))
        self._create(connection, relations)

    def attach_ledger(
        self, connection: duckdb.DuckDBPyConnection, files: Sequence[Path] | None = None
    ) -> None:
        """Copy the ledger to a connection, and add the macro that says what was merged.

        Args:
            connection: The connection.
            files: Only these files of it; None means all.
        """
        connection.execute(f"create or replace table pulls as {self.ledger_now(files)}")
        connection.execute(LAKE_VIEWS["merged_pulls"].statement)

    def check_files(
        self, connection: duckdb.DuckDBPyConnection, names: Collection[str] | None = None
    ) -> None:
        """Compare the files that are about to be read with what the ledger says of them.

        Only names and sizes are looked at; `leanhouse fsck` looks at what the files hold.

        Args:
            connection: Where `pulls` and `merged_pulls` are.
            names: The streams whose typed rows are about to be read; None means all files but the
                answers as received.

        Raises:
            DamageError: A file is missing, or not as long as it was.
        """
        folders = [self.place(STREAMS[name]) for name in names or STREAMS]
        if names is None:
            for stream in STREAMS.values():
                folders += [self.superseded(stream), self.quarantine(stream)]
        self.check_folders(connection, folders)

    def check_folders(self, connection: duckdb.DuckDBPyConnection, folders: Sequence[Path]) -> None:
        """Compare the files of some folders of streams with what the ledger says of them.

        Raises:
            DamageError: A file is missing, or not as long as it was.
        """
        there = listed(self.folder, folders)
        if foreign := foreign_files(connection, there):
            raise DamageError(f"{foreign[0]} is not a file of the lake's own")
        below = [folder.relative_to(self.folder).as_posix() for folder in folders]
        if missing := missing_files(connection, there, below, self.lost_files()):
            raise DamageError(missing_sentence(missing))

    def verify(self, connection: duckdb.DuckDBPyConnection, folders: Collection[Path]) -> None:
        """Read files whole before they are written anew, so that damage is not written along.

        Args:
            connection: Where `pulls` is.
            folders: Folders of streams, or partitions of them.

        Raises:
            DamageError: A file does not hold what it held.
        """
        below = [folder.relative_to(self.folder).as_posix() for folder in folders]
        rows = connection.execute(
            "select file.path, file.bytes, file.crc32 from (select unnest(files) as file"
            " from pulls where files is not null)"
            " where list_has_any($below, [regexp_extract(file.path, '^(.*)/[^/]*$', 1),"
            " regexp_extract(file.path, '^(.*)/[^/]*/[^/]*$', 1)]) order by all",
            {"below": below},
        ).fetchall()
        for path, size, checksum in rows:
            file = self.folder / path
            if file.exists() and digest(file) != Digest(size, checksum):
                raise DamageError(f"{path} does not hold what it held")

    def _create(self, connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> None:
        """Create relations over `pulls` that read only what is there, or what is created before."""
        for name in names:
            if name in LAKE_VIEWS:
                connection.execute(LAKE_VIEWS[name].statement)
            else:
                connection.execute(f'create or replace view "{name}" as {self._select_of(name)}')

    def _select_of(self, name: str) -> str:
        """The SELECT of a stream, a history or a log of the lake."""
        if name == "refresh_spends":
            return self._files(self.spends.parent, SPENDS_SCHEMA)
        if name == "refresh_attempts":
            return self._files(self.attempts, ATTEMPTS_SCHEMA)
        if name == "quarantined_records":
            return " union all ".join(
                f"select '{one}' as stream, * from ({self.quarantined(stream)})"
                for one, stream in STREAMS.items()
            )
        if name.endswith(_HISTORY):
            return self.history(STREAMS[name.removesuffix(_HISTORY)])
        return self.resolved(STREAMS[name])

    def resolved(self, stream: Stream, months: Collection[str] | None = None) -> str:
        """The SELECT of a stream's rows that count, over `claims` and the stream's files.

        Args:
            stream: The stream.
            months: Only these months (YYYY-MM) of a stream with months; None means all.
        """
        files = self._files(self.place(stream), lake_schema(stream), months)
        placed = ""
        if stream.window is Window.MONTHS:
            placed = f" and {_day(stream)} between claims.claimed_from and claims.claimed_to"
        return (
            f"select rows.* from ({files}) as rows inner join claims"
            f" on claims.stream = '{stream.name}' and rows.pull_id = claims.pull_id{placed}"
        )

    def history(self, stream: Stream, months: Collection[str] | None = None) -> str:
        """The SELECT of every row that a committed pull ever brought, with when it was asked.

        Rows of merged files show once for each pull that brought them, as they did before.

        Args:
            stream: The stream.
            months: Only these months (YYYY-MM) of a stream with months; None means all.
        """
        told = ", ".join(
            "coalesce(pulls.known_at, pulls.asked_at) as known_at"
            if name == "known_at"
            else f"pulls.{name}"
            for name in HISTORY_DOCS
            if name not in TRACE_DOCS
        )
        committed = (
            f"inner join pulls on pulls.stream = '{stream.name}' and pulls.outcome = 'COMMITTED'"
        )
        if stream.window is not Window.MONTHS:
            files = self._files(self.place(stream), lake_schema(stream))
            return (
                f"select rows.*, {told} from ({files}) as rows {committed}"
                " and rows.pull_id = pulls.pull_id"
            )
        merged = self._files(self.place(stream), merged_schema(stream), months)
        superseded = self._files(self.superseded(stream), merged_schema(stream), months)
        placed = f"{_day(stream)} between pulls.claimed_from and pulls.claimed_to"
        chosen = "null::varchar[]" if months is None else f"{sorted(months)}"
        return (
            f"with there as not materialized ({merged}) select rows.* exclude (seen_from, seen_to),"
            f" {told} from there as rows {committed}"
            f" and pulls.covers is null and rows.pull_id = pulls.pull_id and {placed}"
            f" where rows.pull_id not in (select pull_id from merged_pulls({chosen}))"
            " union all select rows.* exclude (seen_from, seen_to)"
            f" replace (pulls.pull_id as pull_id), {told} from"
            f" (from there where seen_from is not null union all {superseded}) as rows"
            f" inner join merged_pulls({chosen}) as merged on rows.pull_id = merged.merged_id"
            " and merged.place between rows.seen_from and rows.seen_to"
            f" {committed} and merged.pull_id = pulls.pull_id"
            f" and pulls.covers is null and {placed}"
        )

    def all_rows(self, stream: Stream) -> str:
        """The SELECT of every row that a stream ever showed, superseded ones included."""
        return self._files(self.place(stream), lake_schema(stream))

    def quarantined(self, stream: Stream) -> str:
        """The SELECT of a stream's quarantine, each record once however often it was typed."""
        return f"select distinct * from ({self._files(self.quarantine(stream), QUARANTINE_SCHEMA)})"

    def raw_pages(self, stream: Stream) -> str:
        """The SELECT of a stream's answers as received."""
        return self._files(self.raw(stream), RAW_SCHEMA)

    def _reading(self, files: Sequence[Path], schema: pa.Schema) -> str:
        """The SELECT over files or patterns of files; typed and empty where there are none."""
        empty = typed_nothing((f.name, _sql_type(f.type)) for f in schema)
        if not files:
            return empty
        names = ", ".join(f'"{name}"' for name in schema.names)
        return (
            f"select {names} from ({empty} union all by name select * from read_parquet("
            f"{self.listed(files)}, union_by_name = true, hive_partitioning = false))"
        )

    def _files(self, folder: Path, schema: pa.Schema, months: Collection[str] | None = None) -> str:
        """The SELECT over a folder's files; typed and empty before the first one.

        A column that older files lack is null, one that the schema does not name does not show.
        """
        partitions = ["*"] if months is None else [f"month={month}" for month in sorted(months)]
        return self._reading(
            [
                folder / partition / "*.parquet"
                for partition in partitions
                if any(folder.glob(f"{partition}/*.parquet"))
            ],
            schema,
        )

    def merged_files(self) -> Iterator[tuple[Path, float, set[str]]]:
        """Files of which every pull was merged into others that are there.

        Yields:
            The file, the second since when the last pull was merged, and the batches of the
            others.
        """
        written = self.ledger.batches()
        with duckdb.connect() as connection:
            self.attach_ledger(connection)
            rows = connection.execute(
                """
                select
                    pulls.stream,
                    pulls.month,
                    pulls.batch_id,
                    list(distinct successors.batch_id),
                    list(distinct successors.batch_id) filter (where successors.rows > 0)
                from pulls
                left join merged_pulls(null::varchar[]) as merged on pulls.pull_id = merged.pull_id
                left join pulls as successors on merged.merged_id = successors.pull_id
                where pulls.month is not null and pulls.outcome = 'COMMITTED'
                group by all
                having count(*) = count(successors.batch_id)
                """
            ).fetchall()
        for stream, month, batch_id, successors, shown in rows:
            since = max(written.get(one, time.time()) for one in successors)
            place = self.place(STREAMS[stream]) / f"month={month}"
            # What was merged may be all that there is.
            if not all((place / f"{one}.parquet").exists() for one in shown or ()):
                continue
            for folder in (place, self.superseded(STREAMS[stream]) / f"month={month}"):
                if (file := folder / f"{batch_id}.parquet").exists():
                    yield file, since, set(successors)


class Batch:
    """Files that start to count at one instant, when the ledger's file is renamed into place.

    Answers are written as they are added, so that they need no memory; rows are kept until the
    commit, because one file of a month costs the same whatever its rows.
    """

    def __init__(self, lake: Lake, now: dt.datetime) -> None:
        self._writer = Writer(lake.writers)
        self.id = self._writer.id
        self.bytes = 0
        self._lake = lake
        self._pulled_on = f"pulled_on={now.astimezone(dt.UTC):%Y-%m-%d}"
        self._raw: dict[Path, pq.ParquetWriter] = {}
        self._raw_rows: dict[Path, int] = {}
        self._tables: dict[Path, list[pa.Table]] = {}

    def rows(self, stream: Stream, table: pa.Table, *, month: str | None = None) -> None:
        """Add typed rows, those of one month for a stream with months.

        Args:
            stream: The stream.
            table: Rows of its `lake_schema`; columns that are wholly null may be left out.
            month: UTC month as YYYY-MM.
        """
        partition = self._pulled_on if month is None else f"month={month}"
        self._hold(self._lake.place(stream) / partition, table)

    def raw(self, stream: Stream, table: pa.Table) -> None:
        """Write answers as received."""
        if table.num_rows == 0:
            return
        file = self._file(self._lake.raw(stream) / self._pulled_on)
        with naming(file):
            if file not in self._raw:
                self._raw[file] = pq.ParquetWriter(
                    beside(file), RAW_SCHEMA, compression=_RAW_COMPRESSION, compression_level=_LEVEL
                )
            self._raw[file].write_table(table)
        self._raw_rows[file] = self._raw_rows.get(file, 0) + table.num_rows

    def merged(self, stream: Stream, shown: pa.Table, superseded: pa.Table, *, month: str) -> None:
        """Add rows of one month that were merged: those that show, and those that do not."""
        for folder, table in (
            (self._lake.place(stream), shown),
            (self._lake.superseded(stream), superseded),
        ):
            self._hold(folder / f"month={month}", table.cast(merged_schema(stream)))

    def quarantine(self, stream: Stream, table: pa.Table) -> None:
        """Add records that did not fit."""
        self._hold(self._lake.quarantine(stream) / self._pulled_on, table)

    def commit(self, pulls: Sequence[Pull]) -> None:
        """Make the rows of committed pulls count, and keep the others' outcomes.

        Raises:
            ConfigError: The lake has a newer format than this code knows; nothing is written.
        """
        self._lake.format.carry_forward()
        for file, writer in self._raw.items():
            with naming(file):
                writer.close()
        # Encoding and disk take several files at once; one by one they would take the longest.
        with ThreadPoolExecutor(max_workers=_WRITERS) as pool:
            list(pool.map(_write, self._tables, map(_joined, self._tables.values())))
            rows = self._raw_rows | {
                file: sum(table.num_rows for table in tables)
                for file, tables in self._tables.items()
            }
            records = list(pool.map(self._record, rows, rows.values()))
            self._reveal(pool, list(rows))
            ledger = self._file(self._lake.pulls / self._pulled_on)
            _write(ledger, to_table(pulls, self.id, records))
            self.bytes += beside(ledger).stat().st_size
            self._lake.ledger.add(beside(ledger), self.id)
        self._tables.clear()
        self._raw.clear()
        self._writer.end()

    def _record(self, file: Path, rows: int) -> FileRecord:
        """What a file holds that was written beside its place."""
        found = digest(beside(file))
        path = file.relative_to(self._lake.folder).as_posix()
        return FileRecord(path, found.bytes, rows, found.crc32)

    def discard(self) -> None:
        """Give up what was not committed."""
        for writer in self._raw.values():
            # A full disk refuses what closing writes too, and the file goes all the same.
            with suppress(OSError):
                writer.close()
        for file in (*self._raw, *self._tables):
            beside(file).unlink(missing_ok=True)
        self._writer.end()

    def _hold(self, folder: Path, table: pa.Table) -> None:
        if table.num_rows:
            self._tables.setdefault(self._file(folder), []).append(table)

    def _file(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.id}.parquet"

    def _reveal(self, pool: Executor, files: Sequence[Path]) -> None:
        """Put what was written where it belongs, so that it survives a power cut."""
        self.bytes += sum(beside(file).stat().st_size for file in files)
        list(pool.map(synced, map(beside, files)))
        for file in files:
            beside(file).replace(file)
        list(pool.map(synced, {file.parent for file in files}))


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables as one, with null where one lacks a column of another."""
    return pa.concat_tables(tables, promote_options="default")


def _write(file: Path, table: pa.Table) -> None:
    # A column costs a file the same whether it holds anything, and what is missing reads null.
    empty = [name for name in table.column_names if table[name].null_count == table.num_rows]
    table = table.drop_columns(empty)
    with naming(file):
        pq.write_table(table, beside(file), **_compression(table))


def _day(stream: Stream) -> str:
    """The UTC day that places a row of a stream with months."""
    instants = ", ".join(f'rows."{name}"' for name in stream.placed_by)
    # A cast would ask the session's zone, which costs ten times as much.
    return f"make_timestamp(epoch_us(coalesce({instants})))::date"


def put(folder: Path, table: pa.Table) -> None:
    """Add a table to a folder as one file, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{new_id()}.parquet"
    with naming(file):
        pq.write_table(table, beside(file), **_compression(table))
    reveal(beside(file), file)


def typed_nothing(columns: Iterable[tuple[str, str]]) -> str:
    """A SELECT without rows, of columns with their types."""
    named = ", ".join(f'null::{kind} as "{name}"' for name, kind in columns)
    return f"select {named} where false"


def _compression(table: pa.Table) -> dict[str, Any]:
    """How to compress a file.

    zstd starts anew for each column of each file, three milliseconds for a stream as wide as
    transactions; only where there are many rows does its size pay for that.
    """
    if table.num_rows >= _LARGE_ROWS:
        return {"compression": "zstd", "compression_level": _LEVEL}
    return {"compression": "snappy"}


_SQL_TYPES: Mapping[pa.DataType, str] = {
    pa.string(): "varchar",
    pa.binary(): "blob",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


def _sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type.

    Raises:
        ValueError: The lake does not use that type.
    """
    if kind in _SQL_TYPES:
        return _SQL_TYPES[kind]
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"map({_sql_type(kind.key_type)}, {_sql_type(kind.item_type)})"
    if pa.types.is_struct(kind):
        return f"struct({', '.join(f'{_quoted(f.name)} {_sql_type(f.type)}' for f in kind)})"
    raise ValueError(f"no SQL type for {kind}")


def _quoted(name: str) -> str:
    return f'"{name}"'


def _escaped(path: Path) -> str:
    return str(path).replace("'", "''")
