"""An analyst's copy of a warehouse: its file and the files that it reads, in a folder of one's own.

The copy needs no lake, no credentials and nothing of this project: DuckDB reads it. Files of a lake
never change, so that each pull brings only new ones. The warehouse's file is replaced last, and
what the one before reads stays until the next pull.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lean_resources.errors import ConfigError
from pipelines.environment import state_folder
from pipelines.lake.folder import Folder, copy_of
from pipelines.lake.folders import WAREHOUSE
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.lake.writers import exclusive
from pipelines.publish.export import outside
from pipelines.publish.named_files import names_of, sizes_of
from pipelines.publish.publications import published_warehouse
from pipelines.publish.warehouse import connect_file, swap_in

_RECORD, _LOCK = Key("leanhouse-pull.json"), Key(".leanhouse-pull.lock")
_AT_ONCE = 8
_TRIES = 3


class _Record(msgspec.Struct):
    """What a pull left in a folder.

    Args:
        place: The lake that it copies.
        files: Keys of the files that its warehouse reads.
        others: Keys of files that may lie there too.
    """

    place: str
    files: set[str] = set()
    others: set[str] = set()


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    Args:
        path: The warehouse's file.
        published: Key of the warehouse in the lake.
        files: Number of files that it reads.
        new_files: Number of files that were not there before.
        new_bytes: Their size.
    """

    path: Path
    published: Key
    files: int
    new_files: int
    new_bytes: int


def pull(lake: Lake, folder: Path) -> Pulled:
    """Bring a folder up to the newest warehouse, whole or not at all; nothing is written elsewhere.

    Args:
        folder: A new or empty folder, or one of an earlier pull of the same lake.

    Raises:
        ConfigError: The folder has something else, or is in the home of the lake.
        FileNotFoundError: No warehouse was published yet, or its files are deleted all the time.
    """
    target = Folder(outside(lake, state_folder(folder, "the folder of the copy")))
    # Before the lock, whose file would lie in a folder of others.
    _record(lake, target)
    with exclusive(target.local(_LOCK)):
        for _ in range(_TRIES - 1):
            # A vacuum may delete what a newer warehouse replaced.
            with suppress(FileNotFoundError):
                return _pull(lake, target, _record(lake, target))
        return _pull(lake, target, _record(lake, target))


def _record(lake: Lake, target: Folder) -> _Record:
    if target.head(_RECORD) is None:
        if any(one.key != _LOCK for one in target.walk()):
            raise ConfigError(f"{target.place} is not a copy of a lake: choose an empty folder")
        return _Record(lake.storage.place)
    record = msgspec.json.decode(target.read(_RECORD), type=_Record)
    if record.place != lake.storage.place:
        raise ConfigError(f"{target.place} is a copy of {record.place}: choose another folder")
    return record


def _pull(lake: Lake, target: Folder, record: _Record) -> Pulled:
    newest = published_warehouse(lake.storage)
    if newest is None:
        raise FileNotFoundError(f"{lake.storage.place} has no warehouse yet: run a sync first")
    target.put(_RECORD, msgspec.json.encode(record))
    # First, because the file in a folder may be replaced meanwhile.
    part = Key("leanhouse.pull.tmp")
    target.put(part, copy_of(lake.storage.local(newest)))
    with connect_file(target.local(part)) as connection:
        wanted = sizes_of(lake.storage, names_of(connection, None))
    files = {str(key) for key in wanted}
    before = _Record(record.place, record.files, record.others | files)
    target.put(_RECORD, msgspec.json.encode(before))

    def fetch(key: Key, size: int | None) -> int:
        there = target.head(key)
        if there is not None and size in {None, there.bytes}:
            return 0
        content = lake.storage.read(key)
        target.put(key, content)
        return len(content)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sizes = list(pool.map(fetch, wanted.keys(), wanted.values()))
    swap_in(target, part, WAREHOUSE)
    over = record.others - record.files - files
    for name in over:
        target.delete(Key(name), with_folder=True)
    after = _Record(record.place, files, record.files - files)
    target.put(_RECORD, msgspec.json.encode(after))
    new = [size for size in sizes if size]
    return Pulled(target.local(WAREHOUSE), newest, len(files), len(new), sum(new))
