"""The routes: Lean's endpoints as an ASGI application, and the sandbox's own under `/_sandbox/`."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import re
import zlib
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lean_resources.sandbox import reading, records
from lean_resources.sandbox.banks import BANKS, bank_record
from lean_resources.sandbox.clock import DAY, SECOND, day_of, nanos_of, stamp
from lean_resources.sandbox.faults import Fault, Faults
from lean_resources.sandbox.ids import mix, opaque_uuid, text_hash
from lean_resources.sandbox.oauth import Issuer, OAuthError
from lean_resources.sandbox.replies import MESSAGES, Refusal, Reply, page_of
from lean_resources.sandbox.store import ACCOUNT_STREAMS, PERMISSION_OF, Entity, Shared, Store
from lean_resources.sandbox.world import PERMISSIONS

__all__ = ["Api", "Call"]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PADDING = 2
_FORM = "application/x-www-form-urlencoded"
_GZIP_FROM = 1024
_READY_SECONDS = 20
"""How long a promised answer takes, by the sandbox clock, where webhooks are set up."""
_TYPES = {
    "identity": "identities",
    "direct_debits": "direct-debits",
    "scheduled_payments": "scheduled-payments",
    "standing_orders": "standing-orders",
}
_SHIFTS = {"repeat": -1, "skip": 1}
_KEYS = {"identity": "identities"}
_STAMP_DIGITS = {"accounts": 3, "balances": 6, "transactions": 3, "identity": 9}
_SECURITY = {
    "cache-control": "no-cache, no-store, max-age=0, must-revalidate",
    "strict-transport-security": "max-age=31536000 ; includeSubDomains",
}


@dataclass(slots=True)
class Call:
    """A request, read.

    Args:
        label: Method and path template.
        target: Path and query, as asked.
    """

    label: str
    target: str
    path: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    mark: int
    fault: Fault | None = None
    scopes: frozenset[str] = field(default_factory=frozenset)

    @property
    def results_id(self) -> str:
        """Lean's receipt for the answer."""
        return opaque_uuid(self.mark, mix(self.mark, 1))

    @property
    def entity_id(self) -> str | None:
        """The entity that is asked about, wherever the request names it."""
        if self.label == "POST /data/v2/refreshes":
            named = self.json().get("entity_id")
            return named if isinstance(named, str) else None
        return self.query.get("entity_id") or self.path.get("entity_id")

    def number(self, name: str, default: int | None, low: int, high: int | None) -> int:
        """A whole number of the query."""
        text = self.query.get(name)
        if text is None or text == "":
            if default is None:
                raise Refusal.missing(name)
            return default
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
            raise Refusal.bad_value(name, text)
        value = int(text)
        if value < low or (high is not None and value > high):
            raise Refusal.bad_value(name, text)
        return value

    def flag(self, name: str) -> bool:
        """A boolean of the query, false by default."""
        text = self.query.get(name, "false").lower()
        if text not in {"true", "false", ""}:
            raise Refusal.bad_value(name, text)
        return text == "true"

    def day(self, name: str) -> int | None:
        """A date of the query, counted in days since 1970."""
        text = self.query.get(name)
        if not text:
            return None
        if _DATE.fullmatch(text) is None:
            raise Refusal.bad_value(name, text)
        try:
            return day_of(dt.date.fromisoformat(text))
        except ValueError:
            raise Refusal.bad_value(name, text) from None

    def instant(self, name: str) -> int | None:
        """An instant of the query, in nanoseconds."""
        text = self.query.get(name)
        if not text:
            return None
        try:
            return nanos_of(dt.datetime.fromisoformat(text))
        except ValueError:
            raise Refusal.bad_value(name, text) from None

    def uuid(self, name: str, *, path: bool = False) -> str:
        """A UUID of the path or the query."""
        text = self.path.get(name) if path else self.query.get(name)
        if not text:
            raise Refusal.missing(name)
        if _UUID.fullmatch(text) is None:
            raise Refusal.bad_value(name, text)
        return text.lower()

    def json(self) -> dict[str, Any]:
        """The body, an object."""
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise Refusal.bad_value("body", "unreadable") from None
        if not isinstance(value, dict):
            raise Refusal.bad_value("body", "not an object")
        return value


