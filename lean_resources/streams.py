"""The catalogue: every stream of Lean declared once.

A stream's request, typed schema, Dagster asset, lake layout, SQL view, page of the data dictionary
and derived tests all follow from its entry here. To add a stream, add an entry, golden responses
in `tests/golden/` and what the offline Lean answers.

Two generations of the same answers exist. The newer one is flat; the older one has a few flat
fields and, when `verbose=true` was asked for, repeats everything in SAMA's vocabulary under
`regional_data.data`. A column lists the places where its value may lie, best first: the first
one that is not null wins, so both generations give the same typed row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from types import MappingProxyType

import pyarrow as pa

__all__ = [
    "PERMISSIONS",
    "STREAMS",
    "Column",
    "Kind",
    "Paging",
    "Segment",
    "Stream",
    "Window",
    "segments",
]

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
"""What a consent can cover, in Lean's words; note the singular `balance`."""


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


_ARROW = {
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

_RESERVED = {"pull_id", "series_id", "page_number", "record_number", "month", "pulled_on"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SEGMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[0\])?")
_REGIONAL = "regional_data.data."


@dataclass(frozen=True, slots=True)
class Segment:
    """One step into a record: a field, or one element of the list in that field.

    That element is the one that is an IBAN, or else the first.
    """

    name: str
    first: bool = False


@cache
def segments(path: str) -> tuple[Segment, ...]:
    """Split `creditor_account[0].name` into its steps.

    Raises:
        ValueError: The path is not a dotted list of names.
    """
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
        required: A record without it is lost: its key and its money, and nothing else.
        values: Documented values of an open vocabulary; any other text passes too.
        aliases: Older or regional words, each with the word kept instead.
        pii: Personal; must not reach a mart.
        request: Name of the request parameter that fills the column where the record is silent.
        fields: Columns of one element, for a column of kind `items`.
        fewest: A list of fewer elements is null, for a column of kind `items`.
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

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"column {self.name!r}: a name is lower case with underscores")
        if not self.doc.endswith("."):
            raise ValueError(f"column {self.name}: doc is not a sentence")
        if not self.paths and self.request is None:
            raise ValueError(f"column {self.name}: neither a path nor a request parameter")
        for path in self.paths:
            segments(path)
        if (self.kind is Kind.ITEMS) != bool(self.fields):
            raise ValueError(f"column {self.name}: fields belong to a column of kind items")
        if self.aliases and self.kind is not Kind.TEXT:
            raise ValueError(f"column {self.name}: only text has aliases")
        if unknown := set(self.aliases.values()) - set(self.values):
            raise ValueError(f"column {self.name}: aliases lead to {sorted(unknown)}")

    @cached_property
    def type(self) -> pa.DataType:
        """Arrow type of the column."""
        if self.kind is Kind.ITEMS:
            return pa.list_(pa.struct([pa.field(f.name, f.type) for f in self.fields]))
        return _ARROW[self.kind]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """One resource of Lean.

    Args:
        name: Name of the asset, of the folder in the lake and of the SQL view.
        doc: One sentence that ends with the grain.
        path: Path of the request, with `{account_id}` and the like in it.
        query: Query parameters, filled from the request's parameters.
        records: Dotted place of the list of records in the body; empty for a bare array.
        paging: How the next page is asked for.
        parent: Stream whose rows name the parents, or None when the application is the parent.
        parent_key: Request parameter that identifies the parent in the ledger.
        scopes: Fixed parents of a stream without a parent stream.
        exploded_from: Stream whose records hold this stream's records, in the field `records`.
        detail: Path that answers more of the newest record of a parent.
        key: Columns that identify a row.
        permission: What a consent must cover before the stream may be read.
        window: Months for a stream with history, else a snapshot.
        placed_by: Instants that place a row in its UTC day, best first; only with months.
        verbose_unless: Field that a record of the newer generation always has. A record without it
            comes from the older one, which tells the rest only under `verbose=true`.
        columns: The typed row.
        source: Page of Lean's reference.
    """

    name: str
    doc: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    records: str = ""
    paging: Paging = Paging.DATA
    parent: str | None = None
    parent_key: str | None = None
    scopes: tuple[Mapping[str, str], ...] = ()
    exploded_from: str | None = None
    detail: str | None = None
    key: tuple[str, ...]
    permission: str | None = None
    window: Window = Window.SNAPSHOT
    placed_by: tuple[str, ...] = ()
    verbose_unless: str | None = None
    columns: tuple[Column, ...]
    source: str

    def __post_init__(self) -> None:
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"stream {self.name}: {error}") from None

    def _check(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("a name is lower case with underscores")
        if not self.doc.endswith("."):
            raise ValueError("doc is not a sentence")
        if self.permission is not None and self.permission not in PERMISSIONS:
            raise ValueError(f"permission {self.permission!r} does not exist")
        if unknown := set(re.findall(r"{(\w+)}", self.path)) - {"account_id"}:
            raise ValueError(f"path parameters {sorted(unknown)} are not known")
        self._check_columns()

    def _check_columns(self) -> None:
        names = [column.name for column in self.columns]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"columns declared twice: {sorted(doubled)}")
        if reserved := set(names) & _RESERVED:
            raise ValueError(f"columns named like the lake's own: {sorted(reserved)}")
        if not self.key or set(self.key) - set(names):
            raise ValueError(f"key {self.key} is not made of its columns")
        for name in self.key:
            if not self.column(name).required:
                raise ValueError(f"key column {name} is not required")
        if (self.window is Window.MONTHS) != bool(self.placed_by):
            raise ValueError("placed_by belongs to a stream of months")
        for name in self.placed_by:
            if self.column(name).kind is not Kind.INSTANT:
                raise ValueError(f"placed_by {name} is not an instant")

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            ValueError: There is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise ValueError(f"there is no column {name}")

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of a row, without the lake's own columns."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])

    @cached_property
    def parents(self) -> tuple[str, ...]:
        """Streams from the outermost parent to the direct one."""
        if self.parent is None:
            return ()
        return (*STREAMS[self.parent].parents, self.parent)


def _column(kind: Kind, name: str, doc: str, *paths: str, **more: object) -> Column:
    return Column(name=name, kind=kind, doc=doc, paths=paths or (name,), **more)  # type: ignore[arg-type]


def _text(name: str, doc: str, *paths: str, **more: object) -> Column:
    return _column(Kind.TEXT, name, doc, *paths, **more)


def _instant(name: str, doc: str, *paths: str, **more: object) -> Column:
    return _column(Kind.INSTANT, name, f"{doc.removesuffix('.')}, UTC.", *paths, **more)


