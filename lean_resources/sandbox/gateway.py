"""The gateway: checks credentials, injects faults, and sends answers."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lean_resources.sandbox.clock import Clock
from lean_resources.sandbox.faults import Faults
from lean_resources.sandbox.ids import mix, text_hash
from lean_resources.sandbox.oauth import Issuer, OAuthError
from lean_resources.sandbox.replies import MESSAGES, Refusal, Reply
from lean_resources.sandbox.routes import Call, Handler, timestamp

Endpoint = Callable[[Request], Awaitable[Response]]

_FORM = "application/x-www-form-urlencoded"
_GZIP_FROM = 1024
_SECURITY = {
    "cache-control": "no-cache, no-store, max-age=0, must-revalidate",
    "strict-transport-security": "max-age=31536000 ; includeSubDomains",
}


class Gateway:
    """Checks requests, injects faults, and sends answers.

    Args:
        clock: The sandbox's clock.
        seed: The world's seed, for ids of answers.
        issuer: Issues and reads credentials.
        faults: The faults to inject.
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

    def endpoint(self, path: str, handlers: dict[str, Handler]) -> Endpoint:
        """The endpoint of a path template, with a handler per method."""
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
                mark=mix(text_hash(target), self._clock.nanos, self._seed),
            )
            self.requests[template] += 1
            self.calls[label] += 1
            return await self._answer(call, handlers[method])

        return endpoint

    async def _answer(self, call: Call, handler: Handler) -> Response:
        try:
            self._admit(call)
            call.fault = self._faults.take(
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
        """Refuse a request without exactly one valid credential."""
        authorization = call.headers.get("authorization")
        app_token = call.headers.get("lean-app-token")
        if authorization is not None and app_token is not None:
            message = MESSAGES["BOTH_HEADERS"]
            raise Refusal(400, "INVALID_PARAMETERS", message, has_results_id=False)
        if app_token is not None:
            if app_token != self._issuer.app_token:
                raise Refusal(401, "UNAUTHORIZED")
            call.scopes = frozenset({"data.read"})
            return
        scheme, _, token = (authorization or "").partition(" ")
        grant = self._issuer.read(token.strip()) if scheme.lower() == "bearer" else None
        if grant is None:
            raise Refusal(401, "UNAUTHORIZED")
        if "data.read" not in grant.scopes and "/data/" in call.label:
            raise Refusal(403, "INSUFFICIENT_ACCESS_LEVEL")
        call.scopes = grant.scopes

    async def _faulty(self, call: Call, handler: Handler) -> Reply:  # noqa: C901, PLR0911
        """Answer a request with a fault."""
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
            return Reply.json(
                {"status_code": refusal.status, "message": refusal.message}, refusal.status
            )
        if refusal.envelope:
            return Reply.json(self._empty_envelope(call, refusal), refusal.status)
        body: dict[str, Any] = {"results_id": call.results_id} if refusal.has_results_id else {}
        body |= {
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
            "meta": call.meta(),
            "timestamp": timestamp(self._clock, call),
            "status_detail": detail,
            "data": None,
            "type": None,
            "refreshed_at": None,
        }

    def error(self, status: int, code: str) -> Callable[[Request, Exception], Awaitable[Response]]:
        """The answer to a request without a matching route."""

        async def answer(request: Request, _: Exception) -> Response:
            target = request.scope["path"]
            mark = mix(text_hash(target), self._clock.nanos)
            headers = {key.lower(): value for key, value in request.headers.items()}
            call = Call("", target, {}, {}, headers, b"", mark)
            return self._respond(call, self._refused(call, Refusal(status, code)))

        return answer

    def _respond(self, call: Call, reply: Reply) -> Response:
        headers = {**_SECURITY, **reply.headers}
        headers["date"] = format_datetime(self._clock.now(), usegmt=True)
        headers["lean-correlation-id"] = call.headers.get("lean-correlation-id") or _letters(
            mix(call.mark, next(self._numbers))
        )
        headers["lean-trace-id"] = f"{call.mark:016x}{mix(call.mark, 2):016x}"
        body = reply.body
        wants = call.headers.get("accept-encoding", "")
        if self._gzip and len(body) > _GZIP_FROM and "gzip" in wants:
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            body = packer.compress(body) + packer.flush()
            headers["content-encoding"] = "gzip"
        if reply.drip is not None:
            return StreamingResponse(
                _drops(body, reply.drip), reply.status, headers, reply.media_type
            )
        kind = CutResponse if reply.cut else Response
        return kind(body, reply.status, headers, reply.media_type)

    async def token(self, request: Request) -> Response:
        """The OAuth2 endpoint: a token for the application's id and secret."""
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
                return Reply.json(self._issuer.token(form, headers.get("authorization")))
            except OAuthError as error:
                return Reply.json({"error": error.error}, error.status)

        call.fault = self._faults.take(
            call.label, call.target, entity_id=None, account_id=None, page=0
        )
        try:
            reply = await self._faulty(call, answer) if call.fault else answer(call)
        except Refusal as refusal:
            reply = self._refused(call, refusal)
        return self._respond(call, reply)


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
