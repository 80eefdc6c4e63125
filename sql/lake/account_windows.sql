-- Accounts and the days whose transactions may be read, at the instant that the lake speaks of.
select
    account_id,
    entity_id,
    bank_identifier,
    skip_code,
    from_date,
    to_date
from readable_accounts('transactions', (select clock.as_of from clock))
