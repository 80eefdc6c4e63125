"""The ledger's files: one per commit, and a merged file for each past day.

A sync of many accounts commits hundreds of times, and every reader opens every file. So the files
of a past day are merged. The merged file has a fixed name that only one of several merges can
create. It names the commits that it holds, and their files no longer count. A later commit, for
example of a process that slept, is not among them and still counts.

Loss is detected. The name of a commit's file holds its writer, the writer's commit number, its size
and its checksum. The *checkpoints* have a copy of the file, and later of the merged file. A commit
is missing if only a checkpoint has it, if its number is missing among its writer's numbers, or if
present pulls list it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.digests import UNREADABLE, DamageError, Digest, digest
from pipelines.lake.folders import CHECKPOINTS, LEDGER
from pipelines.lake.ids import new_id
from pipelines.lake.ledger import LEDGER_SCHEMA
from pipelines.lake.present import Present, lost_records, newest
from pipelines.lake.storage import Key, Storage, Stored

_MERGED = "merged.parquet"
_HOLDS = b"leanhouse:batches"
_OPEN_DAYS = 2
"""Days after which a further commit is unlikely."""
_ROWS_AT_ONCE = 100_000
_Days = Mapping[str, Mapping[str, Stored]]
"""Files by day and by name without extension."""
_Number = tuple[str, int]
"""A writer, and the number of its commit, from 1."""
_DAY = re.compile(r"(pulled_on=[0-9-]{10})-([0-9]+)-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class _Held:
    """Names and numbers of the commits in a merged file."""

    names: frozenset[str]
    numbers: frozenset[_Number]


@dataclass(slots=True)
class _Writer:
    """A process that commits to a lake, and the number of its commits."""

    id: str = field(default_factory=lambda: secrets.token_hex(6))
    number: int = 0
    last: Key | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_WRITERS: dict[tuple[int, str], _Writer] = {}
"""By process id, because a forked process needs its own numbers, and by the lake's place."""


@dataclass(frozen=True, slots=True)
class MissingCommit:
    """A file of the ledger that is missing, or has the wrong checksum.

    Args:
        name: Its name below the ledger's folder; its writer and number if the name is unknown.
        key: Its name in `lost`.
        file: The damaged file, or None.
        copy: The checkpoint that holds the commit, or None.
    """

    name: str
    key: str
    file: Key | None = None
    copy: Key | None = None

    @property
    def batch_id(self) -> str | None:
        """Its batch; None if unknown."""
        return batch_of(self.key) if digest_of(self.key) else None

    @property
    def is_named(self) -> bool:
        """Whether `name` is that of a file, and not a writer's number."""
        return "/" in self.name

    @property
    def problem(self) -> str:
        """What is wrong with it."""
        return "has the wrong checksum" if self.file else "is missing"


@dataclass(frozen=True, slots=True)
class Tail:
    """The commits since the newest file of present pulls.

    Args:
        present: That file; None if there is none that counts, so that the tail is the ledger.
        files: Files of the ledger that it does not hold.
        partly: Merged files of which it holds some batches, with these batches.
        days: All files of the ledger.
        listing: The newest sound file of present pulls, whether it counts or not.
    """

    present: Present | None
    files: Sequence[Key]
    partly: Mapping[Key, frozenset[str]]
    days: _Days
    listing: Present | None


