"""Who is connected to what: banks, customers, entities, consents and refreshes."""

from lean_resources.streams.fields import (
    DOCS,
    ENTITY_ID,
    IDENTIFICATION,
    PERMITS,
    column,
    instant,
    text,
    words,
)
from lean_resources.streams.schema import Column, Kind, Paging, Stream

_KINDS = ("PERSONAL", "BUSINESS")

BANKS = Stream(
    name="banks",
    doc="Banks that customers can connect, one row per bank and account type.",
    path="/banks/v1/",
    query={"account_types": "account_type"},
    paging=Paging.NONE,
    parent_key="account_type",
    scopes=tuple({"account_type": kind} for kind in _KINDS),
    key=("bank_identifier", "account_type"),
    source=f"{DOCS}/get-banks",
    columns=(
        text(
            "bank_identifier",
            "Lean's identifier of the bank, as entities carry it.",
            "identifier",
            required=True,
        ),
        text(
            "account_type",
            "Kind of customers that the listing was asked for.",
            required=True,
            request="account_type",
            values=_KINDS,
        ),
        text("name", "Name in English."),
        text("arabic_name", "Name in Arabic."),
        text("commercial_name", "Name the bank trades under, in English."),
        text("commercial_name_arabic", "Name the bank trades under, in Arabic."),
        text("country_code", "Country, ISO 3166 alpha-3.", values=("SAU", "ARE")),
        text("swift_code", "BIC of the bank."),
        text("bank_type", "Kind of customers in older words.", values=("RETAIL", "SME")),
        text("connection_type", "How Lean connects to the bank.", values=("OPEN_BANKING",)),
        column(Kind.TEXTS, "traits", "Lean's internal kinds of connection."),
        column(
            Kind.TEXTS,
            "supported_account_types",
            "Account kinds Lean supports at this bank; deprecated by Lean.",
        ),
        column(
            Kind.TEXTS,
            "supported_account_sub_types",
            "Account sub types Lean supports at this bank.",
        ),
        text("logo", "Address of the dark logo."),
        text("logo_alt", "Address of the white logo."),
        text("main_color", "Brand colour, hexadecimal."),
        text("background_color", "Second brand colour, hexadecimal."),
        text("theme", "Tone of text over the brand colour.", values=("dark", "light")),
        column(Kind.BOOLEAN, "is_active", "Whether the bank is operational.", "active"),
        column(Kind.BOOLEAN, "is_mock", "Whether the bank is one of Lean's own mocks.", "mock"),
        *(
            column(Kind.BOOLEAN, f"is_{state}_for_{use}", doc, f"availability.{state}.{use}")
            for state, doc_of in (
                ("active", "False while Lean has taken the bank's {} offline."),
                ("enabled", "Whether the application's owner has enabled the bank for {}."),
            )
            for use in ("data", "payments")
            for doc in (doc_of.format(use),)
        ),
    ),
)

CUSTOMERS = Stream(
    name="customers",
    doc="Customers of the application, one row per customer.",
    path="/customers/v1",
    records="data",
    paging=Paging.UNDERSCORE,
    key=("customer_id",),
    source=f"{DOCS}/get-customers",
    columns=(
        text("customer_id", "Lean's id of the customer.", required=True),
        text("app_user_id", "The application's own id of the customer, at most 255 characters."),
    ),
)

ENTITIES = Stream(
    name="entities",
    doc="Connections of customers to banks, one row per entity, deleted ones included.",
    path="/customers/v1/entities",
    query={"start_date": "start_date", "end_date": "end_date"},
    records="data",
    paging=Paging.UNDERSCORE,
    key=("entity_id",),
    source=f"{DOCS}/list-entities",
    columns=(
        text("entity_id", "Lean's id of the entity.", "id", required=True),
        text("customer_id", "Customer who connected the bank."),
        text("bank_identifier", "Bank that is connected."),
        text(
            "bank_type",
            "Kind of customers the bank serves here.",
            "bank_type",
            "account_type",
            values=("RETAIL", "SME"),
            aliases={"PERSONAL": "RETAIL", "BUSINESS": "SME"},
        ),
        text(
            "status",
            "State of the entity; only the listing by date states it.",
            values=words("ACTIVE DELETED DISABLED REMOVED"),
        ),
        *PERMITS,
        instant("created_at", "When the customer first connected the bank."),
        instant(
            "updated_at",
            "When Lean last changed the entity; the end of a consent does not change it.",
        ),
    ),
)

