"""Compaction: small files of settled months become large ones, and no answer is lost.

A month is read again each night while it is open, so that its rows lie in as many copies. Once it
has settled, each version of a row is kept once, with the pulls that brought it. The merged rows
are committed like any other pull, by the ledger's file: it claims what the newest of them claimed
and says which pulls it covers. Readers of the older files are not disturbed, because those stay
until a vacuum a day later; writers neither, because a pull that knows more wins as ever.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake import PARENTS, Lake, merged_schema
from pipelines.ledger import LEDGER_SCHEMA, Outcome, Pull, new_id
from pipelines.policy import Policy

__all__ = ["Compacted", "compact"]

_MOST_FILES = 8
"""Files of a month above which all of it is merged, however few of its pulls are new."""
_ROWS_AT_ONCE = 400_000
"""Rows, counted once for every pull that brought them, that are merged in one commit."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did.

    Args:
        months: Months that were merged.
        pulls: Pulls whose rows were merged.
        rows: Rows that show, in merged files.
        superseded: Versions of rows that show no more.
        files_before: Files of those months before, and
        files_after: what will be left of them after the next vacuum.
    """

    months: int = 0
    pulls: int = 0
    rows: int = 0
    superseded: int = 0
    files_before: int = 0
    files_after: int = 0


def compact(
    lake: Lake,
    *,
    policy: Policy,
    today: dt.date | None = None,
    run_id: str | None = None,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> Compacted:
    """Merge the files of months that have settled.

    An account whose days of a month are spoken for by several pulls, as after a consent that starts
    later, is left as it is.

    Args:
        lake: The lake.
        policy: How long after its end a month may still change.
        today: UTC day by which months have settled; that of the lake's clock when left.
        run_id: The run, for the ledger.
        rows_at_once: Bound on memory: rows of all versions that are merged together.
    """
    done = Compacted()
    for stream in STREAMS.values():
        if stream.window is Window.MONTHS:
            for month in _settled(lake, stream, policy, today):
                done = _sum(done, _Month(lake, stream, month, run_id, rows_at_once).merge())
    return done


def _settled(lake: Lake, stream: Stream, policy: Policy, today: dt.date | None) -> Iterator[str]:
    """Months that no bank may still change, oldest first."""
    with lake.connect(PARENTS) as connection:
        if today is None:
            found = connection.execute("select (as_of at time zone 'UTC')::date from clock")
            today = (found.fetchone() or (None,))[0] or dt.date.min
    lookback = max(policy.lookback_days, *policy.lookback_days_by_bank.values(), 0)
    for folder in sorted(lake.place(stream).glob("month=*")):
        month = folder.name.removeprefix("month=")
        year, number = map(int, month.split("-"))
        last = dt.date(year, number, calendar.monthrange(year, number)[1])
        if last + dt.timedelta(days=lookback) < today:
            yield month


def _sum(one: Compacted, other: Compacted) -> Compacted:
    names = Compacted.__slots__
    return Compacted(*(getattr(one, name) + getattr(other, name) for name in names))


@dataclass(frozen=True, slots=True)
class _Month:
    """One month of a stream that is being merged."""

    lake: Lake
    stream: Stream
    month: str
    run_id: str | None
    rows_at_once: int

    def merge(self) -> Compacted:
        """Merge what is worth it, some accounts at a time, each time as one commit."""
        files = len(list((self.lake.place(self.stream) / f"month={self.month}").glob("*.parquet")))
        done = Compacted()
        with self.lake.connect(PARENTS) as connection:
            history = self.lake.history(self.stream, [self.month])
            connection.execute(f"create temp view versions as {history}")
            self._choose(connection, everything=files > _MOST_FILES)
            for parents in self._groups(connection):
                done = _sum(done, self._merge(connection, parents))
        if not done.pulls:
            return done
        left = sum(
            file.parent.name == f"month={self.month}" for file, _ in self.lake.merged_files()
        )
        after = len(list((self.lake.place(self.stream) / f"month={self.month}").glob("*.parquet")))
        return replace(done, months=1, files_before=files, files_after=after - left)

    def _choose(self, connection: duckdb.DuckDBPyConnection, *, everything: bool) -> None:
        """Name the pulls to merge: those of accounts with some that were not merged yet."""
        connection.execute(
            """
            create temp table whole as
            select parent_id, min(pull_id) as newest_id
            from claims
            where stream = $stream and month = $month
            group by parent_id
            having count(*) = 1
            """,
            {"stream": self.stream.name, "month": self.month},
        )
        connection.execute(
            f"""
            create temp table places as
            select
                pulls.parent_id,
                pulls.pull_id,
                whole.newest_id,
                pulls.rows,
                pulls.covers is not null as is_merged,
                row_number() over (
                    partition by pulls.parent_id
                    order by
                        pulls.covers is not null,
                        coalesce(pulls.refreshed_at, pulls.asked_at),
                        pulls.asked_at,
                        pulls.pull_id
                )::integer as place,
                count(*) filter (where pulls.covers is null) over (
                    partition by pulls.parent_id
                )::integer as last_place
            from pulls
            inner join whole on pulls.parent_id = whole.parent_id
            where
                pulls.stream = $stream
                and pulls.month = $month
                and pulls.outcome = 'COMMITTED'
            qualify
                {everything} or bool_or(
                    pulls.covers is null
                    and pulls.pull_id not in (select merged_pulls.pull_id from merged_pulls)
                ) over (partition by pulls.parent_id)
            """,
            {"stream": self.stream.name, "month": self.month},
        )

    def _groups(self, connection: duckdb.DuckDBPyConnection) -> Iterator[Sequence[str]]:
        """Accounts in groups of bounded size; nothing where there is nothing to gain."""
        rows = connection.execute(
            "select parent_id, sum(rows) filter (where not is_merged) from places"
            " group by all order by all"
        ).fetchall()
        group: list[str] = []
        size = 0
        for parent_id, count in rows:
            if group and size + count > self.rows_at_once:
                yield group
                group, size = [], 0
            group.append(parent_id)
            size += count or 0
        if group:
            yield group

    def _merge(self, connection: duckdb.DuckDBPyConnection, parents: Sequence[str]) -> Compacted:
        names = ", ".join(f'versions."{name}"' for name in self.stream.schema.names)
        key = ", ".join(f'"{name}"' for name in self.stream.key)
        versions_key = ", ".join(f'versions."{name}"' for name in self.stream.key)
        same = " and ".join(f'stretches."{name}" = versions."{name}"' for name in self.stream.key)
        order = ", ".join(f'versions."{name}"' for name in self.stream.placed_by)
        connection.execute(
            "create or replace temp table chosen as select unnest($1) as parent_id", [list(parents)]
        )
        # Narrow first: a row's content as two hashes, and the stretches of pulls that brought it.
        connection.execute(
            f"""
            create or replace temp table stretches as
            with seen as (

                select
                    {versions_key},
                    versions.pull_id,
                    places.place,
                    places.last_place,
                    hash({names}) as content,
                    hash('again', {names}) as again
                from versions
                inner join places
                    on versions.pull_id = places.pull_id
                    and versions.{self.stream.parent_key} = places.parent_id
                inner join chosen on places.parent_id = chosen.parent_id

            ),

            counted as (

                select
                    *,
                    place - row_number() over (
                        partition by {key}, content, again
                        order by place
                    ) as stretch
                from seen

            )

            select
                arg_max(pull_id, place) as pull_id,
                {key},
                min(place)::integer as seen_from,
                max(place)::integer as seen_to,
                max(place) = any_value(last_place) as is_shown
            from counted
            group by {key}, content, again, stretch
            """
        )
        table = connection.sql(
            f"""
            select
                {names},
                places.newest_id as pull_id,
                versions.page_number,
                versions.record_number,
                stretches.seen_from,
                stretches.seen_to,
                stretches.is_shown
            from stretches
            inner join versions
                on stretches.pull_id = versions.pull_id
                and {same}
            inner join places
                on versions.pull_id = places.pull_id
                and versions.{self.stream.parent_key} = places.parent_id
            order by versions.{self.stream.parent_key}, {order}
            """
        ).to_arrow_table()
        return self._commit(connection, table)

    def _commit(self, connection: duckdb.DuckDBPyConnection, table: pa.Table) -> Compacted:
        """Write merged rows under new pulls, and let the ledger say which ones those cover."""
        shown = table.filter(table["is_shown"])
        counts = {
            one["values"]: one["counts"] for one in pc.value_counts(shown["pull_id"]).to_pylist()
        }
        pulls = {}
        merged = 0
        for pull, covers in self._newest(connection):
            merged += len(covers)
            pulls[pull.pull_id] = replace(
                pull,
                pull_id=new_id(),
                rows=counts.get(pull.pull_id, 0),
                quarantined=0,
                requests=0,
                bytes=0,
                run_id=self.run_id,
                covers=covers,
            )
        renamed = pa.array(
            [pulls[one].pull_id for one in table["pull_id"].to_pylist()], pa.string()
        )
        table = table.set_column(table.schema.get_field_index("pull_id"), "pull_id", renamed)
        schema = merged_schema(self.stream)
        is_shown = table["is_shown"]
        table = table.select(schema.names)
        superseded = table.filter(pc.invert(is_shown))
        batch = self.lake.batch()
        batch.merged(self.stream, table.filter(is_shown), superseded, month=self.month)
        batch.commit(list(pulls.values()))
        return Compacted(pulls=merged, rows=shown.num_rows, superseded=superseded.num_rows)

    def _newest(
        self, connection: duckdb.DuckDBPyConnection
    ) -> Iterator[tuple[Pull, Sequence[str]]]:
        """The pull that speaks for each chosen account, and all that its successor covers."""
        names = [name for name in LEDGER_SCHEMA.names if name not in {"batch_id", "covers"}]
        result = connection.execute(
            f"select {', '.join(f'pulls.{name}' for name in names)},"
            " list(places.pull_id order by places.place)"
            " from places inner join chosen on places.parent_id = chosen.parent_id"
            " inner join pulls on places.newest_id = pulls.pull_id"
            " group by all"
        )
        for *row, covers in result.fetchall():
            fields = dict(zip(names, row, strict=True))
            yield Pull(**fields | {"outcome": Outcome(fields["outcome"])}), covers
