"""Any spelling of an account number is the same account, and the other side is never oneself."""

import asyncio
import datetime as dt
import random
import re
from decimal import Decimal

import httpx
import pytest
from conftest import TODAY, Slept, settings_of, sync_everything
from hypothesis import given, settings
from hypothesis import strategies as st
from known import KEY, closure, keyed_hash, models
from tiny import run, scalar
from truth import account_keys, counterparty, movements, own_numbers

from lean_resources import LeanClient
from lean_resources.sandbox import Sandbox
from lean_resources.sandbox.people import iban
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.publish.warehouse import connect, publish

IBAN = "SA0380000000608010167519"
WIDE = {sign: sign + 0xFEE0 for sign in range(0x21, 0x7F)}
BETWEEN = [
    *("", " ", "  ", "-", "\t", "\n", ".", "/", "_", "\N{NO-BREAK SPACE}", "\N{FIGURE SPACE}"),
    *("\N{NARROW NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}", "\N{THIN SPACE}", "\N{EM DASH}"),
    *("\N{HYPHEN}", "\N{NON-BREAKING HYPHEN}", "\N{EN DASH}", "\N{MINUS SIGN}"),
    *("\N{LEFT-TO-RIGHT MARK}", "\N{RIGHT-TO-LEFT MARK}", "\N{ARABIC LETTER MARK}"),
    *("\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH NO-BREAK SPACE}", "\N{WORD JOINER}"),
    *("\N{LEFT-TO-RIGHT EMBEDDING}", "\N{POP DIRECTIONAL FORMATTING}", "\N{SOFT HYPHEN}"),
    *("\N{FIRST STRONG ISOLATE}", "\N{ARABIC TATWEEL}", "\N{FULLWIDTH HYPHEN-MINUS}"),
]
BEFORE = [
    *("", "IBAN ", "IBAN:", "iban: ", "Iban - ", "IBAN\N{NO-BREAK SPACE}", "(IBAN) ", "IBAN No. "),
    *("\N{RIGHT-TO-LEFT MARK}", "رقم الآيبان: ", "IBAN:".translate(WIDE)),
]
DIGITS = ["".join(chr(zero + n) for n in range(10)) for zero in (0x30, 0x660, 0x6F0, 0xFF10)]


def respelt(number, draw):
    """The number in another spelling.

    Args:
        number: Capitals and digits.
        draw: Chooses one of several things.
    """
    signs = [draw(DIGITS)[int(sign)] if sign.isdigit() else sign for sign in number]
    signs = [draw([sign, sign.lower(), sign.translate(WIDE)]) for sign in signs]
    return draw(BEFORE) + "".join(sign + draw(BETWEEN) for sign in signs)


@settings(deadline=None)
@given(st.integers(0, 2**64), st.integers(0, 2**64), st.booleans())
def test_any_spelling_of_an_iban_is_the_same_number(number, seed, letters):
    """Separators, invisible marks, other digits, full width and a prefix change nothing."""
    true = iban("80", number, letters=letters)

    spelling = respelt(true, random.Random(seed).choice)

    assert scalar("account_number($1)", spelling) == true
    assert scalar("iban_of([{'identification': $1}])", spelling) == true


@pytest.mark.parametrize(
    ("spelling", "number"),
    [
        ("774-2008", "7742008"),
        ("IBAN 608010167519", "608010167519"),
        ("de89 3704 0044 0532 0130 00", "DE89370400440532013000"),
        ("IBAN NO93 8601 1117 947", "NO9386011117947"),
        ("**** **** **** 1234", "************1234"),
        ("4321 12XX XXXX 1234", "432112******1234"),
        ("•••• 1234", "****1234"),
        *(
            (nothing, None)
            for nothing in ("", " ", "-", "N/A", "NOTPROVIDED", "null", "0000", None)
        ),
    ],
)
def test_a_number_is_its_letters_and_digits(spelling, number):
    """Whatever kind it is of; and a text without a digit above zero is no number."""
    assert scalar("account_number($1)", spelling) == number
    assert scalar("account_number(account_number($1))", spelling) == number


