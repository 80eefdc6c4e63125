"""The whole sandbox: a world, its clock, its faults and the application that answers."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lean_resources.sandbox import listings
from lean_resources.sandbox.app import Api
from lean_resources.sandbox.banks import bank
from lean_resources.sandbox.cases import example
from lean_resources.sandbox.clock import Clock, parse_today, stamp
from lean_resources.sandbox.faults import Fault, Faults
from lean_resources.sandbox.money import dump
from lean_resources.sandbox.oauth import Issuer
from lean_resources.sandbox.store import Entity, Store
from lean_resources.sandbox.webhooks import Webhooks
from lean_resources.sandbox.world import World
from lean_resources.streams import PERMISSIONS

_TICK_SECONDS = 0.25


class Sandbox:
    """Lean, offline.

    The same arguments give the same bytes, in any order of requests. Memory holds only changes that
    were made while it runs.

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
        self.api = Api(self.store, self.issuer, self.faults, gzip=gzip, has_events=has_events)
        self.webhooks: Webhooks | None = None
        self.app = self.api.app(self._own_routes())

    def __repr__(self) -> str:
        world = self.world
        return f"Sandbox(customers={world.customers}, months={world.months}, seed={world.seed})"

    @property
    def client_id(self) -> str:
        """The application's id."""
        return self.issuer.client_id

    @property
    def client_secret(self) -> str:
        """The application's secret, made up."""
        return self.issuer.client_secret

    @property
    def app_token(self) -> str:
        """The application's token for the older kind of authentication, made up."""
        return self.issuer.app_token

    @property
    def webhook_secret(self) -> str:
        """The secret that signs webhooks, made up."""
        return f"whsec_{self.issuer.client_secret}"

    @property
    def requests(self) -> Counter[str]:
        """Number of served requests, by path template."""
        return self.api.gateway.requests

    @property
    def calls(self) -> Counter[str]:
        """Number of served requests, by method and path template."""
        return self.api.gateway.calls

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

        Raises:
            ValueError: The fault does not exist.
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
        """Connect the same bank again, as a customer does: new account ids, the same IBANs.

        Raises:
            ValueError: The entity is unknown.
        """
        return self._connected(self.store.reconsent(self._entity(entity_id), consent_days))

    def revoke(self, entity_id: str) -> None:
        """End the consent, as a customer does.

        Raises:
            ValueError: The entity is unknown.
        """
        self.store.revoke(self._entity(entity_id))

    def limit_history(self, entity_id: str, days: int | None) -> None:
        """Limit the days of transactions that a bank offers.

        The start in the listing and in refreshes moves on each day.

        Args:
            entity_id: The entity.
            days: Number of UTC days, including the day of the refresh; None for all.

        Raises:
            ValueError: The entity is unknown, or `days` is below 1.
        """
        if days is not None and days < 1:
            raise ValueError("days must be at least 1")
        self.store.limit_history(self._entity(entity_id), days)

    def switch_bank(self, identifier: str, *, active: bool) -> None:
        """Take a bank's data offline, or bring it back, as Lean does.

        Raises:
            ValueError: The bank is unknown.
        """
        self.store.switch_bank(bank(identifier).identifier, active=active)

    def delete(self, entity_id: str) -> None:
        """Delete the entity, with its consent.

        Raises:
            ValueError: The entity is unknown.
        """
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
        moved = [self.store.settle, self.api.data.settle, webhooks.wake]
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
        if customer_id is not None:
            customer = self.store.customer_of(customer_id)
            if customer is None:
                raise ValueError("unknown customer_id")
            return customer
        user = app_user_id or f"tap-{self.store.customer_total}"
        known = self.store.customer_by_user(user)
        if known is None:
            known = self.store.create_customer(user)
        if known is None:
            raise ValueError("unknown app_user_id")
        return known

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
        root = "/_sandbox"
        return [
            Route(f"{root}/truth/{{stream}}", self._truth),
            Route(f"{root}/clock", self._read_clock),
            Route(f"{root}/clock", self._advance_clock, methods=["POST"]),
            Route(f"{root}/faults", self._add_faults, methods=["POST"]),
            Route(f"{root}/faults", self._clear_faults, methods=["DELETE"]),
            Route(f"{root}/connect", self._connect, methods=["POST"]),
            Route(f"{root}/entities/{{entity_id}}/reconsent", self._reconsent, methods=["POST"]),
            Route(f"{root}/entities/{{entity_id}}/revoke", self._revoke, methods=["POST"]),
            Route(f"{root}/entities/{{entity_id}}/history", self._limit_history, methods=["POST"]),
            Route(f"{root}/banks/{{identifier}}", self._switch_bank, methods=["POST"]),
            Route(f"{root}/requests", self._requests),
            Route(f"{root}/examples/{{kind}}", self._example),
        ]

    async def _truth(self, request: Request) -> Response:
        stream = request.path_params["stream"]
        if stream not in listings.STREAMS:
            return _json({"error": f"unknown stream {stream}"}, 404)

        lines = (dump(item) + b"\n" for item in self.truth(stream))
        return StreamingResponse(iterate_in_threadpool(lines), media_type="application/x-ndjson")

    async def _read_clock(self, _: Request) -> Response:
        return _json({"now": stamp(self.clock.nanos, 6)})

    async def _advance_clock(self, request: Request) -> Response:
        try:
            seconds = float((await _body(request))["advance_seconds"])
            self.clock.advance(dt.timedelta(seconds=seconds))
        except (KeyError, TypeError, ValueError, OverflowError):
            return _json({"error": "advance_seconds must be a number that is not negative"}, 400)
        return await self._read_clock(request)

    async def _add_faults(self, request: Request) -> Response:
        body = await _body(request)
        try:
            if "rates" in body:
                self.fault_rates = body["rates"]
            if "fault" in body:
                self.fail(
                    str(body.get("match", "")),
                    str(body["fault"]),
                    body.get("times", 1),
                    entity_id=body.get("entity_id"),
                    account_id=body.get("account_id"),
                )
        except (ValueError, AttributeError, TypeError) as error:
            return _json({"error": str(error)}, 400)
        return _json({"rates": self.fault_rates})

    async def _clear_faults(self, _: Request) -> Response:
        self.heal()
        return _json({})

    async def _connect(self, request: Request) -> Response:
        known = ("customer_id", "app_user_id", "bank_identifier", "permissions", "consent_days")
        body = await _body(request)
        try:
            return _json(self.connect(**{name: body[name] for name in known if name in body}))
        except (ValueError, TypeError) as error:
            return _json({"error": str(error)}, 400)

    async def _reconsent(self, request: Request) -> Response:
        try:
            return _json(self.reconsent(request.path_params["entity_id"]))
        except ValueError as error:
            return _json({"error": str(error)}, 404)

    async def _revoke(self, request: Request) -> Response:
        try:
            self.revoke(request.path_params["entity_id"])
        except ValueError as error:
            return _json({"error": str(error)}, 404)
        return _json({})

    async def _limit_history(self, request: Request) -> Response:
        days = (await _body(request)).get("days")
        if days is not None and (isinstance(days, bool) or not isinstance(days, int) or days < 1):
            return _json({"error": "days must be a whole number of at least 1, or null"}, 400)
        try:
            self.limit_history(request.path_params["entity_id"], days)
        except ValueError as error:
            return _json({"error": str(error)}, 404)
        return _json({})

    async def _switch_bank(self, request: Request) -> Response:
        active = (await _body(request)).get("active")
        if not isinstance(active, bool):
            return _json({"error": "active must be true or false"}, 400)
        try:
            self.switch_bank(request.path_params["identifier"], active=active)
        except ValueError as error:
            return _json({"error": str(error)}, 404)
        return _json({})

    async def _requests(self, _: Request) -> Response:
        return _json(dict(self.calls))

    async def _example(self, request: Request) -> Response:
        try:
            return _json(self.example(request.path_params["kind"]))
        except LookupError as error:
            return _json({"error": str(error)}, 404)


async def _body(request: Request) -> dict[str, Any]:
    try:
        value = orjson.loads(await request.body() or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _json(value: object, status: int = 200) -> Response:
    return Response(dump(value), status, media_type="application/json")
