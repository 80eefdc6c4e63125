"""People and firms: who gave a consent, and who the parties of an account are."""

from lean_resources.streams.fields import (
    DOCS,
    ENTITY_ID,
    REGIONAL_STANDARD,
    account_stream,
    column,
    dual_text,
    text,
    words,
)
from lean_resources.streams.schema import REGIONAL, Kind, Stream

_PARTY = (
    column(
        Kind.INTEGER,
        "party_index",
        "Place of the party in the answer, from 0; parties have no other dependable id.",
        required=True,
        request="record_number",
    ),
    dual_text("party_id", "The bank's id of the party."),
    dual_text("party_number", "The bank's number of the party.", pii=True),
    dual_text(
        "party_type",
        "Whether the party holds alone, jointly or as a delegate.",
        values=words("DELEGATE JOINT SOLE UNSUPPORTED"),
    ),
    dual_text(
        "account_role",
        "Role of the party.",
        values=words(
            "ADMINISTRATOR BENEFICIARY CUSTODIAN_FOR_MINOR GRANTER LEGAL_GUARDIAN OTHER_PARTY"
            " POWER_OF_ATTORNEY PRINCIPAL PROTECTOR REGISTERED_SHAREHOLDER SECONDARY_OWNER"
            " SENIOR_MANAGING_OFFICIAL SETTLOR SUCCESSOR_ON_DEATH UNSUPPORTED"
        ),
    ),
    text("full_legal_name", "Full legal name.", pii=True),
    text("name", "Name.", pii=True),
    text("national_id", "National id or iqama number.", pii=True),
    column(Kind.DATE, "birth_date", "Day of birth; not checked for plausibility.", pii=True),
    text("gender", "Free text of the bank.", pii=True),
    text("email_address", "E-mail address.", pii=True),
    text("phone", "Phone number as the bank writes it.", pii=True),
    text("mobile_number", "Mobile number as the bank writes it.", pii=True),
    text("legal_structure", "Legal form of a business."),
    *(
        text(
            f"address_{name.removeprefix('address_')}",
            f"{doc} (address of the party).",
            f"address.{name}",
            pii=True,
        )
        for name, doc in (
            ("address_line", "Address in one line"),
            ("address_type", "Kind of the address"),
            ("street_address", "Street with house number"),
            ("post_code", "Postal code"),
            ("town_name", "Town"),
            ("region", "Province or region"),
            ("country", "Country"),
            ("building_type", "Kind of building"),
            ("apartment_or_villa_number", "Number of the apartment or villa"),
            ("building_name", "Name of the building"),
            ("street", "Street"),
            ("area", "Area of the town"),
            ("po_box", "Post box"),
        )
    ),
    column(
        Kind.JSON,
        "verified_claims",
        "Verified claims as sent (OIDC identity assurance); dates in it may be Hijri.",
        REGIONAL + "verified_claims",
        pii=True,
    ),
    REGIONAL_STANDARD,
)
"""The party that an identity record describes."""

IDENTITY = Stream(
    name="identity",
    doc="The person or firm that gave the consent, one row per entity and party.",
    path="/data/v2/identity",
    permission="identity",
    query={"entity_id": "entity_id"},
    records="data.identities",
    parent="entities",
    parent_key="entity_id",
    key=("entity_id", "party_index"),
    changes_seldom=True,
    verbose_unless="entity_id",
    source=f"{DOCS}/get-identity",
    columns=(ENTITY_ID, *_PARTY),
)

IDENTITIES = account_stream(
    "identities",
    "Parties of an account, one row per account and party.",
    *_PARTY,
    key="party_index",
    changes_seldom=True,
    verbose_unless="entity_id",
)