def _both(name: str) -> tuple[str, str]:
    """The flat place of a field and its regional place."""
    return (name, _REGIONAL + name)


def _id(name: str, doc: str, *paths: str) -> Column:
    return _text(name, doc, *paths, required=True)


def _asked(name: str, doc: str) -> Column:
    """An id that some answers leave out, so that the request has to supply it."""
    return _text(name, doc, *_both(name), required=True, request=name)


_ENTITY_ID = _asked("entity_id", "Entity that the record was read for.")
_ACCOUNT_ID = _asked("account_id", "Account that the record was read for.")


def _money(prefix: str, doc: str, *places: str) -> tuple[Column, Column]:
    """An unsigned amount and its currency, from objects `{amount, currency}`."""
    name = "amount" if prefix == "" else f"{prefix}_amount"
    currency = "currency" if prefix == "" else f"{prefix}_currency"
    required = prefix == ""
    return (
        _column(
            Kind.MONEY,
            name,
            f"{doc} In units of {currency}, exact, as sent; never negative in recordings.",
            *(f"{place}.amount" for place in places),
            required=required,
        ),
        _text(
            currency,
            f"Currency of {name}, ISO 4217.",
            *(f"{place}.currency" for place in places),
            required=required,
        ),
    )


_INDICATORS = ("CREDIT", "DEBIT", "UNSUPPORTED")
_SCHEMES = (
    "IBAN",
    "BBAN",
    "PAN",
    "COMMERCIAL_REGISTRATION_NUMBER",
    "EMAIL",
    "MOBILE_NUMBER",
    "NATIONAL_ID",
    "IQAMA_NUMBER",
    "PASSPORT_NUMBER",
    "OTHER",
    "UNSUPPORTED",
)
_SCHEME_ALIASES = {"ACCOUNT_NUMBER": "BBAN", "MASKED_PAN": "PAN"}
_BALANCE_TYPES = (
    "CLOSING_AVAILABLE",
    "CLOSING_BOOKED",
    "CLOSING_CLEARED",
    "EXPECTED",
    "FORWARD_AVAILABLE",
    "INFORMATION",
    "INTERIM_AVAILABLE",
    "INTERIM_BOOKED",
    "INTERIM_CLEARED",
    "OPENING_AVAILABLE",
    "OPENING_BOOKED",
    "OPENING_CLEARED",
    "PREVIOUSLY_CLOSED_BOOKED",
    "UNSUPPORTED",
)
_BALANCE_ALIASES = {"PREVIOUSLY_CLOSED": "PREVIOUSLY_CLOSED_BOOKED"}


def _scheme(name: str, doc: str, *places: str, older: tuple[str, ...] = ()) -> Column:
    """Kind of an identification; regional answers call the field `identification_type`."""
    return _text(
        name,
        doc,
        *(f"{place}.scheme_name" for place in places),
        *(f"{place}.identification_type" for place in (*places, *older)),
        values=_SCHEMES,
        aliases=_SCHEME_ALIASES,
    )


def _accounts(who: str) -> tuple[Column, ...]:
    """Identification of a counterparty's account, of which the older generation sends a list."""
    place = f"{_REGIONAL}creditor_account"
    return (
        *_account("creditor_account", who, f"{place}[0]"),
        _column(
            Kind.ITEMS,
            "creditor_accounts",
            f"All account numbers of the {who} where the bank sent several; null where it sent one,"
            " which the columns before hold, as they hold the IBAN of several.",
            place,
            pii=True,
            fewest=2,
            fields=(
                _scheme_of("Kind.", "scheme_name", "identification_type"),
                _text("identification", "Value.", pii=True),
                _text("name", "Name on the account.", pii=True),
            ),
        ),
    )


def _scheme_of(doc: str, *places: str) -> Column:
    """Kind of an identification in a list of them."""
    return _text("scheme_name", doc, *places, values=_SCHEMES, aliases=_SCHEME_ALIASES)


def _account(prefix: str, who: str, regional: str) -> tuple[Column, ...]:
    """Identification of a counterparty's account.

    Args:
        prefix: Prefix of the columns and name of the flat object.
        who: Words for the docs.
        regional: Place of the object in an older answer.
    """
    return (
        _scheme(
            f"{prefix}_scheme",
            f"Kind of the {who}'s account number as labelled by the bank; labels can be wrong.",
            prefix,
            older=(regional,),
        ),
        _text(
            f"{prefix}_identification",
            f"Account number of the {who}.",
            f"{prefix}.identification",
            f"{regional}.identification",
            pii=True,
        ),
        _text(
            f"{prefix}_name",
            f"Name on the account of the {who}.",
            f"{prefix}.name",
            f"{regional}.name",
            pii=True,
        ),
    )


_ADDRESS = (
    # flat name, older names, doc
    ("address_type", (), "Kind of the address."),
    ("address_line", (), "Address in one line."),
    ("short_address", (), "Saudi short address."),
    ("building_number", (), "Number of the building."),
    ("unit_number", (), "Number of the unit in the building."),
    ("street_name", (), "Street."),
    ("secondary_number", (), "Additional number of a Saudi address."),
    ("district", (), "District of the city."),
    ("department", (), "Department within the institution."),
    ("sub_department", (), "Part of the department."),
    ("post_code", ("postal_code",), "Postal code."),
    ("town_name", ("city",), "Town or city."),
    ("country_subdivision", ("country_sub_division",), "Province or region."),
    ("country", (), "Country as the bank writes it."),
)


def _agent(prefix: str, who: str) -> tuple[Column, ...]:
    """The bank of a counterparty, with its postal address."""
    places = _both(prefix)
    address = tuple(
        _text(
            f"{prefix}_{name}",
            f"{doc.removesuffix('.')} (bank of the {who}).",
            *(f"{place}.postal_address.{n}" for place in places for n in (name, *older)),
        )
        for name, older, doc in _ADDRESS
    )
    return (
        _text(
            f"{prefix}_scheme",
            f"Kind of the code that identifies the {who}'s bank.",
            f"{prefix}.scheme_name",
            f"{prefix}.identification_type",
            f"{_REGIONAL}{prefix}.identification_type",
            values=("BICFI", "OTHER", "UNSUPPORTED"),
        ),
        _text(
            f"{prefix}_identification",
            f"Code of the {who}'s bank: a BIC, or a code of the Saudi list under OTHER.",
            *(f"{place}.identification" for place in places),
        ),
        _text(
            f"{prefix}_name",
            f"Name of the {who}'s bank.",
            *(f"{place}.name" for place in places),
        ),
        *address,
    )


