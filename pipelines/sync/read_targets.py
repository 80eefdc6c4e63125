"""Whose data may be read now: parents of each stream, from the lake alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import duckdb

from lean_resources.streams import Stream, Window
from pipelines.sync.planner import Claim, Depth
from pipelines.sync.planner import Window as Days

__all__ = ["APPLICATION", "ClaimsInOrder", "Parent", "Resumed", "parents_of", "window_of"]

APPLICATION = "application"
"""Parent of the streams that Lean lists for the whole application."""

_ROWS = 10_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Parent:
    """One thing that a stream is read for.

    Args:
        parent_id: Its id in the ledger.
        request: Parameters of the request.
        entity_id: Its entity, where there is one.
        bank_identifier: The entity's bank.
        refreshed_at: The store's instant at the last committed pull.
        known_at: Lean's clock at the last whole read or refusal for good, for a stream without
            months.
        consented_at: When the customer gave the consent that holds now.
        skip_code: Why it may not be read now, or None.
        from_date: First UTC day whose transactions may be read, where it is an account.
        to_date: Last UTC day whose transactions may be read, where it is an account.
        depth: How far back its bank offers transactions, where a refresh told.
        read_months: Months that an earlier attempt of the same run has read already; an empty text
            stands for a stream without months.
    """

    parent_id: str
    request: Mapping[str, str] = field(default_factory=dict)
    entity_id: str | None = None
    bank_identifier: str | None = None
    refreshed_at: dt.datetime | None = None
    known_at: dt.datetime | None = None
    consented_at: dt.datetime | None = None
    skip_code: str | None = None
    from_date: dt.date | None = None
    to_date: dt.date | None = None
    depth: Depth | None = None
    read_months: Collection[str] = ()

    def is_due(self, now: dt.datetime, reread: dt.timedelta | None) -> bool:
        """Whether it is time for another read.

        Args:
            now: Lean's clock.
            reread: How old the last read may be; None where every sync reads.
        """
        if reread is None or self.known_at is None:
            return True
        is_other_consent = self.consented_at is not None and self.consented_at >= self.known_at
        return is_other_consent or self.known_at + reread <= now


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run that is taken up again: what its earlier attempts have read is not read again.

    Args:
        run_ids: The attempts, the present one included where a step of it is tried again.
        since: What was read before this instant does not count.
    """

    run_ids: Collection[str]
    since: dt.datetime


def parents_of(
    stream: Stream,
    connection: duckdb.DuckDBPyConnection,
    now: dt.datetime,
    entity_ids: Collection[str] | None = None,
    account_ids: Collection[str] | None = None,
    resumed: Resumed | None = None,
) -> Iterator[Parent]:
    """The parents of a stream in the order of their ids, those that may not be read included.

    One by one, so that any number of them fits; nothing else may use the connection meanwhile.

    Args:
        stream: The stream.
        connection: A connection that sees the lake.
        now: The instant at which consents are judged.
        entity_ids: Only these entities, when given.
        account_ids: Only these accounts, when given.
        resumed: What an earlier attempt of the same run has read already, when there was one.
    """
    if stream.scopes:
        name = stream.parent_key or ""
        yield from (Parent(scope[name], request=scope) for scope in stream.scopes)
        return
    if stream.parent is None or stream.exploded_from is not None:
        yield Parent(APPLICATION)
        return
    level = "accounts" if stream.parent == "accounts" else "entities"
    key = stream.parent_key or ""
    given: dict[str, Any] = {"permission": stream.permission, "now": now}
    told, joined = "", ""
    if resumed is not None:
        told = ", resumed.read_months"
        joined = (
            " left join read_already($stream, $run_ids, $since) as resumed"
            f" on readable.{key} = resumed.parent_id"
        )
        given |= {"stream": stream.name, "run_ids": list(resumed.run_ids), "since": resumed.since}
    if stream.window is Window.MONTHS:
        # What is known of months is in their claims.
        query = (
            "select readable.entity_id, readable.bank_identifier, readable.skip_code,"
            " readable.account_id, readable.from_date, readable.to_date,"
            f" offered.offered_from, offered.told_on{told}"
            f" from readable_{level}($permission, $now) as readable"
            f" left join offered_now as offered on readable.{key} = offered.account_id{joined}"
            f" order by readable.{key}"
        )
    else:
        given["stream"] = stream.name
        query = (
            f"select readable.*, known.refreshed_at, looked.known_at{told}"
            f" from readable_{level}($permission, $now) as readable"
            " left join (select claims.parent_id, max(pulls.refreshed_at) as refreshed_at"
            " from claims inner join pulls on claims.pull_id = pulls.pull_id"
            " where claims.stream = $stream and claims.month is null group by all) as known"
            f" on readable.{key} = known.parent_id"
            " left join (select parent_id, max(known_at) as known_at from pulls"
            " where stream = $stream and outcome not in ('FAILED', 'LOST') group by all) as looked"
            f" on readable.{key} = looked.parent_id{joined}"
            f" order by readable.{key}"
        )
    result = connection.execute(query, given)
    names = [column[0] for column in result.description or ()]
    while rows := result.fetchmany(_ROWS):
        for values in rows:
            row = dict(zip(names, values, strict=True))
            if (entity_ids is None or row["entity_id"] in entity_ids) and (
                account_ids is None or row.get("account_id") in account_ids
            ):
                yield _parent(row, stream)


