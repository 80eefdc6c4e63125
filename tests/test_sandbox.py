"""The offline Lean behaves: pages, refreshes, consents, refusals, faults, truth and volume."""

import asyncio
import datetime as dt
import json
import ssl
import subprocess
import sys
import tracemalloc
from collections import Counter
from decimal import Decimal
from itertools import pairwise

import httpx
import pytest
import typer
import typer.main

from lean_resources.sandbox import Sandbox, serve
from lean_resources.sandbox.cases import CASES
from lean_resources.streams import PERMISSION_OF, STREAMS
from pipelines.cli.main import app

TODAY = "2026-03-15"
TRANSACTIONS = "/data/v2/accounts/{account_id}/transactions"
PATHS = {name: STREAMS[name].path for name in PERMISSION_OF}
UNKNOWN = "7d9e3c14-5b08-4f6a-a2c7-90d1e4b85f36"
OLDER_KEYS = {
    "account_id",
    "transaction_id",
    "transaction_information",
    "transaction_reference",
    "credit_debit_indicator",
    "amount",
    "transaction_mutability",
    "booking_date_time",
    "insights",
    "balance",
    "regional_data",
}


@pytest.fixture
def sandbox():
    """The default world."""
    return Sandbox(customers=20, months=12, seed=7, today=TODAY)


@pytest.fixture(scope="module")
def still():
    """The default world, for tests that only look."""
    return Sandbox(customers=20, months=12, seed=7, today=TODAY)


def ask(sandbox, method, path, *, headers=None, **given):
    """One request in process, identified by the application's token unless told otherwise."""
    headers = {"lean-app-token": sandbox.app_token} if headers is None else headers

    async def send():
        transport = httpx.ASGITransport(sandbox.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
            return await client.request(method, path, headers=headers, **given)

    return asyncio.run(send())


def get(sandbox, path, **params):
    """The answer to a GET."""
    return ask(sandbox, "GET", path, params=params)


def body(response):
    """A body with its numbers exact."""
    return json.loads(response.content, parse_float=Decimal)


def read(sandbox, stream, entity_id, account_id="", *, size=100, **params):
    """Every record of a stream for one parent, page by page."""
    path = PATHS[stream].format(account_id=account_id)
    records, page = [], 0
    while True:
        answer = body(get(sandbox, path, entity_id=entity_id, page=page, size=size, **params))
        assert answer["status"] == "OK", answer
        data = answer["data"]
        key = "identities" if stream == "identity" else stream
        records += data[key]
        page += 1
        if page >= data["page"]["total_pages"]:
            assert len(records) == data["page"]["total_elements"]
            return records


def token(sandbox, scope="api", **changes):
    """The answer of the token endpoint."""
    form = {
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
        "grant_type": "client_credentials",
        "scope": scope,
    } | changes
    return ask(sandbox, "POST", "/oauth2/token", headers={}, data=form)


def bearer(sandbox, scope="api"):
    """The header of a fresh token."""
    return {"authorization": f"Bearer {token(sandbox, scope).json()['access_token']}"}


def refresh(sandbox, entity_id):
    """Ask the bank and wait for it by the sandbox clock."""
    answer = ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": entity_id})
    assert answer.status_code == 200, answer.text
    sandbox.clock.advance(dt.timedelta(seconds=11))
    return answer.json()["refresh_id"]


def signed(record):
    """The amount with its sign."""
    amount = record["amount"]["amount"]
    return -amount if record["credit_debit_indicator"] == "DEBIT" else amount


def by_id(records):
    """Transactions by their id."""
    return {record["transaction_id"]: record for record in records}


# The world.


def test_the_same_seed_gives_the_same_bytes_in_any_order():
    """Answers depend on the seed and the request, not on what was asked before."""
    first, second = Sandbox(), Sandbox()
    case = first.example("newer_generation")
    urls = [f"/data/v2/accounts?entity_id={case['entity_id']}"] + [
        f"{TRANSACTIONS.format(account_id=account)}?entity_id={case['entity_id']}&page={page}"
        for account in case["account_ids"][:2]
        for page in (0, 1)
    ]

    forward = [get(first, url).content for url in urls]
    backward = [get(second, url).content for url in reversed(urls)]

    assert forward == backward[::-1]


def test_another_seed_gives_another_world():
    """No id of one seed means anything under another."""
    ids = [
        {item["record"]["account_id"] for item in Sandbox(seed=seed).truth("accounts")}
        for seed in (1, 2)
    ]

    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize(
    "today", ["2026-03-15", dt.date(2026, 3, 15), dt.datetime(2026, 3, 15, 7, 15, tzinfo=dt.UTC)]
)
def test_the_clock_starts_in_the_morning(today):
    """A date means 07:15 UTC; an instant means itself."""
    assert Sandbox(today=today).clock.now() == dt.datetime(2026, 3, 15, 7, 15, tzinfo=dt.UTC)


@pytest.mark.parametrize("wrong", [{"customers": 0}, {"months": 0}, {"today": "yesterday"}])
def test_a_world_that_cannot_be_is_refused(wrong):
    """Impossible arguments are refused at once."""
    with pytest.raises(ValueError, match=r"customers|months|Invalid"):
        Sandbox(**wrong)


@pytest.mark.parametrize("name", ["demo", "sandbox", "dev"])
def test_a_command_refuses_an_offline_lean_without_customers(name):
    """With a sentence about the option, before anything starts."""
    command = typer.main.get_group(app).commands[name]

    with pytest.raises(typer.BadParameter, match="greater than or equal to 1"):
        command.make_context(name, ["--customers", "0"])


def test_the_clock_does_not_run_backwards(sandbox):
    """Time only moves forward."""
    with pytest.raises(ValueError, match="forward"):
        sandbox.clock.advance(dt.timedelta(seconds=-1))


def test_a_million_customers_take_no_room():
    """A world of a million customers is read from without being kept."""
    tracemalloc.start()
    try:
        sandbox = Sandbox(customers=1_000_000)
        listed = get(
            sandbox,
            "/customers/v1/entities",
            start_date="2025-01-01",
            end_date=TODAY,
            page_number=7_000,
        ).json()
        last = get(sandbox, "/customers/v1", page_number=9_999, page_size=100).json()
        one = next(entity for entity in listed["data"] if entity["status"] == "ACTIVE")
        get(sandbox, f"/customers/v1/{one['customer_id']}/entities/{one['id']}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert listed["page"]["total_elements"] == 1_150_000
    assert last["data"][-1]["app_user_id"] == "user-0999999"
    assert peak < 10_000_000


def test_a_third_of_the_entities_are_of_the_older_generation(still):
    """Both generations are well represented."""
    older = {"LEA2_SAMAOB_SAU", "WAHA_SAU", "DANA_SAU"}
    banks = Counter(item["record"]["bank_identifier"] in older for item in still.truth("entities"))

    assert 0.25 < banks[True] / banks.total() < 0.45


# Pages.


@pytest.mark.parametrize("size", [1, 7, 50, 100])
def test_pages_hold_every_row_exactly_once(still, size):
    """Whatever the page size, paging gives the same rows in the same order."""
    case = still.example("own_transfer")
    account_id = case["other_account_id"]

    rows = read(still, "transactions", case["entity_id"], account_id, size=size)

    assert len(by_id(rows)) == len(rows) > 20
    assert rows == read(still, "transactions", case["entity_id"], account_id)
    assert rows == sorted(rows, key=lambda row: row["booking_date_time"])


def test_a_page_beyond_the_end_is_empty_and_still_counts(still):
    """Asking too far gives no rows and the right totals."""
    case = still.example("newer_generation")

    data = get(still, PATHS["accounts"], entity_id=case["entity_id"], page=9, size=2).json()["data"]

    assert data["accounts"] == []
    assert data["page"] == {
        "number": 9,
        "size": 2,
        "total_elements": 5,
        "total_pages": 3,
        "sort": None,
    }


def test_entities_are_listed_newest_first_by_day(still):
    """The listing by date holds each entity once, in order, inside the asked days."""
    asked = {"start_date": "2025-06-01", "end_date": "2025-12-31", "page_size": 4}
    found, page = [], 0
    while True:
        answer = get(still, "/customers/v1/entities", **asked, page_number=page).json()
        found += answer["data"]
        page += 1
        if page >= answer["page"]["total_pages"]:
            break

    created = [entity["created_at"] for entity in found]
    inside = [
        item["record"]["id"]
        for item in still.truth("entities")
        if "2025-06-01" <= item["record"]["created_at"] < "2026-01-01"
    ]
    assert created == sorted(created, reverse=True)
    assert [entity["id"] for entity in found] == inside
    assert all({"status", "updated_at"} <= entity.keys() for entity in found)


def test_every_paging_style_pages(still):
    """Customers, consents and refreshes page in their own words."""
    case = still.example("reconsented")
    customers = get(still, "/customers/v1/", page_number=1, page_size=6).json()
    consents = get(
        still, f"/customers/v1/{case['customer_id']}/consents", pageNumber=1, pageSize=1
    ).json()
    refreshes = get(still, "/data/v2/refreshes", entity_id=case["entity_id"], page=0, size=1).json()

    assert [one["app_user_id"] for one in customers["data"]] == [
        f"user-{number:07}" for number in range(6, 12)
    ]
    assert consents["page"]["total_elements"] == 2
    assert consents["data"][0]["consent_status"] == "REVOKED"
    assert refreshes["page"]["total_elements"] == 2
    assert refreshes["content"][0]["status"] == "FINISHED"


@pytest.mark.parametrize("stream", [*PATHS, "refreshes"])
def test_truth_is_what_the_api_serves(still, stream):
    """Paging through the API with `verbose=true` gives the truth, record by record."""
    truth = list(still.truth(stream))
    served = []
    for parent in {tuple(item["parent"].items()): item["parent"] for item in truth}.values():
        if stream == "refreshes":
            listed = get(still, "/data/v2/refreshes", entity_id=parent["entity_id"]).json()
            served += [
                get(still, f"/data/v2/refreshes/{one['refresh_id']}").json()
                for one in listed["content"]
            ]
        else:
            asked = (stream, parent["entity_id"], parent.get("account_id", ""))
            served += read(still, *asked, verbose="true")

    assert truth
    assert served == [item["record"] for item in truth]


def test_truth_of_the_listings_is_what_the_api_serves(still):
    """Banks, customers, entities and consents are told as they are listed."""
    banks = [
        bank
        for kind in ("PERSONAL", "BUSINESS")
        for bank in get(still, "/banks/v1/", account_types=kind).json()
    ]
    customers = get(still, "/customers/v1", page_number=0, page_size=100).json()["data"]
    entities = get(still, "/customers/v1/entities", start_date="2020-01-01", end_date=TODAY).json()

    told = {
        name: [item["record"] for item in still.truth(name)]
        for name in ("banks", "customers", "entities", "consents")
    }
    assert told["banks"] == banks
    assert told["customers"] == customers
    assert told["entities"] == entities["data"]
    assert told["consents"] == [one for entity in entities["data"] for one in entity["consents"]]


# Credentials.


def test_a_token_opens_and_ends_by_the_sandbox_clock(sandbox):
    """A token holds for 3600 seconds of simulated time and then gives 401."""
    granted = token(sandbox).json()
    headers = {"authorization": f"Bearer {granted['access_token']}"}

    assert granted["expires_in"] == 3599
    assert granted["scope"] == "api"
    assert ask(sandbox, "GET", "/banks/v1", headers=headers).status_code == 200
    sandbox.clock.advance(dt.timedelta(seconds=3599))
    assert ask(sandbox, "GET", "/banks/v1", headers=headers).status_code == 200
    sandbox.clock.advance(dt.timedelta(seconds=1))
    assert ask(sandbox, "GET", "/banks/v1", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "wrong"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"scope": "everything"}, 400, "invalid_scope"),
        ({"scope": f"customer.{UNKNOWN}"}, 400, "invalid_scope"),
    ],
)
def test_the_token_endpoint_refuses_in_the_words_of_rfc_6749(still, changes, status, error):
    """Wrong credentials, grants and scopes each have their error."""
    answer = token(still, **changes)

    assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_basic_authentication_gives_a_token_too(still):
    """Credentials may come in the header instead of the form."""
    answer = asyncio.run(_basic_token(still))

    assert answer.status_code == 200


