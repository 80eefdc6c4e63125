"""What the client promises: everything exactly once, or an error that says what to do."""

import asyncio
import datetime as dt
import itertools
import json
import re
import socket
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from conftest import TODAY, Slept, client_of, settings_of

from lean_resources import LeanClient
from lean_resources.errors import (
    AuthError,
    ConfigError,
    ConsentError,
    IncompleteError,
    NotGrantedError,
    RequestError,
    SchemaError,
    UnavailableError,
)
from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS, Column, Kind, Paging, Stream

README = Path(__file__).parent.parent / "README.md"
RECENT = {"start_date": "2026-03-01", "end_date": TODAY}
TRANSACTIONS = "GET /data/v2/accounts/{account_id}/transactions"
RETAIL = {"account_type": "PERSONAL"}
NOBODY = "0f61e97c-462a-4b86-a432-9e8824bc9088"
TRANSIENT = ["500", "502", "503", "504", "html", "cut"]


class Wire(httpx.AsyncBaseTransport):
    """The way to the offline Lean: notes each request, and may answer or change an answer.

    Args:
        instead: Told of each request to the API; what it returns is the answer, None lets pass.
        change: Given each answer of the API as JSON, it returns what is sent in its place.
    """

    def __init__(self, sandbox, instead=lambda _: None, change=None):
        self.sent = []
        self._inner = httpx.ASGITransport(sandbox.app)
        self._instead = instead
        self._change = change

    async def handle_async_request(self, request):
        is_token = request.url.path == "/oauth2/token"
        if not is_token:
            self.sent.append((request.url.path, dict(request.headers)))
            answer = self._instead(request)
            if answer is not None:
                return answer
        response = await self._inner.handle_async_request(request)
        if is_token or self._change is None:
            return response
        body = json.loads(await response.aread())
        headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
        changed = self._change(body)
        return httpx.Response(response.status_code, headers=headers, json=changed)


class Bytes(httpx.AsyncByteStream):
    """A body as it lies on the wire."""

    def __init__(self, *chunks):
        self._chunks = chunks

    async def __aiter__(self):
        for chunk in self._chunks:
            yield chunk


def over(sandbox, wire, slept=None, **changes):
    """A client over a wire."""
    return LeanClient(settings_of(sandbox, **changes), transport=wire, sleep=slept or Slept())


def ask(client, work):
    """What some work with an open client brings."""

    async def inside():
        async with client:
            return await work(client)

    return asyncio.run(inside())


def read(client, stream, request, **more):
    """One paged read of a stream."""
    return ask(client, lambda lean: lean.read(stream, request, **more))


def records(answer, stream):
    """The records of a page, as sent."""
    found = json.loads(answer.page.body)
    for name in stream.records.split(".") if stream.records else []:
        found = found[name]
    return found


def ids(found, stream, field):
    """The ids of the records of a paged read, in order."""
    return [
        record[field]
        for answer in found.answers
        if not answer.page.is_detail
        for record in records(answer, stream)
    ]


@pytest.fixture
def sandbox():
    """An offline Lean with every awkward case and a short history."""
    return Sandbox(customers=20, months=2, seed=7, today=TODAY)


@pytest.fixture
def statement(sandbox):
    """Half a month of an account: some dozens of rows."""
    case = sandbox.example("newer_generation")
    return {"entity_id": case["entity_id"], "account_id": case["account_ids"][0], **RECENT}


def _consents_of(customer_id):
    """The one listing with `pageNumber`, which the catalogue does not need."""
    return Stream(
        name="listed_consents",
        doc="Consents as their customer's listing tells them.",
        path=f"/customers/v1/{customer_id}/consents",
        records="data",
        paging=Paging.CAMEL,
        key=("consent_id",),
        columns=(
            Column(
                name="consent_id", kind=Kind.TEXT, doc="Its id.", paths=("id",), required=True
            ),
        ),
        source="https://docs.leantech.me",
    )  # fmt: skip


