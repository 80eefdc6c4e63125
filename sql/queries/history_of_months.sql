-- Every row of a stream with months that a committed pull ever brought, with the times of the pull.
-- A row of merged files shows once for each pull that brought it, as it did before the merge.
--
-- grain: one row per row of a pull
with there as not materialized (

    select * from $files

),

merged_rows as not materialized (

    select * from there
    where seen_from is not null
    union all
    select * from $superseded

)

select
    rows.* exclude (seen_from, seen_to),  -- noqa: RF02
    pulls.month,
    pulls.claimed_from,
    pulls.claimed_to,
    pulls.refreshed_at,
    coalesce(pulls.known_at, pulls.asked_at) as known_at,
    pulls.generation,
    pulls.asked_at,
    pulls.finished_at
from there as rows
inner join pulls
    on
        pulls.stream = $stream
        and pulls.outcome = 'COMMITTED'
        and pulls.covers is null
        and rows.pull_id = pulls.pull_id
        and $utc_day between pulls.claimed_from and pulls.claimed_to
where rows.pull_id not in (select merged.pull_id from merged_pulls($months) as merged)
union all
select
    rows.* exclude (seen_from, seen_to) replace (pulls.pull_id as pull_id),  -- noqa: RF02
    pulls.month,
    pulls.claimed_from,
    pulls.claimed_to,
    pulls.refreshed_at,
    coalesce(pulls.known_at, pulls.asked_at) as known_at,
    pulls.generation,
    pulls.asked_at,
    pulls.finished_at
from merged_rows as rows
inner join merged_pulls($months) as merged
    on
        rows.pull_id = merged.merged_id
        and merged.sequence_no between rows.seen_from and rows.seen_to
inner join pulls
    on
        pulls.stream = $stream
        and pulls.outcome = 'COMMITTED'
        and merged.pull_id = pulls.pull_id
        and pulls.covers is null
        and $utc_day between pulls.claimed_from and pulls.claimed_to