async def _basic_token(sandbox):
    transport = httpx.ASGITransport(sandbox.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        return await client.post(
            "/oauth2/token",
            data={"grant_type": "client_credentials"},
            auth=(sandbox.client_id, sandbox.client_secret),
        )


def test_two_credentials_are_refused_as_recorded(still):
    """A bearer token beside the application's token is a 400 without `results_id`."""
    headers = bearer(still) | {"lean-app-token": still.app_token}

    answer = ask(still, "GET", "/banks/v1", headers=headers)

    assert answer.status_code == 400
    assert answer.json()["status"] == "INVALID_PARAMETERS"
    assert answer.json()["message"].startswith("Do not supply a 'lean-app-token' header")
    assert "results_id" not in answer.json()


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer made.up.token"}, {"lean-app-token": UNKNOWN}],
    ids=["none", "a made-up token", "a made-up application token"],
)
def test_nobody_gets_in_without_a_credential(still, headers):
    """Missing and made-up credentials give 401."""
    assert ask(still, "GET", "/banks/v1", headers=headers).status_code == 401


def test_a_customer_token_does_not_open_data(still):
    """The token of the customer's own browser reads no bank data."""
    case = still.example("newer_generation")
    headers = bearer(still, f"customer.{case['customer_id']}")
    url = f"{PATHS['accounts']}?entity_id={case['entity_id']}"

    answer = ask(still, "GET", url, headers=headers)

    assert answer.status_code == 403
    assert answer.json()["status"] == "INSUFFICIENT_ACCESS_LEVEL"


def test_the_correlation_id_comes_back(still):
    """Lean echoes the caller's id, or makes one of sixteen letters."""
    own = ask(
        still,
        "GET",
        "/banks/v1",
        headers={"lean-app-token": still.app_token, "lean-correlation-id": "run-17"},
    )
    made = get(still, "/banks/v1")

    assert own.headers["lean-correlation-id"] == "run-17"
    assert len(made.headers["lean-correlation-id"]) == 16
    assert made.headers["lean-correlation-id"].isalpha()
    assert len(bytes.fromhex(made.headers["lean-trace-id"])) == 16


def test_long_answers_are_compressed_only_for_those_who_ask():
    """Compression is the client's wish and can be switched off."""
    case = Sandbox().example("newer_generation")
    url = f"{PATHS['accounts']}?entity_id={case['entity_id']}"
    told = []
    for gzip in (True, False):
        sandbox = Sandbox(gzip=gzip)
        for accepted in ("gzip", "identity"):
            headers = {"lean-app-token": sandbox.app_token, "accept-encoding": accepted}
            told.append(ask(sandbox, "GET", url, headers=headers).headers.get("content-encoding"))

    assert told == ["gzip", None, None, None]


# Refusals.


def refused(response):
    """Status, code and shape of a refusal."""
    found = response.json()
    assert {"timestamp", "status", "message"} <= found.keys()
    return response.status_code, found["status"]


