"""The ledger's files: one per commit, and those of a day as one once the day is long over.

A sync of many accounts commits hundreds of times, and every reader opens every file. The merged
file of a day is linked into place under a name of its own, which the file system grants once; so
two that merge at the same time cannot both count. It names the commits that it holds, and their
files no longer count. A commit that comes after all, as from a process that slept, is not among
them and counts like any other.

Nothing is lost in silence. A commit's file tells its writer, the writer's count of its commits, its
size and its checksum by its name. A copy of it, and later of the merged file that holds it, lies
among the *checkpoints*: what a checkpoint names and a number that a writer left out are missed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.digests import DamageError, Digest, digest
from pipelines.files import beside, naming, place, reveal, synced
from pipelines.ledger import LEDGER_SCHEMA, new_id

__all__ = ["LedgerFiles", "MissingCommit", "batch_of", "digest_of"]

_MERGED = "merged.parquet"
_HOLDS = b"leanhouse:batches"
_OPEN_DAYS = 2
"""Days after which hardly a commit is still to come."""
_ROWS_AT_ONCE = 100_000
_UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError)
"""What reading a damaged file may raise."""
_Days = Mapping[str, Mapping[str, Path]]
"""Files by day and by name without its ending."""
_DAY = re.compile(r"(pulled_on=[0-9-]{10})-([0-9]+)-([0-9a-f]{8})")


@dataclass(slots=True)
class _Writer:
    """A process that commits to one lake, and how many commits it has made."""

    id: str = field(default_factory=lambda: secrets.token_hex(6))
    number: int = 0
    last: Path | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_WRITERS: dict[tuple[int, Path], _Writer] = {}
"""By process, because a fork goes on with numbers of its own, and by folder."""


@dataclass(frozen=True, slots=True)
class MissingCommit:
    """A file of the ledger that is gone, or does not hold what it held.

    Args:
        name: Its name below the ledger's folder as far as it is known; its writer and number where
            nothing else is.
        batch_id: The batch that it was written with, where that is known.
        file: What lies in its place, or None.
        copy: The checkpoint that holds it, or None.
        key: What `lost` calls it.
    """

    name: str
    key: str
    batch_id: str | None = None
    file: Path | None = None
    copy: Path | None = None


class LedgerFiles:
    """The files of the ledger.

    Args:
        folder: Where they lie, in a folder per UTC day on which the commit began.
        lost: Names of commits that are known to be lost; they are missed no more.
    """

    def __init__(self, folder: Path, lost: frozenset[str] = frozenset()) -> None:
        self._folder = folder
        self._lost = lost
        self.checkpoints = folder.parent / "checkpoints"

    def files(self) -> list[Path]:
        """Files that together hold every row once, in the order of their names.

        Raises:
            DamageError: A commit is missing, or its file does not hold what it held.
        """
        days, missing = self._look()
        if missing:
            first = missing[0]
            what = "does not hold what it held" if first.file else "is missing"
            more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise DamageError(
                f"the ledger's file pulls/{first.name} {what}{more}: the pulls of that commit do"
                " not count, of whatever stream and account they are"
            )
        return [file for file, merged in _all(days) if merged is None]

    def add(self, part: Path, batch_id: str) -> Path:
        """Let a commit count whose file was written beside its place; the file."""
        writer = _WRITERS.setdefault((os.getpid(), self._folder), _Writer())
        with writer.lock:
            if writer.last is not None and not writer.last.exists():
                # Merged, or the lake is another one by now: these numbers are not gone on with.
                writer.id, writer.number = _Writer().id, 0
            found = digest(part)
            number = writer.number + 1
            tail = f"{writer.id}-{number}-{found.bytes}-{found.crc32:08x}"
            file = part.with_name(f"{batch_id}-{tail}.parquet")
            reveal(part, file)
            writer.number = number
            writer.last = self.checkpoints / file.name
            self._copy(file, writer.last)
        return file

    def missing(self) -> list[MissingCommit]:
        """Commits that are gone or changed; a merged file is only looked at for its size."""
        return self._look()[1]

    def _look(self) -> tuple[_Days, list[MissingCommit]]:
        """The files, and what is missing among them.

        A commit or a merge may come between two listings, so what is missing is so in two looks.
        """
        days, missing = self._look_once()
        if missing:
            keys = {one.key for one in missing}
            days, again = self._look_once()
            missing = [one for one in again if one.key in keys]
        return days, missing

    def _look_once(self) -> tuple[_Days, list[MissingCommit]]:
        # Copies are made after what they are of, so they are listed before it.
        copies = sorted(self.checkpoints.glob("*.parquet"))
        days = self._days()
        return days, self._missing(days, copies)

    def _missing(self, days: _Days, copies: Sequence[Path]) -> list[MissingCommit]:
        singles = {stem: file for files in days.values() for stem, file in files.items()}
        merged = {day: files["merged"] for day, files in days.items() if "merged" in files}
        found: dict[str, MissingCommit] = {}
        counted = _Numbers()
        held: set[str] = set()
        for stem, file in singles.items():
            counted.add(stem)
            was = digest_of(stem)
            if was is not None and _now(file) != was:
                name = f"{file.parent.name}/{file.name}"
                found[stem] = MissingCommit(name, stem, batch_of(stem), file)
        for day, file in merged.items():
            try:
                held |= _held(file)
                counted.add_all(_numbers(file))
            except _UNREADABLE:
                found[day] = MissingCommit(f"{day}/{_MERGED}", day, None, file)
        self._compare(copies, found, singles, merged, held, counted)
        if not any(one.name.endswith(_MERGED) for one in found.values()):
            found |= {name: MissingCommit(name, name) for name in counted.left_out()}
        return [one for key, one in found.items() if key not in self._lost]

    def _compare(
        self,
        copies: Sequence[Path],
        found: dict[str, MissingCommit],
        singles: Mapping[str, Path],
        merged: Mapping[str, Path],
        held: Collection[str],
        counted: _Numbers,
    ) -> None:
        """Add what checkpoints hold and the ledger does not."""
        for copy in copies:
            if (of_day := _DAY.fullmatch(copy.stem)) is not None:
                day, file = of_day[1], merged.get(of_day[1])
                if file is None:
                    is_whole = _is_held_by(copy, singles, counted)
                else:
                    is_whole = _size(file) == int(of_day[2])
                if not is_whole:
                    found[day] = MissingCommit(f"{day}/{_MERGED}", day, None, file, copy)
                continue
            counted.add(copy.stem)
            if copy.stem in found:
                found[copy.stem] = replace(found[copy.stem], copy=copy)
            elif copy.stem not in singles and copy.stem not in held:
                batch_id = batch_of(copy.stem)
                name = f"{_day_of(batch_id)}/{copy.name}"
                found[copy.stem] = MissingCommit(name, copy.stem, batch_id, None, copy)

    def sound(self, bad: Collection[Path]) -> list[Path]:
        """Files that together hold what is left of the ledger, without some that are damaged."""
        days = {
            day: {stem: file for stem, file in files.items() if file not in bad}
            for day, files in self._days().items()
        }
        return [file for file, merged in _all(days) if merged is None]

    def written(self, file: Path) -> Digest | None:
        """What a file held when it was written; None where nothing says so."""
        if file.name != _MERGED:
            return digest_of(file.stem)
        copies = sorted(self.checkpoints.glob(f"{file.parent.name}-*.parquet"))
        return digest_of(copies[-1].stem) if copies else None

    def copies_of(self, file: Path) -> list[Path]:
        """The checkpoints that hold what a file of the ledger held."""
        name = f"{file.parent.name}-*" if file.name == _MERGED else file.stem
        return sorted(self.checkpoints.glob(f"{name}.parquet"))

    def copy(self, file: Path) -> None:
        """Make the checkpoint of a single commit, unless there is one."""
        self._copy(file, self.checkpoints / file.name)

    def restore(self, copy: Path) -> None:
        """Put what a checkpoint holds into its place in the ledger."""
        of_day = _DAY.fullmatch(copy.stem)
        day = of_day[1] if of_day else _day_of(batch_of(copy.stem))
        file = self._folder / day / (_MERGED if of_day else copy.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copy, beside(file))
        reveal(beside(file), file)

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
        """Commits by id, each with the second since when its rows lie where they lie now.

        Raises:
            DamageError: A commit is missing, or its file does not hold what it held.
        """
        found = {}
        for file in self.files():
            since = file.stat().st_mtime
            for stem in _held(file) if file.name == _MERGED else (file.stem,):
                found[batch_of(stem)] = since
        return found

    def merged_files(self) -> Iterator[tuple[Path, float]]:
        """Files of commits that a merged file holds, and the second since when it does."""
        for file, merged in _all(self._days()):
            if merged is not None:
                yield file, merged.stat().st_mtime

    def merge(self, today: dt.date) -> int:
        """Merge the commits of days that are over; how many files were merged.

        Args:
            today: The UTC day it is.

        Raises:
            DamageError: A commit is missing, or its file does not hold what it held.
        """
        self.files()
        latest = f"pulled_on={today - dt.timedelta(days=_OPEN_DAYS)}"
        count = 0
        for folder in sorted(self._folder.glob("pulled_on=*")):
            files = sorted(folder.glob("*.parquet"))
            if folder.name > latest or len(files) < 2 or (folder / _MERGED) in files:
                if folder / _MERGED in files:
                    self.check_in(folder / _MERGED)
                continue
            for file in files:
                was = digest_of(file.stem)
                if was is not None and digest(file) != was:
                    raise DamageError(f"the ledger's file {file.name} does not hold what it held")
            _merge(files, folder / _MERGED)
            self.check_in(folder / _MERGED)
            count += len(files)
        return count

    def check_in(self, merged: Path) -> None:
        """Make the checkpoint of a merged file, unless its day has one, and drop those it holds."""
        if not any(self.checkpoints.glob(f"{merged.parent.name}-*.parquet")):
            found = digest(merged)
            name = f"{merged.parent.name}-{found.bytes}-{found.crc32:08x}.parquet"
            self._copy(merged, self.checkpoints / name)
            synced(self.checkpoints / name)
            synced(self.checkpoints)
        for stem in _held(merged):
            (self.checkpoints / f"{stem}.parquet").unlink(missing_ok=True)

    def _copy(self, file: Path, copy: Path) -> None:
        """Copy a file to the checkpoints, unless one is there."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{new_id()}.parquet.tmp")
        try:
            shutil.copyfile(file, part)
            with contextlib.suppress(FileExistsError):
                place(part, copy)
        finally:
            part.unlink(missing_ok=True)

    def _days(self) -> _Days:
        """Files by day and by name without its ending."""
        found: dict[str, dict[str, Path]] = {}
        for file in sorted(self._folder.glob("*/*.parquet")):
            found.setdefault(file.parent.name, {})[file.stem] = file
        return found


