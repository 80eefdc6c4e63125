"""Health: what is wrong and how each bank stands, the one source of all who show it.

Facts come from the lake, from the newest runs of Dagster and from this machine. Lean is not asked,
and nothing is written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from lean_resources.errors import BankPausedError, ConsentError, UnfitError
from lean_resources.limits import CircuitOpenError
from pipelines.lake.digests import DamageError, damage_error
from pipelines.operate.bank_health import (
    CONSENT_DAYS,
    MOST_SKEW,
    BankFailure,
    BankHealth,
    LakeFacts,
    StreamHealth,
    lake_facts,
    midnight,
)
from pipelines.operate.problems import PULLS_FAILED, Problem, check_rules, in_order, problem

if TYPE_CHECKING:
    import dagster as dg

    from pipelines.environment import Settings
    from pipelines.lake.lake import Lake
    from pipelines.sync.policy import Policy

_TABLES_TAKE = dt.timedelta(hours=1)
"""How long tables may stay behind a pull, because a run is under way."""
_LEAST_MEASURED, _LATER_SHARE = 100, 0.01
"""Movements that tell how late a bank is, and the share of them that may come later."""
_STOPS_ALL = {"credentials_refused", "lean_down", "run_failed", "no_sync_yet"}
"""Rules whose problems explain that data is old."""
_STOPS_BANK = {"bank_failing", "bank_off", "bank_paused", "consent_refused"}
"""The same for a bank."""
_FAILING = {"bank_failing", "stream_failing", "bank_off", "consent_refused"}


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong, and how each bank and stream stands.

    Args:
        as_of: When this was looked at, UTC, by this machine's clock.
        riyadh_date: The day in Riyadh on which requests and refreshes of today were counted.
        problems: What is wrong, errors first.
        explained: Problems that another of them explains.
        banks: The banks of which something was read, by their identifiers.
        streams: The streams that were ever pulled, by name.
        is_whole: Whether the lake could be read; if not, only machine and runs were looked at.
    """

    as_of: dt.datetime
    riyadh_date: dt.date
    problems: list[Problem]
    explained: list[Problem]
    accepted: list[Problem]
    banks: list[BankHealth]
    streams: list[StreamHealth]
    is_whole: bool

    @property
    def needs_a_person(self) -> bool:
        """Whether a problem is an error."""
        return any(one.severity == "error" for one in self.problems)


def health(
    lake: Lake,
    policy: Policy,
    *,
    settings: Settings | None = None,
    instance: dg.DagsterInstance | None = None,
    now: dt.datetime | None = None,
    consent_days: int = CONSENT_DAYS,
) -> Health:
    """What is wrong now, and how each bank stands.

    Args:
        lake: The lake, which need not exist yet.
        settings: The machine's side: disk, certificates and receiver; None leaves these rules out.
        instance: Where Dagster records its runs; None leaves the rules of runs out.
        now: This machine's clock, UTC; None means the present.
        consent_days: For how many days before and after its end a consent is a problem.

    Raises:
        ConfigError: The lake has a newer format than this code knows, or the policy accepts a rule
            that does not exist.
    """
    check_rules(policy.accepted_problems, "accepted_problems")
    now = now or dt.datetime.now(dt.UTC)
    found: list[Problem] = []
    if settings is not None:
        from pipelines.operate.machine_problems import machine_problems  # noqa: PLC0415 - ssl

        found += machine_problems(settings, lake.folder, now)
    if instance is not None:
        from pipelines.operate.run_problems import run_problems  # noqa: PLC0415 - needs Dagster

        found += run_problems(instance)
    facts, damage = None, None
    try:
        facts = lake_facts(lake, policy, now, consent_days)
    except (duckdb.Error, DamageError) as error:
        damage = damage_error(error)
        if damage is None:
            raise
        found.append(problem("damage", "lake", damage.message, damage.remedy, code=damage.code))
    if facts is not None:
        found += _lake_problems(facts, now)
        for bank in facts.banks:
            found += _bank_problems(bank, policy, consent_days)
    elif damage is None:
        remedy = "Run leanhouse doctor, then leanhouse sync."
        found.append(problem("no_sync_yet", "lake", "nothing was read from Lean yet", remedy))
    accepted = [one for one in found if one.rule in policy.accepted_problems]
    explained = list(_effects([one for one in found if one not in accepted]))
    return Health(
        as_of=now,
        riyadh_date=midnight(now).date(),
        problems=in_order(one for one in found if one not in explained and one not in accepted),
        explained=explained,
        accepted=accepted,
        banks=facts.banks if facts else [],
        streams=facts.streams if facts else [],
        is_whole=damage is None,
    )


def _lake_problems(facts: LakeFacts, now: dt.datetime) -> Iterator[Problem]:
    if abs(facts.ahead) > MOST_SKEW:
        yield clock_skew(facts.ahead)
    if facts.is_behind and facts.committed_at < now - _TABLES_TAKE:
        yield problem(
            "tables_behind", "tables",
            "what was read last is not in the tables yet"
            if facts.is_built
            else "no table was built yet",
            "Run leanhouse build, or materialise the tables in Dagster.",
            since=facts.committed_at,
        )  # fmt: skip


def clock_skew(ahead: dt.timedelta) -> Problem:
    """The problem of a clock that is so far ahead of Lean's; behind it where that is negative."""
    seconds = ahead.total_seconds()
    return problem(
        "clock_skew", "machine",
        f"this machine's clock was {abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'}"
        " Lean's at Lean's last answer",
        "Set it by NTP. Data is ordered by Lean's clock, so nothing is lost.",
    )  # fmt: skip


