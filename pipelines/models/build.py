"""Builds: models become Parquet, in order, and a part is rebuilt only when its fingerprint changes.

A part is all rows of a model, or those of one month; in a large lake, those of one bucket. A part
that is rebuilt with the same rows keeps its content id, so that models that read it are up to date.

A build that was overtaken by another one, which has published a manifest meanwhile, starts again
from the other's result. What it has written by then is not written twice.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import duckdb
import msgspec

from lean_resources.errors import ConfigError
from lean_resources.machine import machine_error
from pipelines.lake.digests import damage_error
from pipelines.lake.folders import MARTS
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.lake.views import LAKE_VIEWS
from pipelines.models.basis import Basis, BucketBasis
from pipelines.models.checks import Checker
from pipelines.models.components import write_buckets
from pipelines.models.fingerprints import Fingerprints, recipe_of
from pipelines.models.manifest import CheckResult, Part, keep_newer, newest_manifest
from pipelines.models.model import BuildError, Check, Model, Models
from pipelines.models.parts import PartWriter, Rebuilt, files_there
from pipelines.models.plans import (
    BucketBuilt,
    Plan,
    create,
    end_plans,
    newest_plan,
    result_of,
)
from pipelines.models.session import Session, through_views

Progress = Callable[[str, int, int], None]
"""Called with the model that is built next, how many are done, and how many there are."""
Buckets = Callable[[Plan, Progress], object]
"""Builds all buckets of a plan."""
BUCKET_ROWS = 2_000_000
"""Rows of the lake that a bucket reads of its largest month, at most, where buckets are equal. A
component with more is built alone."""
ROWS_AT_ONCE = 250_000
"""Rows of the lake that months of a model read together, at most."""
_ATTEMPTS = 5
"""How often a build starts, because others overtook it."""
_LOG = logging.getLogger(__name__)


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
    name: str | None = None,
    each: Buckets | None = None,
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
        name: Of its plans; what was built for earlier plans of the name is taken where it fits.
        each: Builds the buckets of a plan; None means one after the other, in this process.
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
        attempt = Build(Basis.newest(lake, models), hash_key, scratch, rows_at_once, only=only)
        for _ in range(_ATTEMPTS):
            if plan := attempt.plan(name or scratch.name, buckets):
                if each is not None:
                    each(plan, progress)
                else:
                    for number in plan.numbers:
                        progress(f"bucket {number + 1}", number, len(plan.numbers))
                        build_bucket(lake, models, plan, number, hash_key=hash_key)
                attempt.take(plan)
            built = attempt.run(progress)
            if attempt.keep():
                return [one for one in built if only is None or one.model.name in only]
            attempt = attempt.again()
        raise BuildError(f"{_ATTEMPTS} other builds ended while this one ran: build once more")


def plan_build(
    lake: Lake,
    models: Models,
    *,
    hash_key: str,
    name: str,
    rows_at_once: int = ROWS_AT_ONCE,
    buckets: int | None = None,
) -> Plan | None:
    """Divide the lake as it is now into buckets, which any process may build, as `build` does.

    Args:
        name: Of the plan: earlier ones of the name are over, but what was built for them is taken
            where it fits.
        hash_key: As for `build`, and so are the others.

    Returns:
        The plan; None where the lake is not large, so that `build` builds it at once.

    Raises:
        ConfigError: A newer version of leanhouse wrote the lake.
    """
    lake.format.check()
    with lake.scratch() as scratch:
        attempt = Build(Basis.newest(lake, models), hash_key, scratch, rows_at_once)
        with attempt.session.connection:
            plan = attempt.plan(name, buckets)
    if plan is None:
        end_plans(lake, name, set())
    return plan


def build_bucket(
    lake: Lake, models: Models, plan: Plan, number: int, *, hash_key: str
) -> BucketBuilt:
    """Bring the parts of a bucket up to date; they count once the build of the plan ends.

    It needs nothing besides its arguments and the files of the lake, and may run in any process. A
    bucket that was built for the plan is not built again.

    Args:
        number: Which one.
        hash_key: As for `plan_build`.

    Raises:
        ConfigError: The plan is of another version of leanhouse, or of other SQL or another key.
    """
    _check_recipe(lake, models, plan, hash_key)
    key = plan.result(number)
    found = result_of(lake, key)
    if found is not None and _is_there(lake, found):
        return found
    with lake.scratch() as scratch:
        basis = BucketBasis(lake, models, plan, number)
        attempt = Build(basis, hash_key, scratch, plan.rows_at_once)
        before = result_of(
            lake, msgspec.structs.replace(plan, attempt=plan.attempt - 1).result(number)
        )
        attempt.parts.reusable = before.parts if before else {}
        built = {one.model.name: one for one in attempt.run(lambda _name, _done, _total: None)}
        result = BucketBuilt(
            {name: parts for name, parts in attempt.manifest.parts.items() if name in built},
            {name: one.written for name, one in built.items()},
            {name: one.problem for name, one in built.items() if one.problem},
            list(map(str, attempt.parts.written)),
        )
        if found is not None:
            lake.storage.delete(key)
        if not create(lake, key, result, scratch.name):
            # Another process was sooner.
            for file in attempt.parts.written:
                lake.storage.delete(file)
            result = result_of(lake, key) or result
    return result


def commit_build(
    lake: Lake,
    models: Models,
    plan: Plan,
    *,
    hash_key: str,
    progress: Progress = lambda _name, _done, _total: None,
) -> list[Built] | None:
    """Build what does not come apart, run all checks, and let the buckets of a plan count.

    Args:
        hash_key: As for `plan_build`.
        progress: As for `build`.

    Returns:
        As `build`; None where another build has published a manifest since the plan was made.

    Raises:
        BuildError: A bucket was not built.
        ConfigError: As for `build_bucket`.
    """
    lake.format.check()
    _check_recipe(lake, models, plan, hash_key)
    base = newest_manifest(lake)
    if plan.base != (str(base) if base else None):
        return None
    with lake.scratch() as scratch:
        basis = Basis.of(lake, models, plan)
        attempt = Build(basis, hash_key, scratch, plan.rows_at_once)
        attempt.take(plan)
        built = attempt.run(progress)
        return built if attempt.keep() else None


def _check_recipe(lake: Lake, models: Models, plan: Plan, hash_key: str) -> None:
    """Return if this process builds what the process that made a plan would build."""
    if plan.version != (mine := version("leanhouse")):
        raise ConfigError(
            f"the build was begun by leanhouse {plan.version}, and this process on"
            f" {socket.gethostname()} has {mine}: install the same version everywhere"
        )
    if plan.recipe != recipe_of(lake, models, hash_key):
        raise ConfigError(
            f"this process on {socket.gethostname()} has other SQL, another LEANHOUSE_HASH_KEY or"
            " another DuckDB than the process that began the build, or fsck has given up files"
            " since: install the same everywhere, and build once more"
        )


def _is_there(lake: Lake, built: BucketBuilt) -> bool:
    """Whether all files are there that were written for a bucket."""
    return set(built.files) <= files_there(lake.storage).keys()


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
    """

    basis: Basis
    hash_key: str = field(repr=False)
    scratch: Path
    rows_at_once: int = ROWS_AT_ONCE
    folder: Key | None = None
    only: Collection[str] | None = None
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
        self._plan: Plan | None = None
        self._done: dict[str, BucketBuilt] = {}
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

    def plan(self, name: str, buckets: int | None) -> Plan | None:
        """Write the plan of buckets that `take` needs before `run`; None if the lake is not large.

        Args:
            name: Its name.
            buckets: How many buckets there are to be; None means as many as the lake needs.
        """
        largest = max(self.session.rows_by_month.values(), default=0)
        count = buckets or 1 << (max(0, largest - 1) // BUCKET_ROWS).bit_length()
        # Another number means that everything is written anew.
        if buckets is None:
            count = max(count, self.manifest.buckets)
        if count == 1 or len(self._wanted) < len(self.models.by_name):
            self.manifest.buckets = 1
            return None
        before = newest_plan(self.lake, name)
        plan = Plan(
            name=name,
            attempt=before.attempt + 1 if before else 1,
            base=str(self.basis.base) if self.basis.base else None,
            seen=self.manifest.seen,
            count=count,
            giants=0,
            rows_at_once=self.rows_at_once,
            recipe=recipe_of(self.lake, self.models, self.hash_key),
            version=version("leanhouse"),
        )
        connection = self.session.connection
        giants = write_buckets(self.lake, self.models, connection, count, BUCKET_ROWS, plan.ids)
        if giants:
            _LOG.warning(
                "%s of the groups of customers that share accounts have more than %s rows in a"
                " month: each is built alone",
                f"{giants:,}",
                f"{BUCKET_ROWS:,}",
            )
        plan = msgspec.structs.replace(plan, giants=giants)
        if not create(self.lake, plan.key, plan, self.scratch.name):
            raise BuildError(f"another process plans the build {name} too: build once more")
        return plan

    def take(self, plan: Plan) -> None:
        """Take what was built of each bucket of a plan.

        Raises:
            BuildError: A bucket was not built.
        """
        self._plan, self.manifest.buckets = plan, plan.count
        found = {number: result_of(self.lake, plan.result(number)) for number in plan.numbers}
        self._done = {plan.end(number): one for number, one in found.items() if one is not None}
        if missing := len(found) - len(self._done):
            raise BuildError(f"{missing} of {len(found)} buckets are not built: build these first")

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
        if self._plan is not None:
            end_plans(self.lake, self._plan.name, named)
        for written in self.parts.written:
            if written not in named:
                self.lake.storage.delete(written)
        return True

    def again(self) -> Build:
        """The same build from the lake as it is now; it reuses parts whose fingerprint fits."""
        after = replace(self, basis=Basis.newest(self.lake, self.models))
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
            (one.problems[model.name] for one in self._done.values() if model.name in one.problems),
            "",
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
        parts = {
            f"{name}{end}": part
            for end, done in self._done.items()
            for name, part in done.parts[model.name].items()
        }
        written = sum(done.written[model.name] for done in self._done.values())
        return Rebuilt.of(before, parts, written)

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
