"""The banks of the sandbox, and their behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_WALLET_LACKS = frozenset({"direct_debits", "scheduled_payments", "standing_orders"})


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
    lacks: frozenset[str] = field(default_factory=frozenset)
    omits: frozenset[str] = field(default_factory=frozenset)

    @property
    def bank_type(self) -> str:
        """RETAIL or SME."""
        return "SME" if self.business else "RETAIL"


BANKS = {
    one.identifier: one
    for one in (
        Bank(
            "LEA1_SAMAOB_SAU", "Mockbank 1", "البنك التجريبي الأول", "MOCKSA01",
            "KSAOB.SALEAN", "97", "#1f2937", pending=True, all_balances=True, letters=True,
            mock=True, omits=frozenset({"beneficiaries"}),
        ),
        Bank(
            "LEA2_SAMAOB_SAU", "Mockbank 2", "البنك التجريبي الثاني", "MOCKSA02",
            "KSAOB.SALEAN", "98", "#374151", older=True, pending=True, all_balances=True,
            letters=True, mock=True, expired_status=200, omits=frozenset({"beneficiaries"}),
        ),
        Bank(
            "ALINMA_SAU", "Alinma Bank", "مصرف الإنماء", "INMASARI", "KSAOB.SAINMA", "05",
            "#0a2240", midnight=False, digits=3, pending=True,
        ),
        Bank(
            "NAKHEEL_SAU", "Nakheel Bank", "بنك النخيل", "NKHLSARI", "KSAOB.SAOTHE", "91",
            "#14532d", balances=False, expired_status=200,
        ),
        Bank(
            "WAHA_SAU", "Waha Bank", "بنك الواحة", "WAHASARI", "KSAOB.SAOTHE", "92",
            "#0f766e", older=True, midnight=False, digits=0, pending=True,
        ),
        Bank(
            "SADU_SAU", "Sadu Bank", "بنك السدو", "SADUSARI", "KSAOB.SAOTHE", "93",
            "#7c2d12", midnight=False, digits=9, pending=True, expired_status=200,
        ),
        Bank(
            "DANA_SAU", "Dana Bank", "بنك الدانة", "DANASARI", "KSAOB.SAOTHE", "94",
            "#1e3a8a", older=True, balances=False, absent_regional=True,
        ),
        Bank(
            "MAHFAZA_SAU", "Mahfaza Pay", "محفظة باي", "MHFZSARI", "KSAOB.SAOTHE", "95",
            "#581c87", midnight=False, digits=6, lacks=_WALLET_LACKS,
        ),
        Bank(
            "TIJARA_SAU", "Tijara Business Bank", "بنك التجارة للأعمال", "TIJRSARI",
            "KSAOB.SAOTHE", "96", "#0c4a6e", midnight=False, digits=3, business=True,
        ),
    )
}  # fmt: skip
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
