"""What an odd value costs: itself, told with its place, and a record only for key, money or day."""

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pytest
from hijridate import Gregorian
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lean_resources.decoding import Decoder, Page, Reader, preflight
from lean_resources.errors import SchemaError
from lean_resources.quarantine import lost
from lean_resources.repeats import is_null_like
from lean_resources.streams import STREAMS, Kind, segments

GOLDEN = Path(__file__).parent / "golden"
DECODERS = {name: Decoder(stream) for name, stream in STREAMS.items()}
STRICT = {
    name: {
        *stream.key,
        *stream.placed_by[:1],
        *(c.name for c in stream.columns if c.required),
    }
    for name, stream in STREAMS.items()
}
"""Columns whose loss is the record's."""

IDS = {"entity_id": "e-1", "account_id": "a-1", "account_type": "PERSONAL", "customer_id": "c-1"}


def golden(name):
    """The first golden record of a stream, and the page that it stands on without records."""
    outer = STREAMS[name].exploded_from or name
    body = json.loads((GOLDEN / f"{outer}.newer.json").read_text(), parse_float=Decimal)
    found = body
    for step in STREAMS[outer].records.split(".") if STREAMS[outer].records else []:
        found = found[step]
    return outer, found[0]


def page(name, *records):
    """One page of a stream that holds records, each an object or a JSON text."""
    outer = STREAMS[STREAMS[name].exploded_from or name]
    listed = "[" + ",".join(r if isinstance(r, str) else dumped(r) for r in records) + "]"
    for step in reversed(outer.records.split(".") if outer.records else []):
        listed = f'{{"{step}":{listed}}}'
    return Page("s", 0, 0, listed.encode("utf-8", "surrogatepass"), IDS)


def dumped(value):
    """JSON with decimals as numbers."""
    return json.dumps(value, ensure_ascii=False, default=float)


def placed(record, path, value):
    """A record with a value at a path of the catalogue."""
    found = json.loads(dumped(record), parse_float=Decimal)
    here = found
    steps = segments(path)
    for step in steps[:-1]:
        inner = here.get(step.name)
        if step.first:
            inner = inner[0] if isinstance(inner, list) and inner else {}
            here[step.name] = [inner]
        elif not isinstance(inner, dict):
            inner = here[step.name] = {}
        else:
            here[step.name] = inner
        here = inner
    here[steps[-1].name] = value
    return found


OPTIONAL = [
    (name, column)
    for name, stream in STREAMS.items()
    if stream.exploded_from is None
    for column in stream.columns
    if column.name not in STRICT[name] and column.paths
]
ODD = {
    Kind.TEXT: [{}, [], {"ar": "x"}, ["x"], True],
    Kind.INTEGER: ["many", 1.5, {}, [1], True, 2**63],
    Kind.BOOLEAN: ["true", 1, {}, [True]],
    Kind.MONEY: ["12.50", {}, [1], True, 1e-12],
    Kind.RATE: ["12.50", {}, [1], True],
    Kind.INSTANT: ["soon", 1772434504, {}, ["2026-01-01"], True, "2026-02-30"],
    Kind.DATE: ["soon", 20260101, {}, ["2026-01-01"], True, "2026-02-30"],
    Kind.TEXTS: [{}, [{}], [["x"]], True, [True]],
    Kind.TEXT_MAP: ["x", [], 5, True],
    Kind.JSON: [],
    Kind.ITEMS: [[None], [[]], "x", 5, True, ["x"], {}],
}


def only(decoded):
    """The one row of a page."""
    [row] = decoded.rows.to_pylist()
    return row


