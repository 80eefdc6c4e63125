"""Ids that can be decoded: a UUID holds its index, so nothing is stored.

All numbers of the world come from `mix`, a hash of small integers that is the same on all machines
and in all versions of Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

_MASK = (1 << 64) - 1
_ODD_1 = 0xBF58476D1CE4E5B9
_ODD_2 = 0x94D049BB133111EB
_INVERSE_1 = pow(_ODD_1, -1, 1 << 64)
_INVERSE_2 = pow(_ODD_2, -1, 1 << 64)
_CHECK_BITS = 58
_CHECK_MASK = (1 << _CHECK_BITS) - 1


class Kind(IntEnum):
    """The kind of object that an id identifies."""

    CUSTOMER = 1
    ENTITY = 2
    CONSENT = 3
    ACCOUNT = 4
    REFRESH = 5
    APPLICATION = 6


def mix(*parts: int) -> int:
    """Hash whole numbers into 64 bits."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = ((value ^ part) * _ODD_1) & _MASK
        value ^= value >> 29
        value = (value * _ODD_2) & _MASK
        value ^= value >> 32
    return value


def text_hash(text: str) -> int:
    """Hash text into 64 bits, the same in every process."""
    raw = text.encode()
    return mix(len(raw), *(int.from_bytes(raw[at : at + 8]) for at in range(0, len(raw), 8)))


def _shaped(bits: int) -> str:
    """Write 122 bits as a version 4 UUID."""
    number = (
        (bits >> 74) << 80
        | 0x4 << 76
        | ((bits >> 62) & 0xFFF) << 64
        | 0x2 << 62
        | (bits & 0x3FFFFFFFFFFFFFFF)
    )
    return str(UUID(int=number))


def _bits(uuid: str) -> int | None:
    """Read the 122 free bits of a version 4 UUID; None for any other text."""
    if len(uuid) != 36 or uuid[8] + uuid[13] + uuid[18] + uuid[23] != "----":
        return None
    try:
        number = UUID(uuid).int
    except ValueError:
        return None
    if (number >> 76) & 0xF != 0x4 or (number >> 62) & 0x3 != 0x2:
        return None
    return (number >> 80) << 74 | ((number >> 64) & 0xFFF) << 62 | number & 0x3FFFFFFFFFFFFFFF


def opaque_uuid(high: int, low: int) -> str:
    """Make a version 4 UUID of two hashes; it cannot be decoded."""
    return _shaped(((high << 58) ^ low) & ((1 << 122) - 1))


@dataclass(frozen=True, slots=True)
class Codec:
    """Encodes a kind and up to four small numbers as a UUID, and decodes it.

    The numbers are scrambled with the seed and followed by check bits. So different seeds give
    unrelated ids, and made-up ids are recognised as unknown.
    """

    seed: int

    def encode(
        self, kind: Kind, index: int, second: int = 0, third: int = 0, fourth: int = 0
    ) -> str:
        """Write an id.

        `index` is below 2**36, `second` and `third` are below 2**8, `fourth` is below 2**12.
        """
        payload = index << 28 | second << 20 | third << 12 | fourth
        scrambled = self._scramble(kind, payload)
        return _shaped(scrambled << _CHECK_BITS | self._check(kind, payload))

    def decode(self, kind: Kind, uuid: str) -> tuple[int, int, int, int] | None:
        """Decode an id; None if it is not an id of this kind in this world."""
        bits = _bits(uuid.lower())
        if bits is None:
            return None
        payload = self._unscramble(kind, bits >> _CHECK_BITS)
        if bits & _CHECK_MASK != self._check(kind, payload):
            return None
        return payload >> 28, (payload >> 20) & 0xFF, (payload >> 12) & 0xFF, payload & 0xFFF

    def _check(self, kind: Kind, payload: int) -> int:
        return mix(self.seed, kind, payload) & _CHECK_MASK

    def _scramble(self, kind: Kind, payload: int) -> int:
        value = ((payload ^ mix(self.seed, kind)) * _ODD_1) & _MASK
        value ^= value >> 32
        return (value * _ODD_2) & _MASK

    def _unscramble(self, kind: Kind, value: int) -> int:
        value = (value * _INVERSE_2) & _MASK
        value ^= value >> 32
        return ((value * _INVERSE_1) & _MASK) ^ mix(self.seed, kind)
