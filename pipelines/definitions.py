"""The composition root: what Dagster loads, with the environment's values."""

import dagster as dg

from lean_resources.resource import LeanResource
from pipelines.assets import (
    compaction,
    missed_events,
    reconciliation,
    refresh,
    stream_assets,
)
from pipelines.doorbell import doorbell_job
from pipelines.environment import (
    ENVIRONMENT,
    HAS_WEBHOOKS,
    HASH_KEY,
    HOME,
    INBOX_URL,
    INBOX_VARIABLE,
    PII,
    variables,
)
from pipelines.model_assets import model_assets
from pipelines.models import load as load_models
from pipelines.policy import load
from pipelines.resources import InboxResource, LakeResource, silent
from pipelines.schedules import schedules
from pipelines.sensors import doorbell

__all__ = ["defs", "inbox", "lake", "lean", "models", "policy"]

# By name rather than by value: Dagster shows the configuration of resources.
lean = LeanResource(**{field: dg.EnvVar(name) for field, name in variables().items()})
inbox = InboxResource(
    url=dg.EnvVar(INBOX_VARIABLE) if INBOX_VARIABLE else INBOX_URL, environment=ENVIRONMENT
)

lake = LakeResource(root=str(HOME / "lake"), environment=ENVIRONMENT, hash_key=HASH_KEY, pii=PII)
models = load_models()

policy, _when = load(HOME / "policy.toml")

_job = doorbell_job(models)

defs = dg.Definitions(
    assets=[
        *stream_assets,
        refresh,
        reconciliation,
        missed_events,
        compaction,
        *model_assets(models),
    ],
    schedules=schedules(_when, has_webhooks=HAS_WEBHOOKS),
    jobs=[_job],
    sensors=[doorbell(_job, is_on=HAS_WEBHOOKS)],
    resources={
        "lean": lean,
        "lake": lake,
        "inbox": inbox,
        "policy": policy,
        "progress": silent,
    },
)
