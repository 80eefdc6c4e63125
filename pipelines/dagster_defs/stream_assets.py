"""One asset per stream, derived from the catalogue."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from lean_resources.client import LeanClient
from lean_resources.instants import BEFORE_LEAN
from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS, Column, Stream, Window, family
from pipelines.dagster_defs.failures import (
    COMPLETE,
    FRESH,
    OUTCOME,
    Attempt,
    Context,
    attempted,
    failure_text,
    failures_of,
    raise_failures,
    unmaterialized,
    waits_for_outcome,
)
from pipelines.dagster_defs.processes import LEAN_POOL
from pipelines.dagster_defs.resources import InboxResource, LakeResource, Progress, logged
from pipelines.lake.ledger import Outcome
from pipelines.operate.problems import PULLS_FAILED
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import RefreshReport
from pipelines.sync.refresh import refresh as refresh_stale
from pipelines.sync.report import Report
from pipelines.sync.tasks import Selection

FIRST_MONTH = f"{BEFORE_LEAN:%Y-%m}"
MONTHS = dg.MonthlyPartitionsDefinition(
    start_date=FIRST_MONTH, end_offset=1, timezone="UTC", fmt="%Y-%m"
)
"""UTC months of booking, with the current month. Lean did not exist in the first month."""

_ROOT_TAG = "dagster/root_run_id"
_RETRY_TAG = "dagster/retry_number"


OWNERS = ["team:data-engineering"]
DIRECTORY = "lean_directory"

Reported = dg.AssetCheckResult | dg.Output[None]


class SyncConfig(dg.Config):
    """What a run is narrowed to."""

    entity_ids: list[str] = Field(
        default=[], description="Only these entities; an empty list means all."
    )
    account_ids: list[str] = Field(
        default=[], description="Only these accounts; an empty list means all."
    )


class TransactionsConfig(SyncConfig):
    """What a run of the transactions is narrowed to, and whether it reads what is covered."""

    only_missing: bool = Field(
        default=False,
        description="Read what is missing or still open in any month, as a sync does; otherwise "
        "everything in the chosen months, as a backfill does.",
    )
    insights: bool = Field(default=True, description="Ask Lean for its categories of transactions.")


def column_schema(
    columns: Iterable[Any], constraints: Callable[[Any], dg.TableColumnConstraints]
) -> dg.TableSchema:
    """Columns of streams or models as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.doc,
                constraints=constraints(column),
                tags={"pii": "true"} if column.pii else None,
            )
            for column in columns
        ]
    )


def _required(column: Column) -> dg.TableColumnConstraints:
    return dg.TableColumnConstraints(nullable=not column.required)


def _spec(stream: Stream) -> dg.AssetSpec:
    group, deps = DIRECTORY, {stream.exploded_from or stream.parent}
    if stream.exploded_from is None:
        if stream.permission is not None or stream.parent == "accounts":
            deps.add("consents")
        if stream.is_of_entities:
            deps.add("refresh")
            # What it is read per, because a failure of it reaches that far.
            group = f"lean_{stream.parent}"
    return dg.AssetSpec(
        key=stream.name,
        deps=sorted(filter(None, deps)),
        description=stream.doc,
        group_name=group,
        owners=OWNERS,
        kinds={"parquet", "python"},
        partitions_def=MONTHS if stream.window is Window.MONTHS else None,
        metadata={
            "dagster/column_schema": column_schema(stream.columns, _required),
            "key": ", ".join(stream.key),
            "permission": stream.permission or "none",
            "source": dg.MetadataValue.url(stream.source),
        },
    )


_CHECKS = {
    COMPLETE: "Each pull of the sync committed, was unchanged or was not permitted. An error means"
    " that the sync failed for this stream, so that the tables that read it are stale.",
    "fits_the_catalogue": "No record of the stream is in quarantine, whenever it was read.",
    "is_known": "No record has a field that the catalogue does not know.",
}


def _check_spec(stream: Stream, name: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=stream.name, description=_CHECKS[name])


