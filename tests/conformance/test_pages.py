"""Pages that move, totals that do not match, consents that end on the way: old truth or new."""

import asyncio
import datetime as dt
import json
import shutil

import pytest
from conftest import showing
from laws import broken_keys, uncounted
from oracle import comparable, row
from worlds import CHAIN, Wire, new_sandbox, next_day, pull, pull_with, wired

from lean_resources.answers import Envelope
from lean_resources.decoding import Page
from lean_resources.errors import ConsentError, UnavailableError
from lean_resources.paging import Answer, PagedReader, Response
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.sync import writer

TRANSACTIONS = STREAMS["transactions"]
PAGE_SIZE = 7
HEALED = [
    "repeat",
    "skip",
    "total-drift",
    "refresh-drift",
    "429",
    "429:5",
    "429-bare",
    "500",
    "502",
    "503",
    "504",
    "html",
    "PENDING",
    "PENDING-202",
]
"""What a second read or another try mends within the same sync."""
LEFT = [
    "401",
    "CONSENT_EXPIRED",
    "CONSENT_EXPIRED:2",
    "RECONNECT_REQUIRED",
    "FAILED:BANK_ISSUE",
    "FAILED:CONSENT_EXPIRED",
    "FAILED:LEAN_ERROR",
    "FAILED:USER_PERMISSIONS_NOT_GRANTED",
    *(fault for fault in HEALED if not fault.startswith("PENDING")),
]
"""What is left to the next sync while it goes on; HTTP says 200 to many of them."""


OFTEN = {"repeat", "total-drift", "429:5", "html", "PENDING"}
"""What `make test` lets happen once; the rest is left to `make conformance`."""
LASTING = {"401", "CONSENT_EXPIRED:2", "FAILED:BANK_ISSUE", "skip", "refresh-drift", "503"}
"""What `make test` lets go on."""


def cases(faults, quick):
    """Parameters: some faults in `make test`, all in `make conformance`."""
    assert quick <= set(faults)
    return [
        pytest.param(fault, marks=() if fault in quick else pytest.mark.conformance)
        for fault in faults
    ]


@pytest.fixture(scope="module")
def first_day(tmp_path_factory):
    """The folder of a lake that holds the first day."""
    folder = tmp_path_factory.mktemp("pages") / "lake"
    pull(new_sandbox(), Lake(folder, "sandbox"))
    return folder


@pytest.fixture
def lake(first_day, tmp_path):
    """A lake that holds the first day."""
    shutil.copytree(first_day, tmp_path / "lake")
    return Lake(tmp_path / "lake", "sandbox")


def shown(lake, account):
    """The account's resolved transactions by id."""
    names = ", ".join(f'"{name}"' for name in TRANSACTIONS.schema.names)
    with showing(lake, ("transactions",)) as connection:
        rows = connection.sql(
            f"select {names} from transactions where account_id = '{account}'"
        ).to_arrow_table()
    return {one["transaction_id"]: comparable(TRANSACTIONS, one) for one in rows.to_pylist()}


def truth(sandbox, account):
    """The account's transactions at Lean by id."""
    return {
        one["record"]["transaction_id"]: row(TRANSACTIONS, one["record"], one["parent"])
        for one in sandbox.truth("transactions")
        if one["parent"]["account_id"] == account
    }


def story(lake, fault, *, lasts):
    """The second day is read while something goes wrong; what shows that is neither day's whole.

    Args:
        lake: A lake of the first day.
        fault: What goes wrong.
        lasts: Whether it goes on for as long as this sync.
    """
    sandbox = new_sandbox()
    case = sandbox.example("pending_same_id")
    account = case["account_id"]
    next_day(sandbox, case["entity_id"])
    old, new = shown(lake, account), truth(sandbox, account)
    assert old != new
    sandbox.fail("/transactions", fault, None if lasts else 1, account_id=account)

    def read():
        client = wired(sandbox, Wire(sandbox), page_size=PAGE_SIZE, pending_poll_seconds=5)
        return pull(sandbox, lake, ("transactions",), client=client, account_ids={account})

    report = read()
    during, broken = shown(lake, account), broken_keys(lake, CHAIN) + uncounted(lake, CHAIN)
    sandbox.heal()
    read()
    after = shown(lake, account)
    wanted = old if lasts else new
    return [
        *broken,
        *(("during", key) for key in during.keys() | wanted if during.get(key) != wanted.get(key)),
        *(("after", key) for key in after.keys() | new if after.get(key) != new.get(key)),
        *(("silent", fault) for _ in range(lasts and not report.codes)),
    ]