def _bank_problems(bank: BankHealth, policy: Policy, consent_days: int) -> Iterator[Problem]:
    yield from _failing(bank, policy)
    yield from _access(bank, consent_days)
    name = bank.bank_identifier
    for stream in dict.fromkeys(one.stream for one in bank.quarantine):
        unfit = [one for one in bank.quarantine if one.stream == stream]
        count = sum(one.count for one in unfit)
        reasons = ", ".join(f"{one.column_name} {one.reason} ({one.count:,})" for one in unfit[:3])
        yield problem(
            "quarantined", f"{name} {stream}".strip(),
            f"{count:,} records of {stream} do not fit, and their days are not known: {reasons}",
            UnfitError.remedy,
            code="RECORDS_UNFIT",
            count=count,
            since=min(one.since for one in unfit),
        )  # fmt: skip
    if bank.late_entities:
        yield problem(
            "stale", name,
            f"{', '.join(bank.late_streams)} of {bank.late_entities:,} of {bank.entities:,}"
            " entities are older than twice fresh_hours of policy.toml",
            "Run leanhouse sync, and check that the schedules run.",
            count=bank.late_entities,
            since=bank.oldest_refreshed_at,
        )  # fmt: skip
    late = bank.lateness
    if late and late.movements >= _LEAST_MEASURED and late.later_share > _LATER_SHARE:
        yield problem(
            "bank_late", name,
            f"{late.later_share:.1%} of {late.movements:,} movements came later than"
            f" {policy.nightly_days_of(name)} days after their own day, and were found when their"
            " months were read whole",
            f"Set nightly_days_by_bank = {{ {name} = {late.days_p99} }} in policy.toml: 99 in 100"
            " come within these days.",
            count=round(late.later_share * late.movements),
        )  # fmt: skip
    if bank.late_without_refresh:
        until = bank.next_refresh_at
        yield problem(
            "refresh_budget", name,
            f"{bank.late_without_refresh:,} entities with old data have no refresh left",
            f"Wait until {until:%Y-%m-%d %H:%M} UTC, when the first has another,"
            " or raise refreshes_per_day in policy.toml.",
            count=bank.late_without_refresh,
        )  # fmt: skip


def _failing(bank: BankHealth, policy: Policy) -> Iterator[Problem]:
    """A problem per code; that of a bank that is off is another rule."""
    by_code: dict[tuple[str, str], list[BankFailure]] = {}
    for one in bank.failures:
        if one.remedy != BankPausedError.remedy:
            by_code.setdefault((one.code, one.remedy), []).append(one)
    name = bank.bank_identifier
    for (code, remedy), failures in by_code.items():
        count, of_count = sum(one.count for one in failures), sum(one.of_count for one in failures)
        rule = "bank_failing" if name else "stream_failing"
        if remedy == ConsentError.remedy:
            rule = "consent_refused"
        is_much = count > policy.failure_threshold * of_count
        yield problem(
            rule, name or failures[0].stream,
            f"{count:,} of {of_count:,} reads of {', '.join(one.stream for one in failures)} fail",
            remedy,
            severity="error" if is_much or rule == "consent_refused" else "warning",
            code=code,
            count=count,
            since=min(one.since for one in failures),
        )  # fmt: skip


def _access(bank: BankHealth, consent_days: int) -> Iterator[Problem]:
    """Whether the bank and its customers let themselves be read."""
    name = bank.bank_identifier
    if bank.paused_until is not None:
        yield problem(
            "bank_paused", name,
            f"the bank failed time and again and is left alone until {bank.paused_until:%H:%M} UTC",
            CircuitOpenError.remedy,
            code="CIRCUIT_OPEN",
        )  # fmt: skip
    if bank.off_since is not None:
        yield problem(
            "bank_off", name, "the bank is switched off for data, and nothing of it is read",
            BankPausedError.remedy,
            code=BankPausedError.default_code,
            since=bank.off_since,
        )  # fmt: skip
    if bank.consents_expired:
        yield problem(
            "consent_expired", name,
            f"expired consents: {bank.consents_expired:,}; nothing is read for them. The table"
            " dim_consents has whose they are (state 'expired')",
            ConsentError.remedy,
            code=ConsentError.default_code,
            count=bank.consents_expired,
            since=bank.consents_expired_since,
        )  # fmt: skip
    if bank.consents_ending and bank.next_consent_end_at is not None:
        yield problem(
            "consent_ending", name,
            f"consents that end within {consent_days} days: {bank.consents_ending:,}, the first on"
            f" {bank.next_consent_end_at:%Y-%m-%d}. The table dim_consents has whose they are"
            " (days_to_expiry)",
            "Ask the customers to renew them.",
            count=bank.consents_ending,
        )  # fmt: skip


def _effects(found: Sequence[Problem]) -> Iterator[Problem]:
    rules = {one.rule for one in found}
    stopped = {one.subject for one in found if one.rule in _STOPS_BANK}
    for one in found:
        if (
            (one.rule == "stale" and (rules & _STOPS_ALL or one.subject in stopped))
            or (one.rule == "tables_behind" and rules & {"run_failed", "tables_failed"})
            or (one.code == PULLS_FAILED and rules & _FAILING)
        ):
            yield one
