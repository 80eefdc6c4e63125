"""What each documented answer of Lean means: whose turn it is, and whether to ask again."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lean_resources.answers import Envelope, failure, open_envelope, why_incomplete
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
from lean_resources.streams import STREAMS, Paging

MARKER = "Noura bint Saleh Al Dossari"
NOW, LATER = True, False

# The rows of section 9.1 of the reference: HTTP status, code, error, whether another try can help.
BY_HTTP = [
    (400, "INVALID_PARAMETERS", RequestError, LATER),
    (400, "MISSING_PARAMETERS", RequestError, LATER),
    (401, None, AuthError, LATER),
    (401, "CERTIFICATE_TOKEN_MISMATCH", AuthError, LATER),
    (403, "INVALID_CERTIFICATE", AuthError, LATER),
    (403, "INCORRECT_ACCESS_LEVEL", AuthError, LATER),
    (403, "INSUFFICIENT_ACCESS_LEVEL", AuthError, LATER),
    (403, "CONSENT_EXPIRED", ConsentError, LATER),
    (403, "USER_PERMISSIONS_NOT_GRANTED", NotGrantedError, LATER),
    (403, "USER_TRANSACTION_RANGE_NOT_GRANTED", NotGrantedError, LATER),
    (404, "UNKNOWN_ENTITY", RequestError, LATER),
    (404, "ENTITY_NOT_FOUND", RequestError, LATER),
    (404, "UNKNOWN_ACCOUNT", RequestError, LATER),
    (404, "UNKNOWN_RESULTS_ID", RequestError, LATER),
    (404, "INVALID_URL", RequestError, LATER),
    (404, "DATA_NOT_FOUND", RequestError, LATER),
    (405, "INVALID_HTTP_METHOD", RequestError, LATER),
    (408, "TIMEOUT", UnavailableError, LATER),
    (409, "CUSTOMER_ALREADY_EXISTS", RequestError, LATER),
    (429, "DUPLICATED_REQUEST", UnavailableError, NOW),
    (429, "RATE_LIMIT_EXCEEDED", UnavailableError, NOW),
    (500, "INTERNAL_SERVER_ERROR", UnavailableError, NOW),
    (501, "FAILED", UnavailableError, LATER),
    (502, None, UnavailableError, NOW),
    (503, None, UnavailableError, NOW),
    (504, None, UnavailableError, NOW),
]

# Section 9.2, the statuses that are no success; FAILED has section 9.3 to itself.
BY_BODY = [
    ("CONSENT_EXPIRED", ConsentError),
    ("RECONNECT_REQUIRED", ConsentError),
]

# Section 9.3: code, error, whether another try can help, and the wait before it.
GRANULAR = [
    ("BANK_ISSUE", UnavailableError, LATER, 0),
    ("BANK_MAINTENANCE", UnavailableError, LATER, 0),
    ("UNSEEN_BANK_ERROR", UnavailableError, LATER, 0),
    ("LEAN_ERROR", UnavailableError, LATER, 0),
    ("DISABLED_BY_LEAN", BankPausedError, LATER, 0),
    ("DISABLED_BY_CLIENT", BankPausedError, LATER, 0),
    ("DUPLICATED_REQUEST", UnavailableError, NOW, 60),
    ("EU_ACCOUNT_LOCKED", ConsentError, LATER, 0),
    ("EU_FUNCTIONALITY_RESTRICTED", ConsentError, LATER, 0),
    ("LOGGED_IN_ELSEWHERE", UnavailableError, LATER, 0),
    ("ACTIVE_SESSION_EXISTS", UnavailableError, LATER, 0),
    ("KNOWN_UNSUPPORTED_MFA_BEHAVIOUR", RequestError, LATER, 0),
    ("KNOWN_TRAFFIC_OUTSIDE_ALLOWED_REGION", RequestError, LATER, 0),
    ("UNSUPPORTED_BY_BANK", NotGrantedError, LATER, 0),
    ("DATA_NOT_FOUND", RequestError, LATER, 0),
    ("TIMEOUT", UnavailableError, LATER, 0),
    ("USER_PERMISSIONS_NOT_GRANTED", NotGrantedError, LATER, 0),
    ("USER_TRANSACTION_RANGE_NOT_GRANTED", NotGrantedError, LATER, 0),
    ("CONSENT_EXPIRED", ConsentError, LATER, 0),
    ("UNKNOWN_ENTITY", RequestError, LATER, 0),
    ("INVALID_PARAMETERS", RequestError, LATER, 0),
    ("INTERNAL_SERVER_ERROR", UnavailableError, NOW, 0),
    ("USER_CANCELLED", UnavailableError, LATER, 0),
    ("SESSION_EXPIRED_ON_OTP", UnavailableError, LATER, 0),
    ("INSUFFICIENT_BALANCE", UnavailableError, LATER, 0),
    ("NEVER_SEEN", UnavailableError, LATER, 0),
]


def refusal(code, **more):
    """An error as Lean words it."""
    found = {"status": code, "message": MARKER, "metadata": None, "results_id": "r-1", **more}
    return json.dumps(found).encode()


def envelope(status, granular=None):
    """A data envelope without data."""
    detail = None
    if granular is not None:
        detail = {"granular_status_code": granular, "status_additional_info": MARKER}
    return json.dumps(
        {
            "status": status,
            "results_id": "r-1",
            "message": MARKER,
            "status_detail": detail,
            "data": None,
        }
    ).encode()


def said(error):
    """Everything that an error may show."""
    return f"{error} {error!r} {error.args} {error.message} {error.code} {error.remedy}"


@pytest.mark.parametrize(("status_code", "code", "kind", "again"), BY_HTTP)
def test_each_documented_refusal_has_its_error(status_code, code, kind, again):
    """Every row of the HTTP table: the error, whether to ask again, and the ids to keep."""
    body = refusal(code) if code else json.dumps({"status_code": status_code}).encode()

    found = failure(
        status_code, body, stream="balances", correlation_id="c", trace_id="t", retry_after=None
    )

    assert type(found.error) is kind
    assert found.error.code == (code or f"HTTP_{status_code}")
    assert found.is_retriable is again
    assert found.wait == 0
    error = found.error
    assert (error.stream, error.status_code) == ("balances", status_code)
    assert (error.correlation_id, error.trace_id) == ("c", "t")
    assert error.results_id == ("r-1" if code else None)
    assert MARKER not in said(error)


@pytest.mark.parametrize("status_code", [200, 202, 403])
@pytest.mark.parametrize(("status", "kind"), BY_BODY)
def test_the_status_of_the_body_decides(status, kind, status_code):
    """A failure is one under any HTTP status."""
    found = failure(status_code, envelope(status))

    assert type(found.error) is kind
    assert found.error.code == status
    assert not found.is_retriable


@pytest.mark.parametrize("status", ["OK", "PENDING", "PROCESSING_STARTED", "FINISHED", None])
@pytest.mark.parametrize("status_code", [200, 202])
def test_what_holds_or_announces_records_is_no_failure(status, status_code):
    """OK, PENDING and PROCESSING_STARTED are none, nor is an answer without a status."""
    assert failure(status_code, envelope(status)) is None


@pytest.mark.parametrize("status_code", [200, 500])
@pytest.mark.parametrize(("code", "kind", "again", "wait"), GRANULAR)
def test_each_granular_code_has_its_error(code, kind, again, wait, status_code):
    """Every row of the table of granular codes, at HTTP 200 and under an HTTP error alike."""
    found = failure(status_code, envelope("FAILED", code))

    assert type(found.error) is kind
    assert found.error.code == code
    if status_code == 200:
        assert found.is_retriable is again
        assert found.wait == wait
    assert MARKER not in said(found.error)


@pytest.mark.parametrize("status_code", [403, 404, 408])
def test_a_granular_code_beats_the_http_status(status_code):
    """Insights answer 4xx with the envelope of data; the code within is what counts."""
    found = failure(status_code, envelope("FAILED", "CONSENT_EXPIRED"))

    assert type(found.error) is ConsentError
    assert found.error.status_code == status_code


def test_a_failure_without_detail_is_unavailable():
    """FAILED alone says no more than that."""
    found = failure(200, envelope("FAILED"))

    assert type(found.error) is UnavailableError
    assert (found.error.code, found.is_retriable) == ("FAILED", False)


@pytest.mark.parametrize("status_code", [200, 400, 403, 404, 410, 429, 500, 503])
def test_unknown_codes_are_never_asked_again_because_of_the_code(status_code):
    """A code that nobody documented is left to the next sync unless the HTTP status helps."""
    found = failure(status_code, refusal("SOMETHING_NEW_2"))

    kind = {400: RequestError, 403: AuthError, 404: RequestError, 410: RequestError}
    assert type(found.error) is kind.get(status_code, UnavailableError)
    assert found.error.code == "SOMETHING_NEW_2"
    assert found.is_retriable is (status_code in {429, 500, 503})


@pytest.mark.parametrize("status_code", [429, 503])
def test_the_wait_that_was_asked_for_is_passed_on(status_code):
    """Retry-After travels with the failure and with its error."""
    found = failure(status_code, refusal("RATE_LIMIT_EXCEEDED"), retry_after=7.0)

    assert found.wait == 7.0
    assert found.error.retry_after == 7.0


@pytest.mark.parametrize(("asked", "wait"), [(None, 60), (5.0, 60), (90.0, 90)])
def test_a_duplicate_waits_at_least_a_minute(asked, wait):
    """An identical request blocks the next one for sixty seconds."""
    found = failure(200, envelope("FAILED", "DUPLICATED_REQUEST"), retry_after=asked)

    assert found.is_retriable
    assert found.wait == wait


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"<html>Just a moment...</html>",
        b'{"status": "OK", "data": {"transac',
        b"\xff\xfe",
        b'{"status": "\xff"}',
        b'"OK"',
        b"7",
        b"null",
        b"[" * 100_000,
        b'{"status":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        b'{"data":' * 5_000,
    ],
    ids=lambda body: ascii(body[:24]),
)
@pytest.mark.parametrize("status_code", [200, 404, 502])
def test_what_is_no_answer_is_unavailable(status_code, body):
    """HTML, halves and nests pass; under a client error the same would come again."""
    found = failure(status_code, body, retry_after=3.0)

    assert type(found.error) is UnavailableError
    assert found.error.code == "NOT_JSON"
    assert found.is_retriable is (status_code != 404)
    assert found.wait == 3.0


@pytest.mark.parametrize("body", [b"[]", b'[{"identifier": "A"}]', b" \n[]"])
def test_a_list_is_an_answer(body):
    """The listing of banks is a bare array, with or without white space before it."""
    assert failure(200, body) is None
    assert type(failure(500, body).error) is UnavailableError


@pytest.mark.parametrize(
    "code",
    [
        MARKER,
        "SA0380000000608010167519",
        "SA97ABCDEFGHJKLMNPQRSTUV",
        "1012345674",
        "محمد",
        "NOURA AL DOSSARI",
        "Noura",
        "",
        "A" * 65,
        "OK",
        "PENDING",
        "CODE\n",
        7,
        [MARKER],
        {"a": MARKER},
    ],
    ids=ascii,
)
def test_only_a_code_is_quoted(code):
    """What stands in a code's place and is none is replaced by the HTTP status."""
    bodies = [refusal(code), envelope("FAILED", code)]

    errors = [failure(500, body).error for body in bodies]

    assert {error.code for error in errors} <= {"HTTP_500", "FAILED"}
    assert errors[0].code == "HTTP_500"
    if isinstance(code, str) and code not in {"", "OK"}:
        assert not any(code in said(error) for error in errors)


