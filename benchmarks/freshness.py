"""How long from Lean's FINISHED event to the new rows in leanhouse.duckdb, and where the time goes.

    python benchmarks/freshness.py [--rounds 10] [--customers 20] [--movements 10000000]

`dagster dev` runs idle, as `leanhouse dev` starts it. Each round lets three days pass at the
offline Lean, refreshes one entity, and takes the time from the moment the FINISHED event is
announced until `fct_transactions`, opened anew as an analyst would, holds more rows of that entity.
With `--movements` the lake holds about so many more of other accounts, as `model_lake` makes them,
which were listed, built and compacted before, as after a night. The last line is one of JSON.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import model_lake
from harness import write
from pydantic import SecretStr

from lean_resources.resource import LeanResource
from lean_resources.sandbox import Sandbox, serve
from lean_resources.settings import LeanSettings, WebhookSettings
from lean_resources.streams import STREAMS
from lean_resources.webhooks import event_of
from pipelines.dagster_defs.in_process import instance_at, prepare_home, sync_all
from pipelines.dagster_defs.resources import InboxResource, LakeResource, silent
from pipelines.dagster_defs.webhook_job import JOB, PULLS, TABLES
from pipelines.dagster_defs.webhook_sensor import BATCH_TAG
from pipelines.environment import child_of
from pipelines.lake.compaction import keep_present
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Outcome, Pull
from pipelines.lake.schemas import lake_schema
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.publish.warehouse import connect, publish
from pipelines.webhooks.inbox import Inbox
from pipelines.webhooks.receiver import PATH, receiving

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 240.0


def rows_of(lake: LakeResource, entity_id: str) -> int:
    """Rows that an analyst who opens the file now sees of an entity."""
    with connect(lake.lake()) as connection:
        found = connection.execute(
            "select count(*) from fct_transactions where entity_id = $1", [entity_id]
        ).fetchone()
    return int(found[0]) if found else 0


def stages(instance: dg.DagsterInstance, batch_id: str) -> dict[str, float]:
    """When a run reached its stages, in seconds since 1970, and how many events tell of it."""
    [record] = instance.get_run_records(dg.RunsFilter(tags={BATCH_TAG: batch_id}), limit=1)
    entries = instance.all_logs(record.dagster_run.run_id)
    steps: dict[str, list[float]] = {}
    for entry in entries:
        if entry.dagster_event is not None and entry.dagster_event.step_key:
            steps.setdefault(str(entry.dagster_event.step_key), []).append(entry.timestamp)
    return {
        "claimed": record.create_timestamp.timestamp(),
        "started": record.start_time or 0.0,
        "first_step": min(steps[PULLS]),
        "pulled": max(steps[PULLS]),
        "published": max(steps[TABLES]),
        "events": float(len(entries)),
    }


def where_it_is(lake: LakeResource, instance: dg.DagsterInstance, inbox: Inbox) -> str:
    """What is known of a round whose rows do not show."""
    runs = [
        f"{run.run_id[:8]} {run.status.value} {run.tags.get(BATCH_TAG)}"
        for run in instance.get_runs(dg.RunsFilter(job_name=JOB), limit=3)
    ]
    events = [
        f"{row['type']} {row['state']} of {row['claim_id']}, {row['attempts']} attempts"
        for row in list(inbox.rows())[-5:]
    ]
    with lake.lake().connect(()) as connection:
        pulls = connection.execute(
            "select stream, outcome, code, count(*) from pulls where run_id ="
            " (select max_by(run_id, finished_at) from pulls) group by all order by all"
        ).fetchall()
    return "\n".join(["the new rows did not show", *runs, *events, *map(str, pulls)])


def crowd(lake: Lake, movements: int, now: dt.datetime) -> None:
    """Add so many movements of other accounts, and list their customers with those of Lean.

    Args:
        now: When all were listed, by the clock of the offline Lean.
    """
    model_lake.make(lake, max(4, movements // 100 // 4 * 4))
    batch = lake.batch(now)
    pulls = []
    for name in ("customers", "entities", "consents"):
        stream = STREAMS[name]
        pull = Pull(
            pull_id=new_id(),
            series_id=new_id(),
            stream=name,
            parent_id="application",
            outcome=Outcome.COMMITTED,
            asked_at=now,
            finished_at=now,
            known_at=now,
            generation=lake.next_generation(),
        )
        with lake.connect((name,)) as connection:
            rows = connection.sql(
                f"select * replace ('{pull.pull_id}' as pull_id) from ({lake.all_rows(stream)})"
                f" qualify row_number() over (partition by {', '.join(stream.key)}) = 1"
            ).to_arrow_table()
        batch.rows(stream, rows.cast(lake_schema(stream)))
        pulls.append(pull)
    batch.commit(pulls)


def measure(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """All rounds."""
    today = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=3 * args.rounds + 10)
    sandbox = Sandbox(customers=args.customers, months=12, seed=7, today=today)
    lake = LakeResource(root=str(home / "lake"), environment="sandbox")
    inbox = InboxResource(url=f"sqlite:///{home / 'inbox' / 'sandbox.db'}")
    box = inbox.inbox()
    assert box is not None
    settings = WebhookSettings(secret=SecretStr(sandbox.webhook_secret), port=0)
    prepare_home(home / "dagster")
    with serve(sandbox) as server, receiving(settings, box) as port:
        values = {
            "region": "sa",
            "environment": "sandbox",
            "api_url": server.url,
            "token_url": server.token_url,
            "client_id": sandbox.client_id,
            "client_secret": sandbox.client_secret,
            "requests_per_second": "500",
        }
        with instance_at(home / "dagster") as instance:
            sync_all(LeanResource(LeanSettings(**values)), lake, silent, instance=instance)
            if args.movements:
                crowd(lake.lake(), args.movements, sandbox.clock.now())
                keep_present(lake.lake())
                build(lake.lake(), load(), hash_key=lake.hash_key())
                publish(lake.lake(), load())
            environment = child_of(values | {"webhook_secret": sandbox.webhook_secret}, home)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ui = probe.getsockname()[1]
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml",
                    "-p", str(ui), "--log-level", "warning",
                ],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            try:
                with sandbox.deliver(f"http://127.0.0.1:{port}{PATH}"):
                    return rounds(args, sandbox, lake, instance, box)
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)


def rounds(
    args: argparse.Namespace,
    sandbox: Sandbox,
    lake: LakeResource,
    instance: dg.DagsterInstance,
    inbox: Inbox,
) -> dict[str, object]:
    """Refresh one entity after the other, the first one to warm up."""
    with connect(lake.lake()) as connection:
        entities = [
            row[0]
            for row in connection.execute(
                "select entity_id from readable_entities('transactions', now()) as readable"
                " inner join fct_transactions using (entity_id)"
                " where readable.skip_code is null and not starts_with(entity_id, 'e-')"
                " group by all order by count(*) desc limit 2"
            ).fetchall()
        ]
    seconds: list[float] = []
    parts: list[dict[str, float]] = []
    events: list[int] = []
    for number in range(args.rounds + 1):
        entity_id = entities[number % len(entities)]
        before = rows_of(lake, entity_id)
        known = {run.run_id for run in instance.get_runs(dg.RunsFilter(job_name=JOB))}
        sandbox.clock.advance(dt.timedelta(days=3))
        entity = sandbox.store.find_entity(entity_id)
        assert entity is not None
        sandbox.store.start_refresh(entity)
        sandbox.clock.advance(dt.timedelta(seconds=11))
        event = event_of(sandbox.events[-1])
        assert event.is_refreshed
        began = time.time()
        file = lake.lake().warehouse
        built = file.stat().st_ino
        while file.stat().st_ino == built or rows_of(lake, entity_id) <= before:
            if time.time() - began > PATIENCE_SECONDS:
                raise RuntimeError(where_it_is(lake, instance, inbox))
            time.sleep(0.05)
        seen = time.time()
        runs = instance.get_runs(dg.RunsFilter(job_name=JOB))
        new = [run for run in runs if run.run_id not in known]
        while not all(instance.get_run_by_id(run.run_id).is_finished for run in new):  # type: ignore[union-attr]
            time.sleep(0.1)
        at = stages(instance, new[-1].tags[BATCH_TAG])
        if number == 0:
            continue
        seconds.append(seen - began)
        places = ["claimed", "started", "first_step", "pulled", "published"]
        times = [began, *(at[name] for name in places)]
        parts.append(dict(zip(places, (b - a for a, b in pairwise(times)), strict=True)))
        events.append(int(at["events"]))
        print(f"{number:>3}  {seen - began:6.1f} s, {events[-1]} events", flush=True)
    seconds.sort()
    return {
        "benchmark": "freshness",
        "rounds": len(seconds),
        "movements": args.movements,
        "p50_seconds": round(statistics.median(seconds), 2),
        "p95_seconds": round(seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))], 2),
        "max_seconds": round(seconds[-1], 2),
        "where_median_seconds": {
            name: round(statistics.median(part[name] for part in parts), 2) for name in parts[0]
        },
        "events_of_a_run": statistics.median(events),
        "load_average": round(os.getloadavg()[0], 1),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The figures as the page of performance shows them."""
    yield "| movements of others | rounds | median | 95 in 100 | worst | load average |"
    yield "|---:|---:|---:|---:|---:|---:|"
    yield (
        f"| {found['movements']:,} | {found['rounds']} | {found['p50_seconds']} s"
        f" | {found['p95_seconds']} s | {found['max_seconds']} s | {found['load_average']} |"
    )
    yield ""
    yield "| until | seconds more, median |"
    yield "|---|---:|"
    for name, value in found["where_median_seconds"].items():
        yield f"| {name.replace('_', ' ')} | {value} |"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--customers", type=int, default=20)
    parser.add_argument("--movements", type=int, default=0, help="about so many of other accounts")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="freshness-") as folder:
        found = measure(args, Path(folder))
    lines = list(table(found))
    print("\n".join(lines))
    if not args.keep_page:
        write("freshness-crowded" if args.movements else "freshness", lines)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
