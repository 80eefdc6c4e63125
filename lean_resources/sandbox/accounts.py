"""Accounts, balances and people in Lean's form."""

from __future__ import annotations

from collections.abc import Iterator

from lean_resources.sandbox.clock import DAY, HOUR, day_text, first_day, month_of, stamp
from lean_resources.sandbox.ids import mix
from lean_resources.sandbox.money import money
from lean_resources.sandbox.people import Person, person
from lean_resources.sandbox.view import Record, View, copied
from lean_resources.sandbox.world import CARDS, Slot

_REGIONAL_SUB_TYPES = {
    "CURRENT": "CURRENT_ACCOUNT",
    "CREDIT": "CREDIT_CARD",
    "PREPAID": "PRE_PAID_CARD",
    "EMONEY": "E_MONEY",
}
_REGIONAL_SCHEMES = {"BBAN": "ACCOUNT_NUMBER", "PAN": "MASKED_PAN", "OTHER": "NATIONAL_ID"}


def account(view: View) -> Record:
    """An account of an entity."""
    found, bank, holder, bare = view.account, view.bank, view.holder, view.is_bare
    card, business = found.kind in CARDS, found.kind == "BUSINESS"
    opened = day_text(found.opened)
    changed = None if found.draw % 3 == 0 else stamp(found.opened * DAY + 8 * HOUR, 3)
    known = bank.servicer not in {"KSAOB.SAOTHE", "KSAOB.SALEAN"}
    servicer = {
        "scheme_name": "BICFI" if known or bank.mock else "OTHER",
        "identification": bank.swift if known else bank.servicer,
    }
    nickname = (None, "Salary", "حسابي", "Household", None)[found.draw % 5]
    description = {"CREDIT": "Platinum card", "SAVINGS": "حساب ادخار"}.get(found.kind)
    record: Record = {
        **view.newer(
            {
                "entity_id": view.entity.id,
                "account_holder_name": None if bare else holder.full_name,
                "account_holder_short_name": None if bare else holder.short_name,
            }
        ),
        "account_id": view.account_id,
        "status": None if bare else "UNSUPPORTED" if found.kind == "DIGITAL_GOLD" else "ENABLED",
        "status_update_date_time": None if bare else changed,
        "currency": found.currency,
        "account_type": "BUSINESS" if business else "PERSONAL",
        "account_sub_type": found.sub_type,
        "nickname": None if bare else nickname,
        "description": None if bare else description,
        "opening_date": f"{opened}T00:00:00.000Z" if bank.older else opened,
        "maturity_date": f"{int(opened[:4]) + 5}{opened[4:8]}01T00:00:00Z" if card else None,
        "account": list(_identifiers(view)),
        "servicer": None if bare else servicer,
    }

    def regional() -> Record:
        same = (
            "account_id status_update_date_time currency description nickname opening_date"
            " maturity_date"
        )
        return {
            **copied(record, same),
            "status": "ACTIVE",
            "account_type": "CORPORATE" if business else "RETAIL",
            "account_sub_type": _REGIONAL_SUB_TYPES.get(found.sub_type, found.sub_type),
            "servicer": {
                "identification_type": servicer["scheme_name"],
                "identification": servicer["identification"],
            },
            "account_identifiers": [
                {
                    "identification_type": _REGIONAL_SCHEMES.get(scheme, scheme),
                    **copied(one, "identification name"),
                }
                for one in record["account"]
                for scheme in (one["scheme_name"],)
            ],
            "account_holder_name": holder.full_name,
            "account_holder_short_name": holder.short_name,
        }

    return view.finished(record, regional)


def _identifiers(view: View) -> Iterator[Record]:
    """Numbers that identify an account."""
    found, bare = view.account, view.is_bare
    name = None if bare else view.holder.short_name

    def one(scheme: str, identification: str, name: str | None) -> Record:
        return {"scheme_name": scheme, "identification": identification, "name": name}

    card = found.kind in CARDS
    if not (card and bare):
        yield one("IBAN", found.iban, name)
        yield one("BBAN", found.iban[6:], name)
    if card:
        yield one("PAN", found.pan, None)
    if found.draw % 4 == 0:
        yield one("OTHER" if view.bank.older else "NATIONAL_ID", view.holder.national_id, name)


_FOUR = ("INTERIM_BOOKED", "INTERIM_AVAILABLE", "OPENING_BOOKED", "CLOSING_BOOKED")
_ALL = (
    "CLOSING_AVAILABLE", "CLOSING_BOOKED", "CLOSING_CLEARED", "EXPECTED", "FORWARD_AVAILABLE",
    "INFORMATION", "INTERIM_AVAILABLE", "INTERIM_BOOKED", "INTERIM_CLEARED", "OPENING_AVAILABLE",
    "OPENING_BOOKED", "OPENING_CLEARED", "PREVIOUSLY_CLOSED_BOOKED",
)  # fmt: skip


