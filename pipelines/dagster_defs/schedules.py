"""When to pull: a nightly sync, balances in between, and a weekly reconciliation."""

import datetime as dt

import dagster as dg

from lean_resources.errors import ConfigError
from pipelines.dagster_defs.stream_assets import all_months
from pipelines.sync.policy import Schedules

ZONE = "Asia/Riyadh"
_SYNC = {"ops": {"pull_transactions": {"config": {"only_missing": True}}}}


def schedules(when: Schedules, *, has_webhooks: bool = False) -> list[dg.ScheduleDefinition]:
    """The schedules, with their jobs.

    All are off unless `enabled` is set; each can also be turned on and off in Dagster's UI. Gap
    repair is off without webhooks.

    Raises:
        ConfigError: A cron expression is not valid.
    """
    try:
        return _schedules(when, has_webhooks=has_webhooks)
    except dg.DagsterInvalidDefinitionError as error:
        raise ConfigError(f"policy.toml, [schedules]: {error}") from None


def _schedules(when: Schedules, *, has_webhooks: bool) -> list[dg.ScheduleDefinition]:
    status = dg.DefaultScheduleStatus.RUNNING if when.enabled else dg.DefaultScheduleStatus.STOPPED
    nightly = dg.define_asset_job(
        "nightly_sync",
        selection=dg.AssetSelection.all()
        - dg.AssetSelection.assets("reconciliation", "missed_events", "integrity"),
        description="The full sync: lists entities, refreshes, pulls what is missing or open,"
        " builds models, publishes the warehouse and merges files.",
    )
    balances = dg.define_asset_job(
        "balances_sync",
        selection=dg.AssetSelection.assets(
            "banks", "entities", "consents", "refresh", "balances", "warehouse"
        ),
        description="Refreshes and pulls balances between two nightly syncs.",
    )
    weekly = dg.define_asset_job(
        "weekly_reconciliation",
        selection=dg.AssetSelection.assets(
            "reconciliation", "warehouse", "compaction", "integrity"
        ),
        description="Reads all transactions again and compares them; checks every file of the"
        " lake.",
    )

    missed = dg.define_asset_job(
        "gap_repair",
        selection=dg.AssetSelection.assets("missed_events"),
        description="Compares what Lean sent with the webhooks that arrived, and repairs gaps.",
    )

    @dg.schedule(
        name="nightly_sync",
        job=nightly,
        cron_schedule=when.nightly,
        execution_timezone=ZONE,
        default_status=status,
        description="The full sync.",
    )
    def nightly_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        # The range ends at the present, because the schedule may have been off for a while.
        at = context.scheduled_execution_time or dt.datetime.now(dt.UTC)
        return dg.RunRequest(run_key=at.isoformat(), run_config=_SYNC, tags=all_months(at))

    return [
        nightly_schedule,
        dg.ScheduleDefinition(
            name="balances_sync",
            job=balances,
            cron_schedule=when.balances,
            execution_timezone=ZONE,
            default_status=status,
            description="Refreshes and pulls balances between two nightly syncs.",
        ),
        dg.ScheduleDefinition(
            name="weekly_reconciliation",
            job=weekly,
            cron_schedule=when.reconciliation,
            execution_timezone=ZONE,
            default_status=status,
            description="Reads all transactions again and compares them.",
        ),
        dg.ScheduleDefinition(
            name="gap_repair",
            job=missed,
            cron_schedule=when.missed_events,
            execution_timezone=ZONE,
            default_status=status if has_webhooks else dg.DefaultScheduleStatus.STOPPED,
            description="Compares what Lean sent with the webhooks that arrived, and repairs gaps.",
        ),
    ]
