-- Earliest transaction date that each bank ever offered per account, from all refreshes.
--
-- The earliest date counts: when a bank moves its date forward, days that were read before stay
-- known.
--
-- stored: table
-- grain: one row per account for which a refresh reported a date
-- zone:  offered_from is a UTC day
-- columns:
--   account_id    The account.
--   offered_from  First UTC day that the bank offered by any refresh.
with reported as (

    select unnest(account_statuses) as one
    from refreshes_history

)

select
    one.account_id,
    min(one.transactions_from_date) as offered_from
from reported
where one.account_id is not null and one.transactions_from_date is not null
group by one.account_id