def _holder() -> tuple[Column, Column]:
    return (
        _text(
            "account_holder_name",
            "Name of the holder or holders.",
            *_both("account_holder_name"),
            pii=True,
        ),
        _text(
            "account_holder_short_name",
            "Short form of the holder's name.",
            *_both("account_holder_short_name"),
            _REGIONAL + "account_holder_shortname",
            pii=True,
        ),
    )


def _permits() -> tuple[Column, ...]:
    return tuple(
        _column(
            Kind.BOOLEAN,
            f"permits_{permission}",
            f"Whether the customer permits reading {permission.replace('_', ' ')}.",
            f"permissions.{permission}",
        )
        for permission in PERMISSIONS
    )


def _regional_standard() -> Column:
    return _text(
        "regional_standard",
        "Standard of the regional part, where the older generation sent one.",
        "regional_data.standard",
        values=("SAU.SAMA.V1",),
    )


_DOCS = "https://docs.leantech.me/v2.0-KSA/reference"

_BANKS = Stream(
    name="banks",
    doc="Banks that customers can connect, one row per bank and account type.",
    path="/banks/v1/",
    query={"account_types": "account_type"},
    paging=Paging.NONE,
    parent_key="account_type",
    scopes=({"account_type": "PERSONAL"}, {"account_type": "BUSINESS"}),
    key=("bank_identifier", "account_type"),
    source=f"{_DOCS}/get-banks",
    columns=(
        _id(
            "bank_identifier", "Lean's identifier of the bank, as entities carry it.", "identifier"
        ),
        _text(
            "account_type",
            "Kind of customers that the listing was asked for.",
            "account_type",
            required=True,
            request="account_type",
            values=("PERSONAL", "BUSINESS"),
        ),
        _text("name", "Name in English."),
        _text("arabic_name", "Name in Arabic."),
        _text("commercial_name", "Name the bank trades under, in English."),
        _text("commercial_name_arabic", "Name the bank trades under, in Arabic."),
        _text("country_code", "Country, ISO 3166 alpha-3.", values=("SAU", "ARE")),
        _text("swift_code", "BIC of the bank."),
        _text("bank_type", "Kind of customers in older words.", values=("RETAIL", "SME")),
        _text("connection_type", "How Lean connects to the bank.", values=("OPEN_BANKING",)),
        _column(Kind.TEXTS, "traits", "Lean's internal kinds of connection."),
        _column(
            Kind.TEXTS,
            "supported_account_types",
            "Account kinds Lean supports at this bank; deprecated by Lean.",
        ),
        _column(
            Kind.TEXTS,
            "supported_account_sub_types",
            "Account sub types Lean supports at this bank.",
        ),
        _text("logo", "Address of the dark logo."),
        _text("logo_alt", "Address of the white logo."),
        _text("main_color", "Brand colour, hexadecimal."),
        _text("background_color", "Second brand colour, hexadecimal."),
        _text("theme", "Tone of text over the brand colour.", values=("dark", "light")),
        _column(Kind.BOOLEAN, "is_active", "Whether the bank is operational.", "active"),
        _column(Kind.BOOLEAN, "is_mock", "Whether the bank is one of Lean's own mocks.", "mock"),
        _column(
            Kind.BOOLEAN,
            "is_active_for_data",
            "False while Lean has taken the bank's data offline.",
            "availability.active.data",
        ),
        _column(
            Kind.BOOLEAN,
            "is_active_for_payments",
            "False while Lean has taken the bank's payments offline.",
            "availability.active.payments",
        ),
        _column(
            Kind.BOOLEAN,
            "is_enabled_for_data",
            "Whether the application's owner has enabled the bank for data.",
            "availability.enabled.data",
        ),
        _column(
            Kind.BOOLEAN,
            "is_enabled_for_payments",
            "Whether the application's owner has enabled the bank for payments.",
            "availability.enabled.payments",
        ),
    ),
)

_CUSTOMERS = Stream(
    name="customers",
    doc="Customers of the application, one row per customer.",
    path="/customers/v1",
    records="data",
    paging=Paging.UNDERSCORE,
    key=("customer_id",),
    source=f"{_DOCS}/get-customers",
    columns=(
        _id("customer_id", "Lean's id of the customer."),
        _text("app_user_id", "The application's own id of the customer, at most 255 characters."),
    ),
)

_ENTITIES = Stream(
    name="entities",
    doc="Connections of customers to banks, one row per entity, deleted ones included.",
    path="/customers/v1/entities",
    query={"start_date": "start_date", "end_date": "end_date"},
    records="data",
    paging=Paging.UNDERSCORE,
    key=("entity_id",),
    source=f"{_DOCS}/list-entities",
    columns=(
        _id("entity_id", "Lean's id of the entity.", "id"),
        _text("customer_id", "Customer who connected the bank."),
        _text("bank_identifier", "Bank that is connected."),
        _text(
            "bank_type",
            "Kind of customers the bank serves here.",
            "bank_type",
            "account_type",
            values=("RETAIL", "SME"),
            aliases={"PERSONAL": "RETAIL", "BUSINESS": "SME"},
        ),
        _text(
            "status",
            "State of the entity; told by the listing by date alone.",
            values=("ACTIVE", "DELETED", "DISABLED", "REMOVED"),
        ),
        *_permits(),
        _instant("created_at", "When the customer first connected the bank."),
        _instant(
            "updated_at", "When Lean last changed the entity; consents ending do not move it."
        ),
    ),
)

_CONSENTS = Stream(
    name="consents",
    doc="Consents behind the entities, one row per consent; at most one of an entity is active.",
    path="/customers/v1/entities",
    records="consents",
    exploded_from="entities",
    parent="entities",
    paging=Paging.UNDERSCORE,
    key=("consent_id",),
    source=f"{_DOCS}/list-entities",
    columns=(
        _id("consent_id", "Lean's id of the consent.", "id"),
        _text("entity_id", "Entity that it stands behind.", required=True, request="entity_id"),
        _text("customer_id", "Customer who gave it.", request="customer_id"),
        _text("bank_consent_id", "The bank's own id of the consent."),
        _text(
            "bank_identifier",
            "Bank that the consent is for.",
            request="bank_identifier",
        ),
        _text("consent_type", "What it is for.", values=("ACCOUNT_ACCESS", "MULTI_PAYMENTS")),
        _text(
            "consent_status",
            "Lean's own state; an expired consent shows as REVOKED, up to a day late.",
            values=("ACTIVE", "REVOKED", "REJECTED"),
        ),
        _text(
            "standard_consent_status",
            "State in the words of the standard; null in every recording.",
            values=(
                "AWAITING_AUTHORISATION",
                "AUTHORISED",
                "REVOKED",
                "REJECTED",
                "EXPIRED",
                "CONSUMED",
                "SUSPENDED",
            ),
        ),
        *_permits(),
        _instant("created_at", "When the consent was given.", "creation_date_time"),
        _instant("status_updated_at", "When its state last changed.", "status_update_date_time"),
        _instant("expires_at", "When it ends.", "expiration_date_time"),
        _instant(
            "transactions_from_at",
            "First instant whose transactions may be read",
            "transaction_from_date_time",
        ),
        _instant(
            "transactions_to_at",
            "Last instant whose transactions may be read",
            "transaction_to_date_time",
        ),
        _column(
            Kind.ITEMS,
            "shared_accounts",
            "Identifications of the accounts that the customer ticked, several per account.",
            "accounts",
            pii=True,
            fields=(
                _text(
                    "scheme_name",
                    "Kind.",
                    "scheme_name",
                    "identification_type",
                    values=_SCHEMES,
                    aliases=_SCHEME_ALIASES,
                ),
                _text("identification", "Value.", pii=True),
                _text("secondary_identification", "Second value.", pii=True),
                _text("name", "Name on the account.", pii=True),
            ),
        ),
    ),
)

