"""Columns and groups of columns that several streams share.

Two generations of the same answers exist. The newer generation is flat. The older generation has a
few flat fields and, under `verbose=true`, repeats everything in SAMA's vocabulary under
`regional_data.data`. A column lists the places where its value may lie, best first. The first value
that is not null wins, so both generations give the same typed row. A *dual* column lies under the
same path in both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lean_resources.streams.schema import PERMISSIONS, REGIONAL, Column, Kind, Stream

DOCS = "https://docs.leantech.me/v2.0-KSA/reference"


def words(vocabulary: str) -> tuple[str, ...]:
    """Words of a vocabulary, from one text with white space between them."""
    return tuple(vocabulary.split())


def column(kind: Kind, name: str, doc: str, *paths: str, **more: Any) -> Column:
    """A column that lies under the given paths, or else under its own name."""
    return Column(name=name, kind=kind, doc=doc, paths=paths or (name,), **more)


def text(name: str, doc: str, *paths: str, **more: Any) -> Column:
    """A column of text."""
    return column(Kind.TEXT, name, doc, *paths, **more)


def instant(name: str, doc: str, *paths: str, **more: Any) -> Column:
    """A column of instants; its doc ends with the zone."""
    return column(Kind.INSTANT, name, f"{doc.removesuffix('.')}, UTC.", *paths, **more)


def _both(path: str) -> tuple[str, str]:
    """The flat place of a field and its regional place."""
    return (path, REGIONAL + path)


def dual(kind: Kind, name: str, doc: str, path: str = "", **more: Any) -> Column:
    """A dual column; without a path it lies under its own name."""
    return column(kind, name, doc, *_both(path or name), **more)


def dual_text(name: str, doc: str, path: str = "", **more: Any) -> Column:
    """A dual column of text."""
    return dual(Kind.TEXT, name, doc, path, **more)


def dual_instant(name: str, doc: str, path: str, **more: Any) -> Column:
    """A dual column of instants."""
    return instant(name, doc, *_both(path), **more)


def within(place: str, *columns: Column) -> tuple[Column, ...]:
    """Columns of the object at a place in the record, whose own paths lead on from there."""

    def whole(path: str) -> str:
        regional = REGIONAL if path.startswith(REGIONAL) else ""
        return f"{regional}{place}.{path.removeprefix(regional)}"

    return tuple(replace(one, paths=tuple(map(whole, one.paths))) for one in columns)


def money(prefix: str, doc: str, path: str) -> tuple[Column, Column]:
    """An unsigned amount and its currency, from dual objects `{amount, currency}`.

    Without a prefix they are the money of the record, and required.
    """
    name, currency = (f"{prefix}_{part}".lstrip("_") for part in ("amount", "currency"))
    doc = f"{doc} In units of {currency}, exact, as sent; never negative in recordings."
    required = not prefix
    return (
        dual(Kind.MONEY, name, doc, f"{path}.amount", required=required),
        dual_text(
            currency, f"Currency of {name}, ISO 4217.", f"{path}.currency", required=required
        ),
    )


def _requested(name: str, doc: str) -> Column:
    """An id that some answers leave out, so that the request has to supply it."""
    return dual_text(name, doc, required=True, request=name)


ENTITY_ID = _requested("entity_id", "Entity that the record was read for.")
ACCOUNT_ID = _requested("account_id", "Account that the record was read for.")

INDICATORS = words("CREDIT DEBIT UNSUPPORTED")
CODES = words("BICFI OTHER UNSUPPORTED")
"""Kinds of the code that identifies a bank."""
_SCHEMES: dict[str, Any] = {
    "values": words(
        "IBAN BBAN PAN COMMERCIAL_REGISTRATION_NUMBER EMAIL MOBILE_NUMBER NATIONAL_ID IQAMA_NUMBER"
        " PASSPORT_NUMBER OTHER UNSUPPORTED"
    ),
    "aliases": {"ACCOUNT_NUMBER": "BBAN", "MASKED_PAN": "PAN"},
}
BALANCE_TYPES: dict[str, Any] = {
    "values": words(
        "CLOSING_AVAILABLE CLOSING_BOOKED CLOSING_CLEARED EXPECTED FORWARD_AVAILABLE INFORMATION"
        " INTERIM_AVAILABLE INTERIM_BOOKED INTERIM_CLEARED OPENING_AVAILABLE OPENING_BOOKED"
        " OPENING_CLEARED PREVIOUSLY_CLOSED_BOOKED UNSUPPORTED"
    ),
    "aliases": {"PREVIOUSLY_CLOSED": "PREVIOUSLY_CLOSED_BOOKED"},
}
"""Kinds of balance; aliases are part of the vocabulary."""

IDENTIFICATION = (
    text("scheme_name", "Kind.", "scheme_name", "identification_type", **_SCHEMES),
    text("identification", "Value.", pii=True),
    text("name", "Name on the account.", pii=True),
)
"""One element of a list of identifications."""

HOLDER = (
    dual_text("account_holder_name", "Name of the holder or holders.", pii=True),
    text(
        "account_holder_short_name",
        "Short form of the holder's name.",
        *_both("account_holder_short_name"),
        REGIONAL + "account_holder_shortname",
        pii=True,
    ),
)

PERMITS = tuple(
    column(
        Kind.BOOLEAN,
        f"permits_{permission}",
        f"Whether the customer permits reading {permission.replace('_', ' ')}.",
        f"permissions.{permission}",
    )
    for permission in PERMISSIONS
)

REFERENCE = text(
    "reference",
    "Reference for the receiver.",
    "reference",
    REGIONAL + "creditor_reference",
    pii=True,
)

REGIONAL_STANDARD = text(
    "regional_standard",
    "Standard of the regional part, where the older generation sent one.",
    "regional_data.standard",
    values=("SAU.SAMA.V1",),
)


def supplementary_data(more: str = "") -> Column:
    """Whatever the bank adds beyond the documented fields."""
    doc = f"What the bank adds in words of its own{more}."
    return dual(Kind.TEXT_MAP, "supplementary_data", doc, pii=True)


def account(prefix: str, who: str, regional: str = "") -> tuple[Column, ...]:
    """Identification of a counterparty's account.

    Args:
        prefix: Prefix of the columns and name of the flat object.
        who: Words for the docs.
        regional: Name of the object in an older answer, where it differs.
    """
    older = REGIONAL + (regional or prefix)
    return (
        text(
            f"{prefix}_scheme",
            f"Kind of the {who}'s account number as labelled by the bank; labels can be wrong.",
            f"{prefix}.scheme_name",
            f"{prefix}.identification_type",
            f"{older}.identification_type",
            **_SCHEMES,
        ),
        text(
            f"{prefix}_identification",
            f"Account number of the {who}.",
            f"{prefix}.identification",
            f"{older}.identification",
            pii=True,
        ),
        text(
            f"{prefix}_name",
            f"Name on the account of the {who}.",
            f"{prefix}.name",
            f"{older}.name",
            pii=True,
        ),
    )


def accounts(who: str) -> tuple[Column, ...]:
    """Identification of a counterparty's account, of which the older generation sends a list."""
    return (
        *account("creditor_account", who, "creditor_account[0]"),
        column(
            Kind.ITEMS,
            "creditor_accounts",
            f"All account numbers of the {who} where the bank sent several; null where it sent one,"
            " which the columns before hold, as they hold the IBAN of several.",
            f"{REGIONAL}creditor_account",
            pii=True,
            fewest=2,
            fields=IDENTIFICATION,
        ),
    )