@dataclass(slots=True)
class _Awaited:
    """An answer that comes by way of results."""

    call: Call
    stream: str
    entity_id: str
    left: int
    since: int
    announced: bool = False


Handler = Callable[[Call], Reply]


class Api:
    """Lean's endpoints over a store.

    Args:
        gzip: Compress long answers for clients that ask for it.
        has_events: Whether events are listed.
    """

    def __init__(
        self,
        store: Store,
        issuer: Issuer,
        faults: Faults,
        *,
        gzip: bool = True,
        has_events: bool = True,
    ) -> None:
        self.store = store
        self.clock = store.clock
        self.issuer = issuer
        self.faults = faults
        self.gzip = gzip
        self.has_events = has_events
        self.requests: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.awaited: OrderedDict[str, _Awaited] = OrderedDict()
        self._numbers = itertools.count(1)

    def app(self, own_routes: list[Route]) -> ASGIApp:
        """The ASGI application."""
        account = "/data/v2/accounts/{account_id}"
        customer = "/customers/v1/{customer_id}"
        entity = customer + "/entities/{entity_id}"
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/customers/v1", self._create_customer),
            ("GET", "/customers/v1", self._list_customers),
            ("GET", "/customers/v1/entities", self._list_entities),
            ("GET", "/customers/v1/app-user-id/{app_user_id:path}", self._customer_by_user),
            ("GET", customer, self._get_customer),
            ("GET", customer + "/entities", self._entities_of_customer),
            ("GET", entity, self._get_entity),
            ("DELETE", entity, self._delete_entity),
            ("DELETE", entity + "/consent/{consent_id}", self._delete_consent),
            ("GET", customer + "/consents", self._list_consents),
            ("GET", customer + "/consents/{consent_id}", self._get_consent),
            ("GET", "/banks/v1", self._list_banks),
            ("GET", "/data/v2/accounts", self._data("accounts")),
            ("GET", "/data/v2/identity", self._data("identity")),
            *(
                ("GET", f"{account}/{_TYPES.get(stream, stream)}", self._data(stream))
                for stream in ACCOUNT_STREAMS
            ),
            ("POST", "/data/v2/refreshes", self._start_refresh),
            ("GET", "/data/v2/refreshes", self._list_refreshes),
            ("GET", "/data/v2/refreshes/{refresh_id}", self._get_refresh),
            ("GET", "/data/v2/results/{results_id}", self._get_results),
            ("GET", "/events/v1", self._list_events),
        ]
        routes = [Route("/oauth2/token", self._token, methods=["POST"]), *own_routes]
        for path in dict.fromkeys(path for _, path, _ in table):
            handlers = {method: handler for method, at, handler in table if at == path}
            methods = list(handlers)
            routes.append(Route(path, self._endpoint(path, handlers), methods=methods))
        inner = Starlette(
            routes=routes,
            exception_handlers={
                404: self._error(404, "INVALID_URL"),
                405: self._error(405, "INVALID_HTTP_METHOD"),
            },
        )
        inner.router.redirect_slashes = False

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                path = scope["path"]
                if len(path) > 1 and path.endswith("/"):
                    scope = {**scope, "path": path.rstrip("/") or "/"}
                scope["sandbox.send"] = send
            await inner(scope, receive, send)

        return app

    # Requests on their way in and out.

    def _endpoint(
        self, path: str, handlers: dict[str, Handler]
    ) -> Callable[[Request], Awaitable[Response]]:
        template = path.replace(":path", "")

        async def endpoint(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            scope = request.scope
            query_string = scope["query_string"].decode("latin-1")
            target = f"{scope['path']}?{query_string}"
            label = f"{method} {template}"
            call = Call(
                label=label,
                target=target,
                path=request.path_params,
                query=dict(parse_qsl(query_string, keep_blank_values=True)),
                headers={
                    key.decode("latin-1"): value.decode("latin-1")
                    for key, value in scope["headers"]
                },
                body=await request.body() if method != "GET" else b"",
                mark=mix(text_hash(target), self.clock.nanos, self.store.world.seed),
            )
            self.requests[template] += 1
            self.calls[label] += 1
            return await self._answer(call, handlers[method])

        return endpoint

    async def _answer(self, call: Call, handler: Handler) -> Response:
        try:
            self._admit(call)
            call.fault = self.faults.take(
                call.label,
                call.target,
                entity_id=call.entity_id,
                account_id=call.path.get("account_id"),
                page=_page_asked(call.query),
            )
            reply = await self._faulty(call, handler) if call.fault else handler(call)
        except Refusal as refusal:
            reply = self._refused(call, refusal)
        return self._respond(call, reply)

    def _admit(self, call: Call) -> None:
        """Let only those in who show one valid credential."""
        authorization = call.headers.get("authorization")
        app_token = call.headers.get("lean-app-token")
        if authorization is not None and app_token is not None:
            message = MESSAGES["BOTH_HEADERS"]
            raise Refusal(400, "INVALID_PARAMETERS", message, has_results_id=False)
        if app_token is not None:
            if app_token != self.issuer.app_token:
                raise Refusal(401, "UNAUTHORIZED")
            call.scopes = frozenset({"data.read"})
            return
        scheme, _, token = (authorization or "").partition(" ")
        grant = self.issuer.read(token.strip()) if scheme.lower() == "bearer" else None
        if grant is None:
            raise Refusal(401, "UNAUTHORIZED")
        if "data.read" not in grant.scopes and "/data/" in call.label:
            raise Refusal(403, "INSUFFICIENT_ACCESS_LEVEL")
        call.scopes = grant.scopes

    async def _faulty(self, call: Call, handler: Handler) -> Reply:  # noqa: C901, PLR0911
        """Answer a request to which a fault happens."""
        fault = call.fault
        match fault.kind if fault else "":
            case "401":
                raise Refusal(401, "UNAUTHORIZED")
            case "429":
                wait = (fault.value if fault else "") or "1"
                raise Refusal(429, "RATE_LIMIT_EXCEEDED", headers={"retry-after": wait})
            case "429-bare":
                raise Refusal(429, "RATE_LIMIT_EXCEEDED")
            case "500":
                raise Refusal(500, "INTERNAL_SERVER_ERROR")
            case "502":
                return Reply.edge(502, "Bad gateway")
            case "503":
                return Reply.edge(503, "Service temporarily unavailable")
            case "504":
                return Reply.edge(504, "Gateway time-out")
            case "html":
                return Reply.edge(200, "Just a moment...")
            case "slow":
                await asyncio.sleep(float((fault.value if fault else "") or "1"))
                return handler(call)
            case "drip":
                reply = handler(call)
                reply.drip = float((fault.value if fault else "") or "1")
                return reply
            case "cut":
                reply = handler(call)
                reply.cut = True
                return reply
            case _:
                return handler(call)

    def _refused(self, call: Call, refusal: Refusal) -> Reply:
        if refusal.status == 401:
            reply = Reply.json({"status_code": 401, "message": "Unauthorized"}, 401)
            reply.headers["www-authenticate"] = "Bearer"
            return reply
        if refusal.short:
            told = {"status_code": refusal.status, "message": refusal.message}
            return Reply.json(told, refusal.status)
        if refusal.envelope:
            return Reply.json(self._empty_envelope(call, refusal), refusal.status)
        body: dict[str, Any] = {"results_id": call.results_id} if refusal.has_results_id else {}
        body |= {
            "timestamp": self._timestamp(call),
            "status": refusal.code,
            "message": refusal.message,
            "metadata": None,
        }
        reply = Reply.json(body, refusal.status)
        reply.headers |= refusal.headers
        return reply

    def _empty_envelope(self, call: Call, refusal: Refusal) -> dict[str, Any]:
        whole = refusal.code in {"PENDING", "CONSENT_EXPIRED", "RECONNECT_REQUIRED"}
        detail = None
        if not whole:
            detail = {
                "granular_status_code": refusal.code,
                "status_additional_info": refusal.message,
            }
        return {
            "status": refusal.code if whole else "FAILED",
            "results_id": call.results_id,
            "message": refusal.message,
            "meta": _meta(call),
            "timestamp": self._timestamp(call),
            "status_detail": detail,
            "data": None,
            "type": None,
            "refreshed_at": None,
        }

    def _error(self, status: int, code: str) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(request: Request, _: Exception) -> Response:
            target = request.scope["path"]
            mark = mix(text_hash(target), self.clock.nanos)
            headers = {key.lower(): value for key, value in request.headers.items()}
            call = Call("", target, {}, {}, headers, b"", mark)
            return self._respond(call, self._refused(call, Refusal(status, code)))

        return answer

    def _respond(self, call: Call, reply: Reply) -> Response:
        headers = {**_SECURITY, **reply.headers}
        headers["date"] = format_datetime(self.clock.now(), usegmt=True)
        headers["lean-correlation-id"] = call.headers.get("lean-correlation-id") or _letters(
            mix(call.mark, next(self._numbers))
        )
        headers["lean-trace-id"] = f"{call.mark:016x}{mix(call.mark, 2):016x}"
        body = reply.body
        wants = call.headers.get("accept-encoding", "")
        if self.gzip and len(body) > _GZIP_FROM and "gzip" in wants:
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            body = packer.compress(body) + packer.flush()
            headers["content-encoding"] = "gzip"
        if reply.drip is not None:
            return StreamingResponse(
                _drops(body, reply.drip), reply.status, headers, reply.media_type
            )
        kind = CutResponse if reply.cut else Response
        return kind(body, reply.status, headers, reply.media_type)

    def _timestamp(self, call: Call) -> str:
        return stamp(self.clock.nanos + call.mark % 1_000_000, 9)

    async def _token(self, request: Request) -> Response:
        self.requests["/oauth2/token"] += 1
        self.calls["POST /oauth2/token"] += 1
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        headers = dict(request.headers)
        mark = mix(next(self._numbers))
        call = Call("POST /oauth2/token", "/oauth2/token", {}, {}, headers, b"", mark)

        def answer(_: Call) -> Reply:
            if not headers.get("content-type", "").startswith(_FORM):
                return Reply.json({"error": "invalid_request"}, 400)
            try:
                return Reply.json(self.issuer.token(form, headers.get("authorization")))
            except OAuthError as error:
                return Reply.json({"error": error.error}, error.status)

        call.fault = self.faults.take(
            call.label, call.target, entity_id=None, account_id=None, page=0
        )
        try:
            reply = await self._faulty(call, answer) if call.fault else answer(call)
        except Refusal as refusal:
            reply = self._refused(call, refusal)
        return self._respond(call, reply)

    # Customers, entities, consents and banks.

    def _customer(self, call: Call) -> int:
        customer = self.store.customer_of(call.uuid("customer_id", path=True))
        if customer is None:
            raise Refusal(404, "UNKNOWN_CUSTOMER")
        return customer

    def _entity_of_customer(self, call: Call) -> Entity:
        customer = self._customer(call)
        entity = self.store.find_entity(call.uuid("entity_id", path=True))
        if entity is None or entity.blueprint.customer != customer or self._is_gone(entity):
            raise Refusal(404, "UNKNOWN_ENTITY")
        return entity

    def _is_gone(self, entity: Entity) -> bool:
        return entity.deleted <= self.clock.nanos

    def _create_customer(self, call: Call) -> Reply:
        app_user_id = call.json().get("app_user_id")
        if not isinstance(app_user_id, str) or not 1 <= len(app_user_id) <= 255:
            raise Refusal.bad_value("app_user_id", app_user_id)
        customer = self.store.create_customer(app_user_id)
        if customer is None:
            raise Refusal(409, "CUSTOMER_ALREADY_EXISTS", has_results_id=False)
        return Reply.json(records.customer_record(self.store, customer))

    def _list_customers(self, call: Call) -> Reply:
        number, size = (
            call.number("page_number", None, 0, None),
            call.number("page_size", None, 1, 100),
        )
        total = self.store.customer_total
        places = range(total)[number * size : (number + 1) * size]
        data = [records.customer_record(self.store, customer) for customer in places]
        return Reply.json({"data": data, "page": page_of(number, size, total)})

    def _get_customer(self, call: Call) -> Reply:
        return Reply.json(records.customer_record(self.store, self._customer(call)))

    def _customer_by_user(self, call: Call) -> Reply:
        customer = self.store.customer_by_user(call.path["app_user_id"])
        if customer is None:
            raise Refusal(404, "UNKNOWN_CUSTOMER")
        return Reply.json(records.customer_record(self.store, customer))

    def _list_entities(self, call: Call) -> Reply:
        first, last = call.day("start_date"), call.day("end_date")
        for name, day in (("start_date", first), ("end_date", last)):
            if day is None:
                raise Refusal.missing(name)
            if day > self.clock.today:
                raise Refusal(
                    400,
                    "INVALID_PARAMETERS",
                    f"{name}: must be a date in the past or in the present",
                )
        number = call.number("page_number", 0, 0, None)
        size = call.number("page_size", 100, 1, 100)
        if first is None or last is None or first > last:
            raise Refusal.bad_value("end_date", call.query["end_date"])
        places = range(self.store.entity_total)
        low = bisect_left(places, first * DAY, key=self.store.created_at)
        high = bisect_left(places, (last + 1) * DAY, key=self.store.created_at)
        newest_first = range(high - 1, low - 1, -1)
        data = [
            records.entity_record(
                self.store, self.store.entity(self.store.entity_key_at(place)), listed=True
            )
            for place in newest_first[number * size : (number + 1) * size]
        ]
        return Reply.json({"data": data, "page": page_of(number, size, len(newest_first))})

    def _entities_of_customer(self, call: Call) -> Reply:
        found = self.store.entities_of(self._customer(call))
        return Reply.json(
            [records.entity_record(self.store, one) for one in found if not self._is_gone(one)]
        )

    def _get_entity(self, call: Call) -> Reply:
        return Reply.json(records.entity_record(self.store, self._entity_of_customer(call)))

    def _delete_entity(self, call: Call) -> Reply:
        entity = self._entity_of_customer(call)
        given = call.query.get("reason") or (call.json().get("reason") if call.body else None)
        if given != "USER_REQUESTED":
            raise Refusal.bad_value("reason", given)
        self.store.delete(entity)
        return Reply.json({})

    def _delete_consent(self, call: Call) -> Reply:
        entity = self._entity_of_customer(call)
        wanted = call.uuid("consent_id", path=True)
        if call.query.get("reason") != "USER_REQUESTED":
            raise Refusal.bad_value("reason", call.query.get("reason"))
        if wanted != records.consent_id(self.store, entity, len(entity.consents) - 1):
            raise Refusal(404, "UNKNOWN_CONSENT")
        self.store.revoke(entity)
        return Reply.json({})

    def _consents(self, call: Call) -> list[dict[str, Any]]:
        customer = self.store.customer_of(call.uuid("customer_id", path=True))
        if customer is None:
            raise Refusal(403, "UNKNOWN_CUSTOMER", short=True)
        found = [
            records.consent_record(self.store, entity, place, listed=True)
            for entity in self.store.entities_of(customer)
            for place in range(len(entity.consents))
        ]
        found.sort(key=lambda one: str(one["creation_date_time"]), reverse=True)
        return found

    def _list_consents(self, call: Call) -> Reply:
        found = self._consents(call)
        number, size = call.number("pageNumber", 0, 0, None), call.number("pageSize", 20, 1, 100)
        data = found[number * size : (number + 1) * size]
        return Reply.json({"data": data, "page": page_of(number, size, len(found))})

    def _get_consent(self, call: Call) -> Reply:
        wanted = call.uuid("consent_id", path=True)
        for one in self._consents(call):
            if one["id"] == wanted:
                return Reply.json(one)
        raise Refusal(404, "UNKNOWN_CONSENT", short=True)

    def _list_banks(self, call: Call) -> Reply:
        kind = call.query.get("account_types") or "PERSONAL"
        if kind not in {"PERSONAL", "BUSINESS"}:
            raise Refusal.bad_value("account_types", kind)
        inactive = self.store.inactive
        return Reply.json(
            [
                bank_record(one, active=one.identifier not in inactive)
                for one in BANKS.values()
                if one.business == (kind == "BUSINESS")
            ]
        )

    # Data.

    def _data(self, stream: str) -> Handler:
        def handler(call: Call) -> Reply:
            entity = self._entity_asked(call)
            return self._read(call, stream, entity)

        return handler

    def _entity_asked(self, call: Call) -> Entity:
        entity = self.store.find_entity(call.uuid("entity_id"))
        if entity is None or self._is_gone(entity):
            raise Refusal(404, "UNKNOWN_ENTITY")
        return entity

    def _read(self, call: Call, stream: str, entity: Entity) -> Reply:
        number, size = call.number("page", 0, 0, None), call.number("size", 50, 1, 100)
        flags = {
            name: call.flag(name) for name in ("async", "verbose", "insights", "force_refresh")
        }
        meta = _meta(call)
        shared = self._permitted(call, stream, entity)
        days = self._days_asked(call, entity) if stream == "transactions" else None
        self._must_be_stored(call, stream, entity)
        if flags["async"]:
            self._await(call, stream, entity, 0, 202)
        found = reading.listing(
            self.store,
            entity,
            stream,
            shared,
            verbose=flags["verbose"],
            insights=flags["insights"],
            days=days,
        )
        start, total, landed = number * size, found.total, entity.marks[stream][1]
        drift = call.fault.kind if call.fault is not None else ""
        start += _SHIFTS.get(drift, 0)
        total += drift == "total-drift"
        landed += 61 * SECOND if drift == "refresh-drift" else 0
        kind = _TYPES.get(stream, stream)
        shown = found.between(start, start + size)
        data: dict[str, Any] = {"type": kind, _KEYS.get(stream, stream): shown}
        if stream == "identities":
            data["account_id"] = None
        data["page"] = page_of(number, size, total)
        envelope: dict[str, Any] = {
            "status": "OK",
            "results_id": call.results_id,
            "message": "Data successfully retrieved",
            "meta": meta,
            "timestamp": self._timestamp(call),
            "status_detail": None,
            "data": data,
        }
        if stream not in entity.bank.omits:
            envelope["type"] = kind
            envelope["refreshed_at"] = stamp(landed, _STAMP_DIGITS.get(stream, 3))
        return Reply.json(envelope)

    def _permitted(self, call: Call, stream: str, entity: Entity) -> Shared | None:
        """The account asked for, once the consent is seen to cover it."""
        self._must_be_open(entity)
        shared = self._account_asked(call, entity) if stream in ACCOUNT_STREAMS else None
        if PERMISSION_OF[stream] not in entity.consent.permissions:
            raise Refusal(403, "USER_PERMISSIONS_NOT_GRANTED")
        return shared

    def _must_be_stored(self, call: Call, stream: str, entity: Entity) -> None:
        """Refuse what the store does not hold, for a reason of the bank, of Lean or a fault."""
        if entity.bank.identifier in self.store.inactive:
            raise Refusal(200, "DISABLED_BY_LEAN", envelope=True)
        if stream in entity.bank.lacks:
            raise Refusal(200, "UNSUPPORTED_BY_BANK", envelope=True)
        if call.fault is not None:
            self._envelope_fault(call, stream, entity, call.fault)
        if stream not in entity.marks:
            if entity.pending() is not None:
                self._await(call, stream, entity, 0, 200)
            raise Refusal(200, "BANK_ISSUE", envelope=True)

    def _must_be_open(self, entity: Entity) -> None:
        if not entity.is_open(self.clock.nanos):
            status = entity.bank.expired_status
            raise Refusal(status, "CONSENT_EXPIRED", envelope=status == 200)

    def _account_asked(self, call: Call, entity: Entity) -> Shared:
        wanted = call.uuid("account_id", path=True)
        for shared in self.store.shared(entity):
            if shared.account_id == wanted:
                return shared
        raise Refusal(404, "UNKNOWN_ACCOUNT")

    def _days_asked(self, call: Call, entity: Entity) -> tuple[int, int] | None:
        first, last = call.day("start_date"), call.day("end_date")
        for name, day in (("start_date", first), ("end_date", last)):
            if day is not None and day > self.clock.today:
                raise Refusal(
                    400,
                    "INVALID_PARAMETERS",
                    f"{name}: must be a date in the past or in the present",
                )
        if first is None and last is None:
            return None
        granted_from, granted_to = reading.window(entity)
        first = granted_from if first is None else first
        last = min(self.clock.today, granted_to) if last is None else last
        if first > last:
            raise Refusal.bad_value("end_date", call.query.get("end_date"))
        if first < granted_from - _PADDING or last > granted_to + _PADDING:
            raise Refusal(403, "USER_TRANSACTION_RANGE_NOT_GRANTED")
        return first, last

    def _envelope_fault(self, call: Call, stream: str, entity: Entity, fault: Fault) -> None:
        match fault.kind:
            case "failed":
                raise Refusal(200, fault.value.upper() or "BANK_ISSUE", envelope=True)
            case "consent_expired":
                status = entity.bank.expired_status
                raise Refusal(status, "CONSENT_EXPIRED", envelope=status == 200)
            case "reconnect_required":
                raise Refusal(200, "RECONNECT_REQUIRED", envelope=True)
            case "pending":
                self._await(call, stream, entity, int(fault.value or 2), 200)
            case "pending-202":
                self._await(call, stream, entity, int(fault.value or 2), 202)

    def _await(self, call: Call, stream: str, entity: Entity, looks: int, status: int) -> None:
        """Promise the answer for later.

        Raises:
            Refusal: Always: the PENDING envelope is the answer for now.
        """
        call.mark = mix(call.mark, next(self._numbers))
        call.query.pop("async", None)
        call.fault = None
        self.awaited[call.results_id] = _Awaited(call, stream, entity.id, looks, self.clock.nanos)
        if len(self.awaited) > 10_000:
            self.awaited.popitem(last=False)
        raise Refusal(
            status, "PENDING", "Please wait for a webhook or try again later.", envelope=True
        )

    def _get_results(self, call: Call) -> Reply:
        awaited = self.awaited.get(call.uuid("results_id", path=True))
        if awaited is None:
            raise Refusal(404, "UNKNOWN_RESULTS_ID")
        entity = self.store.find_entity(awaited.entity_id)
        if entity is None or self._is_gone(entity):
            raise Refusal(404, "UNKNOWN_RESULTS_ID")
        self.store.poll(entity)
        if awaited.left > 0 or awaited.stream not in entity.marks:
            awaited.left -= 1
            raise Refusal(404, "UNKNOWN_RESULTS_ID")
        self._announce(awaited)
        paging: dict[str, str] = {
            name: call.query[name] for name in ("page", "size") if name in call.query
        }
        asked = awaited.call
        again = Call(
            label=asked.label,
            target=asked.target,
            path=asked.path,
            query=asked.query | paging,
            headers=asked.headers,
            body=b"",
            mark=asked.mark,
            scopes=asked.scopes,
        )
        return self._read(again, awaited.stream, entity)

    def settle(self) -> None:
        """Let answers that were promised be ready when their time has come, though nobody looks."""
        for awaited in list(self.awaited.values()):
            entity = self.store.find_entity(awaited.entity_id)
            is_due = self.clock.nanos >= awaited.since + _READY_SECONDS * SECOND
            if is_due and entity is not None and awaited.stream in entity.marks:
                awaited.left = 0
                self._announce(awaited)

    def _announce(self, awaited: _Awaited) -> None:
        if not awaited.announced:
            awaited.announced = True
            payload = {"id": awaited.call.results_id}
            self.store.announce("results.ready", payload, "Your results are ready.")

    # Refreshes and events.

    def _start_refresh(self, call: Call) -> Reply:
        body = call.json()
        entity_id = body.get("entity_id")
        if not isinstance(entity_id, str) or _UUID.fullmatch(entity_id) is None:
            raise Refusal.bad_value("entity_id", entity_id)
        wanted = body.get("data_types")
        if wanted is not None and (
            not isinstance(wanted, list) or not set(map(str, wanted)) <= set(PERMISSIONS)
        ):
            raise Refusal.bad_value("data_types", wanted)
        entity = self.store.find_entity(entity_id)
        if entity is None or self._is_gone(entity):
            raise Refusal(404, "UNKNOWN_ENTITY")
        if not entity.is_open(self.clock.nanos):
            raise Refusal(403, "CONSENT_EXPIRED", has_results_id=False)
        fault = call.fault
        if fault is not None and fault.kind == "reconnect_required":
            return Reply.json(
                {
                    "reconnect_id": call.results_id,
                    "refresh_id": call.results_id,
                    "status": "RECONNECT_REQUIRED",
                    "message": MESSAGES["RECONNECT_REQUIRED"],
                    "timestamp": self._timestamp(call),
                    "metadata": None,
                }
            )
        failed = frozenset[str]()
        if fault is not None and fault.kind == "refresh-failed":
            failed = frozenset(fault.value.replace(" ", "").split(","))
        left_out = frozenset(
            stream
            for stream, permission in PERMISSION_OF.items()
            if wanted is not None and permission not in wanted
        )
        is_stuck = fault is not None and fault.kind == "refresh-stuck"
        refresh = self.store.start_refresh(entity, failed, left_out, is_stuck=is_stuck)
        if refresh is None:
            raise Refusal(429, "DUPLICATED_REQUEST", has_results_id=False)
        return Reply.json(
            {
                "refresh_id": self.store.refresh_id(entity, refresh),
                "status": "OK",
                "message": "Data refresh triggered successfully",
                "timestamp": self._timestamp(call),
            }
        )

    def _list_refreshes(self, call: Call) -> Reply:
        number, size = call.number("page", 0, 0, None), call.number("size", 50, 1, 100)
        entity = self._entity_asked(call)
        self.store.poll(entity)
        newest_first = entity.refreshes[::-1]
        content = [
            records.refresh_record(self.store, entity, refresh, detail=False)
            for refresh in newest_first[number * size : (number + 1) * size]
        ]
        return Reply.json({"content": content, "page": page_of(number, size, len(newest_first))})

    def _get_refresh(self, call: Call) -> Reply:
        found = self.store.find_refresh(call.uuid("refresh_id", path=True))
        if found is None or self._is_gone(found[0]):
            raise Refusal(404, "UNKNOWN_REFRESH")
        entity, refresh = found
        if refresh.finished is None:
            self.store.poll(entity)
        return Reply.json(records.refresh_record(self.store, entity, refresh, detail=True))

    def _list_events(self, call: Call) -> Reply:
        if not self.has_events:
            raise Refusal(404, "INVALID_URL")
        number, size = call.number("page", None, 0, None), call.number("size", None, 1, 100)
        since, until = call.instant("from"), call.instant("to")
        kind = call.query.get("type")
        found = [
            event
            for event in list(self.store.events)
            if (kind is None or event["type"] == kind)
            and (since is None or _event_instant(event) >= since)
            and (until is None or _event_instant(event) <= until)
        ]
        data = found[number * size : (number + 1) * size]
        return Reply.json({"data": data, "page": page_of(number, size, len(found))})


async def _drops(body: bytes, seconds: float) -> AsyncIterator[bytes]:
    """A body, a byte at a time."""
    for byte in body:
        yield bytes([byte])
        await asyncio.sleep(seconds)


class CutResponse(Response):
    """A response whose connection ends in the middle of the body."""

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,  # noqa: ARG002 - ASGI's signature
        send: Send,
    ) -> None:
        """Announce the whole body, send half of it and hang up."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        half = bytes(self.body)[: len(self.body) // 2]
        # A real server is made to drop its connection; in process there is none, and the half
        # body with the whole length is all that a client can see.
        server = getattr(scope.get("sandbox.send"), "__self__", None)
        transport = getattr(server, "transport", None)
        await send({"type": "http.response.body", "body": half, "more_body": transport is not None})
        if transport is not None:
            transport.close()
            await asyncio.sleep(0.01)


def _page_asked(query: dict[str, str]) -> int:
    text = query.get("page") or query.get("page_number") or query.get("pageNumber") or "0"
    return int(text) if text.isascii() and text.isdigit() else 0


def _event_instant(event: dict[str, Any]) -> int:
    return nanos_of(dt.datetime.fromisoformat(event["timestamp"]))


def _meta(call: Call) -> dict[str, str] | None:
    text = call.query.get("meta")
    if not text:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Refusal.bad_value("meta", text) from None
    if not isinstance(value, dict):
        raise Refusal.bad_value("meta", text)
    return {str(key): str(one) for key, one in value.items()}


def _letters(draw: int) -> str:
    return "".join(chr(97 + (draw >> place * 4) % 26) for place in range(16))
