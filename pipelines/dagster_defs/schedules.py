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
    stopped = dg.DefaultScheduleStatus.STOPPED
    status = dg.DefaultScheduleStatus.RUNNING if when.enabled else stopped
    nightly = dg.define_asset_job(
        "nightly_sync",
        selection=dg.AssetSelection.all()
        - dg.AssetSelection.assets("reconciliation", "missed_events", "integrity"),
        description="The full sync: lists entities, refreshes, pulls what is missing or open,"
        " builds models, publishes the warehouse and merges files.",
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

    rest = {
        "balances_sync": (
            when.balances,
            ("banks", "entities", "consents", "refresh", "balances", "warehouse"),
            "Refreshes and pulls balances between two nightly syncs.",
        ),
        "weekly_reconciliation": (
            when.reconciliation,
            ("reconciliation", "warehouse", "compaction", "integrity"),
            "Reads all transactions again and compares them; checks every file of the lake.",
        ),
        "gap_repair": (
            when.missed_events,
            ("missed_events",),
            "Compares what Lean sent with the webhooks that arrived, and repairs gaps.",
        ),
    }
    return [
        nightly_schedule,
        *(
            dg.ScheduleDefinition(
                name=name,
                job=dg.define_asset_job(
                    name, selection=dg.AssetSelection.assets(*assets), description=description
                ),
                cron_schedule=cron,
                execution_timezone=ZONE,
                default_status=status if has_webhooks or name != "gap_repair" else stopped,
                description=description,
            )
            for name, (cron, assets, description) in rest.items()
        ),
    ]
