-- Single payments set for a later day, with names in a form for matching.
--
-- grain:  one row per account and scheduled payment
-- key:    account_id, scheduled_payment_id
-- stored: view
-- zone:   instants are UTC, days are Riyadh days
-- columns:
--   instructed_currency  Currency of the instructed amount, ISO 4217; see currency_code.
--   creditor_number  (pii)  Account number of the receiver as account_number spells it.
--   creditor_match  (pii)  Name on the receiver's account in a form for matching.
--   scheduled_date  Riyadh day on which the payment is due.
select
    scheduled_payments.* replace (
        currency_code(scheduled_payments.instructed_currency) as instructed_currency
    ),
    account_number(scheduled_payments.creditor_account_identification) as creditor_number,
    matchable(scheduled_payments.creditor_account_name) as creditor_match,
    riyadh_date(scheduled_payments.scheduled_at) as scheduled_date
from scheduled_payments
