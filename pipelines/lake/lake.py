"""The lake: its content as SELECTs and as views of a DuckDB connection.

Files are only ever added. A batch stages its files and moves them to their places, the ledger's
file last. A file counts only if its batch is in the ledger. So a crash leaves the state before or
after the batch, and two writers need no lock.
"""

from __future__ import annotations

import copy
import datetime as dt
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lean_resources.quarantine import QUARANTINE_SCHEMA
from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake.batch import Batch
from pipelines.lake.digests import DamageError, Digest, digest
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folders import (
    LOST,
    REFRESH_RESERVATIONS,
    REFRESH_RESULTS,
    SPILL,
    WAREHOUSE,
    answers_of,
    quarantine_of,
    rows_of,
    superseded_of,
)
from pipelines.lake.format import LakeFormat
from pipelines.lake.ids import new_id
from pipelines.lake.ledger import (
    COVERAGE_SCHEMA,
    LEDGER_SCHEMA,
    LOST_SCHEMA,
    REFRESH_RESERVATIONS_SCHEMA,
    REFRESH_RESULTS_SCHEMA,
    VIEW_DOCS,
    Outcome,
)
from pipelines.lake.ledger_files import LedgerFiles, Tail
from pipelines.lake.missing_files import foreign_files, listed, missing_files, missing_sentence
from pipelines.lake.opening import open_storage
from pipelines.lake.parquet import parquet_of
from pipelines.lake.queries import QUERIES, filled
from pipelines.lake.schemas import (
    RAW_SCHEMA,
    lake_schema,
    merged_schema,
    sql_type,
    typed_nothing,
)
from pipelines.lake.storage import Key, Storage, Stored
from pipelines.lake.views import LAKE_VIEWS
from pipelines.shard import Shard

_HISTORY = "_history"
_SHOWN = (
    *STREAMS,
    *(f"{name}{_HISTORY}" for name in STREAMS),
    *VIEW_DOCS,
    *(name for name, view in LAKE_VIEWS.items() if view.columns),
    "fitting_ranges",
)
"""Relations that models may read."""
_PLANNING_MEMORY = "400MB"
_FOLDER = "leanhouse_folder"
"""The DuckDB variable with the folder of a portable lake; it ends with /."""


