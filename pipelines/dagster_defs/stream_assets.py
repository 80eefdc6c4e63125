"""One asset per stream, derived from the catalogue."""

from collections.abc import Collection, Iterator, Sequence
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
    attempted,
    failure_text,
    failures_of,
    raise_failures,
    unmaterialized,
    waits_for_outcome,
)
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


def column_schema(columns: Sequence[Column]) -> dg.TableSchema:
    """The columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.doc,
                constraints=dg.TableColumnConstraints(nullable=not column.required),
                tags={"pii": "true"} if column.pii else None,
            )
            for column in columns
        ]
    )


def _group(stream: Stream) -> str:
    """What a stream is read per, because a failure of it reaches that far."""
    is_of_bank = stream.parent in {"entities", "accounts"} and stream.exploded_from is None
    return f"lean_{stream.parent}" if is_of_bank else DIRECTORY


def _spec(stream: Stream) -> dg.AssetSpec:
    deps = {name for name in (stream.parent, stream.exploded_from) if name is not None}
    if stream.permission is not None or stream.parent == "accounts":
        deps.add("consents")
    if stream.exploded_from is not None:
        deps = {stream.exploded_from}
    elif stream.parent in {"entities", "accounts"}:
        deps.add("refresh")
    return dg.AssetSpec(
        key=stream.name,
        deps=sorted(deps),
        description=stream.doc,
        group_name=_group(stream),
        owners=OWNERS,
        kinds={"parquet", "python"},
        partitions_def=MONTHS if stream.window is Window.MONTHS else None,
        metadata={
            "dagster/column_schema": column_schema(stream.columns),
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


def _asset(stream: Stream) -> dg.AssetsDefinition:
    """The asset of a stream, together with the streams that are exploded from it."""
    streams = family(stream)
    config_type = TransactionsConfig if stream.window is Window.MONTHS else SyncConfig

    @dg.multi_asset(
        name=f"pull_{stream.name}",
        specs=[_spec(s) for s in streams],
        check_specs=[_check_spec(stream, name) for name in _CHECKS],
        partitions_def=MONTHS if stream.window is Window.MONTHS else None,
        backfill_policy=(
            dg.BackfillPolicy.single_run() if stream.window is Window.MONTHS else None
        ),
        pool="lean_api",
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
            months = set(_chosen_months(context, stream)) or None

        async def work(client: LeanClient) -> Report:
            return await sync(
                stream,
                client,
                lake.lake(),
                policy=policy,
                selection=Selection(
                    entity_ids=set(config.entity_ids) or None,  # type: ignore[attr-defined]
                    account_ids=set(config.account_ids) or None,  # type: ignore[attr-defined]
                    months=months,
                    insights=getattr(config, "insights", True),
                ),
                run_id=context.run.run_id,
                resumes=resumed_by(context),
                progress=logged(context.log, stream.name, progress),
            )

        report = Report()
        with attempted(context, stream.name) as attempt:
            report = lean.run(work, inbox.waiter().result)
        context.log.info(
            "%s: %d rows of %d pulls in %.1f s, %.0f rows a second, %d requests",
            *(stream.name, report.rows[stream.name], report.outcomes.total(), report.seconds),
            *(report.rows[stream.name] / max(report.seconds, 0.001), report.requests),
        )
        if report.failed_share > policy.failure_threshold:
            text = failure_text(report)
            attempt.fail(text, PULLS_FAILED, "", problem=text)
            context.log.error("%s: %s", stream.name, attempt.problem)
        yield from _results(context, stream, report, attempt)
        if attempt.problem is not None and not waits_for_outcome(context):
            raise_failures({stream.name: attempt.problem})

    return pull


def _chosen_months(context: dg.AssetExecutionContext, stream: Stream) -> list[str]:
    """Months of a stream that a run was launched for; empty if it was launched for none."""
    is_chosen = context.has_partition_key or context.has_partition_key_range
    return sorted(context.partition_keys) if is_chosen and stream.window is Window.MONTHS else []


def resumed_by(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> set[str]:
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
    return {
        "rows": report.rows[stream.name],
        "read_targets": report.read_targets,
        "pulls": dg.MetadataValue.json(dict(report.outcomes)),
        "requests": report.requests,
        "bytes_received": report.received,
        "bytes_written": report.written,
        "seconds": round(report.seconds, 3),
        "quarantined": report.quarantined,
        **({"banks": _bank_table(report)} if report.banks else {}),
        **({"months": _month_table(report)} if report.months else {}),
        **{name: dg.MetadataValue.json(dict(of)) for name, of in found.items() if of},
    }


def _results(
    context: dg.AssetExecutionContext, stream: Stream, report: Report, attempt: Attempt
) -> Iterator[Reported]:
    """What a step reports: what it read, its checks, and outputs that let the next steps run.

    A stream of which nothing was read is not materialised, so that it does not pass for fresh.
    """
    is_read = attempt.problem is None or report.outcomes[Outcome.COMMITTED] > 0
    chosen = _chosen_months(context, stream)
    for made in family(stream):
        if is_read:
            events = (
                months_of(made, report, chosen if attempt.problem is None else [])
                if chosen
                else materializations_of(made, report)
            )
            for event in events:
                context.log_event(event)
        yield unmaterialized(made.name)
    results = {result["check_name"]: result for result in checks_of(stream, report, attempt)}
    for name in _CHECKS:
        if name in results:
            yield dg.AssetCheckResult(**results[name])
        else:
            yield dg.Output(None, _check_spec(stream, name).get_python_identifier())


def materializations_of(stream: Stream, report: Report) -> Iterator[dg.AssetMaterialization]:
    """What was read of a stream; of a stream with months, before it each month that has rows.

    Dagster shows the figures of the last one.
    """
    if stream.window is Window.MONTHS:
        for month, rows in sorted(report.months.items()):
            yield dg.AssetMaterialization(stream.name, partition=month, metadata={"rows": rows})
    yield dg.AssetMaterialization(stream.name, metadata=metadata_of(stream, report))


def months_of(
    stream: Stream, report: Report, chosen: Collection[str]
) -> Iterator[dg.AssetMaterialization]:
    """Each chosen month, and each month that has rows; the last of them says what was read.

    Dagster takes a backfill for failed if a chosen month, although empty, is not materialised, or
    if a materialization has no month.
    """
    months = {**dict.fromkeys(chosen, 0), **report.months}
    for month, rows in sorted(months.items()):
        of_run = metadata_of(stream, report) if month == max(months) else {}
        yield dg.AssetMaterialization(
            stream.name, partition=month, metadata={**of_run, "rows": rows}
        )


def checks_of(stream: Stream, report: Report, attempt: Attempt) -> Iterator[dict[str, Any]]:
    """Arguments for the results of the checks of a stream that was read, as far as it was."""
    failed = report.outcomes[Outcome.FAILED]
    found = {"failures": _failure_table(report)} if failed else {}
    yield attempt.verdict(stream.name, found, is_complete=not failed)
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


def _bank_table(report: Report) -> dg.TableMetadataValue:
    """What was read of each bank, and how old its data is."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "bank": name,
                    "rows": bank.rows,
                    "requests": bank.requests,
                    "pulls": bank.pulls,
                    "failed": bank.failed,
                    "oldest copy": f"{bank.oldest_at:%Y-%m-%d %H:%M} UTC" if bank.oldest_at else "",
                }
            )
            for name, bank in sorted(report.banks.items())
        ]
    )


