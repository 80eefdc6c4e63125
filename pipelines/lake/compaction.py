"""Compaction: many small files of a month become few large ones, and no answer is lost.

A month is read again each night while it is open, so its rows lie in as many copies. Merged, each
version of a row is kept once, with the pulls that brought it. The merged rows are committed by the
ledger's file, like any other pull: it covers the days of the newest of them and names the pulls
that it replaces. Older files stay for their readers until a vacuum a day later. Writers are not
disturbed either, because a pull that knows more wins as ever. The ledger's own files are merged
day by day, and present pulls are kept of all that is committed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake.folders import PRESENT, rows_of, superseded_of
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake, utc_day_of
from pipelines.lake.ledger import PULL_COLUMNS, Mark, Pull
from pipelines.lake.present import reveal
from pipelines.lake.queries import QUERIES, filled
from pipelines.lake.schemas import merged_schema
from pipelines.lake.storage import Key

_MOST_FILES = 8
"""Files of a month above which it is merged, however little of it was read twice."""
_QUIET_DAYS = 3
"""Days after its last read from which a month counts as not read any more."""
_ROWS_AT_ONCE = 400_000
"""Rows, counted once for every pull that brought them, that are merged in one commit."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did.

    Args:
        months: Months that were merged.
        pulls: Pulls whose rows were merged.
        rows: Rows that show, in merged files.
        superseded: Versions of rows that do not show any more.
        files_before: Files of those months before.
        files_after: Files of those months after the next vacuum.
        ledger_files: Files of the ledger that were merged.
    """

    months: int = 0
    pulls: int = 0
    rows: int = 0
    superseded: int = 0
    files_before: int = 0
    files_after: int = 0
    ledger_files: int = 0


def compact(
    lake: Lake,
    *,
    run_id: str | None = None,
    rows_at_once: int = _ROWS_AT_ONCE,
    today: dt.date | None = None,
) -> Compacted:
    """Merge the files of months of which much was read again, or that lie in many files.

    The ledger's files of days that are over are merged too. An account whose days of a month are
    covered by several pulls, as after a consent that starts later, is left as it is.

    Args:
        run_id: The run, for the ledger.
        rows_at_once: Bound on memory: rows of all versions that are merged together.
        today: Today's UTC day; None means this machine's clock.

    Raises:
        DamageError: A file is missing or has the wrong checksum; nothing is merged with it.
    """
    done = Compacted(ledger_files=lake.ledger.merge(today or dt.datetime.now(dt.UTC).date()))
    folders = []
    # The ledger is read once for all months: merging one month changes nothing in another.
    with lake.connect(("claims",)) as connection:
        mark = Mark(run_id, lake.next_generation())
        for stream in STREAMS.values():
            if stream.window is Window.MONTHS:
                lake.check_folders(connection, [rows_of(stream), superseded_of(stream)])
                months = connection.execute(
                    QUERIES["months_to_merge"], {"stream": stream.name, "quiet_days": _QUIET_DAYS}
                ).fetchall()
                for month, is_worth in months:
                    one = _Month(lake, connection, stream, month, mark, rows_at_once)
                    if is_worth or len(_files(lake, one.folder)) > _MOST_FILES:
                        merged = one.merge()
                        done = _sum(done, merged)
                        if merged.months:
                            folders.append(one.folder)
    keep_present(lake)
    return replace(done, files_after=_left(lake, folders))


def keep_present(lake: Lake) -> bool:
    """Keep the present pulls of all commits; False if nothing was committed since the newest file.

    Raises:
        ConfigError: The lake has a newer format than this code knows.
        DamageError: A commit or a file that counts is missing, or has the wrong size.
    """
    tail = lake.ledger.since_present()
    if not tail.files and not tail.partly:
        return False
    key = PRESENT / f"{new_id()}.parquet"
    present = lake.ledger.present_of(tail, key)
    relations = ("refreshes_history", "quarantined_records")
    lake.format.carry_forward()
    with lake.planning(relations, tail) as connection, lake.storage.staging(key) as file:
        connection.execute("set preserve_insertion_order = true")
        connection.execute("create temp table standing as from all_coverage")
        name, lists = present.lists()
        options = f"format parquet, compression zstd, kv_metadata {{'{name}': '{lists}'}}"
        place = str(file).replace("'", "''")
        connection.execute(f"copy ({QUERIES['present_pulls']}) to '{place}' ({options})")
    reveal(lake.storage, key)
    return True


def _left(lake: Lake, folders: Collection[Key]) -> int:
    """Number of files of some months that the next vacuum leaves."""
    if not folders:
        return 0
    replaced = {file.key for file, *_ in lake.merged_files()}
    return len({key for folder in folders for key in _files(lake, folder)} - replaced)


def _files(lake: Lake, folder: Key) -> list[Key]:
    return [file.key for file in lake.storage.list(f"{folder}/*.parquet")]


def _sum(one: Compacted, other: Compacted) -> Compacted:
    names = Compacted.__slots__
    return Compacted(*(getattr(one, name) + getattr(other, name) for name in names))


@dataclass(frozen=True, slots=True)
class _Month:
    """One month of a stream that is being merged."""

    lake: Lake
    connection: duckdb.DuckDBPyConnection
    stream: Stream
    month: str
    mark: Mark
    rows_at_once: int

    @property
    def folder(self) -> Key:
        """Where its files lie."""
        return rows_of(self.stream) / f"month={self.month}"

    def merge(self) -> Compacted:
        """Merge the month, some accounts at a time, each time as one commit."""
        files = len(_files(self.lake, self.folder))
        done = Compacted()
        history = self.lake.history(self.stream, [self.month])
        self.connection.execute(f"create or replace temp view versions as {history}")
        self.connection.execute(
            f"create or replace temp table merge_order as {QUERIES['merge_order']}",
            {"stream": self.stream.name, "month": self.month},
        )
        groups = list(self._groups())
        if groups:
            earlier = superseded_of(self.stream) / f"month={self.month}"
            self.lake.verify(self.connection, [self.folder, earlier])
        for parents in groups:
            done = _sum(done, self._merge(parents))
        if not done.pulls:
            return done
        return replace(done, months=1, files_before=files)

    def _groups(self) -> Iterator[Sequence[str]]:
        """Accounts in groups of bounded size."""
        rows = self.connection.execute(
            "select parent_id, sum(rows) filter (where not is_merged) from merge_order"
            " group by all order by all"
        ).fetchall()
        group: list[str] = []
        size = 0
        for parent_id, count in rows:
            if group and size + count > self.rows_at_once:
                yield group
                group, size = [], 0
            group.append(parent_id)
            size += count or 0
        if group:
            yield group

    def _merge(self, parents: Sequence[str]) -> Compacted:
        stream = self.stream
        key = [f'"{name}"' for name in stream.key]
        columns = [f'versions."{name}"' for name in (*stream.schema.names, "last_good_at")]
        parts = {
            "columns": ", ".join(columns),
            "key": ", ".join(key),
            "versions_key": ", ".join(f"versions.{name}" for name in key),
            "same_key": " and ".join(f"runs.{name} = versions.{name}" for name in key),
            "read_target": f"versions.{stream.parent_key}",
            "versions_day": utc_day_of(stream, "versions"),
            "placed_by": ", ".join(f'versions."{name}"' for name in stream.placed_by),
        }
        self.connection.execute(
            "create or replace temp table chosen as select unnest($1) as parent_id", [list(parents)]
        )
        runs = filled("merge_runs", **parts)
        self.connection.execute(f"create or replace temp table runs as {runs}")
        table = self.connection.sql(filled("merged_rows", **parts)).to_arrow_table()
        return self._commit(table)

    def _commit(self, table: pa.Table) -> Compacted:
        """Write merged rows under new pulls, which name the pulls that they replace."""
        shown = table.filter(table["is_shown"])
        counts = {
            one["values"]: one["counts"] for one in pc.value_counts(shown["pull_id"]).to_pylist()
        }
        pulls = {}
        merged = 0
        for pull, before, since, others, first in self._heads():
            replaced = [*before, *since, *others]
            merged += len(since)
            pulls[pull.pull_id] = replace(
                pull,
                pull_id=new_id(),
                rows=counts.get(pull.pull_id, 0),
                quarantined=0,
                requests=0,
                bytes=0,
                run_id=self.mark.run_id,
                replaces=replaced,
                first_sequence_no=first,
                generation=self.mark.generation,
            )
        renamed = pa.array(
            [pulls[one].pull_id for one in table["pull_id"].to_pylist()], pa.string()
        )
        table = table.set_column(table.schema.get_field_index("pull_id"), "pull_id", renamed)
        schema = merged_schema(self.stream)
        is_shown = table["is_shown"]
        table = table.select(schema.names)
        superseded = table.filter(pc.invert(is_shown))
        batch = self.lake.batch()
        batch.merged(self.stream, table.filter(is_shown), superseded, month=self.month)
        batch.commit(list(pulls.values()))
        return Compacted(pulls=merged, rows=shown.num_rows, superseded=superseded.num_rows)

    def _heads(
        self,
    ) -> Iterator[tuple[Pull, Sequence[str], Sequence[str], Sequence[str], int]]:
        """The compaction head of each chosen account, and what its successor replaces.

        Yields:
            The newest pull of the account; the head before, if any; the new pulls in the order of
            their sequence numbers; other heads of the same files, because two compactions
            overlapped; and the sequence number of the first new pull.
        """
        made = {"covers", "covers_from", "generation"}
        names = [name for name in PULL_COLUMNS if name not in made]
        columns = ", ".join(f"pulls.{name}" for name in names)
        result = self.connection.execute(
            f"select {columns}, before, since, others, first from ({QUERIES['merge_heads']})"
            " inner join pulls on newest_id = pulls.pull_id"
        )
        for *row, before, since, others, first in result.fetchall():
            yield Pull.of_row(names, row), before, since, others, first
