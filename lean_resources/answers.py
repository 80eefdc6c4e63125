"""What an answer of Lean says: its envelope, or the error of an answer that is not a success.

The body's status decides first and the HTTP code second, because business failures arrive as
HTTP 200. Sources: sections 4.7, 6.2 and 9 of the reference of this project, which paraphrases
https://docs.leantech.me/docs/general-errors and
https://docs.leantech.me/v2.0-KSA/docs/data-specific-errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import msgspec

from lean_resources.documents import mended
from lean_resources.errors import (
    AuthError,
    BankPausedError,
    ConsentError,
    IncompleteError,
    LeanError,
    NotGrantedError,
    RequestError,
    SchemaError,
    UnavailableError,
)
from lean_resources.streams import STREAMS, Paging, Stream

DUPLICATE_WAIT_SECONDS = 60.0
"""How long an identical request blocks the next one. Source: data-specific errors of Lean."""

_PENDING = frozenset({"PENDING", "PROCESSING_STARTED"})
# FINISHED is the status of a refresh, which has no envelope around it.
_FINE = frozenset({"OK", "FINISHED", *_PENDING})

_BY_CODE: dict[str, type[LeanError]] = {
    "INVALID_PARAMETERS": RequestError,
    "MISSING_PARAMETERS": RequestError,
    "INVALID_URL": RequestError,
    "INVALID_HTTP_METHOD": RequestError,
    "UNKNOWN_ENTITY": RequestError,
    "ENTITY_NOT_FOUND": RequestError,
    "UNKNOWN_ACCOUNT": RequestError,
    "UNKNOWN_RESULTS_ID": RequestError,
    "DATA_NOT_FOUND": RequestError,
    "UNSUPPORTED_BY_BANK": NotGrantedError,
    "CERTIFICATE_TOKEN_MISMATCH": AuthError,
    "INVALID_CERTIFICATE": AuthError,
    "INCORRECT_ACCESS_LEVEL": AuthError,
    "INSUFFICIENT_ACCESS_LEVEL": AuthError,
    "CONSENT_EXPIRED": ConsentError,
    "RECONNECT_REQUIRED": ConsentError,
    "EU_ACCOUNT_LOCKED": ConsentError,
    "EU_FUNCTIONALITY_RESTRICTED": ConsentError,
    "USER_PERMISSIONS_NOT_GRANTED": NotGrantedError,
    "USER_TRANSACTION_RANGE_NOT_GRANTED": NotGrantedError,
    "DISABLED_BY_LEAN": BankPausedError,
    "DISABLED_BY_CLIENT": BankPausedError,
    "KNOWN_UNSUPPORTED_MFA_BEHAVIOUR": RequestError,
    "KNOWN_TRAFFIC_OUTSIDE_ALLOWED_REGION": RequestError,
}
"""Error of each documented code; any other code means that Lean or the bank cannot answer now."""

_RETRY_NOW = frozenset({"RATE_LIMIT_EXCEEDED", "INTERNAL_SERVER_ERROR", "DUPLICATED_REQUEST"})
"""Codes of which another try within the same pull can succeed. Codes of a bank that cannot answer
now (BANK_ISSUE, BANK_MAINTENANCE, LEAN_ERROR and unknown codes) wait for a later sync: the
documentation asks to wait for fifteen minutes or more."""

_BY_STATUS: dict[int, type[LeanError]] = {401: AuthError, 403: AuthError, 408: UnavailableError}

_CODE = re.compile(r"(?=.{2,64}\Z)[A-Z]+(?:_[A-Z0-9]+)*")
"""The form of a code. Any other text in its place could be a name or an account number."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What surrounds the records of one page.

    Args:
        status: Body status; `OK` where the endpoint has none.
        results_id: Lean's receipt.
        refreshed_at: When the bank was last asked for these records, as Lean wrote it.
        timestamp: Lean's clock when it answered, as Lean wrote it.
        records: How many records the page holds.
        total_elements: Records on all pages, where the endpoint counts them.
        total_pages: Pages in all, where the endpoint counts them.
        is_older: Whether a record lacks what the newer generation always has.
    """

    status: str
    results_id: str | None
    refreshed_at: str | None
    timestamp: str | None
    records: int
    total_elements: int | None
    total_pages: int | None
    is_older: bool

    @property
    def is_pending(self) -> bool:
        """Whether the records are to be fetched by their receipt later."""
        return self.status in _PENDING


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there are no records.

    Args:
        error: What the caller gets.
        is_retriable: Whether asking again within the same pull can help.
        wait: Seconds to wait at least before asking again.
    """

    error: LeanError
    is_retriable: bool = False
    wait: float = 0.0


_Absent = msgspec.UnsetType
_ABSENT = msgspec.UNSET


class _Page(msgspec.Struct):
    number: Any = _ABSENT
    size: Any = _ABSENT
    sort: Any = _ABSENT
    total_elements: int | _Absent | None = _ABSENT
    total_pages: int | _Absent | None = _ABSENT