@pytest.mark.parametrize(
    ("name", "column"), OPTIONAL, ids=[f"{name}.{column.name}" for name, column in OPTIONAL]
)
def test_an_optional_value_costs_no_more_than_its_column(name, column):
    """The record and its other columns stay; the column is null, or asked for, and is named."""
    _, record = golden(name)
    decoder = DECODERS[name]
    plain = only(decoder.decode([page(name, placed(record, column.paths[0], None))]))
    for odd in ODD[column.kind]:
        decoded = decoder.decode([page(name, placed(record, column.paths[0], odd))])

        row = only(decoded)
        expected = IDS.get(column.request)
        assert row[column.name] == expected, odd
        others = {key for key in row if key != column.name and row[key] != plain[key]}
        assert not others, odd
        told = decoded.quarantine.to_pylist()
        assert {one["column_name"] for one in told} == {column.name}, odd
        assert all(one["path"].startswith(column.paths[0]) for one in told)
        assert not any(one["is_lost"] for one in told)


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
@pytest.mark.parametrize("name", [n for n, s in STREAMS.items() if s.exploded_from is None])
def test_a_text_without_a_word_is_null_where_no_text_belongs(name, blank):
    """Nobody is told, and nothing else of the record changes."""
    _, record = golden(name)
    for column in STREAMS[name].columns:
        if column.kind is Kind.TEXT or column.name in STRICT[name] or not column.paths:
            continue
        decoded = DECODERS[name].decode([page(name, placed(record, column.paths[0], blank))])

        plain = only(DECODERS[name].decode([page(name, placed(record, column.paths[0], None))]))
        assert only(decoded) == plain, column.name
        assert decoded.quarantine.num_rows == 0, column.name


def movement(**changes):
    """A transaction of the newer generation with some changes."""
    return {
        "entity_id": "e-1",
        "account_id": "a-1",
        "transaction_id": "t-1",
        "amount": {"amount": 1, "currency": "SAR"},
        "credit_debit_indicator": "DEBIT",
        "status": "BOOKED",
        "booking_date_time": "2026-01-02T03:04:05Z",
    } | changes


def read(*records):
    """Transactions through the decoder, held against the definition."""
    found = page("transactions", *records)
    decoded = DECODERS["transactions"].decode([found])
    defined = Reader(STREAMS["transactions"]).decode([found])
    assert decoded.rows.to_pylist() == defined.rows.to_pylist()
    assert decoded.quarantine.to_pylist() == defined.quarantine.to_pylist()
    return decoded


@pytest.mark.parametrize(
    "changes",
    [
        {"transaction_id": {}},
        {"account_id": []},
        {"amount": {"amount": "1", "currency": "SAR"}},
        {"amount": {"amount": 1, "currency": ["SAR"]}},
        {"amount": {"amount": "", "currency": "SAR"}},
        {"booking_date_time": "soon", "value_date_time": "2026-01-02"},
        {"booking_date_time": "1447-07-13", "value_date_time": "2026-01-02"},
        {"booking_date_time": None, "value_date_time": "1447-07-13"},
    ],
)
def test_a_record_is_lost_for_its_key_its_money_and_its_day(changes):
    """These are never guessed, also not from another field."""
    decoded = read(movement(**changes), movement(transaction_id="t-2"))

    assert decoded.rows["transaction_id"].to_pylist() == ["t-2"]
    assert [one["is_lost"] for one in decoded.quarantine.to_pylist()] == [True]


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_a_day_that_is_not_told_falls_to_the_next_date(blank):
    """A blank booking date is none, so the value date places the row."""
    row = only(read(movement(booking_date_time=blank, value_date_time="2026-01-02")))

    assert (row["booked_at"], row["value_at"].date()) == (None, dt.date(2026, 1, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.dates(dt.date(1925, 1, 1), dt.date(2076, 11, 1)),
    st.sampled_from(["", "T10:20:30Z", " 10:20:30+03:00"]),
)
def test_a_hijri_date_is_converted_and_told(day, time):
    """By Umm al-Qura, with its time; what was sent stays in the answer as received."""
    written = f"{Gregorian(day.year, day.month, day.day).to_hijri().isoformat()}{time}"

    decoded = read(movement(value_date_time=written), movement(transaction_id="t-2"))

    plain = read(movement(value_date_time=f"{day.isoformat()}{time}"))
    assert decoded.rows["value_at"].to_pylist() == [plain.rows["value_at"][0].as_py(), None]
    [told] = decoded.quarantine.to_pylist()
    assert (told["column_name"], told["path"]) == ("value_at", "value_date_time")
    assert (told["reason"], told["is_lost"]) == ("was a Hijri date and was converted", False)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("1408-05-12", dt.date(1988, 1, 1)),
        ("1445-07-24", dt.date(2024, 2, 5)),
        ("1445-02-30", dt.date(2023, 9, 15)),
        ("1320-01-01", None),
        ("1501-01-01", None),
        ("1445-13-01", None),
    ],
)
def test_days_that_the_islamic_calendar_has_are_read(text, day):
    """Also one that the Gregorian has not; what no calendar has is null, and told."""
    _, record = golden("accounts")

    decoded = DECODERS["accounts"].decode([page("accounts", record | {"opening_date": text})])

    assert only(decoded)["opening_date"] == day
    assert decoded.quarantine["column_name"].to_pylist() == ["opening_date"]


