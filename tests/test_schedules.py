"""The policy file, the schedules, and the runs that they ask for."""

import datetime as dt

import dagster as dg
import pytest
from conftest import TODAY, rows_of
from test_dagster import values_of

from lean_resources.errors import ConfigError
from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings
from pipelines.dagster_defs.failures import OUTCOME
from pipelines.dagster_defs.resources import LakeResource, silent
from pipelines.dagster_defs.schedules import schedules
from pipelines.definitions import defs, models
from pipelines.sync.policy import Alerts, Policy, Schedules, load

NOW = dt.datetime(2026, 11, 24, 23, tzinfo=dt.UTC)


def test_without_a_file_the_usual_policy_holds(tmp_path):
    """No file is needed."""
    assert load(tmp_path / "policy.toml") == (Policy(), Schedules(), Alerts())


def test_knobs_are_read_from_the_file(tmp_path):
    """Those of the policy at the top, those of the schedules in their table."""
    file = tmp_path / "policy.toml"
    file.write_text(
        "lookback_days = 10\nlookback_days_by_bank = { SNB = 45 }\n"
        '[schedules]\nenabled = true\nnightly = "30 1 * * *"\n'
    )

    policy, when, _ = load(file)

    assert (policy.open_days_of("SNB"), policy.open_days_of("ALRAJHI")) == (45, 10)
    assert (when.enabled, when.nightly) == (True, "30 1 * * *")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lookback_day = 3", "lookback_day"),
        ("lookback_days = -1", "lookback_days"),
        ("failure_threshold = 2", "failure_threshold"),
        ("fresh_hours = { balance = 3 }", "fresh_hours"),
        ("reread_hours = { transactions = 3 }", "reread_hours"),
        ("reread_hours = { identity = 0 }", "reread_hours"),
        ("[schedules]\nnightlyy = 3", "schedules.nightlyy"),
        ("lookback_days = ", "policy.toml"),
    ],
)
def test_a_wrong_knob_is_named(tmp_path, text, named):
    """One sentence says which file and which knob."""
    file = tmp_path / "policy.toml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=named):
        load(file)


def test_a_wrong_cron_expression_is_named():
    """It is refused when the definitions are loaded."""
    with pytest.raises(ConfigError, match="policy"):
        schedules(Schedules(nightly="at night"))


@pytest.mark.parametrize("enabled", [False, True])
def test_one_switch_turns_every_schedule_on(enabled):
    """All are off by default, and all speak of Riyadh."""
    made = schedules(Schedules(enabled=enabled), has_webhooks=True)

    wanted = dg.DefaultScheduleStatus.RUNNING if enabled else dg.DefaultScheduleStatus.STOPPED
    assert {one.name for one in made} == {
        "nightly_sync", "balances_sync", "weekly_reconciliation", "gap_repair",
    }  # fmt: skip
    assert {one.default_status for one in made} == {wanted}
    assert {one.execution_timezone for one in made} == {"Asia/Riyadh"}


def test_webhooks_are_compared_only_where_they_are_set_up():
    """Without webhooks there is nothing to compare, whatever the switch says."""
    made = {one.name: one for one in schedules(Schedules(enabled=True))}

    assert made["gap_repair"].default_status is dg.DefaultScheduleStatus.STOPPED
    assert made["nightly_sync"].default_status is dg.DefaultScheduleStatus.RUNNING


def requested(name):
    """The run that a schedule asks for, with its job."""
    context = dg.build_schedule_context(scheduled_execution_time=NOW)
    [request] = defs.get_schedule_def(name).evaluate_tick(context).run_requests
    return request, defs.resolve_job_def(defs.get_schedule_def(name).job_name)


def test_scheduled_runs_fill_the_lake_and_agree(tmp_path):
    """A night, balances in between, and a reconciliation: each job runs as it is requested."""
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    lake = LakeResource(root=str(tmp_path), environment="sandbox")

    with serve(sandbox, port=0, mtls=False) as server, dg.DagsterInstance.ephemeral() as instance:
        resources = {
            "lean": LeanResource(LeanSettings(**values_of(sandbox, server))),
            "lake": lake,
            "policy": Policy(),
            "progress": silent,
        }
        for name in ("nightly_sync", "balances_sync", "weekly_reconciliation"):
            request, job = requested(name)
            result = job.execute_in_process(
                instance=instance,
                tags=request.tags,
                resources=resources,
            )
            assert result.success
            # Whoever launches it by hand gives neither a partition nor a configuration.
            assert not [tag for tag in request.tags if "partition" in tag]
            checks = result.get_asset_check_evaluations()
            assert all(check.passed for check in checks if check.check_name == "agrees_with_lean")

        marked = instance.get_materialized_partitions(dg.AssetKey("transactions"))

    held = rows_of(lake.lake(), "select distinct strftime(booked_at, '%Y-%m') from transactions")
    assert marked == {month for (month,) in held}
    counts = "select count(*), count(distinct series_id) from pulls where stream = 'transactions'"
    [(pulls, read_count)] = rows_of(lake.lake(), counts)
    assert pulls > read_count > 0
    asked = (
        "select stream, count(distinct run_id) from pulls where stream in ('balances', 'accounts')"
    )
    assert dict(rows_of(lake.lake(), f"{asked} group by all")) == {"accounts": 1, "balances": 2}
    assert lake.lake().warehouse.exists()


def test_tables_are_built_in_between_where_a_schedule_says_so():
    """All tables and what shows them, and nothing that asks Lean or runs by night only."""
    [made] = [s for s in schedules(Schedules(tables="0 * * * *")) if s.name == "tables_build"]

    graph = defs.resolve_asset_graph()
    built = {key.to_user_string() for key in made.job.selection.resolve(graph)}
    shown = {
        "warehouse",
        *(["iceberg"] if dg.AssetKey("iceberg") in graph.get_all_asset_keys() else []),
    }
    assert built == {model.name for model in models} | shown
    assert made.cron_schedule == "0 * * * *"


@pytest.mark.parametrize(
    ("name", "warned", "failed"),
    [("balances", 7.5, 12), ("transactions", 30, 48), ("fct_transactions", 30, 48),
     ("integrity", 210, 336), (OUTCOME, 7.5, 12)],
)  # fmt: skip
def test_an_asset_is_too_old_after_two_runs_that_were_missed(name, warned, failed):
    """The window follows from the schedules that make it, and from how old its data may be."""
    policy = defs.resolve_asset_graph().get(dg.AssetKey(name)).freshness_policy

    assert policy == dg.FreshnessPolicy.time_window(
        fail_window=dt.timedelta(hours=failed), warn_window=dt.timedelta(hours=warned)
    )


def test_what_no_schedule_makes_has_no_age():
    """Gap repair runs only where webhooks are set up."""
    assert defs.resolve_asset_graph().get(dg.AssetKey("missed_events")).freshness_policy is None
