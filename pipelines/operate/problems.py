"""Problems: what is wrong, since when, and what to do about it; one form for all who show it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lean_resources.errors import ConfigError

Severity = Literal["warning", "error"]
"""An error needs a person; a warning heals by itself, or has time."""


PULLS_FAILED = "PULLS_FAILED"
"""Code of a step that failed because too many pulls did; the ledger says which and why."""


class Rule(NamedTuple):
    """A kind of problem; `severity` is that of a problem that does not say another."""

    severity: Severity
    title: str


RULES: Mapping[str, Rule] = {
    "no_sync_yet": Rule("error", "nothing was read yet"),
    "credentials_refused": Rule("error", "Lean refuses the application"),
    "lean_down": Rule("error", "Lean cannot be reached"),
    "run_failed": Rule("error", "the last run failed"),
    "bank_failing": Rule("error", "reads of a bank fail"),
    "stream_failing": Rule("error", "reads of a stream fail that is not read from a bank"),
    "bank_paused": Rule("warning", "a bank is left alone for a while, because it failed"),
    "bank_off": Rule("error", "a bank is switched off"),
    "consent_refused": Rule("error", "a bank wants its customers to connect again"),
    "consent_expired": Rule("error", "consents have expired"),
    "consent_ending": Rule("warning", "consents are about to end"),
    "quarantined": Rule("error", "records do not fit and are left out"),
    "schema_drift": Rule("warning", "Lean sends fields that the catalogue does not know"),
    "stale": Rule("warning", "data is older than the policy allows"),
    "bank_late": Rule("warning", "a bank shows movements later than they are looked for nightly"),
    "refresh_budget": Rule("warning", "no refresh is left for data that is too old"),
    "events_missed": Rule("warning", "webhooks that Lean sent did not arrive"),
    "receiver_down": Rule("error", "the receiver of webhooks does not answer"),
    "damage": Rule("error", "files of the lake are damaged or missing"),
    "lean_differs": Rule("error", "the lake and Lean differ"),
    "tables_failed": Rule("error", "tables stay as they were, because a model failed"),
    "tables_behind": Rule("warning", "tables are older than the newest pull"),
    "disk_nearly_full": Rule("error", "the disk is nearly full"),
    "clock_skew": Rule("error", "this machine's clock is wrong"),
    "certificate_ending": Rule("warning", "a certificate is about to end"),
}
"""All rules by name, the most urgent first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong now; without a secret and without a personal value.

    `rule` and `subject` identify it from its beginning to its end.

    Args:
        rule: Name of its rule, a key of `RULES`.
        subject: What it is about: a bank's identifier, a stream, a step or table, `machine`,
            `receiver`, `lean` or `lake`.
        severity: `error` where it needs a person, else `warning`.
        code: Lean's code or this project's; None without one.
        count: How many records, targets, consents or the like it concerns; None where there is
            nothing to count.
        since: When it began, UTC; None where that is not known.
    """

    rule: str
    subject: str
    severity: Severity
    message: str
    remedy: str
    code: str | None = None
    count: int | None = None
    since: dt.datetime | None = None


def problem(rule: str, subject: str, message: str, remedy: str, **more: Any) -> Problem:
    """A problem of a rule, with the rule's severity where `more` has none."""
    more.setdefault("severity", RULES[rule].severity)
    return Problem(rule=rule, subject=subject, message=message, remedy=remedy, **more)


def check_rules(names: Iterable[str], entry: str) -> None:
    """Refuse names that are not those of rules.

    Raises:
        ConfigError: `entry` of policy.toml has such a name.
    """
    if unknown := sorted(set(names) - set(RULES)):
        raise ConfigError(
            f"policy.toml, {entry}: there is no rule {', '.join(unknown)}:"
            f" choose from {', '.join(RULES)}"
        )


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems, errors first, then in the order of `RULES` and of their subjects."""
    order = list(RULES)

    def place(one: Problem) -> tuple[bool, int, str, str]:
        return one.severity != "error", order.index(one.rule), one.subject, one.code or ""

    return sorted(problems, key=place)
