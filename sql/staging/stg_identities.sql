-- Parties of an account, with names in a form for matching.
--
-- grain:  one row per account and party
-- key:    account_id, party_index
-- stored: view
-- columns:
--   legal_name_match  (pii)  full_legal_name, else name, in a form for matching.
--   mobile_match      (pii)  Digits of the mobile number, else of the phone.
select
    identities.*,
    matchable(coalesce(identities.full_legal_name, identities.name)) as legal_name_match,
    regexp_replace(
        matchable(coalesce(identities.mobile_number, identities.phone)), '[^0-9]', '', 'g'
    ) as mobile_match
from identities