class _Bare(msgspec.Struct):
    """What surrounds records, with every documented field, so that a page can be encoded again."""

    status: str | _Absent | None = _ABSENT
    results_id: str | _Absent | None = _ABSENT
    message: str | _Absent | None = _ABSENT
    timestamp: str | _Absent | None = _ABSENT
    refreshed_at: str | _Absent | None = _ABSENT
    status_detail: Any = _ABSENT
    meta: Any = _ABSENT
    type: Any = _ABSENT
    page: _Page | _Absent | None = _ABSENT


class _Any(msgspec.Struct):
    """The parts of any body that is an object, errors included."""

    status: Any = None
    results_id: Any = None
    status_detail: Any = None
    reconnect_id: Any = None


_LENIENT = msgspec.json.Decoder(_Any)
_LISTED = msgspec.json.Decoder(list[Any])


def decoder_of(stream: Stream, record: Any) -> msgspec.json.Decoder[Any]:
    """A decoder of the stream's pages whose records are of a given type."""
    return _decoder_of(stream, list[record])


def list_decoder_of(stream: Stream) -> Callable[[bytes], bytes]:
    """A function that returns the JSON text of the records in a page that `decoder_of` decodes."""
    decoder = _decoder_of(stream, msgspec.Raw)
    return lambda body: bytes(records_of(stream, decoder.decode(body)) or b"")


def _decoder_of(stream: Stream, records: Any) -> msgspec.json.Decoder[Any]:
    if stream.paging is Paging.NONE:
        return msgspec.json.Decoder(records)
    # The text of a list is asked for only where there is one.
    found = records if records is msgspec.Raw else records | None | _Absent
    listed = (_name(stream), found, _ABSENT)
    if stream.paging is not Paging.DATA:
        return msgspec.json.Decoder(msgspec.defstruct("Listing", [listed], bases=(_Bare,)))
    fields = [("type", Any, _ABSENT), ("page", _Page | None | _Absent, _ABSENT), listed]
    data = msgspec.defstruct("Data", fields)
    envelope = [("data", data | None | _Absent, _ABSENT)]
    return msgspec.json.Decoder(msgspec.defstruct("DataEnvelope", envelope, bases=(_Bare,)))


@cache
def _lenient_decoder(stream: Stream) -> msgspec.json.Decoder[Any]:
    return decoder_of(stream, msgspec.Raw)


def _steps(stream: Stream) -> list[str]:
    """Keys from the top of a page to its records."""
    return stream.records.split(".") if stream.records else []


def open_envelope(stream: Stream, body: bytes) -> Envelope:
    """Read what surrounds the records of a page, without reading the records.

    Raises:
        SchemaError: The body is not JSON, or does not have the stream's documented shape.
    """
    return envelope_of(stream, _opened(stream, body), _is_older)


def counted(stream: Stream, body: bytes) -> int | None:
    """How many records all pages hold, as a page says.

    Raises:
        SchemaError: The body is not JSON, or does not have the stream's documented shape.
    """
    found = _opened(stream, body)
    page = None if stream.paging is Paging.NONE else _page_of(stream, found)
    return page.total_elements or 0 if page else None


def _opened(stream: Stream, body: bytes) -> Any:
    """A decoded page, with its records undecoded; without them where a record is not JSON."""
    try:
        return _decoded(_lenient_decoder(stream), body, _steps(stream))
    except _UNREADABLE:
        raise SchemaError(
            "the answer does not have its documented shape", stream=stream.name
        ) from None


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes, steps: list[str]) -> Any:
    """A decoded body. A single record that is not JSON does not change what the answer says."""
    try:
        return decoder.decode(body)
    except _UNREADABLE:
        whole = mended(body, steps)
    return decoder.decode(whole or b"")


def _name(stream: Stream) -> str:
    """Key of the list of records, or of the records that hold those of an exploded stream."""
    return "data" if stream.exploded_from is not None else stream.records.rpartition(".")[2]


def _around(stream: Stream, found: Any) -> Any:
    """What surrounds the records of a decoded page, and counts all pages; perhaps absent."""
    return found.data if stream.paging is Paging.DATA else found


def records_of(stream: Stream, found: Any) -> Sequence[Any] | None:
    """The records of a page that `decoder_of` decoded; None where it holds none."""
    if stream.paging is Paging.NONE:
        return cast(Sequence[Any], found)
    records = getattr(_around(stream, found), _name(stream), None)
    return None if records is _ABSENT else records


def _page_of(stream: Stream, found: Any) -> Any:
    """The part of a decoded page that counts all pages; false where it has none."""
    return getattr(_around(stream, found), "page", None)


