"""Publications: what each published warehouse refers to, so that a vacuum leaves it alone.

A warehouse shows the lake as it stood: it names files of models, and reads rows of the pulls that
counted then. The record of a publication is begun before the warehouse is swapped in and numbered
after that; until it is numbered, nobody can know which of both is the published one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import duckdb
import msgspec

from pipelines.lake.files import put_text, synced
from pipelines.lake.lake import Lake
from pipelines.lake.views import LAKE_VIEWS
from pipelines.lake.writers import exclusive, writers
from pipelines.models.manifest import newest_manifest

__all__ = ["Publication", "Publications"]


class Publication(msgspec.Struct, frozen=True):
    """What a warehouse refers to.

    Args:
        manifest: Name of the file that names files of models; empty before the first build.
        merges: Batches of merged rows that it reads instead of those that they replace.
        as_of: The lake's clock, which is that of Lean and of banks, in seconds since 1970; None in
            an empty lake.
    """

    manifest: str
    merges: frozenset[str]
    as_of: float | None


class Publications:
    """The records of a lake.

    Args:
        lake: The lake.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def now(self) -> Publication:
        """What a warehouse refers to, at least, that is made from now on."""
        with duckdb.connect() as connection:
            connection.execute(f"create view pulls as {self._lake.ledger_now()}")
            merges = connection.execute(
                "select distinct batch_id from pulls where covers is not null"
            ).fetchall()
            ((as_of,),) = connection.execute(
                f"select epoch(as_of) from ({LAKE_VIEWS['clock'].sql})"
            ).fetchall()
        manifest = newest_manifest(self._lake)
        return Publication(
            manifest.name if manifest is not None else "",
            frozenset(batch_id for (batch_id,) in merges),
            as_of,
        )

    @contextmanager
    def record(self, publication: Publication, writer_id: str) -> Iterator[None]:
        """Keep a record of the warehouse that the block swaps in.

        Args:
            publication: What it refers to.
            writer_id: Whoever publishes, and lives.
        """
        folder = self._lake.published
        begun = folder / f"{writer_id}.begun"
        put_text(begun, msgspec.json.encode(publication).decode())
        with exclusive(folder / "lock"):
            yield
            living, _ = writers(self._lake.writers)
            # Of those that were killed none can be the published one any more.
            killed = [file for file in folder.glob("*.begun") if file.stem not in living]
            for file in (*killed, begun):
                number = max((int(one.stem) for one in folder.glob("*.json")), default=0) + 1
                file.replace(folder / f"{number:010}.json")
            synced(folder)

    def kept(self, older_than_seconds: float) -> tuple[list[Publication], list[Path]]:
        """Publications that may have readers, and the records of all others.

        Those are the published one, those of which it is not clear, and those that were replaced
        of late, by the lake's clock and by this machine's.

        Args:
            older_than_seconds: Time after which a publication that was replaced has no reader.
        """
        as_of = self.now().as_of
        numbered = sorted(self._lake.published.glob("*.json"))
        kept = [*self._lake.published.glob("*.begun"), *numbered[-1:]]
        over: list[Path] = []
        for file, successor in pairwise(numbered):
            ages = [time.time() - successor.stat().st_mtime]
            replaced_at = _read(successor).as_of
            if as_of is not None and replaced_at is not None:
                ages.append(as_of - replaced_at)
            (over if min(ages) > older_than_seconds else kept).append(file)
        return [_read(file) for file in kept], over


def _read(file: Path) -> Publication:
    return msgspec.json.decode(file.read_bytes(), type=Publication)
