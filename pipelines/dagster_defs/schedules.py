"""When to pull: a nightly sync, balances in between, and a weekly reconciliation."""

import dagster as dg

from lean_resources.errors import ConfigError
from pipelines.dagster_defs.failures import OUTCOME
from pipelines.sync.policy import Schedules

ZONE = "Asia/Riyadh"


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
    select = dg.AssetSelection.assets
    # A job that is launched by hand reads what its schedule reads.
    only_missing = {"ops": {"pull_transactions": {"config": {"only_missing": True}}}}
    made = {
        "nightly_sync": (
            when.nightly,
            dg.AssetSelection.all() - select("reconciliation", "missed_events", "integrity"),
            (
                "The full sync: lists entities, refreshes, pulls what is missing or open, builds"
                " models, publishes the warehouse and merges files."
            ),
        ),
        "balances_sync": (
            when.balances,
            select(*("banks", "entities", "consents", "refresh", "balances", "warehouse", OUTCOME)),
            "Refreshes and pulls balances between two nightly syncs.",
        ),
        "weekly_reconciliation": (
            when.reconciliation,
            select("reconciliation", "warehouse", "compaction", "integrity"),
            "Reads all transactions again and compares them; checks every file of the lake.",
        ),
        "gap_repair": (
            when.missed_events,
            select("missed_events"),
            "Compares what Lean sent with the webhooks that arrived, and repairs gaps.",
        ),
    }
    return [
        dg.ScheduleDefinition(
            name=name,
            job=dg.define_asset_job(
                name,
                selection=selection,
                config=only_missing if name == "nightly_sync" else None,
                description=description,
            ),
            cron_schedule=cron,
            execution_timezone=ZONE,
            default_status=status if has_webhooks or name != "gap_repair" else stopped,
            description=description,
        )
        for name, (cron, selection, description) in made.items()
    ]
