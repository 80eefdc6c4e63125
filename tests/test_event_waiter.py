"""Waiting for events: they wake those who wait, and never decide what is true."""

import asyncio
import datetime as dt
import time

import httpx
import pytest
from conftest import TODAY, Slept, client_of, rows_of, settings_of, sync_everything

from lean_resources import LeanClient
from lean_resources.errors import UnavailableError
from lean_resources.sandbox import Sandbox
from lean_resources.webhooks import Event, event_of
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import refresh
from pipelines.webhooks.event_waiter import EventWaiter
from pipelines.webhooks.inbox import Inbox

REFRESHED = "entity.data.refresh.updated"


@pytest.fixture
def inbox(tmp_path):
    """An empty inbox."""
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}", "sandbox")
    inbox.create()
    yield inbox
    inbox.close()


@pytest.fixture
def sandbox():
    """An offline Lean of three customers."""
    return Sandbox(customers=3, months=2, seed=7, today=TODAY)


async def until(is_so):
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def finished(refresh_id, status="FINISHED"):
    """The end of a refresh."""
    return Event(
        event_id=f"of-{refresh_id}",
        type=REFRESHED,
        entity_id="e",
        refresh_id=refresh_id,
        status=status,
    )


def test_whoever_waits_is_woken_by_the_event_and_by_no_other(inbox):
    """A refresh that is under way, or another one's end, wakes nobody."""

    async def work():
        waiter = EventWaiter(inbox)
        waits = [asyncio.create_task(waiter.refresh(one, 30)) for one in ("a", "b")]
        await asyncio.sleep(0.1)
        inbox.add([finished("b", "PENDING"), finished("a")])
        done, pending = await asyncio.wait(waits, timeout=1.5)
        for one in pending:
            one.cancel()
        return done == {waits[0]}, await waits[0]

    is_only_one, seconds = asyncio.run(work())
    assert is_only_one
    assert seconds < 3


def test_an_event_that_came_before_wakes_at_once_and_then_no_more(inbox):
    """A second wait for the same takes its time: the event was there and Lean was not ready."""
    inbox.add([Event(event_id="1", type="results.ready", results_id="r")])

    async def work():
        waiter = EventWaiter(inbox)
        return await waiter.result("r", 30), await waiter.result("r", 0.2)

    first, second = asyncio.run(work())
    assert first < 5
    assert second == 0.2


def test_without_an_inbox_and_while_it_is_gone_time_passes_as_usual():
    """Nobody waits longer, or fails, because webhooks do not work."""
    gone = Inbox("sqlite:////nowhere/at/all/inbox.db", "sandbox")

    async def work(inbox):
        waiter = EventWaiter(inbox)
        await waiter.expect("a", 1)
        waited = await waiter.refresh("a", 0.05)
        await waiter.end(["a"], is_over=True)
        return waited, await waiter.is_live()

    assert asyncio.run(work(None)) == (0.05, False)
    assert asyncio.run(work(gone)) == (0.05, False)


def test_a_refresh_step_looks_at_lean_once_when_it_is_woken(sandbox, lake, inbox):
    """While webhooks arrive a refresh costs a look; its event is done, and no batch leases it."""
    names = {"banks", "entities", "accounts", "balances"}
    asyncio.run(sync_everything(client_of(sandbox), lake, names))
    sandbox.clock.advance(dt.timedelta(days=1))
    inbox.add([Event(event_id="earlier", type="something.else")])
    [(entity,)] = rows_of(lake, "select entity_id from balances order by all limit 1")
    before = sandbox.calls["GET /data/v2/refreshes/{refresh_id}"]
    leased = []

    def announce(event):
        inbox.add([event_of(event)])
        leased.extend(inbox.lease("doorbell", 9))

    async def work():
        sandbox.store.listeners.append(announce)
        async with client_of(sandbox) as client:
            step = asyncio.create_task(
                refresh(
                    client, lake, policy=Policy(), entity_ids={entity}, waiter=EventWaiter(inbox)
                )
            )
            await until(lambda: any(one["type"] == REFRESHED for one in sandbox.events))
            await asyncio.sleep(0.1)
            sandbox.clock.advance(dt.timedelta(seconds=11))
            sandbox.store.entity(sandbox.store.find_entity(entity).key)
            return await step

    report = asyncio.run(work())

    assert report.outcomes == {"FINISHED": 1}
    assert sandbox.calls["GET /data/v2/refreshes/{refresh_id}"] - before == 1
    assert leased == []
    assert inbox.counts() == {"received": 0, "claimed": 0, "done": 3, "failed": 0}


def test_an_overdue_refresh_is_left_to_the_sensor(sandbox, lake, inbox):
    """What ends after a sync stopped waiting is read when its event comes."""
    names = {"banks", "entities", "accounts", "balances"}
    asyncio.run(sync_everything(client_of(sandbox), lake, names))
    sandbox.clock.advance(dt.timedelta(days=1))
    [(entity,)] = rows_of(lake, "select entity_id from balances order by all limit 1")
    sandbox.fail("POST /data/v2/refreshes", "refresh-stuck")
    slept = Slept(sandbox)

    async def work():
        async with client_of(sandbox, slept) as client:
            return await refresh(
                client, lake, policy=Policy(), entity_ids={entity}, waiter=EventWaiter(inbox, slept)
            )

    report = asyncio.run(work())
    [(refresh_id,)] = rows_of(lake, "select refresh_id from refresh_attempts")
    inbox.add([finished(refresh_id)])

    assert report.outcomes == {"OVERDUE": 1}
    assert [event.refresh_id for event in inbox.lease("doorbell", 9)] == [refresh_id]


def test_a_pull_that_waits_for_a_result_is_woken_when_it_is_ready(sandbox, inbox):
    """Thirty seconds between two looks shrink to the moment of the event."""
    entity_id = next(sandbox.truth("accounts"))["parent"]["entity_id"]
    sandbox.fail("accounts", "PENDING:0")

    async def work():
        waiter = EventWaiter(inbox)
        client = LeanClient(
            settings_of(sandbox),
            transport=httpx.ASGITransport(sandbox.app),
            announced=waiter.result,
        )
        async with client:
            reading = asyncio.create_task(client.read("accounts", {"entity_id": entity_id}))
            await until(lambda: sandbox.data.awaited)
            [results_id] = sandbox.data.awaited
            inbox.add([Event(event_id="1", type="results.ready", results_id=results_id)])
            return await asyncio.wait_for(reading, 10)

    started = time.monotonic()
    read = asyncio.run(work())

    assert read.answers[0].envelope.status == "OK"
    assert time.monotonic() - started < 10


def test_a_result_that_is_announced_and_never_there_ends_at_its_deadline(sandbox, inbox):
    """An event alone is no answer: the read is given up when its time is over."""
    entity_id = next(sandbox.truth("accounts"))["parent"]["entity_id"]
    sandbox.fail("accounts", "PENDING:9999")
    slept = Slept()

    async def announced(results_id, seconds):
        inbox.add([Event(event_id="1", type="results.ready", results_id=results_id)])
        return await waiter.result(results_id, seconds)

    waiter = EventWaiter(inbox, slept)

    async def work():
        async with LeanClient(
            settings_of(sandbox),
            transport=httpx.ASGITransport(sandbox.app),
            sleep=slept,
            announced=announced,
        ) as client:
            await client.read("accounts", {"entity_id": entity_id})

    with pytest.raises(UnavailableError, match="no result after"):
        asyncio.run(work())
