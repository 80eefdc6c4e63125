"""The banks of the sandbox, and their behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lean_resources.sandbox.tables import read


@dataclass(frozen=True, slots=True)
class Bank:
    """A bank.

    Args:
        older: Answers in the older generation: few flat fields, the rest only with `verbose`.
        midnight: Books at midnight UTC; otherwise at real instants.
        digits: Fractional digits of its booking instants.
        balances: Sends the running balance with each booked transaction.
        pending: Shows card purchases as pending before it books them.
        expired_status: HTTP status of a data call after the consent ended.
        all_balances: Sends all thirteen kinds of balance.
        letters: Its IBANs hold letters.
        lacks: Streams that it does not offer.
        omits: Streams whose envelope lacks `refreshed_at` and `type`.
        absent_regional: Leaves `regional_data` out instead of sending null.
    """

    identifier: str
    name: str
    arabic_name: str
    swift: str
    servicer: str
    code: str
    color: str
    older: bool = False
    midnight: bool = True
    digits: int = 0
    balances: bool = True
    pending: bool = False
    expired_status: int = 403
    all_balances: bool = False
    letters: bool = False
    mock: bool = False
    business: bool = False
    absent_regional: bool = False
    lacks: frozenset[str] = frozenset()
    omits: frozenset[str] = frozenset()

    @property
    def bank_type(self) -> str:
        """RETAIL or SME."""
        return "SME" if self.business else "RETAIL"


BANKS = {one.identifier: one for one in read("banks", Bank)}
"""All banks by identifier; three of nine are of the older generation."""


def bank(identifier: str) -> Bank:
    """The bank with an identifier.

    Raises:
        ValueError: No bank of the sandbox has it.
    """
    try:
        return BANKS[identifier]
    except KeyError:
        known = ", ".join(BANKS)
        raise ValueError(f"unknown bank {identifier}; the sandbox has {known}") from None


def bank_record(one: Bank, *, active: bool) -> dict[str, Any]:
    """The bank as `/banks/v1/` lists it."""
    kinds = ["EMONEY", "PREPAID"] if one.lacks else ["CREDIT", "SAVINGS", "CURRENT"]
    slug = one.identifier.lower()
    return {
        "identifier": one.identifier,
        "name": one.name,
        "arabic_name": one.arabic_name,
        "commercial_name": one.name,
        "commercial_name_arabic": one.arabic_name,
        "logo": f"https://cdn.example/banks/{slug}.png",
        "logo_alt": f"https://cdn.example/banks/{slug}_white.png",
        "main_color": one.color,
        "background_color": "#ffffff",
        "theme": "light",
        "country_code": "SAU",
        "active": active,
        "mock": one.mock,
        "traits": ["auth-redirect", "open-finance"],
        "supported_account_types": kinds,
        "supported_account_sub_types": kinds,
        "bank_type": one.bank_type,
        "account_type": "BUSINESS" if one.business else "PERSONAL",
        "swift_code": one.swift,
        "connection_type": "OPEN_BANKING",
        "availability": {
            "active": {"payments": True, "data": active},
            "enabled": {"payments": True, "data": True},
        },
    }
