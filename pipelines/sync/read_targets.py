"""Read targets: for what each stream is read now, decided only from the lake."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import duckdb

from lean_resources.streams import Stream, Window
from pipelines.lake.queries import QUERIES, filled
from pipelines.lake.views import LAKE_VIEWS
from pipelines.sync.planner import AllowedDays, Availability, Coverage

APPLICATION = "application"
"""Read target of streams that Lean lists for the whole application."""

_ROWS = 10_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NOTHING_READ = "select ''::varchar as parent_id, []::varchar[] as read_months where false"


@dataclass(frozen=True, slots=True)
class ReadTarget:
    """The application, an entity, an account or a fixed scope, for which a stream is read.

    Args:
        target_id: Its id; `parent_id` in the ledger.
        request: Parameters of the request.
        entity_id: Its entity; None for the application and a scope.
        bank_identifier: The entity's bank.
        refreshed_at: The instant of the bank data copy that the last committed pull read.
        known_at: Lean's clock at the last whole read or final refusal, for a stream without
            months.
        consented_at: When the customer gave the present consent.
        skip_code: Why it may not be read now, or None.
        from_date: First UTC day whose transactions may be read, for an account.
        to_date: Last UTC day whose transactions may be read, for an account.
        availability: The transactions that its bank offers; None if no refresh reported it.
        read_months: Months that an earlier attempt of the run has read; an empty string stands for
            a stream without months.
    """

    target_id: str
    request: Mapping[str, str] = field(default_factory=dict)
    entity_id: str | None = None
    bank_identifier: str | None = None
    refreshed_at: dt.datetime | None = None
    known_at: dt.datetime | None = None
    consented_at: dt.datetime | None = None
    skip_code: str | None = None
    from_date: dt.date | None = None
    to_date: dt.date | None = None
    availability: Availability | None = None
    read_months: Collection[str] = ()

    def is_due(self, now: dt.datetime, reread: dt.timedelta | None) -> bool:
        """Whether the target should be read again.

        Args:
            now: Lean's clock.
            reread: Greatest age of the last read; None if each sync reads.
        """
        if reread is None or self.known_at is None:
            return True
        is_other_consent = self.consented_at is not None and self.consented_at >= self.known_at
        return is_other_consent or self.known_at + reread <= now


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run that continues earlier runs and does not repeat their reads.

    Args:
        run_ids: The earlier runs, and the present run if its step is retried.
        since: Reads before this instant are repeated.
    """

    run_ids: Collection[str]
    since: dt.datetime


def relations_read(stream: Stream, resumed: Resumed | None = None) -> tuple[str, ...]:
    """Relations of the lake that `read_targets_of` needs, as `Lake.planning` takes them.

    Args:
        resumed: As for `read_targets_of`.
    """
    if stream.parent is None or stream.scopes or stream.exploded_from is not None:
        return (stream.name,)
    known = stream.name if stream.window is Window.SNAPSHOT else "offered_now"
    return (f"readable_{_level(stream)}", known, *(("read_already",) if resumed else ()))


def read_targets_of(
    stream: Stream,
    connection: duckdb.DuckDBPyConnection,
    now: dt.datetime,
    entity_ids: Collection[str] | None = None,
    account_ids: Collection[str] | None = None,
    resumed: Resumed | None = None,
) -> Iterator[ReadTarget]:
    """The read targets of a stream in the order of their ids, also those that may not be read.

    They are yielded one at a time, so that any number fits in memory. The connection must not be
    used until all are consumed.

    Args:
        connection: A connection with the lake's relations.
        now: The instant for which consents are checked.
        entity_ids: Only these entities; None for all.
        account_ids: Only these accounts; None for all.
        resumed: The runs that this run continues; None for a new run.
    """
    if stream.scopes:
        name = stream.parent_key or ""
        yield from (ReadTarget(scope[name], request=scope) for scope in stream.scopes)
        return
    if stream.parent is None or stream.exploded_from is not None:
        yield ReadTarget(APPLICATION)
        return
    result = _readable(stream, connection, now, resumed)
    names = [column[0] for column in result.description or ()]
    while rows := result.fetchmany(_ROWS):
        for values in rows:
            row = dict(zip(names, values, strict=True))
            if (entity_ids is None or row["entity_id"] in entity_ids) and (
                account_ids is None or row.get("account_id") in account_ids
            ):
                yield _read_target(row, stream)


