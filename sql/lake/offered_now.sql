-- Earliest transaction date that each bank offers per account, from the latest refresh that
-- reported a date.
--
-- A refresh that this application asked for reports the date when it ends. Of other refreshes Lean
-- lists only the newest of an entity, and the list is read once a week. While that refresh runs, or
-- if it failed, an earlier report counts, from an earlier pull of the list.
--
-- grain: one row per account for which a refresh reported a date
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

-- Refreshes that are more than 14 days older than the newest are in the lists.
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

reported as (

    select
        listed.one.account_id,
        listed.one.transactions_from_date as offered_from,
        listed.created_at as reported_at
    from listed

    union all

    select
        earlier.one.account_id,
        earlier.one.transactions_from_date as offered_from,
        earlier.created_at as reported_at
    from earlier

    union all

    select
        asked.one.account_id,
        coalesce(
            asked.one['transactionAvailability']['start'],
            asked.one['transaction_availability']['start']
        ) as offered_from,
        asked.asked_at as reported_at
    from asked

)

select
    account_id,
    arg_max(offered_from, reported_at) as offered_from,
    (max(reported_at) at time zone 'UTC')::date as reported_on
from reported
where account_id is not null and offered_from is not null
group by account_id
