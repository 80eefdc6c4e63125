"""The composition root: the only file that names environment variables."""

import os
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from lean_resources.resource import LeanResource
from lean_resources.settings import (
    VARIABLES,
    WEBHOOK_VARIABLES,
    LeanSettings,
    WebhookSettings,
)
from pipelines.assets import (
    compaction,
    missed_events,
    reconciliation,
    refresh,
    stream_assets,
)
from pipelines.model_assets import model_assets
from pipelines.models import load as load_models
from pipelines.policy import load
from pipelines.resources import SANDBOX_KEY, InboxResource, LakeResource, silent
from pipelines.schedules import schedules
from pipelines.sensors import doorbell

__all__ = [
    "HOME",
    "defs",
    "environment_of",
    "inbox",
    "lake",
    "lean",
    "models",
    "policy",
    "settings",
    "webhook_settings",
]

HOME = Path(os.environ.get("LEANHOUSE_HOME") or Path(__file__).resolve().parent.parent / "var")

lean = LeanResource(**{v.field: dg.EnvVar(v.name) for v in VARIABLES if os.environ.get(v.name)})

lake = LakeResource(
    root=str(HOME / "lake"),
    environment=os.environ.get("LEAN_ENVIRONMENT") or "sandbox",
    hash_key=os.environ.get("LEANHOUSE_HASH_KEY") or SANDBOX_KEY,
    pii=os.environ.get("LEANHOUSE_PII") == "true",
)

_inbox_url = os.environ.get("LEAN_WEBHOOK_INBOX")
_has_webhooks = bool(_inbox_url or os.environ.get("LEAN_WEBHOOK_SECRET"))
_file = f"sqlite:///{HOME / 'inbox' / f'{lake.environment}.db'}" if _has_webhooks else ""
inbox = InboxResource(
    url=dg.EnvVar("LEAN_WEBHOOK_INBOX") if _inbox_url else _file, environment=lake.environment
)
models = load_models()

policy, _when = load(HOME / "policy.toml")

defs = dg.Definitions(
    assets=[
        *stream_assets,
        refresh,
        reconciliation,
        missed_events,
        compaction,
        *model_assets(models),
    ],
    schedules=schedules(_when, has_webhooks=_has_webhooks),
    sensors=[doorbell([*(model.name for model in models), "warehouse"], is_on=_has_webhooks)],
    resources={
        "lean": lean,
        "lake": lake,
        "inbox": inbox,
        "policy": policy,
        "progress": silent,
    },
)


def settings() -> LeanSettings:
    """The settings of the environment as it is, unknown variables included.

    Raises:
        ConfigError: One is missing, half set, contradicts another, or is misspelt.
    """
    return LeanSettings.load(os.environ)


def webhook_settings() -> WebhookSettings:
    """The settings of the receiver of webhooks, as the environment is.

    Raises:
        ConfigError: As `settings`.
    """
    return WebhookSettings.load(os.environ)


def environment_of(values: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment of a child process that uses given settings and folders.

    Args:
        values: Settings by field name; those of the receiver begin with `webhook_`.
        home: Folder of the state; Dagster's own lies in `dagster` inside it.
    """
    names = {variable.field: variable.name for variable in VARIABLES}
    names |= {f"webhook_{variable.field}": variable.name for variable in WEBHOOK_VARIABLES}
    return {
        **os.environ,
        **{names[field]: value for field, value in values.items()},
        "LEANHOUSE_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
    }
