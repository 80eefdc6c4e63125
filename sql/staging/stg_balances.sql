-- Balances as the bank states them, signed.
--
-- grain:  one row per account and balance type
-- key:    account_id, balance_type
-- stored: view
-- zone:   instants are UTC, days are Riyadh days
-- columns:
--   currency  Currency, ISO 4217; see currency_code.
--   signed_amount         The balance with its sign, in units of currency; null where the bank's
--                         indicator is unknown or contradicts the amount.
--   stated_date           Riyadh day of the bank's time for this balance; may be old.
--   included_credit       Credit lines that the balance contains, in units of currency; zero where
--                         the bank names no line. Null where a line that it contains has no amount
--                         or another currency.
select
    balances.* replace (
        currency_code(balances.currency) as currency
    ),

    -- money
    signed(balances.amount, balances.credit_debit_indicator) as signed_amount,
    case
        when
            len(list_filter(
                balances.credit_lines,
                lambda line:
                line.is_included
                and (
                    line.amount is null
                    or currency_code(line.currency) <> currency_code(balances.currency)
                )
            )) > 0
            then null
        else coalesce(
            list_sum(list_transform(
                list_filter(balances.credit_lines, lambda line: line.is_included),
                lambda line: line.amount
            )),
            0
        )
    end::decimal(38, 9) as included_credit,

    -- times
    riyadh_date(balances.stated_at) as stated_date
from balances
