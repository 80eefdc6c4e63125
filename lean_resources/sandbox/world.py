"""The world: customers, their connected banks, their consents and their accounts.

All of it is a pure function of the seed and an index, so a million customers need no memory.
Customers come in groups of twenty. The place in the group is a *slot*, and most slots have an
awkward case of `cases.py`. So the first twenty customers have all cases. In a large world, most
cases occur in a twentieth of the customers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from lean_resources.sandbox.banks import BANKS, Bank
from lean_resources.sandbox.clock import DAY, HOUR, MINUTE, NEVER, SECOND, first_day, month_of
from lean_resources.sandbox.ids import mix
from lean_resources.sandbox.people import iban, masked_pan
from lean_resources.sandbox.tables import read
from lean_resources.streams import PERMISSIONS

ROW = 20
"""Number of customers in a group."""

_OLDEST = 330 * DAY
_YOUNGEST = 2 * DAY


class Slot(IntEnum):
    """Place of a customer in its group of twenty."""

    PENDING = 0
    JOINT_FIRST = 1
    JOINT_SECOND = 2
    RECONSENTED = 3
    EXPIRING = 4
    EXPIRED_UNSWEPT = 5
    EXPIRED = 6
    REVOKED = 7
    FEW_PERMISSIONS = 8
    DELETED = 9
    NO_ENTITY = 10
    UNKNOWN_ENUM = 11
    NULL_HEAVY = 12
    IDENTITY_ODD = 13
    DINAR = 14
    LATE = 15
    NARROW = 16
    BUSINESS = 17
    WALLET = 18
    PLAIN_EMPTY = 19


@dataclass(frozen=True, slots=True)
class _Persona:
    """An entity of each customer in a slot; without kinds, its accounts are drawn."""

    slot: str
    bank: str
    kinds: tuple[str, ...] = ()


_PERSONAS = {
    slot: [one for one in read("personas", _Persona) if one.slot == slot.name] for slot in Slot
}
_ROW_TOTAL = sum(map(len, _PERSONAS.values()))
_BEFORE = tuple(
    sum(len(_PERSONAS[Slot(before)]) for before in range(slot)) for slot in range(ROW + 1)
)

SUB_TYPES = {"JOINT": "CURRENT", "DINAR": "CURRENT", "BUSINESS": "CURRENT"}
"""`account_sub_type` if it differs from the kind."""

CARDS = frozenset({"CREDIT", "CHARGE_CARD", "PREPAID"})
"""Kinds that also have a card number."""


@dataclass(frozen=True, slots=True)
class ConsentPlan:
    """A consent; instants are nanoseconds.

    Args:
        revoked: When the customer ended it early, or `NEVER`.
    """

    created: int
    expires: int
    window_from: int
    window_to: int
    permissions: frozenset[str]
    revoked: int = NEVER


@dataclass(frozen=True, slots=True)
class Blueprint:
    """An entity at the start.

    Args:
        ordinal: Place among the customer's entities.
        kinds: A kind per account.
        generation: Number of times its accounts got new ids.
        deleted: When it was deleted, or `NEVER`.
        snapshot: When Lean last asked the bank.
    """

    customer: int
    ordinal: int
    bank: Bank
    created: int
    kinds: tuple[str, ...]
    consents: tuple[ConsentPlan, ...]
    snapshot: int
    generation: int = 0
    deleted: int = NEVER
    slot: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """An account at a bank, the same for all entities; it compares by its key.

    Args:
        key: Customer, entity and place of the account at the bank.
        draw: Hash from which its details are drawn.
        siblings: Kinds of all accounts of the entity, including this account.
        first_month: First month in which it has movements.
        opening: Booked balance before the first movement, in signed minor units.
    """

    key: tuple[int, int, int]
    draw: int
    kind: str
    bank: Bank
    currency: str
    siblings: tuple[str, ...]
    first_month: int
    opened: int
    opening: int
    credit_line: int
    iban: str
    pan: str
    slot: int
    holders: tuple[int, ...] = field(default=())

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and self.key == other.key

    @property
    def sub_type(self) -> str:
        """`account_sub_type` in the newer vocabulary."""
        return SUB_TYPES.get(self.kind, self.kind)


class World:
    """The world of a seed, whose clock starts at an instant in nanoseconds."""

    def __init__(self, *, customers: int, months: int, seed: int, start: int) -> None:
        self.customers = customers
        self.months = months
        self.seed = seed
        self.start = start
        self.start_day = start // DAY
        self.first_month = month_of(self.start_day) - months

    def entity_count(self, customer: int) -> int:
        """Number of entities of a customer at the start."""
        return len(_PERSONAS[Slot(customer % ROW)]) if customer < self.customers else 0

    @property
    def entity_total(self) -> int:
        """Number of all entities at the start."""
        return self._entities_before(self.customers)

    def entity_at(self, place: int) -> tuple[int, int]:
        """Customer and ordinal of the entity at a place; later places connected later."""
        row, rest = divmod(place, _ROW_TOTAL)
        slot = next(slot for slot in range(ROW) if rest < _BEFORE[slot + 1])
        return row * ROW + slot, rest - _BEFORE[slot]

    def created_at(self, place: int) -> int:
        """When the entity at a place was connected; higher places are later."""
        span = _OLDEST - _YOUNGEST
        share = place * 1024 + mix(self.seed, 21, place) % 900
        return self.start - _OLDEST + span * share // (1024 * max(1, self.entity_total))

    def _entities_before(self, customer: int) -> int:
        row, slot = divmod(customer, ROW)
        return row * _ROW_TOTAL + _BEFORE[slot]

    def blueprint(self, customer: int, ordinal: int) -> Blueprint:
        """The entity that a customer had at the start."""
        slot = Slot(customer % ROW)
        persona = _PERSONAS[slot][ordinal]
        draw = mix(self.seed, 22, customer, ordinal)
        created = self.created_at(self._entities_before(customer) + ordinal)
        age = self.start - created
        asked = self.start - HOUR - (draw >> 8) % (5 * HOUR)
        made = Blueprint(
            customer=customer,
            ordinal=ordinal,
            bank=BANKS[persona.bank],
            created=created,
            kinds=persona.kinds or _usual_kinds(draw),
            consents=(usual_consent(created),),
            snapshot=asked,
            slot=slot,
        )
        return _awkward(made, self.start, created, age)

    def account(self, blueprint: Blueprint, place: int) -> Account:
        """The account at a place of an entity; a joint account has the key of its first holder."""
        customer, ordinal = blueprint.customer, blueprint.ordinal
        holders: tuple[int, ...] = (customer,)
        if blueprint.kinds[place] == "JOINT":
            if blueprint.slot == Slot.JOINT_SECOND:
                customer -= 1
            holders = (customer, customer + 1)
        draw = mix(self.seed, 23, customer, ordinal, place)
        kind = blueprint.kinds[place]
        currency = "KWD" if kind == "DINAR" else "SAR"
        opened = first_day(self.first_month - 6 - draw % 90) + (draw >> 8) % 28
        first_month, opening = self.first_month, _opening(kind, draw >> 16)
        if blueprint.slot == Slot.NARROW and kind == "PREPAID":
            first_month = max(self.first_month, month_of(self.start_day) - 3)
            opened, opening = first_day(first_month), 0
        return Account(
            key=(customer, ordinal, place),
            draw=draw,
            kind=kind,
            bank=blueprint.bank,
            currency=currency,
            siblings=blueprint.kinds,
            first_month=first_month,
            opened=opened,
            opening=opening,
            credit_line=_credit_line(kind, draw >> 24),
            iban=iban(blueprint.bank.code, draw, letters=blueprint.bank.letters),
            pan=masked_pan(draw >> 20),
            slot=blueprint.slot,
            holders=holders,
        )


def usual_consent(
    created: int,
    *,
    days: int = 365,
    permissions: frozenset[str] = frozenset(PERMISSIONS),
) -> ConsentPlan:
    """A consent with Lean's default window."""
    asked = created - 32 * SECOND - 333_000_000
    expires = created + days * DAY
    return ConsentPlan(asked, expires, asked - 364 * DAY, expires, permissions)