def _parent(row: Mapping[str, Any], stream: Stream) -> Parent:
    key = stream.parent_key or ""
    request = {"entity_id": row["entity_id"]}
    if key == "account_id":
        request["account_id"] = row["account_id"]
    return Parent(
        parent_id=row[key],
        request=request,
        entity_id=row["entity_id"],
        bank_identifier=row["bank_identifier"],
        refreshed_at=row.get("refreshed_at"),
        known_at=row.get("known_at"),
        consented_at=row.get("consented_at"),
        skip_code=row["skip_code"],
        from_date=row.get("from_date"),
        to_date=row.get("to_date"),
        depth=_depth(row.get("offered_from"), row.get("told_on")),
        read_months=row.get("read_months") or (),
    )


def window_of(parent: Parent) -> Days | None:
    """The days that may be read of an account; None where it may not be read at all."""
    if parent.skip_code is not None or parent.from_date is None or parent.to_date is None:
        return None
    return Days(
        account_id=parent.parent_id,
        bank_identifier=parent.bank_identifier or "",
        from_date=parent.from_date,
        to_date=parent.to_date,
        depth=parent.depth,
    )


@lru_cache(maxsize=65_536)
def _depth(from_date: dt.date | None, told_on: dt.date | None) -> Depth | None:
    return None if from_date is None or told_on is None else Depth(from_date, told_on)


class ClaimsInOrder:
    """For each account and month, the stretches of days that committed pulls speak for.

    One account at a time is held, so accounts have to be asked for in the order of their ids.

    Args:
        stream: The stream.
        connection: A connection that plans; nothing else may use it meanwhile.
        settled_days: Days after a month's end from which on no bank changes its rows. Of a claim
            from later on only the day of its store is told, not the instant: nothing is decided by
            it, and accounts then share most of their claims.
    """

    def __init__(
        self, stream: Stream, connection: duckdb.DuckDBPyConnection, settled_days: int
    ) -> None:
        # As a number: a column of instants costs many times as much to fetch.
        self._result = connection.execute(
            "select parent_id, month, claimed_from, claimed_to, epoch_us("
            " case when refreshed_at::date > last_day(claimed_from) + $settled_days"
            " then date_trunc('day', refreshed_at) else refreshed_at end), is_unfit"
            " from every_claim where stream = $stream order by parent_id",
            {"stream": stream.name, "settled_days": settled_days},
        )
        self._rows: list[tuple[Any, ...]] = []
        self._place = 0

    def get(
        self, account_id: str, default: Mapping[str, Sequence[Claim]], /
    ) -> Mapping[str, Sequence[Claim]]:
        """Claims of one account by month."""
        found: dict[str, list[Claim]] = {}
        while True:
            rows = self._rows
            for place in range(self._place, len(rows)):
                parent_id, month, from_date, to_date, refreshed_us, is_unfit = rows[place]
                if parent_id > account_id:
                    self._place = place
                    return found or default
                if parent_id == account_id:
                    claim = _claim(from_date, to_date, refreshed_us, is_unfit)
                    found.setdefault(month, []).append(claim)
            self._rows, self._place = self._result.fetchmany(_ROWS), 0
            if not self._rows:
                return found or default


@lru_cache(maxsize=65_536)
def _claim(from_date: dt.date, to_date: dt.date, refreshed_us: int | None, is_unfit: bool) -> Claim:
    at = None if refreshed_us is None else _EPOCH + dt.timedelta(microseconds=refreshed_us)
    return Claim(from_date, to_date, at, is_unfit)