_REFRESHES = Stream(
    name="refreshes",
    doc="Times that Lean asked a bank for an entity's data, one row per refresh.",
    path="/data/v2/refreshes",
    query={"entity_id": "entity_id"},
    records="content",
    paging=Paging.CONTENT,
    parent="entities",
    parent_key="entity_id",
    detail="/data/v2/refreshes/{refresh_id}",
    key=("refresh_id",),
    source=f"{_DOCS}/get-data-refreshes",
    columns=(
        _id("refresh_id", "Lean's id of the refresh."),
        _ENTITY_ID,
        _text("customer_id", "Customer of the entity."),
        _text("status", "State.", values=("PENDING", "FINISHED"), aliases={"OK": "FINISHED"}),
        _instant("created_at", "When it was asked for."),
        _instant("updated_at", "When Lean last touched it, at times long after its end."),
        _text(
            "accounts_status",
            "How reading the accounts went; filled for an entity's newest refresh alone.",
            "data_status.accounts",
            values=("PENDING", "OK", "FAILED", "UNSUPPORTED"),
        ),
        _text(
            "identity_status",
            "How reading the identity went; filled for an entity's newest refresh alone.",
            "data_status.identity",
            values=("PENDING", "OK", "FAILED", "UNSUPPORTED"),
        ),
        _column(
            Kind.ITEMS,
            "account_statuses",
            "How reading each account went; filled for an entity's newest refresh alone.",
            "data_status.account_data",
            fields=(
                _text("account_id", "Account."),
                *(
                    _text(name, f"How reading its {name.replace('_', ' ')} went.")
                    for name in (
                        "balance",
                        "identity",
                        "transactions",
                        "scheduled_payments",
                        "direct_debits",
                        "standing_orders",
                        "beneficiaries",
                    )
                ),
                _column(
                    Kind.DATE,
                    "transactions_from_date",
                    "First UTC day with transactions.",
                    "transactionAvailability.start",
                    "transaction_availability.start",
                ),
                _column(
                    Kind.DATE,
                    "transactions_to_date",
                    "Last UTC day with transactions, inclusive.",
                    "transactionAvailability.end",
                    "transaction_availability.end",
                ),
                _column(
                    Kind.INTEGER,
                    "transactions_complete_months",
                    "Complete months of transactions.",
                    "transactionAvailability.complete_months",
                    "transaction_availability.complete_months",
                ),
            ),
        ),
    ),
)

_ACCOUNTS = Stream(
    name="accounts",
    doc="Accounts that customers share, one row per account of an entity.",
    path="/data/v2/accounts",
    query={"entity_id": "entity_id"},
    records="data.accounts",
    parent="entities",
    parent_key="entity_id",
    key=("account_id",),
    permission="accounts",
    verbose_unless="account_holder_name",
    source=f"{_DOCS}/get-accounts",
    columns=(
        _ENTITY_ID,
        _id(
            "account_id",
            "Lean's id of the account; may change when a customer reconnects.",
            *_both("account_id"),
        ),
        *_holder(),
        _text(
            "status",
            "State of the account.",
            *_both("status"),
            values=(
                "DELETED",
                "DISABLED",
                "ENABLED",
                "PENDING",
                "PROFORMA",
                "UNSUPPORTED",
                "NOT_ACTIVE",
                "DORMANT",
                "UNCLAIMED",
                "DECEASED",
                "SUSPENDED",
                "CLOSED",
            ),
            aliases={"ACTIVE": "ENABLED"},
        ),
        _instant(
            "status_updated_at", "When the state last changed.", *_both("status_update_date_time")
        ),
        _text("currency", "Currency the account is kept in, ISO 4217.", *_both("currency")),
        _text(
            "account_type",
            "Kind of holder.",
            *_both("account_type"),
            values=("PERSONAL", "BUSINESS", "UNSUPPORTED"),
            aliases={"RETAIL": "PERSONAL", "CORPORATE": "BUSINESS"},
        ),
        _text(
            "account_sub_type",
            "Kind of account.",
            *_both("account_sub_type"),
            values=(
                "CURRENT",
                "SAVINGS",
                "CREDIT",
                "CHARGE_CARD",
                "EMONEY",
                "LOAN",
                "PERSONAL_LOAN",
                "MORTGAGE",
                "PREPAID",
                "CALL",
                "OTHER",
                "UNSUPPORTED",
            ),
            aliases={
                "CURRENT_ACCOUNT": "CURRENT",
                "CREDIT_CARD": "CREDIT",
                "E_MONEY": "EMONEY",
                "PRE_PAID_CARD": "PREPAID",
            },
        ),
        _text("nickname", "The holder's own name for it.", *_both("nickname"), pii=True),
        _text("description", "The bank's description of the product.", *_both("description")),
        _column(
            Kind.DATE,
            "opening_date",
            "Day of opening as the bank writes it, in the bank's zone.",
            *_both("opening_date"),
        ),
        _instant("matures_at", "When the account ends by contract", *_both("maturity_date")),
        _column(
            Kind.ITEMS,
            "identifications",
            "Numbers that identify the account: IBAN, BBAN, masked PAN.",
            # The older generation's flat list calls a national id OTHER; its regional one does not.
            _REGIONAL + "account_identifiers",
            "account",
            pii=True,
            fields=(
                _scheme_of("Kind.", "scheme_name", "identification_type"),
                _text("identification", "Value.", pii=True),
                _text("name", "Name on the account.", pii=True),
            ),
        ),
        _text(
            "servicer_scheme",
            "Kind of the code that identifies the bank.",
            "servicer.scheme_name",
            _REGIONAL + "servicer.identification_type",
            values=("BICFI", "OTHER", "UNSUPPORTED"),
        ),
        _text(
            "servicer_identification",
            "Code of the bank that keeps the account.",
            *_both("servicer.identification"),
        ),
        _regional_standard(),
    ),
)

