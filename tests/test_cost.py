"""What pulls and builds cost in counts, which are the same on every machine however fast it is.

A change that makes a page dearer by more than a tenth fails here. One that makes it cheaper lowers
the recorded figure, so that what was won is kept.
"""

import asyncio
import json
import sys
from contextlib import contextmanager

import httpx
import pytest
from conftest import client_of, settings_of, sync_everything
from test_deltas import FEW, KEY, World

from lean_resources import LeanClient
from lean_resources.decoding import Decoder, Page
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.deltas import build_changed
from pipelines.models.manifest import current_manifest

TRANSACTIONS = STREAMS["transactions"]
TOLERANCE = 0.1
RECORDED = {
    "calls to type a page": 96,
    "calls to type a page of the older generation": 170,
    "calls to read a page": 544,
    "requests of a sync": 117,
    "files of a sync": 14,
    "bytes of rows per row": 171,
    "bytes of answers per row": 99,
    "bytes of the ledger per pull": 121,
    "calls to build one account": 24_810,
    "files of a build of one account": 16,
    "bytes of a build of one account": 42_470,
}
PAGES = 12
TOKEN = {"access_token": "made-up", "token_type": "Bearer", "expires_in": 3599}


def hold(name, found):
    """Compare a figure with the recorded one."""
    assert 0 < found <= RECORDED[name] * (1 + TOLERANCE), name


@contextmanager
def counted():
    """Count the calls of functions, of Python and of C, that this thread makes in a block."""
    calls = [0]

    def note(_frame, event, _argument):
        calls[0] += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.fixture(scope="module")
def world():
    """A world of its own, so that what other tests need changes nothing here."""
    return Sandbox(customers=16, months=12, seed=1, today="2026-03-15")


def pages_of(world, case):
    """Copies of a full page of one account."""
    example = world.example(case)
    request = {
        "entity_id": example["entity_id"],
        "account_id": example["account_ids"][0],
        "start_date": "2025-06-01",
        "end_date": "2026-03-15",
    }

    async def read():
        async with client_of(world) as client:
            return await client.read("transactions", request)

    first = asyncio.run(read()).pages[0]
    assert first.body.count(b'"transaction_id"') > 50
    return [Page(f"s-{n}", 0, 0, first.body, first.request) for n in range(PAGES)]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("newer_generation", "calls to type a page"),
        ("older_generation", "calls to type a page of the older generation"),
    ],
)
def test_typing_a_page_takes_as_many_calls_as_recorded(world, case, name):
    """The decoder touches no record in Python beyond what its validator cannot judge."""
    pages = pages_of(world, case)
    decoder = Decoder(TRANSACTIONS)
    once, often = [], []
    for some, calls_of in ((pages[:1], once), (pages, often)):
        decoder.decode(some)
        with counted() as calls:
            decoder.decode(some)
        calls_of.append(calls[0])

    hold(name, (often[0] - once[0]) / (PAGES - 1))


class Canned(httpx.AsyncBaseTransport):
    """Answers every page of one paged read with the same records, under the page's number."""

    async def handle_async_request(self, request):
        if request.method == "POST":
            return httpx.Response(200, content=json.dumps(TOKEN).encode())
        page = {"total_elements": PAGES, "total_pages": PAGES}
        body = {
            "status": "OK",
            "data": {"page": page, "transactions": [{"transaction_id": "made-up"}]},
        }
        return httpx.Response(
            200,
            content=json.dumps(body).encode(),
            headers={"date": "Sun, 15 Mar 2026 09:00:00 GMT", "lean-trace-id": "0" * 32},
        )


def test_reading_a_page_takes_as_many_calls_as_recorded(world):
    """Between a page asked for and its answer lies little of this project's and of httpx's."""
    one = "00000000-0000-4000-8000-000000000000"
    request = {"entity_id": one, "account_id": one, "start_date": "x", "end_date": "y"}

    async def read():
        settings = settings_of(world, verbose="never")
        async with LeanClient(settings, transport=Canned()) as client:
            await client.read("transactions", request)
            with counted() as calls:
                found = await client.read("transactions", request)
            return calls[0], found.requests

    calls, requests = asyncio.run(read())

    assert requests == PAGES
    hold("calls to read a page", calls / PAGES)


def test_a_sync_takes_as_many_requests_files_and_bytes_as_recorded(world, lake):
    """Requests, files and bytes of a sync of transactions are what they were."""
    names = {"banks", "entities", "accounts", "transactions"}
    report = asyncio.run(sync_everything(client_of(world), lake, names))["transactions"]

    def size(*folders):
        files = [file for folder in folders for file in folder.rglob("*.parquet")]
        return len(files), sum(file.stat().st_size for file in files)

    files, typed = size(lake.folder / TRANSACTIONS.name)
    raw_files, raw = size(lake.folder / "raw" / TRANSACTIONS.name)
    _, ledger = size(lake.folder / "pulls")
    rows = report.rows["transactions"]
    hold("requests of a sync", report.requests)
    hold("files of a sync", files + raw_files)
    hold("bytes of rows per row", typed / rows)
    hold("bytes of answers per row", raw / rows)
    hold("bytes of the ledger per pull", ledger / report.outcomes.total())


def test_a_build_of_one_account_takes_as_many_calls_files_and_bytes_as_recorded(tmp_path):
    """After a webhook, the work is that of one account."""
    world = World(Lake(tmp_path / "lake", "sandbox"))
    world.read_all()
    build(world.lake, FEW, hash_key=KEY)
    world.change("rows", 0, 5)

    with counted() as calls:
        build_changed(world.lake, FEW, hash_key=KEY)

    [delta] = current_manifest(world.lake).deltas
    files = [delta.ids, *delta.parts.values()]
    hold("calls to build one account", calls[0])
    hold("files of a build of one account", len(files))
    hold("bytes of a build of one account", sum(part.bytes for part in files))
