"""Read targets: for what each stream is read now, decided only from the lake."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb

from lean_resources.streams import Stream, Window
from pipelines.lake.queries import QUERIES
from pipelines.sync.planner import AllowedDays, Availability

APPLICATION = "application"
"""Read target of streams that Lean lists for the whole application."""

_ROWS = 10_000
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
    """The read targets of a stream without months in the order of their ids.

    Those that may not be read are among them.

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
    prepare(stream, connection, resumed)
    given: dict[str, Any] = {"permission": stream.permission, "now": now, "stream": stream.name}
    given |= {"entity_ids": listed(entity_ids), "account_ids": listed(account_ids)}
    result = connection.execute(QUERIES["targets_of_snapshots"], given)
    names = [column[0] for column in result.description or ()]
    while rows := result.fetchmany(_ROWS):
        for values in rows:
            yield _read_target(dict(zip(names, values, strict=True)), stream)


def prepare(stream: Stream, connection: duckdb.DuckDBPyConnection, resumed: Resumed | None) -> None:
    """Create what the queries for read targets read: `readable` and `already_read`."""
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


def listed(ids: Collection[str] | None) -> list[str] | None:
    """Ids as a parameter of a query; None stands for all."""
    return None if ids is None else list(ids)


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
        read_months=row["read_months"] or (),
    )


def allowed_days_of(
    target: ReadTarget,
    from_date: dt.date | None,
    to_date: dt.date | None,
    availability: Availability | None,
) -> AllowedDays | None:
    """The days that may be read of an account; None if it may not be read."""
    if target.skip_code is not None or from_date is None or to_date is None:
        return None
    return AllowedDays(
        account_id=target.target_id,
        bank_identifier=target.bank_identifier or "",
        from_date=from_date,
        to_date=to_date,
        availability=availability,
    )