# Reading.


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("style", Paging, ids=lambda style: style.name.lower())
def test_every_way_of_paging_reads_everything_once(sandbox, statement, style, size):
    """Each record of the truth comes exactly once, whatever the size of a page."""
    case = sandbox.example("reconsented")
    for _ in range(3):
        sandbox.store.start_refresh(sandbox.store.find_entity(case["entity_id"]))
        sandbox.clock.advance(dt.timedelta(minutes=1))
    customer = {"customer_id": case["customer_id"]}
    stream, request, truth, parent, field = {
        Paging.DATA: (
            "transactions",
            statement,
            "transactions",
            {"account_id": statement["account_id"]},
            "transaction_id",
        ),
        Paging.CONTENT: (
            "refreshes",
            {"entity_id": case["entity_id"]},
            "refreshes",
            {"entity_id": case["entity_id"]},
            "refresh_id",
        ),
        Paging.UNDERSCORE: ("customers", {}, "customers", {}, "customer_id"),
        Paging.CAMEL: (_consents_of(case["customer_id"]), {}, "consents", customer, "id"),
        Paging.NONE: ("banks", RETAIL, "banks", RETAIL, "identifier"),
    }[style]
    stream = STREAMS[stream] if isinstance(stream, str) else stream
    true = [
        one["record"][field]
        for one in sandbox.truth(truth)
        if parent.items() <= one["parent"].items()
        and one["record"].get("booking_date_time", TODAY) >= RECENT["start_date"]
    ]

    found = read(client_of(sandbox, page_size=size), stream, request)

    assert sorted(ids(found, stream, field)) == sorted(true)
    assert len(true) > 1
    listed = [answer for answer in found.answers if not answer.page.is_detail]
    pages = 1 if style is Paging.NONE else -(-len(true) // size)
    assert [answer.page.number for answer in listed] == list(range(pages))
    firsts = [0 if style is Paging.NONE else number * size for number in range(pages)]
    assert [answer.page.first_record for answer in listed] == firsts


def test_a_page_boundary_changes_nothing(sandbox, statement):
    """The typed rows are the same, in the same order, however small the pages are."""
    tables = [
        ask(
            client_of(sandbox, page_size=size), lambda lean: lean.table("transactions", **statement)
        )
        for size in (1, 7, 100)
    ]

    assert tables[0].num_rows > 20
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_an_empty_stream_is_read_whole(sandbox):
    """No records on no pages is an answer."""
    case = sandbox.example("newer_generation")
    request = {"entity_id": case["entity_id"], "account_id": case["account_ids"][1]}

    found = read(client_of(sandbox), "standing_orders", request)

    assert [answer.envelope.records for answer in found.answers] == [0]
    assert found.answers[0].envelope.total_pages == 0


def test_the_newest_refresh_is_told_in_detail(sandbox):
    """A listing of refreshes ends with what Lean says more of the newest one."""
    case = sandbox.example("newer_generation")

    found = read(client_of(sandbox), "refreshes", {"entity_id": case["entity_id"]})

    *_, detail = found.answers
    assert detail.page.is_detail
    told = json.loads(detail.page.body)
    assert told["refresh_id"] == ids(found, STREAMS["refreshes"], "refresh_id")[0]
    assert told["data_status"]["accounts"] == "OK"


@pytest.mark.parametrize("odd", [[None, 7, "x", [], {}], [{"refresh_id": None}], []])
def test_refreshes_that_are_none_do_no_harm(sandbox, odd):
    """A listing without one usable id is read as it is, for the decoder to quarantine."""
    body = {"content": odd, "page": {"total_elements": len(odd), "total_pages": 1}}
    client = over(sandbox, Wire(sandbox, lambda _: httpx.Response(200, json=body)))

    found = read(client, "refreshes", {"entity_id": NOBODY})

    assert len(found.answers) == 1


def test_an_unchanged_store_costs_one_request(sandbox, statement):
    """When the bank was not asked since, the first page is all that is read."""
    first = read(client_of(sandbox, page_size=7), "transactions", statement)

    again = read(
        client_of(sandbox, page_size=7),
        "transactions",
        statement,
        unless_refreshed_at=first.refreshed_at,
    )
    later = read(
        client_of(sandbox, page_size=7),
        "transactions",
        statement,
        unless_refreshed_at=first.refreshed_at - dt.timedelta(microseconds=1),
    )

    assert (again.is_unchanged, again.requests, len(again.answers)) == (True, 1, 1)
    assert not later.is_unchanged
    assert later.requests == first.requests > 2


@pytest.mark.parametrize(
    ("case", "verbose", "asked"),
    [
        ("older_generation", "auto", [False, True, True]),
        ("older_generation", "never", [False, False]),
        ("older_generation", "always", [True, True]),
        ("newer_generation", "auto", [False, False]),
        ("newer_generation", "always", [True, True]),
    ],
)
def test_the_older_generation_is_asked_to_be_verbose(sandbox, case, verbose, asked):
    """Only where records of the older generation show are they asked for in full."""
    case = sandbox.example(case)
    request = {
        "entity_id": case["entity_id"],
        "account_id": case["account_ids"][0],
        "start_date": "2026-03-08",
        "end_date": TODAY,
    }
    client = client_of(sandbox, verbose=verbose)
    total = read(client_of(sandbox, verbose="never"), "transactions", request)
    size = -(-total.answers[0].envelope.total_elements // 2)
    client = client_of(sandbox, verbose=verbose, page_size=size)

    found = read(client, "transactions", request)

    assert found.requests == len(asked)
    assert ["verbose=true" in answer.response.path for answer in found.answers] == asked[-2:]


def test_the_older_generation_is_recognised_once_per_entity(sandbox):
    """Once seen, an entity's other streams are asked for in full at once."""
    case = sandbox.example("older_generation")
    request = {"entity_id": case["entity_id"], "account_id": case["account_ids"][0]}

    async def both(lean):
        await lean.read("balances", request)
        return await lean.read("transactions", request | RECENT)

    found = ask(client_of(sandbox), both)

    assert found.requests == 1
    assert "verbose=true" in found.answers[0].response.path


def test_many_at_once_each_count_their_own_requests(sandbox, statement):
    """The requests of a read are its own, whatever runs beside it."""

    async def many(lean):
        asked = (lean.read("transactions", statement) for _ in range(8))
        return sum(found.requests for found in await asyncio.gather(*asked)), lean.requests

    counted, made = ask(client_of(sandbox, page_size=10), many)

    assert counted == made


def test_no_more_requests_run_at_once_than_allowed(sandbox, statement):
    """However many reads there are, the requests in flight stay within the setting."""
    running, most = 0, []

    async def counting(scope, receive, send):
        nonlocal running
        running += 1
        most.append(running)
        await asyncio.sleep(0.001)
        await sandbox.app(scope, receive, send)
        running -= 1

    client = LeanClient(
        settings_of(sandbox, page_size=20, max_concurrency=3),
        transport=httpx.ASGITransport(counting),
        sleep=Slept(),
    )

    async def many(lean):
        await asyncio.gather(*(lean.read("transactions", statement) for _ in range(12)))

    ask(client, many)

    assert max(most) == 3
    assert len(most) > 12


# Answers that come later.


@pytest.mark.parametrize("fault", ["PENDING:3", "PENDING-202:3"])
def test_a_promised_answer_is_waited_for(sandbox, statement, fault):
    """PENDING is followed to its result; a result that is not known yet is asked for again."""
    plain = ask(client_of(sandbox), lambda lean: lean.table("transactions", **statement))
    sandbox.fail("transactions", fault)
    slept = Slept()

    table = ask(client_of(sandbox, slept), lambda lean: lean.table("transactions", **statement))

    assert table.equals(plain)
    assert slept.seconds == [30.0] * 4
    assert sandbox.requests["/data/v2/results/{results_id}"] == 4


def test_every_page_may_be_promised(sandbox, statement):
    """A paged read of which each page comes as a promised result has the same records."""
    plain = ask(client_of(sandbox), lambda lean: lean.table("transactions", **statement))
    sandbox.fail("transactions", "PENDING:1", None)

    table = ask(
        client_of(sandbox, page_size=20), lambda lean: lean.table("transactions", **statement)
    )

    assert table.equals(plain)


def test_waiting_for_a_promise_ends(sandbox, statement):
    """After the deadline the error names the receipt under which Lean knows the answer."""
    sandbox.fail("transactions", "PENDING:1000")
    slept = Slept()
    client = client_of(sandbox, slept, pending_deadline_seconds=120, pending_poll_seconds=25)

    with pytest.raises(UnavailableError) as caught:
        read(client, "transactions", statement)

    assert caught.value.code == "PENDING"
    assert slept.seconds == [25] * 5
    assert caught.value.results_id
    assert caught.value.correlation_id
    assert caught.value.trace_id


def test_a_promise_that_ends_in_a_refusal_is_refused(sandbox, statement):
    """What the result says counts as if it had been said at once."""
    sandbox.fail("transactions", "PENDING:1")
    sandbox.fail("results", "429")
    slept = Slept()

    found = read(client_of(sandbox, slept), "transactions", statement)

    assert found.answers[0].envelope.status == "OK"
    assert 1.0 in slept.seconds


def test_a_promise_without_receipt_is_a_schema_error(sandbox, statement):
    """A pending answer that cannot be asked for is not of the documented shape."""
    wire = Wire(sandbox, lambda _: httpx.Response(200, json={"status": "PENDING"}))

    with pytest.raises(SchemaError):
        read(over(sandbox, wire), "transactions", statement)


# Trying again.


def test_lean_is_left_alone_for_as_long_as_it_asks(sandbox, statement):
    """A 429 with Retry-After is asked again after exactly that many seconds."""
    sandbox.fail("transactions", "429:5")
    slept = Slept()

    found = read(client_of(sandbox, slept), "transactions", statement)

    assert slept.seconds[0] == 5.0
    # The limit is the application's, so the pause holds for whatever would begin meanwhile.
    assert all(seconds <= 5.0 for seconds in slept.seconds)
    assert found.requests == 2


@pytest.mark.parametrize("status_code", [429, 503])
def test_lean_may_ask_for_a_wait_by_date(sandbox, statement, status_code):
    """Retry-After as a date is measured from the answer's own date."""
    answers = [
        httpx.Response(
            status_code,
            headers={
                "date": "Sun, 15 Mar 2026 07:15:00 GMT",
                "retry-after": "Sun, 15 Mar 2026 07:15:42 GMT",
            },
            json={"status": "RATE_LIMIT_EXCEEDED", "message": "slow down"},
        )
    ]
    wire = Wire(sandbox, lambda _: answers.pop() if answers else None)
    slept = Slept()

    read(over(sandbox, wire, slept), "transactions", statement)

    assert slept.seconds[0] == 42.0


def test_a_wait_that_is_too_long_is_left_to_the_next_sync(sandbox, statement):
    """A client that is asked to wait for a day gives up at once and says how long."""
    sandbox.fail("transactions", "429:86400", None)
    slept = Slept()
    client = client_of(sandbox, slept)

    with pytest.raises(UnavailableError) as caught:
        read(client, "transactions", statement)

    assert caught.value.retry_after == 86_400
    assert client.requests == 1
    assert slept.seconds == []


def test_a_limit_that_is_too_long_is_not_asked_again_by_anybody(sandbox, statement):
    """Of many reads one learns of the limit; the others end at once and say until when it holds."""
    sandbox.fail("transactions", "429:3600", None)
    slept = Slept()
    client = client_of(sandbox, slept, max_concurrency=1)

    async def many(lean):
        reads = [lean.read("transactions", statement) for _ in range(20)]
        return await asyncio.gather(*reads, return_exceptions=True)

    errors = ask(client, many)

    assert {error.code for error in errors} == {"RATE_LIMIT_EXCEEDED"}
    assert client.requests <= 2
    assert slept.seconds == []
    assert all(3500 < error.retry_after <= 3600 for error in errors)
    assert re.search(r"until \d\d:\d\d:\d\d UTC", str(errors[-1]))


def test_a_limit_of_the_token_endpoint_is_everybodys(sandbox, statement):
    """Who may not ask for a token until then may ask for nothing."""
    sandbox.fail("oauth2", "429:3600", None)
    client = client_of(sandbox, Slept(), max_concurrency=1)

    async def many(lean):
        reads = [lean.read("transactions", statement) for _ in range(20)]
        return await asyncio.gather(*reads, return_exceptions=True)

    errors = ask(client, many)

    assert all(isinstance(error, UnavailableError) for error in errors)
    assert sandbox.requests["/oauth2/token"] <= 2
    assert all(error.retry_after for error in errors)


def test_a_wait_says_what_for_and_until_when(sandbox, statement, caplog):
    """Once, not for each request; a short one is not worth a word."""
    sandbox.fail("transactions", "429:42", 2)
    read(client_of(sandbox, Slept()), "transactions", statement)
    sandbox.fail("transactions", "429:2", 1)
    read(client_of(sandbox, Slept()), "transactions", statement)
    sandbox.fail("transactions", "PENDING", 1)
    read(client_of(sandbox, Slept()), "transactions", statement)

    told = [one.getMessage() for one in caplog.records if "waiting until" in one.getMessage()]
    assert len(told) == 2
    assert re.fullmatch(
        r"Lean cannot answer now \(RATE_LIMIT_EXCEEDED\): waiting until [\d:]{8} UTC at most",
        told[0],
    )
    assert told[1].startswith("Lean prepares the answers of transactions: waiting until ")


def test_an_answer_that_comes_a_byte_at_a_time_ends(sandbox, statement):
    """However short the time between two bytes is: by the deadline of an answer, and of a read."""
    with serve(sandbox) as server:
        sandbox.fail("transactions", "drip:0.02", None)
        for changes, code, asked in (
            ({"response_deadline_seconds": 0.5, "attempts": 2}, "SLOW", 2),
            ({"read_deadline_seconds": 0.5}, "DEADLINE", 1),
        ):
            client = LeanClient(settings_of(sandbox, server.url, **changes), sleep=Slept())
            started = time.monotonic()
            with pytest.raises(UnavailableError) as caught:
                read(client, "transactions", statement)
            assert (caught.value.code, client.requests) == (code, asked)
            assert time.monotonic() - started < 5
        sandbox.heal()
        sandbox.fail("transactions", "drip:0", None)
        whole = LeanClient(settings_of(sandbox, server.url), sleep=Slept())
        assert read(whole, "transactions", statement).answers


def test_a_limit_without_retry_after_backs_off(sandbox, statement):
    """Each wait may be twice as long as the one before, and is never longer."""
    sandbox.fail("transactions", "429-bare", None)
    slept = Slept()
    client = client_of(sandbox, slept, attempts=8)

    with pytest.raises(UnavailableError) as caught:
        read(client, "transactions", statement)

    assert caught.value.code == "RATE_LIMIT_EXCEEDED"
    assert client.requests == 8
    assert len(slept.seconds) == 7
    assert all(0 <= seconds <= 2**n for n, seconds in enumerate(slept.seconds))


def test_a_duplicate_waits_alone(sandbox, statement):
    """What Lean calls a duplicate is asked again after a minute; nobody else waits."""
    sandbox.fail("transactions", "FAILED:DUPLICATED_REQUEST")
    slept = Slept()

    found = read(client_of(sandbox, slept), "transactions", statement)

    assert found.requests == 2
    assert slept.seconds == [60.0]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_passes_is_tried_again(sandbox, statement, fault):
    """A failure that passes leaves no trace in the rows."""
    plain = ask(client_of(sandbox), lambda lean: lean.table("transactions", **statement))
    sandbox.fail("transactions", fault, 2)
    client = client_of(sandbox)

    table = ask(client, lambda lean: lean.table("transactions", **statement))

    assert table.equals(plain)
    assert client.requests == 3


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_does_not_pass_is_given_up(sandbox, statement, fault):
    """After as many requests as allowed the error holds what Lean's support asks for."""
    sandbox.fail("transactions", fault, None)
    wire = Wire(sandbox)
    client = over(sandbox, wire, attempts=3)

    with pytest.raises(UnavailableError) as caught:
        read(client, "transactions", statement)

    error = caught.value
    assert client.requests == len(wire.sent) == 3
    assert error.code == ("INTERNAL_SERVER_ERROR" if fault == "500" else "NOT_JSON")
    assert error.correlation_id == wire.sent[-1][1]["lean-correlation-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", error.trace_id)
    assert error.stream == "transactions"
    assert error.status_code == (200 if fault in {"html", "cut"} else int(fault))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ReadTimeout, "TIMEOUT"),
        (httpx.WriteTimeout, "TIMEOUT"),
        (httpx.PoolTimeout, "TIMEOUT"),
        (httpx.ConnectTimeout, "CONNECTION"),
        (httpx.ConnectError, "CONNECTION"),
        (httpx.ReadError, "CONNECTION"),
        (httpx.RemoteProtocolError, "CONNECTION"),
    ],
)
def test_a_connection_that_fails_is_unavailable(sandbox, statement, error, code):
    """Timeouts and broken connections are tried again, then told apart by their code."""

    def instead(request):
        raise error("nothing came", request=request)

    client = over(sandbox, Wire(sandbox, instead), attempts=4)

    with pytest.raises(UnavailableError) as caught:
        read(client, "transactions", statement)

    assert caught.value.code == code
    assert caught.value.correlation_id
    assert client.requests == 4