@pytest.mark.parametrize(
    ("path", "params", "expected"),
    [
        (PATHS["accounts"], {}, (400, "MISSING_PARAMETERS")),
        (PATHS["accounts"], {"entity_id": "17"}, (400, "INVALID_PARAMETERS")),
        (PATHS["accounts"], {"entity_id": UNKNOWN}, (404, "UNKNOWN_ENTITY")),
        (PATHS["accounts"], {"entity_id": "ok", "size": 101}, (400, "INVALID_PARAMETERS")),
        (PATHS["accounts"], {"entity_id": "ok", "size": 0}, (400, "INVALID_PARAMETERS")),
        (PATHS["accounts"], {"entity_id": "ok", "page": -1}, (400, "INVALID_PARAMETERS")),
        (PATHS["accounts"], {"entity_id": "ok", "verbose": "maybe"}, (400, "INVALID_PARAMETERS")),
        (PATHS["accounts"], {"entity_id": "ok", "meta": "{"}, (400, "INVALID_PARAMETERS")),
        (TRANSACTIONS, {"entity_id": "ok", "account_id": UNKNOWN}, (404, "UNKNOWN_ACCOUNT")),
        (TRANSACTIONS, {"entity_id": "ok", "account_id": "x"}, (400, "INVALID_PARAMETERS")),
        (TRANSACTIONS, {"entity_id": "ok", "end_date": "2026-03-16"}, (400, "INVALID_PARAMETERS")),
        (TRANSACTIONS, {"entity_id": "ok", "start_date": "15/3/26"}, (400, "INVALID_PARAMETERS")),
        (
            TRANSACTIONS,
            {"entity_id": "ok", "start_date": "2026-03-02", "end_date": "2026-03-01"},
            (400, "INVALID_PARAMETERS"),
        ),
        (
            TRANSACTIONS,
            {"entity_id": "ok", "start_date": "2020-01-01"},
            (403, "USER_TRANSACTION_RANGE_NOT_GRANTED"),
        ),
        (f"/data/v2/results/{UNKNOWN}", {}, (404, "UNKNOWN_RESULTS_ID")),
        (f"/customers/v1/{UNKNOWN}", {}, (404, "UNKNOWN_CUSTOMER")),
        ("/customers/v1", {}, (400, "MISSING_PARAMETERS")),
        ("/customers/v1/entities", {"start_date": "2026-01-01"}, (400, "MISSING_PARAMETERS")),
        ("/banks/v1", {"account_types": "SECRET"}, (400, "INVALID_PARAMETERS")),
        ("/data/v2/nothing", {}, (404, "INVALID_URL")),
    ],
)
def test_lean_refuses_what_it_cannot_read(still, path, params, expected):
    """Each wrong request has its status and its code."""
    case = still.example("newer_generation")
    given = dict(params)
    account_id = given.pop("account_id", case["account_ids"][0])
    if given.get("entity_id") == "ok":
        given["entity_id"] = case["entity_id"]

    assert refused(get(still, path.format(account_id=account_id), **given)) == expected


def test_the_consents_endpoints_refuse_in_their_own_words(still):
    """An unknown consent and somebody else's customer are told by number and message alone."""
    case = still.example("newer_generation")
    unknown = get(still, f"/customers/v1/{case['customer_id']}/consents/{UNKNOWN}")
    foreign = get(still, f"/customers/v1/{UNKNOWN}/consents")

    told = [(answer.status_code, answer.json().keys()) for answer in (unknown, foreign)]
    assert told == [(404, {"status_code", "message"}), (403, {"status_code", "message"})]


def test_a_wrong_method_is_refused(still):
    """A known path answers 405 to a method it does not have."""
    assert refused(ask(still, "PUT", "/banks/v1")) == (405, "INVALID_HTTP_METHOD")


def test_an_account_belongs_to_its_entity(still):
    """An account of another entity is unknown under this one."""
    first, second = (still.example(name) for name in ("newer_generation", "older_generation"))
    path = PATHS["balances"].format(account_id=second["account_ids"][0])

    assert refused(get(still, path, entity_id=first["entity_id"])) == (404, "UNKNOWN_ACCOUNT")


def test_a_customer_is_created_once(sandbox):
    """The same `app_user_id` a second time is a conflict; both spellings of the path work."""
    new = {"app_user_id": "somebody/new"}
    made = ask(sandbox, "POST", "/customers/v1/", json=new)

    assert made.status_code == 200
    assert refused(ask(sandbox, "POST", "/customers/v1", json=new)) == (
        409,
        "CUSTOMER_ALREADY_EXISTS",
    )
    found = get(sandbox, "/customers/v1/app-user-id/somebody%2Fnew").json()
    assert found == made.json()
    assert get(sandbox, f"/customers/v1/{found['customer_id']}/entities").json() == []


# The store.


def test_the_store_moves_only_on_refresh(sandbox):
    """Time alone changes nothing that is served; a refresh does, and says since when."""
    case = sandbox.example("newer_generation")
    account_id = case["account_ids"][0]

    def state():
        path = TRANSACTIONS.format(account_id=account_id)
        answer = body(get(sandbox, path, entity_id=case["entity_id"]))
        return answer["refreshed_at"], answer["data"]["page"]["total_elements"]

    before = state()
    sandbox.clock.advance(dt.timedelta(days=3))
    assert state() == before
    refresh(sandbox, case["entity_id"])
    after = state()

    assert after[0] > before[0]
    assert after[1] > before[1]


def test_one_refresh_at_a_time(sandbox):
    """A second refresh is refused until the first has finished by the clock."""
    entity_id = sandbox.example("newer_generation")["entity_id"]
    first = ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": entity_id})
    second = ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": entity_id})
    sandbox.clock.advance(dt.timedelta(seconds=10))
    third = ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": entity_id})

    assert first.json()["status"] == "OK"
    assert refused(second) == (429, "DUPLICATED_REQUEST")
    assert third.json()["status"] == "OK"
    listed = get(sandbox, "/data/v2/refreshes", entity_id=entity_id).json()["content"]
    assert [one["status"] for one in listed] == ["PENDING", "FINISHED", "FINISHED", "FINISHED"]


def test_a_refresh_finishes_at_the_second_look_when_the_clock_stands_still(sandbox):
    """Polling makes progress, so that nobody waits for ever."""
    entity_id = sandbox.example("newer_generation")["entity_id"]
    started = ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": entity_id}).json()
    looks = [get(sandbox, f"/data/v2/refreshes/{started['refresh_id']}").json() for _ in range(2)]

    assert [look["status"] for look in looks] == ["PENDING", "FINISHED"]
    parts = looks[1]["data_status"]["account_data"][0]
    assert parts["transactions"] == "OK"
    assert parts["transactionAvailability"] == {"start": "2025-03-01", "end": TODAY}


def test_a_refresh_of_some_data_types_leaves_the_rest(sandbox):
    """Only what was asked for gets another `refreshed_at`."""
    entity_id = sandbox.example("newer_generation")["entity_id"]

    def stamps():
        paths = (PATHS["accounts"], PATHS["identity"])
        return [get(sandbox, path, entity_id=entity_id).json()["refreshed_at"] for path in paths]

    before = stamps()
    asked = {"entity_id": entity_id, "data_types": ["identity"]}
    assert ask(sandbox, "POST", "/data/v2/refreshes", json=asked).status_code == 200
    sandbox.clock.advance(dt.timedelta(seconds=11))
    after = stamps()

    assert after[0] == before[0]
    assert after[1] > before[1]