class LedgerFiles:
    """The files of the ledger.

    Args:
        storage: The lake's storage; the ledger has a folder per UTC day on which a commit began.
        lost: Names of commits that are known to be lost; they do not count as missing.
    """

    def __init__(self, storage: Storage, lost: frozenset[str] = frozenset()) -> None:
        self._storage = storage
        self._lost = lost

    def files(self) -> list[Key]:
        """Files that together hold each row once, in the order of their names.

        Raises:
            DamageError: A commit is missing, or its file has the wrong checksum.
        """
        return [file.key for file in self._counting(self._whole(newest(self._storage)))]

    def since_present(self) -> Tail:
        """The newest present pulls, and the files of commits since.

        Raises:
            DamageError: As for `files`.
        """
        listing = newest(self._storage)
        days = self._whole(listing)
        counting = self._counting(days)
        # What was lost since would still count in it.
        if listing is None or listing.lost != lost_records(self._storage):
            return Tail(None, [file.key for file in counting], {}, days, listing)
        files: list[Key] = []
        partly: dict[Key, frozenset[str]] = {}
        for file in counting:
            day, stem = file.key.parent.name, file.key.stem
            held = listing.single.get(day, frozenset())
            if file.key.name != _MERGED:
                if stem not in held:
                    files.append(file.key)
            elif day not in listing.merged:
                if not held:
                    files.append(file.key)
                elif not self._holds(file).names <= held:
                    partly[file.key] = frozenset(map(batch_of, held))
        return Tail(listing, files, partly, days, listing)

    def of_days(self, tail: Tail, first: dt.date) -> list[Key]:
        """Files that together hold each row of a day and of all later days once."""
        name = f"pulled_on={first}"
        days = {day: files for day, files in tail.days.items() if day >= name}
        return [file.key for file in self._counting(days)]

    def present_of(self, tail: Tail, file: Key) -> Present:
        """What a new file of present pulls lists that is derived from a tail and all before it."""
        merged: dict[str, Digest] = {}
        single: dict[str, set[str]] = {}
        before = tail.listing
        merged_before = before.merged if before else {}
        writers = dict(before.writers) if before else {}
        for stored in self._counting(tail.days):
            key, day = stored.key, stored.key.parent.name
            if key.name != _MERGED:
                single.setdefault(day, set()).add(key.stem)
                numbers = _numbers([key.stem])
            elif day in merged_before:
                merged[day] = merged_before[day]
                continue
            else:
                merged[day] = self.written(key) or digest(self._storage.local(key))
                numbers = self._holds(stored).numbers
            for writer, number in numbers:
                writers[writer] = max(number, writers.get(writer, 0))
        return Present(
            key=file,
            merged=merged,
            single={day: frozenset(stems) for day, stems in single.items()},
            writers=writers,
            generation=self.generation(tail),
            lost=lost_records(self._storage),
        )

    def since(self, seen: Collection[str], files: Collection[Key]) -> frozenset[str] | None:
        """Batches that files of the ledger hold and those that were seen did not.

        Args:
            seen: Earlier files of the ledger.
            files: The files now, as `files` gives them.

        Returns:
            The batches; None if a file that was seen is gone, and not because its day was merged.
        """
        before, now = {Key(name) for name in seen}, set(files)
        new, merged = self._batches_in(now - before), self._batches_in(before - now)
        return new - merged if merged <= new else None

    def _batches_in(self, files: Iterable[Key]) -> frozenset[str]:
        """Batches whose commits some files of the ledger hold."""
        found: set[str] = set()
        for file in files:
            there = self._storage.head(file) if file.name == _MERGED else None
            found |= {file.stem} if there is None else self._holds(there).names
        return frozenset(map(batch_of, found))

    def _whole(self, listing: Present | None) -> _Days:
        """The files, if none is missing or damaged.

        Args:
            listing: A file of present pulls: merged files that it lists are not read.
        """
        days, missing = self._look(listing)
        if missing:
            first = missing[0]
            more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise DamageError(
                f"the ledger's file pulls/{first.name} {first.problem}{more}: the pulls of that"
                " commit do not count; they may be of any stream and account"
            )
        return days

    def add(self, staged: Key, batch_id: str) -> int:
        """Make a commit count.

        Args:
            staged: The key for which its file was staged, in the folder of its day.
            batch_id: The commit's batch.

        Returns:
            Size of the file, in bytes.
        """
        writer = _WRITERS.setdefault((os.getpid(), self._storage.place), _Writer())
        with writer.lock:
            if writer.last is not None and self._storage.head(writer.last) is None:
                # The file was merged, or the folder has a different lake: start new numbers.
                writer.id, writer.number = _Writer().id, 0
            found = digest(self._storage.staged(staged))
            number = writer.number + 1
            tail = f"{writer.id}-{number}-{found.bytes}-{found.crc32:08x}"
            file = staged.with_name(f"{batch_id}-{tail}.parquet")
            try:
                self._storage.reveal(staged, file)
            except BaseException:
                # It may be there all the same: its number is not given to another commit.
                writer.id, writer.number, writer.last = _Writer().id, 0, None
                raise
            writer.number = number
            writer.last = CHECKPOINTS / file.name
            self._copy(file, writer.last)
        return found.bytes

    def missing(self) -> list[MissingCommit]:
        """Commits that are missing or changed; merged files are checked by size only."""
        return self._look(newest(self._storage), is_read=True)[1]

    def _look(
        self, listing: Present | None, *, is_read: bool = False
    ) -> tuple[_Days, list[MissingCommit]]:
        """The files, and the missing commits.

        A commit or merge may happen between two listings, and an object store's list may lag. So a
        commit is missing only if it is missing twice, and is not there when asked for by its name.
        """
        days, missing = self._look_once(listing, is_read=is_read)
        if missing:
            self._storage.settle()
            named = [LEDGER / one.name for one in missing.values() if one.is_named]
            days, again = self._look_once(listing, named, is_read=is_read)
            missing = {key: commit for key, commit in again.items() if key in missing}
        return days, list(missing.values())

    def _look_once(
        self, listing: Present | None, named: Iterable[Key] = (), *, is_read: bool
    ) -> tuple[_Days, dict[str, MissingCommit]]:
        # A copy is made after its file, so copies are listed first.
        copies = list(self._storage.list(f"{CHECKPOINTS}/*.parquet"))
        days = self._days(named)
        found: dict[str, MissingCommit] = {}
        names: set[str] = set()
        numbers: set[_Number] = set()
        read: list[Stored] = []
        skipped: list[Stored] = []
        for file in (file for files in days.values() for file in files.values()):
            is_known = not is_read and listing is not None and _is_listed(file, listing)
            (skipped if is_known else read).append(file)
        # Together, because an object store takes its time for each.
        with contextlib.suppress(*UNREADABLE):
            self._storage.local_all(file.key for file in read)
        for file in read:
            held = self._sound(file)
            if held is None:
                day = file.key.parent.name
                name = day if file.key.name == _MERGED else file.key.stem
                found[name] = MissingCommit(f"{day}/{file.key.name}", name, file.key)
            else:
                names |= held.names
                numbers |= held.numbers
        self._compare_copies(copies, days, names, skipped, found)
        if listing is not None:
            # What a damaged merged file holds is not known.
            absent = _absent(listing, days, names)
            found |= {
                key: one for key, one in absent if not {key, one.name.split("/")[0]} & set(found)
            }
        # The numbers in an unreadable merged file are unknown, so gaps prove nothing.
        unknown = {key for key, commit in found.items() if commit.name.endswith(_MERGED)}
        if unknown <= self._lost:
            before = {} if is_read or listing is None else listing.writers
            known = numbers | _numbers(found) | _numbers(self._lost)
            found |= {name: MissingCommit(name, name) for name in _left_out(known, before)}
        return days, {key: commit for key, commit in found.items() if key not in self._lost}

    def _compare_copies(
        self,
        copies: Iterable[Stored],
        days: _Days,
        names: set[str],
        skipped: Sequence[Stored],
        found: dict[str, MissingCommit],
    ) -> None:
        """Add commits that only a copy has, and copies of damaged files.

        Args:
            copies: All copies.
            days: All files.
            names: Names of sound commits.
            skipped: Merged files whose commits are not among these names.
            found: Missing commits.
        """
        for copy in copies:
            stem = copy.key.stem
            if (of_day := _DAY.fullmatch(stem)) is not None:
                day, merged = of_day[1], days.get(of_day[1], {}).get("merged")
                if not self._stands_for(copy, int(of_day[2]), merged, names):
                    there = merged.key if merged is not None else None
                    found[day] = MissingCommit(f"{day}/{_MERGED}", day, there, copy.key)
            elif stem in found:
                found[stem] = replace(found[stem], copy=copy.key)
            elif stem not in names and stem not in self._names_of(skipped):
                name = f"{_day_of(batch_of(stem))}/{copy.key.name}"
                found[stem] = MissingCommit(name, stem, None, copy.key)

    def sound(self, bad: Collection[Key]) -> list[Key]:
        """Files that together hold the ledger's rows outside of damaged files."""
        days = {
            day: {stem: file for stem, file in files.items() if file.key not in bad}
            for day, files in self._days().items()
        }
        return [file.key for file in self._counting(days)]

    def written(self, file: Key) -> Digest | None:
        """Size and checksum of a file when it was written; None if no name records them."""
        if file.name != _MERGED:
            return digest_of(file.stem)
        copies = self.copies_of(file)
        return digest_of(copies[-1].stem) if copies else None

    def copies_of(self, file: Key) -> list[Key]:
        """The checkpoints of a ledger file."""
        name = f"{file.parent.name}-*" if file.name == _MERGED else file.stem
        return [copy.key for copy in self._storage.list(f"{CHECKPOINTS}/{name}.parquet")]

    def copy(self, file: Key) -> None:
        """Make the checkpoint of a single commit if it does not exist."""
        self._copy(file, CHECKPOINTS / file.name)

    def restore(self, copy: Key) -> None:
        """Copy a checkpoint to its place in the ledger."""
        of_day = _DAY.fullmatch(copy.stem)
        day = of_day[1] if of_day else _day_of(batch_of(copy.stem))
        file = LEDGER / day / (_MERGED if of_day else copy.name)
        self._storage.put(file, self._storage.read(copy))

    def generation(self, tail: Tail | None = None) -> int:
        """Greatest generation of all pulls; 0 if none has one.

        It comes from Parquet's statistics per row group, without reading rows.
        """
        tail = tail or self.since_present()
        found = tail.listing.generation if tail.listing else 0
        for path in self._storage.local_all((*tail.files, *tail.partly)):
            about = pq.read_metadata(path)
            if "generation" not in about.schema.names:
                continue
            place = about.schema.names.index("generation")
            for group in range(about.num_row_groups):
                statistics = about.row_group(group).column(place).statistics
                if statistics is not None and statistics.has_min_max:
                    found = max(found, statistics.max)
        return found

    def batches(self) -> dict[str, float]:
        """Commits by id, each with the Unix second at which its present file was written.

        Raises:
            DamageError: A commit is missing, or its file has the wrong checksum.
        """
        found = {}
        for file in self._counting(self._whole(newest(self._storage))):
            is_merged = file.key.name == _MERGED
            for stem in self._holds(file).names if is_merged else (file.key.stem,):
                found[batch_of(stem)] = file.written_at
        return found

    def merged_files(self) -> Iterator[tuple[Stored, float]]:
        """Files of commits that were merged, each with the Unix second of the merge."""
        for file, merged in self._all(self._days()):
            if merged is not None:
                yield file, merged.written_at

    def merge(self, today: dt.date) -> int:
        """Merge the commits of past days; returns the number of merged files.

        Args:
            today: Today's UTC day.

        Raises:
            DamageError: A commit is missing, or its file has the wrong checksum.
        """
        latest = f"pulled_on={today - dt.timedelta(days=_OPEN_DAYS)}"
        count = 0
        listing = newest(self._storage)
        for day in self._whole(listing):
            if listing is not None and day in listing.merged:
                continue
            # List again, because another merge and a vacuum may have run meanwhile.
            files = [file.key for file in self._storage.list(f"{LEDGER}/{day}/*.parquet")]
            merged = LEDGER / day / _MERGED
            if merged not in files:
                if not day.startswith("pulled_on=") or day > latest or len(files) < 2:
                    continue
                for file in files:
                    was = digest_of(file.stem)
                    if was is not None and digest(self._storage.local(file)) != was:
                        raise DamageError(f"the ledger's file {file.name} has the wrong checksum")
                # If another merge was first, files that it does not hold still count.
                part = f"{new_id()}.parquet"
                paths = self._storage.local_all(files)
                self._storage.create(merged, partial(_merge, paths), part)
                count += len(files)
            self.check_in(merged)
        return count

    def check_in(self, merged: Key) -> None:
        """Make the checkpoint of a merged file, and delete the checkpoints of its commits."""
        if not self.copies_of(merged):
            found = digest(self._storage.local(merged))
            name = f"{merged.parent.name}-{found.bytes}-{found.crc32:08x}.parquet"
            self._copy(merged, CHECKPOINTS / name)
            self._storage.sync(CHECKPOINTS / name)
            self._storage.sync(CHECKPOINTS)
        there = self._storage.head(merged)
        for stem in self._holds(there).names if there is not None else ():
            self._storage.delete(CHECKPOINTS / f"{stem}.parquet")

    def _copy(self, file: Key, copy: Key) -> None:
        """Copy a file to the checkpoints if its copy does not exist."""
        self._storage.copy(file, copy, f"{new_id()}.parquet")

    def _days(self, named: Iterable[Key] = ()) -> _Days:
        """Files by day and by name without extension.

        Args:
            named: Files that are asked for by name, whether a list shows them or not.
        """
        found: dict[str, dict[str, Stored]] = {}
        asked = (file for file in map(self._storage.head, named) if file is not None)
        for file in (*self._storage.list(f"{LEDGER}/*/*.parquet"), *asked):
            found.setdefault(file.key.parent.name, {})[file.key.stem] = file
        return found

    def _counting(self, days: _Days) -> Iterator[Stored]:
        """Files that together hold each row once."""
        return (file for file, merged in self._all(days) if merged is None)

    def _all(self, days: _Days) -> Iterator[tuple[Stored, Stored | None]]:
        """All files, each with the merged file that holds its commit, or None."""
        for files in days.values():
            merged = files.get("merged")
            # Nothing lies beside most merged files.
            held = self._holds(merged).names if merged is not None and len(files) > 1 else ()
            for stem, file in files.items():
                yield file, merged if stem in held else None

    def _sound(self, file: Stored) -> _Held | None:
        """The commits of a ledger file; None if the file is damaged."""
        stem = file.key.stem
        try:
            if file.key.name == _MERGED:
                return self._holds(file)
            # Single files are small and few, because earlier days are merged: read them whole.
            was = digest_of(stem)
            path = self._storage.local(file.key)
            is_sound = was is None or _digest(path, file.bytes, file.version) == was
        except UNREADABLE:
            return None
        return _Held(frozenset([stem]), _numbers([stem])) if is_sound else None

    def _stands_for(
        self, copy: Stored, size: int, merged: Stored | None, names: Collection[str]
    ) -> bool:
        """Whether the ledger has all rows of a merged file's checkpoint, merged or not."""
        if merged is not None:
            return merged.bytes == size
        try:
            return self._holds(copy).names <= set(names)
        except UNREADABLE:
            return False

    def _names_of(self, merged: Sequence[Stored]) -> frozenset[str]:
        """Names of all commits in some merged files."""
        return frozenset(name for file in merged for name in self._holds(file).names)

    def _holds(self, merged: Stored) -> _Held:
        """The commits in a merged file or its checkpoint."""
        return _read(self._storage.local(merged.key), merged.bytes, merged.version)


