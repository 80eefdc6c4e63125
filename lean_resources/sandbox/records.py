"""Records in Lean's form: customers, entities, consents, accounts, balances, people."""

from __future__ import annotations

from typing import Any

from lean_resources.sandbox.clock import DAY, NEVER, SECOND, day_text, first_day, month_of, stamp
from lean_resources.sandbox.ids import Kind, mix
from lean_resources.sandbox.money import money
from lean_resources.sandbox.people import Person, person
from lean_resources.sandbox.store import Entity, Refresh, Shared, Store
from lean_resources.sandbox.world import CARDS, Account, ConsentPlan, Slot
from lean_resources.streams import PERMISSIONS

_REGIONAL_SUB_TYPES = {
    "CURRENT": "CURRENT_ACCOUNT",
    "CREDIT": "CREDIT_CARD",
    "PREPAID": "PRE_PAID_CARD",
    "EMONEY": "E_MONEY",
}


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


def account_record(
    store: Store, entity: Entity, shared: Shared, *, verbose: bool = False
) -> dict[str, Any]:
    """An account of an entity."""
    account = shared.account
    bank = account.bank
    holder = person(store.world.seed, entity.blueprint.customer)
    bare = account.slot == Slot.NULL_HEAVY
    odd = account.kind == "DIGITAL_GOLD"
    card = account.kind in CARDS
    nickname = (None, "Salary", "حسابي", "Household", None)[account.draw % 5]
    description = {"CREDIT": "Platinum card", "SAVINGS": "حساب ادخار"}.get(account.kind)
    opened, matures = day_text(account.opened), None
    if card:
        matures = f"{int(opened[:4]) + 5}{opened[4:8]}01T00:00:00Z"
    changed = None if account.draw % 3 == 0 else stamp(account.opened * DAY + 8 * 3600 * SECOND, 3)
    identifiers: list[dict[str, Any]] = [
        {"scheme_name": "IBAN", "identification": account.iban, "name": holder.short_name},
        {"scheme_name": "BBAN", "identification": account.iban[6:], "name": holder.short_name},
    ]
    if card:
        pan = {"scheme_name": "PAN", "identification": account.pan, "name": None}
        identifiers = [pan] if bare else [*identifiers, pan]
    own_id = {
        "scheme_name": "OTHER" if bank.older else "NATIONAL_ID",
        "identification": holder.national_id,
        "name": holder.short_name,
    }
    if account.draw % 4 == 0:
        identifiers.append(own_id)
    known = bank.servicer not in {"KSAOB.SAOTHE", "KSAOB.SALEAN"}
    servicer = {
        "scheme_name": "BICFI" if known or bank.mock else "OTHER",
        "identification": bank.swift if known else bank.servicer,
    }
    business = account.kind == "BUSINESS"
    record: dict[str, Any] = {} if bank.older else {"entity_id": entity.id}
    record["account_id"] = shared.account_id
    if not bank.older:
        record["account_holder_name"] = None if bare else holder.full_name
        record["account_holder_short_name"] = None if bare else holder.short_name
    record |= {
        "status": None if bare else "UNSUPPORTED" if odd else "ENABLED",
        "status_update_date_time": None if bare else changed,
        "currency": account.currency,
        "account_type": "BUSINESS" if business else "PERSONAL",
        "account_sub_type": account.sub_type,
        "nickname": None if bare else nickname,
        "description": None if bare else description,
        "opening_date": f"{opened}T00:00:00.000Z" if bank.older else opened,
        "maturity_date": matures,
        "account": [{**one, "name": None} for one in identifiers] if bare else identifiers,
        "servicer": None if bare else servicer,
    }
    if not bank.older:
        record["regional_data"] = None
    elif verbose:
        data = _regional_account(record, account, holder)
        record["regional_data"] = {"standard": "SAU.SAMA.V1", "data": data}
    elif not bank.absent_regional:
        record["regional_data"] = None
    return record


def _regional_account(flat: dict[str, Any], account: Account, holder: Person) -> dict[str, Any]:
    types = {"BBAN": "ACCOUNT_NUMBER", "PAN": "MASKED_PAN", "OTHER": "NATIONAL_ID"}
    sub_type = flat["account_sub_type"]
    servicer = flat["servicer"]
    return {
        "account_id": flat["account_id"],
        "status": "ACTIVE",
        "status_update_date_time": flat["status_update_date_time"],
        "currency": flat["currency"],
        "account_type": "CORPORATE" if account.kind == "BUSINESS" else "RETAIL",
        "account_sub_type": _REGIONAL_SUB_TYPES.get(sub_type, sub_type),
        "description": flat["description"],
        "nickname": flat["nickname"],
        "opening_date": flat["opening_date"],
        "maturity_date": flat["maturity_date"],
        "servicer": {
            "identification_type": servicer["scheme_name"],
            "identification": servicer["identification"],
        },
        "account_identifiers": [
            {
                "identification_type": types.get(one["scheme_name"], one["scheme_name"]),
                "identification": one["identification"],
                "name": one["name"],
            }
            for one in flat["account"]
        ],
        "account_holder_name": holder.full_name,
        "account_holder_short_name": holder.short_name,
    }