def test_the_bank_that_failed_answers_once_it_was_asked_again(sandbox):
    """A part that failed in every refresh is a failure at HTTP 200 until one succeeds."""
    case = sandbox.example("partial_refresh")
    path = PATHS["beneficiaries"].format(account_id=case["account_ids"][0])
    failed = get(sandbox, path, entity_id=case["entity_id"]).json()
    refresh(sandbox, case["entity_id"])
    healed = get(sandbox, path, entity_id=case["entity_id"]).json()

    assert failed["status"] == "FAILED"
    assert failed["status_detail"]["granular_status_code"] == "BANK_ISSUE"
    assert failed["data"] is None
    assert healed["status"] == "OK"


# Money.


@pytest.mark.parametrize("days", [0, 1, 5])
def test_running_balances_add_up(days):
    """Each balance is the one before plus the amount, and the last is INTERIM_BOOKED."""
    sandbox = Sandbox()
    sandbox.clock.advance(dt.timedelta(days=days))
    for item in sandbox.truth("entities"):
        if days and item["record"]["consents"][0]["consent_status"] == "ACTIVE":
            ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": item["record"]["id"]})
    sandbox.clock.advance(dt.timedelta(seconds=11))
    booked = {
        item["parent"]["account_id"]: signed(item["record"])
        for item in sandbox.truth("balances")
        if item["record"]["type"] == "INTERIM_BOOKED"
    }
    rows = {}
    for item in sandbox.truth("transactions"):
        rows.setdefault(item["parent"]["account_id"], []).append(item["record"])

    checked = 0
    for account_id, records in rows.items():
        chain = [_booked_balance(record) for record in records if _is_booked(record)]
        if None in chain:
            assert set(chain) == {None}
            continue
        for before, after in pairwise(chain):
            assert after[0] == before[0] + after[1]
            checked += 1
        assert chain[-1][0] == booked[account_id]
    assert checked > 5_000


def _is_booked(record):
    regional = (record.get("regional_data") or {}).get("data", {})
    return (record.get("status") or regional["status"]) == "BOOKED"


def _booked_balance(record):
    balance = record.get("balance")
    return None if balance is None else (signed(balance), signed(record))


def test_amounts_are_numbers_in_every_form_and_exact(still):
    """Whole, one-decimal and two-decimal numbers occur, none of them negative."""
    case = still.example("newer_generation")
    path = TRANSACTIONS.format(account_id=case["account_ids"][0])
    text = get(still, path, entity_id=case["entity_id"], size=100).text
    forms = Counter()
    amounts = json.loads(text, parse_float=str, parse_int=lambda digits: f"i{digits}")
    for record in amounts["data"]["transactions"]:
        amount = record["amount"]["amount"]
        forms["whole" if amount[0] == "i" else len(amount.partition(".")[2])] += 1
        assert "-" not in amount

    assert {"whole", 1, 2} <= forms.keys()


def test_dinars_have_three_decimals(still):
    """An account in Kuwaiti dinars has amounts of three decimal places."""
    case = still.example("three_decimals")
    rows = read(still, "transactions", case["entity_id"], case["account_id"])

    places = Counter(-Decimal(row["amount"]["amount"]).as_tuple().exponent for row in rows)
    assert {row["amount"]["currency"] for row in rows} == {"KWD"}
    assert places[3] > 10


def test_available_takes_pending_off_and_adds_the_credit_line(still):
    """INTERIM_AVAILABLE is INTERIM_BOOKED less pending debits plus what the bank lends."""
    case = still.example("newer_generation")
    for account_id in case["account_ids"]:
        balances = {
            record["type"]: record
            for record in read(still, "balances", case["entity_id"], account_id)
        }
        rows = read(still, "transactions", case["entity_id"], account_id)
        pending = sum(signed(row) for row in rows if row["status"] == "PENDING")
        available = balances["INTERIM_AVAILABLE"]
        line = sum(one["amount"]["amount"] for one in available["credit_line"])

        assert signed(available) == signed(balances["INTERIM_BOOKED"]) + pending + line


def test_own_transfers_have_two_legs(still):
    """What leaves one own account arrives on the other under the same reference."""
    case = still.example("own_transfer")
    near = by_id(read(still, "transactions", case["entity_id"], case["account_id"]))
    far = by_id(read(still, "transactions", case["entity_id"], case["other_account_id"]))
    first, second = near[case["transaction_id"]], far[case["other_transaction_id"]]

    assert signed(first) == -signed(second)
    assert first["transaction_reference"] == second["transaction_reference"]
    assert first["booking_date_time"] == second["booking_date_time"]


# Dates.


def test_dates_are_inclusive_utc_booking_days(still):
    """Month by month, the rows are those of the whole, and both ends belong to the month."""
    case = still.example("month_end_instant")
    account = (case["entity_id"], case["account_id"])
    whole = read(still, "transactions", *account)
    march = read(still, "transactions", *account, start_date="2025-03-01", end_date="2025-03-31")
    april = read(still, "transactions", *account, start_date="2025-04-01", end_date="2025-04-30")

    assert march == [row for row in whole if row["booking_date_time"].startswith("2025-03")]
    assert april == [row for row in whole if row["booking_date_time"].startswith("2025-04")]
    assert march[-1]["booking_date_time"] == "2025-03-31T23:59:59.999999999Z"


def test_both_sides_of_midnight_in_riyadh_are_one_utc_day(still):
    """20:59:59 and 21:00:00 UTC are a second apart and two days in Riyadh."""
    case = still.example("riyadh_midnight")
    day = case["booking_date"]
    rows = by_id(
        read(
            still, "transactions", case["entity_id"], case["account_id"],
            start_date=day, end_date=day,
        )
    )  # fmt: skip

    told = [rows[one]["booking_date_time"] for one in case["transaction_ids"]]
    assert told == [f"{day}T20:59:59.000Z", f"{day}T21:00:00.000Z"]


def test_two_days_beside_the_window_are_tolerated_and_empty(still):
    """A padded request is answered, and rows outside the consent's window stay away."""
    case = still.example("narrow_window")
    path = TRANSACTIONS.format(account_id=case["account_ids"][0])
    granted = dt.date(2026, 3, 15) - dt.timedelta(days=60)

    def first_row(before):
        start = (granted - dt.timedelta(days=before)).isoformat()
        return get(still, path, entity_id=case["entity_id"], start_date=start, verbose="true")

    padded = first_row(2).json()
    assert padded["data"]["transactions"][0]["booking_date_time"] >= granted.isoformat()
    assert padded["data"]["page"] == first_row(0).json()["data"]["page"]
    assert refused(first_row(3)) == (403, "USER_TRANSACTION_RANGE_NOT_GRANTED")


# Generations.


def test_the_newer_generation_is_flat_and_ignores_verbose(still):
    """A newer bank sends every field at the top and null under `regional_data`."""
    case = still.example("newer_generation")
    account = (case["entity_id"], case["account_ids"][0])
    rows = read(still, "transactions", *account)

    assert rows == read(still, "transactions", *account, verbose="true")
    assert all(row["regional_data"] is None and row["status"] for row in rows)


def test_the_older_generation_keeps_the_rest_for_verbose(still):
    """An older bank sends few fields, and everything in SAMA's words on request."""
    case = still.example("older_generation")
    account = (case["entity_id"], case["account_ids"][0])
    plain = read(still, "transactions", *account)
    verbose = read(still, "transactions", *account, verbose="true")

    assert all(row.keys() == OLDER_KEYS and row["regional_data"] is None for row in plain)
    assert len(plain) == len(verbose)
    for row in verbose:
        regional = row["regional_data"]["data"]
        assert row["regional_data"]["standard"] == "SAU.SAMA.V1"
        assert regional["transaction_id"] == row["transaction_id"]
        assert regional["amount"] == row["amount"]
        assert isinstance(regional["statement_reference"], str)
        assert regional["creditor_account"] is None or isinstance(
            regional["creditor_account"], list
        )
    bills = [row for row in verbose if row["regional_data"]["data"]["bill_details"]]
    assert bills