_BALANCES = Stream(
    name="balances",
    doc="Balances as the bank states them, one row per account and balance type.",
    path="/data/v2/accounts/{account_id}/balances",
    # Lean's older documentation has force_refresh on by default for balances alone.
    query={"entity_id": "entity_id", "force_refresh": "=false"},
    records="data.balances",
    parent="accounts",
    parent_key="account_id",
    key=("account_id", "balance_type"),
    permission="balance",
    verbose_unless="entity_id",
    source=f"{_DOCS}/get-balances",
    columns=(
        _ENTITY_ID,
        _ACCOUNT_ID,
        _text(
            "balance_type",
            "Kind of balance; types are never mixed in one series.",
            *_both("type"),
            required=True,
            values=_BALANCE_TYPES,
            aliases=_BALANCE_ALIASES,
        ),
        *_money("", "The balance without its sign.", *_both("amount")),
        _text(
            "credit_debit_indicator",
            "Sign of the amount: CREDIT is the holder's money, zero is CREDIT.",
            *_both("credit_debit_indicator"),
            values=_INDICATORS,
        ),
        _instant("stated_at", "The bank's time for this balance; may be old.", *_both("date_time")),
        _column(
            Kind.ITEMS,
            "credit_lines",
            "Credit lines of the account.",
            *_both("credit_line"),
            fields=(
                _column(
                    Kind.BOOLEAN, "is_included", "Whether the balance contains it.", "included"
                ),
                _text(
                    "credit_line_type",
                    "Kind.",
                    "type",
                    values=(
                        "AVAILABLE",
                        "CREDIT",
                        "EMERGENCY",
                        "PRE_AGREED",
                        "TEMPORARY",
                        "UNSUPPORTED",
                    ),
                    # One of Lean's specs spells it with a hyphen and a trailing tab.
                    aliases={"PRE-AGREED\t": "PRE_AGREED", "PRE-AGREED": "PRE_AGREED"},
                ),
                _column(Kind.MONEY, "amount", "Size in units of currency.", "amount.amount"),
                _text("currency", "Currency, ISO 4217.", "amount.currency"),
            ),
        ),
        _regional_standard(),
    ),
)

