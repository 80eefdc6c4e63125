"""A stream that fails makes its own tables stale, and stops nothing else."""

import dataclasses
import datetime as dt

import dagster as dg
import pytest
from conftest import TODAY, rows_of
from test_dagster import values_of

from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings
from lean_resources.streams import STREAMS
from pipelines.dagster_defs import failures, in_process, stream_assets
from pipelines.dagster_defs.failures import COMPLETE, FRESH, OUTCOME, failure_text
from pipelines.dagster_defs.in_process import SyncFailedError, sync_all
from pipelines.dagster_defs.model_assets import streams_of
from pipelines.dagster_defs.resources import InboxResource, LakeResource, bound, silent
from pipelines.lake.digests import DamageError
from pipelines.models.loader import load
from pipelines.sync.policy import Policy
from pipelines.sync.report import Failed, Report

TABLES = ("stg_banks", "fct_balance_snapshots", "fct_transactions")


def some_models():
    """A few models, with those that they read."""
    models = load()
    wanted = set(TABLES)
    for model in reversed(list(models)):
        if model.name in wanted:
            wanted |= set(model.reads)
    return dataclasses.replace(
        models,
        by_name={model.name: model for model in models if model.name in wanted},
        checks=tuple(check for check in models.checks if {check.model, *check.reads} <= wanted),
        table_macros=(),
    )


MODELS = some_models()
NAMES = {model.name for model in MODELS}


