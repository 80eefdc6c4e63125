"""Payments that an account's holder has arranged, and the receivers saved for them."""

from lean_resources.streams.fields import (
    HOLDER,
    REFERENCE,
    REGIONAL_STANDARD,
    account,
    account_stream,
    accounts,
    agent,
    column,
    dual,
    dual_instant,
    dual_text,
    money,
    supplementary_data,
    text,
    words,
)
from lean_resources.streams.schema import REGIONAL, Column, Kind


def _id(what: str) -> Column:
    return dual_text(f"{what.replace(' ', '_')}_id", f"The bank's id of the {what}.", required=True)


BENEFICIARIES = account_stream(
    "beneficiaries",
    "Receivers saved on accounts, one row per account and beneficiary.",
    _id("beneficiary"),
    text(
        "beneficiary_type",
        "Kind of beneficiary.",
        values=words("TRUSTED ORDINARY OTHER UNSUPPORTED"),
    ),
    text(
        "regional_beneficiary_type",
        "Whether the beneficiary may be paid, in SAMA's words.",
        REGIONAL + "beneficiary_type",
        values=words("ACTIVATED NOT_ACTIVATED UNSUPPORTED"),
    ),
    *HOLDER,
    *accounts("receiver"),
    *agent("creditor_agent", "receiver"),
    dual_text("reference", "Reference given to payments.", pii=True),
    supplementary_data(),
    REGIONAL_STANDARD,
    key="beneficiary_id",
    changes_seldom=True,
    verbose_unless="account_holder_name",
)

DIRECT_DEBITS = account_stream(
    "direct_debits",
    "Mandates that let a firm collect, one row per account and direct debit.",
    _id("direct debit"),
    dual_text("name", "Firm that collects."),
    text(
        "status",
        "State.",
        "status_code",
        REGIONAL + "direct_debit_status_code",
        values=words("ACTIVE INACTIVE UNSUPPORTED"),
    ),
    dual_text(
        "frequency",
        "How often it is collected.",
        values=words(
            "DAILY WEEKLY FORTNIGHTLY MONTHLY QUARTERLY HALF_YEARLY ANNUAL NOT_KNOWN UNSUPPORTED"
        ),
        aliases={"BI_ANNUAL": "HALF_YEARLY", "FORTNIGHT": "FORTNIGHTLY"},
    ),
    dual_text("mandate_identification", "Reference of the mandate."),
    dual_instant("previous_payment_at", "Last collection.", "previous_payment_date_time"),
    *money("previous_payment", "Last collected.", "previous_payment_amount"),
    REGIONAL_STANDARD,
    key="direct_debit_id",
    changes_seldom=True,
    # Recordings lack entity_id here, but carry regional_data, if only as null.
    verbose_unless="regional_data",
)

SCHEDULED_PAYMENTS = account_stream(
    "scheduled_payments",
    "Single payments set for a later day, one row per account and scheduled payment.",
    _id("scheduled payment"),
    *HOLDER,
    dual_text(
        "scheduled_type",
        "Whether the day is that of arrival or of execution.",
        values=words("ARRIVAL EXECUTION UNSUPPORTED"),
    ),
    dual_instant("scheduled_at", "When it is to be paid.", "scheduled_payment_date_time"),
    *money("instructed", "Amount to be paid.", "instructed_amount"),
    dual_text("debtor_reference", "The payer's reference.", pii=True),
    REFERENCE,
    *account("creditor_account", "receiver"),
    *agent("creditor_agent", "receiver"),
    REGIONAL_STANDARD,
    key="scheduled_payment_id",
    changes_seldom=True,
    verbose_unless="account_holder_name",
)

STANDING_ORDERS = account_stream(
    "standing_orders",
    "Payments repeated until further notice, one row per account and standing order.",
    _id("standing order"),
    *HOLDER,
    dual_text("status", "State.", "standing_order_status_code", values=words("ACTIVE INACTIVE")),
    dual_text(
        "standing_order_type",
        "Where the money goes.",
        values=words(
            "BETWEEN_MY_ACCOUNTS SAME_BANK_TRANSFER LOCAL_BANK_TRANSFER INTERNATIONAL_TRANSFER"
            " CHARITY UNSUPPORTED"
        ),
    ),
    dual_text("purpose", "What it is for.", pii=True),
    dual_text(
        "frequency_type",
        "How often it is paid; both vocabularies are kept as sent but for two synonyms.",
        "frequency.frequency_type",
        values=words(
            "DAILY WEEKLY FORTNIGHTLY MONTHLY QUARTERLY HALF_YEARLY YEARLY OTHER NOT_KNOWN"
            " EVERY_WORKING_DAY INTERVAL_DAY INTERVAL_WEEK_DAY WEEK_IN_MONTH_DAY INTERVAL_MONTH_DAY"
            " QUARTER_DAY UNSUPPORTED"
        ),
        aliases={"EVERY_DAY": "DAILY", "BI_ANNUAL": "HALF_YEARLY", "ANNUAL": "YEARLY"},
    ),
    dual_text(
        "frequency_interval",
        "Interval in the standard's text, such as IntervalDay:5.",
        "frequency.interval",
    ),
    dual(Kind.INTEGER, "number_of_payments", "Payments in all, where limited."),
    REFERENCE,
    *(
        part
        for which in ("first", "last", "next", "final")
        for part in (
            dual_instant(
                f"{which}_payment_at",
                f"When the {which} payment falls.",
                f"{which}_payment_date_time",
            ),
            *money(
                f"{which}_payment",
                f"Amount of the {which} payment.",
                f"{which}_payment_amount",
            ),
        )
    ),
    *accounts("receiver"),
    *agent("creditor_agent", "receiver"),
    column(
        Kind.JSON,
        "supplementary_data",
        "What the bank adds in words of its own; its shape is not documented.",
        REGIONAL + "supplementary_data",
        pii=True,
    ),
    REGIONAL_STANDARD,
    key="standing_order_id",
    changes_seldom=True,
    verbose_unless="standing_order_type",
)
