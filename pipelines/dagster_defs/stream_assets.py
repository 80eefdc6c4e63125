"""One asset per stream, derived from the catalogue."""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from lean_resources.client import LeanClient
from lean_resources.errors import ConfigError
from lean_resources.instants import BEFORE_LEAN
from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS, Column, Stream, Window, family
from pipelines.dagster_defs.failures import explained
from pipelines.dagster_defs.resources import InboxResource, LakeResource, Progress
from pipelines.lake.digests import DamageError
from pipelines.operate.fsck import check
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.reconcile import Difference, reconcile, totals
from pipelines.sync.refresh import RefreshReport
from pipelines.sync.refresh import refresh as refresh_stale
from pipelines.sync.report import Report
from pipelines.sync.tasks import Selection
from pipelines.webhooks.gap_repair import Repair, repair

FIRST_MONTH = f"{BEFORE_LEAN:%Y-%m}"
MONTHS = dg.MonthlyPartitionsDefinition(
    start_date=FIRST_MONTH, end_offset=1, timezone="UTC", fmt="%Y-%m"
)
"""UTC months of booking, with the current month. Lean did not exist in the first month."""

_ROOT_TAG = "dagster/root_run_id"
_RETRY_TAG = "dagster/retry_number"


def all_months(now: dt.datetime) -> dict[str, str]:
    """Tags of a run that covers every month up to an instant."""
    return {
        "dagster/asset_partition_range_start": FIRST_MONTH,
        "dagster/asset_partition_range_end": f"{now.astimezone(dt.UTC):%Y-%m}",
    }


OWNERS = ["team:data-engineering"]


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
        group_name="lean",
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
    "is_complete": "Each pull of the sync committed, was unchanged or was not permitted.",
    "fits_the_catalogue": "No record of the stream is in quarantine, whenever it was read.",
    "is_known": "No record has a field that the catalogue does not know.",
}


def _asset(stream: Stream) -> dg.AssetsDefinition:
    """The asset of a stream, together with the streams that are exploded from it."""
    streams = family(stream)
    config_type = TransactionsConfig if stream.window is Window.MONTHS else SyncConfig

    @dg.multi_asset(
        name=f"pull_{stream.name}",
        specs=[_spec(s) for s in streams],
        check_specs=[
            dg.AssetCheckSpec(name, asset=stream.name, description=text)
            for name, text in _CHECKS.items()
        ],
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
    ) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        months = None
        if stream.window is Window.MONTHS and not config.only_missing:  # type: ignore[attr-defined]
            months = set(context.partition_keys)

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
                progress=lambda done, total: progress(stream.name, done, total),
            )

        with explained():
            report = lean.run(work, inbox.waiter().result)
        for made in streams:
            yield dg.MaterializeResult(
                asset_key=made.name,
                metadata=metadata_of(made, report),
                check_results=_checks(stream, report) if made is stream else [],
            )
        _judge(stream, report, policy)

    return pull


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
    return {
        "dagster/partition_row_count" if stream.window is Window.MONTHS else "dagster/row_count": (
            report.rows[stream.name]
        ),
        "read_targets": report.read_targets,
        "pulls": dg.MetadataValue.json(dict(report.outcomes)),
        "codes": dg.MetadataValue.json(dict(report.codes)),
        "requests": report.requests,
        "bytes_received": report.received,
        "bytes_written": report.written,
        "seconds": round(report.seconds, 3),
        "quarantined": report.quarantined,
        "unfit": dg.MetadataValue.json(dict(report.unfit)),
        "in_quarantine": dg.MetadataValue.json(dict(report.standing)),
        "drift": dg.MetadataValue.json(dict(report.drift)),
    }


def checks_of(report: Report) -> dict[str, tuple[bool, dict[str, Any]]]:
    """Whether each check of a stream that was synced passes, and what it found."""
    return {
        "is_complete": (report.outcomes["FAILED"] == 0, {"codes": dict(report.codes)}),
        "fits_the_catalogue": (not report.standing, {"in_quarantine": dict(report.standing)}),
        "is_known": (not report.drift, {"paths": dict(report.drift)}),
    }


def _checks(stream: Stream, report: Report) -> list[dg.AssetCheckResult]:
    return [
        dg.AssetCheckResult(
            check_name=name,
            asset_key=stream.name,
            passed=ok,
            severity=dg.AssetCheckSeverity.WARN,
            metadata=metadata,
        )
        for name, (ok, metadata) in checks_of(report).items()
    ]


def _judge(stream: Stream, report: Report, policy: Policy) -> None:
    """Fail the run if too many pulls failed; what succeeded is committed."""
    threshold = policy.failure_threshold
    if report.failed_share > threshold:
        raise dg.Failure(
            f"{report.failed_share:.0%} of {stream.name}'s pulls failed, above {threshold:.0%}",
            metadata={
                "codes": dg.MetadataValue.json(dict(report.codes)),
                "remedy": "Ask the ledger: select code, count(*) from raw.pulls group by code;"
                " what succeeded is committed, and the next sync reads the rest.",
            },
            allow_retries=False,
        )


