"""A batch: files of one pull or of many that start to count at one instant."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from lean_resources.streams import Stream
from pipelines.lake.digests import digest
from pipelines.lake.folders import (
    LEDGER,
    answers_of,
    quarantine_of,
    rows_of,
    superseded_of,
)
from pipelines.lake.format import LakeFormat
from pipelines.lake.ledger import FileRecord, Pull, to_table
from pipelines.lake.ledger_files import LedgerFiles
from pipelines.lake.parquet import LEVEL, parquet_of
from pipelines.lake.schemas import RAW_SCHEMA, merged_schema
from pipelines.lake.storage import Key, Storage

_BESIDE_BODY = [name for name in RAW_SCHEMA.names if name != "body"]
_AT_ONCE = 2
"""Files that are written at the same time."""


class Batch:
    """Files that start to count at one instant, when the ledger's file gets its place.

    Answers are written as they are added, so that they need no memory; rows are kept until the
    commit, because one file of a month costs the same whatever its rows.

    Args:
        storage: Where the files go.
        format: The lake's format, which a commit carries forward.
        now: When the batch begins; its UTC day names the partition of what has no month.
    """

    def __init__(self, storage: Storage, format: LakeFormat, now: dt.datetime) -> None:  # noqa: A002
        self._writer = storage.writers.start()
        self.id = self._writer.id
        self.bytes = 0
        self._storage = storage
        self._format = format
        self._pulled_on = f"pulled_on={now.astimezone(dt.UTC):%Y-%m-%d}"
        self._answers: dict[Key, pq.ParquetWriter] = {}
        self._answer_rows: dict[Key, int] = {}
        self._tables: dict[Key, list[pa.Table]] = {}

    def rows(self, stream: Stream, table: pa.Table, *, month: str | None = None) -> None:
        """Add typed rows, those of one month for a stream with months.

        Args:
            table: Rows of its `lake_schema`; columns that are wholly null may be left out.
            month: UTC month as YYYY-MM.
        """
        partition = self._pulled_on if month is None else f"month={month}"
        self._hold(rows_of(stream) / partition, table)

    def raw(self, stream: Stream, table: pa.Table) -> None:
        """Write answers as received."""
        if table.num_rows == 0:
            return
        key = self._key(answers_of(stream) / self._pulled_on)
        with self._storage.staging(key) as file:
            if key not in self._answers:
                self._answers[key] = pq.ParquetWriter(
                    file,
                    RAW_SCHEMA,
                    compression="zstd",
                    compression_level=LEVEL,
                    # Bodies do not repeat, and nobody searches them by their first bytes.
                    use_dictionary=_BESIDE_BODY,
                    write_statistics=_BESIDE_BODY,
                )
            self._answers[key].write_table(table)
        self._answer_rows[key] = self._answer_rows.get(key, 0) + table.num_rows

    def merged(self, stream: Stream, shown: pa.Table, superseded: pa.Table, *, month: str) -> None:
        """Add rows of one month that were merged: those that show, and those that do not."""
        for folder, table in ((rows_of(stream), shown), (superseded_of(stream), superseded)):
            self._hold(folder / f"month={month}", table.cast(merged_schema(stream)))

    def quarantine(self, stream: Stream, table: pa.Table) -> None:
        """Add records that did not fit."""
        self._hold(quarantine_of(stream) / self._pulled_on, table)

    def commit(self, pulls: Sequence[Pull]) -> None:
        """Make the rows of committed pulls count, and keep the others' outcomes.

        Raises:
            ConfigError: The lake has a newer format than this code knows; nothing is written.
        """
        self._format.carry_forward()
        for key, writer in self._answers.items():
            with self._storage.staging(key):
                writer.close()
        # Encoding and disk take several files at once; sequentially they would take the longest.
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            list(pool.map(self._write, self._tables, map(_joined, self._tables.values())))
            rows = self._answer_rows | {
                key: sum(table.num_rows for table in tables) for key, tables in self._tables.items()
            }
            records = list(pool.map(self._record, rows, rows.values()))
            self._reveal(pool, records)
        # The ledger's file is last: nothing counts before.
        ledger = self._key(LEDGER / self._pulled_on)
        self._write(ledger, to_table(pulls, self.id, records))
        self.bytes += sum(record.bytes for record in records)
        self.bytes += LedgerFiles(self._storage).add(ledger, self.id)
        self._tables.clear()
        self._answers.clear()
        self._writer.end()

    def discard(self) -> None:
        """Give up what was not committed."""
        for writer in self._answers.values():
            # A full disk also refuses what closing writes, and the file is deleted all the same.
            with suppress(OSError):
                writer.close()
        for key in (*self._answers, *self._tables):
            self._storage.discard(key)
        self._writer.end()

    def _hold(self, folder: Key, table: pa.Table) -> None:
        if table.num_rows:
            self._tables.setdefault(self._key(folder), []).append(table)

    def _key(self, folder: Key) -> Key:
        return folder / f"{self.id}.parquet"

    def _write(self, key: Key, table: pa.Table) -> None:
        # A column costs a file the same whether it holds anything, and what is missing reads null.
        empty = [
            name for name in table.column_names if 0 < table.num_rows == table[name].null_count
        ]
        with self._storage.staging(key) as file:
            parquet_of(table.drop_columns(empty))(file)

    def _record(self, key: Key, rows: int) -> FileRecord:
        """What a staged file holds."""
        found = digest(self._storage.staged(key))
        return FileRecord(str(key), found.bytes, rows, found.crc32)

    def _reveal(self, pool: ThreadPoolExecutor, records: Sequence[FileRecord]) -> None:
        """Put staged files in their places."""
        self._storage.reveal_all([Key(record.path) for record in records], pool)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables as a single table, with null where a column is missing."""
    return pa.concat_tables(tables, promote_options="default")