def test_a_body_that_cannot_be_unpacked_is_tried_again(sandbox, statement):
    """A broken gzip is a broken connection."""

    def instead(_):
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Bytes(b"no gzip"))

    client = over(sandbox, Wire(sandbox, instead), attempts=2)

    with pytest.raises(UnavailableError) as caught:
        read(client, "transactions", statement)

    assert caught.value.code == "CONNECTION"
    assert client.requests == 2


def test_over_a_real_network_a_cut_body_is_tried_again(sandbox, statement):
    """A connection that ends within the body is never taken for the whole answer."""
    plain = ask(client_of(sandbox), lambda lean: lean.table("transactions", **statement))
    with serve(sandbox) as server:
        sandbox.fail("transactions", "cut", 2)
        client = LeanClient(settings_of(sandbox, server.url), sleep=Slept())
        table = ask(client, lambda lean: lean.table("transactions", **statement))

        sandbox.fail("transactions", "cut", None)
        ended = LeanClient(settings_of(sandbox, server.url, attempts=2), sleep=Slept())
        with pytest.raises(UnavailableError) as caught:
            read(ended, "transactions", statement)

    assert table.equals(plain)
    assert client.requests == 3
    assert caught.value.code == "CONNECTION"
    assert caught.value.correlation_id
    assert ended.requests == 2


