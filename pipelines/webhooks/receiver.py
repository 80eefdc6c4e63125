"""The receiver: an ASGI application that answers 200 once a webhook of Lean is on disk.

A refused webhook is counted and leaves no further trace. An answer repeats nothing of the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.config import LOGGING_CONFIG

from lean_resources.errors import SchemaError, SignatureError, UnavailableError
from lean_resources.settings import Network, WebhookSettings
from lean_resources.webhooks import Event, read_event, verify
from pipelines import logs
from pipelines.webhooks.connections import Connection, Connections
from pipelines.webhooks.inbox import Inbox

PATH = "/webhooks/lean"
_INSIDE = frozenset({"/healthz", "/readyz", "/metrics"})
_ROOM = 20_000
"""Events that may wait for the disk. More are refused, and Lean sends those again."""
_ROOM_BYTES = 64 * 1024 * 1024
"""Limit for all bodies that are read at once, before their signatures are verified."""
_BATCH = 1_000
_STORE_SECONDS = 8.0
"""Lean waits ten seconds for an answer."""
_PATIENCE_SECONDS = 30.0
_PRUNE_SECONDS = 6 * 3600.0
_SAY_SECONDS = 60.0
"""Time between two log lines about refused webhooks."""

_COMMIT_SECONDS = 0.01
"""Shortest time between two commits, so that a busy inbox commits fewer and larger batches."""

_SENDER = re.compile(r"(?:\[([^]]*:[^]]*)\]|([^:[]*))(?::[0-9]{1,5})?|([^[].*)")
"""An IPv6 address in brackets or an IPv4 address, with or without a port; or a plain address."""

_Headers = Mapping[bytes, Sequence[bytes]]
_LOG = logging.getLogger(__name__)


class _Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """A message that is refused.

    Args:
        status_code: 400, 401, 413 or 503.
        reason: The label of the metric, one word.
        why: The reason for the log.
    """

    def __init__(self, status_code: int, reason: str, why: str = "") -> None:
        super().__init__(reason)
        self.status_code = status_code
        self.reason = reason
        self.why = why


class _Metrics:
    """Metrics for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def histogram(name: str, doc: str, *buckets: float) -> Histogram:
            return Histogram(f"leanhouse_{name}", doc, buckets=buckets, registry=self.registry)

        self.answers = Counter(
            "leanhouse_webhooks",
            "Webhooks by answer: stored, or the reason for the refusal.",
            ["status_code", "outcome"],
            registry=self.registry,
        )
        self.seconds = histogram(
            "webhook_seconds", "Seconds from the first byte of a webhook to its answer.",
            0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
        )  # fmt: skip
        self.batch = histogram(
            "inbox_commit_events", "Events that were committed together.",
            1, 2, 5, 10, 25, 50, 100, 250, 500, 1000,
        )  # fmt: skip
        self.commit_seconds = histogram(
            "inbox_commit_seconds", "Seconds that a commit took.",
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5,
        )  # fmt: skip
        self.last = Gauge(
            "leanhouse_webhook_last_stored_timestamp_seconds",
            "When the last event was stored.",
            registry=self.registry,
        )
        self.states = Gauge(
            "leanhouse_inbox_events", "Events in the inbox.", ["state"], registry=self.registry
        )


