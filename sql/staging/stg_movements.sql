-- Movements on accounts as their banks show them now, signed, with their days in Riyadh.
-- stg_transactions adds the other side.
--
-- grain:  one row per account and transaction id
-- key:    account_id, transaction_id
-- stored: view
-- counts: every status; only booked money is counted, so filter by is_booked before summing
-- zone:   instants are UTC, days are Riyadh days, month is the UTC month that the lake keeps it in
-- columns:
--   instructed_currency  Currency of the instructed amount, ISO 4217; see currency_code.
--   exchange_unit_currency  Currency that the rate is stated for, ISO 4217; see currency_code.
--   exchange_target_currency  Currency that was received, ISO 4217; see currency_code.
--   exchange_source_currency  Currency that was exchanged, ISO 4217; see currency_code.
--   charge_vat_currency  Currency of the VAT on the charge, ISO 4217; see currency_code.
--   charge_currency  Currency of the charge, ISO 4217; see currency_code.
--   balance_currency  Currency of the balance, ISO 4217; see currency_code.
--   currency  Currency, ISO 4217; see currency_code.
--   signed_amount      The amount with its sign, money in above zero, in units of currency; null
--                      where the bank's indicator is unknown or contradicts the amount.
--   signed_balance     The balance after the movement with its sign, in units of balance_currency.
--   sign_quality       stated where indicator and amount agree; minus_repeated where a DEBIT has a
--                      minus, which counts once. Elsewhere signed_amount is null: missing or
--                      unsupported (the indicator), or contradictory (CREDIT with a minus).
--   is_booked          Whether the bank has booked it; an unknown state is not booked.
--   placed_at          Instant that the movement is dated by, UTC: that of booking, else of value,
--                      else of the transaction.
--   month              UTC month of placed_at, YYYY-MM.
--   booking_date       Riyadh day of placed_at.
--   value_date         Riyadh day of value_at.
--   transaction_date   Riyadh day on which the customer acted; the day of placed_at where the bank
--                      does not say.
--   information_match  (pii)  transaction_information in a form for matching.
--   merchant_match     merchant_name in a form for matching.
--   debtor_number      (pii)  Account number of the payer as account_number spells it.
--   creditor_number    (pii)  Account number of the receiver as account_number spells it.
select
    transactions.* replace (
        currency_code(transactions.currency) as currency,
        currency_code(transactions.balance_currency) as balance_currency,
        currency_code(transactions.charge_currency) as charge_currency,
        currency_code(transactions.charge_vat_currency) as charge_vat_currency,
        currency_code(transactions.exchange_source_currency) as exchange_source_currency,
        currency_code(transactions.exchange_target_currency) as exchange_target_currency,
        currency_code(transactions.exchange_unit_currency) as exchange_unit_currency,
        currency_code(transactions.instructed_currency) as instructed_currency
    ),

    -- money
    signed(transactions.amount, transactions.credit_debit_indicator) as signed_amount,
    signed(
        transactions.balance_amount, transactions.balance_credit_debit_indicator
    ) as signed_balance,
    case
        when transactions.credit_debit_indicator is null then 'missing'
        when transactions.credit_debit_indicator not in ('CREDIT', 'DEBIT') then 'unsupported'
        when transactions.amount >= 0 then 'stated'
        when transactions.credit_debit_indicator = 'DEBIT' then 'minus_repeated'
        else 'contradictory'
    end as sign_quality,

    -- flags
    coalesce(transactions.status = 'BOOKED', false) as is_booked,

    -- times
    coalesce(
        transactions.booked_at, transactions.value_at, transactions.transacted_at
    ) as placed_at,
    strftime(
        utc_day(
            coalesce(transactions.booked_at, transactions.value_at, transactions.transacted_at)
        ),
        '%Y-%m'
    ) as month,
    riyadh_date(
        coalesce(transactions.booked_at, transactions.value_at, transactions.transacted_at)
    ) as booking_date,
    riyadh_date(transactions.value_at) as value_date,
    riyadh_date(
        coalesce(transactions.transacted_at, transactions.booked_at, transactions.value_at)
    ) as transaction_date,

    -- matching
    matchable(transactions.transaction_information) as information_match,
    matchable(transactions.merchant_name) as merchant_match,
    account_number(transactions.debtor_account_identification) as debtor_number,
    account_number(transactions.creditor_account_identification) as creditor_number
from transactions
