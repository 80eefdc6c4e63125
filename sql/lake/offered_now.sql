-- How far back each bank offers an account's transactions, as the newest refresh told that told it.
--
-- Only the newest refresh of an entity is listed with what it told. Where it tells nothing, because
-- it is running or failed, what an earlier pull heard of an earlier one still holds.
--
-- grain: one row per account of which a refresh told a start
-- zone:  both are UTC days
with listed as (

    select
        refreshes.entity_id,
        refreshes.created_at,
        unnest(refreshes.account_statuses) as one
    from refreshes
    where refreshes.account_statuses is not null

),

silent as (

    select refreshes.entity_id
    from refreshes
    left join listed on refreshes.entity_id = listed.entity_id
    group by refreshes.entity_id
    having bool_or(listed.one.transactions_from_date is null)

),

earlier as (

    select
        refreshes_history.entity_id,
        refreshes_history.created_at,
        unnest(refreshes_history.account_statuses) as one
    from refreshes_history
    where
        refreshes_history.account_statuses is not null
        and refreshes_history.entity_id in (select silent.entity_id from silent)

),

told as (

    from listed
    union all
    from earlier

)

select
    told.one.account_id,
    arg_max(told.one.transactions_from_date, told.created_at) as offered_from,
    (max(told.created_at) at time zone 'UTC')::date as told_on
from told
where told.one.account_id is not null and told.one.transactions_from_date is not null
group by told.one.account_id
