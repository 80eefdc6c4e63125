"""Replay: typed rows made again from the answers as received, without asking Lean.

Used when the catalogue has learnt a column, or a mistake in typing was mended. Each pull whose rows
count gets a successor with the same days, the same store and the same instants, whose rows come
from the raw pages; being newer by its id alone, it takes the place of the old one.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lean_resources.gate import Gate, Page
from lean_resources.quarantine import lost
from lean_resources.streams import STREAMS, Stream, Window
from pipelines.lake import Lake, lake_schema
from pipelines.ledger import LEDGER_SCHEMA, Outcome, Pull, new_id

__all__ = ["Replayed", "replay"]

_SERIES_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay of one stream did.

    Args:
        pulls: Pulls that were made again.
        rows: Their rows.
        without_answers: Pulls that stay as they are, because their answers are not kept.
    """

    pulls: int
    rows: int
    without_answers: int


def replay(stream: Stream, lake: Lake, *, run_id: str | None = None) -> Replayed:
    """Type a stream's answers again, as far as their pulls still count.

    Args:
        stream: The stream; one that is exploded from another reads the other's answers.
        lake: The lake.
        run_id: The run, for the ledger.

    Raises:
        SchemaError: An answer cannot be typed any more; nothing of its group is committed.
    """
    outer = STREAMS[stream.exploded_from or stream.name]
    with lake.connect() as connection:
        connection.execute(f"create temp view raw_pages as {lake.raw_pages(outer)}")
        pulls = _pulls(connection, stream)
        known = {
            row[0]
            for row in connection.execute("select distinct series_id from raw_pages").fetchall()
        }
        kept = [pull for pull in pulls if pull.series_id in known]
        series = sorted({pull.series_id for pull in kept})
        rows = 0
        gate = Gate(stream)
        for start in range(0, len(series), _SERIES_AT_ONCE):
            some = set(series[start : start + _SERIES_AT_ONCE])
            group = [pull for pull in kept if pull.series_id in some]
            typed = gate(_pages(connection, sorted(some)))
            rows += _commit(stream, lake, group, typed.rows, typed.quarantine, run_id)
    return Replayed(len(kept), rows, len(pulls) - len(kept))


def _pulls(connection: duckdb.DuckDBPyConnection, stream: Stream) -> list[Pull]:
    """Committed pulls that still speak for something."""
    names = [name for name in LEDGER_SCHEMA.names if name != "batch_id"]
    result = connection.execute(
        f"select {', '.join(f'pulls.{name}' for name in names)} from pulls"
        " where stream = $stream and outcome = $outcome"
        " and pull_id in (select pull_id from claims) order by pull_id",
        {"stream": stream.name, "outcome": Outcome.COMMITTED},
    )
    return [Pull(**dict(zip(names, row, strict=True))) for row in result.fetchall()]


def _pages(connection: duckdb.DuckDBPyConnection, series: Sequence[str]) -> list[Page]:
    found = connection.execute(
        "select series_id, page_number, first_record, body, request, is_detail from raw_pages"
        " where list_contains($series, series_id) order by series_id, page_number",
        {"series": list(series)},
    ).fetchall()
    return [
        Page(series_id, number, first, bytes(body), dict(request), is_detail=is_detail)
        for series_id, number, first, body, request, is_detail in found
    ]


def _commit(
    stream: Stream,
    lake: Lake,
    pulls: Sequence[Pull],
    rows: pa.Table,
    quarantine: pa.Table,
    run_id: str | None,
) -> int:
    """Write successors of some pulls, all at once; how many rows they hold."""
    batch = lake.batch()
    total = 0
    made: list[Pull] = []
    misfits = Counter(lost(quarantine)["series_id"].to_pylist())  # told on a series' first pull
    for pull in pulls:
        chosen = _of(stream, rows, pull)
        successor = replace(
            pull,
            pull_id=new_id(),
            rows=chosen.num_rows,
            quarantined=misfits.pop(pull.series_id, 0),
            requests=0,
            bytes=0,
            run_id=run_id,
            covers=None,
            covers_from=None,
        )
        total += chosen.num_rows
        made.append(successor)
        ids = pa.array([successor.pull_id] * chosen.num_rows, pa.string())
        columns: list[Any] = [chosen[name] for name in stream.schema.names]
        columns += [ids, chosen["page_number"], chosen["record_number"]]
        table = pa.Table.from_arrays(columns, schema=lake_schema(stream))
        batch.rows(stream, table, month=pull.month)
    batch.quarantine(stream, quarantine)
    batch.commit(made)
    return total


def _of(stream: Stream, rows: pa.Table, pull: Pull) -> pa.Table:
    """Rows of a pull: those of its series that stand on days it claims."""
    mine = rows.filter(pc.equal(rows["series_id"], pull.series_id))
    if stream.window is Window.SNAPSHOT:
        return mine
    instants = pc.coalesce(*(mine[name] for name in stream.placed_by))
    days = instants.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    first, last = pull.claimed_from or dt.date.min, pull.claimed_to or dt.date.min
    return mine.filter(
        pc.and_(pc.greater_equal(days, pa.scalar(first)), pc.less_equal(days, pa.scalar(last)))
    )
