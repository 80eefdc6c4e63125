-- Pulls since the present pulls that may change what is covered of a month of every_target.
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
    and parent_id in (select every_target.account_id from every_target)
    and (outcome = 'COMMITTED' or code = 'RECORDS_UNFIT')