def _checked(
    description: str, check: dg.AssetCheckSpec, *, deps: Sequence[str] = (), group: str = "lean"
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """An asset beside the streams, with one check."""
    return dg.asset(
        deps=deps,
        group_name=group,
        owners=OWNERS,
        kinds={"python"},
        pool="lean_api" if group == "lean" else group,
        description=description,
        check_specs=[check],
    )


def _result(
    metadata: dict[str, Any],
    check: str,
    *,
    is_passed: bool,
    found: dict[str, Any],
    is_error: bool = False,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The result of such an asset.

    Args:
        metadata: What Dagster shows of the asset.
        check: The name of its check.
        is_passed: Whether the check passed.
        found: What Dagster shows of the check.
        is_error: Whether a failed check is an error; otherwise it is a warning.
    """
    severity = dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN
    verdict = dg.AssetCheckResult(
        check_name=check, passed=is_passed, severity=severity, metadata=found
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[verdict])


@_checked(
    "Asks banks again for data that is too old, within each entity's daily budget. Each refresh"
    " has a row in refresh_attempts.",
    dg.AssetCheckSpec(
        "in_time", asset="refresh", description="Every refresh ended within refresh_alarm_seconds."
    ),
    deps=["banks", "entities", "consents"],
)
def refresh(
    context: dg.AssetExecutionContext,
    config: SyncConfig,
    lean: dg.ResourceParam[LeanResource],
    lake: dg.ResourceParam[LakeResource],
    inbox: dg.ResourceParam[InboxResource],
    policy: dg.ResourceParam[Policy],
    progress: dg.ResourceParam[Progress],
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Refresh what is too old, and wait for the banks."""

    async def work(client: LeanClient) -> RefreshReport:
        return await refresh_stale(
            client,
            lake.lake(),
            policy=policy,
            entity_ids=set(config.entity_ids) or None,
            run_id=context.run.run_id,
            progress=lambda done, total: progress("refresh", done, total),
            waiter=inbox.waiter(),
        )

    with explained():
        report = lean.run(work)
    overdue = report.outcomes["OVERDUE"]
    metadata = {
        "stale": report.stale,
        "over_budget": report.over_budget,
        "outcomes": dg.MetadataValue.json(dict(report.outcomes)),
        "requests": report.requests,
        "seconds": round(report.seconds, 3),
    }
    return _result(metadata, "in_time", is_passed=not overdue, found={"overdue": overdue})


@_checked(
    "Reads all transactions that the consents allow again, compares them with the lake, and"
    " commits them.",
    dg.AssetCheckSpec(
        "agrees_with_lean",
        asset="reconciliation",
        description="A settled month has the same rows as before, and so has a month read from"
        " the same bank data copy as before.",
    ),
    deps=["transactions"],
)
def reconciliation(
    context: dg.AssetExecutionContext,
    lean: dg.ResourceParam[LeanResource],
    lake: dg.ResourceParam[LakeResource],
    policy: dg.ResourceParam[Policy],
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Read everything again, and report differences."""

    async def work(client: LeanClient) -> tuple[Report, list[Difference]]:
        return await reconcile(client, lake.lake(), policy=policy, run_id=context.run.run_id)

    with explained():
        report, differences = lean.run(work)
    return _result(
        metadata_of(STREAMS["transactions"], report),
        "agrees_with_lean",
        is_passed=not differences,
        found=totals(differences),
        is_error=True,
    )


@_checked(
    "Puts events that Lean sent and that never arrived into the inbox of webhooks.",
    dg.AssetCheckSpec(
        "nothing_was_missed",
        asset="missed_events",
        description="Every event that Lean sent has arrived as a webhook.",
    ),
)
def missed_events(
    lean: dg.ResourceParam[LeanResource],
    lake: dg.ResourceParam[LakeResource],
    inbox: dg.ResourceParam[InboxResource],
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Compare what Lean sent with what arrived, and repair the difference."""

    async def work(client: LeanClient) -> Repair:
        box = inbox.inbox()
        if box is None:
            raise ConfigError("webhooks are not set up: set LEAN_WEBHOOK_SECRET")
        return await repair(client, lake.lake(), box)

    with explained():
        done = lean.run(work)
    found = {
        "repaired": done.repaired.total(),
        "by_type": dg.MetadataValue.json(dict(done.repaired)),
        "compared": done.compared,
        "unreadable": done.unreadable,
        "way": done.way,
        "from": dg.MetadataValue.text(done.from_at.isoformat()),
        "to": dg.MetadataValue.text(done.to_at.isoformat()),
        "requests": done.requests,
    }
    return _result(found, "nothing_was_missed", is_passed=not done.repaired, found=found)


@_checked(
    "Reads every file of the lake and compares it with what was written; changes nothing.",
    dg.AssetCheckSpec(
        "holds_what_was_written",
        asset="integrity",
        description="No file is missing, truncated, changed or foreign.",
    ),
    group="warehouse",
)
def integrity(lake: dg.ResourceParam[LakeResource]) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Look for damage."""
    with explained():
        report = check(lake.lake())
    found = {
        "findings": dg.MetadataValue.json([str(one) for one in report.findings[:20]]),
        "count": len(report.findings),
        "remedy": DamageError.remedy,
    }
    return _result(
        {"verified": report.verified, "unverified": report.unverified},
        "holds_what_was_written",
        is_passed=not report.findings,
        found=found,
        is_error=True,
    )


stream_assets = [_asset(stream) for stream in STREAMS.values() if stream.exploded_from is None]