class _Complaints:
    """Logs refusals with 503: the first at once, later refusals in one line per minute."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._is_quiet = False

    def note(self, why: str) -> None:
        """Count a refusal; `why` must not contain any part of the request."""
        self._counts[why] = self._counts.get(why, 0) + 1
        if not self._is_quiet:
            self._say()

    def _say(self) -> None:
        self._is_quiet = bool(self._counts)
        if self._counts:
            reasons = "; ".join(f"{count:,} times {why}" for why, count in self._counts.items())
            _LOG.warning("answered 503, so that Lean sends the webhooks again: %s", reasons)
            self._counts.clear()
            asyncio.get_running_loop().call_later(_SAY_SECONDS, self._say)


class _Postbox:
    """Group commit: events that arrive while a batch is written form the next batch.

    A commit waits for the disk. Many webhooks share a commit, so its cost hardly grows with their
    number.
    """

    def __init__(self, inbox: Inbox, metrics: _Metrics) -> None:
        self._inbox = inbox
        self._metrics = metrics
        self._waiting: list[tuple[Event, asyncio.Future[None]]] = []
        self._has_come = asyncio.Event()

    async def put(self, event: Event) -> None:
        """Store an event; when this returns, the event is on disk.

        Raises:
            UnavailableError: The event could not be stored.
            TimeoutError: The event was not stored in time, but may be stored later.
        """
        if len(self._waiting) >= _ROOM:
            raise UnavailableError("too many events wait for the disk", code="INBOX")
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((event, stored))
        self._has_come.set()
        async with asyncio.timeout(_STORE_SECONDS):
            await stored

    async def run(self) -> None:
        """Write batches until cancelled."""
        prune_at = commit_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await self._has_come.wait()
            if (early := commit_at - loop.time()) > 0:
                await asyncio.sleep(early)
            commit_at = loop.time() + _COMMIT_SECONDS
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            if not self._waiting:
                self._has_come.clear()
            await self._store(batch)
            if loop.time() > prune_at:
                prune_at = loop.time() + _PRUNE_SECONDS
                with contextlib.suppress(UnavailableError):
                    await asyncio.to_thread(self._inbox.prune)

    async def _store(self, batch: list[tuple[Event, asyncio.Future[None]]]) -> None:
        started = time.monotonic()
        problem: UnavailableError | None = None
        try:
            if await asyncio.to_thread(self._inbox.add, [event for event, _ in batch]):
                self._metrics.last.set_to_current_time()
        except UnavailableError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - the requests need an answer, the next batch a writer
            _LOG.exception("a batch of events could not be stored")
            problem = UnavailableError(type(error).__name__, code="INBOX")
        self._metrics.commit_seconds.observe(time.monotonic() - started)
        self._metrics.batch.observe(len(batch))
        for _, stored in batch:
            if stored.done():
                continue
            if problem is None:
                stored.set_result(None)
            else:
                stored.set_exception(problem)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The sender's address as proxies write it, with or without a port; None if it is invalid.

    Examples: `203.0.113.7`, `203.0.113.7:443`, `2001:db8::5`, `[2001:db8::5]`,
    `[2001:db8::5]:443`. An IPv4 address mapped into IPv6 becomes the IPv4 address.
    """
    found = _SENDER.fullmatch(text.strip())
    try:
        sender = ipaddress.ip_address((found[1] or found[2] or found[3]) if found else "")
    except ValueError:
        return None
    return getattr(sender, "ipv4_mapped", None) or sender


def _plain(network: Network) -> Network:
    """A network; IPv4 if it is written as IPv6 but contains only IPv4 addresses."""
    first = network.network_address
    if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.IPv4Network((first.ipv4_mapped, network.prefixlen - 96))
    return network


