"""Models become Parquet: only what reads something that changed, in order, each part once.

A part is all rows of a model, or those of one month. Its *print* is a hash of the SQL and of what
it reads; a part whose print is the one on record is left as it is. What a part holds has a name,
its *content*, which a part that was built again and came out the same keeps, so that the chain
stops there.

Files are only added. A *manifest* names those that count. It is numbered and created last, if its
number is free: whoever reads sees one whole build, and a build that was overtaken begins again from
what the other one made.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from lean_resources.machine import machine_error
from lean_resources.streams import STREAMS, Window
from pipelines.lake.digests import DamageError, damage_error, digest, sealed, unsealed
from pipelines.lake.files import beside, create_text, reveal
from pipelines.lake.lake import Lake, typed_nothing
from pipelines.models.model import Check, Model, Models
from pipelines.models.relations import add_macros, add_seeds

__all__ = [
    "BuildError",
    "Built",
    "CheckResult",
    "Manifest",
    "Part",
    "Work",
    "build",
    "current_manifest",
    "keep_manifest",
    "newest_manifest",
    "next_number",
    "read_manifest",
    "stored_rows",
]

MEMORY_LIMIT = "3GB"
_SHOWN_OFFENDERS = 5
_FORMAT = (
    "format parquet, parquet_version v2, compression zstd, compression_level 1,"
    " dictionary_size_limit 2000, write_bloom_filter false"
)
"""Ids, of which a model has many, gain nothing from dictionaries, and no part from bloom filters,
since each holds rows of all accounts; trying takes a fifth of the time of writing."""
ROWS_AT_ONCE = 250_000
"""Rows of the lake that months of a model may read together."""
_DIGITS = 10
"""Of a manifest's number; names of older formats are longer."""
_ATTEMPTS = 5
"""Builds that begin again because another one was kept meanwhile."""
_WHOLE = ""
_MONTH_STREAMS = {
    name: stream
    for stream in STREAMS.values()
    if stream.window is Window.MONTHS
    for name in (stream.name, f"{stream.name}_history")
}
_SPANNED = ("DATE", "TIMESTAMP WITH TIME ZONE")
_Sums = list[tuple[str | None, str | None, str | None, int, int]]
"""Rows of a table of the ledger and the sum of their hashes, by stream, outcome and month."""
_BY_MONTH = {*_MONTH_STREAMS, "pulls", "claims"}
"""What models that are kept by month see a part of; rows without a month are not in any."""


class BuildError(Exception):
    """A model cannot be published as it came out; the message names it, and no value of a row."""


class Part(msgspec.Struct, frozen=True):
    """Rows of a model that are kept in one file.

    Args:
        file: Its file below the lake's folder; empty where there are no rows.
        print: Hash of the SQL and of what it read.
        content: Name of its rows; it stays while they do, whatever their order.
        rows: How many.
        bytes: Size of its file; 0 where an earlier format than 3 wrote it, or without a file.
        crc32: Checksum of its file.
    """

    file: str
    print: str
    content: str
    rows: int
    bytes: int = 0
    crc32: int = 0


class CheckResult(msgspec.Struct, frozen=True):
    """What a check found.

    Args:
        print: Hash of the SQL and of what it read.
        offenders: Rows that break the claim.
        shown: The first few of them, as text by column.
        months: What it found in each month, where it is asked month by month.
    """

    print: str
    offenders: int
    shown: list[dict[str, str]]
    months: dict[str, CheckResult] = {}