# Laws.

WORDS = st.just(MARKER) | st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=12,
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "status": JSON | st.sampled_from(["OK", "FAILED", "PENDING", MARKER]),
        "message": JSON,
        "results_id": st.none() | st.integers() | st.just("r-1"),
        "status_detail": JSON | st.fixed_dictionaries({"granular_status_code": JSON}),
        "data": JSON,
        "reconnect_id": JSON,
    },
)
BODIES = st.binary(max_size=60) | (ENVELOPES | JSON).map(lambda found: json.dumps(found).encode())
HEADS = st.none() | st.floats(0, 100)


@settings(max_examples=300, deadline=None)
@given(status_code=st.integers(100, 599), body=BODIES, retry_after=HEADS)
def test_a_failure_never_raises_and_never_quotes(status_code, body, retry_after):
    """Whatever comes, there is a failure or there is none, and no word of the body is in it."""
    found = failure(status_code, body, stream="balances", retry_after=retry_after)

    if status_code >= 400:
        assert found is not None
    if found is not None:
        assert isinstance(found.error, LeanError)
        assert MARKER not in said(found.error)
        assert found.wait >= 0
        assert type(found.error) is UnavailableError or not found.is_retriable


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([*STREAMS]), body=BODIES)
def test_an_envelope_is_read_or_is_a_schema_error(name, body):
    """Whatever comes, an envelope that is not pending counts its records; all else is an error."""
    found, problem = None, None
    try:
        found = open_envelope(STREAMS[name], body)
    except SchemaError as error:
        problem = error

    if found is not None:
        assert found.is_pending or found.total_elements is not None
    else:
        assert MARKER not in said(problem)
        assert problem.stream == name


