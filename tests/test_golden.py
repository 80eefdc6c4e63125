"""Golden files against the catalogue and the decoder.

A golden file is one whole answer of Lean, shaped after its reference and its recordings, with
values of our own. `newer` and `older` are the two generations of an answer and tell of the same
things; other kinds say what they are. They are the evidence that the catalogue reads the right
places: the sandbox is built from our own understanding and cannot be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lean_resources.decoding import Decoder, DecodeResult, Page
from lean_resources.streams import STREAMS, Column, Kind

FILES = sorted(path.stem for path in (Path(__file__).parent / "golden").glob("*.json"))

REQUEST = {
    "entity_id": "0f61e97c-462a-4b86-a432-9e8824bc9088",
    "account_id": "b5387f72-53f0-46ba-adbd-2b58d594b0eb",
    "account_type": "PERSONAL",
}
"""What was asked for, for answers that do not repeat it."""


def because(reason: str, *names: str) -> dict[str, str]:
    """The same reason for several names."""
    return dict.fromkeys(names, reason)


LEFT_OUT: dict[str, dict[str, str]] = {
    "customers": because(
        "an artefact of the older reference, in no recording",
        "payload",
        "type",
        "message",
        "timestamp",
        "event_id",
    ),
    "entities": because("rows of the stream consents", "consents"),
}
"""Places of golden scalars that no column reads on purpose, subtrees included, by stream."""

_OTHER_AGENTS = "every bank of a counterparty has the same columns; this one's address has not all"
_NO_DEPARTMENT = because(
    _OTHER_AGENTS, "creditor_agent_department", "creditor_agent_sub_department"
)
_NO_LINE = because(
    _OTHER_AGENTS, "creditor_agent_address_line", "creditor_agent_country_subdivision"
)

UNFILLED: dict[str, dict[str, str]] = {
    "transactions": _NO_DEPARTMENT
    | because(_OTHER_AGENTS, "debtor_agent_department", "debtor_agent_sub_department"),
    "scheduled_payments": _NO_DEPARTMENT | _NO_LINE,
    "standing_orders": _NO_DEPARTMENT | _NO_LINE,
}
"""Columns that no documented answer fills, by stream."""

_REGIONAL_ONLY = because("the older generation alone has a regional part", "regional_standard")
_SAMA_ADDRESS = ("short_address", "unit_number", "secondary_number", "district")
_FLAT_ADDRESS = ("address_line", "country_subdivision")
_PERSON = because(
    "the newer generation says it flat, the older one inside verified_claims",
    "national_id",
    "birth_date",
    "gender",
    "verified_claims",
    *(
        f"address_{name}"
        for name in (
            "building_type",
            "apartment_or_villa_number",
            "building_name",
            "street",
            "area",
            "po_box",
        )
    ),
)

_SEVERAL = because("the older generation alone sends several", "creditor_accounts")

ONE_SIDED: dict[str, dict[str, str]] = {
    "banks": because(
        "recorded, and missing in the reference",
        "commercial_name",
        "commercial_name_arabic",
        "swift_code",
        "connection_type",
        "is_mock",
    ),
    "entities": because("told by the listing by date alone", "status", "updated_at"),
    "consents": because(
        "null inside an entity, filled by the customer's list of consents",
        "consent_type",
        "standard_consent_status",
    ),
    "accounts": _REGIONAL_ONLY,
    "balances": _REGIONAL_ONLY,
    "transactions": _REGIONAL_ONLY
    | _SEVERAL
    | because(
        "the generations split the kind of movement differently",
        "bank_transaction_code",
        "bank_transaction_sub_code",
        "card_authorization_type",
        "card_instrument_type",
        "iso_domain",
        "iso_domain_code",
        "iso_family",
        "iso_family_code",
        "iso_sub_family",
        "iso_sub_family_code",
    )
    | because(
        "the older generation alone tells it",
        "transacted_at",
        "terminal_id",
        "charge_vat_amount",
        "charge_vat_currency",
        "merchant_id",
        "biller_id",
        "bill_number",
        "bill_payment_type",
        "supplementary_data",
    )
    | because(
        "the generations split an address differently",
        *(f"{who}_agent_{n}" for who in ("creditor", "debtor") for n in _SAMA_ADDRESS),
        *(f"{who}_agent_{n}" for who in ("creditor", "debtor") for n in _FLAT_ADDRESS),
    ),
    "identity": _REGIONAL_ONLY | _PERSON,
    "identities": _REGIONAL_ONLY | _PERSON,
    "beneficiaries": _REGIONAL_ONLY
    | _SEVERAL
    | because("SAMA's words for it have no flat place", "regional_beneficiary_type")
    | because(
        "the generations split an address differently",
        *(f"creditor_agent_{n}" for n in _SAMA_ADDRESS),
    ),
    "direct_debits": _REGIONAL_ONLY,
    "scheduled_payments": _REGIONAL_ONLY
    | because("null in recordings of the newer generation", "reference"),
    "standing_orders": _REGIONAL_ONLY
    | _SEVERAL
    | because(
        "the older generation alone tells it",
        "account_holder_name",
        "account_holder_short_name",
        "supplementary_data",
    )
    | because(
        "the older generation tells the code of the bank alone",
        "creditor_agent_name",
        "creditor_agent_address_type",
        "creditor_agent_building_number",
        "creditor_agent_street_name",
        "creditor_agent_post_code",
        "creditor_agent_town_name",
        "creditor_agent_country",
        *(f"creditor_agent_{n}" for n in _SAMA_ADDRESS),
    ),
}
"""Columns that one generation alone tells of the same thing, by stream."""

DIFFERENT: dict[str, dict[str, str]] = {
    "refreshes": because("webhooks alone count complete months", "account_statuses"),
    "transactions": because(
        "the older generation has room for one reference", "statement_references"
    )
    | because("the older reference types it as an instant", "local_time_zone"),
    "identities": because("free text in the newer generation", "account_role"),
    "standing_orders": because(
        "the older intervals have no counterpart among the newer words", "frequency_type"
    ),
}
"""Columns of which the generations tell different things for the same record, by stream."""

OPEN_WORDS: dict[tuple[str, str], dict[str, str]] = {
    ("identities", "account_role"): because("free text in the newer generation", "DELEGATE"),
    ("identity", "account_role"): because("free text in the newer generation", "DELEGATE"),
}
"""Documented words beyond the vocabulary that a column documents, by stream and column."""


@cache
def body(file: str) -> bytes:
    """Text of a golden file, as Lean would send it."""
    return (Path(__file__).parent / "golden" / f"{file}.json").read_bytes()


def stream_files(stream: str) -> list[str]:
    """Golden files that hold records of a stream: its own, and those it is exploded from."""
    holders = (stream, STREAMS[stream].exploded_from)
    return [file for file in FILES if file.split(".")[0] in holders]


CASES = [(stream, file) for stream in STREAMS for file in stream_files(stream)]
PAIRS = [
    (stream, "detail" if stream == "refreshes" else "newer") for stream in STREAMS
]  # an older refresh tells what the newer detail tells


def records(stream: str, file: str) -> list[dict[str, Any]]:
    """Records of a stream in a golden file, whichever of its documented shapes the file has."""
    found = json.loads(body(file), parse_float=Decimal)
    if isinstance(found, dict):
        for name in ("content", "data", stream, "identities"):
            if isinstance(found, dict):
                found = found.get(name, found)
    found = found if isinstance(found, list) else [found]
    if stream == "consents" and "consents" in {key for record in found for key in record}:
        return [consent for entity in found for consent in entity.get("consents", [])]
    return found


def page(stream: str, file: str) -> Page:
    """A golden file as the client would hand it to the decoder.

    Entities and consents are read from the listing by date alone, so their other shapes are put
    into one; those hold no numbers, so nothing is lost on the way.
    """
    text = body(file)
    if file == "entities.older":
        text = json.dumps({"data": json.loads(text)}).encode()
    elif file == "consents.newer":
        text = json.dumps({"data": [json.loads(text)]}).encode()
    elif file == "consents.older":
        entity = json.loads(body("consents.newer")) | {"consents": json.loads(text)["data"]}
        text = json.dumps({"data": [entity]}).encode()
    is_detail = file in ("refreshes.detail", "refreshes.older")
    return Page("series", 0, 0, text, REQUEST, is_detail)


@cache
def decoder(stream: str) -> Decoder:
    """The decoder of a stream, made once because making one takes longer than using it."""
    return Decoder(STREAMS[stream])


@cache
def decoded(stream: str, file: str) -> DecodeResult:
    """What becomes of a golden file in the decoder."""
    return decoder(stream).decode([page(stream, file)])


def typed(stream: str, file: str) -> pa.Table:
    """Typed rows of a golden file, without the trace that the decoder adds behind them."""
    return decoded(stream, file).rows.select(range(len(STREAMS[stream].columns)))


def rows(stream: str, file: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Typed rows by key."""
    found = typed(stream, file).to_pylist()
    return {tuple(row[k] for k in STREAMS[stream].key): row for row in found}