def read(
    context: Context,
    stream: Stream,
    selection: Selection,
    lean: LeanResource,
    lake: LakeResource,
    inbox: InboxResource,
    policy: Policy,
    progress: Progress,
) -> tuple[Report, Attempt]:
    """Sync a stream in a step: what that did, and how it ended.

    Raises:
        RetryRequested: As `attempted`, and so is Failure.
    """

    async def work(client: LeanClient) -> Report:
        return await sync(
            stream,
            client,
            lake.lake(),
            policy=policy,
            selection=selection,
            run_id=context.run.run_id,
            resumes=resumed_by(context),
            progress=logged(context.log, stream.name, progress),
        )

    report = Report()
    with attempted(context, stream.name) as attempt:
        report = lean.run(work, inbox.waiter().result)
    return report, attempt


def _asset(stream: Stream) -> dg.AssetsDefinition:
    """The asset of a stream, together with the streams that are exploded from it."""
    has_months = stream.window is Window.MONTHS
    config_type = TransactionsConfig if has_months else SyncConfig

    @dg.multi_asset(
        name=f"pull_{stream.name}",
        specs=[_spec(one) for one in family(stream)],
        check_specs=[_check_spec(stream, name) for name in _CHECKS],
        partitions_def=MONTHS if has_months else None,
        backfill_policy=dg.BackfillPolicy.single_run() if has_months else None,
        pool=LEAN_POOL,
    )
    def pull(
        context: dg.AssetExecutionContext,
        config: config_type,  # type: ignore[valid-type]
        lean: dg.ResourceParam[LeanResource],
        lake: dg.ResourceParam[LakeResource],
        inbox: dg.ResourceParam[InboxResource],
        policy: dg.ResourceParam[Policy],
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Reported]:
        months = None
        if not getattr(config, "only_missing", False):
            months = set(_chosen_months(context, stream) or ()) or None
        selection = Selection(
            entity_ids=set(config.entity_ids) or None,  # type: ignore[attr-defined]
            account_ids=set(config.account_ids) or None,  # type: ignore[attr-defined]
            months=months,
            insights=getattr(config, "insights", True),
        )
        report, attempt = read(context, stream, selection, lean, lake, inbox, policy, progress)
        context.log.info(
            "%s: %d rows of %d pulls in %.1f s, %.0f rows a second, %d requests",
            *(stream.name, report.rows[stream.name], report.outcomes.total(), report.seconds),
            *(report.rows[stream.name] / max(report.seconds, 0.001), report.requests),
        )
        judge(context, stream, report, attempt, policy)
        yield from _results(context, stream, report, attempt)
        if attempt.problem is not None and not waits_for_outcome(context):
            raise_failures({stream.name: attempt.problem})

    return pull


def judge(
    context: Context, stream: Stream, report: Report, attempt: Attempt, policy: Policy
) -> None:
    """Let a stream fail of which too many pulls failed."""
    if report.failed_share > policy.failure_threshold:
        text = failure_text(report)
        attempt.fail(text, PULLS_FAILED, "", problem=text)
        context.log.error("%s: %s", stream.name, attempt.problem)


def _chosen_months(context: dg.AssetExecutionContext, stream: Stream) -> list[str] | None:
    """Months of a stream that a run was launched for; None if it was launched for none."""
    is_chosen = context.has_partition_key or context.has_partition_key_range
    return sorted(context.partition_keys) if is_chosen and stream.window is Window.MONTHS else None


def resumed_by(context: Context) -> set[str]:
    """Ids of runs whose reads a step need not repeat; empty for the first try of a run."""
    if not context.retry_number and _RETRY_TAG not in context.run.tags:
        return set()
    return run_ids_of(context.run, context.instance)


def run_ids_of(run: dg.DagsterRun, instance: dg.DagsterInstance) -> set[str]:
    """Ids of a run and, if Dagster retries a run with it, of all tries before it.

    A run that somebody executes again by hand is a new run: then everything is read.
    """
    root = run.tags.get(_ROOT_TAG)
    if root is None or _RETRY_TAG not in run.tags:
        return {run.run_id}
    tries = instance.get_runs(dg.RunsFilter(tags={_ROOT_TAG: root}))
    return {run.run_id, root, *(one.run_id for one in tries if _RETRY_TAG in one.tags)}


