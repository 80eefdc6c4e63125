"""Lean is left alone when it asks, banks are not asked too often, and clocks may be wrong."""

import asyncio
import datetime as dt
import json

import pytest
from conftest import Slept, settings_of
from laws import impatient, overspent, wrong_rows
from worlds import CHAIN, DAY, Wire, new_sandbox, next_day, pull, wired

from lean_resources import LeanClient
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import refresh
from pipelines.sync.refresh_budget import Budget

STEP = dt.timedelta(hours=3)
POLICY = Policy(fresh_hours={"balances": 0.01}, refreshes_per_day=3)

LONG = pytest.mark.conformance


class CrashError(Exception):
    """The process dies here."""


def patience(lake, fault):
    """A sync with one request at a time while Lean asks for patience; what broke a law."""
    sandbox = new_sandbox(months=1)
    wire = Wire(sandbox)
    for _ in range(3):
        sandbox.fail("/accounts", fault, 2)
        pull(sandbox, lake, client=wired(sandbox, wire, max_concurrency=1))
    assert any(status == 429 for _, status, *_ in wire.seen)
    return impatient(wire.seen) + wrong_rows(lake, sandbox, CHAIN)


@pytest.mark.parametrize(
    "fault", ["429:1", pytest.param("429:40", marks=LONG), pytest.param("429-bare", marks=LONG)]
)
def test_a_limit_delays_and_loses_nothing(lake, fault):
    """Nobody asks before the wait is over, and every row comes all the same."""
    assert patience(lake, fault) == []


@pytest.mark.conformance
def test_who_does_not_read_retry_after_breaks_a_law(lake, monkeypatch):
    """A client that waits as it likes is seen."""
    monkeypatch.setattr("lean_resources.client.retry_after", lambda _headers: None)

    assert patience(lake, "429:40")


def spending(lake, *, crash_every=0):
    """Two days of refresh steps; entities refreshed too often by Lean's own log.

    Args:
        lake: An empty lake.
        crash_every: Every so many steps the process dies right after Lean was asked.
    """
    sandbox = new_sandbox(months=1)
    entity = sandbox.example("newer_generation")["entity_id"]
    pull(sandbox, lake, ("entities", "accounts", "balances"))
    wire = Wire(sandbox)
    slept = Slept(sandbox)

    async def step(number):
        async with LeanClient(settings_of(sandbox), transport=wire, sleep=slept) as lean:
            if crash_every and number % crash_every == 0:
                asked = lean.refresh

                async def dying(entity_id):
                    await asked(entity_id)
                    raise CrashError

                lean.refresh = dying
            await refresh(lean, lake, policy=POLICY, entity_ids={entity}, sleep=slept)

    for number in range(17):
        sandbox.clock.advance(STEP)
        try:
            asyncio.run(step(number))
        except CrashError:
            continue
    instants = [
        (json.loads(request.content)["entity_id"], at)
        for request, status, *_, at in wire.seen
        if request.method == "POST" and status < 300
    ]
    assert len(instants) >= POLICY.refreshes_per_day * 2
    return overspent(instants, POLICY.refreshes_per_day)


@pytest.mark.parametrize("crash_every", [pytest.param(0, marks=LONG), 2], ids=["calm", "crashing"])
def test_no_entity_is_refreshed_more_often_than_its_budget(lake, crash_every):
    """Over two days no 24 hours hold more refreshes than allowed, whoever dies in between."""
    assert spending(lake, crash_every=crash_every) == []


@pytest.mark.conformance
def test_a_budget_that_forgets_breaks_a_law(lake, monkeypatch):
    """Spends that nobody reads again are seen."""
    monkeypatch.setattr(Budget, "_used_until", lambda _budget, _files, _now: {})

    assert spending(lake)


@pytest.mark.conformance
def test_a_spend_that_is_recorded_after_the_call_breaks_a_law(lake, monkeypatch):
    """A crash between the call and its record overspends, and that is seen."""
    reserve, keep = Budget.reserve, []

    def later(budget, entity_ids, now, run_id=None):
        for wanted, then in keep:
            reserve(budget, wanted, then, run_id)
        keep.clear()
        return budget.allowed(entity_ids, now)

    def kept(_lake, rows):
        keep.extend(({row["entity_id"]}, row["asked_at"]) for row in rows)

    monkeypatch.setattr(Budget, "reserve", later)
    monkeypatch.setattr("pipelines.sync.refresh._keep", kept)

    assert spending(lake) == []
    assert spending(type(lake)(lake.folder / "crashing", "sandbox"), crash_every=2)


def skewed(lake, *offsets):
    """A day per offset, each pulled by a machine whose clock is off by so much."""
    sandbox = new_sandbox(months=1)
    for offset in offsets:
        client = LeanClient(
            settings_of(sandbox),
            transport=Wire(sandbox),
            sleep=Slept(sandbox),
            now=lambda offset=offset: sandbox.clock.now() + offset,
        )
        pull(sandbox, lake, client=client)
        if found := wrong_rows(lake, sandbox, CHAIN):
            return found
        next_day(sandbox)
    return []


@pytest.mark.parametrize("days", [pytest.param(-400, marks=LONG), pytest.param(-2, marks=LONG), 2])
def test_a_machines_clock_may_be_wrong(lake, days):
    """Lean's clock bounds what is asked for, so a wrong one here loses nothing."""
    assert skewed(lake, days * DAY, days * DAY) == []


@pytest.mark.conformance
def test_who_trusts_the_machines_clock_breaks_a_law(lake, monkeypatch):
    """A sync that stops at a day that is over here, and not at Lean, is seen."""

    async def own(client):
        return client._now()

    monkeypatch.setattr(LeanClient, "server_time", own)

    assert skewed(lake, -2 * DAY)