@pytest.mark.parametrize("fault", ["500", "502", "html"])
def test_over_a_real_network_errors_are_the_same(sandbox, statement, fault):
    """The network's transport tells the same story as the one in process."""
    with serve(sandbox) as server:
        sandbox.fail("transactions", fault, None)
        client = LeanClient(settings_of(sandbox, server.url, attempts=2), sleep=Slept())
        with pytest.raises(UnavailableError) as caught:
            read(client, "transactions", statement)

    assert caught.value.code == ("INTERNAL_SERVER_ERROR" if fault == "500" else "NOT_JSON")
    assert caught.value.trace_id
    assert client.requests == 2


def test_where_nobody_listens_is_unavailable(sandbox):
    """A closed port is a connection that failed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = LeanClient(settings_of(sandbox, url, attempts=2), sleep=Slept())
        with pytest.raises(UnavailableError) as caught:
            read(client, "customers", {})

    assert caught.value.code == "CONNECTION"
    assert client.requests == 2


# Refusals.


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"entity_id": NOBODY}, RequestError, "UNKNOWN_ENTITY"),
        ({"account_id": NOBODY}, RequestError, "UNKNOWN_ACCOUNT"),
        ({"end_date": "2030-01-01"}, RequestError, "INVALID_PARAMETERS"),
        ({"start_date": "1.3.2026"}, RequestError, "INVALID_PARAMETERS"),
        ({"start_date": "2010-01-01"}, NotGrantedError, "USER_TRANSACTION_RANGE_NOT_GRANTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_refusal_is_not_asked_again(sandbox, statement, change, error, code):
    """What another try cannot help costs one request."""
    slept = Slept()
    client = client_of(sandbox, slept)

    with pytest.raises(error) as caught:
        read(client, "transactions", statement | change)

    assert caught.value.code == code
    assert caught.value.results_id
    assert client.requests == 1
    assert slept.seconds == []


def test_a_permission_that_was_not_granted_is_told_apart(sandbox):
    """A stream outside the consent is left alone, which is no reason to reconnect."""
    case = sandbox.example("permissions_missing")
    request = {"entity_id": case["entity_id"], "account_id": case["account_ids"][0]}
    client = client_of(sandbox)

    with pytest.raises(NotGrantedError) as caught:
        read(client, "beneficiaries", request)

    assert caught.value.code == "USER_PERMISSIONS_NOT_GRANTED"
    assert caught.value.status_code == 403
    assert client.requests == 1


@pytest.mark.parametrize(
    "code", ["BANK_ISSUE", "BANK_MAINTENANCE", "UNSEEN_BANK_ERROR", "LEAN_ERROR", "NEVER_SEEN"]
)
def test_a_bank_that_cannot_answer_is_left_to_the_next_sync(sandbox, statement, code):
    """A failure that lasts a quarter of an hour is not tried again at once."""
    sandbox.fail("transactions", f"FAILED:{code}")
    client = client_of(sandbox)

    with pytest.raises(UnavailableError) as caught:
        read(client, "transactions", statement)

    assert caught.value.code == code
    assert caught.value.status_code == 200
    assert client.requests == 1


@pytest.mark.parametrize("case", ["newer_generation", "older_generation"])
def test_a_consent_that_ends_within_a_series_leaves_nothing(sandbox, case):
    """From some page on the consent has ended: the read is an error, never half a result."""
    case = sandbox.example(case)
    request = {"entity_id": case["entity_id"], "account_id": case["account_ids"][0], **RECENT}
    sandbox.fail("transactions", "CONSENT_EXPIRED:2", None)
    client = client_of(sandbox, page_size=5, verbose="never")

    with pytest.raises(ConsentError) as caught:
        read(client, "transactions", request)

    assert caught.value.code == "CONSENT_EXPIRED"
    assert client.requests == 3


@pytest.mark.parametrize("status", [200, 403])
def test_an_ended_consent_is_one_error_under_either_status(sandbox, statement, status):
    """The body decides: CONSENT_EXPIRED comes as HTTP 200 and as HTTP 403."""
    banks = {"newer_generation": 403, "reconsented": 200}
    kind = next(kind for kind, code in banks.items() if code == status)
    case = sandbox.example(kind)
    sandbox.revoke(case["entity_id"])
    request = {"entity_id": case["entity_id"], "account_id": case["account_ids"][0]}

    with pytest.raises(ConsentError) as caught:
        read(client_of(sandbox), "balances", request)

    assert (caught.value.code, caught.value.status_code) == ("CONSENT_EXPIRED", status)


# Pages that do not make one whole.


@pytest.mark.parametrize("fault", ["refresh-drift", "total-drift", "repeat", "skip"])
def test_pages_that_moved_are_read_again(sandbox, statement, fault):
    """When the pages do not fit each other, all pages are read again and then are complete."""
    plain = read(client_of(sandbox), "transactions", statement)
    size = -(-plain.answers[0].envelope.total_elements // 2) + 1
    sandbox.fail("transactions", fault)
    client = client_of(sandbox, page_size=size)

    found = read(client, "transactions", statement)

    stream = STREAMS["transactions"]
    assert ids(found, stream, "transaction_id") == ids(plain, stream, "transaction_id")
    assert found.requests == client.requests == 4


@pytest.mark.parametrize("fault", ["refresh-drift", "total-drift", "repeat", "skip"])
def test_pages_that_keep_moving_are_incomplete(sandbox, statement, fault):
    """After as many attempts as allowed there is an error and no rows."""
    plain = read(client_of(sandbox), "transactions", statement)
    size = -(-plain.answers[0].envelope.total_elements // 2) + 1
    sandbox.fail("transactions", fault, None)
    client = client_of(sandbox, page_size=size, attempts=3)

    with pytest.raises(IncompleteError) as caught:
        read(client, "transactions", statement)

    assert caught.value.correlation_id
    assert caught.value.trace_id
    assert caught.value.results_id
    assert client.requests == 6


@pytest.mark.parametrize("fault", ["repeat", "skip"])
def test_a_table_holds_no_record_twice(sandbox, statement, fault):
    """A record that slid onto the next page keeps the count right, and is noticed all the same."""
    plain = ask(client_of(sandbox), lambda lean: lean.table("transactions", **statement))
    size = plain.num_rows // 3
    sandbox.fail("transactions", fault)

    healed = ask(
        client_of(sandbox, page_size=size), lambda lean: lean.table("transactions", **statement)
    )
    assert healed.equals(plain)

    sandbox.fail("transactions", fault, None)
    client = client_of(sandbox, page_size=size, attempts=2)
    with pytest.raises(IncompleteError):
        ask(client, lambda lean: lean.table("transactions", **statement))
    sandbox.heal()

    # What stands twice in one answer does so at the bank.
    client = over(sandbox, Wire(sandbox, change=_first_twice), attempts=2)
    rows = ask(client, lambda lean: lean.table("transactions", **statement))
    assert rows.to_pylist() == [plain.to_pylist()[0], *plain.to_pylist()[2:]]
    assert client.requests == 1


def _first_twice(body):
    """The second record is the first one again."""
    rows = body["data"]["transactions"]
    rows[1] = rows[0]
    return body


def test_a_refresh_between_two_pages_is_noticed(sandbox, statement):
    """The store that moves while it is read is read again from its first page."""
    numbers = []

    def instead(request):
        numbers.append(request.url.params.get("page"))
        if numbers == ["0", "1"]:
            entity = sandbox.store.find_entity(statement["entity_id"])
            sandbox.store.start_refresh(entity)
            sandbox.clock.advance(dt.timedelta(seconds=30))

    found = read(over(sandbox, Wire(sandbox, instead), page_size=20), "transactions", statement)

    assert numbers[:3] == ["0", "1", "0"] or numbers[:4] == ["0", "1", "2", "0"]
    stamps = {answer.envelope.refreshed_at for answer in found.answers}
    assert len(stamps) == 1
    assert found.refreshed_at > dt.datetime(2026, 3, 15, 7, 15, tzinfo=dt.UTC)


# Answers of another shape.


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"status": "OK"},
        {"status": "FINISHED"},
        {"status": "OK", "data": None},
        {"status": "OK", "data": {}},
        {"status": "OK", "data": {"transactions": {}}},
        {"status": "OK", "data": {"transactions": []}},
        {"status": "OK", "data": {"transactions": [], "page": None}},
        {"status": "OK", "data": {"transactions": [], "page": {"total_elements": 0}}},
        {"status": "OK", "data": {"transactions": [], "page": {"total_pages": 0}}},
        {"status": "OK", "data": {"balances": [], "page": {"total_elements": 0}}},
        {"status": "OK", "data": [{"transaction_id": "1"}]},
    ],
    ids=json.dumps,
)
def test_an_answer_of_another_shape_is_a_schema_error(sandbox, statement, body):
    """What could hide records is no answer; the error names the request and no part of the body."""
    wire = Wire(
        sandbox, lambda _: httpx.Response(200, json=body, headers={"lean-trace-id": "trace"})
    )
    client = over(sandbox, wire)

    with pytest.raises(SchemaError) as caught:
        read(client, "transactions", statement)

    assert caught.value.stream == "transactions"
    assert caught.value.correlation_id == wire.sent[0][1]["lean-correlation-id"]
    assert caught.value.trace_id == "trace"
    assert client.requests == 1


def test_an_answer_beyond_the_limit_is_a_schema_error(sandbox):
    """A body larger than allowed is not read to its end."""
    case = sandbox.example("newer_generation")
    request = {"entity_id": case["entity_id"], "account_id": case["account_ids"][0]}
    client = client_of(sandbox, max_response_bytes=65_536, verbose="always")

    with pytest.raises(SchemaError) as caught:
        read(client, "transactions", request)

    assert "65536 bytes" in str(caught.value)
    assert caught.value.stream == "transactions"
    assert caught.value.correlation_id
    assert client.requests == 1


def test_pages_without_end_are_not_read_to_their_end(sandbox):
    """However many pages are announced, an empty one is the last that is asked for."""
    page = {"total_elements": 10**12, "total_pages": 10**10}
    wire = Wire(sandbox, lambda _: httpx.Response(200, json={"data": [], "page": page}))
    client = over(sandbox, wire, attempts=2)
    now = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)

    with pytest.raises(IncompleteError):
        read(client, "customers", {})
    assert client.requests == 4
    assert ask(over(sandbox, wire), lambda lean: lean.events(now, now)) == []


def test_an_endless_answer_is_not_read_to_its_end(sandbox):
    """The limit holds for what is unpacked, so a small body cannot become a large one."""
    sent = []

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self):
            while True:
                sent.append(1)
                yield b" " * 65_536

    wire = Wire(sandbox, lambda _: httpx.Response(200, stream=Endless()))

    with pytest.raises(SchemaError):
        read(over(sandbox, wire, max_response_bytes=200_000), "customers", {})

    assert len(sent) == 4


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 99 Zzz 2026 99:99:99 GMT", "Sun, 15 Mar 2026 07:15:00", "0"]
)
def test_a_date_that_means_nothing_is_passed_over(sandbox, date):
    """Where Lean tells no usable time, this machine's clock holds."""
    now = dt.datetime(2026, 3, 15, 8, tzinfo=dt.UTC)
    body = [{"identifier": "A"}]
    wire = Wire(sandbox, lambda _: httpx.Response(200, json=body, headers={"date": date}))
    client = LeanClient(settings_of(sandbox), transport=wire, now=lambda: now)

    assert ask(client, lambda lean: lean.server_time()) == now


