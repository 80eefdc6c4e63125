"""Arrangements of accounts: beneficiaries, direct debits, scheduled payments, standing orders."""

from __future__ import annotations

from typing import Any

from lean_resources.sandbox.clock import DAY, HOUR, first_day, month_of, stamp
from lean_resources.sandbox.flows import BILLERS
from lean_resources.sandbox.ids import mix
from lean_resources.sandbox.money import money
from lean_resources.sandbox.people import iban, person
from lean_resources.sandbox.store import Entity, Shared, Store
from lean_resources.sandbox.transactions import agent, agent_of, bank_of, regional_agent
from lean_resources.sandbox.world import Account, Slot

_SPENDING = frozenset({"CURRENT", "JOINT", "BUSINESS", "EMONEY"})
_OLD_FREQUENCY = {"HALF_YEARLY": "BI_ANNUAL", "FORTNIGHTLY": "FORTNIGHT"}


class _Setting:
    """The account whose arrangements are written, at the instant of the bank data copy."""

    def __init__(
        self, store: Store, entity: Entity, shared: Shared, instant: int, *, verbose: bool
    ) -> None:
        self.seed = store.world.seed
        self.entity = entity
        self.account: Account = shared.account
        self.account_id = shared.account_id
        self.instant = instant
        self.older = shared.account.bank.older
        self.verbose = verbose
        holder = person(self.seed, entity.blueprint.customer)
        self.holder_name = holder.full_name
        self.holder_short_name = holder.short_name

    def finish(self, record: dict[str, Any], regional: dict[str, Any]) -> dict[str, Any]:
        """Add the `regional_data` of the bank's generation to a record."""
        if not self.older:
            return {**record, "regional_data": None}
        if self.verbose:
            return {**record, "regional_data": {"standard": "SAU.SAMA.V1", "data": regional}}
        if self.account.bank.absent_regional:
            return record
        return {**record, "regional_data": None}

    def month_instant(self, months: int, day: int) -> int:
        """09:00 UTC on a day of the month that is this many months after the present month."""
        month = month_of(self.instant // DAY) + months
        return (first_day(month) + day) * DAY + 9 * HOUR


def beneficiaries(
    store: Store, entity: Entity, shared: Shared, instant: int, *, verbose: bool
) -> list[dict[str, Any]]:
    """Parties to which the account may send money."""
    at = _Setting(store, entity, shared, instant, verbose=verbose)
    count = 2 + at.account.draw % 4 if at.account.kind in _SPENDING else 0
    records = []
    for number in range(count):
        draw = mix(at.account.draw, 81, number)
        other = person(0, draw % 2**20)
        bank = bank_of(draw >> 20)
        number_at_bank = iban(bank.code, draw)
        bare = at.account.slot == Slot.NULL_HEAVY
        activated = draw % 3 > 0
        # Lean's own sandbox sometimes labels IBANs as PAN.
        scheme = "PAN" if at.account.bank.mock and number == 1 else "IBAN"
        record: dict[str, Any] = {"account_id": at.account_id}
        if not at.older:
            record["account_holder_name"] = None if draw % 2 else at.holder_name
            record["account_holder_short_name"] = None if draw % 2 else at.holder_short_name
        record |= {
            "beneficiary_id": f"{draw % 10**9:09}",
            "beneficiary_type": "OTHER"
            if at.account.bank.mock
            else ("TRUSTED" if activated else "ORDINARY"),
            "creditor_agent": None
            if bare
            else _beneficiary_agent(bank.identifier, address=draw % 2 == 0),
            "creditor_account": {
                "scheme_name": scheme,
                "identification": number_at_bank,
                "name": None if bare else other.arabic_name if draw % 2 else other.short_name,
            },
        }
        if not at.older:
            activity = "KSA_OB_ACTIVATED" if activated else "KSA_OB_NOT_ACTIVATED"
            record["reference"] = activity if at.account.bank.mock else None
        record["supplementary_data"] = None
        regional = {
            "account_id": at.account_id,
            "account_holder_name": at.holder_name,
            "account_holder_short_name": at.holder_short_name,
            "beneficiary_id": record["beneficiary_id"],
            "beneficiary_type": "ACTIVATED" if activated else "NOT_ACTIVATED",
            "reference": None,
            "creditor_agent": regional_agent(bank.identifier),
            "creditor_account": [{"identification_type": "IBAN", "identification": number_at_bank}],
            "supplementary_data": None,
        }
        records.append(at.finish(record, regional))
    return records


def _beneficiary_agent(identifier: str, *, address: bool) -> dict[str, Any]:
    """A servicer with the spelling of the address's subdivision that only beneficiaries have."""
    found = agent(identifier, address=address)
    if not address:
        return found
    postal = dict(found["postal_address"])
    postal["country_sub_division"] = postal.pop("country_subdivision")
    return {**found, "postal_address": postal}


def direct_debits(
    store: Store, entity: Entity, shared: Shared, instant: int, *, verbose: bool
) -> list[dict[str, Any]]:
    """Mandates of firms that collect money from the account."""
    at = _Setting(store, entity, shared, instant, verbose=verbose)
    count = 1 + at.account.draw % 3 if at.account.kind in _SPENDING else 0
    records = []
    for number in range(count):
        draw = mix(at.account.draw, 82, number)
        biller = BILLERS[draw % 4]
        frequency = ("MONTHLY", "MONTHLY", "QUARTERLY", "HALF_YEARLY", "FORTNIGHTLY")[draw % 5]
        minor = biller.low + draw % (biller.high - biller.low)
        paid = draw % 6 != 5
        record: dict[str, Any] = {} if at.older else {"entity_id": at.entity.id}
        record |= {
            "account_id": at.account_id,
            "direct_debit_id": f"DD{draw % 10**10:010}",
            "name": biller.name.title() if draw % 3 else biller.arabic,
            "status_code": "ACTIVE" if paid else "INACTIVE",
            "frequency": _OLD_FREQUENCY.get(frequency, frequency) if at.older else frequency,
            "mandate_identification": f"SAMA-DD-{biller.biller_id:03}-{draw % 10**8:08}",
            "previous_payment_date_time": stamp(at.month_instant(-1, draw % 27), 0)
            if paid
            else None,
            "previous_payment_amount": money(minor, at.account.currency) if paid else None,
        }
        regional = {
            "account_id": at.account_id,
            "direct_debit_id": record["direct_debit_id"],
            "direct_debit_status_code": record["status_code"],
            "frequency": record["frequency"],
            "mandate_identification": record["mandate_identification"],
            "name": record["name"],
            "previous_payment_date_time": record["previous_payment_date_time"],
            "previous_payment_amount": record["previous_payment_amount"],
        }
        records.append(at.finish(record, regional))
    return records


def scheduled_payments(
    store: Store, entity: Entity, shared: Shared, instant: int, *, verbose: bool
) -> list[dict[str, Any]]:
    """Payments on a future day."""
    at = _Setting(store, entity, shared, instant, verbose=verbose)
    count = at.account.draw % 3 if at.account.kind in _SPENDING else 0
    records = []
    for number in range(count):
        draw = mix(at.account.draw, 83, number)
        other = person(0, draw % 2**20)
        bank = bank_of(draw >> 20)
        number_at_bank = iban(bank.code, draw)
        record: dict[str, Any] = {} if at.older else {"entity_id": at.entity.id}
        record["account_id"] = at.account_id
        if not at.older:
            record["account_holder_name"] = at.holder_name
            record["account_holder_short_name"] = at.holder_short_name
        record |= {
            "scheduled_payment_id": f"SP-{draw % 10**9:09}",
            "scheduled_type": "EXECUTION" if draw % 4 else "ARRIVAL",
            "scheduled_payment_date_time": stamp(at.month_instant(1, draw % 27), 0),
            "debtor_reference": f"PLAN-{draw % 10**5:05}",
            "reference": None,
            "instructed_amount": money(10_000 + draw % 500_000, at.account.currency),
            "creditor_agent": _short_agent(draw >> 20, older=at.older),
            "creditor_account": {
                "scheme_name": "IBAN",
                "identification": number_at_bank,
                "name": other.short_name,
            },
        }
        regional = {
            "account_id": at.account_id,
            "account_holder_name": at.holder_name,
            "account_holder_shortname": at.holder_short_name,
            "scheduled_payment_id": record["scheduled_payment_id"],
            "scheduled_type": record["scheduled_type"],
            "scheduled_payment_date_time": record["scheduled_payment_date_time"],
            "creditor_reference": None,
            "debtor_reference": record["debtor_reference"],
            "instructed_amount": record["instructed_amount"],
            "creditor_agent": _regional_short_agent(draw >> 20),
            "creditor_account": {"identification_type": "IBAN", "identification": number_at_bank},
        }
        records.append(at.finish(record, regional))
    return records


_FREQUENCIES = (
    ("MONTHLY", None),
    ("OTHER", "IntervalDay:5"),
    ("OTHER", "EveryWorkingDay"),
    ("QUARTERLY", None),
)
_REGIONAL_FREQUENCIES = (
    ("INTERVAL_MONTH_DAY", "IntrvlMnthDay:01:05"),
    ("INTERVAL_DAY", "IntervalDay:5"),
    ("EVERY_WORKING_DAY", None),
    ("QUARTER_DAY", "QtrDay:ENGLISH"),
)


def standing_orders(
    store: Store, entity: Entity, shared: Shared, instant: int, *, verbose: bool
) -> list[dict[str, Any]]:
    """Payments that repeat."""
    at = _Setting(store, entity, shared, instant, verbose=verbose)
    count = 1 + at.account.draw % 2 if at.account.kind in _SPENDING else 0
    records = []
    for number in range(count):
        draw = mix(at.account.draw, 84, number)
        other = person(0, draw % 2**20)
        bank = bank_of(draw >> 20)
        number_at_bank = iban(bank.code, draw)
        place = draw % 4
        kind, interval = (_REGIONAL_FREQUENCIES if at.older else _FREQUENCIES)[place]
        amount = money(20_000 + draw % 400_000, at.account.currency)
        open_ended = draw % 3 > 0
        day = draw % 27
        record: dict[str, Any] = {
            "account_id": at.account_id,
            "standing_order_id": f"SO-{draw % 10**9:09}",
            "standing_order_status_code": "ACTIVE" if draw % 8 else "INACTIVE",
        }
        if not at.older:
            record["standing_order_type"] = "CHARITY" if draw % 7 == 0 else "LOCAL_BANK_TRANSFER"
            record["purpose"] = "Donation" if draw % 7 == 0 else "Rent"
        record |= {
            "first_payment_date_time": stamp(at.month_instant(-9, day), 0),
            "last_payment_date_time": stamp(at.month_instant(-1, day), 0),
            "next_payment_date_time": stamp(at.month_instant(1, day), 0),
            "final_payment_date_time": None if open_ended else stamp(at.month_instant(9, day), 0),
            "frequency": {"frequency_type": kind, "interval": interval},
            "number_of_payments": None if open_ended else 18,
            "reference": None,
            "first_payment_amount": amount,
            "last_payment_amount": amount,
            "next_payment_amount": amount,
            "final_payment_amount": None if open_ended else amount,
            "creditor_agent": _short_agent(draw >> 20, older=at.older),
            "creditor_account": None
            if draw % 5 == 0
            else {
                "scheme_name": "IBAN",
                "identification": number_at_bank,
                "name": other.short_name,
            },
        }
        same = (
            "account_id", "standing_order_id", "standing_order_status_code",
            "first_payment_date_time", "last_payment_date_time", "next_payment_date_time",
            "final_payment_date_time", "frequency", "number_of_payments", "first_payment_amount",
            "last_payment_amount", "next_payment_amount", "final_payment_amount",
        )  # fmt: skip
        regional = {name: record[name] for name in same} | {
            "account_holder_name": at.holder_name,
            "account_holder_short_name": at.holder_short_name,
            "standing_order_type": "LOCAL_BANK_TRANSFER",
            "creditor_reference": f"ORDER-{draw % 10**5:05}",
            "creditor_agent": _regional_short_agent(draw >> 20),
            "creditor_account": [{"identification_type": "IBAN", "identification": number_at_bank}],
            "purpose": "Rent",
            "supplementary_data": None,
        }
        records.append(at.finish(record, regional))
    return records


def _short_agent(draw: int, *, older: bool) -> dict[str, Any]:
    """A servicer without its address: the newer generation uses either of two key names."""
    full = agent_of(draw) if draw % 3 else agent(bank_of(draw).identifier, address=False)
    if older or draw % 2:
        return {"scheme_name": full["scheme_name"], "identification": full["identification"]}
    return {
        "identification_type": full["scheme_name"],
        "identification": full["identification"],
        "name": full["name"],
        "postal_address": None,
    }


def _regional_short_agent(draw: int) -> dict[str, Any]:
    full = regional_agent(bank_of(draw).identifier)
    return {name: full[name] for name in ("identification_type", "identification")}


WRITERS = {
    "beneficiaries": beneficiaries,
    "direct_debits": direct_debits,
    "scheduled_payments": scheduled_payments,
    "standing_orders": standing_orders,
}
"""What writes the records of a stream."""
