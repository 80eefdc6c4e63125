-- What customers have permitted, with the days in Riyadh on which it starts and ends.
--
-- grain:  one row per consent
-- key:    consent_id
-- stored: view
-- zone:   instants are UTC, days are Riyadh days
-- columns:
--   created_date            Riyadh day on which the consent was given.
--   expires_date            Riyadh day on which it ends.
--   transactions_from_date  Riyadh day of the first instant whose transactions may be read.
--   transactions_to_date    Riyadh day of the last instant whose transactions may be read.
--   account_numbers  (pii)  Numbers of the accounts that the customer ticked, each once, as
--                           account_number spells them, sorted.
select
    consents.*,
    riyadh_date(consents.created_at) as created_date,
    riyadh_date(consents.expires_at) as expires_date,
    riyadh_date(consents.transactions_from_at) as transactions_from_date,
    riyadh_date(consents.transactions_to_at) as transactions_to_date,
    account_numbers(consents.shared_accounts) as account_numbers
from consents