_TRANSACTIONS = Stream(
    name="transactions",
    doc="Movements on accounts, one row per account and transaction id.",
    path="/data/v2/accounts/{account_id}/transactions",
    query={
        "entity_id": "entity_id",
        "start_date": "start_date",
        "end_date": "end_date",
        "insights": "insights",
    },
    records="data.transactions",
    parent="accounts",
    parent_key="account_id",
    key=("account_id", "transaction_id"),
    permission="transactions",
    window=Window.MONTHS,
    placed_by=("booked_at", "value_at", "transacted_at"),
    verbose_unless="status",
    source=f"{_DOCS}/get-transactions",
    columns=(
        _ENTITY_ID,
        _ACCOUNT_ID,
        _text(
            "transaction_id",
            "The bank's or Lean's id; unique within the account, not beyond.",
            *_both("transaction_id"),
            required=True,
        ),
        *_money("", "Settled value without its sign.", *_both("amount")),
        _text(
            "credit_debit_indicator",
            "CREDIT is money in, DEBIT money out; UNSUPPORTED has no known sign.",
            *_both("credit_debit_indicator"),
            values=_INDICATORS,
        ),
        _text(
            "status",
            "State; only BOOKED money is counted, and unknown is not booked.",
            *_both("status"),
            values=("BOOKED", "PENDING", "REJECTED", "UNSUPPORTED"),
        ),
        _text(
            "transaction_mutability",
            "Whether the bank may still change it.",
            *_both("transaction_mutability"),
            values=("IMMUTABLE", "MUTABLE", "UNSUPPORTED"),
        ),
        _instant("booked_at", "When it was posted.", *_both("booking_date_time")),
        _instant("value_at", "When the money counts for interest.", *_both("value_date_time")),
        _instant(
            "transacted_at",
            "When the customer acted; older generation alone.",
            *_both("transaction_date_time"),
        ),
        _text("local_time_zone", "The bank's zone as it writes it.", *_both("local_time_zone")),
        _column(Kind.INTEGER, "day_index", "Place within the day; not unique.", *_both("index")),
        _text(
            "transaction_type",
            "Channel.",
            *_both("transaction_type"),
            values=(
                "POS",
                "E_COMMERCE",
                "ATM",
                "BILL_PAYMENTS",
                "LOCAL_BANK_TRANSFER",
                "SAME_BANK_TRANSFER",
                "INTERNATIONAL_TRANSFER",
                "TELLER",
                "CHEQUE",
                "OTHER",
                "UNSUPPORTED",
            ),
        ),
        _text(
            "sub_transaction_type",
            "What happened.",
            *_both("sub_transaction_type"),
            values=(
                "PURCHASE",
                "REVERSAL",
                "REFUND",
                "WITHDRAWAL",
                "WITHDRAWAL_REVERSAL",
                "DEPOSIT",
                "DEPOSIT_REVERSAL",
                "MONEY_TRANSFER",
                "NOT_APPLICABLE",
                "UNSUPPORTED",
                "REPAYMENTS",
                "INTEREST",
                "FEE",
                "CHARGES",
                "PROFIT",
                "DISBURSEMENT",
                "TAX",
                "ADJUSTMENT",
                "REWARDS",
                "LEASE_REPAYMENT",
            ),
        ),
        _text(
            "payment_mode",
            "How it was carried out.",
            *_both("payment_modes"),
            values=("ONLINE", "OFFLINE", "BATCH", "UNSUPPORTED"),
        ),
        _column(
            Kind.TEXTS,
            "flags",
            "Marks of the bank: PAYROLL, CASHBACK, DIRECT_DEBIT, STANDING_ORDER, LOAN, DIVIDEND.",
            *_both("flags"),
        ),
        _text(
            "transaction_information",
            "The bank's text, Arabic and English mixed.",
            *_both("transaction_information"),
            pii=True,
        ),
        _text(
            "transaction_reference",
            "Reference of the payment scheme (mada, SARIE).",
            *_both("transaction_reference"),
        ),
        _column(
            Kind.TEXTS,
            "statement_references",
            "References of the statements it stands on.",
            *_both("statement_reference"),
        ),
        _text("terminal_id", "Terminal; older generation alone.", *_both("terminal_id")),
        *_money(
            "balance", "Balance after the movement, without its sign.", *_both("balance.amount")
        ),
        _text(
            "balance_credit_debit_indicator",
            "Sign of balance_amount.",
            *_both("balance.credit_debit_indicator"),
            values=_INDICATORS,
        ),
        _text(
            "balance_type",
            "Kind of the balance after the movement.",
            *_both("balance.type"),
            values=_BALANCE_TYPES,
            aliases=_BALANCE_ALIASES,
        ),
        *_money("charge", "Charge for the movement.", *_both("charge_amount")),
        _column(
            Kind.BOOLEAN,
            "is_charge_included",
            "Whether the amount contains the charge.",
            *_both("charge_amount.charge_included"),
        ),
        *_money("charge_vat", "VAT on the charge.", *_both("charge_amount_vat")),
        _text(
            "exchange_source_currency",
            "Currency converted from, ISO 4217.",
            *_both("currency_exchange.source_currency"),
        ),
        _text(
            "exchange_target_currency",
            "Currency converted to, ISO 4217.",
            *_both("currency_exchange.target_currency"),
        ),
        _text(
            "exchange_unit_currency",
            "Currency the rate is expressed in, ISO 4217.",
            *_both("currency_exchange.unit_currency"),
        ),
        _column(
            Kind.RATE,
            "exchange_rate",
            "Factor from source to target.",
            *_both("currency_exchange.exchange_rate"),
        ),
        _text(
            "exchange_contract_identification",
            "Contract of the exchange.",
            *_both("currency_exchange.contract_identification"),
        ),
        _instant(
            "exchange_quoted_at",
            "When the rate was quoted.",
            *_both("currency_exchange.quotation_date"),
        ),
        *_money(
            "instructed", "Amount as instructed.", *_both("currency_exchange.instructed_amount")
        ),
        _text(
            "bank_transaction_code",
            "Family of the movement in the bank's words.",
            *_both("bank_transaction_code.code"),
        ),
        _text(
            "bank_transaction_sub_code",
            "Sub family of the movement in the bank's words.",
            *_both("bank_transaction_code.sub_code"),
        ),
        *(
            _text(
                f"iso_{name}",
                f"ISO 20022 {name.replace('_', ' ')}; older generation alone.",
                *_both(f"bank_transaction_code.{name}"),
            )
            for name in (
                "domain",
                "domain_code",
                "family",
                "family_code",
                "sub_family",
                "sub_family_code",
            )
        ),
        _text(
            "proprietary_code",
            "The bank's own code of the movement.",
            *_both("proprietary_bank_transaction_code.code"),
        ),
        _text(
            "proprietary_code_issuer",
            "Issuer of the bank's own code.",
            *_both("proprietary_bank_transaction_code.issuer"),
        ),
        _text(
            "card_authorization_type",
            "How the card was presented.",
            *_both("card_instrument.authorization_type"),
        ),
        _text(
            "card_instrument_type",
            "How the card was presented, in SAMA's words.",
            *_both("card_instrument.instrument_type"),
        ),
        _text(
            "card_scheme",
            "Scheme; LOCAL_SCHEME is mada.",
            *_both("card_instrument.card_scheme_name"),
            values=(
                "VISA",
                "MASTER_CARD",
                "AMERICAN_EXPRESS",
                "DINERS",
                "LOCAL_SCHEME",
                "GCC",
                "UPI",
                "UNSUPPORTED",
            ),
            aliases={"MADA": "LOCAL_SCHEME"},
        ),
        _text(
            "card_identification",
            "Digits that identify the card.",
            *_both("card_instrument.identification"),
            pii=True,
        ),
        _text("card_name", "Name on the card.", *_both("card_instrument.name"), pii=True),
        _text(
            "merchant_category_code",
            "Kind of merchant, ISO 18245 behind the letters CC.",
            *_both("merchant_details.merchant_category_code"),
        ),
        _text("merchant_name", "Merchant.", *_both("merchant_details.merchant_name")),
        _text(
            "merchant_id",
            "Merchant's id as text, because numbers lose zeros.",
            *_both("merchant_details.merchant_id"),
        ),
        _text(
            "biller_id",
            "SADAD biller as text; older generation alone.",
            *_both("bill_details.biller_id"),
        ),
        _text(
            "bill_number",
            "SADAD bill; older generation alone.",
            *_both("bill_details.bill_number"),
            pii=True,
        ),
        _text(
            "bill_payment_type",
            "Kind of bill payment; older generation alone.",
            *_both("bill_details.bill_payment_type"),
            values=(
                "POST_PAID",
                "ADVANCE_PAYMENT_FOR_ROAMING",
                "RECHARGE",
                "RENEWAL",
                "ROAMING_DEPOSIT",
                "ONE_OFF",
                "RECURRING_PAYMENT",
                "UNSUPPORTED",
            ),
        ),
        *_accounts("receiver"),
        *_agent("creditor_agent", "receiver"),
        *_account("debtor_account", "sender", _REGIONAL + "debtor_account"),
        *_agent("debtor_agent", "sender"),
        _text(
            "insight_description",
            "Lean's cleaned text, when insights were asked for.",
            "insights.description_cleansed",
            pii=True,
        ),
        _text(
            "insight_category",
            "Lean's category, when insights were asked for.",
            "insights.category",
            values=(
                "BANK_FEES_AND_CHARGES",
                "CHARITY",
                "EDUCATION",
                "ENTERTAINMENT",
                "GOVERNMENT",
                "GROCERIES",
                "HEALTH_AND_WELLBEING",
                "LOANS_AND_INVESTMENT",
                "RENT_AND_SERVICES",
                "RESTAURANTS_DINING",
                "RETAIL",
                "SALARY_AND_REVENUE",
                "TRANSFER",
                "TRANSPORT",
                "TRAVEL",
                "OTHER",
            ),
        ),
        _column(
            Kind.RATE,
            "insight_confidence",
            "Lean's confidence in its category, from 0 to 1.",
            "insights.category_confidence",
        ),
        _column(
            Kind.TEXT_MAP,
            "supplementary_data",
            "What the bank adds in words of its own; older generation alone.",
            *_both("supplementary_data"),
            pii=True,
        ),
        _regional_standard(),
    ),
)

