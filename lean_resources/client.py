"""LeanClient: every answer of Lean that this project reads, complete or with a reason why not."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import logging
import math
import random
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpx
import msgspec
import pyarrow as pa
import tenacity

from lean_resources.answers import Envelope, failure, open_envelope, whole
from lean_resources.auth import auth_for
from lean_resources.bodies import ENCODING, body_of
from lean_resources.certificates import refused_client, ssl_context, untrusted_server
from lean_resources.decoding import Decoder, Page, Preflight, preflight, records_in
from lean_resources.errors import (
    ConfigError,
    IncompleteError,
    LeanError,
    NetworkError,
    RequestError,
    SchemaError,
    UnavailableError,
)
from lean_resources.instants import parse_instant
from lean_resources.limits import CircuitBreaker, Limits, retry_after
from lean_resources.network import is_web_page, unanswered
from lean_resources.proxies import proxy_of
from lean_resources.settings import LeanSettings
from lean_resources.streams import STREAMS, Paging, Stream
from lean_resources.transport import Transport

__all__ = ["Announced", "Answer", "LeanClient", "Read", "Refresh", "Tally"]

Sleep = Callable[[float], Awaitable[None]]
Announced = Callable[[str, float], Awaitable[float]]
"""Waits until a result, by its id, is announced, so many seconds at most; how long it took."""

_LOG = logging.getLogger(__name__)

_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_PATIENCE_SECONDS = 300.0
"""Who asks for a longer wait is left to the next sync."""
_SHORT_WAIT_SECONDS = 10.0
"""A shorter wait is not worth a word."""
_TELL_SECONDS = 30.0
"""Between two words about waits."""
_A_MOMENT = dt.timedelta(seconds=30)
_LOOK_AGAIN_SECONDS = 60.0
_HEADERS = {"accept": "application/json", "accept-encoding": ENCODING, "user-agent": "leanhouse"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One page as received, and what Lean says about it.

    Args:
        page: The body with the parameters that were asked.
        envelope: What surrounds its records.
        asked_path: Path and query of the request.
        status_code: HTTP status.
        correlation_id: The id this client sent.
        trace_id: The id that Lean's support asks for.
        received_at: When the body was complete, by this machine's clock.
    """

    page: Page
    envelope: Envelope
    asked_path: str
    status_code: int
    correlation_id: str
    trace_id: str | None
    received_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Read:
    """All pages of one series of requests, proved whole.

    Args:
        stream: The stream that was read.
        request: Parameters of the series.
        answers: Its pages in order; one page only when nothing had changed.
        is_unchanged: Whether the store still was as at the read before.
        requests: Requests that it took, repeated ones included.
        asked_at: When the first request of the successful attempt was sent, by this machine.
    """

    stream: Stream
    request: Mapping[str, str]
    answers: tuple[Answer, ...] = field(repr=False)
    is_unchanged: bool
    requests: int
    asked_at: dt.datetime

    @property
    def pages(self) -> list[Page]:
        """The pages, for the decoder."""
        return [answer.page for answer in self.answers]

    @property
    def refreshed_at(self) -> dt.datetime | None:
        """When the bank was last asked, by Lean; None where Lean does not say."""
        return _refreshed_at(self.answers[0].envelope)


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh that Lean was asked for.

    Args:
        refresh_id: Its id, or None when Lean says that one is already running.
        is_new: Whether this call started it.
    """

    refresh_id: str | None
    is_new: bool


@dataclass(slots=True)
class Tally:
    """Requests made within one block of one task, repeated ones included."""

    requests: int = 0


_TALLIES: ContextVar[tuple[Tally, ...]] = ContextVar("tallies", default=())


@dataclass(frozen=True, slots=True)
class _Listing:
    """A series of pages that is being read.

    Args:
        stream: The stream.
        request: Parameters of the series.
        series_id: Its id.
        target: Path and query, up to the page's number if there is one.
        is_paged: Whether there is one.
        page_size: Records per page.
    """

    stream: Stream
    request: dict[str, str]
    series_id: str
    target: str
    is_paged: bool
    page_size: int

    def page(self, number: int) -> str:
        """Path and query of a page."""
        return f"{self.target}{number}" if self.is_paged else self.target


class _Pages(msgspec.Struct):
    total_pages: int


class _Events(msgspec.Struct):
    """A page of events."""

    data: list[dict[str, Any]]
    page: _Pages


_UNSEEN = Preflight()


class _Response(msgspec.Struct):
    """An HTTP answer without its transport."""

    status_code: int
    body: bytes
    path: str
    correlation_id: str
    trace_id: str | None
    received_at: dt.datetime
    preflight: Preflight = _UNSEEN


class LeanClient:
    """Reads Lean for one application.

    Use it as an asynchronous context manager, in one event loop. What it raises is a `LeanError`;
    it has then done all that another try within the same pull could mend.

    Args:
        settings: Hosts, credentials and limits.
        transport: Another way to Lean than the network, such as `httpx.ASGITransport(sandbox.app)`.
        sleep: Waits for so many seconds.
        now: The present in UTC.
        announced: Waits for a result that Lean promised; without it, time alone passes.
    """

    def __init__(
        self,
        settings: LeanSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        announced: Announced | None = None,
    ) -> None:
        self.settings = settings
        self.requests = 0
        self._sleep = sleep
        self._now = now
        self._transport = transport
        self.wake_by(announced)
        self._limits = Limits(
            settings.max_concurrency, settings.requests_per_second, time.monotonic, sleep
        )
        self._timeout = httpx.Timeout(
            settings.timeout_seconds, connect=settings.connect_timeout_seconds
        ).as_dict()
        self._told_at = -math.inf
        self._older: set[str] = set()
        self._ahead: dt.timedelta | None = None
        self._date: str | None = None
        self.heard_at: dt.datetime | None = None
        """Lean's clock in UTC as its newest answer told it, to the second; None before one did."""
        self._clock_read: Read | None = None
        self._breaker: CircuitBreaker | None = None
        self._refusal = _Refusal(settings) if transport is None else None
        self._way: httpx.AsyncBaseTransport | None = None
        self._auth = auth_for(settings)
        # One per client: two processes that share a generator by forking would share its ids.
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - ids, not secrets

    def __repr__(self) -> str:
        return f"LeanClient({self.settings.api_url!r})"

    async def __aenter__(self) -> Self:
        self._way = self._transport or _network(self.settings)
        await self._way.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._way is not None:
            way, self._way = self._way, None
            await way.__aexit__(kind, error, traceback)

    def wake_by(self, announced: Announced | None) -> None:
        """Wait for promised results in another way from now on; None lets time alone pass."""
        self._announced = announced or self._slept

    def breaker(self, failures: int, cooldown_seconds: float) -> CircuitBreaker:
        """The breaker that everybody who reads with this client shares.

        Args:
            failures: Failures in a row that open it; as the first call says.
            cooldown_seconds: How long it stays open; as the first call says.
        """
        if self._breaker is None:
            self._breaker = CircuitBreaker(failures, cooldown_seconds)
        return self._breaker

    # Streams.

    async def read(
        self,
        stream: Stream | str,
        request: Mapping[str, str],
        *,
        unless_refreshed_at: dt.datetime | None = None,
        page_size: int | None = None,
    ) -> Read:
        """Read all pages of one series of requests.

        A series is read again when the pages do not make one whole: the store was refreshed
        between two of them, or the count of records moved.

        Args:
            stream: The stream or its name.
            request: Parameters of the request, such as `entity_id` and `account_id`; days are
                UTC days as YYYY-MM-DD, both inclusive.
            unless_refreshed_at: The store's instant at the read before; when it is still the same,
                the first page is all that is read and the result says `is_unchanged`.
            page_size: Records per page; None for that of the settings.

        Raises:
            IncompleteError: The pages did not make one whole at any attempt.
            ConsentError: The consent has ended, or does not cover what is asked.
            UnavailableError: Lean or the bank cannot answer now, or not before the deadline.
            RequestError: Lean does not know what is asked, or an id is not one.
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
                    return await self._whole(stream, request, unless_refreshed_at, tally, size)
            except TimeoutError:
                raise UnavailableError(
                    f"not read within {seconds:.0f} s", code="DEADLINE", stream=stream.name
                ) from None

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Count the requests of a block, those of other tasks left out."""
        tally = Tally()
        token = _TALLIES.set((*_TALLIES.get(), tally))
        try:
            yield tally
        finally:
            _TALLIES.reset(token)

    async def _whole(
        self,
        stream: Stream,
        request: Mapping[str, str],
        unless_refreshed_at: dt.datetime | None,
        tally: Tally,
        page_size: int,
    ) -> Read:
        """Read a series until its pages make one whole."""
        problem: LeanError = IncompleteError("not read", stream=stream.name)
        for attempt in range(self.settings.attempts):
            if attempt:
                await self._sleep(min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS))
            asked_at = self._now()
            answers = [
                answer
                async for answer in self._series(stream, request, unless_refreshed_at, page_size)
            ]
            listed = [answer.envelope for answer in answers if not answer.page.is_detail]
            unchanged = _is_of(listed[0], unless_refreshed_at)
            incomplete = None if unchanged else whole(stream, listed)
            if incomplete is None:
                return Read(
                    stream=stream,
                    request=request,
                    answers=tuple(answers),
                    is_unchanged=unchanged,
                    requests=tally.requests,
                    asked_at=asked_at,
                )
            problem = incomplete
            problem.correlation_id = answers[-1].correlation_id
            problem.trace_id = answers[-1].trace_id
            problem.results_id = answers[-1].envelope.results_id
        raise problem

    async def table(self, stream: Stream | str, **request: str) -> pa.Table:
        """Read a stream into typed rows; what does not fit its column is left out.

        Returns:
            A table of the stream's schema, one row per record that fits.

        Raises:
            LeanError: As `read`.
        """
        before: frozenset[str] | None = None
        for attempt in range(self.settings.attempts):
            # What comes twice however the pages are cut does not come twice because they moved.
            size = max(1, self.settings.page_size - attempt)
            read = await self.read(stream, request, page_size=size)
            found = Decoder(read.stream).decode(read.pages)
            shifted = next(iter(found.shifted.values()), None)
            if shifted is None or shifted == before:
                return found.rows.select(read.stream.schema.names)
            before = shifted
        last = read.answers[-1]
        raise IncompleteError(
            "a record came twice",
            code="DOUBLED",
            stream=read.stream.name,
            results_id=last.envelope.results_id,
            correlation_id=last.correlation_id,
            trace_id=last.trace_id,
        )

    async def _series(
        self,
        stream: Stream,
        request: Mapping[str, str],
        unless_refreshed_at: dt.datetime | None,
        page_size: int,
    ) -> AsyncIterator[Answer]:
        """Pages of one attempt, the first one settling whether older answers are told in full."""
        entity = request.get("entity_id", "")
        verbose = self.settings.verbose == "always" or entity in self._older
        listing = self._listing(stream, request, self._new_id(), page_size, verbose=verbose)
        first = await self._page(listing, 0, 0)
        is_known = _is_of(first.envelope, unless_refreshed_at)
        is_auto = self.settings.verbose == "auto" and not verbose
        if is_auto and first.envelope.is_older and not is_known:
            self._older.add(entity)
            listing = self._listing(stream, request, listing.series_id, page_size, verbose=True)
            first = await self._page(listing, 0, 0)
        yield first
        if _is_of(first.envelope, unless_refreshed_at):
            return
        seen = first.envelope.records
        pages = first.envelope.total_pages
        number = 1
        while number < (pages if pages is not None else 1):
            answer = await self._page(listing, number, seen)
            yield answer
            seen += answer.envelope.records
            number += 1
            if not answer.envelope.records:
                break  # an empty page ends the series, however many were announced
        if stream.detail is not None and (newest := _newest(stream, first)) is not None:
            yield await self._detail(stream, request, first, number, seen, newest)

    def _listing(
        self,
        stream: Stream,
        request: Mapping[str, str],
        series_id: str,
        page_size: int,
        *,
        verbose: bool,
    ) -> _Listing:
        query = _query(stream, request)
        if verbose and stream.verbose_unless is not None:
            query["verbose"] = "true"
        page, size = _PAGE_PARAMETERS[stream.paging]
        if size:
            query[size] = str(page_size)
        target = _target(_path(stream, request), query)
        if page:
            target += f"&{page}="
        return _Listing(
            stream, dict(request), series_id, target, is_paged=bool(page), page_size=page_size
        )

    async def _page(self, listing: _Listing, number: int, first_record: int) -> Answer:
        stream = listing.stream
        response = await self._get(listing.page(number), stream)
        envelope = _opened(stream, response)
        if envelope.is_pending:
            response, envelope = await self._result(listing, response, envelope, number)
        return Answer(
            page=Page(
                listing.series_id,
                number,
                first_record,
                response.body,
                listing.request,
                preflight=response.preflight,
            ),
            envelope=envelope,
            asked_path=response.path,
            status_code=response.status_code,
            correlation_id=response.correlation_id,
            trace_id=response.trace_id,
            received_at=response.received_at,
        )

    async def _result(
        self, listing: _Listing, promise: _Response, pending: Envelope, number: int
    ) -> tuple[_Response, Envelope]:
        """Wait for a result that Lean promised, up to the deadline."""
        stream = listing.stream
        if pending.results_id is None:
            raise SchemaError("a pending answer has no results_id", stream=stream.name)
        target = _target(
            f"/data/v2/results/{_checked(pending.results_id, 'results_id')}",
            {"page": str(number), "size": str(listing.page_size)},
        )
        waited, deadline = 0.0, self.settings.pending_deadline_seconds
        self.tell_wait(f"Lean works on answers about {stream.name}", deadline)
        while waited < deadline:
            waited += await self._announced(pending.results_id, self.settings.pending_poll_seconds)
            try:
                response = await self._get(target, stream)
            except RequestError as error:
                # Lean answers so for a result that it has not finished.
                if error.code != "UNKNOWN_RESULTS_ID":
                    raise
                continue
            envelope = _opened(stream, response)
            if not envelope.is_pending:
                return response, envelope
        raise UnavailableError(
            f"no result after {waited:.0f} s",
            code="PENDING",
            stream=stream.name,
            status_code=promise.status_code,
            results_id=pending.results_id,
            correlation_id=promise.correlation_id,
            trace_id=promise.trace_id,
        )

    async def _slept(self, _results_id: str, seconds: float) -> float:
        await self._sleep(seconds)
        return seconds

    async def _detail(
        self,
        stream: Stream,
        request: Mapping[str, str],
        first: Answer,
        number: int,
        seen: int,
        newest: str,
    ) -> Answer:
        """What the stream's detail path says of one record."""
        assert stream.detail is not None  # noqa: S101 - the caller has asked
        key = stream.key[0]
        path = stream.detail.format(**{key: _checked(newest, key)})
        response = await self._get(path, stream)
        page = Page(
            first.page.series_id, number, seen, response.body, dict(request), is_detail=True
        )
        envelope = Envelope("OK", None, None, None, 1, None, None, is_older=False)
        return Answer(
            page=page,
            envelope=envelope,
            asked_path=response.path,
            status_code=response.status_code,
            correlation_id=response.correlation_id,
            trace_id=response.trace_id,
            received_at=response.received_at,
        )

    async def server_time(self) -> dt.datetime:
        """Lean's clock in UTC, to the second: the upper bound of what may be asked for.

        Learnt from the `Date` header; this machine's clock where Lean sends none.

        Raises:
            LeanError: As `read`.
        """
        if self._ahead is None:
            self._clock_read = await self.read("banks", {"account_type": "PERSONAL"})
            self._ahead = self._ahead or dt.timedelta()
        return self._now() + self._ahead

    def _known(self, stream: Stream, request: Mapping[str, str]) -> Read | None:
        """What the look at the clock has read a moment ago, for the first who asks for the same."""
        known = self._clock_read
        if known is None or known.stream is not stream or dict(request) != known.request:
            return None
        self._clock_read = None
        return known if self._now() - known.asked_at < _A_MOMENT else None

    # Refreshes, events.

    async def refresh(self, entity_id: str) -> Refresh:
        """Ask Lean to ask the bank again; this costs one of the entity's scarce refreshes.

        Raises:
            ConsentError: The customer has to connect again.
            LeanError: As `read`.
        """
        path = "/data/v2/refreshes"
        body = {"entity_id": _checked(entity_id, "entity_id")}
        try:
            response = await self._request("POST", path, None, body)
        except UnavailableError as error:
            if error.code != "DUPLICATED_REQUEST":
                raise
            return Refresh(None, is_new=False)
        refresh_id = _object(response).get("refresh_id")
        if not isinstance(refresh_id, str):
            raise SchemaError(
                "a started refresh has no refresh_id",
                correlation_id=response.correlation_id,
                trace_id=response.trace_id,
            )
        return Refresh(refresh_id, is_new=True)

    async def refresh_state(self, refresh_id: str) -> dict[str, Any]:
        """The state of one refresh as Lean tells it, `data_status` included.

        Raises:
            LeanError: As `read`.
        """
        path = f"/data/v2/refreshes/{_checked(refresh_id, 'refresh_id')}"
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
                raise SchemaError(
                    "the answer is not a page of events",
                    correlation_id=response.correlation_id,
                    trace_id=response.trace_id,
                ) from None
            events += found.data
            number += 1
            if not found.data or number >= found.page.total_pages:
                return events

    # HTTP.

    def _new_id(self) -> str:
        """An id for a request or a series; it has to be unique, and need not be hard to guess."""
        return f"{self._random.getrandbits(128):032x}"

    async def _get(self, target: str, stream: Stream | None) -> _Response:
        return await self._request("GET", target, stream, None)

    async def _request(
        self,
        method: str,
        target: str,
        stream: Stream | None,
        body: Mapping[str, str] | None,
    ) -> _Response:
        """One request, repeated as long as that can help."""
        # Most requests succeed at once, and never pay for the machinery of retries.
        failed: list[_AgainError] = []
        try:
            return await self._once(method, target, stream, body)
        except _AgainError as again:
            failed.append(again)
        try:
            async for attempt in tenacity.AsyncRetrying(
                sleep=self._sleep,
                stop=tenacity.stop_after_attempt(self.settings.attempts)
                | tenacity.stop_before_delay(_LONGEST_PATIENCE_SECONDS),
                wait=_wait,
                before_sleep=self._tell_retry,
                retry=tenacity.retry_if_exception_type(_AgainError),
                reraise=True,
            ):
                with attempt:
                    if failed:
                        raise failed.pop()
                    return await self._once(method, target, stream, body)
        except _AgainError as again:
            raise again.error from None
        raise AssertionError("a retry loop ends by an answer or an error")  # pragma: no cover

    def _tell_retry(self, state: tenacity.RetryCallState) -> None:
        again = state.outcome.exception() if state.outcome else None
        if isinstance(again, _AgainError):
            self.tell_wait(f"Lean cannot be read now ({again.error.code})", state.upcoming_sleep)

    def tell_wait(self, reason: str, seconds: float) -> None:
        """Say what is waited for and until when, unless that is short or was said just now."""
        now = time.monotonic()
        if seconds >= _SHORT_WAIT_SECONDS and now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            until = self._now() + dt.timedelta(seconds=seconds)
            _LOG.warning("%s: waiting until %s UTC at most", reason, f"{until:%H:%M:%S}")

    async def _once(
        self,
        method: str,
        target: str,
        stream: Stream | None,
        body: Mapping[str, str] | None,
    ) -> _Response:
        if self._way is None:
            raise RuntimeError("a LeanClient is used inside `async with`")
        name = stream.name if stream is not None else None
        self._limits.check(name)
        correlation_id = self._new_id()
        # Built whole: a client that merges its base address and parameters parses them thrice.
        request = httpx.Request(
            method,
            f"{self.settings.api_url}{target}",
            json=body,
            headers={**_HEADERS, "lean-correlation-id": correlation_id},
            extensions={"timeout": self._timeout},
        )
        response, content = await self._send(request, name, correlation_id)
        if response.status_code == 407:
            raise ConfigError(
                "a proxy wants credentials (HTTP 407): write them into the variable of the proxy",
                code="PROXY",
                stream=name,
                status_code=407,
                correlation_id=correlation_id,
            )
        if 300 <= response.status_code < 400:
            raise _redirected(request, response, name, correlation_id)
        self._learn_time(response)
        if response.status_code != 429:
            self._limits.answered()
        seen = _UNSEEN
        if stream is not None and response.status_code < 400:
            seen = preflight(stream, content)
        if not _is_fine(seen.envelope):
            self._judge(request, response, content, name, correlation_id)
        return _Response(
            response.status_code,
            content,
            target,
            correlation_id,
            response.headers.get("lean-trace-id"),
            self._now(),
            seen,
        )

    async def _send(
        self, request: httpx.Request, stream: str | None, correlation_id: str
    ) -> tuple[httpx.Response, bytes]:
        """Send a request within the limits, and read the whole body."""
        async with self._limits:
            self.requests += 1
            for tally in _TALLIES.get():
                tally.requests += 1
            try:
                async with asyncio.timeout(self.settings.response_deadline_seconds):
                    return await self._exchange(request)
            except TimeoutError:
                raise _again(
                    NetworkError(
                        "an answer was not complete within "
                        f"{self.settings.response_deadline_seconds:.0f} s",
                        code="SLOW",
                        stream=stream,
                        correlation_id=correlation_id,
                    ),
                    0.0,
                ) from None
            except UnavailableError as error:
                # The token endpoint cannot answer now; httpx asks it within this request.
                if error.retry_after:
                    self._limits.limited(error.retry_after, _LONGEST_PATIENCE_SECONDS)
                error.stream = stream
                error.correlation_id = correlation_id
                raise _again(error, error.retry_after or 0.0) from None
            except LeanError as error:
                # The token endpoint refuses, or the answer is too large.
                error.stream = stream
                error.correlation_id = correlation_id
                raise
            except httpx.TransportError as error:
                if (untrusted := untrusted_server(error)) is not None:
                    raise untrusted from None
                if self._refusal and (refused := await self._refusal.seen()) is not None:
                    raise refused from None
                raise _unreachable(error, request.url, stream, correlation_id) from None
            except httpx.DecodingError as error:
                raise _unreachable(error, request.url, stream, correlation_id) from None

    async def _exchange(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        """Send what the auth flow wants sent, and read the whole body of the last answer.

        httpx's own client does the same. What it does besides, for redirects and cookies that Lean
        does not use, costs as much CPU as the request itself.
        """
        assert self._way is not None  # noqa: S101 - the caller has looked
        flow = self._auth.async_auth_flow(request)
        try:
            following = await anext(flow)
            while True:
                response = await self._way.handle_async_request(following)
                try:
                    following = await flow.asend(response)
                except StopAsyncIteration:
                    _LOG.debug("%s answered %d", request.url, response.status_code)
                    return response, await body_of(response, self.settings.max_response_bytes)
                finally:
                    await response.aclose()
        finally:
            await flow.aclose()

    def _judge(
        self,
        request: httpx.Request,
        response: httpx.Response,
        content: bytes,
        stream: str | None,
        correlation_id: str,
    ) -> None:
        """Raise what stands in the way, if anything does."""
        problem = failure(
            response.status_code,
            content,
            stream=stream,
            retry_after=retry_after(response.headers),
            correlation_id=correlation_id,
            trace_id=response.headers.get("lean-trace-id"),
        )
        if problem is None:
            return
        if problem.error.code == "NOT_JSON" and is_web_page(response.status_code, content):
            problem = replace(problem, error=_foreign(problem.error))
        is_limit = response.status_code == 429
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
            told = parsedate_to_datetime(header) if header else None
        except (ValueError, TypeError, IndexError, OverflowError):
            return
        if told is not None and told.tzinfo is not None:
            self._ahead = told - self._now()
            self.heard_at = told.astimezone(dt.UTC)


class _Refusal:
    """Whether the server refuses the client certificate, looked at once a minute at most.

    Args:
        settings: Host and certificates.
    """

    def __init__(self, settings: LeanSettings) -> None:
        self._settings = settings
        self._looking = asyncio.Lock()
        self._looked_at = -math.inf
        self._error: LeanError | None = None

    async def seen(self) -> LeanError | None:
        """The error to raise instead of a failed connection, or None."""
        async with self._looking:
            # A look of its own goes directly, so through a proxy there is nothing to see.
            if proxy_of(self._settings.api_url) is not None:
                return None
            if time.monotonic() - self._looked_at >= _LOOK_AGAIN_SECONDS:
                self._error = await asyncio.to_thread(refused_client, self._settings)
                self._looked_at = time.monotonic()
            return copy.copy(self._error)


class _AgainError(Exception):
    """Another try can help."""

    def __init__(self, error: LeanError, wait: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


_BACKOFF = tenacity.wait_random_exponential(
    multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS
)


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds before another try: what was asked for, and at least what politeness wants."""
    asked = getattr(state.outcome.exception() if state.outcome else None, "wait", 0.0)
    return max(_BACKOFF(state), asked)


def _again(error: LeanError, wait: float) -> Exception:
    """What to raise where another try can help, unless the wait for it is too long."""
    return _AgainError(error, wait) if wait <= _LONGEST_PATIENCE_SECONDS else error


def _refreshed_at(envelope: Envelope) -> dt.datetime | None:
    try:
        return parse_instant(envelope.refreshed_at) if envelope.refreshed_at else None
    except ValueError:
        return None


def _is_of(envelope: Envelope, known: dt.datetime | None) -> bool:
    """Whether the store still is of a known instant."""
    return known is not None and _refreshed_at(envelope) == known


def _is_fine(envelope: Envelope | None) -> bool:
    """Whether an envelope leaves no doubt that its page is in order."""
    return envelope is not None and envelope.status == "OK"


def _opened(stream: Stream, response: _Response) -> Envelope:
    """The envelope of an answer that holds or announces records.

    Raises:
        SchemaError: The answer is not of its documented shape.
    """
    if response.preflight.envelope is not None:
        return response.preflight.envelope
    try:
        return open_envelope(stream, response.body)
    except SchemaError as error:
        error.status_code = response.status_code
        error.correlation_id, error.trace_id = response.correlation_id, response.trace_id
        raise


def _newest(stream: Stream, answer: Answer) -> str | None:
    """Key of the newest record of a page; None where no record has one."""
    key = stream.key[0]
    known = [
        one
        for one in records_in(stream, answer.page.body)
        if isinstance(one, dict) and isinstance(one.get(key), str) and _ID.fullmatch(one[key])
    ]
    newest = max(known, key=lambda one: str(one.get("created_at")), default=None)
    return newest[key] if newest is not None else None


def _unreachable(
    error: httpx.RequestError, url: httpx.URL, stream: str | None, correlation_id: str
) -> Exception:
    """What to raise where no answer came; trying again helps unless the settings are wrong."""
    problem = unanswered(error, url)
    problem.stream, problem.correlation_id = stream, correlation_id
    return problem if isinstance(problem, ConfigError) else _AgainError(problem)


def _redirected(
    request: httpx.Request, response: httpx.Response, stream: str | None, correlation_id: str
) -> ConfigError:
    """A redirect: Lean's API has none, and credentials do not follow it to another host."""
    where = ""
    if location := response.headers.get("location"):
        with suppress(httpx.InvalidURL, ValueError):
            # The rest of the address may hold what was meant for its owner only.
            url = request.url.join(location)
            where = f" to {url.scheme}://{url.netloc.decode('ascii')}"
    return ConfigError(
        f"the answer is a redirect{where} (HTTP {response.status_code}), which is not followed: "
        "check LEAN_API_URL, and the proxies or login pages between here and Lean",
        code="REDIRECTED",
        stream=stream,
        status_code=response.status_code,
        correlation_id=correlation_id,
        trace_id=response.headers.get("lean-trace-id"),
    )


def _foreign(error: LeanError) -> NetworkError:
    """A web page in place of an answer: somebody between here and Lean sent it."""
    return NetworkError(
        f"HTTP {error.status_code} with a web page instead of JSON: check LEAN_API_URL, and the "
        "proxies and login pages between here and Lean",
        code=error.code,
        stream=error.stream,
        status_code=error.status_code,
        correlation_id=error.correlation_id,
        trace_id=error.trace_id,
    )


def _network(settings: LeanSettings) -> httpx.AsyncBaseTransport:
    """The network, through aiohttp: a quarter of the CPU of httpx's own transport."""
    verify: ssl.SSLContext | bool = True
    if settings.api_url.startswith("https") or settings.token_url.startswith("https"):
        verify = ssl_context(settings)
    limits = httpx.Limits(
        max_connections=settings.max_concurrency + 1,
        max_keepalive_connections=settings.max_concurrency + 1,
        keepalive_expiry=30.0,
    )
    return Transport(verify, limits)


def _checked(value: str, name: str) -> str:
    """An id that may stand in an address: a UUID, as all of Lean's ids are that are asked by.

    An IBAN or a national id that is passed by mistake must not end in the logs of every proxy.

    Raises:
        RequestError: It is no UUID.
    """
    if not _ID.fullmatch(value):
        raise RequestError(f"{name} is not an id", code="INVALID_ID")
    return value


def _path(stream: Stream, request: Mapping[str, str]) -> str:
    if "{account_id}" not in stream.path:
        return stream.path
    return stream.path.format(account_id=_checked(request.get("account_id", ""), "account_id"))


def _query(stream: Stream, request: Mapping[str, str]) -> dict[str, str]:
    query = {}
    outer = stream if stream.exploded_from is None else STREAMS[stream.exploded_from]
    for name, source in outer.query.items():
        value = source[1:] if source.startswith("=") else request.get(source)
        if value is not None:
            query[name] = _checked(value, name) if name.endswith("_id") else value
    return query


def _target(path: str, query: Mapping[str, str]) -> str:
    """Path and query of a request."""
    return f"{path}?{urlencode(query)}" if query else path


_PAGE_PARAMETERS = {
    Paging.DATA: ("page", "size"),
    Paging.CONTENT: ("page", "size"),
    Paging.UNDERSCORE: ("page_number", "page_size"),
    Paging.CAMEL: ("pageNumber", "pageSize"),
    Paging.NONE: ("", ""),
}


def _object(response: _Response) -> dict[str, Any]:
    found = msgspec.json.decode(response.body)
    if not isinstance(found, dict):
        raise SchemaError("the answer is not an object")
    return found


def _stamp(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
