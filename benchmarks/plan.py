"""Planning: which paged reads a million accounts take, from a ledger of a year.

    .venv/bin/python benchmarks/plan.py --accounts 1000000

The ledger is written straight to Parquet by DuckDB in a process of its own, so that this one's peak
memory is planning's. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import duckdb
import harness
from usage import Usage, own_peak_bytes

from lean_resources.streams import STREAMS
from pipelines.lake.compaction import keep_present
from pipelines.lake.lake import Lake
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection, Task, tasks_of

NOW = dt.datetime(2026, 3, 15, 2, tzinfo=dt.UTC)


def _id(kind: str, number: str) -> str:
    """An id that looks like Lean's, of as many digits."""
    return f"'{kind}000000-0000-4000-8000-' || lpad(lower(to_hex({number})), 12, '0')"


_COMPARED = 10_000
"""Accounts up to which the plan is compared with that of the whole ledger."""
_UNCHANGED = ("balances", "identities", "beneficiaries", "direct_debits", "standing_orders")
_EVERY, _LAST = Policy().whole_months_every_days, Policy().nightly_days


def write(root: str, accounts: int, months: int, nights: int, *, is_kept: bool) -> None:
    """A lake as a year of syncs leaves it: one pull per account and month, none missing.

    Of the open months, which are the last two, it has the pulls of the last nights: on one of
    seven nights of the whole months, and on the others of the last days.
    """
    lake = Lake(Path(root), "sandbox")
    entities = max(1, accounts // 2)
    entity = _id("e", f"n % {entities}")
    always = "timestamptz '2026-03-14 02:00:00+00'"
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")

        def put(folder: Path, name: str, query: str) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            connection.execute(f"copy ({query}) to '{folder / name}.parquet' (format parquet)")

        pulled = lake.folder / "pulls" / "pulled_on=2026-03-14"
        for stream, count, parent in (
            ("banks", 1, "'PERSONAL'"),
            ("entities", 1, "'application'"),
            ("consents", 1, "'application'"),
            ("accounts", entities, _id("e", "n")),
            ("refreshes", entities, _id("e", "n")),
        ):
            put(
                pulled,
                stream,
                f"select '{stream}-' || n as pull_id, '{stream}' as batch_id, '{stream}' as stream,"
                f" {parent} as parent_id,"
                f" 'COMMITTED' as outcome, {always} as asked_at, {always} as known_at,"
                f" {always} as finished_at from range({count}) as numbers (n)",
            )
        place = lake.folder / STREAMS["banks"].name / "pulled_on=2026-03-14"
        put(
            place,
            "banks",
            "select 'BANK' || n as bank_identifier, true as is_active_for_data,"
            " true as is_enabled_for_data, 'banks-0' as pull_id from range(20) as numbers (n)",
        )
        put(
            lake.folder / STREAMS["entities"].name / "pulled_on=2026-03-14",
            "entities",
            f"select {entity} as entity_id, 'BANK' || (n % 20) as bank_identifier,"
            " 'ACTIVE' as status, true as permits_transactions, 'entities-0' as pull_id"
            f" from range({entities}) as numbers (n)",
        )
        put(
            lake.folder / STREAMS["consents"].name / "pulled_on=2026-03-14",
            "consents",
            f"select {entity} as entity_id, {_id('c', 'n')} as consent_id,"
            " 'ACTIVE' as consent_status, timestamptz '2026-01-05 08:00:00+00' as created_at,"
            " timestamptz '2027-01-05 08:00:00+00' as expires_at,"
            f" (date '2026-03-01' - interval {months - 1} month)::timestamptz"
            " as transactions_from_at, 'consents-0' as pull_id"
            f" from range({entities}) as numbers (n)",
        )
        put(
            lake.folder / STREAMS["accounts"].name / "pulled_on=2026-03-14",
            "accounts",
            f"select {_id('a', 'n')} as account_id, {entity} as entity_id,"
            f" 'accounts-' || (n % {entities}) as pull_id from range({accounts}) as numbers (n)",
        )
        accounts_of = ", ".join(
            f"{{'account_id': {_id('a', f'(n + {entities * place})')},"
            " 'transactions_from_date': date '2025-03-14'}"
            for place in range(accounts // entities)
        )
        put(
            lake.folder / STREAMS["refreshes"].name / "pulled_on=2026-03-14",
            "refreshes",
            f"select {_id('f', 'n')} as refresh_id, {entity} as entity_id, 'FINISHED' as status,"
            f" {always} as created_at, [{accounts_of}] as account_statuses,"
            f" 'refreshes-' || n as pull_id from range({entities}) as numbers (n)",
        )
        for back in range(2, months):
            first = f"(date '2026-03-01' - interval {back} month)::date"
            last = f"last_day({first})"
            put(
                pulled,
                f"transactions-{back:02}",
                _pulls(
                    accounts, entity, back, first, last,
                    f"({last} + 31)::timestamptz + interval (n % 3600) second",
                ),
            )  # fmt: skip
        for night in reversed(range(nights)):
            if night == 0 and is_kept:
                # A year of nights leaves present pulls; the last night is not among them.
                keep_present(lake)
                for stream in _UNCHANGED:
                    put(
                        pulled,
                        f"unchanged-{stream}",
                        f"select '{stream}-' || n as pull_id, '{stream}' as stream,"
                        f" {_id('a', 'n')} as parent_id, {entity} as entity_id,"
                        f" 'UNCHANGED' as outcome, {always} as asked_at, {always} as known_at,"
                        f" {always} as refreshed_at from range({accounts}) as numbers (n)",
                    )
            day = f"(date '2026-03-14' - {night})"
            store = f"{day}::timestamptz + interval 1 hour + interval (n % 3600) second"
            # Whole on one night of seven, as the accounts' phases lie; since then the last days.
            since = f"(({day} - date '2000-01-01' + n) % {_EVERY})::integer"
            start = f"if({since} = 0, date '2026-02-01', {day} - {since} - {_LAST})"
            for back, (low, high) in enumerate(
                (("2026-03-01", day), ("2026-02-01", f"least({day}, date '2026-02-28')"))
            ):
                put(
                    pulled,
                    f"night-{night:03}-{back}",
                    "from ("
                    + _pulls(
                        accounts, entity, 20 + night * 2 + back,
                        f"greatest({start}, date '{low}')", high, store,
                    )
                    + ") where claimed_from <= claimed_to",
                )  # fmt: skip


def _pulls(accounts: int, entity: str, number: int, first: str, last: str, store: str) -> str:
    """The SELECT of a committed pull of each account; days and instants are SQL over `n`."""
    return (
        f"select lpad(lower(to_hex(n * 1000 + {number})), 32, '0') as pull_id,"
        f" lpad(lower(to_hex(n * 1000 + {number})), 32, 'f') as series_id,"
        f" 'transactions' as stream, {_id('a', 'n')} as parent_id,"
        f" {entity} as entity_id, 'BANK' || (n % 20) as bank_identifier,"
        f" 'COMMITTED' as outcome, {store} as asked_at, {store} as known_at,"
        f" {store} as finished_at, {store} as refreshed_at,"
        f" strftime({first}, '%Y-%m') as month,"
        f" {first} as claimed_from, {last} as claimed_to, {last} + 1 as moving_from,"
        f" 25 as rows from range({accounts}) as numbers (n)"
    )


def main() -> None:
    """Write a ledger, plan by it, and print what that cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--nights", type=int, default=1, help="whose pulls of open months are kept")
    parser.add_argument(
        "--whole", action="store_true", help="no present pulls: plan from the whole ledger"
    )
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-") as root:
        writer = multiprocessing.get_context("spawn").Process(
            target=write,
            args=(root, given.accounts, given.months, given.nights),
            kwargs={"is_kept": not given.whole},
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit(writer.exitcode)
        lake = Lake(Path(root), "sandbox")
        start = Usage.start()
        planned: Counter[str] = Counter()
        for one in tasks_of(STREAMS["transactions"], lake, NOW, Policy(), Selection()):
            planned["reads" if isinstance(one, Task) else "skipped"] += 1
            planned["months"] += len(one.months) if isinstance(one, Task) else 0
        used = Usage.since(start)
        if given.accounts <= _COMPARED and not given.whole:
            kept = list(tasks_of(STREAMS["transactions"], lake, NOW, Policy(), Selection()))
            shutil.rmtree(lake.folder / "present")
            if kept != list(tasks_of(STREAMS["transactions"], lake, NOW, Policy(), Selection())):
                raise RuntimeError("present pulls give other reads than the whole ledger")
    figures = {
        "benchmark": "plan",
        "accounts": given.accounts,
        "months": given.months,
        "nights": given.nights,
        "is_whole": given.whole,
        **planned,
        "seconds": round(used.seconds, 1),
        "cpu_seconds": round(used.cpu_seconds, 1),
        "peak_mib": round(own_peak_bytes() / 2**20),
    }
    lines = [
        "| accounts | paged reads | seconds | CPU s | peak memory |",
        "|---:|---:|---:|---:|---:|",
        (
            f"| {given.accounts:,} | {planned['reads']:,} | {used.seconds:.0f}"
            f" | {used.cpu_seconds:.0f} | {figures['peak_mib']} MiB |"
        ),
        "",
        f"One run; {harness.machine()}.",
    ]
    print("\n".join(lines))
    if not given.keep_page:
        harness.write("plan", lines)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
