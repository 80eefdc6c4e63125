"""A sync in shards: what one process reads, under one rate; each shard fails by itself."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from conftest import TODAY, client_of, settings_of
from test_dagster import values_of
from test_outcome import MODELS, NAMES, House
from test_sync_processes import READ, Log, run, shown, sync, until

from lean_resources import LeanClient
from lean_resources.errors import ConfigError
from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings
from lean_resources.shared_limits import LEASE_SECONDS
from lean_resources.streams import STREAMS
from pipelines.dagster_defs import failures, sharded_job
from pipelines.dagster_defs.failures import COMPLETE, FRESH, OUTCOME
from pipelines.dagster_defs.processes import LEAN_POOL, allow_readers
from pipelines.dagster_defs.resources import InboxResource, LakeResource, bound, silent
from pipelines.dagster_defs.sharded_job import CLOSING, DIRECTORY_STEP, executor_of
from pipelines.environment import Settings
from pipelines.lake.lake import Lake
from pipelines.shard import Shard
from pipelines.sync import engine
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

COUNT = 3
RATE = 20
DIRECTORY = ("banks", "customers", "entities")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

SHARD = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import test_sync_processes as own
from lean_resources import LeanClient, LeanSettings
from pipelines.shard import Shard
async def work():
    shard = Shard(int(sys.argv[4]), int(sys.argv[5]))
    settings = LeanSettings(**json.loads(sys.argv[2]))
    lake = own.Lake(own.Path(sys.argv[3]), "sandbox")
    async with LeanClient(settings, readers=shard.count) as client:
        for name in ("accounts", *own.READ):
            await own.engine.sync(
                own.STREAMS[name], client, lake, policy=own.Policy(),
                selection=own.Selection(shard=shard), run_id="night", resumes={"night"},
            )
asyncio.run(work())
"""


def shard_of(settings, root, number):
    """Start the process of a shard."""
    given = [str(Path(__file__).parent), json.dumps(settings), str(root), str(number), str(COUNT)]
    return subprocess.Popen([sys.executable, "-c", SHARD, *given])


def test_shards_of_which_one_is_killed_read_what_one_process_reads(tmp_path, postgres):
    """Rows, outcomes and the ledger are equal, and no second has more than the rate and a lease."""
    world = {"customers": 6, "months": 1, "seed": 7, "today": TODAY}
    one, several = (Lake(tmp_path / name, "sandbox") for name in ("one", "several"))
    sandbox = Sandbox(**world)
    with serve(sandbox) as server:
        run(sandbox, server.url, one, (*DIRECTORY, "accounts", *READ))
    sandbox = Sandbox(**world)
    log = Log(sandbox)
    with serve(sandbox) as server:
        run(sandbox, server.url, several, DIRECTORY)
        log.instants.clear()
        settings = settings_of(sandbox, server.url, requests_per_second=RATE)
        given = settings.model_dump(exclude_unset=True)
        given |= {"client_secret": sandbox.client_secret, "shared_limits": postgres}
        root = several.folder.parent
        started = [shard_of(given, root, number) for number in range(COUNT)]
        until(lambda: len(log.instants) > 2 * COUNT, "requests")
        started[1].kill()
        assert started[1].wait() == -signal.SIGKILL
        started[1] = shard_of(given, root, 1)
        assert [process.wait(120) for process in started] == [0] * COUNT

    assert shown(one) == shown(several)
    assert len(log.instants) > 2 * RATE
    block = max(1, int(RATE * LEASE_SECONDS / COUNT))
    assert log.most_within(1.0) <= RATE * (1 + LEASE_SECONDS) + block + 3  # on the way


@pytest.mark.conformance
def test_processes_of_a_shard_take_turns_of_all(tmp_path, postgres, monkeypatch):
    """The run takes them, and each of its processes uses some."""
    monkeypatch.setattr(engine, "LEAST_PULLS", 1)
    sandbox = Sandbox(customers=8, months=1, seed=7, today=TODAY)
    log, lake = Log(sandbox), Lake(tmp_path, "sandbox")
    with serve(sandbox) as server:
        run(sandbox, server.url, lake, (*DIRECTORY, "accounts"))
        log.instants.clear()
        shared = {"requests_per_second": RATE, "shared_limits": postgres}
        run(sandbox, server.url, lake, READ, processes=3, **shared)

    assert len(log.instants) > 2 * RATE
    assert log.most_within(1.0) <= RATE * (1 + 2 * LEASE_SECONDS) + 3  # on the way
    with lake.connect(("balances",)) as connection:
        found = connection.execute("select count(distinct batch_id) from pulls").fetchone()
    assert found > (4,)


