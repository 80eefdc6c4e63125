"""When to pull: nightly, balances in between, and everything again once a week."""

import datetime as dt

import dagster as dg

from lean_resources.errors import ConfigError
from pipelines.dagster_defs.stream_assets import all_months
from pipelines.sync.policy import Schedules

__all__ = ["schedules"]

ZONE = "Asia/Riyadh"
_SYNC = {"ops": {"pull_transactions": {"config": {"only_missing": True}}}}


def schedules(when: Schedules, *, has_webhooks: bool = False) -> list[dg.ScheduleDefinition]:
    """The schedules, with their jobs.

    All are off unless the one switch is on; each can be turned on and off in Dagster's UI as well.
    What compares webhooks is off where there are none.

    Raises:
        ConfigError: A cron expression is not one.
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
        description="Everything: list, refresh, pull what is missing or open, build,"
        " publish, merge files.",
    )
    balances = dg.define_asset_job(
        "balances_sync",
        selection=dg.AssetSelection.assets(
            "banks", "entities", "consents", "refresh", "balances", "warehouse"
        ),
        description="Balances between two nightly syncs.",
    )
    weekly = dg.define_asset_job(
        "weekly_reconciliation",
        selection=dg.AssetSelection.assets(
            "reconciliation", "warehouse", "compaction", "integrity"
        ),
        description="All transactions read again and compared; every file compared with what was"
        " written.",
    )

    missed = dg.define_asset_job(
        "gap_repair",
        selection=dg.AssetSelection.assets("missed_events"),
        description="What Lean sent, compared with the webhooks that arrived.",
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
        # The range is that of the present, because the schedule may have been off for a while.
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
            description="Balances between two nightly syncs.",
        ),
        dg.ScheduleDefinition(
            name="weekly_reconciliation",
            job=weekly,
            cron_schedule=when.reconciliation,
            execution_timezone=ZONE,
            default_status=status,
            description="All transactions read again and compared.",
        ),
        dg.ScheduleDefinition(
            name="gap_repair",
            job=missed,
            cron_schedule=when.missed_events,
            execution_timezone=ZONE,
            default_status=status if has_webhooks else dg.DefaultScheduleStatus.STOPPED,
            description="What Lean sent, compared with the webhooks that arrived.",
        ),
    ]
