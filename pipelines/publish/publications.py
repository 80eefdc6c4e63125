"""Publications: which files each published warehouse reads, so that a vacuum keeps them.

A warehouse shows the lake as it was when it was published: it reads the files of models and pulls
that counted then. In a folder there is one file, which each publication replaces. The record of a
publication is begun before its warehouse is swapped in, and gets its number afterwards. Until then
either warehouse, the old or the new, may be the published one.

In an object store nothing can be swapped, so each warehouse has a number. A publisher takes the
number after the newest that it saw when it began, by creating the record of that number. If the
record exists, others published meanwhile, and it begins again. So an old publisher never wins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import msgspec

from pipelines.lake.duck import open_duckdb
from pipelines.lake.folder import Folder
from pipelines.lake.folders import ICEBERG, PUBLISHED, WAREHOUSE, WAREHOUSES
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key, Storage
from pipelines.lake.views import LAKE_VIEWS
from pipelines.lake.writers import exclusive
from pipelines.models.manifest import newest_manifest

ICEBERG_RECORD = ICEBERG / "kept.json"


class Publication(msgspec.Struct, frozen=True):
    """What a warehouse reads.

    Args:
        manifest: File name of the manifest of the models; empty before the first build.
        merges: Batches of merged rows that it reads, instead of the batches that they replace.
        as_of: Time by the lake's clock, which follows Lean's and the banks' clocks, in seconds
            since 1970; None in an empty lake.
    """

    manifest: str
    merges: frozenset[str]
    as_of: float | None


def published_warehouse(storage: Storage) -> Key | None:
    """The file that was published last; None before the first publication."""
    if isinstance(storage, Folder):
        return WAREHOUSE if storage.head(WAREHOUSE) is not None else None
    return max((one.key for one in storage.list(f"{WAREHOUSES}/*.duckdb")), default=None)


class Publications:
    """The records of a lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def now(self, files: Sequence[Key] | None = None) -> Publication:
        """What a warehouse reads at least that is published from now on.

        Args:
            files: Files of the ledger that it reads; None means those that exist.
        """
        with open_duckdb() as connection:
            connection.execute(f"create view pulls as {self._lake.ledger_now(files)}")
            merges = connection.execute(
                "select distinct batch_id from pulls where covers is not null"
            ).fetchall()
            ((as_of,),) = connection.execute(
                f"select epoch(as_of) from ({LAKE_VIEWS['clock'].sql})"
            ).fetchall()
        manifest = newest_manifest(self._lake)
        name = manifest.name if manifest is not None else ""
        return Publication(name, frozenset(batch_id for (batch_id,) in merges), as_of)

    @contextmanager
    def record(self, publication: Publication, writer_id: str) -> Iterator[None]:
        """Keep a record of the warehouse that the block swaps in, in a folder."""
        storage = self._lake.storage
        begun = PUBLISHED / f"{writer_id}.begun"
        storage.put(begun, msgspec.json.encode(publication))
        with exclusive(storage.work / PUBLISHED / "lock"):
            yield
            living, _ = storage.writers.known()
            # What a killed process began cannot be the published warehouse any more.
            killed = [key for key in self._keys("begun") if key.stem not in living]
            for key in (*killed, begun):
                number = max((int(one.stem) for one in self._keys("json")), default=0) + 1
                storage.move(key, PUBLISHED / f"{number:010}.json")

    def next_number(self) -> int:
        """The number of a publication that begins now, in an object store."""
        number = max((int(one.stem) for one in self._keys("json")), default=0) + 1
        # A list may lag.
        while self._lake.storage.head(_record_of(number)) is not None:
            number += 1
        return number

    def take(self, number: int, publication: Publication, writer_id: str) -> Key | None:
        """Take a number in an object store; the key of its warehouse, or None if it is taken."""
        content = msgspec.json.encode(publication)
        if not self._lake.storage.create(_record_of(number), content, writer_id):
            return None
        return _warehouse_of(number)

    def kept(self, older_than_seconds: float) -> tuple[list[Publication], list[Key]]:
        """Publications that may have readers, and the records and files of all others.

        May have readers: the published warehouse, those that may be it, and those that were
        replaced recently, by the lake's clock or by this machine's.

        Args:
            older_than_seconds: Time after which a replaced publication has no reader.
        """
        as_of = self.now().as_of
        # First, because a record is older than its warehouse.
        files = [one.key for one in self._lake.storage.list(f"{WAREHOUSES}/*.duckdb")]
        newest = max((key.stem for key in files), default=None)
        numbered = list(self._lake.storage.list(f"{PUBLISHED}/*.json"))
        # In an object store later records may have no warehouse yet, or never get one.
        later = [at for at, one in enumerate(numbered) if newest and one.key.stem >= newest]
        place = min(later, default=-1)
        may_be = numbered[place:]
        kept = [*self._keys("begun"), *(one.key for one in may_be)]
        over: list[Key] = []
        for one, successor in pairwise([*numbered[:place], *may_be[:1]]):
            ages = [time.time() - successor.written_at]
            replaced_at = self._read(successor.key).as_of
            if as_of is not None and replaced_at is not None:
                ages.append(as_of - replaced_at)
            (over if min(ages) > older_than_seconds else kept).append(one.key)
        named = {newest, *(key.stem for key in kept)}
        over += [key for key in files if key.stem not in named]
        return [self._read(key) for key in kept], over

    def builds_of_iceberg(self) -> list[int]:
        """Numbers of the builds whose files snapshots of Iceberg tables may name."""
        record = self._lake.storage.head(ICEBERG_RECORD)
        return msgspec.json.decode(self._lake.storage.read(record.key)) if record else []

    def _keys(self, ending: str) -> list[Key]:
        return [one.key for one in self._lake.storage.list(f"{PUBLISHED}/*.{ending}")]

    def _read(self, key: Key) -> Publication:
        return msgspec.json.decode(self._lake.storage.read(key), type=Publication)


def _record_of(number: int) -> Key:
    return PUBLISHED / f"{number:010}.json"


def _warehouse_of(number: int) -> Key:
    return WAREHOUSES / f"{number:010}.duckdb"
