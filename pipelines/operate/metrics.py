"""Metrics: a file about syncs and builds in Prometheus' text format, for node_exporter."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES
from pipelines.models.manifest import newest_manifest, read_manifest
from pipelines.publish.publications import Publications

_LOG = logging.getLogger(__name__)


def write_metrics(lake: Lake, file: Path | None) -> None:
    """Replace a file with the metrics of a lake as it is now; a failure is logged.

    They come from the ledger and the newest manifest, so any process may write the file. None of
    them has a label with the id of a person, an account or an entity.

    Args:
        file: The file, in a folder that exists; None writes nothing.
    """
    if file is None:
        return
    try:
        write_to_textfile(str(file), _registry(lake))
    except OSError as error:
        # What was committed and built counts all the same.
        _LOG.warning("metrics were not written to %s: %s", file, error.strerror)


def _registry(lake: Lake) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, doc: str, *labels: str) -> Gauge:
        return Gauge(f"leanhouse_{name}", doc, labels, registry=registry)

    pulls = gauge("pulls_last_day", "Pulls of the last 24 hours.", "stream", "outcome")
    requests = gauge("requests_last_day", "Requests of these pulls.", "stream", "outcome")
    rows = gauge("pulled_rows_last_day", "Rows that these pulls brought.", "stream", "outcome")
    last = gauge("last_good_pull_timestamp_seconds", "When a stream was read last.", "stream")
    now = dt.datetime.now(dt.UTC)
    with lake.connect(()) as connection:
        found = connection.execute(QUERIES["metrics_of_pulls"], {"now": now}).fetchall()
    for stream, outcome, number, asked, brought, good_at in found:
        pulls.labels(stream, outcome).set(number)
        requests.labels(stream, outcome).set(asked)
        rows.labels(stream, outcome).set(brought)
        if good_at is not None:
            last.labels(stream).set(good_at)
    if (key := newest_manifest(lake)) is not None and (file := lake.storage.head(key)) is not None:
        manifest = read_manifest(lake, key)
        gauge("build_number", "Number of the build that counts.").set(manifest.number)
        gauge("build_timestamp_seconds", "When it ended.").set(file.written_at)
        if builds := Publications(lake).builds_of_iceberg():
            gauge("iceberg_build_number", "Newest build of Iceberg tables.").set(builds[-1])
        table_rows = gauge("table_rows", "Rows of a table at its last whole build.", "table")
        offenders = gauge("check_offenders", "Rows that break a claim.", "table", "check")
        for model, parts in manifest.parts.items():
            table_rows.labels(model).set(sum(part.rows for part in parts.values()))
        for model, checks in manifest.checks.items():
            for name, result in checks.items():
                offenders.labels(model, name).set(result.offenders)
    gauge("metrics_timestamp_seconds", "When this file was written.").set(now.timestamp())
    return registry
