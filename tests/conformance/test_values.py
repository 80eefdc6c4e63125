"""What Lean sent is what the lake holds: digits, signs, letters, and values never seen before."""

import dataclasses
import json
import unicodedata
from collections import Counter
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import showing
from laws import not_as_sent, unaccounted
from worlds import Wire, new_sandbox, pull, wired

from lean_resources.decoding import Decoder
from lean_resources.streams import STREAMS

AMOUNTS = [
    "0.1",
    "0.2",
    "0.001",
    "1234567.891",
    "12345678901234567.89",
    "9007199254740993",
    "-5",
    "0",
    "0.300000001",
]
INDICATORS = ["CREDIT", "DEBIT", "UNSUPPORTED", "SOMETHING_NEW"]
LETTERS = [
    "مقهى الرياض",
    "مـقـهـى",
    "أحمد إحسان آل علي",
    "\u0661\u0662\u0663\u066b\u0665 ريال",
    "\u200fمطعم\u200e CAFE",
    unicodedata.normalize("NFD", "Café"),
    unicodedata.normalize("NFC", "Café"),
    "ﷲ ﬁ ①",
    "🧾 \U0001f1f8\U0001f1e6",
    " \u00a0 ",
]


def crafted(records):
    """The records of a page with what only a hostile bank would send."""
    for number, record in enumerate(records):
        record["amount"] = {
            "amount": Number(AMOUNTS[number % len(AMOUNTS)]),
            "currency": ["SAR", "KWD", "JPY"][number % 3],
        }
        record["credit_debit_indicator"] = INDICATORS[number % len(INDICATORS)]
        record["transaction_information"] = LETTERS[number % len(LETTERS)]
        if number % 5 == 0:
            record["brand_new_field"] = {"deep": [number]}
        if number % 7 == 0:
            record["transaction_reference"] = number
    return records


class Number(float):
    """A number that is written to JSON with the digits it was made of."""

    def __new__(cls, text):
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __repr__(self):
        return self.text


def dumped(found):
    """JSON with every digit that was parsed or made."""
    marks = []

    def kept(value):
        if isinstance(value, dict):
            return {key: kept(one) for key, one in value.items()}
        if isinstance(value, list):
            return [kept(one) for one in value]
        if isinstance(value, Decimal | Number):
            marks.append(str(value) if isinstance(value, Decimal) else value.text)
            return f"@@{len(marks) - 1}@@"
        return value

    text = json.dumps(kept(found), ensure_ascii=False)
    for place, digits in enumerate(marks):
        text = text.replace(f'"@@{place}@@"', digits)
    return text.encode()


def story(lake):
    """One account's statement as a hostile bank would send it; what the lake has otherwise."""
    sandbox = new_sandbox(months=1)
    case = sandbox.example("newer_generation")
    account = case["account_ids"][0]
    sent = []

    def change(request, body):
        if not request.url.path.endswith(f"{account}/transactions"):
            return body
        found = json.loads(body, parse_float=Decimal)
        crafted(found["data"]["transactions"])
        body = dumped(found)
        sent.append(({"entity_id": case["entity_id"], "account_id": account}, body))
        return body

    client = wired(sandbox, Wire(sandbox, change))
    pull(sandbox, lake, ("entities", "accounts"))
    report = pull(sandbox, lake, ("transactions",), client=client, account_ids={account})
    assert sum(len(json.loads(body)["data"]["transactions"]) for _, body in sent) > len(LETTERS)
    found = not_as_sent(lake, "transactions", sent)
    found += [("quarantined", report.quarantined)] if report.quarantined else []
    found += [] if report.drift else [("drift", "is not told")]
    with showing(lake, ("transactions",)) as connection:
        totals = dict(
            connection.execute(
                "select currency, sum(amount) from transactions"
                f" where account_id = '{account}' group by all"
            ).fetchall()
        )
    true = Counter()
    for _, body in sent:
        for record in json.loads(body, parse_float=Decimal)["data"]["transactions"]:
            true[record["amount"]["currency"]] += Decimal(record["amount"]["amount"])
    return found + [(key, totals.get(key), value) for key, value in true.items()
                    if totals.get(key) != value]  # fmt: skip


def test_the_lake_holds_what_was_sent(lake):
    """Every digit, sign, letter and new word is kept; a new field is told as drift."""
    assert story(lake) == []