def usual_kinds(bank: Bank, draw: int) -> tuple[str, ...]:
    """Kinds of accounts that a customer usually has at a bank."""
    if bank.business:
        return ("BUSINESS",)
    if bank.lacks:
        return ("EMONEY", "PREPAID")
    return _usual_kinds(draw)


def _usual_kinds(draw: int) -> tuple[str, ...]:
    kinds = ["CURRENT"]
    if draw % 2:
        kinds.append("SAVINGS")
    if (draw >> 4) % 3 == 0:
        kinds.append("CREDIT")
    if (draw >> 8) % 11 == 0:
        kinds.append("PREPAID")
    return tuple(kinds)


def _opening(kind: str, draw: int) -> int:
    """Opening balance, in signed minor units."""
    if kind in {"CREDIT", "CHARGE_CARD"}:
        return -(draw % 350_000)
    if kind == "SAVINGS":
        return 500_000 + draw % 19_000_000
    if kind == "BUSINESS":
        return 15_000_000 + draw % 90_000_000
    if kind in {"PREPAID", "EMONEY"}:
        return 5_000 + draw % 60_000
    return 350_000 + draw % 2_600_000


def _credit_line(kind: str, draw: int) -> int:
    """Credit line in minor units; zero without a credit line."""
    if kind in {"CREDIT", "CHARGE_CARD"}:
        return 1_000_000 + draw % 9 * 500_000
    return 500_000 if kind == "CURRENT" and draw % 3 == 0 else 0


def _awkward(made: Blueprint, start: int, created: int, age: int) -> Blueprint:
    """Give the entity the awkward case of its slot."""
    (consent,) = made.consents
    midnight = start // DAY * DAY
    changes: dict[str, Any] = {}

    def ending(expires: int) -> dict[str, Any]:
        ends = replace(consent, expires=expires, window_to=expires)
        return {"consents": (ends,), "snapshot": min(made.snapshot, expires - HOUR)}

    match (made.slot, made.ordinal):
        case (Slot.RECONSENTED, 0):
            again = created + age * 4 // 5
            both = (replace(consent, revoked=again - MINUTE), usual_consent(again))
            changes = {"consents": both, "generation": 1}
        case (Slot.EXPIRING, 0):
            changes = ending(start + 29 * HOUR)
        case (Slot.EXPIRED_UNSWEPT, 0):
            changes = ending(midnight + (start - midnight) // 2)
        case (Slot.EXPIRED, 0):
            changes = ending(max(created + HOUR, start - 3 * DAY))
        case (Slot.REVOKED, 0):
            end = created + age * 3 // 4
            changes = {"consents": (replace(consent, revoked=end),), "snapshot": end}
        case (Slot.FEW_PERMISSIONS, 0):
            changes = {"consents": (replace(consent, permissions=frozenset(PERMISSIONS[:4])),)}
        case (Slot.DELETED, 1):
            end = created + age * 7 // 10
            changes = {"consents": (replace(consent, revoked=end),), "snapshot": end}
            changes["deleted"] = end
        case (Slot.NARROW, 0):
            changes = {"consents": (replace(consent, window_from=start - 60 * DAY),)}
    return replace(made, **changes)
