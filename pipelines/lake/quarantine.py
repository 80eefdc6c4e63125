"""Records of a stream that do not fit: the alarm stays until they fit or are gone."""

from __future__ import annotations

from collections import Counter

from lean_resources.streams import Stream
from pipelines.lake.folders import quarantine_of
from pipelines.lake.lake import Lake
from pipelines.lake.views import LAKE_VIEWS


def standing(lake: Lake, stream: Stream) -> Counter[str]:
    """Number of records of a stream that are left out now, by column and reason."""
    # Nearly every lake has no quarantine; then no query is planned.
    if not any(lake.storage.list(f"{quarantine_of(stream)}/*/*.parquet")):
        return Counter()
    with lake.planning({stream.name}) as connection:
        lake.check_folders(connection, [quarantine_of(stream)])
        connection.execute(
            "create view quarantined_records as"
            f" select '{stream.name}' as stream, * from ({lake.quarantined(stream)})"
        )
        rows = connection.execute(
            "select column_name || ' ' || reason, sum(record_count)::bigint"
            f" from ({LAKE_VIEWS['quarantine'].sql}) where is_record_lost group by all order by all"
        ).fetchall()
    return Counter({str(reason): int(count) for reason, count in rows})
