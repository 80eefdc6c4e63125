"""What a request for bank data looks at, for the functions that write its records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lean_resources.sandbox.banks import Bank
from lean_resources.sandbox.people import Person, person
from lean_resources.sandbox.store import Entity, Shared, Store
from lean_resources.sandbox.world import Account, Slot

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """An entity, or one of its accounts.

    Args:
        instant: The instant of the bank data copy.
        shared: The account, for streams of accounts.
        verbose: Whether to fill `regional_data`, if the bank is of the older generation.
        insights: Whether to fill `insights`.
    """

    store: Store
    entity: Entity
    instant: int
    shared: Shared | None = None
    verbose: bool = False
    insights: bool = False

    @property
    def account(self) -> Account:
        """The account."""
        return self._shared.account

    @property
    def account_id(self) -> str:
        """Lean's id of the account."""
        return self._shared.account_id

    @property
    def bank(self) -> Bank:
        """The bank."""
        return self.entity.bank

    @property
    def holder(self) -> Person:
        """The person who connected the bank."""
        return person(self.store.world.seed, self.entity.blueprint.customer)

    @property
    def is_bare(self) -> bool:
        """Whether the bank sends next to nothing."""
        return self.entity.blueprint.slot == Slot.NULL_HEAVY

    @property
    def _shared(self) -> Shared:
        if self.shared is None:
            raise ValueError("the stream needs an account")
        return self.shared

    def newer(self, fields: Record) -> Record:
        """Fields that only the newer generation sends."""
        return {} if self.bank.older else fields

    def finished(self, record: Record, regional: Callable[[], Record]) -> Record:
        """A record with the `regional_data` of its bank's generation."""
        if self.bank.older and self.verbose:
            record["regional_data"] = {"standard": "SAU.SAMA.V1", "data": regional()}
        elif not self.bank.absent_regional:
            record["regional_data"] = None
        return record


def copied(record: Record, names: str) -> Record:
    """Fields of a record, named with spaces between them."""
    return {name: record[name] for name in names.split()}
