"""Records that a client may read now: a stream of a parent, and all streams as the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lean_resources.sandbox import arrangements, records
from lean_resources.sandbox.banks import BANKS, bank_record
from lean_resources.sandbox.clock import DAY
from lean_resources.sandbox.money import dump
from lean_resources.sandbox.store import Entity, Shared, Store
from lean_resources.sandbox.transactions import TransactionWriter
from lean_resources.streams import ACCOUNT_STREAMS, PERMISSION_OF

STREAMS = ("banks", "customers", "entities", "consents", "refreshes", *PERMISSION_OF)
"""Streams for which the sandbox knows the truth."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The records of a stream for a parent; a page's records are written at its request."""

    total: int
    between: Callable[[int, int], list[dict[str, Any]]]


def window(entity: Entity) -> tuple[int, int]:
    """First and last UTC day of transactions that the consent allows, inclusive."""
    return entity.consent.window_from // DAY, entity.consent.window_to // DAY


def listing(
    store: Store,
    entity: Entity,
    stream: str,
    shared: Shared | None = None,
    *,
    verbose: bool = False,
    insights: bool = False,
    days: tuple[int, int] | None = None,
) -> Listing:
    """The records of the bank data copy.

    `shared` is the account, for streams of accounts. `days` are the first and last UTC day of
    booking; the consent's window narrows them further.
    """
    instant = entity.marks[stream][0]
    if stream == "accounts":
        found = [
            records.account_record(store, entity, one, verbose=verbose)
            for one in store.shared(entity)
        ]
    elif stream == "identity":
        found = records.identity_records(store, entity, verbose=verbose)
    elif shared is None:
        raise ValueError(f"{stream} needs an account")
    elif stream == "transactions":
        return _transactions(
            store, entity, shared, instant, verbose=verbose, insights=insights, days=days
        )
    elif stream == "balances":
        found = records.balance_records(store, entity, shared, instant, verbose=verbose)
    elif stream == "identities":
        found = records.party_records(store, entity, shared, verbose=verbose)
    else:
        found = arrangements.WRITERS[stream](store, entity, shared, instant, verbose=verbose)
    return Listing(len(found), lambda start, stop: found[start:stop])


def _transactions(
    store: Store,
    entity: Entity,
    shared: Shared,
    instant: int,
    *,
    verbose: bool,
    insights: bool,
    days: tuple[int, int] | None,
) -> Listing:
    statement = store.ledger.statement(shared.account, instant)
    first, last = entity.offered_from(instant), window(entity)[1]
    if days is not None:
        first, last = max(first, days[0]), min(last, days[1])
    low, high = statement.between(first, last)
    writer = TransactionWriter(store, entity, shared, verbose=verbose, insights=insights)
    rows, balances = statement.rows, statement.balances

    def between(start: int, stop: int) -> list[dict[str, Any]]:
        places = range(low + start, min(low + stop, high))
        return [writer.record(rows[place], balances[place]) for place in places]

    return Listing(max(0, high - low), between)


def truth(store: Store, stream: str) -> Iterator[dict[str, Any]]:
    """All records of a stream that a client may read now, as `{"parent", "record"}`.

    A record has the form of a `verbose=true` request, with amounts as int or Decimal.

    Raises:
        ValueError: The stream does not exist.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown stream {stream}; known are {', '.join(STREAMS)}")
    for parent, record in _everything(store, stream):
        served = json.loads(dump(record), parse_float=Decimal)
        yield {"parent": parent, "record": served}


def _everything(store: Store, stream: str) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    if stream == "banks":
        for one in BANKS.values():
            record = bank_record(one, active=one.identifier not in store.inactive)
            yield {"account_type": record["account_type"]}, record
    elif stream == "customers":
        for customer in range(store.customer_total):
            yield {}, records.customer_record(store, customer)
    else:
        for place in reversed(range(store.entity_total)):
            entity = store.entity(store.entity_key_at(place))
            yield from _of_entity(store, stream, entity)


def _of_entity(
    store: Store, stream: str, entity: Entity
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    parent = {"customer_id": entity.customer_id, "entity_id": entity.id}
    if stream == "entities":
        yield {}, records.entity_record(store, entity, listed=True)
    elif stream == "consents":
        for consent in records.entity_record(store, entity, listed=True)["consents"]:
            yield parent, consent
    elif stream == "refreshes":
        # Refreshes are listed while the entity exists, whatever the state of its consent.
        if entity.deleted <= store.clock.nanos:
            return
        for refresh in reversed(entity.refreshes):
            yield parent, records.refresh_record(store, entity, refresh, detail=True)
    elif not entity.is_open(store.clock.nanos):
        return
    elif _is_readable(store, stream, entity):
        yield from _of_store(store, stream, entity, parent)


def _is_readable(store: Store, stream: str, entity: Entity) -> bool:
    granted = PERMISSION_OF[stream] in entity.consent.permissions
    return granted and stream in entity.marks and entity.bank.identifier not in store.inactive


def _of_store(
    store: Store, stream: str, entity: Entity, parent: dict[str, str]
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    if stream not in ACCOUNT_STREAMS:
        found = listing(store, entity, stream, verbose=True)
        for record in found.between(0, found.total):
            yield parent, record
        return
    for shared in store.shared(entity):
        found = listing(store, entity, stream, shared, verbose=True)
        for record in found.between(0, found.total):
            yield {**parent, "account_id": shared.account_id}, record
