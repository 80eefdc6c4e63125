"""The composition root: what Dagster loads, with the settings of the environment."""

import dagster as dg

from lean_resources.resource import LeanResource
from pipelines import logs
from pipelines.dagster_defs.alert_sensor import alert_sensor
from pipelines.dagster_defs.model_assets import model_assets
from pipelines.dagster_defs.processes import IN_ONE_PROCESS, recorded
from pipelines.dagster_defs.resources import (
    InboxResource,
    LakeResource,
    bound,
    log_runs_as_json,
    silent,
)
from pipelines.dagster_defs.schedules import schedules, with_freshness
from pipelines.dagster_defs.sharded_job import sharded_job
from pipelines.dagster_defs.stream_assets import refresh, stream_assets, sync_outcome
from pipelines.dagster_defs.upkeep_assets import integrity, missed_events, reconciliation
from pipelines.dagster_defs.warehouse_assets import compaction_asset, daily_report, iceberg_asset
from pipelines.dagster_defs.webhook_job import webhook_job
from pipelines.dagster_defs.webhook_sensor import webhook_sensor
from pipelines.environment import log_format, settings
from pipelines.lake.permissions import open_home
from pipelines.models.loader import load as load_models
from pipelines.sync.policy import load

__all__ = ["defs", "inbox", "lake", "lean", "models", "policy"]

logs.start(log_format())
if logs.are_json():
    log_runs_as_json()
_settings = settings()
# Runs and their steps are children of processes that load this module.
for _folder in _settings.folders:
    open_home(_folder, _settings.house.file_group)

lean = LeanResource(_settings.lean, _settings.readers)
inbox = InboxResource(_settings.inbox_url, _settings.environment)
lake = LakeResource(
    _settings.lake,
    _settings.environment,
    home=_settings.home,
    hash_key=_settings.hash_key,
    pii=_settings.house.pii,
)
models = load_models()

policy, _when, _alerts = load(_settings.home / "policy.toml")

_webhooks = webhook_job(models, _settings.readers)
_nightly = sharded_job(models, _settings) if _settings.house.shards > 1 else None

# A wrong cron expression is refused here, before freshness is derived from it.
_schedules = schedules(_when, has_webhooks=_settings.has_webhooks, nightly=_nightly)
_assets = [
    *stream_assets,
    refresh,
    reconciliation,
    missed_events,
    compaction_asset(models),
    daily_report,
    integrity,
    sync_outcome,
    *model_assets(models),
    *([iceberg_asset(models)] if _settings.house.iceberg else []),
]

defs = dg.Definitions(
    assets=with_freshness(_assets, policy, _when),
    schedules=_schedules,
    jobs=[_webhooks, *([_nightly] if _nightly is not None else [])],
    sensors=[
        webhook_sensor(_webhooks, is_on=_settings.has_webhooks),
        alert_sensor(_settings, _alerts),
    ],
    executor=recorded(dg.multi_or_in_process_executor, IN_ONE_PROCESS, _settings.readers),
    resources=bound(lean=lean, lake=lake, inbox=inbox, policy=policy, progress=silent),
)