# Records that are not plain JSON.


@pytest.mark.parametrize(
    ("old", "new", "column", "is_lost", "reason"),
    [
        ('"INFO"', '"Coffee \\ud83d"', "transaction_information", False, "half of a character"),
        ('"INFO"', '"\\udc00 bar"', "transaction_information", False, "half of a character"),
        ('"INFO"', '"\udcff"', "transaction_information", False, "not UTF-8"),
        ('"INFO"', "NaN", "transaction_information", False, "NaN"),
        ('"t-2"', '"t\\ud83d"', "transaction_id", True, "half of a character"),
        ('"amount": 7', '"amount": NaN', "amount", True, "NaN"),
        ('"amount": 7', '"amount": -Infinity', "amount", True, "infinite"),
        ('"amount": 7', f'"amount": 1{"0" * 6000}', "amount", True, "digits"),
        ('"amount": 7', '"amount": 1e999999999999999999999', "amount", True, "exponent"),
        ('"amount": 7', '"amount": 7, "amount": 7', "amount", True, "twice"),
        ('"amount": 7', '"amount" 7', "transaction_id", True, "not JSON"),
        ('"INFO"', f"{'[' * 5000}{']' * 5000}", "transaction_information", False, "is not text"),
        ('"INFO"', f'{{"a":{"[" * 5000}{"]" * 5000}}}', "supplementary_data", False, "nested"),
        ('"INFO"', '"INFO", "status": "BOOKED"', "status", False, "twice"),
        ('"INFO"', '"INFO", "new": 1, "new": 1', "new", False, "twice"),
        ('"INFO"', '"INFO", "index": 1e999999999', "day_index", False, "64 bits"),
    ],
    ids=lambda value: str(value)[:24].encode("ascii", "replace").decode(),
)
def test_a_record_that_is_odd_json_leaves_its_neighbours_alone(old, new, column, is_lost, reason):
    """It is told with its true reason, is lost only for its key, money or day, and stands alone."""
    record = movement(transaction_id="t-2", amount={"currency": "SAR", "amount": 7})
    place = column if column == "supplementary_data" else "transaction_information"
    odd = dumped(record | {place: "INFO"}).replace(old, new)
    raw = page("transactions", movement(), odd, movement(transaction_id="t-3"))
    body = raw.body.replace("\udcff".encode("utf-8", "surrogatepass"), b"\xff")
    found = Page("s", 0, 0, body, IDS)

    decoded = DECODERS["transactions"].decode([found])

    ids = decoded.rows["transaction_id"].to_pylist()
    assert ids == (["t-1", "t-3"] if is_lost else ["t-1", "t-2", "t-3"])
    [told] = decoded.quarantine.to_pylist()
    assert (told["column_name"], told["is_lost"], told["record_number"]) == (column, is_lost, 1)
    assert reason in told["reason"]


