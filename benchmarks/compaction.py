"""A year of nightly syncs, merged: how large the lake is, and how fast it answers.

Each simulated night reads the last days of every account again, and whole open months of a seventh
of them, and commits what it read, as a sync does, without asking anybody over a network. Some rows
are pending for a day, some are posted days late. Then what was merged the night before is deleted,
as a vacuum does after a day, and months of which enough was read again are merged. At the end the
lake is held against one to which the rows that show were written once.

    python benchmarks/compaction.py --accounts 100 --nights 365
"""

from __future__ import annotations

import argparse
import calendar
import datetime as dt
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from harness import machine, write
from usage import Usage, size_of

from lean_resources.streams import STREAMS
from pipelines.lake.compaction import compact
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Outcome, Pull
from pipelines.lake.schemas import lake_schema
from pipelines.operate.vacuum import vacuum
from pipelines.sync.policy import Policy

TRANSACTIONS = STREAMS["transactions"]
FIRST_NIGHT = dt.date(2025, 1, 31)
ROUNDS = 9
QUESTIONS = {
    "month aggregate": "select currency, sum(amount), count(*) from transactions"
    " where booked_at >= '2025-06-01' and booked_at < '2025-07-01' group by all",
    "one account": "select sum(amount) from transactions where account_id = 'account-00007'",
    "everything": "select account_id, sum(amount), count(*) from transactions group by all",
}


def world(accounts: int, nights: int, seed: int) -> pa.Table:
    """All movements that a year will see, with when each is shown and when it is booked."""
    last = FIRST_NIGHT + dt.timedelta(days=nights)
    days = (last - dt.date(2025, 1, 1)).days
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"select setseed({(seed % 997) / 997})").fetchall()
        return connection.sql(
            f"""
            with drawn as (

                select
                    format('account-{{:05}}', account) as account_id,
                    format('entity-{{:05}}', account // 2) as entity_id,
                    timestamptz '2025-01-01 05:00:00+00' + to_days(day::integer)
                    + to_seconds(floor(random() * 57600)) as booked_at,
                    (1 + floor(random() * 90000))::bigint as minor,
                    random() as fate,
                    random() as shop
                from range({accounts}) as a(account), range({days}) as d(day), range(5) as n(one)

            )

            select
                *,
                uuid()::varchar as transaction_id,
                case when fate < 0.03 then booked_at + to_days((2 + fate * 200)::integer)
                    else booked_at end as shown_at,
                booked_at + case when fate > 0.9 then interval 1 day else interval 0 day end
                    as settled_at
            from drawn
            """
        ).to_arrow_table()


