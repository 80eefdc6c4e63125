"""From event to rows: what arrives, in whatever order, ends in what Lean has."""

import datetime as dt

import dagster as dg
import pytest
from conftest import TODAY, rows_of
from receiving import receiving

from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings
from lean_resources.streams import STREAMS
from lean_resources.webhooks import Event
from pipelines.dagster_defs.in_process import SyncFailedError, read_events, sync_all
from pipelines.dagster_defs.resources import InboxResource, LakeResource, silent
from pipelines.dagster_defs.webhook_job import PULLS
from pipelines.dagster_defs.webhook_sensor import (
    BATCH_TAG,
    LISTED,
    REFRESHED,
    acknowledge,
    request_of,
)
from pipelines.definitions import defs
from pipelines.models.manifest import current_manifest


class House:
    """An offline Lean, its receiver, and a lake that was synced once.

    Args:
        sandbox: The offline Lean.
        server: Where it is served.
        lake: The lake.
        inbox: The inbox that the receiver fills.
        instance: Where runs are recorded.
        webhooks: The offline Lean's deliveries.
    """

    def __init__(self, sandbox, server, lake, inbox, instance, webhooks):
        self.sandbox = sandbox
        self.lake = lake
        self.inbox = inbox
        self.instance = instance
        self.webhooks = webhooks
        self.lean = LeanResource(
            LeanSettings(
                region="sa",
                environment="sandbox",
                api_url=server.url,
                token_url=server.token_url,
                client_id=sandbox.client_id,
                client_secret=sandbox.client_secret,
                requests_per_second="2000",
                attempts="1",
            )
        )

    @property
    def box(self):
        """The inbox itself."""
        return self.inbox.inbox()

    def pass_time(self, **by):
        """Let time pass and webhooks arrive."""
        self.sandbox.clock.advance(dt.timedelta(**by))
        self.webhooks.flush()

    def read(self):
        """Read what the next batch announces; the types of its events."""
        self.webhooks.flush()
        events = read_events(
            self.lean, self.lake, self.inbox, instance=self.instance, has_tables=False
        )
        return sorted(event.type for event in events)

    def rows(self, query):
        """The answer of the lake."""
        return rows_of(self.lake.lake(), query)

    def holds(self, entity_id):
        """Whether the lake shows of an entity exactly the transactions that Lean has."""
        true = sorted(
            one["record"]["transaction_id"]
            for one in self.sandbox.truth("transactions")
            if one["parent"]["entity_id"] == entity_id
        )
        shown = self.rows(
            f"select transaction_id from transactions where entity_id = '{entity_id}' order by all"
        )
        return true == [row[0] for row in shown]


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A house with three customers; tests connect entities of their own."""
    home = tmp_path_factory.mktemp("house")
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    lake = LakeResource(root=str(home / "lake"), environment="sandbox")
    inbox_url = f"sqlite:///{home / 'inbox.db'}"
    inbox = InboxResource(inbox_url)
    with (
        serve(sandbox, port=0, mtls=False) as server,
        receiving(inbox_url, secret=sandbox.webhook_secret) as receiver,
        sandbox.deliver(receiver.url) as webhooks,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        house = House(sandbox, server, lake, inbox, instance, webhooks)
        sync_all(house.lean, lake, silent, instance=instance)
        yield house


@pytest.fixture
def house(synced):
    """The house without faults and with nothing left to be read."""
    yield synced
    synced.sandbox.heal()
    assert set(synced.box.counts()) == {"received", "claimed", "done", "failed"}
    while synced.box.lease("left", 100):
        pass
    synced.box.acknowledge("left", is_done=True)


def asked(request):
    """What a run is told to read."""
    return request.run_config["ops"][PULLS]["config"]


def contents(house):
    """What each model holds, as a hash by part."""
    parts = current_manifest(house.lake.lake()).parts
    return {
        name: {part: one.content_id for part, one in found.items() if one.rows}
        for name, found in parts.items()
    }


def refreshed(entity_id, **changes):
    """The end of a refresh."""
    given = {"event_id": f"of-{entity_id}", "type": "entity.data.refresh.updated"}
    return Event(**(given | {"entity_id": entity_id, "status": "FINISHED"} | changes))


def test_an_event_chooses_what_is_read_and_nothing_more(synced):
    """Known entities are not listed, changed and unknown ones are, banks are read for banks."""
    lake = synced.lake.lake()
    [(known,)] = synced.rows("select entity_id from entities order by all limit 1")
    changed = Event(event_id="1", type="entity.updated", entity_id=known)
    bank = Event(event_id="2", type="bank.availability.updated", bank_identifier="B")

    def chosen(*events):
        return set(asked(request_of(events, "c", lake))["streams"])

    assert chosen(refreshed(known)) == set(REFRESHED)
    assert chosen(refreshed("unknown")) == {*LISTED, *REFRESHED}
    assert chosen(changed) == set(LISTED)
    assert chosen(bank) == {"banks"}
    assert chosen(bank, changed, refreshed(known)) == {"banks", *LISTED, *REFRESHED}


def test_a_batch_is_one_run_of_its_entities_whatever_the_order(synced):
    """Doubles and order make no difference to the run, and no body reaches it."""
    lake = synced.lake.lake()
    events = [refreshed("b"), refreshed("a"), refreshed("b", event_id="again")]

    one, other = (request_of(given, "c", lake) for given in (events, events[::-1]))

    assert one.run_config == other.run_config
    assert asked(one)["entity_ids"] == ["a", "b"]
    assert one.tags[BATCH_TAG] == one.run_key == "c"


def test_a_new_connection_ends_in_its_rows(house):
    """Created, then refreshed: first the entity is there, then what its bank gave."""
    made = house.sandbox.connect(app_user_id="new-connection")
    assert house.read() == ["entity.created"]
    assert house.rows(f"select status from entities where entity_id = '{made['entity_id']}'") == [
        ("ACTIVE",)
    ]

    newest = "run_id = (select max_by(run_id, pull_id) from pulls)"
    assert house.rows(f"select stream, code from pulls where outcome = 'FAILED' and {newest}") == []
    assert house.rows(f"select 1 from consents where entity_id = '{made['entity_id']}'")

    house.pass_time(seconds=11)

    assert house.read() == ["entity.data.refresh.updated"]
    assert house.holds(made["entity_id"])
    assert house.rows(f"select count(*) from accounts where entity_id = '{made['entity_id']}'") == [
        (len(made["account_ids"]),)
    ]
    assert house.box.counts()["received"] == house.box.counts()["claimed"] == 0


def test_the_end_of_a_refresh_before_its_entity_is_known_is_enough(house):
    """The first two events are lost or late; the third lists the entity and pulls it."""
    house.sandbox.fail("WEBHOOK entity.created", "webhook-late:10800")
    made = house.sandbox.connect(app_user_id="out-of-order")
    house.pass_time(seconds=11)

    assert house.read() == ["entity.data.refresh.updated"]
    assert house.holds(made["entity_id"])

    house.pass_time(hours=3)
    assert house.read() == ["entity.created"]
    assert house.holds(made["entity_id"])


def test_an_event_three_hours_late_reads_what_is_there_by_then(house):
    """Meanwhile the store moved on and was read: the late event finds nothing new."""
    made = house.sandbox.connect(app_user_id="late")
    house.sandbox.fail("WEBHOOK entity.data", "webhook-late:10800", times=2)
    house.pass_time(seconds=11)
    house.sandbox.clock.advance(dt.timedelta(hours=2))
    house.sandbox.store.start_refresh(house.sandbox.store.find_entity(made["entity_id"]))
    house.pass_time(seconds=11)
    assert house.read() == ["entity.created", "entity.data.refresh.updated"]

    house.pass_time(hours=3)

    assert house.read() == ["entity.data.refresh.updated"]
    assert house.holds(made["entity_id"])
    assert house.rows(
        "select distinct outcome from pulls where stream = 'transactions'"
        f" and entity_id = '{made['entity_id']}'"
        " and run_id = (select max_by(run_id, pull_id) from pulls)"
    ) == [("UNCHANGED",)]


def test_doubled_and_swapped_events_end_alike(house):
    """Two of each, in the wrong order: one run, the same rows."""
    house.sandbox.fail("WEBHOOK entity.created", "webhook-swapped")
    house.sandbox.fail("WEBHOOK entity.data", "webhook-twice", times=None)
    made = house.sandbox.connect(app_user_id="doubled")
    house.pass_time(seconds=11)

    assert house.read() == ["entity.created", "entity.data.refresh.updated"]
    assert house.holds(made["entity_id"])
    assert house.box.counts()["received"] == 0


def test_entities_that_are_gone_end_well(house):
    """Revoked, deleted or never known: what is so is listed, and nothing is asked of a bank."""
    revoked, deleted = (
        house.sandbox.connect(app_user_id=name)["entity_id"] for name in ("revoked", "deleted")
    )
    house.pass_time(seconds=11)
    house.sandbox.revoke(revoked)
    house.sandbox.delete(deleted)
    nobody = "0f6a1c52-0000-4000-8000-000000000000"
    house.box.add([refreshed(one) for one in (revoked, deleted, nobody)])
    before = house.sandbox.calls["GET /data/v2/accounts"]

    assert set(house.read()) == {
        "entity.created", "entity.updated", "entity.data.refresh.updated",
    }  # fmt: skip

    assert house.rows(f"select status from entities where entity_id = '{deleted}'") == [
        ("DELETED",)
    ]
    assert house.rows(f"select consent_status from consents where entity_id = '{revoked}'") == [
        ("REVOKED",)
    ]
    assert house.sandbox.calls["GET /data/v2/accounts"] == before
    assert house.box.counts()["received"] == house.box.counts()["failed"] == 0


def test_a_bank_that_goes_off_is_paused_by_its_event_and_comes_back_by_the_next(house):
    """The listing decides, not the body: what the event says of the bank is never read."""
    identifier = "LEA1_SAMAOB_SAU"
    paused = f"select count(*) from paused_banks where bank_identifier = '{identifier}'"

    house.sandbox.switch_bank(identifier, active=False)
    assert house.read() == ["bank.availability.updated"]
    assert house.rows(paused) == [(1,)]
    house.sandbox.switch_bank(identifier, active=True)
    assert house.read() == ["bank.availability.updated"]
    assert house.rows(paused) == [(0,)]


def test_an_entity_that_its_bank_cannot_answer_for_is_given_back_alone(house):
    """Others in the batch are done; it is read again later and then complete."""
    one, other = (house.sandbox.connect(app_user_id=f"given-back-{n}") for n in range(2))
    house.read()
    house.pass_time(seconds=11)
    house.sandbox.fail("transactions", "FAILED:BANK_ISSUE", times=1, entity_id=one["entity_id"])

    assert house.read() == ["entity.data.refresh.updated"] * 2

    waiting = [row for row in house.box.rows() if row["state"] == "received"]
    assert [row["entity_id"] for row in waiting] == [one["entity_id"]]
    assert waiting[0]["not_before"] > dt.datetime.now(dt.UTC)
    assert house.holds(other["entity_id"])


def test_a_batch_whose_run_failed_is_given_back_whole(house):
    """Lean refuses the application: nothing is lost, and the next attempt comes later."""
    [(entity_id,)] = house.rows("select entity_id from entities order by all limit 1")
    house.box.add([refreshed(entity_id, event_id="refused")])
    right = house.lean
    house.lean = LeanResource(LeanSettings.load({}, is_complete=False))
    try:
        with pytest.raises(SyncFailedError, match="LEAN_CLIENT_ID"):
            house.read()
    finally:
        house.lean = right

    [row] = [row for row in house.box.rows() if row["event_id"] == "refused"]
    assert (row["state"], row["attempts"]) == ("received", 1)


def test_a_batch_that_never_got_its_run_is_given_back(house, monkeypatch):
    """The daemon may die between claim and run."""
    house.box.add([refreshed("e", event_id="orphan")])
    house.box.lease("without-a-run", 9)
    lake = house.lake.lake()

    assert acknowledge(house.instance, house.box, lake) == 1
    monkeypatch.setattr("pipelines.dagster_defs.webhook_sensor._ORPHANED_SECONDS", -1)
    assert acknowledge(house.instance, house.box, lake) == 0

    [row] = [row for row in house.box.rows() if row["event_id"] == "orphan"]
    assert row["state"] == "received"


def test_a_run_tells_dagster_what_changed_and_nothing_more(house):
    """Rows, months and tables that are others than before; fewer events than there are assets."""
    [(entity_id,)] = house.rows(
        "select entity_id from transactions group by all order by count(*) desc, entity_id limit 1"
    )
    house.sandbox.clock.advance(dt.timedelta(days=3))
    house.sandbox.store.start_refresh(house.sandbox.store.find_entity(entity_id))
    house.pass_time(seconds=11)
    before = contents(house)

    read_events(house.lean, house.lake, house.inbox, instance=house.instance)

    [run] = house.instance.get_runs(limit=1)
    entries = [one.dagster_event for one in house.instance.all_logs(run.run_id)]
    told = [
        (event.asset_key.to_user_string(), event.partition)
        for event in entries
        if event is not None and event.is_step_materialization
    ]
    months = house.rows(
        "select distinct month from pulls where stream = 'transactions' and outcome = 'COMMITTED'"
        f" and run_id = '{run.run_id}' order by all"
    )
    assert [month for name, month in told if name == "transactions"] == [
        *(one for (one,) in months), None,
    ]  # fmt: skip
    assert months
    after = contents(house)
    changed = {name for name in after if before.get(name) != after[name]}
    assert "fct_transactions" in changed
    assert changed != set(after)
    names = [name for name, _ in told if name not in STREAMS]
    assert sorted(names) == sorted([*changed, "warehouse"])
    assert not {"banks", "entities"} & {name for name, _ in told}
    # Of a sync it would be more than five for each.
    assert len(entries) < len(defs.resolve_asset_graph().get_all_asset_keys())


def test_a_run_tells_dagster_of_a_check_only_when_it_fails(house):
    """A narrowed run can find a stream incomplete, and does not say that all of it is complete."""
    [(entity_id,)] = house.rows("select entity_id from accounts order by all limit 1")
    house.sandbox.fail("balances", "FAILED:BANK_ISSUE", times=1, entity_id=entity_id)
    house.sandbox.store.start_refresh(house.sandbox.store.find_entity(entity_id))
    house.pass_time(seconds=11)

    assert "entity.data.refresh.updated" in house.read()

    [run] = house.instance.get_runs(limit=1)
    told = [
        (str(found.asset_key.to_user_string()), found.check_name, found.passed)
        for one in house.instance.all_logs(run.run_id)
        if one.dagster_event is not None
        and one.dagster_event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
        for found in [one.dagster_event.asset_check_evaluation_data]
    ]
    assert told == [("balances", "is_complete", False)]


def test_the_sensor_asks_for_one_run_per_batch_and_says_why_it_asks_for_none(house, tmp_path):
    """It is off without webhooks, waits for events, and hands the batch to its job."""
    sensor = defs.resolve_sensor_def("doorbell")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED

    def tick(inbox):
        context = dg.build_sensor_context(
            instance=house.instance, resources={"lake": house.lake, "inbox": inbox}
        )
        return sensor(context)

    assert "not set up" in tick(InboxResource()).skip_message
    # Its own: what other tests gave back is due again after a while.
    inbox = InboxResource(f"sqlite:///{tmp_path / 'inbox.db'}")
    box = inbox.inbox()
    box.create()
    assert "No event" in tick(inbox).skip_message
    box.add([refreshed("e", event_id="for-the-sensor")])
    request = tick(inbox)
    assert set(box.leases()) == {request.run_key}
    box.close()
