-- How far back each bank offers an account's transactions, by what Lean told with any refresh.
--
-- The earliest start that was ever told counts: a start that moves on with time takes nothing back
-- from what could be read before.
--
-- stored: table
-- grain: one row per account of which a refresh told a start
-- zone:  offered_from is a UTC day
-- columns:
--   account_id    The account.
--   offered_from  First UTC day that any refresh told the bank to offer.
with told as (

    select unnest(account_statuses) as one
    from refreshes_history

)

select
    one.account_id,
    min(one.transactions_from_date) as offered_from
from told
where one.account_id is not null and one.transactions_from_date is not null
group by one.account_id
