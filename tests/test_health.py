"""What is wrong is found, and nothing else: the rules of health over real lakes and real runs."""

import asyncio
import datetime as dt
import json
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import duckdb
import pytest
import trustme
from conftest import client_of, sync_everything
from dagster._core.utils import make_new_run_id
from receiving import SECRET, receiving

sys.path.insert(0, str(Path(__file__).parent / "conformance"))
from worlds import Wire, wired

from lean_resources.errors import AuthError, BankPausedError, ConsentError, UnavailableError
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.dagster_defs import failures
from pipelines.dagster_defs.resources import InboxResource, LakeResource, bound, silent
from pipelines.dagster_defs.stream_assets import stream_assets
from pipelines.environment import Settings
from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES
from pipelines.operate import health as health_module
from pipelines.operate import machine_problems
from pipelines.operate.bank_health import Lateness, lake_facts
from pipelines.operate.health import health
from pipelines.operate.problems import PULLS_FAILED, RULES, in_order, problem
from pipelines.operate.run_problems import JOBS, recorded_runs, run_problems
from pipelines.sync.policy import Policy
from pipelines.sync.refresh_budget import Budget

BANK = "ALINMA_SAU"
WORLD = {"customers": 4, "months": 2, "seed": 7}
EVER = 1e6
"""Hours that no test takes."""


def going_on(made_at, **changes):
    """The offline Lean of an instant, whose clock is this machine's."""
    sandbox = Sandbox(**WORLD | changes, today=made_at)
    sandbox.clock.advance(dt.datetime.now(dt.UTC) - made_at)
    return sandbox


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """When a lake of four customers was filled, and that lake."""
    lake, made_at = Lake(tmp_path_factory.mktemp("healthy"), "sandbox"), dt.datetime.now(dt.UTC)
    asyncio.run(sync_everything(client_of(going_on(made_at)), lake))
    return made_at, lake


@pytest.fixture
def lake(made, tmp_path):
    """A copy of that lake."""
    shutil.copytree(made[1].folder, tmp_path / "sandbox")
    return Lake(tmp_path, "sandbox")


@pytest.fixture
def sandbox(made):
    """The offline Lean that filled it."""
    return going_on(made[0])


def sync(sandbox, lake, *names, policy=None, client=None):
    """A sync of some streams."""

    async def work():
        from pipelines.sync.engine import sync
        from pipelines.sync.tasks import Selection

        async with client or client_of(sandbox) as lean:
            for name in names:
                await sync(
                    STREAMS[name], lean, lake, policy=policy or Policy(), selection=Selection()
                )

    asyncio.run(work())


def problems(lake, policy=None, **given):
    """What is wrong with a lake."""
    return health(lake, policy or Policy(fresh_hours={"balances": EVER}), **given).problems


def named(found):
    """Rules and subjects."""
    return [(one.rule, one.subject) for one in found]


def entities_of(lake, bank=BANK):
    """The entities of a bank."""
    with lake.connect(("entities",)) as connection:
        rows = connection.execute(
            "select entity_id from entities where bank_identifier = $1", [bank]
        ).fetchall()
    return {entity_id for (entity_id,) in rows}


def fail(sandbox, lake, stream, fault):
    """Let a bank fail from now on."""
    for entity_id in entities_of(lake):
        sandbox.fail(stream, fault, times=None, entity_id=entity_id)


def test_a_lake_that_is_well_has_no_problem(lake):
    """Its banks show what was read and asked today."""
    seen = health(lake, Policy())

    assert seen.problems == []
    assert not seen.needs_a_person
    banks = {one.bank_identifier: one for one in seen.banks}
    assert banks.keys() == {"", BANK, "LEA1_SAMAOB_SAU", "LEA2_SAMAOB_SAU"}
    assert all(one.entities and one.requests_today for name, one in banks.items() if name)
    assert banks[BANK].refreshes_allowed == 4 * len(entities_of(lake))
    assert {one.stream for one in seen.streams} >= {"accounts", "transactions"}


def test_a_lake_that_does_not_exist_yet_says_what_to_do_first(tmp_path):
    """Nothing is made by looking."""
    [found] = problems(Lake(tmp_path / "none", "sandbox"))

    assert found.rule == "no_sync_yet"
    assert "leanhouse sync" in found.remedy
    assert not (tmp_path / "none").exists()


