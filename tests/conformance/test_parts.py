"""Months that are built together hold the rows that each holds when it is built alone."""

import pytest
from conftest import TODAY
from worlds import PULLED, next_day, pull

from lean_resources.sandbox import Sandbox
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.models.manifest import current_manifest
from pipelines.models.session import stored_rows


@pytest.mark.conformance
@pytest.mark.parametrize("seed", [7, 11])
def test_months_that_are_built_together_hold_what_each_holds_alone(seed, tmp_path):
    """Every model of the project, over a world with a night behind it."""
    sandbox = Sandbox(customers=10, months=5, seed=seed, today=TODAY)
    lake, models = Lake(tmp_path / "lake", "sandbox"), load()
    for _ in range(2):
        pull(sandbox, lake, PULLED)
        next_day(sandbox)

    def built(**given):
        found = build(lake, models, hash_key="made-up-key-of-tests", **given)
        assert not [one for one in found if one.problem]
        manifest = current_manifest(lake)
        with lake.connect() as connection:
            return {
                name: sorted(connection.execute(
                    f"select hash(it) from ({stored_rows(lake, models[name], manifest)}) as it"
                ).fetchall())
                for name in manifest.parts
            }  # fmt: skip

    together = built()
    for file in (lake.folder / "manifests").iterdir():
        file.unlink()
    alone = built(rows_at_once=0)

    assert together == alone
    assert sum(map(len, alone.values())) > 10_000
