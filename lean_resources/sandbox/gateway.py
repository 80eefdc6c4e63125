"""The gateway: routes requests, checks credentials, injects faults, and sends answers."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lean_resources.sandbox.clock import Clock
from lean_resources.sandbox.faults import Faults
from lean_resources.sandbox.ids import mix, text_hash
from lean_resources.sandbox.oauth import Issuer, OAuthError
from lean_resources.sandbox.replies import MESSAGES, Refusal, Reply
from lean_resources.sandbox.routes import Call, Handler, Path, timestamp

_TOKEN = "/oauth2/token"  # noqa: S105 - a path
_FORM = "application/x-www-form-urlencoded"
_GZIP_FROM = 1024
_SECURITY = {
    "cache-control": "no-cache, no-store, max-age=0, must-revalidate",
    "strict-transport-security": "max-age=31536000 ; includeSubDomains",
}
_REFUSED = {
    "401": (401, "UNAUTHORIZED"),
    "429": (429, "RATE_LIMIT_EXCEEDED"),
    "429-bare": (429, "RATE_LIMIT_EXCEEDED"),
    "500": (500, "INTERNAL_SERVER_ERROR"),
}
_EDGE = {
    "502": (502, "Bad gateway"),
    "503": (503, "Service temporarily unavailable"),
    "504": (504, "Gateway time-out"),
    "html": (200, "Just a moment..."),
}


class Gateway:
    """Checks requests, injects faults, and sends answers.

    Args:
        seed: The world's seed, for ids of answers.
        numbers: Numbers that make the ids of answers unique.
        gzip: Whether to compress long answers for clients that accept it.
    """

    def __init__(
        self,
        clock: Clock,
        seed: int,
        issuer: Issuer,
        faults: Faults,
        numbers: Iterator[int],
        *,
        gzip: bool,
    ) -> None:
        self._clock = clock
        self._seed = seed
        self._issuer = issuer
        self._faults = faults
        self._numbers = numbers
        self._gzip = gzip
        self.requests: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def app(self, table: Sequence[Path], own_routes: Sequence[Route]) -> ASGIApp:
        """The ASGI application: Lean's endpoints, that of tokens, and the sandbox's own."""
        table = [*table, ("POST", _TOKEN, self._token)]
        routes = list(own_routes)
        for path in dict.fromkeys(path for _, path, _ in table):
            handlers = {method: handler for method, at, handler in table if at == path}
            routes.append(Route(path, self._endpoint(path, handlers), methods=list(handlers)))
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

    def _endpoint(
        self, path: str, handlers: dict[str, Handler]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of a path template, with a handler per method."""
        template = path.replace(":path", "")

        async def endpoint(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            label = f"{method} {template}"
            body = await request.body() if method != "GET" else b""
            call = self._call(request, label, request.path_params, body)
            self.requests[template] += 1
            self.calls[label] += 1
            try:
                reply = await self._answer(call, handlers[method])
            except Refusal as refusal:
                reply = self._refused(call, refusal)
            return self._respond(call, reply)

        return endpoint

    def _call(self, request: Request, label: str, path: dict[str, str], body: bytes) -> Call:
        query_string = request.scope["query_string"].decode("latin-1")
        target = f"{request.scope['path']}?{query_string}"
        return Call(
            label=label,
            target=target,
            path=path,
            query=dict(parse_qsl(query_string, keep_blank_values=True)),
            headers={
                key.decode("latin-1").lower(): value.decode("latin-1")
                for key, value in request.scope["headers"]
            },
            body=body,
            mark=mix(text_hash(target), self._clock.nanos, self._seed),
        )

    def _admit(self, call: Call) -> None:
        """Refuse a request without exactly one valid credential."""
        authorization = call.headers.get("authorization")
        app_token = call.headers.get("lean-app-token")
        if authorization is not None and app_token is not None:
            message = MESSAGES["BOTH_HEADERS"]
            raise Refusal(400, "INVALID_PARAMETERS", message, has_results_id=False)
        if app_token is not None:
            if app_token != self._issuer.app_token:
                raise Refusal(401, "UNAUTHORIZED")
            return
        scheme, _, token = (authorization or "").partition(" ")
        grant = self._issuer.read(token.strip()) if scheme.lower() == "bearer" else None
        if grant is None:
            raise Refusal(401, "UNAUTHORIZED")
        if "data.read" not in grant.scopes and "/data/" in call.label:
            raise Refusal(403, "INSUFFICIENT_ACCESS_LEVEL")

    async def _answer(self, call: Call, handler: Handler) -> Reply:
        """Answer a request, perhaps with a fault."""
        if _TOKEN not in call.label:
            self._admit(call)
        call.fault = fault = self._faults.take(
            call.label,
            call.target,
            entity_id=call.entity_id,
            account_id=call.path.get("account_id"),
            page=_page_asked(call.query),
        )
        if fault is None:
            return handler(call)
        kind, value = fault.kind, fault.value or "1"
        if kind in _REFUSED:
            headers = {"retry-after": value} if kind == "429" else {}
            raise Refusal(*_REFUSED[kind], headers=headers)
        if kind in _EDGE:
            return Reply.edge(*_EDGE[kind])
        if kind == "slow":
            await asyncio.sleep(float(value))
        reply = handler(call)
        reply.cut = kind == "cut"
        reply.drip = float(value) if kind == "drip" else None
        return reply

    def _token(self, call: Call) -> Reply:
        """A token for the application's id and secret."""
        if not call.headers.get("content-type", "").startswith(_FORM):
            return Reply.json({"error": "invalid_request"}, 400)
        form = dict(parse_qsl(call.body.decode("utf-8", "replace")))
        try:
            return Reply.json(self._issuer.token(form, call.headers.get("authorization")))
        except OAuthError as error:
            return Reply.json({"error": error.error}, error.status)

    def _refused(self, call: Call, refusal: Refusal) -> Reply:
        if refusal.status == 401:
            reply = Reply.json({"status_code": 401, "message": "Unauthorized"}, 401)
            reply.headers["www-authenticate"] = "Bearer"
            return reply
        body: dict[str, Any]
        if refusal.short:
            body = {"status_code": refusal.status, "message": refusal.message}
        elif refusal.envelope:
            body = self._empty_envelope(call, refusal)
        else:
            body = {
                **({"results_id": call.results_id} if refusal.has_results_id else {}),
                "timestamp": timestamp(self._clock, call),
                "status": refusal.code,
                "message": refusal.message,
                "metadata": None,
            }
        reply = Reply.json(body, refusal.status)
        reply.headers |= refusal.headers
        return reply

    def _empty_envelope(self, call: Call, refusal: Refusal) -> dict[str, Any]:
        whole = refusal.code in {"PENDING", "CONSENT_EXPIRED", "RECONNECT_REQUIRED"}
        detail = {
            "granular_status_code": refusal.code,
            "status_additional_info": refusal.message,
        }
        return {
            "status": refusal.code if whole else "FAILED",
            "results_id": call.results_id,
            "message": refusal.message,
            "meta": call.meta(),
            "timestamp": timestamp(self._clock, call),
            "status_detail": None if whole else detail,
            "data": None,
            "type": None,
            "refreshed_at": None,
        }

    def _error(self, status: int, code: str) -> Callable[[Request, Exception], Awaitable[Response]]:
        """The answer to a request without a matching route."""

        async def answer(request: Request, _: Exception) -> Response:
            call = self._call(request, "", {}, b"")
            return self._respond(call, self._refused(call, Refusal(status, code)))

        return answer

    def _respond(self, call: Call, reply: Reply) -> Response:
        number = mix(call.mark, next(self._numbers))
        headers = {
            **_SECURITY,
            **reply.headers,
            "date": format_datetime(self._clock.now(), usegmt=True),
            "lean-correlation-id": call.headers.get("lean-correlation-id") or _letters(number),
            "lean-trace-id": f"{call.mark:016x}{mix(call.mark, 2):016x}",
        }
        body = reply.body
        wants = call.headers.get("accept-encoding", "")
        if self._gzip and len(body) > _GZIP_FROM and "gzip" in wants:
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            body = packer.compress(body) + packer.flush()
            headers["content-encoding"] = "gzip"
        if reply.drip is not None:
            drops = _drops(body, reply.drip)
            return StreamingResponse(drops, reply.status, headers, reply.media_type)
        kind = CutResponse if reply.cut else Response
        return kind(body, reply.status, headers, reply.media_type)


async def _drops(body: bytes, seconds: float) -> AsyncIterator[bytes]:
    """Yield a body byte by byte."""
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
        """Announce the length of the whole body, send half of it, and close the connection."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        half = bytes(self.body)[: len(self.body) // 2]
        # A real server drops its connection. In process there is no connection, so a client only
        # sees half of the body with the length of the whole.
        server = getattr(scope.get("sandbox.send"), "__self__", None)
        transport = getattr(server, "transport", None)
        await send({"type": "http.response.body", "body": half, "more_body": transport is not None})
        if transport is not None:
            transport.close()
            await asyncio.sleep(0.01)


def _page_asked(query: dict[str, str]) -> int:
    text = query.get("page") or query.get("page_number") or query.get("pageNumber") or "0"
    return int(text) if text.isascii() and text.isdigit() else 0


def _letters(draw: int) -> str:
    return "".join(chr(97 + (draw >> place * 4) % 26) for place in range(16))