@pytest.mark.parametrize("fault", cases(HEALED, OFTEN))
def test_what_goes_wrong_once_is_mended_in_the_same_sync(lake, fault):
    """The read is repeated until it is whole, and the lake shows the new day."""
    assert story(lake, fault, lasts=False) == []


@pytest.mark.parametrize("fault", cases(LEFT, LASTING))
def test_what_keeps_going_wrong_leaves_the_old_truth(lake, fault):
    """Nothing half is committed, the ledger tells why, and the next sync brings the new day."""
    assert story(lake, fault, lasts=True) == []


def totals_ignored(monkeypatch):
    """Whatever came is taken for all there is."""
    monkeypatch.setattr("lean_resources.paging.why_incomplete", lambda _stream, _envelopes: None)


def repeats_ignored(monkeypatch):
    """Nobody looks whether a record came twice."""
    monkeypatch.setattr(writer, "_doubled", lambda _stream, _decoded: {})


def an_error_is_an_empty_page(monkeypatch):
    """A body that says FAILED under HTTP 200 is taken for a page without records."""
    page = PagedReader._page

    async def emptied(reader, paged, number, first_record):
        stream = paged.stream
        try:
            return await page(reader, paged, number, first_record)
        except UnavailableError as error:
            body = json.dumps({"data": {stream.name: []}}).encode()
            return Answer(
                page=Page(paged.series_id, number, first_record, body, paged.request),
                envelope=Envelope("OK", None, None, None, 0, None, None, is_older=False),
                response=Response(
                    200,
                    body,
                    stream.path,
                    error.correlation_id,
                    error.trace_id,
                    dt.datetime.now(dt.UTC),
                ),
            )

    monkeypatch.setattr(PagedReader, "_page", emptied)


def half_a_read_is_kept(monkeypatch):
    """Pages that came before the consent ended are committed."""
    pages = PagedReader._pages

    async def cut_short(reader, *args):
        try:
            async for answer in pages(reader, *args):
                yield answer
        except ConsentError:
            return

    monkeypatch.setattr(PagedReader, "_pages", cut_short)
    totals_ignored(monkeypatch)


def a_retry_forgets_a_page(monkeypatch):
    """Whoever reads again begins at the second page."""
    pages = PagedReader._pages
    begun = set()

    async def forgetting(reader, stream, request, *args):
        answers = [answer async for answer in pages(reader, stream, request, *args)]
        again = str(request) in begun
        begun.add(str(request))
        if again:
            answers = answers[1:] or answers
            total = sum(answer.envelope.records for answer in answers)
            for answer in answers:
                object.__setattr__(answer.envelope, "total_elements", total)
        for answer in answers:
            yield answer

    monkeypatch.setattr(PagedReader, "_pages", forgetting)


MUTANTS = [
    (totals_ignored, "skip", True),
    (repeats_ignored, "repeat", True),
    (an_error_is_an_empty_page, "FAILED:BANK_ISSUE", True),
    (half_a_read_is_kept, "CONSENT_EXPIRED:2", True),
    (a_retry_forgets_a_page, "total-drift", False),
]


@pytest.mark.conformance
@pytest.mark.parametrize(
    ("mutant", "fault", "lasts"), [pytest.param(*one, id=one[0].__name__) for one in MUTANTS]
)
def test_a_careless_reader_breaks_a_law(lake, monkeypatch, mutant, fault, lasts):
    """Each way of believing half an answer is seen."""
    mutant(monkeypatch)

    assert story(lake, fault, lasts=lasts)


def test_a_body_that_ends_early_is_read_again(lake):
    """A connection that breaks within a body leaves nothing half."""
    sandbox = new_sandbox()
    case = sandbox.example("pending_same_id")
    next_day(sandbox, case["entity_id"])
    cut = []

    def once(request, body):
        if "/transactions" in request.url.path and not cut:
            cut.append(request)
            return body[: len(body) // 2]
        return body

    async def work():
        async with wired(sandbox, Wire(sandbox, once), page_size=PAGE_SIZE) as lean:
            await pull_with(lean, lake, ("transactions",), account_ids={case["account_id"]})

    asyncio.run(work())

    assert cut
    assert shown(lake, case["account_id"]) == truth(sandbox, case["account_id"])
