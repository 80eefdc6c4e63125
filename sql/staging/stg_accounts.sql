-- Accounts that customers share, with their numbers taken out of the lists.
--
-- grain:  one row per account of an entity
-- key:    account_id
-- stored: view
-- columns:
--   currency  Currency, ISO 4217; see currency_code.
--   iban             (pii)  IBAN as account_number spells it; null where the bank gives no IBAN.
--   masked_pan       (pii)  Masked card number, * for what is masked, where the account has a card.
--   account_numbers  (pii)  All of its numbers as account_number spells them, sorted.
--   holder_match     (pii)  account_holder_name in a form for matching.
select
    accounts.* replace (
        currency_code(accounts.currency) as currency
    ),
    iban_of(accounts.identifications) as iban,
    masked_pan_of(accounts.identifications) as masked_pan,
    account_numbers(accounts.identifications) as account_numbers,
    matchable(accounts.account_holder_name) as holder_match
from accounts
