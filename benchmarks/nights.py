"""What a night asks for: requests and rows of the ledger, by the planner, over a quarter.

    .venv/bin/python benchmarks/nights.py

Each account has some rows a day, and each night the bank has new ones. The planner plans from what
the nights before covered, as it would from a ledger. A naive sync reads the permitted year of each
account every night, in Lean's usual pages. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Iterator

import harness

from pipelines.sync.planner import AllowedDays, Coverage, plan
from pipelines.sync.policy import Policy

_DAY = dt.timedelta(days=1)
_FIRST = dt.date(2026, 1, 1)
_NIGHTS = 91
_PAGE, _USUAL_PAGE = 100, 50
_WHOLE = Policy(nightly_days=1000)


def nights(policy: Policy, accounts: int, rows: float) -> tuple[float, float, float]:
    """Requests, ledger rows and rows read, per account and night after the first read.

    Args:
        policy: How eagerly to pull.
        accounts: Number of accounts, which differ in the weekday of whole months.
        rows: Rows of an account on a day.
    """
    requests = pulls = read = 0
    for number in range(accounts):
        allowed = AllowedDays(f"{number}", "BANK", _FIRST - 365 * _DAY, dt.date(2028, 1, 1))
        have: dict[str, list[Coverage]] = {}
        for night in range(_NIGHTS + 1):
            today = _FIRST + night * _DAY
            copy = dt.datetime.combine(today, dt.time(2), dt.UTC)
            for one in list(plan(allowed, {allowed.account_id: have}, today, policy)):
                if night:
                    count = ((one.to_date - one.from_date).days + 1) * rows
                    requests += max(1, -(-round(count) // _PAGE))
                    pulls += len(one.months)
                    read += round(count)
                for month in one.months:
                    # Of earlier pulls the days before are left, as the lake resolves them.
                    earlier = [
                        Coverage(
                            it.from_date,
                            min(it.to_date, month.from_date - _DAY),
                            it.refreshed_at,
                            moving_from=month.from_date,
                        )
                        for it in have.get(month.month, ())
                        if it.from_date < month.from_date
                    ]
                    # Rows of the last two days are pending.
                    newest = Coverage(
                        month.from_date, month.to_date, copy, moving_from=today - _DAY
                    )
                    have[month.month] = [*earlier, newest]
    nightly = accounts * _NIGHTS
    return requests / nightly, pulls / nightly, read / nightly


def _table(accounts: int) -> Iterator[str]:
    yield "| rows a day | | requests | ledger rows | rows read | naive requests | fewer by |"
    yield "|---:|---|---:|---:|---:|---:|---:|"
    for rows in (1, 5, 20):
        naive = -(-365 * rows // _USUAL_PAGE)
        for name, policy in (("whole months nightly", _WHOLE), ("the last days", Policy())):
            requests, pulls, read = nights(policy, accounts, rows)
            yield (
                f"| {rows} | {name} | {requests:.2f} | {pulls:.2f} | {read:.0f} | {naive}"
                f" | {naive / requests:.1f} |"
            )


def main() -> None:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    given = parser.parse_args()
    table = list(_table(given.accounts))
    print("\n".join(table))
    if not given.keep_page:
        harness.write("nights", table)
    print(json.dumps({"benchmark": "nights", "accounts": given.accounts, "table": table[2:]}))


if __name__ == "__main__":
    main()
