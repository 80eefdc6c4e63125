"""LeanClient: every answer of Lean that this project reads, complete or with the reason why not."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import logging
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import httpx
import msgspec
import pyarrow as pa

from lean_resources.answers import failure, open_envelope
from lean_resources.auth import Credential, Lent, auth_for, exchange
from lean_resources.bodies import ENCODING, body_of
from lean_resources.certificates import ClientRefusal, untrusted_server
from lean_resources.decoding import Decoder, Preflight, preflight
from lean_resources.errors import (
    ConfigError,
    IncompleteError,
    LeanError,
    NetworkError,
    SchemaError,
    UnavailableError,
)
from lean_resources.limits import CircuitBreaker, Limits, retry_after
from lean_resources.network import is_web_page, redirected, unanswered, web_page
from lean_resources.paging import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    UNSEEN,
    Announced,
    PagedRead,
    PagedReader,
    Response,
    Sleep,
    checked_id,
    is_of,
)
from lean_resources.settings import LeanSettings
from lean_resources.shared import Shared
from lean_resources.streams import STREAMS, Stream
from lean_resources.transport import network_transport

if TYPE_CHECKING:
    from lean_resources.shared_limits import SharedLimits

_LOG = logging.getLogger(__name__)

_LONGEST_PATIENCE_SECONDS = 300.0
"""Where Lean asks for a longer wait, the request is left to the next sync."""
_SHORT_WAIT_SECONDS = 10.0
"""A shorter wait is not logged."""
_LOG_SECONDS = 30.0
"""Between two log lines about waits."""
_A_MOMENT = dt.timedelta(seconds=30)
_HEADERS = {"accept": "application/json", "accept-encoding": ENCODING, "user-agent": "leanhouse"}


@dataclass(slots=True)
class Tally:
    """Number of requests within a block of a task, with those that were repeated."""

    requests: int = 0


@dataclass(frozen=True, slots=True)
class Membership:
    """What a client of another process of the run has from the first.

    Args:
        shared: Rate, pauses and circuits of banks.
        lent: The flow of requests, without credentials.
        ahead: How far Lean's clock is ahead of this machine's.
        heard_at: Lean's clock by its newest answer.
        lease: Takes turns that other machines share; None where there are no others.
    """

    shared: Shared
    lent: Lent
    ahead: dt.timedelta
    heard_at: dt.datetime | None
    lease: Callable[[int], Awaitable[object]] | None = None


_TALLIES: ContextVar[tuple[Tally, ...]] = ContextVar("tallies", default=())


class _Pages(msgspec.Struct):
    total_pages: int


class _Events(msgspec.Struct):
    """A page of events."""

    data: list[dict[str, Any]]
    page: _Pages


class LeanClient:
    """Reads Lean for one application.

    Use it as an asynchronous context manager, in one event loop. It raises a `LeanError` only where
    another try within the same pull cannot help.

    Args:
        transport: Another way to Lean than the network, such as `httpx.ASGITransport(sandbox.app)`.
        announced: Waits for a result that Lean promised; without it, the client polls.
        membership: What the client has from the first client of the run; None for that client.
        readers: Clients that may read at once. Each has its part of the rate, unless they share it
            in a database.

    Raises:
        ConfigError: The database of shared limits cannot be used.
    """

    def __init__(
        self,
        settings: LeanSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        announced: Announced | None = None,
        membership: Membership | None = None,
        readers: int = 1,
    ) -> None:
        self.settings = settings
        self._api_url = httpx.URL(settings.api_url)
        self.requests = 0
        self._sleep = sleep
        self._now = now
        self._transport = transport
        self._reader = PagedReader(
            settings,
            self._get,
            sleep=sleep,
            now=now,
            new_id=self._new_id,
            log_wait=self.log_wait,
        )
        self.wake_by(announced)
        self.shared = membership.shared if membership else Shared()
        self._others = _shared_limits(settings, self.shared, readers)
        lease = self._others.lease if self._others else None
        self.rate = settings.requests_per_second / (1 if lease else readers)
        """Requests per second, at most; those that other machines share are of all."""
        self._limits = Limits(
            settings.max_concurrency,
            self.rate,
            time.monotonic,
            sleep,
            self.shared,
            membership.lease if membership else lease,
        )
        self._timeout = httpx.Timeout(
            settings.timeout_seconds, connect=settings.connect_timeout_seconds
        ).as_dict()
        self._wait_logged_at = -math.inf
        self._ahead: dt.timedelta | None = membership.ahead if membership else None
        self._date: str | None = None
        self.heard_at: dt.datetime | None = membership.heard_at if membership else None
        """Lean's clock in UTC by its newest answer, to the second; None before the first answer."""
        self._clock_read: PagedRead | None = None
        self._breaker: CircuitBreaker | None = None
        self._refusal = ClientRefusal(settings) if transport is None else None
        self._way: httpx.AsyncBaseTransport | None = None
        self._auth = membership.lent if membership else auth_for(settings)
        self._ends: list[Callable[[], Awaitable[None]]] = []
        # One per client: two processes that share a generator by forking would share its ids.
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - ids, not secrets

    def __repr__(self) -> str:
        return f"LeanClient({self.settings.api_url!r})"

    async def __aenter__(self) -> Self:
        self._way = self._transport or network_transport(self.settings)
        await self._way.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._ends:
            await self._ends.pop()()
        if self._others is not None:
            await self._others.close()
        if self._way is not None:
            way, self._way = self._way, None
            await way.__aexit__(kind, error, traceback)

    def before_close(self, end: Callable[[], Awaitable[None]]) -> None:
        """Call `end` before the client is closed."""
        self._ends.append(end)

    def wake_by(self, announced: Announced | None) -> None:
        """Wait for promised results with `announced` from now on, or poll where it is None."""
        self._reader.wake_by(announced)

    async def lease(self, wanted: int) -> None:
        """Take turns that other machines share, for another process of the run."""
        if self._others is not None:
            await self._others.lease(wanted)

    async def announced(self, results_id: str, seconds: float) -> float:
        """Wait for a promised result, for another process of the run."""
        return await self._reader.announced(results_id, seconds)

    @property
    def is_of_network(self) -> bool:
        """Whether another process can reach Lean as this client does."""
        return self._transport is None

    @property
    def ahead(self) -> dt.timedelta:
        """How far Lean's clock is ahead of this machine's; zero before the first answer."""
        return self._ahead or dt.timedelta()

    async def lend(self, refused: Credential | None) -> tuple[Credential, float]:
        """This client's credential, as `Lent` asks for it.

        Raises:
            LeanError: There is no credential now.
        """
        assert self._way is not None  # noqa: S101 - processes end before the client is closed
        assert not isinstance(self._auth, Lent)  # noqa: S101 - and have no processes themselves
        request = self._made("GET", "", None)
        try:
            async with asyncio.timeout(self.settings.response_deadline_seconds):
                send = self._way.handle_async_request
                lent = await self._auth.credential(request, refused, send)
        except TimeoutError:
            raise UnavailableError("the token endpoint did not answer", code="SLOW") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            found = await self._unanswered(error, request.url)
            raise (found.error if isinstance(found, _AgainError) else found) from None
        return lent, self._auth.renew_at

    def breaker(self, failures: int, cooldown_seconds: float) -> CircuitBreaker:
        """The circuit breaker that all readers of this client share, as the first call makes it."""
        if self._breaker is None:
            self._breaker = CircuitBreaker(failures, cooldown_seconds, shared=self.shared)
        return self._breaker

    # Streams.

    async def read(
        self,
        stream: Stream | str,
        request: Mapping[str, str],
        *,
        unless_refreshed_at: dt.datetime | None = None,
        page_size: int | None = None,
    ) -> PagedRead:
        """Read all pages of a stream.

        They are read again when they are not complete: because Lean's copy of the bank's data was
        refreshed between two pages, or the count of records changed.

        Args:
            stream: The stream or its name.
            request: Parameters of the request, such as `entity_id` and `account_id`; days are
                UTC days as YYYY-MM-DD, both inclusive.
            unless_refreshed_at: `refreshed_at` of the read before. Where it is still the same, only
                the first page is read, and the result has `is_unchanged`.
            page_size: Records per page; None for that of the settings.

        Raises:
            IncompleteError: The pages were not complete at any attempt.
            ConsentError: The consent has ended, or does not cover what is asked.
            UnavailableError: Lean or the bank cannot answer now, or not before the deadline.
            RequestError: Lean does not know what is asked for, or an id is not a UUID.
            AuthError: Lean refuses the credentials.
            SchemaError: An answer is not of the documented shape.
            ConfigError: The address is not that of Lean's API: it redirects, or is not trusted.
        """
        stream = STREAMS[stream] if isinstance(stream, str) else stream
        if (known := self._known(stream, request)) is not None:
            return known
        with self.tally() as tally:
            size = page_size or self.settings.page_size
            seconds = self.settings.read_deadline_seconds
            try:
                async with asyncio.timeout(seconds):
                    read = await self._reader.read(stream, request, unless_refreshed_at, size)
            except TimeoutError:
                raise UnavailableError(
                    f"not read within {seconds:.0f} s", code="DEADLINE", stream=stream.name
                ) from None
        return replace(read, requests=tally.requests)

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Count the requests of a block; those of other tasks do not count."""
        tally = Tally()
        token = _TALLIES.set((*_TALLIES.get(), tally))
        try:
            yield tally
        finally:
            _TALLIES.reset(token)

    async def table(self, stream: Stream | str, **request: str) -> pa.Table:
        """Read a stream into rows of its schema, with the errors of `read`.

        Records that do not fit are left out.
        """
        before: frozenset[str] | None = None
        for attempt in range(self.settings.attempts):
            # A record that comes twice with any page size does not come twice because pages moved.
            size = max(1, self.settings.page_size - attempt)
            read = await self.read(stream, request, page_size=size)
            found = Decoder(read.stream).decode(read.pages)
            shifted = next(iter(found.shifted.values()), None)
            if shifted is None or shifted == before:
                return found.rows.select(read.stream.schema.names)
            before = shifted
        raise read.answers[-1].traced(
            IncompleteError("a record came twice", code="DOUBLED", stream=read.stream.name)
        )

    async def server_time(self) -> dt.datetime:
        """Lean's clock in UTC, to the second: the upper bound of what may be asked for.

        It comes from the `Date` header, or from this machine's clock where Lean sends none. The
        errors are those of `read`.
        """
        if self._ahead is None:
            self._clock_read = await self.read("banks", {"account_type": "PERSONAL"})
            self._ahead = self._ahead or dt.timedelta()
        return self._now() + self._ahead

    def _known(self, stream: Stream, request: Mapping[str, str]) -> PagedRead | None:
        """What `server_time` has read a moment ago, for the first caller that asks for the same."""
        known = self._clock_read
        if known is None or known.stream is not stream or dict(request) != known.request:
            return None
        self._clock_read = None
        return known if self._now() - known.asked_at < _A_MOMENT else None

    # Refreshes, events.

    async def refresh(self, entity_id: str) -> str | None:
        """Ask Lean to ask the bank again; this costs one of the entity's scarce refreshes.

        Returns:
            The id of the refresh; None where a refresh of the entity is already running.

        Raises:
            ConsentError: The customer has to connect again.
            LeanError: As `read`.
        """
        body = {"entity_id": checked_id(entity_id, "entity_id")}
        try:
            response = await self._request("POST", "/data/v2/refreshes", None, body)
        except UnavailableError as error:
            if error.code != "DUPLICATED_REQUEST":
                raise
            return None
        refresh_id = _object(response).get("refresh_id")
        if not isinstance(refresh_id, str):
            raise response.unexpected("a started refresh has no refresh_id")
        return refresh_id

    async def refresh_state(self, refresh_id: str) -> dict[str, Any]:
        """The state of a refresh by Lean, with `data_status`; the errors are those of `read`."""
        path = f"/data/v2/refreshes/{checked_id(refresh_id, 'refresh_id')}"
        return _object(await self._get(path, None))

    async def events(
        self, from_at: dt.datetime, to_at: dt.datetime, *, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """Webhook events that Lean sent between two instants, at most 90 days back.

        Raises:
            RequestError: The application's region has no events (code INVALID_URL).
            LeanError: As `read`.

        Source: https://docs.leantech.me/reference (events)
        """
        events: list[dict[str, Any]] = []
        number = 0
        while True:
            query = {
                "page": str(number),
                "size": "100",
                "from": _stamp(from_at),
                "to": _stamp(to_at),
                **({"type": kind} if kind else {}),
            }
            response = await self._get(f"/events/v1?{urlencode(query)}", None)
            try:
                found = msgspec.json.decode(response.body, type=_Events)
            except msgspec.DecodeError:
                raise response.unexpected("the answer is not a page of events") from None
            events += found.data
            number += 1
            if not found.data or number >= found.page.total_pages:
                return events

    # HTTP.

    def _url(self, target: str) -> httpx.URL:
        """The address of a target, which is encoded already.

        To parse the whole address takes longer than to build the rest of the request.
        """
        url = httpx.URL(self._api_url)
        path, _, query = target.partition("?")
        parsed = url._uri_reference  # noqa: SLF001 - httpx has no way to leave an address as it is
        url._uri_reference = parsed._replace(path=parsed.path + path, query=query or None)  # noqa: SLF001
        return url

    def _new_id(self) -> str:
        """An id for a request or a read; it has to be unique, and need not be hard to guess."""
        return f"{self._random.getrandbits(128):032x}"

    async def _get(
        self, target: str, stream: Stream | None, known_at: dt.datetime | None = None
    ) -> Response:
        return await self._request("GET", target, stream, None, known_at)

    async def _request(
        self,
        method: str,
        target: str,
        stream: Stream | None,
        body: Mapping[str, str] | None,
        known_at: dt.datetime | None = None,
    ) -> Response:
        """One request, repeated as long as that can help."""
        started = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return await self._once(method, target, stream, body, known_at)
            except _AgainError as again:
                most = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
                wait = max(self._random.uniform(0, most), again.wait)
                ends = time.monotonic() - started + wait
                if attempt == self.settings.attempts or ends >= _LONGEST_PATIENCE_SECONDS:
                    raise again.error from None
                self.log_wait(f"Lean cannot answer now ({again.error.code})", wait)
            await self._sleep(wait)
        raise AssertionError("a retry loop ends by an answer or an error")  # pragma: no cover

    def log_wait(self, reason: str, seconds: float) -> None:
        """Log what is waited for and until when, unless it is short or was logged just now."""
        now = time.monotonic()
        if seconds >= _SHORT_WAIT_SECONDS and now - self._wait_logged_at >= _LOG_SECONDS:
            self._wait_logged_at = now
            until = self._now() + dt.timedelta(seconds=seconds)
            _LOG.warning("%s: waiting until %s UTC at most", reason, f"{until:%H:%M:%S}")

    def _made(self, method: str, target: str, body: Mapping[str, str] | None) -> httpx.Request:
        return httpx.Request(
            method,
            self._url(target),
            json=body,
            headers={**_HEADERS, "lean-correlation-id": self._new_id()},
            extensions={"timeout": self._timeout},
        )

    async def _once(
        self,
        method: str,
        target: str,
        stream: Stream | None,
        body: Mapping[str, str] | None,
        known_at: dt.datetime | None,
    ) -> Response:
        if self._way is None:
            raise RuntimeError("a LeanClient is used inside `async with`")
        name = stream.name if stream is not None else None
        self._limits.check(name)
        request = self._made(method, target, body)
        correlation_id = request.headers["lean-correlation-id"]
        try:
            response, content = await self._send(request)
            if response.status_code == 407:
                raise ConfigError(
                    "a proxy wants credentials (HTTP 407): write them into the variable of the "
                    "proxy",
                    code="PROXY",
                    status_code=407,
                )
            if 300 <= response.status_code < 400:
                raise redirected(request, response)
            self._learn_time(response)
            if response.status_code != 429:
                self._limits.answered()
            seen = UNSEEN
            if stream is not None and response.status_code < 400:
                seen = _unchanged(stream, content, known_at) or preflight(stream, content)
            if seen.envelope is None or seen.envelope.status != "OK":
                self._judge(request, response, content, name)
        except (LeanError, _AgainError) as found:
            error = found.error if isinstance(found, _AgainError) else found
            error.stream, error.correlation_id = name, correlation_id
            raise
        return Response(
            response.status_code,
            content,
            target,
            correlation_id,
            response.headers.get("lean-trace-id"),
            self._now(),
            seen,
        )

    async def _send(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        """Send a request within the limits, and read the whole body.

        httpx's own client does the same, but also handles redirects and cookies, which Lean does
        not use. That costs as much CPU as the request itself.
        """
        assert self._way is not None  # noqa: S101 - the caller has checked
        seconds = self.settings.response_deadline_seconds
        async with self._limits:
            self.requests += 1
            for tally in _TALLIES.get():
                tally.requests += 1
            try:
                async with asyncio.timeout(seconds):
                    response = await exchange(self._auth, request, self._way.handle_async_request)
                    try:
                        content = await body_of(response, self.settings.max_response_bytes)
                    finally:
                        await response.aclose()
            except TimeoutError:
                message = f"an answer was not complete within {seconds:.0f} s"
                raise _AgainError(NetworkError(message, code="SLOW")) from None
            except UnavailableError as error:
                # The token endpoint cannot answer now.
                if error.retry_after:
                    self._limits.limited(error.retry_after, _LONGEST_PATIENCE_SECONDS)
                raise _again(error, error.retry_after or 0.0) from None
            except (httpx.TransportError, httpx.DecodingError) as error:
                raise (await self._unanswered(error, request.url)) from None
        _LOG.debug("%s answered %d", request.url, response.status_code)
        return response, content

    async def _unanswered(self, error: httpx.RequestError, url: httpx.URL) -> Exception:
        """What to raise where no answer came that can be read."""
        if isinstance(error, httpx.TransportError):
            if (untrusted := untrusted_server(error)) is not None:
                return untrusted
            if self._refusal and (refused := await self._refusal.error()) is not None:
                return refused
        problem = unanswered(error, url)
        return problem if isinstance(problem, ConfigError) else _AgainError(problem)

    def _judge(
        self, request: httpx.Request, response: httpx.Response, content: bytes, stream: str | None
    ) -> None:
        """Raise the error of an answer that is not in order."""
        status_code = response.status_code
        problem = failure(
            status_code,
            content,
            stream=stream,
            retry_after=retry_after(response.headers),
            trace_id=response.headers.get("lean-trace-id"),
        )
        if problem is None:
            return
        if problem.error.code == "NOT_JSON" and is_web_page(status_code, content):
            problem = replace(problem, error=web_page(problem.error))
        is_limit = status_code == 429
        if not problem.is_retriable or (is_limit and request.method == "POST"):
            raise problem.error
        if is_limit:
            # The limit is the application's, not of a bank or an entity.
            self._limits.limited(problem.wait, _LONGEST_PATIENCE_SECONDS)
        raise _again(problem.error, problem.wait)

    def _learn_time(self, response: httpx.Response) -> None:
        """Note how far Lean's clock is ahead of this machine's."""
        header = response.headers.get("date")
        if header == self._date:
            return
        self._date = header
        try:
            sent_at = parsedate_to_datetime(header) if header else None
        except (ValueError, TypeError, IndexError, OverflowError):
            return
        if sent_at is not None and sent_at.tzinfo is not None:
            self._ahead = sent_at - self._now()
            self.heard_at = sent_at.astimezone(dt.UTC)


def _shared_limits(settings: LeanSettings, shared: Shared, readers: int) -> SharedLimits | None:
    """The limits that other machines share; None where the settings name no database."""
    if settings.shared_limits is None:
        return None
    from lean_resources.shared_limits import shared_limits  # noqa: PLC0415 - slow, and seldom set

    return shared_limits(settings, settings.shared_limits, shared, readers)


class _AgainError(Exception):
    """Another try can help."""

    def __init__(self, error: LeanError, wait: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


def _again(error: LeanError, wait: float) -> Exception:
    """What to raise where another try can help, unless the wait for it is too long."""
    return _AgainError(error, wait) if wait <= _LONGEST_PATIENCE_SECONDS else error


def _unchanged(stream: Stream, content: bytes, known_at: dt.datetime | None) -> Preflight | None:
    """Only the envelope of an answer whose bank data copy is known; None of any other."""
    if known_at is None:
        return None
    try:
        envelope = open_envelope(stream, content)
    except SchemaError:
        return None
    return Preflight(envelope=envelope) if is_of(envelope, known_at) else None


def _object(response: Response) -> dict[str, Any]:
    found = msgspec.json.decode(response.body)
    if not isinstance(found, dict):
        raise response.unexpected("the answer is not an object")
    return found


def _stamp(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
