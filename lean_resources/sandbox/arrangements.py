"""Arrangements of accounts: beneficiaries, direct debits, scheduled payments, standing orders."""

from __future__ import annotations

from collections.abc import Iterator

from lean_resources.sandbox.clock import DAY, HOUR, first_day, month_of, stamp
from lean_resources.sandbox.flows import BILLERS
from lean_resources.sandbox.ids import mix
from lean_resources.sandbox.money import money
from lean_resources.sandbox.people import iban, person
from lean_resources.sandbox.transactions import agent, bank_of, regional_agent
from lean_resources.sandbox.view import Record, View, copied

_SPENDING = frozenset({"CURRENT", "JOINT", "BUSINESS", "EMONEY"})
_OLD_FREQUENCY = {"HALF_YEARLY": "BI_ANNUAL", "FORTNIGHTLY": "FORTNIGHT"}


def _draws(view: View, fewest: int, choices: int, salt: int) -> Iterator[int]:
    """A hash for each arrangement of the account, of which there are a few."""
    if view.account.kind in _SPENDING:
        for number in range(fewest + view.account.draw % choices):
            yield mix(view.account.draw, salt, number)


def _at(view: View, months: int, day: int) -> str:
    """09:00 UTC on a day of the month that is this many months after the present month."""
    month = month_of(view.instant // DAY) + months
    return stamp((first_day(month) + day) * DAY + 9 * HOUR, 0)


def _holder(view: View) -> Record:
    return {
        "account_holder_name": view.holder.full_name,
        "account_holder_short_name": view.holder.short_name,
    }


def _creditor(draw: int) -> tuple[Record, Record]:
    """The account of a receiver, flat and in SAMA's words."""
    number = iban(bank_of(draw >> 20).code, draw)
    name = person(0, draw % 2**20).short_name
    return (
        {"scheme_name": "IBAN", "identification": number, "name": name},
        {"identification_type": "IBAN", "identification": number},
    )


def beneficiaries(view: View) -> list[Record]:
    """Parties to which the account may send money."""
    mock, bare, records = view.bank.mock, view.is_bare, list[Record]()
    for draw in _draws(view, 2, 4, 81):
        creditor, regional_creditor = _creditor(draw)
        bank = bank_of(draw >> 20)
        activated = draw % 3 > 0
        # Lean's own sandbox sometimes labels IBANs as PAN.
        creditor["scheme_name"] = "PAN" if mock and len(records) == 1 else "IBAN"
        if draw % 2:
            creditor["name"] = person(0, draw % 2**20).arabic_name
        if bare:
            creditor["name"] = None
        activity = "KSA_OB_ACTIVATED" if activated else "KSA_OB_NOT_ACTIVATED"
        record: Record = {
            "account_id": view.account_id,
            **view.newer(
                {name: None if draw % 2 else text for name, text in _holder(view).items()}
                | {"reference": activity if mock else None}
            ),
            "beneficiary_id": f"{draw % 10**9:09}",
            "beneficiary_type": "OTHER" if mock else "TRUSTED" if activated else "ORDINARY",
            "creditor_agent": None
            if bare
            else _beneficiary_agent(bank.identifier, address=draw % 2 == 0),
            "creditor_account": creditor,
            "supplementary_data": None,
        }
        regional = {
            **copied(record, "account_id beneficiary_id supplementary_data"),
            **_holder(view),
            "beneficiary_type": "ACTIVATED" if activated else "NOT_ACTIVATED",
            "reference": None,
            "creditor_agent": regional_agent(bank.identifier),
            "creditor_account": [regional_creditor],
        }
        records.append(view.finished(record, regional.copy))
    return records


def _beneficiary_agent(identifier: str, *, address: bool) -> Record:
    """A servicer with the spelling of the address's subdivision that only beneficiaries have."""
    found = agent(identifier, address=address)
    if not address:
        return found
    postal = dict(found["postal_address"])
    postal["country_sub_division"] = postal.pop("country_subdivision")
    return {**found, "postal_address": postal}


def direct_debits(view: View) -> list[Record]:
    """Mandates of firms that collect money from the account."""
    records = []
    for draw in _draws(view, 1, 3, 82):
        biller = BILLERS[draw % 4]
        frequency = ("MONTHLY", "MONTHLY", "QUARTERLY", "HALF_YEARLY", "FORTNIGHTLY")[draw % 5]
        if view.bank.older:
            frequency = _OLD_FREQUENCY.get(frequency, frequency)
        amount = money(biller.low + draw % (biller.high - biller.low), view.account.currency)
        paid = draw % 6 != 5
        common: Record = {
            "account_id": view.account_id,
            "direct_debit_id": f"DD{draw % 10**10:010}",
            "name": biller.name.title() if draw % 3 else biller.arabic,
            "frequency": frequency,
            "mandate_identification": f"SAMA-DD-{biller.biller_id:03}-{draw % 10**8:08}",
            "previous_payment_date_time": _at(view, -1, draw % 27) if paid else None,
            "previous_payment_amount": amount if paid else None,
        }
        status = "ACTIVE" if paid else "INACTIVE"
        record = {**view.newer({"entity_id": view.entity.id}), **common, "status_code": status}
        regional = {**common, "direct_debit_status_code": status}
        records.append(view.finished(record, regional.copy))
    return records


def scheduled_payments(view: View) -> list[Record]:
    """Payments on a future day."""
    records = []
    for draw in _draws(view, 0, 3, 83):
        creditor, regional_creditor = _creditor(draw)
        common: Record = {
            "account_id": view.account_id,
            "scheduled_payment_id": f"SP-{draw % 10**9:09}",
            "scheduled_type": "EXECUTION" if draw % 4 else "ARRIVAL",
            "scheduled_payment_date_time": _at(view, 1, draw % 27),
            "debtor_reference": f"PLAN-{draw % 10**5:05}",
            "instructed_amount": money(10_000 + draw % 500_000, view.account.currency),
        }
        record: Record = {
            **view.newer({"entity_id": view.entity.id, **_holder(view)}),
            **common,
            "reference": None,
            "creditor_agent": _short_agent(draw >> 20, older=view.bank.older),
            "creditor_account": creditor,
        }
        regional = {
            **common,
            "account_holder_name": view.holder.full_name,
            "account_holder_shortname": view.holder.short_name,
            "creditor_reference": None,
            "creditor_agent": _regional_short_agent(draw >> 20),
            "creditor_account": regional_creditor,
        }
        records.append(view.finished(record, regional.copy))
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


def standing_orders(view: View) -> list[Record]:
    """Payments that repeat."""
    records = []
    for draw in _draws(view, 1, 2, 84):
        creditor, regional_creditor = _creditor(draw)
        known = _REGIONAL_FREQUENCIES if view.bank.older else _FREQUENCIES
        kind, interval = known[draw % 4]
        amount = money(20_000 + draw % 400_000, view.account.currency)
        months = {"first": -9, "last": -1, "next": 1, "final": 9}
        if is_open := draw % 3 > 0:
            del months["final"]
        common: Record = {
            "account_id": view.account_id,
            "standing_order_id": f"SO-{draw % 10**9:09}",
            "standing_order_status_code": "ACTIVE" if draw % 8 else "INACTIVE",
            "frequency": {"frequency_type": kind, "interval": interval},
            "number_of_payments": None if is_open else 18,
            "final_payment_date_time": None,
            "final_payment_amount": None,
            **{f"{at}_payment_date_time": _at(view, n, draw % 27) for at, n in months.items()},
            **{f"{at}_payment_amount": amount for at in months},
        }
        gives = draw % 7 == 0
        record: Record = {
            **view.newer(
                {
                    "standing_order_type": "CHARITY" if gives else "LOCAL_BANK_TRANSFER",
                    "purpose": "Donation" if gives else "Rent",
                }
            ),
            **common,
            "reference": None,
            "creditor_agent": _short_agent(draw >> 20, older=view.bank.older),
            "creditor_account": creditor if draw % 5 else None,
        }
        regional = {
            **common,
            **_holder(view),
            "standing_order_type": "LOCAL_BANK_TRANSFER",
            "creditor_reference": f"ORDER-{draw % 10**5:05}",
            "creditor_agent": _regional_short_agent(draw >> 20),
            "creditor_account": [regional_creditor],
            "purpose": "Rent",
            "supplementary_data": None,
        }
        records.append(view.finished(record, regional.copy))
    return records


def _short_agent(draw: int, *, older: bool) -> Record:
    """A servicer without its address: the newer generation uses either of two key names."""
    full = agent(bank_of(draw).identifier, address=False)
    if older or draw % 2:
        return copied(full, "scheme_name identification")
    return {
        "identification_type": full["scheme_name"],
        **copied(full, "identification name postal_address"),
    }


def _regional_short_agent(draw: int) -> Record:
    return copied(regional_agent(bank_of(draw).identifier), "identification_type identification")
