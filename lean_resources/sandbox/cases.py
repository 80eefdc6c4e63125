"""The awkward cases of the default world, each with its ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lean_resources.sandbox.clock import DAY, SECOND, day_text
from lean_resources.sandbox.ids import Kind
from lean_resources.sandbox.ledger import Exchange, Party, Row
from lean_resources.sandbox.records import consent_id
from lean_resources.sandbox.store import Entity, Shared, Store
from lean_resources.sandbox.tables import read
from lean_resources.sandbox.transactions import TransactionWriter
from lean_resources.sandbox.view import View
from lean_resources.sandbox.world import Slot


@dataclass(frozen=True, slots=True)
class _Case:
    """A case.

    Args:
        about: What is awkward.
        slot: Customer that has it, by the name of its slot.
        ordinal: Entity of that customer.
        account: Place of the account in that entity, if it is a case of an account or a row.
        row: Number of the row around the start of the clock, if it is one of these.
    """

    case: str
    about: str
    slot: str = ""
    ordinal: int = 0
    account: int | None = None
    row: int | None = None


_CASES = {one.case: one for one in read("cases", _Case)}
CASES = {name: one.about for name, one in _CASES.items()}
"""Description of each case; `Sandbox.example` gives the ids of a case."""

_FOUND: dict[str, Callable[[Row], bool]] = {
    "month_end_instant": lambda row: row.booked % DAY == DAY - 1,
    "riyadh_midnight": lambda row: row.booked % DAY == 75_599 * SECOND,
    "foreign_purchase": lambda row: isinstance(row.extra, Exchange),
    "own_transfer": lambda row: row.flow.scheme == "OWN",
    "refund": lambda row: row.flow.sub_kind == "REFUND",
    "reversal": lambda row: row.flow.sub_kind == "REVERSAL",
    "arabic_text": lambda row: row.flow.card and row.draw % 4 == 0,
}


def example(store: Store, kind: str) -> dict[str, Any]:
    """The ids of a case.

    Raises:
        LookupError: The case does not exist, or the world is too small for it.
    """
    case = _CASES.get(kind)
    if case is None:
        raise LookupError(f"unknown case {kind}; known are {', '.join(CASES)}")
    if find := _SPECIAL.get(kind):
        return find(store)
    entity = _entity(store, Slot[case.slot], case.ordinal, kind)
    if case.account is None:
        return _entity_ids(store, entity)
    shared = store.shared(entity)[case.account]
    if case.row is not None:
        return _scripted(store, case, entity, shared)
    if kind in _FOUND:
        return _found(store, kind, entity, shared)
    return {**_entity_ids(store, entity), "account_id": shared.account_id}


def _must_have(store: Store, kind: str, customer: int) -> None:
    if customer >= store.world.customers:
        raise LookupError(f"{kind} needs at least {customer + 1} customers")


def _entity(store: Store, slot: Slot, ordinal: int, kind: str) -> Entity:
    _must_have(store, kind, slot)
    return store.entity((int(slot), ordinal))


def _entity_ids(store: Store, entity: Entity) -> dict[str, Any]:
    old = [
        store.codec.encode(Kind.ACCOUNT, *entity.key, place, generation)
        for generation in range(entity.generation)
        for place in range(len(entity.blueprint.kinds))
    ]
    return {
        "customer_id": entity.customer_id,
        "entity_id": entity.id,
        "bank_identifier": entity.bank.identifier,
        "consent_id": consent_id(store, entity, len(entity.consents) - 1),
        "account_ids": [shared.account_id for shared in store.shared(entity)],
        "old_account_ids": old,
    }


def _writer(store: Store, entity: Entity, shared: Shared) -> TransactionWriter:
    return TransactionWriter(View(store, entity, store.clock.nanos, shared))


def _row_ids(store: Store, entity: Entity, shared: Shared, rows: list[Row]) -> dict[str, Any]:
    writer = _writer(store, entity, shared)
    ids = [writer.transaction_id(row) for row in rows]
    return {
        "customer_id": entity.customer_id,
        "entity_id": entity.id,
        "account_id": shared.account_id,
        "transaction_id": ids[0],
        "transaction_ids": ids,
        "booking_date": day_text(rows[0].booked // DAY),
    }


def _scripted(store: Store, case: _Case, entity: Entity, shared: Shared) -> dict[str, Any]:
    wanted = {case.row, 904} if case.case == "identical_purchases" else {case.row}
    rows = [row for row in store.ledger.script(shared.account) if row.seq % 1000 in wanted]
    found = _row_ids(store, entity, shared, rows)
    found["booked_transaction_id"] = found["transaction_ids"][-1]
    found["shown_at"] = rows[-1].shown
    return found


def _rows(store: Store, entity: Entity, shared: Shared) -> list[Row]:
    return store.ledger.statement(shared.account, entity.blueprint.snapshot).rows


def _found(store: Store, kind: str, entity: Entity, shared: Shared) -> dict[str, Any]:
    rows = _rows(store, entity, shared)
    for place, row in enumerate(rows):
        if _FOUND[kind](row):
            count = 2 if kind == "riyadh_midnight" else 1
            found = _row_ids(store, entity, shared, rows[place : place + count])
            return found | _other_leg(store, entity, row)
    raise LookupError(f"the world of this seed and length has no {kind}")


def _other_leg(store: Store, entity: Entity, row: Row) -> dict[str, Any]:
    if not isinstance(row.party, Party) or row.party.own < 0:
        return {}
    shared = store.shared(entity)[row.party.own]
    leg = next(found for found in _rows(store, entity, shared) if found.seq == row.seq)
    return {
        "other_account_id": shared.account_id,
        "other_transaction_id": _writer(store, entity, shared).transaction_id(leg),
    }


def _no_entity(store: Store) -> dict[str, Any]:
    _must_have(store, "no_entity", Slot.NO_ENTITY)
    return {"customer_id": store.customer_id(int(Slot.NO_ENTITY))}


def _joint(store: Store) -> dict[str, Any]:
    slots = (Slot.JOINT_FIRST, Slot.JOINT_SECOND)
    entities = [_entity(store, slot, 0, "joint_account") for slot in slots]
    views = [store.shared(entity)[1] for entity in entities]
    return {
        "customer_ids": [entity.customer_id for entity in entities],
        "entity_ids": [entity.id for entity in entities],
        "account_ids": [view.account_id for view in views],
        "iban": views[0].account.iban,
    }


def _shared_id(store: Store) -> dict[str, Any]:
    entity = _entity(store, Slot.LATE, 0, "shared_transaction_id")
    both = store.shared(entity)[:2]
    ids = [
        {_writer(store, entity, shared).transaction_id(row) for row in _rows(store, entity, shared)}
        for shared in both
    ]
    return {
        "entity_id": entity.id,
        "account_ids": [shared.account_id for shared in both],
        "transaction_id": min(ids[0] & ids[1]),
    }


_SPECIAL: dict[str, Callable[[Store], dict[str, Any]]] = {
    "no_entity": _no_entity,
    "joint_account": _joint,
    "shared_transaction_id": _shared_id,
}
