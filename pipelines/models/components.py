"""Components: customers, entities, consents and accounts that belong together.

Joint accounts join customers. The rows of a model that comes apart follow from what its component
has. A bucket has the components whose least customer id has one of some hashes, so an account that
becomes a joint one moves there with all that it has.
"""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from lean_resources.streams import STREAMS, Stream
from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES
from pipelines.lake.storage import Key
from pipelines.lake.views import LAKE_VIEWS
from pipelines.models.model import Models
from pipelines.models.plans import Plan

_IDS = ("account_id", "consent_id", "entity_id", "customer_id")
"""Columns by which rows of streams belong to a component, the narrowest first."""
SHARED = tuple(
    stream.name
    for stream in STREAMS.values()
    if stream.parent is None or stream.exploded_from is not None
)
"""Streams whose pulls are of the whole application."""
SHARED_LIST = ", ".join(f"'{name}'" for name in SHARED)
"""The same as a list in SQL."""
LISTED = tuple(name for name in SHARED if name != "banks")
"""Those whose rows belong to components."""
HISTORIES = ("accounts", "entities", "consents")
"""Streams whose rows say which ids belong together."""
BRIDGE_IDS = ("account_id", "account_key", "entity_id", "customer_id")
"""Columns of `bridge_accounts` with ids that belong together."""


def attach_bucket(
    lake: Lake,
    connection: duckdb.DuckDBPyConnection,
    names: Collection[str],
    plan: Plan,
    number: int,
) -> str:
    """Create `pulls` and relations of the lake as they are for a bucket; a hash of its ids."""
    ids = lake.listed([plan.ids])
    connection.execute(
        f"create table ids as select id from read_parquet({ids}) where bucket = {number}"
    )
    attach_ledger(lake, connection, [Key(file) for file in plan.seen])
    connection.execute(f"create table pulls as {pulls_of_ids()}")

    def statement(name: str, select: str) -> str:
        where = f" where {id_of(STREAMS[of])} in (from ids)" if (of := stream_of(name)) else ""
        return f'create view "{name}" as select * from ({select}){where}'

    lake.attach_relations(connection, names, statement)
    ((found,),) = connection.execute("select sum(hash(id)::hugeint) from ids").fetchall()
    return str(found)


def attach_ledger(
    lake: Lake, connection: duckdb.DuckDBPyConnection, files: Collection[Key]
) -> None:
    """Create `all_pulls`, the whole ledger, and its clock."""
    connection.execute(f"create view all_pulls as {lake.ledger_now(list(files))}")
    connection.execute(
        "create table clock as with pulls as (from all_pulls)"
        f" select * from ({LAKE_VIEWS['clock'].sql})"
    )


def pulls_of_ids(streams: Collection[str] | None = None) -> str:
    """The SELECT of pulls of the ids in `ids`, and of those of the whole application.

    Args:
        streams: Streams of pulls of ids; None means all.
    """
    chosen = ""
    if streams is not None:
        listed = ", ".join(f"'{name}'" for name in streams)
        chosen = f" and stream in ({listed})"
    return (
        "select * from all_pulls where parent_id in"
        f" (from ids) and stream not in ({SHARED_LIST}){chosen}"
        f" union all select * from all_pulls where stream in ({SHARED_LIST})"
        " union all select * from all_pulls where code in"
        " ('DISABLED_BY_LEAN', 'DISABLED_BY_CLIENT')"
        f" and stream not in ({SHARED_LIST}) and parent_id not in (from ids)"
    )


def write_buckets(
    lake: Lake,
    models: Models,
    connection: duckdb.DuckDBPyConnection,
    count: int,
    most_rows: int,
    key: Key,
) -> int:
    """Write a file with each id of the lake and the bucket of its component.

    Args:
        connection: A connection with all pulls.
        count: In how many buckets components are divided.
        most_rows: A component with more rows in a month gets a bucket of its own, after these.
        key: Of the file.

    Returns:
        How many components have a bucket of their own.
    """
    bridge = models["bridge_accounts"].body
    connection.execute("drop schema if exists joining cascade; create schema joining")
    connection.execute("set search_path = 'joining,main'")
    lake.attach_relations(
        connection,
        ("claims", "accounts", "customers_history", *(f"{name}_history" for name in HISTORIES)),
        lambda name, select: f'create view joining."{name}" as {select}',
    )
    selects = [f"select {four(ids_of(STREAMS[name]))} from {name}_history" for name in HISTORIES]
    selects += [
        f"select {four(BRIDGE_IDS)} from ({bridge})",
        f"select {four(['customer_id'])} from customers_history",
        f"select {four(['parent_id', 'entity_id'])} from pulls where stream not in ({SHARED_LIST})",
    ]
    connection.execute(
        "create temp table grouped as select distinct number, id from (select"
        " row_number() over () as number, unnest([id0, id1, id2, id3]) as id"
        f" from ({' union '.join(selects)})) where id is not null"
    )
    customers = " union ".join(
        f"select customer_id from {name}_history" for name in ("customers", "entities", "consents")
    )
    connection.execute(
        "create temp table labels as select distinct id,"
        f" case when id in ({customers}) then 'a' else 'b' end || id as label from grouped"
    )
    before, now = None, ""
    while before != now:
        connection.execute(f"create or replace temp table labels as {QUERIES['joined_ids']}")
        ((found,),) = connection.execute(
            "select sum(hash(id, label)::hugeint) from labels"
        ).fetchall()
        before, now = now, str(found)
    connection.execute(
        f"create temp table giants as {QUERIES['giant_components']}", {"most_rows": most_rows}
    )
    ((giants,),) = connection.execute("select count(*) from giants").fetchall()
    with lake.storage.staging(key) as file:
        path = str(file).replace("'", "''")
        connection.execute(
            "copy (select labels.id, coalesce("
            f"{count} + giants.number, md5_number_lower(labels.label) % {count}"
            ")::integer as bucket from labels left join giants using (label))"
            f" to '{path}' (format parquet)"
        )
    lake.storage.reveal(key)
    connection.execute("drop table grouped; drop table labels; drop table giants")
    connection.execute("drop schema joining cascade; set search_path = 'main'")
    return int(giants)


def stream_of(name: str) -> str:
    """The stream, shared by components, whose rows a relation shows; empty for any other."""
    stream = name.removesuffix("_history")
    return stream if stream in LISTED else ""


def four(columns: Collection[str]) -> str:
    """Columns, and nulls, as four columns of ids."""
    padded = [*columns, "null", "null", "null"][:4]
    return ", ".join(f"{c}::varchar as id{number}" for number, c in enumerate(padded))


def id_of(stream: Stream) -> str:
    """The column that says to which component a row belongs.

    Raises:
        IndexError: Rows belong to none.
    """
    return ids_of(stream)[0]


def ids_of(stream: Stream) -> tuple[str, ...]:
    """Columns of a stream with ids of components."""
    there = {column.name for column in stream.columns}
    return tuple(name for name in _IDS if name in there)