class Manifest(msgspec.Struct):
    """Which files count, by model and part, and what the checks found, by model and claim.

    Args:
        number: One more than that of the manifest before it; 0 before format 3 of the lake.
        commits: Most commits that a build ever found in the ledger. Fewer mean a loss.
        parts: The files.
        checks: What the checks found.
    """

    number: int = 0
    commits: int = 0
    parts: dict[str, dict[str, Part]] = {}
    checks: dict[str, dict[str, CheckResult]] = {}


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a model.

    Args:
        model: The model.
        rows: Rows that it holds.
        parts: Parts that it consists of.
        written: Parts that were written anew.
        changed: Parts of those whose rows are others than before.
        seconds: Time that it took, checks included.
        checks: What each of its checks found, in an earlier build where it stays as it was.
        turned: Those that found another number of offenders than before, or ran for the first time.
        problem: Why it stays as it was before, or None.
    """

    model: Model
    rows: int
    parts: int
    written: int
    changed: int
    seconds: float
    checks: dict[Check, CheckResult]
    turned: tuple[Check, ...] = ()
    problem: str | None = None


def build(
    lake: Lake,
    models: Models,
    *,
    hash_key: str,
    only: Collection[str] | None = None,
    memory_limit: str = MEMORY_LIMIT,
    rows_at_once: int = ROWS_AT_ONCE,
    tell: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> list[Built]:
    """Bring models up to date with the lake as it stands.

    Args:
        lake: The lake.
        models: What there is to build.
        hash_key: Key of hashed identifiers; with another one everything is built anew.
        only: These models; None means all. What they read is taken as it was built last.
        memory_limit: Most memory that DuckDB may use before it turns to the disk.
        rows_at_once: Months of a model are selected together while they read fewer rows of the
            lake, so that memory stays that of one large month.
        tell: Is told the model, how many are done, and of how many.

    Returns:
        One entry per model that was asked for, in the order of building. A model with a problem
        stays as it was, and so do those that read it.

    Raises:
        BuildError: Other builds were faster, again and again.
    """
    lake.format.check()
    with lake.scratch() as scratch:
        work = Work(lake, models, hash_key, scratch, memory_limit, rows_at_once)
        for _ in range(_ATTEMPTS):
            built = _bring_up(work, only, tell)
            if work.keep():
                return built
            work = work.again()
        raise BuildError(f"{_ATTEMPTS} other builds ended while this one ran: build once more")


def _bring_up(
    work: Work, only: Collection[str] | None, tell: Callable[[str, int, int], None]
) -> list[Built]:
    """Bring models up to date, one after the other."""
    models = work.models
    wanted = [model for model in models if only is None or model.name in only]
    reads = [model.reads for model in wanted]
    reads += [check.reads for model in wanted for check in models.checks_of(model.name)]
    read = _through_views(itertools.chain(*reads), models)
    built: list[Built] = []
    with work.connection:
        for model in models:
            if model in wanted:
                tell(model.name, len(built), len(wanted))
                built.append(work.bring_up(model))
            elif model.name in read:
                work.take(model)
        if wanted:
            tell(wanted[-1].name, len(wanted), len(wanted))
    return built


def _through_views(names: Iterable[str], models: Models) -> list[str]:
    """Relations, and what the views among them read, inner ones first."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in found:
            if name in models and models[name].stored.is_view:
                for inner in models[name].reads:
                    add(inner)
            found[name] = None

    for name in names:
        add(name)
    return list(found)


def newest_manifest(lake: Lake) -> Path | None:
    """The file of the manifest that counts: the one of the highest number.

    Until format 3 of the lake a name was made of the time of this machine; any number is newer.
    One that was cut counts no more: the one before does, so that the next build heals it.
    """
    return _newest(lake)[0]


def current_manifest(lake: Lake) -> Manifest:
    """The manifest that counts; an empty one before the first build."""
    return _newest(lake)[1]


def _newest(lake: Lake) -> tuple[Path | None, Manifest]:
    """The manifest that counts and its file, which is read once."""
    files = lake.manifests.glob("*.json")
    order = sorted(files, key=lambda file: (len(file.stem) == _DIGITS, file.stem), reverse=True)
    for file in order:
        with contextlib.suppress(DamageError):
            return file, read_manifest(file)
    return None, Manifest()


def read_manifest(file: Path) -> Manifest:
    """The manifest of a file.

    Raises:
        DamageError: It does not hold what it held.
    """
    try:
        return msgspec.json.decode(unsealed(file.read_bytes()), type=Manifest)
    except (ValueError, msgspec.DecodeError):
        raise DamageError(f"manifests/{file.name} cannot be read") from None


def next_number(lake: Lake) -> int:
    """A number that is greater than that of any manifest, damaged ones included."""
    stems = (file.stem for file in lake.manifests.glob("*.json"))
    return max((int(stem) for stem in stems if len(stem) == _DIGITS), default=0) + 1