_FOUR = ("INTERIM_BOOKED", "INTERIM_AVAILABLE", "OPENING_BOOKED", "CLOSING_BOOKED")
_ALL = (
    "CLOSING_AVAILABLE", "CLOSING_BOOKED", "CLOSING_CLEARED", "EXPECTED", "FORWARD_AVAILABLE",
    "INFORMATION", "INTERIM_AVAILABLE", "INTERIM_BOOKED", "INTERIM_CLEARED", "OPENING_AVAILABLE",
    "OPENING_BOOKED", "OPENING_CLEARED", "PREVIOUSLY_CLOSED_BOOKED",
)  # fmt: skip


def balance_records(
    store: Store, entity: Entity, shared: Shared, instant: int, *, verbose: bool = False
) -> list[dict[str, Any]]:
    """The balances of an account at the instant of the bank data copy.

    INTERIM_BOOKED is the sum of the booked transactions. INTERIM_AVAILABLE subtracts pending debits
    and adds the credit line. Opening and closing balances are those at the start of today.
    """
    account, bank = shared.account, shared.account.bank
    statement = store.ledger.statement(account, instant)
    start_of_day = statement.balance_before(instant // DAY)
    day = first_day(month_of(instant // DAY))
    asked = stamp(day * DAY + 14 * 3600 * SECOND if bank.mock else instant, 3)
    line = account.credit_line
    records = []
    for kind in _ALL if bank.all_balances else _FOUR[: 4 if account.draw % 2 else 2]:
        if kind.endswith("_AVAILABLE"):
            minor, credit = statement.available, line
        elif kind in {"EXPECTED", "INFORMATION"}:
            minor, credit = statement.booked + statement.pending, 0
        elif kind.startswith("INTERIM"):
            minor, credit = statement.booked, 0
        else:
            minor, credit = start_of_day, 0
        lines = []
        if credit:
            kind_of_line = "CREDIT" if account.kind in CARDS else "PRE_AGREED"
            amount = money(credit, account.currency)
            lines = [{"included": True, "amount": amount, "type": kind_of_line}]
        record: dict[str, Any] = {} if bank.older else {"entity_id": entity.id}
        record |= {
            "account_id": shared.account_id,
            "credit_debit_indicator": "DEBIT" if minor < 0 else "CREDIT",
            "amount": money(minor, account.currency),
            "type": kind,
            "date_time": None if account.slot == Slot.NULL_HEAVY else asked,
            "credit_line": lines if lines or not bank.older else None,
        }
        if not bank.older:
            record["regional_data"] = None
        elif verbose:
            record["regional_data"] = {"standard": "SAU.SAMA.V1", "data": dict(record)}
        elif not bank.absent_regional:
            record["regional_data"] = None
        records.append(record)
    return records


def identity_records(
    store: Store, entity: Entity, *, verbose: bool = False
) -> list[dict[str, Any]]:
    """The person who consented."""
    customer = entity.blueprint.customer
    return [_identity(store, entity, customer, ("PRINCIPAL", "SOLE"), verbose=verbose)]


def party_records(
    store: Store, entity: Entity, shared: Shared, *, verbose: bool = False
) -> list[dict[str, Any]]:
    """All people of an account: its holders, and sometimes a person who may act for them."""
    account = shared.account
    joint = len(account.holders) > 1
    records = [
        _identity(
            store,
            entity,
            holder,
            ("SECONDARY_OWNER" if place else "PRINCIPAL", "JOINT" if joint else "SOLE"),
            verbose=verbose,
        )
        for place, holder in enumerate(account.holders)
    ]
    if not joint and account.draw % 3 == 0:
        other = 10**8 + account.draw % 10**6
        role = ("POWER_OF_ATTORNEY", "DELEGATE")
        records.append(_identity(store, entity, other, role, verbose=verbose))
    return records


def _identity(
    store: Store, entity: Entity, index: int, role: tuple[str, str], *, verbose: bool
) -> dict[str, Any]:
    one = person(store.world.seed, index)
    bank = entity.bank
    odd = entity.blueprint.slot == Slot.IDENTITY_ODD or bank.mock
    bare = entity.blueprint.slot == Slot.NULL_HEAVY
    number = f"{mix(store.world.seed, 26, index) % 10**16:016}"
    street = f"{one.building} {one.street}"
    address: dict[str, Any] = {
        "address_line": f"{street}, {one.district}, {one.city} {one.post_code}, SA",
        "address_type": "RESIDENTIAL",
        "street_address": street,
        "post_code": one.post_code,
        "town_name": one.city,
        "region": one.region,
        "country": "SA",
    }
    # Tatweel: some banks stretch names with it.
    arabic = one.arabic_name.replace("محمد", "محمـــد") if odd else one.arabic_name
    record: dict[str, Any] = {
        "full_legal_name": arabic if index % 2 or odd else one.full_name.upper(),
        "name": one.short_name,
        "phone": one.mobile if not odd else f"0{one.mobile[4:]}",
        "email_address": None if bare else one.email,
        "legal_structure": "" if index % 3 else None,
        "mobile_number": None if bare else one.mobile,
        "address": None if bare else address,
        "account_role": role[0],
        "party_type": role[1],
        "party_id": f"PT_{number}",
        "party_number": number,
    }
    if not bank.older:
        if record["address"] is not None:
            record["address"] = address | {
                "building_type": "Villa" if index % 2 else "Apartment",
                "apartment_or_villa_number": str(1 + index % 40),
                "building_name": None,
                "street": one.street,
                "area": one.district,
                "po_box": None,
            }
        gender = ("F", "")[index % 2] if odd else "FEMALE" if one.woman else "MALE"
        return {
            "entity_id": entity.id,
            **record,
            "national_id": None if odd or bare else one.national_id,
            "birth_date": "2029-08-14" if odd else one.birth_date,
            "gender": gender,
            "regional_data": None,
        }
    if verbose:
        data = _regional_identity(one, record, odd=odd)
        record["regional_data"] = {"standard": "SAU.SAMA.V1", "data": data}
    elif not bank.absent_regional:
        record["regional_data"] = None
    return record


def _regional_identity(one: Person, flat: dict[str, Any], *, odd: bool) -> dict[str, Any]:
    given, *_, family = one.full_name.split(" ", 3)
    checked = "2024-12-01T10:00:00.000Z"
    formatted = flat["address"]["address_line"] if flat["address"] else None
    return {
        "party_id": flat["party_id"],
        "party_number": flat["party_number"],
        "party_type": flat["party_type"],
        "account_role": flat["account_role"],
        "verified_claims": [
            {
                "verification": {
                    "trust_framework": "SAMA",
                    "assurance_level": "HIGH",
                    "assurance_process": {"policy": "KYC-SA-2023", "procedure": "Documents"},
                    "time": checked,
                    "verification_process": "Document and face match",
                    "evidence": [
                        {
                            "type": "DOCUMENT",
                            "verifier": {"organization": "Civil Affairs", "txn": None},
                            "time": checked,
                            "document_details": {
                                "type": "ID_CARD",
                                "document_number": one.national_id,
                                "personal_number": one.national_id,
                                "serial_number": None,
                                "calendar_type": "ISLAMIC_CALENDAR"
                                if odd
                                else "GREGORIAN_CALENDAR",
                                "date_of_issuance": "1444-06-01" if odd else "2022-12-25",
                                "date_of_expiry": "1449-06-01" if odd else "2027-12-24",
                                "issuer": {"name": "Civil Affairs", "country_code": "SA"},
                            },
                            "check_details": [],
                            "attachments": [],
                        }
                    ],
                },
                "claims": {
                    "sub": one.email.split("@", maxsplit=1)[0],
                    "name": one.full_name,
                    "given_name": given,
                    "family_name": family,
                    "middle_name": None,
                    "email": one.email,
                    "email_verified": True,
                    "gender": "" if odd else "female" if one.woman else "male",
                    "birth_date": "2029-08-14" if odd else one.birth_date,
                    "phone_number": one.mobile,
                    "msisdn": one.mobile,
                    "place_of_birth": {"region": one.region, "locality": one.city, "country": "SA"},
                    "nationalities": ["SA"],
                    "address": {
                        "formatted": formatted,
                        "street_address": one.street,
                        "locality": one.city,
                        "region": one.region,
                        "postal_code": one.post_code,
                        "country": "SA",
                    },
                    "updated_at": 1_717_000_000,
                },
            }
        ],
    }