def _month_table(report: Report) -> dg.TableMetadataValue:
    """Rows that were read of each UTC month, the newest first."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"month": month, "rows": rows})
            for month, rows in sorted(report.months.items(), reverse=True)
        ]
    )


def _failure_table(report: Report) -> dg.TableMetadataValue:
    """Failed pulls by bank and code."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "bank": bank,
                    "code": code,
                    "pulls": failed.count,
                    "first failed at": f"{failed.first_at:%Y-%m-%d %H:%M:%S} UTC",
                    "remedy": failed.remedy,
                }
            )
            for (bank, code), failed in sorted(report.failures.items())
        ]
    )


_IN_TIME = dg.AssetCheckSpec(
    "in_time", asset="refresh", description="Every refresh ended within refresh_alarm_seconds."
)


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
    pool="lean_api",
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

    async def work(client: LeanClient) -> RefreshReport:
        return await refresh_stale(
            client,
            lake.lake(),
            policy=policy,
            entity_ids=set(config.entity_ids) or None,
            run_id=context.run.run_id,
            progress=logged(context.log, "refresh", progress),
            waiter=inbox.waiter(),
        )

    report = None
    with attempted(context, "refresh") as attempt:
        report = lean.run(work)
    if report is None:
        yield dg.Output(None, _IN_TIME.get_python_identifier())
    else:
        context.log_event(
            dg.AssetMaterialization(
                "refresh",
                metadata={
                    "stale": report.stale,
                    "over_budget": report.over_budget,
                    "outcomes": dg.MetadataValue.json(dict(report.outcomes)),
                    "requests": report.requests,
                    "seconds": round(report.seconds, 3),
                },
            )
        )
        overdue = report.outcomes["OVERDUE"]
        yield dg.AssetCheckResult(
            check_name=_IN_TIME.name,
            passed=not overdue,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"overdue": overdue},
        )
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
