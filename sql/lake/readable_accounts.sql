-- Accounts of the lake, and whether they may be read at an instant.
--
-- parameters: wanted_permission, at_instant
-- grain: one row per account
-- zone:  from_date and to_date are UTC days, both inclusive
select
    accounts.account_id,
    readable.entity_id,
    readable.bank_identifier,
    readable.skip_code,
    readable.consented_at,
    (readable.transactions_from_at at time zone 'UTC')::date as from_date,
    case
        when isinf(readable.transactions_to_at) then date '9999-12-31'
        else (readable.transactions_to_at at time zone 'UTC')::date
    end as to_date
from accounts
inner join readable_entities(wanted_permission, at_instant) as readable  -- noqa: RF02
    on accounts.entity_id = readable.entity_id
