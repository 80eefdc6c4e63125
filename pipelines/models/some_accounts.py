"""The lake and its models for some accounts alone: what a build reads of those that changed.

Accounts are taken with their *component*: customers, entities, consents and account ids that belong
together, through joint accounts too, before the change and after it. The rows of a model that comes
apart then follow from the component alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from pathlib import Path

from lean_resources.streams import STREAMS, Stream
from pipelines.lake.duck import open_duckdb
from pipelines.lake.folders import rows_of
from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES
from pipelines.lake.storage import Key
from pipelines.models.components import (
    BRIDGE_IDS,
    HISTORIES,
    attach_ledger,
    four,
    id_of,
    ids_of,
    pulls_of_ids,
)
from pipelines.models.manifest import Manifest
from pipelines.models.model import Model, Models
from pipelines.models.relations import add_macros, add_seeds
from pipelines.models.session import MEMORY_LIMIT, stored_rows, through_views

_JOINING = ("claims", "accounts", *(f"{name}_history" for name in HISTORIES))
"""What says which ids belong together now."""
_GROUPS = {
    "bridge_accounts": BRIDGE_IDS,
    "dim_entities": ("entity_id", "customer_id"),
    "dim_consents": ("consent_id", "entity_id", "customer_id"),
}
"""Models with ids that belonged together when they were built."""


class SomeAccounts:
    """A connection on which the lake shows some components alone, and models built for them.

    Args:
        manifest: The build that is in force, which knows what belonged together.
        files: Files of the ledger to read.
        models: All models; those that come apart can be built.
        changed: Ids whose components are shown.
        hash_key: Key of hashed identifiers.
        scratch: Folder for temporary files.
    """

    def __init__(
        self,
        lake: Lake,
        models: Models,
        manifest: Manifest,
        files: Collection[Key],
        changed: Iterable[str],
        *,
        hash_key: str,
        scratch: Path,
    ) -> None:
        self._lake, self._models, self._manifest = lake, models, manifest
        self.connection = open_duckdb()
        self.connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        self.connection.execute("set preserve_insertion_order = false")
        self.connection.execute("set temp_directory = $1", [str(scratch / "spill")])
        add_macros(self.connection, models.macros.values(), hash_key)
        add_seeds(self.connection, models.seeds)
        attach_ledger(lake, self.connection, files)
        self.connection.execute("create table ids (id varchar)")
        self.connection.execute(
            "insert into ids select distinct unnest($1::varchar[])", [sorted(set(changed))]
        )

    def close_components(self) -> int:
        """Add all ids that belong together with those that changed; the number of accounts."""
        parts = [
            f"select {four(columns)} from ({stored_rows(self._lake, model, self._manifest)})"
            for name, columns in _GROUPS.items()
            if (model := self._models[name])
        ]
        self.connection.execute(f"create table groups as {' union '.join(parts)}")
        bridge = f"from ({self._models['bridge_accounts'].body})"
        known = 0
        while (count := self._spread()) != known:
            known = count
            self._show_pulls(("accounts",))
            self._lake.attach_relations(self.connection, _JOINING, self._belonging)
            histories = ((ids_of(STREAMS[name]), f"from {name}_history") for name in HISTORIES)
            for columns, rows in (*histories, (_GROUPS["bridge_accounts"], bridge)):
                self.connection.execute(
                    f"insert into groups select distinct {four(columns)} {rows}"
                )
        found = self.connection.execute(f"select count(distinct account_id) {bridge}").fetchone()
        return int(found[0]) if found else 0

    def show(self, wanted: Collection[Model]) -> list[Model]:
        """Copy what the components have of all that some models and their checks read.

        Returns:
            The models, and the views that they read, in the order of building.
        """
        reads = [model.reads for model in wanted]
        reads += [one.reads for model in wanted for one in self._models.checks_of(model.name)]
        names = set(through_views(itertools.chain(*reads), self._models))
        self._show_pulls(None)
        relations = (names & {*self._models.relations}) - {*self._models.seeds}
        lake = self._lake.copied(
            {rows_of(one): self._copy_rows(one) for one in STREAMS.values() if ids_of(one)}
        )
        lake.attach_relations(self.connection, {*relations, "fitting_ranges"}, _shown)
        views = [model for model in self._models if model.stored.is_view and model.name in names]
        return [model for model in self._models if model in wanted or model in views]

    def build(self, model: Model) -> None:
        """Build a model, or show a view, after all that it reads."""
        kind = "view" if model.stored.is_view else "table"
        self.connection.execute(
            f"create {kind} {model.name} as select * from ({model.body}\n) as it"
        )

    def _spread(self) -> int:
        """Add ids that belong together with those that are known; how many are known then."""
        added = 1
        while added:
            ((added,),) = self.connection.execute(QUERIES["grouped_ids"]).fetchall()
        ((count,),) = self.connection.execute("select count(*) from ids").fetchall()
        return int(count)

    def _show_pulls(self, streams: Collection[str] | None) -> None:
        """Copy the pulls of the components, and those of the whole application."""
        self.connection.execute(f"create or replace table pulls as {pulls_of_ids(streams)}")

    def _belonging(self, name: str, select: str) -> str:
        """The view of the rows of a stream that have any id of the components."""
        columns = ids_of(STREAMS[name.removesuffix("_history")])
        where = " or ".join(f"{column} in (from ids)" for column in columns)
        return f'create or replace view "{name}" as select * from ({select}) where {where}'

    def _copy_rows(self, stream: Stream) -> str:
        """Copy rows that belong to the components from the files of a stream; the table's name.

        A stream and its history read the same files, which are then read once.
        """
        table, column = f"rows_of_{stream.name}", id_of(stream)
        where = f"{column} in (from ids)"
        if stream.parent == "accounts":
            # Files are sorted by account, and a range lets DuckDB skip what a join would read.
            of = f"from pulls where stream = '{stream.name}'"
            where += (
                f" and {column} between (select min(parent_id) {of})"
                f" and (select max(parent_id) {of})"
            )
        self.connection.execute(
            f"create table {table} as select * from ({self._lake.all_rows(stream)}) where {where}"
        )
        return table


def _shown(name: str, select: str) -> str:
    """The statement that shows a relation; rows of streams with ids lie in tables already."""
    stream = STREAMS.get(name.removesuffix("_history"))
    kind = "view" if stream is not None and ids_of(stream) else "table"
    return f'drop view if exists "{name}"; create {kind} "{name}" as {select}'