def _readable(
    stream: Stream,
    connection: duckdb.DuckDBPyConnection,
    now: dt.datetime,
    resumed: Resumed | None,
) -> duckdb.DuckDBPyConnection:
    """The result of the query for entities or accounts."""
    connection.execute(
        "create or replace temp macro readable(wanted_permission, at_instant) as table"
        f" select *, {stream.parent_key} as target_id"
        f" from readable_{_level(stream)}(wanted_permission, at_instant)"
    )
    given: dict[str, Any] = {}
    already_read = _NOTHING_READ
    if resumed is not None:
        already_read = "from read_already($stream, $run_ids, $since)"
        given = {"stream": stream.name, "run_ids": list(resumed.run_ids), "since": resumed.since}
    connection.execute(f"create or replace temp table already_read as {already_read}", given)
    given = {"permission": stream.permission, "now": now}
    if stream.window is Window.MONTHS:
        # The coverage of months is read separately.
        return connection.execute(QUERIES["targets_with_days"], given)
    return connection.execute(QUERIES["targets_of_snapshots"], {**given, "stream": stream.name})


def _level(stream: Stream) -> str:
    """`accounts` for a stream that is read per account, else `entities`."""
    return "accounts" if stream.parent == "accounts" else "entities"


def _read_target(row: Mapping[str, Any], stream: Stream) -> ReadTarget:
    key = stream.parent_key or ""
    request = {"entity_id": row["entity_id"]}
    if key == "account_id":
        request["account_id"] = row["account_id"]
    return ReadTarget(
        target_id=row[key],
        request=request,
        entity_id=row["entity_id"],
        bank_identifier=row["bank_identifier"],
        refreshed_at=row.get("refreshed_at"),
        known_at=row.get("known_at"),
        consented_at=row.get("consented_at"),
        skip_code=row["skip_code"],
        from_date=row.get("from_date"),
        to_date=row.get("to_date"),
        availability=_availability(row.get("available_from"), row.get("reported_on")),
        read_months=row["read_months"] or (),
    )


def allowed_days_of(target: ReadTarget) -> AllowedDays | None:
    """The days that may be read of an account; None if it may not be read."""
    if target.skip_code is not None or target.from_date is None or target.to_date is None:
        return None
    return AllowedDays(
        account_id=target.target_id,
        bank_identifier=target.bank_identifier or "",
        from_date=target.from_date,
        to_date=target.to_date,
        availability=target.availability,
    )


@lru_cache(maxsize=65_536)
def _availability(
    available_from: dt.date | None, reported_on: dt.date | None
) -> Availability | None:
    if available_from is None or reported_on is None:
        return None
    return Availability(available_from, reported_on)


class CoverageInOrder:
    """For each account and month, the ranges of days that committed pulls cover.

    It holds an account at a time, so accounts must be requested in the order of their ids.

    Args:
        connection: A connection from `Lake.planning` without further use.
        settled_days: Days after a month's end from which no bank changes its rows. Of later bank
            data copies only the day is known, not the instant.
    """

    def __init__(
        self, stream: Stream, connection: duckdb.DuckDBPyConnection, settled_days: int
    ) -> None:
        given = {"stream": stream.name}
        connection.execute(f"create table changed_pulls as {QUERIES['changed_pulls']}", given)
        claims = f"(with pulls as (from changed_pulls) select * from ({LAKE_VIEWS['claims'].sql}))"
        self._result = connection.execute(
            filled("covered_days", claims=claims), given | {"settled_days": settled_days}
        )
        self._settled_days = settled_days
        self._rows: list[tuple[Any, ...]] = []
        self._place = 0

    def get(
        self, account_id: str, default: Mapping[str, Sequence[Coverage]], /
    ) -> Mapping[str, Sequence[Coverage]]:
        """Coverage of an account by month as YYYY-MM; the default if it has none."""
        while True:
            rows = self._rows
            for place in range(self._place, len(rows)):
                target_id, settled, *ranges = rows[place]
                if target_id >= account_id:
                    self._place = place
                    if target_id > account_id:
                        return default
                    found: dict[str, Sequence[Coverage]] = {
                        month: _settled(month, self._settled_days) for month in settled
                    }
                    for month, *values in zip(*ranges, strict=True):
                        found[month] = (*found.get(month, ()), _coverage(*values))
                    return found
            self._rows, self._place = self._result.fetchmany(_ROWS), 0
            if not self._rows:
                return default


@lru_cache(maxsize=4096)
def _settled(month: str, settled_days: int) -> tuple[Coverage]:
    """Coverage of a whole month by a bank data copy in which its rows changed no more."""
    first = dt.date.fromisoformat(f"{month}-01")
    last = (first + dt.timedelta(days=31)).replace(day=1) - dt.timedelta(days=1)
    at = dt.datetime.combine(last, dt.time(), dt.UTC) + dt.timedelta(days=settled_days + 1)
    return (Coverage(first, last, at),)


@lru_cache(maxsize=65_536)
def _coverage(
    from_date: dt.date,
    to_date: dt.date,
    refreshed_us: int | None,
    is_unfit: bool,
    moving_from: dt.date | None,
) -> Coverage:
    at = None if refreshed_us is None else _EPOCH + dt.timedelta(microseconds=refreshed_us)
    return Coverage(from_date, to_date, at, is_unfit, moving_from)
