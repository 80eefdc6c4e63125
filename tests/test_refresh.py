"""The refresh step: stale entities are asked for, within the budget, and waited for."""

import asyncio
import datetime as dt
from collections import Counter

import pytest
import shared
from conftest import TODAY, Slept, client_of, rows_of, sync_everything

from lean_resources.errors import AuthError
from lean_resources.sandbox import Sandbox
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import refresh
from pipelines.sync.refresh_budget import Budget

DAY = dt.timedelta(days=1)


def step(sandbox, lake, **given):
    """One refresh step; the offline clock moves by what is waited."""
    slept = Slept(sandbox)

    async def work():
        async with client_of(sandbox, slept) as client:
            return await refresh(client, lake, **{"policy": Policy(), "sleep": slept} | given)

    return asyncio.run(work())


NAMES = {"banks", "entities", "accounts", "balances"}
WORLD = {"customers": 20, "months": 12, "seed": 7, "today": TODAY}


def pull(sandbox, lake):
    """A sync of what tells how old the data is."""
    asyncio.run(sync_everything(client_of(sandbox), lake, NAMES))


@pytest.fixture
def sandbox():
    """A small offline Lean."""
    return Sandbox(**WORLD)


@pytest.fixture
def stale(sandbox, lake):
    """A lake that was filled a day ago."""
    shared.filled(lake, NAMES, sandbox=WORLD)
    sandbox.clock.advance(DAY)
    return lake


def posted(sandbox):
    """How many refreshes Lean was asked for."""
    return sandbox.calls["POST /data/v2/refreshes"]


def test_nothing_is_spent_on_what_was_never_read_or_is_fresh(sandbox, lake):
    """Lean itself fills the store on connecting, and fresh data needs no bank."""
    before = posted(sandbox)
    assert step(sandbox, lake).stale == 0
    pull(sandbox, lake)
    assert step(sandbox, lake).stale == 0
    assert posted(sandbox) == before


def test_stale_entities_are_refreshed_and_the_next_pull_brings_new_data(sandbox, stale):
    """Each refresh is spent, waited for and recorded; then the store is newer than before."""
    old = dict(rows_of(stale, "select entity_id, max(refreshed_at) from pulls group by all"))
    before = posted(sandbox)

    report = step(sandbox, stale)
    pull(sandbox, stale)

    assert report.stale == report.outcomes["FINISHED"] == posted(sandbox) - before > 10
    new = dict(rows_of(stale, "select entity_id, max(refreshed_at) from pulls group by all"))
    asked = rows_of(stale, "select entity_id from refresh_attempts where data_status is not null")
    assert len(asked) == report.stale
    assert all(new[entity] > old[entity] for (entity,) in asked)
    assert rows_of(stale, "select count(*) from refresh_spends") == [(report.stale,)]
    assert step(sandbox, stale).stale == 0


def test_a_selected_entity_is_refreshed_alone(sandbox, stale):
    """Others keep their budget."""
    [(entity,)] = rows_of(stale, "select entity_id from balances order by all limit 1")

    report = step(sandbox, stale, entity_ids={entity})

    assert report.stale == 1
    assert rows_of(stale, "select entity_id from refresh_spends") == [(entity,)]


def test_an_entity_over_budget_is_left_alone(sandbox, stale):
    """No call is made, and the entity's next instant is told."""
    before = posted(sandbox)
    everybody = {entity for (entity,) in rows_of(stale, "select entity_id from entities")}
    now = dt.datetime.fromisoformat(sandbox.clock.now().isoformat())
    Budget(stale, 1).reserve(everybody, now)

    report = step(sandbox, stale, policy=Policy(refreshes_per_day=1))

    assert report.over_budget == report.stale > 10
    assert not report.outcomes
    assert posted(sandbox) == before


def test_steps_side_by_side_never_exceed_the_budget(sandbox, stale):
    """Two steps at once ask for each entity within its budget, and both end."""

    async def both():
        slept = Slept(sandbox)
        async with client_of(sandbox, slept) as one, client_of(sandbox, slept) as other:
            policy = Policy(refreshes_per_day=1)
            return await asyncio.gather(
                *(refresh(c, stale, policy=policy, sleep=slept) for c in (one, other))
            )

    before = posted(sandbox)
    first, second = asyncio.run(both())

    spent = Counter(e for (e,) in rows_of(stale, "select entity_id from refresh_spends"))
    assert set(spent.values()) == {1}
    assert posted(sandbox) - before == len(spent)
    assert first.outcomes.total() + second.outcomes.total() == len(spent)


def test_a_running_refresh_is_waited_for(sandbox, stale):
    """DUPLICATED_REQUEST means that one is under way, not that anything failed."""
    entities = [e for (e,) in rows_of(stale, "select distinct entity_id from balances")]

    async def start():
        async with client_of(sandbox) as client:
            for entity in entities:
                assert await client.refresh(entity)

    asyncio.run(start())

    report = step(sandbox, stale)

    assert report.outcomes == {"FINISHED": report.stale}


