"""What a sync promises: one failure stops nothing else, and the lake shows old truth or new."""

import asyncio
import datetime as dt
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import TODAY, Slept, client_of, rows_of, settings_of, showing, sync_everything
from oracle import comparable, row

from lean_resources import LeanClient
from lean_resources.decoding import Decoder, Page
from lean_resources.errors import ConsentError, IncompleteError, NotGrantedError, SchemaError
from lean_resources.limits import CircuitOpenError
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.digests import DamageError
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Outcome
from pipelines.operate.fsck import repair
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import refresh as refresh_stale
from pipelines.sync.tasks import Selection

TRANSACTIONS = STREAMS["transactions"]
CHAIN = ("entities", "accounts", "transactions")
DAY = dt.timedelta(days=1)
MINUTE = dt.timedelta(minutes=1)
START = dt.date.fromisoformat(TODAY)


class Wire(httpx.AsyncBaseTransport):
    """The way to the offline Lean, which may change the bytes of an answer.

    Args:
        change: Given each request to the API and the bytes of its answer; returns what is sent.
    """

    def __init__(self, sandbox, change):
        self._inner = httpx.ASGITransport(sandbox.app)
        self._change = change

    async def handle_async_request(self, request):
        response = await self._inner.handle_async_request(request)
        if request.url.path == "/oauth2/token":
            return response
        headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
        body = self._change(request, await response.aread())
        return httpx.Response(response.status_code, headers=headers, content=body)


WHOLE = Policy(nightly_days=1000)
"""Every sync reads open months whole."""


def new_sandbox():
    """An offline Lean with every awkward case and a short history."""
    return Sandbox(customers=20, months=1, seed=7, today=TODAY)


@pytest.fixture
def sandbox():
    """An offline Lean, the same as the one of which `lake` knows the first day."""
    return new_sandbox()


@pytest.fixture(scope="module")
def first_day(tmp_path_factory):
    """The folder of a lake that holds everything as it was on the first day."""
    folder = tmp_path_factory.mktemp("first_day")
    asyncio.run(sync_everything(client_of(new_sandbox()), Lake(folder, "sandbox"), insights=False))
    return folder


@pytest.fixture
def lake(first_day, tmp_path):
    """A lake that holds everything as it was on the first day."""
    shutil.copytree(first_day, tmp_path / "lake")
    return Lake(tmp_path / "lake", "sandbox")


def pull(sandbox, lake, *names, client=None, policy=None, run_id=None, resumes=(), **selected):
    """Sync some streams in order; the report of the last one."""

    async def work():
        async with client or client_of(sandbox) as lean:
            for name in names:
                report = await sync(
                    STREAMS[name],
                    lean,
                    lake,
                    policy=policy or WHOLE,
                    selection=Selection(**({"insights": False} | selected)),
                    run_id=run_id,
                    resumes=resumes,
                )
            return report

    return asyncio.run(work())


def refresh(sandbox, *entity_ids):
    """Let the bank be asked again, for the entities given or for all that are open."""
    wanted = set(entity_ids) or {one["parent"]["entity_id"] for one in sandbox.truth("accounts")}

    async def work():
        async with client_of(sandbox) as lean:
            for entity_id in sorted(wanted):
                assert await lean.refresh(entity_id)

    asyncio.run(work())
    sandbox.clock.advance(MINUTE)


def shown(lake, name="transactions", where="true"):
    """The resolved rows of a stream, in the order of their key."""
    stream = STREAMS[name]
    columns = ", ".join(f'"{column}"' for column in stream.schema.names)
    with showing(lake, (name,)) as connection:
        return connection.sql(
            f"select {columns} from {name} where {where} order by {', '.join(stream.key)}"
        ).to_arrow_table()


def last_sync(lake, name):
    """Rows of the ledger that the latest sync of a stream wrote."""
    tables = [
        pq.read_table(file, partitioning=None)
        for file in (lake.folder / "pulls").glob("*/*.parquet")
    ]
    rows = [row for table in tables for row in table.to_pylist() if row["stream"] == name]
    newest = max(row["batch_id"] for row in rows)
    return [row for row in rows if row["batch_id"] == newest]


def files(lake):
    """Every file of a lake."""
    return {file for file in lake.folder.rglob("*") if file.is_file()}


def true_rows(sandbox, *account_ids):
    """The sandbox's transactions by key, typed; of some accounts or of all."""
    return {
        (one["parent"]["account_id"], one["record"]["transaction_id"]): row(
            TRANSACTIONS, one["record"], one["parent"]
        )
        for one in sandbox.truth("transactions")
        if not account_ids or one["parent"]["account_id"] in account_ids
    }


def held_rows(lake, *account_ids):
    """The resolved transactions by key; of some accounts or of all."""
    named = ", ".join(f"'{account_id}'" for account_id in account_ids)
    found = shown(lake, where=f"account_id in ({named})" if named else "true").to_pylist()
    rows = {
        (one["account_id"], one["transaction_id"]): comparable(TRANSACTIONS, one) for one in found
    }
    assert len(rows) == len(found), "a key occurs twice"
    return rows


# Failures.