class Receiver:
    """Receives webhooks into an inbox.

    Args:
        inbox: Where events are stored; its tables are created on start.
    """

    def __init__(self, settings: WebhookSettings, inbox: Inbox) -> None:
        self._settings = settings
        self._inbox = inbox
        self._secrets = settings.secrets
        self._allow = [_plain(network) for network in settings.allow]
        token = settings.app_token
        self._app_token = token.get_secret_value().encode() if token is not None else None
        self._metrics = _Metrics()
        self._complaints = _Complaints()
        self._held_bytes = 0
        self._postbox: _Postbox | None = None
        self._counts = lru_cache(None)(self._metrics.answers.labels)
        self._others = Starlette(
            routes=[
                Route(PATH, self._health, methods=["POST"]),  # answers 405 to other methods
                Route("/healthz", self._health),
                Route("/readyz", self._ready),
                Route("/metrics", self._show_metrics),
            ],
            lifespan=self._lifespan,
        )
        self._others.router.redirect_slashes = False

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self._inbox.create)
        self._postbox = _Postbox(self._inbox, self._metrics)
        writing = asyncio.create_task(self._postbox.run())
        try:
            yield
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            self._inbox.close()

    def connections(self) -> Connections:
        """The limits of all connections."""
        allow, hops = self._settings.allow, self._settings.trusted_hops
        return Connections(
            self._settings.head_seconds,
            self._settings.max_bytes,
            is_allowed=lru_cache(4096)(self._is_listed) if allow and not hops else None,
            is_proxied=hops > 0,
            count=self._turned_away,
        )

    def _turned_away(self, status_code: int, reason: str) -> None:
        self._metrics.answers.labels(str(status_code), reason).inc()
        if status_code == 503:
            self._complaints.note(reason)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer webhooks without Starlette, at half the cost, and all other requests with it."""
        if scope["type"] != "http":
            await self._others(scope, receive, send)
            return
        path = scope["path"]
        if path != PATH:
            # An extra slash in the URL at Lean's dashboard must not lose webhooks.
            path = re.sub("/+", "/", path).rstrip("/")
        if path != PATH or scope["method"] != "POST":
            if path == PATH:
                self._metrics.answers.labels("405", "method").inc()
            elif path not in _INSIDE:
                self._metrics.answers.labels("404", "path").inc()
            await self._others({**scope, "path": path}, receive, send)
            return
        started = time.monotonic()
        status_code, outcome = await self._receive(scope, receive)
        headers = [(b"content-length", b"0")]
        if status_code in {400, 413} or outcome == "room":
            # Otherwise the rest of the refused body would be read as the next request.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status_code, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        self._counts(str(status_code), outcome).inc()
        self._metrics.seconds.observe(time.monotonic() - started)

    async def _receive(self, scope: Scope, receive: Receive) -> tuple[int, str]:
        """Store a webhook; returns the status code, and the outcome for the metric."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        try:
            self._admit(scope, headers)
            await self._store(self._read(headers, await self._body(receive)))
        except _Refused as refused:
            if refused.status_code == 503:
                self._complaints.note(refused.why or refused.reason)
            return refused.status_code, refused.reason
        return 200, "stored"

    def _admit(self, scope: Scope, headers: _Headers) -> None:
        """Refuse a message because of its sender, application token or stated length."""
        if self._settings.allow and not self._is_allowed(scope, headers):
            raise _Refused(401, "address")
        if self._app_token is not None:
            given = headers.get(b"lean-app-token", [b""])
            if len(given) != 1 or not hmac.compare_digest(given[0], self._app_token):
                raise _Refused(401, "app_token")
        length = headers.get(b"content-length", [b"0"])[-1]
        # A number with more digits cannot be a real length.
        if not length.isdigit() or len(length) > 18:
            raise _Refused(400, "content_length")
        if int(length) > self._settings.max_bytes:
            raise _Refused(413, "size")

    def _is_allowed(self, scope: Scope, headers: _Headers) -> bool:
        hops = self._settings.trusted_hops
        if not hops:
            return self._is_listed((scope.get("client") or ("",))[0])
        senders = b",".join(headers.get(b"x-forwarded-for", [])).decode("latin-1").split(",")
        return len(senders) >= hops and self._is_listed(senders[-hops])

    def _is_listed(self, address: str) -> bool:
        sender = _address(address)
        return sender is not None and any(sender in network for network in self._allow)

    async def _body(self, receive: Receive) -> bytes:
        """Read the whole body, within the limits of size and time."""
        chunks = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Refused(400, "cut")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    self._held_bytes += len(chunk)
                    if size > self._settings.max_bytes:
                        raise _Refused(413, "size")
                    if self._held_bytes > max(_ROOM_BYTES, 2 * self._settings.max_bytes):
                        raise _Refused(503, "room", "too many bytes arrive at once")
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise _Refused(400, "slow") from None
        finally:
            self._held_bytes -= size

    def _read(self, headers: _Headers, body: bytes) -> Event:
        signatures = headers.get(b"lean-signature", [])
        # With two signatures, it is not defined which of them counts.
        signature = signatures[0].decode("latin-1") if len(signatures) == 1 else None
        try:
            verify(body, signature, self._secrets)
        except SignatureError:
            raise _Refused(401, "signature") from None
        try:
            return read_event(body)
        except SchemaError:
            raise _Refused(400, "shape") from None

    async def _store(self, event: Event) -> None:
        if self._postbox is None:
            raise _Refused(503, "starting")
        try:
            await self._postbox.put(event)
        except TimeoutError:
            raise _Refused(503, "slow_inbox", "the inbox takes too long") from None
        except UnavailableError as error:
            raise _Refused(503, "inbox", error.message) from None

    async def _health(self, _: Request) -> Response:
        return Response(status_code=200)

    async def _ready(self, _: Request) -> Response:
        """Answer 200 if an event could be stored now, else 503."""
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await asyncio.to_thread(self._inbox.check)
        except (UnavailableError, TimeoutError):
            self._complaints.note("the inbox is not ready")
            return Response(status_code=503)
        return Response(status_code=200 if self._postbox is not None else 503)

    async def _show_metrics(self, _: Request) -> Response:
        """All metrics, without the states of events while the inbox cannot be reached."""
        counts: dict[str, int] = {}
        with contextlib.suppress(UnavailableError):
            counts = await asyncio.to_thread(self._inbox.counts)
        self._metrics.states.clear()
        for state, count in counts.items():
            self._metrics.states.labels(state).set(count)
        text = generate_latest(self._metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def server(settings: WebhookSettings, inbox: Inbox) -> uvicorn.Server:
    """A server for the receiver's address, to be run until it is interrupted.

    Raises:
        ConfigError: The certificates cannot be read.
    """
    secured: dict[str, Any] = {}
    if settings.tls_cert is not None:
        authority = settings.tls_client_authority
        secured = {
            "ssl_certfile": str(settings.tls_cert),
            "ssl_keyfile": str(settings.tls_key),
            "ssl_ca_certs": str(authority) if authority is not None else None,
            "ssl_cert_reqs": ssl.CERT_REQUIRED if authority is not None else ssl.CERT_NONE,
        }
    receiver = Receiver(settings, inbox)
    protocol: Any = partial(Connection, receiver.connections())
    return uvicorn.Server(
        uvicorn.Config(
            receiver,
            host=settings.host,
            port=settings.port,
            http=protocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None if logs.are_json() else LOGGING_CONFIG,
            log_level="warning",
            access_log=False,
            server_header=False,
            # The receiver checks senders itself: it knows the number of our own proxies.
            proxy_headers=False,
            backlog=256,
            timeout_keep_alive=65,
            timeout_graceful_shutdown=10,
            **secured,
        )
    )


def listener(settings: WebhookSettings) -> socket.socket:
    """A socket that listens on the receiver's address.

    Raises:
        OSError: The address is in use, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family)


@contextlib.contextmanager
def running(inner: uvicorn.Server, listening: socket.socket) -> Iterator[threading.Thread]:
    """Run a server in a thread, which ends in order when the block ends."""
    options = {"sockets": [listening]}
    thread = threading.Thread(target=inner.run, kwargs=options, name="receiver", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        inner.should_exit = True
        thread.join(_PATIENCE_SECONDS)


@contextlib.contextmanager
def receiving(settings: WebhookSettings, inbox: Inbox) -> Iterator[int]:
    """Run the receiver in a thread while the block runs; yields its port.

    Raises:
        OSError: The port is in use.
        RuntimeError: The receiver did not start.
    """
    inner = server(settings, inbox)
    with listener(settings) as listening, running(inner, listening) as thread:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not inner.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the receiver did not start")
            time.sleep(0.005)
        yield listening.getsockname()[1]