def _all(days: _Days) -> Iterator[tuple[Path, Path | None]]:
    """Every file, each with the merged one that holds it, if one does."""
    for files in days.values():
        merged = files.get("merged")
        held = _held(merged) if merged is not None else ()
        for stem, file in files.items():
            yield file, merged if stem in held else None


def batch_of(stem: str) -> str:
    """The batch that a commit's file, by its name without the ending, was written with."""
    return stem.partition("-")[0]


def _day_of(batch_id: str) -> str:
    """The folder of the day on which a batch began, as its id tells."""
    began = dt.datetime.fromtimestamp(int(batch_id[:14], 16) / 1e6, dt.UTC)
    return f"pulled_on={began:%Y-%m-%d}"


def digest_of(stem: str) -> Digest | None:
    """What a file of the ledger or a checkpoint held, by its name; None where that does not say."""
    parts = stem.rsplit("-", 2)
    if len(parts) < 3 or not parts[1].isdecimal() or stem.count("-") < 4:
        return None
    return Digest(int(parts[1]), int(parts[2], 16))


def _size(file: Path) -> int | None:
    """The size of a file; None where a vacuum took it meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _now(file: Path) -> Digest | None:
    """What a commit's file holds now; None where a vacuum took it meanwhile.

    Single files are small and few, as those of earlier days are merged: they are read whole.
    """
    try:
        there = file.stat()
        return _digest(file, there.st_size, there.st_mtime_ns)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=65_536)
def _digest(file: Path, _size: int, _changed: int) -> Digest:
    """The digest of a file, taken once while it stays as it is."""
    return digest(file)


class _Numbers:
    """Numbers of the commits that are known, by writer."""

    def __init__(self) -> None:
        self._found: dict[str, set[int]] = {}

    def add(self, stem: str) -> None:
        """Note the number of a commit, by its name."""
        parts = stem.split("-")
        if len(parts) == 5:
            self._found.setdefault(parts[1], set()).add(int(parts[2]))

    def add_all(self, numbers: Mapping[str, frozenset[int]]) -> None:
        """Note those of a merged file."""
        for writer, its in numbers.items():
            self._found.setdefault(writer, set()).update(its)

    def all(self) -> Mapping[str, frozenset[int]]:
        """What was noted."""
        return {writer: frozenset(its) for writer, its in self._found.items()}

    def left_out(self) -> list[str]:
        """Writers and numbers below the greatest of the writer that nobody has."""
        return [
            f"{writer}-{number}"
            for writer, its in self._found.items()
            if len(its) < max(its)
            for number in sorted(set(range(1, max(its))) - its)
        ]


def _is_held_by(copy: Path, singles: Mapping[str, Path], counted: _Numbers) -> bool:
    """Whether all commits of a checkpoint lie there as single files; their numbers are noted."""
    try:
        is_whole = all(stem in singles for stem in _held(copy))
    except _UNREADABLE:
        return False
    if is_whole:
        counted.add_all(_numbers(copy))
    return is_whole


def _merge(files: Sequence[Path], merged: Path) -> None:
    """Write the rows of some files as one, a part at a time, and let it count."""
    told = {_HOLDS: json.dumps([file.stem for file in files])}
    part = beside(merged.with_name(f"{new_id()}.parquet"))
    from pyarrow.dataset import dataset  # noqa: PLC0415 - it imports pandas

    rows = dataset(list(map(str, files)), schema=LEDGER_SCHEMA).to_batches()
    schema = LEDGER_SCHEMA.with_metadata(told)
    with naming(merged), pq.ParquetWriter(part, schema, compression="zstd") as writer:
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


def _held(merged: Path) -> frozenset[str]:
    """Names of the commits that a merged file holds."""
    there = merged.stat()
    return _read(merged, there.st_size, there.st_mtime_ns)[0]


def _numbers(merged: Path) -> Mapping[str, frozenset[int]]:
    """The numbers of the commits that a merged file holds, by writer."""
    there = merged.stat()
    return _read(merged, there.st_size, there.st_mtime_ns)[1]


@lru_cache(maxsize=4096)
def _read(
    merged: Path, _size: int, _changed: int
) -> tuple[frozenset[str], Mapping[str, frozenset[int]]]:
    """What a merged file holds; read once while it stays as it is."""
    held = frozenset(json.loads(pq.read_schema(merged).metadata[_HOLDS]))
    counted = _Numbers()
    for stem in held:
        counted.add(stem)
    return held, counted.all()
