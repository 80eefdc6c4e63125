-- Which committed pull speaks for which days.
--
-- A snapshot stream has no days: the newest pull of a parent speaks for it. A month of an account
-- is spoken for by its newest pull; days that only an earlier pull claims stay with the newest of
-- those. Newest is what the bank said last, then what was asked last, never what was written last.
--
-- grain: one row per pull and stretch of days
-- zone:  days are UTC days, both ends inclusive; null for a snapshot
with ranked as (

    select
        stream,
        parent_id,
        month,
        pull_id,
        claimed_from,
        claimed_to,
        refreshed_at,
        row_number() over (
            partition by stream, parent_id, month
            order by coalesce(refreshed_at, asked_at) desc, asked_at desc, pull_id desc
        ) as age,
        min(claimed_from) over (partition by stream, parent_id, month) as first_from,
        max(claimed_to) over (partition by stream, parent_id, month) as last_to
    from pulls
    where outcome = 'COMMITTED'

),

newest as (

    select
        *,
        coalesce(first_from < claimed_from or last_to > claimed_to, false) as is_torn
    from ranked
    where age = 1

),

-- Months in which an earlier pull claims days that the newest one does not.
torn as (

    select
        stream,
        parent_id,
        month
    from newest
    where is_torn

),

days as (

    select
        ranked.stream,
        ranked.parent_id,
        ranked.month,
        ranked.pull_id,
        ranked.refreshed_at,
        ranked.age,
        unnest(
            generate_series(ranked.claimed_from, ranked.claimed_to, interval 1 day)
        )::date as claimed_on
    from ranked
    inner join torn
        on
            ranked.stream = torn.stream
            and ranked.parent_id = torn.parent_id
            and ranked.month = torn.month

),

owned as (

    select
        stream,
        parent_id,
        month,
        claimed_on,
        arg_min(pull_id, age) as pull_id,
        arg_min_null(refreshed_at, age) as refreshed_at
    from days
    group by all

),

stretches as (

    select
        *,
        claimed_on - row_number() over (
            partition by stream, parent_id, month, pull_id
            order by claimed_on
        )::integer as stretch
    from owned

)

select
    stream,
    parent_id,
    month,
    pull_id,
    claimed_from,
    claimed_to,
    refreshed_at
from newest
where not is_torn

union all

select
    stream,
    parent_id,
    month,
    pull_id,
    min(claimed_on) as claimed_from,
    max(claimed_on) as claimed_to,
    refreshed_at
from stretches
group by stream, parent_id, month, pull_id, refreshed_at, stretch