def balances(view: View) -> list[Record]:
    """The balances of an account at the instant of the bank data copy.

    INTERIM_BOOKED is the sum of the booked transactions. INTERIM_AVAILABLE subtracts pending debits
    and adds the credit line. Opening and closing balances are those at the start of today.
    """
    found, bank = view.account, view.bank
    today = view.instant // DAY
    statement = view.store.ledger.statement(found, view.instant)
    asked = first_day(month_of(today)) * DAY + 14 * HOUR if bank.mock else view.instant
    records = []
    for kind in _ALL if bank.all_balances else _FOUR[: 4 if found.draw % 2 else 2]:
        lines = []
        if kind.endswith("_AVAILABLE"):
            minor = statement.available
            if found.credit_line:
                amount = money(found.credit_line, found.currency)
                kind_of_line = "CREDIT" if found.kind in CARDS else "PRE_AGREED"
                lines = [{"included": True, "amount": amount, "type": kind_of_line}]
        elif kind in {"EXPECTED", "INFORMATION"}:
            minor = statement.booked + statement.pending
        elif kind.startswith("INTERIM"):
            minor = statement.booked
        else:
            minor = statement.balance_before(today)
        record: Record = {
            **view.newer({"entity_id": view.entity.id}),
            "account_id": view.account_id,
            "credit_debit_indicator": "DEBIT" if minor < 0 else "CREDIT",
            "amount": money(minor, found.currency),
            "type": kind,
            "date_time": None if view.is_bare else stamp(asked, 3),
            "credit_line": lines if lines or not bank.older else None,
        }
        records.append(view.finished(record, record.copy))
    return records


def identity(view: View) -> list[Record]:
    """The person who consented."""
    return [_identity(view, view.entity.blueprint.customer, "PRINCIPAL", "SOLE")]


def identities(view: View) -> list[Record]:
    """All people of an account: its holders, and sometimes a person who may act for them."""
    holders, draw = view.account.holders, view.account.draw
    party_type = "JOINT" if len(holders) > 1 else "SOLE"
    records = [
        _identity(view, holder, "SECONDARY_OWNER" if place else "PRINCIPAL", party_type)
        for place, holder in enumerate(holders)
    ]
    if len(holders) == 1 and draw % 3 == 0:
        records.append(_identity(view, 10**8 + draw % 10**6, "POWER_OF_ATTORNEY", "DELEGATE"))
    return records


def _identity(view: View, index: int, role: str, party_type: str) -> Record:
    one, bare = person(view.store.world.seed, index), view.is_bare
    odd = view.entity.blueprint.slot == Slot.IDENTITY_ODD or view.bank.mock
    number = f"{mix(view.store.world.seed, 26, index) % 10**16:016}"
    street = f"{one.building} {one.street}"
    address: Record = {
        "address_line": f"{street}, {one.district}, {one.city} {one.post_code}, SA",
        "address_type": "RESIDENTIAL",
        "street_address": street,
        "post_code": one.post_code,
        "town_name": one.city,
        "region": one.region,
        "country": "SA",
        **view.newer(
            {
                "building_type": "Villa" if index % 2 else "Apartment",
                "apartment_or_villa_number": str(1 + index % 40),
                "building_name": None,
                "street": one.street,
                "area": one.district,
                "po_box": None,
            }
        ),
    }
    # Tatweel: some banks stretch names with it.
    arabic = one.arabic_name.replace("محمد", "محمـــد") if odd else one.arabic_name
    record: Record = {
        "full_legal_name": arabic if index % 2 or odd else one.full_name.upper(),
        "name": one.short_name,
        "phone": one.mobile if not odd else f"0{one.mobile[4:]}",
        "email_address": None if bare else one.email,
        "legal_structure": "" if index % 3 else None,
        "mobile_number": None if bare else one.mobile,
        "address": None if bare else address,
        "account_role": role,
        "party_type": party_type,
        "party_id": f"PT_{number}",
        "party_number": number,
        **view.newer(
            {
                "entity_id": view.entity.id,
                "national_id": None if odd or bare else one.national_id,
                "birth_date": "2029-08-14" if odd else one.birth_date,
                "gender": ("F", "")[index % 2] if odd else "FEMALE" if one.woman else "MALE",
            }
        ),
    }
    same = "party_id party_number party_type account_role"
    return view.finished(
        record, lambda: {**copied(record, same), "verified_claims": [_claims(one, odd, bare)]}
    )


def _claims(one: Person, odd: bool, bare: bool) -> Record:
    """Verified claims of the older generation."""
    given, *_, family = one.full_name.split(" ", 3)
    checked = "2024-12-01T10:00:00.000Z"
    document = {
        "type": "ID_CARD",
        "document_number": one.national_id,
        "personal_number": one.national_id,
        "serial_number": None,
        "calendar_type": "ISLAMIC_CALENDAR" if odd else "GREGORIAN_CALENDAR",
        "date_of_issuance": "1444-06-01" if odd else "2022-12-25",
        "date_of_expiry": "1449-06-01" if odd else "2027-12-24",
        "issuer": {"name": "Civil Affairs", "country_code": "SA"},
    }
    line = f"{one.building} {one.street}, {one.district}, {one.city} {one.post_code}, SA"
    return {
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
                    "document_details": document,
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
                "formatted": None if bare else line,
                "street_address": one.street,
                "locality": one.city,
                "region": one.region,
                "postal_code": one.post_code,
                "country": "SA",
            },
            "updated_at": 1_717_000_000,
        },
    }