def test_a_failing_bank_is_one_problem_with_code_and_remedy_until_it_answers(sandbox, lake):
    """Whatever the streams; the count is of read targets, and a later good read ends it."""
    fail(sandbox, lake, "balances", "FAILED:BANK_ISSUE")
    fail(sandbox, lake, "identity", "FAILED:BANK_ISSUE")
    many = Policy(reread_hours={}, bank_failures=100)
    before = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    sandbox.clock.advance(dt.timedelta(seconds=5))

    sync(sandbox, lake, "balances", "identity", policy=many)

    [found] = problems(lake)
    [bank] = [one for one in health(lake, Policy()).banks if one.bank_identifier == BANK]
    assert (found.rule, found.subject, found.code) == ("bank_failing", BANK, "BANK_ISSUE")
    assert (found.severity, found.remedy) == ("error", UnavailableError.remedy)
    assert {one.stream for one in bank.failures} == {"balances", "identity"}
    assert found.count == sum(one.count for one in bank.failures) > 3
    assert f"{found.count} of {found.count} reads of balances, identity fail" in found.message
    assert found.since > before

    sandbox.heal()
    sync(sandbox, lake, "balances", "identity", policy=many)
    assert problems(lake) == []


def test_what_is_not_read_from_a_bank_fails_as_a_stream(sandbox, lake):
    """Its subject is the stream."""
    sandbox.fail("GET /customers/v1", "503", times=None)

    sync(sandbox, lake, "customers", client=client_of(sandbox, attempts=1))

    [found] = problems(lake)
    assert (found.rule, found.subject, found.code) == ("stream_failing", "customers", "NOT_JSON")
    assert (found.count, found.severity) == (1, "error")


def test_few_failures_are_a_warning(sandbox, lake):
    """As many as failure_threshold allows heal by the next sync."""
    entity_id = min(entities_of(lake))
    sandbox.fail("balances", "FAILED:BANK_ISSUE", times=1, entity_id=entity_id)

    sync(sandbox, lake, "balances")

    assert [one.severity for one in problems(lake, Policy(failure_threshold=0.9))] == ["warning"]
    assert [one.severity for one in problems(lake, Policy(failure_threshold=0.0))] == ["error"]


def test_a_bank_that_failed_in_a_row_is_left_alone_for_a_while(sandbox, lake):
    """The cause counts for all of its targets, also for those that were not asked."""
    fail(sandbox, lake, "balances", "FAILED:BANK_ISSUE")
    policy = Policy(bank_failures=1)

    sync(sandbox, lake, "balances", policy=policy)

    now = dt.datetime.now(dt.UTC)
    failing, paused = problems(lake, policy)
    assert named([failing, paused]) == [("bank_failing", BANK), ("bank_paused", BANK)]
    assert (failing.code, paused.code) == ("BANK_ISSUE", "CIRCUIT_OPEN")
    later = now + dt.timedelta(seconds=policy.bank_cooldown_seconds + 1)
    assert "bank_paused" not in dict(named(problems(lake, policy, now=later)))


def test_customers_who_have_to_connect_again_are_their_own_problem(sandbox, lake):
    """Not the bank's failure: the remedy is to ask them."""
    fail(sandbox, lake, "balances", "RECONNECT_REQUIRED")

    sync(sandbox, lake, "balances")

    [found] = problems(lake)
    assert (found.rule, found.subject) == ("consent_refused", BANK)
    assert (found.code, found.remedy) == ("RECONNECT_REQUIRED", ConsentError.remedy)


def test_a_bank_that_is_off_says_so(sandbox, lake):
    """As Lean's list of banks does."""
    sandbox.switch_bank(BANK, active=False)

    sync(sandbox, lake, "banks", "balances")

    [found] = problems(lake)
    assert (found.rule, found.subject, found.severity) == ("bank_off", BANK, "error")
    assert (found.code, found.remedy) == ("DISABLED_BY_LEAN", BankPausedError.remedy)
    assert found.since is not None


