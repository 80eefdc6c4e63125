-- How far back each bank offers an account's transactions, as the newest refresh told that told it.
--
-- What this application asked for it heard of when it was over. Of others only the newest of an
-- entity is listed with what it told, and listed once a week; where that tells nothing, because it
-- is running or failed, what an earlier pull heard of an earlier one still holds.
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

-- Of what is older, listings tell.
asked as (

    select
        refresh_attempts.asked_at,
        unnest(from_json(
            refresh_attempts.data_status -> 'account_data',
            '[{
                "account_id": "VARCHAR",
                "transactionAvailability": {"start": "DATE"},
                "transaction_availability": {"start": "DATE"}
            }]'
        )) as one
    from refresh_attempts
    where
        refresh_attempts.outcome = 'FINISHED'
        and refresh_attempts.data_status is not null
        and refresh_attempts.asked_at >= (
            select max(newest.asked_at) - interval 14 days
            from refresh_attempts as newest
        )

),

told as (

    select
        listed.one.account_id,
        listed.one.transactions_from_date as offered_from,
        listed.created_at as told_at
    from listed

    union all

    select
        earlier.one.account_id,
        earlier.one.transactions_from_date as offered_from,
        earlier.created_at as told_at
    from earlier

    union all

    select
        asked.one.account_id,
        coalesce(
            asked.one['transactionAvailability']['start'],
            asked.one['transaction_availability']['start']
        ) as offered_from,
        asked.asked_at as told_at
    from asked

)

select
    account_id,
    arg_max(offered_from, told_at) as offered_from,
    (max(told_at) at time zone 'UTC')::date as told_on
from told
where account_id is not null and offered_from is not null
group by account_id
