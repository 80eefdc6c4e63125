"""Data files that the ledger names and that are missing, or have the wrong size."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from pipelines.lake.queries import QUERIES
from pipelines.lake.storage import Key, Storage

_OURS = re.compile(r"[0-9a-f]{32}\.parquet")


@dataclass(frozen=True, slots=True)
class MissingFile:
    """A file that a committed pull rests on.

    Args:
        path: Its path below the lake's folder.
        is_there: Whether something lies there, of another size.
        of_what: Whose rows they are, as `described` says it.
    """

    path: str
    is_there: bool
    of_what: str

    @property
    def problem(self) -> str:
        """What is wrong with it."""
        return "has the wrong size" if self.is_there else "is missing"


def listed(storage: Storage, folders: Iterable[Key]) -> dict[str, int]:
    """Sizes of the Parquet files in the partitions of some folders, by path."""
    return {
        file.name: file.bytes
        for folder in folders
        for file in storage.list(f"{folder}/*/*.parquet")
    }


def foreign_files(connection: duckdb.DuckDBPyConnection, there: Iterable[str]) -> list[str]:
    """Paths whose names the lake did not give: as copies, these files would double rows.

    Args:
        connection: Where `pulls` is.
        there: Paths of files in folders of streams.
    """
    odd = [path for path in there if not _OURS.fullmatch(path.rpartition("/")[2])]
    if not odd:
        return []
    rows = connection.execute(
        "select path from (select unnest($paths) as path) where"
        " regexp_extract(path, '([^/]*)[.]parquet$', 1) not in (select batch_id from pulls)"
        " order by path",
        {"paths": odd},
    ).fetchall()
    return [str(path) for (path,) in rows]


def missing_files(
    connection: duckdb.DuckDBPyConnection,
    there: Mapping[str, int],
    folders: Iterable[str],
    known_lost: Collection[str] = (),
) -> list[MissingFile]:
    """Files of committed pulls that are missing or changed in size, and that nothing replaced.

    Args:
        connection: Where `pulls` and the macro `merged_pulls` are.
        there: Sizes of existing files, by path.
        folders: Folders of streams below the lake's, whose files alone are looked for.
        known_lost: Paths of files that are known to be lost.
    """
    rows = connection.execute(
        QUERIES["changed_files"],
        {"paths": list(there), "sizes": list(there.values()), "folders": list(folders)},
    ).fetchall()
    wanted = {path: is_there for path, is_there in rows if path not in known_lost}
    found = described(connection, wanted, only_missed=True) if wanted else {}
    return [MissingFile(path, wanted[path], of_what) for path, of_what in found.items()]


def described(
    connection: duckdb.DuckDBPyConnection, paths: Collection[str], *, only_missed: bool = False
) -> dict[str, str]:
    """Stream, read targets and UTC days of files of data, by path and without an id.

    Args:
        connection: Where `pulls` and the macro `merged_pulls` are.
        paths: Their paths below the lake's folder.
        only_missed: Whether to leave out files that no counting pull needs, or that a merged file
            replaces.
    """
    rows = connection.execute(
        QUERIES["described_files"],
        {"paths": list(paths), "only_missed": only_missed},
    ).fetchall()
    return {
        path: f"{stream} of {targets:,} {'accounts' if first else 'read targets'}"
        + (f", {first} to {last}" if first else "")
        for path, stream, targets, first, last in rows
    }


def missing_sentence(lost: Sequence[MissingFile]) -> str:
    """One sentence about files that are missing or shorter."""
    first = lost[0]
    more = f"; {len(lost) - 1:,} more files are missing or shorter" if len(lost) > 1 else ""
    return f"{first.path} {first.problem}: rows of {first.of_what}{more}"
