"""Assets beside the streams that look for what was missed, changed or damaged."""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from lean_resources.client import LeanClient
from lean_resources.errors import ConfigError
from lean_resources.resource import LeanResource
from lean_resources.streams import STREAMS
from pipelines.dagster_defs.failures import explained
from pipelines.dagster_defs.processes import LEAN_POOL
from pipelines.dagster_defs.resources import InboxResource, LakeResource
from pipelines.dagster_defs.stream_assets import OWNERS, metadata_of
from pipelines.lake.digests import DamageError
from pipelines.operate.fsck import check
from pipelines.sync.policy import Policy
from pipelines.sync.reconcile import Difference, reconcile, totals
from pipelines.sync.report import Report
from pipelines.webhooks.gap_repair import Repair, repair


def _checked(
    description: str, check: dg.AssetCheckSpec, *, deps: Sequence[str] = (), pool: str = LEAN_POOL
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """An asset beside the streams, with one check."""
    return dg.asset(
        deps=deps,
        group_name="upkeep",
        owners=OWNERS,
        kinds={"python"},
        pool=pool,
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
    """The result of such an asset; `found` is what Dagster shows of its check."""
    severity = dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN
    verdict = dg.AssetCheckResult(
        check_name=check, passed=is_passed, severity=severity, metadata=found
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[verdict])


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
    pool="warehouse",
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
