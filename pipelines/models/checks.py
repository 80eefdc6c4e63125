"""Checks of models that were built: the key of each, and claims as SQL that returns offenders."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass

import duckdb

from pipelines.lake.queries import filled
from pipelines.lake.storage import Key
from pipelines.models.fingerprints import Fingerprints, hashed
from pipelines.models.manifest import CheckResult, month_of
from pipelines.models.model import BuildError, Check, Model
from pipelines.models.session import Session

_SHOWN_OFFENDERS = 5
_RANGE_TYPES = ("DATE", "TIMESTAMP WITH TIME ZONE")


def check_key(connection: duckdb.DuckDBPyConnection, model: Model, rows: str) -> None:
    """Return if the key of a model is unique and never null in some of its rows.

    Args:
        connection: Where the rows can be read.
        model: The model.
        rows: The rows as SQL: a name, or a SELECT in brackets.

    Raises:
        BuildError: It is null or not unique.
    """
    key = ", ".join(model.key)
    is_null = " or ".join(f"{name} is null" for name in model.key)
    # Keys whose hashes all differ do so too, and hashes take a fraction of the keys' memory.
    ((nulls, collisions),) = connection.execute(
        f"select count(*) filter (where {is_null}), count(*) - count(distinct hash({key}))"
        f" from {rows}"
    ).fetchall()
    if not nulls and not collisions:
        return
    ((nulls, duplicates),) = connection.execute(
        f"select (select count(*) from {rows} where {is_null}),"
        f" (select count(*) from (select 1 from {rows} group by {key}"
        " having count(*) > 1))"
    ).fetchall()
    if nulls or duplicates:
        raise BuildError(
            f"the key ({key}) has to be unique and not null: it is null in {nulls} rows,"
            f" and {duplicates} of its values occur more than once"
        )


@dataclass(frozen=True, slots=True)
class Checker:
    """Runs checks within one build.

    Args:
        session: What checks read.
        fingerprints: Of this build.
    """

    session: Session
    fingerprints: Fingerprints

    def check_key(self, model: Model, changed: Collection[str]) -> None:
        """Return if the key of a model is unique and never null.

        Args:
            model: The model, which can be read.
            changed: Names of its parts whose rows are new; the others were checked before.

        Raises:
            BuildError: It is null or not unique.
        """
        rows = model.name
        if self._keys_differ_by_part(model):
            rows = f"({self.session.stored_rows(model, {*map(month_of, changed)})})"
        check_key(self.session.connection, model, rows)

    def _keys_differ_by_part(self, model: Model) -> bool:
        """Whether no key can be in two parts: a column of it has a range of its own in each."""
        if model.stored.month is None or model.stored.month in model.key:
            return True
        parts = self.session.manifest.parts[model.name].values()
        files = [
            str(path)
            for path in self.session.lake.storage.local_all(
                Key(part.file) for part in parts if part.file
            )
        ]
        if len(files) < 2:
            return True
        for column in model.columns:
            if column.name not in model.key or column.type not in _RANGE_TYPES:
                continue
            found = self.session.connection.execute(
                filled("overlapping_ranges", type=column.type),
                {"paths": files, "column": column.name},
            ).fetchone()
            if found == (False,):
                return True
        return False

    def run(self, check: Check, before: CheckResult | None) -> CheckResult:
        """The result of a check: that of before while the check reads what it read then.

        Args:
            before: Its result on record.

        Raises:
            duckdb.Error: Its SELECT fails.
        """
        if not check.is_monthly:
            return self._run(check, None, before)
        old = {} if before is None else before.months
        months = {month for name in check.reads for month in self.session.months(name) or ()}
        found = {month: self._run(check, (month,), old.get(month)) for month in sorted(months)}
        return CheckResult(
            fingerprint=hashed(*(result.fingerprint for result in found.values())),
            offenders=sum(result.offenders for result in found.values()),
            shown=[row for result in found.values() for row in result.shown][:_SHOWN_OFFENDERS],
            months=found,
        )

    def _run(
        self, check: Check, months: tuple[str, ...] | None, before: CheckResult | None
    ) -> CheckResult:
        """The result of a check in some months; None means all."""
        fingerprint = self.fingerprints.of(check.body, check.reads, months)
        if before is not None and before.fingerprint == fingerprint:
            return before
        with contextlib.ExitStack() as stack:
            if months is not None:
                stack.enter_context(self.session.narrowed(check.reads, months))
            result = self.session.connection.execute(check.body)
            names = [column[0] for column in result.description or ()]
            rows = result.fetchmany(_SHOWN_OFFENDERS)
            shown = [dict(zip(names, map(str, row), strict=True)) for row in rows]
            offenders = len(rows)
            while more := result.fetchmany(10_000):
                offenders += len(more)
        return CheckResult(fingerprint=fingerprint, offenders=offenders, shown=shown)