def test_consents_that_ended_and_that_are_about_to(tmp_path):
    """Swept or not; what the customer ended, and what ended long ago, is no problem."""
    made_at, lake = dt.datetime.now(dt.UTC), Lake(tmp_path, "sandbox")
    sync(going_on(made_at, customers=8), lake, "banks", "entities")

    found = problems(lake)

    assert [(one.rule, one.subject, one.count, one.severity) for one in found] == [
        ("consent_expired", BANK, 1, "error"),
        ("consent_expired", "NAKHEEL_SAU", 1, "error"),
        ("consent_ending", "NAKHEEL_SAU", 1, "warning"),
    ]
    assert {one.remedy for one in found[:2]} == {ConsentError.remedy}
    assert {one.code for one in found[:2]} == {"CONSENT_EXPIRED"}
    assert all(made_at - dt.timedelta(days=4) < one.since < made_at for one in found[:2])
    assert named(problems(lake, consent_days=0)) == []
    much_later = made_at + dt.timedelta(days=20)
    assert ("consent_expired", BANK) not in named(problems(lake, now=much_later))


def changing(change):
    """A change of each record of balances, as `Wire` takes it."""

    def spoil(request, body):
        if not request.url.path.endswith("/balances"):
            return body
        page = json.loads(body)
        for record in (page.get("data") or {}).get("balances") or []:
            change(record)
        return json.dumps(page).encode()

    return spoil


@pytest.fixture
def small(tmp_path):
    """An empty lake, and the offline Lean of a customer."""
    return Lake(tmp_path, "sandbox"), going_on(dt.datetime.now(dt.UTC), customers=1)


def unfit(record):
    """Give a balance an amount that is no number."""
    record["amount"] = {"amount": "1250.00", "currency": "SAR"}


def test_records_in_quarantine_are_counted_with_their_reason(small):
    """Each stream of a bank is a problem, with what to read."""
    lake, sandbox = small
    client = wired(sandbox, Wire(sandbox, changing(unfit)))

    sync(sandbox, lake, "banks", "entities", "accounts", "balances", client=client)

    [found] = problems(lake)
    [bank] = [one for one in health(lake, Policy()).banks if one.quarantine]
    assert (found.rule, found.code, found.severity) == ("quarantined", "RECORDS_UNFIT", "error")
    assert found.subject == f"{bank.bank_identifier} balances"
    assert found.count == sum(one.count for one in bank.quarantine) > 0
    assert f"amount is not a number ({found.count})" in found.message
    assert "quarantine" in found.remedy
    [stream] = [one for one in health(lake, Policy()).streams if one.stream == "balances"]
    assert stream.unfit == found.count


@pytest.mark.parametrize("seconds", [-300, -45, 300])
def test_a_wrong_clock_is_found_without_asking_lean(tmp_path, seconds):
    """From what each read noted of both clocks; answers may take some seconds."""
    lake, leans = Lake(tmp_path, "sandbox"), dt.datetime.now(dt.UTC)
    leans += dt.timedelta(seconds=seconds)

    sync(Sandbox(**WORLD, today=leans), lake, "banks")

    found = problems(lake)
    if abs(seconds) < 60:
        assert found == []
        return
    assert named(found) == [("clock_skew", "machine")]
    side = "behind" if seconds > 0 else "ahead of"
    assert f"{side} Lean's" in found[0].message
    assert "NTP" in found[0].remedy


def test_data_that_is_old_is_late_where_nothing_else_explains_it(sandbox, lake):
    """Twice the hours of the policy; a bank that fails is late for that reason."""
    policy, later = Policy(fresh_hours={"balances": 24}), dt.datetime.now(dt.UTC)
    later += dt.timedelta(hours=40)
    assert "stale" not in dict(named(problems(lake, policy, now=later)))
    later += dt.timedelta(hours=40)

    found = [one for one in problems(lake, policy, now=later) if one.rule == "stale"]

    assert {one.subject for one in found} == {BANK, "LEA1_SAMAOB_SAU", "LEA2_SAMAOB_SAU"}
    assert {one.severity for one in found} == {"warning"}
    assert all("balances of " in one.message and one.since < later for one in found)

    fail(sandbox, lake, "identity", "FAILED:BANK_ISSUE")
    sync(sandbox, lake, "identity", policy=Policy(reread_hours={}))
    after = [one for one in problems(lake, policy, now=later) if one.rule == "stale"]
    assert BANK not in {one.subject for one in after}
    assert len(after) == len(found) - 1