PARTIES = {
    "own": {"identification": f"iban {IBAN}", "name": "Own Holder"},
    "bban": {"identification": "608010167519", "name": "Own Holder"},
    "card": {"identification": "**** 4821", "name": None},
    "other": {"identification": "SA44 2000 0001 2345 6789 1234", "name": "Acme"},
    "twin": {"identification": "SA1220000000608010167519", "name": "Same number, other bank"},
    "named": {"identification": None, "name": "Acme"},
    "empty": {"identification": "NOTPROVIDED", "name": None},
    "none": {"identification": None, "name": None},
}
OTHER = "SA4420000001234567891234"


@pytest.mark.parametrize(
    ("indicator", "debtor", "creditor", "side", "number"),
    [
        ("DEBIT", "own", "other", "creditor", OTHER),
        ("DEBIT", "other", "own", "debtor", OTHER),
        ("CREDIT", "own", "other", "creditor", OTHER),
        ("CREDIT", "other", "own", "debtor", OTHER),
        ("CREDIT", "bban", "other", "creditor", OTHER),
        ("CREDIT", "card", "other", "creditor", OTHER),
        ("DEBIT", "other", "bban", "debtor", OTHER),
        ("DEBIT", "other", "none", "debtor", OTHER),
        ("CREDIT", "none", "other", "creditor", OTHER),
        ("CREDIT", "own", "none", "unknown", None),
        ("DEBIT", "none", "own", "unknown", None),
        ("DEBIT", "own", "own", "unknown", None),
        ("DEBIT", "own", "bban", "unknown", None),
        ("CREDIT", "empty", "own", "unknown", None),
        ("DEBIT", "none", "none", "unknown", None),
        ("DEBIT", "own", "named", "creditor", None),
        ("CREDIT", "own", "named", "creditor", None),
        ("DEBIT", "named", "none", "unknown", None),
        ("DEBIT", "other", "twin", "creditor", "SA1220000000608010167519"),
        ("CREDIT", "twin", "none", "debtor", "SA1220000000608010167519"),
        ("CREDIT", "other", "twin", "debtor", OTHER),
        ("UNSUPPORTED", "own", "other", "creditor", OTHER),
        ("UNSUPPORTED", "other", "twin", "unknown", None),
        (None, "other", "own", "debtor", OTHER),
        (None, "other", "none", "debtor", OTHER),
        (None, "none", "none", "unknown", None),
    ],
)
def test_the_other_side_is_the_party_that_is_not_the_account(
    indicator, debtor, creditor, side, number
):
    """Whatever the direction, and by any of the account's numbers; or nobody says who it is."""
    movement = {
        "account_id": "1",
        "transaction_id": "t",
        "pull_id": "p",
        "credit_debit_indicator": indicator,
        "amount": Decimal(5),
        "booked_at": dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC),
        "debtor_account_identification": PARTIES[debtor]["identification"],
        "debtor_account_name": PARTIES[debtor]["name"],
        "creditor_account_identification": PARTIES[creditor]["identification"],
        "creditor_account_name": PARTIES[creditor]["name"],
    }
    listed = {
        "account_id": "1",
        "identifications": [
            {"identification": IBAN},
            {"identification": "************4821"},
            {"identification": None},
        ],
    }
    (shown,) = run("stg_movements", transactions=[movement])
    (personal,) = run("stg_transactions", stg_movements=[shown], accounts_history=[listed])
    (numbers,) = run(
        "int_account_numbers",
        accounts_history=[listed],
        bridge_accounts=[{"account_id": "1", "account_key": "a"}],
    )
    day = dt.date(2026, 3, 2)
    claim = {"account_key": "a", "account_id": "1", "pull_id": "p"}
    (found,) = run(
        "fct_transactions",
        stg_movements=[shown],
        int_covering_pulls=[claim | {"claimed_from": day, "claimed_to": day}],
        int_account_numbers=[numbers],
    )

    assert (personal["counterparty_side"], personal["counterparty_identification"]) == (
        side,
        number,
    )
    assert found["counterparty_side"] == side
    assert found["counterparty_key"] == (number and keyed_hash(number))


