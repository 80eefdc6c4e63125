"""The ledger: one row per pull, whatever its outcome. Rows of data count only if it says so."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import pyarrow as pa


class Outcome(StrEnum):
    """How a pull ended."""

    COMMITTED = "COMMITTED"
    UNCHANGED = "UNCHANGED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    LOST = "LOST"
    """It had committed, and its rows were lost since; it does not count any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One complete read of a stream for a read target, and for a month where the stream has months.

    `PULL_DOCS` says what the column of each field means; `_FIELDS` names those that differ.
    """

    pull_id: str
    series_id: str
    stream: str
    parent_id: str
    outcome: Outcome
    asked_at: dt.datetime
    finished_at: dt.datetime
    entity_id: str | None = None
    bank_identifier: str | None = None
    month: str | None = None
    covered_from: dt.date | None = None
    covered_to: dt.date | None = None
    code: str | None = None
    remedy: str | None = None
    rows: int = 0
    quarantined: int = 0
    pages: int = 0
    requests: int = 0
    bytes: int = 0
    refreshed_at: dt.datetime | None = None
    known_at: dt.datetime | None = None
    results_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    run_id: str | None = None
    replaces: Sequence[str] | None = None
    first_sequence_no: int | None = None
    unfit_dates: Sequence[dt.date] | None = None
    generation: int | None = None
    moving_from: dt.date | None = None

    @classmethod
    def of_row(cls, columns: Iterable[str], row: Iterable[Any]) -> Self:
        """A pull from a row of the ledger.

        Args:
            columns: Names of columns, among `PULL_COLUMNS`.
            row: Their values.
        """
        fields = {_FIELDS.get(name, name): value for name, value in zip(columns, row, strict=True)}
        return cls(**fields | {"outcome": Outcome(fields["outcome"])})


_FIELDS = {
    "claimed_from": "covered_from",
    "claimed_to": "covered_to",
    "covers": "replaces",
    "covers_from": "first_sequence_no",
}
"""Fields of a `Pull` that have another name than their column, by column."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Who writes a pull, and when in the order of pulls.

    Args:
        run_id: The run.
        generation: Orders reads of the same instant of Lean's clock; see `Lake.next_generation`.
    """

    run_id: str | None
    generation: int


_INSTANT = pa.timestamp("us", tz="UTC")
_Columns = Mapping[str, tuple[pa.DataType, str]]
"""Type and meaning of columns."""


def _schema_of(columns: _Columns) -> pa.Schema:
    return pa.schema([(name, kind) for name, (kind, _) in columns.items()])


def _docs_of(columns: _Columns) -> dict[str, str]:
    return {name: meaning for name, (_, meaning) in columns.items()}


_PULL_COLUMNS: _Columns = {
    "pull_id": (
        pa.string(),
        "Its id, unique; its order says nothing, since it begins with the time of this machine.",
    ),
    "series_id": (
        pa.string(),
        "The paged read that brought it; several months may share one.",
    ),
    "stream": (pa.string(), "The stream."),
    "parent_id": (pa.string(), "What the pull is of: an account, an entity, or a fixed name."),
    "outcome": (pa.string(), "How it ended; LOST where its rows were lost later."),
    "asked_at": (_INSTANT, "When the first request of the read was sent, by this machine."),
    "finished_at": (_INSTANT, "When the read ended, by this machine."),
    "entity_id": (pa.string(), "The entity, where there is one."),
    "bank_identifier": (pa.string(), "Its bank."),
    "month": (pa.string(), "UTC month as YYYY-MM, for a stream with months."),
    "claimed_from": (pa.date32(), "First UTC day that the pull covers."),
    "claimed_to": (pa.date32(), "Last UTC day that the pull covers, inclusive."),
    "code": (pa.string(), "Lean's code or this project's, where it did not commit."),
    "remedy": (pa.string(), "What the reader has to do about it."),
    "rows": (pa.int64(), "Rows that count."),
    "quarantined": (pa.int64(), "Records that did not fit and were left out."),
    "pages": (pa.int64(), "Pages of the paged read."),
    "requests": (
        pa.int64(),
        (
            "Requests of the paged read, repeated ones included; on its first pull only, so that"
            " sums are right."
        ),
    ),
    "bytes": (
        pa.int64(),
        "Bytes of the read's bodies, decoded; on its first pull only.",
    ),
    "refreshed_at": (_INSTANT, "When the bank was last asked, by Lean."),
    "known_at": (_INSTANT, "Lean's clock at that instant; null for what was not asked."),
    "results_id": (pa.string(), "Lean's receipt of the last answer."),
    "correlation_id": (pa.string(), "The id sent with the last request."),
    "trace_id": (pa.string(), "Lean's id of the last answer, for its support."),
    "run_id": (pa.string(), "The run that pulled."),
    "covers": (
        pa.list_(pa.string()),
        (
            "For a pull of merged files, the pulls that it replaces: the pull of the merged files"
            " before, if covers_from is above 1, and the pulls that were merged since."
        ),
    ),
    "covers_from": (
        pa.int32(),
        "Sequence number of the first of the latter among all pulls that were ever merged, from 1.",
    ),
    "unfit_dates": (
        pa.list_(pa.date32()),
        (
            "UTC days that it covers and that are not known, because records of them did not fit;"
            " null where every record fits."
        ),
    ),
    "generation": (
        pa.int32(),
        (
            "One more than the greatest that its writer found in the ledger. It orders pulls of the"
            " same instant of Lean's clock; null where format 1 of the lake wrote it."
        ),
    ),
    "moving_from": (
        pa.date32(),
        (
            "UTC day from which on its rows may still move: the first with a row that is not booked"
            " for good, or the day after claimed_to; null where that is not known."
        ),
    ),
    "batch_id": (pa.string(), "The batch of files that it was written with."),
    "files": (
        pa.list_(
            pa.struct(
                [
                    ("path", pa.string()),
                    ("bytes", pa.int64()),
                    ("rows", pa.int64()),
                    ("crc32", pa.int64()),
                ]
            )
        ),
        (
            "On the first row of a batch: its files below the lake's folder, as they were written;"
            " null where an earlier format than 3 wrote it."
        ),
    ),
}
"""Type and meaning of each column of the ledger; all of a `Pull`, and those of its batch."""

PULL_COLUMNS = tuple(name for name in _PULL_COLUMNS if name not in {"batch_id", "files"})
"""Columns of the ledger that a `Pull` has."""

PULL_DOCS = _docs_of(_PULL_COLUMNS)
"""Meanings of the ledger's columns."""

