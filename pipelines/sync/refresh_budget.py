"""The refresh budget: each refresh is reserved before it is requested, so no budget is exceeded.

Reservations are a log of numbered files, in 64 fixed slices by a hash of the entity. A file is
created only if its number is free in its slice. If the number is taken, the process reads the new
file and decides again, so all processes share the budget. Processes that reserve for other slices
do not meet. A crash between reservation and request wastes a refresh, but never exceeds the budget.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.folders import REFRESH_RESERVATIONS
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import REFRESH_RESERVATIONS_SCHEMA
from pipelines.lake.storage import Key

_PERIOD = dt.timedelta(hours=24)
SLICES = 64
"""Slices of the log; fixed, so that all versions and machines find an entity in the same one."""
_BEFORE = REFRESH_RESERVATIONS / "log"
"""The whole log until format 5 of the lake; its reservations count for a day."""
_KEPT = 2 * _PERIOD
"""How far back the log is read; far more than the differences between clocks of Lean's time."""


def slice_of(entity_id: str) -> int:
    """The slice of the log that has an entity's reservations, from 0."""
    return zlib.crc32(entity_id.encode()) % SLICES


class Budget:
    """The refreshes that each entity has left within 24 hours.

    Args:
        lake: The lake with the log.
        per_day: Maximum number of refreshes of an entity within any 24 hours.
    """

    def __init__(self, lake: Lake, per_day: int) -> None:
        self._storage = lake.storage
        self._format = lake.format
        self._per_day = per_day
        self._read: dict[Key, list[tuple[str, dt.datetime]]] = {}

    def reserve(
        self, entity_ids: Collection[str], now: dt.datetime, run_id: str | None = None
    ) -> set[str]:
        """Reserve a refresh for each entity that has a refresh left.

        It writes a file per slice, so few files if the entities are of few slices.

        Args:
            entity_ids: The entities to refresh.
            now: Lean's clock.
            run_id: The run that asks.

        Returns:
            The entities that may be refreshed now.

        Raises:
            ConfigError: The lake has a newer format than this code knows.
            MachineError: The file system cannot create files exclusively.
        """
        if not self._per_day:
            return set()
        self._format.carry_forward()
        return {
            one
            for folder, chosen in _by_slice(entity_ids).items()
            for one in self._reserve(folder, chosen, now, run_id)
        }

    def _reserve(
        self, folder: Key, entity_ids: Collection[str], now: dt.datetime, run_id: str | None
    ) -> set[str]:
        """Reserve for entities of a slice."""
        last = -1
        while True:
            files = self._files(folder, last)
            granted = self._granted(files, entity_ids, now)
            if not granted:
                return set()
            last = int(files[-1].stem) + 1 if files else 0
            if self._create(folder / f"{last:010}.parquet", granted, now, run_id):
                return granted

    def allowed(self, entity_ids: Collection[str], now: dt.datetime) -> set[str]:
        """The entities that have a refresh left at an instant of Lean's clock; reserves nothing."""
        if not self._per_day:
            return set()
        return {
            one
            for folder, chosen in _by_slice(entity_ids).items()
            for one in self._granted(self._files(folder), chosen, now)
        }

    def _files(self, folder: Key, last: int = -1) -> list[Key]:
        """Files of a log, in the order of their numbers.

        Args:
            folder: Where the log lies.
            last: A number that is known to be taken: the list of an object store may lag.
        """
        found = [file.key for file in self._storage.list(f"{folder}/*.parquet")]
        if folder == _BEFORE:
            return found
        # What a list lacks between two others may be there all the same.
        numbers = [int(file.stem) for file in found]
        every = range(min(numbers, default=0), max([*numbers, last]) + 1)
        return [folder / f"{number:010}.parquet" for number in every]

    def _granted(
        self, files: Sequence[Key], entity_ids: Collection[str], now: dt.datetime
    ) -> set[str]:
        used_until = self._used_until(files, now)
        return {one for one in entity_ids if one not in used_until or used_until[one] <= now}

    def _used_until(self, files: Sequence[Key], now: dt.datetime) -> dict[str, dt.datetime]:
        """For each entity without budget, the instant of its next possible refresh.

        Args:
            files: The files of its slice, in the order of their numbers.
            now: Lean's clock.
        """
        reserved: dict[str, list[dt.datetime]] = {}
        for log in (files, self._files(_BEFORE)):
            for file in reversed(log):
                rows = self._rows(file)
                if rows and max(at for _, at in rows) < now - _KEPT:
                    break
                for entity_id, at in rows:
                    reserved.setdefault(entity_id, []).append(at)
        return {
            entity_id: sorted(times)[-self._per_day] + _PERIOD
            for entity_id, times in reserved.items()
            if len(times) >= self._per_day
        }

    def _rows(self, file: Key) -> list[tuple[str, dt.datetime]]:
        """Entities and instants of a file; read once, because files never change."""
        if file not in self._read:
            try:
                path = self._storage.local(file)
                table = pq.read_table(path, columns=["entity_id", "spent_at"])
            except FileNotFoundError:
                return []
            self._read[file] = list(
                zip(table["entity_id"].to_pylist(), table["spent_at"].to_pylist(), strict=True)
            )
        return self._read[file]

    def _create(
        self, file: Key, entity_ids: Collection[str], now: dt.datetime, run_id: str | None
    ) -> bool:
        """Write the next file of the log; False if another process wrote it first."""
        wanted = sorted(entity_ids)
        table = pa.table(
            [
                [new_id() for _ in wanted],
                wanted,
                pa.array([now] * len(wanted), REFRESH_RESERVATIONS_SCHEMA.field("spent_at").type),
                pa.array([run_id] * len(wanted), pa.string()),
            ],
            schema=REFRESH_RESERVATIONS_SCHEMA,
        )
        return self._storage.create(file, lambda part: pq.write_table(table, part), new_id())


def _by_slice(entity_ids: Collection[str]) -> dict[Key, list[str]]:
    """Entities by the folder of their slice."""
    found: dict[Key, list[str]] = {}
    for entity_id in sorted(entity_ids):
        folder = REFRESH_RESERVATIONS / f"slice={slice_of(entity_id):02}"
        found.setdefault(folder, []).append(entity_id)
    return found
