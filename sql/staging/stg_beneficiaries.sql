-- Receivers saved on accounts, with names in a form for matching.
--
-- grain:  one row per account and beneficiary
-- key:    account_id, beneficiary_id
-- stored: view
-- columns:
--   creditor_number  (pii)  Account number of the receiver as account_number spells it.
--   creditor_match  (pii)  Name on the receiver's account in a form for matching.
select
    beneficiaries.*,
    account_number(beneficiaries.creditor_account_identification) as creditor_number,
    matchable(beneficiaries.creditor_account_name) as creditor_match
from beneficiaries
