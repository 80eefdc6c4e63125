"""The budget of refreshes: what was spent is written before it is spent, and never exceeded.

Spends are a log of numbered files, each created only if its number is free. Whoever comes second
reads what the first wrote and decides again, so that processes side by side share one budget; a
crash between the record and the call wastes a refresh and never overspends.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.folders import REFRESH_RESERVATIONS
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import SPENDS_SCHEMA, new_id
from pipelines.lake.storage import Key

__all__ = ["Budget"]

_PERIOD = dt.timedelta(hours=24)
_KEPT = 2 * _PERIOD
"""How far back the log is read; clocks that tell Lean's time may differ by less than the margin."""


class Budget:
    """Refreshes that an entity may still be spent, over any 24 hours.

    Args:
        lake: Where the log lies.
        per_day: Most refreshes of one entity within any 24 hours.
    """

    def __init__(self, lake: Lake, per_day: int) -> None:
        self._storage = lake.storage
        self._format = lake.format
        self._per_day = per_day
        self._read: dict[Key, list[tuple[str, dt.datetime]]] = {}

    def spend(
        self, entity_ids: Collection[str], now: dt.datetime, run_id: str | None = None
    ) -> set[str]:
        """Record one refresh for each entity that has one left.

        Args:
            entity_ids: The entities that want one.
            now: Lean's clock.
            run_id: The run that spends.

        Returns:
            The entities that may be refreshed now.
        """
        if not self._per_day:
            return set()
        self._format.carry_forward()
        while True:
            files = [one.key for one in self._storage.list(f"{REFRESH_RESERVATIONS}/*.parquet")]
            allowed = self._allowed(files, now)
            granted = {one for one in entity_ids if one not in allowed or allowed[one] <= now}
            if not granted:
                return set()
            number = int(files[-1].stem) + 1 if files else 0
            if self._create(REFRESH_RESERVATIONS / f"{number:010}.parquet", granted, now, run_id):
                return granted

    def _allowed(self, files: list[Key], now: dt.datetime) -> dict[str, dt.datetime]:
        """From when on each entity that used up its budget may have another refresh."""
        spent: dict[str, list[dt.datetime]] = {}
        for file in reversed(files):
            rows = self._rows(file)
            if rows and max(at for _, at in rows) < now - _KEPT:
                break
            for entity_id, at in rows:
                spent.setdefault(entity_id, []).append(at)
        return {
            entity_id: sorted(times)[-self._per_day] + _PERIOD
            for entity_id, times in spent.items()
            if len(times) >= self._per_day
        }

    def _rows(self, file: Key) -> list[tuple[str, dt.datetime]]:
        """A file's rows, read once; files never change."""
        if file not in self._read:
            table = pq.read_table(self._storage.local(file), columns=["entity_id", "spent_at"])
            self._read[file] = list(
                zip(table["entity_id"].to_pylist(), table["spent_at"].to_pylist(), strict=True)
            )
        return self._read[file]

    def _create(
        self, file: Key, entity_ids: Collection[str], now: dt.datetime, run_id: str | None
    ) -> bool:
        """Write the next file of the log, unless somebody else did."""
        wanted = sorted(entity_ids)
        table = pa.table(
            [
                [new_id() for _ in wanted],
                wanted,
                pa.array([now] * len(wanted), SPENDS_SCHEMA.field("spent_at").type),
                pa.array([run_id] * len(wanted), pa.string()),
            ],
            schema=SPENDS_SCHEMA,
        )
        return self._storage.create(file, lambda part: pq.write_table(table, part), new_id())