def test_old_data_without_a_refresh_left_says_when_the_next_is_allowed(lake):
    """Fresh data needs none."""
    policy, now = Policy(fresh_hours={"balances": 1}, refreshes_per_day=1), dt.datetime.now(dt.UTC)
    now += dt.timedelta(hours=20)
    Budget(lake, 1).reserve(entities_of(lake), now)

    found = {one.rule: one for one in problems(lake, policy, now=now) if one.subject == BANK}
    [bank] = [one for one in health(lake, policy, now=now).banks if one.bank_identifier == BANK]

    assert found.keys() == {"stale", "refresh_budget"}
    assert found["refresh_budget"].count == len(entities_of(lake))
    assert f"{now + dt.timedelta(days=1):%Y-%m-%d %H:%M} UTC" in found["refresh_budget"].remedy
    assert bank.refreshes_used == bank.refreshes_allowed == len(entities_of(lake))
    lenient = Policy(fresh_hours={"balances": EVER}, refreshes_per_day=1)
    assert "refresh_budget" not in dict(named(problems(lake, lenient, now=now)))


def test_tables_that_no_build_made_from_the_newest_pull(lake):
    """An hour after it, since a run builds them last."""
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)

    [found] = problems(lake, now=later)

    assert (found.rule, found.severity) == ("tables_behind", "warning")
    assert "leanhouse build" in found.remedy


