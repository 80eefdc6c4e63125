"""Whose data may be read now: parents of each stream, from the lake alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from lean_resources.streams import Stream
from pipelines.ledger import Outcome
from pipelines.planner import Claim, Window

__all__ = ["APPLICATION", "Parent", "claims_by_month", "parents_of", "windows_of"]

APPLICATION = "application"
"""Parent of the streams that Lean lists for the whole application."""


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


def parents_of(
    stream: Stream,
    connection: duckdb.DuckDBPyConnection,
    now: dt.datetime,
    entity_ids: Collection[str] | None = None,
    account_ids: Collection[str] | None = None,
) -> list[Parent]:
    """The parents of a stream, those that may not be read now included with the reason.

    Args:
        stream: The stream.
        connection: A connection that sees the lake.
        now: The instant at which consents are judged.
        entity_ids: Only these entities, when given.
        account_ids: Only these accounts, when given.
    """
    if stream.scopes:
        name = stream.parent_key or ""
        return [Parent(scope[name], request=scope) for scope in stream.scopes]
    if stream.parent is None or stream.exploded_from is not None:
        return [Parent(APPLICATION)]
    level = "accounts" if stream.parent == "accounts" else "entities"
    key = stream.parent_key or ""
    result = connection.execute(
        "select readable.*, known.refreshed_at, looked.known_at"
        f" from readable_{level}($permission, $now) as readable"
        " left join (select claims.parent_id, max(pulls.refreshed_at) as refreshed_at from claims"
        " inner join pulls on claims.pull_id = pulls.pull_id"
        " where claims.stream = $stream and claims.month is null group by all) as known"
        f" on readable.{key} = known.parent_id"
        " left join (select parent_id, max(known_at) as known_at from pulls"
        " where stream = $stream and outcome <> 'FAILED' group by all) as looked"
        f" on readable.{key} = looked.parent_id"
        f" order by readable.entity_id, readable.{key}",
        {"stream": stream.name, "permission": stream.permission, "now": now},
    )
    names = [column[0] for column in result.description or ()]
    found = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    return [
        _parent(row, stream)
        for row in found
        if (entity_ids is None or row["entity_id"] in entity_ids)
        and (account_ids is None or row.get("account_id") in account_ids)
    ]


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
        refreshed_at=row["refreshed_at"],
        known_at=row["known_at"],
        consented_at=row["consented_at"],
        skip_code=row["skip_code"],
        from_date=row.get("from_date"),
        to_date=row.get("to_date"),
    )


def windows_of(parents: Sequence[Parent]) -> list[Window]:
    """Readable accounts and the days that their consents allow."""
    return [
        Window(
            account_id=parent.parent_id,
            entity_id=parent.entity_id or "",
            bank_identifier=parent.bank_identifier or "",
            from_date=parent.from_date,
            to_date=parent.to_date,
        )
        for parent in parents
        if parent.skip_code is None and parent.from_date is not None and parent.to_date is not None
    ]


def claims_by_month(
    stream: Stream, connection: duckdb.DuckDBPyConnection
) -> dict[str, dict[str, list[Claim]]]:
    """For each account and month, the stretches of days that committed pulls speak for."""
    rows = connection.execute(
        "select claims.parent_id, claims.month, claims.claimed_from, claims.claimed_to,"
        " pulls.refreshed_at"
        " from claims inner join pulls on claims.pull_id = pulls.pull_id"
        " where claims.stream = $stream and pulls.outcome = $outcome",
        {"stream": stream.name, "outcome": Outcome.COMMITTED},
    ).fetchall()
    found: dict[str, dict[str, list[Claim]]] = {}
    for parent_id, month, from_date, to_date, refreshed_at in rows:
        claim = Claim(from_date, to_date, refreshed_at)
        found.setdefault(parent_id, {}).setdefault(month, []).append(claim)
    return found