def through(monkeypatch, change):
    """Let the decoder's rows be changed."""
    decode = Decoder.decode

    def changed(self, pages):
        decoded = decode(self, pages)
        return dataclasses.replace(decoded, rows=change(decoded.rows))

    monkeypatch.setattr(Decoder, "decode", changed)


def column(rows, name, made):
    """The rows with one column made anew, where they have it."""
    if name not in rows.column_names:
        return rows
    place = rows.column_names.index(name)
    return rows.set_column(place, rows.field(name), made(rows[name]).cast(rows[name].type))


def a_float_cent(monkeypatch):
    """Money passes through a float."""
    through(
        monkeypatch,
        lambda rows: column(
            rows, "amount", lambda v: pc.cast(v, pa.float64()).cast(v.type, safe=False)
        ),
    )


def unsupported_is_debit(monkeypatch):
    """What is neither in nor out is taken for out."""
    through(
        monkeypatch,
        lambda rows: column(
            rows,
            "credit_debit_indicator",
            lambda v: pc.replace_substring(v, "UNSUPPORTED", "DEBIT"),
        ),
    )


def a_sign_is_dropped(monkeypatch):
    """A negative amount loses its sign."""
    through(monkeypatch, lambda rows: column(rows, "amount", pc.abs))


def letters_are_normalised(monkeypatch):
    """Texts are brought into another form."""
    through(
        monkeypatch,
        lambda rows: column(
            rows, "transaction_information", lambda v: pc.utf8_normalize(v, form="NFKC")
        ),
    )


def an_unknown_word_is_dropped(monkeypatch):
    """A value that nobody documented becomes null."""
    known = pa.array(["CREDIT", "DEBIT", "UNSUPPORTED"])
    through(
        monkeypatch,
        lambda rows: column(
            rows,
            "credit_debit_indicator",
            lambda v: pc.if_else(pc.is_in(v, value_set=known), v, pa.scalar(None, v.type)),
        ),
    )


def drift_is_silent(monkeypatch):
    """Nobody is told of a new field."""
    decode = Decoder.decode
    monkeypatch.setattr(
        Decoder,
        "decode",
        lambda self, pages: dataclasses.replace(decode(self, pages), drift=Counter()),
    )


@pytest.mark.parametrize(
    "mutant",
    [
        a_float_cent,
        unsupported_is_debit,
        a_sign_is_dropped,
        letters_are_normalised,
        an_unknown_word_is_dropped,
        drift_is_silent,
    ],
    ids=lambda mutant: mutant.__name__,
)
def test_a_decoder_that_changes_values_breaks_a_law(lake, monkeypatch, mutant):
    """Each way of bending a value is seen."""
    mutant(monkeypatch)

    assert story(lake)


def misfits(lake):
    """Balances of which some do not fit; records that are neither rows nor in quarantine."""
    sandbox = new_sandbox(months=1)
    spoilt = []

    def change(request, body):
        if not request.url.path.endswith("/balances"):
            return body
        found = json.loads(body, parse_float=Decimal)
        if len(spoilt) < 3 and found.get("data"):
            record = found["data"]["balances"][0]
            record["amount"] = [{"odd": 1}, {"amount": "many"}, "7"][len(spoilt)]
            spoilt.append(record)
        return dumped(found)

    pull(sandbox, lake, ("entities", "accounts"))
    report = pull(sandbox, lake, ("balances",), client=wired(sandbox, Wire(sandbox, change)))
    assert len(spoilt) == 3
    assert report.outcomes["COMMITTED"] > 20
    return unaccounted(lake, "balances")


def test_every_record_is_a_row_or_in_quarantine(lake):
    """A type that was never seen costs its record alone, and nothing goes missing silently."""
    assert misfits(lake) == []
    with lake.connect() as connection:
        kept = connection.execute(
            f"select column_name, reason from ({lake.quarantined(STREAMS['balances'])})"
        ).fetchall()
    assert kept
    assert all(name and reason for name, reason in kept)


def test_a_decoder_that_swallows_misfits_breaks_a_law(lake, monkeypatch):
    """Records that end nowhere are seen."""
    decode = Decoder.decode
    monkeypatch.setattr(
        Decoder,
        "decode",
        lambda self, pages: dataclasses.replace(
            decoded := decode(self, pages), quarantine=decoded.quarantine.slice(0, 0)
        ),
    )

    assert misfits(lake)
