"""Parts of models: which of them are out of date, and writing those.

A model is one part, or a part per month. Months are selected together while they read few rows,
because planning a query costs more than reading a few rows does. A part is always a new file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pipelines.lake.digests import digest
from pipelines.lake.folders import MARTS
from pipelines.lake.storage import Key, Storage
from pipelines.models.fingerprints import Fingerprints
from pipelines.models.manifest import PART_FORM, Part
from pipelines.models.model import Model
from pipelines.models.session import Session

PART_FORMAT = (
    "format parquet, parquet_version v1, compression zstd, compression_level 1,"
    " dictionary_size_limit 2000, write_bloom_filter false"
)
"""Readers of Iceberg refuse encodings of version 2. Ids, of which a model has many, gain nothing
from dictionaries. Parts gain nothing from bloom filters, since each holds rows of all accounts.
Trying both takes a fifth of the time of writing."""
_WHOLE = ""
"""Name of the only part of a model that is not kept by month."""


@dataclass(frozen=True, slots=True)
class _StalePart:
    """A part that has to be written.

    Args:
        name: Its month, or `_WHOLE`.
        months: Months that it reads of relations kept by month; None where it reads all.
        fingerprint: Hash of the SQL and of what it reads now.
        old: The part as it was before.
    """

    name: str
    months: tuple[str, ...] | None
    fingerprint: str
    old: Part | None

    def without_rows(self) -> Part:
        """The part, where the SELECT gave no rows."""
        return Part(file="", fingerprint=self.fingerprint, content_id="", rows=0, form=PART_FORM)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The parts of a model after a build.

    Args:
        parts: All of them, by name.
        written: How many were selected anew.
        changed: Names of parts whose rows are not those of before.
    """

    parts: dict[str, Part]
    written: int
    changed: list[str]

    @classmethod
    def of(cls, before: Mapping[str, Part], parts: Mapping[str, Part], written: int) -> Rebuilt:
        """What was done, by the parts before it and now."""
        changed = [name for name, part in parts.items() if _is_other(before.get(name), part)]
        changed += [name for name in before if name not in parts]
        return cls(dict(sorted(parts.items())), written, changed)


