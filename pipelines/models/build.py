"""Builds: models become Parquet, in order, and a part is rebuilt only when its fingerprint changes.

A part is all rows of a model, or those of one month; in a large lake, those of one bucket. A part
that is rebuilt with the same rows keeps its content id, so that models that read it are up to date.

A build that was overtaken by another one, which has published a manifest meanwhile, starts again
from the other's result. What it has written by then is not written twice.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import msgspec

from lean_resources.machine import machine_error
from pipelines.lake.digests import damage_error
from pipelines.lake.folders import MARTS
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.lake.views import LAKE_VIEWS
from pipelines.models.basis import Basis, BucketBasis
from pipelines.models.checks import Checker
from pipelines.models.components import Bucket, write_buckets
from pipelines.models.fingerprints import Fingerprints, recipe_of
from pipelines.models.manifest import CheckResult, Part, bucket_name, keep_newer
from pipelines.models.model import BuildError, Check, Model, Models
from pipelines.models.parts import PartWriter, Rebuilt
from pipelines.models.session import Session, through_views

Progress = Callable[[str, int, int], None]
"""Called with the model that is built next, how many are done, and how many there are."""
BUCKET_ROWS = 2_000_000
"""Rows of the lake that a bucket reads of its largest month, at most, where buckets are equal."""
BUCKET_IDS = "bucket_ids"
"""Folder of files with the bucket of each id, while a build runs; beside the folders of models."""
ROWS_AT_ONCE = 250_000
"""Rows of the lake that months of a model read together, at most."""
_ATTEMPTS = 5
"""How often a build starts, because others overtook it."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did to a model.

    Args:
        rows: Rows that it holds now; those of a delta where only some accounts were built.
        parts: Parts that it has now.
        written: Parts that were rebuilt.
        changed: Parts whose rows are not those of before.
        seconds: Wall time, checks included.
        checks: The result of each of its checks; that of an earlier build where nothing changed.
        changed_checks: Checks with another number of offenders than before, or that ran first.
        problem: Why the model stays as it was before, or None.
        accounts: How many accounts were built; None for all.
    """

    model: Model
    rows: int
    parts: int
    written: int
    changed: int
    seconds: float
    checks: dict[Check, CheckResult]
    changed_checks: tuple[Check, ...] = ()
    problem: str | None = None
    accounts: int | None = None


def build(
    lake: Lake,
    models: Models,
    *,
    hash_key: str,
    only: Collection[str] | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
    buckets: int | None = None,
    progress: Progress = lambda _name, _done, _total: None,
) -> list[Built]:
    """Bring models up to date with the lake, and let the result count.

    In a large lake, models that come apart are built bucket by bucket, by `build_bucket`.

    Args:
        hash_key: Key of hashed identifiers; with another key everything is rebuilt.
        only: Names of the models to build; None means all. What they read besides is taken as it
            was built last.
        rows_at_once: Months of a model are selected together while they read at most so many rows
            of the lake, so that memory stays that of one large month.
        buckets: Number of buckets, a power of two; None means as many as the rows of the lake need.
        progress: Called before each bucket, before each model and at the end.

    Returns:
        One entry per model that was asked for, in the order of building. A model with a problem
        stays as it was, and so do models that read it.

    Raises:
        BuildError: Other builds overtook this one again and again.
        ConfigError: A newer version of leanhouse wrote the lake.
    """
    lake.format.check()
    with lake.scratch() as scratch:
        basis = Basis.newest(lake, models)
        attempt = Build(basis, hash_key, scratch, rows_at_once, only=only, buckets=buckets)
        for _ in range(_ATTEMPTS):
            for bucket in attempt.begun():
                progress(f"bucket {bucket.number + 1}", bucket.number, bucket.count)
                attempt.take(
                    build_bucket(
                        lake,
                        models,
                        bucket,
                        hash_key=hash_key,
                        only=only,
                        rows_at_once=rows_at_once,
                    )
                )
            built = attempt.run(progress)
            if attempt.keep():
                return [one for one in built if only is None or one.model.name in only]
            attempt = attempt.again()
        raise BuildError(f"{_ATTEMPTS} other builds ended while this one ran: build once more")


class BucketBuilt(msgspec.Struct, frozen=True):
    """What a build did to the models of a bucket.

    Args:
        parts: Their parts, by model and by name.
        written: How many parts were rebuilt, by model.
        problems: Why models could not be built.
    """

    parts: dict[str, dict[str, Part]]
    written: dict[str, int]
    problems: dict[str, str]


def build_bucket(
    lake: Lake,
    models: Models,
    bucket: Bucket,
    *,
    hash_key: str,
    only: Collection[str] | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> BucketBuilt:
    """Bring the parts of a bucket up to date; they count once a build takes them.

    It needs nothing besides its arguments and the files of the lake, and may run in any process.

    Args:
        bucket: Which one, by `Build.begun`.
        hash_key: As for `build`, and so are the others.
    """
    with lake.scratch() as scratch:
        basis = BucketBasis(lake, models, bucket)
        attempt = Build(basis, hash_key, scratch, rows_at_once, only=only)
        built = {one.model.name: one for one in attempt.run(lambda _name, _done, _total: None)}
    end = bucket_name(bucket.number, bucket.count)
    return BucketBuilt(
        {
            model: {f"{name}{end}": part for name, part in parts.items()}
            for model, parts in attempt.manifest.parts.items()
            if model in built
        },
        {name: one.written for name, one in built.items()},
        {name: one.problem for name, one in built.items() if one.problem},
    )


@dataclass
class Build:
    """One build that is under way.

    Args:
        basis: What it reads.
        hash_key: Key of hashed identifiers.
        scratch: Folder for temporary files. Names of new files begin with its name.
        rows_at_once: Rows of the lake that months of a model read together, at most.
        folder: Where models are written: None means the lake's folder for them, and a local path
            is taken as it is.
        only: Names of the models to build; None means all.
        buckets: How many buckets there are to be; None means as many as the lake needs.
    """

    basis: Basis
    hash_key: str = field(repr=False)
    scratch: Path
    rows_at_once: int = ROWS_AT_ONCE
    folder: Key | None = None
    only: Collection[str] | None = None
    buckets: int | None = None
    session: Session = field(init=False)
    parts: PartWriter = field(init=False)
    errors: dict[str, Exception] = field(init=False, default_factory=dict)
    """Why models failed, by name; the text may quote values of rows."""

    def __post_init__(self) -> None:
        basis = self.basis
        self.lake, self.models, self.manifest = basis.lake, basis.models, basis.manifest
        self._wanted = basis.wanted(self.only)
        reads = [model.reads for model in self._wanted]
        reads += [check.reads for model in self._wanted for check in basis.checks_of(model)]
        self._read = through_views(itertools.chain(*reads), self.models)
        self.session = Session(basis, self._read, hash_key=self.hash_key, scratch=self.scratch)
        self._done: list[BucketBuilt] = []
        (commits,) = self.session.row("select count(distinct batch_id) from pulls")
        self.manifest.commits = max(self.manifest.commits, commits)
        self.manifest.seen = [str(file) for file in basis.seen]
        (self.manifest.as_of,) = self.session.row(
            f"select epoch(as_of) from ({LAKE_VIEWS['clock'].sql})"
        )
        fingerprints = Fingerprints(self.session, self.hash_key)
        self._checker = Checker(self.session, fingerprints)
        self.parts = PartWriter(
            self.session,
            fingerprints,
            folder=self.folder or MARTS,
            file_prefix=self.scratch.name,
            rows_at_once=self.rows_at_once,
        )
        self._problems: dict[str, str] = {}

    def begun(self) -> list[Bucket]:
        """The buckets that `take` needs before `run`; none where the lake is not large.

        With `only`, buckets stay as many as they were.
        """
        largest = max(self.session.rows_by_month.values(), default=0)
        count = self.buckets or 1 << (max(0, largest - 1) // BUCKET_ROWS).bit_length()
        # Another number means that everything is written anew.
        if self.buckets is None:
            count = max(count, self.manifest.buckets)
        if self.only is not None and not self.basis.deltas:
            count = self.manifest.buckets
        self.manifest.buckets = count
        if count == 1:
            return []
        ids = MARTS / BUCKET_IDS / f"{self.scratch.name}-{len(self.parts.written)}.parquet"
        write_buckets(self.lake, self.models, self.session.connection, count, ids)
        self.parts.written.append(ids)
        base = str(self.basis.base) if self.basis.base else None
        return [
            Bucket(number, count, base, self.manifest.seen, str(ids)) for number in range(count)
        ]

    def take(self, bucket: BucketBuilt) -> None:
        """Take what was built of a bucket."""
        self._done.append(bucket)

    def run(self, progress: Progress) -> list[Built]:
        """Bring models up to date in their order, as `build`, and end the session."""
        wanted = self._wanted
        built: list[Built] = []
        with self.session.connection:
            for model in self.models:
                if model in wanted:
                    progress(model.name, len(built), len(wanted))
                    built.append(self.update(model))
                elif model.name in self._read:
                    self._show_as_built(model)
            if wanted:
                progress(wanted[-1].name, len(wanted), len(wanted))
        return built

    def keep(self) -> bool:
        """Publish a manifest of the result; False if another build has published one meanwhile."""
        is_whole = len(self._wanted) == len(self.models.by_name) and not self._problems
        self.manifest.recipe = recipe_of(self.lake, self.models, self.hash_key) if is_whole else ""
        # Rows of models with a problem stay as they were.
        self.manifest.deltas = [
            msgspec.structs.replace(one, parts=kept)
            for one in self.basis.deltas
            if (kept := {name: part for name, part in one.parts.items() if name in self._problems})
        ]
        if not keep_newer(self.lake, self.manifest, self.basis.base, self.scratch.name):
            return False
        named = {Key(part.file) for _, part in self.manifest.files()}
        for written in self.parts.written:
            if written not in named:
                self.lake.storage.delete(written)
        return True

    def again(self) -> Build:
        """The same build from the lake as it is now; it reuses parts whose fingerprint fits."""
        after = replace(self, basis=Basis.newest(self.lake, self.models))
        if not self._done:
            after.parts.reusable = self.manifest.parts
        after.parts.written = self.parts.written
        return after

    def update(self, model: Model) -> Built:
        """Rebuild the parts of a model that are out of date, and run its checks."""
        started = time.monotonic()
        before = self.manifest.parts.get(model.name, {})
        results = self.manifest.checks.get(model.name, {})
        rebuilt = Rebuilt(before, 0, [])
        checks: dict[Check, CheckResult] = {}
        problem = next((self._problems[name] for name in model.reads if name in self._problems), "")
        problem = problem or next(
            (one.problems[model.name] for one in self._done if model.name in one.problems), ""
        )
        if not problem:
            try:
                if not model.stored.is_view:
                    rebuilt = self._rebuilt(model, before)
                    self.manifest.parts[model.name] = rebuilt.parts
                self.session.show(model)
                if rebuilt.changed and self.basis.is_whole:
                    self._checker.check_key(model, rebuilt.changed)
                checks = {
                    check: self._checker.run(check, results.get(check.name))
                    for check in self.basis.checks_of(model)
                }
            except (BuildError, duckdb.Error) as error:
                problem = self._failed(model, error)
        if problem:
            self._problems[model.name] = problem
            # Its rows stay as they were, and so do the results of its checks.
            self.manifest.parts.pop(model.name, None)
            if before:
                self.manifest.parts[model.name] = before
            checks = {
                check: results[check.name]
                for check in self.basis.checks_of(model)
                if check.name in results
            }
        self.manifest.checks[model.name] = {check.name: found for check, found in checks.items()}
        kept = self.manifest.parts.get(model.name, {})
        return Built(
            model=model,
            rows=sum(part.rows for part in kept.values()),
            parts=len(kept),
            written=rebuilt.written,
            changed=len(rebuilt.changed),
            seconds=time.monotonic() - started,
            checks=checks,
            changed_checks=tuple(
                check
                for check, found in checks.items()
                if check.name not in results or results[check.name].offenders != found.offenders
            ),
            problem=problem or None,
        )

    def _rebuilt(self, model: Model, before: Mapping[str, Part]) -> Rebuilt:
        """Bring the parts of a model up to date, or take those of the buckets."""
        if not self._done or not model.apart:
            return self.parts.update(model, before)
        parts = {name: one for done in self._done for name, one in done.parts[model.name].items()}
        return Rebuilt.of(before, parts, sum(done.written[model.name] for done in self._done))

    def _show_as_built(self, model: Model) -> None:
        """Make a model that is not built readable as it was built last."""
        try:
            self.session.show(model)
        except duckdb.Error as error:
            self._problems[model.name] = self._failed(model, error)

    def _failed(self, model: Model, error: Exception) -> str:
        """Record why a model failed; the sentence to publish.

        DuckDB's messages may quote values of rows, so the sentence names their kind only.
        """
        self.errors[model.name] = error
        if isinstance(error, BuildError):
            return f"{model.name}: {error}"
        if (cause := machine_error(error) or damage_error(error)) is not None:
            return f"{model.name}: {cause.message}. {cause.remedy}"
        kind = type(error).__name__
        return f"{model.name}: {kind} of DuckDB; leanhouse build --explain {model.name} shows why"
