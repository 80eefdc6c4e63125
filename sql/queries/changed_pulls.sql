-- Pulls of a stream that decide the coverage of the read targets and months that pulls since the
-- present pulls may have changed.
--
-- grain: one row per pull
with touched as (

    select distinct
        parent_id,
        month
    from tail_pulls
    where
        stream = $stream
        and month is not null
        and (outcome = 'COMMITTED' or code = 'RECORDS_UNFIT')

),

known as (

    select
        pulls.*,
        touched.parent_id is not null as is_touched
    from pulls
    left join touched on pulls.parent_id = touched.parent_id and pulls.month = touched.month
    where pulls.stream = $stream and pulls.month is not null

)

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
    moving_from,
    is_touched
from known
where is_touched or (quarantined > 0 and unfit_dates is null and outcome = 'COMMITTED')