def keep_manifest(lake: Lake, manifest: Manifest, writer_id: str) -> None:
    """Let the files count that a manifest names, and no other ones.

    Raises:
        FileExistsError: Another one has its number.
    """
    lake.format.carry_forward()
    file = lake.manifests / f"{manifest.number:0{_DIGITS}}.json"
    create_text(file, sealed(msgspec.json.encode(manifest).decode()), writer_id)


@dataclass(frozen=True, slots=True)
class _Stale:
    """A part that has to be written.

    Args:
        name: Its month, or `_WHOLE`.
        months: Months that it reads of what is kept by month; none where it is kept whole.
        print: Hash of the SQL and of what it reads now.
        old: The part as it was before.
    """

    name: str
    months: tuple[str, ...]
    print: str
    old: Part | None


@dataclass
class Work:
    """One build under way.

    Args:
        lake: The lake.
        models: What there is to build.
        hash_key: Key of hashed identifiers.
        memory_limit: Most memory that DuckDB may use.
        rows_at_once: Rows of the lake that months of a model may read together.
        scratch: Folder for what is thrown away; names of files begin with its name.
        folder: Where models are written; the lake's folder for them when left.
    """

    lake: Lake
    models: Models
    hash_key: str
    scratch: Path
    memory_limit: str = MEMORY_LIMIT
    rows_at_once: int = ROWS_AT_ONCE
    folder: Path = field(default=None)  # type: ignore[assignment]
    connection: duckdb.DuckDBPyConnection = field(init=False)
    base: Path | None = field(init=False)
    manifest: Manifest = field(init=False)
    spare: dict[str, dict[str, Part]] = field(init=False, default_factory=dict)
    written: list[Path] = field(init=False, default_factory=list)
    stuck: dict[str, str] = field(init=False, default_factory=dict)
    errors: dict[str, Exception] = field(init=False, default_factory=dict)
    sums: dict[str, _Sums] = field(init=False, default_factory=dict)
    lake_rows: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.base, self.manifest = _newest(self.lake)
        known = {model.name for model in self.models}
        self.manifest.parts = {k: v for k, v in self.manifest.parts.items() if k in known}
        self.manifest.checks = {k: v for k, v in self.manifest.checks.items() if k in known}
        self.folder = self.folder or self.lake.marts
        self.connection = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'")
        self.connection.execute(f"set memory_limit = '{self.memory_limit}'")
        self.connection.execute("set preserve_insertion_order = false")
        self.connection.execute("set temp_directory = $1", [str(self.scratch / "spill")])
        add_macros(self.connection, self.models.macros.values(), self.hash_key)
        self.lake.attach_to(self.connection)
        add_seeds(self.connection, self.models.seeds)
        # Whatever a model is made with besides its own SQL: macros, and the key.
        key = hashlib.sha256(b"print of the key\0" + self.hash_key.encode()).hexdigest()
        self.lake_rows = dict(
            self.connection.execute(
                "select month, coalesce(sum(rows), 0)::bigint + count(*) from pulls"
                " where month is not null and outcome = 'COMMITTED' group by month"
            ).fetchall()
        )
        self.common = _hash(*self.models.macros.values(), key, duckdb.__version__)

        (commits,) = self._row("select count(distinct batch_id) from pulls")
        self.manifest.commits = max(self.manifest.commits, commits)

    def keep(self) -> bool:
        """Let what was built count, unless another build was kept meanwhile; whether it does."""
        self.manifest.number = next_number(self.lake)
        if newest_manifest(self.lake) != self.base:
            return False
        try:
            keep_manifest(self.lake, self.manifest, self.scratch.name)
        except FileExistsError:
            return False
        parts = (part for parts in self.manifest.parts.values() for part in parts.values())
        named = {self.lake.folder / part.file for part in parts}
        for written in self.written:
            if written not in named:
                written.unlink()
        return True

    def again(self) -> Work:
        """The same build from the lake as it stands now; what fits is not written again."""
        work = replace(self)
        work.spare, work.written = self.manifest.parts, self.written
        return work

    def take(self, model: Model) -> None:
        """Let others read a model as it was built last."""
        try:
            self._show(model)
        except duckdb.Error as error:
            self.errors[model.name] = error
            self.stuck[model.name] = _told(model, error)

    def bring_up(self, model: Model) -> Built:
        """Build what is out of date of a model, and run its checks."""
        started = time.monotonic()
        before = self.manifest.parts.get(model.name, {})
        told = self.manifest.checks.get(model.name, {})
        written = 0
        changed: list[str] = []
        checks: dict[Check, CheckResult] = {}
        problem = next((self.stuck[name] for name in model.reads if name in self.stuck), None)
        if problem is None:
            try:
                if not model.stored.is_view:
                    parts, written = self._parts(model, before)
                    changed = [
                        name
                        for name, part in parts.items()
                        if (
                            before[name].content != part.content
                            if name in before
                            else part.rows > 0
                        )
                    ]
                    changed += [name for name in before if name not in parts]
                    self.manifest.parts[model.name] = parts
                self._show(model)
                if changed:
                    self._prove_key(model, changed)
                checks = {check: self._run(check) for check in self.models.checks_of(model.name)}
            except (BuildError, duckdb.Error) as error:
                self.errors[model.name] = error
                problem = _told(model, error)
        if problem is not None:
            self.stuck[model.name] = problem
            self.manifest.parts.pop(model.name, None)
            if before:
                self.manifest.parts[model.name] = before
            # Its rows stay as they were, and so does what is wrong with them.
            checks = {
                check: told[check.name]
                for check in self.models.checks_of(model.name)
                if check.name in told
            }
        turned = tuple(
            check
            for check, found in checks.items()
            if check.name not in told or told[check.name].offenders != found.offenders
        )
        self.manifest.checks[model.name] = {check.name: found for check, found in checks.items()}
        kept = self.manifest.parts.get(model.name, {})
        return Built(
            model=model,
            rows=sum(part.rows for part in kept.values()),
            parts=len(kept),
            written=written,
            changed=len(changed),
            seconds=time.monotonic() - started,
            checks=checks,
            turned=turned,
            problem=problem,
        )

    def _parts(self, model: Model, before: dict[str, Part]) -> tuple[dict[str, Part], int]:
        """The parts of a model, and how many of them were written anew."""
        parts: dict[str, Part] = {}
        stale: list[_Stale] = []
        for name in self._part_names(model):
            months = () if name == _WHOLE else self._read_months(model, name)
            print_ = _hash(
                self.common,
                model.body,
                *(self._print(one, months or None) for one in model.reads),
            )
            old = before.get(name)
            for one in (old, self.spare.get(model.name, {}).get(name)):
                if one is not None and one.print == print_ and self._is_there(one):
                    parts[name] = one
                    break
            else:
                stale.append(_Stale(name, months, print_, old))
        for group in self._grouped(stale):
            parts |= self._write(model, group)
        return dict(sorted(parts.items())), len(stale)

    def _grouped(self, stale: Collection[_Stale]) -> Iterator[list[_Stale]]:
        """Parts that are selected together: planning a query costs more than a few rows do."""
        group: list[_Stale] = []
        months: set[str] = set()
        for one in stale:
            if (
                group
                and sum(self.lake_rows.get(m, 0) for m in months.union(one.months))
                > self.rows_at_once
            ):
                yield group
                group, months = [], set()
            group.append(one)
            months.update(one.months)
        if group:
            yield group

    def _part_names(self, model: Model) -> list[str]:
        if model.stored.month is None:
            return [_WHOLE]
        seen = {month for name in model.reads for month in self._months(name) or ()}
        reach = range(model.stored.before, model.stored.after + 1)
        return sorted({_shifted(month, -step) for month in seen for step in reach})

    def _months(self, name: str) -> set[str] | None:
        """Months that a relation is kept in, or None where it is kept whole."""
        if name in _BY_MONTH:
            return set(self.lake_rows)
        if name not in self.models:
            return None
        model = self.models[name]
        if model.stored.month is not None:
            parts = self.manifest.parts.get(name, {})
            return {month for month, part in parts.items() if part.rows}
        if model.stored.is_view:
            inner = [self._months(one) for one in model.reads]
            if any(one is not None for one in inner):
                return set().union(*(one for one in inner if one is not None))
        return None

    def _read_months(self, model: Model, month: str) -> tuple[str, ...]:
        reach = range(model.stored.before, model.stored.after + 1)
        return tuple(_shifted(month, step) for step in reach)

    def _print(self, name: str, months: tuple[str, ...] | None) -> str:
        """Hash of what a relation holds, of some months where it is kept by month."""
        asked = months if self._months(name) is not None else None
        if name in self.models and not self.models[name].stored.is_view:
            # Not remembered: it changes when the model is built.
            parts = self.manifest.parts.get(name, {})
            return _hash(
                *(
                    f"{month}={part.content}"
                    for month, part in sorted(parts.items())
                    if asked is None or month in asked
                )
            )
        if name in self.models:
            model = self.models[name]
            return _hash(model.body, *(self._print(one, asked) for one in model.reads))
        return self._print_of_lake(name, asked)

    def _print_of_lake(self, name: str, months: tuple[str, ...] | None) -> str:
        if name in self.models.seeds:
            return _hash(self.models.seeds[name].read_text(encoding="utf-8"))
        if name == "clock":
            return _hash(*map(str, self._row("select * from clock")))
        if name in {"claims", "account_depths", "refresh_spends", "refresh_attempts"}:
            return self._hashed(name, months)
        if name in STREAMS:
            return self._hashed("claims", months, name)
        stream = name.removesuffix("_history")
        if stream in STREAMS:
            return self._hashed("pulls", months, stream, "COMMITTED")
        return self._hashed("pulls", months)

    def _hashed(
        self,
        table: str,
        months: tuple[str, ...] | None,
        stream: str | None = None,
        outcome: str | None = None,
    ) -> str:
        """Hash of rows of a table of the ledger, which is gone through once per build."""
        if table not in self.sums:
            kinds = [
                one if one in self.models.relations[table].types else f"null as {one}"
                for one in ("stream", "outcome", "month")
            ]
            self.sums[table] = self.connection.execute(
                f"select {', '.join(kinds)}, count(*), coalesce(sum(hash(it)::hugeint), 0)"
                f" from {table} as it group by all"
            ).fetchall()
        rows = total = 0
        for its_stream, its_outcome, month, count, summed in self.sums[table]:
            if (
                stream in {None, its_stream}
                and outcome in {None, its_outcome}
                and (months is None or month in months)
            ):
                rows += count
                total += summed
        return _hash(str(rows), str(total))

    def _row(self, query: str, **given: Any) -> tuple[Any, ...]:
        row = self.connection.execute(query, given or None).fetchone()
        return row if row is not None else ()

    def _is_there(self, part: Part) -> bool:
        """Whether a part's file lies there whole, as far as its size tells."""
        if not part.rows:
            return True
        file = self.lake.folder / part.file
        return file.exists() and (not part.bytes or file.stat().st_size == part.bytes)

    def _write(self, model: Model, group: Sequence[_Stale]) -> dict[str, Part]:
        """Select the rows of some parts, each into its file."""
        names = [one.name for one in group]
        select = f"select * from ({model.body}\n) as it"
        if names == [_WHOLE]:
            return {_WHOLE: self._put(model, group[0], select)}
        select += f" where {model.stored.month} in {_listed(names)}"
        self._narrow(model.reads, sorted({month for one in group for month in one.months}))
        self._tell_part(names[0], names[-1])
        try:
            if len(group) == 1:
                return {names[0]: self._put(model, group[0], select)}
            self.connection.execute(f"create or replace temp table chosen as {select}")
        finally:
            self.connection.execute("set search_path = 'main'")
            self._tell_part()
        select = f"select * from chosen where {model.stored.month}"
        found = self.connection.execute(f"select distinct {model.stored.month} from chosen")
        filled = {month for (month,) in found.fetchall()}
        parts = {
            one.name: self._put(model, one, f"{select} = '{one.name}'")
            if one.name in filled
            else Part(file="", print=one.print, content="", rows=0)
            for one in group
        }
        self.connection.execute("drop table chosen")
        return parts

    def _put(self, model: Model, stale: _Stale, select: str) -> Part:
        """Write what a SELECT gives into the file of a part."""
        folder = self.folder / model.name
        if stale.name != _WHOLE:
            folder /= f"month={stale.name}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.scratch.name}-{len(self.written)}.parquet"
        written = beside(file)
        path = str(written).replace("'", "''")
        (rows,) = self._row(f"copy ({select}) to '{path}' ({_FORMAT})")
        old = stale.old
        if old is not None and self._is_like(old, written, rows):
            written.unlink()
            return msgspec.structs.replace(old, print=stale.print, rows=rows)
        if rows == 0:
            written.unlink()
            return Part(file="", print=stale.print, content="", rows=0)
        found = digest(written)
        reveal(written, file)
        self.written.append(file)
        return Part(
            file=self._named(file),
            print=stale.print,
            content=file.stem,
            rows=rows,
            bytes=found.bytes,
            crc32=found.crc32,
        )

    def _named(self, file: Path) -> str:
        """A file's path as the manifest has it: below the lake's folder, else as it is."""
        is_in_lake = file.is_relative_to(self.lake.folder)
        return str(file.relative_to(self.lake.folder) if is_in_lake else file)

    def _is_like(self, old: Part, written: Path, rows: int) -> bool:
        """Whether a file holds the same rows as a part on record, in whatever order.

        Rows are read only where there are as many, as most parts that are built again have others.
        """
        if old.rows != rows or not self._is_there(old):
            return False
        if rows == 0:
            return True
        # Columns first: DuckDB hashes a null like a column less.
        for query in ("describe select *", "select sum(hash(it)::hugeint)"):
            before, now = (
                self.connection.execute(
                    f"{query} from read_parquet($path, hive_partitioning = false) as it",
                    {"path": str(file)},
                ).fetchall()
                for file in (self.lake.folder / old.file, written)
            )
            if before != now:
                return False
        return True

    def _narrow(self, reads: Collection[str], months: Collection[str]) -> None:
        """Let names that are kept by month mean some months of them, until told otherwise."""
        self.connection.execute("drop schema if exists part cascade")
        self.connection.execute("create schema part")
        for name in _through_views(reads, self.models):
            if self._months(name) is None:
                continue
            if name in self.models:
                one = self.models[name]
                select = (
                    one.body
                    if one.stored.is_view
                    else stored_rows(self.lake, one, self.manifest, months)
                )
            elif name in {"pulls", "claims"}:
                select = f"select * from main.{name} where month in {_listed(months)}"
            elif name.endswith("_history"):
                select = self.lake.history(_MONTH_STREAMS[name], months)
            else:
                select = self.lake.resolved(_MONTH_STREAMS[name], months)
            self.connection.execute(f"create view part.{name} as {select}")
        self.connection.execute("set search_path = 'part,main'")

    def _tell_part(self, first: str | None = None, last: str | None = None) -> None:
        """Let the macro `in_part` know which months are being built, or that none is."""
        for name, text in (
            ("part_from", "null" if first is None else f"date '{first}-01'"),
            ("part_to", "null" if last is None else f"last_day(date '{last}-01')"),
        ):
            self.connection.execute(f"set variable {name} = {text}")

    def _show(self, model: Model) -> None:
        """Let later models read this one."""
        select = model.body
        if not model.stored.is_view:
            select = stored_rows(self.lake, model, self.manifest)
        self.connection.execute(f"create or replace view main.{model.name} as {select}")

    def _prove_key(self, model: Model, changed: Collection[str]) -> None:
        """Refuse a model whose key is null or not unique.

        Args:
            model: The model.
            changed: Its parts that are others than before; the others have been proved.

        Raises:
            BuildError: It is.
        """
        rows = model.name
        if self._is_told_apart(model):
            rows = f"({stored_rows(self.lake, model, self.manifest, changed)})"
        key = ", ".join(model.key)
        is_null = " or ".join(f"{name} is null" for name in model.key)
        # Keys whose hashes all differ do so too, and hashes take a fraction of the keys' memory.
        nulls, alike = self._row(
            f"select count(*) filter (where {is_null}), count(*) - count(distinct hash({key}))"
            f" from {rows}"
        )
        if not nulls and not alike:
            return
        nulls, twice = self._row(
            f"select (select count(*) from {rows} where {is_null}),"
            f" (select count(*) from (select 1 from {rows} group by {key}"
            " having count(*) > 1))"
        )
        if nulls or twice:
            raise BuildError(f"the key ({key}) is null in {nulls} rows, and doubled {twice} times")

    def _is_told_apart(self, model: Model) -> bool:
        """Whether a column of the key has other values in each part, so that keys differ too."""
        if model.stored.month is None or model.stored.month in model.key:
            return True
        parts = self.manifest.parts[model.name].values()
        files = [str(self.lake.folder / part.file) for part in parts if part.file]
        if len(files) < 2:
            return True
        for column in model.columns:
            if column.name not in model.key or column.type not in _SPANNED:
                continue
            # What Parquet keeps of a column anyway; nothing is read.
            overlaps = self.connection.execute(
                f"""
                with spans as (
                    select
                        min(stats_min_value::{column.type}) as low,
                        max(stats_max_value::{column.type}) as high,
                        count(*) = count(stats_min_value) and count(*) = count(stats_max_value)
                            as is_known
                    from parquet_metadata($files)
                    where path_in_schema = $column
                    group by file_name
                )
                select 1
                from (select *, lag(high) over (order by low) as before from spans)
                where not is_known or low <= before
                limit 1
                """,
                {"files": files, "column": column.name},
            ).fetchall()
            if not overlaps:
                return True
        return False

    def _run(self, check: Check) -> CheckResult:
        """What a check finds, taken from the last build where it reads what it read then."""
        old = self.manifest.checks.get(check.model, {}).get(check.name)
        if not check.is_monthly:
            return self._found(check, None, old)
        before = {} if old is None else old.months
        months = sorted({month for name in check.reads for month in self._months(name) or ()})
        found = {month: self._found(check, (month,), before.get(month)) for month in months}
        return CheckResult(
            print=_hash(*(one.print for one in found.values())),
            offenders=sum(one.offenders for one in found.values()),
            shown=[row for one in found.values() for row in one.shown][:_SHOWN_OFFENDERS],
            months=found,
        )

    def _found(
        self, check: Check, months: tuple[str, ...] | None, old: CheckResult | None
    ) -> CheckResult:
        reads = (self._print(name, months) for name in check.reads)
        print_ = _hash(self.common, check.body, *reads)
        if old is not None and old.print == print_:
            return old
        if months is not None:
            self._narrow(check.reads, months)
        try:
            result = self.connection.execute(check.body)
            names = [column[0] for column in result.description or ()]
            rows = result.fetchmany(_SHOWN_OFFENDERS)
            shown = [dict(zip(names, map(str, row), strict=True)) for row in rows]
            count = len(rows)
            while more := result.fetchmany(10_000):
                count += len(more)
        finally:
            if months is not None:
                self.connection.execute("set search_path = 'main'")
        return CheckResult(print=print_, offenders=count, shown=shown)


