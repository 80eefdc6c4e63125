"""Planning: which paged reads millions of accounts take, from present pulls and a night's tail.

    .venv/bin/python benchmarks/plan.py --accounts 3000000

The lake is written straight to Parquet by DuckDB in a process of its own, so that this one's peak
memory is planning's: present pulls as a year of nights leaves them, and the pulls of one night in
commits of 20,000. Up to 10,000 accounts a second lake has the whole ledger instead; present pulls
that compaction keeps of it, and the plan by the whole of it, are compared with those of the first.
The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import harness
import pyarrow as pa
from usage import Usage, own_peak_bytes

from lean_resources.streams import STREAMS
from pipelines.lake.compaction import keep_present
from pipelines.lake.folders import PRESENT
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.present import Present, reveal
from pipelines.sync.planner import phase_of
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection, Task, tasks_of

NOW = dt.datetime(2026, 3, 15, 2, tzinfo=dt.UTC)

_COMPARED = 10_000
"""Accounts up to which the plan is compared with that of the whole ledger."""
_COMMIT = 20_000
"""Pulls of a commit."""
_SNAPSHOTS = ("balances", "beneficiaries", "direct_debits", "identities", "standing_orders")
_EVERY, _LAST = Policy().whole_months_every_days, Policy().nightly_days
_LISTED = "timestamptz '2026-03-14 02:00:00+00'"
_LAST_NIGHT = "date '2026-03-14'"
_OPEN = (("2026-02-01", "2026-02-28"), ("2026-03-01", "2026-03-31"))
"""First and last day of the open months, which a night reads."""


def _id(kind: str, number: str) -> str:
    """An id that looks like Lean's, of as many digits."""
    return f"'{kind}000000-0000-4000-8000-' || lpad(lower(to_hex({number})), 12, '0')"


def _day(nights: int) -> str:
    """The day of a night, so many before the last."""
    return f"({_LAST_NIGHT} - {nights})"


def _since(nights: int) -> str:
    """Days since the last read of whole months, as the accounts' phases lie."""
    return f"(({_day(nights)} - date '0001-01-01' + 1 + phase) % {_EVERY})::integer"


