"""Currencies: one word for each, where it is certain; what is not is kept and told of."""

from collections import defaultdict
from decimal import Decimal

import pytest
from known import models
from tiny import run, scalar

SPELLINGS = [
    "SAR",
    "sar",
    "SAR ",
    " Sar",
    "682",
    "\N{NO-BREAK SPACE}SAR",
    "SAR\N{RIGHT-TO-LEFT MARK}",
]


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        *((spelling, "SAR") for spelling in SPELLINGS),
        *(("048", "BHD"), ("48", "BHD"), ("414", "KWD"), ("840", "USD"), ("usd\t", "USD")),
        *((" riyal", "RIYAL"), ("999", "999"), ("XYZ", "XYZ"), ("﷼", "﷼"), ("SA R", "SA R")),
        *((nothing, None) for nothing in ("", "  ", None)),
    ],
)
def test_a_currency_is_written_as_iso_4217_does_where_that_is_certain(spelling, code):
    """Case, spaces and digits are spelling; a word that is no currency stays what it is."""
    assert scalar("currency_code($1)", spelling) == code
    assert scalar("is_currency(currency_code($1))", spelling) == (
        code in {"SAR", "BHD", "KWD", "USD"}
    )


def test_every_money_of_staging_has_its_currency_in_one_spelling():
    """Each column of a stream that names a currency is normalised by the staging model of it."""
    found = 0
    for model in models():
        if model.layer != "staging" or len(model.reads) != 1:
            continue
        (read,) = model.reads
        if read not in models().relations:
            continue
        for column in (name for name in models().relations[read].types if "currency" in name):
            (row,) = run(model.name, **{read: [{column: " sar"}]})
            assert row[column] == "SAR", (model.name, column)
            found += 1
    assert found > 10


def test_spellings_of_a_currency_make_one_total_and_others_are_told():
    """Movements in any spelling of one currency add up; one in no currency breaks a rule."""
    rows = run(
        "stg_movements",
        transactions=[
            {
                "account_id": "1",
                "transaction_id": str(place),
                "amount": Decimal(place + 1),
                "credit_debit_indicator": "CREDIT",
                "currency": spelling,
            }
            for place, spelling in enumerate([*SPELLINGS, "riyals"])
        ],
    )
    totals = defaultdict(Decimal)
    for row in rows:
        totals[row["currency"]] += row["signed_amount"]
    odd = run(
        "int_quality_monthly",
        fct_transactions=[
            {"account_key": "a", "month": "2026-03", "currency": row["currency"]} for row in rows
        ],
        bridge_accounts=[{"account_key": "a", "bank_identifier": "B"}],
    )
    (shown,) = [
        row
        for row in run("mart_data_quality", int_quality_monthly=odd, clock=[{"as_of": None}])
        if row["observation"] == "unknown_currency"
    ]

    assert dict(totals) == {"SAR": Decimal(28), "RIYALS": Decimal(8)}
    assert (shown["odd_count"], shown["row_count"], shown["is_passed"]) == (1, 8, False)
    assert shown["severity"] == "error"
