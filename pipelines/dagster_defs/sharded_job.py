"""The nightly sync in shards: steps that each read a part of the entities, with all that is theirs.

A step before them lists the directory. A closing step reports what all of them read, and brings the
tables up to date.

A shard reports what it read by observations of the streams, which every machine finds in Dagster's
storage. So the closing step knows it whatever became of the step. A shard whose process is killed
is tried again, and reads what is missing. If it is killed again and again, its last try only ends,
so that the closing step can say so and publish what the others read.
"""

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg
from pydantic import TypeAdapter

from lean_resources.errors import ConfigError
from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS, Stream, family
from pipelines.dagster_defs.failures import (
    OUTCOME,
    STREAM_CHECKS,
    Attempt,
    explained,
    failures_of,
    raise_failures,
)
from pipelines.dagster_defs.model_assets import (
    events_of,
    problems_of,
    progress_of_models,
    streams_of,
    with_reasons,
)
from pipelines.dagster_defs.processes import LEAN_POOL, recorded
from pipelines.dagster_defs.resources import InboxResource, LakeResource, Progress
from pipelines.dagster_defs.schedules import NIGHTLY
from pipelines.dagster_defs.stream_assets import (
    checks_of,
    in_time,
    is_fresh,
    judge,
    materializations_of,
    read,
    refresh_materialization,
    refreshed,
    run_ids_of,
)
from pipelines.dagster_defs.warehouse_assets import (
    compacted,
    publish_iceberg,
    publish_warehouse,
    write_report,
)
from pipelines.environment import Settings
from pipelines.models.build import build
from pipelines.models.model import Models
from pipelines.shard import Shard
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import RefreshReport
from pipelines.sync.report import Report
from pipelines.sync.tasks import Selection

REFRESH = "refresh"
CLOSING = "close_sync"
DIRECTORY_STEP = "pull_directory"
TRIES = 3
"""Tries of a shard that read; one more only ends."""
_PART = "part"
"""Metadata of an observation, with a `Part` as JSON."""
_PACKAGES = {
    "k8s": ("dagster_k8s", "k8s_job_executor"),
    "celery_k8s": ("dagster_celery_k8s", "celery_k8s_job_executor"),
}

Reported = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]
Resources = tuple[LeanResource, LakeResource, InboxResource, Policy, Progress]

_ASKED = [one for one in STREAMS.values() if one.exploded_from is None]
DIRECTORY_STREAMS = [one for one in _ASKED if not one.is_of_entities]
SHARDED_STREAMS = [one for one in _ASKED if one.is_of_entities]
"""Streams that are read in shards, where a parent stands before its children."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one try of a shard did to a stream, or to `refresh`.

    Args:
        shard: Number of the shard, from 0.
        report: What was read; None of refreshes, or if they failed.
        refreshes: What was refreshed; None of a stream.
        attempt: How it ended.
    """

    shard: int
    report: Report | None
    refreshes: RefreshReport | None
    attempt: Attempt


_PARTS = TypeAdapter(Part)


def executor_of(kind: str, shards: int, readers: int) -> dg.ExecutorDefinition:
    """The executor of a sync in shards.

    Args:
        kind: `LEANHOUSE_EXECUTOR`.
        shards: Number of shards, all of which may run at once.
        readers: Steps that may read Lean at once, in all runs.

    Raises:
        ConfigError: Its package is not installed.
    """
    if kind == "in_process":
        return recorded(dg.in_process_executor, readers=readers)
    if kind == "multiprocess":
        configured = dg.multiprocess_executor.configured({"max_concurrent": shards})
        return recorded(configured, readers=readers)
    module, name = _PACKAGES[kind]
    try:
        found = importlib.import_module(module)
    except ImportError:
        package = module.replace("_", "-")
        raise ConfigError(
            f"LEANHOUSE_EXECUTOR={kind} needs {package}: pip install {package}"
        ) from None
    return recorded(getattr(found, name), readers=readers)


@dg.op(
    name=DIRECTORY_STEP,
    pool=LEAN_POOL,
    out=dg.Out(dg.Nothing),
    description="Lists banks, customers, entities and consents. Its failures stop no shard.",
)
def _directory(
    context: dg.OpExecutionContext,
    lean: dg.ResourceParam[LeanResource],
    lake: dg.ResourceParam[LakeResource],
    inbox: dg.ResourceParam[InboxResource],
    policy: dg.ResourceParam[Policy],
    progress: dg.ResourceParam[Progress],
) -> Iterator[Reported]:
    for stream, report, attempt in _each(
        context, DIRECTORY_STREAMS, Selection(), (lean, lake, inbox, policy, progress)
    ):
        judge(context, stream, report, attempt, policy)
        yield from _reported(stream, report, attempt)
    yield dg.Output(None)