def stored_rows(
    lake: Lake, model: Model, manifest: Manifest, months: Collection[str] | None = None
) -> str:
    """The SELECT of a model's rows from its files, of some months or of all."""
    files = [
        lake.folder / part.file
        for month, part in sorted(manifest.parts.get(model.name, {}).items())
        if part.file and (months is None or month in months)
    ]
    if not files:
        return typed_nothing((column.name, column.type) for column in model.columns)
    return f"select * from read_parquet({lake.listed(files)}, hive_partitioning = false)"


def _told(model: Model, error: Exception) -> str:
    """Why a model did not come out; DuckDB's messages may quote values, so its kind has to do."""
    if isinstance(error, BuildError):
        return f"{model.name}: {error}"
    trouble = machine_error(error)
    if trouble is not None:
        return f"{model.name}: {trouble.message}. {trouble.remedy}"
    if (damage := damage_error(error)) is not None:
        return f"{model.name}: {damage.message}. {damage.remedy}"
    kind = type(error).__name__
    return f"{model.name}: {kind} of DuckDB; leanhouse build --explain {model.name} shows why"


def _listed(months: Collection[str]) -> str:
    return "(" + ", ".join(f"'{month}'" for month in sorted(months)) + ")"


def _shifted(month: str, step: int) -> str:
    """The month so many months later."""
    year, number = map(int, month.split("-"))
    year, number = divmod(year * 12 + number - 1 + step, 12)
    return f"{year:04}-{number + 1:02}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