class House:
    """An offline Lean, and a lake that was synced once.

    Args:
        sandbox: The offline Lean.
        lean: Its client's resource.
        lake: The lake.
        instance: Where runs are recorded.
    """

    def __init__(self, sandbox, lean, lake, instance):
        self.sandbox = sandbox
        self.lean = lean
        self.lake = lake
        self.instance = instance

    def sync(self):
        """Sync once more; the error that it ends with, or None."""
        policy = Policy(refresh_poll_seconds=0.05)
        try:
            sync_all(self.lean, self.lake, silent, instance=self.instance, policy=policy)
        except SyncFailedError as error:
            return error
        return None

    def events(self, kind):
        """Events of the latest run."""
        [run] = self.instance.get_runs(limit=1)
        found = (one.dagster_event for one in self.instance.all_logs(run.run_id))
        return [one for one in found if one is not None and one.event_type is kind]

    def materialised(self):
        """Names of the assets that the latest run materialised."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        return {one.asset_key.to_user_string() for one in self.events(kind)}

    def failed(self, check):
        """Assets of which a check failed in the latest run, with its severity and metadata."""
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
        found = [one.asset_check_evaluation_data for one in self.events(kind)]
        return {
            one.asset_key.to_user_string(): one
            for one in found
            if one.check_name == check and not one.passed
        }

    def status(self):
        """How the latest run ended."""
        [run] = self.instance.get_runs(limit=1)
        return run.status

    def new_day(self):
        """Let a day pass at the banks, of which Lean has new data."""
        self.sandbox.clock.advance(dt.timedelta(days=1))
        for one in {one["parent"]["entity_id"] for one in self.sandbox.truth("accounts")}:
            self.sandbox.store.start_refresh(self.sandbox.store.find_entity(one))
        self.sandbox.clock.advance(dt.timedelta(minutes=1))

    def rows(self, query):
        """The answer of the lake."""
        return rows_of(self.lake.lake(), query)


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A house of three customers; each test has a new day at the banks."""
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    lake = LakeResource(root=tmp_path_factory.mktemp("lake"), environment="sandbox")
    with (
        serve(sandbox, port=0, mtls=False) as server,
        dg.DagsterInstance.ephemeral() as instance,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(in_process, "load", lambda: MODELS)
        lean = LeanResource(LeanSettings(**values_of(sandbox, server), attempts="1"))
        house = House(sandbox, lean, lake, instance)
        assert house.sync() is None
        assert house.materialised() == {*STREAMS, *NAMES, "refresh", "warehouse", OUTCOME}
        assert house.failed(FRESH) == {}
        yield house


@pytest.fixture
def house(synced, monkeypatch):
    """The house with a new day, no fault, and no wait between two tries."""
    monkeypatch.setattr(failures, "_RETRY_SECONDS", 0.01)
    synced.new_day()
    yield synced
    synced.sandbox.heal()


def stale_tables(*names):
    """Tables that read any of these streams, also through other tables."""
    return {name for name, read in streams_of(MODELS).items() if read & set(names)}


def a_failing_stream_stops_no_other(house):
    """Balances fail at every bank; the sync's error."""
    before = house.rows("select count(*) from balances")
    known = house.rows("select max(booked_at) from transactions")
    published = house.lake.lake().warehouse.stat().st_ino
    house.sandbox.fail("balances", "FAILED:BANK_ISSUE", times=None)

    error = house.sync()

    stale = stale_tables("balances")
    assert house.status() is dg.DagsterRunStatus.FAILURE
    assert "balances" not in house.materialised()
    assert house.materialised() >= {*STREAMS, *NAMES, "warehouse"} - {"balances"} - stale
    assert house.rows("select count(*) from balances") == before
    assert house.rows("select max(booked_at) from transactions") > known
    assert house.lake.lake().warehouse.stat().st_ino != published
    found = house.failed(COMPLETE)
    assert {name: one.severity.value for name, one in found.items()} == {"balances": "ERROR"}
    assert set(house.failed(FRESH)) == stale
    return error


def test_a_failing_stream_makes_its_own_tables_stale_and_stops_no_other(house):
    """Tables of the others are published, and the run fails with bank, code and remedy."""
    accounts = len(list(house.sandbox.truth("accounts")))

    error = a_failing_stream_stops_no_other(house)

    assert "fct_balance_snapshots" in house.failed(FRESH)
    assert "fct_transactions" not in house.failed(FRESH)
    assert str(error).startswith(
        f"balances: {accounts} of {accounts} pulls failed with BANK_ISSUE ("
    )
    banks = house.rows(
        "select distinct bank_identifier from pulls"
        " where stream = 'balances' and code = 'BANK_ISSUE'"
    )
    assert banks
    assert all(f" at {bank}" in str(error) for (bank,) in banks)
    assert str(error).endswith("give Lean the code and the day.")
    assert [one.stream for one in error.summaries] == [
        name for name in STREAMS if name != "balances"
    ]
    table = house.failed(COMPLETE)["balances"].metadata["failures"]
    assert sum(record.data["pulls"] for record in table.records) == accounts
    assert "balances: " in house.failed(FRESH)["fct_balance_snapshots"].metadata["stale"].value

    house.sandbox.heal()
    assert house.sync() is None
    assert house.failed(COMPLETE) == house.failed(FRESH) == {}


def test_a_stream_that_stops_others_is_caught(house, monkeypatch):
    """Failing in the step of the stream, as every asset of Dagster does, skips what reads it."""
    monkeypatch.setattr(stream_assets, "waits_for_outcome", lambda _context: False)

    with pytest.raises(AssertionError):
        a_failing_stream_stops_no_other(house)

    monkeypatch.undo()
    house.sandbox.heal()
    assert house.sync() is None


def test_what_the_lake_has_is_published_while_lean_is_down(house):
    """No stream passes for fresh, one line says why, and only the first streams wait for Lean."""
    published = house.lake.lake().warehouse.stat().st_ino
    house.sandbox.fail("/", "503", times=None)

    error = house.sync()

    assert house.status() is dg.DagsterRunStatus.FAILURE
    assert house.materialised() & {*STREAMS, "refresh"} == set()
    assert not house.materialised() & stale_tables(*STREAMS)
    assert house.lake.lake().warehouse.stat().st_ino != published
    assert len(str(error).splitlines()) == 1
    assert "balances, banks, " in str(error)
    assert "Wait: the next sync asks again." in str(error)
    retried = {one.step_key for one in house.events(dg.DagsterEventType.STEP_UP_FOR_RETRY)}
    assert retried == {"pull_banks", "pull_customers", "pull_entities"}


def test_streams_are_read_although_nothing_can_be_refreshed(house, monkeypatch):
    """Lean's data is read as it is; what it feeds is stale, because no bank was asked."""

    async def refuse(*_args, **_options):
        raise PermissionError("made up")

    monkeypatch.setattr(stream_assets, "refresh_stale", refuse)

    error = house.sync()

    assert str(error).startswith("refresh: ")
    assert house.materialised() >= set(STREAMS)
    assert "refresh" not in house.materialised()
    assert set(house.failed(FRESH)) == stale_tables("refresh")
    assert "stg_banks" not in house.failed(FRESH)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyError("a made-up value"), "KeyError, which is a defect"),
        (DamageError("balances/one.parquet cannot be read"), "leanhouse fsck"),
    ],
)
def test_a_defect_and_damage_of_one_stream_stop_no_other(house, monkeypatch, raised, said):
    """Whatever a stream fails with, the others are read; no value of the error is shown."""
    right = stream_assets.sync

    async def sync(stream, *args, **options):
        if stream.name == "balances":
            raise raised
        return await right(stream, *args, **options)

    monkeypatch.setattr(stream_assets, "sync", sync)

    error = house.sync()

    assert said in str(error)
    assert "made-up" not in str(error)
    assert house.materialised() >= set(STREAMS) - {"balances"}
    assert set(house.failed(FRESH)) == stale_tables("balances")


