"""Transactions in Lean's form, of the newer and the older generation."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from lean_resources.sandbox.banks import BANKS, Bank
from lean_resources.sandbox.clock import DAY, day_text, stamp
from lean_resources.sandbox.flows import DOMAINS, Biller, Merchant, describe
from lean_resources.sandbox.ids import mix, opaque_uuid
from lean_resources.sandbox.ledger import Bill, Charge, Exchange, Party, Row
from lean_resources.sandbox.money import money
from lean_resources.sandbox.people import bank_address, iban
from lean_resources.sandbox.view import Record, View, copied

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
def agent(identifier: str, *, address: bool) -> Record:
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
def regional_agent(identifier: str) -> Record:
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


class TransactionWriter:
    """Writes the rows of a view's account."""

    def __init__(self, view: View) -> None:
        account, bank = view.account, view.bank
        self.view = view
        self.account = account
        self.bank = bank
        self.digits = 0 if bank.midnight else bank.digits
        self.secret = mix(
            *view.entity.key, account.key[2], view.entity.generation, view.store.world.seed
        )
        self.holder = view.holder.short_name
        self.balance_type = "PREVIOUSLY_CLOSED_BOOKED" if bank.mock else "INTERIM_BOOKED"
        self.zone = "UTC+00:00" if bank.midnight else "Asia/Riyadh"

    def transaction_id(self, row: Row) -> str:
        """Id of a row: older banks number their rows, for newer banks Lean makes an id."""
        place = row.seq * 8 + row.variant
        if self.bank.older:
            return f"{place * _NUMBER % _NUMBERS:09}"
        high = mix(self.secret, place)
        return opaque_uuid(high, high * _HALF & 0xFFFFFFFFFFFFFFFF)

    def record(self, row: Row, balance: int) -> Record:
        """A row in Lean's form, with the booked balance after it."""
        flow, draw = row.flow, row.draw
        is_booked = row.status == "BOOKED"
        record: Record = {
            "account_id": self.view.account_id,
            "transaction_id": self.transaction_id(row),
            "transaction_information": describe(flow, row.party, draw),
            "transaction_reference": f"{flow.scheme}-{draw % 100_000_000_000:011}",
            "credit_debit_indicator": "DEBIT" if row.minor < 0 else "CREDIT",
            "amount": self._money(row.minor),
            "transaction_mutability": "IMMUTABLE" if is_booked else "MUTABLE",
            "booking_date_time": stamp(row.booked, self.digits),
            "insights": self._insights(row) if self.view.insights else None,
            "balance": self._balance(balance) if self.bank.balances and is_booked else None,
        }
        if not self.bank.older:
            record |= self._newer(row, record["booking_date_time"])
        record = self.view.finished(record, lambda: self._regional(row, record))
        return record if self.bank.older or not self.view.is_bare else _thinned(record)

    def _money(self, minor: int) -> Record:
        return money(minor, self.account.currency)

    def _balance(self, balance: int) -> Record:
        return {
            "type": self.balance_type,
            "credit_debit_indicator": "DEBIT" if balance < 0 else "CREDIT",
            "amount": self._money(balance),
        }

    def _insights(self, row: Row) -> Record:
        party = row.party
        return {
            "description_cleansed": party.name.title() if party else row.flow.english.title(),
            "category": party.category if isinstance(party, Merchant) else row.flow.category,
            "category_confidence": Decimal(f"0.{60 + row.draw % 40}"),
        }

    def _both(self, row: Row) -> Record:
        """Fields that both vocabularies have, beside those of every record."""
        flow = row.flow
        code = {"code": flow.proprietary, "issuer": self.bank.swift[:4]}
        extra = row.extra
        return {
            "index": row.draw % 3,
            "status": row.status,
            "flags": list(flow.flags),
            "proprietary_bank_transaction_code": code,
            "currency_exchange": self._exchange(row, extra)
            if isinstance(extra, Exchange)
            else None,
        }

    def _newer(self, row: Row, booked: str) -> Record:
        flow, party, draw = row.flow, row.party, row.draw
        card = merchant = charge = None
        if isinstance(party, Merchant) and flow.card:
            merchant = {"merchant_category_code": party.code, "merchant_name": party.name}
        if flow.card:
            card = {
                "authorization_type": _DEVICES[draw % 4],
                "card_scheme_name": "LOCAL_SCHEME" if flow.scheme == "MADA" else flow.scheme,
                "identification": self.account.pan[-4:],
                "name": self.holder.upper(),
            }
        if isinstance(row.extra, Charge):
            charge = {**self._money(row.extra.minor), "charge_included": True}
        record = {
            **self._both(row),
            "entity_id": self.view.entity.id,
            "statement_reference": [f"STM-{booked[:7]}"] if draw % 5 else [],
            "value_date_time": booked if draw % 7 else f"{day_text(row.booked // DAY)}T00:00:00Z",
            "charge_amount": charge,
            "bank_transaction_code": {"code": flow.code, "sub_code": flow.sub_code},
            "card_instrument": card,
            "merchant_details": merchant,
            "local_time_zone": self.zone,
            "transaction_type": flow.kind,
            "sub_transaction_type": flow.sub_kind,
            "payment_modes": flow.mode,
            **_NO_SIDES,
        }
        if isinstance(party, Party | Biller):
            code, name, bank = self._counterparty(party)
            names = (self.holder, self.account.iban), (name, code)
            mine, other = (
                {"name": name, "scheme_name": None, "identification": code} for name, code in names
            )
            mine_agent = agent(self.bank.identifier, address=draw % 4 == 0)
            other_agent = agent(bank.identifier, address=bank.code > "93")
            record |= _sides(row, (mine, mine_agent), (other, other_agent))
        return record

    def _regional(self, row: Row, flat: Record) -> Record:
        flow, party, draw, extra = row.flow, row.party, row.draw, row.extra
        same = (
            "account_id transaction_id transaction_reference credit_debit_indicator"
            " transaction_mutability booking_date_time transaction_information amount balance"
        )
        known = flow.sub_kind in _REGIONAL_SUB_KINDS
        data: Record = {
            **copied(flat, same),
            **self._both(row),
            "transaction_date_time": stamp(row.happened, 3),
            "local_time_zone": stamp(row.happened, 3),
            "statement_reference": f"STM-{flat['booking_date_time'][:7]}",
            "transaction_type": flow.kind if flow.kind != "OTHER" else "UNSUPPORTED",
            "sub_transaction_type": flow.sub_kind if known else "NOT_APPLICABLE",
            "terminal_id": f"{draw % 10**8:08}" if flow.card else None,
            "payment_modes": flow.mode or "OFFLINE",
            "value_date_time": f"{day_text(row.booked // DAY)}T00:00:00Z",
            "charge_amount": None,
            "charge_amount_vat": None,
            "bank_transaction_code": DOMAINS[flow.domain],
            "merchant_details": None,
            "card_instrument": None,
            "bill_details": None,
            "supplementary_data": None,
            **_NO_SIDES,
        }
        if flow.card:
            data["card_instrument"] = {
                "card_scheme_name": flow.scheme,
                "instrument_type": _INSTRUMENTS[draw % 4],
                "identification": self.account.pan[-4:],
                "name": self.holder.upper(),
            }
        if isinstance(party, Merchant):
            data["merchant_details"] = {
                "merchant_id": party.merchant_id,
                "merchant_name": party.name,
                "merchant_category_code": party.code,
            }
        elif isinstance(party, Party | Biller):
            code, name, bank = self._counterparty(party)
            names = (self.holder, self.account.iban), (name, code)
            mine, other = (
                {"identification_type": "IBAN", "identification": code, "name": name}
                for name, code in names
            )
            agents = regional_agent(self.bank.identifier), regional_agent(bank.identifier)
            data |= _sides(row, (mine, agents[0]), (other, agents[1]))
            data["creditor_account"] = [data["creditor_account"]]
        if isinstance(extra, Charge):
            data["charge_amount"] = {**self._money(extra.minor), "charge_included": True}
            data["charge_amount_vat"] = self._money(extra.vat)
        elif isinstance(extra, Bill):
            data["bill_details"] = {
                "biller_id": extra.biller.biller_id,
                "bill_number": f"{extra.number:012}",
                "bill_payment_type": extra.biller.payment_type,
            }
        return data

    def _exchange(self, row: Row, extra: Exchange) -> Record:
        return {
            "source_currency": self.account.currency,
            "target_currency": extra.currency,
            "unit_currency": extra.currency,
            "exchange_rate": Decimal(extra.rate).scaleb(-4),
            "contract_identification": f"FX{row.draw % 10**9:09}",
            "quotation_date": stamp(row.happened, 0),
            "instructed_amount": money(extra.minor, extra.currency),
        }

    def _counterparty(self, party: Party | Biller) -> tuple[str, str, Bank]:
        if isinstance(party, Biller):
            bank = bank_of(party.biller_id)
            return iban(bank.code, mix(71, party.biller_id)), party.name, bank
        if party.own >= 0:
            other = self.view.store.shared(self.view.entity)[party.own].account
            return other.iban, self.holder, self.bank
        bank = bank_of(party.draw)
        return iban(bank.code, party.draw), party.name, bank


_SIDES = ("creditor_account", "creditor_agent", "debtor_account", "debtor_agent")
_NO_SIDES = dict.fromkeys(_SIDES)


def _sides(row: Row, mine: tuple[Record, Record], other: tuple[Record, Record]) -> Record:
    """Account and bank of the receiver and the sender."""
    both = (*other, *mine) if row.minor < 0 else (*mine, *other)
    return dict(zip(_SIDES, both, strict=True))


def _thinned(record: Record) -> Record:
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