_ADDRESS = (
    # flat name, older names, doc
    ("address_type", (), "Kind of the address"),
    ("address_line", (), "Address in one line"),
    ("short_address", (), "Saudi short address"),
    ("building_number", (), "Number of the building"),
    ("unit_number", (), "Number of the unit in the building"),
    ("street_name", (), "Street"),
    ("secondary_number", (), "Additional number of a Saudi address"),
    ("district", (), "District of the city"),
    ("department", (), "Department within the institution"),
    ("sub_department", (), "Part of the department"),
    ("post_code", ("postal_code",), "Postal code"),
    ("town_name", ("city",), "Town or city"),
    ("country_subdivision", ("country_sub_division",), "Province or region"),
    ("country", (), "Country as the bank writes it"),
)


def agent(prefix: str, who: str) -> tuple[Column, ...]:
    """The bank of a counterparty, with its postal address."""
    return within(
        prefix,
        text(
            f"{prefix}_scheme",
            f"Kind of the code that identifies the {who}'s bank.",
            "scheme_name",
            "identification_type",
            REGIONAL + "identification_type",
            values=CODES,
        ),
        dual_text(
            f"{prefix}_identification",
            f"Code of the {who}'s bank: a BIC, or a code of the Saudi list under OTHER.",
            "identification",
        ),
        dual_text(f"{prefix}_name", f"Name of the {who}'s bank.", "name"),
        *(
            text(
                f"{prefix}_{name}",
                f"{doc} (bank of the {who}).",
                *(f"{p}postal_address.{n}" for p in ("", REGIONAL) for n in (name, *older)),
            )
            for name, older, doc in _ADDRESS
        ),
    )


def account_stream(
    name: str, doc: str, *columns: Column, key: str, permission: str = "", **more: Any
) -> Stream:
    """A stream that is read per account, at the address that its name gives.

    Args:
        name: Name of the stream and of its list in the answer.
        doc: As for any stream.
        columns: Columns after the ids of entity and account.
        key: Column that identifies a row within its account.
        permission: As for any stream; empty if it has the stream's name.
        more: Further arguments of the stream; `query` adds to the query.
    """
    address = name.replace("_", "-")
    return Stream(
        name=name,
        doc=doc,
        path=f"/data/v2/accounts/{{account_id}}/{address}",
        permission=permission or name,
        query={"entity_id": "entity_id", **more.pop("query", {})},
        records=f"data.{name}",
        parent="accounts",
        parent_key="account_id",
        key=("account_id", key),
        source=f"{DOCS}/get-{address}",
        columns=(ENTITY_ID, ACCOUNT_ID, *columns),
        **more,
    )
