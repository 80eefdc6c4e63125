"""Paged reads: all pages of a stream, with promised results, proved complete."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

import msgspec

from lean_resources.answers import Envelope, open_envelope, why_incomplete
from lean_resources.decoding import Page, Preflight, records_in
from lean_resources.errors import (
    IncompleteError,
    LeanError,
    RequestError,
    SchemaError,
    UnavailableError,
)
from lean_resources.instants import parse_instant
from lean_resources.settings import LeanSettings
from lean_resources.streams import STREAMS, Paging, Stream

Sleep = Callable[[float], Awaitable[None]]
Announced = Callable[[str, float], Awaitable[float]]
"""Waits for the webhook that announces a result, up to some seconds; returns those waited."""

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_PAGE_PARAMETERS = {
    Paging.DATA: ("page", "size"),
    Paging.CONTENT: ("page", "size"),
    Paging.UNDERSCORE: ("page_number", "page_size"),
    Paging.CAMEL: ("pageNumber", "pageSize"),
    Paging.NONE: ("", ""),
}


UNSEEN = Preflight()
"""Of an answer that no preflight has validated."""


class Response(msgspec.Struct):
    """An HTTP answer, without what transported it.

    Args:
        path: Path and query of the request.
        correlation_id: The id this client sent.
        trace_id: The id that Lean's support asks for.
        received_at: When the body was complete, by this machine's clock.
    """

    status_code: int
    body: bytes
    path: str
    correlation_id: str
    trace_id: str | None
    received_at: dt.datetime
    preflight: Preflight = UNSEEN

    def unexpected(self, message: str) -> SchemaError:
        """The error of an answer that does not have its documented shape."""
        return SchemaError(message, correlation_id=self.correlation_id, trace_id=self.trace_id)


@dataclass(frozen=True, slots=True)
class Answer:
    """One page as received, and what Lean says about it."""

    page: Page
    envelope: Envelope
    response: Response = field(repr=False)

    def traced(self, error: LeanError) -> LeanError:
        """An error with the ids of this answer."""
        error.results_id = self.envelope.results_id
        error.correlation_id = self.response.correlation_id
        error.trace_id = self.response.trace_id
        return error


@dataclass(frozen=True, slots=True)
class PagedRead:
    """All pages of one read of a stream, proved complete.

    Args:
        answers: Its pages in order; only the first page where nothing has changed.
        is_unchanged: Whether Lean's copy of the bank's data is the one of the read before.
        asked_at: When the first request of the successful attempt was sent, by this machine.
        requests: Requests that it took, with those that were repeated.
    """

    stream: Stream
    request: Mapping[str, str]
    answers: tuple[Answer, ...] = field(repr=False)
    is_unchanged: bool
    asked_at: dt.datetime
    requests: int = 0

    @property
    def pages(self) -> list[Page]:
        """The pages, for the decoder."""
        return [answer.page for answer in self.answers]

    @property
    def refreshed_at(self) -> dt.datetime | None:
        """When the bank was last asked, by Lean; None where Lean does not say."""
        return _refreshed_at(self.answers[0].envelope)


@dataclass(frozen=True, slots=True)
class _PagedRequest:
    """What a paged read asks for.

    Args:
        series_id: Id of the read, as the lake's column names it.
        target: Path and query, with `{}` for the page's number where the stream has pages.
        page_size: Records per page.
    """

    stream: Stream
    request: dict[str, str]
    series_id: str
    target: str
    page_size: int


class PagedReader:
    """Reads all pages of a stream.

    Args:
        get: Sends a GET request for a path with query, and returns Lean's answer. Given the instant
            of a bank data copy, an answer of that copy needs no preflight of its records.
        new_id: Makes an id for a read.
        log_wait: Logs what is waited for, and for how many seconds at most.
    """

    def __init__(
        self,
        settings: LeanSettings,
        get: Callable[[str, Stream, dt.datetime | None], Awaitable[Response]],
        *,
        sleep: Sleep,
        now: Callable[[], dt.datetime],
        new_id: Callable[[], str],
        log_wait: Callable[[str, float], None],
    ) -> None:
        self.settings = settings
        self._get = get
        self._sleep = sleep
        self._now = now
        self._new_id = new_id
        self._log_wait = log_wait
        self._older: set[str] = set()
        self.wake_by(None)

    def wake_by(self, announced: Announced | None) -> None:
        """Wait for promised results with `announced` from now on, or poll where it is None."""
        self.announced = announced or self._slept

    async def read(
        self,
        stream: Stream,
        request: Mapping[str, str],
        unless_refreshed_at: dt.datetime | None,
        page_size: int,
    ) -> PagedRead:
        """Read all pages of a stream, and read them again while they are not complete.

        The parameters are those of `LeanClient.read`, and so are the errors.
        """
        problem: LeanError = IncompleteError("not read", stream=stream.name)
        for attempt in range(self.settings.attempts):
            if attempt:
                await self._sleep(min(FIRST_WAIT_SECONDS * 2**attempt, LONGEST_WAIT_SECONDS))
            asked_at = self._now()
            answers = [
                answer
                async for answer in self._pages(stream, request, unless_refreshed_at, page_size)
            ]
            listed = [answer.envelope for answer in answers if not answer.page.is_detail]
            unchanged = is_of(listed[0], unless_refreshed_at)
            incomplete = None if unchanged else why_incomplete(stream, listed)
            if incomplete is None:
                return PagedRead(stream, request, tuple(answers), unchanged, asked_at)
            problem = answers[-1].traced(incomplete)
        raise problem

    async def _pages(
        self,
        stream: Stream,
        request: Mapping[str, str],
        unless_refreshed_at: dt.datetime | None,
        page_size: int,
    ) -> AsyncIterator[Answer]:
        """Pages of one attempt; the first decides whether older answers are asked for in full."""
        entity = request.get("entity_id", "")
        verbose = self.settings.verbose == "always" or entity in self._older
        paged = self._paged_request(stream, request, self._new_id(), page_size, verbose=verbose)
        first = await self._page(paged, 0, 0, unless_refreshed_at)
        is_known = is_of(first.envelope, unless_refreshed_at)
        is_auto = self.settings.verbose == "auto" and not verbose
        if is_auto and first.envelope.is_older and not is_known:
            self._older.add(entity)
            paged = self._paged_request(stream, request, paged.series_id, page_size, verbose=True)
            first = await self._page(paged, 0, 0)
        yield first
        if is_of(first.envelope, unless_refreshed_at):
            return
        seen = first.envelope.records
        pages = first.envelope.total_pages
        number = 1
        while number < (pages if pages is not None else 1):
            answer = await self._page(paged, number, seen)
            yield answer
            seen += answer.envelope.records
            number += 1
            if not answer.envelope.records:
                break  # an empty page is the last, however many were announced
        if stream.detail is not None and (newest := _newest(stream, first)) is not None:
            key = stream.key[0]
            path = stream.detail.format(**{key: checked_id(newest, key)})
            response = await self._get(path, stream, None)
            page = Page(paged.series_id, number, seen, response.body, dict(request), is_detail=True)
            yield Answer(page, _OF_DETAIL, response)

    def _paged_request(
        self,
        stream: Stream,
        request: Mapping[str, str],
        series_id: str,
        page_size: int,
        *,
        verbose: bool,
    ) -> _PagedRequest:
        query = _query(stream, request)
        if verbose and stream.verbose_unless is not None:
            query["verbose"] = "true"
        page, size = _PAGE_PARAMETERS[stream.paging]
        if size:
            query[size] = str(page_size)
        target = target_of(_path(stream, request), query)
        if page:
            target += f"&{page}={{}}"
        return _PagedRequest(stream, dict(request), series_id, target, page_size)

    async def _page(
        self,
        paged: _PagedRequest,
        number: int,
        first_record: int,
        known_at: dt.datetime | None = None,
    ) -> Answer:
        stream = paged.stream
        response = await self._get(paged.target.format(number), stream, known_at)
        envelope = _opened(stream, response)
        if envelope.is_pending:
            response, envelope = await self._result(paged, response, envelope, number)
        place = paged.series_id, number, first_record
        page = Page(*place, response.body, paged.request, preflight=response.preflight)
        return Answer(page, envelope, response)

    async def _result(
        self, paged: _PagedRequest, promise: Response, pending: Envelope, number: int
    ) -> tuple[Response, Envelope]:
        """Wait for a result that Lean promised, up to the deadline."""
        stream = paged.stream
        if pending.results_id is None:
            raise SchemaError("a pending answer has no results_id", stream=stream.name)
        target = target_of(
            f"/data/v2/results/{checked_id(pending.results_id, 'results_id')}",
            {"page": str(number), "size": str(paged.page_size)},
        )
        waited, deadline = 0.0, self.settings.pending_deadline_seconds
        self._log_wait(f"Lean prepares the answers of {stream.name}", deadline)
        while waited < deadline:
            waited += await self.announced(pending.results_id, self.settings.pending_poll_seconds)
            try:
                response = await self._get(target, stream, None)
            except RequestError as error:
                # Lean answers this for a result that is not ready.
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


_OF_DETAIL = Envelope("OK", None, None, None, 1, None, None, is_older=False)


def _refreshed_at(envelope: Envelope) -> dt.datetime | None:
    try:
        return parse_instant(envelope.refreshed_at) if envelope.refreshed_at else None
    except ValueError:
        return None


def is_of(envelope: Envelope, known: dt.datetime | None) -> bool:
    """Whether Lean's copy of the bank's data still is of a known instant."""
    return known is not None and _refreshed_at(envelope) == known


def _opened(stream: Stream, response: Response) -> Envelope:
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
        record
        for record in records_in(stream, answer.page.body)
        if isinstance(record, dict) and _ID.fullmatch(str(record.get(key)))
    ]
    newest = max(known, key=lambda record: str(record.get("created_at")), default=None)
    return newest[key] if newest is not None else None


def checked_id(value: str, name: str) -> str:
    """An id that may stand in an address: a UUID, as all of Lean's ids are that are asked by.

    An IBAN or a national id that is passed by mistake must not appear in the logs of a proxy.

    Raises:
        RequestError: It is not a UUID.
    """
    if not _ID.fullmatch(value):
        raise RequestError(f"{name} is not a UUID", code="INVALID_ID")
    return value


def _path(stream: Stream, request: Mapping[str, str]) -> str:
    if "{account_id}" not in stream.path:
        return stream.path
    return stream.path.format(account_id=checked_id(request.get("account_id", ""), "account_id"))


def _query(stream: Stream, request: Mapping[str, str]) -> dict[str, str]:
    query = {}
    outer = stream if stream.exploded_from is None else STREAMS[stream.exploded_from]
    for name, source in outer.query.items():
        value = source[1:] if source.startswith("=") else request.get(source)
        if value is not None:
            query[name] = checked_id(value, name) if name.endswith("_id") else value
    return query


def target_of(path: str, query: Mapping[str, str]) -> str:
    """Path and query of a request."""
    return f"{path}?{urlencode(query)}" if query else path
