"""The assets as Dagster runs them: in this process, and by a real webserver and daemon."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from conftest import TODAY, rows_of
from dagster._core.utils import make_new_run_id

from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings
from lean_resources.streams import STREAMS, Window
from pipelines.dagster_defs.failures import OUTCOME
from pipelines.dagster_defs.in_process import SyncFailedError, prepare_home, sync_all
from pipelines.dagster_defs.resources import LakeResource, logged, silent
from pipelines.dagster_defs.stream_assets import MONTHS, OWNERS, resumed_by, run_ids_of
from pipelines.definitions import defs
from pipelines.environment import child_of
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
from pipelines.models.model import SUBJECTS
from pipelines.publish.warehouse import connect

ROOT = Path(__file__).resolve().parent.parent


def values_of(sandbox, server):
    """Settings of the offline Lean as the environment would hold them."""
    return {
        "region": "sa",
        "environment": "sandbox",
        "api_url": server.url,
        "token_url": server.token_url,
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
        "requests_per_second": "2000",
    }


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_is_an_asset_derived_from_the_catalogue(name):
    """Group, owner, kinds, description, columns, partitions and parents come from the entry."""
    stream = STREAMS[name]

    spec = defs.resolve_asset_graph().get(dg.AssetKey(name))

    assert spec.group_name in {"lean_directory", "lean_entities", "lean_accounts"}
    assert list(spec.owners) == OWNERS
    assert spec.kinds == {"parquet", "python"}
    assert spec.description == stream.doc
    columns = spec.metadata["dagster/column_schema"].columns
    assert [column.name for column in columns] == stream.schema.names
    assert [column.description for column in columns] == [c.doc for c in stream.columns]
    assert spec.is_partitioned == (stream.window is Window.MONTHS)
    if stream.parent is not None:
        assert dg.AssetKey(stream.parent) in spec.parent_keys


def test_transactions_backfill_in_one_run():
    """A range of months is one run with one paged read per account."""
    transactions = defs.resolve_asset_graph().get(dg.AssetKey("transactions"))

    assert transactions.backfill_policy == dg.BackfillPolicy.single_run()
    assert transactions.partitions_def == MONTHS


def test_every_asset_that_reads_lean_waits_for_the_pool():
    """Parallel runs cannot exceed the application's limits."""
    for asset in defs.resolve_all_asset_specs():
        definition = defs.resolve_assets_def(asset.key)
        name = asset.key.to_user_string()
        reads_lean = name in {"refresh", "reconciliation", "missed_events", *STREAMS}
        expected = {"lean_api"} if reads_lean else {"warehouse"}
        if name in {OUTCOME, "daily_report"}:
            expected = set()  # they only look
        assert definition.op.pools == expected, name


def test_a_sync_in_this_process_fills_lake_and_warehouse(tmp_path):
    """Every stream is materialised with its figures, checks pass, and the warehouse opens."""
    sandbox = Sandbox(customers=5, months=3, seed=7, today=TODAY)
    lake = LakeResource(root=str(tmp_path), environment="sandbox")
    told = {}

    with serve(sandbox, port=0, mtls=False) as server, dg.DagsterInstance.ephemeral() as instance:
        lines = sync_all(
            LeanResource(LeanSettings(**values_of(sandbox, server))),
            lake,
            lambda stream, done, total: told.update({stream: (done, total)}),
            instance=instance,
        )

    assert sandbox.calls["POST /oauth2/token"] == 1
    assert sandbox.calls["GET /banks/v1"] == len(STREAMS["banks"].scopes)
    assert [line.stream for line in lines] == list(STREAMS)
    assert all(done == total for done, total in told.values())
    with connect(lake.lake()) as connection:
        for line in lines:
            found = connection.execute(f"select count(*) from {line.stream}").fetchone()
            assert found == (line.rows,)