@dataclass(frozen=True, slots=True)
class _Lake:
    """SELECTs of a lake's pulls; days and instants are SQL over the account's number `n`."""

    accounts: int
    months: int

    @property
    def entities(self) -> int:
        """Number of entities, each with two accounts."""
        return max(1, self.accounts // 2)

    @property
    def entity(self) -> str:
        """The entity of account `n`."""
        return _id("e", f"n % {self.entities}")

    def copy(self, day: str) -> str:
        """The instant of the bank data copy that was read on a day; accounts of an entity share it.

        Args:
            day: A date.
        """
        spread = f"interval (n % {self.entities} * 7919 % 3600000) millisecond"
        return f"(({day})::timestamp at time zone 'UTC' + interval 1 hour + {spread})"

    def settled(self) -> Iterator[str]:
        """Pulls of whole months, oldest first; the consent begins on a day of the first."""
        for back in range(self.months - 1, 1, -1):
            month = f"(date '2026-03-01' - interval {back} month)::date"
            first = (
                f"({month} + (n % {self.entities} // 11 % 28)::integer)"
                if back == self.months - 1
                else month
            )
            last = f"last_day({month})"
            yield self.pulls(f"'{back}'", first, last, f"{last} + 31", "true")

    def night(self, nights: int) -> Iterator[str]:
        """Pulls of a night: the open months whole on one of seven nights, else their last days."""
        day, since = _day(nights), _since(nights)
        start = f"if({since} = 0, date '{_OPEN[0][0]}', {day} - {since} - {_LAST})"
        for low, high in _OPEN:
            last = f"least({day}, date '{high}')"
            first = f"greatest({start}, date '{low}')"
            yield self.pulls(f"'night' || ({day})", first, last, day, f"{first} <= {last}")

    def standing(self, nights: int) -> Iterator[tuple[str, str]]:
        """Pulls of open months that count after a night, and the ranges of days that they cover.

        They are those of the night, and the last of whole months before, if days are left to it.
        """
        day, since = _day(nights), _since(nights)
        start = f"{day} - {since} - {_LAST}"
        for (low, high), newest in zip(_OPEN, self.night(nights), strict=True):
            whole = f"({day} - {since})"
            last = f"least({whole}, date '{high}')"
            left = f"least({last}, {start} - 1)"
            is_left = f"{since} > 0 and date '{low}' <= {left}"
            older, its_range = (
                self.pulls(f"'night' || {whole}", f"date '{low}'", last, whole, is_left, until)
                for until in (last, left)
            )
            yield f"{older} union all {newest}", f"{its_range} union all {newest}"

    def pulls(
        self, name: str, first: str, last: str, day: str, where: str, until: str | None = None
    ) -> str:
        """The SELECT of a committed pull of each account; rows of three days may still move.

        Args:
            until: Last day that it shows if not `last`.
        """
        copied = self.copy(day)
        return (
            f"select n, md5({name} || {first} || n) as pull_id, md5({name} || n) as series_id,"
            f" 'transactions' as stream, {_id('a', 'n')} as parent_id,"
            f" {self.entity} as entity_id, 'BANK' || (n % 20) as bank_identifier,"
            f" 'COMMITTED' as outcome, {copied} as asked_at, {copied} as known_at,"
            f" {copied} as finished_at, {copied} as refreshed_at, 1 as generation,"
            f" strftime({last}, '%Y-%m') as month, {first} as claimed_from,"
            f" {until or last} as claimed_to,"
            f" least({last} + 1, greatest({first}, ({day})::date - (n // 5 % 4)::integer))"
            f" as moving_from, 25 as rows, 0 as quarantined from numbers where ({where})"
        )

    def year(self, nights: int) -> Iterator[str]:
        """Pulls of the whole ledger, but for listings and the last night."""
        yield from self.settled()
        yield from self.snapshots("COMMITTED", _day(nights))
        for night in range(nights - 1, 0, -1):
            yield from self.night(night)
            yield from self.snapshots("UNCHANGED", _day(night))

    def snapshots(self, outcome: str, day: str) -> Iterator[str]:
        """Pulls of a day of the streams that are read per account, in the order of their names."""
        for stream in _SNAPSHOTS:
            yield (
                f"select n, md5('{stream}' || {day} || n) as pull_id, '{stream}' as stream,"
                f" {_id('a', 'n')} as parent_id, {self.entity} as entity_id,"
                f" '{outcome}' as outcome, {self.copy(day)} as asked_at,"
                f" {self.copy(day)} as known_at, {self.copy(day)} as refreshed_at,"
                " 1 as generation, 0 as quarantined from numbers"
            )

    def listings(self) -> Iterator[tuple[str, int, str]]:
        """Streams of entities and of the application: name, number of pulls, SELECT."""
        for stream, count, parent in (
            ("accounts", self.entities, _id("e", "n")),
            ("banks", 1, "'PERSONAL'"),
            ("consents", 1, "'application'"),
            ("entities", 1, "'application'"),
            ("refreshes", self.entities, _id("e", "n")),
        ):
            entity = _id("e", "n") if count > 1 else "null::varchar"
            yield (
                stream,
                count,
                (
                    f"select n, '{stream}-' || n as pull_id, '{stream}' as batch_id,"
                    f" '{stream}' as stream, {parent} as parent_id, {entity} as entity_id,"
                    f" 'COMMITTED' as outcome, {_LISTED} as asked_at, {_LISTED} as known_at,"
                    f" {_LISTED} as finished_at, 1 as generation, 0 as quarantined from numbers"
                ),
            )

    def rows(self) -> Iterator[tuple[str, int, str]]:
        """Rows of streams: name, number, SELECT."""
        yield (
            "banks",
            20,
            (
                "select n, 'BANK' || n as bank_identifier, true as is_active_for_data,"
                " true as is_enabled_for_data, 'banks-0' as pull_id from numbers"
            ),
        )
        yield (
            "entities",
            self.entities,
            (
                f"select n, {self.entity} as entity_id, 'BANK' || (n % 20) as bank_identifier,"
                " 'ACTIVE' as status, true as permits_transactions, 'entities-0' as pull_id"
                " from numbers"
            ),
        )
        yield (
            "consents",
            self.entities,
            (
                f"select n, {self.entity} as entity_id, {_id('c', 'n')} as consent_id,"
                " 'ACTIVE' as consent_status, timestamptz '2026-01-05 08:00:00+00' as created_at,"
                " timestamptz '2027-01-05 08:00:00+00' as expires_at,"
                f" (date '2026-03-01' - interval {self.months - 1} month"
                " + interval (n // 11 % 28) day)::timestamptz as transactions_from_at,"
                " 'consents-0' as pull_id from numbers"
            ),
        )
        yield (
            "accounts",
            self.accounts,
            (
                f"select n, {_id('a', 'n')} as account_id, {self.entity} as entity_id,"
                f" 'accounts-' || (n % {self.entities}) as pull_id from numbers"
            ),
        )
        accounts_of = ", ".join(
            f"{{'account_id': {_id('a', f'(n + {self.entities * place})')},"
            " 'transactions_from_date': date '2025-03-01' + (n // 13 % 5)::integer}"
            for place in range(self.accounts // self.entities)
        )
        yield (
            "refreshes",
            self.entities,
            (
                f"select n, {_id('f', 'n')} as refresh_id, {self.entity} as entity_id,"
                f" 'FINISHED' as status, {_LISTED} as created_at,"
                f" [{accounts_of}] as account_statuses, 'refreshes-' || n as pull_id from numbers"
            ),
        )


def _of(query: str, start: int, end: int) -> str:
    """A SELECT over numbers, for some of these."""
    return query.replace("from numbers", f"from (from numbers where n >= {start} and n < {end})")


def write(root: str, accounts: int, months: int, nights: int, *, is_kept: bool) -> None:
    """A lake as a year of syncs leaves it: no day is missing, and the last night is the tail.

    Args:
        root: The folder.
        accounts: Number of accounts.
        months: Months of their history.
        nights: Nights whose pulls are in the whole ledger.
        is_kept: Whether it has present pulls instead of the whole ledger.
    """
    lake, made = Lake(Path(root), "sandbox"), _Lake(accounts, months)
    pulled = lake.folder / "pulls" / "pulled_on=2026-03-14"
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
        connection.execute(f"set memory_limit = '6GB'; set temp_directory = '{root}/spill'")

        ids = connection.sql(f"select {_id('a', 'n')} from range({accounts}) as numbers (n)")
        policy = Policy()
        phases = [phase_of(account_id, policy) for (account_id,) in ids.fetchall()]
        table = pa.table({"n": pa.array(range(accounts)), "phase": pa.array(phases, pa.int8())})
        connection.register("phases", table)
        connection.execute("create table numbers as from phases")

        for name, count, query in made.rows():
            folder = lake.folder / STREAMS[name].name / "pulled_on=2026-03-14"
            _put(connection, folder, name, query, count, count)
            (folder / f"{name}-00000000.parquet").rename(folder / f"{name}.parquet")
        if is_kept:
            _write_present(lake, connection, made)
        else:
            for name, count, query in made.listings():
                _put(connection, pulled, name, query, count, count)
            for number, query in enumerate(made.year(nights)):
                _put(connection, pulled, f"year{number}", query, accounts, accounts)
            keep_present(lake)
        for number, query in enumerate([*made.night(0), *made.snapshots("UNCHANGED", _day(0))]):
            _put(connection, pulled, f"last{number}", query, accounts, _COMMIT)


def _put(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    name: str,
    query: str,
    count: int,
    at_once: int,
) -> None:
    """Write the rows of a SELECT over numbers to files, each for so many numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, at_once):
        part = _of(query, start, min(count, start + at_once))
        file = folder / f"{name}-{start:08}.parquet"
        connection.execute(f"copy (select * exclude (n) from ({part})) to '{file}'")


def _write_present(lake: Lake, connection: duckdb.DuckDBPyConnection, made: _Lake) -> None:
    """Present pulls as compaction keeps them of a year of nights but the last."""
    standing = list(made.standing(1))
    every = " union all ".join([*made.settled(), *(ranges for _, ranges in standing)])
    connection.execute(
        "create table coverage (stream varchar, parent_id varchar, ranges struct(month varchar,"
        " from_date date, to_date date, refreshed_at timestamptz, is_unfit boolean,"
        " moving_from date)[])"
    )
    for start in range(0, made.accounts, 200_000):
        some = _of(every, start, min(made.accounts, start + 200_000))
        connection.execute(
            "insert into coverage select any_value(stream), any_value(parent_id),"
            " list({'month': month, 'from_date': claimed_from, 'to_date': claimed_to,"
            " 'refreshed_at': refreshed_at, 'is_unfit': false, 'moving_from': moving_from}"
            f" order by claimed_from) from ({some}) group by n order by n"
        )
    of_stream = {name: [_of(query, 0, count)] for name, count, query in made.listings()}
    for outcome, nights in (("COMMITTED", _NIGHTS), ("UNCHANGED", 1)):
        for name, query in zip(_SNAPSHOTS, made.snapshots(outcome, _day(nights)), strict=True):
            of_stream.setdefault(name, []).append(_of(query, 0, made.accounts))
    pulls = [query for _, queries in sorted(of_stream.items()) for query in queries]
    months = [*made.settled(), *(select for select, _ in standing)]
    pulls += [_of(query, 0, made.accounts) for query in months]
    parts = ["select 'coverage' as kind, * from coverage"]
    parts += [f"select 'pull' as kind, * exclude (n) from ({query})" for query in pulls]
    key = PRESENT / f"{new_id()}.parquet"
    name, lists = Present(key, {}, {}, {}, 1, frozenset()).lists()
    # In order within each group of rows, which is what readers skip.
    connection.execute("set preserve_insertion_order = false")
    with lake.storage.staging(key) as file:
        connection.execute(
            f"copy ({' union all by name '.join(parts)}) to '{file}' (format parquet,"
            f" compression zstd, kv_metadata {{'{name}': '{lists}'}})"
        )
    reveal(lake.storage, key)


_NIGHTS = 30
"""Nights of which the whole ledger has pulls: enough to show that only the last ones matter."""


def _is_equal(root: Path, other: Path) -> bool:
    """Whether two lakes have the same present pulls, and the same plan without those of one."""
    lakes = [Lake(one, "sandbox") for one in (root, other)]
    plans = [list(tasks_of(STREAMS["transactions"], lake, *_PLANNED)) for lake in lakes]
    columns = "kind, stream, parent_id, outcome, month, claimed_from, claimed_to, pull_id, ranges"
    first, second = (
        f"select {columns} from read_parquet('{lake.folder}/present/*.parquet')" for lake in lakes
    )
    with duckdb.connect() as connection:
        differing = connection.execute(
            f"(({first}) except ({second})) union all (({second}) except ({first}))"
        ).fetchall()
    for file in (lakes[1].folder / "present").iterdir():
        file.unlink()
    plans.append(list(tasks_of(STREAMS["transactions"], lakes[1], *_PLANNED)))
    print(
        len(plans[0]),
        len(plans[2]),
        len(differing),
        plans[0] == plans[1],
        plans[0] == plans[2],
        plans[0][:1],
    )
    return not differing and plans[0] == plans[1] == plans[2]


_PLANNED = (NOW, Policy(), Selection())


def _made(root: Path, *given: int, is_kept: bool) -> Path:
    """Write a lake in a process of its own."""
    writer = multiprocessing.get_context("spawn").Process(
        target=write, args=(str(root), *given), kwargs={"is_kept": is_kept}
    )
    writer.start()
    writer.join()
    if writer.exitcode:
        raise SystemExit(writer.exitcode)
    return root


def main() -> None:
    """Write a lake, plan by it, and print what that cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--accounts", type=int, default=3_000_000)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--lake", type=Path, help="folder of a lake to write, or to use again")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        root = given.lake or Path(folder) / "present"
        if not root.exists():
            _made(root, given.accounts, given.months, _NIGHTS, is_kept=True)
        if given.accounts <= _COMPARED:
            whole = Path(folder) / "whole"
            _made(whole, given.accounts, given.months, _NIGHTS, is_kept=False)
            if not _is_equal(root, whole):
                raise RuntimeError("present pulls or the plan differ from those of the ledger")
        lake = Lake(root, "sandbox")
        start = Usage.start()
        lake.ledger.since_present()
        opened = Usage.since(start)
        start = Usage.start()
        planned: Counter[str] = Counter()
        for one in tasks_of(STREAMS["transactions"], lake, *_PLANNED):
            planned["reads" if isinstance(one, Task) else "skipped"] += 1
            planned["months"] += len(one.months) if isinstance(one, Task) else 0
        used = Usage.since(start)
    figures = {
        "benchmark": "plan",
        "accounts": given.accounts,
        "months": given.months,
        **{f"planned_{name}": count for name, count in planned.items()},
        "open_seconds": round(opened.seconds, 2),
        "seconds": round(used.seconds, 1),
        "cpu_seconds": round(used.cpu_seconds, 1),
        "peak_mib": round(own_peak_bytes() / 2**20),
        "load": round(os.getloadavg()[0], 1),
    }
    lines = [
        "| accounts | paged reads | seconds | CPU s | peak memory |",
        "|---:|---:|---:|---:|---:|",
        (
            f"| {given.accounts:,} | {planned['reads']:,} | {used.seconds:.0f}"
            f" | {used.cpu_seconds:.0f} | {figures['peak_mib']} MiB |"
        ),
        "",
        f"One run, under a load of {figures['load']}; {harness.machine()}.",
    ]
    print("\n".join(lines))
    if not given.keep_page:
        harness.write("plan", lines)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
