"""fsck: finds and repairs damaged or lost files of a lake.

fsck reads all files. It compares each file with the size and checksum that the ledger, a manifest
or the file's name records. It repairs a file from a copy or from the answers as received. Without
either, the file's pulls no longer count: their days are unknown, and the next sync reads them
again.
"""

from __future__ import annotations

import datetime as dt
import io
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lean_resources.errors import LeanError
from lean_resources.streams import STREAMS, Stream, family
from pipelines.lake import present
from pipelines.lake.digests import DamageError, Digest, digest
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folder import Folder
from pipelines.lake.folders import (
    CHECKPOINTS,
    LEDGER,
    LOST,
    MANIFESTS,
    PRESENT,
    REFRESH_RESERVATIONS,
    REFRESH_RESULTS,
    SET_ASIDE,
    answers_of,
    quarantine_of,
    rows_of,
    superseded_of,
)
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import LOST_SCHEMA
from pipelines.lake.ledger_files import MissingCommit
from pipelines.lake.missing_files import described, foreign_files, listed, missing_files
from pipelines.lake.places import find, walk
from pipelines.lake.queries import QUERIES
from pipelines.lake.storage import Key, Storage
from pipelines.models.manifest import current_manifest, keep_manifest, next_number, read_manifest
from pipelines.publish.publications import published_warehouse
from pipelines.publish.warehouse import connect
from pipelines.sync.replay import replay

_KEPT_SECONDS = 48 * 3600
"""How long the budget needs the log of reserved refreshes."""
_UNREADABLE = (OSError, pa.ArrowException, duckdb.Error)
_ROUNDS = 4
"""A repair may uncover further damage."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is damaged, lost or foreign.

    Args:
        path: The file's path below the lake's folder.
        kind: `rows`, `answers`, `quarantine`, `ledger`, `checkpoint`, `present`, `refreshes`,
            `lost`, `part`, `manifest`, `warehouse` or `foreign`.
        of_what: Stream, accounts and days in the file, if known.
    """

    path: str
    kind: str
    problem: str
    of_what: str = ""

    def __str__(self) -> str:
        concerned = f": {self.of_what}" if self.of_what else ""
        return f"{self.path} {self.problem}{concerned}"


@dataclass(slots=True)
class Report:
    """The result of a check.

    Args:
        verified: Number of files with the recorded size and checksum.
        unverified: Number of files of an earlier format, which recorded neither.
    """

    findings: list[Finding] = field(default_factory=list)
    verified: int = 0
    unverified: int = 0


def check(lake: Lake) -> Report:
    """Read all files and compare them with their records.

    Raises:
        ConfigError: The lake has a newer format than this code knows.
    """
    lake.format.check()
    work = _Check(lake)
    if not work.logs(LOST, "lost"):
        return work.report
    bad = work.ledger()
    with open_duckdb() as connection:
        lake.attach_ledger(connection, lake.ledger.sound(bad))
        work.data(connection)
    work.logs(REFRESH_RESULTS, "refreshes")
    work.logs(REFRESH_RESERVATIONS, "refreshes")
    work.models()
    work.warehouse()
    return work.report