def test_wrong_settings_fail_the_run_with_the_remedy_and_without_the_secret(tmp_path):
    """A missing certificate is one sentence that names the variables."""
    lean = LeanResource(
        LeanSettings.load(
            {
                "LEAN_APP_TOKEN": "whsec_made_up_and_secret",
                "LEAN_LEGACY_HOST": "true",
                "LEAN_ENVIRONMENT": "production",
            },
            is_complete=False,
        )
    )
    lake = LakeResource(root=str(tmp_path), environment="sandbox")

    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(SyncFailedError, match="LEAN_CLIENT_CERT") as failure,
    ):
        sync_all(lean, lake, silent, instance=instance)

    assert "whsec_made_up_and_secret" not in str(failure.value)
    assert "whsec_made_up_and_secret" not in repr(lean)


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _ask(url, query, **variables):
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    assert "errors" not in found, found["errors"]
    return found["data"]


def _until(found, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if result := found():
                return result
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen within {seconds} s")


_LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
_BACKFILL = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status }
  }
}
"""
_CANCEL = """
mutation ($id: String!) {
  cancelPartitionBackfill(backfillId: $id) {
    __typename
    ... on PythonError { message }
  }
}
"""
_LAUNCH_RUN = """
mutation ($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_EVENTS = """
query ($id: ID!) {
  runOrError(runId: $id) {
    ... on Run { eventConnection { events { ... on MessageEvent { message } } } }
  }
}
"""
_RETRIES = """
query ($id: String!) {
  runsOrError(filter: {tags: [{key: "dagster/parent_run_id", value: $id}]}) {
    ... on Runs { results { runId } }
  }
}
"""
_STEPS = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run { stepStats { stepKey status } } } }
"""
_RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


@pytest.fixture(scope="module")
def dagster_dev(tmp_path_factory):
    """`dagster dev` over an offline Lean: GraphQL address, sandbox, lake; stopped by its own id."""
    home = tmp_path_factory.mktemp("home")
    sandbox = Sandbox(customers=5, months=6, seed=7, today=TODAY)
    port = _free_port()
    with serve(sandbox, port=0, mtls=False) as server:
        prepare_home(home / "dagster")
        shipped = home / "dagster" / "dagster.yaml"
        text = shipped.read_text()
        for slow, quick in (
            ("free_slots_after_run_end_seconds: 60", "free_slots_after_run_end_seconds: 2"),
            ("poll_interval_seconds: 30", "poll_interval_seconds: 2"),
        ):
            assert slow in text
            text = text.replace(slow, quick)
        shipped.write_text(text)
        environment = child_of(values_of(sandbox, server), home)
        log = (home / "dev.log").open("wb")
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"),
                *("-h", "127.0.0.1", "-p", str(port)),
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}/graphql"
        try:
            _until(lambda: _ask(url, "{ version }"), 90, "the webserver's first answer")
            yield url, sandbox, Lake(home / "lake", "sandbox")
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            log.close()


def _start_assets(url, names, tags=()):
    selection = [{"path": [name]} for name in names]
    return _start(url, {"pipelineName": "__ASSET_JOB", "assetSelection": selection}, tags)


def _start(url, what, tags=(), config="{}"):
    found = _ask(
        url,
        _LAUNCH_RUN,
        params={
            "selector": {
                "repositoryLocationName": "pipelines.definitions",
                "repositoryName": "__repository__",
                **what,
            },
            "mode": "default",
            "runConfigData": config,
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags]},
        },
    )["launchPipelineExecution"]
    assert found["__typename"] == "LaunchRunSuccess", found
    return found["run"]["runId"]


def _end_of(url, run_id):
    def ended():
        status = _ask(url, _RUN, id=run_id)["runOrError"]["status"]
        return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None

    return _until(ended, 120, "the run's end")


def _run_assets(url, names, tags=()):
    return _end_of(url, _start_assets(url, names, tags))


def _kill(url, run_id):
    """End a run's process as the kernel does; the steps that it started end with it."""
    events = _ask(url, _EVENTS, id=run_id)["runOrError"]["eventConnection"]["events"]
    told = " ".join(event.get("message") or "" for event in events)
    pid = int(re.search(r"Started process for run \(pid: (\d+)\)", told)[1])
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    family = [pid]
    for parent in family:
        family += [child for child, of in parents if of == parent]
    os.kill(pid, signal.SIGKILL)
    _until(lambda: not any(map(_runs, family)), 30, "the end of the run's steps")


