"""What is decoded, what goes to quarantine, and that the fast path agrees with the reader."""

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lean_resources.decoding import Decoder, Page, Reader, fast_paths
from lean_resources.errors import SchemaError
from lean_resources.streams import STREAMS

TRANSACTIONS = STREAMS["transactions"]
GOLDEN = Path(__file__).parent / "golden"
DECODER = Decoder(TRANSACTIONS)


def record(**changes):
    """A transaction of the newer generation with some changes."""
    return {
        "entity_id": "11111111-1111-4111-8111-111111111111",
        "account_id": "22222222-2222-4222-8222-222222222222",
        "transaction_id": "t-1",
        "amount": {"amount": 1, "currency": "SAR"},
        "credit_debit_indicator": "DEBIT",
        "status": "BOOKED",
        "booking_date_time": "2026-01-02T03:04:05Z",
    } | changes


def page(*records, text=None):
    """One page that holds the records, or a text in their place."""
    body = (
        text if text is not None else ",".join(json.dumps(r, ensure_ascii=False) for r in records)
    )
    whole = '{"status":"OK","data":{"type":"transactions","transactions":[' + body + "]}}"
    return Page("series", 0, 0, whole.encode(), {"entity_id": "e", "account_id": "a"})


def value(column, **changes):
    """The typed value of one column of one record."""
    decoded = DECODER.decode([page(record(**changes))])
    assert decoded.quarantine.num_rows == 0, decoded.quarantine.to_pylist()
    return decoded.rows[column][0].as_py()


def reason(**changes):
    """Why a record is quarantined: its column and the reason."""
    decoded = DECODER.decode([page(record(**changes))])
    assert decoded.rows.num_rows == 0
    [row] = decoded.quarantine.to_pylist()
    return row["column_name"], row["reason"]


def money(text):
    """A record whose amount is written as the text."""
    whole = json.dumps(record())
    return page(text=whole.replace('{"amount": 1,', f'{{"amount": {text},'))


@pytest.mark.parametrize(
    "text",
    [
        "0", "-0", "0.1", "1934", "2180.0", "42.70", "0.123456789", "1234567890123.4567",
        "99999999999999999999999999999.999999999", "1.5e3", "15E-1", "1e28", "0.1000000000000",
        "9007199254740993.25", "0.3", "123456789012345678901.5",
    ],
)  # fmt: skip
def test_money_is_exact_to_the_digit(text):
    """An amount is the decimal number that its text says, whatever a float would make of it."""
    decoded = DECODER.decode([money(text)])

    assert decoded.rows["amount"][0].as_py() == Decimal(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.1234567891", "has 10 decimals and the column holds 9"),
        ("1e-10", "has 10 decimals and the column holds 9"),
        ("1e29", "has more than 29 digits before the point"),
        ("100000000000000000000000000000.0", "has more than 29 digits before the point"),
        ('"12.5"', "is not a number"),
        ("true", "is not a number"),
        ("{}", "is not a number"),
    ],
)
def test_money_that_does_not_fit_is_quarantined_and_never_rounded(text, reason):
    """A number beyond the column, or no number at all, goes to quarantine with its reason."""
    decoded = DECODER.decode([money(text)])

    assert decoded.rows.num_rows == 0
    assert decoded.quarantine["column_name"].to_pylist() == ["amount"]
    assert decoded.quarantine["reason"].to_pylist() == [reason]


@settings(max_examples=150, deadline=None)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=9).filter(lambda d: abs(d) < 10**29)
)
def test_any_number_of_38_digits_passes_exactly(number):
    """Every number of at most 29 digits before and 9 after the point is kept as it is."""
    decoded = DECODER.decode([money(f"{number:f}")])

    assert decoded.rows["amount"][0].as_py() == number


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-02T07:15:04Z", (2026, 3, 2, 7, 15, 4)),
        ("2026-03-02T07:15:04.1Z", (2026, 3, 2, 7, 15, 4, 100000)),
        ("2026-03-02T07:15:04.118204511Z", (2026, 3, 2, 7, 15, 4, 118204)),
        ("2026-01-31T23:59:59.999999999Z", (2026, 1, 31, 23, 59, 59, 999999)),
        ("2026-03-02T07:15:04+03:00", (2026, 3, 2, 4, 15, 4)),
        ("2026-03-02T01:15:04.5+0300", (2026, 3, 1, 22, 15, 4, 500000)),
        ("2025-02-25 11:40:31.981", (2025, 2, 25, 11, 40, 31, 981000)),
        ("2013-03-15 22:00:00.000 +0400", (2013, 3, 15, 18, 0, 0)),
        ("2026-03-02", (2026, 3, 2)),
        ("2026-03-02T07:15Z", (2026, 3, 2, 7, 15)),
    ],
)
def test_instants_are_read_in_every_form_that_was_recorded(text, instant):
    """Fractions of 0 to 9 digits, any offset, a space for the T: all end as the instant in UTC."""
    assert value("booked_at", booking_date_time=text) == dt.datetime(*instant, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "reason_"),
    [
        ("yesterday", "is not an instant"),
        ("2026-02-30T00:00:00Z", "is not an instant"),
        ("2026-3-2", "is not an instant"),
        ("infinity", "is not an instant"),
        ("1447-09-13T00:00:00Z", "is before 1900, so not Gregorian"),
        (1772434504, "is not an instant"),
    ],
)
def test_what_is_no_instant_is_quarantined(text, reason_):
    """Text that is no instant, and Hijri dates in Gregorian clothes, do not become instants."""
    assert reason(booking_date_time=text) == ("booked_at", reason_)