# Ids.


BAD_IDS = [
    "",
    ".",
    "..",
    "../",
    "../../customers/v1",
    "%2e%2e",
    "a%2fb",
    "a/b",
    "a\\b",
    "a?b=c",
    "a#b",
    "a b",
    "a\n",
    "\x00",
    "-a",
    "_a",
    "{account_id}",
    "حساب",
    "١٢٣",
    "a" * 129,
    "a" * 100_000,
    "SA0380000000608010167519",
    "1010101010",
    "0f61e97c462a4b86a4329e8824bc9088",
    "0f61e97c-462a-4b86-a432-9e8824bc9088\n",
]


@pytest.mark.parametrize("bad", BAD_IDS, ids=lambda bad: ascii(bad[:20]))
def test_what_is_no_id_never_reaches_the_network(sandbox, bad):
    """A path or a query is built from UUIDs only: a customer's IBAN never stands in an address."""
    good = sandbox.example("newer_generation")["entity_id"]
    client = client_of(sandbox)
    tries = [
        lambda lean: lean.read("balances", {"entity_id": good, "account_id": bad}),
        lambda lean: lean.read("balances", {"entity_id": bad, "account_id": good}),
        lambda lean: lean.read("accounts", {"entity_id": bad}),
        lambda lean: lean.refresh(bad),
        lambda lean: lean.refresh_state(bad),
    ]

    async def all_of_them(lean):
        return [
            error
            for one in tries
            for error in await asyncio.gather(one(lean), return_exceptions=True)
        ]

    errors = ask(client, all_of_them)

    assert [type(error) for error in errors] == [RequestError] * len(tries)
    assert {error.code for error in errors} == {"INVALID_ID"}
    assert client.requests == 0
    assert sandbox.requests == Counter()
    if len(bad) > 2:
        assert not any(bad in f"{error} {error!r}" for error in errors)


