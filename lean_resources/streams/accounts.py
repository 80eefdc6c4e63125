"""Accounts and their balances."""

from lean_resources.streams.fields import (
    BALANCE_TYPES,
    CODES,
    DOCS,
    ENTITY_ID,
    HOLDER,
    IDENTIFICATION,
    INDICATORS,
    REGIONAL_STANDARD,
    account_stream,
    column,
    dual,
    dual_instant,
    dual_text,
    money,
    text,
    words,
)
from lean_resources.streams.schema import REGIONAL, Kind, Stream

ACCOUNTS = Stream(
    name="accounts",
    doc="Accounts that customers share, one row per account of an entity.",
    path="/data/v2/accounts",
    permission="accounts",
    query={"entity_id": "entity_id"},
    records="data.accounts",
    parent="entities",
    parent_key="entity_id",
    key=("account_id",),
    verbose_unless="account_holder_name",
    source=f"{DOCS}/get-accounts",
    columns=(
        ENTITY_ID,
        dual_text(
            "account_id",
            "Lean's id of the account; may change when a customer reconnects.",
            required=True,
        ),
        *HOLDER,
        dual_text(
            "status",
            "State of the account.",
            values=words(
                "DELETED DISABLED ENABLED PENDING PROFORMA UNSUPPORTED NOT_ACTIVE DORMANT UNCLAIMED"
                " DECEASED SUSPENDED CLOSED"
            ),
            aliases={"ACTIVE": "ENABLED"},
        ),
        dual_instant(
            "status_updated_at", "When the state last changed.", "status_update_date_time"
        ),
        dual_text("currency", "Currency the account is kept in, ISO 4217."),
        dual_text(
            "account_type",
            "Kind of holder.",
            values=words("PERSONAL BUSINESS UNSUPPORTED"),
            aliases={"RETAIL": "PERSONAL", "CORPORATE": "BUSINESS"},
        ),
        dual_text(
            "account_sub_type",
            "Kind of account.",
            values=words(
                "CURRENT SAVINGS CREDIT CHARGE_CARD EMONEY LOAN PERSONAL_LOAN MORTGAGE PREPAID CALL"
                " OTHER UNSUPPORTED"
            ),
            aliases={
                "CURRENT_ACCOUNT": "CURRENT",
                "CREDIT_CARD": "CREDIT",
                "E_MONEY": "EMONEY",
                "PRE_PAID_CARD": "PREPAID",
            },
        ),
        dual_text("nickname", "The holder's own name for it.", pii=True),
        dual_text("description", "The bank's description of the product."),
        dual(
            Kind.DATE, "opening_date", "Day of opening as the bank writes it, in the bank's zone."
        ),
        dual_instant("matures_at", "When the account ends by contract", "maturity_date"),
        column(
            Kind.ITEMS,
            "identifications",
            "Numbers that identify the account: IBAN, BBAN, masked PAN.",
            # The older generation's flat list calls a national id OTHER; its regional one does not.
            REGIONAL + "account_identifiers",
            "account",
            pii=True,
            fields=IDENTIFICATION,
        ),
        text(
            "servicer_scheme",
            "Kind of the code that identifies the bank.",
            "servicer.scheme_name",
            REGIONAL + "servicer.identification_type",
            values=CODES,
        ),
        dual_text(
            "servicer_identification",
            "Code of the bank that keeps the account.",
            "servicer.identification",
        ),
        REGIONAL_STANDARD,
    ),
)

BALANCES = account_stream(
    "balances",
    "Balances as the bank states them, one row per account and balance type.",
    dual_text(
        "balance_type",
        "Kind of balance; balances of different types are never mixed.",
        "type",
        required=True,
        **BALANCE_TYPES,
    ),
    *money("", "The balance without its sign.", "amount"),
    dual_text(
        "credit_debit_indicator",
        "Sign of the amount: CREDIT is the holder's money, zero is CREDIT.",
        values=INDICATORS,
    ),
    dual_instant("stated_at", "The bank's time for this balance; may be old.", "date_time"),
    dual(
        Kind.ITEMS,
        "credit_lines",
        "Credit lines of the account.",
        "credit_line",
        fields=(
            column(Kind.BOOLEAN, "is_included", "Whether the balance contains it.", "included"),
            text(
                "credit_line_type",
                "Kind.",
                "type",
                values=words("AVAILABLE CREDIT EMERGENCY PRE_AGREED TEMPORARY UNSUPPORTED"),
                # One of Lean's specs spells it with a hyphen and a trailing tab.
                aliases={"PRE-AGREED\t": "PRE_AGREED", "PRE-AGREED": "PRE_AGREED"},
            ),
            column(Kind.MONEY, "amount", "Size in units of currency.", "amount.amount"),
            text("currency", "Currency, ISO 4217.", "amount.currency"),
        ),
    ),
    REGIONAL_STANDARD,
    permission="balance",
    key="balance_type",
    # Lean's older documentation has force_refresh on by default for balances alone.
    query={"force_refresh": "=false"},
    verbose_unless="entity_id",
)
