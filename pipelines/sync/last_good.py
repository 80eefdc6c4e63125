"""A stream's rows in the lake, which stay if a newer version does not fit."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import ExitStack

import duckdb
import pyarrow as pa

from lean_resources.streams import Stream
from pipelines.lake.lake import Lake
from pipelines.lake.queries import filled


class LastGood:
    """Rows of a stream, as the lake shows them at the first call.

    The lake is opened at the first call, because nearly all records fit. Use it from a single
    thread, and close it.
    """

    def __init__(self, stream: Stream, lake: Lake) -> None:
        self._stream = stream
        self._lake = lake
        self._stack = ExitStack()
        self._opened: duckdb.DuckDBPyConnection | None = None

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()
        self._opened = None

    def covered(self, target_ids: Collection[str]) -> set[tuple[str, str | None]]:
        """Read targets that a pull covers, each with its month; None in streams without months."""
        rows = (
            self._connection.execute(
                "select distinct parent_id, month from claims"
                " where stream = $stream and list_contains($targets, parent_id)",
                {"stream": self._stream.name, "targets": sorted(target_ids)},
            )
        ).fetchall()
        return {(str(target_id), month) for target_id, month in rows}

    def rows(self, keys: Collection[str]) -> pa.Table:
        """Rows with the columns of the stream's `lake_schema`, and their `record_key`.

        Args:
            keys: Keys in the form of the quarantine.
        """
        names = self._stream.key
        values = list(zip(*map(json.loads, keys), strict=True))
        wanted = pa.table(
            [pa.array(v, self._stream.column(n).type) for n, v in zip(names, values, strict=True)]
            + [pa.array(list(keys), pa.string())],
            names=[*names, "record_key"],
        )
        connection = self._connection
        connection.register("wanted", wanted)
        same = " and ".join(f'wanted."{name}" = shown."{name}"' for name in names)
        try:
            shown = f'"{self._stream.name}"'
            select = filled("last_good_rows", shown=shown, same_key=same)
            return connection.sql(select).to_arrow_table()
        finally:
            connection.unregister("wanted")

    @property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._opened is None:
            self._opened = self._stack.enter_context(self._lake.planning({self._stream.name}))
        return self._opened