def test_insights_come_only_when_asked_for(still):
    """The enrichment is null unless `insights=true`."""
    case = still.example("newer_generation")
    path = TRANSACTIONS.format(account_id=case["account_ids"][0])
    plain = body(get(still, path, entity_id=case["entity_id"]))
    enriched = body(get(still, path, entity_id=case["entity_id"], insights="true"))

    assert {row["insights"] for row in plain["data"]["transactions"]} == {None}
    for row in enriched["data"]["transactions"]:
        assert 0 <= row["insights"]["category_confidence"] <= 1


def test_meta_comes_back(still):
    """What the caller stores with a request is in its answer."""
    case = still.example("newer_generation")

    answer = get(still, PATHS["accounts"], entity_id=case["entity_id"], meta='{"run":"nightly"}')

    assert answer.json()["meta"] == {"run": "nightly"}


# Awkward cases.


@pytest.mark.parametrize("kind", CASES)
def test_every_awkward_case_is_in_the_default_world(still, kind):
    """Each case that is named has ids in the default world."""
    found = still.example(kind)

    assert found.get("entity_id") or found.get("customer_id") or found.get("entity_ids")
    if "transaction_id" in found and not kind.startswith("late_row"):
        account_id = found.get("account_id") or found["account_ids"][0]
        rows = by_id(read(still, "transactions", found["entity_id"], account_id))
        assert found["transaction_id"] in rows


def test_a_case_that_does_not_fit_is_told():
    """A world too small for a case, and a case that is none, are said to be so."""
    with pytest.raises(LookupError, match="needs at least 15 customers"):
        Sandbox(customers=3).example("three_decimals")
    with pytest.raises(LookupError, match="unknown case"):
        Sandbox().example("nothing")


def test_pending_rows_end_in_four_ways(sandbox):
    """The same id, another id, another amount, or nothing at all."""
    cases = {
        ending: sandbox.example(f"pending_{ending}")
        for ending in ("same_id", "new_id", "amount", "vanishes")
    }
    account = (cases["same_id"]["entity_id"], cases["same_id"]["account_id"])
    before = by_id(read(sandbox, "transactions", *account))
    sandbox.clock.advance(dt.timedelta(days=2))
    refresh(sandbox, account[0])
    after = by_id(read(sandbox, "transactions", *account))

    for case in cases.values():
        assert before[case["transaction_id"]]["status"] == "PENDING"
        assert before[case["transaction_id"]]["balance"] is None
    ids = {ending: case["transaction_id"] for ending, case in cases.items()}
    assert after[ids["same_id"]]["status"] == "BOOKED"
    assert after[ids["same_id"]]["amount"] == before[ids["same_id"]]["amount"]
    assert ids["new_id"] not in after
    booked = after[cases["new_id"]["booked_transaction_id"]]
    assert booked["amount"] == before[ids["new_id"]]["amount"]
    assert after[ids["amount"]]["amount"]["amount"] > before[ids["amount"]]["amount"]["amount"]
    assert ids["vanishes"] not in after


def test_late_rows_come_days_after_their_booking(sandbox):
    """A refresh tomorrow brings rows of last week and of last month."""
    cases = [sandbox.example(kind) for kind in ("late_row", "late_row_last_month")]
    account = (cases[0]["entity_id"], cases[0]["account_id"])
    before = by_id(read(sandbox, "transactions", *account))
    sandbox.clock.advance(dt.timedelta(days=1))
    refresh(sandbox, account[0])
    after = by_id(read(sandbox, "transactions", *account))

    assert [after[case["transaction_id"]]["booking_date_time"][:10] for case in cases] == [
        "2026-03-09",
        "2026-02-28",
    ]
    assert not {case["transaction_id"] for case in cases} & before.keys()


def test_identical_purchases_differ_only_in_their_id(still):
    """The same coffee twice: two rows that nothing but the id tells apart."""
    case = still.example("identical_purchases")
    rows = by_id(read(still, "transactions", case["entity_id"], case["account_id"]))
    first, second = (dict(rows[one]) for one in case["transaction_ids"])
    for row in (first, second):
        del row["transaction_id"], row["balance"]

    assert first == second


def test_a_joint_account_is_seen_through_two_customers(still):
    """Both holders see the same IBAN and the same movements under their own ids."""
    case = still.example("joint_account")
    views = []
    for entity_id, account_id in zip(case["entity_ids"], case["account_ids"], strict=True):
        accounts = {one["account_id"]: one for one in read(still, "accounts", entity_id)}
        assert accounts[account_id]["account"][0]["identification"] == case["iban"]
        parties = read(still, "identities", entity_id, account_id)
        assert [one["party_type"] for one in parties] == ["JOINT", "JOINT"]
        rows = read(still, "transactions", entity_id, account_id)
        views.append([(row["booking_date_time"], row["amount"]) for row in rows])

    assert case["customer_ids"][0] != case["customer_ids"][1]
    shorter = min(map(len, views))
    assert shorter > 100
    assert views[0][:50] == views[1][:50]


def test_a_reconsented_account_has_another_id_and_the_same_iban(sandbox):
    """Old account ids are unknown after the customer connected again."""
    case = sandbox.example("newer_generation")
    before = read(sandbox, "accounts", case["entity_id"])
    again = sandbox.reconsent(case["entity_id"])
    after = read(sandbox, "accounts", case["entity_id"])
    path = PATHS["balances"].format(account_id=case["account_ids"][0])

    assert again["entity_id"] == case["entity_id"]
    assert {one["account_id"] for one in before}.isdisjoint(again["account_ids"])
    assert [one["account"] for one in before] == [one["account"] for one in after]
    assert refused(get(sandbox, path, entity_id=case["entity_id"])) == (404, "UNKNOWN_ACCOUNT")
    entity = get(sandbox, f"/customers/v1/{case['customer_id']}/entities/{case['entity_id']}")
    assert [one["consent_status"] for one in entity.json()["consents"]] == ["ACTIVE", "REVOKED"]


def test_an_entity_that_was_reconsented_before_has_old_ids(still):
    """The default world holds an entity in its second generation."""
    case = still.example("reconsented")
    path = PATHS["balances"].format(account_id=case["old_account_ids"][0])

    assert refused(get(still, path, entity_id=case["entity_id"])) == (404, "UNKNOWN_ACCOUNT")
    assert read(still, "balances", case["entity_id"], case["account_ids"][0])


def test_a_consent_that_ran_out_says_active_until_midnight(sandbox):
    """Data is refused at once; the status follows at the next 00:00 UTC."""
    case = sandbox.example("consent_expired_unswept")
    path = f"/customers/v1/{case['customer_id']}/entities/{case['entity_id']}"

    def consent():
        return get(sandbox, path).json()["consents"][0]

    assert refused(get(sandbox, PATHS["accounts"], entity_id=case["entity_id"])) == (
        403,
        "CONSENT_EXPIRED",
    )
    assert consent()["consent_status"] == "ACTIVE"
    sandbox.clock.advance(dt.timedelta(hours=16, minutes=46))
    assert consent()["consent_status"] == "REVOKED"
    assert consent()["status_update_date_time"].startswith("2026-03-16T00:00:0")


def test_a_consent_runs_out_while_the_sandbox_runs(sandbox):
    """What may be read today may not be read once the consent has ended."""
    case = sandbox.example("consent_expiring")
    assert read(sandbox, "accounts", case["entity_id"])
    sandbox.clock.advance(dt.timedelta(hours=30))

    answer = get(sandbox, PATHS["accounts"], entity_id=case["entity_id"])

    assert (answer.status_code, answer.json()["status"]) == (200, "CONSENT_EXPIRED")
    assert answer.json()["data"] is None
    assert case["entity_id"] not in {
        item["parent"]["entity_id"] for item in sandbox.truth("accounts")
    }


