"""How eagerly to pull: all settings of a sync."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS, Window

_WEEK = 168.0

Days = Annotated[int, Field(ge=0)]
Hours = Annotated[float, Field(gt=0)]


class Policy(BaseModel):
    """How eagerly to pull.

    Args:
        lookback_days: Number of days after its end that a month stays open. Its rows may change,
            so it is read again.
        lookback_days_by_bank: The same for banks that post later or sooner.
        nightly_days: Number of days that each sync reads again of an open month: those before the
            last read of whole months, and all since.
        nightly_days_by_bank: The same for banks that post later or sooner.
        whole_months_every_days: Number of days after which open months are read whole again, where
            rows that came later than `nightly_days` are found.
        history_months: Wanted months of history, including the current month; None for all that
            the consents allow.
        longest_read_months: Maximum number of months in a paged read.
        fresh_hours: Greatest age of the bank's data, by stream; older data is refreshed.
        reread_hours: Greatest age of the last read, for streams that change seldom; each sync
            reads all other streams. A new consent is read at once, and so is everything in a run
            for selected entities or accounts.
        resume_hours: How long a run that continues earlier runs does not repeat their reads.
        refreshes_per_day: Maximum number of refreshes of an entity within any 24 hours.
        refresh_poll_seconds: Seconds before the first check of a running refresh, which took 8 to
            12 in Lean's sandbox; each further wait is 1.5 times as long.
        refresh_alarm_seconds: Seconds after which a running refresh is overdue.
        unfit_share: Share of a read's records, from 0 to 1. With more unfit records than that, and
            more than three, the read replaces nothing.
        failure_threshold: Share of failed pulls above which a run fails, from 0 to 1.
        accepted_problems: Rules of `leanhouse status` whose problems are known: nobody has to act
            on them, and they send no alert.
        bank_failures: Failures in a row after which a bank is paused.
        bank_cooldown_seconds: How long a bank is paused.

    Raises:
        pydantic.ValidationError: A value is out of its range or a name is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lookback_days: Days = 30
    lookback_days_by_bank: dict[str, Days] = {}
    nightly_days: Days = 7
    nightly_days_by_bank: dict[str, Days] = {}
    whole_months_every_days: Annotated[int, Field(ge=1)] = 7
    history_months: Annotated[int, Field(ge=1)] | None = None
    longest_read_months: Annotated[int, Field(ge=1, le=120)] = 12
    fresh_hours: dict[str, Hours] = {"balances": 6.0, "transactions": 24.0}
    reread_hours: dict[str, Hours] = dict.fromkeys(
        (stream.name for stream in STREAMS.values() if stream.changes_seldom), _WEEK
    )
    resume_hours: Hours = 12.0
    refreshes_per_day: Annotated[int, Field(ge=0)] = 4
    refresh_poll_seconds: Annotated[float, Field(gt=0)] = 15.0
    refresh_alarm_seconds: Annotated[float, Field(gt=0)] = 1200.0
    unfit_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    failure_threshold: Annotated[float, Field(ge=0, le=1)] = 0.2
    accepted_problems: frozenset[str] = frozenset()
    bank_failures: Annotated[int, Field(ge=1)] = 5
    bank_cooldown_seconds: Annotated[float, Field(gt=0)] = 900.0

    @field_validator("fresh_hours")
    @classmethod
    def _are_streams(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(value) - set(STREAMS))
        if unknown:
            raise ValueError(f"there is no stream {', '.join(unknown)}")
        return value

    @field_validator("reread_hours")
    @classmethod
    def _have_read_targets(cls, value: dict[str, float]) -> dict[str, float]:
        slow = {s.name for s in STREAMS.values() if s.window is Window.SNAPSHOT and s.parent_key}
        unknown = sorted(set(value) - slow)
        if unknown:
            raise ValueError(f"not read for each entity or account: {', '.join(unknown)}")
        return value

    @property
    def longest_open_days(self) -> int:
        """Number of days after its end that a month stays open at the slowest bank."""
        return max(self.lookback_days, *self.lookback_days_by_bank.values(), 0)

    def open_days_of(self, bank_identifier: str | None) -> int:
        """Number of days after its end that a month stays open at a bank."""
        return self.lookback_days_by_bank.get(bank_identifier or "", self.lookback_days)

    def nightly_days_of(self, bank_identifier: str | None) -> int:
        """Number of days that each sync reads again of an open month at a bank."""
        return self.nightly_days_by_bank.get(bank_identifier or "", self.nightly_days)


class Schedules(BaseModel):
    """When to pull and to build; cron expressions are read in Asia/Riyadh.

    Args:
        enabled: Whether schedules run unless they are stopped by hand.
        nightly: The full sync.
        balances: Refreshes and balances between full syncs.
        tables: Builds and publishes all tables between full syncs; empty for never.
        reconciliation: Reads all permitted transactions again and compares them.
        missed_events: Compares Lean's list of events with the webhooks that arrived.

    Raises:
        pydantic.ValidationError: A name is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    nightly: str = "0 2 * * *"
    balances: str = "0 8,14,20 * * *"
    tables: str = ""
    reconciliation: str = "0 4 * * 5"
    missed_events: str = "40 * * * *"


class Alerts(BaseModel):
    """Which problems send an alert; `leanhouse status` shows all of them.

    Args:
        severity: The least severity that sends one: `warning` or `error`.
        after_minutes: How long a problem must have lasted, by rule; others send one at once.

    Raises:
        pydantic.ValidationError: A name is unknown or a value is out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    severity: Literal["warning", "error"] = "warning"
    after_minutes: dict[str, Annotated[int, Field(ge=0)]] = {"bank_paused": 60, "receiver_down": 5}


class PolicyFile(NamedTuple):
    """What `policy.toml` holds."""

    policy: Policy
    schedules: Schedules
    alerts: Alerts


class _File(Policy):
    schedules: Schedules = Schedules()
    alerts: Alerts = Alerts()


def load(file: Path) -> PolicyFile:
    """Everything in a TOML file; the defaults if the file does not exist.

    Settings of the policy stand at the top of the file, the others under `[schedules]` and
    `[alerts]`.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or out of range.
    """
    if not file.exists():
        return PolicyFile(Policy(), Schedules(), Alerts())
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file.name} cannot be read as TOML: {error}") from None
    try:
        read = _File.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise ConfigError(f"{file.name}: {problems}") from None
    policy = Policy.model_validate({name: getattr(read, name) for name in Policy.model_fields})
    return PolicyFile(policy, read.schedules, read.alerts)
