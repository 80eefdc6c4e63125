"""The daily report: what came, what it cost, and what is wrong, in figures.

A report covers 24 hours. It has counts, codes and instants, and neither a secret nor a personal
value, as `health` has none either.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import duckdb

from pipelines.lake.digests import damage_error
from pipelines.lake.folders import LEDGER
from pipelines.lake.queries import QUERIES, records
from pipelines.lake.storage import Key, Storage
from pipelines.operate.bank_health import midnight
from pipelines.operate.health import Health, health
from pipelines.publish.warehouse import connect

if TYPE_CHECKING:
    import dagster as dg

    from pipelines.environment import Settings
    from pipelines.lake.lake import Lake
    from pipelines.sync.policy import Policy

KEPT_DAYS = 90
"""How long reports are kept in a home."""
_LOOKS_BACK = dt.timedelta(days=14)
_RUNS = 14
_SERIES = {"SUCCESS": "succeeded", "FAILURE": "failed"}

_Rows = Sequence[Mapping[str, Any]]


class Language(StrEnum):
    """Languages of the report."""

    ENGLISH = "en"
    ARABIC = "ar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report says. Rows are those of the queries `report_*`.

    Args:
        day: The Riyadh day that it is named after.
        until: End of its 24 hours, UTC.
        health: What is wrong, and how each bank stands, when the report was written.
        fresh_hours: How old data may be by the policy, of the stream that may be oldest.
        reads: What was read, by bank and stream.
        days: What was read in each of the last 14 days.
        runs: Dagster's newest runs, the oldest first: `job`, `status` in its words, `started_at`
            and `seconds`, up to the end of the 24 hours where a run has not ended. None without
            an instance of Dagster.
        coverage: Known days; None before tables were published, like the next two.
    """

    day: dt.date
    until: dt.datetime
    environment: str
    health: Health
    fresh_hours: float
    runs: _Rows | None
    reads: _Rows = ()
    days: _Rows = ()
    coverage: _Rows | None = None
    proof: _Rows | None = None
    changes: _Rows | None = None


def report(
    lake: Lake,
    policy: Policy,
    *,
    day: dt.date | None = None,
    settings: Settings | None = None,
    instance: dg.DagsterInstance | None = None,
    now: dt.datetime | None = None,
) -> Report:
    """What came within 24 hours, and what is wrong now.

    Args:
        lake: The lake, which need not hold anything yet.
        day: A past Riyadh day, which is looked at whole; None means the 24 hours up to now. What
            is wrong, and what tables say of coverage and proof, is of now all the same.
        instance: Where Dagster records its runs; None leaves them out.
        now: This machine's clock, UTC; None means the present.

    Raises:
        ConfigError: The lake has a newer format than this code knows.
        WarehouseError: The warehouse cannot be opened.
    """
    now = now or dt.datetime.now(dt.UTC)
    today = midnight(now).date()
    until = now
    if day is not None and day < today:
        until = (midnight(now) - dt.timedelta(days=(today - day).days - 1)).astimezone(dt.UTC)
    return Report(
        day=day or today,
        until=until,
        environment=lake.environment,
        health=health(lake, policy, settings=settings, instance=instance, now=now),
        fresh_hours=max(policy.fresh_hours.values()),
        runs=None if instance is None else _runs(instance, until),
        **_ledger(lake, until),
        **_tables(lake, until),
    )


def _rows(connection: duckdb.DuckDBPyConnection, *names: str, **given: Any) -> dict[str, _Rows]:
    return {one.removeprefix("report_"): records(connection, one, **given) for one in names}


def _ledger(lake: Lake, until: dt.datetime) -> dict[str, _Rows]:
    """What was read and refreshed; nothing where the ledger is damaged, which health says."""
    if any(lake.storage.list(f"{LEDGER}/*/*.parquet")):
        with _unless_damaged(), lake.overview((), "false", until - _LOOKS_BACK) as connection:
            return _rows(connection, "report_reads", "report_days", until=until)
    return {}


def _tables(lake: Lake, until: dt.datetime) -> dict[str, _Rows]:
    """What tables say; nothing where they are damaged, older than the queries or not published."""
    missing = (FileNotFoundError, duckdb.CatalogException, duckdb.BinderException)
    with contextlib.suppress(*missing), _unless_damaged():
        asked = "; ".join(QUERIES[f"report_{name}"] for name in ("coverage", "proof", "changes"))
        with connect(lake, asked) as connection:
            return {
                **_rows(connection, "report_coverage", "report_proof"),
                **_rows(connection, "report_changes", until=until),
            }
    return {}


@contextlib.contextmanager
def _unless_damaged() -> Iterator[None]:
    """End the block where a file is damaged."""
    try:
        yield
    except duckdb.Error as error:
        if damage_error(error) is None:
            raise


def _runs(instance: dg.DagsterInstance, until: dt.datetime) -> _Rows:
    from dagster import RunsFilter  # noqa: PLC0415 - slow, and known to be there with an instance

    end = until.timestamp()
    newest = instance.get_run_records(RunsFilter(created_before=until), limit=_RUNS)
    return [
        {
            "job": record.dagster_run.job_name,
            "status": record.dagster_run.status.value,
            "series": _SERIES.get(record.dagster_run.status.value, "running"),
            "started_at": dt.datetime.fromtimestamp(record.start_time, dt.UTC),
            "seconds": max(0.0, min(record.end_time or end, end) - record.start_time),
        }
        for record in reversed(newest)
        if record.start_time is not None
    ]


def keep(home: Storage, environment: str, day: dt.date, pages: Mapping[Language, str]) -> list[Key]:
    """Put pages into a home, and delete reports that are older than `KEPT_DAYS`.

    Args:
        day: The Riyadh day of the report.

    Returns:
        Where they lie: `reports/<environment>/<day>.<language>.html`.
    """
    folder = Key("reports") / environment
    keys = [folder / f"{day}.{language}.html" for language in pages]
    for key, page in zip(keys, pages.values(), strict=True):
        home.put(key, page.encode())
    oldest = f"{midnight(dt.datetime.now(dt.UTC)).date() - dt.timedelta(days=KEPT_DAYS)}"
    for file in [one for one in home.list(f"{folder}/*.html") if one.key.name < oldest]:
        home.delete(file.key)
    return keys