def test_a_result_id_of_lean_is_checked_too(sandbox, statement):
    """An id that Lean sends is no more trusted than one that is given."""
    wire = Wire(
        sandbox,
        lambda _: httpx.Response(200, json={"status": "PENDING", "results_id": "../customers"}),
    )

    with pytest.raises(RequestError) as caught:
        read(over(sandbox, wire), "transactions", statement)

    assert caught.value.code == "INVALID_ID"
    assert len(wire.sent) == 1


# Credentials and ids of requests.


def test_never_both_credentials(sandbox, statement):
    """A request carries the bearer token or the application token, never both."""
    bearer, token = Wire(sandbox), Wire(sandbox)

    read(over(sandbox, bearer), "transactions", statement)
    client = over(
        sandbox, token, client_id=None, client_secret=None, app_token=sandbox.app_token
    )  # fmt: skip
    read(client, "transactions", statement)

    for _, headers in bearer.sent:
        assert headers["authorization"].startswith("Bearer ")
        assert "lean-app-token" not in headers
    for _, headers in token.sent:
        assert headers["lean-app-token"] == sandbox.app_token
        assert "authorization" not in headers
    assert bearer.sent
    assert token.sent


def test_a_token_that_ends_within_a_series_is_renewed_once(sandbox, statement):
    """A 401 between two pages costs one more token and one more request, and no row."""
    plain = read(client_of(sandbox), "transactions", statement)
    pages = []

    def instead(request):
        pages.append(request.url.params["page"])
        if pages == ["0", "1"]:
            sandbox.clock.advance(dt.timedelta(seconds=3_600))

    tokens = sandbox.requests["/oauth2/token"]

    found = read(over(sandbox, Wire(sandbox, instead), page_size=20), "transactions", statement)

    stream = STREAMS["transactions"]
    assert ids(found, stream, "transaction_id") == ids(plain, stream, "transaction_id")
    assert sandbox.requests["/oauth2/token"] - tokens == 2
    assert pages[:3] == ["0", "1", "1"]


