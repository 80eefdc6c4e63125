"""The asset of the Iceberg tables, which the nightly sync publishes after the warehouse."""

import dagster as dg

from pipelines.dagster_defs.failures import explained
from pipelines.dagster_defs.resources import LakeResource
from pipelines.dagster_defs.stream_assets import OWNERS
from pipelines.environment import settings
from pipelines.models.manifest import current_manifest
from pipelines.models.model import Models
from pipelines.operate.metrics import write_metrics


def iceberg_asset(models: Models) -> dg.AssetsDefinition:
    """The asset that publishes the marts for other engines."""

    @dg.asset(
        deps=["warehouse"],
        group_name="warehouse",
        owners=OWNERS,
        kinds={"iceberg"},
        pool="warehouse",
        description="The marts and the history of transactions as Iceberg tables, over the files"
        " that the build wrote. The table builds names complete sets.",
    )
    def iceberg(lake: dg.ResourceParam[LakeResource]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Bring the Iceberg tables up to the newest build."""
        with explained():
            from pipelines.publish.iceberg import publish_tables  # noqa: PLC0415 - needs an extra

            done = publish_tables(lake.lake(), models, settings().iceberg_catalogue)
        write_metrics(lake.lake(), settings().house.metrics_file)
        return dg.MaterializeResult(
            metadata={
                "build": done.build,
                # Builds that ended meanwhile, which the warehouse may show already.
                "builds behind": current_manifest(lake.lake()).number - done.build,
                "tables": done.tables,
                "changed": dg.MetadataValue.json(list(done.changed)),
                "dagster/row_count": done.rows,
                "seconds": done.seconds,
            }
        )

    return iceberg
