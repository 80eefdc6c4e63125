"""The job of webhooks: two steps that read what was announced and report to Dagster what changed.

Dagster writes at least five events for each asset and check of a run, and each event costs as much
CPU as the build of a small table. So plain steps make the assets here. They report an asset only
if its rows changed, and a check only if its result changed.
"""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS, Stream, family
from pipelines.dagster_defs.failures import (
    STREAM_CHECKS,
    Attempt,
    explained,
    failures_of,
    raise_failures,
)
from pipelines.dagster_defs.model_assets import (
    metadata_of_model,
    problems_of,
    progress_of_models,
    stale_verdict,
    streams_of,
    verdict_of,
    with_reasons,
)
from pipelines.dagster_defs.processes import LEAN_POOL, recorded
from pipelines.dagster_defs.resources import InboxResource, LakeResource, Progress
from pipelines.dagster_defs.stream_assets import checks_of, materializations_of, read
from pipelines.dagster_defs.warehouse_assets import publish_warehouse
from pipelines.models.deltas import build_changed
from pipelines.models.model import Models
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
    pool=LEAN_POOL,
    out=dg.Out(dg.Nothing),
    description="Reads what the events announced. The step succeeds even if pulls fail: the ledger"
    " records them, and the sensor gives their events back. Where a whole stream fails, the run"
    " fails after the tables of the others are built.",
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
    selection = Selection(entity_ids=set(config.entity_ids) or None)
    retry: dg.RetryRequested | None = None
    # In the order of the catalogue, where a parent stream stands before its children.
    for stream in STREAMS.values():
        # A stream that comes along with another has no request of its own.
        if stream.name in config.streams and stream.exploded_from is None:
            try:
                done = read(context, stream, selection, lean, lake, inbox, policy, progress)
            except dg.RetryRequested as error:
                retry = error
            else:
                yield from _reported(stream, *done)
    if retry is not None:
        raise retry
    yield dg.Output(None)


def webhook_job(models: Models, readers: int = 1) -> dg.JobDefinition:
    """The job of webhooks.

    Args:
        readers: Steps that may read Lean at once, in all runs.
    """
    streams = streams_of(models)

    @dg.op(
        name=TABLES,
        pool="warehouse",
        ins={"read": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        description="Builds the rows of accounts that were read, and publishes the warehouse.",
    )
    def tables(
        context: dg.OpExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Reported]:
        with explained():
            built = build_changed(
                lake.lake(),
                models,
                hash_key=lake.hash_key(),
                progress=progress_of_models(progress),
            )
        failed = failures_of(context.instance, STREAM_CHECKS, [context.run.run_id])
        for one, reasons in with_reasons(built, streams, failed):
            if reasons or one.problem:
                yield dg.AssetCheckEvaluation(**stale_verdict(one, reasons))
            if one.changed:
                yield dg.AssetMaterialization(one.model.name, metadata=metadata_of_model(one))
            for check in one.changed_checks:
                yield dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey(one.model.name), **verdict_of(check, one.checks[check])
                )
        yield dg.AssetMaterialization("warehouse", metadata=publish_warehouse(lake, models))
        raise_failures(failed | problems_of(built))
        yield dg.Output(None)

    @dg.graph(name=JOB)
    def announced() -> None:
        tables(_pulls())

    return announced.to_job(
        name=JOB,
        # Both steps share a process: to start a process takes longer than either step.
        executor_def=recorded(dg.in_process_executor, readers=readers),
        description="Reads what webhooks announced, for the entities that they name.",
    )


def _reported(stream: Stream, report: Report, attempt: Attempt) -> Iterator[Reported]:
    """What was committed, and checks that failed.

    No check passes by this, because a few entities do not prove that a whole stream is complete.
    """
    if report.outcomes["COMMITTED"]:
        for one in family(stream):
            yield from materializations_of(one, report)
    for result in checks_of(stream, report, attempt):
        if not result["passed"]:
            yield dg.AssetCheckEvaluation(**result)