# Envelopes.


def page(stream, *records, total=None, pages=1, **more):
    """A body of a stream with some records."""
    counts = {"total_elements": len(records) if total is None else total, "total_pages": pages}
    listed = ",".join(records)
    if stream.paging is Paging.NONE:
        return f"[{listed}]".encode()
    rest = "".join(f",{json.dumps(k)}:{json.dumps(v)}" for k, v in more.items())
    name = stream.records.rpartition(".")[2]
    if stream.exploded_from is not None:
        name = "data"
    listing = f'"{name}":[{listed}],"page":{json.dumps(counts)}'
    if stream.paging is Paging.DATA:
        return f'{{"data":{{{listing}}}{rest}}}'.encode()
    return f"{{{listing}{rest}}}".encode()


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_counts_its_records(name):
    """The records of each stream are found where the catalogue says, and counted unread."""
    stream = STREAMS[name]
    body = page(stream, '{"a":1}', '"b"', "null", status="OK", results_id="r", refreshed_at="x")

    found = open_envelope(stream, body)

    assert (found.records, found.total_elements, found.total_pages) == (3, 3, 1)
    assert found.status == "OK"
    if stream.paging is not Paging.NONE:
        assert (found.results_id, found.refreshed_at) == ("r", "x")


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_tells_its_generation(name):
    """A record without the field that the newer generation always has is of the older one."""
    stream = STREAMS[name]
    newer = json.dumps({stream.verbose_unless or "x": None})

    assert not open_envelope(stream, page(stream)).is_older
    assert not open_envelope(stream, page(stream, newer)).is_older
    is_told = stream.verbose_unless is not None
    assert open_envelope(stream, page(stream, "{}")).is_older is is_told
    assert not open_envelope(stream, page(stream, '"not an object"')).is_older
    assert not open_envelope(stream, page(stream).replace(b"[]", b'[{"a":"\xff"}]')).is_older


