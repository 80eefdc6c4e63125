"""Transactions in Lean's form, of the newer and the older generation."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

from lean_resources.sandbox.banks import BANKS, Bank
from lean_resources.sandbox.clock import DAY, day_text, stamp
from lean_resources.sandbox.flows import Biller, Merchant, describe
from lean_resources.sandbox.ids import mix, opaque_uuid
from lean_resources.sandbox.ledger import Bill, Charge, Exchange, Party, Row
from lean_resources.sandbox.money import money, number
from lean_resources.sandbox.people import bank_address, iban, person
from lean_resources.sandbox.store import Entity, Shared, Store
from lean_resources.sandbox.world import Slot

_BY_DRAW = tuple(one for one in BANKS.values() if not one.mock)
_REGIONAL_SUB_KINDS = frozenset(
    {
        "PURCHASE", "REVERSAL", "REFUND", "WITHDRAWAL", "WITHDRAWAL_REVERSAL", "DEPOSIT",
        "DEPOSIT_REVERSAL", "MONEY_TRANSFER", "NOT_APPLICABLE", "UNSUPPORTED",
    }
)  # fmt: skip
_NUMBER = 387_420_489
_NUMBERS = 10**9
_HALF = 0x9E3779B97F4A7C15
_DEVICES = ("CONTACTLESS", "CONSUMER_DEVICE", "PIN", "CONTACTLESS")
_INSTRUMENTS = ("CONTACTLESS", "APPLE_PAY", "CHIP", "MADA_PAY")


def bank_of(draw: int) -> Bank:
    """A random bank for the other side."""
    return _BY_DRAW[draw % len(_BY_DRAW)]


@lru_cache(maxsize=64)
def agent(identifier: str, *, address: bool) -> dict[str, Any]:
    """A bank as the other side's servicer, in the newer vocabulary."""
    bank = BANKS[identifier]
    known = bank.servicer != "KSAOB.SAOTHE"
    return {
        "scheme_name": "BICFI" if known else "OTHER",
        "identification": bank.swift if known else bank.servicer,
        "name": bank.name,
        "postal_address": bank_address(bank) if address else None,
    }


@lru_cache(maxsize=64)
def regional_agent(identifier: str) -> dict[str, Any]:
    """A bank as the other side's servicer, in SAMA's vocabulary."""
    bank = BANKS[identifier]
    known = bank.servicer != "KSAOB.SAOTHE"
    address = bank_address(bank)
    return {
        "identification_type": "BICFI" if known else "OTHER",
        "identification": bank.swift if known else "SAOTHE",
        "name": bank.name,
        "postal_address": {
            "address_type": "BUSINESS",
            "short_address": f"RFSA{address['building_number']}",
            "building_number": address["building_number"],
            "unit_number": "1",
            "street_name": address["street_name"],
            "secondary_number": "2121",
            "district": "Al Olaya",
            "postal_code": address["post_code"],
            "city": "Riyadh",
            "country": "SA",
        },
    }


def agent_of(draw: int) -> dict[str, Any]:
    """The other side's servicer, with its address in a third of the cases."""
    return agent(bank_of(draw).identifier, address=draw % 3 == 0)