def typed(rows: pa.Table, night: dt.datetime) -> pa.Table:
    """The rows as a bank shows them on a night."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("rows", rows)
        found = connection.sql(
            """
            select
                entity_id,
                account_id,
                transaction_id,
                (minor / 100)::decimal(38, 9) as amount,
                'SAR' as currency,
                case when fate < 0.1 then 'CREDIT' else 'DEBIT' end as credit_debit_indicator,
                case when settled_at <= $night then 'BOOKED' else 'PENDING' end as status,
                case when settled_at <= $night then 'IMMUTABLE' else 'MUTABLE' end
                    as transaction_mutability,
                booked_at,
                booked_at as value_at,
                'Asia/Riyadh' as local_time_zone,
                'POS' as transaction_type,
                'PURCHASE' as sub_transaction_type,
                'MADA-' || (minor * 7919)::varchar as transaction_reference,
                'POS شراء SHOP ' || floor(shop * 300)::varchar || ' RIYADH'
                    as transaction_information,
                'CC5411' as merchant_category_code,
                'SHOP ' || floor(shop * 300)::varchar as merchant_name
            from rows
            """,
            params={"night": night},
        ).to_arrow_table()
    missing = {
        field.name: pa.nulls(found.num_rows, field.type)
        for field in TRANSACTIONS.schema
        if field.name not in found.column_names
    }
    columns = [
        found[name].cast(TRANSACTIONS.schema.field(name).type)
        if name in found.column_names
        else missing[name]
        for name in TRANSACTIONS.schema.names
    ]
    return pa.Table.from_arrays(columns, schema=TRANSACTIONS.schema)


def months_of(night: dt.date, first: bool) -> list[str]:
    """Months that a sync reads on a night: those that are still open, or all on the first."""
    start = dt.date(2025, 1, 1) if first else night - dt.timedelta(days=62)
    found = []
    day = start.replace(day=1)
    while day <= night:
        length = calendar.monthrange(day.year, day.month)[1]
        if day.replace(day=length) + dt.timedelta(days=30) >= night and day >= dt.date(2025, 1, 1):
            found.append(f"{day:%Y-%m}")
        day = (day + dt.timedelta(days=length)).replace(day=1)
    return found


def sync(lake: Lake, rows: pa.Table, night: dt.datetime, months: list[str]) -> None:
    """Commit a night: whole months of the accounts that are due, and the last days of others."""
    policy = Policy()
    every = policy.whole_months_every_days
    numbers = [int(name[-5:]) for name in rows["account_id"].to_pylist()]
    for days in range(every):
        # Those whose months were read whole so many days ago.
        is_theirs = [(night.toordinal() + number) % every == days for number in numbers]
        start = dt.date.min
        if days:
            start = night.date() - dt.timedelta(days=days + policy.nightly_days)
        commit(lake, rows.filter(pa.array(is_theirs)), night, months, start)


def commit(
    lake: Lake, rows: pa.Table, night: dt.datetime, months: list[str], start: dt.date = dt.date.min
) -> None:
    """Commit what a night read from a day on: one pull per account and month."""
    batch = lake.batch(night)
    pulls = []
    shown = rows.filter(pc.less_equal(rows["shown_at"], pa.scalar(night)))
    shown = shown.filter(
        pc.greater_equal(pc.cast(shown["booked_at"], pa.date32(), safe=False), start)
    )
    names = sorted(set(rows["account_id"].to_pylist()))
    keys = pc.strftime(shown["booked_at"], "%Y-%m")
    for month in months:
        mine = typed(shown.filter(pc.equal(keys, month)), night)
        year, number = map(int, month.split("-"))
        last = dt.date(year, number, calendar.monthrange(year, number)[1])
        if start > last:
            continue
        ids = {name: new_id() for name in names}
        counts = dict.fromkeys(names, 0)
        for one in pc.value_counts(mine["account_id"]).to_pylist():
            counts[one["values"]] = one["counts"]
        named = dict(zip(mine.column_names, mine.columns, strict=True))
        named["pull_id"] = pa.array(
            [ids[name] for name in mine["account_id"].to_pylist()], pa.string()
        )
        columns = [
            named[field.name] if field.name in named else pa.nulls(mine.num_rows, field.type)
            for field in lake_schema(TRANSACTIONS)
        ]
        batch.rows(
            TRANSACTIONS,
            pa.Table.from_arrays(columns, schema=lake_schema(TRANSACTIONS)),
            month=month,
        )
        pulls += [
            Pull(
                pull_id=ids[name],
                series_id=ids[name],
                stream="transactions",
                parent_id=name,
                month=month,
                covered_from=max(last.replace(day=1), start),
                covered_to=min(last, night.date()),
                outcome=Outcome.COMMITTED,
                rows=counts[name],
                refreshed_at=night,
                asked_at=night,
                finished_at=night,
            )
            for name in names
        ]
    batch.commit(pulls)


def asked(lakes: dict[str, Lake]) -> dict[str, dict[str, float]]:
    """Median seconds of each question to each lake, asked in turn."""
    times: dict[str, dict[str, list[float]]] = {q: {n: [] for n in lakes} for q in QUESTIONS}
    connections = {name: lake.connect() for name, lake in lakes.items()}
    for _ in range(ROUNDS):
        for question, query in QUESTIONS.items():
            answers = []
            for name, connection in connections.items():
                started = time.perf_counter()
                answers.append(sorted(connection.execute(query).fetchall()))
                times[question][name].append(time.perf_counter() - started)
            if any(answer != answers[0] for answer in answers):
                raise SystemExit(f"the lakes answer differently: {question}")
    return {
        question: {name: statistics.median(taken) for name, taken in by_lake.items()}
        for question, by_lake in times.items()
    }


def main() -> None:
    """Simulate, merge, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accounts", type=int, default=100)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    given = parser.parse_args()
    random.seed(given.seed)
    started = Usage.start()
    rows = world(given.accounts, given.nights, given.seed)
    with tempfile.TemporaryDirectory(prefix="compaction-") as folder:
        lake = Lake(Path(folder) / "nightly", "sandbox")
        untouched = 0
        merging = 0.0
        for number in range(given.nights):
            night = dt.datetime.combine(
                FIRST_NIGHT + dt.timedelta(days=number), dt.time(23), dt.UTC
            )
            # The last read is whole, so that the lakes hold the same.
            read = commit if number in {0, given.nights - 1} else sync
            read(lake, rows, night, months_of(night.date(), first=number == 0))
            begun = time.perf_counter()
            before = size_of(lake.folder / TRANSACTIONS.name)
            vacuum(lake, older_than_seconds=-1)
            untouched += before - size_of(lake.folder / TRANSACTIONS.name)
            compact(lake)
            merging += time.perf_counter() - begun
        fresh = Lake(Path(folder) / "fresh", "sandbox")
        with lake.connect() as connection:
            all_months = [
                month
                for (month,) in connection.execute(
                    "select distinct month from claims where stream = 'transactions' order by all"
                ).fetchall()
            ]
        commit(fresh, rows, night, all_months)
        sizes = {
            "shown": size_of(lake.folder / TRANSACTIONS.name),
            "superseded": size_of(lake.folder / "superseded" / TRANSACTIONS.name),
            "ledger": size_of(lake.folder / "pulls"),
            "fresh": size_of(fresh.folder / TRANSACTIONS.name),
        }
        files = len(list((lake.folder / TRANSACTIONS.name).glob("*/*.parquet")))
        times = asked({"merged": lake, "fresh": fresh})
        used = Usage.since(started)
    held = sizes["shown"] + sizes["superseded"]
    ratio = held / sizes["fresh"]
    lines = [
        (
            f"{given.nights} nights, {given.accounts} accounts, {rows.num_rows:,} movements;"
            f" {machine()}."
        ),
        "",
        "| | MiB | files |",
        "|---|---:|---:|",
        f"| without merging | {(held + max(untouched, 0)) / 2**20:.1f} | |",
        f"| merged: rows that show | {sizes['shown'] / 2**20:.1f} | {files} |",
        f"| merged: superseded versions | {sizes['superseded'] / 2**20:.1f} | |",
        f"| written once | {sizes['fresh'] / 2**20:.1f} | |",
        f"| the ledger | {sizes['ledger'] / 2**20:.1f} | |",
        "",
        f"Merged, the lake has {ratio:.2f} times the size of the rows that show, written once.",
        "",
        "| | merged, ms | written once, ms | times |",
        "|---|---:|---:|---:|",
        *(
            f"| {question} | {by_lake['merged'] * 1000:.1f} | {by_lake['fresh'] * 1000:.1f}"
            f" | {by_lake['merged'] / by_lake['fresh']:.2f} |"
            for question, by_lake in times.items()
        ),
    ]
    print("\n".join(lines))
    if not given.keep_page:
        write("compaction", lines)
    print(
        json.dumps(
            {
                "benchmark": "compaction",
                "nights": given.nights,
                "accounts": given.accounts,
                "movements": rows.num_rows,
                "size_ratio": round(ratio, 3),
                "files": files,
                "ratios": {q: round(b["merged"] / b["fresh"], 3) for q, b in times.items()},
                "merging_seconds": round(merging, 1),
                "seconds": round(used.seconds, 1),
                "peak_mib": round(used.peak_bytes / 2**20),
            }
        )
    )


if __name__ == "__main__":
    main()
