"""When to pull and to build: a nightly sync, and what runs in between and weekly."""

import datetime as dt
import itertools
from collections.abc import Sequence

import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS
from pipelines.dagster_defs.failures import OUTCOME
from pipelines.sync.policy import Policy, Schedules

ZONE = "Asia/Riyadh"
NIGHTLY = "nightly_sync"
_BALANCES = ("banks", "entities", "consents", "refresh", "balances", "warehouse", OUTCOME)
_WEEKLY = ("reconciliation", "warehouse", "compaction", "integrity")
_NOT_NIGHTLY = ("reconciliation", "missed_events", "integrity")
_NOT_TABLES = (*STREAMS, "refresh", *_NOT_NIGHTLY, "compaction", "daily_report", OUTCOME)
_LEAST_HOURS = 1.0


def schedules(
    when: Schedules, *, has_webhooks: bool = False, nightly: dg.JobDefinition | None = None
) -> list[dg.ScheduleDefinition]:
    """The schedules, with their jobs.

    All are off unless `enabled` is set; each can also be turned on and off in Dagster's UI. Gap
    repair is off without webhooks. Tables have a schedule of their own only where one is set.

    Args:
        nightly: The job of the full sync where it reads in shards; None for a job of the assets.

    Raises:
        ConfigError: A cron expression is not valid.
    """
    stopped = dg.DefaultScheduleStatus.STOPPED
    status = dg.DefaultScheduleStatus.RUNNING if when.enabled else stopped
    select = dg.AssetSelection.assets
    # A job that is launched by hand reads what its schedule reads.
    only_missing = {"ops": {"pull_transactions": {"config": {"only_missing": True}}}}
    made = {
        NIGHTLY: (
            when.nightly,
            dg.AssetSelection.all() - select(*_NOT_NIGHTLY),
            (
                "The full sync: lists entities, refreshes, pulls what is missing or open, builds"
                " models, publishes the warehouse, merges files and writes the daily report."
            ),
        ),
        "balances_sync": (
            when.balances,
            select(*_BALANCES),
            "Refreshes and pulls balances between two nightly syncs.",
        ),
        "tables_build": (
            when.tables,
            dg.AssetSelection.all() - select(*_NOT_TABLES),
            "Builds all tables and publishes them between two nightly syncs; reads nothing.",
        ),
        "weekly_reconciliation": (
            when.reconciliation,
            select(*_WEEKLY),
            "Reads all transactions again and compares them; checks every file of the lake.",
        ),
        "gap_repair": (
            when.missed_events,
            select("missed_events"),
            "Compares what Lean sent with the webhooks that arrived, and repairs gaps.",
        ),
    }
    try:
        return [
            dg.ScheduleDefinition(
                name=name,
                job=nightly
                if nightly is not None and name == nightly.name
                else dg.define_asset_job(
                    name,
                    selection=selection,
                    config=only_missing if name == NIGHTLY else None,
                    description=description,
                ),
                cron_schedule=cron,
                execution_timezone=ZONE,
                default_status=status if has_webhooks or name != "gap_repair" else stopped,
                description=description,
            )
            for name, (cron, selection, description) in made.items()
            if cron or name != "tables_build"
        ]
    except dg.DagsterInvalidDefinitionError as error:
        raise ConfigError(f"policy.toml, [schedules]: {error}") from None


def with_freshness(
    assets: Sequence[dg.AssetsDefinition], policy: Policy, when: Schedules
) -> list[dg.AssetsDefinition]:
    """Assets that say when they are too old: after a run that was missed, and after two.

    What no schedule makes keeps no policy. A stream is not older than the bank's data may be.
    """

    def fresh(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        crons = [] if name in _NOT_NIGHTLY else [when.nightly]
        crons += [when.balances] if name in _BALANCES else []
        crons += [when.reconciliation] if name in _WEEKLY else []
        crons += [when.tables] if when.tables and name not in _NOT_TABLES else []
        if not crons:
            return spec
        hours = max(_longest_gap(crons), policy.fresh_hours.get(name, 0), _LEAST_HOURS)
        return spec.replace_attributes(
            freshness_policy=dg.FreshnessPolicy.time_window(
                fail_window=dt.timedelta(hours=2 * hours),
                warn_window=dt.timedelta(hours=1.25 * hours),
            )
        )

    return list(dg.map_asset_specs(fresh, assets))


def _longest_gap(crons: Sequence[str]) -> float:
    """Most hours between two ticks of any of these schedules, looking at five weeks."""
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    end = start + dt.timedelta(weeks=5)
    ticks: list[dt.datetime] = []
    for cron in crons:
        found = schedule_execution_time_iterator(start.timestamp(), cron, ZONE)
        ticks += itertools.takewhile(lambda tick: tick < end, found)
    gaps = (after - tick for tick, after in itertools.pairwise(sorted(ticks)))
    return max(gaps, default=end - start) / dt.timedelta(hours=1)