def test_a_token_that_is_refused_twice_is_an_auth_error(sandbox, statement):
    """A new token is tried once; then the credentials are to be looked at."""
    sandbox.fail("transactions", "401", None)

    with pytest.raises(AuthError) as caught:
        read(client_of(sandbox), "transactions", statement)

    assert caught.value.status_code == 401
    assert sandbox.requests["/oauth2/token"] == 2
    assert sandbox.requests["/data/v2/accounts/{account_id}/transactions"] == 2


def test_credentials_that_are_refused_are_an_auth_error(sandbox, statement):
    """A wrong secret is told without a second try, with the id that the request had."""
    client = client_of(sandbox, client_secret="wrong")

    with pytest.raises(AuthError) as caught:
        read(client, "transactions", statement)

    assert caught.value.code == "invalid_client"
    assert caught.value.stream == "transactions"
    assert caught.value.correlation_id
    assert sandbox.requests == {"/oauth2/token": 1}


def test_a_token_endpoint_that_is_away_for_a_moment_is_asked_again(sandbox, statement):
    """A failure of the token endpoint that passes is waited for like Lean's own."""
    sandbox.fail("oauth2", "503")
    client = client_of(sandbox)

    found = read(client, "transactions", statement)

    assert found.requests == 2
    assert sandbox.requests["/oauth2/token"] == 2


def test_every_request_has_an_id_that_lean_echoes(sandbox, statement):
    """The id that is kept with a page is the one that was sent and came back, never one twice."""
    wire = Wire(sandbox)

    found = read(over(sandbox, wire, page_size=20), "transactions", statement)

    sent = [headers["lean-correlation-id"] for _, headers in wire.sent]
    assert [answer.response.correlation_id for answer in found.answers] == sent
    assert len(set(sent)) == len(sent) > 1
    assert len({answer.response.trace_id for answer in found.answers}) == len(sent)


# Refreshes, events, time.


def test_a_refresh_is_started_and_followed(sandbox):
    """The first call starts a refresh, the second finds it running, and its state tells its end."""
    case = sandbox.example("newer_generation")

    async def work(lean):
        first = await lean.refresh(case["entity_id"])
        second = await lean.refresh(case["entity_id"])
        states = [await lean.refresh_state(first) for _ in range(2)]
        return first, second, states

    slept = Slept()
    first, second, states = ask(client_of(sandbox, slept), work)

    assert first is not None
    assert second is None
    assert [state["status"] for state in states] == ["PENDING", "FINISHED"]
    assert states[-1]["data_status"]["accounts"] == "OK"
    assert sandbox.calls["POST /data/v2/refreshes"] == 2
    assert slept.seconds == []


def test_a_refresh_after_the_consent_is_a_consent_error(sandbox):
    """Nobody can be asked for data that the customer no longer shares."""
    case = sandbox.example("consent_revoked")
    client = client_of(sandbox)

    with pytest.raises(ConsentError) as caught:
        ask(client, lambda lean: lean.refresh(case["entity_id"]))

    assert (caught.value.code, caught.value.status_code) == ("CONSENT_EXPIRED", 403)
    assert client.requests == 1


def test_a_refresh_that_needs_the_customer_is_a_consent_error(sandbox):
    """RECONNECT_REQUIRED comes as HTTP 200 with a refresh_id, and is no refresh."""
    case = sandbox.example("newer_generation")
    sandbox.fail("refreshes", "RECONNECT_REQUIRED")

    with pytest.raises(ConsentError) as caught:
        ask(client_of(sandbox), lambda lean: lean.refresh(case["entity_id"]))

    assert (caught.value.code, caught.value.status_code) == ("RECONNECT_REQUIRED", 200)


def test_a_rate_limit_is_not_mistaken_for_a_running_refresh(sandbox):
    """HTTP 429 has two meanings; a refresh is never asked for twice in a row."""
    case = sandbox.example("newer_generation")
    sandbox.fail("POST /data/v2/refreshes", "429")
    client = client_of(sandbox)

    with pytest.raises(UnavailableError) as caught:
        ask(client, lambda lean: lean.refresh(case["entity_id"]))

    assert caught.value.code == "RATE_LIMIT_EXCEEDED"
    assert client.requests == 1


@pytest.mark.parametrize("body", [{}, {"refresh_id": None}, {"refresh_id": 7}])
def test_a_refresh_without_id_is_a_schema_error(sandbox, body):
    """A refresh that cannot be followed is not reported as started."""
    wire = Wire(sandbox, lambda _: httpx.Response(200, json={"status": "OK"} | body))

    with pytest.raises(SchemaError):
        ask(over(sandbox, wire), lambda lean: lean.refresh(NOBODY))


def test_an_unknown_refresh_is_a_request_error(sandbox):
    """A refresh that Lean does not know is our mistake."""
    with pytest.raises(RequestError) as caught:
        ask(client_of(sandbox), lambda lean: lean.refresh_state(NOBODY))

    assert caught.value.status_code == 404


def test_events_are_read_page_by_page(sandbox):
    """Every event between two instants comes once, oldest ones and later pages included."""
    case = sandbox.example("newer_generation")
    entity = sandbox.store.find_entity(case["entity_id"])
    from_at = sandbox.clock.now()
    for _ in range(60):
        sandbox.store.start_refresh(entity)
        sandbox.clock.advance(dt.timedelta(minutes=1))
        entity = sandbox.store.find_entity(case["entity_id"])
    sandbox.connect()
    to_at = sandbox.clock.now() + dt.timedelta(seconds=1)
    client = client_of(sandbox)

    async def work(lean):
        return (
            await lean.events(from_at, to_at),
            await lean.events(from_at, to_at, kind="entity.created"),
            await lean.events(from_at - dt.timedelta(days=2), from_at - dt.timedelta(days=1)),
        )

    every, created, none = ask(client, work)

    true = Counter(event["event_id"] for event in sandbox.events)
    assert Counter(event["event_id"] for event in every) == true
    assert len(every) > 100
    assert [event["type"] for event in created] == ["entity.created"]
    assert none == []
    assert client.requests == 4