def test_without_a_database_each_reader_has_its_part():
    """Also the processes of a shard."""
    sandbox = Sandbox(customers=1, months=1, seed=7, today=TODAY)
    assert LeanClient(settings_of(sandbox, requests_per_second=20), readers=4).rate == 5
    shared = settings_of(sandbox, requests_per_second=20, shared_limits="postgresql://x/y")
    assert LeanClient(shared, readers=4).rate == 20


def test_a_run_for_some_entities_goes_beside_a_shard(lake):
    """What is selected in a shard is what both hold."""
    sandbox = Sandbox(customers=4, months=1, seed=7, today=TODAY)
    shard = Shard(0, 2)

    async def work():
        async with client_of(sandbox) as client:
            await sync(client, lake, DIRECTORY)
            with lake.connect(("entities",)) as connection:
                found = connection.execute("select entity_id from entities").fetchall()
            mine = {one for (one,) in found if shard.holds(one)}
            assert mine
            assert len(mine) < len(found)
            some = {min(mine), *(one for (one,) in found if one not in mine)}
            chosen = Selection(entity_ids=some, shard=shard)
            report = await engine.sync(
                STREAMS["accounts"], client, lake, policy=Policy(), selection=chosen
            )
            assert report.outcomes.total() == 1

    asyncio.run(work())


