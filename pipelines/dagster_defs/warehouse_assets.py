"""Assets over the tables: the warehouse, compaction, the Iceberg tables and the daily report."""

import datetime as dt
import functools
from typing import Any

import dagster as dg

from lean_resources.streams import STREAMS
from pipelines.dagster_defs.failures import explained
from pipelines.dagster_defs.resources import LakeResource
from pipelines.dagster_defs.stream_assets import OWNERS
from pipelines.environment import settings
from pipelines.lake.compaction import compact
from pipelines.lake.folder import Folder
from pipelines.models.build import build
from pipelines.models.manifest import current_manifest
from pipelines.models.model import Models
from pipelines.operate.metrics import write_metrics
from pipelines.operate.report import KEPT_DAYS, Language, keep, report
from pipelines.operate.vacuum import vacuum
from pipelines.publish.publications import published_warehouse
from pipelines.publish.warehouse import publish
from pipelines.sync.policy import Policy

FOLLOW = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
"""Rebuild when what the asset reads has changed. Unlike with `eager`, months that were never pulled
do not delay it."""

_asset = functools.partial(dg.asset, group_name="warehouse", owners=OWNERS)


def warehouse_asset(models: Models) -> dg.AssetsDefinition:
    """The asset of the warehouse."""

    @_asset(
        deps=[*STREAMS, *(model.name for model in models if model.layer != "pii")],
        kinds={"duckdb"},
        pool="warehouse",
        automation_condition=FOLLOW,
        description="The DuckDB file that analysts open, with every stream and every model.",
    )
    def warehouse(lake: dg.ResourceParam[LakeResource]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Build the warehouse beside the old file and swap it in."""
        return dg.MaterializeResult(metadata=publish_warehouse(lake, models))

    return warehouse


def compaction_asset(models: Models) -> dg.AssetsDefinition:
    """The asset that merges files, publishes the warehouse over them, and deletes old files."""

    @_asset(
        deps=["warehouse"],
        kinds={"parquet"},
        pool="warehouse",
        description="Merges files of months that were read again, so that each version of a row is"
        " kept once, with the pulls that brought it. Publishes the warehouse over the merged files."
        " Deletes what killed processes left, and what was merged or replaced a day ago.",
    )
    def compaction(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[LakeResource]
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Delete files that nobody needs, and merge files of months that were read again."""
        return dg.MaterializeResult(metadata=compacted(lake, models, context.run.run_id))

    return compaction


def compacted(lake: LakeResource, models: Models, run_id: str) -> dict[str, Any]:
    """Delete and merge files, and publish the warehouse over them; what Dagster shows of it."""
    with explained():
        deleted = vacuum(lake.lake())
        done = compact(lake.lake(), run_id=run_id)
        if done.months:
            # Or the next webhook would have to: merged rows have other pulls.
            build(lake.lake(), models, hash_key=lake.hash_key())
    if published_warehouse(lake.lake().storage) is not None:
        publish_warehouse(lake, models)
    counts = {
        f"{place}: {reason}": files for (place, reason), (files, _) in deleted.summary().items()
    }
    return {
        "months": done.months,
        "pulls": done.pulls,
        "rows": done.rows,
        "superseded": done.superseded,
        "files_before": done.files_before,
        "files_after": done.files_after,
        "ledger_files": done.ledger_files,
        "files_deleted": len(deleted.deletions),
        "deleted": dg.MetadataValue.json(counts),
    }


def publish_warehouse(lake: LakeResource, models: Models) -> dict[str, Any]:
    """Build the warehouse beside the old file and swap it in; returns what Dagster shows of it."""
    started = dt.datetime.now(dt.UTC)
    with explained():
        published = publish(lake.lake(), models, pii=lake.pii)
    write_metrics(lake.lake(), settings().house.metrics_file)
    return {
        "path": dg.MetadataValue.path(published.path),
        "rows": dg.MetadataValue.json(dict(published.rows)),
        "personal columns": lake.pii,
        "seconds": (dt.datetime.now(dt.UTC) - started).total_seconds(),
    }


def iceberg_asset(models: Models) -> dg.AssetsDefinition:
    """The asset of the Iceberg tables, which the nightly sync publishes after the warehouse."""

    @_asset(
        deps=["warehouse"],
        kinds={"iceberg"},
        pool="warehouse",
        description="The marts and the history of transactions as Iceberg tables, over the files"
        " that the build wrote. The table builds names complete sets.",
    )
    def iceberg(lake: dg.ResourceParam[LakeResource]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Bring the Iceberg tables up to the newest build."""
        return dg.MaterializeResult(metadata=publish_iceberg(lake, models))

    return iceberg


def publish_iceberg(lake: LakeResource, models: Models) -> dict[str, Any]:
    """Bring the Iceberg tables up to the newest build; returns what Dagster shows of it."""
    with explained():
        from pipelines.publish.iceberg import publish_tables  # noqa: PLC0415 - needs an extra

        done = publish_tables(lake.lake(), models, settings().iceberg_catalogue)
    write_metrics(lake.lake(), settings().house.metrics_file)
    return {
        "build": done.build,
        # Builds that ended meanwhile, which the warehouse may show already.
        "builds behind": current_manifest(lake.lake()).number - done.build,
        "tables": done.tables,
        "changed": dg.MetadataValue.json(list(done.changed)),
        "dagster/row_count": done.rows,
        "seconds": done.seconds,
    }


@_asset(
    # The last step of the nightly sync.
    deps=["compaction"],
    kinds={"html"},
    description="What came within 24 hours, what it cost, and what is wrong, as an HTML file in"
    f" English and one in Arabic, without a personal value. Reports are kept for {KEPT_DAYS} days.",
)
def daily_report(
    context: dg.AssetExecutionContext,
    lake: dg.ResourceParam[LakeResource],
    policy: dg.ResourceParam[Policy],
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Write the report of today."""
    return dg.MaterializeResult(metadata=write_report(context.instance, lake, policy))


def write_report(
    instance: dg.DagsterInstance, lake: LakeResource, policy: Policy
) -> dict[str, Any]:
    """Write the report of today; returns what Dagster shows of it."""
    from pipelines.operate.page import page  # noqa: PLC0415 - only this step needs templates

    of = lake.lake()
    home = Folder(lake.home)
    with explained():
        made = report(of, policy, settings=settings(), instance=instance)
        keys = keep(home, of.environment, made.day, {one: page(made, one) for one in Language})
    paths = dict(zip(Language, keys, strict=True))
    return {
        **{str(one): dg.MetadataValue.path(home.local(key)) for one, key in paths.items()},
        "problems": len(made.health.problems),
        "needs a person": made.health.needs_a_person,
        "rules": dg.MetadataValue.json([one.rule for one in made.health.problems]),
    }
