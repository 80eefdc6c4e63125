"""The environment of this process: the only file that reads it, and names its variables.

Without Dagster, so that a command which needs none of it starts at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lean_resources.settings import (
    VARIABLES,
    WEBHOOK_VARIABLES,
    LeanSettings,
    WebhookSettings,
)
from pipelines.keys import SANDBOX_KEY

__all__ = [
    "ENVIRONMENT",
    "HASH_KEY",
    "HAS_WEBHOOKS",
    "HOME",
    "INBOX_URL",
    "INBOX_VARIABLE",
    "PII",
    "child_of",
    "settings",
    "variables",
    "webhook_settings",
]

HOME = Path(os.environ.get("LEANHOUSE_HOME") or Path(__file__).resolve().parent.parent / "var")
"""Folder of the state."""

ENVIRONMENT = os.environ.get("LEAN_ENVIRONMENT") or "sandbox"
"""sandbox or production."""

HASH_KEY = os.environ.get("LEANHOUSE_HASH_KEY") or SANDBOX_KEY
"""Key of hashed account numbers, as it is given."""

PII = os.environ.get("LEANHOUSE_PII") == "true"
"""Whether the warehouse has a schema with personal columns."""

INBOX_VARIABLE = "LEAN_WEBHOOK_INBOX" if os.environ.get("LEAN_WEBHOOK_INBOX") else None
"""Variable with the inbox's URL, which may hold a password; None where it is not set."""

HAS_WEBHOOKS = bool(INBOX_VARIABLE or os.environ.get("LEAN_WEBHOOK_SECRET"))
"""Whether webhooks are set up."""

INBOX_URL = (
    os.environ.get("LEAN_WEBHOOK_INBOX") or f"sqlite:///{HOME / 'inbox' / f'{ENVIRONMENT}.db'}"
    if HAS_WEBHOOKS
    else ""
)
"""Where the inbox of webhooks lies; empty where they are not set up."""


def variables() -> dict[str, str]:
    """Names of the variables with settings of Lean that are set, by field."""
    return {one.field: one.name for one in VARIABLES if os.environ.get(one.name)}


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


def child_of(values: Mapping[str, str], home: Path) -> dict[str, str]:
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
