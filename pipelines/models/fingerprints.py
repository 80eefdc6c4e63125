"""Input fingerprints: a part or a check is up to date while the hash of what it reads is the same.

A fingerprint covers the SQL below its header, the macros, the key, the version of DuckDB, and each
relation that is read: a model by the content ids of its parts, a stream by its pulls in the ledger.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection

import duckdb

from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.models.components import SHARED
from pipelines.models.manifest import month_of
from pipelines.models.model import Models
from pipelines.models.session import Session

_LedgerSums = list[tuple[str | None, str | None, str | None, int, int]]
"""Stream, outcome, month, number of rows and sum of the rows' hashes of a table of the ledger."""


class Fingerprints:
    """Fingerprints within one build, which sees one state of the ledger.

    Args:
        session: What models read.
        hash_key: Key of hashed identifiers; with another key everything is out of date.
    """

    def __init__(self, session: Session, hash_key: str) -> None:
        self._session = session
        self._ledger: dict[str, _LedgerSums] = {}
        self._common = _common(session.models, hash_key)

    def of(self, body: str, reads: Collection[str], months: Collection[str] | None = None) -> str:
        """The fingerprint of a SELECT.

        Args:
            body: The SELECT.
            reads: Relations that it names.
            months: The months (YYYY-MM) that it sees of relations kept by month; None means all.
        """
        return hashed(
            self._common, _statement(body), *(self._relation(name, months) for name in reads)
        )

    def _relation(self, name: str, months: Collection[str] | None) -> str:
        """Hash of what a relation holds in some months, or in all if it is not kept by month."""
        session = self._session
        seen = months if session.months(name) is not None else None
        if name not in session.models:
            return self._lake_relation(name, seen)
        model = session.models[name]
        if model.stored.is_view:
            return hashed(
                _statement(model.body), *(self._relation(read, seen) for read in model.reads)
            )
        # Not remembered, because it changes when the model is built.
        parts = sorted(session.manifest.parts.get(name, {}).items())
        ids = (f"{one}={part.content_id}" for one, part in parts if _is_seen(month_of(one), seen))
        return hashed(*ids)

    def _lake_relation(self, name: str, months: Collection[str] | None) -> str:
        """Hash of a seed, of the clock, or of the rows of the ledger that stand for a relation."""
        if name in self._session.models.seeds:
            return hashed(self._session.models.seeds[name].read_text(encoding="utf-8"))
        if name == "clock":
            return hashed(*map(str, self._session.row("select * from clock")))
        if name in {"claims", "account_depths", "refresh_spends", "refresh_attempts"}:
            return self._ledger_rows(name, months)
        stream = name.removesuffix("_history")
        if name in STREAMS:
            found = self._ledger_rows("claims", months, name)
        elif stream in STREAMS:
            found = self._ledger_rows("pulls", months, stream, "COMMITTED")
        else:
            found = self._ledger_rows("pulls", months)
        # Pulls of the whole application do not say whose rows of them show.
        is_shared = stream in SHARED or stream not in STREAMS
        return hashed(found, self._session.whose) if self._session.whose and is_shared else found

    def _ledger_rows(
        self,
        table: str,
        months: Collection[str] | None,
        stream: str | None = None,
        outcome: str | None = None,
    ) -> str:
        """Hash of the rows of a table of the ledger; None means rows of any month, stream, …."""
        if table not in self._ledger:
            self._ledger[table] = self._sums(table)
        rows = total = 0
        for its_stream, its_outcome, month, count, its_sum in self._ledger[table]:
            if (
                stream in {None, its_stream}
                and outcome in {None, its_outcome}
                and _is_seen(month, months)
            ):
                rows += count
                total += its_sum
        return hashed(str(rows), str(total))

    def _sums(self, table: str) -> _LedgerSums:
        """Read a table of the ledger, which a build does once."""
        session = self._session
        kinds = ", ".join(
            name if name in session.models.relations[table].types else f"null as {name}"
            for name in ("stream", "outcome", "month")
        )
        return session.connection.execute(
            f"select {kinds}, count(*), coalesce(sum(hash(it)::hugeint), 0)"
            f" from {table} as it group by all"
        ).fetchall()


def recipe_of(lake: Lake, models: Models, hash_key: str) -> str:
    """Hash of all that rows of models depend on, besides the commits of the ledger."""
    seeds = (file.read_text(encoding="utf-8") for file in models.seeds.values())
    return hashed(
        _common(models, hash_key),
        *(f"{one.name}\0{one.stored}\0{one.apart}\0{_statement(one.body)}" for one in models),
        *(f"{one.model}\0{_statement(one.body)}" for one in models.checks),
        *seeds,
        *sorted(lake.lost_files()),
    )


def _common(models: Models, hash_key: str) -> str:
    # Fingerprints on record depend on this text.
    key = hashlib.sha256(b"print of the key\0" + hash_key.encode()).hexdigest()
    return hashed(*map(_statement, models.macros.values()), key, duckdb.__version__)


def _is_seen(month: str | None, months: Collection[str] | None) -> bool:
    return months is None or month in months


def _statement(text: str) -> str:
    """The SQL of a file, without its header: other words for what it means change no row."""
    return "\n".join(itertools.dropwhile(lambda line: line.startswith("--"), text.splitlines()))


def hashed(*texts: str) -> str:
    """Hash of texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
