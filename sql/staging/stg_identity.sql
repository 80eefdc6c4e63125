-- The person or firm that gave the consent, with names in a form for matching.
--
-- grain:  one row per entity and party
-- key:    entity_id, party_index
-- stored: view
-- columns:
--   legal_name_match  (pii)  full_legal_name, else name, in a form for matching.
--   mobile_match      (pii)  Digits of the mobile number, else of the phone.
select
    identity.*,
    matchable(coalesce(identity.full_legal_name, identity.name)) as legal_name_match,
    regexp_replace(
        matchable(coalesce(identity.mobile_number, identity.phone)), '[^0-9]', '', 'g'
    ) as mobile_match
from identity
