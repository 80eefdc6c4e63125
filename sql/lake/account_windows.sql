-- Accounts and the days whose transactions may be read, at the lake's clock.
--
-- grain: one row per account
-- columns:
--   account_id       The account.
--   entity_id        Its entity.
--   bank_identifier  Its bank.
--   skip_code        Code that says why nothing may be read of it; null where it may be read.
--   from_date        First UTC day that the consent allows.
--   to_date          Last UTC day that the consent allows, inclusive.
select
    account_id,
    entity_id,
    bank_identifier,
    skip_code,
    from_date,
    to_date
from readable_accounts('transactions', (select clock.as_of from clock))
