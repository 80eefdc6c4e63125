"""The job of webhooks: two steps that read what was announced and report to Dagster what changed.

Dagster writes at least five events for each asset and check of a run, and each event costs as much
CPU as the build of a small table. So plain steps make the assets here. They report an asset only
if its rows changed, and a check only if its result changed.
"""

from collections import defaultdict
from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from lean_resources.client import LeanClient
from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS, Window, family
from pipelines.dagster_defs.failures import explained
from pipelines.dagster_defs.model_assets import (
    hash_key_of,
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

JOB = "doorbell"
PULLS = "doorbell_pulls"
TABLES = "doorbell_tables"

Reported = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]


class WebhookConfig(dg.Config):
    """What a batch of events asks for."""

    streams: list[str] = Field(description="Streams to read, in any order.")
    entity_ids: list[str] = Field(
        description="Entities that the events name; an empty list means all."
    )


@dg.op(
    name=PULLS,
    pool="lean_api",
    out=dg.Out(dg.Nothing),
    description="Reads what the events announced. The step succeeds even if pulls fail: the ledger"
    " records them, and the sensor gives their events back.",
)
def _pulls(
    context: dg.OpExecutionContext,
    config: WebhookConfig,
    lean: dg.ResourceParam[LeanResource],
    lake: dg.ResourceParam[LakeResource],
    inbox: dg.ResourceParam[InboxResource],
    policy: dg.ResourceParam[Policy],
    progress: dg.ResourceParam[Progress],
) -> Iterator[Reported]:
    reports: dict[str, Report] = {}
    selection = Selection(entity_ids=set(config.entity_ids) or None)
    resumes = resumed_by(context)

    async def work(client: LeanClient) -> None:
        # In the order of the catalogue, where a parent stream stands before its children.
        for stream in (stream for name, stream in STREAMS.items() if name in config.streams):
            reports[stream.name] = await sync(
                stream,
                client,
                lake.lake(),
                policy=policy,
                selection=selection,
                run_id=context.run.run_id,
                resumes=resumes,
                progress=lambda done, total, name=stream.name: progress(name, done, total),  # type: ignore[misc]
            )

    problem: Exception | None = None
    try:
        with explained():
            lean.run(work, inbox.waiter().result)
    except (dg.Failure, dg.RetryRequested) as error:
        problem = error
    # What was read counts, even if the rest failed.
    yield from _reported(reports, _committed_months(lake.lake(), context.run.run_id))
    if problem is not None:
        raise problem
    yield dg.Output(None)


def webhook_job(models: Models) -> dg.JobDefinition:
    """The job of webhooks.

    Args:
        models: The tables that depend on the streams.
    """

    @dg.op(
        name=TABLES,
        pool="warehouse",
        ins={"read": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        description="Builds the tables that depend on what was read, and publishes the warehouse.",
    )
    def tables(
        lake: dg.ResourceParam[LakeResource], progress: dg.ResourceParam[Progress]
    ) -> Iterator[Reported]:
        with explained():
            built = build(
                lake.lake(),
                models,
                hash_key=hash_key_of(lake),
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
        # Both steps share a process: to start a process takes longer than either step.
        executor_def=recorded(dg.in_process_executor),
        description="Reads what webhooks announced, for the entities that they name.",
    )


def _committed_months(lake: Lake, run_id: str) -> dict[str, list[str]]:
    """Months as YYYY-MM of which a run committed rows, by stream."""
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


def _reported(reports: dict[str, Report], months: dict[str, list[str]]) -> Iterator[Reported]:
    """What was committed, and checks that failed.

    No check passes by this, because a few entities do not prove that a whole stream is complete.
    """
    for name, report in reports.items():
        if not report.outcomes["COMMITTED"]:
            continue
        for one in family(STREAMS[name]):
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
