"""The asset of the daily report, written last in the nightly sync."""

import dagster as dg

from pipelines.dagster_defs.failures import explained
from pipelines.dagster_defs.resources import LakeResource
from pipelines.dagster_defs.stream_assets import OWNERS
from pipelines.environment import settings
from pipelines.lake.storage import Storage
from pipelines.operate.report import KEPT_DAYS, Language, keep, report
from pipelines.sync.policy import Policy


@dg.asset(
    # The last step of the nightly sync.
    deps=["compaction"],
    group_name="warehouse",
    owners=OWNERS,
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
    from pipelines.operate.page import page  # noqa: PLC0415 - only this step needs templates

    of = lake.lake()
    home = Storage(of.folder.parent.parent)
    with explained():
        made = report(of, policy, settings=settings(), instance=context.instance)
        keys = keep(home, of.environment, made.day, {one: page(made, one) for one in Language})
    paths = dict(zip(Language, keys, strict=True))
    return dg.MaterializeResult(
        metadata={
            **{str(one): dg.MetadataValue.path(home.local(key)) for one, key in paths.items()},
            "problems": len(made.health.problems),
            "needs a person": made.health.needs_a_person,
            "rules": dg.MetadataValue.json([one.rule for one in made.health.problems]),
        }
    )
