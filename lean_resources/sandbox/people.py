"""People and firms of the sandbox: names in both scripts, ids, addresses, account numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lean_resources.sandbox.banks import Bank
from lean_resources.sandbox.ids import mix
from lean_resources.sandbox.tables import rows


def _names(kind: str) -> list[tuple[str, str]]:
    """Names of a kind in English and Arabic."""
    return [(row["name"], row["arabic"]) for row in rows("names") if row["kind"] == kind]


_MEN, _WOMEN, _FAMILIES, _FIRMS = map(_names, ("man", "woman", "family", "firm"))
_PLACES = rows("places")

_SIGNS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Person:
    """A natural person."""

    full_name: str
    short_name: str
    arabic_name: str
    woman: bool
    national_id: str
    mobile: str
    email: str
    birth_date: str
    city: str
    region: str
    district: str
    street: str
    post_code: str
    building: str


def _luhn(digits: str) -> str:
    total = 0
    for place, digit in enumerate(digits):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value // 10 + value % 10
    return str(-total % 10)


@lru_cache(maxsize=4096)
def person(seed: int, index: int) -> Person:
    """The person of an index, always the same."""
    draw = mix(seed, 11, index)
    woman = draw % 5 < 2
    given, given_arabic = (_WOMEN if woman else _MEN)[(draw >> 8) % (12 if woman else 16)]
    father, father_arabic = _MEN[(draw >> 16) % 16]
    family, family_arabic = _FAMILIES[(draw >> 24) % 18]
    number = f"1{mix(seed, 12, index) % 10**8:08}"
    bin_or_bint, arabic_link = ("bint", "بنت") if woman else ("bin", "بن")
    return Person(
        full_name=f"{given} {bin_or_bint} {father} {family}",
        short_name=f"{given} {family}",
        arabic_name=f"{given_arabic} {arabic_link} {father_arabic} {family_arabic}",
        woman=woman,
        national_id=number + _luhn(number),
        mobile=f"+9665{mix(seed, 13, index) % 10**8:08}",
        email=f"{given}.{family.split()[-1]}{index % 997}@example.com".lower(),
        birth_date=f"{1958 + (draw >> 40) % 46}-{1 + (draw >> 48) % 12:02}-{1 + draw % 28:02}",
        building=str(1000 + (draw >> 20) % 8000),
        **_PLACES[(draw >> 32) % 8],
    )


def firm(draw: int) -> tuple[str, str]:
    """Name of a firm in English and Arabic."""
    return _FIRMS[draw % len(_FIRMS)]


@lru_cache(maxsize=8192)
def iban(code: str, draw: int, *, letters: bool = False) -> str:
    """A Saudi IBAN with a valid checksum for a two-digit bank code."""
    if letters:
        rest, signs = mix(draw, 1) << 64 | mix(draw, 2), []
        for _ in range(18):
            rest, place = divmod(rest, len(_SIGNS))
            signs.append(_SIGNS[place])
        account = "".join(signs)
    else:
        account = f"{mix(draw, 1) % 10**18:018}"
    digits = "".join(str(int(sign, 36)) for sign in f"{code}{account}SA00")
    return f"SA{98 - int(digits) % 97:02}{code}{account}"


def masked_pan(draw: int) -> str:
    """A card number that shows only the last four digits."""
    return f"************{draw % 10_000:04}"


def bank_address(bank: Bank) -> dict[str, str]:
    """Head office of a bank, in the newer generation's vocabulary."""
    number = str(1000 + sum(map(ord, bank.swift)) % 8000)
    return {
        "address_type": "BUSINESS",
        "address_line": f"{number}, King Fahd Road, 12211, Riyadh",
        "building_number": number,
        "country": "Saudi Arabia",
        "country_subdivision": "Al Olaya District",
        "post_code": "12211",
        "street_name": "King Fahd Road",
        "town_name": "Riyadh",
    }
