"""The state that changes while the sandbox runs: connections, consents, refreshes and their events.

Lean answers from a bank data copy per entity, which only a refresh changes. An entity's state is
built from its blueprint at the first request, and kept only once it differs from the blueprint.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from lean_resources.sandbox.banks import BANKS, Bank, bank_record
from lean_resources.sandbox.clock import (
    DAY,
    HOUR,
    NEVER,
    SECOND,
    Clock,
    day_text,
    first_day,
    month_of,
    stamp,
)
from lean_resources.sandbox.ids import Codec, Kind, mix, opaque_uuid
from lean_resources.sandbox.ledger import Ledger
from lean_resources.sandbox.world import (
    ROW,
    Account,
    Blueprint,
    ConsentPlan,
    Slot,
    World,
    usual_consent,
    usual_kinds,
)
from lean_resources.streams import ACCOUNT_STREAMS, PERMISSION_OF, PERMISSIONS

_LANDING = {
    name: (place + 1) * 700_000_000 + 43_000_000 for place, name in enumerate(PERMISSION_OF)
}
_STATUS_NAMES = {"balances": "balance", "identities": "identity"}
"""Names of streams in the status of a refresh, where they differ."""
_POLLS = 2
_ROOM = 2048


@dataclass(slots=True)
class Refresh:
    """A refresh: Lean asks the bank.

    Args:
        finished: When it ended, or None while it is pending.
        failed: Streams that the bank did not send.
        left_out: Streams that were not requested; their copy stays unchanged.
        is_stuck: Whether it never ends.
        is_halfway: Whether an event has announced the accounts.
    """

    ordinal: int
    created: int
    finished: int | None
    failed: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    polls: int = 0
    is_stuck: bool = False
    is_halfway: bool = False


@dataclass(frozen=True, slots=True)
class Shared:
    """An account of an entity."""

    account_id: str
    account: Account


@dataclass(slots=True)
class Entity:
    """The present state of a connection.

    Args:
        marks: For each stream, the instant of the copy's data and the instant of its stamp.
        history_days: Number of days of transactions that its bank offers, including today; None
            for all.
    """

    id: str
    customer_id: str
    blueprint: Blueprint
    consents: list[ConsentPlan]
    generation: int
    deleted: int
    updated: int
    refreshes: list[Refresh]
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    known: tuple[int, tuple[Shared, ...]] | None = None
    history_days: int | None = None

    @property
    def bank(self) -> Bank:
        """The bank it connects to."""
        return self.blueprint.bank

    def offered_from(self, instant: int) -> int:
        """First UTC day that both consent and bank offer at an instant."""
        allowed = self.consent.window_from // DAY
        if self.history_days is None:
            return allowed
        return max(allowed, instant // DAY - self.history_days + 1)

    @property
    def consent(self) -> ConsentPlan:
        """The latest consent."""
        return self.consents[-1]

    @property
    def key(self) -> tuple[int, int]:
        """Its place in the world: customer and ordinal."""
        return self.blueprint.customer, self.blueprint.ordinal

    def is_open(self, now: int) -> bool:
        """Whether clients may read its data now."""
        consent = self.consent
        return self.deleted > now and consent.revoked > now and consent.expires > now

    def pending(self) -> Refresh | None:
        """The refresh that is running."""
        last = self.refreshes[-1] if self.refreshes else None
        return last if last is not None and last.finished is None else None


class Store:
    """The present state of all entities.

    Args:
        refresh_seconds: How long the bank takes to answer a refresh, by the sandbox's clock.
    """

    def __init__(self, world: World, clock: Clock, refresh_seconds: float) -> None:
        self.world = world
        self.clock = clock
        self.codec = Codec(world.seed)
        self.ledger = Ledger(world)
        self.refresh_nanos = int(refresh_seconds * SECOND)
        self.lock = threading.RLock()
        self.events: deque[dict[str, Any]] = deque(maxlen=10_000)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self.inactive: set[str] = set()
        self.new_customers: list[str] = []
        self._new_customer_index: dict[str, int] = {}
        self._changed: dict[tuple[int, int], Entity] = {}
        self._added: dict[int, list[int]] = {}
        self._added_in_order: list[tuple[int, int]] = []
        self._fresh: OrderedDict[tuple[int, int], Entity] = OrderedDict()
        self._event_numbers = count()

    # A customer is an index: first the customers of the world, then those created later.

    @property
    def customer_total(self) -> int:
        """How many customers there are."""
        return self.world.customers + len(self.new_customers)

    def customer_id(self, customer: int) -> str:
        """Lean's id of a customer."""
        return self.codec.encode(Kind.CUSTOMER, customer)

    def app_user_id(self, customer: int) -> str:
        """Our own id of a customer."""
        if customer < self.world.customers:
            return f"user-{customer:07}"
        return self.new_customers[customer - self.world.customers]

    def customer_of(self, customer_id: str) -> int | None:
        """Index of a customer by Lean's id."""
        found = self.codec.decode(Kind.CUSTOMER, customer_id)
        return found[0] if found is not None and found[0] < self.customer_total else None

    def customer_by_user(self, app_user_id: str) -> int | None:
        """Index of a customer by our own id."""
        digits = app_user_id.removeprefix("user-")
        if digits.isascii() and digits.isdigit() and len(digits) < 12:
            index = int(digits)
            if index < self.world.customers and self.app_user_id(index) == app_user_id:
                return index
        return self._new_customer_index.get(app_user_id)

    def create_customer(self, app_user_id: str) -> int | None:
        """Create a customer; None if the id is taken."""
        with self.lock:
            if self.customer_by_user(app_user_id) is not None:
                return None
            index = self.customer_total
            self.new_customers.append(app_user_id)
            self._new_customer_index[app_user_id] = index
            return index

    # An entity is a customer and an ordinal.

    @property
    def entity_total(self) -> int:
        """How many entities there are, whatever their status."""
        return self.world.entity_total + len(self._added_in_order)

    def entity_key_at(self, place: int) -> tuple[int, int]:
        """Key of the entity at a place, in the order of connection."""
        base = self.world.entity_total
        return self.world.entity_at(place) if place < base else self._added_in_order[place - base]

    def created_at(self, place: int) -> int:
        """When the entity at a place was connected."""
        base = self.world.entity_total
        if place < base:
            return self.world.created_at(place)
        return self._changed[self._added_in_order[place - base]].blueprint.created

    def entities_of(self, customer: int) -> list[Entity]:
        """All entities of a customer, also deleted entities, oldest first."""
        ordinals = [*range(self.world.entity_count(customer)), *self._added.get(customer, ())]
        return [self.entity((customer, ordinal)) for ordinal in ordinals]

    def find_entity(self, entity_id: str) -> Entity | None:
        """The entity of an id, deleted or not."""
        found = self.codec.decode(Kind.ENTITY, entity_id)
        if found is None:
            return None
        key = found[0], found[1]
        if key in self._changed or found[1] < self.world.entity_count(found[0]):
            return self.entity(key)
        return None

    def entity(self, key: tuple[int, int]) -> Entity:
        """The entity of a key, after finishing a refresh that is due."""
        with self.lock:
            entity = self._changed.get(key)
            if entity is None:
                return self._fresh_entity(key)
            running = entity.pending()
            if running is None or running.is_stuck:
                return entity
            if self.clock.nanos >= running.created + self.refresh_nanos:
                self._finish(entity, running, running.created + self.refresh_nanos)
            return entity

    def _fresh_entity(self, key: tuple[int, int]) -> Entity:
        if key not in self._fresh:
            self._fresh[key] = self._build(self.world.blueprint(*key))
            if len(self._fresh) > _ROOM:
                self._fresh.popitem(last=False)
        return self._fresh[key]

    def _build(self, blueprint: Blueprint) -> Entity:
        customer, ordinal = blueprint.customer, blueprint.ordinal
        entity = Entity(
            id=self.codec.encode(Kind.ENTITY, customer, ordinal),
            customer_id=self.customer_id(customer),
            blueprint=blueprint,
            consents=list(blueprint.consents),
            generation=blueprint.generation,
            deleted=blueprint.deleted,
            updated=self._last_change(blueprint),
            refreshes=[],
        )
        first = blueprint.created + SECOND
        entity.refreshes.append(Refresh(0, first, first + self.refresh_nanos))
        asked = blueprint.snapshot
        if asked > first + HOUR:
            # Rare, so that it looks like a problem of a customer and not of the bank.
            is_partial = (
                blueprint.slot == Slot.WALLET and ordinal == 1 and customer // ROW % 50 == 0
            )
            failed = frozenset({"beneficiaries"} if is_partial else ())
            entity.refreshes[0].failed = failed
            entity.refreshes.append(Refresh(1, asked, asked + self.refresh_nanos, failed))
        self._move_store(entity, entity.refreshes[-1])
        return entity

    @staticmethod
    def _last_change(blueprint: Blueprint) -> int:
        if blueprint.deleted != NEVER:
            return blueprint.deleted
        ended = blueprint.consents[-1].revoked
        return ended if ended != NEVER else blueprint.consents[-1].created + 33 * SECOND

    def _move_store(self, entity: Entity, refresh: Refresh) -> None:
        finished = refresh.finished if refresh.finished is not None else refresh.created
        for stream, offset in _LANDING.items():
            if stream not in refresh.failed | refresh.left_out | entity.bank.lacks:
                landed = min(refresh.created + offset, finished)
                entity.marks[stream] = (refresh.created, landed)

    @contextmanager
    def _changing(self, entity: Entity, event: str | None = None) -> Iterator[Entity]:
        """Keep the present state of an entity, which the block changes; announce it by an event."""
        with self.lock:
            entity = self.entity(entity.key)
            self._changed[entity.key] = entity
            self._fresh.pop(entity.key, None)
            yield entity
            if event is not None:
                entity.updated = self.clock.nanos
                self._announce_entity(entity, event)

    # Accounts of an entity.

    def shared(self, entity: Entity) -> tuple[Shared, ...]:
        """The accounts that an entity's consent covers."""
        if entity.known is None or entity.known[0] != entity.generation:
            encode, blueprint = self.codec.encode, entity.blueprint
            accounts = tuple(
                Shared(
                    encode(Kind.ACCOUNT, *entity.key, place, entity.generation),
                    self.world.account(blueprint, place),
                )
                for place in range(len(blueprint.kinds))
            )
            entity.known = entity.generation, accounts
        return entity.known[1]

    # Refreshes.

    def start_refresh(
        self,
        entity: Entity,
        failed: frozenset[str] = frozenset(),
        left_out: frozenset[str] = frozenset(),
        *,
        is_stuck: bool = False,
    ) -> Refresh | None:
        """Start a refresh; None if a refresh is already running."""
        with self._changing(entity) as mine:
            if mine.pending() is not None:
                return None
            made = len(mine.refreshes), self.clock.nanos, None, failed, left_out
            refresh = Refresh(*made, is_stuck=is_stuck)
            mine.refreshes.append(refresh)
            self._announce_refresh(mine, refresh)
            return refresh

    def poll(self, entity: Entity) -> None:
        """Count a request for a running refresh's state; the second finds it finished."""
        with self.lock:
            running = self.entity(entity.key).pending()
            if running is not None and not running.is_stuck:
                running.polls += 1
                if running.polls >= _POLLS:
                    self._finish(entity, running, max(self.clock.nanos, running.created))

    def settle(self) -> None:
        """Let due events happen without a request: refreshes proceed and end."""
        with self.lock:
            for entity in list(self._changed.values()):
                running = self.entity(entity.key).pending()
                if running is None or running.is_stuck or running.is_halfway:
                    continue
                if self.clock.nanos >= running.created + self.refresh_nanos // 2:
                    running.is_halfway = True
                    self._announce_refresh(entity, running)

    def _finish(self, entity: Entity, refresh: Refresh, at: int) -> None:
        refresh.finished = at
        self._move_store(entity, refresh)
        self._announce_refresh(entity, refresh)

    def refresh_id(self, entity: Entity, refresh: Refresh) -> str:
        """Lean's id of a refresh."""
        return self.codec.encode(Kind.REFRESH, *entity.key, 0, refresh.ordinal)

    def find_refresh(self, refresh_id: str) -> tuple[Entity, Refresh] | None:
        """A refresh and its entity by Lean's id."""
        found = self.codec.decode(Kind.REFRESH, refresh_id)
        if found is None:
            return None
        entity = self.find_entity(self.codec.encode(Kind.ENTITY, found[0], found[1]))
        if entity is None or found[3] >= len(entity.refreshes):
            return None
        return entity, entity.refreshes[found[3]]

    def data_status(
        self, entity: Entity, refresh: Refresh, *, webhook: bool = False
    ) -> dict[str, Any]:
        """The status of each kind of data in a refresh."""
        consent = entity.consent

        def part(stream: str) -> str:
            granted = PERMISSION_OF[stream] in consent.permissions
            if not granted or stream in entity.bank.lacks:
                return "UNSUPPORTED"
            if refresh.finished is None:
                is_there = refresh.polls or refresh.is_halfway
                return "OK" if stream == "accounts" and is_there else "PENDING"
            return "FAILED" if stream in refresh.failed else "OK"

        def availability(account: Account) -> dict[str, Any]:
            first = max(entity.offered_from(refresh.created), first_day(account.first_month))
            last = min(refresh.created, consent.window_to) // DAY
            found = {"start": day_text(min(first, last)), "end": day_text(last)}
            if not webhook:
                return {"transactionAvailability": found}
            months = max(0, month_of(last) - month_of(first) - 1)
            return {"transaction_availability": {**found, "complete_months": months}}

        return {
            "accounts": part("accounts"),
            "identity": part("identity"),
            "account_data": [
                {
                    "account_id": shared.account_id,
                    **{_STATUS_NAMES.get(one, one): part(one) for one in ACCOUNT_STREAMS},
                    **availability(shared.account),
                }
                for shared in self.shared(entity)
            ],
        }

    # Connections and their ends.

    def connect(
        self, customer: int, bank: Bank, permissions: frozenset[str], consent_days: int
    ) -> Entity:
        """Connect a bank now; its first refresh is running."""
        with self.lock:
            now = self.clock.nanos
            ordinal = self.world.entity_count(customer) + len(self._added.get(customer, ()))
            draw = mix(self.world.seed, 24, customer, ordinal)
            blueprint = Blueprint(
                customer=customer,
                ordinal=ordinal,
                bank=bank,
                created=now,
                kinds=usual_kinds(bank, draw),
                consents=(usual_consent(now, days=consent_days, permissions=permissions),),
                snapshot=now,
            )
            entity = self._build(blueprint)
            entity.refreshes.clear()
            entity.marks.clear()
            self._added.setdefault(customer, []).append(ordinal)
            self._changed[entity.key] = entity
            self._added_in_order.append(entity.key)
            self._announce_entity(entity, "created")
            self.start_refresh(entity)
            return entity

    def reconsent(self, entity: Entity, consent_days: int) -> Entity:
        """Connect the same bank again: new account ids, the same accounts."""
        with self.lock:
            with self._changing(entity, "updated") as mine:
                now, last = self.clock.nanos, mine.consent
                if last.revoked == NEVER:
                    mine.consents[-1] = replace(last, revoked=min(now, last.expires))
                mine.consents.append(
                    usual_consent(now, days=consent_days, permissions=last.permissions)
                )
                mine.generation += 1
            self.start_refresh(mine)
            return mine

    def revoke(self, entity: Entity) -> None:
        """End the consent now."""
        with self._changing(entity, "updated") as mine:
            revoked = min(mine.consent.revoked, self.clock.nanos)
            mine.consents[-1] = replace(mine.consent, revoked=revoked)

    def delete(self, entity: Entity) -> None:
        """Delete the entity now, with its consent."""
        with self.lock:
            self.revoke(entity)
            self.entity(entity.key).deleted = self.clock.nanos

    def limit_history(self, entity: Entity, days: int | None) -> None:
        """Limit the days of transactions that an entity's bank offers."""
        with self._changing(entity) as mine:
            mine.history_days = days

    def switch_bank(self, identifier: str, *, active: bool) -> None:
        """Take a bank's data offline, or bring it back."""
        with self.lock:
            (self.inactive.discard if active else self.inactive.add)(identifier)
            availability = bank_record(BANKS[identifier], active=active)["availability"]
            self.announce(
                "bank.availability.updated",
                {"identifier": identifier, "availability": availability},
                "The bank status has been updated.",
            )

    # Events.

    def announce(self, kind: str, payload: dict[str, Any], message: str, **beside: object) -> None:
        """Log an event in Lean's form, and send it if webhooks are set up."""
        number = next(self._event_numbers)
        # An inbox may be used with several sandboxes, whose events differ by their time.
        high, low = (mix(self.world.seed, one, number, self.clock.nanos) for one in (61, 62))
        event = {
            "type": kind,
            "payload": payload,
            **beside,
            "message": message,
            "timestamp": stamp(self.clock.nanos + number % 1000, 9),
            "event_id": opaque_uuid(high, low),
        }
        self.events.append(event)
        for listen in self.listeners:
            listen(event)

    def _announce_entity(self, entity: Entity, what: str) -> None:
        bank = bank_record(entity.bank, active=True)
        wanted = (
            "identifier name logo main_color background_color swift_code account_type bank_type"
        )
        granted = entity.consent.permissions
        self.announce(
            f"entity.{what}",
            {
                "id": entity.id,
                "customer_id": entity.customer_id,
                "app_user_id": self.app_user_id(entity.blueprint.customer),
                "permissions": [name for name in PERMISSIONS if name in granted],
                "bank_details": {name: bank[name] for name in wanted.split()},
            },
            f"An entity object has been {what}.",
        )

    def _announce_refresh(self, entity: Entity, refresh: Refresh) -> None:
        self.announce(
            "entity.data.refresh.updated",
            {
                "entity_id": entity.id,
                "refresh_id": self.refresh_id(entity, refresh),
                "customer_id": entity.customer_id,
                "status": "PENDING" if refresh.finished is None else "FINISHED",
                "data_status": self.data_status(entity, refresh, webhook=True),
            },
            "An entity data refresh state has been updated.",
            app_user_id=self.app_user_id(entity.blueprint.customer),
        )