LEDGER_SCHEMA = _schema_of(_PULL_COLUMNS)
"""Columns of the ledger's files; `batch_id` names the files that the pull was written with."""


COVERAGE_SCHEMA = pa.schema(
    [
        ("stream", pa.string()),
        ("parent_id", pa.string()),
        (
            "ranges",
            pa.list_(
                pa.struct(
                    [
                        ("month", pa.string()),
                        ("from_date", pa.date32()),
                        ("to_date", pa.date32()),
                        ("refreshed_at", _INSTANT),
                        ("is_unfit", pa.bool_()),
                        ("moving_from", pa.date32()),
                    ]
                )
            ),
        ),
    ]
)
"""The days that present pulls cover: one row per read target with days."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of a batch, as the ledger records it.

    Args:
        path: Its path below the lake's folder.
        bytes: Its size.
        rows: Its rows.
        crc32: Its checksum.
    """

    path: str
    bytes: int
    rows: int
    crc32: int


def to_table(pulls: Sequence[Pull], batch_id: str, files: Sequence[FileRecord] = ()) -> pa.Table:
    """Rows of the ledger for the pulls of a batch; the first row has the files of the batch."""
    columns = [
        pa.array(
            [getattr(pull, _FIELDS.get(name, name)) for pull in pulls],
            LEDGER_SCHEMA.field(name).type,
        )
        for name in PULL_COLUMNS
    ]
    columns.append(pa.array([batch_id] * len(pulls), pa.string()))
    on_first_row = [[asdict(file) for file in files] or None, *[None] * len(pulls)][: len(pulls)]
    columns.append(pa.array(on_first_row, LEDGER_SCHEMA.field("files").type))
    return pa.Table.from_arrays(columns, schema=LEDGER_SCHEMA)


_RESERVATIONS: _Columns = {
    "spend_id": (pa.string(), "Its id."),
    "entity_id": (pa.string(), "The entity."),
    "spent_at": (_INSTANT, "When it was allowed, UTC, by Lean's clock."),
    "run_id": (pa.string(), "The run that spent it."),
}

REFRESH_RESERVATIONS_SCHEMA = _schema_of(_RESERVATIONS)
"""One row per reserved refresh, written before Lean is asked; instants by Lean's clock."""

_RESULTS: _Columns = {
    "attempt_id": (pa.string(), "Its id; later ones are greater."),
    "entity_id": (pa.string(), "The entity."),
    "bank_identifier": (pa.string(), "Its bank."),
    "refresh_id": (pa.string(), "Lean's id of the refresh, where one was started or joined."),
    "outcome": (pa.string(), "FINISHED, OVERDUE, RECONNECT_REQUIRED, CONSENT_EXPIRED or FAILED."),
    "code": (pa.string(), "Why it failed."),
    "remedy": (pa.string(), "What the reader has to do about it."),
    "data_status": (pa.string(), "How each kind of data went, as Lean's JSON."),
    "asked_at": (_INSTANT, "When Lean was asked, UTC, by its clock."),
    "finished_at": (_INSTANT, "When it ended or was waited for no longer, UTC, by Lean's clock."),
    "correlation_id": (pa.string(), "The id sent with the request that failed."),
    "trace_id": (pa.string(), "Lean's id of that answer, for its support."),
    "run_id": (pa.string(), "The run that asked."),
}

REFRESH_RESULTS_SCHEMA = _schema_of(_RESULTS)
"""One row per refresh that Lean was asked for, written when it ended; `data_status` is JSON."""

LOST_SCHEMA = pa.schema([("file", pa.string()), ("pull_id", pa.string()), ("lost_at", _INSTANT)])
"""What is known to be lost: a row per file, and per pull that does not count because of it.

`file` is a path below the lake's folder, or the name of a commit that the ledger misses.
"""

VIEW_DOCS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "refresh_spends": (
        "Refreshes that were allowed, one row each, written before Lean was asked.",
        _docs_of(_RESERVATIONS),
    ),
    "refresh_attempts": (
        "Refreshes that Lean was asked for, one row each, written when they ended.",
        _docs_of(_RESULTS),
    ),
    "quarantined_records": (
        "Every record and value that ever went to quarantine; one row per read, place and column.",
        {
            "stream": "The stream.",
            "series_id": "The read; pulls of that id say of what and when.",
            "page_number": "Page of the read that held the record, from 0.",
            "record_number": "Place of the record in its read, from 0.",
            "column_name": "The column that could not be read.",
            "path": "Where its value lies in the record, where that is known.",
            "reason": "Why it could not be read, without the value.",
            "record_key": "JSON list of the record's key columns; null where one cannot be read.",
            "placed_on": "UTC day on which the record stands, where it can be read.",
            "is_lost": "Whether the record was left out; null, which means so, in format 1.",
        },
    ),
}
"""What the views beside the streams show, and their columns."""