def _with_what_they_read(names: Iterable[str]) -> list[str]:
    """Relations of the lake and all that they read; each comes after the relations it reads."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name in found or name == "pulls":
            return
        if name in LAKE_VIEWS:
            for read in LAKE_VIEWS[name].reads:
                add(read)
        elif name in STREAMS:
            add("claims")
        found[name] = None

    for name in names:
        add(name)
    return list(found)


def _streams_of(names: Iterable[str]) -> list[str]:
    """The streams whose rows these relations show; a history shows rows of its stream."""
    return list(
        dict.fromkeys(one for name in names if (one := name.removesuffix(_HISTORY)) in STREAMS)
    )


def _pulls_of(streams: Iterable[str], where: str = "true") -> str:
    """The SELECT of the pulls of streams, of all read targets or of those of a condition."""
    known = ", ".join(f"'{name}'" for name in sorted(streams))
    return f"from pulls where stream in ({known or 'null'}) and {where}"


def _claims_of(pulls: str) -> str:
    """The SELECT of claims over some pulls.

    It filters pulls before claims are made, because a filter behind them would not reach the
    ledger. A claim follows from the pulls of its read target and stream alone.
    """
    return f"with pulls as ({pulls}) select * from ({LAKE_VIEWS['claims'].sql})"


class Lake:
    """The files of one environment; sandbox and production never share a lake.

    Args:
        root: The folder of all environments, or its URL in an object store.
        environment: `sandbox` or `production`.
        storage: Where the files lie; None for the environment's place below the root.
    """

    def __init__(self, root: Path | str, environment: str, storage: Storage | None = None) -> None:
        self.root = root
        self.environment = environment
        self.storage = storage or open_storage(root, environment)
        self.folder = self.storage.work
        self.format = LakeFormat(self.storage)
        self.warehouse = self.folder / WAREHOUSE
        self._is_portable = False
        self._tell: Callable[[Sequence[Key]], object] | None = None
        self._chosen: dict[str, list[Key]] = {}
        """Files to read, by folder; all files of other folders are read."""
        self._copied: dict[str, str] = {}
        """Tables with rows of folders, in the connection that reads them."""

    def __repr__(self) -> str:
        return f"Lake({self.storage.place!r})"

    def portable(self, tell: Callable[[Sequence[Key]], object] | None = None) -> Self:
        """The same lake with SELECTs that name files, or patterns, relative to a folder.

        A connection sets the folder with `stand_in`; the default is the current folder.

        Args:
            tell: Called with what a SELECT names, before it is run.
        """
        other = copy.copy(self)
        other._is_portable, other._tell = True, tell  # noqa: SLF001 - a copy of its own
        return other

    @staticmethod
    def stand_in(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        """Set a connection's folder, to that of a lake or to one with the files to read."""
        connection.execute(f"set variable {_FOLDER} = $folder", {"folder": f"{folder}/"})

    def copied(self, tables: Mapping[Key, str]) -> Self:
        """The same lake for a connection with tables of the rows to read of some folders.

        Where a stream has months, these may be folders of months.
        """
        other = copy.copy(self)
        other._copied = {str(folder): table for folder, table in tables.items()}  # noqa: SLF001
        return other

    def listed(self, keys: Iterable[Key]) -> str:
        """Files or file patterns of this lake as a list in SQL."""
        if not self._is_portable:
            paths = ", ".join(f"'{_escaped(path)}'" for path in self.storage.local_all(keys))
            return f"[{paths}]"
        keys = list(keys)
        if self._tell is not None:
            self._tell(keys)
        # Not file_search_path: with that DuckDB prefers files in the folder where it was started,
        # which may be the folder that the lake was copied from.
        names = ", ".join(f"'{_escaped(key)}'" for key in keys)
        return (
            f"list_transform([{names}]::varchar[],"
            f" lambda file: coalesce(getvariable('{_FOLDER}'), '') || file)"
        )

    @property
    def ledger(self) -> LedgerFiles:
        """The ledger's files."""
        return LedgerFiles(self.storage, self.lost_files())

    def known_lost(self) -> str:
        """The SELECT of files and pulls that are known to be lost."""
        return self._files(LOST, LOST_SCHEMA)

    def lost_files(self) -> frozenset[str]:
        """Files and commits that are known to be lost, so that checks do not report them."""
        return frozenset(
            name
            for path in self.storage.local_all(
                lost.key for lost in self.storage.list(f"{LOST}/*/*.parquet")
            )
            for name in _column(path, "file")
        )

    def batch(self, now: dt.datetime | None = None) -> Batch:
        """Start a batch: a set of files that a single commit makes count.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
        """
        self.format.check()
        return Batch(self.storage, self.format, now or dt.datetime.now(dt.UTC))

    def add(self, folder: Key, table: pa.Table) -> None:
        """Add a table to a folder as a new file; a crash leaves no partial file."""
        self.storage.put(folder / f"{new_id()}.parquet", parquet_of(table))

    def connect(
        self, names: Collection[str] | None = None, *, is_checked: bool = True
    ) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB that shows the present state of the lake.

        Streams show their resolved rows. Later commits do not show.

        Args:
            names: Streams, their histories (`accounts_history`) and views of `sql/lake`, with all
                that these read; None means all that models may read. Fewer are faster, because a
                view opens each file that it may read. `pulls` is always included.
            is_checked: Whether a missing file or a wrong size is an error.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
            DamageError: A file that counts is missing, or has the wrong size.
        """
        connection = open_duckdb()
        connection.execute("set temp_directory = $1", [self._spill()])
        self.attach_to(connection, names, is_checked=is_checked)
        return connection

    @contextmanager
    def planning(
        self,
        names: Collection[str],
        tail: Tail | None = None,
        runs_since: dt.datetime | None = None,
        entity_ids: Collection[str] | None = None,
        shard: Shard | None = None,
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB for planning: what is known now, at a cost that does not grow with the nights.

        `pulls` has the pulls that can still matter, in the files that exist at this call. `claims`
        has only rows of the shown streams, and `all_coverage` has those of all streams. A history
        has only rows that can still matter: of `refreshes_history` what each bank offered first
        and last. `kept_coverage` has the days that `kept_pulls` cover, and `tail_pulls` the pulls
        since; together they are `pulls`.

        Args:
            names: As for `connect`, but not `merged_pulls`.
            tail: The commits since the present pulls; None for those of this instant.
            runs_since: `read_already` knows all pulls of runs since then.
            entity_ids: Only these entities are in `entities`, `consents` and `accounts`, and in the
                claims of `accounts` and of named streams. Of named streams that are read per
                account there are claims and no rows. None for all.
            shard: As `entity_ids`, all entities of a shard.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
            DamageError: A file that counts is missing, or has the wrong size.
        """
        self.format.check()
        of_runs = () if runs_since is None else LAKE_VIEWS["read_already"].reads
        relations = _with_what_they_read(("claims", *names, *of_runs))
        streams = _streams_of(relations)
        tail = tail or self.ledger.since_present()
        with self.scratch() as folder, open_duckdb() as connection:
            connection.execute("set preserve_insertion_order = false")
            connection.execute("set enable_progress_bar = false")
            connection.execute(f"set memory_limit = '{_PLANNING_MEMORY}'")
            connection.execute("set temp_directory = $1", [str(folder)])
            kept = [tail.present.key] if tail.present else []
            for name, select in (
                ("tail_pulls", self._tail(tail)),
                ("kept_pulls", self._reading(kept, LEDGER_SCHEMA, "kind = 'pull'")),
                ("kept_coverage", self._reading(kept, COVERAGE_SCHEMA, "kind = 'coverage'")),
                ("pulls", "from tail_pulls union all from kept_pulls"),
            ):
                connection.execute(f"create view {name} as {select}")
            connection.execute(f"create view all_coverage as {LAKE_VIEWS['claims'].sql}")
            by_entity: list[str] = []
            by_account: list[str] = []
            chosen = [] if shard is None else [shard.condition("{0}")]
            if entity_ids is not None:
                ids = "create table chosen as select unnest($1::varchar[]) as entity_id"
                connection.execute(ids, [list(entity_ids)])
                chosen.append("{0} in (select entity_id from chosen)")
            narrow = " and ".join(chosen)
            if narrow:
                for name in {"accounts", *names}.intersection(streams):
                    if STREAMS[name].parent is not None:
                        is_of_account = STREAMS[name].parent == "accounts"
                        (by_account if is_of_account else by_entity).append(name)
            pulls = _pulls_of(set(streams).difference(by_entity, by_account))
            if by_entity:
                pulls += f" union all {_pulls_of(by_entity, narrow.format('parent_id'))}"
            connection.execute(f"create table claims as {_claims_of(pulls)}")
            connection.execute(LAKE_VIEWS["merged_pulls"].statement)
            lake = self._only(connection, streams)
            shown = [name for name in relations if name not in {"claims", *by_account}]
            lake._create(connection, shown, narrow.format("entity_id"))  # noqa: SLF001
            if by_account:
                pulls = _pulls_of(by_account, "parent_id in (select account_id from accounts)")
                connection.execute(f"insert into claims {_claims_of(pulls)}")
            if runs_since is not None:
                # Days are by this machine's clock, instants by Lean's.
                files = self.ledger.of_days(tail, runs_since.date() - dt.timedelta(days=2))
                runs = self._without_lost(self._reading(files, LEDGER_SCHEMA))
                read_already = LAKE_VIEWS["read_already"]
                connection.execute(f"create view run_pulls as {runs}")
                connection.execute(read_already.statement_after("with pulls as (from run_pulls)"))
            yield connection

    def _only(self, connection: duckdb.DuckDBPyConnection, streams: Collection[str]) -> Self:
        """The same lake, of which only files of pulls are read that the connection knows.

        Raises:
            DamageError: As for `planning`.
        """
        folders = [rows_of(STREAMS[name]) for name in streams]
        there = listed(self.storage, folders)
        self._check(connection, there, folders)
        rows = connection.execute(QUERIES["present_batches"], {"streams": list(streams)}).fetchall()
        batches: dict[str, set[str]] = {str(folder): set() for folder in folders}
        for name, batch_id in rows:
            batches[str(rows_of(STREAMS[name]))].add(batch_id)
        other = copy.copy(self)
        other._chosen = {  # noqa: SLF001 - a copy of its own
            folder: [
                key
                for path in there
                if (key := Key(path)).stem in ids and path.startswith(f"{folder}/")
            ]
            for folder, ids in batches.items()
        }
        return other

    @contextmanager
    def overview(
        self, names: Collection[str], kept: str, since: dt.datetime
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB for counts over the whole ledger, at little cost however long that is.

        `all_pulls` is a view of the ledger. `pulls`, and so all other relations, know only the
        chosen pulls. No file is compared with the ledger.

        Args:
            names: As for `connect`.
            kept: The condition of the pulls that `pulls` has. It has to choose all pulls of a read
                target or none, because the newest pull counts.
            since: `refresh_spends` and `refresh_attempts` have the files written since then.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
        """
        self.format.check()
        with open_duckdb() as connection:
            connection.execute("set enable_progress_bar = false")
            # Nothing is written otherwise: a full disk and a reader without rights are no obstacle.
            connection.execute("set temp_directory = $1", [self._spill()])
            connection.execute(f"create view all_pulls as {self.ledger_now()}")
            connection.execute(
                f"create table pulls as select * exclude (files) from all_pulls where {kept}"
            )
            connection.execute(LAKE_VIEWS["merged_pulls"].statement)
            self._create(connection, _with_what_they_read(names))
            for name, folder, schema in (
                ("refresh_spends", REFRESH_RESERVATIONS, REFRESH_RESERVATIONS_SCHEMA),
                ("refresh_attempts", REFRESH_RESULTS, REFRESH_RESULTS_SCHEMA),
            ):
                found = self.storage.list(f"{folder}/*/*.parquet")
                keys = [one.key for one in found if one.written_at >= since.timestamp()]
                connection.execute(f"create view {name} as {self._reading(keys, schema)}")
            yield connection

    def check_writable(self) -> None:
        """Check that a file can be written now.

        Raises:
            OSError: A file cannot be written; `filename` is the lake's folder.
        """
        probe = Key(".doctor")
        try:
            self.storage.put(probe, bytes(4096))
            self.storage.delete(probe)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder)) from None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder in the lake, deleted when the block ends."""
        with self.storage.writers.start() as writer:
            try:
                yield self.storage.folder(SPILL / writer.id)
            finally:
                with suppress(OSError):
                    self.storage.sweep(SPILL / writer.id)

    def _spill(self) -> str:
        """A folder that DuckDB makes if memory is full, and deletes."""
        return str(self.storage.passing / f"spill-{new_id()}")

    def next_generation(self) -> int:
        """The greatest generation in the ledger plus 1.

        So a pull has a greater generation than earlier commits, without any clock. Writers at the
        same time may get the same number.
        """
        return self.ledger.generation() + 1

    def ledger_now(self, files: Sequence[Key] | None = None) -> str:
        """The SELECT over the files of the ledger that exist now; later files do not show."""
        files = self.ledger.files() if files is None else files
        return self._without_lost(self._reading(files, LEDGER_SCHEMA))

    def _tail(self, tail: Tail) -> str:
        """The SELECT of the pulls since the present pulls."""
        parts = [self._reading(tail.files, LEDGER_SCHEMA)]
        for merged, held in tail.partly.items():
            batches = ", ".join(f"'{batch_id}'" for batch_id in sorted(held))
            rows = self._reading([merged], LEDGER_SCHEMA)
            parts.append(f"select * from ({rows}) where batch_id not in ({batches})")
        return self._without_lost(" union all ".join(parts))

    def _without_lost(self, select: str) -> str:
        """A SELECT of pulls in which those whose rows are lost say so."""
        if not any(self.storage.list(f"{LOST}/*/*.parquet")):
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
        files: Sequence[Key] | None = None,
        is_checked: bool = True,
    ) -> None:
        """Create `pulls` and the given relations in a connection.

        The ledger is copied, so that all views show the same instant. Rows stay in their files.

        Args:
            names: As for `connect`.
            files: As for `attach_ledger`.
            is_checked: As for `connect`.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
            DamageError: A file that counts is missing, or has the wrong size.
        """
        self.format.check()
        self.attach_ledger(connection, files)
        relations = _with_what_they_read(_SHOWN if names is None else names)
        if is_checked:
            self.check_files(connection, None if names is None else _streams_of(relations))
        self._create(connection, relations)

    def attach_ledger(
        self, connection: duckdb.DuckDBPyConnection, files: Sequence[Key] | None = None
    ) -> None:
        """Copy the ledger to a connection, and add the macro `merged_pulls`.

        Args:
            files: Only these files of the ledger; None means all.
        """
        connection.execute(f"create or replace table pulls as {self.ledger_now(files)}")
        connection.execute(LAKE_VIEWS["merged_pulls"].statement)

    def check_files(
        self, connection: duckdb.DuckDBPyConnection, names: Collection[str] | None = None
    ) -> None:
        """Compare files with their names and sizes in the ledger, before they are read.

        `leanhouse fsck` also reads the files.

        Args:
            connection: A connection with `pulls` and `merged_pulls`.
            names: Streams whose typed rows will be read; None means all files except the answers
                as received.

        Raises:
            DamageError: A file is missing, or has the wrong size.
        """
        folders = [rows_of(STREAMS[name]) for name in names or STREAMS]
        if names is None:
            for stream in STREAMS.values():
                folders += [superseded_of(stream), quarantine_of(stream)]
        self.check_folders(connection, folders)

    def check_folders(self, connection: duckdb.DuckDBPyConnection, folders: Sequence[Key]) -> None:
        """Compare files in folders of streams with their names and sizes in the ledger.

        Raises:
            DamageError: A file is missing, or has the wrong size.
        """
        self._check(connection, listed(self.storage, folders), folders)

    def _check(
        self,
        connection: duckdb.DuckDBPyConnection,
        there: Mapping[str, int],
        folders: Sequence[Key],
    ) -> None:
        """As `check_folders`, for files that were listed."""
        if foreign := foreign_files(connection, there):
            raise DamageError(f"{foreign[0]} is not a file of the lake")
        below = [str(folder) for folder in folders]
        if missing := missing_files(connection, there, below, self.lost_files()):
            raise DamageError(missing_sentence(missing))

    def verify(self, connection: duckdb.DuckDBPyConnection, folders: Collection[Key]) -> None:
        """Read complete files before a merge, so that damage is not merged.

        Args:
            connection: A connection with `pulls`.
            folders: Folders of streams, or partitions of them.

        Raises:
            DamageError: A file has the wrong checksum.
        """
        below = [str(folder) for folder in folders]
        rows = connection.execute(
            "select file.path, file.bytes, file.crc32 from (select unnest(files) as file"
            " from pulls where files is not null)"
            " where list_has_any($below, [regexp_extract(file.path, '^(.*)/[^/]*$', 1),"
            " regexp_extract(file.path, '^(.*)/[^/]*/[^/]*$', 1)]) order by all",
            {"below": below},
        ).fetchall()
        patterns = [f"{folder}/{end}" for folder in below for end in ("*.parquet", "*/*.parquet")]
        there = {file.name for pattern in patterns for file in self.storage.list(pattern)}
        written = {path: Digest(size, checksum) for path, size, checksum in rows if path in there}
        for path, file in zip(written, self.storage.local_all(map(Key, written)), strict=True):
            if digest(file) != written[path]:
                raise DamageError(f"{path} has the wrong checksum")

    def attach_relations(
        self,
        connection: duckdb.DuckDBPyConnection,
        names: Collection[str],
        statement: Callable[[str, str], str],
    ) -> None:
        """Create relations over the pulls that a connection has, streams as the caller wants them.

        Args:
            connection: A connection with `pulls` and `clock`, which need not be the whole ledger's.
            names: As for `connect`.
            statement: Gives the statement that creates a stream or a history, from its name and the
                SELECT of its rows.
        """
        connection.execute(LAKE_VIEWS["merged_pulls"].statement)
        for name in _with_what_they_read(names):
            if name not in LAKE_VIEWS:
                connection.execute(statement(name, self._select_of(name)))
            elif name != "clock":
                connection.execute(LAKE_VIEWS[name].statement)

    def selects(self) -> str:
        """The SELECTs of all streams, histories and logs now; they name patterns of files."""
        names = (name for name in _with_what_they_read(_SHOWN) if name not in LAKE_VIEWS)
        return "; ".join(map(self._select_of, names))

    def _create(
        self, connection: duckdb.DuckDBPyConnection, names: Iterable[str], narrow: str = ""
    ) -> None:
        """Create relations; each reads `pulls`, files, and relations before it.

        Args:
            narrow: The condition of entities that the directory has; empty for all.
        """
        for name in names:
            if name in LAKE_VIEWS:
                connection.execute(LAKE_VIEWS[name].statement)
                continue
            kind, select = "view", self._select_of(name)
            if narrow and name in {"entities", "consents", "accounts"}:
                kind = "table"
                select = f"from ({select}) where {narrow}"
            connection.execute(f'create or replace {kind} "{name}" as {select}')

    def _select_of(self, name: str) -> str:
        """The SELECT of a stream, a history or a log of the lake."""
        if name == "refresh_spends":
            return self._files(REFRESH_RESERVATIONS, REFRESH_RESERVATIONS_SCHEMA)
        if name == "refresh_attempts":
            return self._files(REFRESH_RESULTS, REFRESH_RESULTS_SCHEMA)
        if name == "quarantined_records":
            return " union all ".join(
                f"select '{stream.name}' as stream, * from ({self.quarantined(stream)})"
                for stream in STREAMS.values()
            )
        if name.endswith(_HISTORY):
            return self.history(STREAMS[name.removesuffix(_HISTORY)])
        return self.resolved(STREAMS[name])

    def resolved(self, stream: Stream, months: Collection[str] | None = None) -> str:
        """The SELECT of a stream's rows that count, over `claims` and the stream's files.

        Args:
            months: Only these months (YYYY-MM) of a stream with months; None means all.
        """
        files = self._files(rows_of(stream), lake_schema(stream), months)
        placed = ""
        if stream.window is Window.MONTHS:
            placed = f" and {utc_day_of(stream)} between claims.claimed_from and claims.claimed_to"
        return (
            f"select rows.* from ({files}) as rows inner join claims"
            f" on claims.stream = '{stream.name}' and rows.pull_id = claims.pull_id{placed}"
        )

    def history(self, stream: Stream, months: Collection[str] | None = None) -> str:
        """The SELECT of all rows that committed pulls ever brought, with the pulls' times.

        Rows of merged files show once for each pull that brought them, as before the merge.

        Args:
            months: Only these months (YYYY-MM) of a stream with months; None means all.
        """
        parts = {"stream": f"'{stream.name}'"}
        if stream.window is not Window.MONTHS:
            files = self._files(rows_of(stream), lake_schema(stream))
            return filled("history", files=f"({files})", **parts)
        of_folder = (
            self._files(folder, merged_schema(stream), months)
            for folder in (rows_of(stream), superseded_of(stream))
        )
        return filled(
            "history_of_months",
            **dict(zip(("files", "superseded"), map("({})".format, of_folder), strict=True)),
            utc_day=utc_day_of(stream),
            months="null::varchar[]" if months is None else f"{sorted(months)}",
            **parts,
        )

    def all_rows(self, stream: Stream, months: Collection[str] | None = None) -> str:
        """The SELECT of all rows in files of a stream, with merged pulls if it has months."""
        is_by_month = stream.window is Window.MONTHS
        schema = merged_schema(stream) if is_by_month else lake_schema(stream)
        return self._files(rows_of(stream), schema, months)

    def quarantined(self, stream: Stream) -> str:
        """The SELECT of a stream's quarantine; repeated typing adds no second record."""
        return f"select distinct * from ({self._files(quarantine_of(stream), QUARANTINE_SCHEMA)})"

    def raw_pages(self, stream: Stream) -> str:
        """The SELECT of a stream's answers as received."""
        return self._files(answers_of(stream), RAW_SCHEMA)

    def _reading(self, keys: Sequence[Key], schema: pa.Schema, where: str = "true") -> str:
        """The SELECT over files or file patterns; empty but typed if there are no files."""
        empty = typed_nothing((f.name, sql_type(f.type)) for f in schema)
        if not keys:
            return empty
        names = ", ".join(f'"{name}"' for name in schema.names)
        return (
            f"select {names} from ({empty} union all by name select * from read_parquet("
            f"{self.listed(keys)}, union_by_name = true, hive_partitioning = false) where {where})"
        )

    def _files(self, folder: Key, schema: pa.Schema, months: Collection[str] | None = None) -> str:
        """The SELECT over a folder's files; empty but typed before the first file.

        A column that older files lack is null; a column outside the schema does not show.
        """
        folders = [folder] if months is None else [folder / f"month={one}" for one in months]
        if folders and all(str(one) in self._copied for one in folders):
            names = ", ".join(f'"{name}"' for name in schema.names)
            return " union all ".join(
                f"select {names} from {self._copied[str(one)]}" for one in folders
            )
        if (chosen := self._chosen.get(str(folder))) is not None:
            return self._reading(chosen, schema)
        partitions = ["*"] if months is None else [f"month={month}" for month in sorted(months)]
        patterns = [f"{folder}/{partition}/*.parquet" for partition in partitions]
        if self._is_portable:
            keys = [Key(one) for one in patterns if any(self.storage.list(one))]
        else:
            keys = [key for one in patterns for key in self.storage.readable(one)]
        return self._reading(keys, schema)

    def merged_files(self) -> Iterator[tuple[Stored, float, set[str]]]:
        """Files whose pulls were all merged into other files that exist.

        Yields:
            The file, the Unix second of the last merge, and the batches of those other files.
        """
        written = self.ledger.batches()
        with open_duckdb() as connection:
            self.attach_ledger(connection)
            rows = connection.execute(QUERIES["merged_batches"]).fetchall()
        streams = [STREAMS[name] for name in {stream for stream, *_ in rows}]
        there = {
            file.key: file
            for folder in (*map(rows_of, streams), *map(superseded_of, streams))
            for file in self.storage.list(f"{folder}/*/*.parquet")
        }
        for stream, month, batch_id, successors, shown in rows:
            since = max(written.get(successor, time.time()) for successor in successors)
            place = rows_of(STREAMS[stream]) / f"month={month}"
            # Without the other file, this file is the only copy of its rows.
            if any(place / f"{batch}.parquet" not in there for batch in shown or ()):
                continue
            for folder in (place, superseded_of(STREAMS[stream]) / f"month={month}"):
                if (file := there.get(folder / f"{batch_id}.parquet")) is not None:
                    yield file, since, set(successors)


def _column(file: Path, name: str) -> list[Any]:
    return list(pq.read_table(file, columns=[name])[name].to_pylist())


def utc_day_of(stream: Stream, rows: str = "rows") -> str:
    """The SQL of the UTC day of a row of a stream with months; `rows` is the relation's name."""
    instants = ", ".join(f'{rows}."{name}"' for name in stream.placed_by)
    # A cast would use the session's time zone, at ten times the cost.
    return f"make_timestamp(epoch_us(coalesce({instants})))::date"


def _escaped(path: PurePath) -> str:
    return str(path).replace("'", "''")