def test_a_stream_alone_fails_in_its_own_step(house):
    """A run without the closing asset ends as failed too, and keeps what was read."""
    sick = next(iter(house.sandbox.truth("accounts")))["record"]["account_id"]
    house.sandbox.fail("balances", "FAILED:BANK_ISSUE", times=None, account_id=sick)
    result = dg.materialize(
        [next(one for one in stream_assets.stream_assets if "balances" in one.node_def.name)],
        instance=house.instance,
        resources=bound(
            lean=house.lean,
            lake=house.lake,
            inbox=InboxResource(),
            policy=Policy(failure_threshold=0),
            progress=silent,
        ),
        raise_on_error=False,
    )

    assert not result.success
    assert house.materialised() == {"balances"}
    [event] = result.get_step_failure_events()
    assert "1 of " in event.step_failure_data.user_failure_data.description


def test_a_stream_shows_what_it_read_by_bank_and_by_month(house):
    """Its tables in Dagster add up to the ledger's pulls of the run, and name no person."""
    assert house.sync() is None

    (shown,) = [
        one.event_specific_data.materialization.metadata
        for one in house.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
        if one.asset_key.to_user_string() == "transactions" and one.partition is None
    ]
    run_id = house.instance.get_runs(limit=1)[0].run_id
    banks = {record.data["bank"]: record.data for record in shown["banks"].records}
    held = house.rows(
        "select bank_identifier, sum(rows)::int, sum(requests)::int,"
        " strftime(min(refreshed_at), '%Y-%m-%d %H:%M UTC')"
        f" from pulls where stream = 'transactions' and run_id = '{run_id}' group by all"
    )
    assert sum(rows for _, rows, _, _ in held) > 0
    assert sorted(held) == sorted(
        (one["bank"], one["rows"], one["requests"], one["oldest copy"]) for one in banks.values()
    )
    months = {record.data["month"]: record.data["rows"] for record in shown["months"].records}
    assert sum(months.values()) == shown["rows"].value == sum(rows for _, rows, _, _ in held)


def test_a_text_names_the_most_frequent_failures_with_their_banks():
    """Three codes at most, three banks each; the table of the check has all of them."""
    at = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    report = Report()
    report.outcomes.update(COMMITTED=10, FAILED=11)
    for number in range(1, 5):
        report.failures[f"B{number}", "BANK_ISSUE"] = Failed(at, "Wait.", number)
    report.failures["B1", "PENDING"] = Failed(at, "Ask.", 1)

    assert failure_text(report) == (
        "10 of 21 pulls failed with BANK_ISSUE (4 at B4, 3 at B3, 2 at B2,"
        " the rest at 1 more banks): Wait. 1 of 21 pulls failed with PENDING (1 at B1): Ask."
    )
