-- Receivers saved on accounts, with names in a form for matching.
--
-- grain:  one row per account and beneficiary
-- key:    account_id, beneficiary_id
-- stored: view
-- columns:
--   creditor_match  (pii)  Name on the receiver's account in a form for matching.
select
    beneficiaries.*,
    matchable(beneficiaries.creditor_account_name) as creditor_match
from beneficiaries
