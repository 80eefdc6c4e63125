"""What a doorbell starts: two steps that read what was announced and tell Dagster what changed.

Dagster writes at least five events for each asset and check of a run, before it starts and while it
goes, and each costs as much CPU as a small table takes to build. So the assets are made by plain
steps here, which report a materialization of what has other rows than before, and a check that
found something else.
"""

from collections import defaultdict
from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from lean_resources.client import LeanClient
from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS, Stream, Window
from pipelines.dagster_defs.failures import explained
from pipelines.dagster_defs.model_assets import (
    key_of,
    metadata_of_model,
    publish_warehouse,
    refuse_problems,
    verdict_of,
)
from pipelines.dagster_defs.processes import recorded
from pipelines.dagster_defs.resources import InboxResource, LakeResource, Progress
from pipelines.dagster_defs.stream_assets import checks_of, metadata_of, resumed_by
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.model import Models
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.report import Report
from pipelines.sync.tasks import Selection

__all__ = ["JOB", "PULLS", "TABLES", "DoorbellConfig", "doorbell_job"]

JOB = "doorbell"
PULLS = "doorbell_pulls"
TABLES = "doorbell_tables"

Told = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]


class DoorbellConfig(dg.Config):
    """What a batch of events asks for."""

    streams: list[str] = Field(description="Streams to read, in any order.")
    entity_ids: list[str] = Field(description="Entities that events name; none means all.")


@dg.op(
    name=PULLS,
    pool="lean_api",
    out=dg.Out(dg.Nothing),
    description="Reads what events announced. However many pulls fail, it succeeds: they are in"
    " the ledger, and the sensor looks there.",
)
def _pulls(
    context: dg.OpExecutionContext,
    config: DoorbellConfig,
    lean: dg.ResourceParam[LeanResource],
    lake: dg.ResourceParam[LakeResource],
    inbox: dg.ResourceParam[InboxResource],
    policy: dg.ResourceParam[Policy],
    progress: dg.ResourceParam[Progress],
) -> Iterator[Told]:
    reports: dict[str, Report] = {}
    selection = Selection(entity_ids=set(config.entity_ids) or None)
    attempts = resumed_by(context)

    async def work(client: LeanClient) -> None:
        for stream in _to_read(config.streams):
            reports[stream.name] = await sync(
                stream,
                client,
                lake.lake(),
                policy=policy,
                selection=selection,
                run_id=context.run.run_id,
                resumes=attempts,
                progress=lambda done, total, name=stream.name: progress(name, done, total),  # type: ignore[misc]
            )

    problem: Exception | None = None
    try:
        with explained():
            lean.run(work, inbox.bell().result)
    except (dg.Failure, dg.RetryRequested) as error:
        problem = error
    # What was read counts, whatever was in the way of the rest.
    yield from _told(reports, _committed_months(lake.lake(), context.run.run_id))
    if problem is not None:
        raise problem
    yield dg.Output(None)


def doorbell_job(models: Models) -> dg.JobDefinition:
    """The job of webhooks.

    Args:
        models: What follows from the streams.
    """

    @dg.op(
        name=TABLES,
        pool="warehouse",
        ins={"read": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        description="Builds what follows from what was read, and publishes the warehouse.",
    )
    def tables(
        lake: dg.ResourceParam[LakeResource], progress: dg.ResourceParam[Progress]
    ) -> Iterator[Told]:
        with explained():
            built = build(
                lake.lake(),
                models,
                hash_key=key_of(lake),
                progress=lambda _name, done, total: progress("models", done, total),
            )
        for one in built:
            if one.changed:
                yield dg.AssetMaterialization(one.model.name, metadata=metadata_of_model(one))
            for check in one.changed_checks:
                yield dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey(one.model.name), **verdict_of(check, one.checks[check])
                )
        yield dg.AssetMaterialization("warehouse", metadata=publish_warehouse(lake, models))
        refuse_problems(built)
        yield dg.Output(None)

    @dg.graph(name=JOB)
    def announced() -> None:
        tables(_pulls())

    return announced.to_job(
        name=JOB,
        # One process for both: starting one takes longer than either.
        executor_def=recorded(dg.in_process_executor),
        description="What webhooks announced, read for the entities that they name.",
    )


def _to_read(names: list[str]) -> list[Stream]:
    """Streams in the order of the catalogue, which has parents first."""
    return [stream for name, stream in STREAMS.items() if name in names]


def _committed_months(lake: Lake, run_id: str) -> dict[str, list[str]]:
    """Months of which a run committed rows, by stream."""
    with lake.connect(()) as connection:
        rows = connection.execute(
            "select distinct stream, month from pulls"
            " where run_id = $run_id and outcome = 'COMMITTED' and month is not null order by all",
            {"run_id": run_id},
        ).fetchall()
    found: dict[str, list[str]] = defaultdict(list)
    for stream, month in rows:
        found[stream].append(month)
    return found


def _told(reports: dict[str, Report], months: dict[str, list[str]]) -> Iterator[Told]:
    """What was committed, and what does not fit; a few entities prove no stream to be whole."""
    for name, report in reports.items():
        if not report.outcomes["COMMITTED"]:
            continue
        stream = STREAMS[name]
        made = [stream, *(one for one in STREAMS.values() if one.exploded_from == name)]
        for one in made:
            metadata = metadata_of(one, report)
            partitions = months[name] if one.window is Window.MONTHS else [None]
            for month in partitions:
                yield dg.AssetMaterialization(one.name, partition=month, metadata=metadata)
    for name, report in reports.items():
        for check, (is_passed, found) in checks_of(report).items():
            if not is_passed:
                yield dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey(name),
                    check_name=check,
                    passed=False,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata=found,
                )