@pytest.mark.parametrize("kind", ["consent_expired", "consent_revoked"])
def test_an_ended_consent_says_revoked_and_allows_no_refresh(still, kind):
    """Expired or revoked, it is REVOKED, and a refresh is refused with 403."""
    case = still.example(kind)
    entity = get(still, f"/customers/v1/{case['customer_id']}/entities/{case['entity_id']}").json()
    started = ask(still, "POST", "/data/v2/refreshes", json={"entity_id": case["entity_id"]})

    assert entity["consents"][0]["consent_status"] == "REVOKED"
    assert entity["consents"][0]["standard_consent_status"] is None
    assert refused(started) == (403, "CONSENT_EXPIRED")


def test_permissions_decide_what_may_be_read(still):
    """What the customer did not grant is refused with 403."""
    case = still.example("permissions_missing")
    account_id = case["account_ids"][0]
    allowed = {"accounts", "identity", "balances", "transactions"}

    for stream, template in PATHS.items():
        path = template.format(account_id=account_id)
        answer = get(still, path, entity_id=case["entity_id"])
        expected = (200, "OK") if stream in allowed else (403, "USER_PERMISSIONS_NOT_GRANTED")
        assert (answer.status_code, answer.json()["status"]) == expected


def test_a_deleted_entity_is_only_in_the_listing_by_date(still):
    """Its status is DELETED there; everywhere else it is gone."""
    case = still.example("entity_deleted")
    listed = {item["record"]["id"]: item["record"] for item in still.truth("entities")}
    own = get(still, f"/customers/v1/{case['customer_id']}/entities").json()
    data = get(still, PATHS["accounts"], entity_id=case["entity_id"])

    assert listed[case["entity_id"]]["status"] == "DELETED"
    assert [one["id"] for one in own if one["id"] == case["entity_id"]] == []
    assert len(own) == 1
    assert refused(data) == (404, "UNKNOWN_ENTITY")


def test_an_entity_and_a_consent_are_deleted_for_a_reason(sandbox):
    """Deleting needs the customer's wish, and then holds."""
    case = sandbox.example("newer_generation")
    path = f"/customers/v1/{case['customer_id']}/entities/{case['entity_id']}"
    consent = f"{path}/consent/{case['consent_id']}"

    assert refused(ask(sandbox, "DELETE", consent)) == (400, "INVALID_PARAMETERS")
    assert ask(sandbox, "DELETE", f"{consent}?reason=USER_REQUESTED").json() == {}
    assert get(sandbox, path).json()["consents"][0]["consent_status"] == "REVOKED"
    assert refused(ask(sandbox, "DELETE", path)) == (400, "INVALID_PARAMETERS")
    assert ask(sandbox, "DELETE", path, json={"reason": "USER_REQUESTED"}).json() == {}
    assert refused(get(sandbox, path)) == (404, "UNKNOWN_ENTITY")


def test_unknown_values_and_nulls_occur(still):
    """UNSUPPORTED, values never seen, missing keys and nulls where values are expected."""
    odd = still.example("unknown_enum")
    accounts = read(still, "accounts", odd["entity_id"])
    rows = read(still, "transactions", odd["entity_id"], odd["account_ids"][1])
    bare = still.example("null_heavy")
    bare_account = read(still, "accounts", bare["entity_id"])[0]
    bare_row = read(still, "transactions", bare["entity_id"], bare["account_ids"][0])[0]

    sub_types = [one["account_sub_type"] for one in accounts]
    assert sub_types == ["CURRENT", "UNSUPPORTED", "DIGITAL_GOLD"]
    kinds = {row["transaction_type"] for row in rows}
    assert {"UNSUPPORTED", "WALLET_TRANSFER"} <= kinds
    assert bare_account["status"] is None
    assert bare_account["servicer"] is None
    assert "transaction_information" not in bare_row
    assert bare_row["transaction_type"] is None


def test_a_bare_envelope_lacks_its_age(still):
    """Beneficiaries of the mock bank come without `refreshed_at` and `type`, as recorded."""
    case = still.example("beneficiaries_bare")
    path = PATHS["beneficiaries"].format(account_id=case["account_ids"][0])

    answer = get(still, path, entity_id=case["entity_id"]).json()

    assert not {"refreshed_at", "type"} & answer.keys()
    assert answer["data"]["type"] == "beneficiaries"


def test_odd_identities_occur(still):
    """A birth date to come, an empty gender and a Hijri document."""
    case = still.example("identity_odd")
    (person,) = read(still, "identity", case["entity_id"], verbose="true")

    (claim,) = person["regional_data"]["data"]["verified_claims"]
    assert claim["claims"]["birth_date"] > "2026-03-15"
    assert claim["claims"]["gender"] == ""
    document = claim["verification"]["evidence"][0]["document_details"]
    assert document["calendar_type"] == "ISLAMIC_CALENDAR"
    assert document["date_of_issuance"].startswith("14")


def test_one_transaction_id_is_on_two_accounts(still):
    """An older bank numbers the rows of each account for itself."""
    case = still.example("shared_transaction_id")
    for account_id in case["account_ids"]:
        rows = by_id(read(still, "transactions", case["entity_id"], account_id))
        assert case["transaction_id"] in rows


def test_a_stream_that_the_bank_lacks_fails_for_good(still):
    """A wallet has no direct debits: FAILED with UNSUPPORTED_BY_BANK at HTTP 200."""
    case = still.example("unsupported_streams")
    path = PATHS["direct_debits"].format(account_id=case["account_ids"][0])

    answer = get(still, path, entity_id=case["entity_id"]).json()

    assert answer["status"] == "FAILED"
    assert answer["status_detail"]["granular_status_code"] == "UNSUPPORTED_BY_BANK"


# Faults.


def newest(sandbox):
    """Entity, path of its first account's transactions, and what to ask with."""
    case = sandbox.example("newer_generation")
    path = TRANSACTIONS.format(account_id=case["account_ids"][0])
    return case["entity_id"], path


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ("401", 401, "Unauthorized"),
        ("429", 429, "RATE_LIMIT_EXCEEDED"),
        ("429-bare", 429, "RATE_LIMIT_EXCEEDED"),
        ("500", 500, "INTERNAL_SERVER_ERROR"),
        ("502", 502, "<!DOCTYPE html>"),
        ("503", 503, "<!DOCTYPE html>"),
        ("504", 504, "<!DOCTYPE html>"),
        ("html", 200, "<!DOCTYPE html>"),
        ("FAILED:BANK_MAINTENANCE", 200, "BANK_MAINTENANCE"),
        ("CONSENT_EXPIRED", 403, "CONSENT_EXPIRED"),
        ("RECONNECT_REQUIRED", 200, "RECONNECT_REQUIRED"),
        ("PENDING", 200, "PENDING"),
        ("PENDING-202", 202, "PENDING"),
    ],
)
def test_a_fault_happens_as_often_as_it_was_ordered(sandbox, fault, status, text):
    """A queued fault hits the next matching request and no other."""
    entity_id, path = newest(sandbox)
    sandbox.fail("transactions", fault)

    other = get(sandbox, PATHS["accounts"], entity_id=entity_id)
    hit = get(sandbox, path, entity_id=entity_id)
    healthy = get(sandbox, path, entity_id=entity_id)

    assert other.status_code == 200
    assert hit.status_code == status
    assert text in hit.text
    assert healthy.json()["status"] == "OK"