def scalars(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Places of the scalars in a record: the first of a list as `[0]`, the others as `[1:]`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from scalars(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from scalars(inner, f"{place}[{'1:' if index else 0}]")
    else:
        yield place, value


_SUBTREES = (Kind.TEXTS, Kind.TEXT_MAP, Kind.JSON)


def reaches(columns: tuple[Column, ...], place: str, value: Any) -> bool:
    """Whether some column reads the scalar at a place, or a null stands where it would read."""
    for column in columns:
        for path in column.paths:
            rest = place.removeprefix(path)
            if value is None and path.startswith((f"{place}.", f"{place}[")):
                return True
            if rest == place:
                continue
            if column.kind is Kind.ITEMS and rest[:1] == "[":
                if reaches(column.fields, rest.partition("]")[2][1:], value):
                    return True
            elif rest == "" or (column.kind in _SUBTREES and rest[0] in ".["):
                return True
    return False


def lies_in(place: str, subtree: str) -> bool:
    """Whether a place is a subtree's root or below it."""
    return place == subtree or place.startswith((f"{subtree}.", f"{subtree}["))


@pytest.mark.parametrize("stream", STREAMS)
def test_every_stream_has_both_generations(stream):
    """Each stream has a golden answer of the newer and one of the older generation."""
    assert {f"{stream}.newer", f"{stream}.older"} <= set(FILES)


def test_every_golden_file_is_of_a_stream():
    """A stream that left the catalogue, or a misspelt file, would be read by no test."""
    assert {file.split(".")[0] for file in FILES} == set(STREAMS)


@pytest.mark.parametrize(("stream", "file"), CASES, ids=[f"{s}-in-{f}" for s, f in CASES])
def test_every_scalar_is_a_column_or_left_out_on_purpose(stream, file):
    """No documented value is forgotten: a column reads it, or a reason says why none does."""
    columns = STREAMS[stream].columns
    left = LEFT_OUT.get(stream, {})

    forgotten = {
        place
        for record in records(stream, file)
        for place, value in scalars(record)
        if not reaches(columns, place, value) and not any(lies_in(place, s) for s in left)
    }

    assert not forgotten


@pytest.mark.parametrize("stream", STREAMS)
def test_what_is_left_out_exists_and_is_read_by_no_column(stream):
    """The list of what is left out holds nothing that a column reads, and nothing imagined."""
    columns = STREAMS[stream].columns
    places = {
        place: reaches(columns, place, value)
        for file in stream_files(stream)
        for record in records(stream, file)
        for place, value in scalars(record)
        if value is not None
    }

    for subtree in LEFT_OUT.get(stream, {}):
        inside = [is_read for place, is_read in places.items() if lies_in(place, subtree)]
        assert inside, f"{subtree} is in no golden file"
        assert not any(inside), f"{subtree} is read"


@pytest.mark.parametrize("stream", STREAMS)
def test_every_column_is_filled_by_a_documented_answer(stream):
    """A column that no documented answer fills would be an invention, or a misspelt path."""
    tables = [typed(stream, file) for file in stream_files(stream)]

    empty = {
        column.name
        for column in STREAMS[stream].columns
        if not any(_is_filled(table.column(column.name)) for table in tables)
    }

    assert empty == set(UNFILLED.get(stream, {}))


def _is_filled(values: pa.ChunkedArray) -> bool:
    return any(value not in (None, [], "") for value in values.to_pylist())


@pytest.mark.parametrize("stream", STREAMS)
def test_every_field_of_an_item_is_filled_by_a_documented_answer(stream):
    """The same holds for the fields inside a column of items."""
    for column in STREAMS[stream].columns:
        items = [
            item
            for file in stream_files(stream)
            for item in _flat(typed(stream, file).column(column.name))
            if column.kind is Kind.ITEMS
        ]
        for inner in column.fields:
            # Transactions alone document a name; where another stream sends one, it is kept.
            if (column.name, inner.name) == ("creditor_accounts", "name"):
                continue
            assert any(item[inner.name] is not None for item in items), inner.name


def _flat(values: pa.ChunkedArray) -> list[dict[str, Any]]:
    return [item for items in values.to_pylist() if isinstance(items, list) for item in items]


@pytest.mark.parametrize(("stream", "file"), CASES, ids=[f"{s}-in-{f}" for s, f in CASES])
def test_documented_answers_pass_the_decoder(stream, file):
    """Every documented record becomes a row with its required columns filled, none is put aside."""
    result = decoded(stream, file)

    assert result.quarantine.to_pylist() == []
    assert result.rows.num_rows == len(records(stream, file))
    for column in STREAMS[stream].columns:
        if column.required:
            assert typed(stream, file).column(column.name).null_count == 0, column.name


@pytest.mark.parametrize(("stream", "file"), CASES, ids=[f"{s}-in-{f}" for s, f in CASES])
def test_documented_words_are_in_the_vocabulary(stream, file):
    """After mapping, a documented word is one of those that its column documents."""
    table = typed(stream, file)
    for column in STREAMS[stream].columns:
        if column.values:
            known = {*column.values, *OPEN_WORDS.get((stream, column.name), ()), None}
            assert set(table.column(column.name).to_pylist()) <= known, column.name
        for inner in column.fields:
            if inner.values:
                known = {*inner.values, None}
                found = {item[inner.name] for item in _flat(table.column(column.name))}
                assert found <= known, f"{column.name}.{inner.name}"


@pytest.mark.parametrize(("stream", "kind"), PAIRS, ids=[s for s, _ in PAIRS])
def test_both_generations_give_the_same_typed_row(stream, kind):
    """The same thing told by either generation becomes the same row wherever both tell it."""
    newer, older = rows(stream, f"{stream}.{kind}"), rows(stream, f"{stream}.older")
    excused = DIFFERENT.get(stream, {})
    both = newer.keys() & older.keys()
    assert next(iter(newer)) in both, "the first records do not describe the same thing"

    differing = {
        name: (newer[key][name], older[key][name])
        for key in both
        for name in STREAMS[stream].schema.names
        if newer[key][name] != older[key][name]
        and newer[key][name] not in (None, [])
        and older[key][name] not in (None, [])
    }

    assert {name: pair for name, pair in differing.items() if name not in excused} == {}
    assert set(excused) <= set(differing), "an excused column does not differ"


@pytest.mark.parametrize(("stream", "kind"), PAIRS, ids=[s for s, _ in PAIRS])
def test_what_one_generation_leaves_out_is_known(stream, kind):
    """A column filled in one generation's full record and not in the other's is listed with why."""
    newer, older = rows(stream, f"{stream}.{kind}"), rows(stream, f"{stream}.older")
    key = next(iter(newer))

    one_sided = {
        name
        for name in STREAMS[stream].schema.names
        if (newer[key][name] is None) != (older[key][name] is None)
    }

    assert one_sided == set(ONE_SIDED.get(stream, {})), (
        "mend the golden files, or list in ONE_SIDED which columns one generation lacks, and why"
    )


@pytest.mark.parametrize(("stream", "file"), CASES, ids=[f"{s}-in-{f}" for s, f in CASES])
def test_documented_answers_are_no_drift(stream, file):
    """Nothing in a documented answer is reported as new, but for what is left out on purpose."""
    assert set(decoded(stream, file).drift) <= set(LEFT_OUT.get(stream, {}))


def test_money_is_kept_to_the_last_digit():
    """An amount with more digits than a float holds arrives as it was written."""
    newest = rows("balances", "balances.newer")

    amounts = {key[1]: row["amount"] for key, row in newest.items()}

    assert amounts["INTERIM_AVAILABLE"] == Decimal("903118664250.0001")
    assert amounts["INTERIM_BOOKED"] == Decimal("41907.36")
    assert amounts["CLOSING_AVAILABLE"] == 0


def test_instants_of_the_documents_are_utc():
    """Offsets, spaces and missing zones of documented timestamps all end as one instant."""
    consent = next(iter(rows("consents", "consents.older").values()))
    entities = rows("entities", "entities.older")

    assert consent["created_at"].isoformat() == "2026-01-22T12:07:41.906000+00:00"
    assert {row["created_at"].isoformat() for row in entities.values()} == {
        "2026-01-20T10:31:44.280177+00:00",
        "2026-01-07T06:44:18.250000+00:00",
    }


def test_hijri_dates_stay_text():
    """A date of the Islamic calendar is kept as sent, never read as a Gregorian one."""
    claims = json.loads(next(iter(rows("identity", "identity.older").values()))["verified_claims"])

    document = claims[0]["verification"]["evidence"][0]["document_details"]

    assert document["calendar_type"] == "ISLAMIC_CALENDAR"
    assert document["date_of_issuance"] == "1446-02-30"
