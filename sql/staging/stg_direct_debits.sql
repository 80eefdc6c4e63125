-- Mandates that let a firm collect.
--
-- grain:  one row per account and direct debit
-- key:    account_id, direct_debit_id
-- stored: view
-- zone:   instants are UTC, days are Riyadh days
-- columns:
--   previous_payment_currency  Currency of the last collection, ISO 4217; see currency_code.
--   name_match             The firm that collects in a form for matching.
--   previous_payment_date  Riyadh day of the last collection.
select
    direct_debits.* replace (
        currency_code(direct_debits.previous_payment_currency) as previous_payment_currency
    ),
    matchable(direct_debits.name) as name_match,
    riyadh_date(direct_debits.previous_payment_at) as previous_payment_date
from direct_debits
