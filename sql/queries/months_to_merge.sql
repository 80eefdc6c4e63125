-- Months of a stream with pulls that no merge has covered, and whether a merge is worth it.
--
-- It is if more rows lie in files that were not merged than show. Of a month that is no longer read
-- every night a tenth of that will do, if it lies there twice: nothing more would come to make it
-- worth it. Accounts whose days several pulls cover do not count, because they are not merged.
--
-- grain: one row per month
with merged as (

    select pull_id
    from merged_pulls(null::varchar[])

),

whole as (

    select
        month,
        parent_id,
        min(pull_id) as newest_id
    from claims
    where stream = $stream
    group by month, parent_id
    having count(*) = 1

),

found as (

    select
        pulls.month,
        coalesce(pulls.known_at, pulls.asked_at) as heard_at,
        pulls.covers is null and merged.pull_id is null as is_new,
        case when whole.parent_id is not null then pulls.rows end as rows,
        pulls.covers is not null as is_merged,
        pulls.pull_id = whole.newest_id as is_shown
    from pulls
    left join merged on pulls.pull_id = merged.pull_id
    left join whole on pulls.month = whole.month and pulls.parent_id = whole.parent_id
    where pulls.stream = $stream and pulls.outcome = 'COMMITTED'

),

counted as (

    select
        month,
        coalesce(sum(rows) filter (where is_new), 0) as added,
        coalesce(sum(rows) filter (where is_merged), 0) as merged,
        coalesce(sum(rows) filter (where is_shown), 0) as shown,
        max(heard_at) filter (where is_new and rows is not null)
        + to_days($quiet_days)
        < (
            select max(coalesce(pulls.known_at, pulls.asked_at))
            from pulls
            where pulls.stream = $stream
        ) as is_quiet
    from found
    group by month
    having bool_or(is_new)

)

select
    month,
    coalesce(
        added > shown or (is_quiet and added * 10 > shown and added + merged > shown), false
    ) as is_worth
from counted
order by month