def batch_of(stem: str) -> str:
    """The batch of a commit's file, from its name without extension."""
    return stem.partition("-")[0]


def _day_of(batch_id: str) -> str:
    """The folder of the day on which a batch began, from its id."""
    began = dt.datetime.fromtimestamp(int(batch_id[:14], 16) / 1e6, dt.UTC)
    return f"pulled_on={began:%Y-%m-%d}"


def digest_of(stem: str) -> Digest | None:
    """Size and checksum in the name of a ledger file or checkpoint; None if it has neither."""
    parts = stem.rsplit("-", 2)
    if len(parts) < 3 or not parts[1].isdecimal() or stem.count("-") < 4:
        return None
    return Digest(int(parts[1]), int(parts[2], 16))


@lru_cache(maxsize=65_536)
def _digest(file: Path, _size: int, _version: int) -> Digest:
    """The digest of a file, computed once until the file changes."""
    return digest(file)


def _numbers(stems: Iterable[str]) -> frozenset[_Number]:
    """Numbers in the names of commits; names of earlier formats have no number."""
    names = (stem.split("-") for stem in stems)
    return frozenset((parts[1], int(parts[2])) for parts in names if len(parts) == 5)


def _left_out(numbers: Collection[_Number], before: Mapping[str, int]) -> list[str]:
    """Writers with those commit numbers that are missing below the writer's greatest number.

    Args:
        numbers: Numbers of known commits.
        before: By writer, the number up to which its commits are known.
    """
    last: dict[str, int] = {}
    for writer, number in numbers:
        last[writer] = max(number, last.get(writer, 0))
    every = (
        (writer, number)
        for writer in sorted(last)
        for number in range(before.get(writer, 0) + 1, last[writer])
    )
    return [f"{writer}-{number}" for writer, number in every if (writer, number) not in numbers]