def test_retry_after_is_sent_when_the_fault_says_so(sandbox):
    """A 429 has a Retry-After, unless it is the bare one."""
    entity_id, path = newest(sandbox)
    for fault in ("429:7", "429-bare"):
        sandbox.fail("", fault)

    told = [get(sandbox, path, entity_id=entity_id).headers.get("retry-after") for _ in range(2)]

    assert told == ["7", None]


def test_faults_can_be_for_one_account_and_for_good(sandbox):
    """A fault for one account leaves the others alone and lasts until it is healed."""
    case = sandbox.example("newer_generation")
    first, second = case["account_ids"][:2]
    sandbox.fail("balances", "500", times=None, account_id=first)

    def status(account_id):
        path = PATHS["balances"].format(account_id=account_id)
        return get(sandbox, path, entity_id=case["entity_id"]).status_code

    assert [status(first), status(first), status(second)] == [500, 500, 200]
    sandbox.heal()
    assert status(first) == 200


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("earthquake", "unknown fault"),
        ("PENDING:soon", "whole number"),
        ("slow:ly", "could not convert"),
    ],
)
def test_an_unknown_fault_is_refused(sandbox, fault, told):
    """A misspelt fault is told when it is ordered, not when it would happen."""
    with pytest.raises(ValueError, match=told):
        sandbox.fail("", fault)


def test_a_pending_answer_comes_by_way_of_results(sandbox):
    """The results are unknown for two looks and then are the page that was asked for."""
    entity_id, path = newest(sandbox)
    plain = get(sandbox, path, entity_id=entity_id, size=10).json()
    sandbox.fail("transactions", "PENDING:2")
    pending = get(sandbox, path, entity_id=entity_id, size=10).json()
    looks = [get(sandbox, f"/data/v2/results/{pending['results_id']}") for _ in range(3)]

    assert pending["data"] is None
    assert [look.status_code for look in looks] == [404, 404, 200]
    assert looks[2].json()["results_id"] == pending["results_id"]
    assert looks[2].json()["data"] == plain["data"]
    assert [event["type"] for event in sandbox.events] == ["results.ready"]


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        ("total-drift", "page"),
        ("refresh-drift", "refreshed_at"),
        ("repeat", "rows"),
        ("skip", "rows"),
    ],
)
def test_pages_drift_after_the_first(sandbox, fault, changed):
    """Totals, age or rows of a later page stop fitting the first page."""
    entity_id, path = newest(sandbox)
    asked = {"entity_id": entity_id, "size": 10}
    first = get(sandbox, path, **asked).json()
    straight = get(sandbox, path, **asked, page=1).json()
    sandbox.fail("transactions", fault)
    get(sandbox, path, **asked)
    drifted = get(sandbox, path, **asked, page=1).json()

    def seen(answer):
        data = answer["data"]
        return {
            "page": data["page"],
            "refreshed_at": answer["refreshed_at"],
            "rows": [row["transaction_id"] for row in data["transactions"]],
        }

    differences = {name for name, value in seen(drifted).items() if value != seen(straight)[name]}
    assert differences == {changed}
    if fault == "repeat":
        assert seen(drifted)["rows"][0] == seen(first)["rows"][-1]


def test_a_consent_can_end_between_two_pages(sandbox):
    """CONSENT_EXPIRED from page two on leaves the pages before it alone."""
    entity_id, path = newest(sandbox)
    sandbox.fail("transactions", "CONSENT_EXPIRED:2", times=None)
    told = [
        get(sandbox, path, entity_id=entity_id, size=10, page=page).status_code
        for page in (0, 1, 2, 3)
    ]

    assert told == [200, 200, 403, 403]


def test_a_refresh_can_fail_in_parts(sandbox):
    """The failed part keeps its old age while the others move."""
    entity_id, path = newest(sandbox)
    before = get(sandbox, path, entity_id=entity_id).json()["refreshed_at"]
    sandbox.fail("refreshes", "refresh-failed:transactions")
    refresh_id = refresh(sandbox, entity_id)
    detail = get(sandbox, f"/data/v2/refreshes/{refresh_id}").json()

    assert detail["data_status"]["account_data"][0]["transactions"] == "FAILED"
    assert detail["data_status"]["account_data"][0]["balance"] == "OK"
    assert get(sandbox, path, entity_id=entity_id).json()["refreshed_at"] == before


def test_a_bank_can_want_the_customer_again(sandbox):
    """A refresh may answer RECONNECT_REQUIRED at HTTP 200."""
    entity_id = newest(sandbox)[0]
    sandbox.fail("POST /data/v2/refreshes", "RECONNECT_REQUIRED")

    answer = ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": entity_id}).json()

    assert answer["status"] == "RECONNECT_REQUIRED"
    assert answer["reconnect_id"] == answer["refresh_id"]


def test_rates_hit_the_same_requests_under_the_same_seed():
    """A rate is a share of the requests, and which ones is the seed's doing."""

    def codes(seed):
        sandbox = Sandbox(seed=seed)
        sandbox.fault_rates = {"500": 0.2, "FAILED:BANK_ISSUE": 0.2}
        entity_id, path = newest(sandbox)
        told = []
        for page in range(10):
            for _ in range(4):
                answer = get(sandbox, path, entity_id=entity_id, page=page, size=5)
                told.append((answer.status_code, answer.json()["status"]))
        return told

    first = codes(7)
    counted = Counter(first)
    assert first == codes(7)
    assert 1 <= counted[500, "INTERNAL_SERVER_ERROR"] <= 20
    assert 1 <= counted[200, "FAILED"] <= 20
    assert counted[200, "OK"] > 10


def test_a_bank_goes_off_and_comes_back(sandbox):
    """Data of a bank that Lean switched off is DISABLED_BY_LEAN, and the bank list says so."""
    entity_id, path = newest(sandbox)
    sandbox.switch_bank("LEA1_SAMAOB_SAU", active=False)
    off = get(sandbox, path, entity_id=entity_id).json()
    listed = {one["identifier"]: one for one in get(sandbox, "/banks/v1").json()}
    sandbox.switch_bank("LEA1_SAMAOB_SAU", active=True)

    assert off["status_detail"]["granular_status_code"] == "DISABLED_BY_LEAN"
    assert listed["LEA1_SAMAOB_SAU"]["availability"]["active"]["data"] is False
    assert get(sandbox, path, entity_id=entity_id).json()["status"] == "OK"
    assert [event["type"] for event in sandbox.events] == ["bank.availability.updated"] * 2


def test_a_bank_may_offer_less_than_the_consent_allows(sandbox):
    """Rows and what refreshes tell of their start agree, and a day later they have moved on."""
    entity_id, _ = newest(sandbox)
    (account_id, *_) = sandbox.example("newer_generation")["account_ids"]
    asked = {"json": {"days": 30}}

    def told():
        (detail, *_) = (
            one["record"]
            for one in sandbox.truth("refreshes")
            if one["parent"]["entity_id"] == entity_id
        )
        (one,) = (
            one for one in detail["data_status"]["account_data"] if one["account_id"] == account_id
        )
        return one["transactionAvailability"]["start"]

    def days():
        rows = read(sandbox, "transactions", entity_id, account_id)
        return {row["booking_date_time"][:10] for row in rows if row["booking_date_time"]}

    whole, all_days = told(), days()
    limited = ask(sandbox, "POST", f"/_sandbox/entities/{entity_id}/history", **asked)
    first, kept = told(), days()
    sandbox.clock.advance(dt.timedelta(days=1))
    ask(sandbox, "POST", "/data/v2/refreshes", json={"entity_id": entity_id})
    sandbox.clock.advance(dt.timedelta(minutes=5))

    assert limited.status_code == 200
    assert whole <= min(all_days) < first
    assert kept == {day for day in all_days if day >= first}
    assert len(kept) > 5
    moved = dt.date.fromisoformat(told()) - dt.date.fromisoformat(first)
    assert moved == dt.timedelta(days=1)
    assert min(days()) >= told()
    sandbox.limit_history(entity_id, None)
    assert min(days()) == min(all_days)