def test_a_record_that_does_not_fit_leaves_its_neighbours_alone():
    """Of three records the middle one is quarantined, and its place is kept."""
    decoded = DECODER.decode(
        [page(record(), record(transaction_id=None), record(transaction_id="t-3"))]
    )

    assert decoded.rows["transaction_id"].to_pylist() == ["t-1", "t-3"]
    assert decoded.rows["record_number"].to_pylist() == [0, 2]
    assert decoded.quarantine.to_pylist() == [
        {
            "series_id": "series",
            "page_number": 0,
            "record_number": 1,
            "column_name": "transaction_id",
            "path": None,
            "reason": "is missing",
            "record_key": None,
            "placed_on": dt.date(2026, 1, 2),
            "is_lost": True,
        }
    ]


def test_a_record_that_is_lost_keeps_its_key_and_its_day():
    """What can be read of it stands beside the reason: key and UTC day of the first date."""
    late = record(amount={"amount": "12.5", "currency": "SAR"}, value_date_time="2026-02-01")

    [row] = DECODER.decode(
        [page(late | {"booking_date_time": "2026-01-01T01:00:00+03:00"})]
    ).quarantine.to_pylist()

    assert row["record_key"] == '["22222222-2222-4222-8222-222222222222","t-1"]'
    assert row["placed_on"] == dt.date(2025, 12, 31)
    assert row["is_lost"] is True


def test_unknown_fields_are_counted_by_path():
    """A field that the catalogue does not know is drift; the record passes."""
    decoded = DECODER.decode(
        [
            page(
                record(mood="good", amount={"amount": 1, "currency": "SAR", "scale": 2}),
                record(transaction_id="t-2", mood=None, card_instrument={"chip": {"a": 1}}),
            )
        ]
    )

    assert decoded.rows.num_rows == 2
    assert decoded.drift == {"mood": 2, "amount.scale": 1, "card_instrument.chip": 1}


def test_values_never_seen_pass_as_text():
    """An enum is an open vocabulary: tomorrow's word is kept."""
    assert value("transaction_type", transaction_type="TELEPORT") == "TELEPORT"


def test_both_vocabularies_end_as_one_word():
    """Older and regional words become the newer ones; mada's two names are one."""
    assert value("card_scheme", card_instrument={"card_scheme_name": "MADA"}) == "LOCAL_SCHEME"


def test_numbers_for_ids_become_text():
    """An id that a bank sends as a number keeps every digit."""
    assert value("merchant_id", merchant_details={"merchant_id": 12345678901234567890}) == (
        "12345678901234567890"
    )


def test_a_bare_text_stands_for_a_list_of_one():
    """The older generation's statement_reference is one text; the newer one's is a list."""
    assert value("statement_references", statement_reference="S-1") == ["S-1"]
    assert value("statement_references", statement_reference=["S-1", "S-2"]) == ["S-1", "S-2"]
    assert value("statement_references", statement_reference=None) is None


def test_a_record_of_nulls_passes_as_nulls():
    """Everything that is not required may be null or absent."""
    nulls = dict.fromkeys(
        ("booking_date_time", "status", "balance", "insights", "regional_data", "flags")
    )

    decoded = DECODER.decode([page(record(**nulls))])

    assert decoded.quarantine.num_rows == 0
    assert decoded.rows["booked_at"].to_pylist() == [None]


def test_ids_that_an_answer_leaves_out_come_from_the_request():
    """Recorded identities carry a null account; the request knows whose they are."""
    assert value("account_id", account_id=None) == "a"


def test_a_body_without_records_is_a_schema_error():
    """A body that is not JSON, or has no list where records lie, names the stream."""
    for body in (b"<html>", b'{"data":{"transactions":{}}}', b"[]"):
        with pytest.raises(SchemaError, match=r"answer") as failure:
            DECODER.decode([Page("s", 0, 0, body, {})])
        assert failure.value.stream == "transactions"