def test_one_accounts_failure_stops_no_other(sandbox, lake):
    """A bank that fails for one account ends in the ledger; its old rows stay, others move on."""
    refresh(sandbox)
    accounts = [one["record"]["account_id"] for one in sandbox.truth("accounts")]
    sick = sandbox.example("newer_generation")["account_ids"][0]
    before = shown(lake, "balances", f"account_id = '{sick}'")
    sandbox.fail("balances", "FAILED:BANK_ISSUE", None, account_id=sick)

    report = pull(sandbox, lake, "balances")

    (failed,) = [one for one in last_sync(lake, "balances") if one["outcome"] == "FAILED"]
    assert failed["parent_id"] == sick
    assert failed["code"] == "BANK_ISSUE"
    assert failed["remedy"]
    assert len(failed["correlation_id"]) == len(failed["trace_id"]) == 32
    assert failed["results_id"]
    assert failed["requests"] == 1
    assert report.outcomes == {"FAILED": 1, "COMMITTED": len(accounts) - 1}
    assert report.codes == {"BANK_ISSUE": 1}
    assert shown(lake, "balances", f"account_id = '{sick}'").equals(before)
    (as_of,) = rows_of(lake, f"select max(stated_at) from balances where account_id <> '{sick}'")
    assert as_of[0] > before["stated_at"][0].as_py()


FAILURES = [
    # fault, outcome, code, requests
    ("500", "FAILED", "INTERNAL_SERVER_ERROR", 5),
    ("503", "FAILED", "NOT_JSON", 5),
    ("429", "FAILED", "RATE_LIMIT_EXCEEDED", 5),
    ("401", "FAILED", "HTTP_401", 1),
    ("CONSENT_EXPIRED", "FAILED", "CONSENT_EXPIRED", 1),
    ("RECONNECT_REQUIRED", "FAILED", "RECONNECT_REQUIRED", 1),
    ("FAILED:LEAN_ERROR", "FAILED", "LEAN_ERROR", 1),
    ("FAILED:UNSUPPORTED_BY_BANK", "SKIPPED", "UNSUPPORTED_BY_BANK", 1),
    ("FAILED:USER_PERMISSIONS_NOT_GRANTED", "SKIPPED", "USER_PERMISSIONS_NOT_GRANTED", 1),
    ("PENDING:100000", "FAILED", "PENDING", 61),
]


def test_every_kind_of_failure_has_its_place_in_the_ledger(sandbox, lake):
    """Code, remedy, ids and requests of each failure are kept, and what was there stays."""
    refresh(sandbox)
    entities = [one["parent"]["entity_id"] for one in sandbox.truth("identity")]
    cases = dict(zip(entities, FAILURES, strict=False))
    assert len(cases) == len(FAILURES) < len(entities)
    before = shown(lake, "identity", f"entity_id in {(*cases,)}")
    for entity, (fault, *_) in cases.items():
        sandbox.fail("identity", fault, None, entity_id=entity)

    report = pull(sandbox, lake, "identity", policy=Policy(reread_hours={}))

    found = {one["parent_id"]: one for one in last_sync(lake, "identity")}
    for entity, (_, outcome, code, requests) in cases.items():
        one = found.pop(entity)
        assert (one["outcome"], one["code"], one["requests"]) == (outcome, code, requests)
        assert one["remedy"].endswith(".")
        assert one["correlation_id"]
        assert one["trace_id"]
        assert one["entity_id"] == entity
        assert one["bank_identifier"]
    assert shown(lake, "identity", f"entity_id in {(*cases,)}").equals(before)
    assert {one["outcome"] for one in found.values()} == {"COMMITTED", "SKIPPED"}
    assert report.outcomes["FAILED"] == 8


def test_an_answer_that_cannot_be_typed_fails_alone(sandbox, lake):
    """A list of records that stands twice is one failed pull; every other account is committed."""
    refresh(sandbox)
    sick = sandbox.example("newer_generation")["account_ids"][0]

    def change(request, body):
        return body.replace(b"{", b'{"data":null,', 1) if sick in request.url.path else body

    client = LeanClient(settings_of(sandbox), transport=Wire(sandbox, change), sleep=Slept())
    before = shown(lake, "balances", f"account_id = '{sick}'")

    report = pull(sandbox, lake, "balances", client=client)

    (failed,) = [one for one in last_sync(lake, "balances") if one["outcome"] == "FAILED"]
    assert (failed["parent_id"], failed["code"]) == (sick, SchemaError.default_code)
    assert failed["correlation_id"]
    assert report.outcomes["FAILED"] == 1
    assert report.outcomes["COMMITTED"] > 20
    assert shown(lake, "balances", f"account_id = '{sick}'").equals(before)


def test_a_record_that_does_not_fit_costs_nothing_else(sandbox, lake):
    """A row without any date is quarantined, with its place; the rest of the month commits."""
    refresh(sandbox)
    case = sandbox.example("pending_same_id")
    lost = case["transaction_id"]

    def change(request, body):
        if case["account_id"] not in request.url.path:
            return body
        found = json.loads(body)
        for record in found["data"]["transactions"]:
            if record["transaction_id"] == lost:
                for name in ("booking_date_time", "value_date_time", "transaction_date_time"):
                    record[name] = None
        return json.dumps(found).encode()

    client = LeanClient(settings_of(sandbox), transport=Wire(sandbox, change), sleep=Slept())

    report = pull(sandbox, lake, "transactions", client=client, account_ids={case["account_id"]})

    assert report.quarantined == 1
    assert report.outcomes == {"COMMITTED": 2}
    with showing(lake, ()) as connection:
        kept = connection.sql(lake.quarantined(TRANSACTIONS)).to_arrow_table().to_pylist()
    assert [(one["column_name"], one["reason"]) for one in kept] == [
        ("booked_at", "none of booked_at, value_at, transacted_at says on which day it stands")
    ]
    assert [json.loads(one["record_key"]) for one in kept] == [[case["account_id"], lost]]
    assert [(one["placed_on"], one["is_lost"]) for one in kept] == [(None, True)]
    true, rows = true_rows(sandbox, case["account_id"]), held_rows(lake, case["account_id"])
    assert rows == true, "its last good version stays"
    with showing(lake, ("transactions",)) as connection:
        marked = "select transaction_id from transactions where last_good_at is not null"
        assert connection.execute(marked).fetchall() == [(lost,)]


