"""Gap repair: adds events to the inbox that Lean sent but that never arrived.

Lean retries a webhook for three hours and lists its events for ninety days. If Lean has no list of
events, gap repair compares entities and their refreshes with the lake.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lean_resources.client import LeanClient
from lean_resources.decoding import Decoder
from lean_resources.errors import ConsentError, RequestError, SchemaError
from lean_resources.instants import BEFORE_LEAN
from lean_resources.paging import PagedRead
from lean_resources.streams import STREAMS
from lean_resources.webhooks import FINISHED, LISTED_DAYS, Event, event_of
from pipelines.lake.lake import Lake

if TYPE_CHECKING:
    from pipelines.webhooks.inbox import Inbox

_OVERLAP = dt.timedelta(hours=4)
"""A comparison begins this long before the end of the last comparison: an event may take three
hours to arrive."""
_ADD_AT_ONCE = 500
_REFRESHED = "entity.data.refresh.updated"


@dataclass(slots=True)
class Repair:
    """The result of a comparison.

    Args:
        from_at: First compared instant, UTC, inclusive.
        to_at: Last compared instant, UTC, inclusive.
        way: `events` if Lean lists events, else `listing`.
        compared: Number of events that Lean sent, or of entities that it has.
        repaired: Number of events that had not arrived, by type.
        unreadable: Number of listed events with an unknown shape.
    """

    from_at: dt.datetime
    to_at: dt.datetime
    way: Literal["events", "listing"] = "events"
    compared: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    requests: int = 0


async def repair(client: LeanClient, lake: Lake, inbox: Inbox) -> Repair:
    """Add events to the inbox that Lean sent since the last comparison but that never arrived.

    They are processed like events from webhooks. The first comparison begins at the oldest event
    of the inbox, or a day ago if the inbox is empty.

    Raises:
        LeanError: Lean or the inbox cannot be reached; the next comparison covers this time again.
    """
    before = client.requests
    now = await client.server_time()
    read_to = await asyncio.to_thread(inbox.read_to)
    oldest = await asyncio.to_thread(inbox.first_received_at)
    # The inbox records this machine's time, which may be ahead of Lean's.
    since = min(read_to or oldest or now - dt.timedelta(days=1), now)
    from_at = max(since - _OVERLAP, now - dt.timedelta(days=LISTED_DAYS))
    done = Repair(from_at, now)
    try:
        listed = await client.events(from_at, now)
    except RequestError as error:
        if error.status_code != 404:
            raise
        done.way = "listing"
        missing = await _from_listing(client, lake, inbox, done)
    else:
        done.compared = len(listed)
        missing = list(_readable(listed, done))
    for start in range(0, len(missing), _ADD_AT_ONCE):
        await asyncio.to_thread(_add, inbox, missing[start : start + _ADD_AT_ONCE], done)
    await asyncio.to_thread(inbox.prune)
    await asyncio.to_thread(inbox.was_read_to, now)
    done.requests = client.requests - before
    return done


def _add(inbox: Inbox, events: Sequence[Event], done: Repair) -> None:
    known = inbox.known([event.event_id for event in events])
    inbox.add(events, source=done.way)
    done.repaired.update(event.type for event in events if event.event_id not in known)


def _readable(listed: Iterable[object], done: Repair) -> Iterable[Event]:
    for item in listed:
        try:
            yield event_of(item)
        except SchemaError:
            done.unreadable += 1


async def _from_listing(
    client: LeanClient, lake: Lake, inbox: Inbox, done: Repair
) -> Sequence[Event]:
    """Events that Lean must have sent, because the lake lacks the data that they announce."""
    read = await client.read(
        "entities", {"start_date": f"{BEFORE_LEAN}", "end_date": f"{done.to_at:%Y-%m-%d}"}
    )
    listed = await asyncio.to_thread(_states_of_read, read)
    known = await asyncio.to_thread(_states_of_lake, lake)
    done.compared = len(listed)
    missing = [
        Event(
            event_id=f"listing:{entity_id}:{_fingerprint(state)}",
            type="entity.updated" if entity_id in known else "entity.created",
            entity_id=entity_id,
        )
        for entity_id, state in listed.items()
        if known.get(entity_id) != state
    ]
    active = [entity_id for entity_id, state in listed.items() if state.status == "ACTIVE"]
    limit = asyncio.Semaphore(client.settings.max_concurrency)

    async def refreshes(entity_id: str) -> list[Event]:
        async with limit:
            try:
                table = await client.table("refreshes", entity_id=entity_id)
            except (ConsentError, RequestError):
                return []  # the entity was removed after it was listed
        return [
            Event(
                event_id=f"listing:{row['refresh_id']}",
                type=_REFRESHED,
                entity_id=entity_id,
                refresh_id=row["refresh_id"],
                status="FINISHED",
                sent_at=row["updated_at"],
            )
            for row in table.to_pylist()
            if row["status"] in FINISHED
            and (row["updated_at"] or row["created_at"]) >= done.from_at
        ]

    found = [event for part in await asyncio.gather(*map(refreshes, active)) for event in part]
    ids = [event.refresh_id for event in found if event.refresh_id is not None]
    arrived = await asyncio.to_thread(inbox.finished, ids, FINISHED)
    arrived |= await asyncio.to_thread(_refreshes_of_lake, lake)
    return missing + [event for event in found if event.refresh_id not in arrived]


class _State(NamedTuple):
    """The state of an entity and its consents, which an event could announce."""

    status: str | None
    updated_at: dt.datetime | None
    consents: frozenset[tuple[str, str | None]]


def _fingerprint(state: _State) -> str:
    text = repr((state.status, state.updated_at, sorted(state.consents, key=str)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _states_of_read(read: PagedRead) -> dict[str, _State]:
    tables = [Decoder(STREAMS[name]).decode(read.pages).rows for name in ("entities", "consents")]
    return _states(*(table.to_pylist() for table in tables))


def _states_of_lake(lake: Lake) -> dict[str, _State]:
    with lake.planning(tuple(_COMPARED)) as connection:
        tables = [
            connection.sql(f"select {', '.join(columns)} from {name}").to_arrow_table()
            for name, columns in _COMPARED.items()
        ]
    return _states(*(table.to_pylist() for table in tables))


def _refreshes_of_lake(lake: Lake) -> set[str]:
    """Refreshes that are over according to the lake: a sync has read their data."""
    with lake.planning(("refreshes",)) as connection:
        rows = connection.execute(
            "select refresh_id from refreshes where list_contains($over, status)",
            {"over": sorted(FINISHED)},
        ).fetchall()
    return {refresh_id for (refresh_id,) in rows}


_COMPARED = {
    "entities": ("entity_id", "status", "updated_at"),
    "consents": ("entity_id", "consent_id", "consent_status"),
}


def _states(
    entities: Sequence[Mapping[str, Any]], consents: Sequence[Mapping[str, Any]]
) -> dict[str, _State]:
    of_entity: dict[str, set[tuple[str, str | None]]] = {}
    for row in consents:
        pair = row["consent_id"], row["consent_status"]
        of_entity.setdefault(row["entity_id"], set()).add(pair)
    return {
        row["entity_id"]: _State(
            row["status"], row["updated_at"], frozenset(of_entity.get(row["entity_id"], ()))
        )
        for row in entities
    }