def _each(
    context: dg.OpExecutionContext,
    streams: Sequence[Stream],
    selection: Selection,
    resources: Resources,
    down: Attempt | None = None,
) -> Iterator[tuple[Stream, Report, Attempt]]:
    """Read streams one after the other; once Lean cannot be reached, the rest is not tried.

    Args:
        down: How an earlier attempt found out that Lean cannot be reached; None if it can.

    Raises:
        RetryRequested: As `read`, and so is Failure.
    """
    for stream in streams:
        report, attempt = (Report(), down) if down else read(context, stream, selection, *resources)
        down = attempt if attempt.is_unreachable else None
        yield stream, report, attempt


def _shard_step(shard: Shard) -> dg.OpDefinition:
    """The step that reads a shard."""

    @dg.op(
        name=f"pull_shard_{shard.number + 1}",
        pool=LEAN_POOL,
        ins={"listed": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        retry_policy=dg.RetryPolicy(max_retries=TRIES),
        description=f"Refreshes and reads the entities of {shard}, and all that is theirs.",
    )
    def pull_shard(
        context: dg.OpExecutionContext,
        lean: dg.ResourceParam[LeanResource],
        lake: dg.ResourceParam[LakeResource],
        inbox: dg.ResourceParam[InboxResource],
        policy: dg.ResourceParam[Policy],
        progress: dg.ResourceParam[Progress],
    ) -> None:
        if context.retry_number >= TRIES:
            context.log.error("%s was tried %d times", shard, TRIES)
            return
        chosen, resources = Selection(shard=shard), (lean, lake, inbox, policy, progress)

        def note(name: str, part: Part) -> None:
            value = dg.MetadataValue.json(_PARTS.dump_python(part, mode="json"))
            context.log_event(dg.AssetObservation(name, metadata={_PART: value}))

        refreshes, attempt = refreshed(context, chosen, *resources)
        note(REFRESH, Part(shard.number, None, refreshes, attempt))
        down = attempt if attempt.is_unreachable else None
        for stream, report, attempt in _each(context, SHARDED_STREAMS, chosen, resources, down):
            note(stream.name, Part(shard.number, report, None, attempt))

    return pull_shard


def sharded_job(models: Models, settings: Settings) -> dg.JobDefinition:
    """The job of the nightly sync in shards.

    Raises:
        ConfigError: The executor's package is not installed.
    """
    count = settings.house.shards
    shards = [Shard(number, count) for number in range(count)]
    steps = [_shard_step(shard) for shard in shards]
    closing = _closing_step(models, shards, has_iceberg=settings.house.iceberg)

    @dg.graph(name=NIGHTLY)
    def nightly() -> None:
        listed = _directory()
        closing(**{step.name: step(listed) for step in steps})

    return nightly.to_job(
        name=NIGHTLY,
        executor_def=executor_of(settings.house.executor, count, settings.readers),
        description=f"The full sync in {count} shards: lists entities; refreshes and pulls what is"
        " missing or open in each shard; builds models, publishes the warehouse, merges files and"
        " writes the daily report in one closing step.",
    )


def _closing_step(models: Models, shards: Sequence[Shard], *, has_iceberg: bool) -> dg.OpDefinition:
    """The step that reports what all shards read, and does what follows a sync."""
    streams = streams_of(models)

    @dg.op(
        name=CLOSING,
        pool="warehouse",
        ins={f"pull_shard_{shard.number + 1}": dg.In(dg.Nothing) for shard in shards},
        out=dg.Out(dg.Nothing),
        description="Sums up what the shards read, builds and publishes all tables, merges files"
        " and writes the daily report. It fails if a shard, a stream or a table failed, and says"
        " why.",
    )
    def close_sync(
        context: dg.OpExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        policy: dg.ResourceParam[Policy],
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Reported]:
        run_id = context.run.run_id
        run_ids = run_ids_of(context.run, context.instance)
        parts = _parts(context.instance, run_ids)
        attempt = _attempt_of(parts.get(REFRESH, []), shards)
        yield from _reported_refreshes(parts.get(REFRESH, []), attempt)
        for stream in SHARDED_STREAMS:
            found = parts.get(stream.name, [])
            report, attempt = _sum(found), _attempt_of(found, shards)
            if attempt.problem is None:
                judge(context, stream, report, attempt, policy)
            yield from _reported(stream, report, attempt)
        failed = failures_of(context.instance, STREAM_CHECKS, run_ids)
        with explained():
            built = build(
                lake.lake(),
                models,
                hash_key=lake.hash_key(),
                progress=progress_of_models(progress),
            )
        for one, reasons in with_reasons(built, streams, failed):
            yield from events_of(one, reasons)
        yield dg.AssetMaterialization("warehouse", metadata=publish_warehouse(lake, models))
        if has_iceberg:
            yield dg.AssetMaterialization("iceberg", metadata=publish_iceberg(lake, models))
        yield dg.AssetMaterialization("compaction", metadata=compacted(lake, models, run_id))
        written = write_report(context.instance, lake, policy)
        yield dg.AssetMaterialization("daily_report", metadata=written)
        raise_failures(failed | problems_of(built))
        yield dg.AssetMaterialization(OUTCOME)
        yield dg.Output(None)

    return close_sync


def _parts(instance: dg.DagsterInstance, run_ids: set[str]) -> dict[str, list[Part]]:
    """What shards reported in a run and its earlier tries, by stream, in the order of reporting."""
    kind = dg.DagsterEventType.ASSET_OBSERVATION
    found = [one for run_id in run_ids for one in instance.all_logs(run_id, of_type=kind)]
    parts: dict[str, list[Part]] = {}
    for entry in sorted(found, key=lambda one: one.timestamp):
        event = entry.dagster_event
        observed = event.asset_observation_data.asset_observation if event is not None else None
        if observed is not None and _PART in observed.metadata:
            part = _PARTS.validate_python(observed.metadata[_PART].value)
            parts.setdefault(observed.asset_key.to_user_string(), []).append(part)
    return parts


def _sum(parts: Sequence[Part]) -> Report:
    """What all shards and tries read of a stream."""
    whole = Report()
    for one in (part.report for part in parts if part.report is not None):
        whole.add(one)
        whole.read_targets += one.read_targets
        whole.fresh += one.fresh
        whole.seconds = max(whole.seconds, one.seconds)
        # Counted in the lake after its own commits: the last one has seen those of all others.
        whole.standing = one.standing
    return whole


def _attempt_of(parts: Sequence[Part], shards: Sequence[Shard]) -> Attempt:
    """How the last tries of all shards ended; a shard that reported nothing has failed."""
    last = {part.shard: part.attempt for part in parts}
    silent = Attempt()
    silent.fail(
        "its process ended before it had read this",
        "SHARD_ENDED",
        "The log of its step says how it ended. What it committed is kept, and the next sync reads"
        " the rest. If the system ended it for want of memory, set LEANHOUSE_SHARDS higher.",
    )
    ends = {shard: last.get(shard.number, silent) for shard in shards}
    failed = {shard: one for shard, one in ends.items() if one.problem is not None}
    whole = Attempt(is_unreachable=any(one.is_unreachable for one in failed.values()))
    if failed:
        first = next(iter(failed.values()))
        reason = "; ".join(f"{shard}: {one.reason}" for shard, one in failed.items())
        problem = " ".join(f"{shard}: {one.problem}" for shard, one in failed.items())
        whole.fail(reason, first.code, first.remedy, problem=problem)
    return whole


def _reported(stream: Stream, report: Report, attempt: Attempt) -> Iterator[Reported]:
    """The materializations and checks of a stream that was read whole."""
    if is_fresh(report, attempt):
        for one in family(stream):
            yield from materializations_of(one, report)
    for result in checks_of(stream, report, attempt):
        yield dg.AssetCheckEvaluation(**result)


def _reported_refreshes(parts: Sequence[Part], attempt: Attempt) -> Iterator[Reported]:
    """The materialization and checks of the refreshes of all shards."""
    found = [part.refreshes for part in parts if part.refreshes is not None]
    if found:
        whole = RefreshReport(
            stale=sum(one.stale for one in found),
            over_budget=sum(one.over_budget for one in found),
            outcomes=sum((one.outcomes for one in found), Counter()),
            requests=sum(one.requests for one in found),
            seconds=max(one.seconds for one in found),
        )
        yield refresh_materialization(whole)
        yield dg.AssetCheckEvaluation(**in_time(whole))
    yield dg.AssetCheckEvaluation(**attempt.verdict(REFRESH, {}))
