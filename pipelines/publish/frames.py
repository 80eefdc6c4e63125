"""Frames: what a query of the warehouse gives in pandas, with the types that the tables have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.environment import settings
from pipelines.lake.lake import Lake
from pipelines.publish.read_only import reading

Parameters = Sequence[Any] | Mapping[str, Any]


class Warehouse:
    """The tables of a home, or of a file that needs no lake, to be read in a notebook.

    Each query sees the warehouse as it was published last, and nothing stays open between two.

    Args:
        place: A home, a DuckDB file, or the URL of lakes in an object store; None means the lake
            of the settings.
        environment: `sandbox` or `production`; None means that of the settings.
    """

    def __init__(self, place: Path | str | None = None, environment: str | None = None) -> None:
        self._source: Lake | Path
        if place is None or "://" in str(place):
            self._source = Lake(place or settings().lake, environment or settings().environment)
            return
        path = Path(place).expanduser().resolve()
        if path.is_file():
            is_of_lake = path.parent.parent.name == "lake"
            self._source = Lake(path.parent.parent, path.parent.name) if is_of_lake else path
        else:
            self._source = Lake(path / "lake", environment or settings().environment)

    def frame(self, sql: str, parameters: Parameters | None = None) -> pd.DataFrame:
        """The result of one SELECT: money is Decimal, instants are in UTC, null is null.

        Args:
            parameters: Values for `?` in their order, or for `$name` by name.

        Raises:
            QueryError: As `leanhouse query` refuses a statement, or DuckDB does.
            FileNotFoundError: No warehouse was published yet.
            WarehouseError: The warehouse cannot be opened.
        """
        with reading(self._source, sql) as connection:
            table = connection.sql(sql, params=parameters).to_arrow_table()
            # Pandas' own types would not keep those of the columns.
            frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
            return frame