def _is_listed(file: Stored, listing: Present) -> bool:
    """Whether a file is a merged file that present pulls list, and has its size."""
    was = listing.merged.get(file.key.parent.name)
    return file.key.name == _MERGED and was is not None and was.bytes == file.bytes


def _absent(
    listing: Present, days: _Days, names: Collection[str]
) -> Iterator[tuple[str, MissingCommit]]:
    """Commits that present pulls list and that are missing, or have another size."""
    for day in listing.merged:
        file = days.get(day, {}).get("merged")
        if file is None or not _is_listed(file, listing):
            yield day, MissingCommit(f"{day}/{_MERGED}", day, file.key if file else None)
    for day, stems in listing.single.items():
        for stem in stems:
            if stem not in names:
                yield stem, MissingCommit(f"{day}/{stem}.parquet", stem)


def _merge(files: Sequence[Path], merged: Path) -> None:
    """Write the rows of several files to a single file, in parts."""
    held_names = {_HOLDS: json.dumps([file.stem for file in files])}
    from pyarrow.dataset import dataset  # noqa: PLC0415 - it imports pandas

    rows = dataset(list(map(str, files)), schema=LEDGER_SCHEMA).to_batches()
    schema = LEDGER_SCHEMA.with_metadata(held_names)
    with pq.ParquetWriter(merged, schema, compression="zstd") as writer:
        held: list[pa.RecordBatch] = []
        for batch in rows:
            held.append(batch)
            if sum(part.num_rows for part in held) >= _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_batches(held))
                held = []
        writer.write_table(pa.Table.from_batches(held, LEDGER_SCHEMA))


@lru_cache(maxsize=4096)
def _read(merged: Path, _size: int, _version: int) -> _Held:
    """The commits in a merged file, read once until the file changes."""
    names = frozenset(json.loads(pq.read_schema(merged).metadata[_HOLDS]))
    return _Held(names, _numbers(names))
