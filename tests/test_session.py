"""One client for a run: a token, a look at the clock, and a breaker that outlives a stream."""

import asyncio
import os
import signal
import threading
from typing import ClassVar

import dagster as dg
import httpx
import pytest
from conftest import client_of, settings_of, sync_everything

from lean_resources import LeanClient
from lean_resources.errors import ConfigError, RequestError
from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox
from lean_resources.session import Session
from lean_resources.streams import STREAMS
from pipelines.dagster_defs.resources import bound
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

TOKEN = "POST /oauth2/token"
BANKS = "GET /banks/v1"
RETAIL = {"account_type": "PERSONAL"}


class Watched(LeanClient):
    """A client that notes when it is opened and closed."""

    log: ClassVar = []

    async def __aenter__(self):
        self.log.append("open")
        return await super().__aenter__()

    async def __aexit__(self, *ended):
        self.log.append("close")
        await super().__aexit__(*ended)


class Offline(LeanResource):
    """A resource whose client reaches an offline Lean without a network."""

    def client(self, announced=None):
        return Watched(
            settings_of(WORLD[0]), transport=httpx.ASGITransport(WORLD[0].app), announced=announced
        )


WORLD = []


@pytest.fixture
def world():
    """A tiny offline Lean, and a clean log."""
    WORLD[:] = [Sandbox(customers=3, months=2, seed=7, today="2026-03-15")]
    Watched.log.clear()
    yield WORLD[0]
    assert not [thread for thread in threading.enumerate() if thread.name == "lean"]


def _banks(client):
    return client.read("banks", RETAIL)


@dg.asset
def first(lean: dg.ResourceParam[Offline]):
    """Read banks."""
    lean.run(_banks)


@dg.asset(deps=[first])
def second(lean: dg.ResourceParam[Offline]):
    """Read banks again, after a look at the clock."""
    lean.run(lambda client: client.server_time())
    lean.run(_banks)


@dg.asset(deps=[second])
def idle(lean: dg.ResourceParam[Offline]):
    """Ask Lean for nothing."""


@dg.asset
def endless(lean: dg.ResourceParam[Offline]):
    """Wait for ever, and be interrupted."""

    async def wait(client):
        await client.read("banks", RETAIL)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(600)
        finally:
            Watched.log.append("tidied up")

    lean.run(wait)


def _run(*assets):
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            assets,
            instance=instance,
            resources=bound(lean=Offline(settings_of(WORLD[0]))),
            raise_on_error=False,
        )


def test_steps_of_a_run_share_a_client_and_runs_do_not(world):
    """One token and one pool per run; the next run in this process begins anew."""
    for runs in (1, 2):
        assert _run(first, second, idle).success
        assert Watched.log == ["open", "close"] * runs
        assert world.calls[TOKEN] == runs
        assert world.calls[BANKS] == 2 * runs


def test_a_run_that_does_not_ask_lean_opens_nothing(world):
    """Neither a client nor a thread: a process that only starts those of the steps pays nothing."""
    assert _run(idle).success
    assert Watched.log == []


def test_a_cancelled_run_ends_its_work_and_closes_the_client(world):
    """What was under way can tidy up, and no thread is left."""
    assert not _run(endless).success
    assert Watched.log == ["open", "tidied up", "close"]


def test_the_look_at_the_clock_is_what_the_first_reader_of_banks_gets(world):
    """Lean is asked once for both, and again by whoever asks later."""

    async def main():
        async with client_of(world) as client:
            await client.server_time()
            assert world.calls[BANKS] == 1
            read = await client.read("banks", RETAIL)
            assert world.calls[BANKS] == 1
            again = await client.read("banks", RETAIL)
            assert world.calls[BANKS] == 2
            await client.read("banks", {"account_type": "BUSINESS"})
            await client.server_time()
            assert world.calls[BANKS] == 3
        assert [page.body for page in read.pages] == [page.body for page in again.pages]

    asyncio.run(main())


def test_a_lean_without_a_clock_is_looked_at_once(world):
    """Where no answer has a date, this machine's clock counts, without asking time and again."""

    class Dateless(httpx.ASGITransport):
        async def handle_async_request(self, request):
            response = await super().handle_async_request(request)
            response.headers.pop("date", None)
            return response

    async def main():
        client = LeanClient(settings_of(world), transport=Dateless(world.app))
        async with client:
            for _ in range(3):
                await client.server_time()

    asyncio.run(main())
    assert world.calls[BANKS] == 1


def test_an_error_of_the_work_is_raised_and_the_session_goes_on(world):
    """A client that cannot be made is tried again, and a failed read closes nothing."""
    made = iter([ConfigError("half set")])

    def client():
        for error in made:
            raise error
        return client_of(world)

    with Session(client) as session:
        with pytest.raises(ConfigError, match="half set"):
            session.run(_banks)
        with pytest.raises(RequestError):
            session.run(lambda client: client.refresh("no id"))
        assert session.run(_banks).stream.name == "banks"
    assert world.calls[TOKEN] == 1
    session.close()


def test_a_bank_that_failed_in_one_stream_is_asked_again_in_the_next(sandbox, lake):
    """One stream that fails at a bank does not keep the others of that bank from being read."""
    policy = Policy(bank_failures=1)
    accounts = "GET /data/v2/accounts"

    async def main():
        await sync_everything(client_of(sandbox), lake, {"banks", "customers", "entities"})
        sandbox.fail("accounts", "failed:BANK_ISSUE", times=10_000)
        async with client_of(sandbox) as client:
            return [
                await sync(STREAMS[name], client, lake, policy=policy, selection=Selection())
                for name in ("accounts", "identity")
            ]

    before = sandbox.calls[accounts]
    first, next_ = asyncio.run(main())
    assert sandbox.calls[accounts] > before
    assert first.codes["BANK_ISSUE"] > 0
    assert first.codes["CIRCUIT_OPEN"] > 0
    assert next_.outcomes["COMMITTED"] > 0
    assert next_.codes["CIRCUIT_OPEN"] == 0
