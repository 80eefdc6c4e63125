"""A shard: the part of the entities that one step of a sync reads, with all that is theirs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

_DIGITS = 8
"""Hexadecimal digits of the hash that count; as many as a 32-bit integer has."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of the entities, by a hash of their ids that is the same everywhere.

    Args:
        number: Its place among them, from 0.
        count: Number of parts.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"there is no shard {self.number} of {self.count}")

    def __str__(self) -> str:
        return f"shard {self.number + 1} of {self.count}"

    def holds(self, entity_id: str) -> bool:
        """Whether an entity belongs to it."""
        digest = hashlib.md5(entity_id.encode(), usedforsecurity=False).hexdigest()
        return int(digest[:_DIGITS], 16) % self.count == self.number

    def condition(self, column: str) -> str:
        """The same in SQL, of a column of ids of entities."""
        # A number of 128 bits would take twenty times as long.
        hashed = f"('0x' || left(md5({column}), {_DIGITS}))::uinteger"
        return f"{hashed} % {self.count} = {self.number}"