_ROLES = (
    "ADMINISTRATOR",
    "BENEFICIARY",
    "CUSTODIAN_FOR_MINOR",
    "GRANTER",
    "LEGAL_GUARDIAN",
    "OTHER_PARTY",
    "POWER_OF_ATTORNEY",
    "PRINCIPAL",
    "PROTECTOR",
    "REGISTERED_SHAREHOLDER",
    "SECONDARY_OWNER",
    "SENIOR_MANAGING_OFFICIAL",
    "SETTLOR",
    "SUCCESSOR_ON_DEATH",
    "UNSUPPORTED",
)


def _person() -> tuple[Column, ...]:
    """The party that an identity record describes."""
    return (
        _text("party_id", "The bank's id of the party.", *_both("party_id")),
        _text("party_number", "The bank's number of the party.", *_both("party_number"), pii=True),
        _text(
            "party_type",
            "Whether the party holds alone, jointly or as a delegate.",
            *_both("party_type"),
            values=("DELEGATE", "JOINT", "SOLE", "UNSUPPORTED"),
        ),
        _text(
            "account_role",
            "Role of the party.",
            *_both("account_role"),
            values=_ROLES,
        ),
        _text("full_legal_name", "Full legal name.", pii=True),
        _text("name", "Name.", pii=True),
        _text("national_id", "National id or iqama number.", pii=True),
        _column(Kind.DATE, "birth_date", "Day of birth; not checked for plausibility.", pii=True),
        _text("gender", "Free text of the bank.", pii=True),
        _text("email_address", "E-mail address.", pii=True),
        _text("phone", "Phone number as the bank writes it.", pii=True),
        _text("mobile_number", "Mobile number as the bank writes it.", pii=True),
        _text("legal_structure", "Legal form of a business."),
        *(
            _text(
                name if name.startswith("address_") else f"address_{name}",
                f"{doc.removesuffix('.')} (address of the party).",
                f"address.{name}",
                pii=True,
            )
            for name, doc in (
                ("address_line", "Address in one line."),
                ("address_type", "Kind of the address."),
                ("street_address", "Street with house number."),
                ("post_code", "Postal code."),
                ("town_name", "Town."),
                ("region", "Province or region."),
                ("country", "Country."),
                ("building_type", "Kind of building."),
                ("apartment_or_villa_number", "Number of the apartment or villa."),
                ("building_name", "Name of the building."),
                ("street", "Street."),
                ("area", "Area of the town."),
                ("po_box", "Post box."),
            )
        ),
        _column(
            Kind.JSON,
            "verified_claims",
            "Verified claims as sent (OIDC identity assurance); dates in it may be Hijri.",
            _REGIONAL + "verified_claims",
            pii=True,
        ),
        _regional_standard(),
    )


_IDENTITY = Stream(
    name="identity",
    doc="The person or firm that gave the consent, one row per entity and party.",
    path="/data/v2/identity",
    query={"entity_id": "entity_id"},
    records="data.identities",
    parent="entities",
    parent_key="entity_id",
    key=("entity_id", "party_index"),
    permission="identity",
    verbose_unless="entity_id",
    source=f"{_DOCS}/get-identity",
    columns=(
        _ENTITY_ID,
        _column(
            Kind.INTEGER,
            "party_index",
            "Place of the party in the answer, from 0; parties have no other dependable id.",
            required=True,
            request="record_number",
        ),
        *_person(),
    ),
)

_IDENTITIES = Stream(
    name="identities",
    doc="Parties of an account, one row per account and party.",
    path="/data/v2/accounts/{account_id}/identities",
    query={"entity_id": "entity_id"},
    records="data.identities",
    parent="accounts",
    parent_key="account_id",
    key=("account_id", "party_index"),
    permission="identities",
    verbose_unless="entity_id",
    source=f"{_DOCS}/get-identities",
    columns=(
        _ENTITY_ID,
        _ACCOUNT_ID,
        _IDENTITY.column("party_index"),
        *_person(),
    ),
)

_BENEFICIARIES = Stream(
    name="beneficiaries",
    doc="Receivers saved on accounts, one row per account and beneficiary.",
    path="/data/v2/accounts/{account_id}/beneficiaries",
    query={"entity_id": "entity_id"},
    records="data.beneficiaries",
    parent="accounts",
    parent_key="account_id",
    key=("account_id", "beneficiary_id"),
    permission="beneficiaries",
    verbose_unless="account_holder_name",
    source=f"{_DOCS}/get-beneficiaries",
    columns=(
        _ENTITY_ID,
        _ACCOUNT_ID,
        _text(
            "beneficiary_id",
            "The bank's id of the beneficiary.",
            *_both("beneficiary_id"),
            required=True,
        ),
        _text(
            "beneficiary_type",
            "Kind of beneficiary.",
            values=("TRUSTED", "ORDINARY", "OTHER", "UNSUPPORTED"),
        ),
        _text(
            "regional_beneficiary_type",
            "Whether the beneficiary may be paid, in SAMA's words.",
            _REGIONAL + "beneficiary_type",
            values=("ACTIVATED", "NOT_ACTIVATED", "UNSUPPORTED"),
        ),
        *_holder(),
        *_accounts("receiver"),
        *_agent("creditor_agent", "receiver"),
        _text("reference", "Reference given to payments.", *_both("reference"), pii=True),
        _column(
            Kind.TEXT_MAP,
            "supplementary_data",
            "What the bank adds in words of its own.",
            *_both("supplementary_data"),
            pii=True,
        ),
        _regional_standard(),
    ),
)

_DIRECT_DEBITS = Stream(
    name="direct_debits",
    doc="Mandates that let a firm collect, one row per account and direct debit.",
    path="/data/v2/accounts/{account_id}/direct-debits",
    query={"entity_id": "entity_id"},
    records="data.direct_debits",
    parent="accounts",
    parent_key="account_id",
    key=("account_id", "direct_debit_id"),
    permission="direct_debits",
    # Recordings lack entity_id here, but carry regional_data, if only as null.
    verbose_unless="regional_data",
    source=f"{_DOCS}/get-direct-debits",
    columns=(
        _ENTITY_ID,
        _ACCOUNT_ID,
        _text(
            "direct_debit_id",
            "The bank's id of the direct debit.",
            *_both("direct_debit_id"),
            required=True,
        ),
        _text("name", "Firm that collects.", *_both("name")),
        _text(
            "status",
            "State.",
            "status_code",
            _REGIONAL + "direct_debit_status_code",
            values=("ACTIVE", "INACTIVE", "UNSUPPORTED"),
        ),
        _text(
            "frequency",
            "How often it is collected.",
            *_both("frequency"),
            values=(
                "DAILY",
                "WEEKLY",
                "FORTNIGHTLY",
                "MONTHLY",
                "QUARTERLY",
                "HALF_YEARLY",
                "ANNUAL",
                "NOT_KNOWN",
                "UNSUPPORTED",
            ),
            aliases={"BI_ANNUAL": "HALF_YEARLY", "FORTNIGHT": "FORTNIGHTLY"},
        ),
        _text(
            "mandate_identification", "Reference of the mandate.", *_both("mandate_identification")
        ),
        _instant(
            "previous_payment_at",
            "Last collection.",
            *_both("previous_payment_date_time"),
        ),
        *_money("previous_payment", "Last collected.", *_both("previous_payment_amount")),
        _regional_standard(),
    ),
)