def test_what_is_no_object_is_a_record_that_is_lost():
    """Null, text, numbers and lists in place of records are each told."""
    decoded = read(movement(), "null", '"x"', "5", "[]", movement(transaction_id="t-3"))

    assert decoded.rows["transaction_id"].to_pylist() == ["t-1", "t-3"]
    assert decoded.quarantine["reason"].to_pylist() == ["the record is not an object"] * 4


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("", True), (" ", True), ("null", True), ("None", True), ("N/A", True), ("n.a.", True),
        ("NOTPROVIDED", True), ("Not provided", True), ("NOT_AVAILABLE", True), ("0", True),
        ("000", True), ("-", True), ("00000000-0000-0000-0000-000000000000", True),
        ("undefined", True), ("1", False), ("A0", False), ("NULL1", False), ("t-1", False),
    ],
)  # fmt: skip
def test_ids_that_name_nothing_are_a_small_set(text, is_one):
    """Nothing but zeros and marks, or a word for nothing."""
    assert is_null_like(text) == is_one


@pytest.mark.parametrize("name", ["", "null", "N/A", "NOTPROVIDED", "0"])
def test_records_that_share_an_id_that_names_nothing_are_quarantined(name):
    """Also where they are alike: they may be two movements. One alone has its id to itself."""
    alone = read(movement(transaction_id=name), movement())
    shared = read(movement(transaction_id=name), movement(), movement(transaction_id=name))

    assert alone.rows.num_rows == 2
    assert shared.rows["transaction_id"].to_pylist() == ["t-1"]
    assert lost(shared.quarantine).num_rows == 2
    assert not shared.shifted


def test_an_empty_list_may_be_null():
    """Where no record is counted, null and a list that is absent hold none; else it is an error."""
    for listed in ('"transactions":null,', ""):
        for total, error in ((0, None), (3, SchemaError)):
            data = f'{listed}"page":{{"total_elements":{total},"total_pages":1}}'
            found = Page("s", 0, 0, f'{{"status":"OK","data":{{{data}}}}}'.encode(), IDS)
            if error is None:
                assert DECODERS["transactions"].decode([found]).rows.num_rows == 0
            else:
                with pytest.raises(error):
                    DECODERS["transactions"].decode([found])


# Exactness.


@pytest.mark.parametrize(
    "text",
    [
        '{"rate":1.5}', '{"rate":1.50,"e":1E5}', "[12345678901234567890]", '"x"', "-0",
        '{"a":[{"b":null},true,"\\u0645 \\" q"]}', "1e400", "0.1000000000000000000001",
    ],
)  # fmt: skip
def test_json_columns_are_as_sent(text):
    """Numbers keep their text, and nothing is quoted twice."""
    _, record = golden("identity")
    record = placed(record, "regional_data.data.verified_claims", "HERE")
    body = dumped(record).replace('"HERE"', text)

    found = only(DECODERS["identity"].decode([page("identity", body)]))["verified_claims"]

    assert json.loads(found, parse_float=str, parse_int=str) == json.loads(
        text, parse_float=str, parse_int=str
    )


def test_maps_hold_texts_as_they_are_and_the_rest_as_json():
    """A text has no quotes around it, a number is its text, an object its JSON."""
    body = dumped(movement(supplementary_data="HERE")).replace(
        '"HERE"', '{"a":"x \\"q\\"","b":1.50,"c":{"d":[1e5,"e"]},"f":null,"g":true}'
    )

    found = dict(only(read(body))["supplementary_data"])

    assert found == {"a": 'x "q"', "b": "1.50", "c": '{"d":[1e5,"e"]}', "f": None, "g": "true"}


