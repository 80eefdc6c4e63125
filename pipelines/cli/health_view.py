"""Health on a terminal of 80 columns: problems with their remedies, banks, streams."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.cli.console import plain_console, say, visible

if TYPE_CHECKING:
    from pipelines.operate.bank_health import BankHealth, StreamHealth
    from pipelines.operate.health import Health
    from pipelines.operate.problems import Problem

_STYLES = {"error": "red", "warning": "yellow"}
_INDENT = 9


def show_health(health: Health) -> None:
    """Print problems, then banks, then streams."""
    console = plain_console()
    show_problems(health.problems)
    if not health.problems:
        say("Nothing is wrong.")
    if health.accepted:
        rules = ", ".join(dict.fromkeys(one.rule for one in health.accepted))
        say(f"accepted by policy.toml: {rules}")
    banks = [one for one in health.banks if one.bank_identifier]
    if banks:
        say(f"\nBanks, {health.as_of:%Y-%m-%d %H:%M} UTC")
        console.print(_banks(banks, health.as_of))
        say("last pull, data: ago. unfit: records left out. consents: ending + expired.")
        say("refreshes: used of those allowed in 24 h. today: requests + refreshes of")
        say(f"{health.riyadh_date} in Riyadh. unknown: months of accounts.")
    if any(one.lateness for one in banks):
        say("\nDays after its own day on which a movement is first seen")
        console.print(_lateness(banks))
        say("p50 to p99: within so many days half, 95 and 99 in 100. later: share that")
        say("came later than nightly_days of policy.toml.")
    if health.streams:
        say("\nStreams")
        console.print(_streams(health.streams))


def show_problems(problems: Sequence[Problem]) -> None:
    """Print problems, each with its remedy."""
    console = plain_console()
    for one in problems:
        code = f" {one.code}" if one.code else ""
        since = f" since {one.since:%Y-%m-%d %H:%M} UTC" if one.since else ""
        head = Text.assemble(
            (f"{one.severity:<{_INDENT}}", _STYLES[one.severity]),
            (visible(f"{one.rule} {one.subject}"), "bold"),
            visible(f"{code}{since}"),
        )
        console.print(head, soft_wrap=True)
        for text, style in ((one.message, ""), (one.remedy, "dim")):
            below = Text(visible(text), style=style)
            console.print(Padding(below, (0, 0, 0, _INDENT), expand=False))


def plain_table(names: Sequence[str]) -> Table:
    """A table without lines, whose columns but the first are to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _banks(banks: Sequence[BankHealth], now: dt.datetime) -> Table:
    table = plain_table(
        ("bank", "state", "last pull", "data", "unfit", "consents", "refreshes", "today", "unknown")
    )
    for one in banks:
        unknown = "-" if one.months_unknown is None else f"{one.months_unknown:,}"
        table.add_row(
            visible(one.bank_identifier),
            _state(one),
            _ago(one.last_good_at, now),
            _ago(one.refreshed_at, now),
            f"{sum(unfit.count for unfit in one.quarantine):,}",
            f"{one.consents_ending:,}+{one.consents_expired:,}",
            f"{one.refreshes_used:,}/{one.refreshes_allowed:,}",
            f"{one.requests_today:,}+{one.refreshes_today:,}",
            unknown,
        )
    return table


def _lateness(banks: Sequence[BankHealth]) -> Table:
    table = plain_table(("bank", "movements", "p50", "p95", "p99", "most", "later"))
    for bank in banks:
        if (one := bank.lateness) is not None:
            days = (one.days_p50, one.days_p95, one.days_p99, one.days_most)
            name = visible(bank.bank_identifier)
            table.add_row(name, f"{one.movements:,}", *map(str, days), f"{one.later_share:.1%}")
    return table


def _state(bank: BankHealth) -> str:
    """The bank in a word, the gravest first."""
    if bank.off_since is not None:
        return "off"
    if bank.paused_until is not None:
        return "paused"
    return "fails" if bank.failures else "late" if bank.late_entities else "ok"


def _ago(instant: dt.datetime | None, now: dt.datetime) -> str:
    if instant is None:
        return "never"
    hours = (now - instant).total_seconds() / 3600
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _streams(streams: Sequence[StreamHealth]) -> Table:
    names = ("committed", "unchanged", "skipped", "failed", "rows", "unfit")
    table = plain_table(("stream", *names, "last pull"))
    for one in streams:
        counts = (f"{getattr(one, name):,}" for name in names)
        table.add_row(one.stream, *counts, f"{one.last_pull_at:%m-%d %H:%M}")
    return table