def test_the_other_sides_of_a_world_are_those_of_its_truth(world):
    """Every movement's party and side are recounted from what the banks told."""
    keys, own = account_keys(world), own_numbers(world)
    held = world.table("fct_transactions", "movement_id")

    for movement_id, row in movements(world).items():
        side, number = counterparty(row, own[keys[row["account_id"]]])
        shown = held[(movement_id,)]
        assert shown["counterparty_side"] == side
        assert shown["counterparty_key"] == (number and keyed_hash(number))
        assert shown["counterparty_key"] != shown["account_key"]
    assert {row["counterparty_side"] for row in held.values()} == {"debtor", "creditor", "unknown"}


class Rewriting(httpx.AsyncBaseTransport):
    """The offline Lean, with each IBAN spelt anew and the parties the other way round."""

    def __init__(self, sandbox, seed):
        self._inner = httpx.ASGITransport(sandbox.app)
        self._choice = random.Random(seed).choice

    async def handle_async_request(self, request):
        """The answer, rewritten."""
        answer = await self._inner.handle_async_request(request)
        text = (await answer.aread()).decode()
        text = re.sub(
            r"(?<=:\")SA[0-9]{2}[0-9A-Z]{20}(?=\")",
            lambda found: respelt(found[0], self._choice).replace("\t", "\\t").replace("\n", "\\n"),
            text,
        )
        if '"creditor_account":[' not in text and "transactions" in request.url.path:
            text = re.sub(
                '"(debtor|creditor)_account":',
                lambda found: f'"{"creditor" if found[1] == "debtor" else "debtor"}_account":',
                text,
            )
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name not in ("content-encoding", "content-length")
        }
        return httpx.Response(answer.status_code, headers=kept, content=text.encode())


COMPARED = ("dim_accounts", "fct_transactions", "fct_cash_flow_monthly", "fct_recurring")


def tables_of(folder, transport=None):
    """What analysts see of accounts, movements and flows, of one small world."""
    sandbox = Sandbox(customers=6, months=2, seed=7, today=TODAY)
    lake = Lake(folder, "sandbox")
    client = LeanClient(
        settings_of(sandbox),
        transport=transport(sandbox) if transport else httpx.ASGITransport(sandbox.app),
        sleep=Slept(),
    )
    asyncio.run(sync_everything(client, lake))
    build(lake, models(), hash_key=KEY, only=closure(*COMPARED))
    publish(lake, models())
    with connect(lake) as connection:
        return {
            name: sorted(connection.execute(query).fetchall(), key=repr)
            for name, query in {
                "accounts": "select account_key, account_ids, iban_masked from dim_accounts",
                "movements": (
                    "select movement_id, counterparty_key, signed_amount, is_internal_transfer"
                    " from fct_transactions"
                ),
                "months": (
                    "select account_key, currency, booking_month, inflow_amount, outflow_amount,"
                    " internal_in_amount, internal_out_amount from fct_cash_flow_monthly"
                ),
                "orders": "select recurrence_id, standing_order_id from fct_recurring",
            }.items()
        }


@pytest.mark.conformance
def test_a_world_in_other_spellings_gives_the_same_tables(tmp_path):
    """Each answer spells IBANs anew and swaps the parties; accounts, links and sums stay."""
    plain = tables_of(tmp_path / "plain")
    respelt_tables = tables_of(tmp_path / "respelt", lambda sandbox: Rewriting(sandbox, 7))

    assert respelt_tables == plain
    assert any(key for _, key, _, _ in plain["movements"])
    assert any(internal for *_, internal in plain["movements"])
