"""An asset per model, with its lineage and its checks; one step builds all of them in order."""

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import dagster as dg

from lean_resources.errors import ConfigError
from lean_resources.streams import STREAMS
from pipelines.dagster_defs.failures import (
    FRESH,
    PROBLEM,
    STREAM_CHECKS,
    explained,
    failures_of,
    grouped,
    raise_failures,
    unmaterialized,
    waits_for_outcome,
)
from pipelines.dagster_defs.resources import LakeResource, Progress
from pipelines.dagster_defs.stream_assets import OWNERS
from pipelines.environment import settings
from pipelines.lake.compaction import compact
from pipelines.lake.ledger import VIEW_DOCS
from pipelines.lake.views import LAKE_VIEWS
from pipelines.models.build import Built, build
from pipelines.models.manifest import CheckResult
from pipelines.models.model import Check, Model, Models
from pipelines.operate.metrics import write_metrics
from pipelines.operate.vacuum import vacuum
from pipelines.publish.warehouse import publish

FOLLOW = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
"""Rebuild when what the asset reads has changed. Unlike with `eager`, months that were never pulled
do not delay it."""

_LEDGER = {"pulls", *VIEW_DOCS, *LAKE_VIEWS} - {"clock"}


def model_assets(models: Models) -> list[dg.AssetsDefinition]:
    """The assets of all models, and of the warehouse that shows them."""
    streams = streams_of(models)

    @dg.multi_asset(
        name="models",
        specs=[_spec(model, models) for model in models],
        check_specs=[
            *map(_key_spec, models),
            *map(_fresh_spec, models),
            *(
                dg.AssetCheckSpec(one.name, asset=one.model, description=one.claim)
                for one in models.checks
            ),
        ],
        can_subset=True,
        pool="warehouse",
    )
    def build_models(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult | dg.Output[None]]:  # type: ignore[type-arg]
        wanted = {key.to_user_string() for key in context.selected_asset_keys}
        with explained():
            built = build(
                lake.lake(),
                models,
                hash_key=hash_key_of(lake),
                only=wanted,
                progress=lambda _name, done, total: progress("models", done, total),
            )
        failed = failures_of(context.instance, STREAM_CHECKS, [])
        for one in built:
            reasons = {name: failed[name] for name in streams[one.model.name] & failed.keys()}
            yield from _results(one, reasons)
        if not waits_for_outcome(context):
            raise_failures(problems_of(built))

    @dg.asset(
        deps=[*STREAMS, *(model.name for model in models if model.layer != "pii")],
        group_name="warehouse",
        owners=OWNERS,
        kinds={"duckdb"},
        pool="warehouse",
        automation_condition=FOLLOW,
        description="The DuckDB file that analysts open, with every stream and every model.",
    )
    def warehouse(lake: dg.ResourceParam[LakeResource]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Build the warehouse beside the old file and swap it in."""
        return dg.MaterializeResult(metadata=publish_warehouse(lake, models))

    return [build_models, warehouse]


def compaction_asset(models: Models) -> dg.AssetsDefinition:
    """The asset that merges files, publishes the warehouse over them, and deletes old files."""

    @dg.asset(
        deps=["warehouse"],
        group_name="warehouse",
        owners=OWNERS,
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
        with explained():
            deleted = vacuum(lake.lake())
            done = compact(lake.lake(), run_id=context.run.run_id)
            if done.months:
                # Or the next webhook would have to: merged rows have other pulls.
                build(lake.lake(), models, hash_key=hash_key_of(lake))
        if lake.lake().warehouse.exists():
            publish_warehouse(lake, models)
        return dg.MaterializeResult(
            metadata={
                "months": done.months,
                "pulls": done.pulls,
                "rows": done.rows,
                "superseded": done.superseded,
                "files_before": done.files_before,
                "files_after": done.files_after,
                "ledger_files": done.ledger_files,
                "files_deleted": len(deleted.deletions),
                "deleted": dg.MetadataValue.json(
                    {
                        f"{place}: {reason}": files
                        for (place, reason), (files, _) in deleted.summary().items()
                    }
                ),
            }
        )

    return compaction


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


def problems_of(built: Collection[Built]) -> dict[str, str]:
    """Why models could not be built and stay as they were, by model."""
    return {
        one.model.name: one.problem.removeprefix(f"{one.model.name}: ")
        for one in built
        if one.problem is not None
    }


def hash_key_of(lake: LakeResource) -> str:
    """The key of hashed account numbers.

    Raises:
        Failure: The key is not valid for this environment.
    """
    try:
        return lake.hash_key()
    except ConfigError as error:
        raise dg.Failure(f"{error.message}. {error.remedy}", allow_retries=False) from None


def _spec(model: Model, models: Models) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=model.name,
        deps=sorted(_assets_of(model, models)),
        description=f"{model.description}\n\nGrain: {model.grain}.",
        group_name=model.subject.replace(" ", "_") or model.layer,
        owners=OWNERS,
        kinds={"duckdb", "sql", *([] if model.stored.is_view else ["parquet"])},
        automation_condition=FOLLOW,
        tags={"formerly": model.formerly} if model.formerly else None,
        metadata={
            "dagster/column_schema": _schema(model),
            "dagster/column_lineage": _lineage(model, models),
            "grain": model.grain,
            "key": ", ".join(model.key),
            "sample": dg.MetadataValue.md(
                f"```sql\n{model.question or f'from {model.place}'}\n```"
            ),
            **dict(model.notes),
        },
    )


def _assets_of(model: Model, models: Models) -> set[str]:
    """Assets that a model reads; every stream writes the ledger."""
    found: set[str] = set()
    for name in model.reads:
        if name in models or name in STREAMS:
            found.add(name)
        elif name.removesuffix("_history") in STREAMS:
            found.add(name.removesuffix("_history"))
        elif name in _LEDGER:
            found |= set(STREAMS)
    return found


def streams_of(models: Models) -> dict[str, set[str]]:
    """The streams whose rows each model reads, also through other models, and `refresh`.

    The ledger is left out: it says of each stream what failed.
    """
    found: dict[str, set[str]] = {}
    for model in models:
        read = {name.removesuffix("_history") for name in model.reads} & set(STREAMS)
        if any(STREAMS[name].parent in {"entities", "accounts"} for name in read):
            read.add("refresh")
        found[model.name] = read.union(*(found[name] for name in model.reads if name in models))
    return found


def _schema(model: Model) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.type,
                description=column.doc,
                constraints=dg.TableColumnConstraints(
                    nullable=column.name not in model.key, unique=(column.name,) == model.key
                ),
                tags={"pii": "true"} if column.pii else None,
            )
            for column in model.columns
        ]
    )


def _lineage(model: Model, models: Models) -> dg.TableColumnLineage:
    """The columns of assets that each column comes from."""
    return dg.TableColumnLineage(
        deps_by_column={
            column.name: [
                dg.TableColumnDep(asset_key=asset, column_name=source)
                for table, source in column.sources
                for asset in [table.removesuffix("_history")]
                if asset in models or asset in STREAMS
            ]
            for column in model.columns
        }
    )


def _key_spec(model: Model) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        "key_is_unique",
        asset=model.name,
        description=f"({', '.join(model.key)}) is unique and never null; a model that breaks this"
        " is not replaced.",
    )


def _fresh_spec(model: Model) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        FRESH,
        asset=model.name,
        description="The table was built, and each stream that it reads was read by its last sync."
        " Otherwise its rows are as they were before.",
    )


def metadata_of_model(built: Built) -> dict[str, Any]:
    """What Dagster shows of a model that is up to date."""
    metadata: dict[str, Any] = {
        "parts": built.parts,
        "parts_written": built.written,
        "parts_changed": built.changed,
        "seconds": round(built.seconds, 3),
    }
    if built.accounts is not None:
        metadata |= {"accounts": built.accounts, "rows of these accounts": built.rows}
    elif not built.model.stored.is_view:
        metadata["dagster/row_count"] = built.rows
    return metadata


def verdict_of(check: Check, found: CheckResult) -> dict[str, Any]:
    """Arguments for a check's result, of a step and of an evaluation alike."""
    return {
        "check_name": check.name,
        "passed": not found.offenders,
        "severity": dg.AssetCheckSeverity.ERROR if check.is_error else dg.AssetCheckSeverity.WARN,
        "metadata": {"offenders": found.offenders, "first": dg.MetadataValue.json(found.shown)},
    }


def stale_verdict(built: Built, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for the result of the check `is_fresh`.

    Args:
        reasons: What failed in the streams that it reads, by stream.
    """
    is_error = built.problem is not None
    metadata = {"stale": "\n".join(grouped(reasons))} if reasons else {}
    if is_error:
        metadata[PROBLEM] = problems_of([built])[built.model.name]
    return {
        "asset_key": dg.AssetKey(built.model.name),
        "check_name": FRESH,
        "passed": not is_error and not reasons,
        "severity": dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        "metadata": metadata,
    }


def _results(
    built: Built, reasons: Mapping[str, str]
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult | dg.Output[None]]:  # type: ignore[type-arg]
    """What a step reports of a table; a stale table is materialised only if its rows changed."""
    key = dg.AssetKey(built.model.name)
    yield dg.AssetCheckResult(**stale_verdict(built, reasons))
    if built.problem is not None:
        yield unmaterialized(built.model.name)
        return
    if reasons and not built.changed:
        yield unmaterialized(built.model.name)
    else:
        yield dg.MaterializeResult(asset_key=key, metadata=metadata_of_model(built))
    yield dg.AssetCheckResult(asset_key=key, check_name="key_is_unique", passed=True)
    for check, found in built.checks.items():
        yield dg.AssetCheckResult(asset_key=key, **verdict_of(check, found))
