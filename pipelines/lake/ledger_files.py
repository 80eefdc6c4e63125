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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.digests import DamageError, Digest, digest
from pipelines.lake.files import beside, naming, place, put_once, reveal, synced
from pipelines.lake.ledger import LEDGER_SCHEMA, new_id

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
_Number = tuple[str, int]
"""A writer, and how many commits it had made with this one."""
_DAY = re.compile(r"(pulled_on=[0-9-]{10})-([0-9]+)-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class _Held:
    """Names of the commits that a merged file holds, and the numbers that they have."""

    names: frozenset[str]
    numbers: frozenset[_Number]


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
        key: What `lost` calls it.
        file: What lies in its place, or None.
        copy: The checkpoint that holds it, or None.
    """

    name: str
    key: str
    file: Path | None = None
    copy: Path | None = None

    @property
    def batch_id(self) -> str | None:
        """The batch that it was written with, where that is known."""
        return batch_of(self.key) if digest_of(self.key) else None

    @property
    def problem(self) -> str:
        """What is the matter with it."""
        return "does not hold what it held" if self.file else "is missing"


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
            more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise DamageError(
                f"the ledger's file pulls/{first.name} {first.problem}{more}: the pulls of that"
                " commit do not count, of whatever stream and account they are"
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
            days, again = self._look_once()
            missing = {key: one for key, one in again.items() if key in missing}
        return days, list(missing.values())

    def _look_once(self) -> tuple[_Days, dict[str, MissingCommit]]:
        # Copies are made after what they are of, so they are listed before it.
        copies = sorted(self.checkpoints.glob("*.parquet"))
        days = self._days()
        found: dict[str, MissingCommit] = {}
        names: set[str] = set()
        numbers: set[_Number] = set()
        for file in (file for files in days.values() for file in files.values()):
            held = _sound(file)
            if held is None:
                day = file.parent.name
                key = day if file.name == _MERGED else file.stem
                found[key] = MissingCommit(f"{day}/{file.name}", key, file)
            else:
                names |= held.names
                numbers |= held.numbers
        for copy in copies:
            if (of_day := _DAY.fullmatch(copy.stem)) is not None:
                day, merged = of_day[1], days.get(of_day[1], {}).get("merged")
                if not _stands_for(copy, int(of_day[2]), merged, names):
                    found[day] = MissingCommit(f"{day}/{_MERGED}", day, merged, copy)
            elif copy.stem in found:
                found[copy.stem] = replace(found[copy.stem], copy=copy)
            elif copy.stem not in names:
                name = f"{_day_of(batch_of(copy.stem))}/{copy.name}"
                found[copy.stem] = MissingCommit(name, copy.stem, None, copy)
        # What a merged file held that cannot be read is not known by its numbers either.
        if not any(one.name.endswith(_MERGED) for one in found.values()):
            left_out = _left_out(numbers | _numbers(found))
            found |= {name: MissingCommit(name, name) for name in left_out}
        return days, {key: one for key, one in found.items() if key not in self._lost}

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
            for stem in _holds(file).names if file.name == _MERGED else (file.stem,):
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
            files, merged = sorted(folder.glob("*.parquet")), folder / _MERGED
            if merged not in files:
                if folder.name > latest or len(files) < 2:
                    continue
                for file in files:
                    was = digest_of(file.stem)
                    if was is not None and digest(file) != was:
                        raise DamageError(
                            f"the ledger's file {file.name} does not hold what it held"
                        )
                _merge(files, merged)
                count += len(files)
            self.check_in(merged)
        return count

    def check_in(self, merged: Path) -> None:
        """Make the checkpoint of a merged file, unless its day has one, and drop those it holds."""
        if not any(self.checkpoints.glob(f"{merged.parent.name}-*.parquet")):
            found = digest(merged)
            name = f"{merged.parent.name}-{found.bytes}-{found.crc32:08x}.parquet"
            self._copy(merged, self.checkpoints / name)
            synced(self.checkpoints / name)
            synced(self.checkpoints)
        for stem in _holds(merged).names:
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
        held = _holds(merged).names if merged is not None else ()
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


def _sound(file: Path) -> _Held | None:
    """The commits of a file of the ledger; None where it does not hold what it held."""
    if file.name == _MERGED:
        with contextlib.suppress(*_UNREADABLE):
            return _holds(file)
        return None
    was = digest_of(file.stem)
    is_sound = was is None or _now(file) == was
    return _Held(frozenset([file.stem]), _numbers([file.stem])) if is_sound else None


def _stands_for(copy: Path, size: int, merged: Path | None, names: set[str]) -> bool:
    """Whether what the checkpoint of a merged file holds counts: there, or as single files."""
    try:
        return _holds(copy).names <= names if merged is None else merged.stat().st_size == size
    except _UNREADABLE:
        return False


def _numbers(stems: Iterable[str]) -> frozenset[_Number]:
    """Numbers of commits, by their names; those of earlier formats have none."""
    parts = (stem.split("-") for stem in stems)
    return frozenset((one[1], int(one[2])) for one in parts if len(one) == 5)


def _left_out(numbers: Collection[_Number]) -> list[str]:
    """Writers and numbers, below the greatest of the writer, that no commit has."""
    last: dict[str, int] = {}
    for writer, number in numbers:
        last[writer] = max(number, last.get(writer, 0))
    if sum(last.values()) == len(numbers):
        return []
    every = ((writer, number) for writer in sorted(last) for number in range(1, last[writer]))
    return [f"{writer}-{number}" for writer, number in every if (writer, number) not in numbers]


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
    # If another merge was first, what it holds is held, and the rest still counts by itself.
    put_once(part, merged)


def _holds(merged: Path) -> _Held:
    """What a merged file, or its checkpoint, holds."""
    there = merged.stat()
    return _read(merged, there.st_size, there.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(merged: Path, _size: int, _changed: int) -> _Held:
    """What a merged file holds; read once while it stays as it is."""
    names = frozenset(json.loads(pq.read_schema(merged).metadata[_HOLDS]))
    return _Held(names, _numbers(names))
