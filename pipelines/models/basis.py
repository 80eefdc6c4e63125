"""What a build reads: the build before it, and the ledger of an instant; of all or of a bucket."""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.models.components import attach_bucket
from pipelines.models.manifest import Manifest, named_now, open_newest, read_manifest
from pipelines.models.model import Check, Model, Models
from pipelines.models.plans import Plan


class Basis:
    """What a build of all accounts reads.

    Args:
        base: Key of the manifest before the build, or None.
        kept: That manifest.
        seen: Files of the ledger that are read; later commits do not show.
    """

    is_whole = True
    """Whether all rows of tables are there, so that keys and checks can be looked at."""

    def __init__(
        self, lake: Lake, models: Models, base: Key | None, kept: Manifest, seen: list[Key]
    ) -> None:
        self.lake, self.models, self.base, self.seen = lake, models, base, seen
        self.manifest = named_now(kept, models)
        """Parts as far as they are built; whoever builds changes it."""
        self.deltas, self.manifest.deltas = self.manifest.deltas, []

    @classmethod
    def newest(cls, lake: Lake, models: Models) -> Basis:
        """The build that counts, and the ledger, as they are now."""
        base, kept = open_newest(lake)
        return cls(lake, models, base, kept, lake.ledger.files())

    @classmethod
    def of(cls, lake: Lake, models: Models, plan: Plan) -> Basis:
        """What a plan was made from."""
        return Basis(lake, models, *_before(lake, plan), list(map(Key, plan.seen)))

    def wanted(self, only: Collection[str] | None) -> list[Model]:
        """The models to build, where some are asked for; None means all."""
        # Without their deltas, models that are not built would be older than those that are. In
        # buckets they may lack accounts that were in another one when they were built.
        asked = None if self.deltas or self.manifest.buckets > 1 else only
        return [model for model in self.models if asked is None or model.name in asked]

    def checks_of(self, model: Model) -> tuple[Check, ...]:
        """The checks to run of a model."""
        return self.models.checks_of(model.name)

    def attach(self, connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> str:
        """Create `pulls` and relations of the lake; a hash of the ids that show, empty for all."""
        self.lake.attach_to(connection, names, files=self.seen, is_checked=False)
        self.lake.check_files(connection)
        return ""


class BucketBasis(Basis):
    """What a build of a bucket of accounts reads."""

    is_whole = False

    def __init__(self, lake: Lake, models: Models, plan: Plan, number: int) -> None:
        super().__init__(lake, models, *_before(lake, plan), list(map(Key, plan.seen)))
        self.manifest.parts = self.manifest.bucket(number, plan.count)
        self._bucket = plan, number

    def wanted(self, only: Collection[str] | None) -> list[Model]:
        """The models to build: those that come apart."""
        return [model for model in super().wanted(only) if model.apart]

    def checks_of(self, _model: Model) -> tuple[Check, ...]:
        """None: checks are about whole tables."""
        return ()

    def attach(self, connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> str:
        """As for all accounts, with the rows of the bucket."""
        return attach_bucket(self.lake, connection, names, *self._bucket)


def _before(lake: Lake, plan: Plan) -> tuple[Key | None, Manifest]:
    """The manifest that a plan was made from, and its key."""
    base = Key(plan.base) if plan.base else None
    return base, read_manifest(lake, base) if base else Manifest()