@pytest.mark.parametrize(
    "body", [[], {}, {"data": None}, {"data": []}, {"data": {}, "page": {"total_pages": 1}},
             {"data": ["x"], "page": {"total_pages": 1}}, {"data": [], "page": []}],
    ids=json.dumps,
)  # fmt: skip
def test_what_is_no_page_of_events_is_a_schema_error(sandbox, body):
    """An answer that is not of the documented shape is not an answer without events."""
    wire = Wire(sandbox, lambda _: httpx.Response(200, json=body))
    now = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)

    with pytest.raises(SchemaError):
        ask(over(sandbox, wire), lambda lean: lean.events(now, now))


def test_a_region_without_events_is_a_request_error(sandbox):
    """Where Lean has no such endpoint, the code says so."""
    body = {"status": "INVALID_URL", "message": "The URL requested does not exist."}
    wire = Wire(sandbox, lambda _: httpx.Response(404, json=body))
    now = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)

    with pytest.raises(RequestError) as caught:
        ask(over(sandbox, wire), lambda lean: lean.events(now, now))

    assert caught.value.code == "INVALID_URL"


def test_time_is_told_by_lean(sandbox):
    """Lean's clock decides, however wrong this machine's is, and is asked for once."""
    wrong = dt.datetime(1999, 12, 31, 23, tzinfo=dt.UTC)
    client = LeanClient(
        settings_of(sandbox), transport=httpx.ASGITransport(sandbox.app), now=lambda: wrong
    )

    async def work(lean):
        return await lean.server_time(), await lean.server_time()

    first, second = ask(client, work)

    assert first == second == sandbox.clock.now().replace(microsecond=0)
    assert client.requests == 1


# The client itself.


def test_a_client_is_used_inside_async_with(sandbox):
    """Before and after its block a client says how it is meant to be used."""
    client = client_of(sandbox)

    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(client.read("customers", {}))
    read(client, "customers", {})
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(client.read("customers", {}))


def test_a_client_never_shows_a_secret(sandbox):
    """Neither the client nor what it read prints credentials or bodies."""
    client = client_of(sandbox)
    found = read(client, "customers", {})
    user = json.loads(found.answers[0].page.body)["data"][0]["app_user_id"]

    shown = f"{client!r} {client.settings!r} {found!r} {found.answers[0]!r}"

    assert sandbox.client_secret not in shown
    assert user not in shown


def test_a_table_is_typed(sandbox):
    """A stream becomes an Arrow table of its declared schema, and a frame from there."""
    case = sandbox.example("older_generation")

    async def work(lean):
        return [
            await lean.table("accounts", entity_id=case["entity_id"]),
            await lean.table(
                STREAMS["transactions"],
                entity_id=case["entity_id"],
                account_id=case["account_ids"][0],
            ),
            await lean.table("consents", start_date="2015-01-01", end_date=TODAY),
        ]

    tables = ask(client_of(sandbox), work)

    for table, name in zip(tables, ("accounts", "transactions", "consents"), strict=True):
        assert table.schema.equals(STREAMS[name].schema)
        assert table.num_rows > 1
        assert len(table.to_pandas()) == table.num_rows


def test_the_readmes_notebook_example_works(sandbox):
    """The five lines of the README, with an account's ids and this host put in."""
    case = sandbox.example("newer_generation")
    text = README.read_text(encoding="utf-8")
    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "LeanClient" in block
    ]
    assert len(example.splitlines()) == 5
    values = iter(
        [sandbox.client_id, sandbox.client_secret, case["entity_id"], case["account_ids"][0]]
    )
    example = re.sub("…", lambda _: next(values), example)
    with serve(sandbox) as server:
        hosts = f'api_url="{server.url}", token_url="{server.token_url}", client_id='
        example = example.replace("client_id=", hosts)
        body = "".join(f"    {line}\n" for line in example.splitlines())
        scope = {}
        exec(f"async def cell():\n{body}    return balances", scope)

        balances = asyncio.run(scope["cell"]())

    assert list(balances["account_id"].unique()) == [case["account_ids"][0]]
    assert len(balances) == 13
    assert all(amount.as_tuple().exponent == -9 for amount in balances["amount"])


def test_the_first_answer_after_a_connection_is_waited_for():
    """While the first refresh runs Lean promises its data, and the client follows it to its end."""
    sandbox = Sandbox(customers=1, months=1, seed=7, today=TODAY)
    case = sandbox.connect()
    slept = Slept(sandbox)

    found = read(client_of(sandbox, slept), "accounts", {"entity_id": case["entity_id"]})

    assert found.answers[0].envelope.records == len(case["account_ids"])
    assert slept.seconds == [30.0]


@pytest.mark.parametrize("status_code", [301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("https://login.example.com/sso?state=s3cr3t", "https://login.example.com"),
        ("/login?next=s3cr3t", "http://127.0.0.1"),
        ("http://[broken/s3cr3t", None),
        (None, None),
    ],
)
def test_a_redirect_says_what_it_is_and_is_not_followed(sandbox, status_code, location, host):
    """Credentials go nowhere else, and nobody is told to wait."""
    headers = {"location": location} if location else {}
    bodies = itertools.cycle([b"<html>Log in</html>", b"{}", b""])
    wire = Wire(
        sandbox, lambda _: httpx.Response(status_code, headers=headers, content=next(bodies))
    )

    async def main():
        async with over(sandbox, wire) as client:
            attempts = client.read("banks", RETAIL), client.refresh(NOBODY), client.server_time()
            return await asyncio.gather(*attempts, return_exceptions=True)

    for error in asyncio.run(main()):
        assert isinstance(error, ConfigError)
        assert (error.code, error.status_code) == ("REDIRECTED", status_code)
        assert "redirect" in error.message
        assert "LEAN_API_URL" in error.message
        assert "wait" not in f"{error.message} {error.remedy}".lower()
        assert "s3cr3t" not in error.message
        assert host is None or host in error.message
    assert len(wire.sent) == 3
