"""Builds of the accounts that changed: a file per model beside the parts of the last whole build.

What changed is in the ledger: commits that the build in force had not seen. All rows of the changed
components are computed anew, and written as a delta, which supersedes their rows everywhere else.
When there are many deltas, their components are computed again together, into one. Nothing is
copied, so a delta holds what a whole build would give at its time.

A whole build takes the place of all deltas: every night, and whenever it is not certain that only
some accounts changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import msgspec

from lean_resources.streams import STREAMS
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folders import MARTS
from pipelines.lake.lake import Lake
from pipelines.lake.queries import filled
from pipelines.lake.storage import Key
from pipelines.models.build import Built, Progress, build
from pipelines.models.checks import check_key
from pipelines.models.components import LISTED, SHARED_LIST, id_of
from pipelines.models.fingerprints import recipe_of
from pipelines.models.manifest import (
    PART_FORM,
    Delta,
    Manifest,
    Part,
    keep_newer,
    named_now,
    open_newest,
)
from pipelines.models.model import BuildError, Check, Model, Models
from pipelines.models.parts import PART_FORMAT, files_there, is_there, part_of, typed_rows
from pipelines.models.some_accounts import SomeAccounts

MOST_DELTAS = 8
"""Deltas beside each other; each is one more file that every query of a table opens."""
MOST_ACCOUNTS = 5_000
"""Accounts of all deltas; a whole build costs as much as about ten times as many."""
CHANGED_IDS = "changed_ids"
"""Folder of the ids of deltas, beside the folders of models."""
_ATTEMPTS = 3


def build_changed(
    lake: Lake,
    models: Models,
    *,
    hash_key: str,
    progress: Progress = lambda _name, _done, _total: None,
) -> list[Built]:
    """Bring the accounts that changed up to date in all models that come apart.

    It is a whole build (`build`) where more than some accounts changed: SQL, a seed, the key, the
    list of banks, a bank that was switched off; where the build before was not whole; where files
    of it are gone, a key is not unique or a check finds something new; and where too many accounts
    changed.

    Args:
        hash_key: Key of hashed identifiers.
        progress: Called before each model and at the end.

    Returns:
        One entry per model whose rows may be others; rows are those of the delta. As `build` after
        a whole build.

    Raises:
        BuildError: As `build`.
        ConfigError: As `build`.
    """
    lake.format.check()
    with lake.scratch() as scratch:
        for attempt in range(_ATTEMPTS):
            found = _Changes.since(lake, models, hash_key)
            if found is None:
                break
            writer = _DeltaWriter(lake, models, found, scratch, attempt)
            try:
                built = writer.write(hash_key, progress)
            except (BuildError, duckdb.Error):
                # A whole build tells what is wrong, and with which model.
                built = None
            if built is None:
                writer.discard()
                break
            if writer.keep():
                return built
            writer.discard()
    return build(lake, models, hash_key=hash_key, progress=progress)


@dataclass(frozen=True)
class _Changes:
    """What a build has not seen.

    Args:
        base: Key of the manifest in force.
        manifest: It, with the names of today.
        files: All files of the ledger.
        commits: How many commits are new.
        ids: Ids whose components changed.
    """

    base: Key | None
    manifest: Manifest
    files: Sequence[Key]
    commits: int
    ids: frozenset[str]

    @classmethod
    def since(cls, lake: Lake, models: Models, hash_key: str) -> _Changes | None:
        """What the manifest in force has not seen; None where a whole build has to see to it."""
        base, kept = open_newest(lake)
        manifest = named_now(kept, models)
        if not manifest.recipe or manifest.recipe != recipe_of(lake, models, hash_key):
            return None
        there = files_there(lake.storage)
        if not all(is_there(there, part) for _, part in manifest.files()):
            return None
        files = lake.ledger.files()
        new = lake.ledger.since(manifest.seen, files)
        if new is None:
            return None
        ids = _changed_ids(lake, files, sorted(new)) if new else frozenset()
        return None if ids is None else cls(base, manifest, files, len(new), ids)


def _changed_ids(lake: Lake, files: Sequence[Key], batches: Sequence[str]) -> frozenset[str] | None:
    """Ids of what some commits brought something of; None where that is not certain."""
    with open_duckdb() as connection:
        connection.execute(f"create view all_pulls as {lake.ledger_now(files)}")
        connection.execute("create table batches as select unnest($1::varchar[]) as id", [batches])
        connection.execute(
            "create table pulls as select stream, parent_id, entity_id, outcome, code"
            " from all_pulls where batch_id in (from batches)"
        )
        ((is_general, parents),) = connection.execute(
            filled("general_changes", shared=SHARED_LIST)
        ).fetchall()
        if is_general or parents > 2 * MOST_ACCOUNTS:
            return None
        found = connection.execute(
            "select distinct unnest([parent_id, entity_id]) from pulls"
            f" where stream not in ({SHARED_LIST})"
        ).fetchall()
        for name in LISTED:
            stream = STREAMS[name]
            changed = connection.execute(
                filled("changed_listings", rows=lake.all_rows(stream), id=id_of(stream)),
                {"stream": name},
            ).fetchall()
            if any(is_uncertain for _, is_uncertain in changed):
                return None
            found += [(one,) for one, _ in changed]
    return frozenset(one for (one,) in found if one is not None)


@dataclass
class _DeltaWriter:
    """Writes a delta, and the manifest that lets it count.

    Args:
        changes: What the delta has to bring up to date.
        scratch: Folder for temporary files. Names of new files begin with its name.
        attempt: How many deltas were written with this folder before.
    """

    lake: Lake
    models: Models
    changes: _Changes
    scratch: Path
    attempt: int

    def __post_init__(self) -> None:
        self._manifest = msgspec.structs.replace(
            self.changes.manifest,
            seen=[str(file) for file in self.changes.files],
            commits=self.changes.manifest.commits + self.changes.commits,
        )
        self._written: list[Key] = []

    def write(self, hash_key: str, progress: Progress) -> list[Built] | None:
        """Compute and write the delta; None if a whole build has to see to it.

        Raises:
            BuildError: A key is not unique.
            duckdb.Error: A SELECT fails.
        """
        changed, deltas = self.changes.ids, self._manifest.deltas
        if not changed:
            return []
        if len(deltas) >= MOST_DELTAS:
            changed |= self._ids_of(deltas)
            deltas = []
        wanted = [model for model in self.models if model.apart]
        some = SomeAccounts(
            self.lake,
            self.models,
            self.changes.manifest,
            self.changes.files,
            changed,
            hash_key=hash_key,
            scratch=self.scratch,
        )
        with some.connection as connection:
            accounts = some.close_components()
            if accounts + sum(one.accounts for one in deltas) > MOST_ACCOUNTS:
                return None
            built: list[Built] = []
            parts: dict[str, Part] = {}
            for model in some.show(wanted):
                started = time.monotonic()
                some.build(model)
                if model.stored.is_view:
                    continue
                progress(model.name, len(built), len(wanted))
                check_key(connection, model, model.name)
                parts[model.name] = self._put(
                    connection, MARTS / model.name, typed_rows(model, f"from {model.name}")
                )
                built.append(
                    self._entry(model, parts[model.name], time.monotonic() - started, accounts)
                )
            if self._finds_offenders(connection):
                return None
            ids = self._put(connection, MARTS / CHANGED_IDS, "from ids")
            ((as_of,),) = connection.execute("select epoch(as_of) from clock").fetchall()
        with ThreadPoolExecutor(4) as pool:
            self.lake.storage.reveal_all(self._written, pool)
        told_by = {model.name: model.apart.column for model in wanted if model.apart}
        self._manifest.deltas = [*deltas, Delta(ids, parts, told_by, accounts, as_of)]
        progress(wanted[-1].name, len(wanted), len(wanted))
        return built

    def keep(self) -> bool:
        """Publish the manifest; False if another build has published one meanwhile."""
        if not self.changes.commits:
            return True
        return keep_newer(self.lake, self._manifest, self.changes.base, self.scratch.name)

    def discard(self) -> None:
        """Delete what was written and will not count."""
        for key in self._written:
            self.lake.storage.discard(key)
            self.lake.storage.delete(key)

    def _ids_of(self, deltas: Sequence[Delta]) -> frozenset[str]:
        with open_duckdb() as connection:
            files = self.lake.listed(Key(one.ids.file) for one in deltas)
            rows = connection.execute(f"select distinct id from read_parquet({files})").fetchall()
        return frozenset(one for (one,) in rows)

    def _put(self, connection: duckdb.DuckDBPyConnection, folder: Key, select: str) -> Part:
        """Stage the rows of a SELECT as a file of a folder."""
        key = folder / f"{self.scratch.name}-{self.attempt}-delta.parquet"
        with self.lake.storage.staging(key) as file:
            path = str(file).replace("'", "''")
            ((rows,),) = connection.execute(
                f"copy ({select}) to '{path}' ({PART_FORMAT})"
            ).fetchall()
            if not rows:
                self.lake.storage.discard(key)
                return Part(file="", fingerprint="", content_id="", rows=0, form=PART_FORM)
            part = part_of(key, file, rows)
        self._written.append(key)
        return part

    def _entry(self, model: Model, part: Part, seconds: float, accounts: int) -> Built:
        results = self._manifest.checks.get(model.name, {})
        return Built(
            model=model,
            rows=part.rows,
            parts=len(self._manifest.parts[model.name]),
            written=1,
            changed=int(part.rows > 0),
            seconds=seconds,
            checks={
                check: results[check.name]
                for check in self.models.checks_of(model.name)
                if check.name in results
            },
            accounts=accounts,
        )

    def _finds_offenders(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Whether a claim about rows that come apart is broken by these, and was not before."""
        for check in self.models.checks:
            before = self._manifest.checks.get(check.model, {}).get(check.name)
            is_known = before is not None and before.offenders > 0
            if is_known or not self._is_about_accounts(check):
                continue
            if connection.execute(check.body).fetchone() is not None:
                return True
        return False

    def _is_about_accounts(self, check: Check) -> bool:
        names = {check.model, *check.reads}
        return all(
            bool(self.models[name].apart) if name in self.models else name in STREAMS
            for name in names
        )