def test_a_ledger_that_cannot_be_read_is_damage(lake):
    """And not an exception."""
    file = next(lake.folder.glob("pulls/*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-40])

    [found] = problems(lake)

    assert (found.rule, found.subject, found.severity) == ("damage", "lake", "error")
    assert "fsck" in found.remedy


def settings_of_machine(tmp_path, **values):
    """Settings of an environment."""
    return Settings.load({"LEANHOUSE_HOME": str(tmp_path), **values})


@pytest.mark.parametrize(
    ("total", "free", "is_full"),
    [(100 << 30, 4 << 30, True), (100 << 30, 6 << 30, False), (10 << 40, 40 << 30, False)],
)
def test_a_nearly_full_disk(lake, monkeypatch, total, free, is_full):
    """A share of it, or room for any size."""
    usage = SimpleNamespace(total=total, free=free)
    monkeypatch.setattr(machine_problems.shutil, "disk_usage", lambda _: usage)

    found = problems(lake, settings=settings_of_machine(lake.folder))

    assert named(found) == ([("disk_nearly_full", "machine")] if is_full else [])
    if is_full:
        assert (found[0].severity, found[0].code) == ("error", "DISK_FULL")
        assert "leanhouse vacuum" in found[0].remedy


def test_a_receiver_that_is_down_is_found_and_none_where_webhooks_are_not_set_up(lake, tmp_path):
    """Also a receiver that runs and cannot store."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    down = settings_of_machine(tmp_path, LEAN_WEBHOOK_SECRET=SECRET, LEAN_WEBHOOK_PORT=str(port))

    [found] = problems(lake, settings=down)

    assert (found.rule, found.subject, found.severity) == ("receiver_down", "receiver", "error")
    assert f"127.0.0.1:{port} does not answer" in found.message
    assert "leanhouse webhooks" in found.remedy
    assert problems(lake, settings=settings_of_machine(tmp_path)) == []
    file = tmp_path / "inbox.db"
    with receiving(f"sqlite:///{file}") as running:
        up = settings_of_machine(
            tmp_path, LEAN_WEBHOOK_SECRET=SECRET, LEAN_WEBHOOK_PORT=str(running.port)
        )
        assert problems(lake, settings=up) == []
        file.rename(tmp_path / "moved.db")
        [found] = problems(lake, settings=up)
        assert "cannot store" in found.message


@pytest.mark.parametrize(
    ("days", "expected"), [(40, []), (20, ["warning"]), (5, ["error"]), (-1, ["error"])]
)
def test_a_certificate_that_is_about_to_end(lake, tmp_path, days, expected):
    """The client's own, or any of its chain."""
    now = dt.datetime.now(dt.UTC)
    own = trustme.CA().issue_cert("lean.example", not_after=now + dt.timedelta(days=300))
    of_chain = trustme.CA().issue_cert("chain.example", not_after=now + dt.timedelta(days=days))
    file, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    own.private_key_pem.write_to_path(str(key))
    for one in (own, of_chain):
        one.cert_chain_pems[0].write_to_path(str(file), append=True)
    settings = settings_of_machine(tmp_path, LEAN_CLIENT_CERT=str(file), LEAN_CLIENT_KEY=str(key))

    found = problems(lake, settings=settings, now=now)

    assert [one.severity for one in found] == expected
    assert all(one.rule == "certificate_ending" for one in found)
    for one in found:
        assert f"on {now + dt.timedelta(days=days):%Y-%m-%d}" in one.message
        assert "Lean's dashboard" in one.remedy


class Direct:
    """Stands for the resource of Lean: the client goes to the offline Lean without a network."""

    def __init__(self, client):
        self._client = client

    def run(self, work, *_):
        """Run work with a client, as the resource does."""

        async def inner():
            async with self._client as lean:
                return await work(lean)

        return asyncio.run(inner())


class AtOnce(dg.RetryRequested):
    """A retry that is not waited for: the first failure is the last."""

    def __init__(self, **_):
        super().__init__(max_retries=0)


def run(instance, client, lake, *streams, policy=None):
    """A run of the assets of some streams; whether it succeeded."""
    return dg.materialize(
        [one for one in stream_assets if one.node_def.name in {f"pull_{s}" for s in streams}],
        instance=instance,
        resources=bound(
            lean=Direct(client),
            lake=LakeResource(lake.folder.parent, "sandbox"),
            inbox=InboxResource(),
            policy=policy or Policy(),
            progress=silent,
        ),
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    ).success


@pytest.fixture
def instance():
    """Where runs are recorded."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_refused_credentials_are_one_problem_until_a_run_succeeds(sandbox, lake, instance):
    """However many steps they stop."""
    wrong = client_of(sandbox, client_secret="made-up-and-wrong")
    assert not run(instance, wrong, lake, "banks", "customers")

    [found] = problems(lake, instance=instance)

    assert (found.rule, found.subject, found.severity) == ("credentials_refused", "lean", "error")
    assert found.remedy == AuthError.remedy
    assert found.code
    assert found.message.startswith("banks, customers: ")
    assert "made-up-and-wrong" not in repr(found)
    assert dt.datetime.now(dt.UTC) - found.since < dt.timedelta(minutes=1)

    assert run(instance, client_of(sandbox), lake, "banks")
    [left] = problems(lake, instance=instance)
    assert left.message.startswith("customers: ")
    assert run(instance, client_of(sandbox), lake, "customers")
    assert problems(lake, instance=instance) == []


def test_lean_being_down_is_one_problem(sandbox, lake, instance, monkeypatch):
    """After the last try of the step; what is old meanwhile is its effect."""
    monkeypatch.setattr(failures.dg, "RetryRequested", AtOnce)
    sandbox.fail("", "503", times=None)
    assert not run(instance, client_of(sandbox, attempts=1), lake, "banks")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=9)

    found = problems(lake, Policy(), instance=instance, now=later)

    assert named(found) == [("lean_down", "lean"), ("tables_behind", "tables")]
    assert found[0].remedy == UnavailableError.remedy
    assert (found[0].severity, found[0].code) == ("error", "UNAVAILABLE")


def test_unknown_fields_are_named_until_a_run_finds_none(small, instance):
    """From the newest check of the stream."""
    lake, sandbox = small
    sync(sandbox, lake, "banks", "entities", "accounts")
    client = wired(sandbox, Wire(sandbox, changing(lambda one: one.update(mood="made up"))))
    assert run(instance, client, lake, "balances")

    [found] = problems(lake, instance=instance)

    assert (found.rule, found.subject, found.severity) == ("schema_drift", "balances", "warning")
    assert "unknown fields: mood" in found.message
    assert "made up" not in repr(found)
    assert "replay" in found.remedy
    assert run(instance, client_of(sandbox), lake, "balances")
    assert problems(lake, instance=instance) == []


def test_a_step_that_failed_because_its_pulls_did_is_told_by_the_bank(sandbox, lake, instance):
    """The ledger knows the code; the failed step repeats it."""
    fail(sandbox, lake, "balances", "FAILED:BANK_ISSUE")
    policy = Policy(failure_threshold=0.01, fresh_hours={"balances": EVER})
    assert not run(instance, client_of(sandbox), lake, "balances", policy=policy)

    assert [one.code for one in run_problems(instance)] == [PULLS_FAILED]
    assert named(problems(lake, policy, instance=instance)) == [("bank_failing", BANK)]


def failing(error):
    """A job whose step fails."""

    @dg.op(name="models")
    def step():
        with failures.explained():
            raise error

    @dg.job(name="by_hand")
    def job():
        step()

    return job


def test_a_failed_step_says_which_and_why_and_quotes_no_value(lake, instance):
    """Of an error that nobody expected only its class."""
    failing(ValueError("SA0380000000608010167519")).execute_in_process(
        instance=instance, raise_on_error=False
    )

    [found] = problems(lake, instance=instance)

    assert (found.rule, found.subject, found.severity) == ("run_failed", "models", "error")
    assert found.message == "models: ValueError in a step"
    assert "SA03" not in repr(found)


def test_a_run_that_never_began_is_found_until_its_job_succeeds(lake, instance):
    """As when its process is killed, or the code does not load."""

    @dg.job(name="night")
    def night():
        dg.op(name="step")(lambda: None)()

    instance.report_run_failed(instance.create_run_for_job(night))

    [found] = problems(lake, instance=instance)

    assert (found.rule, found.subject) == ("run_failed", "night")
    assert "before any of its steps" in found.message
    night.execute_in_process(instance=instance)
    assert problems(lake, instance=instance) == []


def test_a_run_that_dagster_took_up_again_is_looked_at(lake, instance):
    """Dagster keeps the choice of assets of such a run as a set that has no hash."""

    @dg.job(name="night")
    def night():
        dg.op(name="step")(lambda: None)()

    run = instance.create_run_for_job(night)
    instance.add_run(
        run._replace(run_id=make_new_run_id(), asset_selection={dg.AssetKey("refresh")})
    )
    instance.report_run_failed(instance.get_runs(limit=1)[0])

    assert [one.rule for one in run_problems(instance)] == ["run_failed"]


def test_a_step_of_a_run_sees_what_failed_before_it_in_the_run(lake, instance):
    """As a report does that a run writes last."""
    seen = []

    @dg.op(out=dg.Out(is_required=False))
    def first():
        raise dg.Failure("made up", metadata={"remedy": "do it", "code": "MADE_UP"})

    @dg.op
    def report(context):
        seen.extend(problems(lake, instance=context.instance))

    @dg.job(name="night")
    def night():
        first()
        report()

    assert not night.execute_in_process(instance=instance, raise_on_error=False).success

    [found] = seen
    assert (found.rule, found.subject, found.code) == ("run_failed", "first", "MADE_UP")
    assert (found.message, found.remedy) == ("first: made up", "do it")


def test_models_that_failed_leave_their_tables(lake, instance):
    """With the table to explain."""
    stay = {"stay as they were": dg.MetadataValue.json(["fct_transactions", "dim_dates"])}
    error = dg.Failure("fct_transactions: BinderException of DuckDB", metadata=stay)
    failing(error).execute_in_process(instance=instance, raise_on_error=False)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)

    [found] = problems(lake, instance=instance, now=later)

    assert (found.rule, found.subject, found.count) == ("tables_failed", "models", 2)
    assert "leanhouse build --explain fct_transactions" in found.remedy


@pytest.mark.parametrize(
    ("asset", "check", "metadata", "expected"),
    [
        ("integrity", "holds_what_was_written", {"count": 3}, ("damage", "lake", "3 files")),
        ("missed_events", "nothing_was_missed", {"repaired": 4},
         ("events_missed", "receiver", "4 webhooks")),
        ("reconciliation", "agrees_with_lean", {"months": 1},
         ("lean_differs", "transactions", "differ")),
    ],
)  # fmt: skip
def test_failed_checks_of_a_night_are_problems_until_they_pass(
    lake, instance, asset, check, metadata, expected
):
    """Damage, missed events and what Lean tells otherwise."""
    for passed in (True, False):
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(asset), check_name=check, passed=passed, metadata=metadata
            )
        )
    rule, subject, words = expected

    [found] = problems(lake, instance=instance)

    assert (found.rule, found.subject) == (rule, subject)
    assert words in found.message
    assert found.severity == RULES[rule].severity
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset), check_name=check, passed=True, metadata=metadata
        )
    )
    assert problems(lake, instance=instance) == []


def test_every_job_is_looked_at():
    """Also the seldom ones among many runs of webhooks."""
    from pipelines.definitions import defs

    assert {job.name for job in defs.resolve_all_job_defs()} <= set(JOBS)


def test_many_runs_of_one_job_hide_no_failure_of_another(lake, instance, monkeypatch):
    """As webhooks would hide the night."""
    monkeypatch.setattr("pipelines.operate.run_problems._RUNS", 2)
    error = dg.Failure("made up", metadata={"remedy": "do it"})
    monkeypatch.setattr("pipelines.operate.run_problems.JOBS", ("by_hand",))
    failing(error).execute_in_process(instance=instance, raise_on_error=False)

    @dg.job(name="busy")
    def busy():
        dg.op(name="step")(lambda: None)()

    for _ in range(3):
        busy.execute_in_process(instance=instance)

    assert named(problems(lake, instance=instance)) == [("run_failed", "models")]


def test_looking_at_runs_makes_no_home_of_dagster(tmp_path):
    """Whether the folder is missing or empty."""
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        with recorded_runs(tmp_path / name) as found:
            assert found is None
    assert [one.name for one in tmp_path.rglob("*")] == ["empty"]


def test_errors_come_first_then_the_most_urgent_rule():
    """The order of the rules is that of the list."""
    given = [problem(rule, "x", "", "") for rule in reversed(RULES)]
    found = in_order([*given, problem("stale", "x", "", "", severity="error")])

    severities = [one.severity for one in found]
    assert severities == sorted(severities)
    assert [one.rule for one in found if one.severity == "error"][:2] == [
        "no_sync_yet", "credentials_refused"
    ]  # fmt: skip


def late(policy, *counts):
    """What the figures of a bank are that showed so many movements after so many days."""
    with duckdb.connect() as connection:
        connection.execute(
            "create table lateness (bank_identifier varchar, days_late bigint, movement_count int)"
        )
        connection.executemany(f"insert into lateness values ('{BANK}', ?, ?)", counts)
        [(bank, *figures)] = connection.execute(
            QUERIES["health_lateness"],
            {
                "banks": list(policy.nightly_days_by_bank),
                "days": list(policy.nightly_days_by_bank.values()),
                "usual": policy.nightly_days,
            },
        ).fetchall()
    assert bank == BANK
    return Lateness(*figures)


def test_figures_of_lateness_are_days_within_which_movements_are_seen():
    """Of 200 movements the 190th came after a day, the 198th after nine, and one after twenty."""
    figures = late(Policy(), (0, 150), (1, 40), (9, 9), (20, 1))

    assert figures == Lateness(200, 0, 1, 9, 20, 0.05)
    assert late(Policy(nightly_days_by_bank={BANK: 9}), (0, 150), (9, 49), (20, 1)) == Lateness(
        200, 0, 9, 9, 20, 0.005
    )


@pytest.mark.parametrize(
    ("counts", "policy", "days"),
    [
        ([(0, 980), (9, 20)], Policy(), 9),
        ([(0, 980), (9, 20)], Policy(nightly_days_by_bank={BANK: 9}), None),
        ([(0, 991), (9, 9)], Policy(), None),
        ([(0, 50), (9, 20)], Policy(), None),
    ],
    ids=["late", "allowed for", "seldom", "too few to tell"],
)
def test_a_bank_that_is_later_than_the_last_days_says_so(lake, monkeypatch, counts, policy, days):
    """The remedy names the setting, the bank and the days within which 99 in 100 come."""
    facts = lake_facts(lake, policy, dt.datetime.now(dt.UTC), 14)
    banks = [
        replace(one, lateness=late(policy, *counts)) if one.bank_identifier == BANK else one
        for one in facts.banks
    ]
    monkeypatch.setattr(health_module, "lake_facts", lambda *_: replace(facts, banks=banks))

    found = [one for one in health(lake, policy).problems if one.rule == "bank_late"]

    assert [one.subject for one in found] == ([] if days is None else [BANK])
    for one in found:
        assert one.severity == "warning"
        assert f"nightly_days_by_bank = {{ {BANK} = {days} }}" in one.remedy
        assert one.message.startswith("2.0% of 1,000 movements came later than 7 days")
