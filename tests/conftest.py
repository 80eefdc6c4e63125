"""What many tests share: an offline Lean, a client of it, and a lake."""

import asyncio
import datetime as dt
import os
import re
import secrets
import tempfile
from functools import cache
from pathlib import Path
from shutil import disk_usage

import httpx
import psycopg
import pytest
import shared
from cluster import running
from xdist.scheduler import LoadScopeScheduling

from lean_resources import LeanClient, LeanSettings
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import VIEW_DOCS
from pipelines.lake.views import LAKE_VIEWS
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

TODAY = "2026-03-15"
DIRECTORY = ("banks", "entities", "consents", "accounts")
"""The streams that say what else may be read."""
RELATIONS = {*STREAMS, *(f"{name}_history" for name in STREAMS), *VIEW_DOCS, *LAKE_VIEWS}
"""What a query of a lake may name, beside the ledger."""
MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
ROOT = Path(__file__).resolve().parent.parent


def pytest_configure():
    """Put temporary files into memory where there is room, so that no test waits for a disk."""
    is_there = "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK)
    if is_there and disk_usage(MEMORY).free > ROOM_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def pytest_xdist_make_scheduler(config, log):
    """Let tests that share what is dear to make run in one process, so that it is made once."""
    return _Sharing(config, log)


class _Sharing(LoadScopeScheduling):
    """Tests of one world of `tests/marts` together, and those of a module with its own fixtures."""

    def _split_scope(self, nodeid):
        file, _, name = nodeid.partition("::")
        if "/marts/" in file:
            seed = re.search(r"seed[0-9]+", name)
            return seed[0] if seed else "seed7"
        return file if _shares(file) else nodeid


@cache
def _shares(file):
    return 'scope="module"' in (ROOT / file).read_text(encoding="utf-8")


@pytest.fixture
def sandbox():
    """A small offline Lean, the same at every run."""
    return Sandbox(customers=20, months=12, seed=7, today=TODAY)


@pytest.fixture
def lake(tmp_path):
    """An empty lake."""
    return Lake(tmp_path / "lake", "sandbox")


MORE = [pytest.param(seed, marks=pytest.mark.conformance) for seed in (11, 23)]


@pytest.fixture(params=(7, *MORE), ids="seed{}".format)
def world(request):
    """A lake with a known truth and the tables built from it, per seed; see marts/known.py."""
    from known import known

    return known(request.param)


def settings_of(sandbox, url="http://127.0.0.1", **changes):
    """Settings of the application that the offline Lean knows."""
    given = {
        "api_url": url,
        "token_url": f"{url}/oauth2/token",
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
        "requests_per_second": 10_000,
    }
    return LeanSettings(**(given | changes))


class Slept:
    """A sleep that takes no time and remembers how long it was asked to take.

    Args:
        sandbox: Its clock moves by what is slept, when given.
    """

    def __init__(self, sandbox=None):
        self.seconds = []
        self._sandbox = sandbox

    async def __call__(self, seconds):
        self.seconds.append(seconds)
        if self._sandbox is not None:
            self._sandbox.clock.advance(dt.timedelta(seconds=seconds))
        await asyncio.sleep(0)


def client_of(sandbox, slept=None, **changes):
    """A client that reaches the offline Lean without a network."""
    return LeanClient(
        settings_of(sandbox, **changes),
        transport=httpx.ASGITransport(sandbox.app),
        sleep=slept or Slept(),
    )


async def sync_everything(client, lake, names=None, **selected):
    """Sync every stream in the order of the catalogue; reports by stream."""
    reports = {}
    async with client:
        for stream in STREAMS.values():
            if stream.exploded_from is not None or (names and stream.name not in names):
                continue
            reports[stream.name] = await sync(
                stream, client, lake, policy=Policy(), selection=Selection(**selected)
            )
    return reports


def showing(lake, names):
    """A connection in which the lake shows some streams only; to show all takes twice as long."""
    return lake.connect((*DIRECTORY, *names))


def rows_of(lake, query):
    """The answer of the lake as it stands."""
    words = set(re.findall(r"\w+", query))
    with lake.connect(words & RELATIONS) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="session", autouse=True)
def _shared_folder(tmp_path_factory, worker_id):
    """Where workers find what another has made: the folder above each one's own."""
    own = tmp_path_factory.getbasetemp()
    shared.FOLDER = (own if worker_id == "master" else own.parent) / "shared"


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL of the tests' own."""
    with running() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def inbox_url(request, tmp_path):
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'inbox.db'}"
    url = request.getfixturevalue("postgres")
    name = f"inbox_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return url.replace("/postgres", f"/{name}")