@dataclass
class PartWriter:
    """Brings parts of models up to date.

    Args:
        session: What models read.
        fingerprints: Of this build.
        folder: Where models are written; a local path where that is not in the lake.
        file_prefix: Names of files begin with it; no other process uses it.
        rows_at_once: Months are selected together while they read at most so many rows.
        reusable: Parts, by model and name, that are taken where their fingerprint fits.
        written: Files that were written.
    """

    session: Session
    fingerprints: Fingerprints
    folder: Key
    file_prefix: str
    rows_at_once: int
    reusable: Mapping[str, Mapping[str, Part]] = field(default_factory=dict)
    written: list[Key] = field(default_factory=list)

    def update(self, model: Model, before: Mapping[str, Part]) -> Rebuilt:
        """Write the parts of a model that are out of date.

        Args:
            model: A model that is not a view.
            before: Its parts as they are on record.

        Raises:
            duckdb.Error: The SELECT fails.
        """
        parts: dict[str, Part] = {}
        stale: list[_StalePart] = []
        for name in self._names(model):
            months = None if name == _WHOLE else tuple(_reach(model, name))
            fingerprint = self.fingerprints.of(model.body, model.reads, months)
            old = before.get(name)
            for known in (old, self.reusable.get(model.name, {}).get(name)):
                if known is not None and self._is_current(known, fingerprint):
                    parts[name] = known
                    break
            else:
                stale.append(_StalePart(name, months, fingerprint, old))
        for group in self._grouped(stale):
            parts |= self._write(model, group)
        return Rebuilt.of(before, parts, len(stale))

    def _names(self, model: Model) -> list[str]:
        """Names of the parts that a model has, given the months of what it reads."""
        if model.stored.month is None:
            return [_WHOLE]
        read = {month for name in model.reads for month in self.session.months(name) or ()}
        reach = range(model.stored.before, model.stored.after + 1)
        return sorted({_shifted(month, -step) for month in read for step in reach})

    def _grouped(self, stale: Collection[_StalePart]) -> Iterator[list[_StalePart]]:
        """Parts that are selected together."""
        group: list[_StalePart] = []
        months: set[str] = set()
        for part in stale:
            read = months.union(part.months or ())
            rows = sum(self.session.rows_by_month.get(month, 0) for month in read)
            if group and rows > self.rows_at_once:
                yield group
                group, read = [], set(part.months or ())
            group.append(part)
            months = read
        if group:
            yield group

    def _write(self, model: Model, group: Sequence[_StalePart]) -> dict[str, Part]:
        """Select the rows of some parts, and write each part."""
        month, session = model.stored.month, self.session
        select = f"select * from ({model.body}\n) as it"
        if month is None:
            return {_WHOLE: self._put(model, group[0], select)}
        names = [part.name for part in group]
        listed = ", ".join(f"'{name}'" for name in names)
        select += f" where {month} in ({listed})"
        months = sorted({read for part in group for read in part.months or ()})
        with session.narrowed(model.reads, months), self._spanning(names[0], names[-1]):
            if len(group) == 1:
                return {names[0]: self._put(model, group[0], select)}
            session.connection.execute(f"create or replace temp table chosen as {select}")
        found = session.connection.execute(f"select distinct {month} from chosen").fetchall()
        filled = {name for (name,) in found}
        parts = {
            part.name: self._put(model, part, f"select * from chosen where {month} = '{part.name}'")
            if part.name in filled
            else part.without_rows()
            for part in group
        }
        session.connection.execute("drop table chosen")
        return parts

    @contextlib.contextmanager
    def _spanning(self, first: str, last: str) -> Iterator[None]:
        """Within the block, the macro `in_part` knows the first and last month being built."""
        connection = self.session.connection
        connection.execute(f"set variable part_from = date '{first}-01'")
        connection.execute(f"set variable part_to = last_day(date '{last}-01')")
        try:
            yield
        finally:
            connection.execute("set variable part_from = null")
            connection.execute("set variable part_to = null")

    def _put(self, model: Model, stale: _StalePart, select: str) -> Part:
        """Write the rows of a SELECT as a part; the old part's file is kept if it holds them."""
        folder = self.folder / model.name
        if stale.name != _WHOLE:
            folder /= f"{model.stored.month}={stale.name}"
        key, storage = folder / f"{self.file_prefix}-{len(self.written)}.parquet", self._storage
        with storage.staging(key) as file:
            path = str(file).replace("'", "''")
            (rows,) = self.session.row(
                f"copy ({typed_rows(model, select)}) to '{path}' ({PART_FORMAT})"
            )
            old = stale.old
            if old is not None and self._holds_the_same(old, file, rows):
                storage.discard(key)
                return msgspec.structs.replace(old, fingerprint=stale.fingerprint)
            if rows == 0:
                storage.discard(key)
                return stale.without_rows()
            part = part_of(key, file, rows, stale.fingerprint)
        storage.reveal(key)
        self._there[part.file] = part.bytes
        self.written.append(key)
        return part

    @property
    def _storage(self) -> Storage:
        return self.session.lake.storage

    @functools.cached_property
    def _there(self) -> dict[str, int]:
        return files_there(self._storage)

    def _is_current(self, part: Part, fingerprint: str) -> bool:
        """Whether a part has a fingerprint, today's form, and its file."""
        is_same = part.fingerprint == fingerprint and part.form == PART_FORM
        return is_same and is_there(self._there, part)

    def _holds_the_same(self, old: Part, file: Path, rows: int) -> bool:
        """Whether a file holds the same rows as a part on record, in any order.

        Rows are read only where both have as many: most parts that are rebuilt have others.
        """
        if old.rows != rows or old.form != PART_FORM or not is_there(self._there, old):
            return False
        if rows == 0:
            return True
        # Columns first: DuckDB hashes a null like a column less.
        for query in ("describe select *", "select sum(hash(it)::hugeint)"):
            before, now = (
                self.session.connection.execute(
                    f"{query} from read_parquet($path, hive_partitioning = false) as it",
                    {"path": str(path)},
                ).fetchall()
                for path in (self._storage.local(Key(old.file)), file)
            )
            if before != now:
                return False
        return True


def files_there(storage: Storage) -> dict[str, int]:
    """Sizes of the files of models, by path: listed at once, however many are asked for."""
    patterns = (f"{MARTS}/*/*.parquet", f"{MARTS}/*/*/*.parquet")
    return {file.name: file.bytes for pattern in patterns for file in storage.list(pattern)}


def is_there(there: Mapping[str, int], part: Part) -> bool:
    """Whether a part's file exists and has its size; a part without rows has none."""
    size = there.get(part.file)
    return not part.rows or (size is not None and (not part.bytes or size == part.bytes))


def part_of(key: Key, file: Path, rows: int, fingerprint: str = "") -> Part:
    """The part that a file is, which is staged for a key and has so many rows."""
    found = digest(file)
    return Part(
        file=str(key),
        fingerprint=fingerprint,
        content_id=key.stem,
        rows=rows,
        bytes=found.bytes,
        crc32=found.crc32,
        form=PART_FORM,
    )


def typed_rows(model: Model, select: str) -> str:
    """A SELECT with the types that the model declares, whose columns may all be null.

    DuckDB writes a column as required where it can prove that a file has no null in it, so files of
    one model would differ. What it cannot prove is that `random()` is never negative.
    """
    nulls = ", ".join(f"null::{column.type}" for column in model.columns)
    return f"{select} union all select {nulls} where random() < 0"


def _is_other(before: Part | None, now: Part) -> bool:
    """Whether a part's rows are not those of before."""
    return now.rows > 0 if before is None else before.content_id != now.content_id


def _reach(model: Model, month: str) -> Iterator[str]:
    """The months that a month of a model reads."""
    for step in range(model.stored.before, model.stored.after + 1):
        yield _shifted(month, step)


def _shifted(month: str, step: int) -> str:
    """The month (YYYY-MM) that lies so many months later."""
    year, number = map(int, month.split("-"))
    year, number = divmod(year * 12 + number - 1 + step, 12)
    return f"{year:04}-{number + 1:02}"
