"""Records in Lean's form: customers, entities, consents, refreshes."""

from __future__ import annotations

from typing import Any

from lean_resources.sandbox.clock import DAY, NEVER, SECOND, stamp
from lean_resources.sandbox.ids import Kind, mix
from lean_resources.sandbox.people import Person, person
from lean_resources.sandbox.store import Entity, Refresh, Store
from lean_resources.sandbox.world import CARDS, Account, ConsentPlan
from lean_resources.streams import PERMISSIONS


def customer_record(store: Store, customer: int) -> dict[str, Any]:
    """A customer."""
    return {
        "customer_id": store.customer_id(customer),
        "app_user_id": store.app_user_id(customer),
    }


def _permissions(granted: frozenset[str]) -> dict[str, bool]:
    return {name: name in granted for name in PERMISSIONS}


def consent_id(store: Store, entity: Entity, place: int) -> str:
    """Lean's id of the consent at a place in an entity's history."""
    return store.codec.encode(Kind.CONSENT, *entity.key, place)


def consent_record(
    store: Store, entity: Entity, place: int, *, listed: bool = False
) -> dict[str, Any]:
    """The present state of a consent.

    An expired consent stays ACTIVE until the sweep at the next midnight UTC. A listed consent comes
    from `/consents`, which fills fields that are null inside an entity.
    """
    consent = entity.consents[place]
    status, changed = consent_status(consent, store.clock.nanos)
    draw = mix(store.world.seed, 25, *entity.key, place)
    fine = {"ACTIVE": "AUTHORISED"}.get(status, status)
    if entity.bank.mock:
        number = consent.created // DAY * 40 + draw % 40
        bank_consent_id = str(number - 660_000)
    else:
        tail = f"{draw:016x}"
        bank_consent_id = (
            f"urn:{entity.bank.swift}:kac-{tail[:8]}-{tail[8:12]}-4{tail[13:16]}"
            f"-8{tail[1:4]}-{tail[2:14]}"
        )
    holder = person(store.world.seed, entity.blueprint.customer)
    return {
        "id": consent_id(store, entity, place),
        "bank_consent_id": bank_consent_id,
        "bank_identifier": entity.bank.identifier if listed else None,
        "consent_type": "ACCOUNT_ACCESS" if listed else None,
        "consent_status": status,
        "standard_consent_status": fine if listed else None,
        "permissions": _permissions(consent.permissions),
        "creation_date_time": stamp(consent.created, 3),
        "status_update_date_time": stamp(changed, 6 if changed % DAY < 10 * SECOND else 3),
        "expiration_date_time": stamp(consent.expires, 3),
        "transaction_from_date_time": stamp(consent.window_from, 3),
        "transaction_to_date_time": stamp(consent.window_to, 3),
        "accounts": [
            identifier
            for shared in store.shared(entity)
            for identifier in _consented(shared.account, holder)
        ],
    }


def consent_status(consent: ConsentPlan, now: int) -> tuple[str, int]:
    """A consent's status at Lean, and since when."""
    if consent.revoked <= now:
        return "REVOKED", consent.revoked
    sweep = (consent.expires // DAY + 1) * DAY + 2 * SECOND + consent.created % (3 * SECOND)
    if consent.expires < NEVER and sweep <= now:
        return "REVOKED", sweep
    return "ACTIVE", consent.created


def _consented(account: Account, holder: Person) -> list[dict[str, Any]]:
    rows = [
        ("IBAN", account.iban),
        ("ACCOUNT_NUMBER", account.iban[6:]),
        ("NATIONAL_ID", holder.national_id),
    ]
    if account.kind in CARDS:
        rows.insert(1, ("MASKED_PAN", account.pan))
    return [
        {
            "scheme_name": scheme,
            "identification": identification,
            "name": holder.short_name,
            "secondary_identification": None,
        }
        for scheme, identification in rows
    ]


def entity_record(store: Store, entity: Entity, *, listed: bool = False) -> dict[str, Any]:
    """An entity; only the listing by date has its status and last change."""
    record: dict[str, Any] = {
        "id": entity.id,
        "customer_id": entity.customer_id,
        "bank_identifier": entity.bank.identifier,
        "permissions": _permissions(entity.consent.permissions),
        "bank_type": entity.bank.bank_type,
        "created_at": stamp(entity.blueprint.created, 6),
    }
    if listed:
        record["status"] = "DELETED" if entity.deleted <= store.clock.nanos else "ACTIVE"
        record["updated_at"] = stamp(entity.updated, 6)
    record["consents"] = [
        consent_record(store, entity, place) for place in reversed(range(len(entity.consents)))
    ]
    return record


def refresh_record(
    store: Store, entity: Entity, refresh: Refresh, *, detail: bool
) -> dict[str, Any]:
    """A refresh; its detail has the status of each kind of data."""
    updated = refresh.finished if refresh.finished is not None else refresh.created
    record: dict[str, Any] = {
        "refresh_id": store.refresh_id(entity, refresh),
        "entity_id": entity.id,
        "customer_id": entity.customer_id,
        "status": "PENDING" if refresh.finished is None else "FINISHED",
    }
    if detail:
        record["data_status"] = store.data_status(entity, refresh)
    record["created_at"] = stamp(refresh.created, 3)
    record["updated_at"] = stamp(updated, 3)
    return record
