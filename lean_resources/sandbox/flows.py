"""Kinds of movements on accounts, and merchants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lean_resources.sandbox.tables import read, rows


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """A kind of movement, in both vocabularies.

    Args:
        kind: `transaction_type`.
        sub_kind: `sub_transaction_type`.
        code: The newer generation's bank transaction code, beside its sub code.
        domain: Key of `DOMAINS`.
        category: Its category in the enrichment.
        english: Start of the bank's text.
        arabic: Start of the bank's text in Arabic.
        scheme: Start of the reference.
        proprietary: The bank's own code.
        flags: As in Lean.
        mode: `payment_modes`.
        card: Paid with a card.
    """

    name: str
    kind: str
    sub_kind: str
    code: str
    sub_code: str
    domain: str
    category: str
    english: str
    arabic: str
    scheme: str
    proprietary: str
    flags: tuple[str, ...] = ()
    mode: str | None = None
    card: bool = False


@dataclass(frozen=True, slots=True)
class Merchant:
    """A shop, with the range of its usual amounts in halalas."""

    name: str
    arabic: str
    code: str
    category: str
    place: str
    low: int
    high: int
    merchant_id: int
    currency: str = "SAR"


@dataclass(frozen=True, slots=True)
class Biller:
    """A firm that is paid through SADAD."""

    name: str
    arabic: str
    biller_id: int
    payment_type: str
    low: int
    high: int


FLOWS = {one.name: one for one in read("flows", Flow)}
"""All kinds of movements by their short names."""
DOMAINS = {row.pop("name"): row for row in rows("domains")}
"""ISO 20022 domain, family and sub family, each with its code."""

_SHOPS = read("merchants", Merchant)
MERCHANTS = tuple(shop for shop in _SHOPS if shop.currency == "SAR")
"""Shops in Saudi Arabia."""
ABROAD = tuple(shop for shop in _SHOPS if shop.currency != "SAR")
"""Shops that charge in their own currency; their amounts are in its minor units."""

BILLERS = read("billers", Biller)
"""Firms paid through SADAD."""


def describe(flow: Flow, party: Any, draw: int) -> str:
    """The bank's raw text of a movement: English, Arabic or both, decided by the draw."""
    english, arabic = flow.english, flow.arabic
    name = party.name if party is not None else ""
    language = draw % 4
    if isinstance(party, Merchant):
        if language == 0:
            return f"{arabic} {party.arabic}"
        if language == 1:
            return f"{english} شراء {name} {party.place}"
        return f"{english} {name} {party.place}"
    if language == 0 and party is not None:
        return f"{arabic} {party.arabic}".rstrip()
    if language == 1:
        return f"{english} {name} - {arabic}" if name else f"{english} - {arabic}"
    return f"{english} {name}".rstrip()
