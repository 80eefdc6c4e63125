"""Publications: which files each published warehouse reads, so that a vacuum keeps them.

A warehouse shows the lake as it was when it was published: it reads the files of models and pulls
that counted then. The record of a publication is begun before the warehouse is swapped in, and gets
its number afterwards. Until then either warehouse, the old or the new, may be the published one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import msgspec

from pipelines.lake.duck import open_duckdb
from pipelines.lake.folders import ICEBERG, PUBLISHED
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
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
        """Keep a record of the warehouse that the block swaps in."""
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

    def kept(self, older_than_seconds: float) -> tuple[list[Publication], list[Key]]:
        """Publications that may have readers, and the records of all others.

        May have readers: the published warehouse, those that may be it, and those that were
        replaced recently, by the lake's clock or by this machine's.

        Args:
            older_than_seconds: Time after which a replaced publication has no reader.
        """
        as_of = self.now().as_of
        numbered = list(self._lake.storage.list(f"{PUBLISHED}/*.json"))
        kept = [*self._keys("begun"), *(one.key for one in numbered[-1:])]
        over: list[Key] = []
        for one, successor in pairwise(numbered):
            ages = [time.time() - successor.written_at]
            replaced_at = self._read(successor.key).as_of
            if as_of is not None and replaced_at is not None:
                ages.append(as_of - replaced_at)
            (over if min(ages) > older_than_seconds else kept).append(one.key)
        return [self._read(key) for key in kept], over

    def builds_of_iceberg(self) -> list[int]:
        """Numbers of the builds whose files snapshots of Iceberg tables may name."""
        record = self._lake.storage.head(ICEBERG_RECORD)
        return msgspec.json.decode(self._lake.storage.read(record.key)) if record else []

    def _keys(self, ending: str) -> list[Key]:
        return [one.key for one in self._lake.storage.list(f"{PUBLISHED}/*.{ending}")]

    def _read(self, key: Key) -> Publication:
        return msgspec.json.decode(self._lake.storage.read(key), type=Publication)