def test_what_may_not_be_read_is_skipped_without_a_request(sandbox, lake):
    """Ended consents, missing permissions and deleted entities cost nothing and are named."""
    before = sum(sandbox.calls.values())

    report = pull(sandbox, lake, "identity")

    skipped = {
        one["entity_id"]: one for one in last_sync(lake, "identity") if one["outcome"] == "SKIPPED"
    }
    for case, code, remedy in (
        ("consent_expired", "CONSENT_EXPIRED", ConsentError.remedy),
        ("consent_expired_unswept", "CONSENT_EXPIRED", ConsentError.remedy),
        ("consent_revoked", "CONSENT_EXPIRED", ConsentError.remedy),
        ("entity_deleted", "ENTITY_DELETED", NotGrantedError.remedy),
    ):
        found = skipped[sandbox.example(case)["entity_id"]]
        assert (found["code"], found["remedy"], found["requests"]) == (code, remedy, 0)
    # One request per entity that may be read, one for the time and one for the token.
    made = sum(sandbox.calls.values()) - before
    assert made == report.outcomes["UNCHANGED"] + 2
    assert report.outcomes["FAILED"] == 0
    assert report.failed_share == 0


def test_a_stream_outside_the_consent_is_skipped(sandbox, lake):
    """A permission that the customer did not grant is no failure and costs no request."""
    case = sandbox.example("permissions_missing")

    report = pull(sandbox, lake, "beneficiaries", entity_ids={case["entity_id"]})

    assert report.outcomes == {"SKIPPED": len(case["account_ids"])}
    assert report.codes == {"USER_PERMISSIONS_NOT_GRANTED": len(case["account_ids"])}
    assert sandbox.calls["GET /data/v2/accounts/{account_id}/beneficiaries"] == 0


def test_an_entity_that_is_deleted_keeps_its_past(sandbox, lake):
    """What was read before stays readable; nothing more is asked."""
    entity = sandbox.example("newer_generation")
    before = shown(lake, "balances")
    sandbox.store.delete(sandbox.store.find_entity(entity["entity_id"]))

    pull(sandbox, lake, "entities")
    report = pull(sandbox, lake, "balances")

    gone = [one for one in last_sync(lake, "balances") if one["code"] == "ENTITY_DELETED"]
    assert {one["parent_id"] for one in gone} == set(entity["account_ids"])
    assert report.outcomes["FAILED"] == 0
    assert shown(lake, "balances").equals(before)


def test_a_failing_stream_leaves_the_old_rows(sandbox, lake):
    """When nothing can be read the lake shows what it showed; the report says how much failed."""
    refresh(sandbox)
    before = shown(lake)
    sandbox.fail("transactions", "500", None)

    report = pull(sandbox, lake, "transactions")

    assert report.failed_share == 1.0
    assert report.rows["transactions"] == 0
    assert shown(lake).equals(before)


def test_a_failing_bank_is_left_alone(sandbox, lake):
    """After five failures in a row a bank's other pulls are recorded without a request."""
    refresh(sandbox)
    sandbox.fail("balances", "FAILED:BANK_ISSUE", None)
    parents = Counter(
        bank
        for (bank,) in rows_of(
            lake,
            "select entities.bank_identifier from accounts"
            " inner join entities on accounts.entity_id = entities.entity_id",
        )
    )

    report = pull(sandbox, lake, "balances", client=client_of(sandbox, max_concurrency=1))

    asked = sum(min(5, count) for count in parents.values())
    spared = parents.total() - asked
    assert spared > 0
    assert report.outcomes == {"FAILED": parents.total()}
    assert report.codes == {"BANK_ISSUE": asked, "CIRCUIT_OPEN": spared}
    assert sandbox.calls["GET /data/v2/accounts/{account_id}/balances"] == asked
    for one in last_sync(lake, "balances"):
        is_spared = one["code"] == "CIRCUIT_OPEN"
        assert one["requests"] == (0 if is_spared else 1)
        assert one["remedy"] == CircuitOpenError.remedy or not is_spared


def test_a_bank_that_lean_switched_off_is_asked_once(sandbox, lake):
    """One answer of DISABLED_BY_LEAN spares the bank's other pulls in this sync."""
    refresh(sandbox)
    case = sandbox.example("newer_generation")
    sandbox.switch_bank(case["bank_identifier"], active=False)

    report = pull(
        sandbox,
        lake,
        "balances",
        client=client_of(sandbox, max_concurrency=1),
        entity_ids={case["entity_id"]},
    )

    assert report.codes == {"DISABLED_BY_LEAN": len(case["account_ids"])}
    assert sum(one["requests"] for one in last_sync(lake, "balances")) == 1


def test_the_ledger_counts_every_request_once(sandbox, lake):
    """The requests of a sync's pulls add up to those that Lean saw, repeated ones included."""
    refresh(sandbox)
    sandbox.fail("transactions", "500", 3)
    before = sandbox.calls["GET /data/v2/accounts/{account_id}/transactions"]

    report = pull(sandbox, lake, "transactions", client=client_of(sandbox, page_size=20))

    counted = sum(one["requests"] for one in last_sync(lake, "transactions"))
    made = sandbox.calls["GET /data/v2/accounts/{account_id}/transactions"] - before
    assert counted == made == report.requests - 1  # the time is asked for too


# Pages that moved.


