"""The file of metrics: what the ledger and the newest build say, whole, and nobody's ids."""

import datetime as dt
import logging

from prometheus_client.parser import text_string_to_metric_families
from test_lake import commit, customers, pull
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.environment import settings
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Outcome
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.models.manifest import current_manifest
from pipelines.operate.metrics import write_metrics

NOW = dt.datetime.now(dt.UTC)
LABELS = ("stream", "outcome", "table", "check")


def samples(file):
    """Values by name and labels."""
    return {
        (
            one.name.removeprefix("leanhouse_"),
            *(one.labels[name] for name in LABELS if name in one.labels),
        ): one.value
        for family in text_string_to_metric_families(file.read_text())
        for one in family.samples
    }


def filled(lake):
    """A lake with pulls of today and of last week, one of which failed, and two tables."""
    for days, ids in ((8, ("c1",)), (0, ("c1", "c2"))):
        asked_at = NOW - dt.timedelta(days=days)
        one = pull(asked_at=asked_at, finished_at=asked_at, rows=len(ids), requests=3)
        commit(lake, one, customers(one, *ids))
    batch = lake.batch(NOW)
    batch.commit([pull("banks", asked_at=NOW, outcome=Outcome.FAILED, requests=1)])
    build(lake, load(), hash_key="k", only=("dim_dates", "dim_banks"))
    return lake


def test_the_file_says_what_ledger_and_manifest_say(tmp_path):
    """Counts of the last day alone, the last good read of each stream, rows and checks."""
    lake = filled(Lake(tmp_path / "lake", "sandbox"))
    file = tmp_path / "leanhouse.prom"

    write_metrics(lake, file)

    found = samples(file)
    assert found["pulls_last_day", "customers", "COMMITTED"] == 1
    assert found["requests_last_day", "customers", "COMMITTED"] == 3
    assert found["pulled_rows_last_day", "customers", "COMMITTED"] == 2
    assert found["pulls_last_day", "banks", "FAILED"] == 1
    assert abs(found["last_good_pull_timestamp_seconds", "customers"] - NOW.timestamp()) < 1
    assert ("last_good_pull_timestamp_seconds", "banks") not in found
    manifest = current_manifest(lake)
    assert found["build_number",] == manifest.number == 1
    for name, parts in manifest.parts.items():
        assert found["table_rows", name] == sum(part.rows for part in parts.values())
    for name, checks in manifest.checks.items():
        for check, result in checks.items():
            assert found["check_offenders", name, check] == result.offenders
    assert "c1" not in file.read_text()
    assert list(tmp_path.glob("leanhouse.prom*")) == [file]


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    """It is a line of the log; before the first pull there is a file already."""
    lake = Lake(tmp_path / "lake", "sandbox")
    with caplog.at_level(logging.WARNING):
        write_metrics(lake, tmp_path / "missing" / "leanhouse.prom")
    assert "metrics were not written" in caplog.text
    write_metrics(lake, None)
    write_metrics(lake, tmp_path / "leanhouse.prom")
    assert {name for name, *_ in samples(tmp_path / "leanhouse.prom")} == {
        "metrics_timestamp_seconds"
    }


def test_a_build_replaces_the_file_that_the_setting_names(tmp_path, monkeypatch):
    """Through the command line; a rollback does so too."""
    filled(Lake(tmp_path / "lake", "sandbox"))
    monkeypatch.setenv("LEANHOUSE_METRICS_FILE", str(tmp_path / "leanhouse.prom"))
    settings.cache_clear()
    try:
        done = CliRunner().invoke(app, ["build", "--home", str(tmp_path)])
    finally:
        settings.cache_clear()

    assert done.exit_code == 0, done.output
    assert samples(tmp_path / "leanhouse.prom")["build_number",] == 2
