"""Records that a client may read now: a stream of a parent, and all streams as the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from lean_resources.sandbox import accounts, arrangements, records
from lean_resources.sandbox.banks import BANKS, bank_record
from lean_resources.sandbox.clock import DAY
from lean_resources.sandbox.money import dump
from lean_resources.sandbox.store import Entity, Store
from lean_resources.sandbox.transactions import TransactionWriter
from lean_resources.sandbox.view import Record, View
from lean_resources.streams import ACCOUNT_STREAMS, PERMISSION_OF

STREAMS = ("banks", "customers", "entities", "consents", "refreshes", *PERMISSION_OF)
"""Streams for which the sandbox knows the truth."""

Found = Iterator[tuple[dict[str, str], Record]]
"""Records, each with the ids of its request."""

WRITERS: dict[str, Callable[[View], list[Record]]] = {
    "accounts": lambda view: [
        accounts.account(replace(view, shared=shared)) for shared in view.store.shared(view.entity)
    ],
    "balances": accounts.balances,
    "identity": accounts.identity,
    "identities": accounts.identities,
    "beneficiaries": arrangements.beneficiaries,
    "direct_debits": arrangements.direct_debits,
    "scheduled_payments": arrangements.scheduled_payments,
    "standing_orders": arrangements.standing_orders,
}
"""What writes the records of a stream; transactions are written by the page."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The records of a stream for a parent; a page's records are written at its request."""

    total: int
    between: Callable[[int, int], list[Record]]


def window(entity: Entity) -> tuple[int, int]:
    """First and last UTC day of transactions that the consent allows, inclusive."""
    return entity.consent.window_from // DAY, entity.consent.window_to // DAY


def listing(view: View, stream: str, days: tuple[int, int] | None = None) -> Listing:
    """The records of the bank data copy.

    `days` are the first and last UTC day of booking; the consent's window narrows them further.
    """
    if stream != "transactions":
        found = WRITERS[stream](view)
        return Listing(len(found), lambda start, stop: found[start:stop])
    statement = view.store.ledger.statement(view.account, view.instant)
    first, last = view.entity.offered_from(view.instant), window(view.entity)[1]
    if days is not None:
        first, last = max(first, days[0]), min(last, days[1])
    low, high = statement.between(first, last)
    writer = TransactionWriter(view)
    rows, balances = statement.rows, statement.balances

    def between(start: int, stop: int) -> list[Record]:
        places = range(low + start, min(low + stop, high))
        return [writer.record(rows[place], balances[place]) for place in places]

    return Listing(max(0, high - low), between)


def truth(store: Store, stream: str) -> Iterator[Record]:
    """All records of a stream that a client may read now, as `{"parent", "record"}`.

    A record has the form of a `verbose=true` request, with amounts as int or Decimal.

    Raises:
        ValueError: The stream does not exist.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown stream {stream}; known are {', '.join(STREAMS)}")
    for parent, record in _everything(store, stream):
        yield {"parent": parent, "record": json.loads(dump(record), parse_float=Decimal)}


def _everything(store: Store, stream: str) -> Found:
    if stream == "banks":
        for one in BANKS.values():
            record = bank_record(one, active=one.identifier not in store.inactive)
            yield {"account_type": record["account_type"]}, record
    elif stream == "customers":
        for customer in range(store.customer_total):
            yield {}, records.customer_record(store, customer)
    else:
        for place in reversed(range(store.entity_total)):
            yield from _of_entity(store, stream, store.entity(store.entity_key_at(place)))


def _of_entity(store: Store, stream: str, entity: Entity) -> Found:
    parent = {"customer_id": entity.customer_id, "entity_id": entity.id}
    if stream == "entities":
        yield {}, records.entity_record(store, entity, listed=True)
    elif stream == "consents":
        for consent in records.entity_record(store, entity, listed=True)["consents"]:
            yield parent, consent
    elif stream == "refreshes":
        # Refreshes are listed while the entity exists, whatever the state of its consent.
        if entity.deleted > store.clock.nanos:
            for refresh in reversed(entity.refreshes):
                yield parent, records.refresh_record(store, entity, refresh, detail=True)
    elif entity.is_open(store.clock.nanos) and _is_readable(store, stream, entity):
        yield from _of_copy(store, stream, entity, parent)


def _of_copy(store: Store, stream: str, entity: Entity, parent: dict[str, str]) -> Found:
    view = View(store, entity, entity.marks[stream][0], verbose=True)
    if stream not in ACCOUNT_STREAMS:
        yield from ((parent, record) for record in _all(view, stream))
        return
    for shared in store.shared(entity):
        own = {**parent, "account_id": shared.account_id}
        for record in _all(replace(view, shared=shared), stream):
            yield own, record


def _is_readable(store: Store, stream: str, entity: Entity) -> bool:
    granted = PERMISSION_OF[stream] in entity.consent.permissions
    return granted and stream in entity.marks and entity.bank.identifier not in store.inactive


def _all(view: View, stream: str) -> list[Record]:
    found = listing(view, stream)
    return found.between(0, found.total)
