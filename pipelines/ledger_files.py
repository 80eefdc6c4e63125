"""The ledger's files: one per commit, and those of a day as one once the day is long over.

A sync of many accounts commits hundreds of times, and every reader opens every file. The merged
file of a day is linked into place under a name of its own, which the file system grants once; so
two that merge at the same time cannot both count. It names the commits that it holds, and their
files no longer count. A commit that comes after all, as from a process that slept, is not among
them and counts like any other.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import beside, place, synced
from pipelines.ledger import LEDGER_SCHEMA, new_id

__all__ = ["LedgerFiles"]

_MERGED = "merged.parquet"
_HOLDS = b"leanhouse:batches"
_OPEN_DAYS = 2
"""Days after which hardly a commit is still to come."""
_ROWS_AT_ONCE = 100_000


class LedgerFiles:
    """The files of the ledger.

    Args:
        folder: Where they lie, in a folder per UTC day on which the commit began.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self) -> list[Path]:
        """Files that together hold every row once, in the order of their names."""
        return [file for file, merged in self._all() if merged is None]

    def greatest(self, name: str) -> int:
        """Greatest value of a column of whole numbers above zero; 0 where no row has a value.

        Parquet keeps it for each group of rows, so that no row is read.
        """
        found = 0
        for file in self.files():
            about = pq.read_metadata(file)
            if name not in about.schema.names:
                continue
            place = about.schema.names.index(name)
            for group in range(about.num_row_groups):
                statistics = about.row_group(group).column(place).statistics
                if statistics is not None and statistics.has_min_max:
                    found = max(found, statistics.max)
        return found

    def batches(self) -> dict[str, float]:
        """Commits by id, each with the second since when its rows lie where they lie now."""
        found = {}
        for file in self.files():
            since = file.stat().st_mtime
            for batch_id in _held(file) if file.name == _MERGED else (file.stem,):
                found[batch_id] = since
        return found

    def merged_files(self) -> Iterator[tuple[Path, float]]:
        """Files of commits that a merged file holds, and the second since when it does."""
        for file, merged in self._all():
            if merged is not None:
                yield file, merged.stat().st_mtime

    def merge(self, today: dt.date) -> int:
        """Merge the commits of days that are over; how many files were merged.

        Args:
            today: The UTC day it is.
        """
        latest = f"pulled_on={today - dt.timedelta(days=_OPEN_DAYS)}"
        count = 0
        for folder in sorted(self._folder.glob("pulled_on=*")):
            files = sorted(folder.glob("*.parquet"))
            if folder.name > latest or len(files) < 2 or (folder / _MERGED) in files:
                continue
            _merge(files, folder / _MERGED)
            count += len(files)
        return count

    def _all(self) -> Iterator[tuple[Path, Path | None]]:
        """Every file, each with the merged one that holds it, if one does."""
        for folder, files in groupby(sorted(self._folder.glob("*/*.parquet")), _folder_of):
            listed = list(files)
            merged = folder / _MERGED
            held = _held(merged) if merged in listed else ()
            for file in listed:
                yield file, merged if file.stem in held else None


def _folder_of(file: Path) -> Path:
    return file.parent


def _merge(files: Sequence[Path], merged: Path) -> None:
    """Write the rows of some files as one, a part at a time, and let it count."""
    told = {_HOLDS: json.dumps([file.stem for file in files])}
    part = beside(merged.with_name(f"{new_id()}.parquet"))
    from pyarrow.dataset import dataset  # noqa: PLC0415 - it imports pandas

    rows = dataset(list(map(str, files)), schema=LEDGER_SCHEMA).to_batches()
    with pq.ParquetWriter(part, LEDGER_SCHEMA.with_metadata(told), compression="zstd") as writer:
        held: list[pa.RecordBatch] = []
        for batch in rows:
            held.append(batch)
            if sum(one.num_rows for one in held) >= _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_batches(held))
                held = []
        writer.write_table(pa.Table.from_batches(held, LEDGER_SCHEMA))
    synced(part)
    # Another one was first: what it holds is held, and the rest still counts by itself.
    with contextlib.suppress(FileExistsError):
        place(part, merged)
    part.unlink(missing_ok=True)
    synced(merged.parent)


@lru_cache(maxsize=4096)
def _held(merged: Path) -> frozenset[str]:
    """Ids of the commits that a merged file holds; it never changes."""
    return frozenset(json.loads(pq.read_schema(merged).metadata[_HOLDS]))
