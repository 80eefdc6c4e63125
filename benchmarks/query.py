"""How fast a lake answers that lies in many small files, and how fast once they were merged.

A lake of twelve months is made straight to Parquet and split into the files of many commits, as
many small pulls would have left it. A copy of it is compacted, and the same questions are asked of
both in turn, each in full: the rows that count are found anew by every query. The last line of the
output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import duckdb
import model_lake
from harness import CACHE, Figures, machine, write
from usage import Usage, size_of

from lean_resources.streams import STREAMS
from pipelines.lake.compaction import compact
from pipelines.lake.lake import Lake
from pipelines.operate.vacuum import vacuum

TRANSACTIONS = STREAMS["transactions"]
_ROWS_PER_ACCOUNT = 95
_MONTHS = 12
QUESTIONS = {
    "one account": "select count(*), sum(amount) from transactions where account_id = 'a-00000042'",
    "one month": "select currency, count(*), sum(amount) from transactions"
    " where booked_at >= '2025-06-01' and booked_at < '2025-07-01' group by all",
    "everything, resolved": "select credit_debit_indicator, count(*), sum(amount),"
    " count(distinct account_id) from transactions group by all",
}


def main() -> None:
    """Make, merge, ask, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="transactions, about")
    parser.add_argument("--files", type=int, default=1_000, help="files of them, about")
    parser.add_argument("--rounds", type=int, default=3, help="how often each question is asked")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    given = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="query-") as folder:
        lines, figures = _measure(Path(folder), given)
    print("\n".join(lines))
    if not given.keep_page:
        write("query", lines)
    print(json.dumps(figures))


def _measure(folder: Path, given: argparse.Namespace) -> tuple[list[str], Figures]:
    small = Lake(folder / "small", "sandbox")
    rows = model_lake.make(small, max(4, given.rows // _ROWS_PER_ACCOUNT // 4 * 4))
    split(small, max(1, given.files // _MONTHS))
    shutil.copytree(small.folder.parent, folder / "merged", copy_function=os.link)
    merged = Lake(folder / "merged", "sandbox")
    start = Usage.start()
    compact(merged)
    merging = Usage.since(start)
    vacuum(merged, older_than_seconds=-1)
    lakes = {"small": small, "merged": merged}
    files = {
        name: list((lake.folder / TRANSACTIONS.name).glob("*/*.parquet"))
        for name, lake in lakes.items()
    }
    sizes = {name: size_of(lake.folder / TRANSACTIONS.name) for name, lake in lakes.items()}
    seconds = _asked(lakes, given.rounds)
    lines = [
        (
            f"{rows:,} transactions, median of {given.rounds}; {machine()}. Merging took"
            f" {merging.cpu_seconds:.0f} s of CPU."
        ),
        "",
        (
            f"| | {len(files['small']):,} files, {sizes['small'] / 2**20:,.0f} MiB"
            f" | {len(files['merged']):,} files, {sizes['merged'] / 2**20:,.0f} MiB |"
        ),
        "|---|---:|---:|",
        *(
            f"| {question} | {by_lake['small']:.2f} s | {by_lake['merged']:.2f} s |"
            for question, by_lake in seconds.items()
        ),
    ]
    figures = {
        "benchmark": "query",
        "rows": rows,
        "files": {name: len(found) for name, found in files.items()},
        "bytes": sizes,
        "merging_cpu_seconds": round(merging.cpu_seconds, 1),
        "seconds": seconds,
        "machine": machine(),
    }
    return lines, figures


def split(lake: Lake, commits: int) -> None:
    """Split the transactions of a lake into files of so many commits, accounts apart."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        [ledger] = (lake.folder / "pulls").glob("*/*.parquet")
        connection.execute(f"create table ledger as from read_parquet('{ledger}')")
        connection.execute("create table counts (pull_id varchar, rows bigint)")
        for file in (lake.folder / TRANSACTIONS.name).glob("*/*.parquet"):
            connection.execute(
                "create or replace temp table rows as"
                f" select *, hash(account_id) % {commits} as part from read_parquet('{file}')"
            )
            connection.execute("insert into counts select pull_id, count(*) from rows group by 1")
            for part in range(commits):
                _copy(
                    connection,
                    f"select * exclude (part) from rows where part = {part}",
                    file.with_name(f"part{part}.parquet"),
                )
            file.unlink()
        ours = "stream = 'transactions'"
        for part in range(commits):
            _copy(
                connection,
                f"select ledger.* replace ('part{part}' as batch_id,"
                " coalesce(counts.rows, 0) as rows)"
                " from ledger left join counts on ledger.pull_id = counts.pull_id"
                f" where {ours} and hash(parent_id) % {commits} = {part}",
                ledger.with_name(f"part{part}.parquet"),
            )
        _copy(connection, f"from ledger where not {ours}", ledger)


def _copy(connection: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    connection.execute(f"copy ({query}) to '{file}' (format parquet)")


def _asked(lakes: dict[str, Lake], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each question to each lake, asked in turn; opening is one of them."""
    times: dict[str, dict[str, list[float]]] = {
        question: {name: [] for name in lakes} for question in ("opening", *QUESTIONS)
    }
    for _ in range(rounds):
        answers: dict[str, list[object]] = {question: [] for question in QUESTIONS}
        for name, lake in lakes.items():
            started = time.perf_counter()
            connection = lake.connect((TRANSACTIONS.name,))
            times["opening"][name].append(time.perf_counter() - started)
            for question, query in QUESTIONS.items():
                started = time.perf_counter()
                answers[question].append(sorted(connection.execute(query).fetchall()))
                times[question][name].append(time.perf_counter() - started)
            connection.close()
        if differing := [one for one, found in answers.items() if found[0] != found[1]]:
            raise RuntimeError(f"the lakes answer differently: {', '.join(differing)}")
    return {
        question: {name: round(statistics.median(taken), 3) for name, taken in by_lake.items()}
        for question, by_lake in times.items()
    }


if __name__ == "__main__":
    main()