def metadata_of(stream: Stream, report: Report) -> dict[str, Any]:
    """What Dagster shows of a stream that was synced."""
    found = {
        "codes": report.codes,
        "unfit": report.unfit,
        "in_quarantine": report.standing,
        "drift": report.drift,
    }
    banks = [
        {
            "bank": name,
            "rows": bank.rows,
            "requests": bank.requests,
            "pulls": bank.pulls,
            "failed": bank.failed,
            "oldest copy": f"{bank.oldest_at:%Y-%m-%d %H:%M} UTC" if bank.oldest_at else "",
        }
        for name, bank in sorted(report.banks.items())
    ]
    newest_first = sorted(report.months.items(), reverse=True)
    months = [{"month": month, "rows": rows} for month, rows in newest_first]
    return {
        "rows": report.rows[stream.name],
        "read_targets": report.read_targets,
        "pulls": dg.MetadataValue.json(dict(report.outcomes)),
        "requests": report.requests,
        "bytes_received": report.received,
        "bytes_written": report.written,
        "seconds": round(report.seconds, 3),
        "quarantined": report.quarantined,
        **({"banks": _table(banks)} if banks else {}),
        **({"months": _table(months)} if months else {}),
        **{name: dg.MetadataValue.json(dict(of)) for name, of in found.items() if of},
    }


def _results(
    context: dg.AssetExecutionContext, stream: Stream, report: Report, attempt: Attempt
) -> Iterator[Reported]:
    """What a step reports: what it read, its checks, and outputs that let the next steps run."""
    is_read = is_fresh(report, attempt)
    chosen = _chosen_months(context, stream)
    if chosen and attempt.problem is not None:
        chosen = []
    for made in family(stream):
        for event in materializations_of(made, report, chosen) if is_read else ():
            context.log_event(event)
        yield unmaterialized(made.name)
    results = {result["check_name"]: result for result in checks_of(stream, report, attempt)}
    for name in _CHECKS:
        if name in results:
            yield dg.AssetCheckResult(**results[name])
        else:
            yield dg.Output(None, _check_spec(stream, name).get_python_identifier())


def is_fresh(report: Report, attempt: Attempt) -> bool:
    """Whether a stream is materialised: not if nothing of it was read."""
    return attempt.problem is None or report.outcomes[Outcome.COMMITTED] > 0


def materializations_of(
    stream: Stream, report: Report, chosen: Collection[str] | None = None
) -> Iterator[dg.AssetMaterialization]:
    """Each month that has rows, of a stream with months; the last one says what was read.

    Args:
        chosen: Months of a backfill, or None. Dagster takes a backfill for failed if a chosen
            month, although empty, is not materialised, or if a materialization has no month.
    """
    months = report.months if stream.window is Window.MONTHS else {}
    if chosen is not None:
        months = {**dict.fromkeys(chosen, 0), **months}
    for month, rows in sorted(months.items()):
        is_last = chosen is not None and month == max(months)
        of_run = metadata_of(stream, report) if is_last else {}
        metadata = {**of_run, "rows": rows}
        yield dg.AssetMaterialization(stream.name, partition=month, metadata=metadata)
    if chosen is None:
        yield dg.AssetMaterialization(stream.name, metadata=metadata_of(stream, report))


def checks_of(stream: Stream, report: Report, attempt: Attempt) -> Iterator[dict[str, Any]]:
    """Arguments for the results of the checks of a stream that was read, as far as it was."""
    failures = [
        {
            "bank": bank,
            "code": code,
            "pulls": failed.count,
            "first failed at": f"{failed.first_at:%Y-%m-%d %H:%M:%S} UTC",
            "remedy": failed.remedy,
        }
        for (bank, code), failed in sorted(report.failures.items())
    ]
    is_complete = not report.outcomes[Outcome.FAILED]
    found = {} if is_complete else {"failures": _table(failures)}
    yield attempt.verdict(stream.name, found, is_complete=is_complete)
    if attempt.problem is not None and not report.outcomes:
        return
    for name, place, unfit in (
        ("fits_the_catalogue", "in_quarantine", report.standing),
        ("is_known", "paths", report.drift),
    ):
        yield {
            "asset_key": dg.AssetKey(stream.name),
            "check_name": name,
            "passed": not unfit,
            "severity": dg.AssetCheckSeverity.WARN,
            "metadata": {place: dict(unfit)},
        }


def _table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])


