"""Money in minor units and the ways its amount is written as a JSON number."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

__all__ = ["EXPONENTS", "dump", "money", "number", "plain"]

EXPONENTS = {"SAR": 2, "USD": 2, "EUR": 2, "GBP": 2, "AED": 2, "KWD": 3, "BHD": 3, "JPY": 0}
"""Decimal places of each currency that occurs."""


@lru_cache(maxsize=1 << 16)
def number(minor: int, exponent: int) -> int | Decimal:
    """Write minor units as a number, in one of the forms that Lean mixes.

    Whole amounts come as `1934` or as `2180.0`, others without trailing zeros (`42.7`).
    """
    whole, rest = divmod(minor, 10**exponent)
    if rest == 0:
        return whole if whole % 3 else Decimal(f"{whole}.0")
    return Decimal(f"{whole}.{rest:0{exponent}}".rstrip("0"))


def money(minor: int, currency: str) -> dict[str, Any]:
    """An amount object; the sign is said elsewhere, so `minor` is taken without it."""
    return {"amount": number(abs(minor), EXPONENTS[currency]), "currency": currency}


def plain(value: object) -> object:
    """Let orjson write a Decimal as the number it is."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(type(value).__name__)


def dump(value: object) -> bytes:
    """Write JSON with amounts exact to the digit."""
    return orjson.dumps(value, default=plain)
