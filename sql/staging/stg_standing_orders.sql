-- Payments repeated until further notice, with names in a form for matching.
--
-- grain:  one row per account and standing order
-- key:    account_id, standing_order_id
-- stored: view
-- zone:   instants are UTC, days are Riyadh days
-- columns:
--   final_payment_currency  Currency of the final payment, ISO 4217; see currency_code.
--   next_payment_currency  Currency of the next payment, ISO 4217; see currency_code.
--   last_payment_currency  Currency of the last payment, ISO 4217; see currency_code.
--   first_payment_currency  Currency of the first payment, ISO 4217; see currency_code.
--   creditor_number  (pii)  Account number of the receiver as account_number spells it.
--   creditor_match      (pii)  Name on the receiver's account in a form for matching.
--   last_payment_date   Riyadh day of the last payment.
--   next_payment_date   Riyadh day of the next payment.
--   final_payment_date  Riyadh day of the final payment.
select
    standing_orders.* replace (
        currency_code(standing_orders.first_payment_currency) as first_payment_currency,
        currency_code(standing_orders.last_payment_currency) as last_payment_currency,
        currency_code(standing_orders.next_payment_currency) as next_payment_currency,
        currency_code(standing_orders.final_payment_currency) as final_payment_currency
    ),
    account_number(standing_orders.creditor_account_identification) as creditor_number,
    matchable(standing_orders.creditor_account_name) as creditor_match,
    riyadh_date(standing_orders.last_payment_at) as last_payment_date,
    riyadh_date(standing_orders.next_payment_at) as next_payment_date,
    riyadh_date(standing_orders.final_payment_at) as final_payment_date
from standing_orders