@pytest.mark.parametrize(
    ("wrong", "status"), [({"days": 0}, 400), ({"days": True}, 400), ({"days": 9}, 404)], ids=str
)
def test_a_history_that_cannot_be_is_refused(sandbox, wrong, status):
    """No days, and entities that are none."""
    answer = ask(sandbox, "POST", f"/_sandbox/entities/{UNKNOWN}/history", json=wrong)

    assert answer.status_code == status


# Connecting, events and the sandbox's own routes.


def test_a_tap_connects_a_bank(sandbox):
    """A new customer's entity is listed first, is read once its refresh is done, and is told."""
    made = sandbox.connect(app_user_id="somebody-new", bank_identifier="SADU_SAU")
    early = get(sandbox, PATHS["accounts"], entity_id=made["entity_id"]).json()
    sandbox.clock.advance(dt.timedelta(seconds=11))
    accounts = read(sandbox, "accounts", made["entity_id"])
    rows = read(sandbox, "transactions", made["entity_id"], made["account_ids"][0])
    newest_entity = next(sandbox.truth("entities"))["record"]
    events = get(sandbox, "/events/v1", page=0, size=50).json()["data"]

    assert early["status"] == "PENDING"
    assert [one["account_id"] for one in accounts] == made["account_ids"]
    assert len(rows) > 300
    assert newest_entity["id"] == made["entity_id"]
    assert [event["type"] for event in events] == [
        "entity.created",
        "entity.data.refresh.updated",
        "entity.data.refresh.updated",
    ]
    assert events[0]["payload"]["id"] == made["entity_id"]
    assert events[2]["payload"]["status"] == "FINISHED"
    assert events[2]["app_user_id"] == "somebody-new"


@pytest.mark.parametrize(
    "wrong",
    [{"customer_id": UNKNOWN}, {"bank_identifier": "NOWHERE"}, {"permissions": ["everything"]}],
)
def test_a_tap_that_cannot_be_is_refused(sandbox, wrong):
    """Unknown customers, banks and permissions are told at once."""
    with pytest.raises(ValueError, match=r"unknown|permissions"):
        sandbox.connect(**wrong)


def test_the_customer_ends_a_consent(sandbox):
    """After that nothing may be read, and an event says that something changed."""
    entity_id, path = newest(sandbox)
    sandbox.revoke(entity_id)

    assert refused(get(sandbox, path, entity_id=entity_id)) == (403, "CONSENT_EXPIRED")
    assert [event["type"] for event in sandbox.events] == ["entity.updated"]


def test_the_sandbox_is_steered_over_http(sandbox):
    """Clock, faults, taps, counts and truth are reachable where Lean has nothing."""
    moved = ask(sandbox, "POST", "/_sandbox/clock", json={"advance_seconds": 90})
    backwards = ask(sandbox, "POST", "/_sandbox/clock", json={"advance_seconds": -1})
    ask(sandbox, "POST", "/_sandbox/faults", json={"match": "banks", "fault": "500"})
    misspelt = ask(sandbox, "POST", "/_sandbox/faults", json={"fault": "earthquake"})
    broken = get(sandbox, "/banks/v1")
    ask(sandbox, "POST", "/_sandbox/faults", json={"rates": {"500": 1.0}})
    ask(sandbox, "DELETE", "/_sandbox/faults")
    made = ask(sandbox, "POST", "/_sandbox/connect", json={"bank_identifier": "WAHA_SAU"}).json()
    again = ask(sandbox, "POST", f"/_sandbox/entities/{made['entity_id']}/reconsent").json()
    lines = get(sandbox, "/_sandbox/truth/customers").text.splitlines()
    counts = get(sandbox, "/_sandbox/requests").json()

    assert moved.json() == {"now": "2026-03-15T07:16:30.000000Z"}
    assert (backwards.status_code, misspelt.status_code, broken.status_code) == (400, 400, 500)
    assert get(sandbox, "/banks/v1").status_code == 200
    assert set(made["account_ids"]).isdisjoint(again["account_ids"])
    assert [json.loads(line)["record"] for line in lines] == [
        item["record"] for item in sandbox.truth("customers")
    ]
    assert counts == {"GET /banks/v1": 1}
    assert get(sandbox, "/_sandbox/truth/nothing").status_code == 404


def test_truth_over_http_keeps_numbers_as_they_are(still):
    """The lines of the truth hold amounts as the API writes them."""
    text = get(still, "/_sandbox/truth/balances").text
    lines = [json.loads(line, parse_float=Decimal) for line in text.splitlines()]

    assert lines == list(still.truth("balances"))


# On a port.


def test_a_served_sandbox_stops_by_itself(sandbox):
    """It answers on a free port while the block runs, and counts what it served."""
    with serve(sandbox, port=0, mtls=False) as server:
        granted = httpx.post(
            server.token_url,
            data={
                "client_id": sandbox.client_id,
                "client_secret": sandbox.client_secret,
                "grant_type": "client_credentials",
            },
        ).json()
        headers = {"authorization": f"Bearer {granted['access_token']}"}
        entity_id, path = newest(sandbox)
        answer = httpx.get(server.url + path, params={"entity_id": entity_id}, headers=headers)

        assert server.url.startswith("http://127.0.0.1:")
        assert answer.json()["status"] == "OK"
        assert answer.headers["content-encoding"] == "gzip"
        assert server.requests == {"/oauth2/token": 1, TRANSACTIONS: 1}

    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_a_cut_answer_ends_in_the_middle(sandbox, caplog):
    """The connection ends before the announced length, and the server says nothing of it."""
    entity_id, path = newest(sandbox)
    headers = {"lean-app-token": sandbox.app_token}
    with serve(sandbox) as server:
        sandbox.fail("transactions", "cut")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(server.url + path, params={"entity_id": entity_id}, headers=headers)
        healthy = httpx.get(server.url + path, params={"entity_id": entity_id}, headers=headers)

    assert healthy.json()["status"] == "OK"
    assert caplog.records == []


def test_a_slow_answer_takes_its_time(sandbox):
    """A slow answer is whole, and late by the seconds that were ordered."""
    entity_id, path = newest(sandbox)
    sandbox.fail("transactions", "slow:0.05")

    answer = get(sandbox, path, entity_id=entity_id)

    assert answer.json()["status"] == "OK"


def test_mutual_tls_lets_only_its_own_in(sandbox):
    """Without a certificate, with an expired one or one of another chain there is no answer."""
    headers = {"lean-app-token": sandbox.app_token}
    with serve(sandbox, mtls=True) as server:
        made = server.certificates

        def knock(cert=None, key=None):
            context = ssl.create_default_context(cafile=str(made.authority))
            if cert is not None:
                context.load_cert_chain(str(cert), str(key))
            return httpx.get(f"{server.url}/banks/v1", headers=headers, verify=context)

        assert server.url.startswith("https://localhost:")
        assert knock(made.client_cert, made.client_key).status_code == 200
        expired, foreign = made.expired(), made.foreign()
        for pair in ((), (expired.cert, expired.key), (foreign.cert, foreign.key)):
            with pytest.raises(httpx.TransportError):
                knock(*pair)


def test_the_sandbox_needs_neither_dagster_nor_pandas():
    """Importing the sandbox loads nothing of the pipelines."""
    code = (
        "import sys, lean_resources.sandbox as _;"
        "print(sorted({'dagster', 'pandas', 'pipelines'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"
