"""What a stream of Lean is: its request and its typed columns.

`tests/test_catalogue.py` finds declarations that contradict themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

PERMISSIONS = (
    "identity",
    "accounts",
    "balance",
    "transactions",
    "identities",
    "scheduled_payments",
    "standing_orders",
    "direct_debits",
    "beneficiaries",
)
"""What a consent can cover, in Lean's words."""


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    MONEY = "money"
    RATE = "rate"
    INSTANT = "instant"
    DATE = "date"
    TEXTS = "texts"
    TEXT_MAP = "text map"
    JSON = "json"
    ITEMS = "items"


class Paging(StrEnum):
    """Lean's ways to ask for the next page. Source: `page` parameters of each endpoint."""

    DATA = "page and size, answered inside data"
    CONTENT = "page and size, answered beside content"
    UNDERSCORE = "page_number and page_size"
    CAMEL = "pageNumber and pageSize"
    NONE = "one bare array"


class Window(StrEnum):
    """Whether a read covers days or one moment."""

    MONTHS = "months"
    SNAPSHOT = "snapshot"


@cache
def _arrow_types() -> dict[Kind, pa.DataType]:
    import pyarrow as pa

    return {
        Kind.TEXT: pa.string(),
        Kind.INTEGER: pa.int64(),
        Kind.BOOLEAN: pa.bool_(),
        Kind.MONEY: pa.decimal128(38, 9),
        Kind.RATE: pa.decimal128(38, 18),
        Kind.INSTANT: pa.timestamp("us", tz="UTC"),
        Kind.DATE: pa.date32(),
        Kind.TEXTS: pa.list_(pa.string()),
        Kind.TEXT_MAP: pa.map_(pa.string(), pa.string()),
        Kind.JSON: pa.string(),
    }


_SEGMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[0\])?")
REGIONAL = "regional_data.data."
"""Where the older generation repeats a record in SAMA's vocabulary."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One step into a record: a field, or one element of the list in that field.

    Args:
        name: Name of the field.
        first: Whether the field holds a list of identifications, of which the IBAN is taken, or
            else the first.
    """

    name: str
    first: bool = False


@cache
def segments(path: str) -> tuple[Segment, ...]:
    """Split `creditor_account[0].name` into its steps."""
    steps = []
    for part in path.split("."):
        match = _SEGMENT.fullmatch(part)
        if match is None:
            raise ValueError(f"{path!r} is not a path into a record")
        steps.append(Segment(match[1], match[2] is not None))
    return tuple(steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One column of a stream.

    Args:
        name: Name in the lake and in SQL.
        kind: What it holds.
        doc: Meaning, with unit and zone.
        paths: Where the value may lie in a record, best first.
        required: Whether a record without it goes to quarantine. Only keys and money are required.
        values: Documented values of an open vocabulary; any other text passes too.
        aliases: Older or regional words, each with the word that replaces it.
        pii: Personal; must not reach a mart.
        request: Name of the request parameter that fills the column where the record is silent.
        fields: Columns of one element, for a column of kind `items`.
        fewest: Fewest elements of a list that is kept, for a column of kind `items`. A shorter
            list becomes null.
    """

    name: str
    kind: Kind
    doc: str
    paths: tuple[str, ...]
    required: bool = False
    values: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    pii: bool = False
    request: str | None = None
    fields: tuple[Column, ...] = ()
    fewest: int = 0

    @cached_property
    def type(self) -> pa.DataType:
        """Arrow type of the column."""
        import pyarrow as pa

        if self.kind is Kind.ITEMS:
            return pa.list_(pa.struct([pa.field(f.name, f.type) for f in self.fields]))
        return _arrow_types()[self.kind]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """One resource of Lean.

    Args:
        name: Name of the asset, of the folder in the lake and of the SQL view.
        doc: One sentence that ends with the grain.
        path: Path of the request, with `{account_id}` and the like in it.
        permission: What a consent must cover before the stream may be read, if anything.
        query: Query parameters, filled from the request's parameters.
        records: Dotted place of the list of records in the body; empty for a bare array.
        paging: How the next page is asked for.
        parent: Stream whose rows name the parents, or None when the application is the parent.
        parent_key: Request parameter that identifies the parent in the ledger.
        scopes: Fixed parents of a stream without a parent stream.
        exploded_from: Stream whose records contain this stream's records, in the field `records`.
        detail: Path of the request that returns more fields of a parent's newest record.
        key: Columns that identify a row.
        changes_seldom: Whether a sync reads it again only after a week, or as `reread_hours` of the
            policy says; only for snapshots of each entity or account.
        window: Months for a stream with history, else a snapshot.
        placed_by: Instants that place a row in its UTC day, best first; only with months.
        verbose_unless: Field that a record of the newer generation always has. A record without it
            comes from the older one, which sends the rest only under `verbose=true`.
        columns: The typed row.
        source: Page of Lean's reference.
    """

    name: str
    doc: str
    path: str
    permission: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    records: str = ""
    paging: Paging = Paging.DATA
    parent: str | None = None
    parent_key: str | None = None
    scopes: tuple[Mapping[str, str], ...] = ()
    exploded_from: str | None = None
    detail: str | None = None
    key: tuple[str, ...]
    changes_seldom: bool = False
    window: Window = Window.SNAPSHOT
    placed_by: tuple[str, ...] = ()
    verbose_unless: str | None = None
    columns: tuple[Column, ...]
    source: str

    @property
    def is_of_entities(self) -> bool:
        """Whether it is read per entity, or per account of an entity."""
        return self.parent in {"entities", "accounts"}

    def column(self, name: str) -> Column:
        """The column of that name, which the stream has."""
        return next(column for column in self.columns if column.name == name)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of a row, without the lake's own columns."""
        import pyarrow as pa

        return pa.schema([pa.field(c.name, c.type) for c in self.columns])
