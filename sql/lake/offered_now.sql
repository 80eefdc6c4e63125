-- How far back each bank offers an account's transactions, as the newest refresh told.
--
-- grain: one row per account of which the newest refresh of its entity told a start
-- zone:  both are UTC days
with told as (

    select
        refreshes.created_at,
        unnest(refreshes.account_statuses) as one
    from refreshes
    where refreshes.account_statuses is not null

)

select
    told.one.account_id,
    arg_max(told.one.transactions_from_date, told.created_at) as offered_from,
    (max(told.created_at) at time zone 'UTC')::date as told_on
from told
where told.one.account_id is not null and told.one.transactions_from_date is not null
group by told.one.account_id