class TransactionWriter:
    """Writes the rows of an account for an entity.

    Args:
        verbose: Whether to fill `regional_data`, if the bank is of the older generation.
        insights: Whether to fill `insights`.
    """

    def __init__(
        self,
        store: Store,
        entity: Entity,
        shared: Shared,
        *,
        verbose: bool = False,
        insights: bool = False,
    ) -> None:
        account = shared.account
        self.store = store
        self.entity = entity
        self.shared = shared
        self.account = account
        self.bank = account.bank
        self.currency = account.currency
        self.exponent = account.exponent
        self.verbose = verbose
        self.insights = insights
        self.digits = 0 if self.bank.midnight else self.bank.digits
        self.secret = mix(*entity.key, account.key[2], entity.generation, store.world.seed)
        self.holder = person(store.world.seed, entity.blueprint.customer).short_name
        self.card = account.pan[-4:]
        self.null_heavy = account.slot == Slot.NULL_HEAVY
        self.balance_type = "PREVIOUSLY_CLOSED_BOOKED" if self.bank.mock else "INTERIM_BOOKED"
        self.own = {"name": self.holder, "scheme_name": None, "identification": account.iban}
        self.zone = "UTC+00:00" if self.bank.midnight else "Asia/Riyadh"

    def transaction_id(self, row: Row) -> str:
        """Id of a row: older banks number their rows, for newer banks Lean makes an id."""
        place = row.seq * 8 + row.variant
        if self.bank.older:
            return f"{place * _NUMBER % _NUMBERS:09}"
        high = mix(self.secret, place)
        return opaque_uuid(high, high * _HALF & 0xFFFFFFFFFFFFFFFF)

    def record(self, row: Row, balance: int) -> dict[str, Any]:
        """A row in Lean's form, with the booked balance after it."""
        if self.bank.older:
            return self._older(row, balance)
        full = self._newer(row, balance)
        return _thinned(full) if self.null_heavy else full

    def _money(self, minor: int) -> dict[str, Any]:
        return {"amount": number(abs(minor), self.exponent), "currency": self.currency}

    def _balance(self, row: Row, balance: int) -> dict[str, Any] | None:
        if not self.bank.balances or row.status != "BOOKED":
            return None
        return {
            "type": self.balance_type,
            "credit_debit_indicator": "DEBIT" if balance < 0 else "CREDIT",
            "amount": self._money(balance),
        }

    def _insights(self, row: Row) -> dict[str, Any] | None:
        if not self.insights:
            return None
        party = row.party
        category = party.category if isinstance(party, Merchant) else row.flow.category
        return {
            "description_cleansed": party.name.title() if party else row.flow.english.title(),
            "category": category,
            "category_confidence": Decimal(f"0.{60 + row.draw % 40}"),
        }

    def _newer(self, row: Row, balance: int) -> dict[str, Any]:
        flow, party, draw, extra = row.flow, row.party, row.draw, row.extra
        outgoing = row.minor < 0
        creditor = creditor_agent = debtor = debtor_agent = None
        card = merchant = exchange = charge = None
        if isinstance(party, Merchant):
            if flow.card:
                merchant = {
                    "merchant_category_code": party.code,
                    "merchant_name": party.name,
                }
        elif isinstance(party, Party | Biller):
            other, other_agent = self._other(party)
            mine, mine_agent = self.own, agent(self.bank.identifier, address=draw % 4 == 0)
            if outgoing:
                creditor, creditor_agent, debtor, debtor_agent = (
                    other,
                    other_agent,
                    mine,
                    mine_agent,
                )
            else:
                creditor, creditor_agent, debtor, debtor_agent = (
                    mine,
                    mine_agent,
                    other,
                    other_agent,
                )
        if flow.card:
            card = {
                "authorization_type": _DEVICES[draw % 4],
                "card_scheme_name": "LOCAL_SCHEME" if flow.scheme == "MADA" else flow.scheme,
                "identification": self.card,
                "name": self.holder.upper(),
            }
        if isinstance(extra, Exchange):
            exchange = self._exchange(row, extra)
        elif isinstance(extra, Charge):
            charge = {
                "amount": number(extra.minor, self.exponent),
                "currency": self.currency,
                "charge_included": True,
            }
        booked = stamp(row.booked, self.digits)
        return {
            "entity_id": self.entity.id,
            "account_id": self.shared.account_id,
            "transaction_id": self.transaction_id(row),
            "transaction_information": describe(flow, party, draw),
            "transaction_reference": f"{flow.scheme}-{draw % 100_000_000_000:011}",
            "credit_debit_indicator": "DEBIT" if outgoing else "CREDIT",
            "amount": self._money(row.minor),
            "transaction_mutability": "IMMUTABLE" if row.status == "BOOKED" else "MUTABLE",
            "booking_date_time": booked,
            "insights": self._insights(row),
            "balance": self._balance(row, balance),
            "status": row.status,
            "statement_reference": [f"STM-{booked[:7]}"] if draw % 5 else [],
            "value_date_time": booked if draw % 7 else f"{day_text(row.booked // DAY)}T00:00:00Z",
            "index": draw % 3,
            "charge_amount": charge,
            "bank_transaction_code": flow.code,
            "card_instrument": card,
            "merchant_details": merchant,
            "proprietary_bank_transaction_code": {
                "code": flow.proprietary,
                "issuer": self.bank.swift[:4],
            },
            "currency_exchange": exchange,
            "creditor_account": creditor,
            "creditor_agent": creditor_agent,
            "debtor_account": debtor,
            "debtor_agent": debtor_agent,
            "local_time_zone": self.zone,
            "transaction_type": flow.kind,
            "sub_transaction_type": flow.sub_kind,
            "payment_modes": flow.mode,
            "flags": list(flow.flags),
            "regional_data": None,
        }

    def _older(self, row: Row, balance: int) -> dict[str, Any]:
        flow = row.flow
        record: dict[str, Any] = {
            "account_id": self.shared.account_id,
            "transaction_id": self.transaction_id(row),
            "transaction_information": describe(flow, row.party, row.draw),
            "transaction_reference": f"{flow.scheme}-{row.draw % 100_000_000_000:011}",
            "credit_debit_indicator": "DEBIT" if row.minor < 0 else "CREDIT",
            "amount": self._money(row.minor),
            "transaction_mutability": "IMMUTABLE" if row.status == "BOOKED" else "MUTABLE",
            "booking_date_time": stamp(row.booked, self.digits),
            "insights": self._insights(row),
            "balance": self._balance(row, balance),
        }
        if self.verbose:
            data = self._regional(row, record)
            record["regional_data"] = {"standard": "SAU.SAMA.V1", "data": data}
        elif not self.bank.absent_regional:
            record["regional_data"] = None
        return record

    def _regional(self, row: Row, flat: dict[str, Any]) -> dict[str, Any]:
        flow, party, draw, extra = row.flow, row.party, row.draw, row.extra
        data: dict[str, Any] = {
            "account_id": flat["account_id"],
            "transaction_id": flat["transaction_id"],
            "index": draw % 3,
            "transaction_date_time": stamp(row.happened, 3),
            "local_time_zone": stamp(row.happened, 3),
            "transaction_reference": flat["transaction_reference"],
            "statement_reference": f"STM-{flat['booking_date_time'][:7]}",
            "transaction_type": flow.kind if flow.kind != "OTHER" else "UNSUPPORTED",
            "sub_transaction_type": flow.sub_kind
            if flow.sub_kind in _REGIONAL_SUB_KINDS
            else "NOT_APPLICABLE",
            "terminal_id": f"{draw % 10**8:08}" if flow.card else None,
            "flags": list(flow.flags),
            "payment_modes": flow.mode or "OFFLINE",
            "credit_debit_indicator": flat["credit_debit_indicator"],
            "status": row.status,
            "transaction_mutability": flat["transaction_mutability"],
            "booking_date_time": flat["booking_date_time"],
            "value_date_time": f"{day_text(row.booked // DAY)}T00:00:00Z",
            "transaction_information": flat["transaction_information"],
            "amount": flat["amount"],
            "charge_amount": None,
            "charge_amount_vat": None,
            "currency_exchange": None,
            "bank_transaction_code": flow.domain,
            "proprietary_bank_transaction_code": {
                "code": flow.proprietary,
                "issuer": self.bank.swift[:4],
            },
            "balance": flat["balance"],
            "merchant_details": None,
            "creditor_agent": None,
            "creditor_account": None,
            "debtor_agent": None,
            "debtor_account": None,
            "card_instrument": None,
            "bill_details": None,
            "supplementary_data": None,
        }
        if flow.card:
            data["card_instrument"] = {
                "card_scheme_name": flow.scheme,
                "instrument_type": _INSTRUMENTS[draw % 4],
                "identification": self.card,
                "name": self.holder.upper(),
            }
        if isinstance(party, Merchant):
            data["merchant_details"] = {
                "merchant_id": party.merchant_id,
                "merchant_name": party.name,
                "merchant_category_code": party.code,
            }
        elif isinstance(party, Party | Biller):
            other, other_agent = self._regional_other(party)
            mine = {
                "identification_type": "IBAN",
                "identification": self.account.iban,
                "name": self.holder,
            }
            mine_agent = regional_agent(self.bank.identifier)
            outgoing = row.minor < 0
            data["creditor_account"] = [other if outgoing else mine]
            data["creditor_agent"] = other_agent if outgoing else mine_agent
            data["debtor_account"] = mine if outgoing else other
            data["debtor_agent"] = mine_agent if outgoing else other_agent
        if isinstance(extra, Exchange):
            data["currency_exchange"] = self._exchange(row, extra)
        elif isinstance(extra, Charge):
            data["charge_amount"] = {**self._money(extra.minor), "charge_included": True}
            data["charge_amount_vat"] = self._money(extra.vat)
        elif isinstance(extra, Bill):
            data["bill_details"] = {
                "biller_id": extra.biller.biller_id,
                "bill_number": f"{extra.number:012}",
                "bill_payment_type": extra.biller.payment_type,
            }
        return data

    def _exchange(self, row: Row, extra: Exchange) -> dict[str, Any]:
        return {
            "source_currency": self.currency,
            "target_currency": extra.currency,
            "unit_currency": extra.currency,
            "exchange_rate": Decimal(extra.rate).scaleb(-4),
            "contract_identification": f"FX{row.draw % 10**9:09}",
            "quotation_date": stamp(row.happened, 0),
            "instructed_amount": money(extra.minor, extra.currency),
        }

    def _other(self, party: Party | Biller) -> tuple[dict[str, Any], dict[str, Any]]:
        code, name, bank = self._counterparty(party)
        return (
            {"name": name, "scheme_name": None, "identification": code},
            agent(bank.identifier, address=bank.code > "93"),
        )

    def _regional_other(self, party: Party | Biller) -> tuple[dict[str, Any], dict[str, Any]]:
        code, name, bank = self._counterparty(party)
        return (
            {"identification_type": "IBAN", "identification": code, "name": name},
            regional_agent(bank.identifier),
        )

    def _counterparty(self, party: Party | Biller) -> tuple[str, str, Bank]:
        if isinstance(party, Biller):
            bank = bank_of(party.biller_id)
            return iban(bank.code, mix(71, party.biller_id)), party.name, bank
        if party.own >= 0:
            other = self.store.shared(self.entity)[party.own].account
            return other.iban, self.holder, self.bank
        bank = bank_of(party.draw)
        return iban(bank.code, party.draw), party.name, bank


def _thinned(record: dict[str, Any]) -> dict[str, Any]:
    """The same row from a bank that sends few fields; the rest are null or missing."""
    kept = {
        "entity_id", "account_id", "transaction_id", "credit_debit_indicator", "amount", "status",
        "booking_date_time",
    }  # fmt: skip
    return {
        name: value if name in kept else None
        for name, value in record.items()
        if name in kept or len(name) % 2 == 0
    }
