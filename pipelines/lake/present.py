"""Present pulls: the few pulls of the ledger that can still matter to what is known now.

A file of present pulls is derived from all commits that it lists, and deleting it changes no
answer. Readers of the present take the newest sound file and the commits since. Of each read target
and month the file keeps the pulls that cover days, the newest attempt and the newest refusal, so
its size depends on the accounts and not on the nights. `sql/queries/present_pulls.sql` says which
pulls matter.

The file lists each commit with its size and checksum, by day: the day's merged file, and the
commits beside it. So it also shows that a commit was lost.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.lake.digests import UNREADABLE, Digest, digest
from pipelines.lake.folders import LOST, PRESENT
from pipelines.lake.storage import Key, Storage, Stored

_NAME = re.compile(r"([0-9]{10})-([0-9]+)-([0-9a-f]{8})")
_LISTS = b"leanhouse:present"
_FORM = 2
"""Form of the files that this code writes and reads; files of another form are made anew."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Present:
    """A file of present pulls, and the commits that it was derived from.

    Args:
        key: The file.
        merged: Size and checksum of the merged file of each day, by day.
        single: Names of the other commits of each day, by day.
        writers: The greatest number of each writer's commits.
        generation: The greatest generation of all pulls.
        lost: Names of the records of what was known to be lost.
    """

    key: Key
    merged: Mapping[str, Digest]
    single: Mapping[str, frozenset[str]]
    writers: Mapping[str, int]
    generation: int
    lost: frozenset[str]

    def lists(self) -> tuple[str, str]:
        """Name and value in the metadata of its Parquet file, from which `newest` reads it."""
        found = {
            "form": _FORM,
            "merged": {day: [one.bytes, one.crc32] for day, one in self.merged.items()},
            "single": {day: sorted(stems) for day, stems in self.single.items()},
            "writers": dict(self.writers),
            "generation": self.generation,
            "lost": sorted(self.lost),
        }
        return _LISTS.decode(), json.dumps(found)


def newest(storage: Storage) -> Present | None:
    """The newest sound file of present pulls; None if there is none."""
    for file in reversed(list(storage.list(f"{PRESENT}/*.parquet"))):
        was = written(file.key)
        if was is None or was.bytes != file.bytes:
            _log.warning("%s has the wrong size; earlier present pulls are used", file.name)
            continue
        try:
            path = storage.local(file.key)
            if _digest(path, file.version) == was:
                if (found := _read(path, file.key, file.version)) is not None:
                    return found
                continue
        except UNREADABLE:
            pass
        _log.warning("%s cannot be read; earlier present pulls are used", file.name)
    return None


def written(file: Key) -> Digest | None:
    """Size and checksum in the name of a file of present pulls; None for another name."""
    named = _NAME.fullmatch(file.stem)
    return Digest(int(named[2]), int(named[3], 16)) if named else None


def reveal(storage: Storage, staged: Key) -> Key:
    """Put a staged file of present pulls in its place, with the next number; returns its key.

    Two that are made at once may have the same number: each lists what it holds.
    """
    found = digest(storage.staged(staged))
    numbers = (file.key.stem for file in storage.list(f"{PRESENT}/*.parquet"))
    number = max((int(it[1]) for it in map(_NAME.fullmatch, numbers) if it), default=0) + 1
    key = PRESENT / f"{number:010}-{found.bytes}-{found.crc32:08x}.parquet"
    storage.reveal(staged, key)
    return key


def replaced(storage: Storage) -> Iterator[Stored]:
    """Files of present pulls before the newest two."""
    yield from list(storage.list(f"{PRESENT}/*.parquet"))[:-2]


def lost_records(storage: Storage) -> frozenset[str]:
    """Names of the records of what is known to be lost."""
    return frozenset(file.key.name for file in storage.list(f"{LOST}/*/*.parquet"))


@lru_cache(maxsize=64)
def _digest(file: Path, _version: int) -> Digest:
    return digest(file)


@lru_cache(maxsize=8)
def _read(file: Path, key: Key, _version: int) -> Present | None:
    found: dict[str, Any] = json.loads(pq.read_metadata(file).metadata[_LISTS])
    if found["form"] != _FORM:
        return None
    return Present(
        key=key,
        merged={day: Digest(*one) for day, one in found["merged"].items()},
        single={day: frozenset(stems) for day, stems in found["single"].items()},
        writers=found["writers"],
        generation=found["generation"],
        lost=frozenset(found["lost"]),
    )