class _Check:
    def __init__(self, lake: Lake) -> None:
        self.report = Report()
        self._lake = lake
        self._storage = lake.storage

    def _add(self, file: Key | str, kind: str, problem: str, of_what: str = "") -> None:
        self.report.findings.append(Finding(str(file), kind, problem, of_what))

    def _compare(self, files: Iterable[tuple[Key, Digest | None, str, str]]) -> set[Key]:
        """Compare files with their records; returns those that differ."""
        wanted = list(files)
        with ThreadPoolExecutor() as pool:
            problems = list(pool.map(lambda it: _problem(self._storage, it[0], it[1]), wanted))
        for (file, was, kind, of_what), problem in zip(wanted, problems, strict=True):
            if problem is not None:
                self._add(file, kind, problem, of_what)
            elif was is None:
                self.report.unverified += 1
            else:
                self.report.verified += 1
        return {it[0] for it, problem in zip(wanted, problems, strict=True) if problem}

    def ledger(self) -> set[Key]:
        """Check the ledger; returns its damaged files."""
        ledger = self._lake.ledger
        missing = ledger.missing()
        for one in missing:
            self._add(f"pulls/{one.name}", "ledger", one.problem, self._of_batch(one))
        bad = {one.file for one in missing if one.file is not None}
        rest = (key for key in _keys(self._storage, f"{LEDGER}/*/*.parquet") if key not in bad)
        bad |= self._compare((file, ledger.written(file), "ledger", "") for file in rest)
        copies = _keys(self._storage, f"{CHECKPOINTS}/*.parquet")
        self._compare((file, ledger.written(file), "checkpoint", "") for file in copies)
        derived = _keys(self._storage, f"{PRESENT}/*.parquet")
        self._compare((file, present.written(file), "present", "") for file in derived)
        return bad

    def _of_batch(self, one: MissingCommit) -> str:
        """What a missing commit held, as far as it is known."""
        if one.copy is not None:
            return "a checkpoint has a copy"
        if one.batch_id is None:
            return "its content is not known; the next sync reads the days that are not covered"
        names = sorted(
            name
            for name, stream in STREAMS.items()
            if any(self._storage.list(f"{rows_of(stream)}/*/{one.batch_id}.parquet"))
        )
        return f"rows of {', '.join(names) or 'no stream'}"

    def data(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Check typed rows, earlier versions, quarantine and answers."""
        places = (rows_of, superseded_of, answers_of, quarantine_of)
        folders = [place(stream) for stream in STREAMS.values() for place in places]
        there = listed(self._storage, folders)
        lost = self._lake.lost_files()
        missing = {
            one.path: one for one in missing_files(connection, there, map(str, folders), lost)
        }
        for one in missing.values():
            self._add(one.path, _kind_of(one.path), one.problem, one.of_what)
        named = {
            path: Digest(size, checksum)
            for path, size, checksum in connection.execute(
                "select file.path, file.bytes, file.crc32 from"
                " (select unnest(files) as file from pulls where files is not null)"
            ).fetchall()
        }
        found = connection.execute("select distinct batch_id from pulls").fetchall()
        batches = {batch_id for (batch_id,) in found}
        foreign = set(foreign_files(connection, there))
        wanted = [
            path
            for path in there
            if path not in missing
            and path not in foreign
            and Key(path).stem in batches
            and not (path in named and there[path] != named[path].bytes)
        ]
        of_what = described(connection, wanted)
        self._compare(
            (Key(path), named.get(path), _kind_of(path), of_what.get(path, ""))
            for path in sorted(wanted)
        )
        for file in walk(self._storage, f"lake/{self._lake.environment}/"):
            is_known = file.place is not None or len(file.key.parts) == 1
            if not is_known and (str(file.key) in foreign or file.key.stem not in batches):
                self._add(file.key, "foreign", "is not a file of the lake")

    def logs(self, folder: Key, kind: str) -> bool:
        """Read files without a recorded size and checksum; True if all are readable."""
        files = [
            key
            for key in _keys(self._storage, f"{folder}/*/*.parquet")
            if find(f"lake/{self._lake.environment}/{key}")[0] is not None
        ]
        return not self._compare((file, None, kind, "") for file in files)

    def models(self) -> None:
        """Check the manifests, and the parts that the newest manifest names."""
        for key in _keys(self._storage, f"{MANIFESTS}/*.json"):
            try:
                read_manifest(self._lake, key)
            except (OSError, DamageError):
                self._add(key, "manifest", "cannot be read")
        self._compare(
            (
                Key(part.file),
                Digest(part.bytes, part.crc32) if part.bytes else None,
                "part",
                f"table {name}",
            )
            for name, part in current_manifest(self._lake).files()
        )

    def warehouse(self) -> None:
        """Read all tables of the published warehouse; DuckDB verifies its block checksums."""
        file = published_warehouse(self._storage)
        if file is None:
            return
        try:
            # Its tables are in the file itself.
            with connect(self._lake, "") as connection:
                tables = connection.execute(
                    "select schema_name, table_name from duckdb_tables() where not internal"
                    " and database_name = 'leanhouse'"
                ).fetchall()
                for schema, name in tables:
                    connection.execute(
                        f'select sum(hash(it)::hugeint) from leanhouse."{schema}"."{name}" as it'
                    ).fetchall()
        except (LeanError, duckdb.Error):
            self._add(file, "warehouse", "cannot be read")


def _keys(storage: Storage, pattern: str) -> list[Key]:
    return [file.key for file in storage.list(pattern)]


def _problem(storage: Storage, key: Key, was: Digest | None) -> str | None:
    """What is wrong with a file; None if it is sound."""
    try:
        if isinstance(storage, Folder):
            source: Path | io.BytesIO = storage.local(key)
        else:
            # Not a copy in the cache, which may be whole while the object is not.
            source = io.BytesIO(storage.read(key))
        if was is None:
            pq.read_table(source, partitioning=None)
            return None
        found = digest(source)
    except FileNotFoundError:
        return "is missing"
    except DamageError:
        return "has the wrong checksum"
    except _UNREADABLE:
        return "cannot be read"
    if found.bytes != was.bytes:
        return "has the wrong size"
    return None if found == was else "has the wrong checksum"


def _kind_of(path: str) -> str:
    first = path.partition("/")[0]
    return {"raw": "answers", "quarantine": "quarantine"}.get(first, "rows")


def repair(lake: Lake) -> list[str]:
    """Repair files where possible, and return a sentence per repair.

    Pulls whose rows are lost no longer count. It may run again after a crash, and while a sync
    runs.
    """
    done: list[str] = []
    for _ in range(_ROUNDS):
        report = check(lake)
        _Repair(lake, done).mend(report.findings)
        if not report.findings:
            break
    return done


class _Repair:
    def __init__(self, lake: Lake, done: list[str]) -> None:
        self._lake = lake
        self._done = done
        self._storage = lake.storage
        self._aside = SET_ASIDE / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}"

    def mend(self, findings: Collection[Finding]) -> None:
        """Repair the findings, the ledger before rows and answers, which depend on it."""
        kinds: dict[str, list[Finding]] = defaultdict(list)
        for finding in findings:
            kinds[finding.kind].append(finding)
        for kind in ("foreign", "lost", "warehouse", "manifest", "present"):
            self._put_aside(one.path for one in kinds[kind])
        self._checkpoints(kinds["checkpoint"])
        self._ledger(kinds["ledger"])
        self._refreshes(kinds["refreshes"])
        self._parts(kinds["part"])
        self._data([*kinds["rows"], *kinds["answers"], *kinds["quarantine"]])
        self._type_again()

    def _put_aside(self, paths: Iterable[str]) -> None:
        """Move files to the folder for damaged files, under their old paths."""
        for path in paths:
            key, aside = Key(path), self._aside / path
            if self._storage.head(key) is not None:
                self._storage.move(key, aside)
                self._done.append(f"{path} was moved to {aside.parent}")

    def _checkpoints(self, findings: Collection[Finding]) -> None:
        """Make damaged checkpoints again from sound files of the ledger."""
        self._put_aside(one.path for one in findings)
        if not findings:
            return
        ledger = self._lake.ledger
        for key in _keys(self._storage, f"{LEDGER}/*/*.parquet"):
            was = ledger.written(key)
            if key.name == "merged.parquet":
                if _problem(self._storage, key, None) is None:
                    ledger.check_in(key)
            elif was is not None and _problem(self._storage, key, was) is None:
                ledger.copy(key)

    def _ledger(self, findings: Collection[Finding]) -> None:
        """Restore ledger files from their copies; a commit without a copy is lost."""
        ledger = self._lake.ledger
        for finding in findings:
            copies = ledger.copies_of(Key(finding.path))
            sound = [
                one for one in copies if _problem(self._storage, one, ledger.written(one)) is None
            ]
            self._put_aside([finding.path])
            if sound:
                ledger.restore(sound[0])
                self._done.append(f"{finding.path} was restored from its copy")
        if lost := [one.key for one in ledger.missing()]:
            self._note_lost((key, None) for key in lost)
            self._done.append(
                f"{len(lost):,} commits are lost: the next sync reads days that only they covered"
            )

    def _refreshes(self, findings: Collection[Finding]) -> None:
        """Move damaged logs of refreshes away once the budget no longer needs them."""
        for one in findings:
            file = self._storage.head(Key(one.path))
            is_needed = Key(one.path).is_relative_to(REFRESH_RESERVATIONS)
            if file and is_needed and time.time() - file.written_at < _KEPT_SECONDS:
                self._done.append(
                    f"{one.path} stays for 48 hours: the refresh budget counts from it"
                )
            else:
                self._put_aside([one.path])

    def _parts(self, findings: Collection[Finding]) -> None:
        """Let the next build rebuild damaged parts."""
        if not findings:
            return
        bad = {one.path for one in findings}
        manifest = current_manifest(self._lake)
        manifest.parts = {
            model: {name: part for name, part in parts.items() if part.file not in bad}
            for model, parts in manifest.parts.items()
        }
        manifest.deltas, manifest.recipe = [], ""
        manifest.number = next_number(self._lake)
        with self._storage.writers.start() as writer:
            keep_manifest(self._lake, manifest, writer.id)
        self._put_aside(bad)
        self._done.append(f"the next build rebuilds {len(bad):,} parts of tables")

    def _data(self, findings: Collection[Finding]) -> None:
        """Record pulls whose rows are lost."""
        if not findings:
            return
        self._put_aside(one.path for one in findings)
        gone: list[tuple[str, str | None]] = [(one.path, None) for one in findings]
        again: dict[str, set[str]] = defaultdict(set)
        with self._lake.connect((), is_checked=False) as connection:
            for one in findings:
                key = Key(one.path)
                stream = STREAMS[key.parts[-3]]
                ids = self._resting_on(connection, stream, key)
                if one.kind == "rows":
                    gone += [(one.path, pull_id) for pull_id in ids]
                    gone += [("", pull_id) for pull_id in self._without(connection, stream, ids)]
                elif one.kind == "quarantine":
                    again[stream.name].update(ids)
                else:
                    sentence = f"{one.path}: the answers are lost; rows typed from them stay"
                    self._done.append(sentence)
        self._note_lost(gone)
        for name, chosen in again.items():
            replay(STREAMS[name], self._lake, only=chosen)

    def _resting_on(
        self, connection: duckdb.DuckDBPyConnection, stream: Stream, lost: Key
    ) -> list[str]:
        """Committed pulls whose rows were in a lost file, including merged pulls."""
        _, _, month = lost.parent.name.partition("month=")
        rows = connection.execute(
            QUERIES["pulls_of_file"],
            {"batch_id": lost.stem, "stream": stream.name, "month": month or None},
        ).fetchall()
        return [
            pull_id
            for pull_id, batch_id, of_month in rows
            if batch_id is None
            or self._storage.head(rows_of(stream) / f"month={of_month}" / f"{batch_id}.parquet")
            is None
        ]

    def _without(
        self, connection: duckdb.DuckDBPyConnection, stream: Stream, ids: Collection[str]
    ) -> list[str]:
        """Further pulls without answers; they must not count, so that the next sync reads them."""
        asked = STREAMS[stream.exploded_from or stream.name]
        raw = self._lake.raw_pages(asked)
        connection.execute(f"create or replace temp view raw_pages as {raw}")
        given = {"ids": list(ids), "family": [one.name for one in family(asked)]}
        rows = connection.execute(QUERIES["pulls_without_answers"], given).fetchall()
        return [pull_id for (pull_id,) in rows]

    def _note_lost(self, rows: Iterable[tuple[str, str | None]]) -> None:
        now = dt.datetime.now(dt.UTC)
        found = [{"file": f, "pull_id": p, "lost_at": now} for f, p in dict.fromkeys(rows)]
        self._lake.format.carry_forward()
        table = pa.Table.from_pylist(found, LOST_SCHEMA)
        self._lake.add(LOST / f"lost_on={now:%Y-%m-%d}", table)

    def _type_again(self) -> None:
        """Type lost pulls again from their answers, once each."""
        if not any(self._storage.list(f"{LOST}/*/*.parquet")):
            return
        with self._lake.connect((), is_checked=False) as connection:
            connection.execute(f"create temp view known_lost as {self._lake.known_lost()}")
            rows = connection.execute(QUERIES["pulls_to_type_again"]).fetchall()
        for stream, ids in rows:
            done = replay(STREAMS[stream], self._lake, run_id=f"fsck-{new_id()}", only=ids)
            if done.pulls:
                self._done.append(
                    f"{stream}: {done.pulls:,} pulls were decoded again from their answers"
                )
            if done.without_answers:
                self._done.append(
                    f"{stream}: the answers of {done.without_answers:,} pulls are lost too; days"
                    " that only they covered are unknown until the next sync reads them"
                )
