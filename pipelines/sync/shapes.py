"""Shapes: what the plan of an account follows from, beside its bank and its id.

Nearly all accounts share few shapes, so the lake's database finds the shape of each account, and a
plan is made once per shape. Accounts are taken some thousands at a time, so that memory does not
grow with them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import duckdb

from lean_resources.streams import Stream
from pipelines.lake.queries import QUERIES, filled
from pipelines.lake.views import LAKE_VIEWS
from pipelines.sync.planner import Availability, Coverage
from pipelines.sync.read_targets import ReadTarget, Resumed, listed, prepare

ROWS_AT_ONCE = 100_000
"""Accounts whose coverage is found at once, which bounds memory."""
_ROWS = 10_000
_Days = tuple[dt.date | None, dt.date | None, Availability | None]
"""First and last day that a consent allows, and what the bank offers."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """The days that the consent and the bank of an account allow, and those that pulls cover.

    An instant of a bank data copy is midnight of its UTC day, plus as many microseconds as the
    place of the instant among those of the account, from 1. Order, equality and day of instants
    are all that a plan follows from.

    Args:
        days: The days that may be read, as far as they decide.
        coverage: The ranges of days that committed pulls cover, by month as YYYY-MM.
    """

    days: _Days
    coverage: Mapping[str, Sequence[Coverage]]

    @classmethod
    def of(cls, text: str, settled_days: int) -> Shape:
        """A shape from its text.

        Args:
            text: As `targets_with_shapes` gives it.
            settled_days: As for `shaped_targets_of`.
        """
        days, *parts = text.split(";")
        coverage: dict[str, tuple[Coverage, ...]] = {}
        for month, *values in (part.split("|") for part in parts if part):
            one = _range(*values) if values else _settled(month, settled_days)
            coverage[month] = (*coverage.get(month, ()), one)
        return cls(_days(days), coverage)


def instant(numbered: dt.datetime | None, instants: Sequence[int]) -> dt.datetime | None:
    """The instant of a bank data copy that a shape numbers.

    Args:
        numbered: As in a `Shape`; None if there is none.
        instants: Those of the account, in microseconds since 1970.
    """
    return None if numbered is None else _at(instants[numbered.microsecond - 1])


def shaped_targets_of(
    stream: Stream,
    connection: duckdb.DuckDBPyConnection,
    now: dt.datetime,
    settled_days: int,
    is_sync: bool,
    entity_ids: Collection[str] | None = None,
    account_ids: Collection[str] | None = None,
    resumed: Resumed | None = None,
) -> Iterator[tuple[ReadTarget, str, Sequence[int]]]:
    """The accounts of a stream with months in the order of their ids, with their shapes.

    The connection must not be used until all are consumed. Accounts that may not be read are among
    them.

    Args:
        connection: A connection from `Lake.planning`.
        now: The instant for which consents are checked.
        settled_days: Days after a month's end from which no bank changes its rows. Of later bank
            data copies only the day is known, not the instant.
        is_sync: Whether shapes are for a plan of missing and open days, and not of chosen months.
        entity_ids: Only these entities; None for all.
        account_ids: Only these accounts; None for all.
        resumed: The runs that this run continues; None for a new run.

    Yields:
        The account, the text of its shape, and the instants that the shape numbers, in
        microseconds since 1970.
    """
    prepare(stream, connection, resumed)
    given: dict[str, Any] = {"permission": stream.permission, "now": now}
    given |= {"entity_ids": listed(entity_ids), "account_ids": listed(account_ids)}
    of_stream = {"stream": stream.name}
    for name, select, parameters in (
        ("every_target", QUERIES["targets_with_days"], given),
        ("changed_tail", QUERIES["changed_tail"], of_stream),
        ("kept_refusals", QUERIES["kept_refusals"], of_stream),
    ):
        connection.execute(f"create temp table {name} as {select}", parameters)
    claims = f"(with pulls as (from changed_pulls) select * from ({LAKE_VIEWS['claims'].sql}))"
    shapes = filled("targets_with_shapes", claims=claims)
    ends = connection.execute(
        "select min(account_id), max(account_id) from (select account_id, row_number() over"
        " (order by account_id) - 1 as number from (select distinct account_id from every_target))"
        f" group by number // {ROWS_AT_ONCE} order by all"
    ).fetchall()
    for first_id, last_id in ends:
        between = of_stream | {"first_id": first_id, "last_id": last_id}
        connection.execute(
            "create or replace temp table targets as"
            " from every_target where account_id between $first_id and $last_id",
            {"first_id": first_id, "last_id": last_id},
        )
        for name in ("changed_targets", "changed_pulls"):
            statement = f"create or replace temp table {name} as {QUERIES[name]}"
            connection.execute(statement, between)
        more = {"settled_days": settled_days, "today": now.date(), "is_sync": is_sync}
        result = connection.execute(shapes, between | more)
        while rows := result.fetchmany(_ROWS):
            for account_id, entity_id, bank, skip_code, read_months, instants, days, shape in rows:
                from_date, to_date, availability = _days(days)
                target = ReadTarget(
                    target_id=account_id,
                    request={"entity_id": entity_id, "account_id": account_id},
                    entity_id=entity_id,
                    bank_identifier=bank,
                    skip_code=skip_code,
                    from_date=from_date,
                    to_date=to_date,
                    availability=availability,
                    read_months=read_months or (),
                )
                yield target, shape, instants


@lru_cache(maxsize=65_536)
def _days(text: str) -> _Days:
    from_date, to_date, available_from, reported_on = map(_day, text.split("|"))
    if available_from is None or reported_on is None:
        return from_date, to_date, None
    return from_date, to_date, Availability(available_from, reported_on)


def _day(text: str) -> dt.date | None:
    return dt.date.fromisoformat(text) if text else None


@lru_cache(maxsize=4096)
def _at(us: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=us)


def _range(
    from_date: str, to_date: str, day: str, place: str, unfit: str, moving_from: str
) -> Coverage:
    at = _at(int(day) * _DAY_US + int(place)) if day else None
    first, last = dt.date.fromisoformat(from_date), dt.date.fromisoformat(to_date)
    return Coverage(first, last, at, bool(unfit), _day(moving_from))


def _settled(month: str, settled_days: int) -> Coverage:
    """Coverage of a whole month by a bank data copy in which its rows changed no more."""
    first = dt.date.fromisoformat(f"{month}-01")
    last = (first + dt.timedelta(days=31)).replace(day=1) - dt.timedelta(days=1)
    at = dt.datetime.combine(last, dt.time(), dt.UTC) + dt.timedelta(days=settled_days + 1)
    return Coverage(first, last, at)
