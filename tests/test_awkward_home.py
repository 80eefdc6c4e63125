"""A home whose path holds what shells, SQL and URLs give a meaning: everything works in it."""

import dagster as dg
import pytest
from conftest import TODAY, rows_of
from test_dagster import values_of

from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings
from pipelines.dagster_defs.in_process import instance_at, sync_all
from pipelines.dagster_defs.resources import InboxResource, LakeResource, silent
from pipelines.environment import Settings
from pipelines.lake.compaction import compact
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.publish.warehouse import connect, publish

NAME = 'o\'k {a,b} #1 ;&=+@! مجلد "q" month=2026 100 $ ~'


@pytest.mark.slow
def test_a_sync_a_build_and_a_query_work_under_an_awkward_home(tmp_path):
    """Quotes, braces, a hash, spaces, Arabic, an equals sign: true rows, runs and events there."""
    home = tmp_path / NAME / "state"
    settings = Settings.load({"LEANHOUSE_HOME": str(home), "LEAN_WEBHOOK_SECRET": "made-up"})
    sandbox = Sandbox(customers=2, months=1, seed=7, today=TODAY)
    lake = LakeResource(settings.home / "lake", settings.environment)
    inbox = InboxResource(settings.inbox_url, settings.environment)

    with (
        serve(sandbox, port=0, mtls=False) as server,
        instance_at(settings.home / "dagster") as instance,
    ):
        lean = LeanResource(LeanSettings(**values_of(sandbox, server)))
        sync_all(lean, lake, silent, instance=instance, inbox=inbox)
        telemetry = instance.telemetry_enabled
        runs = instance.get_runs()
    box = inbox.inbox()
    box.close()

    true = sorted(one["record"]["transaction_id"] for one in sandbox.truth("transactions"))
    query = "select transaction_id from transactions order by all"
    assert [row[0] for row in rows_of(lake.lake(), query)] == true
    models = load()
    compact(lake.lake())
    assert not [one for one in build(lake.lake(), models, hash_key=lake.hash_key()) if one.problem]
    publish(lake.lake(), models)
    with connect(lake.lake()) as connection:
        assert [row[0] for row in connection.execute(query).fetchall()] == true
        assert connection.execute("select count(*) from fct_transactions").fetchone()[0] > 0
    assert telemetry is False
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS]
    assert [folder.name for folder in tmp_path.iterdir()] == [NAME]
    assert sorted(place.name for place in home.iterdir()) == ["dagster", "inbox", "lake"]
    assert (home / "inbox" / "sandbox.db").is_file()
    assert (home / "dagster" / "history" / "runs.db").is_file()

    moved = Lake(home.rename(tmp_path / "moved") / "lake", "sandbox")
    with connect(moved) as connection:
        assert [row[0] for row in connection.execute(query).fetchall()] == true
        assert connection.execute("select count(*) from fct_transactions").fetchone()[0] > 0
        written = connection.execute("select string_agg(sql, '') from duckdb_views()").fetchone()[0]
        assert str(tmp_path) not in written


def test_telemetry_is_off_in_the_home_that_every_command_uses(tmp_path):
    """Also where somebody's own dagster.yaml does not say so: the child is told by its variable."""
    with instance_at(tmp_path / "dagster") as instance:
        assert not instance.telemetry_enabled