def envelope_of(stream: Stream, found: Any, is_older: Callable[[Stream, Any], bool]) -> Envelope:
    """The envelope of a page.

    Args:
        found: What `decoder_of` decoded.
        is_older: Whether a record lacks what the newer generation always has.

    Raises:
        SchemaError: The page does not count its records. A page without a list of records is
            complete only where its count is zero.
    """
    records = records_of(stream, found)
    if stream.paging is Paging.NONE:
        count = len(found)
        return Envelope("OK", None, None, None, count, count, 1, is_older=False)
    page = _page_of(stream, found)
    total_elements, total_pages = (
        (_known(page.total_elements), _known(page.total_pages)) if page else (None, None)
    )
    status = found.status or "OK"
    # Without a count, nothing proves that all pages were read.
    if status not in _PENDING and (total_elements is None or total_pages is None):
        what = f"holds no {stream.records}" if records is None else "does not count its records"
        raise SchemaError(f"the answer {what}", stream=stream.name)
    return Envelope(
        status=status,
        results_id=_known(found.results_id),
        refreshed_at=_known(found.refreshed_at),
        timestamp=_known(found.timestamp),
        records=len(records or ()),
        total_elements=total_elements,
        total_pages=total_pages,
        is_older=bool(stream.verbose_unless and records and is_older(stream, records[0])),
    )


def _known(value: Any) -> Any:
    """A value of an envelope; None where it is absent."""
    return None if value is _ABSENT else value


def _is_older(stream: Stream, record: msgspec.Raw) -> bool:
    """Whether a record lacks the field that the newer generation always has."""
    try:
        first = msgspec.json.decode(record)
    except _UNREADABLE:
        return False
    return isinstance(first, dict) and stream.verbose_unless not in first


def _outline(stream: Stream | None, body: bytes) -> _Any | None:
    """The status of a body; None where the body is neither an object nor a list."""
    is_list = body.lstrip()[:1] == b"["
    decoder: msgspec.json.Decoder[Any] = _LISTED if is_list else _LENIENT
    try:
        found = _decoded(decoder, body, _steps(stream) if stream is not None else [])
    except _UNREADABLE:
        return None
    return _Any() if is_list else found


def failure(
    status_code: int,
    body: bytes,
    *,
    stream: str | None = None,
    retry_after: float | None = None,
    correlation_id: str | None = None,
    trace_id: str | None = None,
) -> Failure | None:
    """Why there are no records; None for an answer that contains or announces records.

    The body may have any content. The ids are for the error; `retry_after` are the seconds that the
    answer's header of that name asks to wait.
    """
    known: dict[str, Any] = {
        "stream": stream,
        "status_code": status_code,
        "correlation_id": correlation_id,
        "trace_id": trace_id,
    }
    found = _outline(STREAMS.get(stream or ""), body)
    if found is None:
        error: LeanError = UnavailableError(
            f"Lean answered HTTP {status_code} without JSON",
            code="NOT_JSON",
            retry_after=retry_after,
            **known,
        )
        # The page of a proxy before Lean goes away; a page with a client error comes again.
        return Failure(error, status_code < 400 or status_code >= 500, retry_after or 0.0)
    status = found.status if isinstance(found.status, str) else None
    known["results_id"] = found.results_id if isinstance(found.results_id, str) else None
    if status_code < 400 and (status is None or status in _FINE):
        return None
    detail = found.status_detail if isinstance(found.status_detail, dict) else {}
    granular = detail.get("granular_status_code")
    code = granular if isinstance(granular, str) else status
    if code is None or code in _FINE or not _CODE.fullmatch(code):
        code = f"HTTP_{status_code}"
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status_code)
    if kind is None and 400 <= status_code < 500 and status_code != 429 and code not in _RETRY_NOW:
        kind = RequestError
    kind = kind or UnavailableError
    error = kind(f"Lean answered HTTP {status_code} with {code}", code=code, **known)
    if not isinstance(error, UnavailableError):
        return Failure(error)
    error.retry_after = retry_after
    retriable = code in _RETRY_NOW or status_code in {429, 500, 502, 503, 504}
    wait = retry_after or 0.0
    if code == "DUPLICATED_REQUEST" and status_code < 400:
        wait = max(wait, DUPLICATE_WAIT_SECONDS)
    return Failure(error, retriable and kind is UnavailableError, wait)


def why_incomplete(stream: Stream, envelopes: list[Envelope]) -> IncompleteError | None:
    """Why the pages of one paged read are not complete, or None where they are."""
    if len({envelope.refreshed_at for envelope in envelopes}) > 1:
        return IncompleteError("Lean refreshed the data during the read", stream=stream.name)
    totals = {envelope.total_elements for envelope in envelopes}
    if len(totals) > 1:
        return IncompleteError("the count of records changed during the read", stream=stream.name)
    (total,) = totals
    count = sum(envelope.records for envelope in envelopes)
    if total is not None and count != total:
        return IncompleteError(f"{count} of {total} records came", stream=stream.name)
    return None