CONSENTS = Stream(
    name="consents",
    doc="Consents behind the entities, one row per consent; at most one of an entity is active.",
    path=ENTITIES.path,
    records="consents",
    exploded_from="entities",
    parent="entities",
    paging=ENTITIES.paging,
    key=("consent_id",),
    source=ENTITIES.source,
    columns=(
        text("consent_id", "Lean's id of the consent.", "id", required=True),
        text("entity_id", "Entity that it stands behind.", required=True, request="entity_id"),
        text("customer_id", "Customer who gave it.", request="customer_id"),
        text("bank_consent_id", "The bank's own id of the consent."),
        text("bank_identifier", "Bank that the consent is for.", request="bank_identifier"),
        text("consent_type", "What it is for.", values=("ACCOUNT_ACCESS", "MULTI_PAYMENTS")),
        text(
            "consent_status",
            "Lean's own state; an expired consent shows as REVOKED, up to a day late.",
            values=words("ACTIVE REVOKED REJECTED"),
        ),
        text(
            "standard_consent_status",
            "State in the words of the standard; null in every recording.",
            values=words(
                "AWAITING_AUTHORISATION AUTHORISED REVOKED REJECTED EXPIRED CONSUMED SUSPENDED"
            ),
        ),
        *PERMITS,
        instant("created_at", "When the consent was given.", "creation_date_time"),
        instant("status_updated_at", "When its state last changed.", "status_update_date_time"),
        instant("expires_at", "When it ends.", "expiration_date_time"),
        instant(
            "transactions_from_at",
            "First instant whose transactions may be read",
            "transaction_from_date_time",
        ),
        instant(
            "transactions_to_at",
            "Last instant whose transactions may be read",
            "transaction_to_date_time",
        ),
        column(
            Kind.ITEMS,
            "shared_accounts",
            "Identifications of the accounts that the customer ticked, several per account.",
            "accounts",
            pii=True,
            fields=(
                *IDENTIFICATION[:2],
                text("secondary_identification", "Second value.", pii=True),
                *IDENTIFICATION[2:],
            ),
        ),
    ),
)


def _availability(kind: Kind, name: str, doc: str, part: str) -> Column:
    """A part of an account's transaction availability, whose name Lean writes in two ways."""
    places = ("transactionAvailability", "transaction_availability")
    return column(kind, name, doc, *(f"{place}.{part}" for place in places))


REFRESHES = Stream(
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
    changes_seldom=True,
    source=f"{DOCS}/get-data-refreshes",
    columns=(
        text("refresh_id", "Lean's id of the refresh.", required=True),
        ENTITY_ID,
        text("customer_id", "Customer of the entity."),
        text("status", "State.", values=("PENDING", "FINISHED"), aliases={"OK": "FINISHED"}),
        instant("created_at", "When it was asked for."),
        instant("updated_at", "When Lean last touched it, at times long after its end."),
        *(
            text(
                f"{part}_status",
                f"How reading the {part} went; filled for an entity's newest refresh alone.",
                f"data_status.{part}",
                values=words("PENDING OK FAILED UNSUPPORTED"),
            )
            for part in ("accounts", "identity")
        ),
        column(
            Kind.ITEMS,
            "account_statuses",
            "How reading each account went; filled for an entity's newest refresh alone.",
            "data_status.account_data",
            fields=(
                text("account_id", "Account."),
                *(
                    text(name, f"How reading its {name.replace('_', ' ')} went.")
                    for name in words(
                        "balance identity transactions scheduled_payments direct_debits"
                        " standing_orders beneficiaries"
                    )
                ),
                _availability(
                    Kind.DATE,
                    "transactions_from_date",
                    "First UTC day with transactions.",
                    "start",
                ),
                _availability(
                    Kind.DATE,
                    "transactions_to_date",
                    "Last UTC day with transactions, inclusive.",
                    "end",
                ),
                _availability(
                    Kind.INTEGER,
                    "transactions_complete_months",
                    "Complete months of transactions.",
                    "complete_months",
                ),
            ),
        ),
    ),
)
