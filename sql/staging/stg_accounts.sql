-- Accounts that customers share, with what identifies them pulled out of the lists.
--
-- grain:  one row per account of an entity
-- key:    account_id
-- stored: view
-- columns:
--   iban          (pii)  IBAN in capitals without spaces; null where the bank gives none.
--   masked_pan    (pii)  Masked card number, where the account has a card.
--   holder_match  (pii)  account_holder_name in a form for matching.
select
    accounts.*,
    iban_of(accounts.identifications) as iban,
    list_min(list_filter(
        list_transform(accounts.identifications, lambda one: one.identification),
        lambda found: regexp_full_match(found, '[*Xx]+[0-9]{4}')  -- noqa: RF03
    )) as masked_pan,
    matchable(accounts.account_holder_name) as holder_match
from accounts
