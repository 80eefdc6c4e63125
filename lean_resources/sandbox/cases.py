"""The awkward cases of the default world, each with its ids."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from lean_resources.sandbox.clock import DAY, day_text
from lean_resources.sandbox.ids import Kind
from lean_resources.sandbox.ledger import Exchange, Party, Row
from lean_resources.sandbox.records import consent_id
from lean_resources.sandbox.store import Entity, Shared, Store
from lean_resources.sandbox.transactions import TransactionWriter
from lean_resources.sandbox.world import Slot

CASES = {
    "newer_generation": "a bank that answers flat, with `regional_data` null",
    "older_generation": "a bank that answers in few fields and the rest with `verbose`",
    "pending_same_id": "a pending purchase that books on the second day under its id",
    "pending_new_id": "a pending purchase that books under another id (`booked_transaction_id`)",
    "pending_amount": "a pending purchase that books with another amount",
    "pending_vanishes": "a pending purchase that never books",
    "late_row": "a row booked six days ago that the bank shows tomorrow",
    "late_row_last_month": "a row booked last month that the bank shows tomorrow",
    "late_row_shown": "a row booked nine days ago that the bank showed three days ago",
    "identical_purchases": "two purchases that differ only in their id",
    "joint_account": "one IBAN seen through two customers",
    "reconsented": "an entity whose accounts came back under other ids (`old_account_ids`)",
    "consent_expiring": "a consent that ends tomorrow",
    "consent_expired_unswept": "a consent that ended today and still says ACTIVE",
    "consent_expired": "a consent that ended and says REVOKED",
    "consent_revoked": "a consent that the customer ended",
    "permissions_missing": "a consent that covers four of nine permissions",
    "narrow_window": "a consent that allows sixty days of transactions",
    "entity_deleted": "an entity that only the listing by date still shows",
    "no_entity": "a customer who connected nothing",
    "several_entities": "a customer with three banks",
    "unknown_enum": "accounts and rows with UNSUPPORTED and with values never seen",
    "null_heavy": "a bank that sends next to nothing",
    "beneficiaries_bare": "an envelope without `refreshed_at` and `type`",
    "identity_odd": "a birth date to come, Hijri documents, an empty gender, stretched letters",
    "three_decimals": "an account in Kuwaiti dinars",
    "business": "a firm's account",
    "wallet": "a wallet with e-money and a prepaid card",
    "unsupported_streams": "a bank that has no direct debits",
    "partial_refresh": "an entity whose beneficiaries failed in every refresh so far",
    "card_account": "a credit card, known by a masked number",
    "new_account": "an account opened within the history",
    "riyadh_midnight": "two rows a second apart, on both sides of midnight in Riyadh",
    "month_end_instant": "a row in the last nanosecond of a month",
    "foreign_purchase": "a purchase in another currency",
    "own_transfer": "a transfer between own accounts: two legs, one reference",
    "refund": "a purchase that was paid back",
    "reversal": "a purchase that was reversed",
    "shared_transaction_id": "one transaction id on two accounts",
    "arabic_text": "a row whose text is Arabic",
}
"""Description of each case; `Sandbox.example` gives the ids of a case."""

_ENTITY_OF = {
    "newer_generation": (Slot.PENDING, 0),
    "older_generation": (Slot.LATE, 0),
    "reconsented": (Slot.RECONSENTED, 0),
    "consent_expiring": (Slot.EXPIRING, 0),
    "consent_expired_unswept": (Slot.EXPIRED_UNSWEPT, 0),
    "consent_expired": (Slot.EXPIRED, 0),
    "consent_revoked": (Slot.REVOKED, 0),
    "permissions_missing": (Slot.FEW_PERMISSIONS, 0),
    "narrow_window": (Slot.NARROW, 0),
    "entity_deleted": (Slot.DELETED, 1),
    "several_entities": (Slot.NARROW, 0),
    "unknown_enum": (Slot.UNKNOWN_ENUM, 0),
    "null_heavy": (Slot.NULL_HEAVY, 0),
    "beneficiaries_bare": (Slot.PENDING, 0),
    "identity_odd": (Slot.IDENTITY_ODD, 0),
    "business": (Slot.BUSINESS, 0),
    "wallet": (Slot.WALLET, 0),
    "unsupported_streams": (Slot.WALLET, 0),
    "partial_refresh": (Slot.WALLET, 1),
}
_ACCOUNT_OF = {
    "three_decimals": (Slot.DINAR, 0, 1),
    "card_account": (Slot.PENDING, 0, 2),
    "new_account": (Slot.NARROW, 0, 1),
}
_SCRIPTED = {
    "pending_same_id": (Slot.PENDING, 900),
    "pending_new_id": (Slot.PENDING, 901),
    "pending_amount": (Slot.PENDING, 902),
    "pending_vanishes": (Slot.PENDING, 903),
    "late_row_shown": (Slot.LATE, 900),
    "late_row": (Slot.LATE, 901),
    "late_row_last_month": (Slot.LATE, 902),
    "identical_purchases": (Slot.LATE, 903),
}
_FOUND: dict[str, tuple[tuple[int, int], Callable[[Row], bool]]] = {
    "month_end_instant": ((Slot.UNKNOWN_ENUM, 0), lambda row: row.booked % DAY == DAY - 1),
    "riyadh_midnight": (
        (Slot.JOINT_FIRST, 0),
        lambda row: row.booked % DAY == 75_599 * 10**9,
    ),
    "foreign_purchase": ((Slot.JOINT_FIRST, 0), lambda row: isinstance(row.extra, Exchange)),
    "own_transfer": ((Slot.JOINT_FIRST, 0), lambda row: row.flow.scheme == "OWN"),
    "refund": ((Slot.EXPIRING, 0), lambda row: row.flow.sub_kind == "REFUND"),
    "reversal": ((Slot.JOINT_FIRST, 0), lambda row: row.flow.sub_kind == "REVERSAL"),
    "arabic_text": ((Slot.EXPIRING, 0), lambda row: row.flow.card and row.draw % 4 == 0),
}


def example(store: Store, kind: str) -> dict[str, Any]:
    """The ids of a case.

    Raises:
        LookupError: The case does not exist, or the world is too small for it.
    """
    if kind not in CASES:
        raise LookupError(f"unknown case {kind}; known are {', '.join(CASES)}")
    for find, kinds in _FINDERS:
        if kind in kinds:
            return find(store, kind)
    return _found(store, kind)


def _must_have(store: Store, kind: str, customer: int) -> None:
    if customer >= store.world.customers:
        raise LookupError(f"{kind} needs at least {customer + 1} customers")


def _entity(store: Store, kind: str, key: tuple[int, int]) -> Entity:
    _must_have(store, kind, key[0])
    return store.entity((int(key[0]), key[1]))


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


def _no_entity(store: Store, kind: str) -> dict[str, Any]:
    customer = int(Slot.NO_ENTITY)
    _must_have(store, kind, customer)
    return {"customer_id": store.customer_id(customer)}


def _connected(store: Store, kind: str) -> dict[str, Any]:
    return _entity_ids(store, _entity(store, kind, _ENTITY_OF[kind]))


def _account(store: Store, kind: str) -> dict[str, Any]:
    slot, ordinal, place = _ACCOUNT_OF[kind]
    entity = _entity(store, kind, (slot, ordinal))
    return {**_entity_ids(store, entity), "account_id": store.shared(entity)[place].account_id}


def _joint(store: Store, kind: str) -> dict[str, Any]:
    first = _entity(store, kind, (Slot.JOINT_FIRST, 0))
    second = _entity(store, kind, (Slot.JOINT_SECOND, 0))
    views = [store.shared(entity)[1] for entity in (first, second)]
    return {
        "customer_ids": [first.customer_id, second.customer_id],
        "entity_ids": [first.id, second.id],
        "account_ids": [view.account_id for view in views],
        "iban": views[0].account.iban,
    }


def _row_ids(store: Store, entity: Entity, shared: Shared, rows: list[Row]) -> dict[str, Any]:
    writer = TransactionWriter(store, entity, shared)
    ids = [writer.transaction_id(row) for row in rows]
    return {
        "customer_id": entity.customer_id,
        "entity_id": entity.id,
        "account_id": shared.account_id,
        "transaction_id": ids[0],
        "transaction_ids": ids,
        "booking_date": day_text(rows[0].booked // DAY),
    }


def _scripted(store: Store, kind: str) -> dict[str, Any]:
    slot, number = _SCRIPTED[kind]
    entity = _entity(store, kind, (slot, 0))
    shared = store.shared(entity)[0]
    wanted = {number, 904} if kind == "identical_purchases" else {number}
    rows = [row for row in store.ledger.script(shared.account) if row.seq % 1000 in wanted]
    found = _row_ids(store, entity, shared, rows)
    found["booked_transaction_id"] = found["transaction_ids"][-1]
    found["shown_at"] = rows[-1].shown
    return found


def _rows(store: Store, entity: Entity, place: int) -> tuple[Shared, list[Row]]:
    shared = store.shared(entity)[place]
    return shared, store.ledger.statement(shared.account, entity.blueprint.snapshot).rows


def _found(store: Store, kind: str) -> dict[str, Any]:
    key, wanted = _FOUND[kind]
    entity = _entity(store, kind, key)
    shared, rows = _rows(store, entity, 0)
    for place, row in enumerate(rows):
        if wanted(row):
            count = 2 if kind == "riyadh_midnight" else 1
            found = _row_ids(store, entity, shared, rows[place : place + count])
            return found | _other_leg(store, entity, row)
    raise LookupError(f"the world of this seed and length has no {kind}")


def _other_leg(store: Store, entity: Entity, row: Row) -> dict[str, Any]:
    if not isinstance(row.party, Party) or row.party.own < 0:
        return {}
    shared, rows = _rows(store, entity, row.party.own)
    leg = next(candidate for candidate in rows if candidate.seq == row.seq)
    return {
        "other_account_id": shared.account_id,
        "other_transaction_id": TransactionWriter(store, entity, shared).transaction_id(leg),
    }


def _shared_id(store: Store, kind: str) -> dict[str, Any]:
    entity = _entity(store, kind, (Slot.LATE, 0))
    ids = []
    for place in (0, 1):
        shared, rows = _rows(store, entity, place)
        writer = TransactionWriter(store, entity, shared)
        ids.append({writer.transaction_id(row) for row in rows})
    return {
        "entity_id": entity.id,
        "account_ids": [shared.account_id for shared in store.shared(entity)[:2]],
        "transaction_id": min(ids[0] & ids[1]),
    }


_Finder = Callable[[Store, str], dict[str, Any]]
_FINDERS: tuple[tuple[_Finder, Collection[str]], ...] = (
    (_no_entity, {"no_entity"}),
    (_joint, {"joint_account"}),
    (_shared_id, {"shared_transaction_id"}),
    (_connected, _ENTITY_OF),
    (_account, _ACCOUNT_OF),
    (_scripted, _SCRIPTED),
)