@pytest.mark.parametrize(
    ("fault", "outcome", "code"),
    [
        ("reconnect_required", "RECONNECT_REQUIRED", "RECONNECT_REQUIRED"),
        ("revoked", "CONSENT_EXPIRED", "CONSENT_EXPIRED"),
        ("500", "FAILED", "INTERNAL_SERVER_ERROR"),
    ],
)
def test_what_stands_in_the_way_is_recorded_with_its_remedy(sandbox, stale, fault, outcome, code):
    """The others are refreshed; who has to connect again is not spent another refresh."""
    [(entity,)] = rows_of(stale, "select entity_id from balances order by all limit 1")
    if fault == "revoked":
        sandbox.revoke(entity)
    else:
        sandbox.fail("refreshes", fault, None, entity_id=entity)

    report = step(sandbox, stale)

    assert report.outcomes == {"FINISHED": report.stale - 1, outcome: 1}
    attempt = rows_of(
        stale,
        "select outcome, code, remedy is not null, trace_id is not null from refresh_attempts"
        f" where entity_id = '{entity}'",
    )
    assert attempt == [(outcome, code, True, True)]
    sandbox.heal()
    again = step(sandbox, stale)
    assert again.stale == (1 if outcome == "FAILED" else 0)


def test_parts_that_failed_are_kept(sandbox, stale):
    """A finished refresh tells of each kind of data how it went."""
    [(entity,)] = rows_of(stale, "select entity_id from balances order by all limit 1")
    sandbox.fail("refreshes", "refresh-failed:transactions", 1, entity_id=entity)

    step(sandbox, stale)

    [(told,)] = rows_of(
        stale, f"select data_status from refresh_attempts where entity_id = '{entity}'"
    )
    assert '"FAILED"' in told


def test_a_refresh_that_does_not_end_is_overdue_after_twenty_minutes(sandbox, stale):
    """The step ends, and says so."""
    sandbox.fail("refreshes", "refresh-stuck", None)

    report = step(sandbox, stale, policy=Policy(fresh_hours={"balances": 6}))

    assert report.outcomes == {"OVERDUE": report.stale}
    waited = rows_of(stale, "select min(finished_at - asked_at) from refresh_attempts")
    assert waited[0][0] >= dt.timedelta(minutes=20)


def test_a_refused_application_ends_the_step(sandbox, stale):
    """Nothing else could be refreshed either; what was spent stays spent."""
    sandbox.fail("refreshes", "401", None)

    with pytest.raises(AuthError):
        step(sandbox, stale)

    [(spent,)] = rows_of(stale, "select count(*) from refresh_spends")
    assert spent > 0


def test_a_crash_between_record_and_call_overspends_nothing(sandbox, stale, monkeypatch):
    """A process that dies before it calls has spent; the next one stays within the budget."""

    def dies(*_args, **_kwargs):
        raise KeyboardInterrupt

    policy = Policy(refreshes_per_day=2)
    with monkeypatch.context() as broken:
        broken.setattr("lean_resources.client.LeanClient.refresh", dies)
        with pytest.raises(KeyboardInterrupt):
            step(sandbox, stale, policy=policy)
    before = posted(sandbox)

    for _ in range(4):
        step(sandbox, stale, policy=policy)
        sandbox.clock.advance(dt.timedelta(hours=1))
        pull(sandbox, stale)
        sandbox.clock.advance(dt.timedelta(hours=4, minutes=50))

    [(entities,)] = rows_of(stale, "select count(distinct entity_id) from refresh_spends")
    assert 0 < posted(sandbox) - before <= 2 * entities


def test_an_entity_whose_copy_is_old_at_first_sight_is_refreshed_before_it_is_read(sandbox, lake):
    """It was connected long ago, so the copy that Lean filled then says nothing of today."""
    sandbox.clock.advance(203 * DAY)
    asyncio.run(sync_everything(client_of(sandbox), lake, {"banks", "entities"}))
    before = posted(sandbox)

    report = step(sandbox, lake)
    pull(sandbox, lake)

    assert report.stale == posted(sandbox) - before > 5
    [(oldest,)] = rows_of(lake, "select min(refreshed_at) from pulls where outcome = 'COMMITTED'")
    assert sandbox.clock.now() - oldest < DAY
    assert step(sandbox, lake).stale == 0


def test_a_bank_that_cannot_be_looked_at_costs_no_refresh(sandbox, lake):
    """What the look could not tell, the pull of the accounts will."""
    sandbox.clock.advance(203 * DAY)
    asyncio.run(sync_everything(client_of(sandbox), lake, {"banks", "entities"}))
    sandbox.fail("accounts", "failed:BANK_ISSUE", None)
    before = posted(sandbox)

    assert step(sandbox, lake).stale == 0
    assert posted(sandbox) == before
