"""An asset per model, with its lineage and its checks; one step builds all of them in order."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import dagster as dg

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
from pipelines.dagster_defs.stream_assets import OWNERS, column_schema
from pipelines.dagster_defs.warehouse_assets import FOLLOW, warehouse_asset
from pipelines.lake.ledger import VIEW_DOCS
from pipelines.lake.views import LAKE_VIEWS
from pipelines.models.build import Built, build
from pipelines.models.manifest import CheckResult
from pipelines.models.model import Check, Model, ModelColumn, Models

_LEDGER = {"pulls", *VIEW_DOCS, *LAKE_VIEWS} - {"clock"}


def model_assets(models: Models) -> list[dg.AssetsDefinition]:
    """The assets of all models, and of the warehouse that shows them."""
    streams = streams_of(models)

    @dg.multi_asset(
        name="models",
        specs=[_spec(model, models) for model in models],
        check_specs=[
            *(spec for model in models for spec in _check_specs(model)),
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
                hash_key=lake.hash_key(),
                only=wanted,
                progress=progress_of_models(progress),
            )
        failed = failures_of(context.instance, STREAM_CHECKS, [])
        for one, reasons in with_reasons(built, streams, failed):
            yield from _results(one, reasons)
        if not waits_for_outcome(context):
            raise_failures(problems_of(built))

    return [build_models, warehouse_asset(models)]


def progress_of_models(progress: Progress) -> Callable[[str, int, int], None]:
    """What a build calls before each model, to show how far it is."""
    return lambda _name, done, total: progress("models", done, total)


def with_reasons(
    built: Collection[Built], streams: Mapping[str, set[str]], failed: Mapping[str, str]
) -> Iterator[tuple[Built, dict[str, str]]]:
    """Each model with what failed in the streams that it reads, by stream.

    Args:
        streams: As `streams_of` gives them.
        failed: What failed, by stream.
    """
    for one in built:
        yield one, {name: failed[name] for name in streams[one.model.name] & failed.keys()}


def problems_of(built: Collection[Built]) -> dict[str, str]:
    """Why models could not be built and stay as they were, by model."""
    return {
        one.model.name: one.problem.removeprefix(f"{one.model.name}: ")
        for one in built
        if one.problem is not None
    }


def _spec(model: Model, models: Models) -> dg.AssetSpec:
    def keyed(column: ModelColumn) -> dg.TableColumnConstraints:
        return dg.TableColumnConstraints(
            nullable=column.name not in model.key, unique=(column.name,) == model.key
        )

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
            "dagster/column_schema": column_schema(model.columns, keyed),
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
    names = {one if one in models else one.removesuffix("_history") for one in model.reads}
    found = {name for name in names if name in models or name in STREAMS}
    return found | set(STREAMS) if names & _LEDGER else found


def streams_of(models: Models) -> dict[str, set[str]]:
    """The streams whose rows each model reads, also through other models, and `refresh`.

    The ledger is left out: it says of each stream what failed.
    """
    found: dict[str, set[str]] = {}
    for model in models:
        read = {name.removesuffix("_history") for name in model.reads} & set(STREAMS)
        if any(STREAMS[name].is_of_entities for name in read):
            read.add("refresh")
        found[model.name] = read.union(*(found[name] for name in model.reads if name in models))
    return found


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


def _check_specs(model: Model) -> Iterator[dg.AssetCheckSpec]:
    yield dg.AssetCheckSpec(
        "key_is_unique",
        asset=model.name,
        description=f"({', '.join(model.key)}) is unique and never null; a model that breaks this"
        " is not replaced.",
    )
    yield dg.AssetCheckSpec(
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


def events_of(
    built: Built, reasons: Mapping[str, str]
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """As `_results`, what a step reports that has no assets."""
    key = dg.AssetKey(built.model.name)
    for one in _results(built, reasons):
        if isinstance(one, dg.MaterializeResult):
            yield dg.AssetMaterialization(key, metadata=one.metadata)
        elif isinstance(one, dg.AssetCheckResult):
            yield dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=str(one.check_name),
                passed=one.passed,
                severity=one.severity,
                metadata=dict(one.metadata),
            )


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
