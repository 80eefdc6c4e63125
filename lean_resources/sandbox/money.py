"""Money in minor units, and its forms as a JSON number."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

EXPONENTS = {"SAR": 2, "USD": 2, "EUR": 2, "GBP": 2, "AED": 2, "KWD": 3, "BHD": 3, "JPY": 0}
"""Decimal places of each currency that occurs."""


@lru_cache(maxsize=1 << 16)
def number(minor: int, exponent: int) -> int | Decimal:
    """Write minor units as a number, in the forms that Lean mixes.

    Whole amounts come as `1934` or `2180.0`, fractions without trailing zeros (`42.7`).
    """
    whole, rest = divmod(minor, 10**exponent)
    if rest == 0:
        return whole if whole % 3 else Decimal(f"{whole}.0")
    return Decimal(f"{whole}.{rest:0{exponent}}".rstrip("0"))


def money(minor: int, currency: str) -> dict[str, Any]:
    """An amount object without the sign of `minor`, because a separate field has the sign."""
    return {"amount": number(abs(minor), EXPONENTS[currency]), "currency": currency}


def plain(value: object) -> object:
    """Let orjson write a Decimal as an exact number."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(type(value).__name__)


def dump(value: object) -> bytes:
    """Write JSON with exact amounts."""
    return orjson.dumps(value, default=plain)