_IN_TIME = dg.AssetCheckSpec(
    "in_time", asset="refresh", description="Every refresh ended within refresh_alarm_seconds."
)


def refreshed(
    context: Context,
    selection: Selection,
    lean: LeanResource,
    lake: LakeResource,
    inbox: InboxResource,
    policy: Policy,
    progress: Progress,
) -> tuple[RefreshReport | None, Attempt]:
    """Refresh entities in a step: what that did, if anything, and how it ended.

    Raises:
        RetryRequested: As `attempted`, and so is Failure.
    """

    async def work(client: LeanClient) -> RefreshReport:
        return await refresh_stale(
            client,
            lake.lake(),
            policy=policy,
            entity_ids=selection.entity_ids,
            shard=selection.shard,
            run_id=context.run.run_id,
            progress=logged(context.log, "refresh", progress),
            waiter=inbox.waiter(),
        )

    report = None
    with attempted(context, "refresh") as attempt:
        report = lean.run(work)
    return report, attempt


def refresh_materialization(report: RefreshReport) -> dg.AssetMaterialization:
    """What Dagster shows of refreshes."""
    return dg.AssetMaterialization(
        "refresh",
        metadata={
            "stale": report.stale,
            "over_budget": report.over_budget,
            "outcomes": dg.MetadataValue.json(dict(report.outcomes)),
            "requests": report.requests,
            "seconds": round(report.seconds, 3),
        },
    )


def in_time(report: RefreshReport) -> dict[str, Any]:
    """Arguments for the result of the check `in_time`."""
    overdue = report.outcomes["OVERDUE"]
    return {
        "asset_key": dg.AssetKey("refresh"),
        "check_name": _IN_TIME.name,
        "passed": not overdue,
        "severity": dg.AssetCheckSeverity.WARN,
        "metadata": {"overdue": overdue},
    }


@dg.multi_asset(
    name="refresh",
    specs=[
        dg.AssetSpec(
            "refresh",
            deps=["banks", "entities", "consents"],
            group_name=DIRECTORY,
            owners=OWNERS,
            kinds={"python"},
            description="Asks banks again for data that is too old, within each entity's daily"
            " budget. Each refresh has a row in refresh_attempts.",
        )
    ],
    check_specs=[
        _IN_TIME,
        dg.AssetCheckSpec(
            COMPLETE, asset="refresh", description="Every bank could be asked again."
        ),
    ],
    pool=LEAN_POOL,
)
def refresh(
    context: dg.AssetExecutionContext,
    config: SyncConfig,
    lean: dg.ResourceParam[LeanResource],
    lake: dg.ResourceParam[LakeResource],
    inbox: dg.ResourceParam[InboxResource],
    policy: dg.ResourceParam[Policy],
    progress: dg.ResourceParam[Progress],
) -> Iterator[Reported]:
    """Refresh what is too old, and wait for the banks."""
    chosen = Selection(entity_ids=set(config.entity_ids) or None)
    report, attempt = refreshed(context, chosen, lean, lake, inbox, policy, progress)
    if report is None:
        yield dg.Output(None, _IN_TIME.get_python_identifier())
    else:
        context.log_event(refresh_materialization(report))
        yield dg.AssetCheckResult(**in_time(report))
    yield unmaterialized("refresh")
    yield dg.AssetCheckResult(**attempt.verdict("refresh", {}))
    if attempt.problem is not None and not waits_for_outcome(context):
        raise_failures({"refresh": attempt.problem})


@dg.asset(
    name=OUTCOME,
    deps=[*STREAMS, "refresh", "warehouse"],
    group_name="warehouse",
    owners=OWNERS,
    kinds={"python"},
    description="The last sync in which nothing failed. Where a stream, a refresh or a table"
    " failed, this fails the run when everything else is published, and says what to do.",
)
def sync_outcome(context: dg.AssetExecutionContext) -> None:
    """Fail the run if anything in it failed."""
    checks = [
        key
        for key in context.job_def.asset_layer.asset_graph.asset_check_keys
        if key.name in {COMPLETE, FRESH}
    ]
    run_ids = run_ids_of(context.run, context.instance)
    raise_failures(failures_of(context.instance, checks, run_ids))


stream_assets = [_asset(stream) for stream in STREAMS.values() if stream.exploded_from is None]