@pytest.mark.parametrize("status", ["PENDING", "PROCESSING_STARTED"])
def test_a_promise_needs_no_records(status):
    """What comes later is announced without data."""
    found = open_envelope(STREAMS["balances"], envelope(status))

    assert found.is_pending
    assert found.results_id == "r-1"


def listed(records=1, total=1, refreshed_at="a"):
    """An envelope of one page."""
    return Envelope("OK", "r", refreshed_at, None, records, total, 1, is_older=False)


@pytest.mark.parametrize(
    ("envelopes", "is_whole"),
    [
        ([listed(0, 0)], True),
        ([listed(2, 5), listed(2, 5), listed(1, 5)], True),
        ([listed(1, 1, None)], True),
        ([listed(2, 3), listed(1, 3, "b")], False),
        ([listed(2, 3), listed(1, 3, None)], False),
        ([listed(2, 3), listed(1, 4)], False),
        ([listed(2, 3), listed(0, 3)], False),
        ([listed(2, 3), listed(2, 3)], False),
        ([listed(0, 1)], False),
    ],
)
def test_pages_make_one_whole_or_none(envelopes, is_whole):
    """One store, one count, and as many records as were announced."""
    problem = why_incomplete(STREAMS["balances"], envelopes)

    assert (problem is None) is is_whole
    if problem is not None:
        assert isinstance(problem, IncompleteError)
        assert problem.stream == "balances"