_SCHEDULED_PAYMENTS = Stream(
    name="scheduled_payments",
    doc="Single payments set for a later day, one row per account and scheduled payment.",
    path="/data/v2/accounts/{account_id}/scheduled-payments",
    query={"entity_id": "entity_id"},
    records="data.scheduled_payments",
    parent="accounts",
    parent_key="account_id",
    key=("account_id", "scheduled_payment_id"),
    permission="scheduled_payments",
    verbose_unless="account_holder_name",
    source=f"{_DOCS}/get-scheduled-payments",
    columns=(
        _ENTITY_ID,
        _ACCOUNT_ID,
        _text(
            "scheduled_payment_id",
            "The bank's id of the scheduled payment.",
            *_both("scheduled_payment_id"),
            required=True,
        ),
        *_holder(),
        _text(
            "scheduled_type",
            "Whether the day is that of arrival or of execution.",
            *_both("scheduled_type"),
            values=("ARRIVAL", "EXECUTION", "UNSUPPORTED"),
        ),
        _instant("scheduled_at", "When it is to be paid.", *_both("scheduled_payment_date_time")),
        *_money("instructed", "Amount to be paid.", *_both("instructed_amount")),
        _text("debtor_reference", "The payer's reference.", *_both("debtor_reference"), pii=True),
        _text(
            "reference",
            "Reference for the receiver.",
            "reference",
            _REGIONAL + "creditor_reference",
            pii=True,
        ),
        *_account("creditor_account", "receiver", _REGIONAL + "creditor_account"),
        *_agent("creditor_agent", "receiver"),
        _regional_standard(),
    ),
)

_STANDING_ORDERS = Stream(
    name="standing_orders",
    doc="Payments repeated until further notice, one row per account and standing order.",
    path="/data/v2/accounts/{account_id}/standing-orders",
    query={"entity_id": "entity_id"},
    records="data.standing_orders",
    parent="accounts",
    parent_key="account_id",
    key=("account_id", "standing_order_id"),
    permission="standing_orders",
    verbose_unless="standing_order_type",
    source=f"{_DOCS}/get-standing-orders",
    columns=(
        _ENTITY_ID,
        _ACCOUNT_ID,
        _text(
            "standing_order_id",
            "The bank's id of the standing order.",
            *_both("standing_order_id"),
            required=True,
        ),
        *_holder(),
        _text(
            "status",
            "State.",
            *_both("standing_order_status_code"),
            values=("ACTIVE", "INACTIVE"),
        ),
        _text(
            "standing_order_type",
            "Where the money goes.",
            *_both("standing_order_type"),
            values=(
                "BETWEEN_MY_ACCOUNTS",
                "SAME_BANK_TRANSFER",
                "LOCAL_BANK_TRANSFER",
                "INTERNATIONAL_TRANSFER",
                "CHARITY",
                "UNSUPPORTED",
            ),
        ),
        _text("purpose", "What it is for.", *_both("purpose"), pii=True),
        _text(
            "frequency_type",
            "How often it is paid; both vocabularies are kept as sent but for two synonyms.",
            *_both("frequency.frequency_type"),
            values=(
                "DAILY",
                "WEEKLY",
                "FORTNIGHTLY",
                "MONTHLY",
                "QUARTERLY",
                "HALF_YEARLY",
                "YEARLY",
                "OTHER",
                "NOT_KNOWN",
                "EVERY_WORKING_DAY",
                "INTERVAL_DAY",
                "INTERVAL_WEEK_DAY",
                "WEEK_IN_MONTH_DAY",
                "INTERVAL_MONTH_DAY",
                "QUARTER_DAY",
                "UNSUPPORTED",
            ),
            aliases={"EVERY_DAY": "DAILY", "BI_ANNUAL": "HALF_YEARLY", "ANNUAL": "YEARLY"},
        ),
        _text(
            "frequency_interval",
            "Interval in the standard's text, such as IntervalDay:5.",
            *_both("frequency.interval"),
        ),
        _column(
            Kind.INTEGER,
            "number_of_payments",
            "Payments in all, where limited.",
            *_both("number_of_payments"),
        ),
        _text(
            "reference",
            "Reference for the receiver.",
            "reference",
            _REGIONAL + "creditor_reference",
            pii=True,
        ),
        *(
            column
            for which in ("first", "last", "next", "final")
            for column in (
                _instant(
                    f"{which}_payment_at",
                    f"When the {which} payment falls.",
                    *_both(f"{which}_payment_date_time"),
                ),
                *_money(
                    f"{which}_payment",
                    f"Amount of the {which} payment.",
                    *_both(f"{which}_payment_amount"),
                ),
            )
        ),
        *_accounts("receiver"),
        *_agent("creditor_agent", "receiver"),
        _column(
            Kind.JSON,
            "supplementary_data",
            "What the bank adds in words of its own; its shape is not documented.",
            _REGIONAL + "supplementary_data",
            pii=True,
        ),
        _regional_standard(),
    ),
)


def _catalogue(*streams: Stream) -> Mapping[str, Stream]:
    """Streams by name, parents before children.

    Raises:
        ValueError: Two streams share a name, or a parent is not declared before its child.
    """
    known: dict[str, Stream] = {}
    for stream in streams:
        if stream.name in known:
            raise ValueError(f"stream {stream.name} is declared twice")
        for needed in (stream.parent, stream.exploded_from):
            if needed is not None and needed not in known:
                raise ValueError(f"stream {stream.name}: {needed} is not declared before it")
        known[stream.name] = stream
    return MappingProxyType(known)


STREAMS: Mapping[str, Stream] = _catalogue(
    _BANKS,
    _CUSTOMERS,
    _ENTITIES,
    _CONSENTS,
    _REFRESHES,
    _ACCOUNTS,
    _BALANCES,
    _TRANSACTIONS,
    _IDENTITY,
    _IDENTITIES,
    _BENEFICIARIES,
    _DIRECT_DEBITS,
    _SCHEDULED_PAYMENTS,
    _STANDING_ORDERS,
)