class Shards(House):
    """The house of test_outcome, whose syncs are in shards."""

    def sync(self, count=COUNT):
        """Sync once more in so many shards; the run's result."""
        settings = Settings.load({"LEANHOUSE_SHARDS": str(count)})
        return sharded_job.sharded_job(MODELS, settings).execute_in_process(
            instance=self.instance,
            resources=bound(
                lean=self.lean,
                lake=self.lake,
                inbox=InboxResource(),
                policy=Policy(refresh_poll_seconds=0.05),
                progress=silent,
            ),
            run_config=QUIET,
            raise_on_error=False,
        )


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A house of three customers after a first sync in shards."""
    sandbox = Sandbox(customers=3, months=1, seed=7, today=TODAY)
    lake = LakeResource(root=tmp_path_factory.mktemp("home") / "lake", environment="sandbox")
    with (
        serve(sandbox, port=0, mtls=False) as server,
        dg.DagsterInstance.ephemeral() as instance,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name in ("compacted", "write_report"):
            patched.setattr(sharded_job, name, lambda *_given: {})
        lean = LeanResource(LeanSettings(**values_of(sandbox, server), attempts="1"))
        house = Shards(sandbox, lean, lake, instance)
        house.first = house.sync(2)
        yield house


@pytest.fixture
def house(synced, monkeypatch):
    """The house with a new day, no fault, no wait between two tries, and few streams."""
    monkeypatch.setattr(failures, "_RETRY_SECONDS", 0.01)
    few = [STREAMS[name] for name in ("accounts", "balances", "transactions")]
    monkeypatch.setattr(sharded_job, "SHARDED_STREAMS", few)
    synced.new_day()
    yield synced
    synced.sandbox.heal()


def reason(result):
    """Why a run failed: what its only failed step says."""
    [event] = result.get_step_failure_events()
    assert event.step_key == CLOSING
    return event.step_failure_data.user_failure_data.description


def test_a_sync_in_shards_shows_what_a_sync_shows(synced):
    """Each asset is materialised with the figures of all shards, each check has its result."""
    house, result = synced, synced.first

    assert result.success
    made = {*STREAMS, *NAMES, "refresh", "warehouse", "compaction", "daily_report", OUTCOME}
    assert house.materialised() == made
    assert house.failed(COMPLETE) == house.failed(FRESH) == {}
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    checked = {one.asset_check_evaluation_data.asset_check_key for one in house.events(kind)}
    complete = {key.asset_key.to_user_string() for key in checked if key.name == COMPLETE}
    assert complete == {one.name for one in STREAMS.values() if not one.exploded_from} | {"refresh"}
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    for event in house.events(kind):
        shown = event.event_specific_data.materialization
        name = shown.asset_key.to_user_string()
        if name not in STREAMS or shown.partition is not None:
            continue
        [(rows, requests)] = house.rows(
            "select coalesce(sum(rows), 0)::int, coalesce(sum(requests), 0)::int from pulls"
            f" where stream = '{name}' and run_id = '{result.run_id}'"
        )
        assert shown.metadata["rows"].value == rows, name
        if not STREAMS[name].exploded_from:
            assert shown.metadata["requests"].value >= requests, name
    months = {
        one.event_specific_data.materialization.partition
        for one in house.events(kind)
        if one.event_specific_data.materialization.asset_key == dg.AssetKey("transactions")
    }
    held = house.rows(
        "select distinct month from pulls where stream = 'transactions' and rows > 0"
        f" and run_id = '{result.run_id}'"
    )
    assert held
    assert months == {None, *(month for (month,) in held)}


def test_a_stream_that_fails_in_one_shard_is_named_with_it(house, monkeypatch):
    """The other shards are read, tables of other streams are built, and the next sync heals it."""
    right = sharded_job.read

    def read(context, stream, selection, *given):
        report, attempt = right(context, stream, selection, *given)
        if stream.name == "balances" and selection.shard.number == 1:
            attempt.fail("made up", "MADE_UP", "Wait.")
        return report, attempt

    monkeypatch.setattr(sharded_job, "read", read)
    published = house.lake.lake().warehouse.stat().st_ino

    assert reason(house.sync()) == "balances: shard 2 of 3: made up (MADE_UP). Wait."

    assert house.lake.lake().warehouse.stat().st_ino != published
    assert {"balances", "transactions", "warehouse", "daily_report"} <= house.materialised()
    assert OUTCOME not in house.materialised()
    assert set(house.failed(COMPLETE)) == {"balances"}
    assert "fct_balance_snapshots" in house.failed(FRESH)
    monkeypatch.setattr(sharded_job, "read", right)
    assert house.sync().success
    assert house.failed(FRESH) == {}


@pytest.mark.conformance
def test_a_shard_that_ends_again_and_again_is_reported_by_the_closing_step(house, monkeypatch):
    """Its process is killed at each try; what the others read is published."""
    right, tries = sharded_job.refreshed, []

    def refreshed(context, selection, *given):
        if selection.shard.number == 2:
            tries.append(context.retry_number)
            raise RuntimeError("as if it was killed")
        return right(context, selection, *given)

    monkeypatch.setattr(sharded_job, "refreshed", refreshed)

    said = reason(house.sync())

    assert tries == list(range(sharded_job.TRIES))
    assert "shard 3 of 3: its process ended before it had read this (SHARD_ENDED)" in said
    assert "shard 1" not in said
    assert {"transactions", "warehouse"} <= house.materialised()


@pytest.mark.conformance
def test_a_shard_that_is_killed_once_reads_the_rest_in_the_same_run(house, monkeypatch):
    """What its first try read counts in the figures, and is not asked for again."""
    right, killed = sharded_job.read, []

    def read(context, stream, selection, *given):
        if stream.name == "transactions" and selection.shard and not killed:
            killed.append(selection.shard)
            raise RuntimeError("as if it was killed")
        return right(context, stream, selection, *given)

    monkeypatch.setattr(sharded_job, "read", read)
    result = house.sync()

    assert result.success
    assert killed
    twice = house.rows(
        "select stream, parent_id, month from pulls"
        f" where run_id = '{result.run_id}' group by all having count(*) > 1"
    )
    assert twice == []


def test_while_lean_is_down_all_shards_say_so_at_once(house):
    """Only the directory waits for Lean, and the tables of the lake are published."""
    house.sandbox.fail("/", "503", times=None)

    result = house.sync()

    said = reason(result)
    assert "shard 1 of 3" in said
    assert "Wait: the next sync asks again." in said
    retried = {one.step_key for one in house.events(dg.DagsterEventType.STEP_UP_FOR_RETRY)}
    assert retried == {DIRECTORY_STEP}
    assert house.materialised() & {*STREAMS, "refresh"} == set()


def test_slots_are_as_many_as_may_read():
    """And as before when there are no shards any more."""
    with dg.DagsterInstance.ephemeral() as instance:
        for count in (1, 4, 4, 1):
            allow_readers(instance, count)
            limits = {one.name: one.limit for one in instance.event_log_storage.get_pool_limits()}
            assert limits.get(LEAN_POOL, 1) == count
    shared = {"LEANHOUSE_SHARDS": "4", "LEAN_SHARED_LIMITS": "postgresql://x/y"}
    assert Settings.load({}).readers == 1
    assert Settings.load({"LEANHOUSE_SHARDS": "4"}).readers == 4
    assert Settings.load(shared).readers == 5  # a webhook's run goes beside


@pytest.mark.parametrize(
    ("kind", "package"), [("k8s", "dagster-k8s"), ("celery_k8s", "dagster-celery-k8s")]
)
def test_a_missing_executor_is_named(monkeypatch, kind, package):
    """With what to install; where it is installed, it is taken."""
    module = package.replace("-", "_")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"LEANHOUSE_EXECUTOR={kind} needs {package}"):
        executor_of(kind, 2, 2)

    class Installed:
        """What the package has."""

    setattr(Installed, f"{kind}_job_executor", dg.in_process_executor)
    monkeypatch.setitem(sys.modules, module, Installed)
    assert executor_of(kind, 2, 2).name == dg.in_process_executor.name
    assert executor_of("multiprocess", 2, 2).name == "multiprocess"