@pytest.mark.parametrize("fault", ["repeat", "skip"])
def test_a_series_whose_pages_slid_is_read_again(sandbox, lake, fault):
    """A record that slid over a page's edge costs another read, and is not lost and not doubled."""
    case = sandbox.example("newer_generation")
    account = case["account_ids"][0]
    refresh(sandbox, case["entity_id"])
    sandbox.fail("transactions", fault, account_id=account)

    report = pull(
        sandbox,
        lake,
        "transactions",
        client=client_of(sandbox, page_size=14),
        account_ids={account},
    )

    assert held_rows(lake, account) == true_rows(sandbox, account)
    assert report.outcomes == {"COMMITTED": 2}
    made = last_sync(lake, "transactions")
    assert made[0]["pages"] > 3
    # Both reads are counted, and the time that was asked for is not the read's own.
    assert sum(one["requests"] for one in made) == 2 * made[0]["pages"] == report.requests - 1


def recut(sandbox, lake, account, change):
    """The report of a sync in which one account's movements are changed before they are paged.

    The change is given all that was asked for, the page's number and its size; it returns what is
    on the page and how many there are.
    """

    def answer(request, body):
        if account not in request.url.path:
            return body
        found = json.loads(body)
        asked = request.url.params
        records, total = change(
            [
                one
                for one in true_records(sandbox, account)
                if asked["start_date"] <= one["booking_date_time"][:10] <= asked["end_date"]
            ],
            int(asked["page"]),
            int(asked["size"]),
        )
        found["data"]["transactions"] = records
        found["data"]["page"] |= {
            "total_elements": total,
            "total_pages": -(-total // int(asked["size"])),
        }
        return json.dumps(found, default=float).encode()

    client = LeanClient(
        settings_of(sandbox, page_size=9), transport=Wire(sandbox, answer), sleep=Slept()
    )
    return pull(sandbox, lake, "transactions", client=client, account_ids={account})


def repeating(place, **changes):
    """Puts the first record once more at a place, with some changes."""

    def change(records, number, size):
        everything = [*records[:place], records[0] | changes, *records[place:]]
        return everything[number * size : (number + 1) * size], len(everything)

    return change


def sliding(records, number, size):
    """Puts the last record of each page onto the next one as well, in place of its first."""
    page = records[number * size : (number + 1) * size]
    if number and page:
        page[0] = records[number * size - 1]
    return page, len(records)


def true_records(sandbox, account):
    """Everything that the offline Lean has of one account's movements, as it sends them."""
    return [
        one["record"]
        for one in sandbox.truth("transactions")
        if one["parent"]["account_id"] == account
    ]


def repeated_id(sandbox, lake, account):
    """The id that `repeating` repeats, by what a sync asks for."""
    seen = []

    def change(records, number, size):
        seen.append(records[0]["transaction_id"])
        return records[number * size : (number + 1) * size], len(records)

    recut(sandbox, lake, account, change)
    return seen[0]


def told(lake):
    """What stands in the quarantine of transactions, by key."""
    with showing(lake, ()) as connection:
        kept = connection.sql(lake.quarantined(TRANSACTIONS)).to_arrow_table().to_pylist()
    return [(json.loads(one["record_key"])[1], one["reason"], one["is_lost"]) for one in kept]


PLACES = [
    pytest.param(1, id="on one page", marks=pytest.mark.conformance),
    pytest.param(12, id="on two pages"),
]
"""Where a record stands twice: the harder place in `make test`, both in the long form."""


@pytest.mark.parametrize("place", PLACES)
def test_a_record_that_the_bank_has_twice_is_kept_once(sandbox, lake, place):
    """However the pages are cut it comes twice, so nothing is missing: its neighbours pass."""
    refresh(sandbox)
    account = sandbox.example("newer_generation")["account_ids"][0]
    first = repeated_id(sandbox, lake, account)
    sandbox.clock.advance(DAY)
    refresh(sandbox)

    report = recut(sandbox, lake, account, repeating(place))

    assert (report.outcomes, report.codes, report.quarantined) == ({"COMMITTED": 2}, {}, 0)
    assert held_rows(lake, account) == true_rows(sandbox, account)
    assert told(lake) == [(first, "came twice alike, and is kept once", False)]


@pytest.mark.parametrize("place", PLACES)
def test_two_records_that_share_an_id_are_quarantined_alone(sandbox, lake, place):
    """Which of them the id names cannot be known; the other records of the account pass."""
    refresh(sandbox)
    account = sandbox.example("newer_generation")["account_ids"][0]
    first = repeated_id(sandbox, lake, account)
    sandbox.clock.advance(DAY)
    refresh(sandbox)

    report = recut(sandbox, lake, account, repeating(place, status="REJECTED"))

    assert (report.outcomes, report.codes, report.quarantined) == ({"COMMITTED": 2}, {}, 2)
    assert held_rows(lake, account).keys() == true_rows(sandbox, account).keys()
    with showing(lake, ("transactions",)) as connection:
        marked = "select transaction_id from transactions where last_good_at is not null"
        assert connection.execute(marked).fetchall() == [(first,)]
    reason = "shares its key with another record that differs"
    assert told(lake) == [(first, reason, True)] * 2


def test_a_record_that_slides_from_page_to_page_is_a_failure(sandbox, lake):
    """While the pages move, a record may be missing: three reads, and the old rows stay."""
    refresh(sandbox)
    account = sandbox.example("newer_generation")["account_ids"][0]
    before = shown(lake)

    report = recut(sandbox, lake, account, sliding)

    assert report.codes == {"DOUBLED": 2}
    assert shown(lake).equals(before)
    failed = last_sync(lake, "transactions")
    assert {one["remedy"] for one in failed} == {IncompleteError.remedy}
    assert all(one["correlation_id"] and one["trace_id"] for one in failed)


# Time passes.


def test_a_sync_of_an_unchanged_store_writes_nothing_but_the_ledger(sandbox, lake):
    """Where the bank was not asked again: a request for each account, one file, and its copy."""
    before = files(lake)

    report = pull(sandbox, lake, "transactions")

    copies = lake.folder / "checkpoints"
    written, copy = sorted(files(lake) - before, key=lambda file: file.is_relative_to(copies))
    assert (written.parent.parent, copy.parent) == (lake.folder / "pulls", copies)
    counted = sum(one["requests"] for one in last_sync(lake, "transactions"))
    assert counted == report.requests - 1  # the time is asked for too
    assert set(report.outcomes) == {"UNCHANGED"}
    assert report.requests == report.read_targets + 1
    assert report.read_targets > 20


def test_what_changes_seldom_is_read_once_a_week(sandbox, lake):
    """A sync asks again after a week, or when there is another consent or the run is narrowed."""
    again, other = sorted({e for (e,) in rows_of(lake, "select entity_id from identity")})[:2]

    def asked(**selected):
        report = pull(sandbox, lake, "entities", "identity", **selected)
        return report.outcomes.total() - report.outcomes["SKIPPED"]

    sandbox.clock.advance(dt.timedelta(hours=100))
    refresh(sandbox)
    assert asked() == 0
    assert asked(entity_ids={other}) == 1

    sandbox.reconsent(again)
    sandbox.clock.advance(MINUTE)
    assert asked() == 1
    assert asked() == 0

    sandbox.clock.advance(dt.timedelta(hours=68))
    entities = {one["parent"]["entity_id"] for one in sandbox.truth("identity")}
    assert asked() == len(entities - {again, other}) > 10


def test_what_a_bank_never_has_is_asked_for_once_a_week(sandbox, lake):
    """A bank that lacks a stream is not asked for it every night."""
    lacking = "outcome = 'SKIPPED' and code = 'UNSUPPORTED_BY_BANK' and stream = 'direct_debits'"
    assert rows_of(lake, f"select count(*) from pulls where {lacking}") > [(0,)]
    before = sandbox.calls["GET /data/v2/accounts/{account_id}/direct-debits"]

    pull(sandbox, lake, "direct_debits")

    assert sandbox.calls["GET /data/v2/accounts/{account_id}/direct-debits"] == before


# A run that is taken up again.


@pytest.mark.parametrize("name", ["balances", "transactions"])
def test_what_an_earlier_attempt_read_is_not_read_again(sandbox, lake, name):
    """A run that died goes on where it ended, and tries again what had failed."""
    refresh(sandbox)
    sick, *_ = sandbox.example("newer_generation")["account_ids"]
    sandbox.fail(name, "FAILED:BANK_ISSUE", None, account_id=sick)
    died = pull(sandbox, lake, name, run_id="died")
    sandbox.heal()

    again = pull(sandbox, lake, name, run_id="again", resumes={"died", "again"})

    assert {one["parent_id"] for one in last_sync(lake, name)} >= {sick}
    assert again.read_targets == died.read_targets - again.fresh
    assert again.fresh > 20
    assert again.outcomes["FAILED"] == 0
    assert again.requests == 2  # the time, and the one account
    assert pull(sandbox, lake, name, run_id="another", resumes={"another"}).fresh == 0


def test_what_was_refreshed_since_is_read_again(sandbox, lake):
    """An earlier attempt's read does not count where the bank was asked after it, nor for ever."""
    case = sandbox.example("newer_generation")
    entity_id, count = case["entity_id"], len(case["account_ids"])

    def fresh(**how):
        selected = {"entity_ids": {entity_id}, "resumes": {"run"}, "run_id": "run"}
        return pull(sandbox, lake, "balances", **(selected | how)).fresh

    refresh(sandbox)
    assert fresh() == 0
    assert fresh() == count
    assert fresh(policy=Policy(resume_hours=0.001)) == count
    sandbox.clock.advance(MINUTE)
    assert fresh(policy=Policy(resume_hours=0.001)) == 0

    sandbox.clock.advance(2 * DAY)

    async def work():
        async with client_of(sandbox) as lean:
            await refresh_stale(lean, lake, policy=Policy(), sleep=Slept(sandbox))

    assert fresh(policy=Policy(resume_hours=100.0)) == count
    asyncio.run(work())
    assert fresh(policy=Policy(resume_hours=100.0)) == 0


def test_a_series_that_an_earlier_attempt_did_not_read_is_read(sandbox, tmp_path):
    """Of an account in two paged reads, the one that is missing comes with the next attempt."""
    lake = Lake(tmp_path, "sandbox")
    policy = Policy(longest_read_months=1)
    pull(sandbox, lake, "banks", "entities", "accounts")
    (account, *_) = sandbox.example("newer_generation")["account_ids"]
    months = {"2026-02", "2026-03"}
    one = {"account_ids": {account}, "policy": policy}
    pull(sandbox, lake, "transactions", months={"2026-02"}, run_id="died", **one)

    report = pull(
        sandbox, lake, "transactions", months=months, run_id="again", resumes={"died"}, **one
    )

    assert report.fresh == 1
    assert {pulled["month"] for pulled in last_sync(lake, "transactions")} == {"2026-03"}


def test_a_pending_row_that_vanished_at_the_bank_vanishes(sandbox, lake):
    """A purchase that never books is no longer shown, and what was known of it stays readable."""
    case = sandbox.example("pending_vanishes")
    key = f"transaction_id = '{case['transaction_id']}'"
    assert shown(lake, where=key).num_rows == 1
    sandbox.clock.advance(DAY)
    refresh(sandbox, case["entity_id"])

    pull(sandbox, lake, *CHAIN, account_ids=None, entity_ids={case["entity_id"]})

    assert held_rows(lake, case["account_id"]) == true_rows(sandbox, case["account_id"])
    assert shown(lake, where=key).num_rows == 0
    with showing(lake, ()) as connection:
        (kept,) = connection.sql(
            f"select count(*) from ({lake.all_rows(TRANSACTIONS)}) where {key}"
        ).fetchall()
    assert kept == (1,)


def test_a_pending_row_that_books_is_one_row(sandbox, lake):
    """Booked under its id, another id or another amount: one row, and it is the booked one."""
    cases = [
        sandbox.example(kind) for kind in ("pending_same_id", "pending_new_id", "pending_amount")
    ]
    sandbox.clock.advance(DAY)
    refresh(sandbox, cases[0]["entity_id"])

    pull(sandbox, lake, *CHAIN, entity_ids={cases[0]["entity_id"]})

    for case in cases:
        ids = ", ".join(f"'{one}'" for one in case["transaction_ids"])
        (found,) = shown(lake, where=f"transaction_id in ({ids})").to_pylist()
        assert found["transaction_id"] == case["booked_transaction_id"]
        assert found["status"] == "BOOKED"


def test_rows_posted_late_appear(sandbox, lake):
    """What the bank shows tomorrow of this month and the one before stands in its own month."""
    cases = [sandbox.example(kind) for kind in ("late_row", "late_row_last_month")]
    late = "transaction_id in ({})".format(
        ", ".join(f"'{case['transaction_id']}'" for case in cases)
    )
    assert shown(lake, where=late).num_rows == 0
    sandbox.clock.advance(DAY)
    refresh(sandbox, cases[0]["entity_id"])

    pull(sandbox, lake, *CHAIN, entity_ids={cases[0]["entity_id"]})

    found = {one["transaction_id"]: one for one in shown(lake, where=late).to_pylist()}
    for case in cases:
        booked_at = found.pop(case["transaction_id"])["booked_at"]
        assert booked_at.date().isoformat() == case["booking_date"]
    assert found == {}
    assert {case["booking_date"][:7] for case in cases} == {"2026-02", "2026-03"}


def test_every_day_the_lake_is_the_truth_of_that_day(sandbox, lake):
    """Over days with refreshes the resolved transactions equal the sandbox's, each single day."""
    for _ in range(2):
        sandbox.clock.advance(DAY)
        refresh(sandbox)
        past = held_rows(lake)

        pull(sandbox, lake, *CHAIN)

        true, rows = true_rows(sandbox), held_rows(lake)
        open_accounts = {one["record"]["account_id"] for one in sandbox.truth("accounts")}
        assert {k: v for k, v in rows.items() if k[0] in open_accounts} == true
        # What the customer no longer shares is as it was last seen.
        closed = {k: v for k, v in rows.items() if k[0] not in open_accounts}
        assert closed == {k: v for k, v in past.items() if k[0] not in open_accounts}
    assert closed


def test_new_accounts_and_new_connections_come_with_their_history(sandbox, lake):
    """A bank connected today and one connected again are read whole at the next sync."""
    again = sandbox.example("pending_same_id")["entity_id"]
    new = sandbox.connect()
    renewed = sandbox.reconsent(again)
    sandbox.clock.advance(MINUTE)

    pull(sandbox, lake, *CHAIN, entity_ids={new["entity_id"], again})

    accounts = new["account_ids"] + renewed["account_ids"]
    assert held_rows(lake, *accounts) == true_rows(sandbox, *accounts)
    assert {key[0] for key in held_rows(lake, *accounts)} == set(accounts)


def test_nothing_is_claimed_beyond_the_day_the_store_knows(sandbox, lake, tmp_path):
    """Days that passed since the bank was asked stay unknown until it is asked again."""
    case = sandbox.example("newer_generation")
    account = case["account_ids"][0]
    claimed = f"select max(claimed_to) from claims where parent_id = '{account}'"
    fresh = Lake(tmp_path / "fresh", "sandbox")
    sandbox.clock.advance(5 * DAY)

    for place in (fresh, lake):
        pull(sandbox, place, *CHAIN, entity_ids={case["entity_id"]})
    stale = [rows_of(place, claimed) for place in (fresh, lake)]
    refresh(sandbox, case["entity_id"])
    for place in (fresh, lake):
        pull(sandbox, place, "transactions", entity_ids={case["entity_id"]})

    assert stale == [[(START,)]] * 2
    assert [rows_of(place, claimed) for place in (fresh, lake)] == [[(START + 5 * DAY,)]] * 2


def test_a_month_after_the_store_is_read_without_a_claim(sandbox, lake):
    """A backfill of days that Lean's copy does not know ends in the ledger, and claims nothing."""
    account = sandbox.example("newer_generation")["account_ids"][0]
    before = shown(lake)
    sandbox.clock.advance(20 * DAY)

    report = pull(sandbox, lake, "transactions", account_ids={account}, months={"2026-04"})

    found = {one["month"]: one["outcome"] for one in last_sync(lake, "transactions")}
    # Months that are still open come along, because rows may move between them.
    assert found == {"2026-02": "COMMITTED", "2026-03": "COMMITTED", "2026-04": "UNCHANGED"}
    assert report.outcomes == {"UNCHANGED": 1, "COMMITTED": 2}
    assert rows_of(lake, "select count(*) from claims where month = '2026-04'") == [(0,)]
    assert shown(lake).equals(before)


# What a run is narrowed to.


def test_a_backfill_changes_nothing_that_was_right(tmp_path):
    """Reading chosen months again gives the same rows, in new pulls of those months alone."""
    sandbox, lake = Sandbox(customers=3, months=6, seed=7), Lake(tmp_path, "sandbox")
    asyncio.run(sync_everything(client_of(sandbox), lake, {*CHAIN, "refreshes"}, insights=False))
    before = shown(lake)
    months = {"2025-11", "2025-12"}

    report = pull(sandbox, lake, "transactions", months=months)

    assert shown(lake).equals(before)
    made = last_sync(lake, "transactions")
    assert {one["month"] for one in made} == months
    assert {one["outcome"] for one in made} == {"COMMITTED"}
    assert sum(one["rows"] for one in made) > 0
    claimed = rows_of(
        lake, "select count(*) from claims where stream = 'transactions' and month < '2026-01'"
        " and month > '2025-10' and pull_id in (select pull_id from pulls"
        f" where batch_id = '{made[0]['batch_id']}')",
    )  # fmt: skip
    assert claimed == [(len(made),)]
    assert report.requests <= 2 * report.read_targets + 1


def test_a_backfill_of_what_no_bank_has_asks_nobody(sandbox, lake):
    """Months before all that banks offer were read once, came back empty, and are not asked for."""
    before = rows_of(lake, "from claims where stream = 'transactions' order by all")
    assert any(row[2] == "2025-11" for row in before)

    report = pull(sandbox, lake, "transactions", months={"2025-11"})

    assert report.read_targets == 0
    assert rows_of(lake, "from claims where stream = 'transactions' order by all") == before


def test_a_backfill_mends_a_month_that_was_lost(sandbox, lake):
    """Without a month's files nobody reads on; reading the month again brings back the rows."""
    before = shown(lake)
    batches = {file.stem for file in (lake.folder / "transactions/month=2026-02").glob("*.parquet")}
    assert batches
    shutil.rmtree(lake.folder / "transactions" / "month=2026-02")
    with pytest.raises(DamageError, match="month=2026-02"):
        shown(lake)

    pull(sandbox, lake, "transactions", months={"2026-02"})
    repair(lake)

    assert shown(lake).equals(before)


def test_a_run_may_be_narrowed_to_entities_and_accounts(sandbox, lake):
    """Only what is selected is asked for and only its ledger rows are written."""
    refresh(sandbox)
    case = sandbox.example("newer_generation")
    first, second, *_ = case["account_ids"]

    by_entity = pull(sandbox, lake, "balances", entity_ids={case["entity_id"]})
    of_entity = {one["parent_id"] for one in last_sync(lake, "balances")}
    by_account = pull(sandbox, lake, "transactions", account_ids={first, second})
    of_accounts = {one["parent_id"] for one in last_sync(lake, "transactions")}
    nothing = pull(sandbox, lake, "balances", entity_ids={"no-such-entity"})

    assert of_entity == set(case["account_ids"])
    assert by_entity.read_targets == len(case["account_ids"])
    assert of_accounts == {first, second}
    assert by_account.read_targets == 2
    assert (nothing.read_targets, nothing.requests, dict(nothing.outcomes)) == (0, 1, {})


# More than one writer, and writers that die.


def test_two_syncs_at_once_end_in_the_same_rows(sandbox, lake):
    """Runs that overlap, even with a refresh between them, show each row of the truth once."""
    sandbox.clock.advance(DAY)
    refresh(sandbox)
    pull(sandbox, lake, "entities", "accounts")

    async def one():
        async with client_of(sandbox) as lean:
            await sync(
                TRANSACTIONS,
                lean,
                lake,
                policy=WHOLE,
                selection=Selection(insights=False),
            )

    async def both():
        await asyncio.gather(one(), one())

    asyncio.run(both())

    rows, true = held_rows(lake), true_rows(sandbox)
    assert {key: rows[key] for key in true} == true
    assert {key[0] for key in rows.keys() - true.keys()}.isdisjoint({key[0] for key in true})


class CrashError(Exception):
    """The process dies here."""


@pytest.fixture(scope="module")
def second_day(first_day, tmp_path_factory):
    """The first day's lake, and what it shows once one customer's second day has been pulled."""
    sandbox = new_sandbox()
    case = sandbox.example("pending_same_id")
    folder = tmp_path_factory.mktemp("second_day")
    shutil.copytree(first_day, folder / "lake")
    sandbox.clock.advance(DAY)
    refresh(sandbox, case["entity_id"])
    lake = Lake(folder / "lake", "sandbox")
    old = shown(lake)
    pull(sandbox, lake, "transactions", entity_ids={case["entity_id"]})
    return old, shown(lake)


CRASHES = {("month", "before"), ("ledger", "before"), ("ledger", "after")}
"""Crashes of `make test`; its long form has the others, and one at every write boundary."""


@pytest.mark.parametrize(
    ("step", "when"),
    [
        pytest.param(*one, marks=() if one in CRASHES else pytest.mark.conformance)
        for one in itertools.product(("raw", "month", "ledger"), ("before", "after"))
    ],
)
def test_a_crash_leaves_the_old_truth_or_the_new_one(
    sandbox, lake, second_day, monkeypatch, step, when
):
    """Whatever rename is the last, the lake shows one day or the next; another run heals it."""
    case = sandbox.example("pending_same_id")
    sandbox.clock.advance(DAY)
    refresh(sandbox, case["entity_id"])
    old, new = second_day
    assert not old.equals(new)
    folder = {"raw": "/raw/", "month": "/month=2026-03/", "ledger": "/pulls/"}[step]
    replace = Path.replace

    def dying(self, target):
        is_here = folder in str(target)
        if is_here and when == "before":
            raise CrashError
        done = replace(self, target)
        if is_here:
            raise CrashError
        return done

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(CrashError):
        pull(sandbox, lake, "transactions", entity_ids={case["entity_id"]})
    monkeypatch.undo()

    survived = step == "ledger" and when == "after"
    assert shown(lake).equals(new if survived else old)
    pull(sandbox, lake, "transactions", entity_ids={case["entity_id"]})
    assert shown(lake).equals(new)
    assert rows_of(lake, "select count(*) from (from transactions)") == [(new.num_rows,)]


@pytest.mark.parametrize("file", ["transactions", "pulls"])
def test_a_disk_that_is_full_leaves_the_old_truth(sandbox, lake, second_day, monkeypatch, file):
    """A file that cannot be written is as if the run had not been; another run heals it."""
    case = sandbox.example("pending_same_id")
    sandbox.clock.advance(DAY)
    refresh(sandbox, case["entity_id"])
    old, new = second_day
    written = pq.write_table

    def full(table, place, **kwargs):
        if file == place.relative_to(lake.folder).parts[0]:
            raise OSError(28, "No space left on device")
        return written(table, place, **kwargs)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        pull(sandbox, lake, "transactions", entity_ids={case["entity_id"]})
    monkeypatch.undo()

    assert not list(lake.folder.glob("**/*.tmp"))
    assert shown(lake).equals(old)
    pull(sandbox, lake, "transactions", entity_ids={case["entity_id"]})
    assert shown(lake).equals(new)


# Raw pages.


@pytest.mark.parametrize("name", STREAMS)
def test_raw_pages_suffice_to_type_everything_again(lake, name):
    """The decoder over the kept pages gives the resolved rows, without asking Lean."""
    stream = STREAMS[name]
    outer = STREAMS[stream.exploded_from or name]
    with showing(lake, (name,)) as connection:
        raw = connection.sql(
            f"select * from ({lake.raw_pages(outer)}) order by series_id, page_number"
        ).to_arrow_table()
        columns = ", ".join(f'rows."{column}"' for column in stream.schema.names)
        rows = connection.sql(
            f"select {columns}, pulls.series_id, rows.page_number, rows.record_number"
            f" from {name} as rows inner join pulls on rows.pull_id = pulls.pull_id"
            " order by pulls.series_id, rows.record_number"
        ).to_arrow_table()
    pages = [
        Page(
            one["series_id"],
            one["page_number"],
            one["first_record"],
            one["body"],
            dict(one["request"]),
            is_detail=one["is_detail"],
        )
        for one in raw.to_pylist()
    ]

    typed = (
        Decoder(stream)
        .decode(pages)
        .rows.sort_by([("series_id", "ascending"), ("record_number", "ascending")])
    )

    again, resolved = typed.to_pylist(), rows.cast(typed.schema).to_pylist()
    # Days that were asked for on either side of a claim are their neighbour's.
    claimed = {(row["series_id"], row["record_number"]) for row in resolved}
    assert [row for row in again if (row["series_id"], row["record_number"]) in claimed] == resolved
    assert {tuple(row[key] for key in stream.key) for row in again} == {
        tuple(row[key] for key in stream.key) for row in resolved
    }
    assert resolved


def test_what_is_padded_belongs_to_its_neighbour(tmp_path):
    """A month asked for with a day on either side commits its own rows alone."""
    sandbox, lake = Sandbox(customers=20, months=6, seed=7, today=TODAY), Lake(tmp_path, "sandbox")
    pull(sandbox, lake, "entities", "accounts", "transactions")
    account = sandbox.example("newer_generation")["account_ids"][0]

    report = pull(sandbox, lake, "transactions", account_ids={account}, months={"2025-12"})

    (made,) = last_sync(lake, "transactions")
    with showing(lake, ()) as connection:
        asked = connection.sql(
            f"select asked_path from ({lake.raw_pages(TRANSACTIONS)})"
            f" where series_id = '{made['series_id']}'"
        ).fetchall()
        stored = connection.sql(
            f"select booked_at from ({lake.all_rows(TRANSACTIONS)})"
            f" where pull_id = '{made['pull_id']}'"
        ).to_arrow_table()
    assert "start_date=2025-11-30" in asked[0][0]
    assert "end_date=2026-01-01" in asked[0][0]
    assert stored.num_rows == made["rows"] == report.rows["transactions"] > 0
    months = pc.unique(pc.strftime(stored["booked_at"], "%Y-%m"))
    assert months == pa.array(["2025-12"])


# Refused credentials.


def test_a_refused_application_stops_asking(sandbox, lake):
    """After five refusals in a row nothing more is asked for, and every pull says why."""
    pull(sandbox, lake, "entities", "accounts")
    sandbox.fail("transactions", "401", None)
    client = client_of(sandbox, max_concurrency=1)

    report = pull(sandbox, lake, "transactions", client=client)

    assert report.outcomes[Outcome.FAILED] == report.outcomes.total() > 20
    assert len(report.codes) == 1
    assert report.requests <= 2 * 5 + 1  # each is tried with a new token too; and Lean's clock


def test_a_backfill_of_an_open_month_does_not_show_a_row_twice(tmp_path):
    """A pending row that moved over the edge of the month shows in one month, wherever it began."""
    for today, month in (("2026-03-31", "2026-04"), ("2026-04-01", "2026-04")):
        sandbox = Sandbox(customers=12, months=2, seed=7, today=today)
        lake = Lake(tmp_path / today, "sandbox")
        pull(sandbox, lake, "banks", "entities", "accounts", "transactions")
        sandbox.clock.advance(2 * DAY)
        refresh(sandbox)

        pull(sandbox, lake, "transactions", months={month})

        keys = (
            "select account_id, transaction_id from transactions group by all having count(*) > 1"
        )
        assert rows_of(lake, keys) == []


def test_what_need_not_be_asked_counts_as_well(sandbox, lake):
    """A sync in which only the parents that failed are asked again is no failed sync."""
    names = {"banks", "entities", "accounts", "beneficiaries"}
    first = asyncio.run(sync_everything(client_of(sandbox), lake, names))["beneficiaries"]

    again = asyncio.run(sync_everything(client_of(sandbox), lake, names))["beneficiaries"]

    assert first.outcomes["FAILED"] == again.outcomes["FAILED"] > 0
    assert again.outcomes["COMMITTED"] + again.outcomes["UNCHANGED"] == 0
    assert again.fresh > 0
    assert again.failed_share <= first.failed_share < 0.2
