"""Movements on accounts."""

from lean_resources.streams.fields import (
    BALANCE_TYPES,
    INDICATORS,
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
    within,
    words,
)
from lean_resources.streams.schema import Kind, Window

TRANSACTIONS = account_stream(
    "transactions",
    "Movements on accounts, one row per account and transaction id.",
    dual_text(
        "transaction_id",
        "The bank's or Lean's id; unique within the account, not beyond.",
        required=True,
    ),
    *money("", "Settled value without its sign.", "amount"),
    dual_text(
        "credit_debit_indicator",
        "CREDIT is money in, DEBIT money out; UNSUPPORTED has no known sign.",
        values=INDICATORS,
    ),
    dual_text(
        "status",
        "State; only BOOKED money is counted, and unknown is not booked.",
        values=words("BOOKED PENDING REJECTED UNSUPPORTED"),
    ),
    dual_text(
        "transaction_mutability",
        "Whether the bank may still change it.",
        values=words("IMMUTABLE MUTABLE UNSUPPORTED"),
    ),
    dual_instant("booked_at", "When it was posted.", "booking_date_time"),
    dual_instant("value_at", "When the money counts for interest.", "value_date_time"),
    dual_instant(
        "transacted_at",
        "When the customer acted; older generation alone.",
        "transaction_date_time",
    ),
    dual_text("local_time_zone", "The bank's zone as it writes it."),
    dual(Kind.INTEGER, "day_index", "Place within the day; not unique.", "index"),
    dual_text(
        "transaction_type",
        "Channel.",
        values=words(
            "POS E_COMMERCE ATM BILL_PAYMENTS LOCAL_BANK_TRANSFER SAME_BANK_TRANSFER"
            " INTERNATIONAL_TRANSFER TELLER CHEQUE OTHER UNSUPPORTED"
        ),
    ),
    dual_text(
        "sub_transaction_type",
        "What happened.",
        values=words(
            "PURCHASE REVERSAL REFUND WITHDRAWAL WITHDRAWAL_REVERSAL DEPOSIT DEPOSIT_REVERSAL"
            " MONEY_TRANSFER NOT_APPLICABLE UNSUPPORTED REPAYMENTS INTEREST FEE CHARGES PROFIT"
            " DISBURSEMENT TAX ADJUSTMENT REWARDS LEASE_REPAYMENT"
        ),
    ),
    dual_text(
        "payment_mode",
        "How it was carried out.",
        "payment_modes",
        values=words("ONLINE OFFLINE BATCH UNSUPPORTED"),
    ),
    dual(
        Kind.TEXTS,
        "flags",
        "Marks of the bank: PAYROLL, CASHBACK, DIRECT_DEBIT, STANDING_ORDER, LOAN, DIVIDEND.",
    ),
    dual_text("transaction_information", "The bank's text, Arabic and English mixed.", pii=True),
    dual_text("transaction_reference", "Reference of the payment scheme (mada, SARIE)."),
    dual(
        Kind.TEXTS,
        "statement_references",
        "References of the statements it stands on.",
        "statement_reference",
    ),
    dual_text("terminal_id", "Terminal; older generation alone."),
    *within(
        "balance",
        *money("balance", "Balance after the movement, without its sign.", "amount"),
        dual_text(
            "balance_credit_debit_indicator",
            "Sign of balance_amount.",
            "credit_debit_indicator",
            values=INDICATORS,
        ),
        dual_text(
            "balance_type", "Kind of the balance after the movement.", "type", **BALANCE_TYPES
        ),
    ),
    *money("charge", "Charge for the movement.", "charge_amount"),
    dual(
        Kind.BOOLEAN,
        "is_charge_included",
        "Whether the amount contains the charge.",
        "charge_amount.charge_included",
    ),
    *money("charge_vat", "VAT on the charge.", "charge_amount_vat"),
    *within(
        "currency_exchange",
        *(
            dual_text(
                f"exchange_{which}_currency", f"Currency {what}, ISO 4217.", f"{which}_currency"
            )
            for which, what in (
                ("source", "converted from"),
                ("target", "converted to"),
                ("unit", "the rate is expressed in"),
            )
        ),
        dual(Kind.RATE, "exchange_rate", "Factor from source to target."),
        dual_text(
            "exchange_contract_identification",
            "Contract of the exchange.",
            "contract_identification",
        ),
        dual_instant("exchange_quoted_at", "When the rate was quoted.", "quotation_date"),
        *money("instructed", "Amount as instructed.", "instructed_amount"),
    ),
    *within(
        "bank_transaction_code",
        dual_text("bank_transaction_code", "Family of the movement in the bank's words.", "code"),
        dual_text(
            "bank_transaction_sub_code",
            "Sub family of the movement in the bank's words.",
            "sub_code",
        ),
        *(
            dual_text(
                f"iso_{name}", f"ISO 20022 {name.replace('_', ' ')}; older generation alone.", name
            )
            for name in words("domain domain_code family family_code sub_family sub_family_code")
        ),
    ),
    *within(
        "proprietary_bank_transaction_code",
        dual_text("proprietary_code", "The bank's own code of the movement.", "code"),
        dual_text("proprietary_code_issuer", "Issuer of the bank's own code.", "issuer"),
    ),
    *within(
        "card_instrument",
        dual_text("card_authorization_type", "How the card was presented.", "authorization_type"),
        dual_text(
            "card_instrument_type",
            "How the card was presented, in SAMA's words.",
            "instrument_type",
        ),
        dual_text(
            "card_scheme",
            "Scheme; LOCAL_SCHEME is mada.",
            "card_scheme_name",
            values=words(
                "VISA MASTER_CARD AMERICAN_EXPRESS DINERS LOCAL_SCHEME GCC UPI UNSUPPORTED"
            ),
            aliases={"MADA": "LOCAL_SCHEME"},
        ),
        dual_text(
            "card_identification", "Digits that identify the card.", "identification", pii=True
        ),
        dual_text("card_name", "Name on the card.", "name", pii=True),
    ),
    *within(
        "merchant_details",
        dual_text("merchant_category_code", "Kind of merchant, ISO 18245 behind the letters CC."),
        dual_text("merchant_name", "Merchant."),
        dual_text("merchant_id", "Merchant's id as text, because numbers lose zeros."),
    ),
    *within(
        "bill_details",
        dual_text("biller_id", "SADAD biller as text; older generation alone."),
        dual_text("bill_number", "SADAD bill; older generation alone.", pii=True),
        dual_text(
            "bill_payment_type",
            "Kind of bill payment; older generation alone.",
            values=words(
                "POST_PAID ADVANCE_PAYMENT_FOR_ROAMING RECHARGE RENEWAL ROAMING_DEPOSIT ONE_OFF"
                " RECURRING_PAYMENT UNSUPPORTED"
            ),
        ),
    ),
    *accounts("receiver"),
    *agent("creditor_agent", "receiver"),
    *account("debtor_account", "sender"),
    *agent("debtor_agent", "sender"),
    *within(
        "insights",
        text(
            "insight_description",
            "Lean's cleaned text, when insights were asked for.",
            "description_cleansed",
            pii=True,
        ),
        text(
            "insight_category",
            "Lean's category, when insights were asked for.",
            "category",
            values=words(
                "BANK_FEES_AND_CHARGES CHARITY EDUCATION ENTERTAINMENT GOVERNMENT GROCERIES"
                " HEALTH_AND_WELLBEING LOANS_AND_INVESTMENT RENT_AND_SERVICES RESTAURANTS_DINING"
                " RETAIL SALARY_AND_REVENUE TRANSFER TRANSPORT TRAVEL OTHER"
            ),
        ),
        column(
            Kind.RATE,
            "insight_confidence",
            "Lean's confidence in its category, from 0 to 1.",
            "category_confidence",
        ),
    ),
    supplementary_data("; older generation alone"),
    REGIONAL_STANDARD,
    key="transaction_id",
    query={"start_date": "start_date", "end_date": "end_date", "insights": "insights"},
    window=Window.MONTHS,
    placed_by=("booked_at", "value_at", "transacted_at"),
    verbose_unless="status",
)