def test_the_last_word_on_a_refresh_wins():
    """The detail of a refresh replaces its line in the list."""
    line = {"refresh_id": "r", "entity_id": "e", "status": "PENDING"}
    detail = line | {"status": "FINISHED", "data_status": {"accounts": "OK"}}
    pages = [
        Page("s", 0, 0, json.dumps({"content": [line]}).encode(), {}),
        Page("s", 1, 1, json.dumps(detail).encode(), {}, is_detail=True),
    ]

    rows = Decoder(STREAMS["refreshes"]).decode(pages).rows

    assert rows["status"].to_pylist() == ["FINISHED"]
    assert rows["accounts_status"].to_pylist() == ["OK"]


# The law that lets DuckDB read what the reader defines.

_TEXTS = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.sampled_from(["BOOKED", "", "[", '["x"]', "{}", "null", "حوالة", "\u202eabc", "a\tb\\"]),
)
_NUMBERS = st.one_of(
    st.none(), st.integers(-(10**12), 10**12), st.decimals(-(10**9), 10**9, places=3)
)
_INSTANTS = st.one_of(
    st.none(),
    st.datetimes(dt.datetime(1890, 1, 1), dt.datetime(2100, 1, 1)).map(  # noqa: DTZ001
        lambda d: d.isoformat() + "Z"
    ),
    st.sampled_from(["2026-03-02T07:15:04.118204511+03:00", "2026-03-02 07:15:04", "soon", ""]),
)
_ODD = st.one_of(_TEXTS, _NUMBERS, st.booleans(), st.lists(_TEXTS, max_size=2))


def _raw(found):
    """JSON with decimals written as numbers."""
    if isinstance(found, Decimal):
        return f"{found:f}"
    if isinstance(found, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_raw(v)}" for k, v in found.items()) + "}"
    if isinstance(found, list):
        return "[" + ",".join(map(_raw, found)) + "]"
    return json.dumps(found, ensure_ascii=False)


@st.composite
def _records(draw):
    """Records of both generations, some of them wrong in one place."""
    amount = st.fixed_dictionaries({"amount": _NUMBERS, "currency": _TEXTS})
    found = {
        "transaction_id": draw(_TEXTS),
        "amount": draw(amount),
        "status": draw(_TEXTS),
        "booking_date_time": draw(_INSTANTS),
        "terminal_id": draw(st.one_of(_TEXTS, st.integers(-5, 2**65))),
        "index": draw(st.one_of(st.none(), st.integers(-5, 2**65))),
        "flags": draw(st.one_of(st.none(), st.lists(st.text(max_size=3), max_size=2))),
        "statement_reference": draw(st.one_of(_TEXTS, st.lists(st.text(max_size=3), max_size=2))),
        "balance": draw(st.one_of(st.none(), st.fixed_dictionaries({"amount": amount}))),
        "regional_data": draw(
            st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {
                        "standard": _TEXTS,
                        "data": st.fixed_dictionaries(
                            {
                                "value_date_time": _INSTANTS,
                                "status": _TEXTS,
                                "creditor_account": st.lists(
                                    st.fixed_dictionaries({"identification": _TEXTS}), max_size=2
                                ),
                                "supplementary_data": st.dictionaries(
                                    st.text(max_size=3), st.text(max_size=3), max_size=2
                                ),
                            }
                        ),
                    }
                ),
            )
        ),
    }
    if draw(st.integers(0, 4)) == 0:
        found[draw(st.sampled_from([*found, "unheard_of"]))] = draw(_ODD)
    return found


@settings(max_examples=80, deadline=None)
@given(st.lists(_records(), max_size=4))
def test_the_fast_path_agrees_with_the_reader(records):
    """Whatever the records, DuckDB's rows are the reader's rows, and so is the quarantine."""
    both_ways_agree(records)


@pytest.mark.conformance
@settings(max_examples=400, deadline=None)
@given(st.lists(_records(), max_size=4))
def test_both_ways_through_the_gate_agree_on_many_records(records):
    """The same, over many more of them."""
    both_ways_agree(records)


def both_ways_agree(records):
    """The fast way and the definition give the same rows, quarantine and drift."""
    found = page(text=",".join(map(_raw, records)))

    decoded = DECODER.decode([found])
    defined = Reader(TRANSACTIONS).decode([found])

    assert decoded.rows.to_pylist() == defined.rows.to_pylist()
    assert decoded.quarantine.to_pylist() == defined.quarantine.to_pylist()
    assert decoded.drift == defined.drift


def test_a_page_of_the_documented_shape_takes_the_fast_path():
    """The validator accepts plain pages, so the law above compares two implementations."""
    flat, whole = fast_paths(TRANSACTIONS)
    regional = record(regional_data={"standard": "SAU.SAMA.V1", "data": {"status": "BOOKED"}})

    assert (
        flat.preflight(page(record(), record(transaction_id="t-2", regional_data=None)).body)
        is not None
    )
    assert flat.preflight(page(record(terminal_id=63326181)).body) is not None
    assert flat.preflight(page(regional).body) is None
    assert whole.preflight(page(regional).body) is not None
    assert whole.preflight(page(record(mood="good")).body) is None
    assert whole.preflight(money("1e3").body) is None
