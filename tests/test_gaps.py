"""Gap repair: what never arrived is found, put into the same inbox and counted."""

import asyncio
import datetime as dt

import dagster as dg
import pytest
from conftest import TODAY, client_of, rows_of, sync_everything

from lean_resources.errors import UnavailableError
from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings
from lean_resources.webhooks import event_of
from pipelines.dagster_defs.resources import InboxResource, LakeResource
from pipelines.dagster_defs.upkeep_assets import missed_events
from pipelines.webhooks.gap_repair import repair
from pipelines.webhooks.inbox import Inbox

NAMES = {"entities", "consents", "refreshes"}


def settled(sandbox):
    """Let what is under way end."""
    sandbox.clock.advance(dt.timedelta(seconds=11))
    for key in list(sandbox.store._changed):
        sandbox.store.entity(key)


def compare(sandbox, lake, inbox):
    """One comparison."""

    async def work():
        async with client_of(sandbox) as client:
            return await repair(client, lake, inbox)

    return asyncio.run(work())


@pytest.fixture
def inbox(tmp_path):
    """An empty inbox."""
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}", "sandbox")
    inbox.create()
    yield inbox
    inbox.close()


def world(*, has_events=True):
    """A small offline Lean."""
    return Sandbox(customers=3, months=2, seed=7, today=TODAY, has_events=has_events)


def test_events_that_never_arrived_are_found_and_those_that_did_are_not(lake, inbox):
    """Only the difference is repaired, it asks for the same work, and a second look finds none."""
    sandbox = world()
    made = sandbox.connect(app_user_id="one-more")
    settled(sandbox)
    arrived, missing = event_of(sandbox.events[0]), event_of(sandbox.events[-1])
    inbox.add([arrived])

    first = compare(sandbox, lake, inbox)
    again = compare(sandbox, lake, inbox)

    assert (first.way, first.compared) == ("events", 3)
    assert first.repaired == {"entity.data.refresh.updated": 2}
    assert again.repaired.total() == 0
    assert {event.event_id for event in inbox.lease("c", 9)} == {
        arrived.event_id, missing.event_id,
    }  # fmt: skip
    assert missing.entity_id == made["entity_id"]


def test_a_day_of_outage_is_caught_up_whatever_arrived_after_it(lake, inbox):
    """The comparison goes on from where the last one was, not from the last event that came."""
    sandbox = world()
    compare(sandbox, lake, inbox)
    lost = []
    for hour in range(24):
        sandbox.clock.advance(dt.timedelta(hours=1))
        sandbox.connect(app_user_id=f"in-hour-{hour}")
        lost.append(sandbox.events[-2]["event_id"])
    sandbox.clock.advance(dt.timedelta(hours=5))
    sandbox.connect(app_user_id="after-the-outage")
    inbox.add([event_of(one) for one in list(sandbox.events)[-2:]])

    done = compare(sandbox, lake, inbox)

    assert done.repaired["entity.created"] == 24
    assert inbox.known(lost) == set(lost)


def test_where_no_events_are_listed_entities_and_refreshes_tell(lake, inbox):
    """New, revoked and refreshed entities are found by comparing with the lake."""
    sandbox = world(has_events=False)
    asyncio.run(sync_everything(client_of(sandbox), lake, NAMES))
    assert compare(sandbox, lake, inbox).repaired.total() == 0
    sandbox.clock.advance(dt.timedelta(days=1))
    [(known,)] = rows_of(
        lake,
        "select entity_id from readable_entities(null, now()) where skip_code is null"
        " order by all limit 1",
    )
    made = sandbox.connect(app_user_id="one-more")
    sandbox.store.start_refresh(sandbox.store.find_entity(known))
    settled(sandbox)
    sandbox.revoke(made["entity_id"])

    done = compare(sandbox, lake, inbox)

    assert done.way == "listing"
    assert done.repaired == {"entity.created": 1, "entity.data.refresh.updated": 2}
    events = inbox.lease("c", 9)
    assert {event.entity_id for event in events if event.is_refreshed} == {
        known, made["entity_id"],
    }  # fmt: skip
    assert {event.entity_id for event in events if event.is_about_entity} == {made["entity_id"]}

    asyncio.run(sync_everything(client_of(sandbox), lake, NAMES))
    assert compare(sandbox, lake, inbox).repaired.total() == 0
    sandbox.revoke(known)
    assert compare(sandbox, lake, inbox).repaired == {"entity.updated": 1}


def test_a_refresh_whose_webhook_arrived_is_not_repaired_by_the_listing(lake, inbox):
    """The listing has other ids than webhooks have, and knows those that came by the refresh."""
    sandbox = world(has_events=False)
    made = sandbox.connect(app_user_id="one-more")
    settled(sandbox)
    inbox.add([event_of(one) for one in sandbox.events])
    asyncio.run(sync_everything(client_of(sandbox), lake, NAMES))

    done = compare(sandbox, lake, inbox)

    assert done.repaired.total() == 0
    assert inbox.finished([made["refresh_id"]], {"FINISHED"}) == {made["refresh_id"]}


def test_a_comparison_that_fails_is_made_again_from_the_same_instant(lake, inbox):
    """Nothing is skipped because Lean could not be reached."""
    sandbox = world()
    compare(sandbox, lake, inbox)
    read_to = inbox.read_to()
    sandbox.clock.advance(dt.timedelta(hours=9))
    sandbox.fail("/events/v1", "500", times=None)

    with pytest.raises(UnavailableError):
        compare(sandbox, lake, inbox)
    assert inbox.read_to() == read_to
    sandbox.heal()
    assert compare(sandbox, lake, inbox).from_at < read_to


def test_what_was_repaired_is_on_the_check(tmp_path):
    """The asset's check fails with how much was missed, by type and way, and passes after."""
    sandbox = world()
    inbox = InboxResource(url=f"sqlite:///{tmp_path / 'inbox.db'}", environment="sandbox")
    checks = []
    with serve(sandbox, port=0, mtls=False) as server, dg.DagsterInstance.ephemeral() as instance:
        sandbox.connect(app_user_id="one-more")
        resources = {
            "lean": LeanResource(
                LeanSettings(
                    region="sa",
                    environment="sandbox",
                    api_url=server.url,
                    token_url=server.token_url,
                    client_id=sandbox.client_id,
                    client_secret=sandbox.client_secret,
                )
            ),
            "lake": LakeResource(root=str(tmp_path / "lake"), environment="sandbox"),
            "inbox": inbox,
        }
        for _ in range(2):
            result = dg.materialize([missed_events], instance=instance, resources=resources)
            checks += result.get_asset_check_evaluations()

    missed, caught_up = checks
    assert not missed.passed
    assert missed.metadata["repaired"].value == 2
    assert missed.metadata["by_type"].value == {
        "entity.created": 1, "entity.data.refresh.updated": 1,
    }  # fmt: skip
    assert caught_up.passed
