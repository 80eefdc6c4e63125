-- Pulls that decide the coverage of changed_targets that are not plain.
--
-- grain: one row per pull
with odd as (

    select
        parent_id,
        months
    from changed_targets
    where not is_plain

),

known as (

    select changed_tail.*
    from changed_tail

    union all

    select
        pull_id,
        series_id,
        stream,
        parent_id,
        month,
        outcome,
        code,
        asked_at,
        known_at,
        refreshed_at,
        generation,
        claimed_from,
        claimed_to,
        quarantined,
        unfit_dates,
        moving_from
    from kept_pulls
    where stream = $stream and month is not null

)

select
    known.*,
    list_contains(odd.months, known.month) as is_touched
from known
inner join odd on known.parent_id = odd.parent_id
where
    known.parent_id between $first_id and $last_id  -- noqa: RF02
    and (
        list_contains(odd.months, known.month)
        or (known.quarantined > 0 and known.unfit_dates is null and known.outcome = 'COMMITTED')
    )
