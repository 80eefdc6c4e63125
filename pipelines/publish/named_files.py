"""Files of an object store in a local folder, under the names by which a warehouse knows them.

A warehouse names its files relative to a folder. Of an object store, the folder is made for what is
asked: it has the files that a statement reads, or stand-ins for them while a warehouse is written.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from lean_resources.streams import STREAMS
from pipelines.lake.folder import Folder, copy_of
from pipelines.lake.folders import LEDGER, LOST, MARTS, rows_of
from pipelines.lake.parquet import parquet_of
from pipelines.lake.queries import QUERIES
from pipelines.lake.storage import Key, Storage

_NAMES = re.compile(r"'([^']+\.parquet)'")
_WORDS = re.compile(r"\w+")
_REAL = {LEDGER, LOST, rows_of(STREAMS["refreshes"])}
"""Folders whose rows are copied into a warehouse."""


def names_of(connection: duckdb.DuckDBPyConnection, sql: str | None) -> list[str]:
    """Names and patterns of files that a statement reads through a warehouse's definitions.

    They follow from the words of the statement and of the definitions, so they may be too many.

    Args:
        connection: One with an attached warehouse.
        sql: The statement, or several; None means any.
    """
    definitions: dict[str, list[str]] = defaultdict(list)
    for name, text in connection.execute(QUERIES["warehouse_definitions"]).fetchall():
        definitions[name.lower()].append(text)
    left = {*definitions} if sql is None else {*_WORDS.findall(sql.lower())}
    known: set[str] = set()
    names: dict[str, None] = {}
    while left := left - known:
        known |= left
        texts = [text for word in left for text in definitions.get(word, ())]
        names.update(dict.fromkeys(name for text in texts for name in _NAMES.findall(text)))
        left = {word for text in texts for word in _WORDS.findall(text.lower())}
    return list(names)


def sizes_of(storage: Storage, names: Iterable[str]) -> dict[Key, int | None]:
    """The files of names and patterns, with the sizes of those that a pattern found."""
    found: dict[Key, int | None] = {}
    for name in names:
        if "*" in name:
            found.update({one.key: one.bytes for one in storage.list(name)})
        else:
            found.setdefault(Key(name), None)
    return found


class NamedFiles:
    """A local folder with files of a storage under their keys.

    Args:
        folder: Where it is; whoever made it deletes it.
    """

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage = storage
        self.folder = folder
        self._storage_here = Folder(folder)
        self._first: dict[Key, Path] = {}

    def add(self, names: Iterable[str]) -> None:
        """Add files, by name or pattern.

        Raises:
            FileNotFoundError: A file that is named does not exist.
        """
        keys = list(sizes_of(self._storage, names))
        for key, path in zip(keys, self._storage.local_all(keys), strict=True):
            self._link(path, key)

    def stand_in(self, keys: Sequence[Key]) -> None:
        """Let each name that a warehouse's SELECTs use lead to a file with its columns.

        DuckDB opens the files of a view when it is created. Only what is copied into the warehouse
        has to be true: a part of a table stands for all parts of the table, and a file without
        rows for those of a pattern.
        """
        real = {key for key in keys if any(key.is_relative_to(folder) for folder in _REAL)}
        self.add(map(str, real))
        for key in keys:
            if key in real:
                continue
            if "*" in key.name:
                none = key.parent.parent / "none" / "none.parquet"
                if self._storage_here.head(none) is None:
                    table = pa.table({"nothing": pa.array([], pa.string())})
                    self._storage_here.put(none, parquet_of(table))
            else:
                # The parts of a table have the same columns.
                model = Key(*key.parts[:2]) if key.is_relative_to(MARTS) else key
                if model not in self._first:
                    self._first[model] = self._storage.local(key)
                self._link(self._first[model], key)

    def _link(self, path: Path, key: Key) -> None:
        self._storage_here.folder(key.parent)
        try:
            self._storage_here.link(path, key)
        except FileExistsError:
            return
        except OSError:
            # On another file system.
            self._storage_here.put(key, copy_of(path))