_KEYS = st.sampled_from(["status", "amount", "index", "terminal_id", "flags", "regional_data"])
_SPACES = st.sampled_from(["", " ", "\n", "  "])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(_KEYS, st.sampled_from(["1", '"x"', "null", '":a"', '"\\u003ab"'])), max_size=3
    ),
    _SPACES,
    _SPACES,
    st.sampled_from(["", "a:b", '\\":', ":", "\\u0022:", "\\u003a"]),
)
# As many quotation marks are escapes as the second key and its value have.
@example([("index", "1")] * 2, "", "", "\\u0022" * 2)
@example([("status", '"x"')] * 2, " ", "", "\\u0022" * 4)
def test_a_key_that_stands_twice_never_takes_the_fast_way(doubles, before, after, text):
    """However spaces, colons and escapes lie around it; both ways give the same."""
    inner = "".join(f',"{key}"{before}:{after}{value}' for key, value in doubles)
    plain = (
        f'{{"transaction_id"{before}:{after}"t-1","amount":{{"amount":1,"currency":"SAR"}},'
        f'"transaction_information":"{text}","booking_date_time":"2026-01-02T03:04:05Z"'
    )
    decoded = read(plain + inner + "}", movement(transaction_id="t-2"))

    keys = [key for key, _ in doubles] + ["amount"]
    assert is_fast(plain + "}") == ("\\u0022" not in text)
    if len(set(keys)) < len(keys):
        assert decoded.quarantine.num_rows > 0
        assert not is_fast(plain + inner + "}")


def is_fast(record):
    """Whether a page with the record takes the fast path."""
    return preflight(STREAMS["transactions"], page("transactions", record).body).shape is not None


def test_a_double_key_in_a_map_or_a_nested_object_is_seen():
    """Wherever it stands in the record."""
    for odd in (
        '"supplementary_data":{"a":"1","a":"2"}',
        '"balance":{"amount":{"amount":1,"amount":2,"currency":"SAR"}}',
        '"merchant_details":{"merchant_id":1,"merchant_id":1}',
        '"unknown":{"deep":[{"a":1,"a":1}]}',
    ):
        decoded = read(dumped(movement())[:-1] + "," + odd + "}")
        assert decoded.rows.num_rows == 1
        assert "twice" in decoded.quarantine["reason"][0].as_py()


# Several accounts of one counterparty.

IBAN = "SA7393951658334861869400"


@pytest.mark.parametrize("name", ["transactions", "beneficiaries", "standing_orders"])
def test_no_account_number_of_a_receiver_is_lost(name):
    """The IBAN is shown, by its form before its label; all are kept where there are several."""
    outer = STREAMS[name]
    older = json.loads((GOLDEN / f"{name}.older.json").read_text(), parse_float=Decimal)
    record = older["data"][name][0] | {"creditor_account": None}
    label = "identification_type"
    lists = [
        [{label: "BBAN", "identification": "1"}, {label: "OTHER", "identification": IBAN}],
        [{label: "IBAN", "identification": "SA00"}, {label: "BBAN", "identification": IBAN}],
        [{label: "PAN", "identification": "4"}, {label: "IBAN", "identification": "masked"}],
        [{label: "BBAN", "identification": "1"}, {label: "PAN", "identification": "2"}],
        [{}, {label: "BBAN", "identification": "1"}],
        [{label: "BBAN", "identification": "1"}],
        [],
    ]
    for items, shown in zip(lists, [IBAN, IBAN, "masked", "1", "1", "1", None], strict=True):
        sent = page(name, placed(record, "regional_data.data.creditor_account", items))
        row = only(DECODERS[name].decode([sent]))
        assert row["creditor_account_identification"] == shown
        held = [one["identification"] for one in row["creditor_accounts"] or []]
        assert held == ([one.get("identification") for one in items] if len(items) > 1 else [])
        assert Reader(outer).decode([sent]).rows.to_pylist() == [row]