def _runs(pid):
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_month_is_materialised_by_a_running_webserver_and_daemon(dagster_dev):
    """Parents, then one month of transactions through GraphQL: its true rows and no others."""
    url, sandbox, lake = dagster_dev

    assert _run_assets(url, ["entities", "consents"]) == "SUCCESS"
    assert _run_assets(url, ["accounts"]) == "SUCCESS"
    assert _backfill(url, ["2026-01"]) == "COMPLETED_SUCCESS"
    held = set(rows_of(lake, "select account_id, transaction_id from transactions"))
    assert held == _true(sandbox, ["2026-01"])
    assert {row[0] for row in rows_of(lake, "select distinct month from claims")} >= {"2026-01"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_backfill_of_months_without_rows_ends_well(dagster_dev):
    """Lean has nothing of these months, which is no failure; a month of it has rows."""
    url, sandbox, lake = dagster_dev
    if not rows_of(lake, "select 1 from accounts limit 1"):
        assert _run_assets(url, ["entities", "consents"]) == "SUCCESS"
        assert _run_assets(url, ["accounts"]) == "SUCCESS"
    empty = ["2020-01", "2020-02"]
    assert not _true(sandbox, empty)

    assert _backfill(url, empty) == "COMPLETED_SUCCESS"
    assert _backfill(url, [*empty, "2020-03", "2025-12"]) == "COMPLETED_SUCCESS"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_six_months_are_one_series_per_account_and_survive_a_cancellation(dagster_dev):
    """A backfill cancelled halfway frees its slot; run again it ends with the true rows, once."""
    url, sandbox, lake = dagster_dev
    if not rows_of(lake, "select 1 from accounts limit 1"):
        assert _run_assets(url, ["entities", "consents"]) == "SUCCESS"
        assert _run_assets(url, ["accounts"]) == "SUCCESS"
    months = ["2025-10", "2025-11", "2025-12", "2026-01", "2026-02", "2026-03"]
    known = set(rows_of(lake, "select distinct series_id from pulls"))
    sandbox.fail("transactions", "slow:3", None)
    before = sandbox.calls["GET /data/v2/accounts/{account_id}/transactions"]
    begun = _launch(url, months)
    _until(
        lambda: sandbox.calls["GET /data/v2/accounts/{account_id}/transactions"] > before,
        120,
        "the first request",
    )
    cancelled = _ask(url, _CANCEL, id=begun)["cancelPartitionBackfill"]
    assert cancelled["__typename"] == "CancelBackfillSuccess", cancelled
    sandbox.heal()
    assert _ended(url, begun) == "CANCELED"

    assert _backfill(url, months) == "COMPLETED_SUCCESS"

    held = rows_of(lake, "select account_id, transaction_id from transactions")
    assert len(held) == len(set(held))
    assert set(held) == _true(sandbox, months)
    reads = rows_of(
        lake,
        "select parent_id, count(distinct series_id), count(*) from pulls"
        " where stream = 'transactions' and run_id = (select max_by(run_id, pull_id) from pulls)"
        " group by all",
    )
    assert len(reads) > 3
    assert {count for _, count, _ in reads} == {1}
    assert max(pulls for _, _, pulls in reads) == len(months)
    assert set(rows_of(lake, "select distinct series_id from pulls")) > known


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_run_is_taken_up_where_it_ended_and_others_wait_their_turn(dagster_dev):
    """Steps that read Lean take turns, and a killed run does not keep its turn or begin anew."""
    url, sandbox, lake = dagster_dev
    if not rows_of(lake, "select 1 from consents limit 1"):
        assert _run_assets(url, ["entities", "consents"]) == "SUCCESS"
    entities, accounts = "GET /customers/v1/entities", "GET /data/v2/accounts"
    customers = "GET /customers/v1"
    sandbox.fail("/data/v2/accounts", "slow:45", None)
    before = sandbox.calls.copy()

    killed = _start_assets(url, ["entities", "consents", "accounts"])
    _until(lambda: sandbox.calls[accounts] > before[accounts], 120, "the first request")
    other = _start_assets(url, ["customers"])
    time.sleep(5)  # a few rounds of the daemon's
    assert _ask(url, _RUN, id=other)["runOrError"]["status"] == "QUEUED"
    assert sandbox.calls[customers] == before[customers]
    assert sandbox.calls[entities] == before[entities] + 1
    _kill(url, killed)
    sandbox.heal()

    assert _end_of(url, killed) == "FAILURE"
    assert _end_of(url, other) == "SUCCESS"
    (again,) = _until(
        lambda: _ask(url, _RETRIES, id=killed)["runsOrError"]["results"], 60, "another try"
    )
    assert _end_of(url, again["runId"]) == "SUCCESS"
    assert sandbox.calls[customers] > before[customers]
    assert sandbox.calls[entities] == before[entities] + 1
    assert sandbox.calls[accounts] > before[accounts]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_night_that_is_launched_by_hand_publishes_what_succeeded(dagster_dev):
    """Without a partition or a configuration, in one process, with a stream that fails."""
    url, sandbox, lake = dagster_dev
    sandbox.fail("balances", "FAILED:BANK_ISSUE", None)
    published = lake.warehouse.stat().st_ino if lake.warehouse.exists() else None

    run_id = _start(url, {"pipelineName": "nightly_sync"})
    ended = _end_of(url, run_id)
    sandbox.heal()

    events = _ask(url, _EVENTS, id=run_id)["runOrError"]["eventConnection"]["events"]
    told = [event.get("message") or "" for event in events]
    assert ended == "FAILURE"
    assert any(text.startswith("balances: ") and "BANK_ISSUE" in text for text in told)
    steps = _ask(url, _STEPS, id=run_id)["runOrError"]["stepStats"]
    assert {one["stepKey"] for one in steps if one["status"] != "SUCCESS"} == {OUTCOME}
    assert not any("Launching subprocess" in text for text in told)
    assert rows_of(lake, "select 1 from transactions limit 1")
    assert lake.warehouse.stat().st_ino != published


def _launch(url, months):
    found = _ask(
        url,
        _LAUNCH,
        params={
            "assetSelection": [{"path": ["transactions"]}],
            "partitionNames": months,
            "fromFailure": False,
            "tags": [],
        },
    )["launchPartitionBackfill"]
    assert found["__typename"] == "LaunchBackfillSuccess", found
    return found["backfillId"]


def _ended(url, backfill):
    def ended():
        status = _ask(url, _BACKFILL, id=backfill)["partitionBackfillOrError"]["status"]
        return status if status.startswith(("COMPLETED", "CANCELED")) or "FAIL" in status else None

    return _until(ended, 180, "the backfill's end")


def _backfill(url, months):
    return _ended(url, _launch(url, months))


def _true(sandbox, months):
    """Keys of the transactions that the months hold."""
    return {
        (record["account_id"], record["transaction_id"])
        for record in (one["record"] for one in sandbox.truth("transactions"))
        if record["booking_date_time"][:7] in months
    }


def test_only_what_dagster_takes_up_again_by_itself_goes_on_where_it_ended():
    """Attempts of one run know of each other; a run that somebody executes again reads anew."""
    with dg.DagsterInstance.ephemeral() as instance:

        def ran(run_id, **tags):
            tags = {f"dagster/{name}": value for name, value in tags.items()}
            return instance.add_run(dg.DagsterRun(job_name="nightly", run_id=run_id, tags=tags))

        first, by_hand = make_new_run_id(), make_new_run_id()
        second, third = make_new_run_id(), make_new_run_id()
        root = {"root_run_id": first, "parent_run_id": first}
        runs = {
            first: ran(first),
            second: ran(second, retry_number="1", **root),
            by_hand: ran(by_hand, **root),
            third: ran(third, retry_number="2", **root),
        }

        assert run_ids_of(runs[first], instance) == {first}
        assert run_ids_of(runs[third], instance) == {first, second, third}
        assert run_ids_of(runs[by_hand], instance) == {by_hand}


def test_a_step_that_is_tried_again_goes_on_and_a_first_try_looks_for_nothing():
    """The ledger is asked for earlier reads of a run only where there can be some."""
    told = []

    @dg.op
    def step(context: dg.OpExecutionContext):
        told.append((context.run.run_id, resumed_by(context)))
        if len(told) == 1:
            raise dg.RetryRequested(max_retries=1)

    @dg.job
    def twice():
        step()

    assert twice.execute_in_process().success
    (run_id, first), (_, second) = told
    assert (first, second) == (set(), {run_id})


def test_an_asset_is_found_by_its_name_in_the_version_before():
    """Dagster has no second name for an asset, but a selection can ask for its tag."""
    graph = defs.resolve_asset_graph()

    for model in load():
        if model.formerly:
            found = dg.AssetSelection.from_string(f'tag:"formerly"="{model.formerly}"')
            assert found.resolve(graph) == {dg.AssetKey(model.name)}
    assert not dg.AssetSelection.from_string('tag:"formerly"="int_unfit_days"').resolve(graph)


def test_dg_finds_the_definitions_of_the_checkout(tmp_path):
    """Dagster's newer command reads pyproject.toml and names the same assets and jobs."""
    found = subprocess.run(
        [*(Path(sys.executable).parent / "dg", "list", "defs", "--json"), "--target-path", ROOT],
        env={**os.environ, "LEANHOUSE_HOME": str(tmp_path), "DAGSTER_HOME": ""},
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )

    listed = json.loads(found.stdout)
    assert found.stderr == ""
    assert {one["asset_key"] for one in listed["assets"]} == {
        key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()
    }
    assert "nightly_sync" in {one["name"] for one in listed["jobs"]}


def test_marts_are_grouped_by_subject():
    """Whoever looks for balances finds them in one group; steps have a group of their own."""
    specs = {spec.key.to_user_string(): spec.group_name for spec in defs.resolve_all_asset_specs()}

    assert specs["fct_affordability"] == "income_and_obligations"
    assert specs["int_unfit_days"] == "intermediate"
    assert specs["stg_accounts"] == "staging"
    assert specs["consents"] == specs["refresh"] == "lean_directory"
    assert (specs["accounts"], specs["balances"]) == ("lean_entities", "lean_accounts")
    assert max(Counter(specs.values()).values()) < 20, "a group no longer fits on a screen"
    subjects = {name.replace(" ", "_") for name in SUBJECTS}
    marts = {model.name for model in load() if model.layer == "marts"}
    assert {specs[name] for name in marts} == subjects
    assert subjects.isdisjoint(group for name, group in specs.items() if name not in marts)


def test_a_step_logs_its_progress_at_a_bounded_rate(monkeypatch):
    """Many reads make few lines, each with what is left."""
    at = [0.0]
    monkeypatch.setattr("pipelines.dagster_defs.resources.time.monotonic", lambda: at[0])
    lines, told = [], []
    log = SimpleNamespace(info=lambda text, *given: lines.append(text % given))
    report = logged(log, "balances", lambda *given: told.append(given))

    for done in range(1, 1001):
        at[0] += 0.1
        report(done, 1000)

    assert lines[0] == "balances: 300 of 1000 reads, 10.0 a second, 70 s left"
    assert len(lines) == 3
    assert told[-1] == ("balances", 1000, 1000)
