"""The whole sandbox: a world, its clock, its faults and the application that answers."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lean_resources.sandbox import listings
from lean_resources.sandbox.banks import bank
from lean_resources.sandbox.cases import example
from lean_resources.sandbox.clock import Clock, parse_today, stamp
from lean_resources.sandbox.data_routes import DataRoutes
from lean_resources.sandbox.directory_routes import DirectoryRoutes
from lean_resources.sandbox.faults import Fault, Faults
from lean_resources.sandbox.gateway import Gateway
from lean_resources.sandbox.money import dump
from lean_resources.sandbox.oauth import Issuer
from lean_resources.sandbox.refresh_routes import RefreshRoutes
from lean_resources.sandbox.store import Entity, Store
from lean_resources.sandbox.webhooks import Webhooks
from lean_resources.sandbox.world import World
from lean_resources.streams import PERMISSIONS

_TICK_SECONDS = 0.25


class Sandbox:
    """Lean, offline.

    The same arguments give the same bytes, in any order of requests. Memory holds only changes that
    were made while it runs. Methods raise a `ValueError` for an unknown entity, bank or fault.

    Args:
        customers: Number of customers; see `example` for the awkward cases among them.
        months: Number of whole months of history before the present month.
        seed: The seed from which the world is generated.
        today: The start of the clock; a date means 07:15 UTC on that day.
        refresh_seconds: How long the bank takes to answer a refresh, by the sandbox's clock. If
            the clock stands still, the second request for a refresh's state finds it finished.
        gzip: Whether to compress long answers for clients that accept it.
        has_events: Whether `/events/v1` exists; it is not documented for Saudi Arabia.

    Raises:
        ValueError: The number of customers or months is below 1, or too large for the ids.
    """

    def __init__(
        self,
        customers: int = 20,
        months: int = 12,
        seed: int = 7,
        today: dt.date | dt.datetime | str = "2026-03-15",
        *,
        refresh_seconds: float = 10.0,
        gzip: bool = True,
        has_events: bool = True,
    ) -> None:
        if not 1 <= customers < 2**35:
            raise ValueError("customers must be at least 1 and below 2**35")
        if not 1 <= months <= 120:
            raise ValueError("months must be from 1 to 120")
        start = parse_today(today)
        self.clock = Clock(start)
        self.world = World(customers=customers, months=months, seed=seed, start=start)
        self.store = Store(self.world, self.clock, refresh_seconds)
        self.faults = Faults(seed)
        self.issuer = Issuer(self.store.codec, self.clock)
        self.client_id, self.client_secret = self.issuer.client_id, self.issuer.client_secret
        self.app_token = self.issuer.app_token
        self.webhook_secret = f"whsec_{self.client_secret}"
        numbers = itertools.count(1)
        self.gateway = Gateway(self.clock, seed, self.issuer, self.faults, numbers, gzip=gzip)
        self.requests, self.calls = self.gateway.requests, self.gateway.calls
        """Number of served requests: by path template; by method and path template."""
        self.data = DataRoutes(self.store, numbers)
        self.webhooks: Webhooks | None = None
        groups = (
            DirectoryRoutes(self.store),
            self.data,
            RefreshRoutes(self.store, has_events=has_events),
        )
        table = [path for group in groups for path in group.table()]
        self.app = self.gateway.app(table, self._own_routes())

    def __repr__(self) -> str:
        world = self.world
        return f"Sandbox(customers={world.customers}, months={world.months}, seed={world.seed})"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events that Lean would have sent to a webhook, oldest first."""
        return list(self.store.events)

    @property
    def fault_rates(self) -> dict[str, float]:
        """Share of requests that each fault affects, e.g. `{"500": 0.02}`."""
        return self.faults.rates

    @fault_rates.setter
    def fault_rates(self, rates: Mapping[str, float]) -> None:
        self.faults.rates = dict(rates)

    def truth(self, stream: str) -> Iterator[dict[str, Any]]:
        """All records of a stream that a client may read now.

        Each item is `{"parent": ids of the request, "record": the record}`. The record has the form
        of a `verbose=true` request; amounts are int or Decimal.

        Raises:
            ValueError: The stream does not exist.
        """
        return listings.truth(self.store, stream)

    def example(self, kind: str) -> dict[str, Any]:
        """The ids of an awkward case; `cases.CASES` lists the cases.

        Raises:
            LookupError: The case does not exist, or the world is too small for it.
        """
        return example(self.store, kind)

    def fail(
        self,
        match: str,
        fault: str | Fault,
        times: int | None = 1,
        *,
        entity_id: str | None = None,
        account_id: str | None = None,
    ) -> None:
        """Inject a fault into the next matching requests.

        Args:
            match: Part of a method and path template, such as `transactions`; empty for any.
            fault: A fault from the module `faults`, e.g. `FAILED:BANK_ISSUE`.
            times: Number of requests; None for all that follow.
            entity_id: Only requests for this entity.
            account_id: Only requests for this account.
        """
        self.faults.add(match, fault, times, entity_id=entity_id, account_id=account_id)

    def heal(self) -> None:
        """Remove all faults."""
        self.faults.clear()

    def connect(
        self,
        customer_id: str | None = None,
        *,
        app_user_id: str | None = None,
        bank_identifier: str = "LEA1_SAMAOB_SAU",
        permissions: Iterable[str] = PERMISSIONS,
        consent_days: int = 365,
    ) -> dict[str, Any]:
        """Connect a bank, as a customer does in Lean's app.

        The customer is that of `customer_id`, or else of `app_user_id`, and is created if missing.

        Returns:
            `customer_id`, `app_user_id`, `entity_id`, `account_ids` and the `refresh_id` of the
            first refresh, which is running.

        Raises:
            ValueError: The customer, the bank or a permission is unknown.
        """
        granted = frozenset(permissions)
        if not granted or not granted <= set(PERMISSIONS):
            raise ValueError(f"permissions must be from {', '.join(PERMISSIONS)}")
        chosen = bank(bank_identifier)
        customer = self._customer(customer_id, app_user_id)
        return self._connected(self.store.connect(customer, chosen, granted, consent_days))

    def reconsent(self, entity_id: str, *, consent_days: int = 365) -> dict[str, Any]:
        """Connect the same bank again, as a customer does: new account ids, the same IBANs."""
        return self._connected(self.store.reconsent(self._entity(entity_id), consent_days))

    def revoke(self, entity_id: str) -> None:
        """End the consent, as a customer does."""
        self.store.revoke(self._entity(entity_id))

    def limit_history(self, entity_id: str, days: int | None) -> None:
        """Limit the days of transactions that a bank offers.

        The start in the listing and in refreshes moves on each day. `days` is a number of UTC days,
        including the day of the refresh; None for all.
        """
        if days is not None and days < 1:
            raise ValueError("days must be at least 1")
        self.store.limit_history(self._entity(entity_id), days)

    def switch_bank(self, identifier: str, *, active: bool) -> None:
        """Take a bank's data offline, or bring it back, as Lean does."""
        self.store.switch_bank(bank(identifier).identifier, active=active)

    def delete(self, entity_id: str) -> None:
        """Delete the entity, with its consent."""
        self.store.delete(self._entity(entity_id))

    @contextmanager
    def deliver(
        self, url: str, *, secret: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> Iterator[Webhooks]:
        """Send events to an address, one at a time, while the block runs.

        When the clock moves, due events happen without a request: refreshes proceed and end,
        results become available, messages are sent again.

        Args:
            url: The address.
            secret: Signs the messages; `webhook_secret` by default.
            transport: Replaces the network.
        """
        webhooks = Webhooks(
            self.clock,
            self.faults,
            url=url,
            secret=secret or self.webhook_secret,
            app_token=self.app_token,
            transport=transport,
        )
        self.webhooks = webhooks
        moved = [self.store.settle, self.data.settle, webhooks.wake]
        self.store.listeners.append(webhooks.announce)
        self.clock.moved += moved
        try:
            yield webhooks
        finally:
            self.webhooks = None
            self.store.listeners.remove(webhooks.announce)
            self.clock.moved = [tell for tell in self.clock.moved if tell not in moved]
            webhooks.close()

    @contextmanager
    def passing_time(self) -> Iterator[None]:
        """Let the clock run in real time while the block runs."""
        is_over = threading.Event()

        def run() -> None:
            last = time.monotonic()
            while not is_over.wait(_TICK_SECONDS):
                now = time.monotonic()
                self.clock.advance(dt.timedelta(seconds=now - last))
                last = now

        thread = threading.Thread(target=run, name="sandbox-clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _customer(self, customer_id: str | None, app_user_id: str | None) -> int:
        user = app_user_id or f"tap-{self.store.customer_total}"
        if customer_id is not None:
            customer = self.store.customer_of(customer_id)
        elif (customer := self.store.customer_by_user(user)) is None:
            customer = self.store.create_customer(user)
        if customer is None:
            raise ValueError("unknown customer_id")
        return customer

    def _entity(self, entity_id: str) -> Entity:
        entity = self.store.find_entity(entity_id)
        if entity is None:
            raise ValueError("unknown entity_id")
        return entity

    def _connected(self, entity: Entity) -> dict[str, Any]:
        refresh = entity.refreshes[-1]
        return {
            "customer_id": entity.customer_id,
            "app_user_id": self.store.app_user_id(entity.blueprint.customer),
            "entity_id": entity.id,
            "account_ids": [shared.account_id for shared in self.store.shared(entity)],
            "refresh_id": self.store.refresh_id(entity, refresh),
        }

    # The same over HTTP, at paths that Lean does not have; these need no credential.

    def _own_routes(self) -> list[Route]:
        table: list[tuple[str, str, Callable[..., object]]] = [
            ("GET", "clock", self._read_clock),
            ("POST", "clock", self._advance_clock),
            ("POST", "faults", self._add_faults),
            ("DELETE", "faults", lambda _: self.heal()),
            ("POST", "connect", self._connect),
            ("POST", "entities/{id}/reconsent", lambda _, entity_id: self.reconsent(entity_id)),
            ("POST", "entities/{id}/revoke", lambda _, entity_id: self.revoke(entity_id)),
            ("POST", "entities/{id}/history", self._limit_history),
            ("POST", "banks/{id}", self._switch_bank),
            ("GET", "requests", lambda _: self.calls),
            ("GET", "examples/{kind}", lambda _, kind: self.example(kind)),
        ]
        return [
            Route("/_sandbox/truth/{stream}", self._truth),
            *(
                Route(f"/_sandbox/{path}", _endpoint(act), methods=[method])
                for method, path, act in table
            ),
        ]

    async def _truth(self, request: Request) -> Response:
        stream = request.path_params["stream"]
        if stream not in listings.STREAMS:
            return _json({"error": f"unknown stream {stream}"}, 404)
        lines = (dump(item) + b"\n" for item in self.truth(stream))
        return StreamingResponse(iterate_in_threadpool(lines), media_type="application/x-ndjson")

    def _read_clock(self, _: dict[str, Any]) -> object:
        return {"now": stamp(self.clock.nanos, 6)}

    def _advance_clock(self, body: dict[str, Any]) -> object:
        try:
            self.clock.advance(dt.timedelta(seconds=float(body["advance_seconds"])))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise _BadRequestError(
                "advance_seconds must be a number that is not negative"
            ) from None
        return self._read_clock(body)

    def _add_faults(self, body: dict[str, Any]) -> object:
        if "rates" in body:
            self.fault_rates = body["rates"]
        if "fault" in body:
            beside = {name: body.get(name) for name in ("entity_id", "account_id")}
            match, fault = str(body.get("match", "")), str(body["fault"])
            self.fail(match, fault, body.get("times", 1), **beside)
        return {"rates": self.fault_rates}

    def _connect(self, body: dict[str, Any]) -> object:
        known = ("customer_id", "app_user_id", "bank_identifier", "permissions", "consent_days")
        if not isinstance(body.get("consent_days", 1), int):
            raise _BadRequestError("consent_days must be a whole number")
        return self.connect(**{name: body[name] for name in known if name in body})

    def _limit_history(self, body: dict[str, Any], entity_id: str) -> object:
        days = body.get("days")
        if days is not None and (isinstance(days, bool) or not isinstance(days, int) or days < 1):
            raise _BadRequestError("days must be a whole number of at least 1, or null")
        self.limit_history(entity_id, days)
        return {}

    def _switch_bank(self, body: dict[str, Any], identifier: str) -> object:
        if not isinstance(body.get("active"), bool):
            raise _BadRequestError("active must be true or false")
        self.switch_bank(identifier, active=body["active"])
        return {}


class _BadRequestError(Exception):
    """A body of a request to the sandbox itself that cannot be used."""


def _endpoint(act: Callable[..., object]) -> Callable[[Request], Awaitable[Response]]:
    """What answers with the result of a function of the body and the path's parameters."""

    async def endpoint(request: Request) -> Response:
        names = request.path_params.values()
        try:
            return _json(act(await _body(request), *names) or {})
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            # What a path names is unknown.
            return _json({"error": str(error)}, 404 if names else 400)
        except _BadRequestError as error:
            return _json({"error": str(error)}, 400)

    return endpoint


async def _body(request: Request) -> dict[str, Any]:
    try:
        value = orjson.loads(await request.body() or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _json(value: object, status: int = 200) -> Response:
    return Response(dump(value), status, media_type="application/json")
