-- Pulls since the present pulls that may change the coverage of a month of a read target.
--
-- grain: one row per pull
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
from tail_pulls
where
    stream = $stream
    and month is not null
    and (outcome = 'COMMITTED' or code = 'RECORDS_UNFIT')
